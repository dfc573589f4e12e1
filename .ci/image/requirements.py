"""Write down what the images install, from settings.ini and requirements.lock: a file for each list.

    python3 requirements.py --extras "train" --torch 2.11.0

torch.txt: torch alone, a layer of its own; requirements.txt: the package's requirements with those of the
extras; notebook.txt: what a pod needs besides; constraints.txt: the versions.
"""
import argparse, re, sys
from configparser import ConfigParser
from pathlib import Path


def settings():
    "The project's settings."
    cfg = ConfigParser()
    cfg.read("settings.ini", encoding="utf-8")
    return cfg["DEFAULT"]


def required(cfg, extras):
    "Requirements of the package with these extras; the program ends for one that there is not."
    known = {key.removesuffix("_requirements"): value.split() for key, value in cfg.items()
             if key.endswith("_requirements")}
    if unknown := [name for name in extras if name not in known]:
        has = ", ".join(sorted(known))
        sys.exit(f"ENGINES={' '.join(extras)!r}: settings.ini has no extra {unknown[0]!r}; it has {has}")
    return cfg["requirements"].split() + [line for name in extras for line in known[name]]


def pinned(lock, torch):
    "The lines of the lock file, with another version of torch where one is asked for."
    if torch and not re.fullmatch(r"\d+(\.\d+){1,2}", torch):
        sys.exit(f"TORCH_VERSION={torch!r}: expected a version such as 2.11.0")
    if torch: lock = re.sub(r"(?m)^torch==.*$", f"torch=={torch}", lock)
    return lock


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--extras", default="", help="names, with blanks or commas between them")
    args.add_argument("--torch", default="", help="version in place of the lock file's")
    args = args.parse_args()
    cfg = settings()
    lines = required(cfg, re.split(r"[\s,]+", args.extras.strip()) if args.extras.strip() else [])
    named = {line: re.match(r"[\w.-]+", line)[0] for line in lines}
    lists = {"torch": [line for line in lines if named[line] == "torch"], "requirements": lines,
             "notebook": cfg["notebook_requirements"].split()}
    for name, content in lists.items():
        Path(f"{name}.txt").write_text("\n".join(dict.fromkeys(content)) + "\n")
    lock = Path("requirements.lock").read_text(encoding="utf-8")
    Path("constraints.txt").write_text(pinned(lock, args.torch), encoding="utf-8")


if __name__ == "__main__": main()
