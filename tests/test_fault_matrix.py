"Each stage of a job with each fault: that job fails and says where, and the next one is served."
import asyncio, sys, threading, time
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest

from linacodec_tier3 import generators
from linacodec_tier3.codec.choice import worker_codec
from linacodec_tier3.codec.protocol import LoudnessCodec
from linacodec_tier3.config import get_config
from linacodec_tier3.engines.tone import Tone
from linacodec_tier3.handler import Replacement, WorkerConfig, handler
from linacodec_tier3.local.endpoint import LocalEndpoint
from linacodec_tier3.tts import register_engine
from support import answered, ended, install_engine, submit

HOME = "linacodec_tier3"
TEXT = "All is well here. Now trouble comes. And on it goes."
REQUEST = dict(text=TEXT, service="matrix", max_chars=20, stream=True)
release = threading.Event()  # ends what hangs


class Odd(Exception):
    "An error that cannot even be printed."
    def __str__(self): raise ValueError("no")


def raises(error):
    def fault(good): raise error
    return fault


def hangs(good):
    release.wait(60)
    return good


def exits(good): sys.exit(3)


FAULTS = {
    "Exception": raises(RuntimeError("gone")), "odd Exception": raises(Odd()), "SystemExit": exits,
    "KeyboardInterrupt": raises(KeyboardInterrupt()), "CancelledError": raises(asyncio.CancelledError()),
    "StopIteration": raises(StopIteration()), "GeneratorExit": raises(GeneratorExit()),
    "MemoryError": raises(MemoryError()), "hangs": hangs,
    "NaN": lambda good: good * np.nan if isinstance(good, np.ndarray) else np.nan,
    "wrong shape": lambda good: np.zeros((3, 7), np.float32)}


def second_of(method, fault): # the same method, which has the fault from its second call on
    calls = []
    def call(*given, **named):
        good = method(*given, **named)
        calls.append(1)
        return good if len(calls) < 2 else fault(good)
    return call


def in_chunker(fault):
    def split(*given, chunks=generators.iter_chunks):
        for number, chunk in enumerate(chunks(*given)): yield fault(chunk) if number == 1 else chunk
    return patch(f"{HOME}.generators.iter_chunks", split)


def in_engine(fault):
    class Matrix(Tone): # once it has read of trouble, it can say nothing any more
        name, lost = "matrix", False
        def synthesise(self, chunk, *given):
            good = super().synthesise(chunk, *given)
            self.lost |= "trouble" in chunk
            return fault(good) if self.lost else good
    register_engine(Matrix)
    return ExitStack()


def in_codec(fault):
    codec = LoudnessCodec()
    once = second_of(lambda tokens, voices: [codec.hum(t, v[0]) for t, v in zip(tokens, voices)],
                     lambda good: [fault(good[0])] * len(good))
    codec.decode = lambda tokens, voices, segment_s=120.: once(tokens, voices)
    return patch.object(worker_codec, "codec", codec)


def in_packing(fault): return patch(f"{HOME}.generators.to_pcm", second_of(generators.to_pcm, fault))


def in_posting(fault):
    from linacodec_tier3.handler import hold_back
    return patch(f"{HOME}.handler.hold_back", second_of(hold_back, fault))


STAGES = dict(chunker=in_chunker, engine=in_engine, codec=in_codec, packing=in_packing, posting=in_posting)


class Sound(Tone): name = "matrix"


@contextmanager
def impatient(): # settings under which what hangs is soon given up
    cfg = replace(get_config(), job_timeout_s=0.8)
    with patch.multiple(f"{HOME}.handler", get_config=lambda: cfg, ABANDON_S=0.2): yield


def ask(job_id, **given): # what the SDK gets
    async def collect():
        return [m async for m in handler(dict(id=job_id, input=REQUEST | given))]
    done = []
    thread = threading.Thread(target=lambda: done.append(asyncio.run(collect())), daemon=True)
    thread.start()
    thread.join(60)
    assert done, "no answer, or the event loop of the worker has ended"
    return done[0]


@pytest.fixture(autouse=True)
def sound():
    release.clear()
    register_engine(Sound)
    with patch(f"{HOME}.handler._replacement", Replacement()): yield
    release.set()


CASES = [(stage, fault) for stage in STAGES for fault in FAULTS if (stage, fault) != ("posting", "hangs")]


@pytest.mark.parametrize("stage, fault", CASES, ids=map(" ".join, CASES))
def test_one_job_fails_and_names_its_chunk_and_the_next_is_served(stage, fault):
    format = "pcm_16" if stage == "codec" else "pcm_24"
    with ExitStack() as context:
        if fault == "hangs": context.enter_context(impatient())
        context.enter_context(STAGES[stage](FAULTS[fault]))
        *parts, error = ask("bad", output_format=format)
    if (stage, fault) == ("posting", "NaN"): parts = parts[:1]  # posted whole, then noticed
    assert error["status"] == "error" and "chunk 2" in error["error"], error
    if fault in ("SystemExit", "KeyboardInterrupt", "CancelledError", "MemoryError"):
        assert f"failed: {fault}" in error["error"]
    if fault == "hangs": assert "took longer than 0.8 s" in error["error"]
    assert [p["seq"] for p in parts][:1] == [0] and {p["chunk"] for p in parts} <= {1, 2}
    fresh = WorkerConfig().get("refresh_worker", False)  # a worker that is replaced serves the next job
    assert fresh == (fault == "hangs" and stage != "engine")
    if stage == "engine" and fault != "hangs": register_engine(Sound)
    if fresh: release.set()
    if stage == "engine" and fault == "hangs": return  # below, with a fresh engine of the same class
    *parts, last = ask("good", output_format="pcm_24")
    assert last["status"] == "complete" and last["total_chunks"] == len(parts) == 3


@pytest.mark.parametrize("fault", ["Exception", "odd Exception", "StopIteration", "NaN", "wrong shape"])
def test_what_an_engine_fails_at_by_an_exception_costs_that_word_and_is_reported(fault):
    class Picky(Tone): # it fails at one word, and at no other
        name = "matrix"
        def synthesise(self, chunk, *given):
            good = super().synthesise(chunk, *given)
            return FAULTS[fault](good) if "trouble" in chunk else good
    register_engine(Picky)
    *parts, last = ask("good", output_format="pcm_24")
    assert last["status"] == "complete" and last["total_chunks"] == len(parts) == 3
    [left_out] = last["skipped"]
    assert TEXT[left_out["start"]:left_out["end"]] == "trouble"
    assert left_out["why"].startswith("the engine failed: ") and "1 stretch of the text" in last["message"]
    letters = sum(map(str.isalnum, TEXT.replace("trouble", "")))
    assert last["manifest"]["samples"] >= int(letters * 0.06 * Tone.rate)


def test_an_engine_that_hangs_is_replaced_by_a_fresh_one_and_not_the_worker():
    with impatient():
        in_engine(hangs)
        assert "in chunk 2" in ask("bad", output_format="pcm_24")[-1]["error"]
        *parts, last = ask("good", text="All is well here.", output_format="pcm_24")
    assert last["status"] == "complete" and not WorkerConfig().get("refresh_worker", False)


def test_two_calls_that_do_not_end_have_the_worker_replaced():
    with impatient():
        in_engine(hangs)
        for again in (False, True):
            assert "in chunk 2" in ask("bad", output_format="pcm_24")[-1]["error"]
            assert WorkerConfig().get("refresh_worker", False) == again


def test_a_call_that_goes_on_for_too_long_has_the_worker_replaced():
    replaced = lambda: WorkerConfig().get("refresh_worker", False)
    async def left():
        job = dict(id="bad", input=REQUEST | dict(output_format="pcm_24"))
        first, error = [m async for m in handler(job)]
        at_first, end = replaced(), time.monotonic() + 30
        while not replaced() and time.monotonic() < end: await asyncio.sleep(0.02)
        return error["error"], at_first, replaced()
    with impatient(), patch(f"{HOME}.handler.LEFT_S", 0.5), in_engine(hangs):
        error, at_first, later = asyncio.run(left())
    assert "in chunk 2" in error and (at_first, later) == (False, True)


def test_an_embedding_that_is_no_number_is_an_error_and_never_sent():
    class Nan(LoudnessCodec):
        def encode(self, audio, sample_rate, embedding=None, segment_s=120.):
            return [(t, v * np.nan) for t, v in super().encode(audio, sample_rate, embedding)]
    with patch.object(worker_codec, "codec", Nan()):
        [error] = ask("bad")
    assert "chunk 1, encoding failed: the codec returned an embedding with NaN" in error["error"]


def test_where_the_codec_computed_in_less_it_is_tried_once_in_float32():
    class Half(LoudnessCodec):
        dtype, times = "float16", 0
        def encode(self, audio, sample_rate, embedding=None, segment_s=120.):
            Half.times += 1
            return [(t, v * np.inf) for t, v in super().encode(audio, sample_rate, embedding)]
        def in_float32(self): return LoudnessCodec()
    with patch.object(worker_codec, "codec", Half()): *parts, last = ask("half")
    with patch.object(worker_codec, "codec", LoudnessCodec()): *exact, _ = ask("exact")
    assert Half.times == 1 and [p["tokens"] for p in parts] == [p["tokens"] for p in exact]
    assert [(r["chunk"], r["step"]) for r in last["manifest"]["recovered"]] == [(1, "float32")]


@pytest.fixture(scope="module")
def worker(tmp_path_factory):
    env = install_engine(tmp_path_factory.mktemp("site")) | dict(CONCURRENCY="2")
    with LocalEndpoint(env=env) as running: yield running


@pytest.mark.parametrize("trouble, says", [("exits", "SystemExit: 1"), ("interrupts", "KeyboardInterrupt"),
                                           ("cancels", "CancelledError")])
def test_in_a_real_worker_the_other_job_is_untouched_and_the_process_the_same(worker, trouble, says):
    request = dict(service="witness", output_format="pcm_24", max_chars=30, stream=True)
    [before] = worker.worker_pids
    other = submit(worker, request | dict(text="All is well. " * 12, parameters=dict(work_s=0.15)))
    bad = answered(worker, **request, text="Now trouble comes.", parameters=dict(trouble=trouble))
    assert bad.status == "FAILED" and f"chunk 1 failed: {says}" in bad.error and not bad.retries
    other = ended(worker, other)
    assert other.status == "COMPLETED" and not other.retries and worker.worker_pids == [before]
