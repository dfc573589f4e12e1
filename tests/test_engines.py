"An engine from a separate package is found, and when it goes wrong that costs one job."
import time

import pytest

from linacodec_tier3.local.endpoint import LocalEndpoint
from support import PARAGRAPH, answered, events, install_engine, wait_until

TIMEOUT_S = 2
GOOD, BAD = "Good morning.", f"{PARAGRAPH}\n\nHere comes the trouble.\n\n{PARAGRAPH}"


@pytest.fixture(scope="module")
def impatient(tmp_path_factory):
    env = dict(JOB_TIMEOUT_S=str(TIMEOUT_S), CONCURRENCY="2")
    with LocalEndpoint(env=install_engine(tmp_path_factory.mktemp("site")) | env) as running:
        wait_until(lambda: answered(running, action="voices").output)  # imports every engine, torch with some
        yield running


def ask(endpoint, text, trouble="none", **more):
    request = dict(text=text, output_format="pcm_24", stream=True, parameters={"trouble": trouble})
    return answered(endpoint, **request | more)


def test_an_engine_of_another_package_is_found_by_its_entry_point(impatient):
    [voices] = answered(impatient, action="voices").output
    assert {"hibari", "tone", "witness"} <= set(voices["voices"])
    assert voices["voices"]["witness"]["rate"] == 16_000
    [last] = ask(impatient, GOOD).output
    assert last["manifest"]["samples"] == pytest.approx(24_000 / 2, rel=0.1)


@pytest.mark.parametrize("trouble, why", [
    ("raises", "the weights are gone"), ("nan", "NaN or infinity"), ("int16", "int16 of shape (8000,)"),
    ("stereo", "shape (2, 8000)"), ("nothing", "object of shape ()")])
def test_a_word_that_an_engine_fails_at_is_reported_and_all_others_are_said(impatient, trouble, why):
    before = events(impatient, "engine_loaded")
    job, [whole] = ask(impatient, BAD, trouble), ask(impatient, BAD).output
    [last] = job.output
    [left_out] = last["skipped"]
    assert job.status == "COMPLETED" and not job.refused and last["total_chunks"] == whole["total_chunks"]
    assert why in left_out["why"] and "\n" not in left_out["why"] and "skipped" not in whole
    assert BAD[left_out["start"]:left_out["end"]].strip(".") == "trouble"
    assert ask(impatient, GOOD).status == "COMPLETED" and events(impatient, "engine_loaded") == before


def test_a_silent_chunk_is_passed_over_and_a_silent_text_is_an_error(impatient):
    [last], [whole] = ask(impatient, BAD, "silence").output, ask(impatient, BAD).output
    assert last["total_chunks"] == last["manifest"]["partials"] == whole["total_chunks"] - 1
    [left_out] = last["skipped"]
    assert BAD[left_out["start"]:left_out["end"]] == "Here comes the trouble."
    assert left_out["why"] == "the engine made no sound of it"
    job = ask(impatient, "Nothing but trouble.", "silence")
    assert job.status == "FAILED" and "engine 'witness' made no sound" in job.error


def test_a_job_over_its_deadline_fails_saying_so_and_the_next_works(impatient):
    start = time.monotonic()
    job = ask(impatient, PARAGRAPH, service="tone", parameters={"rtf": 0.3})
    assert job.status == "FAILED" and job.sizes
    assert "JOB_TIMEOUT_S" in job.error and f"{TIMEOUT_S} s" in job.error
    assert time.monotonic() - start < TIMEOUT_S + 5 and ask(impatient, GOOD).status == "COMPLETED"


def test_an_engine_that_hangs_costs_one_job_and_is_loaded_afresh_for_the_next(impatient):
    before = events(impatient, "engine_loaded")
    job = ask(impatient, BAD, "hangs")
    assert job.status == "FAILED" and "JOB_TIMEOUT_S" in job.error and job.sizes
    good = ask(impatient, GOOD)
    assert good.status == "COMPLETED" and good.worker == job.worker
    wait_until(lambda: events(impatient, "engine_loaded") == before + 1)  # logs may come late
