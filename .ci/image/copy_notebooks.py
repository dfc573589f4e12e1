"""Copy the image's notebooks once to a pod's volume: `python copy_notebooks.py FROM TO`.

A notebook that was changed stays as it is, and one that was deleted stays away. One that is still as it was copied
is replaced by the one of a newer image. What was copied is written down in TO/.copied.json, as name and SHA-256.
"""
import hashlib, json, os, shutil, sys
from pathlib import Path


def digest(path):
    "What is in a file; nothing for one that is not there."
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def whole(path, write):
    "Let a file appear at once, so that a pod that is stopped leaves no half of it."
    part = path.with_name(f"{path.name}.part")
    write(part)
    os.replace(part, path)


def copy(ours, theirs):
    "Names of files that were copied, and of those that were changed and therefore kept."
    note = theirs / ".copied.json"
    before = json.loads(note.read_text()) if note.is_file() else {}
    copied, kept = [], []
    for source in sorted(path for path in ours.rglob("*") if path.is_file()):
        name = source.relative_to(ours).as_posix()
        target, new, old = theirs / name, digest(source), before.get(name, "")
        there = digest(target)
        if there == old != new:  # not there yet, or as it was copied
            target.parent.mkdir(parents=True, exist_ok=True)
            whole(target, lambda part: shutil.copyfile(source, part))
            copied.append(name)
            before[name] = new
        elif there and there != new: kept.append(name)
    theirs.mkdir(parents=True, exist_ok=True)
    whole(note, lambda part: part.write_text(json.dumps(before, indent=1)))
    return copied, kept


def main():
    ours, theirs = map(Path, sys.argv[1:])
    try: copied, kept = copy(ours, theirs)
    except (OSError, ValueError) as e:
        sys.exit(f"notebooks could not be copied to {theirs} ({e}); they are in {ours}")
    if copied: print(f"{len(copied)} notebooks and their files were copied to {theirs}")
    for name in kept: print(f"kept as it is, since it was changed: {theirs / name}")


if __name__ == "__main__": main()
