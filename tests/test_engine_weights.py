"An engine's weights from a hub: once, whole, and only where that is allowed and fits."
import os, subprocess, sys

import pytest

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
) -> str: # the script's last line
    "What an engine gets in a process of its own."
    env = os.environ | dict(HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="0", VOLUME_DIR=str(volume),
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
