"Tokens through the worker process as deployed, with real weights that are small and random."
import json, shutil
from dataclasses import dataclass

import numpy as np
import pytest
import runpod
from jsonschema import Draft202012Validator

from linacodec_tier3 import contract
from linacodec_tier3.audio import PCM
from linacodec_tier3.client import Client, batch_audio, in_order, pieces, stream
from linacodec_tier3.codec import LinaCodec
from linacodec_tier3.local.endpoint import LocalEndpoint
from support import PARAGRAPH, answered, ended, events, heard, nowhere, submit, with_weights, without_weights

REQUEST = dict(text=PARAGRAPH, seed=7, max_chars=120)
COMPACT = dict(token_encoding="u16_b64", embedding_mode="first")
VALID = Draft202012Validator(contract.schema())
ROUNDING = 1.01 / 32767


@dataclass
class Setting:
    endpoint:LocalEndpoint # whose worker has weights
    codec:LinaCodec # with the same weights, on the client's side


@pytest.fixture(scope="module")
def weights(tmp_path_factory): return with_weights(tmp_path_factory.mktemp("codec"))


@pytest.fixture(scope="module")
def product(weights):
    codec = LinaCodec.from_pretrained(weights["LINACODEC_WEIGHTS"], device="cpu")
    with LocalEndpoint(env=weights) as running: yield Setting(running, codec)


@pytest.fixture(scope="module")
def official(product):
    runpod.endpoint_url_base = product.endpoint.url
    return runpod.Endpoint(product.endpoint.endpoint_id, api_key="any")


@pytest.fixture(scope="module")
def tokens(official): return list(official.run(REQUEST | dict(stream=True)).stream())


def codes(partials):
    return [t for p in partials if p["status"] == "streaming" for t in contract.unpack_tokens(p)]


def test_tokens_are_what_a_request_gets_that_names_no_format(tokens, product):
    *partials, last = tokens
    for message in tokens: VALID.validate(message)
    assert [p["seq"] for p in tokens] == list(range(len(tokens))) and len(partials) > 3
    assert {p["format"] for p in partials} == {"linacodec_tokens"}
    assert last["total_tokens"] == sum(p["num_tokens"] for p in partials) > 100
    codec = product.codec
    made_by = dict(name=codec.name, revision=codec.revision, fingerprint=codec.fingerprint)
    assert all(p["codec"] == made_by for p in partials)
    assert [p["num_tokens"] for p in partials] == [round(p["duration"] * codec.frame_rate) for p in partials]


def test_tokens_are_those_of_the_spoken_chunks_in_the_voice_of_the_first(tokens, product):
    client = Client(product.endpoint.endpoint_url)
    raw = list(stream(client, client.submit(**REQUEST, stream=True, output_format="pcm_24")))
    voice = None
    for p in tokens[:-1]:
        same_chunk = [q for q in raw if q.get("chunk") == p["chunk"]]
        audio = np.concatenate([piece.audio for piece in pieces(same_chunk)])
        n = p["num_tokens"] * 24_000 * 2 // 25  # a token is 80 ms
        expected, voice = product.codec.encode(np.pad(audio, (0, max(0, n - len(audio))))[:n], 24_000, voice)
        assert contract.unpack_tokens(p).tolist() == expected.tolist()
        assert np.allclose(p["embedding"], voice, atol=1e-5)
    assert len({tuple(p["embedding"]) for p in tokens[:-1]}) == 1 and np.std(voice) > 0


def test_streamed_tokens_equal_batch_tokens(tokens, official):
    [result] = official.run_sync(REQUEST)
    VALID.validate(result)
    assert result["tokens"] == codes(tokens) and result["embedding"] == tokens[0]["embedding"]
    assert (result["codec"], result["total_tokens"]) == (tokens[0]["codec"], len(result["tokens"]))


def test_the_decoded_stream_equals_decoding_the_tokens_on_the_client(tokens, product):
    client = Client(product.endpoint.endpoint_url, codec=product.codec)
    *partials, last = stream(client, client.submit(**REQUEST, stream=True, output_format="pcm_16"))
    for message in [*partials, last]: VALID.validate(message)
    made = {(p["format"], p["sample_rate"], p["codec"]["revision"]) for p in partials}
    assert made == {("pcm_16", PCM["pcm_16"][0], product.codec.revision)}
    there, here = heard([*partials, last]), np.clip(heard(tokens, product.codec), -1, 1)
    assert len(there) == len(here) > 48_000 and np.abs(there - here).max() <= ROUNDING


def test_a_pcm_16_batch_is_the_pcm_16_stream(product):
    short = REQUEST | dict(text=PARAGRAPH[:200], output_format="pcm_16")
    client = Client(product.endpoint.endpoint_url)
    streamed = heard(list(stream(client, client.submit(**short, stream=True))))
    [result] = answered(product.endpoint, **short).output
    VALID.validate(result)
    assert np.array_equal(batch_audio(result)[0], streamed) and result["codec"]["name"] == product.codec.name


def test_tokens_that_stand_for_half_a_frame_last_as_long_as_the_manifest_says(tokens, product):
    *partials, last = tokens
    odd = [p for p in partials if p["num_tokens"] % 2]
    decode = lambda p: product.codec.decode(contract.unpack_tokens(p), np.float32(p["embedding"]))
    bare = sum(len(decode(p)) for p in partials)
    samples = last["manifest"]["samples"]
    assert odd and bare == samples - 256 * len(odd)
    assert len(heard(tokens, product.codec)) == samples == last["total_tokens"] * 3840
    sent = answered(product.endpoint, **REQUEST, output_format="pcm_16", stream=True).output[-1]
    assert sent["manifest"]["samples"] == samples
    [whole] = answered(product.endpoint, **REQUEST).output
    assert len(batch_audio(whole, product.codec)[0]) == samples == round(whole["duration"] * 48_000)


def test_compact_tokens_say_the_same_in_fewer_bytes(tokens, product):
    client = Client(product.endpoint.endpoint_url, codec=product.codec)
    small = list(stream(client, client.submit(**REQUEST, **COMPACT, stream=True)))
    for message in small: VALID.validate(message)
    assert {p["token_encoding"] for p in small[:-1]} == {"u16_b64"} and codes(small) == codes(tokens)
    assert ["embedding" in p for p in small[:-1]] == [True] + [False] * (len(small) - 2)
    assert small[-1]["manifest"] == tokens[-1]["manifest"]
    assert sum(map(contract.wire_size, small)) < sum(map(contract.wire_size, tokens)) / 2
    assert np.array_equal(heard(small, product.codec), heard(tokens, product.codec))


def test_a_compact_batch_holds_the_same_tokens(tokens, product):
    [result] = answered(product.endpoint, **REQUEST, **COMPACT).output
    VALID.validate(result)
    assert contract.unpack_tokens(result).tolist() == codes(tokens)
    assert result["embedding"] == tokens[0]["embedding"]


def test_the_output_of_a_token_stream_is_all_of_it(tokens, product):
    job = answered(product.endpoint, **REQUEST, **COMPACT, stream=True)
    assert codes(in_order(job.output)) == codes(tokens) and len(job.output) == len(job.sizes)


def test_every_chunk_is_an_event_with_the_monitoring_fields(product):
    before = events(product.endpoint, "chunk_encoded"), len(product.endpoint.logs())
    job = answered(product.endpoint, **REQUEST, stream=True)
    logged = [line for line in product.endpoint.logs()[before[1]:] if '"event": "' in line]
    lines = [json.loads(line[line.index("{"):]) for line in logged]
    chunks = [e for e in lines if e["event"] == "chunk_encoded"]
    [total] = [e for e in lines if e["event"] == "stream_complete"]
    assert [e["chunk"] for e in chunks] == list(range(1, len(job.output)))
    assert all(e["tokens"] and e["latency_ms"] > 0 for e in chunks)
    for e in chunks:
        assert e["tokens_per_second"] == pytest.approx(1000 * e["tokens"] / e["latency_ms"], rel=0.01)
    assert total["total_tokens"] == sum(e["tokens"] for e in chunks) and total["total_chunks"] == len(chunks)
    assert total["avg_tokens_per_chunk"] == pytest.approx(total["total_tokens"] / len(chunks), abs=0.01)
    assert total["avg_chunk_latency_ms"] > 0 and total["total_time_seconds"] > 0


def test_health_names_the_codec_that_is_loaded(product):
    [about] = answered(product.endpoint, action="health").output
    assert about["health"]["linacodec"] and about["health"]["output_formats"] == list(contract.FORMATS)
    codec, numbers = product.codec, dict(dtype="float32", encode_dtype="float32")
    made_by = dict(name=codec.name, revision=codec.revision, fingerprint=codec.fingerprint)
    state = dict(codec="auto", backend="native", state="loaded", device="cpu")
    assert about["health"]["codec"] == state | numbers | made_by


def test_a_worker_that_decodes_in_bfloat16_makes_the_same_tokens_and_is_warm_before_the_first_job(
        product, weights, tokens):
    with LocalEndpoint(env=weights | dict(LINACODEC_DTYPE="bfloat16", WARM_UP="on")) as running:
        [about] = answered(running, action="health").output
        numbers = [about["health"]["codec"][what] for what in ("dtype", "encode_dtype")]
        assert numbers == ["bfloat16", "float32"]
        assert any("codec warmed up in " in line for line in running.logs())
        assert codes(answered(running, **REQUEST, stream=True).output) == codes(tokens)
        [sound] = answered(running, **REQUEST, output_format="pcm_16").output
    [exact] = answered(product.endpoint, **REQUEST, output_format="pcm_16").output
    half, full = (batch_audio(answer)[0] for answer in (sound, exact))
    assert 0 < np.sqrt(np.mean((half - full) ** 2) / np.mean(full ** 2)) < 0.2


def refused(endpoint, times=1): # the one error that `times` requests for tokens end with; none costs speech
    jobs = [ended(endpoint, submit(endpoint, REQUEST | dict(stream=i % 2 == 0))) for i in range(times)]
    assert {job.status for job in jobs} == {"FAILED"} and events(endpoint, "chunk_encoded") == 0
    [error] = {job.error for job in jobs}
    assert "\n" not in error and "LinaCodec is not available: " in error and "pcm_24" in error
    return error


def test_without_weights_every_request_for_tokens_is_refused_at_once_and_speech_goes_on(tmp_path):
    with LocalEndpoint(env=without_weights(tmp_path) | dict(CONCURRENCY="4")) as running:
        assert f"{tmp_path}: has no config.yaml" in refused(running, 20)
        assert answered(running, **REQUEST, output_format="pcm_24", stream=True).status == "COMPLETED"


def test_weights_that_cannot_be_fetched_are_not_asked_for_again_and_again(tmp_path):
    with LocalEndpoint(env=nowhere(tmp_path) | dict(LINACODEC_WEIGHTS="someone/nothing")) as running:
        assert "someone/nothing" in refused(running, 10)
        assert "\n".join(running.logs()).count("LinaCodec does not load") == 1
        [last] = answered(running, **REQUEST, output_format="pcm_16", stream=True).output
        assert last["format"] == "pcm_24" and "someone/nothing" in last["message"]


DAMAGE = { # file -> what happens to it
    "model.safetensors": lambda f: f.write_bytes(f.read_bytes()[:-1000]),
    "vocoder/pytorch_model.bin": lambda f: f.write_bytes(f.read_bytes()[:1000]),
    "wavlm_encoder.pth": lambda f: shutil.copy(f.with_name("wavlm_base_plus.pth"), f),
    "config.yaml": lambda f: f.write_text("model: ["),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_file_is_named_and_the_worker_serves_on(name, weights, tmp_path):
    folder = shutil.copytree(weights["LINACODEC_WEIGHTS"], tmp_path / "weights")
    DAMAGE[name](folder / name)
    damaged = dict(LINACODEC_WEIGHTS=str(folder), CODEC_HOME=str(tmp_path / "home"))
    with LocalEndpoint(env=weights | damaged) as running:
        assert str(folder / name) in refused(running, 2)
        assert answered(running, **REQUEST, output_format="pcm_24").status == "COMPLETED"
        assert len({line for line in running.logs() if "does not load" in line}) == 1
