"An engine's weights from a hub: once, whole, and only where that is allowed and fits."
import os, re, subprocess, sys

import pytest

from linacodec_tier3.engines import kokoro
from small_hub import SmallHub

SCRIPT = """
import json, shutil, sys
from collections import namedtuple
from linacodec_tier3.config import get_config
from linacodec_tier3.weights.files import WeightsError
from linacodec_tier3.weights.models import ModelFiles, model_files
if "full" in sys.argv: shutil.disk_usage = lambda path: namedtuple("Usage", "total used free")(100, 99, 1)
best = ("voices/*.bin", "onnx/b.onnx")
try: print(model_files(ModelFiles("kokoro", best[:1], "some/codec", best), get_config()))
except WeightsError as e: print("WeightsError:", e)
"""
FILES = {"voices/a.bin": b"a" * 5000, "voices/z.bin": b"z" * 10,
         "onnx/b.onnx": b"b" * 7000, "onnx/other.onnx": b"o"}


@pytest.fixture
def hub():
    with SmallHub(dict(FILES)) as running: yield running


def asked(
    hub:SmallHub, # where the files are
    volume, # folder
    *words:str, # for the script
    allowed:str="on", # FETCH_WEIGHTS
    **more, # variables
) -> str: # the script's last line
    "What an engine gets in a process of its own."
    env = os.environ | more | dict(HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="0", VOLUME_DIR=str(volume),
                            HF_HOME=str(volume / "hf"), MODELS_DIR=str(volume / "models"),
                            FETCH_WEIGHTS=allowed)
    done = subprocess.run([sys.executable, "-c", SCRIPT, *words], env=env, capture_output=True, text=True,
                          timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


def test_what_is_wanted_is_fetched_once(hub, tmp_path):
    own = tmp_path / "models/kokoro"
    assert asked(hub, tmp_path) == str(own)
    there = {str(p.relative_to(own)): p.read_bytes() for p in own.rglob("*") if p.is_file()}
    assert there == {name: FILES[name] for name in FILES if name != "onnx/other.onnx"}
    fetched = len(hub.gets)
    assert asked(hub, tmp_path) == str(own) and len(hub.gets) == fetched


def test_nothing_is_fetched_without_leave(hub, tmp_path):
    said = asked(hub, tmp_path, allowed="off")
    assert said.startswith("WeightsError: weights of 'kokoro'") and "FETCH_WEIGHTS=on" in said
    assert not hub.gets and not (tmp_path / "models/kokoro").exists()


def test_a_full_volume_and_a_damaged_file_leave_nothing_behind(hub, tmp_path):
    assert "are free" in asked(hub, tmp_path, "full")
    hub.served["voices/a.bin"] = b"x" * 5000
    assert "arrived damaged" in asked(hub, tmp_path)
    assert not (tmp_path / "models/kokoro/voices/a.bin").exists()


def test_what_broke_off_goes_on_where_it_was_and_counts_for_nothing_until_it_is_whole(hub, tmp_path):
    hub.files["voices/z.bin"] = big = bytes(range(256)) * 12_000
    hub.cut["voices/z.bin"] = 3  # as often as it is tried
    own, part = tmp_path / "models/kokoro", tmp_path / "models/.partial"
    assert "broke off" in asked(hub, tmp_path)
    assert (own / "voices/a.bin").is_file()  # which is all that the engine says it needs
    there = sum(p.stat().st_size for p in part.rglob("*") if p.is_file())
    assert there >= len(big) // 2
    assert "weights of 'kokoro'" in asked(hub, tmp_path, allowed="off")
    hub.gets.clear()
    hub.ranges.clear()
    assert asked(hub, tmp_path) == str(own) and (own / "voices/z.bin").read_bytes() == big
    assert hub.ranges == [("voices/z.bin", there)] and "voices/a.bin" not in hub.gets
    assert not part.exists() or not any(p.is_file() for p in part.rglob("*"))


def test_a_licence_that_is_to_be_accepted_is_said_with_what_to_do(hub, tmp_path):
    hub.token = "hf_known"
    for env, status in (({}, 401), (dict(HF_TOKEN="hf_of_somebody_else"), 403)):
        said = asked(hub, tmp_path, **env)
        assert f"some/codec: the hub refuses it ({status}); accept its licence at {hub.url}/some/" in said
        assert "HF_TOKEN" in said and "hf_of_somebody_else" not in said
    assert asked(hub, tmp_path, HF_TOKEN="hf_known") == str(tmp_path / "models/kokoro")


def command(hub, volume, *words): # of `linacodec-tier3`, on a volume that such a hub fills
    env = os.environ | dict(HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="0", VOLUME_DIR=str(volume), DEVICE="cpu",
                            HF_HOME=str(volume / "hf"), MODELS_DIR=str(volume / "models"))
    run = [sys.executable, "-c", "from linacodec_tier3.cli import main; raise SystemExit(main())", *words]
    return subprocess.run(run, env=env, capture_output=True, text=True, timeout=300)


def test_an_engine_is_fetched_by_its_name_and_said_to_be_there(tmp_path):
    voices = {f"voices/{v}.bin": v.encode() * 4000 for v in ("af_heart", "bf_emma")}
    with SmallHub(voices | {kokoro.EIGHT_BIT: b"8" * 5000, kokoro.EXACT: b"32"}, repo=kokoro.REPO) as hub:
        done = command(hub, tmp_path, "prefetch", "--service", "kokoro,tone,nobody")
    own = tmp_path / "models/kokoro"
    there = {str(p.relative_to(own)) for p in own.rglob("*") if p.is_file()}
    assert there == {*voices, kokoro.EIGHT_BIT}
    assert f"kokoro: {kokoro.REPO}  {own}" in done.stdout and "tone  nothing to fetch" in done.stdout
    assert done.returncode == 1 and "prefetch: `service` is 'nobody'" in done.stderr
    assert "100%" in done.stderr  # a bar
    after = command(hub, tmp_path, "engines", "--service", "kokoro")
    assert re.search(rf"weights +\d+ MB in {own}", after.stdout), after.stdout
