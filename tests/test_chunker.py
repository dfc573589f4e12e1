"The laws of the chunker, on mixtures of everything that a request may hold, and on what might be worst."
from time import process_time

import pytest
import regex
from hypothesis import given, settings, strategies as st

from linacodec_tier3.chunker import ATOM, iter_chunks, split_text_for_streaming
from linacodec_tier3.text.edits import Draft
from linacodec_tier3.text.spoken import SpokenText
from support import PARAGRAPH

# Languages with and without spaces, quotes, prices, code, emoji, combining marks.
PIECES = """
Dr. Who|e.g.|z. B.|U.S.|Nr. 5|No. 12|a.m.|3.14|1,250.00|$9.99|12:30|2024-03-01|1 000 000|+49 30 123 45 67
bob@example.com|https://ex.com/a?b=c.d!e|/usr/lib/x.so.1|os.path.join(a, b)|x = {'k': [1, 2]};|Hello, world!
He said: “No.” Then|What?!|Wait…|word—word|naïve café|don't|Straße; Übung|Das ist gut.|今天天气很好。|他说：“你好！”
没有标点的很长的一句话|３．１４|「行こう。」と彼は言った|コンピュータを使う、毎日|チョコレート|ภาษาไทยไม่มี|เว้นวรรค|هل أنت بخير؟
نعم، أنا؛|मेरा नाम राम है।|क्षत्रिय|👨‍👩‍👧|🇩🇪🇫🇷|👍🏽|e\u0301\u0323|한국어 문장.|a\u0308
 \u0308|\u200b|\u00a0|\u200d|\x1c|-|"|(|）|...|.|?|a""".strip("\n").replace("\n", "|").split("|")
GAPS = ["", "", " ", " ", " ", ". ", ", ", "\n", "\n\n", "\r\n", "\t", "\u3000", " " * 20]
SIGNS = {" ": "word", ", ": "clause", ". ": "sentence", "\n\n": "paragraph"}
WORST = (PARAGRAPH + "\n\n", "没有标点", "7", "a.", "👨‍👩‍👧", " ", "\n", "a\n\n", "Dr. ", "1 ",
         "((", "\u0301", "。」", "A. b, ")

texts = st.text(max_size=8) | st.text("abc. \n", max_size=40)
anything = st.sampled_from(PIECES) | texts | st.sampled_from(GAPS)
mixed = st.lists(anything, max_size=60).map("".join)
sizes = st.integers(1, 40) | st.sampled_from([80, 200, 500])
firsts = st.none() | st.integers(1, 100)
whole_atoms = [piece for piece in PIECES if regex.search(r"[A-Za-z0-9]", piece) and ATOM.fullmatch(piece)]
letters = st.text("abcxyz", min_size=1, max_size=8)
atoms = st.lists(st.sampled_from(whole_atoms) | letters, min_size=1, max_size=60)
short_words = st.sampled_from("the ship, left. No! At noon; we saw\n\n Three more".split(" "))
prose = st.lists(short_words, min_size=1, max_size=150).map(" ".join)
one_paragraph = prose.map(lambda text: text.replace("\n\n", ""))
towns = st.sampled_from(["Oslo", "Paris", "Constantinople", "Rio"])
known = st.lists(st.tuples(towns, st.sampled_from([*SIGNS, " ", " "])), min_size=2, max_size=80)


def law(*strategies, n=250): # a decorator
    "A test on examples that are the same in every run."
    same = settings(max_examples=n, deadline=None, database=None, derandomize=True)
    return lambda f: same(given(*strategies)(f))


@law(mixed, sizes, firsts, st.floats(1, 4))
def test_spans_ascend_hold_what_they_say_and_leave_out_nothing_but_white_space(text, n, first, growth):
    at = 0
    for c in iter_chunks(text, n, first, growth):
        assert text[c.start:c.end] == c.text == c.text.strip() and 1 <= len(c.text) <= n
        assert c.start >= at and not text[at:c.start].strip()
        at = c.end
    assert not text[at:].strip()


@law(mixed, sizes, firsts)
def test_no_chunk_ends_inside_a_grapheme_that_fits_but_for_white_space_at_its_end(text, n, first):
    text = text.strip()
    cuts = [c.end for c in iter_chunks(text, n, first) if c.boundary != "end"]
    for m in regex.finditer(r"\X", text):
        inside = [cut for cut in cuts if m.start() < cut < m.end() and text[cut:m.end()].strip()]
        if len(m[0]) <= n: assert not inside, m[0]


@law(atoms, st.integers(20, 120), firsts, n=400)
def test_words_and_atoms_set_apart_by_spaces_stay_whole(words, n, first):
    text, inside, at = " ".join(words), set(), 0
    for word in words:
        inside |= set(range(at + 1, at + len(word)))
        at += len(word) + 1
    longest = max(len(m[0]) for m in regex.finditer(ATOM, text))
    cuts = [c.end for c in iter_chunks(text, n, first) if c.boundary != "end"]
    if longest <= n: assert not inside & {*cuts}


@law(one_paragraph, st.integers(30, 200), firsts, n=400)
def test_of_short_words_the_last_chunk_has_a_third_of_max_chars_or_the_whole_text(text, n, first):
    last = list(iter_chunks(text, n, first))[-1]
    assert 3 * len(last.text) >= n or last.text == text.strip()


@law(prose, st.integers(30, 200))
def test_every_paragraph_is_cut_as_if_it_were_alone_and_the_last_chunk_has_a_third_of_max_chars(text, n):
    parts, chunks = [p.strip() for p in text.split("\n\n") if p.strip()], list(iter_chunks(text, n))
    assert [c.text for c in chunks] == [c.text for p in parts for c in iter_chunks(p, n)]
    lasts = [c.text for c in chunks if c.boundary in ("paragraph", "end")]
    assert len(lasts) == len(parts) and [c.boundary for c in chunks][-1:] == ["end"]
    for last, whole in zip(lasts, parts): assert 3 * len(last) >= n or last == whole


@law(mixed, sizes, firsts)
def test_paragraphs_that_know_their_source_are_cut_like_a_text_and_chunks_stand_in_order(text, n, first):
    chunks, at = list(iter_chunks([SpokenText(Draft.of(text).stretches)], n, first)), 0
    assert chunks == list(iter_chunks(text, n, first))
    for c in chunks:
        assert at <= c.start <= c.end and c.source(0, len(c.text)) == (c.start, c.end)
        at = c.end


def test_a_short_first_chunk_leaves_no_stub_either():
    "Of 240 characters 167 must remain, so the first ends early; of 190 nothing worth having could be cut."
    assert [[len(c.text) for c in iter_chunks("word " * n, 500, 80)] for n in (48, 38)] == [[69, 169], [189]]


@law(known, st.integers(45, 150), n=400)
def test_chunks_end_where_a_second_plain_statement_of_the_rule_says(words, n):
    text, ends, at = "".join(word + sign for word, sign in words).rstrip(), {}, 0
    for word, sign in words:
        at += len(word)
        ends[at + len(sign.rstrip())] = SIGNS[sign]
        at += len(sign)
    paragraphs = [e for e, kind in ends.items() if kind == "paragraph" and text[e:]] + [len(text)]
    for c in iter_chunks(text, n):
        stop = next(e for e in paragraphs if e > c.start)
        if c.end == stop: assert c.boundary == ("paragraph" if stop < len(text) else "end")
        if c.end == stop: continue
        within = {e: kind for e, kind in ends.items() if c.start < e <= c.start + n and e < stop}
        fair = {e: kind for e, kind in within.items() if 3 * len(text[e:stop].strip()) >= n}
        ranked = {kind: e for e, kind in fair.items() if kind != "clause" or 3 * (e - c.start) >= n}
        kind = next(kind for kind in ("sentence", "clause", "word") if kind in ranked)
        assert (c.end, c.boundary) == (ranked[kind], kind)


def megabyte(unit): return (unit * (1_000_000 // len(unit) + 1))[:1_000_000]


def cost(text): # processor seconds to cut it, and the number of chunks
    "What it takes to cut a text."
    began, n = process_time(), len(split_text_for_streaming(text))
    return process_time() - began, n


@pytest.mark.parametrize("unit", WORST, ids=lambda unit: ascii(unit[:8]))
def test_time_and_chunks_are_linear(unit):
    """A chunk is sought in a window of fixed size, so the work is proportional to the number of chunks.
    And short chunks do not pile up: among the breaks of the best kind the furthest is taken, so within
    one window each further chunk ends at a break of a poorer kind, and there are five kinds; but every
    paragraph is a chunk, however short. Four times the text may take eight times as long."""
    text = megabyte(unit)
    (quarter, _), (whole, n) = cost(text[:250_000]), cost(text)
    assert n <= 5 * len(text) / 500 + 5 + text.count("\n\n")
    assert whole < 8 * quarter + 0.05


HUGE = {"one URL": "xxxx://" + megabyte("a.b/"), "spaces": "a" + " " * 1_000_000 + "b",
        "line ends": "\n" * 1_000_000 + "b"}


@pytest.mark.parametrize("kind", HUGE)
def test_one_atom_or_gap_of_a_megabyte_takes_no_longer(kind): assert cost(HUGE[kind])[0] < 5


def test_the_first_chunk_of_a_megabyte_comes_as_soon_as_that_of_a_page():
    def first_ms(text):
        began = process_time()
        next(iter_chunks(text, 500, 80))
        return 1000 * (process_time() - began)
    book = "\n\n".join([PARAGRAPH] * 8)
    page, long = book[:2000], megabyte(book)
    assert min(first_ms(long) for _ in range(9)) < min(first_ms(page) for _ in range(9)) + 2
