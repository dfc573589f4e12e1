#!/bin/bash
# Run by RunPod's /start.sh before it starts JupyterLab: the image's notebooks, copied once to the volume.
#
# A notebook that was changed stays as it is, and one that was deleted stays away. One that is still as it was copied
# is replaced by the one of a newer image. What was copied is written down in .copied, as sha256sum writes it.
# /start.sh ends the container when this script fails, so it never does.
from="${NOTEBOOKS:-/opt/linacodec-tier3/notebooks}"
to="${VOLUME_DIR:-/workspace}/linacodec-tier3"

copy() {
    mkdir -p "$to" && touch "$to/.copied" || return 1
    cd "$from" || return 1
    find . -type f -print0 | sort -z | while IFS= read -r -d '' file; do
        ours="$(sha256sum < "$file" | cut -d ' ' -f 1)"
        before="$(awk -v file="$file" 'substr($0, 67) == file { print $1 }' "$to/.copied")"
        if [[ -e "$to/$file" ]]; then theirs="$(sha256sum < "$to/$file" | cut -d ' ' -f 1)"; else theirs=""; fi
        if [[ "$theirs" == "$before" && "$before" != "$ours" ]]; then # new, or as it was copied
            mkdir -p "$to/$(dirname "$file")" && cp "$file" "$to/$file.part" && mv "$to/$file.part" "$to/$file" || return 1
            { awk -v file="$file" 'substr($0, 67) != file' "$to/.copied"; echo "$ours  $file"; } > "$to/.copied.part" \
                && mv "$to/.copied.part" "$to/.copied" || return 1
        elif [[ -n "$theirs" && "$theirs" != "$ours" ]]; then
            echo "kept as it is, since it was changed: $to/$file"
        fi
    done
}

copy || echo "notebooks could not be copied to $to; they are in $from"
exit 0
