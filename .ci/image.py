#!/usr/bin/env python3
"""Carry out the Dockerfile's own lines in a folder, on a machine without a container engine (Linux, as root).

    debootstrap --variant=minbase --include=python3-venv,ca-certificates bookworm ROOT
    .ci/image.py --bind /etc/ssl/certs ROOT              # every line, and at the end CMD
    .ci/image.py ROOT python -c "import linacodec_tier3"    # every line, and at the end this instead
    .ci/image.py --only-command ROOT python -c "…"          # this alone, in a ROOT made before

What it shows: the lines work, in that order, with no more files than .dockerignore lets through. What it does
not: the base image itself. ROOT's own Python stands in for the version that the Dockerfile names.
"""
import argparse, json, re, shlex, shutil, subprocess, sys
from pathlib import Path
from string import Template

HERE = Path(__file__).resolve().parent.parent


def instructions(
    text:str, # of a Dockerfile
) -> list: # (name, rest) pairs in order
    "Comments gone, continued lines joined."
    text = re.sub(r"^\s*#.*\n", "", text, flags=re.M)
    return re.findall(r"^([A-Z]+)\s+(.*)$", re.sub(r"\s*\\\n\s*", " ", text), flags=re.M)


class Image:
    "What a builder keeps from line to line."
    def __init__(self, root, binds):
        self.root, self.cwd, self.cmd = root, "/", []
        self.env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/root"}
        readable = [(path, "bind,ro") for path in ("/etc/resolv.conf", *binds)]
        self.binds = [("/proc", "rbind"), ("/dev", "rbind"), *readable]
        ignored = (HERE / ".dockerignore").read_text().split()
        self.sent = [line[1:] for line in ignored if line.startswith("!")]

    def inside(self, path): return self.root / str(path).lstrip("/")

    def enter(self, command):
        "Run in the root, in a mount namespace of its own that takes the mounts along when it ends."
        mounts = []
        for path, how in self.binds:
            target = self.inside(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.mkdir(exist_ok=True) if Path(path).is_dir() else target.touch()
            mounts.append(f"mount -o {how} {shlex.quote(path)} {shlex.quote(str(target))}")
        change = f"exec chroot {shlex.quote(str(self.root))} /usr/bin/env -i -C {self.cwd} \"$@\""
        variables = [f"{name}={value}" for name, value in self.env.items()]
        steps = "; ".join([*mounts, change])
        done = subprocess.run(["unshare", "--mount", "sh", "-ec", steps, "sh", *variables, *command])
        if done.returncode: sys.exit(f"ended with {done.returncode}: {shlex.join(command)}")

    def ENV(self, rest):
        for pair in shlex.split(rest):
            name, value = pair.split("=", 1)
            self.env[name] = Template(value).substitute(self.env)

    def WORKDIR(self, rest):
        self.cwd = rest
        self.inside(rest).mkdir(parents=True, exist_ok=True)

    def COPY(self, rest):
        *sources, target = rest.split()
        for name in sources:
            if name not in self.sent: sys.exit(f"COPY {name}: .dockerignore keeps it from the builder")
            to = self.inside(Path(self.cwd, target))
            made = shutil.ignore_patterns("__pycache__")
            if (HERE / name).is_dir(): shutil.copytree(HERE / name, to, dirs_exist_ok=True, ignore=made)
            else: shutil.copy(HERE / name, to)

    def RUN(self, rest): self.enter(["/bin/sh", "-c", rest])

    def CMD(self, rest): self.cmd = json.loads(rest)

    def FROM(self, rest): print(f"(in place of {rest}: {self.root})")

    def LABEL(self, rest): pass


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("root", type=Path, help="folder with a Debian or Ubuntu system")
    args.add_argument("--bind", action="append", default=[],
                      help="file or folder of this machine that the lines may read")
    args.add_argument("--only-command", action="store_true", help="leave COPY and RUN out")
    args.add_argument("command", nargs=argparse.REMAINDER, help="to run in place of CMD")
    args = args.parse_args()
    image, text = Image(args.root.resolve(), args.bind), (HERE / "Dockerfile").read_text()
    for wanted in set(re.findall(r"\bpython3\.\d+", text)):
        alias = image.inside(f"/usr/local/bin/{wanted}")
        if alias.exists() or image.inside(f"/usr/bin/{wanted}").exists(): continue
        alias.symlink_to("/usr/bin/python3")
    for name, rest in instructions(text):
        if args.only_command and name in ("COPY", "RUN"): continue
        print(name, rest, flush=True)
        getattr(image, name)(rest)
    image.enter(args.command or image.cmd)


if __name__ == "__main__": main()
