"What a worker makes of the pace of its engines: in its health, in the sizes of chunks, in what it refuses."
import asyncio, time

import pytest

from linacodec_tier3.config import get_config
from linacodec_tier3.engines.tone import Tone
from linacodec_tier3.handler import handler, health
from linacodec_tier3.speech.pace import ENOUGH
from linacodec_tier3.tts import forget_engine, register_engine

SENTENCE = "A sentence of a good many letters, which somebody has to say aloud. "  # 68 characters


class Plodder(Tone):
    "Needs two hundredths of a second for four characters, whatever it is told."
    name, calls = "plodder", 0

    def synthesise(self, chunk, *how):
        Plodder.calls += 1
        time.sleep(len(chunk) / 200)
        return super().synthesise(chunk, *how)


@pytest.fixture
def settings(monkeypatch): # of the worker that is this process
    def set_them(**env):
        for name, value in env.items(): monkeypatch.setenv(name, value)
        get_config.cache_clear()
    set_them(EXPECTED_RTF="")  # it is to be measured
    yield set_them
    monkeypatch.undo()
    get_config.cache_clear()


@pytest.fixture
def ask(settings): # its answer
    async def answers(asked):
        asked = dict(service="plodder", output_format="pcm_24", stream=True, seed=1) | asked
        return [m async for m in handler(dict(id="job", input=asked))]
    register_engine(Plodder)
    yield lambda **how: asyncio.run(answers(how))
    forget_engine("plodder")


def spans(messages): return [m["text_span"] for m in messages if m["status"] == "streaming"]


def test_a_text_for_which_there_is_no_time_is_refused_once_the_pace_is_known(ask, settings):
    settings(JOB_TIMEOUT_S="4")
    far_too_long = SENTENCE * 30  # ten seconds of work
    *_, last = ask(text=far_too_long, max_chars=70)
    assert last["status"] == "error" and "took longer than 4 s" in last["error"]  # nothing is known yet
    for _ in range(2): ask(text=SENTENCE * 4, max_chars=70)
    pace, calls = health(get_config())["pace"]["plodder"], Plodder.calls
    assert pace["a_character"] >= 0.005 and calls > ENOUGH
    [refused] = ask(text=far_too_long, max_chars=70)
    print(refused["error"])
    assert f"`text` has {len(far_too_long):,} characters, of which about " in refused["error"]
    fits = int(refused["error"].split("about ")[1].split()[0].replace(",", ""))
    assert 0 < fits <= 4 / 0.005 and Plodder.calls == calls  # it has cost nothing
    assert ask(text=SENTENCE)[-1]["status"] == "complete"


def test_chunks_grow_alike_for_ordinary_engines_and_slower_for_slow_ones(ask, settings):
    settings(FIRST_CHUNK_CHARS="20")
    few = "Four words, no more."
    text, tone = " ".join([few] * 5), dict(service="tone", max_chars=60)
    first = spans(ask(text=text, **tone))
    for _ in range(ENOUGH + 1): ask(text=few, **tone)
    assert spans(ask(text=text, **tone)) == first
    slow = tone | dict(speed=4, parameters=dict(rtf=2.4))
    for _ in range(ENOUGH): ask(text=few, **slow)
    assert health(get_config())["pace"]["tone"]["growth_for"] == 0.66  # the first call is not counted
    ask(text=few, **slow)
    assert health(get_config())["pace"]["tone"]["growth_for"] == 1
    assert spans(ask(text=text, **tone)) == first  # of one set of options nothing follows for another
    assert len(spans(ask(text=text, **slow))) == 5 > len(first)
    settings(EXPECTED_RTF="0.66")
    assert spans(ask(text=text, **slow)) == first
