"A text is silent for as long where it was cut as where it was not."
import numpy as np
import pytest

from linacodec_tier3.generators import Delivery, in_tokens, speak_chunks
from linacodec_tier3.speech.pauses import longest_gaps
from linacodec_tier3.tts import load_tts_model

FIRST = ("The harbour was quiet. Nobody had expected the boat. It came in late. "
         "The keeper counted the strokes. Somebody laughed.")
SECOND = ("The news reached the town. The bridge was finished. Was the road open? "
          "The price of salt would fall! Everything was well.")
TEXT, SENTENCES, BREAK = f"{FIRST}\n\n{SECOND}", 10, 4  # the fifth gap stands between the paragraphs


def pauses(text, n, speed, made=lambda s: s): # seconds, as they are heard
    how = Delivery(max_chars=n, first_chars=0, speed=speed)
    chunks = [made(s) for s in speak_chunks(text, "heart", load_tts_model("hibari"), how)]
    audio = np.concatenate([s.audio for s in chunks])
    return len(chunks), np.array(longest_gaps(audio, chunks[0].rate, SENTENCES - 1))


@pytest.mark.parametrize("speed", [1.0, 1.5])
def test_ten_sentences_pause_alike_whether_they_are_cut_apart_or_not(speed):
    (many, cut), (few, whole) = pauses(TEXT, 45, speed), pauses(TEXT, 500, speed)
    assert many > 5 and few == 2
    assert np.abs(cut - whole).max() < 0.06
    inside = np.delete(whole, BREAK)
    assert min(whole[BREAK], cut[BREAK]) > max(inside.max(), np.delete(cut, BREAK).max()) + 0.1 / speed


def test_the_codecs_whole_tokens_shift_a_pause_by_half_a_token_at_most():
    _, exact = pauses(TEXT, 45, 1.0)
    _, cut = pauses(TEXT, 45, 1.0, lambda s: in_tokens(s, 12.5))
    assert np.abs(cut - exact).max() <= 0.04 + 0.011


def test_a_heading_is_followed_by_the_pause_of_a_paragraph():
    heading, text = "Chapter one", "The harbour was quiet. Nobody had expected the boat."
    _, gaps = pauses(f"# {heading}\n\n{text}", 500, 1.0)
    assert gaps[0] > gaps[1] + 0.1
