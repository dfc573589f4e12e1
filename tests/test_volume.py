"Volumes as they are: full, read-only, lacking calls that files are written with; and copies half there."
import ctypes, errno, json, os, platform, shutil, struct, subprocess, sys, time
from pathlib import Path

import pytest

from linacodec_tier3.codec.seeded import write_seeded
from linacodec_tier3.config import read_config
from linacodec_tier3.weights.files import CANNOT, HUB_FILES, need_space, publish
from linacodec_tier3.weights.store import cached_model, commit_called, copies_of, pinned, snapshot

REFUSED = {"x86_64": dict(ftruncate=[77], fsync=[74, 75], flock=[73], rename=[82, 264, 316]),
           "aarch64": dict(ftruncate=[46], fsync=[82, 83], flock=[32], rename=[38, 276])}

READER = """
import json, logging, os, sys
sys.path.insert(0, {tests!r})
from test_volume import refuse
logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
refuse(*json.loads(sys.argv[2]))
from linacodec_tier3.weights import files, store
try: found = getattr(store, sys.argv[1])()
except files.WeightsError as e: sys.exit(f"WeightsError: {{e}}")
tensors = {{name: len(found.tensors(name)[0]) for name in found.files if not name.endswith(".yaml")}}
print(json.dumps(tensors))
"""


def refuse(
    name:str="", # of a call in `REFUSED`; "": none
    error:int=errno.ENOSYS, # what it answers
) -> None: # raises `OSError` where the kernel does not allow this
    "Let the kernel refuse a call to this process from now on, as the driver of a mount would."
    numbers = REFUSED[platform.machine()][name] if name else []
    if not numbers: return
    step = lambda code, yes, no, k: struct.pack("HBBI", code, yes, no, k)
    tests = [step(0x15, len(numbers) - i, 0, n) for i, n in enumerate(numbers)]  # equal: to the last line
    lines = [step(0x20, 0, 0, 0), *tests, step(6, 0, 0, 0x7FFF0000), step(6, 0, 0, 0x00050000 | error)]
    program = ctypes.create_string_buffer(b"".join(lines))
    filter = struct.pack("HxxxxxxQ", len(lines), ctypes.addressof(program))
    libc = ctypes.CDLL(None, use_errno=True)
    for call in ((38, 1, 0, 0, 0), (22, 2, ctypes.c_char_p(filter), 0, 0)):
        if libc.prctl(*call): raise OSError(ctypes.get_errno(), "prctl")


def read_there(
    home:Path, # where converted files belong
    weights:Path|str, # a folder
    call:str="prefetch", # or "locate"
    refused:tuple=(), # of `refuse`
    shell:str="", # what is done before, in a mount namespace of its own
) -> subprocess.CompletedProcess: # skips the test where the machine does not allow it
    "A process that reads the codec's weights."
    env = os.environ | {"CODEC_HOME": str(home), "TORCH_HOME": str(home / "torch"), "DEVICE": "cpu",
                        "CODEC": "auto", "LINACODEC_WEIGHTS": str(weights)}
    code = READER.format(tests=str(Path(__file__).parent))
    line = [sys.executable, "-c", code, call, json.dumps(refused)]
    if shell: line = ["unshare", "-rm", "sh", "-c", f'{shell} || exit 77; exec "$@"', "sh", *line]
    done = subprocess.run(line, env=env, capture_output=True, text=True, timeout=300)
    if shell and (done.returncode == 77 or "unshare" in done.stderr): pytest.skip(f"no mounts: {done.stderr}")
    return done


def read_as_they_are(
    done:subprocess.CompletedProcess, # of `read_there`
    why:str, # in the warning
) -> None:
    "All was read, and one warning a file said why it was not converted."
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert all(json.loads(done.stdout).values()), done.stdout
    warned = [line for line in done.stderr.splitlines() if line.startswith("WARNING")]
    assert len(warned) == 3 and all(why in line and "CODEC_HOME" in line for line in warned), done.stderr


@pytest.fixture(scope="session")
def weights(tmp_path_factory): # a folder with all six files
    "The published layout, with small random weights."
    return write_seeded(tmp_path_factory.mktemp("weights") / "tiny")


@pytest.mark.parametrize("refused", ["ftruncate", "fsync"])
def test_a_mount_that_refuses_what_is_not_needed(weights, tmp_path, refused):
    done = read_there(tmp_path / "home", weights, "prefetch", (refused, errno.ENOSYS))
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    assert len(list((tmp_path / "home/converted").iterdir())) == 3


def test_a_mount_without_locks(weights, tmp_path):
    done = read_there(tmp_path / "home", weights, "prefetch", ("flock", errno.ENOSYS))
    assert done.returncode == 0 and "its file system has no locks" in done.stderr, done.stderr
    assert len(list((tmp_path / "home/converted").iterdir())) == 3
    assert not list((tmp_path / "home").glob(".lock/*")) and not list((tmp_path / "home").glob(".work-*"))


@pytest.mark.parametrize("error", [errno.ENOSYS, errno.EPERM])
def test_a_mount_that_cannot_rename(weights, tmp_path, error):
    done = read_there(tmp_path / "home", weights, "prefetch", ("rename", error))
    read_as_they_are(done, os.strerror(error))


@pytest.mark.parametrize("error", [errno.EIO, errno.EDQUOT])
def test_what_does_not_reach_the_disk_is_not_taken_for_written(weights, tmp_path, error):
    done = read_there(tmp_path / "home", weights, "prefetch", ("fsync", error))
    read_as_they_are(done, os.strerror(error))
    assert not list((tmp_path / "home").rglob("*.safetensors"))


def test_a_full_volume(weights, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    full = f"mount -t tmpfs -o size=64k tmpfs {home} && head -c 60k /dev/zero > {home}/other"
    read_as_they_are(read_there(home, weights, "prefetch", shell=full), "are free")


def test_a_volume_that_fills_while_it_is_written(weights, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    none = "types.SimpleNamespace(total=0, used=0, free=0)"  # as a mount tells that does not know
    (tmp_path / "sitecustomize.py").write_text(f"import shutil, types; shutil.disk_usage = lambda p: {none}")
    full = f"export PYTHONPATH={tmp_path}; mount -t tmpfs -o size=64k tmpfs {home}"
    read_as_they_are(read_there(home, weights, shell=full), os.strerror(errno.ENOSPC))


def test_a_volume_that_is_read_only(weights, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    bind = f"mount --bind {home} {home} && mount -o remount,bind,ro {home}"
    read_as_they_are(read_there(home, weights, "prefetch", shell=bind), os.strerror(errno.EROFS))


def test_a_folder_that_is_no_folder(weights, tmp_path):
    (tmp_path / "home").write_text("a file")
    read_as_they_are(read_there(tmp_path / "home", weights, "prefetch"), "home")


def test_room_where_a_mount_tells_of_none(tmp_path, monkeypatch):
    told = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: told._replace(total=0, free=0))
    need_space(tmp_path, 10**15)
    assert errno.ENOSPC not in CANNOT and errno.EIO not in CANNOT
    (tmp_path / "file").write_text("x")
    (tmp_path / "file").chmod(0o400)  # as object stores show theirs
    assert publish(tmp_path / "file", tmp_path / "there/file").read_text() == "x"


BREAKS = ("a dangling link", "an incomplete file", "a missing file", "nothing in it")


def copied(
    cfg, # names the volume
    commit:str, # a snapshot's name
    age_s:float, # how long ago
    broken:str="", # one of `BREAKS`
) -> Path: # the snapshot
    "A snapshot as the hub library makes them, whole or half."
    home = copies_of("some/codec", cfg)
    folder = home / "snapshots" / commit
    folder.mkdir(parents=True)
    for name in HUB_FILES if broken != BREAKS[3] else ():
        link, blob = folder / name, home / "blobs" / f"{commit[:4]}-{name.replace('/', '-')}"
        for path in (link, blob): path.parent.mkdir(parents=True, exist_ok=True)
        blob.write_text(name)
        link.symlink_to(blob)
    wanted = folder / "model.safetensors"
    if broken == BREAKS[0]: wanted.resolve().unlink()
    if broken == BREAKS[1]: wanted.rename(folder / "model.safetensors.incomplete")
    if broken == BREAKS[2]: wanted.unlink()
    os.utime(folder, (time.time() - age_s,) * 2)
    return folder


@pytest.fixture
def cfg(tmp_path): # a `Config`
    "Settings of an empty volume."
    return read_config({"VOLUME_DIR": str(tmp_path), "DEVICE": "cpu"})


WHOLE, HALF = "a1" * 20, "b2" * 20


@pytest.mark.parametrize("broken", BREAKS)
@pytest.mark.parametrize("ref", ["whole", "none", "empty", "noise", "gone"])
def test_a_newer_snapshot_that_is_half_made(cfg, broken, ref):
    whole = copied(cfg, WHOLE, 100)
    copied(cfg, HALF, 0, broken)
    refs = copies_of("some/codec", cfg) / "refs"
    refs.mkdir()
    said = {"whole": WHOLE.encode(), "empty": b"", "noise": b"\xff\xfe../..", "gone": b"c3" * 20}
    if ref in said: (refs / "main").write_bytes(said[ref] + b"\n")
    assert cached_model("some/codec", cfg, HUB_FILES) == whole
    assert snapshot("some/codec", WHOLE, cfg) == whole and snapshot("some/codec", HALF, cfg) is None
    if ref != "gone": assert snapshot("some/codec", "main", cfg) == whole


@pytest.mark.parametrize("broken", BREAKS)
def test_main_itself_half_made(cfg, broken):
    whole = copied(cfg, WHOLE, 100)
    copied(cfg, HALF, 0, broken)
    refs = copies_of("some/codec", cfg) / "refs"
    refs.mkdir()
    (refs / "main").write_text(HALF)
    assert cached_model("some/codec", cfg, HUB_FILES) == whole, "an engine takes the newest whole one"
    assert snapshot("some/codec", "main", cfg) is None, "the codec, whose tokens are traced, takes no other"


def test_refs_main_before_a_newer_whole_one(cfg):
    older, newer = copied(cfg, WHOLE, 100), copied(cfg, HALF, 0)
    assert cached_model("some/codec", cfg, HUB_FILES) == newer
    refs = copies_of("some/codec", cfg) / "refs"
    refs.mkdir()
    (refs / "main").write_text(WHOLE)
    assert cached_model("some/codec", cfg, HUB_FILES) == cached_model("some/codec", cfg) == older
    assert commit_called("main", "some/codec", cfg) == WHOLE and commit_called("v1", "some/codec", cfg) == ""


def test_without_a_snapshot_there_is_no_copy(cfg):
    home = copies_of("some/codec", cfg)
    for folder in ("snapshots", "refs"): (home / folder).mkdir(parents=True)
    (home / "snapshots/note.txt").write_text("no snapshot")
    (home / "refs/main").write_text("")
    assert cached_model("some/codec", cfg) is None, "the folder of all snapshots is none"


def test_a_pin_that_cannot_be_read(cfg):
    pin = cfg.codec_home / "some--codec/refs/main"
    pin.parent.mkdir(parents=True)
    pin.write_bytes(b"\xff\xfe\x00")
    assert pinned("some/codec", "main", cfg) is None
