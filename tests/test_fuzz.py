"Whatever comes in, the worker lives on, and what goes out is JSON that a client can show."
import base64, json, random
from collections import Counter

import pytest
import requests

from linacodec_tier3.contract import FINAL_STATES
from linacodec_tier3.local.endpoint import LocalEndpoint
from support import install_engine, with_weights

MAX_TEXT, BATCH = 200, 100
KEYS = ("text voice speaker_voice speaker_name service language stream output_format max_chars seed "
        "speed parameters token_encoding embedding_mode action input_text openai_route openai_input "
        "output id").split()
GOOD = dict(
    voice=["plain", "default"], service=["witness", "default"], language=["en", "de"], max_chars=[20, 500],
    stream=[True, False, "true", "FALSE"], seed=[0, 7, 2 ** 32 - 1], speed=[0.5, 1, 2.0],
    output_format=["linacodec_tokens", "pcm_16", "pcm_24", "ogg_opus", "mp3", "wav", "flac"],
    token_encoding=["list", "u16_b64"], embedding_mode=["every", "first"], action=["health", "voices"],
    parameters=[{}, {"steps": 2}, {"bright": True}, {"work_s": 0}])
SCRIPTS = (
    "plain words, 12.50 and 3/4 ", "Größe straße ", "日本語の文。", "नमस्ते ", "مرحبا ", "שלום ", "👩‍👩‍👧🏽 ",
    "e\u0301\u0302\u0303", "\u200b\ufeff\u202e", "\0\a\x1b[31m", "\ud83d", "\udc00", "\n\r\t\u2028\u0085",
    "<b>&amp;</b> ", "https://a.b/c?d=e ", "…—«»“”", "%s {0} $(id) ", "\ufffe\uffff\U0010ffff", ". ! ? ")
NUMBERS = (0, -1, 1, 2 ** 31, 2 ** 53 + 1, -2 ** 63, 10 ** 400, 1e308, -0.0, 1e-320, float("nan"),
           float("inf"))


def text(rng): # -> str, short more often than long
    return "".join(rng.choice(SCRIPTS) * rng.randint(1, 3) for _ in range(rng.choice((0, 1, 2, 5, 40))))


def value(rng, depth=0): # -> any JSON value
    kind = rng.randrange(8 if depth < 3 else 5)
    if kind < 2: return text(rng)
    if kind == 2: return rng.choice(NUMBERS)
    if kind < 5: return rng.choice((None, True, False, "", rng.random(), rng.choice(KEYS)))
    if kind == 5: return [value(rng, depth + 1) for _ in range(rng.randint(0, 4))]
    if kind == 6: return {rng.choice((rng.choice(KEYS), text(rng))): value(rng, depth + 1)
                          for _ in range(rng.randint(0, 4))}
    return deep(rng.choice((10, 300, 900)), rng.random() < 0.5)


def deep(levels, lists): # -> so many lists or objects in each other
    inner = 1
    for _ in range(levels): inner = [inner] if lists else {"a": inner}
    return inner


def written(rng, pairs): # -> a JSON object as text, in which a key may stand twice
    if pairs and rng.random() < 0.2: pairs = pairs + [(rng.choice(pairs)[0], value(rng))]
    as_text = lambda value: json.dumps(value, ensure_ascii=rng.random() < 0.5)
    return "{" + ", ".join(f"{as_text(key)}: {as_text(value)}" for key, value in pairs) + "}"


def request(
    seed:int, # the same one gives the same request
) -> bytes: # the body of a /run
    "Most are nearly good, as these get furthest; some are any JSON, and a few are none."
    rng = random.Random(seed)
    long = "x" * rng.choice((199, 199, 10_000, 400_000))
    asked = {"text": rng.choice(("Good morning.", "Two words. " * 9, text(rng), long))}
    asked |= {key: rng.choice(GOOD[key]) for key in rng.sample(sorted(GOOD), rng.randint(0, 5))}
    for _ in range(rng.choice((0, 0, 0, 1, 1, 2))):
        key = rng.choice(KEYS) if rng.random() < 0.8 else text(rng)
        asked[key] = value(rng)
    if rng.random() < 0.2: asked.pop(rng.choice(list(asked)))
    inner = written(rng, list(asked.items())) if rng.random() < 0.9 else json.dumps(value(rng))
    outer = f'{{"input": {inner}'
    for key in ("policy", "webhook", "s3Config", "input", text(rng)):
        if rng.random() < 0.03: outer += f", {json.dumps(key)}: {json.dumps(value(rng))}"
    body = (outer + "}").encode(errors=rng.choice(("surrogatepass", "replace")))
    if rng.random() < 0.05: body = body[:rng.randrange(len(body))]
    if rng.random() < 0.03: body = body.replace(b"e", rng.choice((b"\xff", b"\0", b"\xed\xa0\x80")))
    return body


def no_constant(name): raise AssertionError(f"{name} is not JSON")


def strict_json(answer): # -> what it says; fails for what is no JSON, and for text that no client can show
    said = json.loads(answer.content.decode("utf-8"), parse_constant=no_constant)
    json.dumps(said, ensure_ascii=False).encode("utf-8")
    return said


def check_error(error, seed):
    assert isinstance(error, str) and error and "\n" not in error, (seed, error)
    assert "Traceback" not in error and len(error) < 2_000 and ".py" not in error, (seed, error)


def check_ended(status, partials, seed):
    assert status["status"] in ("COMPLETED", "FAILED"), (seed, status)
    assert "retries" not in status, (seed, status)
    if status["status"] == "FAILED": return check_error(status["error"], seed)
    if any("seq" in partial for partial in partials):
        assert [partial["seq"] for partial in partials] == list(range(len(partials))), seed
        assert partials[-1]["status"] == "complete", seed
    assert all(partial.get("status") != "error" for partial in partials), (seed, partials)


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzzed")
    codec = with_weights(folder / "weights")
    env = codec | dict(MAX_TEXT_CHARS=str(MAX_TEXT), CONCURRENCY="32") | install_engine(folder)
    with LocalEndpoint(env=env) as running: yield running


class Fuzzer:
    def __init__(self, endpoint):
        self.endpoint, self.session, self.ends = endpoint, requests.Session(), Counter()

    def ask(self, method, path, **options):
        answer = self.session.request(method, f"{self.endpoint.endpoint_url}/{path}", timeout=60, **options)
        return answer.status_code, strict_json(answer)

    def submit(self, seed): # -> the job's ID, or None where the endpoint refuses
        code, said = self.ask("POST", "run", data=request(seed))
        if code == 200: return said["id"]
        self.ends["refused"] += 1
        assert code in (400, 413), (seed, code, said)
        check_error(said["error"], seed)

    def follow(self, job): # -> what it has become of, its partials
        partials, got, status = [], True, ""
        while got or status not in FINAL_STATES:
            code, said = self.ask("GET", f"stream/{job}")
            assert code == 200, said
            status, got = said["status"], said["stream"]
            partials += [one["output"] for one in got]
        return self.ask("GET", f"status/{job}")[1], partials

    def batch(self, seeds):
        jobs = {seed: job for seed in seeds if (job := self.submit(seed))}
        for seed, job in jobs.items():
            status, partials = self.follow(job)
            check_ended(status, partials, seed)
            self.ends[status["status"]] += 1


def run_all(endpoint, seeds):
    fuzzer, pids = Fuzzer(endpoint), endpoint.worker_pids
    for first in range(seeds.start, seeds.stop, BATCH):
        fuzzer.batch(range(first, min(first + BATCH, seeds.stop)))
        assert not [line for line in endpoint.logs() if "Traceback" in line], first
    assert endpoint.worker_pids == pids
    seen = {end: fuzzer.ends[end] for end in ("COMPLETED", "FAILED", "refused")}
    assert min(seen.values()) > len(seeds) * 0.05 and sum(seen.values()) == len(seeds), fuzzer.ends
    good = json.dumps({"input": dict(text="Good morning.", output_format="pcm_24")})
    status, _ = fuzzer.follow(fuzzer.ask("POST", "run", data=good)[1]["id"])
    [output] = status["output"]
    assert status["status"] == "COMPLETED" and len(base64.b64decode(output["audio"])) > 10_000


def test_a_thousand_requests_of_all_kinds(fuzzed): run_all(fuzzed, range(1_000))


@pytest.mark.slow
def test_nine_thousand_more(fuzzed): run_all(fuzzed, range(1_000, 10_000))


def test_the_generator_is_seeded_and_makes_all_kinds():
    made = [request(seed) for seed in range(2_000)]
    assert made == [request(seed) for seed in range(2_000)]
    def is_json(body):
        try: return json.loads(body) is not None
        except (ValueError, RecursionError): return False
    assert 0.03 < sum(not is_json(body) for body in made) / len(made) < 0.3
    assert max(map(len, made)) > 9_000 and min(map(len, made)) < 20
    for piece in (b"\\ud83d", b"NaN", b"[[[[[[[[", b'{"a": {"a": {"a"', "日本".encode(), b"0" * 400):
        assert any(piece in body for body in made), piece


SAID = {"status": "COMPLETED"}, [{"seq": 0, "status": "complete"}]
BAD = [({"status": "TIMED_OUT"}, []), (SAID[0] | {"retries": 1}, SAID[1]), (SAID[0], [{"seq": 1}]),
       (SAID[0], [{"seq": 0, "status": "streaming"}]), (SAID[0], [{"status": "error"}]),
       *[({"status": "FAILED", "error": error}, []) for error in (
           None, "", "two\nlines", "Traceback (most recent call last)", "x" * 2_000, "in /a/handler.py")]]


@pytest.mark.parametrize("status, partials", BAD, ids=range(len(BAD)))
def test_what_must_not_come_is_noticed(status, partials):
    check_ended(*SAID, 0)
    with pytest.raises(AssertionError): check_ended(status, partials, 0)


@pytest.mark.parametrize("content", [b'{"a": NaN}', b"<html>", b"", b'"\\ud83d"', b'"\xff"'], ids=range(5))
def test_what_is_no_json_is_noticed(content):
    answer = requests.Response()
    answer._content = content
    with pytest.raises((AssertionError, ValueError)): strict_json(answer)
