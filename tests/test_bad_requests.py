"A request that cannot be served costs one clear line and no speech."
import json, time

import pytest
import requests

from linacodec_tier3.contract import FINAL_STATES
from linacodec_tier3.local.endpoint import LocalEndpoint
from support import ended, events, install_engine, submit

GOOD = dict(text="Good morning.", output_format="pcm_24")
MAX_TEXT = 2_000
HUGE = 10 ** 300
NAN, INFINITY = float("nan"), float("inf")


def nested(depth): return {"deep": nested(depth - 1)} if depth else 1


def each(key, allowed, *values): return [(GOOD | {key: value}, key, allowed) for value in values]


def option(allowed, **options): return [(GOOD | {"parameters": options}, next(iter(options)), allowed)]


WRONG = [ # (input, what the error names, a piece of what it says is allowed)
    *[(value, "input", "an object with `text`")
      for value in ([], ["text"], "speak!", "", 5, 0, True, False, 1.5)],
    ({}, "text", "missing"),
    (dict(output_format="pcm_24"), "text", "missing"),
    *each("text", "put what to say there", "", " ", "\n\t \u3000\u00a0"),
    *each("text", f"text of up to {MAX_TEXT}", None, 5, True, 1.5, ["a", "b"], {"en": "Hello"}, nested(50)),
    *each("text", f"up to {MAX_TEXT}", "a" * (MAX_TEXT + 1), "word " * 20_000),
    *each("text", "UTF-8", "half \ud83d of a pair", "\udc00"),
    *[(GOOD | {key: 1}, key, "known: text, voice")
      for key in ("txt", "Text", " text", "sampling_rate", "", "a\nb", "null\0byte", "\ud800", "k" * 5_000)],
    (GOOD | {f"key{i}": i for i in range(2_000)}, "key0", "known: text, voice"),
    *each("voice", "a name", None, 1, True, ["plain"], {"name": "plain"}, nested(900)),
    *each("voice", "plain", "", "nobody", "PLAIN", "../secret.wav", "../../etc/passwd", "/etc/passwd", "..",
          ".", "link.wav", "voices/../../secret.wav", "..%2fsecret.wav", "me.wav\0", "\ud800", "v" * 100_000),
    (GOOD | dict(voice="plain", speaker_voice="me.wav"), "speaker_voice", "give one"),
    (GOOD | dict(speaker_name="plain", speaker_voice="me.wav"), "speaker_name", "give one"),
    (GOOD | dict(speaker_name=5), "voice", "a name"),
    *each("service", "witness", "xttz", "", "Witness", "os.system", "\ud800", "s" * 100_000),
    *each("service", "a name", None, 7, ["witness"], {}),
    *each("stream", "true, false", "yes", "1", "", 1, 0, None, [], "truefalse", NAN),
    *each("output_format", "pcm_24", "pcm_48", "PCM_24", "", None, 24, ["pcm_24"], "mp3 "),
    *[(GOOD | dict(stream=True, output_format=f), "output_format", "ogg_opus")
      for f in ("wav", "mp3", "flac")],
    *each("token_encoding", "list, u16_b64", "u16", "LIST", "", None, 16, ["list"], {}, nested(900)),
    *each("embedding_mode", "every, first", "last", "First", "", None, True, 1, ["first"], "m" * 100_000),
    *each("max_chars", "from 20 to 5000", 19, 5001, 0, -500, "500", 500.0, True, None),
    *each("max_chars", "from 20 to 5000", NAN, INFINITY, HUGE, [500]),
    *each("seed", "a whole number from 0", -1, 2 ** 32, HUGE, 1.5, "7", True, None, NAN, {}),
    *each("speed", "from 0.5 to 2", 0, 0.49, 2.01, -1, "1.0", True, None),
    *each("speed", "from 0.5 to 2", NAN, INFINITY, -INFINITY, HUGE, [1.0]),
    *each("parameters", "an object", [], "steps=4", 5, None, True),
    *option("work_s", cfg_scale_text=3), *option("work_s", Steps=1), *option("work_s", **{"steps\n": 1}),
    *option("work_s", deep=nested(900)),
    *option("work_s", **{f"option{i}": i for i in range(2_000)}),
    *[wrong for steps in (0, 2.0, True) for wrong in option("whole number from 1 to 8", steps=steps)],
    *[wrong for work_s in (NAN, "1", HUGE) for wrong in option("a number from 0 to 60", work_s=work_s)],
    *option("true or false", bright=1), *option("true or false", bright="true"),
    *[wrong for trouble in ("t" * 100_000, None, nested(900)) for wrong in option("one of", trouble=trouble)],
    *[wrong for seed in ("7", True, HUGE) for wrong in option("a whole number", seed=seed)],
    (GOOD | dict(seed=1, parameters=dict(seed=2)), "seed", "give one"),
    *each("action", "health, voices", "helth", "HEALTH", "speak", "", 1, 0, True, False, [], {}, ["health"]),
]


@pytest.fixture(scope="module")
def strict(tmp_path_factory):
    folder = tmp_path_factory.mktemp("strict")
    (folder / "voices").mkdir()
    for name in ("secret.wav", "voices/me.wav"): (folder / name).write_bytes(b"RIFF")
    (folder / "voices" / "link.wav").symlink_to(folder / "secret.wav")
    env = dict(VOICES_DIR=str(folder / "voices"), MAX_TEXT_CHARS=str(MAX_TEXT), CONCURRENCY="16",
               WARM_UP="off")
    with LocalEndpoint(env=env | install_engine(folder)) as running: yield running


@pytest.fixture(scope="module")
def jobs(strict): # all served before the first record is looked at; one that never ends is left IN_PROGRESS
    ids, end = [submit(strict, wrong) for wrong, *_ in WRONG], time.monotonic() + 30
    def running(): return any(strict.job(job).status not in FINAL_STATES for job in ids)
    while time.monotonic() < end and running(): time.sleep(0.1)
    return [strict.job(job) for job in ids]


def short(wrong): return json.dumps(wrong)[-50:].encode("ascii", "replace").decode()


@pytest.mark.parametrize("i", range(len(WRONG)), ids=lambda i: f"{i}-{WRONG[i][1][:20]!a}")
def test_error_is_one_line_that_names_the_key_and_what_is_allowed(i, jobs):
    wrong, key, allowed = WRONG[i]
    error = jobs[i].error
    assert jobs[i].status == "FAILED", f"{jobs[i].status}: {short(wrong)}"
    assert "\n" not in error and "Traceback" not in error and len(error) < 1_000
    assert repr(key)[1:-1][:20] in error and allowed in error
    assert "/etc" not in error or "/etc" in short(wrong)


def test_no_malformed_request_cost_speech_and_the_next_good_one_is_served(strict, jobs):
    assert len(jobs) >= 40 and events(strict, "engine_called") == events(strict, "chunk_encoded") == 0
    good = ended(strict, submit(strict, GOOD))
    assert good.status == "COMPLETED" and good.output[0]["duration"] == pytest.approx(0.5, abs=0.1)
    assert events(strict, "engine_called") == 1 and {job.worker for job in jobs} == {good.worker}


@pytest.mark.parametrize("body", [
    b"", b"text=hello", b'{"input": ', b"[]", b'"input"', b"{}", b'{"input": null}', b"[" * 100_000,
    b"\xff\xfe", b'{"input": {"text": "x", "seed": ' + b"9" * 5_000 + b"}}",
    b'{"input": {}, "policy": {"ttl": -1}}'])
def test_what_is_no_request_is_refused_by_the_endpoint(strict, body):
    answer = requests.post(f"{strict.endpoint_url}/run", data=body, timeout=10)
    assert answer.status_code == 400 and "\n" not in answer.json()["error"]
