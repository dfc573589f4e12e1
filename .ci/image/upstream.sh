# sh upstream.sh COMMIT ARCHIVES: upstream's package at a commit, from an archive, as the image has no git.
# Without a commit nothing is installed.
set -eu
[ -n "$1" ] || exit 0
if ! echo "$1" | grep -qxE '[0-9a-f]{40}'; then
    echo "UPSTREAM_COMMIT='$1': expected a commit's 40 digits" >&2
    exit 1
fi
python -m pip install -c constraints.txt "linacodec @ $2/$1.zip"
# It belongs to another torch, keeps torchaudio from being imported, and nothing here calls it.
site="$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
rm -f "$site/torchaudio/lib/_torchaudio.abi3.so"
