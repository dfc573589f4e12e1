"The client and the command line under an odd network: what is asked again, what is said, and who is charged."
import base64, json, logging, os, shutil, signal, socket, struct, subprocess, sys, threading, time
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from linacodec_tier3 import client as client_module
from linacodec_tier3.cli import follow_request, main, official_endpoint
from linacodec_tier3.client import Client, JobFailed, StreamError, batch, output, poll, speak, stream
from linacodec_tier3.codec.protocol import LoudnessCodec
from linacodec_tier3.contract import Numbering
from linacodec_tier3.local.endpoint import LocalEndpoint
from support import wait_until

KEY = "rpa_C0nfidential0123456789"
SECRET = "C0nfidential"
SILENCE = base64.b64encode(bytes(9_600)).decode()
COMMAND = "import sys; from linacodec_tier3.cli import main; raise SystemExit(main(sys.argv[1:]))"


def partials(text="Hi."):
    "What a worker sends: 0.3 s of silence."
    count = Numbering()
    part = dict(status="streaming", chunk=1, format="pcm_16", audio_chunk=SILENCE,
                sample_rate=48_000, duration=0.1, text_span=[0, len(text)])
    sent = [count.stamp(dict(part)) for _ in range(3)]
    timing = dict(first_partial=1, total=1)
    return [*sent, dict(status="complete", format="pcm_16", seq=3, manifest=count.manifest(), timing=timing,
                        total_chunks=3, real_time_factor=0.1, seed=1)]


def answer(body=None, status=200, kind="application/json", **headers):
    "A script's step: an answer."
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    def do(request):
        request.send_response(status)
        for name, value in headers.items(): request.send_header(name.replace("_", "-"), value)
        if kind: request.send_header("Content-Type", kind)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)
    return do


def reset(request): # a script's step: the connection is lost, without an answer
    request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.close_connection = True
    request.connection.close()


def cut(request): # a script's step: half an answer
    request.send_response(200)
    request.send_header("Content-Length", "1000")
    request.end_headers()
    request.wfile.write(b'{"status": "IN_PROG')
    request.close_connection = True


HTML = answer(b"<html><title>Bad gateway</title></html>", kind="text/html")
RUN, IDLE = answer({"id": "j1", "status": "IN_QUEUE"}), answer({"status": "IN_PROGRESS", "stream": []})
SENT = [answer({"status": "IN_PROGRESS", "stream": [{"output": p}]}) for p in partials()]
END = answer({"status": "COMPLETED", "stream": []})
DONE = answer({"id": "j1", "status": "COMPLETED", "output": [partials()[-1]]})
BAD = answer({"error": "busy"}, 502)


class Odd:
    "An endpoint that answers by a script: for each route its steps, the last one again and again."
    def __init__(self, **script):
        self.script = dict(run=[RUN], stream=[*SENT, END], status=[DONE],
                           cancel=[answer({"status": "CANCELLED"})]) | script
        self.asked, self.keys, odd = [], set(), self
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            def log_message(self, *args): pass
            def do_GET(self):
                size = int(self.headers.get("Content-Length") or 0)
                self.body = self.rfile.read(size)
                odd.keys.add(self.headers.get("Authorization"))
                route = self.path.split("/")[3]
                odd.asked.append(route)
                steps = odd.script[route]
                step = steps.pop(0) if len(steps) > 1 else steps[0]
                step(self)
            do_POST = do_GET
        class Server(ThreadingHTTPServer):
            daemon_threads = True
            def handle_error(self, *args): pass  # a client that goes away is part of the game
        self.make = lambda port=0: Server(("127.0.0.1", port), Handler)
        self.server = self.make()
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/v2/odd"
        self.serve()

    def serve(self):
        "Answer, in a thread."
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self):
        "Answer no more; the port is free."
        self.server.shutdown()
        self.server.server_close()

    def again(self):
        "Answer again, at the same port."
        self.server = self.make(self.port)
        self.serve()


@pytest.fixture
def odd():
    made = []
    def make(**script):
        made.append(Odd(**script))
        return made[-1]
    yield make
    for server in made: server.close()


@pytest.fixture(autouse=True)
def messages(caplog, capfd): # what was said in errors; after each test, no message, log or output has the key
    said = []
    caplog.set_level(logging.DEBUG)
    yield said
    out = capfd.readouterr()
    for text in (*said, caplog.text, out.out, out.err): assert SECRET not in text


def fails(messages, call, kind=StreamError): # the message of what it raises
    with pytest.raises(kind) as error: call()
    messages.append(str(error.value))
    messages.append(repr(error.value))
    return str(error.value)


# --- keys

@pytest.mark.parametrize("around", ["{}\n", " {} \r\n", "\t{}"])
def test_white_space_around_a_key_is_not_sent(odd, around, tmp_path, monkeypatch):
    server = odd()
    assert Client(server.url, around.format(KEY)).submit("Hi.") == "j1"
    monkeypatch.setenv("RUNPOD_API_KEY", around.format(KEY))
    asked = ["run", "--url", server.url, "--format", "pcm_16", "--text", "Hi.", "--out", str(tmp_path)]
    assert main(asked) == 0
    assert server.keys == {f"Bearer {KEY}"}


NO_HEADERS = [f"{KEY}\nX-Other: 1", f"{KEY[:8]}\0{KEY[8:]}", f"{KEY}→", f"\ufeff{KEY}"]


@pytest.mark.parametrize("odd_key", NO_HEADERS)
def test_a_key_that_is_no_header_is_an_error_that_hides_it(odd, messages, odd_key, tmp_path, capfd):
    server = odd()
    said = fails(messages, lambda: Client(server.url, odd_key).submit("Hi."))
    assert "cannot be sent" in said and "RUNPOD_API_KEY" in said
    asked = ["run", "--url", server.url, "--api-key", odd_key, "--format", "pcm_16", "--out", str(tmp_path)]
    assert main(asked) == 1
    said = capfd.readouterr()
    messages += [said.out, said.err]
    assert "cannot be sent" in said.err and len(said.err.splitlines()) == 1 and not server.asked


ECHO = answer({"error": f"no such key: Bearer {KEY}"}, 401)


@pytest.mark.parametrize("step", [ECHO, answer(KEY.encode() * 3, kind="text/html"), answer({"hint": KEY}),
                                  answer({"error": KEY}, 500),
                                  answer({"error": KEY}, 429, Retry_After="999")])
def test_no_message_shows_the_key_that_an_endpoint_repeats(odd, messages, step):
    server = odd(run=[step], stream=[step])
    client = Client(server.url, KEY, job_s=0.3)
    fails(messages, lambda: client.submit("Hi."))
    fails(messages, lambda: list(poll(client, "j1")))
    endpoint = official_endpoint(server.url, KEY)
    fails(messages, lambda: endpoint.run({"input": {"text": "Hi."}}))


def test_serving_shows_no_key(tmp_path):
    asked = [sys.executable, "-c", COMMAND, "serve", "--port", "0", "--api-key", KEY]
    env = os.environ | {"DEFAULT_SERVICE": "tone", "RUNPOD_API_KEY": f"{KEY}\n"}
    served = subprocess.Popen(asked, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    lines = []
    for line in served.stdout:
        lines.append(line)
        if "serving at" in line: served.terminate()  # from now on it ends as it should
    assert served.wait(60) == 0
    said = "".join(lines)
    assert "RUNPOD_API_KEY" in said and SECRET not in said


# --- the platform's limits

def test_a_submit_that_was_not_queued_is_made_again(odd):
    many = answer({"error": "too many requests"}, 429, Retry_After="1")
    server, start = odd(run=[many, many, RUN]), time.monotonic()
    assert Client(server.url).submit("Hi.") == "j1"
    assert server.asked == ["run"] * 3 and time.monotonic() - start >= 2


def test_retry_after_may_be_a_date_or_nonsense(odd):
    late = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 2))
    for header in (late, "soon", "", "-3"):
        server = odd(run=[answer({}, 429, Retry_After=header), RUN])
        assert Client(server.url).submit("Hi.") == "j1" and server.asked == ["run"] * 2


def test_patience_with_a_busy_endpoint_ends(odd, messages):
    many, start = answer({"error": "too many requests"}, 429, Retry_After="3600"), time.monotonic()
    server = odd(run=[many])
    said = fails(messages, lambda: Client(server.url).submit("Hi."))
    assert "429" in said and "too many requests" in said and time.monotonic() - start < 30
    said = fails(messages, lambda: Client(odd(run=[answer({}, 429)]).url, patience_s=0.5).submit("Hi."))
    assert "429" in said


def test_a_submit_waits_for_an_endpoint_that_comes_up(odd):
    server = odd()
    server.close()
    threading.Timer(1, server.again).start()
    assert Client(server.url).submit("Hi.") == "j1" and server.asked == ["run"]


@pytest.mark.parametrize("step", [BAD, reset, cut, answer({}, 524)])
def test_a_submit_that_may_have_been_queued_is_not_made_again(odd, messages, step):
    server = odd(run=[step, RUN])
    fails(messages, lambda: Client(server.url).submit("Hi."))
    assert server.asked == ["run"]


WRONG = {"html": (HTML, "39 bytes of text/html"), "empty": (answer(b""), "0 bytes"),
         "no type": (answer(b"", kind=None), "no type"), "a list": (answer([1]), "[1]"),
         "null": (answer(None), "null"), "half": (answer(b'{"id": '), '{"id": '),
         "binary": (answer(bytes(range(256))), "256 bytes"), "deep": (answer(b"[" * 200_000), "200000 bytes"),
         "other": (answer({"message": "hello"}), "hello"),
         "wrong": (answer({"id": 3, "status": 4}), "'id': 3"),
         "strings": (answer({"status": "IN_PROGRESS", "stream": ["x"]}), "IN_PROGRESS"),
         "no stream": (answer({"status": "COMPLETED"}), "COMPLETED")}


@pytest.mark.parametrize("step, says", WRONG.values(), ids=WRONG)
def test_what_is_no_answer_is_an_error_that_says_what_came(odd, messages, step, says):
    server = odd(run=[step], stream=[step])
    client, endpoint = Client(server.url), official_endpoint(server.url, None)
    asked = {"text": "Hi.", "output_format": "pcm_16"}
    for call in (lambda: client.submit("Hi."), lambda: list(poll(client, "j1")),
                 lambda: follow_request(endpoint, asked)):
        assert says in fails(messages, call)
    assert server.asked.count("run") == 2


@pytest.mark.parametrize("junk", ["text", 3, None, {}, {"seq": "1", "status": "streaming"}, {"seq": 0},
                                  {"seq": 0, "status": "streaming"},
                                  {"seq": 0, "status": "streaming", "format": "pcm_16", "audio_chunk": 7}])
def test_what_is_no_partial_is_an_error_that_shows_it(odd, messages, junk):
    server = odd(stream=[answer({"status": "COMPLETED", "stream": [{"output": junk}]}), END])
    said = fails(messages, lambda: list(speak(Client(server.url), "Hi.")))
    assert ascii(junk)[:20] in said


def faulty(step): return [IDLE, step, SENT[0], step, *SENT[1:], step, END]


PASSING = [BAD, answer({}, 503, Retry_After="1"), answer({}, 429), reset, cut]


@pytest.mark.parametrize("step, through", [*((step, "client") for step in PASSING), (BAD, "command line")])
def test_polling_outlasts_faults(odd, step, through):
    server = odd(stream=faulty(step), status=[step, DONE])
    if through == "client":
        client = Client(server.url)
        got = list(stream(client, client.submit("Hi.")))
        assert output(client, "j1") == partials()[-1]
    else:
        asked = dict(text="Hi.", output_format="pcm_16")
        got = follow_request(official_endpoint(server.url, None), asked)[0].partials
    assert [p["seq"] for p in got] == [0, 1, 2, 3]
    assert "cancel" not in server.asked


def test_polling_outlasts_an_endpoint_that_is_away(odd):
    server = odd(stream=[SENT[0], IDLE])
    arriving = poll(Client(server.url), "j1")
    next(arriving)
    server.close()
    server.script["stream"] = [*SENT[1:], END]
    threading.Timer(4, server.again).start()
    assert [p["seq"] for p in arriving] == [1, 2, 3]


def test_polling_ends_when_the_job_cannot_live_any_more(odd, messages):
    client, start = Client(odd(stream=[BAD]).url, job_s=1), time.monotonic()
    assert "502" in fails(messages, lambda: list(poll(client, "j1")))
    assert time.monotonic() - start < 30
    client = Client(odd(stream=[answer({"error": "no such job"}, 404)]).url)
    assert "404" in fails(messages, lambda: list(poll(client, "j1")))


# --- abandoned jobs

LONG = dict(output_format="pcm_24", service="tone", parameters={"rtf": 1.0}, max_chars=40)
TEXT = "Sixty seconds of work at the least, which nobody waits for. " * 40
SOON = 15 # seconds; most take a tenth of one, and a second is promised; on a busy machine it may be more


@pytest.fixture(scope="module")
def local():
    env = {"DEFAULT_SERVICE": "tone", "CONCURRENCY": "4", "FIRST_CHUNK_CHARS": "20"}
    with LocalEndpoint(env=env) as running: yield running


def jobs(local): return local._ask(lambda state: dict(state.store.jobs))


@pytest.fixture
def abandoned(local): # called with when it was left: the one new job was cancelled then
    before = set(jobs(local))
    def check(left):
        new = wait_until(lambda: set(jobs(local)) - before, SOON)
        assert len(new) == 1
        [job] = new
        wait_until(lambda: local.job(job).status == "CANCELLED", SOON)
        record = local.job(job)
        took = record.done - left
        print(f"cancelled {took:.3f} s after it was left")
        assert 0 < took < SOON and (record.stops or not record.taken)
    return check


class Unlike(Exception): pass


ERRORS = [Unlike("player"), KeyboardInterrupt(), SystemExit(3), MemoryError()]


@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_an_exception_in_the_consumer_cancels_the_job(local, abandoned, error):
    with pytest.raises(type(error)):
        for _ in speak(Client(local.endpoint_url), TEXT, **LONG):
            left = time.monotonic()
            raise error
    abandoned(left)


def test_a_closed_iterator_cancels_the_job(local, abandoned):
    with closing(speak(Client(local.endpoint_url), TEXT, **LONG)) as playing:
        next(playing)
        left = time.monotonic()
    abandoned(left)


def test_a_dropped_iterator_cancels_the_job(local, abandoned):
    playing = speak(Client(local.endpoint_url), TEXT, **LONG)
    next(playing)
    left = time.monotonic()
    del playing
    abandoned(left)


@pytest.mark.parametrize("error", [StreamError("x"), ValueError("y"), KeyboardInterrupt()], ids=repr)
def test_a_codec_that_fails_cancels_the_job(local, error, monkeypatch, abandoned):
    left = []
    def fail(*args):
        left.append(time.monotonic())
        raise error
    monkeypatch.setattr(client_module, "from_pcm", fail)  # in the place of a codec
    with pytest.raises(type(error)): list(speak(Client(local.endpoint_url), TEXT, **LONG))
    abandoned(*left)


@pytest.fixture
def interrupt_after(): # Ctrl-C, as soon as a function gives true
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a run in the background ignores it
    sent = []
    def start(look):
        def run():
            wait_until(look, 60)
            sent.append(time.monotonic())
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        threading.Thread(target=run, daemon=True).start()
        return sent
    yield start
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_while_waiting_for_a_batch_cancels_the_job(local, abandoned, interrupt_after):
    before = set(jobs(local))
    left = interrupt_after(lambda: any(j.taken for name, j in jobs(local).items() if name not in before))
    with pytest.raises(KeyboardInterrupt): batch(Client(local.endpoint_url), TEXT, **LONG)
    abandoned(*left)


def test_ctrl_c_while_a_job_is_submitted_leaves_none(odd, interrupt_after):
    reached, go_on = threading.Event(), threading.Event()
    def slow(request):
        reached.set()
        go_on.wait(60)
        RUN(request)
    server = odd(run=[slow])
    interrupt_after(reached.is_set)
    with pytest.raises(KeyboardInterrupt): next(speak(Client(server.url), "Hi."))
    go_on.set()
    wait_until(lambda: "cancel" in server.asked, SOON)


# Python has nobody to raise what stops a generator that is thrown away
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_second_ctrl_c_does_not_stop_the_cancelling(odd, interrupt_after):
    reached, go_on, cancelled = threading.Event(), threading.Event(), threading.Event()
    def slow(request):
        reached.set()
        go_on.wait(60)
        cancelled.set()
        answer({"status": "CANCELLED"})(request)
    server = odd(cancel=[slow])
    interrupt_after(reached.is_set)
    with pytest.raises((Unlike, KeyboardInterrupt)):
        for _ in speak(Client(server.url), "Hi.", output_format="pcm_16"): raise Unlike()
    go_on.set()
    assert cancelled.wait(SOON)


def test_cancelling_is_tried_again(odd):
    server = odd(cancel=[reset, BAD, answer({}, 429), answer({"status": "CANCELLED"})])
    with pytest.raises(Unlike):
        for _ in speak(Client(server.url), "Hi.", output_format="pcm_16"): raise Unlike()
    assert server.asked.count("cancel") == 4


def test_an_exception_stays_what_it_is_where_cancelling_fails(odd):
    server = odd(cancel=[answer({"error": "no"}, 404)])
    with pytest.raises(Unlike):
        for _ in speak(Client(server.url), "Hi.", output_format="pcm_16"): raise Unlike()


def test_a_job_that_ended_is_not_cancelled(odd):
    end = dict(status="FAILED", error="x")
    server = odd(stream=[answer(end | dict(stream=[]))], status=[answer(end)])
    for ask in (lambda: list(speak(Client(server.url), "Hi.")), lambda: batch(Client(server.url), "Hi.")):
        with pytest.raises(JobFailed): ask()
    assert list(speak(Client(odd().url), "Hi.")) and "cancel" not in server.asked


ENDS = {"the program ends": "sys.exit(0)", "an exception": "raise ValueError('mine')",
        "a name outlives it": "sys.last = playing; 1/0"}


@pytest.mark.parametrize("how", ENDS.values(), ids=ENDS)
def test_the_end_of_a_program_cancels_its_jobs(local, abandoned, how):
    code = f"""import sys, time
from linacodec_tier3.client import Client, speak
playing = speak(Client({local.endpoint_url!r}), {TEXT!r}, **{LONG!r})
next(playing)
print(time.monotonic())
{how}"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "Exception ignored" not in done.stderr
    abandoned(float(done.stdout))


STOPS = [(signal.SIGINT, 130, "pcm_24"), (signal.SIGINT, 130, "wav"), (signal.SIGTERM, 143, "pcm_24")]


@pytest.mark.parametrize("number, code, format", STOPS)
def test_the_command_line_that_is_stopped_cancels_the_job(local, abandoned, number, code, format, tmp_path):
    how = ["--service", "tone", "--parameters", '{"rtf": 1.0}', "--max-chars", "40", "--format", format]
    asked = ["run", "--url", local.endpoint_url, *how, "--text", TEXT, "--api-key", KEY,
             "--out", str(tmp_path)]
    before = set(jobs(local))
    hears = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # in the background, too
    run = subprocess.Popen([sys.executable, "-c", COMMAND, *asked], stderr=subprocess.PIPE, text=True,
                           preexec_fn=hears)
    wait_until(lambda: any(j.first_partial or format == "wav" and j.taken for name, j in jobs(local).items()
                           if name not in before), 120)
    left = time.monotonic()
    run.send_signal(number)
    abandoned(left)
    said = run.communicate(timeout=60)[1]
    assert run.returncode == code and "Traceback" not in said and SECRET not in said


def test_a_wrong_codec_on_the_command_line_cancels_the_job(odd, messages):
    tokens = dict(seq=0, status="streaming", chunk=1, format="linacodec_tokens", tokens=[1],
                  embedding=[0.] * 128,
                  sample_rate=48_000, duration=0.08, text_span=[0, 3],
                  codec=dict(name="other", revision="1", fingerprint="f" * 16))
    server = odd(stream=[answer({"status": "IN_PROGRESS", "stream": [{"output": tokens}]}), IDLE])
    asked = dict(text="Hi.", output_format="linacodec_tokens")
    mine = LoudnessCodec(name="mine", fingerprint="0" * 16)
    said = fails(messages, lambda: follow_request(official_endpoint(server.url, KEY), asked, mine))
    assert "are noise to" in said and server.asked.count("cancel") == 1


# --- started as people do it

def begun(code, drop=(), **env): # a process of its own, without some variables
    kept = {k: v for k, v in os.environ.items() if k not in drop}
    command, how = [sys.executable, "-c", code], dict(capture_output=True, text=True, timeout=120)
    return subprocess.run(command, env=kept | env, **how)


@pytest.mark.parametrize("level", ["warning", "WARNING ", "critical", "2", "", "loud"])
def test_a_log_level_in_other_words_ends_no_start(level):
    done = begun("import linacodec_tier3, runpod; print(runpod.RunPodLogger.level)", RUNPOD_LOG_LEVEL=level)
    assert done.returncode == 0, done.stderr
    assert ("RUNPOD_LOG_LEVEL" in done.stderr) == (level == "loud") and len(done.stderr.splitlines()) <= 1
    if level == "warning": assert done.stdout.strip() == "WARN"


BARE = """import os
from linacodec_tier3.config import get_config
os.setgroups([]); os.setgid(54321); os.setuid(54321)
print(get_config().codec_home)"""


@pytest.mark.parametrize("has", [{}, {"HOME": "/"}, {"HOME": "/no/such/home"}])
@pytest.mark.skipif(os.getuid() != 0, reason="only root can become nobody")
def test_it_starts_without_a_home(has, tmp_path):
    drop = ("HOME", "HF_HOME", "TORCH_HOME", "CODEC_HOME", "HIBARI_HOME", "VOICES_DIR", "VOLUME_DIR")
    done = begun(BARE, drop, TMPDIR="/tmp", **has)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("/tmp/linacodec-tier3-54321/.cache/")


NOBODY = "--reuid 54321 --regid 54321 --clear-groups"
READS = "--inh-caps +dac_read_search --ambient-caps +dac_read_search"  # Python may stand in root's home
BARELY = f'set -f; exec env -i PATH="$PATH" CODEC=nano $(env | grep ^RUNPOD_) setpriv {NOBODY} {READS} "$@"'
NOWHERE = "for d in /tmp /var/tmp; do mount -t tmpfs -o ro tmpfs $d || exit 77; done; cd /; "
HANDLER = ["sh", sys.executable, "-u", "-m", "linacodec_tier3.handler"]


def can_be_nobody():
    tried = ["setpriv", *NOBODY.split(), *READS.split(), sys.executable, "-c", ""]
    if os.getuid() or not shutil.which("setpriv"): return False
    return subprocess.run(tried, capture_output=True).returncode == 0


CAN_BE_NOBODY = can_be_nobody()


@pytest.mark.skipif(not CAN_BE_NOBODY, reason="only root can become nobody")
def test_a_worker_of_nobody_with_an_empty_environment_serves():
    with LocalEndpoint(command=["sh", "-c", BARELY, *HANDLER]) as running:
        client = Client(running.endpoint_url)
        for format in ("linacodec_tokens", "mp3"):
            assert batch(client, "Hi.", output_format=format)["format"] == format
        [pid] = running.worker_pids
        assert os.stat(f"/proc/{pid}").st_uid == 54321
        assert not [line for line in running.logs() if "Traceback" in line]


@pytest.mark.skipif(not CAN_BE_NOBODY, reason="only root can become nobody")
def test_a_worker_of_nobody_without_a_folder_to_write_to_is_one_line():
    command = ["unshare", "-m", "sh", "-c", NOWHERE + BARELY, *HANDLER]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if done.returncode == 77 or "unshare" in done.stderr: pytest.skip(f"no mounts: {done.stderr}")
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, done.stderr
    assert "set HOME or TMPDIR to a folder that can be written" in done.stderr


def test_a_folder_of_nobody_is_one_line():
    done = begun("from linacodec_tier3.handler import main; main()", VOICES_DIR="~no-such-user/voices")
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert "VOICES_DIR='~no-such-user/voices'" in done.stderr and "no user of this machine" in done.stderr


def test_output_in_ascii_ends_no_job():
    env = {"DEFAULT_SERVICE": "tone", "PYTHONIOENCODING": "ascii"}
    with LocalEndpoint(env=env) as running:
        client = Client(running.endpoint_url)
        odd_key = {"größe": 1, "output_format": "pcm_24"}
        with pytest.raises(JobFailed, match="größe") as error: batch(client, "Hi.", **odd_key)
        assert "UnicodeEncodeError" not in str(error.value) and "\n" not in str(error.value)
        assert batch(client, "Hi.", output_format="pcm_24")["status"] == "complete"


def test_an_odd_file_hides_no_other_voice(tmp_path):
    for name in (b"caf\xe9.wav", b"good.wav"): open(os.path.join(os.fsencode(tmp_path), name), "wb").close()
    code = """from linacodec_tier3.config import get_config
from linacodec_tier3.contract import wire_size
from linacodec_tier3.tts import recordings
print(list(recordings(get_config())), wire_size(list(recordings(get_config()))))"""
    done = begun(code, VOICES_DIR=str(tmp_path))
    assert "['good.wav'] " in done.stdout and "caf" in done.stderr and "left out" in done.stderr
