#!/usr/bin/env python3
"""Carry out the Dockerfile's lines without a container engine (on Linux, as root), and run what they make.

    debootstrap --variant=minbase --include=ca-certificates,python3-venv bookworm ROOT    # for any base
    .ci/image.py build STORE worker --base ROOT    # layer by layer, like `docker build`
    .ci/image.py build STORE pod --base ROOT --build-arg ENGINES=train
    .ci/image.py sizes STORE worker    # its layers, and the ten largest parts
    .ci/image.py run STORE worker    # entry point and command, as they stand
    .ci/image.py run STORE worker --user 1234 -- python -c "import torch"    # this instead of the command
    .ci/image.py prove STORE nbs/data/image.json    # the tests through it; kept for nbs/38_image
    .ci/image.py plan worker linacodec_tier3/handler.py    # lines that a change of this file repeats

Each line that changes files is a layer in STORE, an overlay on those before it. It is made again only if the
line, a layer before it, or a file that it copies has changed, which is how `docker build` decides, too. What
this cannot show is the base images themselves: ROOT stands in for them.
"""
import argparse, hashlib, json, os, re, shlex, shutil, stat, subprocess, sys, time, urllib.request
from collections import Counter
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
OPTIONS = {"HEALTHCHECK": ("interval", "timeout", "start-period", "retries"), "COPY": ("from",)}
CONFIGURE = {"ARG", "ENV", "WORKDIR", "CMD", "ENTRYPOINT", "USER", "HEALTHCHECK", "LABEL", "EXPOSE"}
KNOWN = CONFIGURE | {"FROM", "RUN", "COPY"}
CHANGED = "linacodec_tier3/handler.py"  # stands for any change of code
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SMALL = 50_000_000  # bytes that COPY --from compares by content


def fail(why): sys.exit(f".ci/image.py: {why}")


# Reading


@dataclass
class Line:
    "One instruction of a Dockerfile."
    name: str  # as in "RUN"
    rest: str  # what follows, continued lines joined
    number: int  # in the file, from 1
    options: dict = field(default_factory=dict)  # as in `--from=builder`

    def __str__(self): return f"{self.name} {self.rest}"
    def shown(self): return " ".join(filter(None, [self.name, self.options.get("from"), self.rest]))


@dataclass
class Stage:
    "From one FROM to the next."
    name: str  # after AS
    base: str  # an image, or a stage above
    lines: list  # in order


def read_lines(text):
    "A Dockerfile's instructions; comments gone, continued lines joined."
    found, begun, began = [], "", 0
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("#") or not (line.strip() or begun): continue
        began = began if begun else number
        begun = f"{begun} {line.strip()}".strip()
        if begun.endswith("\\"):
            begun = begun[:-1].strip()
            continue
        name, _, rest = begun.partition(" ")
        options = {}
        while (m := re.match(r"--([a-z-]+)=(\S+)\s+", rest)) and name in OPTIONS:
            if m[1] not in OPTIONS[name]: fail(f"Dockerfile:{began}: {name} --{m[1]} is not understood here")
            options[m[1]], rest = m[2], rest[m.end():]
        if m := re.match(r"--[a-z-]+", rest): name = f"{name} {m[0]}"
        if name not in KNOWN: fail(f"Dockerfile:{began}: {name} is not understood here")
        found.append(Line(name, rest.strip(), began, options))
        begun = ""
    return found


def read_dockerfile(text):
    "The arguments before the first FROM, and the stages by name."
    first, stages = [], {}
    for line in read_lines(text):
        if line.name == "FROM":
            base, _, name = line.rest.partition(" AS ")
            stage = stages[name or str(len(stages))] = Stage(name or str(len(stages)), base, [])
        elif stages: stage.lines.append(line)
        else: first.append(line)
    return first, stages


def expand(text, values):
    "Variables in a line, as builders replace them: $NAME, ${NAME}, ${NAME:-word}, ${NAME:+word}."
    word = r"(?:[^{}$]|\$\{[^{}]*\}|\$\w+)*"
    def replaced(m):
        name, how, then = m[1] or m[2], m[3], m[4]
        value = values.get(name, "")
        if how == ":-": return value or expand(then, values)
        if how == ":+": return expand(then, values) if value else ""
        return value
    return re.sub(rf"\$(?:(\w+)|\{{(\w+)(?:(:[-+])({word}))?\}})", replaced, text)


def pairs(rest):
    "NAME=VALUE pairs of ENV or LABEL."
    return [word.split("=", 1) for word in shlex.split(rest)]


def ignored(path, rules):
    "Whether .dockerignore keeps a path from the builder: the last rule that fits a part of it decides."
    out, parts = False, Path(path).parts
    for rule in rules:
        pattern = rule.removeprefix("!").strip("/")
        regex = re.escape(pattern).replace(r"\*\*/", "(?:.*/)?").replace(r"\*", "[^/]*")
        above = ["/".join(parts[:n]) for n in range(1, len(parts) + 1)]
        if any(re.fullmatch(regex, one) for one in above): out = not rule.startswith("!")
    return out


def sent(tree, source):
    "Files of the tree that COPY takes for a source, from the tree's root; none: a failure."
    rules = [line for line in (tree / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    if ignored(source, rules) and not any(rule.startswith(f"!{source}/") for rule in rules): return []
    start = tree / source
    there = [start] if start.is_file() else sorted(p for p in start.rglob("*") if p.is_file())
    return [p.relative_to(tree) for p in there if not ignored(p.relative_to(tree), rules)]


def needed(stages, target):
    "The stages that a target is made of, in the order in which they are made."
    found = []
    def visit(name):
        if name not in stages or name in found: return
        visit(stages[name].base)
        for line in stages[name].lines: visit(line.options.get("from"))
        found.append(name)
    if target not in stages: fail(f"there is no stage {target!r}; there are {', '.join(stages)}")
    visit(target)
    return found


def affected(tree, target, changed, same=()):
    "Lines that a change of a file repeats for a target, if stages named in `same` make the same as before."
    _, stages = read_dockerfile((tree / "Dockerfile").read_text())
    again, dirty = [], set()
    for name in needed(stages, target):
        hit = stages[name].base in dirty
        for line in stages[name].lines:
            copied = line.name == "COPY" and not line.options and any(
                Path(changed) in sent(tree, source) for source in line.rest.split()[:-1])
            hit = hit or copied or line.options.get("from") in dirty
            if hit and line.name in ("RUN", "COPY"): again.append((name, line))
        if hit and name not in same: dirty.add(name)
    return again


# Building


def digest(*things):
    "A name for whatever these are."
    return hashlib.sha256(json.dumps(things).encode()).hexdigest()


def content(files, root):
    "What is in files: names, modes and bytes."
    facts = []
    for path in files:
        how = (root / path).lstat().st_mode
        data = os.readlink(root / path).encode() if stat.S_ISLNK(how) else (root / path).read_bytes()
        facts.append((str(path), how & 0o777, hashlib.sha256(data).hexdigest()))
    return digest(facts)


def tree_bytes(folder):
    "Bytes of the files in a folder, a hard link once."
    seen, count = set(), 0
    for where, _, names in os.walk(folder):
        for name in names:
            s = os.lstat(os.path.join(where, name))
            if s.st_ino in seen or stat.S_ISCHR(s.st_mode): continue
            seen.add(s.st_ino)
            count += s.st_size
    return count


def wheels(site, most=12):
    "The largest packages of an environment: version, bytes as installed, and bytes of the wheel on PyPI."
    found = []
    for info in site.glob("*.dist-info"):
        rows = [row.rsplit(",", 2) for row in (info / "RECORD").read_text().splitlines()]
        found.append((sum(int(row[2] or 0) for row in rows), *info.stem.rsplit("-", 1), info))
    return [dict(name=name, version=version, installed=count, wheel=wheel_bytes(name, version, info))
            for count, name, version, info in sorted(found, reverse=True)[:most]]


def wheel_bytes(name, version, info):
    "How large the wheel is that was installed, as PyPI's index says; 0 for one that it does not have."
    tags = set(re.findall(r"(?m)^Tag: (\S+)", (info / "WHEEL").read_text()))
    page = urllib.request.Request(f"https://pypi.org/simple/{re.sub(r'[-_.]+', '-', name).lower()}/",
                                  headers={"Accept": "application/vnd.pypi.simple.v1+json"})
    with urllib.request.urlopen(page, timeout=30) as answer: files = json.load(answer)["files"]
    for file in files:
        stem, _, kind = file["filename"].rpartition(".")
        if kind != "whl" or not stem.lower().startswith(f"{name}-{version}-".lower()): continue
        if {"-".join(tag) for tag in product(*(part.split(".") for part in stem.split("-")[-3:]))} & tags:
            return file["size"]
    return 0


class Store:
    "Layers on disk: `layers/N` holds what a line changed, `index.json` which line and what it was made of."
    def __init__(self, folder):
        self.folder = Path(folder).resolve()
        for name in ("layers", "bases", "mount"): (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.index_file = self.folder / "index.json"
        self.index = json.loads(self.index_file.read_text()) if self.index_file.exists() else {}

    def save(self): self.index_file.write_text(json.dumps(self.index, indent=1))

    def base(self, root):
        "A name for a folder with a system: a link, as the kernel takes a page of names only."
        root = Path(root).resolve()
        if not root.is_dir(): fail(f"{root} is no folder")
        link = self.folder / "bases" / digest(str(root))[:8]
        if not link.exists(): link.symlink_to(root)
        return link.name

    def lower(self, made):
        "An overlay's lower folders, the topmost first."
        return ":".join([*(f"layers/{n}" for n in reversed(made.layers)), f"bases/{made.base}/."])

    def script(self, made, upper=None):
        "Shell lines that show a stack of layers at `mount`, with room for changes in `upper` or in memory."
        room = f"layers/{upper}" if upper is not None else "mount/u"
        work = f"layers/{upper}.work" if upper is not None else "mount/w"
        first = [] if upper is not None else ["mount -t tmpfs tmpfs mount"]
        return [f"cd {shlex.quote(str(self.folder))}", "mount --make-rprivate /", *first,
                f"mkdir -p {room} {work} mount/m",
                "mount -t overlay overlay -o "
                f"lowerdir={self.lower(made)},upperdir={room},workdir={work} mount/m"]


def private(steps, argv=(), replace=False, alone=False, **kw):
    "Shell steps in a mount namespace of their own, which takes its mounts along; if `alone`, processes, too."
    own = ["--pid", "--fork", "--kill-child"] if alone else []
    command = ["unshare", "--mount", *own, "sh", "-ec", "\n".join(steps), "sh", *argv]
    if replace: os.execvp(command[0], command)
    return subprocess.run(command, **kw)


def entering(binds, cwd):
    "Steps that let the command in \"$@\" run inside `mount/m`."
    steps = ["M=$PWD/mount/m", "mkdir -p $M/proc $M/dev", "mount -t proc proc $M/proc",
             "mount -o rbind /dev $M/dev"]
    for path in ("/etc/resolv.conf", *binds):
        writable, path = path.endswith(":rw"), path.removesuffix(":rw")
        source, _, target = path.partition(":")
        target, source = target or source, str(Path(source).resolve())
        inside = f"$M{shlex.quote(target)}"
        make = f"mkdir -p $(dirname {inside}); touch {inside}"
        if os.path.isdir(source): make = f"mkdir -p {inside}"
        steps += [make, f"mount --bind {shlex.quote(source)} {inside}"]
        if not writable: steps.append(f"mount -o remount,bind,ro {inside}")
    return [*steps, f"exec chroot $M /usr/bin/env -i -C {shlex.quote(cwd)} \"$@\""]


@dataclass
class Result:
    "A stage that was made."
    layers: list = field(default_factory=list)  # numbers in the store
    key: str = ""  # of the last one
    base: str = ""  # the system below, in the store
    env: dict = field(default_factory=lambda: {"PATH": PATH})
    cwd: str = "/"
    user: str = ""
    entrypoint: list = field(default_factory=list)
    cmd: list = field(default_factory=list)
    healthcheck: list = field(default_factory=list)

    def copy(self): return Result(**json.loads(json.dumps(vars(self))))


class Builder:
    "Makes stages, and remembers them."
    def __init__(self, store, bases, given, binds=(), env=()):
        self.bases = {name: store.base(root) for name, root in bases.items()}
        self.store, self.given, self.binds, self.extra = store, given, binds, dict(env)
        first, self.stages = read_dockerfile((HERE / "Dockerfile").read_text())
        self.globals = {}
        for line in first: self.declare(line, self.globals, {})
        self.made, self.steps = {}, []
        lines = [*first, *(line for stage in self.stages.values() for line in stage.lines)]
        declared = {line.rest.split("=")[0] for line in lines if line.name == "ARG"}
        if unknown := set(given) - declared: fail(f"no ARG {', '.join(sorted(unknown))} in the Dockerfile")

    def declare(self, line, args, env):
        name, _, default = line.rest.partition("=")
        args[name] = self.given.get(name, expand(default.strip("\"'"), args | env))

    def target(self, name):
        "Make a stage and all that it needs."
        for one in needed(self.stages, name):
            stage = self.stages[one]
            under = expand(stage.base, self.globals)
            print(f"\n== {one}, from {under}", flush=True)
            below = self.made[under].copy() if under in self.made else self.bare(under)
            self.made[one] = self.stage(stage, below)
        return self.made[name]

    def bare(self, image):
        "What stands for an image: the root given for it, or else for all."
        name = self.bases.get(image.split(":")[0], self.bases.get(""))
        if not name: fail(f"no --base stands for {image}")
        return Result(key=digest(os.readlink(self.store.folder / "bases" / name)), base=name)

    def stage(self, stage, result):
        args = {}
        for line in stage.lines:
            known, above = args | result.env, len(result.layers)
            if line.name == "ARG": self.declare(line, args, result.env)
            elif line.name == "ENV": result.env |= {k: expand(v, known) for k, v in pairs(line.rest)}
            elif line.name == "WORKDIR": self.change(line, result, {})
            elif line.name in ("RUN", "COPY"): self.change(line, result, args)
            elif line.name == "USER": result.user = expand(line.rest, known)
            elif line.name == "HEALTHCHECK": result.healthcheck = json.loads(line.rest.removeprefix("CMD "))
            elif line.name in ("CMD", "ENTRYPOINT"):
                setattr(result, line.name.lower(), json.loads(line.rest))
                if line.name == "ENTRYPOINT": result.cmd = []
            if len(result.layers) > above: self.steps.append((stage.name, result.layers[-1]))
        return result

    def change(self, line, result, args):
        "A line that makes a layer, unless there is one made of the same things."
        key = digest(result.key, str(line), line.options, args, result.env, result.cwd, self.sources(line))
        known, how = self.store.index.get(key), "kept"
        if not known:
            known = self.make(line, result, args)
            self.store.index[key], how = known, f"{known['seconds']:.1f} s"
            self.store.save()
        print(f"{line.number:4} {how:>8} {known['bytes'] / 1e6:9.1f} MB  {known['line'][:100]}", flush=True)
        result.layers, result.key = [*result.layers, known["layer"]], key
        if line.name == "WORKDIR": result.cwd = os.path.join(result.cwd, line.rest)

    def make(self, line, result, args):
        "One more layer: what the index says of it."
        layers = self.store.folder / "layers"
        number = 1 + max([e["layer"] for e in self.store.index.values()], default=0)
        for left in layers.glob(f"{number}*"):
            if left.name.split(".")[0] == str(number): shutil.rmtree(left)
        began = time.monotonic()
        getattr(self, line.name)(line, result, args, number)
        return dict(layer=number, line=line.shown(), seconds=round(time.monotonic() - began, 1),
                    bytes=tree_bytes(layers / str(number)))

    def sources(self, line):
        "What a COPY takes, as far as it decides whether the layer is made again."
        if line.name != "COPY": return ""
        *names, _ = line.rest.split()
        if not (stage := line.options.get("from")):
            for name in names:
                if not sent(HERE, name): fail(f"Dockerfile:{line.number}: .dockerignore keeps {name} back")
            return [content(sent(HERE, name), HERE) for name in names]
        layers = self.store.script(self.made[stage])
        def ask(step): return private([*layers, step], names, capture_output=True, text=True)
        measured = ask("cd mount/m; du -sb --total $(printf '.%s ' \"$@\") | tail -n 1")
        if measured.returncode: fail(f"Dockerfile:{line.number}: {measured.stderr.strip()}")
        if int(measured.stdout.split()[0]) > SMALL: return self.made[stage].key
        return digest(ask("cd mount/m; find $(printf '.%s ' \"$@\") -type f ! -name '*.pyc' -print0 | sort -z"
                          " | xargs -0 -r sha256sum").stdout)

    def WORKDIR(self, line, result, args, number):
        there = f"mkdir -p mount/m{shlex.quote(os.path.join(result.cwd, line.rest))}"
        private([*self.store.script(result, number), there], check=True)

    def RUN(self, line, result, args, number):
        env = {"HOME": "/root"} | args | result.env | self.extra
        steps = [*self.store.script(result, number), *entering(self.binds, result.cwd)]
        as_user = ["setpriv", "--reuid", result.user, "--clear-groups"] if result.user else []
        done = private(steps, [*(f"{k}={v}" for k, v in env.items()), *as_user, "/bin/sh", "-c", line.rest])
        if done.returncode: fail(f"Dockerfile:{line.number}: ended with {done.returncode}: {line}")
        shutil.rmtree(self.store.folder / "layers" / f"{number}.work", ignore_errors=True)

    def COPY(self, line, result, args, number):
        *names, target = expand(line.rest, args | result.env).split()
        steps, stage = self.store.script(result, number), line.options.get("from")
        room = self.store.folder / "layers" / f"{number}.sent"
        if stage:
            lower = self.store.lower(self.made[stage])
            steps += ["mkdir -p mount/s", f"mount -t overlay overlay -o lowerdir={lower} mount/s"]
        else:
            for path in [path for name in names for path in sent(HERE, name)]:
                (room / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(HERE / path, room / path)
        to = "mount/m" + os.path.join(result.cwd, target)
        for name in names:
            steps.append(copying(f"mount/s{name}" if stage else str(room / name), to, len(names) > 1))
        private(steps, check=True)
        for left in (room, room.with_suffix(".work")): shutil.rmtree(left, ignore_errors=True)


def copying(source, to, several):
    "A shell step: a folder's content goes into the target, a file into it or in its place."
    source, to, into = map(shlex.quote, (source, to, os.path.join(to, os.path.basename(source))))
    if not (several or to.endswith("/")): into = to
    copy = "cp -a --no-preserve=ownership"
    return (f"if [ -d {source} ]; then mkdir -p {to}; {copy} {source}/. {to}/; "
            f"else mkdir -p $(dirname {into}); {copy} {source} {into}; fi")


def forget(store):
    "Remove layers of lines that have changed since."
    used = {n for file in store.folder.glob("*.json") if file != store.index_file
            for _, n in json.loads(file.read_text())["steps"]}
    for key, entry in list(store.index.items()):
        if entry["layer"] in used: continue
        shutil.rmtree(store.folder / "layers" / str(entry["layer"]), ignore_errors=True)
        del store.index[key]
    store.save()


def build(args):
    store, given = Store(args.store), dict(pair.split("=", 1) for pair in args.build_arg)
    bases = {name: root for root, _, name in (pair.rpartition("=")[::-1] for pair in args.base)}
    builder = Builder(store, bases, given, args.bind, [pair.split("=", 1) for pair in args.env])
    result = builder.target(args.target)
    made = dict(made=vars(result), steps=builder.steps, args=given, at=time.strftime("%Y-%m-%d"))
    (store.folder / f"{args.target}.json").write_text(json.dumps(made, indent=1))
    if args.forget: forget(store)


# Running and measuring


def made_target(store, name):
    "What was built under this name."
    path = store.folder / f"{name}.json"
    if not path.exists(): fail(f"{store.folder} has no {name}: build it first")
    told = json.loads(path.read_text())
    return Result(**told["made"]), told


# Variables that say where things are on this machine, and who works on it.
OWN = set("PATH HOME PWD OLDPWD SHLVL _ VIRTUAL_ENV PYTHONPATH TMPDIR USER LOGNAME".split())


def run(args):
    "What `docker run` would, in place of this process; changes to files are lost when it ends."
    store = Store(args.store)
    made, _ = made_target(store, args.target)
    env = {"HOME": "/root"} | made.env | dict(pair.split("=", 1) for pair in args.env)
    if args.pass_env:
        env |= {k: v for k, v in os.environ.items() if k not in OWN}
    entry = shlex.split(args.entrypoint) if args.entrypoint is not None else made.entrypoint
    command = entry + (args.command or made.cmd)
    if args.health: command = made.healthcheck
    user = args.user or made.user
    as_user = ["setpriv", "--reuid", user, "--regid", user, "--clear-groups"] if user else []
    steps = [*store.script(made), *entering(args.bind, made.cwd)]
    variables = [f"{k}={v}" for k, v in env.items()]
    private(steps, [*variables, *as_user, *command], replace=True, alone=args.alone)


def part_of(path):
    "The part that a file of an image counts to: a package, or a folder of the system."
    parts = path.parts
    if "site-packages" in parts:
        at = parts.index("site-packages") + 1
        deep = 2 if parts[at] == "nvidia" or parts[at:at + 2] == ("torch", "lib") else 1
        return "/".join(parts[at:at + deep])
    return "/" + "/".join(parts[:3 if parts[:1] == ("opt",) else 2])


def measured(store, target, most=10):
    "Layers and the largest parts of what was built."
    made, told = made_target(store, target)
    by_layer = {e["layer"]: e for e in store.index.values()}
    parts = Counter()
    for number in made.layers:
        folder = store.folder / "layers" / str(number)
        for where, _, names in os.walk(folder):
            for name in names:
                s = os.lstat(os.path.join(where, name))
                if stat.S_ISCHR(s.st_mode): continue  # stands for a file that was removed
                parts[part_of(Path(where, name).relative_to(folder))] += s.st_size
    base = tree_bytes((store.folder / "bases" / made.base).resolve())
    layers = [{k: by_layer[n][k] for k in ("line", "bytes", "seconds")} for n in made.layers]
    about = lambda n: {k: by_layer[n][k] for k in ("line", "seconds")}
    steps = [dict(stage=stage, **about(n)) for stage, n in told["steps"]]
    return dict(target=target, base=base, layers=layers, total=sum(e["bytes"] for e in layers), steps=steps,
                 largest=parts.most_common(most), args=told["args"], made=told["at"])


def sizes(args):
    "Layers and the largest parts, as JSON or in words."
    found = measured(Store(args.store), args.target, args.most)
    if args.json:
        print(json.dumps(found, indent=1))
        return
    for layer in found["layers"]:
        print(f"{layer['bytes'] / 1e6:9.1f} MB {layer['seconds']:7.1f} s  {layer['line'][:90]}")
    print(f"{found['total'] / 1e6:9.1f} MB in all, on a base of {found['base'] / 1e6:.1f} MB\n")
    for name, count in found["largest"]: print(f"{count / 1e6:9.1f} MB  {name}")


SYSTEM = """import json, platform, torch
name = dict(line.rstrip().split("=", 1) for line in open("/etc/os-release") if "=" in line)["PRETTY_NAME"]
print(json.dumps(dict(system=name.strip('"'), python=platform.python_version(), torch=torch.__version__)))"""


# What /start.sh of RunPod's base does for a notebook's sake, where the base's stand-in has no such script.
START = """bash /pre_start.sh; mkdir -p /workspace; cd /
exec python -m jupyter lab --allow-root --no-browser --port=8888 --ip=* \\
    --FileContentsManager.delete_to_trash=False --IdentityProvider.token=$JUPYTER_PASSWORD \\
    --ServerApp.allow_origin=* --ServerApp.preferred_dir=/workspace"""


def passed(variable, command, *tests):
    "Run tests with a command in the place of worker or pod; their last line, and how long they took."
    began = time.monotonic()
    pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", *tests]
    env = os.environ | {variable: shlex.join(map(str, command))}
    done = subprocess.run(pytest, cwd=HERE, env=env, capture_output=True, text=True)
    print(done.stdout[-3000:], flush=True)
    last, seconds = done.stdout.strip().splitlines()[-1], round(time.monotonic() - began)
    return dict(tests=" ".join(tests), said=last, seconds=seconds)


def prove(args):
    "What a store holds is measured, started and tested; a file has it under the system's name."
    store, file = Store(args.store), Path(args.file)
    found, here = {}, [sys.executable, Path(__file__), "run", store.folder]
    asked = subprocess.check_output([*here, "worker", "--", "python", "-c", SYSTEM], text=True)
    found |= json.loads(asked.splitlines()[-1])
    for target in (name for name in ("worker", "pod") if (store.folder / f"{name}.json").exists()):
        found[target] = measured(store, target, most=40)
        again = {(stage, line.shown()) for stage, line in affected(HERE, target, CHANGED, ("requirements",))}
        found[target]["again"] = [s for s in found[target]["steps"] if (s["stage"], s["line"]) in again]
    layers = [store.folder / "layers" / str(n) for n in made_target(store, "worker")[0].layers]
    [site] = [path for layer in layers for path in layer.glob("opt/venv/lib/python3*/site-packages")]
    found["wheels"] = wheels(site)
    runs = {"worker": ("WORKER", [*here, "worker", "--pass-env"], "tests/test_laws.py",
                       "tests/test_image.py::test_it_makes_the_same_tokens_as_the_worker_of_this_tree"),
            "pod": ("POD", [*here, "pod", "--pass-env", "--alone"], "tests/test_pod.py")}
    pod = made_target(store, "pod")[0] if "pod" in found else None
    if pod and not (store.folder / "bases" / pod.base / "start.sh").exists():
        runs["pod"][1].extend(["--entrypoint", shlex.join(["bash", "-c", START])])
    for target in runs.keys() & found.keys(): found[target]["proof"] = passed(*runs[target])
    told = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(told | {found["system"]: found}, indent=1) + "\n")


def plan(args):
    "Lines that a change repeats."
    for stage, line in affected(HERE, args.target, args.changed, ("requirements",)):
        print(f"{stage:15} {line}"[:110])


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = args.add_subparsers(required=True, metavar="COMMAND")
    def command(do, help):
        sub = commands.add_parser(do.__name__, help=help, description=do.__doc__ or help)
        sub.set_defaults(do=do)
        if do is not plan: sub.add_argument("store", metavar="STORE", help="folder of layers")
        sub.add_argument("target", help="a stage: worker, pod")
        return sub
    def surroundings(sub):
        sub.add_argument("--bind", action="append", default=[], metavar="PATH[:PATH][:rw]",
                         help="file or folder of this machine, where it is shown, whether it can be written")
        sub.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="one more variable")
    sub = command(build, "carry out the lines of a target")
    sub.add_argument("--base", required=True, action="append", metavar="[IMAGE=]ROOT",
                     help="folder with a Debian or Ubuntu system, for an image without its tag, or for all")
    sub.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE", help="as for docker")
    sub.add_argument("--forget", action="store_true", help="then remove layers that no target has")
    surroundings(sub)
    sub = command(run, "start what was built; after --, a command in place of its own")
    surroundings(sub)
    sub.add_argument("--pass-env", action="store_true", help="pass this process's variables on")
    sub.add_argument("--alone", action="store_true", help="as process 1, with which all others end")
    sub.add_argument("--user", help="number to run as")
    sub.add_argument("--entrypoint", help="in place of the image's")
    sub.add_argument("--health", action="store_true", help="the health check instead of the command")
    sub = command(sizes, "what was built, in bytes")
    sub.add_argument("--json", action="store_true", help="for nbs/data/image.json")
    sub.add_argument("--most", type=int, default=10, help="how many parts")
    sub = commands.add_parser("prove", help="test what was built", description=prove.__doc__)
    sub.set_defaults(do=prove)
    sub.add_argument("store", metavar="STORE")
    sub.add_argument("file", metavar="FILE", help="such as nbs/data/image.json")
    sub = command(plan, "what a change repeats")
    sub.add_argument("changed", metavar="FILE", help="from the tree's root")
    given = sys.argv[1:]
    at = given.index("--") if "--" in given else len(given)
    args = args.parse_args(given[:at])
    args.command = given[at + 1:]
    args.do(args)


if __name__ == "__main__": main()
