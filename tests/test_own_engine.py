"An engine of a separate package in under forty lines: found, tried out, and served by a worker."
import os, shutil, subprocess, sys
from pathlib import Path

import numpy as np
import pytest

from linacodec_tier3.audio import encode_file
from linacodec_tier3.client import Client, joined, speak
from linacodec_tier3.local.endpoint import LocalEndpoint
from support import answered

SOURCE = Path(__file__).with_name("humming_engine.py")
RATE = 24_000


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    "What `pip install` would leave of it."
    folder = tmp_path_factory.mktemp("site")
    info = folder / "humming_engine-1.0.dist-info"
    info.mkdir()
    shutil.copy(SOURCE, folder)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: humming-engine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[linacodec_tier3.engines]\nhumming = humming_engine:Humming\n")
    return folder


def engines(folder, *options):
    code = "from linacodec_tier3.cli import main; raise SystemExit(main())"
    asked = [sys.executable, "-c", code, "engines", "--service", "humming", *options]
    env = os.environ | {"PYTHONPATH": str(folder)}
    return subprocess.run(asked, env=env, capture_output=True, text=True)


def test_it_is_under_forty_lines(): assert len(SOURCE.read_text().splitlines()) < 40


def test_it_is_listed_with_its_licences_and_passes_every_check(installed):
    listed = engines(installed)
    assert listed.returncode == 0, listed.stderr
    assert "code MIT, weights CC0-1.0" in listed.stdout and "300 characters in one call" in listed.stdout
    checked = engines(installed, "--check")
    assert checked.returncode == 0 and "BAD" not in checked.stdout, checked.stdout + checked.stderr
    assert "bee, high.wav, low.wav in turn, each as before" in checked.stdout


def test_a_fault_in_it_is_found_and_the_command_says_so(installed, tmp_path):
    shutil.copytree(installed, tmp_path, dirs_exist_ok=True)
    stuck = "self.__dict__.setdefault('hz', 220.0)"  # the first voice, for ever
    wrong = SOURCE.read_text().replace('220.0 if voice == "bee" else voice', stuck)
    (tmp_path / "humming_engine.py").write_text(wrong)
    checked = engines(tmp_path, "--check")
    assert checked.returncode == 1 and "BAD  voices" in checked.stdout, checked.stdout + checked.stderr


def pitch(sound, rate): return np.abs(np.fft.rfft(sound)).argmax() * rate / len(sound)


def test_two_clients_with_two_recordings_in_turn_hear_each_their_own(installed, tmp_path):
    recorded = {"high.wav": 660, "low.wav": 165}
    for name, hz in recorded.items():
        note = 0.5 * np.sin(2 * np.pi * hz * np.arange(2 * RATE) / RATE)
        (tmp_path / name).write_bytes(encode_file(note.astype(np.float32), RATE, "wav"))
    env = dict(PYTHONPATH=str(installed), VOICES_DIR=str(tmp_path), DEFAULT_SERVICE="humming", CODEC="none")
    with LocalEndpoint(env=env) as running:
        client = Client(running.endpoint_url)
        for name, hz in [*recorded.items(), ("bee", 220)] * 2:
            sound, rate = joined(speak(client, "Hm, hm, hm, hm.", voice=name, output_format="pcm_24", seed=1))
            assert pitch(sound, rate) == pytest.approx(hz, abs=15), name
        [voices] = answered(running, action="voices").output
        assert voices["voices"]["humming"]["recordings"] == ["high.wav", "low.wav"]
