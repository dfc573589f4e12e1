"The client without a queue under an odd network: what is asked again, what is resumed, and what is said."
import json, logging, socket, struct, threading, time
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from linacodec_tier3.audio import to_base64
from linacodec_tier3.cli import main
from linacodec_tier3.client import JobFailed, MissingPartials, StreamError, batch, joined, speak, stream
from linacodec_tier3.contract import Numbering, complete_partial
from linacodec_tier3.direct import BrokenStream, DirectClient, client_for
from support import wait_until
from support_server import free_port

KEY = "rpa_C0nfidential0123456789"
SECRET = "C0nfidential"
TEXT = "Hi."
TIMES = dict(timeout_s=30., cold_s=0.05)


def messages(level=0.1): # what a worker sends: five partials and the last one
    count = Numbering()
    def part(n):
        sound = to_base64(np.full(2_400, level * n, "<f4").tobytes())
        return count.stamp(dict(status="streaming", chunk=n, format="pcm_24", audio_chunk=sound, duration=0.1,
                                sample_rate=24_000, text_span=[0, 3], process_time_ms=time.monotonic()))
    sent = [part(n) for n in range(1, 6)]
    return [*sent, complete_partial(count, "pcm_24", 5, 0.5, dict(total=0.1), 7)]


SOUND = np.repeat(0.1 * np.arange(1, 6), 2_400).astype(np.float32)


def answer(body, status=200, kind="application/json", **headers):
    "A step: a whole answer."
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    def do(request):
        request.send_response(status)
        for name, value in headers.items(): request.send_header(name.replace("_", "-"), value)
        request.send_header("Content-Type", kind)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)
    return do


def says(*said, worker="w1", ends=None, stall=0.):
    "A step: JSON lines, and then `ends(request)` in place of the end."
    def do(request):
        request.send_response(200)
        request.send_header("Content-Type", "application/x-ndjson")
        request.send_header("X-Runpod-Worker-Id", worker)
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        for line in said:
            data = line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n"
            request.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            time.sleep(stall)
        if ends: return ends(request)
        request.wfile.write(b"0\r\n\r\n")
    return do


def reset(request): # a step, or the end of one: the connection is lost
    request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.close_connection = True
    request.connection.close()


def falls_silent(request): request.server.over.wait(30) # the end of a step: nothing more comes


def whole(request): return says(*messages())(request)


class Scripted:
    "A server that answers by a script, its last step again and again."
    def __init__(self, *steps):
        self.steps, self.asked, self.left, mine = list(steps), [], threading.Event(), self
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            def log_message(self, *args): pass
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                mine.asked.append((dict(self.headers), body))
                step = mine.steps.pop(0) if len(mine.steps) > 1 else mine.steps[0]
                try: step(self)
                except OSError: mine.left.set()
        class Server(ThreadingHTTPServer):
            daemon_threads, over = True, threading.Event()
            def handle_error(self, *args): pass
        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self):
        self.server.over.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def scripted():
    made = []
    def make(*steps):
        made.append(Scripted(*steps))
        return made[-1]
    yield make
    for server in made: server.close()


def heard(server, **settings):
    return joined(speak(DirectClient(server.url, **TIMES | settings), TEXT, output_format="pcm_24"))[0]


def fails(kind, call): # its message
    with pytest.raises(kind) as error: call()
    assert "\n" not in str(error.value)
    return str(error.value)


# -- before the first partial

def own(why, status, **headers): return answer(dict(error=why, status="error"), status, **headers)


def cold(status): return answer({"error": "no workers available"}, status)


COLD = cold(400)
PASSING = {"cold": COLD, "cold, as 404": cold(404), "cold, as 503": cold(503), "reset": reset,
           "404": answer(b"", 404, "text/plain"), "524": answer(b"", 524, "text/plain"),
           "502": answer(b"<html>Bad gateway</html>", 502, "text/html"), "408": answer({}, 408),
           "draining": own("this worker is ending", 503, Retry_After="0"),
           "told to end": own("the worker was told to shut down (SIGTERM)", 503),
           "busy": own("all places are taken", 429, Retry_After="0")}


@pytest.mark.parametrize("step", PASSING.values(), ids=PASSING)
def test_what_passes_before_the_first_partial_is_asked_again(scripted, step):
    server = scripted(step, whole)
    assert np.array_equal(heard(server), SOUND) and len(server.asked) == 2
    assert len({json.dumps(body) for _, body in server.asked}) == 1  # the seed, too


def test_it_is_asked_again_as_often_as_it_takes(scripted):
    server = scripted(COLD, reset, PASSING["404"], whole)
    assert np.array_equal(heard(server), SOUND) and len(server.asked) == 4


def test_a_busy_server_is_asked_again_when_it_says(scripted):
    start = time.monotonic()
    heard(scripted(own("busy", 429, Retry_After="1"), whole))
    assert time.monotonic() - start >= 1


def test_patience_ends(scripted):
    server = scripted(COLD)
    said = fails(StreamError, lambda: heard(server, patience_s=2))
    assert "no workers available" in said and len(server.asked) > 2


def test_a_server_that_comes_up_late_is_waited_for(scripted):
    server = scripted(whole)
    port = free_port()
    def come():
        time.sleep(0.5)
        with socket.create_server(("127.0.0.1", port)) as late:
            there = socket.create_connection(server.server.server_address)
            with late.accept()[0] as one, there:
                one.settimeout(10)
                data = one.recv(65_536)
                while not data.endswith(b"}"): data += one.recv(65_536)
                there.sendall(data)
                while piece := there.recv(65_536): one.sendall(piece)
    threading.Thread(target=come, daemon=True).start()
    client = DirectClient(f"http://127.0.0.1:{port}", **TIMES)
    assert np.array_equal(joined(speak(client, TEXT, output_format="pcm_24"))[0], SOUND)


OWN = {"wrong": (400, "`voice` is 'x'"), "engine": (500, "engine 'tone' fails"), "time": (504, "too long"),
       "large": (413, "too large"), "codec": (503, "no weights")}


@pytest.mark.parametrize("status, why", OWN.values(), ids=OWN)
def test_a_workers_own_error_ends_the_job_as_in_a_queue(scripted, status, why):
    server = scripted(own(why, status))
    client = DirectClient(server.url, **TIMES)
    for ask in (lambda: list(speak(client, TEXT)), lambda: batch(client, TEXT)):
        said = fails(JobFailed, ask)
        assert why in said and "FAILED" in said
    assert len(server.asked) == 2


FINAL = {"key": (own("the bearer token is wrong", 401), "is the key right"),
         "other server": (answer({"detail": "Not Found"}, 404), "is this a server of linacodec-tier3?"),
         "queue": (answer({"error": "POST /speak: Not Found"}, 404), "/v2/ENDPOINT_ID for a queue"),
         "elsewhere": (answer(b"", 308, Location="https://other/speak"), "https://other/speak"),
         "html": (answer(b"<html>Hello</html>", kind="text/html"), "text/html, not JSON lines"),
         "text": (answer(b"hello\n"), "no JSON object: b'hello'"),
         "list": (answer(b"[1]\n"), "no JSON object: b'[1]'"),
         "json": (answer({"jobs": 1}), "a partial has `seq` and `status`")}


@pytest.mark.parametrize("step, says", FINAL.values(), ids=FINAL)
def test_what_does_not_pass_is_an_error_at_once_that_says_what_to_do(scripted, step, says):
    server = scripted(step)
    assert says in fails(StreamError, lambda: heard(server)) and len(server.asked) == 1


def test_a_client_for_queues_says_when_there_is_none(scripted):
    server = scripted(answer({"detail": "Not Found"}, 404))
    said = fails(StreamError, lambda: client_for(f"{server.url}/v2/local").submit(TEXT))
    assert "404" in said and "A server by HTTP has no /v2/ in its address" in said


# -- after the first partial

ENDS = {"reset": reset, "silent": falls_silent, "end": None}


@pytest.mark.parametrize("end, after", [(end, after) for end in ENDS for after in (1, 5)])
def test_a_stream_that_breaks_is_whole_all_the_same(scripted, after, end):
    half = json.dumps(messages()[after]).encode()[:99]
    server, silent = scripted(says(*messages()[:after], half, ends=ENDS[end]), whole), end == "silent"
    client = DirectClient(server.url, **TIMES | (dict(timeout_s=0.5) if silent else {}))
    job = client.submit(TEXT, output_format="pcm_24", stream=True)
    got = list(stream(client, job))
    assert [p["seq"] for p in got] == [*range(6)]
    assert client.status(job)["again"] == 1 or silent  # where half a second may be short
    (first, body), (second, same), *_ = server.asked
    assert body == same and "seed" in body
    assert "X-Runpod-Worker-Id" not in first
    assert second.get("X-Runpod-Worker-Id") == (None if silent else "w1")


def test_a_worker_that_is_told_to_end_is_followed_by_another(scripted):
    told = dict(error="stopped in chunk 3: the worker was told to shut down (SIGTERM)", status="error")
    assert np.array_equal(heard(scripted(says(*messages()[:2], told), COLD, whole)), SOUND)


def test_a_stream_that_breaks_each_time_says_how_to_ask_again(scripted):
    server = scripted(says(*messages()[:2], ends=reset))
    client = DirectClient(server.url, **TIMES)
    with pytest.raises(BrokenStream) as error:
        list(speak(client, TEXT, output_format="pcm_24", seed=99))
    assert isinstance(error.value, MissingPartials) and len(server.asked) == 4
    assert "after 2 partials" in str(error.value) and "`seed` 99" in str(error.value)


def test_another_stream_than_before_is_an_error(scripted):
    server = scripted(says(*messages()[:3], ends=reset), says(*messages(level=0.05)))
    assert "partial 0 was another one" in fails(StreamError, lambda: heard(server))


def test_what_is_missing_or_changed_is_found(scripted):
    first, second, *rest = messages()
    gap = scripted(says(first, *rest))
    assert "partial 1 of 5 never arrived" in fails(MissingPartials, lambda: heard(gap))
    wrong = second | dict(audio_chunk=first["audio_chunk"])
    assert "not what was sent" in fails(StreamError, lambda: heard(scripted(says(first, wrong, *rest))))


def test_an_error_in_the_stream_ends_the_job(scripted):
    server = scripted(says(*messages()[:2], dict(error="chunk 3: the engine fails", status="error")))
    assert "the engine fails" in fails(JobFailed, lambda: heard(server)) and len(server.asked) == 1


def test_a_batch_that_breaks_is_asked_for_again(scripted):
    done = dict(status="complete", format="wav", audio="")
    server = scripted(says(b'{"status": "compl', ends=reset), says(done))
    assert batch(DirectClient(server.url, **TIMES), TEXT) == done and len(server.asked) == 2


# -- the command line

def test_the_command_line_speaks_by_http_and_reports_as_ever(scripted, tmp_path, monkeypatch, capsys):
    server = scripted(says(*messages()[:2], ends=reset), whole)
    for name in ("API_KEY", "RUNPOD_API_KEY"): monkeypatch.setenv(name, name.lower())
    asked = ["run", "--url", server.url, "--format", "pcm_24", "--text", TEXT, "--out", str(tmp_path)]
    assert main(asked) == 0
    said = capsys.readouterr().out
    assert "time to first partial" in said and "in 6 partials" in said
    kept = (tmp_path / "partials.jsonl").read_text().splitlines()
    assert [json.loads(line)["seq"] for line in kept] == [*range(6)]
    assert {headers["Authorization"] for headers, _ in server.asked} == {"Bearer api_key"}


@pytest.mark.parametrize("wrong", ["127.0.0.1:8001", "https://api.runpod.ai/v2/abc/run"])
def test_the_command_line_says_in_a_line_what_an_address_is(wrong, tmp_path, capsys):
    assert main(["run", "--url", wrong, "--format", "pcm_24", "--out", str(tmp_path)]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert wrong in line and line.startswith("linacodec-tier3 run: ")


# -- leaving, keys

@pytest.mark.parametrize("how", ["close", "exception"])
def test_leaving_closes_the_connection(scripted, how):
    server = scripted(says(*messages()[:5] * 400, stall=0.01))
    client = DirectClient(server.url, **TIMES)
    if how == "close":
        with closing(speak(client, TEXT, output_format="pcm_24")) as playing: next(playing)
    else:
        with pytest.raises(ZeroDivisionError):
            for _ in speak(client, TEXT, output_format="pcm_24"): 1 / 0
    assert server.left.wait(15)
    wait_until(lambda: not [t for t in threading.enumerate() if t.name == "ahead-messages_in"], 15)


def test_a_player_that_is_slow_does_not_hold_the_worker(scripted):
    server = scripted(says(*messages()))
    playing = speak(DirectClient(server.url, **TIMES), TEXT, output_format="pcm_24")
    next(playing)
    wait_until(lambda: not [t for t in threading.enumerate() if t.name == "ahead-messages_in"], 15)
    assert len(list(playing)) == 4


def test_no_message_shows_the_key_that_a_server_repeats(scripted, caplog):
    caplog.set_level(logging.DEBUG)
    echo = dict(error=f"no such key: {KEY}", status="error")
    for steps in ([answer(echo, 401)], [answer(echo, 429)], [answer(KEY.encode(), kind="text/html")],
                  [says(*messages()[:1], echo)], [answer(echo, 500)], [says(KEY.encode() + b"\n")],
                  [says(*messages()[:1], ends=reset), answer(KEY.encode(), 502)]):
        server = scripted(*steps)
        client = client_for(server.url, f" {KEY}\n", patience_s=0.3, cold_s=0.05)
        said = fails((StreamError, JobFailed), lambda: list(speak(client, TEXT, output_format="pcm_24")))
        assert SECRET not in said
        assert server.asked[0][0]["Authorization"] == f"Bearer {KEY}"
    assert SECRET not in caplog.text
