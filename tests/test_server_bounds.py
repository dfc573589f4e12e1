"What strangers may cost the HTTP server: bodies without end, heads in drops, readers who do not read."
import json, logging, os, resource, socket, threading, time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import psutil
import pytest
import requests

import linacodec_tier3.server as server
import linacodec_tier3.web.bodies as bodies
import linacodec_tier3.web.connections as connections
from linacodec_tier3.config import ConfigError, read_config
from linacodec_tier3.server import in_thread, make_app
from linacodec_tier3.web.answers import ServerState
from support_server import pinged, serving

PAGE = "https://app.example.com"
LINE = "The harbour lay still. Eleven boats rocked on their ropes, and nobody spoke. "
QUICK = {"CODEC": "none", "DEFAULT_SERVICE": "tone", "WARM_UP": "off"}
SPEAK = "POST /speak HTTP/1.1\r\nHost: x\r\n"


@pytest.fixture(scope="module")
def url(): # of an open server
    with in_thread(read_config(QUICK)) as url:
        until(lambda: pinged(url) == 200)
        yield url


@pytest.fixture(scope="module")
def guarded(): # the same with a key, and with a page that may ask
    with in_thread(read_config(QUICK | {"API_KEY": "s3cret", "CORS_ORIGINS": PAGE})) as url:
        until(lambda: pinged(url) == 200)
        yield url


def until(so, seconds=60):
    end = time.monotonic() + seconds
    while not so(): assert time.monotonic() < end; time.sleep(0.02)


def address(url): return "127.0.0.1", int(url.rpartition(":")[2])


@contextmanager
def connected(url, *pieces): # a connection on which these bytes were sent
    with socket.create_connection(address(url), timeout=60) as raw:
        for piece in pieces: raw.sendall(piece.encode() if isinstance(piece, str) else piece)
        yield raw


def rest(raw): # what comes until the server ends the connection
    came = b""
    try:
        while piece := raw.recv(65_536): came += piece
    except ConnectionResetError: pass
    return came


def status(came): return int(came.split(b" ")[1])


def posted(**given): # a whole request to speak, as bytes
    body = json.dumps(given).encode()
    return f"{SPEAK}Content-Length: {len(body)}\r\n\r\n".encode() + body


def one_answer(raw): # with a Content-Length, on a connection that goes on
    came = b""
    while b"\r\n\r\n" not in came: came += raw.recv(65_536)
    head, _, body = came.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    while len(body) < length: body += raw.recv(65_536)
    return status(head), body[:length], body[length:]


# -- bodies

def test_too_much_is_refused_before_and_while_it_comes(url):
    with connected(url, f"{SPEAK}Content-Length: 40000000\r\nExpect: 100-continue\r\n\r\n") as raw:
        assert status(rest(raw)) == 413
    def endless():
        for _ in range(60): yield b" " * 1_000_000
    for path, kind in (("/speak", str), ("/v1/audio/speech", dict)):
        refused = requests.post(url + path, data=endless(), timeout=60)  # chunked: no length is told
        assert refused.status_code == 413 and type(refused.json()["error"]) is kind
        assert "over 30 MB" in refused.text
    assert bodies._in_hand.bytes == 0


@pytest.mark.parametrize("head", ["Content-Length: 100", "Transfer-Encoding: chunked"])
def test_a_body_that_never_comes_is_given_up(url, head, monkeypatch):
    monkeypatch.setattr(bodies, "SILENT_S", 0.3)
    with connected(url, f"{SPEAK}{head}\r\n\r\n") as raw:
        answer = rest(raw)
        assert status(answer) == 408 and b"did not come" in answer


def test_a_body_in_drops_is_given_up(url, monkeypatch):
    monkeypatch.setattr(bodies, "WHOLE_S", 0.5)
    with connected(url, f"{SPEAK}Content-Length: 100000\r\n\r\n") as raw:
        start = time.monotonic()
        with pytest.raises(OSError):
            while time.monotonic() < start + 60: raw.sendall(b" "); time.sleep(0.02)


def test_a_length_that_is_too_small_or_no_number_is_an_error(url, monkeypatch):
    monkeypatch.setattr(connections, "HEAD_S", 0.3)
    monkeypatch.setattr(connections, "LOOK_S", 0.05)
    with connected(url, f"{SPEAK}Content-Length: 3\r\n\r\n", '{"text": "Hi."}') as raw:
        answer = rest(raw)  # three bytes that are no JSON, and then what might become a head
        assert status(answer) == 400 and b"no JSON" in answer and b"HTTP/1.1 408" in answer
    for length in ("-1", "many", "3\r\nContent-Length: 4"):
        with connected(url, f"{SPEAK}Content-Length: {length}\r\n\r\n{{}}") as raw:
            assert status(rest(raw)) == 400


def test_who_leaves_in_the_middle_of_a_body_leaves_no_traceback(url, caplog):
    caplog.set_level(logging.WARNING)
    for _ in range(5):
        with connected(url, f"{SPEAK}Content-Length: 1000\r\n\r\n", "{"): pass
    until(lambda: requests.get(f"{url}/health", timeout=30).json()["at_work"] == 0)
    assert not [r for r in caplog.records if r.exc_info]


def test_long_json_holds_up_nobody(url):
    given = dict(text="Hi.", voice="x" * 25_000_000)
    refused = requests.post(f"{url}/speak", json=given, timeout=120)
    assert refused.status_code == 400 and len(refused.text) < 2000


# -- heads and connections

def test_a_head_in_drops_is_given_up(url, monkeypatch):
    monkeypatch.setattr(connections, "HEAD_S", 0.3)
    monkeypatch.setattr(connections, "LOOK_S", 0.05)
    for begun in ("", "GET /ping HT", f"{SPEAK}X-Long: "):
        with connected(url, begun) as raw: assert rest(raw).startswith(b"HTTP/1.1 408")


def test_a_head_without_end_is_refused(url):
    with connected(url) as raw, pytest.raises(OSError):
        raw.sendall(b"GET /ping HTTP/1.1\r\n")
        for _ in range(10_000): raw.sendall(b"X-Long: " + b"x" * 1000 + b"\r\n")
        if not status(rest(raw)) == 400: pytest.fail("it took ten megabytes of headers")
        raise OSError
    assert pinged(url) == 200


def test_a_connection_goes_on_after_errors(url):
    with connected(url) as raw:
        for wrong, number in ((posted(text=" "), 400), (posted(text="Hi.", voice="nobody"), 400),
                              (f"{SPEAK}Content-Length: 1\r\n\r\n{{".encode(), 400),
                              (b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n", 404),
                              (b"DELETE /speak HTTP/1.1\r\nHost: x\r\n\r\n", 405)):
            raw.sendall(wrong)
            if number == 400 and b"Hi." in wrong or b'" "' in wrong: # of a job: sent in pieces
                came = b""
                while b"0\r\n\r\n" not in came: came += raw.recv(65_536)
                assert status(came) == 400
            else:
                got, _, more = one_answer(raw)
                assert (got, more) == (number, b"")
        raw.sendall(b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n")
        assert one_answer(raw)[0] == 200


def test_requests_sent_at_once_are_answered_in_order(url):
    one, other = (f"GET {path} HTTP/1.1\r\nHost: x\r\n" for path in ("/v1/models", "/nowhere"))
    with connected(url, f"{one}\r\n{other}Connection: close\r\n\r\n") as raw: answer = rest(raw)
    assert 0 == answer.find(b"HTTP/1.1 200") < answer.find(b"HTTP/1.1 404") and answer.count(b"HTTP/1.1") == 2


def test_who_sends_two_requests_and_leaves_stops_both(url):
    long = posted(text=LINE * 2000, stream=True, output_format="pcm_24")
    with connected(url, long, long) as raw: assert status(raw.recv(65_536)) == 200
    until(lambda: not {"at_work", "waiting", "jobs"} & {k for k, v in
          requests.get(f"{url}/health", timeout=30).json().items() if v})


def test_whatever_an_answer_is_to_be_there_is_one(url):
    for format in ([1], {"a": 1}, None, 3):
        asked = dict(json=dict(text="Hi.", output_format=format), headers={"Accept": "audio/ogg"}, timeout=30)
        refused = requests.post(f"{url}/speak", **asked)
        assert refused.status_code == 400 and "`output_format` is" in refused.json()["error"]
    for accept in ("audio/ogg", "audio/*", "text/event-stream"):
        asked = dict(json=dict(action="health"), headers={"Accept": accept}, timeout=30)
        told = requests.post(f"{url}/speak", **asked)
        assert told.status_code == 200 and told.json()["action"] == "health"


def test_what_breaks_inside_is_counted(url, monkeypatch):
    def broken(state): raise OSError("no disk")
    monkeypatch.setattr(server, "server_health", broken)
    assert requests.get(f"{url}/health", timeout=30).status_code == 500
    counted = requests.get(f"{url}/metrics", timeout=30).text
    assert 'linacodec_answers_total{route="/health",status="500"} 1.0' in counted


def test_who_waits_for_models_that_cannot_be_loaded_is_told(monkeypatch):
    asked = threading.Event()
    def load(cfg):
        assert asked.wait(60)
        raise ValueError("cannot load")
    monkeypatch.setattr(server, "load_behind", partial(server.load_behind, load=load))
    with in_thread(read_config(QUICK | {"CONCURRENCY": "1"})) as url, ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(requests.post, f"{url}/speak", json=dict(text="Hi."), timeout=60) for _ in "ab"]
        def waits(): return requests.get(f"{url}/health", timeout=30).json()
        until(lambda: waits()["at_work"] + waits()["waiting"] == 2)
        asked.set()
        for job in jobs: assert job.result().status_code == 503 and "cannot load" in job.result().text


# -- keys

@pytest.mark.parametrize("sent,let_in", [
    ("Bearer s3cret", True), ("bearer s3cret", True), ("BEARER   s3cret", True), ("s3cret", True),
    ("Bearer", False), ("", False), ("Basic czNjcmV0", False), ("Bearer s3cre", False),
    ("Bearer s3cret2", False),    (b"Bearer s3cr\xe9t", False), ("Bearer " + "x" * 20_000, False)])
def test_which_keys_are_let_in(guarded, sent, let_in):
    answer = requests.get(f"{guarded}/v1/models", headers={"Authorization": sent}, timeout=30)
    assert answer.status_code == (200 if let_in else 401) and "s3cret" not in answer.text
    if not let_in: assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_what_is_open_and_what_is_not(guarded):
    wanted = dict.fromkeys(("/ping", "/", "/docs", "/openapi.json"), 200)
    wanted |= dict.fromkeys(("/health", "/voices", "/v1/audio/voices", "/nowhere"), 401)
    assert {path: requests.get(guarded + path, timeout=30).status_code for path in wanted} == wanted
    assert requests.post(f"{guarded}/", json=dict(text="Hi."), timeout=30).status_code == 401


def test_a_stranger_hears_why_also_after_megabytes(guarded):
    refused = requests.post(f"{guarded}/speak", data=b"x" * 20_000_000, timeout=60)
    assert refused.status_code == 401 and "bearer token" in refused.json()["error"]
    with connected(guarded, f"{SPEAK}Content-Length: 9000000\r\nExpect: 100-continue\r\n\r\n") as raw:
        assert rest(raw).startswith(b"HTTP/1.1 401")  # and not first 100


def handshake(path="/v1/audio/speech/stream", more=""):
    return (f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{more}"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")


def test_a_websocket_without_a_key_is_refused(guarded):
    with connected(guarded, handshake()) as raw: assert status(raw.recv(4096)) in (401, 403)
    with connected(guarded, handshake("//v1/audio/speech/stream/")) as raw:
        assert status(raw.recv(4096)) in (401, 403)


@pytest.mark.parametrize("path", ["/health", "/v1/audio/voices", "/v1"])
def test_what_is_asked_for_health_opens_nothing_else(path): # as it needs no key
    with pytest.raises(ConfigError, match="answers something else"):
        make_app(ServerState(read_config(QUICK | {"HEALTH_CHECK_PATH": path})))


# -- websockets

@pytest.mark.parametrize("more", ["Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n",
                                  "X: " + "x" * 20_000 + "\r\n", 300 * "X: x\r\n"])
def test_a_handshake_that_cannot_be_read_leaves_no_connection(url, more):
    with connected(url, handshake(more=more)) as raw: assert status(rest(raw)) == 400


def test_a_websocket_is_found_under_its_path_as_it_is_meant(url):
    for path in ("/v1/audio/speech/stream", "//v1/audio/speech/stream/"):
        with connected(url, handshake(path)) as raw: assert status(raw.recv(4096)) == 101


# -- pages of others

def test_a_page_that_may_ask_reads_errors_too(guarded):
    preflight = {"Origin": PAGE, "Access-Control-Request-Method": "POST",
                 "Access-Control-Request-Headers": "authorization,content-type"}
    allowed = requests.options(f"{guarded}/speak", headers=preflight, timeout=30)
    assert allowed.status_code == 200 and allowed.headers["Access-Control-Allow-Origin"] == PAGE
    assert "authorization" in allowed.headers["Access-Control-Allow-Headers"].lower()
    key, asks = {"Authorization": "Bearer s3cret"}, dict(url=f"{guarded}/speak", timeout=30)
    for number, more in ((401, {}), (400, key)):
        answer = requests.post(**asks, data=b"{", headers={"Origin": PAGE} | more)
        assert answer.status_code == number and answer.headers["Access-Control-Allow-Origin"] == PAGE
        assert "retry-after" in answer.headers["Access-Control-Expose-Headers"]
    for origin in ("https://evil.example.com", "null"):
        answer = requests.post(**asks, json={}, headers={"Origin": origin} | key)
        assert "Access-Control-Allow-Origin" not in answer.headers


def test_without_the_setting_no_page_may_ask(url):
    answer = requests.get(f"{url}/v1/models", headers={"Origin": PAGE}, timeout=30)
    assert answer.status_code == 200 and not [h for h in answer.headers if "access-control" in h.lower()]


# -- readers who do not read

def rss(process): return psutil.Process(process.pid).memory_info().rss / 1e6


@pytest.mark.slow
@pytest.mark.parametrize("path,given", [
    ("speak", dict(text=LINE * 2500, stream=True, output_format="pcm_24")),
    ("v1/audio/speech", dict(model="tone", input=LINE * 2500, response_format="pcm"))])
def test_who_reads_nothing_costs_no_memory_and_no_place_for_ever(path, given):
    with serving(CODEC="none", DEFAULT_SERVICE="tone", JOB_TIMEOUT_S="6", CONCURRENCY="2") as (process, url):
        body = json.dumps(given).encode()
        head = f"POST /{path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        state = lambda: requests.get(f"{url}/health", timeout=30).json()
        with connected(url) as first: # and a job that is read, for the memory that any job takes
            first.sendall(head + body)
            for _ in range(200): first.recv(65_536)
        until(lambda: not state()["at_work"])
        before, files = rss(process), psutil.Process(process.pid).num_fds()
        with connected(url, head + body), connected(url, head + body):
            until(lambda: state()["at_work"] == 2)
            most = 0
            while state()["at_work"]: most = max(most, rss(process)); time.sleep(0.1)
            assert most - before < 60  # two minutes of PCM are 100 times as much
            hi = dict(text="Hi.", output_format="wav")
            assert requests.post(f"{url}/speak", json=hi, timeout=30).status_code == 200
            until(lambda: psutil.Process(process.pid).num_fds() <= files + 2)  # though the clients are there


@pytest.mark.slow
def test_more_connections_than_files_and_health_is_still_told():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(2000, before[1]), before[1]))
    try:
        with serving(CODEC="none", DEFAULT_SERVICE="tone") as (process, url):
            psutil.Process(process.pid).rlimit(psutil.RLIMIT_NOFILE, (1200, 1200))
            held = []
            for _ in range(1500): held.append(socket.create_connection(address(url)))
            assert pinged(url) == 200
            answer = requests.post(f"{url}/speak", json=dict(text="Hi.", output_format="wav"), timeout=60)
            assert answer.status_code == 200
            for raw in held: raw.close()
    finally: resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.slow
def test_a_hundred_bodies_that_never_come_cost_little():
    with serving(CODEC="none", DEFAULT_SERVICE="tone") as (process, url):
        before, held = rss(process), []
        for _ in range(100):
            raw = socket.create_connection(address(url), timeout=5)
            held.append(raw)
            raw.sendall(f"{SPEAK}Content-Length: 29000000\r\n\r\n".encode())
        for raw in held:
            try: raw.sendall(b" " * 20_000_000)
            except OSError: pass  # no more of it is taken
        assert rss(process) - before < 2.2 * bodies.IN_HAND / 1e6 and pinged(url) == 200
        for raw in held: raw.close()
