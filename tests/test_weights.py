"Whatever happens while weights are fetched or read: whole files, or one line that says what to do."
import errno, hashlib, io, json, os, shutil, signal, socket, subprocess, sys, threading, time
from pathlib import Path

import pytest
import torch
from huggingface_hub import snapshot_download
from safetensors.torch import save

from linacodec_tier3.codec.seeded import write_seeded
from linacodec_tier3.config import read_config
from linacodec_tier3.doctor import file_findings
from linacodec_tier3.weights import store
from linacodec_tier3.weights.files import (
    HUB_FILES, WAVLM, WEIGHT_FILES, Expected, WeightsError, acquired, assign, workroom)

from small_hub import SmallHub, commit_of
from support import wait_until

SCRIPT = """
import errno, filelock, json, logging, os, sys
acquire = filelock.FileLock.acquire
def no_locks(self, *args, **kw): # but the hub library's own
    if os.path.basename(self.lock_file) == ".lock": raise OSError(errno.ENOLCK, "No locks available")
    return acquire(self, *args, **kw)
if "NO_LOCKS" in os.environ: filelock.FileLock.acquire = no_locks
logging.basicConfig(level=logging.INFO, format="%(name)s %(message)s")
from linacodec_tier3.weights import files, store
url, size, sha256, call = sys.argv[1:]
store.WAVLM_URL, store.WAVLM_EXPECTED = url, files.Expected(int(size), sha256)
try: found = getattr(store, call)()
except files.WeightsError as e: sys.exit(f"WeightsError: {e}")
paths = {name: str(found.path(name)) for name in files.WEIGHT_FILES}
print(json.dumps({"revision": found.revision, "files": paths}))
"""


def pickled(
    content, # anything
) -> bytes: # as `torch.save` writes it
    "A checkpoint as bytes."
    torch.save(content, file := io.BytesIO())
    return file.getvalue()


@pytest.fixture(scope="session")
def published() -> dict: # name -> bytes
    "All six files, small; the tensors are random, so no two files agree by chance."
    noise = torch.Generator().manual_seed(3)
    rand = lambda *shape: torch.rand(*shape, generator=noise)
    encoder = {"config": {"layers": 2}, "state_dict": {"layers.0.weight": rand(64, 64)}}
    return {"config.yaml": b"model: {dim: 64, windows: [125, 31, 65]}\n",
            "vocoder/config.yaml": b"backbone: {dim: 16, head: {n_fft: 1024}}\n",
            "model.safetensors": save({"up.weight": rand(64, 512), "up.bias": rand(64)}),
            "wavlm_encoder.pth": pickled(encoder),
            "vocoder/pytorch_model.bin": pickled({"head.weight": rand(64, 64)}),
            WAVLM: pickled({f"layers.{i}.weight": rand(32, 32) for i in range(12)})}


@pytest.fixture
def hub(published): # a running `SmallHub`
    "All of it, as it would be published."
    with SmallHub({n: published[n] for n in HUB_FILES}, {WAVLM: published[WAVLM]}) as running: yield running


class Volume:
    "A volume, and the workers on it."

    def __init__(self,
        root:Path, # the volume
        url:str, # of the hub
        wavlm:bytes, # what torchaudio publishes
    ):
        own = ("CODEC_HOME", "HF_HOME", "TORCH_HOME", "HF_HUB_OFFLINE", "HF_HUB_CACHE")
        keep = {k: v for k, v in os.environ.items() if k not in own}
        self.env = keep | {"VOLUME_DIR": str(root), "CODEC": "auto", "LINACODEC_WEIGHTS": "some/codec",
                           "HF_ENDPOINT": url, "HF_HUB_DISABLE_TELEMETRY": "1"}
        self.root, self.cfg, self.logs = root, read_config(self.env), []
        self.wavlm = [f"{url}/{WAVLM}", str(len(wavlm)), hashlib.sha256(wavlm).hexdigest()]

    def start(self, call:str="locate"): # a `Popen` with the path of its log as `log`
        "A worker that wants its weights."
        log = self.root.parent / f"log{len(self.logs)}"
        self.logs.append(log)
        worker = [sys.executable, "-c", SCRIPT, *self.wavlm, call]
        out = dict(stdout=subprocess.PIPE, stderr=log.open("w"), text=True)
        process = subprocess.Popen(worker, env=self.env, **out)
        process.log = log
        return process

    def said(self, process) -> str:
        "What a worker has logged."
        return process.log.read_text()

    def halves(self,
        published, # name -> bytes
    ) -> list:
        "Files that a reader would find and that are not whole."
        places = store.places("some/codec", "main", self.cfg)
        there = {name: path.read_bytes() for name, (path, _) in places.items() if path.exists()}
        return [name for name, content in there.items() if content != published[name]]

    def leftovers(self) -> list:
        "Everything that is neither a file of the codec, nor a listing, a pin, a converted file or a lock."
        known = {*WEIGHT_FILES, "listing.json", "main", ".lock"}
        files = [p for p in self.root.rglob("*") if p.is_file() and "converted" not in p.parts]
        left = [p for p in files if p.name not in {Path(k).name for k in known}]
        return [str(p) for p in [*left, *self.root.rglob(".work-*")]]


@pytest.fixture
def volume(tmp_path, hub, published, monkeypatch): # a `Volume`
    "An empty volume on a machine that reaches the hub."
    (tmp_path / "volume").mkdir()
    made = Volume(tmp_path / "volume", hub.url, published[WAVLM])
    monkeypatch.setattr(store, "WAVLM_EXPECTED", Expected(int(made.wavlm[1]), made.wavlm[2]))
    return made


def whole(
    process, # of `Volume.start`
    volume, # it runs on
    published, # what it should have
) -> dict: # what the worker printed
    "The worker ended well, and every file is as published."
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, volume.said(process)
    found = json.loads(out)
    for name in WEIGHT_FILES: assert Path(found["files"][name]).read_bytes() == published[name], name
    return found


def failed(
    process, # of `Volume.start`
    volume, # it runs on
) -> str: # the one line of its error
    "The worker ended with a `WeightsError`."
    process.communicate(timeout=60)
    last = volume.said(process).strip().splitlines()[-1]
    assert process.returncode == 1 and last.startswith("WeightsError: "), volume.said(process)
    return last


def test_filled_and_used_without_a_network(volume, hub, published):
    found = whole(volume.start("prefetch"), volume, published)
    assert found["revision"] == commit_of(hub.files)
    assert sorted(hub.gets) == sorted(WEIGHT_FILES), "each file once"
    assert len(list((volume.cfg.codec_home / "converted").iterdir())) == 3
    volume.env |= {"HF_HUB_OFFLINE": "1"}
    assert whole(volume.start(), volume, published) == found
    assert volume.leftovers() == []


def test_a_branch_stays_where_it_was(volume, hub, published):
    first = whole(volume.start(), volume, published)
    hub.files = hub.files | {"config.yaml": b"model:\n  dim: 128\n"}
    assert whole(volume.start(), volume, published)["revision"] == first["revision"] != commit_of(hub.files)
    volume.env |= {"LINACODEC_REVISION": commit_of(hub.files)}
    assert whole(volume.start(), volume, published | hub.files)["revision"] == commit_of(hub.files)


def test_two_at_once(volume, hub, published):
    hub.hold = "model.safetensors"
    pair = [volume.start(), volume.start()]
    assert hub.half.wait(30)
    wait_until(lambda: any("waiting to fetch" in volume.said(p) for p in pair))
    hub.go.set()
    while any(p.poll() is None for p in pair): assert volume.halves(published) == []
    assert [whole(p, volume, published)["revision"] for p in pair] == [commit_of(hub.files)] * 2
    assert sorted(hub.gets) == sorted(WEIGHT_FILES) and volume.leftovers() == []


def test_two_at_once_where_there_are_no_locks(volume, hub, published):
    volume.env |= {"NO_LOCKS": "1"}
    hub.hold = "model.safetensors"
    pair = [volume.start("prefetch"), volume.start("prefetch")]
    wait_until(lambda: hub.gets.count("model.safetensors") == 2)
    hub.go.set()
    for p in pair: assert whole(p, volume, published) and "has no locks" in volume.said(p)
    assert volume.leftovers() == []


@pytest.mark.parametrize("held", ["model.safetensors", WAVLM])
@pytest.mark.parametrize("killed", ["holder", "waiter"])
def test_one_killed_midway(volume, hub, published, held, killed):
    hub.hold = held
    holder = volume.start()
    assert hub.half.wait(30)
    waiter = volume.start()
    wait_until(lambda: "waiting to fetch" in volume.said(waiter))
    assert f"process {holder.pid} on {socket.gethostname()} is at work in" in volume.said(waiter)
    dead, alive = (holder, waiter) if killed == "holder" else (waiter, holder)
    dead.send_signal(signal.SIGKILL)
    dead.wait()
    hub.go.set()
    whole(alive, volume, published)
    assert hub.gets.count(held) == (2 if killed == "holder" else 1)
    assert hub.gets.count("config.yaml") == 1, "what a killed worker had finished is kept"
    assert volume.leftovers() == []


def test_killed_alone_and_read_meanwhile(volume, hub, published):
    hub.hold = "wavlm_encoder.pth"
    alone = volume.start()
    assert hub.half.wait(30)
    with pytest.raises(WeightsError, match="wavlm_encoder.pth missing"):
        store.locate(cfg=volume.cfg, fetch=False)
    alone.kill()
    alone.wait()
    assert volume.leftovers() != []
    hub.go.set()
    whole(volume.start(), volume, published)
    assert volume.leftovers() == []


def test_a_second_one_waits_and_without_locks_work_goes_on(tmp_path):
    order = []
    def second():
        with workroom(tmp_path, "write another"): order.append("second")
    with workroom(tmp_path, "write"):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.3)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    class NoLocks:
        def acquire(self, timeout): raise OSError(errno.ENOLCK, "No locks available")
    with acquired(NoLocks(), tmp_path, "write") as held: assert held is None


def test_leftovers_on_a_full_volume(volume, published):
    whole(volume.start(), volume, published)
    hosts = socket.gethostname(), "elsewhere"
    ours, theirs = (volume.cfg.codec_home / f".work-{host}-1-x" for host in hosts)
    for p in (ours, theirs): p.mkdir(); (p / "part").write_bytes(b"half")
    whole(volume.start(), volume, published)
    assert (ours.exists(), theirs.exists()) == (False, True), "another host's may be alive"
    for p in (theirs / "part", theirs): os.utime(p, (0, 0))
    whole(volume.start(), volume, published)
    assert volume.leftovers() == []


def test_converting_at_once(volume, published):
    pair = [volume.start("prefetch"), volume.start("prefetch")]
    for p in pair: whole(p, volume, published)
    assert len(list((volume.cfg.codec_home / "converted").iterdir())) == 3
    assert sum(volume.said(p).count("converting ") for p in pair) == 3, "each pickle once"


def test_connection_that_breaks_and_comes_back(volume, hub, published):
    hub.cut = {"model.safetensors": 1, WAVLM: 1}
    whole(volume.start(), volume, published)
    assert hub.gets.count("model.safetensors") == hub.gets.count(WAVLM) == 2
    assert len(hub.gets) == len(WEIGHT_FILES) + 2


@pytest.mark.parametrize("name", ["model.safetensors", WAVLM])
def test_server_that_stops_midway(volume, hub, published, name):
    hub.hold = name
    process = volume.start()
    assert hub.half.wait(30)
    hub.stop()
    line = failed(process, volume)
    assert name in line and "broke off" in line and "linacodec-tier3 prefetch" in line
    assert volume.leftovers() == []


@pytest.mark.parametrize("name", ["config.yaml", "model.safetensors", WAVLM])
def test_arrives_damaged(volume, hub, published, name):
    content = bytearray(published[name])
    content[len(content) // 2] ^= 1
    hub.served = {name: bytes(content)}
    line = failed(volume.start(), volume)
    assert f"{name}: arrived damaged" in line and "linacodec-tier3 prefetch" in line
    assert volume.leftovers() == []
    assert not [p for p in volume.root.rglob("*") if p.is_file() and p.read_bytes() == content]
    hub.served = {}
    whole(volume.start(), volume, published)


def test_no_network(volume, published):
    volume.env |= {"HF_ENDPOINT": "http://127.0.0.1:9"}
    start = time.monotonic()
    line = failed(volume.start(), volume)
    assert time.monotonic() - start < 10
    parts = ("some/codec at main", "config.yaml missing", "http://127.0.0.1:9", "linacodec-tier3 prefetch",
             "LINACODEC_WEIGHTS")
    for part in parts: assert part in line
    assert volume.leftovers() == []


def test_server_that_never_answers(volume):
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0)); deaf.listen()
        volume.env |= {"HF_ENDPOINT": f"http://127.0.0.1:{deaf.getsockname()[1]}"}
        start = time.monotonic()
        line = failed(volume.start(), volume)
    assert time.monotonic() - start < 3 * store.TIMEOUT_S and "config.yaml missing" in line


def damage(
    path:Path, # of a file
    how:str, # see below
) -> None:
    "Spoil a file in some way."
    content = path.read_bytes()
    if how == "cut off": path.write_bytes(content[:len(content) // 2])
    if how == "emptied": path.write_bytes(b"")
    if how == "overwritten": path.write_bytes(bytes(len(content)))
    if how == "removed": path.unlink()


@pytest.fixture
def folder(tmp_path, published): # with all six files
    "A folder of one's own."
    for name, content in published.items():
        (tmp_path / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine" / name).write_bytes(content)
    return tmp_path / "mine"


@pytest.fixture
def cfg(tmp_path): # a `Config`
    "Settings of an empty store."
    homes = {"VOLUME_DIR": tmp_path, "CODEC_HOME": tmp_path / "codec", "TORCH_HOME": tmp_path / "torch"}
    return read_config({name: str(path) for name, path in homes.items()} | {"DEVICE": "cpu"})


def read_all(
    found, # a `Weights`
) -> dict: # name -> tensors or mapping
    "What loading the codec reads."
    read = lambda name: found.yaml(name) if name.endswith("yaml") else found.tensors(name)[0]
    return {name: read(name) for name in WEIGHT_FILES}


@pytest.mark.parametrize("how", ["cut off", "emptied", "overwritten", "removed"])
@pytest.mark.parametrize("name", WEIGHT_FILES)
def test_damaged_in_a_folder(folder, cfg, name, how):
    damage(folder / name, how)
    with pytest.raises(WeightsError) as error: read_all(store.locate(folder, cfg, fetch=False))
    line = str(error.value)
    assert name in line and "\n" not in line and len(line) < 500
    assert not list(cfg.codec_home.glob(".work-*"))
    bad = [f.what for f in file_findings(str(folder), "main", cfg) if not f.ok]
    assert bad == [name]


@pytest.mark.parametrize("name", ["config.yaml", "model.safetensors", WAVLM])
def test_damaged_in_the_store(volume, hub, published, name):
    found = whole(volume.start(), volume, published)
    damage(Path(found["files"][name]), "cut off")
    assert [f.what for f in file_findings("some/codec", "main", volume.cfg) if not f.ok] == [name]
    with pytest.raises(WeightsError, match=f"{name}:? .* bytes instead of"):
        store.locate("some/codec", volume.cfg, fetch=False)
    whole(volume.start(), volume, published)
    damage(Path(found["files"][name]), "overwritten")
    whole(volume.start("prefetch"), volume, published)
    assert hub.gets.count(name) == 3 and len(hub.gets) == len(WEIGHT_FILES) + 2


def test_one_bit_in_a_pickle(folder, cfg):
    path = folder / "vocoder/pytorch_model.bin"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="pytorch_model.bin: damaged .the checksum of"):
        read_all(store.locate(folder, cfg))


@pytest.mark.parametrize("name, other, said", [
    ("wavlm_encoder.pth", "vocoder/pytorch_model.bin", "another file, it holds no 'config'"),
    ("wavlm_encoder.pth", WAVLM, "another file, it holds no 'config'"),
    ("model.safetensors", WAVLM, "damaged"), (WAVLM, "model.safetensors", "damaged"),
    ("config.yaml", "model.safetensors", "damaged")])
def test_swapped(folder, cfg, name, other, said):
    read_all(store.locate(folder, cfg))
    shutil.copy(folder / other, folder / name)
    with pytest.raises(WeightsError) as error: read_all(store.locate(folder, cfg))
    assert f"{folder / name}: {said}" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("change, said", [
    (dict(outs=32), "2 tensors of another shape: weight (64×512 instead of 32×512), bias (64 instead of 32)"),
    (dict(bias=False), "1 tensor unexpected: bias"), (dict(more="norm"), "1 tensor missing: norm"),
    (dict(name="other"), "2 tensors unexpected")])
def test_wrong_shapes(folder, cfg, change, said):
    found = store.locate(folder, cfg)
    tensors = {k.removeprefix("up."): t for k, t in found.tensors("model.safetensors")[0].items()}
    if "name" in change: tensors = {f"{change['name']}.{k}": t for k, t in tensors.items()}
    with torch.device("meta"):
        net = torch.nn.Linear(512, change.get("outs", 64), bias=change.get("bias", True))
        if "more" in change: net.register_buffer("norm", torch.ones(3))
    with pytest.raises(WeightsError) as error: assign(net, tensors, found.path("model.safetensors"))
    line = str(error.value)
    assert line.startswith(f"{folder / 'model.safetensors'}: does not fit") and said in line
    assert "\n" not in line
    assert all(t.is_meta for t in net.state_dict().values()), "untouched"


def test_changed_source_is_converted_anew(folder, cfg):
    found = store.locate(folder, cfg)
    first = found.tensors(WAVLM)[0]["layers.3.weight"].clone()
    torch.save({f"layers.{i}.weight": first + 1 for i in range(12)}, folder / WAVLM)
    assert torch.equal(found.tensors(WAVLM)[0]["layers.3.weight"], first + 1)


def test_converted_once_and_only_what_is_wanted_read(folder, cfg, monkeypatch):
    found = store.locate(folder, cfg)
    found.tensors(WAVLM)
    monkeypatch.setattr(torch, "load", None)
    wanted = found.tensors(WAVLM, keep=lambda name: name < "layers.2")[0]
    assert set(wanted) == {f"layers.{i}.weight" for i in (0, 1, 10, 11)}


def test_folder_that_cannot_be_written(folder, cfg, tmp_path, caplog):
    (tmp_path / "codec").write_text("a file where a folder should be")
    found = store.locate(folder, cfg)
    for _ in range(2): assert found.tensors("wavlm_encoder.pth")[1] == {"layers": 2}
    assert sum("no converted copy of wavlm_encoder.pth" in r.message for r in caplog.records) == 1


def test_runpods_copy(volume, hub, published):
    copy = volume.root / "huggingface-cache/hub/models--some--codec/snapshots" / commit_of(hub.files)
    for name, content in hub.files.items():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(content)
    found = whole(volume.start(), volume, published)
    assert found["revision"] == copy.name and found["files"]["config.yaml"] == str(copy / "config.yaml")
    assert hub.gets == [WAVLM]


def test_runpods_copy_that_is_not_whole_is_not_taken(volume, hub, published):
    snapshots = volume.root / "huggingface-cache/hub/models--some--codec/snapshots"
    for commit, lacking in ((commit_of(hub.files), "model.safetensors"), ("0ld" * 13 + "0", "")):
        for name, content in hub.files.items():
            blob = snapshots.parent / "blobs" / f"{commit}-{Path(name).name}-{len(name)}"
            for path in (blob, snapshots / commit / name): path.parent.mkdir(parents=True, exist_ok=True)
            if name != lacking: blob.write_bytes(content)
            (snapshots / commit / name).symlink_to(blob)
    (snapshots.parent / "refs").mkdir()
    (snapshots.parent / "refs/main").write_text(commit_of(hub.files))
    found = whole(volume.start(), volume, published)
    assert found["files"]["config.yaml"].startswith(str(volume.cfg.codec_home))
    assert "model.safetensors" in hub.gets
    (snapshots.parent / "refs/main").write_text("0ld" * 13 + "0")
    shutil.rmtree(volume.cfg.codec_home)
    found = whole(volume.start(), volume, published)
    assert found["revision"] == "0ld" * 13 + "0" and hub.gets.count("model.safetensors") == 1


# What `huggingface_hub` does by itself. When one of these fails because it does better, the part of
# `weights.store` that stands beside it in its table may go.
def by_the_library(hub, folder, **more): # -> Path of the snapshot
    return Path(snapshot_download("some/codec", endpoint=hub.url, cache_dir=folder, **more))


def test_the_hub_library_follows_a_branch(hub, tmp_path):
    first = by_the_library(hub, tmp_path)
    hub.files = hub.files | {"config.yaml": b"model:\n  dim: 128\n"}
    assert by_the_library(hub, tmp_path).name == commit_of(hub.files) != first.name


def test_the_hub_library_takes_what_arrives_damaged(hub, tmp_path, published):
    content = bytearray(published["model.safetensors"])
    content[len(content) // 2] ^= 1
    hub.served = {"model.safetensors": bytes(content)}
    assert (by_the_library(hub, tmp_path) / "model.safetensors").read_bytes() == content


def test_the_hub_library_takes_a_cut_off_file_for_whole(hub, tmp_path):
    found = by_the_library(hub, tmp_path)
    damage((found / "model.safetensors").resolve(), "cut off")
    assert by_the_library(hub, tmp_path, local_files_only=True) == found == by_the_library(hub, tmp_path)


def test_the_hub_library_takes_a_copy_with_files_missing(hub, tmp_path):
    copy = tmp_path / "models--some--codec/snapshots" / commit_of(hub.files)
    copy.mkdir(parents=True)
    (copy / "config.yaml").write_bytes(hub.files["config.yaml"])
    local = dict(local_files_only=True, allow_patterns=list(HUB_FILES))
    assert by_the_library(hub, tmp_path, revision=copy.name, **local) == copy


def test_the_hub_library_finds_nothing_without_a_branch(hub, tmp_path):
    found = by_the_library(hub, tmp_path)
    shutil.rmtree(found.parent.parent / "refs")
    with pytest.raises(FileNotFoundError, match="Cannot find an appropriate cached snapshot folder"):
        by_the_library(hub, tmp_path, local_files_only=True)


def test_the_hub_library_leaves_what_a_killed_one_was_fetching(hub, tmp_path):
    hub.hold = "model.safetensors"
    how = f"endpoint={hub.url!r}, cache_dir={str(tmp_path)!r}"
    call = f"from huggingface_hub import snapshot_download as get\nget('some/codec', {how})"
    alone = subprocess.Popen([sys.executable, "-c", call], stderr=subprocess.DEVNULL)
    assert hub.half.wait(60)
    alone.kill()
    alone.wait()
    hub.go.set()
    by_the_library(hub, tmp_path)
    assert list(tmp_path.rglob("*.incomplete"))


def test_the_hub_library_only_warns_where_there_is_no_room(hub, tmp_path, monkeypatch):
    usage = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(path)._replace(free=10))
    with pytest.warns(UserWarning, match="Not enough free disk space"): found = by_the_library(hub, tmp_path)
    assert (found / "model.safetensors").is_file()


def test_the_hub_library_leaves_files_in_the_page_cache(hub, tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    by_the_library(hub, tmp_path)
    assert not synced


def test_published_files_are_on_the_disk(volume, hub, monkeypatch):
    synced, fsync = [], os.fsync
    told = commit_of(hub.files), {name: Expected(len(content)) for name, content in hub.files.items()}
    def arrives(repo, commit, name, expected, room):
        (room / "file").write_bytes(hub.files[name])
        return room / "file"
    monkeypatch.setattr(store, "hub_listing", lambda *_: told)
    monkeypatch.setattr(store, "hub_file", arrives)
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(fsync(fd)))
    store.fill_folder("some/codec", "main", volume.cfg)
    assert len(synced) == len(HUB_FILES) + 2, "files, listing and pin"


def test_no_beginning_where_there_is_no_room(volume, hub, published, monkeypatch):
    usage = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(path)._replace(free=10))
    told = commit_of(hub.files), {name: Expected(len(published[name])) for name in HUB_FILES}
    monkeypatch.setattr(store, "hub_listing", lambda *_: told)
    with pytest.raises(WeightsError, match="are to be written and 0 MB are free"):
        store.fill_folder("some/codec", "main", volume.cfg)
    assert hub.gets == [] and volume.leftovers() == []


def command(
    volume, # `Volume`
    *args:str, # of the command line
): # a `CompletedProcess`
    "`linacodec-tier3 …` on that volume."
    main = "from linacodec_tier3.cli import main\nsys.argv[1:] = call.split()\nsys.exit(main())"
    line = [sys.executable, "-c", SCRIPT.rsplit("try:", 1)[0] + main, *volume.wavlm, " ".join(args)]
    env = volume.env | {"DEVICE": "cpu"}
    return subprocess.run(line, env=env, capture_output=True, text=True, timeout=180)


def last_line(
    done, # `CompletedProcess`
) -> str: # of what it printed
    "What a command ends with."
    return done.stdout.strip().splitlines()[-1]


def test_commands(volume, hub, published):
    before = command(volume, "doctor")
    assert before.returncode == 1 and "the codec cannot be used" in before.stdout and hub.gets == []
    filled = command(volume, "prefetch")
    assert filled.returncode == 0 and f"some/codec at {commit_of(hub.files)}" in filled.stdout
    assert "some/codec: 100%" in filled.stderr
    after = command(volume, "doctor")
    assert after.returncode == 0 and "the codec can be used" in after.stdout, after.stdout
    assert after.stdout.count("ok ") >= len(WEIGHT_FILES), after.stdout
    wrong = command(volume, "prefetch", "--weights", "some/other")
    said = wrong.stderr.strip().splitlines()[-1]
    assert wrong.returncode == 1 and said.startswith("linacodec-tier3 prefetch: some/other at main: ")


def test_doctor_of_a_machine_as_it_comes(volume):
    volume.env |= {"LINACODEC_WEIGHTS": "", "HF_ENDPOINT": "http://127.0.0.1:9"}
    said = command(volume, "doctor")
    assert said.returncode == 0 and "BAD" not in said.stdout and said.stderr == "", said.stdout + said.stderr
    nano = "the codec can be used: linacodec-nano, as the published weights are neither here"
    assert last_line(said).startswith(nano) and last_line(said).endswith("engine hibari speaks")
    assert "published weights" in said.stdout and "linacodec-tier3 prefetch" in said.stdout


def test_doctor_where_published_weights_are_insisted_on(volume):
    volume.env |= {"LINACODEC_WEIGHTS": "", "HF_ENDPOINT": "http://127.0.0.1:9", "CODEC": "published"}
    said = command(volume, "doctor")
    cannot = "the codec cannot be used: YatharthS/LinaCodec at main, for want of config.yaml"
    assert said.returncode == 1 and last_line(said).startswith(cannot)
    assert "linacodec-tier3 prefetch" in said.stdout


def test_doctor_where_the_first_worker_will_fetch(volume, hub):
    hub.repo = "YatharthS/LinaCodec"
    volume.env |= {"LINACODEC_WEIGHTS": ""}
    said = command(volume, "doctor")
    assert said.returncode == 0 and hub.gets == [] and "BAD" not in said.stdout, said.stdout
    assert "YatharthS/LinaCodec at main, which a worker fetches when it needs it" in last_line(said)


def test_doctor_where_no_codec_is_wanted(volume):
    volume.env |= {"CODEC": "none"}
    said = command(volume, "doctor")
    assert said.returncode == 0 and last_line(said) == "no codec is wanted, CODEC=none; engine hibari speaks"


def test_doctor_names_an_engine_that_does_not_load(volume, tmp_path):
    info = tmp_path / "site/bare-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bare\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[linacodec_tier3.engines]\nbare = no_such_package:Engine\n")
    volume.env |= {"LINACODEC_WEIGHTS": "", "CODEC": "nano", "PYTHONPATH": str(info.parent)}
    said = command(volume, "doctor")
    assert said.returncode == 0 and "engine bare" in said.stdout
    assert "install no_such_package, which bare needs" in said.stdout
    volume.env |= {"DEFAULT_SERVICE": "bare"}
    said = command(volume, "doctor")
    assert said.returncode == 1 and last_line(said).endswith("engine bare does not speak")


def test_doctor_of_a_folder_that_is_all_there(volume, tmp_path):
    said = command(volume, "doctor", "--weights", str(write_seeded(tmp_path / "whole")))
    can = f"the codec can be used: {tmp_path / 'whole'}; "
    assert said.returncode == 0 and last_line(said).startswith(can), said.stdout
