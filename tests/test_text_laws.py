"What is written, through a real worker: all of it is said or reported, and every chunk says where it stands."
import pytest

from linacodec_tier3.chunker import growth_for, iter_chunks
from linacodec_tier3.contract import MOST_SKIPPED, RequestError
from linacodec_tier3.engines.hibari import HibariEngine
from linacodec_tier3.engines.tone import Tone
from linacodec_tier3.client import Client, batch_audio, stream
from linacodec_tier3.generators import Delivery, check_sayable, to_say
from linacodec_tier3.local.endpoint import LocalEndpoint
from linacodec_tier3.speech.pace import GROWTH_RTFS
from linacodec_tier3.tts import register_engine
from support import answered, heard

NASTY = """# The news of 2026

He said 你好，世界 to Dr. Smith at 3:05 pm, and paid $5.50 (100€).

```python
print("never said", 1)
```

====

- 🎉 A party, for 1,250 people
- See https://www.example.com/docs/intro?x=1#y for more [1]

| name | age |
|------|-----|
| Anna | 5   |

<!-- nobody reads this --> The end is near &amp; **bold**; Привет! ****
"""
AMOUNTS = ("It cost $1,234.56 on 2026-11-27, at 15:30. " * 4 +
           "\n\nAnd 5 km further, 3/4 of it was gone: 12–15%.")
REQUEST = dict(max_chars=60, output_format="pcm_24", seed=3)


@pytest.fixture(scope="module")
def streamed(endpoint):
    client = Client(endpoint.endpoint_url)
    return list(stream(client, client.submit(text=NASTY, stream=True, **REQUEST)))


def spans(partials): return list(dict.fromkeys(tuple(p["text_span"]) for p in partials))


def test_law_11_every_letter_and_digit_is_said_or_reported(streamed):
    *partials, last = streamed
    places = spans(partials) + [(s["start"], s["end"]) for s in last["skipped"]]
    left = [(n, c) for n, c in enumerate(NASTY) if c.isalnum() and not any(a <= n < b for a, b in places)]
    assert not left, left


def test_what_is_reported_is_what_the_voice_cannot_say(streamed):
    *partials, last = streamed
    left_out = {NASTY[s["start"]:s["end"]]: s["why"] for s in last["skipped"]}
    reason = lambda part: next(why for what, why in left_out.items() if part in what)
    assert "Chinese" in reason("你好") and "Cyrillic" in reason("Привет") and "code" in reason("print")
    assert all(reason(part) for part in ("nobody reads this", "x=1"))
    assert not any(said in what for what in left_out for said in ("Smith", "5.50", "1,250", "Anna", "bold"))
    n = len(left_out)
    assert f"{n} stretches of the text not said: see `skipped`" in last["message"]
    places = [(s["start"], s["end"]) for s in last["skipped"]]
    assert all(a < b for a, b in places) and all(a[1] <= b[0] for a, b in zip(places, places[1:]))


def test_text_spans_ascend_and_say_what_stands_there(streamed):
    *partials, _ = streamed
    how = Delivery(max_chars=60)
    growth = growth_for(GROWTH_RTFS[0])
    chunks = [c for c in iter_chunks(to_say(NASTY, HibariEngine, how), 60, how.first_chars, growth)]
    assert spans(partials) == [(c.start, c.end) for c in chunks]
    for a, b in zip(chunks, chunks[1:]): assert a.start < a.end <= b.start
    written = [NASTY[c.start:c.end] for c in chunks]
    assert written[0] == "The news of 2026" and chunks[0].text == "The news of twenty twenty-six."
    for c, here in zip(chunks, written): # what is said as it is written is in its own span
        said = {word for word in c.text.split() if len(word) > 3} & set(NASTY.split())
        assert all(word in here for word in said), (c.text, here)


def test_a_stream_of_amounts_is_the_batch_sample_for_sample_and_the_same_again(endpoint):
    client = Client(endpoint.endpoint_url)
    first, again = (heard(list(stream(client, client.submit(text=AMOUNTS, stream=True, **REQUEST))))
                    for _ in range(2))
    [result] = answered(endpoint, text=AMOUNTS, **REQUEST).output
    assert first.tolist() == again.tolist() == batch_audio(result)[0].tolist()
    assert "skipped" not in result


def test_a_batch_says_what_is_skipped_too(endpoint, streamed):
    [result] = answered(endpoint, text=NASTY, **REQUEST).output
    assert result["skipped"] == streamed[-1]["skipped"] and "see `skipped`" in result["message"]


def test_a_text_of_nothing_but_gaps_makes_no_message_too_large(endpoint):
    [result] = answered(endpoint, text="So 你好 it goes. " * 300, **REQUEST | dict(output_format="mp3")).output
    assert len(result["skipped"]) == MOST_SKIPPED and result["skipped_more"] == 300 - MOST_SKIPPED


def test_what_no_engine_here_can_say_is_refused_with_the_script_and_before_anything_is_loaded(endpoint):
    job = answered(endpoint, text="你好，世界。", output_format="pcm_24")
    assert job.status == "FAILED" and "engine 'hibari' can say nothing of `text`: Chinese" in job.error
    class Unloaded(Tone):
        name, languages = "unloaded", ("en",)
        def __init__(self): raise AssertionError("loaded")
    with pytest.raises(RequestError, match="Cyrillic"): check_sayable("Привет", Unloaded)


def test_where_another_engine_speaks_it_its_name_is_said():
    class Mandarin(Tone): name, languages = "mandarin", ("zh",)
    register_engine(Mandarin)
    with pytest.raises(RequestError, match="ask for `service` .*mandarin.*, which can"):
        check_sayable("你好，世界。", HibariEngine)
    check_sayable("你好，世界。", Mandarin)


def test_emoji_are_said_by_name_or_left_out_as_the_setting_says():
    with LocalEndpoint(env=dict(EMOJI="skip")) as endpoint:
        job = answered(endpoint, text="🎉", output_format="pcm_24")
        assert job.status == "FAILED" and "can say nothing of `text`: an emoji" in job.error
        [result] = answered(endpoint, text="Well done 🎉", output_format="pcm_24").output
        assert [(s["start"], s["end"], s["why"]) for s in result["skipped"]] == [(10, 11, "an emoji")]


def test_markup_is_read_as_such_or_said_as_it_stands(endpoint):
    seconds = {m: answered(endpoint, text="**So** <b>it</b> goes.", markup=m, **REQUEST).output[0]["duration"]
               for m in ("auto", "none")}
    assert seconds["none"] > seconds["auto"] + 0.2
    job = answered(endpoint, text="So.", markup="html", **REQUEST)
    assert job.status == "FAILED" and "`markup` is 'html' (str); allowed: auto, none" in job.error


def test_a_language_that_the_engine_does_not_speak_is_an_error_that_lists_those_that_it_does(endpoint):
    job = answered(endpoint, text="Bonjour.", language="fr", **REQUEST)
    assert job.status == "FAILED" and "`language` is 'fr'; engine 'hibari' speaks: en" in job.error
    assert answered(endpoint, text="Hello.", language="en-US", **REQUEST).status == "COMPLETED"
    assert answered(endpoint, text="3 Äpfel.", language="de", service="tone", **REQUEST).status == "COMPLETED"
    [voices] = answered(endpoint, action="voices").output
    assert {n: voices["voices"][n]["languages"] for n in ("hibari", "tone")} == {"hibari": ["en"], "tone": []}
