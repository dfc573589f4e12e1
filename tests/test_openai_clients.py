"""What clients of OpenAI's speech API ask, as they send it: each is heard, and hears the same.

Requests were read in the clients' sources, or caught from them on the way: livekit-plugins-openai 1.8.9,
pipecat-ai 1.14.0 and openai-python 3.57.0, which all spoke through this server with the models below; Open
WebUI, SillyTavern, LibreChat, Home Assistant's openai_tts, Wyoming's bridge, and what Kokoro-FastAPI adds.
"""
import asyncio, base64, json, time

import numpy as np
import openai
import pytest
import requests

from linacodec_tier3.audio import decode_file
from linacodec_tier3.config import read_config
from linacodec_tier3.openai.encoders import STREAM_FORMATS
from linacodec_tier3.server import in_thread

TEXT = "The harbour lay still. Eleven boats rocked on their ropes, and nobody spoke."
SEED = {"seed": 7}  # beside each request, so that bytes can be compared
BINARY = {"Accept": "application/octet-stream"}  # as OpenAI's own clients have it, whatever they ask for
MODELS = ("tts-1", "tts-1-hd", "gpt-4o-mini-tts", "tone", "hibari")
ALIKE = dict(voice="alloy", input=TEXT)

# client -> (headers, body)
ASKED = {
    "livekit, tts-1": (BINARY, dict(
        ALIKE, model="tts-1", response_format="mp3", speed=1.0, stream_format="audio")),
    "livekit, others": (BINARY, dict(
        ALIKE, model="hibari", response_format="mp3", speed=1.0, stream_format="sse")),
    "pipecat": (BINARY, dict(ALIKE, model="gpt-4o-mini-tts", response_format="pcm")),
    "Open WebUI": ({}, dict(ALIKE, model="tts-1")),
    "Open WebUI, a form left empty": ({}, dict(ALIKE, model="", voice="")),
    "SillyTavern": ({"Authorization": "Bearer "}, dict(ALIKE, response_format="mp3", speed=1, model="tts-1")),
    "LibreChat": ({}, dict(input=TEXT, model="tts-1", backend="any")),  # and no voice, where none is set
    "Home Assistant": ({}, dict(ALIKE, model="tts-1", response_format="wav", speed=1)),
    "Wyoming's bridge": (BINARY, dict(
        ALIKE, model="tts-1", response_format="wav", speed=1.0, instructions="Calm.")),
    "Kokoro-FastAPI's": ({}, dict(
        ALIKE, model="tts-1", voice="heart", response_format="pcm", speed=1.0, stream=True, lang_code="a",
        return_download_link=False, volume_multiplier=1.0, normalization_options={"normalize": True})),
    "a voice as an object": (BINARY, dict(ALIKE, model="tts-1", voice={"id": "alloy"})),
    "nulls": ({}, dict(
        ALIKE, model="tts-1", voice=None, speed=None, response_format=None, instructions=None)),
    "a body that says nothing of its kind": (
        {"Content-Type": "application/x-www-form-urlencoded"}, dict(ALIKE, model="openai/tts-1"))}


@pytest.fixture(scope="module")
def url():
    with in_thread(read_config({"CODEC": "none", "CONCURRENCY": "4"})) as url:
        end = time.monotonic() + 120
        while requests.get(f"{url}/ping", timeout=10).status_code != 200:
            assert time.monotonic() < end
            time.sleep(0.05)
        yield url


def ask(url, body, headers={}, path="/v1/audio/speech"):
    data, headers = json.dumps(body | SEED).encode(), {"Content-Type": "application/json"} | headers
    return requests.post(url + path, data=data, headers=headers, timeout=60)


def events_in(answer): return [json.loads(line[6:]) for line in answer.content.splitlines() if line]


def heard(answer, format): # mono samples, after whatever the answer travelled in
    assert answer.status_code == 200, answer.text
    file, kind = answer.content, answer.headers["content-type"]
    if kind.startswith("text/event-stream"):
        *deltas, done = events_in(answer)
        assert {e["type"] for e in deltas} == {"speech.audio.delta"} and done["type"] == "speech.audio.done"
        file = b"".join(base64.b64decode(e["audio"]) for e in deltas)
    else: assert kind == STREAM_FORMATS[format].media_type
    if format == "pcm": return np.frombuffer(file, "<i2") / np.float32(32768)
    sound, rate = decode_file(file)
    assert rate == 24_000
    return sound


@pytest.fixture(scope="module")
def spoken(url): return heard(ask(url, dict(ALIKE, model="tts-1", response_format="pcm")), "pcm")


@pytest.mark.parametrize("client", ASKED)
def test_each_client_hears_the_same(url, spoken, client):
    headers, body = ASKED[client]
    format = body.get("response_format") or "mp3"
    sound = heard(ask(url, body, headers), format)
    assert 0 <= len(sound) - len(spoken) < 0.12 * 24_000  # an mp3 ends with a whole frame
    if format in ("pcm", "wav"): assert np.array_equal(sound, spoken)
    else: # a player leaves out what an mp3 begins with, or does not
        both = np.fft.rfft(sound, 2 * len(sound)) * np.fft.rfft(spoken, 2 * len(sound)).conj()
        assert np.abs(np.fft.irfft(both)).max() > 0.98 * np.linalg.norm(sound) * np.linalg.norm(spoken)


@pytest.mark.parametrize("model", MODELS)
def test_agents_hear_the_same_by_either_way_of_streaming(url, model):
    asked = dict(ALIKE, model=model, response_format="pcm", speed=1.0)
    pcm, events = (heard(ask(url, asked | {"stream_format": s}, BINARY), "pcm") for s in ("audio", "sse"))
    assert np.array_equal(pcm, events) and len(pcm) > 24_000


def test_the_usage_that_agents_count(url):
    done = events_in(ask(url, dict(ALIKE, stream_format="sse")))[-1]["usage"]
    assert done["total_tokens"] == done["input_tokens"] + done["output_tokens"] and done["output_tokens"] > 20


def test_openais_client_finds_the_requests_name(url):
    client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0)
    async def names():
        stream = client.audio.speech.with_streaming_response.create
        async with stream(**ALIKE, model="tts-1") as answer:
            good = answer.request_id
        with pytest.raises(openai.BadRequestError) as refused:
            await client.audio.speech.create(**ALIKE | {"voice": "nobody"}, model="tts-1")
        return good, refused.value.request_id
    for name in asyncio.run(names()): assert name.startswith("http-")


@pytest.mark.parametrize("path", ["/v1/audio/speech/", "//v1/audio/speech", "/v1//audio/speech?version=1"])
def test_a_path_is_read_as_it_is_meant(url, path):
    answer = ask(url, dict(ALIKE, model="tts-1"), path=path)
    assert answer.status_code == 200 and not answer.history  # a redirect goes wrong behind a proxy


def test_lists_as_open_webui_reads_them(url):
    def got(path): return requests.get(f"{url}/v1/{path}", timeout=60).json()
    assert {m["id"] for m in got("audio/models")["models"]} >= {*MODELS}
    assert {v["id"]: v["name"] for v in got("audio/voices")["voices"]}["heart"]
    client = openai.OpenAI(base_url=f"{url}/v1/", api_key="any", max_retries=0)
    assert [m.id for m in client.models.list()] == [m["id"] for m in got("models")["data"]]
    assert client.models.retrieve("tts-1-hd").id == "tts-1-hd"
    with pytest.raises(openai.NotFoundError) as unknown: client.models.retrieve("whisper-1")
    assert unknown.value.code == "model_not_found"


def test_head_and_options(url):
    head, get = (requests.request(m, f"{url}/v1/models", timeout=60) for m in ("HEAD", "GET"))
    assert head.status_code == 200 and head.content == b""
    assert head.headers["content-length"] == get.headers["content-length"]
    closed = requests.options(f"{url}/v1/audio/speech", timeout=60)
    assert closed.status_code == 405 and "access-control-allow-origin" not in closed.headers


@pytest.mark.parametrize("method, path, status, code", [
    ("GET", "/v1/audio/speech", 405, "method_not_supported"),
    ("PUT", "/v1/models", 405, "method_not_supported"),
    ("POST", "/v1/chat/completions", 404, "unknown_url"), ("GET", "/v1", 404, "unknown_url"),
    ("GET", "/v1/", 404, "unknown_url"), ("GET", "/v1/models/none", 404, "model_not_found")])
def test_what_is_not_there_is_told_in_openais_form(url, method, path, status, code):
    answer = requests.request(method, url + path, json={}, timeout=60)
    assert answer.status_code == status and answer.json()["error"]["code"] == code
    assert ("allow" in answer.headers) == (status == 405)


def test_outside_of_v1_the_base_url_is_explained(url):
    answer = ask(url, ALIKE, path="/audio/speech")
    assert answer.status_code == 404 and "ends in /v1" in answer.json()["error"]


def test_long_texts_are_welcome_and_forms_are_not(url):
    long = ask(url, dict(ALIKE, model="tone", input="A word. " * 600, response_format="opus"))
    assert long.status_code == 200  # 4,800 characters; OpenAI's own limit is 4,096
    for sent in (dict(data={"input": "Hi."}), dict(files={"input": b"Hi."})):
        answer = requests.post(f"{url}/v1/audio/speech", timeout=60, **sent)
        assert answer.status_code == 400 and "JSON" in answer.json()["error"]["message"]


def test_a_speed_that_only_openai_has_is_the_nearest_and_is_told(url):
    fast, most, usual = (ask(url, dict(ALIKE, response_format="pcm", speed=s)) for s in (4, 2, 1.5))
    assert fast.content == most.content and fast.headers["x-speed"] == "2"
    assert "x-speed" not in most.headers and "x-speed" not in usual.headers
    assert len(fast.content) < len(usual.content)
    beyond = ask(url, dict(ALIKE, speed=4.1))
    assert beyond.status_code == 400 and beyond.json()["error"]["param"] == "speed"
