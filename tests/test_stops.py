"Stops, of a job and of a worker, at any moment and however often: the next job is served."
import os, signal, subprocess, sys, threading, time
from unittest.mock import patch

import psutil
import pytest
import requests

from linacodec_tier3.background import JobState, JobStopped
from linacodec_tier3.client import Client
from linacodec_tier3.engines.tone import Tone
from linacodec_tier3.generators import Delivery, speak_chunks
from linacodec_tier3.local.endpoint import LocalEndpoint
from support import answered, ended, events, install_engine, submit, wait_until

GRACE_S, LATE_S = 2, 4  # seconds; the second is what a busy machine may add
WELL = dict(text="All is well.", service="witness", output_format="pcm_24")
HANGS = WELL | dict(text="Now trouble comes.", parameters=dict(trouble="hangs"))
SOON = "import linacodec_tier3.handler as h; h.ABANDON_S = 1.5; h.main()"  # it gives up sooner what hangs


@pytest.fixture
def worker(tmp_path): # pings often; after each the endpoint asks again to stop what is cancelled
    settings = dict(CONCURRENCY="2", SHUTDOWN_GRACE_S=str(GRACE_S), RUNPOD_PING_INTERVAL="1000")
    command = [sys.executable, "-u", "-c", SOON]
    with LocalEndpoint(env=install_engine(tmp_path) | settings, command=command) as running: yield running


def hung(endpoint, **policy): # a job whose engine hangs, and the worker's process
    before = events(endpoint, "engine_called")
    request = dict(input=HANGS, policy=policy)
    asked = requests.post(f"{endpoint.endpoint_url}/run", json=request, timeout=10).json()
    wait_until(lambda: events(endpoint, "engine_called") > before)
    return asked["id"], psutil.Process(*endpoint.worker_pids)


def stops(endpoint): return "\n".join(endpoint.logs()).count("Stopping job.")


def test_a_job_that_is_cancelled_again_and_again_costs_no_other(worker):
    before = stops(worker)
    job, process = hung(worker)
    Client(worker.endpoint_url).cancel(job)
    waits = submit(worker, WELL)  # for the same engine
    assert ended(worker, waits).status == "COMPLETED"
    assert ended(worker, job).status == "CANCELLED"
    assert stops(worker) >= before + 2 and worker.worker_pids == [process.pid]
    assert events(worker, "engine_loaded") == 2  # a fresh one serves
    assert answered(worker, **WELL).status == "COMPLETED"


def test_a_job_past_its_execution_timeout_costs_none_that_comes_after_it(worker):
    job, process = hung(worker, executionTimeout=5000)
    assert ended(worker, job).status == "TIMED_OUT"
    assert answered(worker, **WELL).status == "COMPLETED"
    assert not process.is_running() and worker.worker_pids != [process.pid]


def test_a_second_call_that_does_not_end_has_the_worker_replaced(worker):
    for again in (False, True):
        job, process = hung(worker)
        Client(worker.endpoint_url).cancel(job)
        assert answered(worker, **WELL).status == "COMPLETED"
        if not again: assert worker.worker_pids == [process.pid]
    wait_until(lambda: not process.is_running())
    assert answered(worker, **WELL).status == "COMPLETED"


def test_sigterm_while_an_engine_hangs_is_over_within_the_grace(worker):
    job, process = hung(worker)
    start = time.monotonic()
    process.send_signal(signal.SIGTERM)
    wait_until(lambda: not process.is_running())
    took, record = time.monotonic() - start, ended(worker, job)
    assert record.status == "FAILED" and "in chunk 1: the worker was told to shut down" in record.error
    assert took < GRACE_S + 1 + LATE_S and not record.retries
    assert answered(worker, **WELL).status == "COMPLETED"


def test_a_worker_without_a_job_ends_at_once_and_takes_none():
    with patch("linacodec_tier3.local.routes.WORKER_HOLD", 120), LocalEndpoint() as endpoint:
        process = psutil.Process(*endpoint.worker_pids)
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: not process.is_running(), 40)  # it does not wait for its next job to come
        after = answered(endpoint, text="All is well.", service="tone", output_format="pcm_24")
        assert after.status == "COMPLETED" and not [line for line in endpoint.logs() if "Traceback" in line]


def test_sigterm_while_starting_ends_a_first_process_too(tmp_path):
    begun = tmp_path / "begun"
    (tmp_path / "runpod.py").write_text(f"import time\nopen({str(begun)!r}, 'w')\ntime.sleep(60)\n")
    ignores = lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as the kernel does for process 1
    with subprocess.Popen([sys.executable, "-m", "linacodec_tier3.handler"], preexec_fn=ignores,
                          env=os.environ | dict(PYTHONPATH=str(tmp_path)), stderr=subprocess.PIPE) as process:
        try:
            wait_until(begun.exists)  # an import that takes time
            process.terminate()
            assert process.wait(20) == 128 + signal.SIGTERM
            assert b"told to end while it started" in process.stderr.read()
        finally: process.kill()


class Steps(Tone):
    "Works for a minute in steps, and can be told to stop between them."
    name, steps = "steps", 0
    def synthesise(self, chunk, voice, seed, speed, options, should_stop):
        for _ in range(6000):
            if should_stop(): break
            Steps.steps += 1
            time.sleep(0.01)
        return super().synthesise(chunk, voice, seed, speed, options)


@pytest.mark.parametrize("by", ["stop", "deadline"])
def test_an_engine_that_can_stop_between_steps_is_told_to(by):
    next(speak_chunks("A first one.", "low", Tone(), Delivery()))  # the rules for texts load with it
    job = JobState(0.3 if by == "deadline" else 60)
    if by == "stop": threading.Timer(0.3, job.stop, ["the client cancelled"]).start()
    start, Steps.steps = time.monotonic(), 0
    with pytest.raises(JobStopped, match="stopped in chunk 1: "):
        next(speak_chunks("A long chunk.", "low", Steps(), Delivery(), job))
    assert time.monotonic() - start < 20 and Steps.steps


def test_who_waits_for_an_engine_can_be_stopped_meanwhile(worker):
    job, process = hung(worker)
    waits = submit(worker, WELL)
    wait_until(lambda: worker.job(waits).status == "IN_PROGRESS")
    before = stops(worker)
    Client(worker.endpoint_url).cancel(waits)
    wait_until(lambda: stops(worker) > before)
    [health] = answered(worker, action="health").output
    jobs = lambda: answered(worker, action="health").output[0]["health"]["jobs"]
    wait_until(lambda: jobs() == 2)  # the hung one, and the one that asks
    assert worker.job(job).status == "IN_PROGRESS" and worker.worker_pids == [process.pid]
    assert events(worker, "engine_loaded") == 1 and health["health"]["problem"] == ""
