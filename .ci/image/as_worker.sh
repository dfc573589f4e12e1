# sh as_worker.sh COMMAND…: runs it as the user `worker`, wherever that can be.
#
# RunPod mounts a network volume with whatever owner its files have. A worker keeps its caches in .cache there;
# where that folder is not there yet, it is made and given to `worker`; where it belongs to somebody else, as it
# does when a pod has filled the volume, or cannot be made, the worker stays root, and says so.
set -eu

if [ "$(id -u)" != 0 ]; then exec "$@"; fi  # `docker run --user`

volume="${VOLUME_DIR:-/runpod-volume}"
if [ -d "$volume" ]; then
    if [ ! -e "$volume/.cache" ]; then
        if mkdir "$volume/.cache" 2>/dev/null; then
            chown worker:worker "$volume/.cache" 2>/dev/null || true
        fi
    fi
    if ! setpriv --reuid worker --regid worker --init-groups test -w "$volume/.cache"; then
        echo "linacodec-tier3 runs as root: user worker may not write to $volume/.cache;" \
             "\`chown -R worker:worker $volume/.cache\` lets it" >&2
        exec "$@"
    fi
fi

# RunPod's load balancer asks at port 80 where nobody has chosen another one. A runtime may keep ports below 1024 for
# root: there `worker` gets the right to listen at them, and no other right, if this container has it to give.
set -- env HOME=/home/worker "$@"
case "${MODE:-}" in
[Hh][Tt][Tt][Pp])
    low() { setpriv --reuid worker --inh-caps=+net_bind_service --ambient-caps=+net_bind_service true; }
    if [ "${PORT:-8000}" -lt 1024 ] 2>/dev/null && low 2>/dev/null; then
        set -- --inh-caps=+net_bind_service --ambient-caps=+net_bind_service "$@"
    fi ;;
esac
exec setpriv --reuid worker --regid worker --init-groups --no-new-privs "$@"
