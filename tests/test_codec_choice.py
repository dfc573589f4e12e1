"CODEC: whose weights the worker takes, with the codec that the package carries."
import os, shutil, subprocess, sys
from pathlib import Path

import numpy as np
import pytest

from linacodec_tier3.audio import decode_file, level_db
from linacodec_tier3.cli import TEXT
from linacodec_tier3.client import StreamError, pieces
from linacodec_tier3.codec import LinaCodec
from linacodec_tier3.weights.files import COMPACT
from linacodec_tier3.weights.store import NANO, bundled
from linacodec_tier3.local.endpoint import LocalEndpoint
from linacodec_tier3.evaluate.card import checksums
from support import PARAGRAPH, answered, heard, nowhere, with_weights

REQUEST = dict(text=PARAGRAPH, seed=7, max_chars=120, stream=True)
ALONE = str(Path(__file__).with_name("alone.py"))


def made_by(job): return {p["codec"]["name"] for p in job.output if p["status"] == "streaming"}


@pytest.fixture(scope="module")
def auto(tmp_path_factory): # a worker as it comes, on a machine without weights and hub
    with LocalEndpoint(env=nowhere(tmp_path_factory.mktemp("auto"))) as running: yield running


def test_its_files_are_those_that_its_card_lists():
    assert (bundled() / "SHA256SUMS").read_text() == checksums(bundled())
    assert sum((bundled() / name).stat().st_size for name in COMPACT) < 16e6


def test_auto_takes_the_small_codec_where_there_is_no_other_and_says_so_once(auto):
    job = answered(auto, **REQUEST)
    assert job.status == "COMPLETED" and made_by(job) == {NANO}
    [line] = [line for line in auto.logs() if "CODEC=auto" in line]
    assert NANO in line and "published weights" in line
    audio = heard(job.output, LinaCodec.from_pretrained(NANO, device="cpu"))
    assert np.isfinite(audio).all() and -40 < level_db(audio) < -10


def test_its_tokens_are_not_decoded_with_other_weights(auto, tmp_path):
    other = LinaCodec.from_pretrained(with_weights(tmp_path)["LINACODEC_WEIGHTS"], device="cpu")
    tokens, says = answered(auto, **REQUEST).output, f"tokens of {NANO} at .* are noise to .* at "
    with pytest.raises(StreamError, match=says) as refused: list(pieces(tokens, other))
    fingerprint = tokens[0]["codec"]["fingerprint"]
    assert fingerprint != other.fingerprint and fingerprint in str(refused.value)
    assert other.fingerprint in str(refused.value)
    assert "decode with the codec that made them" in str(refused.value)


def test_tokens_of_the_same_weights_under_another_name_are_decoded(auto, tmp_path):
    folder = shutil.copytree(bundled(), tmp_path / "another-name")
    other = answered(auto, **REQUEST).output
    with LocalEndpoint(env=nowhere(tmp_path) | dict(LINACODEC_WEIGHTS=str(folder))) as running:
        job = answered(running, **REQUEST)
    assert made_by(job) == {"another-name"}
    nano, renamed = (LinaCodec.from_pretrained(source, device="cpu") for source in (NANO, folder))
    assert np.array_equal(heard(job.output, nano), heard(other, nano))
    assert np.array_equal(heard(other, renamed), heard(other, nano))


def test_tokens_of_an_older_worker_that_tells_no_fingerprint_are_judged_by_name(auto, tmp_path):
    tokens, nano = answered(auto, **REQUEST).output, LinaCodec.from_pretrained(NANO, device="cpu")
    audio = heard(tokens, nano)
    for p in tokens[:-1]: del p["codec"]["fingerprint"]
    assert np.array_equal(heard(tokens, nano), audio)
    other = LinaCodec.from_pretrained(with_weights(tmp_path)["LINACODEC_WEIGHTS"], device="cpu")
    with pytest.raises(StreamError, match="are noise to"): list(pieces(tokens, other))


ORDERS = [dict(LINACODEC_WEIGHTS="someone/nothing"), dict(LINACODEC_REVISION="v1")]  # see also test_fitness


@pytest.mark.parametrize("setting", ORDERS)
def test_who_was_told_to_use_other_weights_never_takes_it(setting, tmp_path):
    with LocalEndpoint(env=nowhere(tmp_path) | setting) as running:
        job = answered(running, **REQUEST)
        assert job.status == "FAILED" and "LinaCodec is not available" in job.error
        assert not any(NANO in line for line in running.logs())


def test_none_means_none(tmp_path):
    with LocalEndpoint(env=nowhere(tmp_path) | dict(CODEC="none")) as running:
        assert "CODEC=none" in answered(running, **REQUEST).error
        last = answered(running, **REQUEST, output_format="pcm_16").output[-1]
        assert last["format"] == "pcm_24" and "CODEC=none" in last["message"]


def alone(
    folder, # for what it makes
) -> subprocess.CompletedProcess: # of `linacodec-tier3 run`
    "The main job in a network namespace of its own, with nothing of this machine's settings."
    if subprocess.run(["unshare", "-rn", "true"], capture_output=True).returncode:
        pytest.skip("no network namespaces here")
    ours = ("LINACODEC", "CODEC", "HF_", "TORCH_HOME")
    clean = {k: v for k, v in os.environ.items() if not k.startswith(ours)} | dict(HOME=str(folder))
    command = ["unshare", "-rn", sys.executable, ALONE, "run", "--out", str(folder / "out")]
    done = subprocess.run(command, env=clean, capture_output=True, text=True, timeout=240)
    assert not done.returncode, done.stderr
    return done


def test_the_main_job_on_a_machine_without_any_network(tmp_path):
    done = alone(tmp_path)
    audio, rate = decode_file((tmp_path / "out/speech.wav").read_bytes())
    assert rate == 48_000 and len(audio) > 10 * rate and "linacodec_tokens, 48000 Hz" in done.stdout
    assert NANO in done.stdout


@pytest.mark.slow
def test_the_main_job_is_understood(tmp_path):
    from linacodec_tier3.evaluate.measures import Recogniser, error_rate
    alone(tmp_path)
    heard = Recogniser()(*decode_file((tmp_path / "out/speech.wav").read_bytes()))
    assert error_rate([TEXT], [heard]) < .1, heard
