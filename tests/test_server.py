"The worker over HTTP: the same answers as through a queue, also to OpenAI's own client; no loss at its end."
import base64, io, json, os, signal, socket, subprocess, sys, time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
import openai
import pytest
import requests

from linacodec_tier3.client import Client, batch, batch_audio, in_order, joined, poll, speak
from linacodec_tier3.codec import LinaCodec
from linacodec_tier3.contract import FORMATS, STREAMED_FORMATS, check_message
from linacodec_tier3.direct import DirectClient, client_for
from linacodec_tier3.local.endpoint import LocalEndpoint
from linacodec_tier3.openai.encoders import STREAM_FORMATS
from linacodec_tier3.server import http_lines
from linacodec_tier3.weights.store import bundled
from support_server import free_port, pinged, serving

LINE = ("The harbour lay still. Eleven boats rocked on their ropes, and nobody spoke. "
        "Far out, a lamp was lit. ")
TEXT = 4 * LINE
CHANGES = {"generate_time_ms", "encode_time_ms", "process_time_ms", "timing", "elapsed_time_seconds",
           "real_time_factor"}  # from one answer to the next


@pytest.fixture(scope="module")
def server(): # its address
    with serving(CONCURRENCY="4") as (_, url): yield url


def lines_of(url, **given):
    answer = requests.post(f"{url}/speak", json=given, timeout=60)
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


@contextmanager
def speaking(url, text, format): # the lines of a stream that has begun
    given = dict(text=text, stream=True, output_format=format)
    with requests.post(f"{url}/speak", json=given, stream=True, timeout=60) as answer:
        lines = answer.iter_lines()
        next(lines)
        yield lines


def lasting(message): return {k: v for k, v in message.items() if k not in CHANGES}


# -- law 13

@pytest.fixture(scope="module")
def queue(): # a client of the local endpoint, whose worker has the same codec
    with LocalEndpoint(env={"CODEC": "nano"}) as endpoint: yield Client(endpoint.endpoint_url)


@pytest.mark.parametrize("format", STREAMED_FORMATS)
def test_two_roads_one_answer_streamed(server, queue, format):
    given = dict(text=TEXT, seed=7, output_format=format, stream=True)
    over_http = lines_of(server, **given)
    for message in over_http: check_message(message)
    through_queue = list(in_order(poll(queue, queue.submit(**given))))
    assert [*map(lasting, over_http)] == [*map(lasting, through_queue)] and len(over_http) > 2


@pytest.mark.parametrize("format", FORMATS)
def test_two_roads_one_answer_whole(server, queue, format):
    given = dict(text=LINE, seed=7, output_format=format)
    [over_http] = lines_of(server, **given)
    assert lasting(over_http) == lasting(batch(queue, **given))


@pytest.mark.parametrize("format", ["linacodec_tokens", "pcm_16"])
def test_our_clients_hear_the_same_by_either_road(server, queue, format):
    codec = LinaCodec.from_pretrained(bundled(), device="cpu")
    clients = [client_for(url, codec=codec) for url in (server, queue.url)]
    heard = [joined(speak(c, TEXT, seed=7, output_format=format)) for c in clients]
    assert [type(c) for c in clients] == [DirectClient, Client] and heard[0][1] == heard[1][1] == 48_000
    assert np.array_equal(heard[0][0], heard[1][0]) and len(heard[0][0]) > 48_000
    whole = [batch_audio(batch(c, LINE, seed=7, output_format=format), codec) for c in clients]
    assert np.array_equal(whole[0][0], whole[1][0])


# -- OpenAI's own client

@pytest.fixture
def client(server): return openai.OpenAI(base_url=f"{server}/v1", api_key="any", max_retries=0)


def seconds_of(file, format): # as FFmpeg decodes it
    if format == "pcm": return len(file) / 2 / 24_000
    return sum(f.samples / f.sample_rate for f in av.open(io.BytesIO(file)).decode(audio=0))


@pytest.mark.parametrize("format", STREAM_FORMATS)
def test_openais_client_hears_the_same_streamed_and_whole(client, format):
    asked = dict(model="tts-1", voice="alloy", input=TEXT, response_format=format, extra_body={"seed": 7})
    whole = client.audio.speech.create(**asked).content
    with client.audio.speech.with_streaming_response.create(**asked) as answer:
        pieces = list(answer.iter_bytes())
    assert b"".join(pieces) == whole and len(pieces) > 2
    pcm = client.audio.speech.create(**asked | dict(response_format="pcm")).content
    assert -0.001 < seconds_of(whole, format) - seconds_of(pcm, "pcm") < 0.12


def test_openais_client_raises_its_own_errors(client):
    speak = client.audio.speech.create
    with pytest.raises(openai.NotFoundError, match="whisper-1") as unknown:
        speak(model="whisper-1", voice="alloy", input="Hi.")
    assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
    for name, wrong in dict(speed=dict(speed=5), nobody=dict(voice="nobody"), empty=dict(input=" ")).items():
        with pytest.raises(openai.BadRequestError, match=name):
            speak(**dict(model="tts-1", voice="alloy", input="Hi.") | wrong)


def test_openais_events_hold_the_file(client):
    asked = dict(model="gpt-4o-mini-tts", voice="alloy", input=TEXT, extra_body={"seed": 7})
    with client.audio.speech.with_streaming_response.create(**asked, stream_format="sse") as answer:
        events = [json.loads(line.removeprefix("data: ")) for line in answer.iter_lines() if line]
    assert [e["type"] for e in events[-2:]] == ["speech.audio.delta", "speech.audio.done"]
    file = b"".join(base64.b64decode(e["audio"]) for e in events[:-1])
    assert file == client.audio.speech.create(**asked).content


def test_mp3_begins_long_before_a_long_text_is_spoken(client):
    words = LINE * 20  # two minutes
    asked = dict(model="tts-1", voice="alloy", input=words, response_format="mp3")
    start = time.monotonic()
    with client.audio.speech.with_streaming_response.create(**asked) as answer:
        came = [(time.monotonic() - start, len(piece)) for piece in answer.iter_bytes(1024)]
    assert sum(n for _, n in came) / 8_000 > 100 and came[0][0] < 0.2 * came[-1][0]


# -- who leaves, and what ends

def busy(url): # requests at work and in the line
    state = requests.get(f"{url}/health", timeout=30).json()
    return state["at_work"] + state["waiting"]


def until(so, seconds=30):
    end = time.monotonic() + seconds
    while not so(): assert time.monotonic() < end; time.sleep(0.05)


def test_a_client_that_goes_away_leaves_nothing(server):
    long = dict(text=LINE * 200, stream=True, output_format="pcm_16")
    with requests.post(f"{server}/speak", json=long, stream=True, timeout=60) as answer:
        next(answer.iter_lines())
        assert busy(server)
    until(lambda: not busy(server))
    for _ in range(10): # gone before anything came
        with socket.create_connection(("127.0.0.1", int(server.rpartition(":")[2]))) as raw:
            body = json.dumps(long).encode()
            head = f"POST /speak HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            raw.sendall(head.encode() + body)
    until(lambda: not busy(server))
    *_, last = lines_of(server, text="All is well.", stream=True, output_format="pcm_24")
    assert last["status"] == "complete"


def test_sigterm_lets_a_job_finish_and_turns_others_away():
    with serving(SHUTDOWN_GRACE_S="60", CODEC="none") as (process, url):
        with speaking(url, LINE * 15, "pcm_24") as lines:
            process.send_signal(signal.SIGTERM)
            until(lambda: pinged(url) == 503)
            refused = requests.post(f"{url}/speak", json=dict(text="Hi."), timeout=30)
            *_, last = lines
        assert refused.status_code == 503 and "Retry-After" in refused.headers
        assert json.loads(last)["status"] == "complete"
        assert process.wait(20) == 0


def test_after_its_grace_a_job_is_told_why_it_ends():
    with serving(SHUTDOWN_GRACE_S="0.5", CODEC="none") as (process, url):
        with speaking(url, LINE * 1500, "ogg_opus") as lines:
            process.send_signal(signal.SIGTERM)
            *_, last = lines
        assert "the worker was told to shut down (SIGTERM)" in json.loads(last)["error"]
        assert process.wait(20) == 0


def test_the_line_is_short_and_says_when_to_come_again():
    with serving(CONCURRENCY="1", HTTP_LINE="1", CODEC="none") as (_, url):
        given = dict(text=LINE * 8, output_format="ogg_opus")
        def ask(_): return requests.post(f"{url}/speak", json=given, timeout=120)
        with ThreadPoolExecutor(6) as pool: answers = list(pool.map(ask, range(6)))
        assert sorted(a.status_code for a in answers) == [200, 200, 429, 429, 429, 429]
        assert all(int(a.headers["Retry-After"]) >= 1 for a in answers if a.status_code == 429)


def test_a_server_that_cannot_load_ends_with_one_line():
    env = os.environ | dict(DEFAULT_SERVICE="nobody", PORT=str(free_port()))
    command = [sys.executable, "-m", "linacodec_tier3.server"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "linacodec-tier3 cannot serve: `service` is 'nobody'" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_the_command_prints_works(tmp_path):
    port = free_port()
    command = [Path(sys.executable).with_name("linacodec-tier3"), "http", "--port", str(port)]
    env = os.environ | dict(API_KEY="a key", CODEC="nano")
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        try:
            until(lambda: pinged(f"http://127.0.0.1:{port}") == 200, 120)
            lines = http_lines(f"http://127.0.0.1:{port}", "a key")
            shell = ["bash", "-e", "-c", lines]
            done = subprocess.run(shell, env=env, cwd=tmp_path, capture_output=True, text=True)
            process.send_signal(signal.SIGINT)
            printed, _ = process.communicate(timeout=30)
        finally: process.kill()
    assert lines in printed and "a key" not in printed
    assert [json.loads(line)["status"] for line in done.stdout.splitlines()] == ["streaming", "complete"]
    assert (tmp_path / "hello.ogg").read_bytes()[:4] == b"OggS"
    assert 0.4 < seconds_of((tmp_path / "hello.mp3").read_bytes(), "mp3") < 3
