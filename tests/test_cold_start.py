"What a worker does before its first job: what it imports, which phases it times, and how long they take."
import json, os, subprocess, sys, time
from pathlib import Path
from statistics import median

import psutil
import pytest
from support import answered, ended, nowhere, submit
from test_imports import fresh

from linacodec_tier3 import handler
from linacodec_tier3.config import read_config
from linacodec_tier3.evaluate.reporting import machine
from linacodec_tier3.local.endpoint import LocalEndpoint
from linacodec_tier3.phases import Phases

ROOT = Path(__file__).resolve().parent.parent
RESULT = os.environ.get("COLD_START_RESULT")  # where the measurement is stored, if anywhere
BEFORE = os.environ.get("COLD_START_BEFORE")  # a commit of this repository to compare with
ROUNDS = int(os.environ.get("COLD_START_ROUNDS") or 7)  # fresh processes of each kind
AT_MOST = 1.3  # times as long: the imports as those of torch and the SDK, the first job as the tenth
NEVER = {"av", "babel", "boto3", "emoji", "ftfy", "huggingface_hub", "jiwer", "jsonschema", "markdown_it",
         "matplotlib", "nbdev", "num2words", "onnx", "pandas", "sympy", "torchaudio", "transformers",
         "uvicorn"}  # that are wanted for one text in a hundred, or not in a worker
PHASES = ["sdk", "imports", "settings", "checks", "torch", "engine", "text", "weights", "network", "codec",
          "warm_up", "request"]
JOBS = ("The kettle is on, and the tea is near.", "We went home along the river road.",
        "She wrote a letter to her old aunt.", "Nobody knows where the grey cat went.",
        "The train was late again this morning.", "He plays the cello when it is raining.",
        "They built a small boat in the barn.", "A cold wind came down from the hills.",
        "The baker sold the last loaf at noon.", "My brother keeps bees behind the barn.")

ONCE = """
import os, runpod, runpy, sys
os.environ |= dict(CODEC="nano", DEVICE="cpu", WARM_UP="on")
runpod.serverless.start = lambda *args, **kwargs: globals().update(spent="started")
sys.argv = ["handler"]
runpy.run_module("linacodec_tier3.handler", run_name="__main__")
"""


def test_what_one_text_in_a_hundred_needs_is_not_imported_at_the_start():
    modules, spent = fresh(ONCE)
    assert spent == "started" and {"torch", "runpod", "hibari"} <= modules
    assert not NEVER & modules


def test_the_sdk_starts_no_process_for_the_processors_name():
    code = """
import subprocess
spent, begin = [], subprocess.Popen.__init__
def note(self, args, *rest, **more):
    spent.append(str(args))
    begin(self, args, *rest, **more)
subprocess.Popen.__init__ = note
import linacodec_tier3.handler
"""
    _, begun = fresh(code)
    assert not [args for args in begun if "cpuinfo" in args], begun


def test_a_worker_tells_how_it_started(tmp_path):
    with LocalEndpoint(env=nowhere(tmp_path) | dict(CODEC="nano", LOG_LEVEL="info")) as endpoint:
        for _ in range(2): assert answered(endpoint, text="Hello.", stream=True).status == "COMPLETED"
        [said] = answered(endpoint, action="health").output
        told = [json.loads(line[line.index("{"):]) for line in endpoint.logs() if '"cold_start"' in line]
    start = said["health"]["cold_start"]
    assert sorted(start["phases"]) == sorted(PHASES), start
    assert list(start["at"]) == ["python", "first_take", "first_partial"]
    assert list(start["at"].values()) == sorted(start["at"].values())
    assert all(ms >= 0 for ms in start["phases"].values()) and len(told) == 1
    assert told[0]["phases"] == start["phases"] and "first_partial" not in told[0]["at"]
    outer = ("imports", "settings", "checks", "torch", "engine", "text", "codec", "warm_up", "request")
    assert sum(start["phases"][name] for name in outer) < start["at"]["first_take"], "one after another"


def test_nothing_is_said_before_the_first_job_if_nobody_wants_it(tmp_path):
    with LocalEndpoint(env=nowhere(tmp_path) | dict(CODEC="nano", WARM_UP="off")) as endpoint:
        [said] = answered(endpoint, action="health").output
    assert said["health"]["cold_start"]["phases"]["warm_up"] < 50


def rounded(value): # the same with all numbers of a JSON value to the millisecond
    if isinstance(value, dict): return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list): return [rounded(v) for v in value]
    return round(value, 3) if isinstance(value, float) else value


MOODY = """
import os, time
from pathlib import Path
from linacodec_tier3.engines.tone import Tone
class Moody(Tone):
    "Goes wrong at its first sentence in a process, until it is asked for another one."
    name, fresh = "moody", True
    def synthesise(self, chunk, *args):
        first, Moody.fresh = Moody.fresh, False
        early = "And now" not in chunk
        if early and os.environ["MOOD"] == "raises": raise RuntimeError("not before breakfast")
        if first and os.environ["MOOD"] == "sleeps": time.sleep(3600)
        return super().synthesise(chunk, *args)
"""


def moody(
    folder:Path, # empty, goes onto the worker's PYTHONPATH
    mood:str, # "raises" or "sleeps"
) -> dict: # environment of such a worker
    "What `pip install` would leave of an engine that is bad at beginning."
    info = folder / "moody-1.0.dist-info"
    info.mkdir()
    (folder / "moody.py").write_text(MOODY)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: moody\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[linacodec_tier3.engines]\nmoody = moody:Moody\n")
    return dict(PYTHONPATH=str(folder), DEFAULT_SERVICE="moody", MOOD=mood, JOB_TIMEOUT_S="5", CODEC="none")


@pytest.mark.parametrize("mood", ["raises", "sleeps"])
def test_a_first_sentence_that_goes_wrong_costs_no_job(mood, tmp_path):
    with LocalEndpoint(env=moody(tmp_path, mood)) as endpoint:
        job = answered(endpoint, text="And now?", stream=True, output_format="pcm_24")
        [line] = [line for line in endpoint.logs() if "warm-up: " in line]
    assert job.status == "COMPLETED" and job.retries == job.deaths == 0, job.error
    why = {"raises": "jobs are taken all the same", "sleeps": "not spoken within 5 s (JOB_TIMEOUT_S)"}
    assert why[mood] in line, line


def test_what_comes_before_the_first_job_is_done_once_and_may_end_the_worker(monkeypatch):
    done, ended = [], []
    monkeypatch.setattr(handler, "on_shutdown", lambda cfg, ends: None)
    monkeypatch.setattr(handler, "replace_now", ended.append)
    monkeypatch.setattr(handler, "cold_start", Phases())
    config = handler.worker_config(read_config({"CONCURRENCY": "3"}), lambda: done.append(1))
    assert [config["concurrency_modifier"](n) for n in (1, 3)] == [3, 3] and done == [1] and not ended
    monkeypatch.setattr(handler, "cold_start", Phases())
    def lost(): raise RuntimeError("CUDA error: unspecified launch failure")
    assert handler.worker_config(read_config({}), lost)["concurrency_modifier"](1) == 1
    assert ended == ["the GPU is lost: CUDA error: unspecified launch failure"]


def imported(
    code:str, # imports
) -> float: # seconds from the interpreter's first line
    "What an import takes in a fresh process."
    line = f"import time; began = time.perf_counter()\n{code}\nprint(time.perf_counter() - began)"
    done = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def started(
    round:int, # which job comes first
    env:dict, # additions to the worker's
) -> dict: # seconds, from the start of the worker's process, and milliseconds of its jobs
    "A fresh worker with a job that waits for it, and nine more jobs."
    texts = [JOBS[(round + i) % len(JOBS)] for i in range(10)]
    endpoint = LocalEndpoint(env=env)
    began = time.monotonic()
    endpoint.start(wait=False)
    try:
        jobs = [ended(endpoint, submit(endpoint, dict(text=texts[0], stream=True)), 240)]
        spent = sum(psutil.Process(endpoint.worker_pids[0]).cpu_times()[:2])
        jobs += [answered(endpoint, text=text, stream=True) for text in texts[1:]]
        [said] = answered(endpoint, action="health").output
    finally: endpoint.stop()
    assert {job.status for job in jobs} == {"COMPLETED"}, [job.error for job in jobs]
    times = dict(taken_s=jobs[0].taken - began, first_partial_s=jobs[0].first_partial - began)
    return times | dict(processor_s=spent, cold_start=said["health"].get("cold_start"),
                        jobs_ms=[job.output[-1]["timing"]["first_partial"] for job in jobs])


@pytest.mark.skipif(not RESULT, reason="times mean something on a quiet machine only: `make cold-start`")
def test_how_long_it_takes(tmp_path):
    env = nowhere(tmp_path) | dict(CODEC="nano", PYTHONSAFEPATH="1", OMP_NUM_THREADS="")
    kinds = {"after": env}
    if BEFORE:
        archive = ["git", "archive", BEFORE, "linacodec_tier3"]
        kept = subprocess.run(archive, cwd=ROOT, capture_output=True, check=True).stdout
        (tmp_path / "tree").mkdir()
        subprocess.run(["tar", "-x", "-C", tmp_path / "tree"], input=kept, check=True)
        kinds = {"before": env | dict(PYTHONPATH=str(tmp_path / "tree"))} | kinds
    alone, ours = "import torch, runpod", "import linacodec_tier3.handler, linacodec_tier3.codec.linacodec"
    imports, runs = {"alone_s": [], "worker_s": []}, {kind: [] for kind in kinds}
    for i in range(ROUNDS + 1):  # the first reads all files once, and does not count
        found = imported(alone), imported(ours), {kind: started(i, kinds[kind]) for kind in kinds}
        if not i: continue
        imports["alone_s"].append(found[0]); imports["worker_s"].append(found[1])
        for kind in kinds: runs[kind].append(found[2][kind])
    result = dict(machine=machine(), rounds=ROUNDS, before_commit=BEFORE, imports=imports, runs=runs)
    Path(RESULT).write_text(json.dumps(rounded(result), indent=1) + "\n")
    assert median(imports["worker_s"]) <= AT_MOST * median(imports["alone_s"]), imports
    ratios = [run["jobs_ms"][0] / median(run["jobs_ms"][5:]) for run in runs["after"]]  # as one job swings
    assert median(ratios) <= AT_MOST, ratios
