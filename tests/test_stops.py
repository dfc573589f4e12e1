"Stops, of a job and of a worker, at any moment and however often: the next job is served."
import os, signal, subprocess, sys, time

import psutil
import pytest

from linacodec_tier3.client import Client
from linacodec_tier3.local.endpoint import LocalEndpoint
from support import PARAGRAPH, answered, ended, events, install_engine, submit, wait_until

GRACE_S = 2
HANGS = dict(text="Now trouble comes.", service="witness", output_format="pcm_24", parameters=dict(trouble="hangs"))
WELL = dict(text="All is well.", service="witness", output_format="pcm_24")
# The real worker, which only gives up sooner what does not end.
SOON = "import linacodec_tier3.handler as h; h.ABANDON_S = 1.5; h.main()"


@pytest.fixture
def worker(tmp_path): # pings, after each of which the endpoint asks again to stop what is cancelled
    settings = dict(CONCURRENCY="2", SHUTDOWN_GRACE_S=str(GRACE_S), RUNPOD_PING_INTERVAL="1000")
    command = [sys.executable, "-u", "-c", SOON]
    with LocalEndpoint(env=install_engine(tmp_path) | settings, command=command) as running: yield running


def stops(endpoint): return "\n".join(endpoint.logs()).count("Stopping job.")


def called(endpoint, before): wait_until(lambda: events(endpoint, "engine_called") > before)


def hung(endpoint, **more): # a job whose engine hangs; the worker's process
    before = events(endpoint, "engine_called")
    job = submit(endpoint, HANGS | more)
    called(endpoint, before)
    return job, psutil.Process(*endpoint.worker_pids)


def stop_twice(endpoint, job):
    before = stops(endpoint)
    Client(endpoint.endpoint_url).cancel(job)
    wait_until(lambda: stops(endpoint) > before)
    endpoint.loop.call_soon_threadsafe(endpoint_asks_again, endpoint, job)


def endpoint_asks_again(endpoint, job):
    store = endpoint._state.store
    store.stops.setdefault(store.jobs[job].worker, []).append(job)


def test_a_job_that_is_stopped_twice_costs_no_other(worker):
    job, process = hung(worker)
    before = stops(worker)
    Client(worker.endpoint_url).cancel(job)
    wait_until(lambda: stops(worker) > before)
    after = answered(worker, **WELL)
    assert after.status == "COMPLETED" and worker.worker_pids == [process.pid]
    assert events(worker, "engine_loaded") == 2  # a fresh one


def test_a_second_job_in_a_hung_engine_has_the_worker_replaced(worker):
    for again in (False, True):
        job, process = hung(worker)
        Client(worker.endpoint_url).cancel(job)
        after = answered(worker, **WELL)
        assert after.status == "COMPLETED"
        if not again: assert worker.worker_pids == [process.pid]
    wait_until(lambda: not process.is_running())


def test_sigterm_while_an_engine_hangs_is_over_within_the_grace(worker):
    job, process = hung(worker)
    start = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.wait(30)
    took = time.monotonic() - start
    record = ended(worker, job)
    assert record.status == "FAILED" and "stopped in chunk 1: the worker was told to shut down" in record.error
    assert GRACE_S <= took < GRACE_S + 1 + 5 * slowness() and not record.retries
    assert answered(worker, **WELL).status == "COMPLETED"
