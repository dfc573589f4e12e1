"Workers of the local endpoint that die, work side by side, do not start, or have to go with their owner."
import os, signal, subprocess, sys, threading, time

import psutil
import pytest
import requests

from linacodec_tier3.contract import FINAL_STATES
from linacodec_tier3.local import process
from linacodec_tier3.local.endpoint import LocalEndpoint
from support import PlainClient, echo_endpoint, wait_until


@pytest.fixture(scope="module")
def ep():
    with echo_endpoint() as running: yield running


@pytest.fixture
def http(ep): return PlainClient(ep)


def threads(endpoint_id): # of an endpoint and its workers
    names = f"endpoint-{endpoint_id}", f"worker-log-{endpoint_id}-", f"worker-exit-{endpoint_id}-"
    return [t.name for t in threading.enumerate() if t.name.startswith(names)]


def gone(process): return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_a_worker_that_is_killed_is_replaced_and_its_job_runs_again(ep, http):
    job_id, got = http.run(n=8, pause=0.1), []
    for partial, _ in http.follow(job_id):
        got.append(partial)
        if len(got) == 4: os.kill(partial["pid"], signal.SIGKILL)
    whole = {}
    for partial in got: whole.setdefault(partial["seq"], partial["pid"])
    assert list(whole) == list(range(8))
    assert len(set(whole.values())) == 2
    record = ep.job(job_id)
    assert (record.status, record.retries, record.deaths, len(record.sizes)) == ("COMPLETED", 1, 1, 8)


def test_a_job_that_kills_every_worker_is_given_up_after_the_third_and_the_next_is_served(ep, http):
    retried = ep.health()["jobs"]["retried"]
    poison, innocent = http.run(n=3, die_at=1), http.run(n=1)
    assert http.seqs(innocent) == [0]
    status = http.call("GET", f"status/{poison}").json()
    assert (status["status"], status["retries"]) == ("FAILED", 2)
    assert "3 workers died while they ran this job; the last one was killed by signal 9" in status["error"]
    assert ep.health()["jobs"]["retried"] == retried + 2


@pytest.mark.parametrize("misdeed", [dict(pause=0.05), dict(hang_at=1)], ids=["long", "deaf"])
def test_a_job_past_its_execution_timeout_takes_its_worker_with_it(misdeed):
    with echo_endpoint(short_times=True) as ep:
        http = PlainClient(ep)
        [first] = ep.worker_pids
        asked = {"input": {"n": 100_000} | misdeed, "policy": {"executionTimeout": 1_000}}
        job_id = http.call("POST", "run", json=asked).json()["id"]
        wait_until(lambda: ep.job(job_id).sizes, 10)
        after = http.run(n=1)
        assert http.seqs(after) == [0]
        assert (ep.job(job_id).status, ep.job(after).retries) == ("TIMED_OUT", 0)
        assert ep.job(after).worker != ep.job(job_id).worker and ep.worker_pids != [first]
        assert not psutil.pid_exists(first) and ep.failure is None


def test_stopping_lets_the_running_job_end_and_leaves_nothing_behind(monkeypatch):
    class Slow(threading.Thread): # one that has told of its worker's end, and ends late itself
        def run(self):
            super().run()
            if self.name.startswith("worker-exit"): time.sleep(0.5)
    monkeypatch.setattr(process.threading, "Thread", Slow)
    ep = echo_endpoint(endpoint_id="ends").start()
    assert len(threads("ends")) == 3
    http = PlainClient(ep)
    [pid] = ep.worker_pids
    family = [*psutil.Process(pid).children(recursive=True), psutil.Process(pid)]
    last, never = http.run(n=5, pause=0.1), http.run()
    wait_until(lambda: ep.job(last).sizes, 10)
    ep.stop()
    http.session.close()
    assert (ep.job(last).status, ep.job(last).output[-1]["seq"]) == ("COMPLETED", 4)
    stopped = "the endpoint was stopped before the job was done"
    assert (ep.job(never).status, ep.job(never).error) == ("FAILED", stopped)
    assert len(family) > 1 and all(map(gone, family))
    assert not threads("ends")
    with pytest.raises(requests.ConnectionError): http.call("GET", "health")


def test_jobs_side_by_side_in_one_worker_and_a_stranger_s_key_does_no_harm(tmp_path):
    (tmp_path / ".runpod").mkdir()
    (tmp_path / ".runpod" / "config.toml").write_text('[default]\napi_key = "somebody else\'s"\n')
    with echo_endpoint(env={"CONCURRENCY": "4", "HOME": str(tmp_path)}) as ep:
        http = PlainClient(ep)
        ids = [http.run(n=4, pause=0.2) for _ in range(4)] + [http.run(n=100, pause=0.1)]
        def jobs(): return [ep.job(i) for i in ids]
        wait_until(lambda: sum(j.status == "IN_PROGRESS" for j in jobs()) >= 3, 10)
        wait_until(lambda: jobs()[4].taken, 10)
        http.call("POST", f"cancel/{ids[4]}")
        wait_until(lambda: all(j.status in FINAL_STATES for j in jobs()), 10)
        assert [j.status for j in jobs()] == ["COMPLETED"] * 4 + ["CANCELLED"]
        assert len({j.worker for j in jobs()}) == 1


def test_two_workers_share_a_queue_over_a_slow_network_that_refuses_a_partial():
    def refuse_two(job_id, partial): return 400 if partial["seq"] == 2 else None
    with echo_endpoint(workers=2, post_delay=0.3, on_partial=refuse_two) as ep:
        http = PlainClient(ep)
        assert len(set(ep.worker_pids)) == 2
        ids = [http.run(n=4), http.run(n=4)]
        assert [http.seqs(i) for i in ids] == [[0, 1, 3]] * 2
        first, second = [ep.job(i) for i in ids]
        assert first.worker != second.worker and second.taken < first.done
        took = first.done - first.first_partial
        assert 0.9 <= took < 2.5, took
        assert [r.status for r in first.refused] == [400]


FAILING = [([sys.executable, "-c", "import no_such_engine"], {}, "No module named 'no_such_engine'"),
           (["no-such-program"], {}, "could not start"), (["sh", "-c", "exit 0"], {}, "wrote nothing"),
           (["sleep", "60"], dict(start_timeout=0.3, grace=1), "not ready after 0.3 s")]


@pytest.mark.parametrize("command, settings, why", FAILING, ids=["no module", "no program", "silent", "late"])
def test_a_worker_that_does_not_come_up_is_an_error_of_one_line(command, settings, why):
    down = LocalEndpoint(endpoint_id="down", command=command, **settings)
    with pytest.raises(RuntimeError) as error: down.start()
    message = str(error.value)
    assert why in message and "\n" not in message
    if "no_such_engine" in why: assert "3 times in a row; it exited with code 1" in message
    assert not threads("down")


def test_an_endpoint_that_did_not_wait_says_why_its_worker_is_down():
    ep = LocalEndpoint(endpoint_id="early", command=["false"]).start(wait=False)
    wait_until(lambda: ep.health()["workers"]["unhealthy"] == 1, 10)
    assert "exited with code 1" in ep.failure
    ep.stop()
    ep.stop()
    assert not threads("early")


OWNER = """
from linacodec_tier3.local.endpoint import LocalEndpoint
ep = LocalEndpoint(command=["sleep", "300"]).start(wait=False)
ep.serve_forever(ready=lambda: print(ep.worker_pids[0], flush=True))
"""


@pytest.mark.parametrize("ending, status", [(signal.SIGKILL, -9), (signal.SIGTERM, 0)])
def test_workers_go_with_the_process_that_owns_them_however_it_ends(ending, status):
    with subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True) as owner:
        worker = psutil.Process(int(owner.stdout.readline()))
        owner.send_signal(ending)
        assert owner.wait(10) == status
    wait_until(lambda: gone(worker), 5)
