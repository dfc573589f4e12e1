"What the worker answers, through the official client and the worker process as deployed."
import os

import numpy as np
import pytest
import runpod
from jsonschema import Draft202012Validator

from linacodec_tier3 import contract
from linacodec_tier3.client import batch_audio
from linacodec_tier3.config import PARTIAL_LIMIT, RESULT_LIMIT
from linacodec_tier3.local.endpoint import LocalEndpoint
from support import PARAGRAPH, answered, bare, ended, heard, without_weights

REQUEST = dict(text=PARAGRAPH, seed=7, max_chars=120, output_format="pcm_24")
VALID = Draft202012Validator(contract.schema())


@pytest.fixture(scope="module")
def official(endpoint):
    runpod.endpoint_url_base = endpoint.url
    return runpod.Endpoint(endpoint.endpoint_id, api_key="any")


@pytest.fixture(scope="module")
def codecless(tmp_path_factory):
    with LocalEndpoint(env=without_weights(tmp_path_factory.mktemp("empty"))) as running: yield running


@pytest.fixture(scope="module", params=["pcm_24", "ogg_opus"])
def streamed(official, request):
    return list(official.run(REQUEST | dict(stream=True, output_format=request.param)).stream())


def test_seq_has_no_gaps_and_the_manifest_is_true(streamed):
    *partials, last = streamed
    count = contract.Numbering()
    for p in partials: count.count(p)
    assert [p["seq"] for p in streamed] == list(range(len(streamed)))
    assert last["status"] == "complete" and last["manifest"] == count.manifest()
    assert last["total_chunks"] == len({p["chunk"] for p in partials}) > 3


def test_stream_equals_batch_sample_for_sample(streamed, official):
    [result] = official.run_sync(REQUEST | dict(output_format=streamed[-1]["format"]))
    assert np.array_equal(heard(streamed), batch_audio(result)[0])
    assert result["seed"] == 7
    for key in ("format", "total_chunks"): assert result[key] == streamed[-1][key]
    assert result["duration"] == pytest.approx(sum(p["duration"] for p in streamed[:-1]))


def test_text_spans_cover_the_text(streamed):
    spans = list(dict.fromkeys(tuple(p["text_span"]) for p in streamed[:-1]))
    assert "".join(bare(PARAGRAPH[start:end]) for start, end in spans) == bare(PARAGRAPH)
    assert all(0 < end - start <= 120 for start, end in spans)


def test_everything_said_is_in_the_schema(streamed, endpoint):
    actions = [dict(action="health"), dict(action="voices")]
    jobs = [answered(endpoint, **request) for request in (REQUEST, *actions)]
    for message in [*streamed, *(m for job in jobs for m in job.output)]: VALID.validate(message)


def test_output_of_a_pcm_stream_is_its_last_partial(endpoint):
    job = answered(endpoint, **REQUEST, stream=True)
    assert job.status == "COMPLETED" and len(job.sizes) > 3
    assert [m["status"] for m in job.output] == ["complete"] and job.output[0]["seq"] == len(job.sizes) - 1


def test_batch_over_the_partial_limit_arrives_whole_in_the_output(endpoint, official):
    job = official.run(REQUEST | dict(text=PARAGRAPH * 2))
    [copy] = job.stream()
    [result] = job.output()
    record = ended(endpoint, job.job_id)
    assert PARTIAL_LIMIT < len(result["audio"]) < RESULT_LIMIT and not record.refused
    assert len(batch_audio(result)[0]) == round(result["duration"] * result["sample_rate"])
    assert copy == {k: v for k, v in result.items() if k != "audio"} | {"message": copy["message"]}
    assert "output" in copy["message"]


def test_batch_over_the_result_limit_fails_naming_formats_that_fit(endpoint):
    request = dict(text=PARAGRAPH * 4, output_format="pcm_24")
    job = answered(endpoint, **request)
    assert job.status == "FAILED" and not job.refused and "over 10 MB" in job.error
    assert "BUCKET_ENDPOINT_URL" in job.error
    named = [f for f in contract.FORMATS if f in job.error.partition(": use ")[2]]
    assert "ogg_opus" in named and "wav" not in named
    states = {f: answered(endpoint, **request | dict(output_format=f)).status for f in named}
    assert states == dict.fromkeys(named, "COMPLETED")


def test_health_and_voices_answer_without_speech(endpoint):
    [health], [voices] = (answered(endpoint, action=action).output for action in ("health", "voices"))
    assert health["health"]["services"] == list(voices["voices"])
    about = health["health"]
    can = about["codec"]["state"] != "unavailable"
    assert about["linacodec"] == can == ("linacodec_tokens" in about["output_formats"])
    assert set(voices["voices"]["tone"]["options"]) == {"level", "rtf"}


def test_pcm_16_without_the_codec_is_pcm_24_and_says_so(codecless):
    [last] = answered(codecless, **REQUEST | dict(stream=True, output_format="pcm_16")).output
    assert last["format"] == "pcm_24" and "needs LinaCodec" in last["message"]


@pytest.mark.parametrize("stream", [True, False])
def test_tokens_without_the_codec_are_an_error(codecless, stream):
    job = answered(codecless, **REQUEST | dict(stream=stream, output_format="linacodec_tokens"))
    assert job.status == "FAILED" and "LinaCodec is not available" in job.error and "pcm_24" in job.error


def test_health_says_why_there_is_no_codec(codecless):
    [about] = answered(codecless, action="health").output
    codec = about["health"]["codec"]
    assert not about["health"]["linacodec"] and codec["state"] == "unavailable"
    assert codecless.env["LINACODEC_WEIGHTS"] in codec["reason"]
    if not os.environ.get("WORKER"): assert "config.yaml" in codec["reason"]  # which may not see the folder
    assert about["health"]["output_formats"] == ["pcm_24", "ogg_opus", "mp3", "wav", "flac"]


@pytest.mark.parametrize("text", [".", "— …\n\n***", "\0\0", "\u200b"], ids=ascii)
def test_a_text_in_which_nothing_can_be_said_is_an_error_and_no_empty_success(endpoint, text):
    job = answered(endpoint, text=text, output_format="pcm_24")
    assert job.status == "FAILED" and "engine 'hibari' can say nothing of `text`" in job.error
