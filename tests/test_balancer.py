"A load balancer as RunPod's before the real worker: nothing is lost when workers come, go and die."
import json, os, random, signal, subprocess, sys, time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import numpy as np
import pytest
import requests

from linacodec_tier3.client import JobFailed, StreamError, batch, joined, pieces, speak, stream
from linacodec_tier3.direct import DirectClient
from linacodec_tier3.local.balancer import LoadBalancer
from support import wait_until
from test_server import lasting

TEXT = "The harbour lay still. Eleven boats rocked on their ropes, and nobody spoke. " * 4
ENV = dict(CODEC="none", DEFAULT_SERVICE="tone", SHUTDOWN_GRACE_S="60", FIRST_CHUNK_CHARS="40")
ASKED = dict(text=TEXT, output_format="pcm_24", max_chars=40, seed=7)
SLOW = ASKED | dict(parameters={"rtf": 0.1})
KEY, SOON = "a key", 120  # seconds, on a busy machine


@pytest.fixture(scope="module")
def cuts(): return []  # bytes after which the next answers are cut


@pytest.fixture(scope="module")
def balanced(cuts): # two workers, which start when the first test does
    def cut(path, number): return cuts.pop(0) if cuts and path == "/speak" else None
    how = dict(workers=2, active=2, ping_s=0.1, wait_s=0.3, grace=60., api_key=KEY, on_answer=cut)
    running = LoadBalancer(env=ENV, **how).start(wait=False)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def whole(balanced): return joined(speak(DirectClient(balanced.url, KEY, cold_s=0.3), **ASKED))[0]


@pytest.fixture
def client(balanced): return DirectClient(balanced.url, KEY, cold_s=0.3)


def up(balanced): return [name for name, w in balanced.workers().items() if w["up"]]


def lines(url, **given):
    headers = dict(Authorization=f"Bearer {KEY}")
    answer = requests.post(f"{url}/speak", json=ASKED | given, headers=headers, timeout=60)
    return answer, [json.loads(line) for line in answer.text.splitlines()]


def busy(balanced): return [name for name, w in balanced.workers().items() if w["at_work"]]


def begun(client, balanced, **given): # a stream of which one piece has come: job, rest, and who speaks
    wait_until(lambda: up(balanced) and not busy(balanced), SOON)
    job = client.submit(**SLOW | given, stream=True)
    arriving = stream(client, job)
    first = next(arriving)
    [worker] = busy(balanced)
    return job, [first], arriving, worker


def heard(partials): return joined(pieces(partials))[0]


def test_a_cold_start_is_waited_for(balanced, client):
    answer, [said] = lines(balanced.url)
    assert (answer.status_code, said) == (400, {"error": "no workers available"}) and not up(balanced)
    sound, rate = joined(speak(client, **ASKED))
    assert len(sound) > rate
    with pytest.raises(StreamError, match="unauthorized"): DirectClient(balanced.url, "another").health()


def test_what_comes_through_is_what_the_worker_says(balanced):
    wait_until(lambda: len(up(balanced)) == 2, SOON)
    port = balanced.workers()[up(balanced)[0]]["port"]
    for format in ("pcm_24", "ogg_opus"):
        through, said = lines(balanced.url, output_format=format, stream=True)
        _, direct = lines(f"http://127.0.0.1:{port}", output_format=format, stream=True)
        assert [*map(lasting, said)] == [*map(lasting, direct)] and len(said) > 2
        assert through.headers["X-Runpod-Worker-Id"] in balanced.workers()
        assert through.headers["Content-Type"] == "application/x-ndjson"


@pytest.mark.parametrize("at", [1, 150_000, 400_000])
def test_a_connection_that_is_cut_is_resumed(balanced, client, cuts, whole, at):
    cuts[:] = [at]
    job = client.submit(**ASKED, stream=True)
    assert np.array_equal(heard(stream(client, job)), whole) and client.status(job)["again"] == 1


def test_leaving_ends_the_job(balanced, client):
    with closing(speak(client, **SLOW | dict(text=TEXT * 50))) as playing: next(playing)
    wait_until(lambda: not busy(balanced), SOON)
    for worker in balanced.workers().values():  # each has one place
        assert lines(f"http://127.0.0.1:{worker['port']}")[0].elapsed.total_seconds() < 30


def test_more_clients_than_places_all_hear_everything(balanced, whole):
    def ask(_): return joined(speak(DirectClient(balanced.url, KEY, cold_s=0.3), **ASKED))[0]
    with ThreadPoolExecutor(24) as pool: sounds = list(pool.map(ask, range(24)))  # 2 at work, 16 in lines
    assert all(np.array_equal(sound, whole) for sound in sounds)


def test_over_30_mb_is_refused_in_one_line(balanced, client):
    with pytest.raises(JobFailed, match="the request has 300.* bytes; the limit is 30000000"):
        batch(client, "x" * 30_000_000)


def test_a_worker_that_is_killed_is_not_missed(balanced, client, whole):
    job, came, arriving, worker = begun(client, balanced)
    os.kill(balanced.workers()[worker]["pid"], signal.SIGKILL)
    assert np.array_equal(heard([*came, *arriving]), whole) and client.status(job)["again"] == 1


def test_a_worker_that_drains_gets_no_more_and_finishes(balanced, client, whole):
    job, came, arriving, worker = begun(client, balanced)
    os.kill(balanced.workers()[worker]["pid"], signal.SIGTERM)
    wait_until(lambda: worker not in up(balanced), SOON)
    assert np.array_equal(heard([*came, *arriving]), whole) and client.status(job)["again"] == 0
    assert worker not in up(balanced)


@pytest.mark.slow
def test_others_take_their_places(balanced):
    wait_until(lambda: len(up(balanced)) == 2, SOON)
    assert {lines(balanced.url)[0].headers["X-Runpod-Worker-Id"] for _ in range(8)} == {*up(balanced)}


@pytest.mark.slow
def test_workers_come_and_go_with_who_asks():
    with LoadBalancer(env=ENV, wait_s=0.3, ping_s=0.1, idle_s=1.) as cold:
        for _ in range(2):
            assert not cold.workers()
            assert len(joined(speak(DirectClient(cold.url, cold_s=0.3), **ASKED))[0])
            wait_until(lambda: not cold.workers(), SOON)


@pytest.mark.slow
def test_while_connections_are_cut_and_workers_killed_at_random_every_stream_is_whole(whole):
    chance = random.Random(1)
    def cut(path, number): return chance.choice([None, chance.randrange(1, 600_000)])
    with LoadBalancer(env=ENV, workers=3, active=3, wait_s=2., ping_s=0.1, on_answer=cut) as rough:
        def ask(_):
            client = DirectClient(rough.url, cold_s=0.2, resumes=50)
            return joined(speak(client, **SLOW | dict(parameters={"rtf": 0.01})))[0]
        with ThreadPoolExecutor(4) as pool:
            running = [pool.submit(ask, n) for n in range(60)]
            while not all(r.done() for r in running):
                time.sleep(1)
                pids = [w["pid"] for w in rough.workers().values() if w["up"]]
                if len(pids) > 1: os.kill(chance.choice(pids), signal.SIGKILL)  # one is left
        assert all(np.array_equal(r.result(), whole) for r in running)


@pytest.mark.slow
def test_the_command_keeps_one_up_and_prints_what_works(tmp_path):
    code = "from linacodec_tier3.cli import main; raise SystemExit(main())"
    asked = [sys.executable, "-c", code, "serve", "--http", "--port", "0", "--api-key", KEY]
    env = os.environ | ENV | dict(API_KEY=KEY)
    with subprocess.Popen(asked, env=env, stdout=subprocess.PIPE, text=True) as served:
        said = [served.stdout.readline() for _ in range(12)]
        url = said[0].split()[2].rstrip(",")
        lines = "".join(said[1:]).replace("pcm_16", "pcm_24")
        shell = ["bash", "-e", "-c", lines]
        done = subprocess.run(shell, env=env, cwd=tmp_path, capture_output=True, text=True)
        other = joined(speak(DirectClient(url, KEY), **ASKED))[0]
        served.send_signal(signal.SIGINT)
        rest, _ = served.communicate(timeout=60)
    assert json.loads(done.stdout.splitlines()[-1])["status"] == "complete" and len(other) and KEY not in rest
    assert (tmp_path / "hello.mp3").stat().st_size > 1_000


def test_beyond_those_who_may_wait_requests_are_dropped_at_once():
    with LoadBalancer(command=["sleep", "60"], waiting=0, cold_status=503) as cold:
        start = time.monotonic()
        answer, _ = lines(cold.url)
        assert (answer.status_code, answer.json()) == (503, {"error": "no workers available"})
        assert time.monotonic() - start < 60  # it may wait for 120
