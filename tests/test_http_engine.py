"The engine `http` in a worker, with a server that has faults."
import json, threading, time
from dataclasses import replace

import numpy as np
import psutil
import pytest
import requests

from linacodec_tier3.audio import level_db
from linacodec_tier3.client import Client, joined, speak
from linacodec_tier3.engines.http import Server, new_session, sounding_answer, speech_request
from linacodec_tier3.local.endpoint import LocalEndpoint
from linacodec_tier3.tts import EngineError
from speech_server import SpeechServer
from support import answered, ended, submit, wait_until

KEY = "sk-hunter2hunter2"
ASKED = dict(text="It is four.", service="http", output_format="pcm_24", voice="deep", seed=1)


@pytest.fixture(scope="module")
def server():
    with SpeechServer(key=KEY) as running: yield running


@pytest.fixture(autouse=True)
def without_faults(server):
    server.faults.clear()
    server.hung_up.clear()


@pytest.fixture(scope="module")
def worker(server):
    named = dict(HTTP_TTS_URL=server.url, HTTP_TTS_KEY=KEY, HTTP_TTS_WAIT_S="2", HTTP_TTS_MODEL="small")
    named |= dict(HTTP_TTS_FIELDS="speed seed", LOG_LEVEL="debug")
    with LocalEndpoint(env=named) as running: yield running


def test_a_worker_offers_it_where_a_server_is_named_and_nowhere_else(worker, server, endpoint):
    [told] = answered(worker, action="voices").output
    mine = told["voices"]["http"]
    assert list(mine["voices"]) == list(server.voices) and mine["rate"] == 24_000
    [told] = answered(endpoint, action="voices").output
    assert "http" not in told["voices"]
    refused = answered(endpoint, **ASKED | dict(voice="default"))
    assert refused.status == "FAILED" and "HTTP_TTS_URL must name a server" in refused.error


def test_a_job_is_spoken_by_the_server(worker, server):
    before = len(server.asked)
    sound, rate = joined(speak(Client(worker.endpoint_url), speed=1.25, **ASKED))
    assert level_db(sound) > -45 and rate == 24_000
    [call] = server.asked[before:]
    assert call == dict(model="small", input="It is four.", voice="deep", response_format="wav", speed=1.25,
                        seed=call["seed"])
    assert server.headers[-1]["Authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("fault", (429, 503, "silent"))
def test_what_passes_costs_no_job(worker, server, fault):
    server.faults.append(fault)
    before = len(server.asked)
    assert answered(worker, **ASKED).status == "COMPLETED" and len(server.asked) == before + 2


@pytest.mark.parametrize("fault, why", [
    (500, "the server answered 500: the model is loading"), ("cut", "breaks off the connection"),
    ("page", "answered 200 with text/html in place of sound: Sign in to go on"), ("stalls", "silent for 2 s"),
    ("endless", "it has missed the end")])
def test_what_does_not_pass_fails_in_one_line_that_tells_no_secret(worker, server, fault, why):
    server.faults.extend([fault] * 9)  # for as often as a chunk is tried again
    job = answered(worker, **ASKED | dict(text="Four."))
    server.faults.clear()
    assert job.status == "FAILED" and why in job.error, job.error
    assert KEY not in job.error and server.url not in job.error
    assert answered(worker, **ASKED).status == "COMPLETED"


def test_a_job_that_is_cancelled_hangs_up_on_a_silent_server(worker, server):
    server.faults.append("never")
    before = len(server.asked)
    job = submit(worker, ASKED)
    wait_until(lambda: len(server.asked) > before)
    requests.post(f"{worker.endpoint_url}/cancel/{job}", timeout=10).raise_for_status()
    assert server.hung_up.wait(10) and ended(worker, job).status == "CANCELLED"
    assert answered(worker, **ASKED).status == "COMPLETED"


def test_the_key_is_in_no_log_and_no_answer(worker, server):
    server.key = "another"  # which the server repeats in its error
    job = answered(worker, **ASKED)
    server.key = KEY
    assert job.status == "FAILED" and "answered 401" in job.error
    health, voices = (answered(worker, action=action).output for action in ("health", "voices"))
    told = json.dumps([health, voices, job.error, *worker.logs()])
    assert "answered 401" in told and "hunter2" not in told and server.url not in job.error


def test_a_kept_connection_that_the_server_closed_is_no_fault(server):
    here, session = Server(server.url, KEY), new_session()
    body = speech_request(here, "Yes.", "heart")
    def said(): return np.concatenate(list(sounding_answer(session, here, body)))
    ports = len(server.connections)
    for fault in ("closes", None, "silent", None):
        if fault: server.faults.append(fault)
        assert level_db(said()) > -45
    assert 2 <= len(server.connections) - ports <= 4  # kept where it could be


def test_a_call_that_is_left_leaves_no_thread_and_no_connection_behind(server):
    here, session, process = Server(server.url, KEY), new_session(), psutil.Process()
    threads, connections = threading.active_count(), len(process.net_connections())
    for fault in ("never", "stalls", "endless") * 3:
        server.faults.append(fault)
        until = time.monotonic() + 0.3
        body = speech_request(here, "It is four.", "heart")
        list(sounding_answer(session, here, body, lambda: time.monotonic() > until, longest_s=1e6))
    wait_until(lambda: threading.active_count() <= threads + 1)
    wait_until(lambda: len(process.net_connections()) <= connections + 2)


def test_sound_that_was_given_on_is_not_asked_for_again(server):
    here, got = replace(Server(server.url, KEY), format="pcm"), []
    server.faults.append("cut")
    before = len(server.asked)
    body = speech_request(here, "Eleven boats rocked on their ropes.", "heart")
    with pytest.raises(EngineError, match="in the middle of its sound"):
        for piece in sounding_answer(new_session(), here, body): got.append(piece)
    assert got and len(server.asked) == before + 1


def test_no_word_of_it_goes_to_another_host(server):
    with SpeechServer() as other:
        here = Server(server.url, KEY)
        server.elsewhere = f"{other.url}/audio/speech"
        server.faults.append("elsewhere")
        with pytest.raises(EngineError, match="answered 307: a redirect, not followed"):
            list(sounding_answer(new_session(), here, speech_request(here, "It is four.", "heart")))
        assert not other.asked
