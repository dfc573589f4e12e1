"OpenAI through the queue: its own client, RunPod's API on this machine, and the real worker."
import base64, json, os, signal, time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import openai
import pytest
import requests

from linacodec_tier3.config import PARTIAL_LIMIT, read_config
from linacodec_tier3.contract import FINAL_STATES
from linacodec_tier3.local.endpoint import LocalEndpoint
from linacodec_tier3.openai.encoders import STREAM_FORMATS
from linacodec_tier3.server import in_thread

LINE = ("The harbour lay still. Eleven boats rocked on their ropes, and nobody spoke. "
        "Far out, a lamp was lit. ")
TEXT = 4 * LINE
KEY = "a key"
HEAD = {"Authorization": f"Bearer {KEY}"}
LONG = dict(input=LINE * 60, response_format="wav", model="tone")  # 12 MB and more
MIDDLE = dict(input=LINE * 8, response_format="wav", model="tone")  # 1 MB and more, but no 10
WRONG = {"whisper-1": dict(model="whisper-1"), "nobody": dict(voice="nobody"), "speed": dict(speed=5),
         "`text`": dict(input=" "), "response_format": dict(response_format="m4a")}


def client_of(endpoint):
    url = f"{endpoint.endpoint_url}/openai/v1"
    return openai.OpenAI(base_url=url, api_key=KEY, max_retries=0, timeout=120)


@contextmanager
def served(**more): # an endpoint around the real worker, and OpenAI's client of it
    env = {"CONCURRENCY": "8"} | more.pop("env", {})
    with LocalEndpoint(api_key=KEY, env=env, **more) as endpoint: yield endpoint, client_of(endpoint)


@pytest.fixture(scope="module")
def road(): # a network that takes its time, as the real one does
    with served(env={"SHUTDOWN_GRACE_S": "0.5"}, post_delay=0.03) as both: yield both


@pytest.fixture(scope="module")
def endpoint(road): return road[0]


@pytest.fixture(scope="module")
def client(road): return road[1]


@pytest.fixture(scope="module")
def at_once(): # many requests side by side, as each has to wait for the queue's own pace
    with ThreadPoolExecutor(16) as pool: yield lambda call, asks: list(pool.map(call, asks))


def asked(**more):
    return dict(model="tts-1", voice="alloy", input=TEXT, extra_body={"seed": 7}) | more


def whole(client, **more): return client.audio.speech.create(**asked(**more))


def events(client, heard=lambda answer: None, **more): # as a client reads them that knows nothing of us
    create = client.audio.speech.with_streaming_response.create
    with create(**asked(**more), stream_format="sse") as answer:
        assert answer.headers["content-type"] == "text/event-stream"
        heard(answer)
        for line in answer.iter_lines():
            if line: yield json.loads(line.removeprefix("data: "))


def file_in(told):
    return b"".join(base64.b64decode(e["audio"]) for e in told if e["type"] == "speech.audio.delta")


def until(so, seconds=60):
    end = time.monotonic() + seconds
    while not so(): assert time.monotonic() < end; time.sleep(0.02)


def running(endpoint): return endpoint.health()["jobs"]["inProgress"]


# -- what is asked for and comes

def test_a_stream_of_events_holds_the_file_that_comes_whole(client, at_once):
    def ask(format):
        how = dict(model="tone", response_format=format)
        return list(events(client, **how)), whole(client, **how)
    for format, (told, file) in zip(STREAM_FORMATS, at_once(ask, STREAM_FORMATS)):
        *deltas, done = told
        assert file.response.headers["content-type"] == STREAM_FORMATS[format].media_type
        assert file_in(deltas) == file.content and len(deltas) > 2
        assert done["type"] == "speech.audio.done" and done["usage"]["input_tokens"] == len(TEXT)


def test_the_queue_and_the_server_give_the_same_file(client):
    cfg = read_config({"CODEC": "none", "EXPECTED_RTF": os.environ["EXPECTED_RTF"]})
    with in_thread(cfg) as url: # it waits until it is ready
        direct = openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0)
        assert whole(direct).content == whole(client).content


def test_each_partial_is_one_event_under_the_limit(endpoint):
    body = asked(**LONG, stream_format="sse")
    given = {"input": {"openai_route": "/v1/audio/speech", "openai_input": body}}
    name = requests.post(f"{endpoint.endpoint_url}/run", json=given, headers=HEAD).json()["id"]
    texts = []
    while True: # as a gateway polls
        news = requests.get(f"{endpoint.endpoint_url}/stream/{name}", headers=HEAD).json()
        texts += [partial["output"] for partial in news["stream"]]
        if news["status"] in FINAL_STATES and not news["stream"]: break
    job = endpoint.job(name)
    assert job.status == "COMPLETED" and not job.refused and max(job.sizes) <= PARTIAL_LIMIT
    assert all(isinstance(t, str) and t.startswith("data: {") and t.endswith("}\n\n") for t in texts)
    assert [json.loads(t[6:])["type"] for t in texts[-2:]] == ["speech.audio.delta", "speech.audio.done"]
    assert job.output == []  # the events are not kept a second time
    assert job.first_partial - job.taken < 0.7 * (job.done - job.taken)  # it was heard before it was spoken


def test_results_over_a_limit(client, at_once):
    def ask(more):
        try: return whole(client, **more).content
        except openai.APIStatusError as e: return e
    def stream(more): return file_in(events(client, **more))
    (over, middle), (all_of_it, streamed) = (at_once(call, (LONG, MIDDLE)) for call in (ask, stream))
    assert (over.status_code, over.code) == (413, "result_too_large") and "`stream_format`" in over.message
    assert len(all_of_it) > 10_000_000 * 3 / 4  # which the queue carries in events
    assert middle == streamed and len(middle) > PARTIAL_LIMIT


def test_lists_and_models(endpoint, client, at_once):
    paths = ("models", "models/tone", "voices", "audio/voices", "audio/voices?model=tone", "audio/models")
    url = f"{endpoint.endpoint_url}/openai/v1"
    def got(path): return requests.get(f"{url}/{path}", headers=HEAD, timeout=60).json()
    models, one, *voices, again = at_once(got, paths)
    named, same, others = voices
    assert {"tts-1", "hibari", "tone"} <= {m["id"] for m in models["data"]} and one["id"] == "tone"
    assert named == same != others and {"id", "name"} == named["voices"][0].keys()
    assert again["models"] == models["data"]
    assert [m.id for m in client.models.list()] == [m["id"] for m in models["data"]]


def test_a_speed_beyond_the_engines_is_the_nearest_and_is_told(client, at_once):
    fast, most = at_once(lambda speed: whole(client, input=LINE, speed=speed), (4, 2))
    assert fast.response.headers["x-speed"] == "2" and fast.content == most.content


# -- what is wrong

def test_what_is_wrong_is_an_error_of_its_kind(client, at_once):
    def ask(word):
        with pytest.raises(openai.APIStatusError, match=word) as refused: whole(client, **WRONG[word])
        with pytest.raises(openai.APIStatusError, match=word): next(events(client, **WRONG[word]))
        return refused.value
    for word, refused in zip(WRONG, at_once(ask, WRONG)):
        assert type(refused) is (openai.NotFoundError if word == "whisper-1" else openai.BadRequestError)
        assert refused.body.keys() == {"message", "type", "param", "code"}


def test_other_paths_methods_and_keys_are_told_in_openais_form(endpoint, at_once):
    def ask(case):
        method, path, *_, more = case
        url = f"{endpoint.endpoint_url}/openai/v1/{path}"
        return requests.request(method, url, **{"headers": HEAD, "timeout": 60} | more)
    cases = [("GET", "files", 404, "unknown_url", {}), ("DELETE", "models", 405, None, {}),
             ("GET", "audio/speech", 405, "method_not_supported", {}),
             ("GET", "models", 401, None, {"headers": {}}),
             ("POST", "models", 405, "method_not_supported", {"json": {"a": 1}}),
             ("POST", "audio/speech", 413, None, {"data": b" " * 10_000_001})]
    cases += [("POST", "audio/speech", 400, None, {"data": d}) for d in (b"{", b"{}", b"null", b"[]", b"7")]
    for (*_, status, code, _), answer in zip(cases, at_once(ask, cases)):
        assert answer.status_code == status, answer.text
        assert answer.json()["error"].keys() == {"message", "type", "param", "code"}
        assert answer.json()["error"]["code"] == code


def test_who_waits_too_long_gets_524_where_that_is_asked_for():
    nobody = LocalEndpoint(cutoff=0.2, command=["sleep", "60"], grace=0.1)  # takes no job
    try:
        url = nobody.start(wait=False).endpoint_url
        late = requests.post(f"{url}/openai/v1/audio/speech", json=asked(), timeout=60)
        assert (late.status_code, late.json()["error"]["type"]) == (524, "server_error")
        assert nobody.health()["jobs"]["inQueue"] == 0  # nobody waits for it any more
        late = requests.post(f"{url}/runsync", json={"input": dict(text=LINE)}, timeout=60)
        assert late.status_code == 524 and isinstance(late.json()["error"], str)
    finally: nobody.stop()


# -- nothing is lost

def test_a_client_that_goes_away_cancels_its_job(endpoint, client):
    names = []
    came = events(client, lambda answer: names.append(answer.headers["x-job-id"]), input=LINE * 300)
    next(came)
    assert endpoint.job(names[0]).status == "IN_PROGRESS"
    came.close()
    until(lambda: endpoint.job(names[0]).status == "CANCELLED")
    with pytest.raises(openai.APITimeoutError): whole(client.with_options(timeout=0.3), input=LINE * 300)
    until(lambda: running(endpoint) == 0)
    assert whole(client, input="All is well.").content


def test_after_a_kill_the_stream_goes_on_with_the_same_bytes(endpoint, client):
    long, told = dict(input=LINE * 30, response_format="pcm"), []
    for event in events(client, **long):
        told.append(event)
        if len(told) == 2: os.kill(endpoint.worker_pids[0], signal.SIGKILL)
    assert told[-1]["type"] == "speech.audio.done" and endpoint.health()["jobs"]["retried"] == 1
    assert file_in(told) == file_in(events(client, **long))


def test_sigterm_ends_a_stream_with_the_truth_or_another_worker_goes_on(endpoint, client):
    before, told = endpoint.health()["jobs"]["retried"], []
    for event in events(client, input=LINE * 150):
        if not told: os.kill(endpoint.worker_pids[0], signal.SIGTERM)
        told.append(event)
    if told[-1]["type"] == "error": assert "SIGTERM" in told[-1]["error"]["message"]
    else: # too busy to say it within its grace, it was ended
        assert endpoint.health()["jobs"]["retried"] == before + 1
        assert file_in(told) == file_in(events(client, input=LINE * 150))


@pytest.mark.slow
def test_the_end_of_a_jobs_time_is_its_last_event():
    names = []
    with served(env={"JOB_TIMEOUT_S": "1.5"}, post_delay=0.2) as (endpoint, client):
        *_, last = events(client, lambda answer: names.append(answer.headers["x-job-id"]), input=LINE * 300)
        job = endpoint.job(names[0])
    assert last["type"] == "error" and "JOB_TIMEOUT_S" in last["error"]["message"]
    assert job.status == "FAILED" and json.loads(job.error)["status_code"] == 504
