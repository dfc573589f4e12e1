"Whatever is written: it is said or reported, its places are true, and the voice's own front end takes it."
import json, random, threading
from functools import cache
from html import unescape
from pathlib import Path
from time import process_time

import pytest
import regex
from hypothesis import HealthCheck, find, given, settings, strategies as st
from hypothesis.errors import NoSuchExample

from linacodec_tier3.chunker import iter_chunks
from linacodec_tier3.engines.hibari import HibariEngine, written_for
from linacodec_tier3.text import spoken
from linacodec_tier3.text.spoken import spoken_form, spoken_paragraphs

DATA = Path(__file__).parent.parent / "nbs/text/data"
SAYABLE, DIGIT, LETTER = map(regex.compile, (r"[\p{L}\p{N}]", r"\p{Nd}", "[A-Za-z0-9]"))
LOST = "nothing that can be said"  # why what no step has dealt with is not said
ENTITY = regex.compile(r"&#?\w{1,31}+;")
SCRIPTS = """Latin Latin Latin Latin Greek Cyrillic Arabic Hebrew Devanagari Thai Han Hiragana Katakana Hangul
    Armenian Georgian Ethiopic Khmer Tamil Tibetan Mongolian Cherokee Runic Deseret Gothic""".split()
BITS = json.loads((DATA / "fuzz.json").read_text(encoding="utf-8"))
WHITE = ["\n", "\n\n", "\r\n", "\t", "\u00a0", "\u202f", "\u3000", "  "]
PIECES = [*BITS["pieces"], *[" "] * 60, *WHITE * 3]
GAPS = ["", " ", " ", " ", " "]


@pytest.fixture(autouse=True)
def strictly(monkeypatch): # a step that fails fails the test; in a job it is left out
    monkeypatch.setattr(spoken, "STRICT", True)


@cache
def letters(script): # -> every letter, mark and digit of a script in the first two planes
    every = "".join(map(chr, range(0x20000)))
    return regex.findall(rf"[\p{{Script={script}}}&&[\p{{L}}\p{{M}}\p{{N}}]]", every, regex.V1)


@cache
def written(): # -> what the pairs say is written: whole sentences in which something is hard
    return [row.split("\t")[2] for row in (DATA / "pairs.tsv").read_text(encoding="utf-8").splitlines()[1:]]


def pieces_of(
    seed:int, # the same one gives the same text
) -> list[str]: # joined, they are the text
    "Bits of everything that a request may hold, most of them short."
    rng, made = random.Random(seed), []
    for _ in range(rng.choice((1, 2, 3, 5, 8, 12, 20))):
        kind = rng.random()
        if kind < 0.62: made.append(rng.choice(PIECES))
        elif kind < 0.70: made.append("".join(rng.choices("0123456789", k=rng.choice((1, 2, 4, 7, 16, 40)))))
        elif kind < 0.78: made.append("".join(rng.choices(letters(rng.choice(SCRIPTS)), k=rng.randint(1, 6))))
        elif kind < 0.84: made.append(chr(rng.choice((rng.randrange(0x20, 0x300), rng.randrange(0x110000)))))
        elif kind < 0.92: made.append(rng.choice(PIECES) * rng.choice((2, 3, 10)))
        else: made.append(cut(rng, rng.choice(written())))
        made.append(rng.choice(GAPS))
    return made


def cut(rng, line): # -> part of a line, as often as not
    a, b = sorted((rng.randint(0, len(line)), rng.randint(0, len(line))))
    return line if rng.random() < 0.5 else line[a:b]


@cache
def engine(): return HibariEngine()


def front_end(text): # -> phonemes, one string a sentence
    voice = engine()._model("heart")
    return voice.phonemize(written_for(voice, text))


def without_names(text): # -> of the same length, without the letters of "&lt;", which stand for a symbol
    return ENTITY.sub(lambda m: m[0] if SAYABLE.search(unescape(m[0])) else " " * len(m[0]), text)


def check(
    text:str, # as it was written
    engine_too:bool=True, # whether the engine's front end gets it
    **how, # as for `spoken_paragraphs`
) -> None: # raises what is wrong
    "Places are true, each letter and digit is said or reported, and the voice takes what is said."
    covered, sayable = bytearray(len(text)), without_names(text)
    for p in spoken_paragraphs(text, **how):
        for s in p.stretches:
            assert 0 <= s.start <= s.end <= len(text), f"{s} is not in the text"
            assert not s.verbatim or text[s.start:s.end] == s.text, f"{s} is not what stands there"
            covered[s.start:s.end] = b"\1" * (s.end - s.start)
        for s in p.skipped:
            assert 0 <= s.start < s.end <= len(text) and s.why, f"{s} is not in the text or has no reason"
            lost = s.why == LOST and LETTER.search(sayable[s.start:s.end])
            assert not lost, f"a letter or digit is lost: {text[s.start:s.end]!r}"
            covered[s.start:s.end] = b"\1" * (s.end - s.start)
        if how.get("language", "en") == "en": assert not DIGIT.search(p.text), f"a digit is left: {p.text!r}"
        for c in iter_chunks(p.text, 300):
            if not SAYABLE.search(c.text): continue
            if engine_too and (front_end(c.text) or not LETTER.search(c.text)): continue
            assert not engine_too, f"the voice says nothing of {c.text!r}"
    lost = "".join(" " if seen else c for c, seen in zip(sayable, covered))
    assert not SAYABLE.search(lost), f"neither said nor reported: {lost.strip()!r}"


SAME = dict(deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
HOW = dict(tags=("[sigh]",), languages=("en",))


def fails(text): # -> bool
    try: check(text, **HOW)
    except Exception: return True
    return False


def smallest(pieces): # -> the shortest text of these pieces that fails
    texts = st.lists(st.sampled_from(pieces), min_size=1, max_size=len(pieces)).map("".join)
    try: return find(texts, fails, settings=settings(max_examples=2000, **SAME))
    except NoSuchExample: return "".join(pieces)


def check_seeds(seeds):
    for seed in seeds:
        pieces = pieces_of(seed)
        try: check("".join(pieces), **HOW)
        except Exception as e:
            small = smallest(pieces)
            raise AssertionError(f"seed {seed}: {''.join(pieces)!r}; as little as {small!r} fails") from e


def test_five_thousand_texts_of_everything_are_said_or_reported():
    check_seeds(range(5_000))


@pytest.mark.slow
@pytest.mark.parametrize("part", range(20))
def test_two_hundred_thousand_texts_of_everything_are_said_or_reported(part):
    check_seeds(range(5_000 + part * 9_750, 5_000 + (part + 1) * 9_750))


whatever = st.lists(st.sampled_from(PIECES) | st.text(max_size=6), max_size=12).map("".join)
ways = st.fixed_dictionaries(dict(
    language=st.sampled_from(["en", "", "de", "fr", "es", "it", "pl", "ja", "xx"]),
    markup=st.sampled_from(["auto", "none"]), emoji=st.sampled_from(["name", "skip"]),
    tags=st.sampled_from([(), ("[sigh]", "<laugh>")]),
    languages=st.sampled_from([(), ("en",), ("de", "ru"), ("zh", "en"), ("xx",)])))


@settings(max_examples=400, **SAME)
@given(whatever, ways)
def test_whatever_the_language_and_the_settings(text, how): check(text, engine_too=False, **how)


def seconds(text): # of processor time, chunks and all
    began = process_time()
    for p in spoken_paragraphs(text, languages=("en",)): list(iter_chunks(p.text))
    return process_time() - began


@pytest.mark.parametrize("bit", BITS["worst"], ids=ascii)
def test_time_is_linear_in_what_comes_again_and_again_and_never_closes(bit):
    n = 4_000 // len(bit)
    spoken_form(bit * 3)  # libraries and patterns load at their first use
    once = min(seconds(bit * n + "x"), seconds(bit * n + "y"))
    four = min(seconds(bit * (4 * n) + end) for end in "xyz")  # on a busy machine one may take longer
    assert four < 12 * max(once, 0.01), f"{bit!r} * {n}: {once:.3f} s, four times as much: {four:.3f} s"
    assert four < 2


def test_a_token_of_five_thousand_slashes_reaches_the_voice_in_a_second():
    front_end("warm up")
    began = process_time()
    check("a/" * 5_000, languages=("en",))
    assert process_time() - began < 1


@pytest.mark.parametrize("text", [
    "1" * 20_000, "9" * 37, "[" * 10_000, "*" * 10_000, "(" * 10_000, "&amp;" * 4_000, "<" * 10_000,
    "x.²³" * 20, "①②③, ④⑤", "a" * 5_000, "ab-" * 2_000, "A." * 3_000, "\u0301" * 5_000, "🎉" * 3_000,
    "$" * 5_000 + "5", "中" * 3_000], ids=lambda t: ascii(t[:4]))
def test_what_the_voice_alone_would_die_of_is_said_or_reported(text):
    began = process_time()
    check(text, languages=("en",))
    assert process_time() - began < 20


def test_threads_at_the_same_time_get_what_one_gets():
    texts, got = ["".join(pieces_of(seed)) for seed in range(400)], {}
    def run(part):
        for i in range(part, len(texts), 4): got[i] = spoken_form(texts[i], **HOW).text
    threads = [threading.Thread(target=run, args=(part,)) for part in range(4)]
    for t in threads: t.start()
    for t in threads: t.join(120)
    assert [got[i] for i in range(len(texts))] == [spoken_form(t, **HOW).text for t in texts]
