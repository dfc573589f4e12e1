"Whatever happens to worker, platform or client: the audio is whole, or the client learns what is not."
import os, re, signal, time

import numpy as np
import psutil
import pytest

from linacodec_tier3.client import Client, MissingPartials, in_order, poll, speak, stream
from linacodec_tier3.local.endpoint import LocalEndpoint
from support import PARAGRAPH, answered, ended, events, heard, install_engine, wait_until, with_weights

TONE = dict(text=PARAGRAPH, service="tone", max_chars=60, output_format="pcm_24", stream=True)
GRACE_S = 2


class Platform:
    "A platform that notes what it is sent and refuses what it is told to."
    def __init__(self):
        self.refuse = {}  # `seq` -> HTTP status, and how often
        self.sent = []  # (job, seq) in order of arrival

    def __call__(self, job, partial):
        self.sent.append((job, partial.get("seq")))
        status, times = self.refuse.get(partial.get("seq"), (None, 0))
        if times: self.refuse[partial["seq"]] = status, times - 1
        return status if times else None


@pytest.fixture(scope="module")
def busy(tmp_path_factory): # two jobs at once, over a slow network
    settings = dict(CONCURRENCY="2", SHUTDOWN_GRACE_S=str(GRACE_S))
    env = install_engine(tmp_path_factory.mktemp("site")) | settings
    with LocalEndpoint(env=env, post_delay=0.1, on_partial=Platform()) as running: yield running


@pytest.fixture
def client(busy):
    busy.on_partial.refuse, busy.on_partial.sent = {}, []
    return Client(busy.endpoint_url)


def undisturbed(client, request, seed):
    return heard(list(stream(client, client.submit(**request | dict(seed=seed)))))


@pytest.mark.parametrize("service, format", [("hibari", "pcm_24"), ("tone", "pcm_24"), ("tone", "ogg_opus")])
@pytest.mark.parametrize("seed", [{"seed": 7}, {}], ids=["seed given", "no seed given"])
def test_a_job_whose_worker_is_killed_is_served_again_and_whole(busy, client, service, format, seed):
    request = TONE | dict(service=service, output_format=format) | seed
    job, partials = client.submit(**request), []
    for p in stream(client, job):
        partials.append(p)
        if p["seq"] == 3:
            [pid] = busy.worker_pids
            os.kill(pid, signal.SIGKILL)
    record, sent = busy.job(job), [seq for _, seq in busy.on_partial.sent]
    assert record.status == "COMPLETED" and record.retries == 1 and busy.worker_pids != [pid]
    assert sent.count(0) == 2 and len(sent) > len(partials) == len(record.sizes)
    assert np.array_equal(heard(partials), undisturbed(client, request, partials[-1]["seed"]))


def test_a_refused_partial_is_reported_as_missing_by_number(busy, client):
    busy.on_partial.refuse = {2: (400, 99), 4: (400, 99)}
    job = client.submit(**TONE)
    with pytest.raises(MissingPartials) as missing: list(stream(client, job))
    assert missing.value.seqs == [2, 4] and "partial 2, 4 of" in str(missing.value)
    assert {r.status for r in busy.job(job).refused} == {400}


def test_a_refused_last_partial_is_recovered_from_the_output(busy, client):
    whole = list(stream(client, client.submit(**TONE, seed=1)))
    busy.on_partial.refuse = {whole[-1]["seq"]: (400, 99)}
    job = client.submit(**TONE, seed=1)
    again = list(stream(client, job))
    assert busy.job(job).refused and again[-1]["manifest"] == whole[-1]["manifest"]
    assert np.array_equal(heard(again), heard(whole))


def test_a_partial_that_the_platform_could_not_take_at_first_is_sent_again(busy, client):
    busy.on_partial.refuse = {1: (503, 1)}
    job = client.submit(**TONE)
    partials = list(stream(client, job))
    assert [r.status for r in busy.job(job).refused] == [503]
    assert [p["seq"] for p in partials] == list(range(len(partials)))


def test_partials_that_come_twice_or_out_of_order_are_heard_once_and_in_order(client):
    sent = list(poll(client, client.submit(**TONE)))
    assert np.array_equal(heard(list(in_order(sent[::-1] + sent))), heard(sent))


def test_a_client_that_comes_late_and_polls_seldom_gets_everything(busy, client):
    job = client.submit(**TONE)
    record, partials = ended(busy, job), []
    for p in stream(client, job):
        partials.append(p)
        time.sleep(0.05)
    assert len(partials) == len(record.sizes) > 5
    assert len(heard(partials)) == partials[-1]["manifest"]["samples"]


def test_two_jobs_at_once_are_interleaved_and_both_whole(busy, client):
    requests = [TONE | dict(text=PARAGRAPH * 2, seed=seed) for seed in (1, 2)]
    jobs = [client.submit(**request) for request in requests]
    both = [heard(list(stream(client, job))) for job in jobs]
    turns, served = [job for job, _ in busy.on_partial.sent], [busy.job(job) for job in jobs]
    assert sum(a != b for a, b in zip(turns, turns[1:])) > 5 and len({job.worker for job in served}) == 1
    for audio, request in zip(both, requests):
        assert np.array_equal(audio, undisturbed(client, request, request["seed"]))


def calls_after_stop(endpoint): # engine calls that began after the SDK heard of the latest cancel
    return "\n".join(endpoint.logs()).rpartition("Stopping job.")[2].count('"event": "engine_called"')


@pytest.mark.parametrize("after", [0, 0.3], ids=["while a partial is posted", "while the engine speaks"])
def test_cancel_stops_synthesis_within_one_chunk_and_threads_end(busy, client, after):
    ended(busy, client.submit("Hello.", output_format="pcm_24"))  # what a first job leaves behind for good
    worker, stopped = psutil.Process(*busy.worker_pids), "\n".join(busy.logs()).count("Stopping job.")
    time.sleep(0.5)
    before = worker.num_threads()
    job = client.submit(**TONE | dict(service="witness", parameters={"work_s": 0.5}))
    wait_until(lambda: busy.job(job).first_partial)
    time.sleep(after)
    assert client.cancel(job)["status"] == "CANCELLED"
    wait_until(lambda: "\n".join(busy.logs()).count("Stopping job.") > stopped)
    time.sleep(1)  # two chunks, were it to go on
    assert calls_after_stop(busy) <= 1 and busy.job(job).status == "CANCELLED"
    ended(busy, client.submit("Hello.", output_format="pcm_24"))  # in new threads, if the old are not free
    wait_until(lambda: worker.num_threads() <= before, 5)
    [answer] = answered(busy, action="health").output
    assert answer["health"]["jobs"] == 1  # this one


def test_closing_the_audio_early_cancels_the_job(busy, client):
    request = TONE | dict(service="witness", parameters={"work_s": 0.2})
    del request["stream"]
    audio = speak(client, **request)
    next(audio)
    audio.close()
    assert busy.job(busy.on_partial.sent[-1][0]).status == "CANCELLED"


def sigterm(busy, job): # to the worker, once it has sent something
    [pid] = busy.worker_pids
    wait_until(lambda: busy.job(job).first_partial)
    os.kill(pid, signal.SIGTERM)
    return pid


def test_a_job_that_can_end_within_the_grace_period_completes_after_sigterm(busy, client):
    job = client.submit(**TONE)
    pid = sigterm(busy, job)
    partials = list(stream(client, job))
    assert partials[-1]["status"] == "complete" and not busy.job(job).retries
    after = client.submit(**TONE)
    assert len(list(stream(client, after))) == len(partials) and busy.worker_pids != [pid]
    assert busy.job(after).worker != busy.job(job).worker


def test_a_job_that_cannot_ends_as_failed_saying_why_and_where(busy, client):
    job = client.submit(**TONE | dict(text=PARAGRAPH * 20, parameters={"rtf": 0.1}))
    pid, start = sigterm(busy, job), time.monotonic()
    record = ended(busy, job)
    assert record.status == "FAILED" and "told to shut down" in record.error
    assert re.search("stopped (in|before) chunk [0-9]+: ", record.error)
    assert GRACE_S <= time.monotonic() - start < GRACE_S + 3 and not record.retries
    assert ended(busy, client.submit(**TONE)).status == "COMPLETED" and pid not in busy.worker_pids


@pytest.fixture(scope="module")
def coded(tmp_path_factory): # with a codec, small enough to load at once
    env = install_engine(tmp_path_factory.mktemp("site")) | with_weights(tmp_path_factory.mktemp("weights"))
    with LocalEndpoint(env=env) as running: yield running


@pytest.mark.parametrize("trouble", ["GPU lost", "codec's GPU lost"])
def test_a_worker_that_has_lost_its_gpu_says_so_in_one_line_and_is_replaced(coded, trouble):
    text = "All is well. " * 4 + "Now trouble comes. " + "And on. " * 4
    request = dict(text=text, service="witness", max_chars=30, stream=True)
    whole = answered(coded, **request)
    assert whole.status == "COMPLETED"
    job = answered(coded, **request, parameters={"trouble": trouble})
    assert job.status == "FAILED" and "lost its GPU (CUDA error: device-side assert triggered)" in job.error
    assert "send the job again" in job.error
    assert "chunk " in job.error and "\\n" not in job.error and "TORCH_USE_CUDA_DSA" not in job.error
    assert not job.retries
    again = answered(coded, **request)  # a codec that had been spoilt would answer in the same process
    assert again.status == "COMPLETED" and again.worker != job.worker and job.worker == whole.worker
    assert not events(coded, "recovered")  # nothing was tried on a GPU that is lost


def test_a_worker_whose_engine_fails_goes_on(coded):
    job = answered(coded, text="Now trouble comes.", service="witness", parameters={"trouble": "exits"})
    after = answered(coded, text="All is well.", service="witness")
    assert (job.status, after.status, after.worker) == ("FAILED", "COMPLETED", job.worker)
