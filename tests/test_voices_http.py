"Recordings kept by HTTP: sent by OpenAI's own client, spoken with at once on both roads, and deleted."
import base64, os, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openai
import pytest
import requests

from linacodec_tier3.audio import decode_file, from_base64
from linacodec_tier3.client import Client, batch
from linacodec_tier3.local.endpoint import LocalEndpoint
from support_recordings import as_wav, encoded, note, pitch
from support_server import serving

SOURCE = Path(__file__).with_name("humming_engine.py")
KEY = {"Authorization": "Bearer s3cret"}
SAYS = "One two three four five six seven."


@pytest.fixture(scope="module")
def place(tmp_path_factory): # an engine that copies, as `pip install` leaves it, and a voices folder
    folder = tmp_path_factory.mktemp("place")
    (folder / SOURCE.name).write_text(SOURCE.read_text())
    info = folder / "humming_engine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: humming_engine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[linacodec_tier3.engines]\nhumming = humming_engine:Humming\n")
    (folder / "voices").mkdir()
    return dict(PYTHONPATH=os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]), CODEC="none",
                DEFAULT_SERVICE="humming", VOICES_DIR=str(folder / "voices"))


@pytest.fixture(scope="module")
def url(place):
    with serving(**place, API_KEY="s3cret") as (_, url): yield url


def files_in(place): return sorted(os.listdir(place["VOICES_DIR"]))


def hummed(url, voice, **more): # Hz of what is spoken
    asked = dict(model="humming", input=SAYS, voice=voice, response_format="wav") | more
    answer = requests.post(f"{url}/v1/audio/speech", json=asked, headers=KEY, timeout=60)
    assert answer.status_code == 200, answer.text
    return pitch(*decode_file(answer.content))


def test_openais_client_keeps_speaks_and_deletes(url, place):
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="s3cret", max_retries=0)
    sample = ("me.mp3", encoded(note(440), "mp3"), "audio/mpeg")
    voice = client.audio.voices.create(name="me", audio_sample=sample, consent="cons_1234")
    assert (voice.id, voice.name, voice.object, voice.type) == ("me.mp3", "me", "audio.voice", "audio_sample")
    assert abs(voice.created_at - time.time()) < 600
    listed = requests.get(f"{url}/v1/audio/voices", headers=KEY, timeout=30).json()["voices"]
    assert "me.mp3" in [item["id"] for item in listed]
    assert all(abs(hummed(url, name) - 440) < 5 for name in (voice.id, "me", {"id": voice.id}))
    assert client.audio.voices.delete(voice.id).deleted is True
    with pytest.raises(openai.NotFoundError): client.audio.voices.delete(voice.id)
    assert files_in(place) == []
    with pytest.raises(openai.BadRequestError, match="me.mp3"):
        client.audio.speech.create(model="humming", voice=voice.id, input=SAYS)


@pytest.mark.slow
def test_a_queue_on_the_same_volume_speaks_with_it(url, place):
    sample = base64.b64encode(as_wav(note(330))).decode()
    given = dict(name="shared", audio_sample=f"data:audio/wav;base64,{sample}", consent="me", ref_text="Oh.")
    kept = requests.post(f"{url}/v1/audio/voices", json=given, headers=KEY, timeout=60)
    assert kept.status_code == 200 and kept.json()["voice"]["ref_text"] == "Oh."
    with LocalEndpoint(env=place) as endpoint:
        answer = batch(Client(endpoint.endpoint_url), text=SAYS, voice="shared", output_format="wav")
        assert abs(pitch(*decode_file(from_base64(answer["audio"]))) - 330) < 5
    gone = requests.delete(f"{url}/v1/audio/voices/shared", headers=KEY, timeout=30).json()
    assert gone == dict(id="shared.wav", object="audio.voice.deleted", deleted=True, success=True)


def test_a_replaced_recording_is_heard_in_the_next_request(url):
    send = lambda hz, **more: requests.post(
        f"{url}/v1/audio/voices", files=dict(audio_sample=as_wav(note(hz))),
        data=dict(name="again", consent="mine") | more, headers=KEY, timeout=60).status_code
    assert send(400) == 200 and abs(hummed(url, "again") - 400) < 5
    assert send(500) == 409 and abs(hummed(url, "again") - 400) < 5
    assert send(500, replace="true") == 200 and abs(hummed(url, "again") - 500) < 5
    assert requests.delete(f"{url}/v1/audio/voices/again", headers=KEY, timeout=30).status_code == 200


def test_a_request_brings_its_own_recording(url, place):
    data = base64.b64encode(as_wav(note(600))).decode()
    assert abs(hummed(url, "bee", ref_audio=f"data:audio/wav;base64,{data}", ref_text="A note.") - 600) < 5
    assert files_in(place) == []
    asked = dict(model="humming", input=SAYS, ref_audio="https://files.example.com/me.wav")
    refused = requests.post(f"{url}/v1/audio/speech", json=asked, headers=KEY, timeout=30)
    assert refused.status_code == 400 and "VOICE_HOSTS" in refused.json()["error"]["message"]


@pytest.mark.parametrize("name,data,status,said", [
    ("../../etc/x", None, 400, "`name`"), ("bee", None, 409, "a voice already"), ("ok", b"", 400, "is empty"),
    ("ok", b"<html>no</html>", 400, "a web page"), ("ok", as_wav(note(440, 0.1)), 400, "s of sound"),
    ("ok", as_wav(np.zeros(48_000, np.float32)), 400, "silent"),
    ("ok", bytes(15_000_001), 400, "15,000,000")])
def test_what_cannot_be_kept_leaves_nothing(url, place, name, data, status, said):
    sample = as_wav(note(440)) if data is None else data
    refused = requests.post(f"{url}/v1/audio/voices", files=dict(audio_sample=("x.wav", sample)),
                            data=dict(name=name, consent="mine"), headers=KEY, timeout=60)
    assert refused.status_code == status and said in refused.json()["error"]["message"]
    assert place["VOICES_DIR"] not in refused.text and files_in(place) == []


@pytest.mark.slow
def test_without_a_key_it_is_closed_and_a_strange_page_may_never(place):
    sent = dict(files=dict(audio_sample=as_wav(note(440))), data=dict(name="x", consent="mine"), timeout=60)
    with serving(**place) as (_, url):
        closed = requests.post(f"{url}/v1/audio/voices", **sent)
        assert closed.status_code == 403 and "VOICES_BY_HTTP=on" in closed.json()["error"]["message"]
        assert requests.delete(f"{url}/v1/audio/voices/x", timeout=30).status_code == 403
    with serving(**place, VOICES_BY_HTTP="on") as (_, url):
        strange = requests.post(f"{url}/v1/audio/voices", headers={"Origin": "https://evil.test"}, **sent)
        assert strange.status_code == 403 and files_in(place) == []
        assert requests.post(f"{url}/v1/audio/voices", headers={"Origin": url}, **sent).status_code == 200
        assert requests.delete(f"{url}/v1/audio/voices/x", timeout=30).status_code == 200


@pytest.mark.slow
def test_a_volume_that_takes_nothing_is_one_clear_line(place):
    sent = dict(files=dict(audio_sample=as_wav(note(440))), data=dict(name="x", consent="mine"), timeout=60)
    with serving(**place | dict(VOICES_DIR="/proc/voices", VOICES_BY_HTTP="on")) as (_, url):
        refused = requests.post(f"{url}/v1/audio/voices", **sent)
        assert refused.status_code == 500 and "could not be kept: " in refused.json()["error"]["message"]
        assert "/proc" not in refused.text and hummed(url, "bee") > 0


@pytest.mark.slow
def test_a_killed_server_leaves_nothing_half(place):
    sound = as_wav(note(440, 30.0))
    for wait_s in (0.02, 0.04, 0.06, 0.08, 0.12):
        with serving(**place, VOICES_BY_HTTP="on") as (process, url):
            send = lambda i: requests.post(
                f"{url}/v1/audio/voices", timeout=60, files=dict(audio_sample=sound),
                data=dict(name=f"v{i}", consent="mine", ref_text=f"Number {i}."))
            with ThreadPoolExecutor(4) as pool:
                sent = [pool.submit(send, i) for i in range(12)]
                while not any(s.done() for s in sent): time.sleep(0.002)
                time.sleep(wait_s)
                process.kill()
        with serving(**place, VOICES_BY_HTTP="on") as (_, url):
            folder = Path(place["VOICES_DIR"])
            for file in folder.glob("v*.wav"):
                assert file.read_bytes() == sound
                assert file.with_suffix(".txt").read_text() == f"Number {file.stem[1:]}."
                assert requests.delete(f"{url}/v1/audio/voices/{file.name}", timeout=30).status_code == 200
            for part in folder.glob(".part-*"):
                for inside in part.iterdir(): inside.unlink()
                part.rmdir()
            assert files_in(place) == []


@pytest.mark.parametrize("sent", ["data:", "data:audio/wav;base64,", "data:audio/wav;base64,@@@",
                                  "data:audio/wav;base64," + "A" * 1000,
                                  "data:audio/wav;base64," + "A" * 20_500_000])
def test_a_recording_in_a_request_that_is_none_is_no_fault_of_the_servers(url, sent):
    asked = dict(model="humming", input=SAYS, ref_audio=sent)
    refused = requests.post(f"{url}/v1/audio/speech", json=asked, headers=KEY, timeout=60)
    assert refused.status_code == 400 and "recording in `voice`" in refused.json()["error"]["message"]
    ours = dict(text=SAYS, voice=sent)
    assert requests.post(f"{url}/speak", json=ours, headers=KEY, timeout=60).status_code == 400
