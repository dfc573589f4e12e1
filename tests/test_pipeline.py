"A whole stream on the event loop: the loop stays free, and nobody works for a client who has gone away."
import asyncio, threading, time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from linacodec_tier3.background import JobState, JobStopped, on_loop
from linacodec_tier3.generators import Delivery, generate_audio_stream_decoded
from linacodec_tier3.tts import load_tts_model

SENTENCES = "A sentence of the test signal, so long. " * 600


class Counted:
    "The test signal's engine, and how often it was called."
    def __init__(self): self.engine, self.calls = load_tts_model("tone"), 0

    def __getattr__(self, name): return getattr(self.engine, name)

    def synthesise(self, *given):
        self.calls += 1
        return self.engine.synthesise(*given)


def in_new_loop(coroutine):
    with ThreadPoolExecutor(1) as pool: return pool.submit(asyncio.run, coroutine).result()


def streamed(model, rtf, job):
    how = Delivery(max_chars=40, first_chars=0, options=dict(rtf=rtf))
    return generate_audio_stream_decoded(SENTENCES, "low", model, how, job, "pcm_24")


async def cancelled_after(seconds, stream, job, **kw): # how many threads are left
    async def read():
        async for _ in on_loop(stream, job, **kw): pass
    task = asyncio.create_task(read())
    await asyncio.sleep(seconds)
    task.cancel()
    try: await task
    except asyncio.CancelledError: return threading.active_count()


def test_the_loop_stays_free_while_a_stream_is_made():
    async def metronome(beats):
        while True:
            beats.append(time.perf_counter())
            await asyncio.sleep(0.005)

    async def read():
        beats, job = [], JobState(60)
        beat = asyncio.create_task(metronome(beats))
        text, hibari = "The loop never waits for a model. " * 40, load_tts_model("hibari")
        stream = generate_audio_stream_decoded(text, "heart", hibari, job=job, format="pcm_24")
        partials = [p async for p in on_loop(stream, job)]
        beat.cancel()
        return partials, max(np.diff(beats))

    load_tts_model("hibari")
    partials, longest = in_new_loop(read())
    assert [p["seq"] for p in partials] == list(range(len(partials))) and partials[-1]["status"] == "complete"
    assert longest < 0.25


def test_a_cancelled_stream_stops_within_a_chunk_and_its_threads_end():
    model, job, alone = Counted(), JobState(), threading.active_count() + 1  # with the thread of the loop
    assert in_new_loop(cancelled_after(0.2, streamed(model, 0.02, job), job)) == alone
    calls = model.calls
    time.sleep(0.1)
    assert model.calls == calls > 0


def test_past_its_deadline_a_stream_ends_with_the_reason():
    job = JobState(0.2)
    with pytest.raises(JobStopped, match="took longer than 0.2 s"):
        in_new_loop(cancelled_after(5, streamed(Counted(), 0.02, job), job))


def test_an_engine_that_hangs_is_reported_and_holds_nobody_up():
    model, job, stuck, before = Counted(), JobState(), [], threading.active_count()
    start = time.perf_counter()
    tell = lambda stage: stuck.append("forget the engine")
    in_new_loop(cancelled_after(0.05, streamed(model, 0.5, job), job, grace_s=0.05, stuck=tell))
    assert stuck and time.perf_counter() - start < 0.5
    time.sleep(1.5)
    assert threading.active_count() <= before  # it did come back, and ended
