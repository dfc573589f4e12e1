"Four engines in one worker, side by side: each keeps its voice, none is loaded twice, memory is bounded."
import asyncio, gc, random, time, zlib
from collections import Counter, defaultdict

import numpy as np
import psutil
import pytest

from linacodec_tier3.config import get_config
from linacodec_tier3.handler import handler
from linacodec_tier3.tts import engine_class, engine_names, register_engine

TEXTS = ("Good day.", "Come in.", "Who is there?", "Nobody spoke.")
ENGINES = ("hibari", "tone", "piper", "kokoro")  # of which the last one is slow
RARELY = 10  # jobs, of which one is the slow engine's
AT_ONCE = 3  # jobs
GROWTH = {40: 1.4, 200: 1.15}  # of memory, from the second quarter to the last, at most: few jobs load


@pytest.fixture
def four_engines(monkeypatch, tmp_path): # how often each has been loaded
    missing = {"piper", "kokoro"} - set(engine_names())
    if missing: pytest.skip(f"the extras of {', '.join(missing)} are not installed")
    (tmp_path / "kokoro/voices").mkdir(parents=True)  # the network is real, and its voice nobody's
    styles = np.random.default_rng(0).normal(0, 0.1, (510, 256)).astype(np.float32)
    styles.tofile(tmp_path / "kokoro/voices/af_heart.bin")
    monkeypatch.setenv("MODELS_DIR", str(tmp_path))
    get_config.cache_clear()
    loads, own = Counter(), {name: engine_class(name) for name in ENGINES}
    for name, cls in own.items():
        def __init__(self, name=name, cls=cls):
            loads[name] += 1
            cls.__init__(self)
        register_engine(type(cls.__name__, (cls,), dict(__init__=__init__)))
    yield loads
    for cls in own.values(): register_engine(cls)
    monkeypatch.undo()
    get_config.cache_clear()


async def answered(n, service, text, seed): # the crc of a job's sound
    asked = dict(text=text, service=service, seed=seed, output_format="pcm_24", stream=n % 2 == 0)
    messages = [m async for m in handler(dict(id=f"job-{n}", input=asked))]
    assert messages[-1]["status"] == "complete", (service, messages[-1])
    parts = messages[:-1] or messages
    return zlib.crc32("".join(p.get("audio_chunk") or p["audio"] for p in parts).encode())


async def served(jobs, each): # all of them, `AT_ONCE` side by side
    waiting = iter(jobs)
    async def client():
        for n, job in waiting: each(n, job, await answered(n, *job))
    await asyncio.gather(*(client() for _ in range(AT_ONCE)))


def switch(loads, jobs):
    rng, heard, memory = random.Random(1), defaultdict(set), []
    asked = ["kokoro" if n % RARELY == 3 else rng.choice(ENGINES[:-1]) for n in range(jobs)]
    order = [(name, rng.choice(TEXTS[:2] if name == "kokoro" else TEXTS), rng.randrange(2)) for name in asked]
    process, began = psutil.Process(), time.monotonic()
    def each(n, job, crc):
        heard[job].add(crc)
        if n % 10 == 0: gc.collect()
        memory.append(process.memory_info().rss)
    asyncio.run(served(enumerate(order), each))
    assert len(memory) == jobs and set(asked) == set(ENGINES)
    assert all(len(sounds) == 1 for sounds in heard.values()), "a job sounds otherwise when it is asked again"
    by_text = defaultdict(list)
    for (name, text, _), [sound] in heard.items(): by_text[text].append((name, sound))
    for some in by_text.values(): # no engine's answer is another one's
        assert len({sound for _, sound in some}) >= len({name for name, _ in some})
        for sound in {sound for _, sound in some}: assert len({n for n, s in some if s == sound}) == 1
    assert loads == dict.fromkeys(ENGINES, 1), f"loaded again: {loads}"
    first, last = (sorted(x)[len(x) // 2] for x in (memory[jobs // 4:jobs // 2], memory[-jobs // 4:]))
    took = time.monotonic() - began
    print(f"{jobs} jobs of {dict(Counter(asked))} in {took:.0f} s; memory {first >> 20} to {last >> 20} MiB")
    assert last < GROWTH[jobs] * first


def test_engines_in_turn_keep_their_voices_and_are_loaded_once(four_engines):
    switch(four_engines, 40)


@pytest.mark.slow
def test_two_hundred_jobs_of_four_engines(four_engines):
    switch(four_engines, 200)
