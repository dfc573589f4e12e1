"Several engines in one worker: each stays while there is room, and its memory comes back when it goes."
import json, os, subprocess, sys

import pytest
from support import answered, ended, events, submit, wait_until

from linacodec_tier3.audio import from_base64, from_pcm
from linacodec_tier3.local.endpoint import LocalEndpoint

MB, JOBS = 150, 200  # of each engine; of the one worker
NAMES = ("north", "east", "south", "west")
LEVELS = {name: k / 10 for k, name in enumerate(NAMES, 1)}
ENGINES = f"""
import numpy as np
from linacodec_tier3.background import log_event
from linacodec_tier3.engines.tone import Tone

class Heavy(Tone):
    def __init__(self):
        self.weights_held = np.ones({MB} * 125_000)
        log_event("engine_loaded", name=self.name)

    def synthesise(self, chunk, voice, seed, speed, options):
        return np.full(self.rate // 50, self.level * self.weights_held[0], np.float32)

"""


def site(folder): # a package with four engines, each of a level of its own
    info = folder / "heavy-1.0.dist-info"
    info.mkdir(parents=True)
    classes = (f"class {n.title()}(Heavy): name, level = {n!r}, {level}" for n, level in LEVELS.items())
    (folder / "heavy.py").write_text(ENGINES + "\n".join(classes) + "\n")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: heavy\nVersion: 1.0\n")
    points = "\n".join(f"{n} = heavy:{n.title()}" for n in NAMES)
    (info / "entry_points.txt").write_text(f"[linacodec_tier3.engines]\n{points}\n")
    return {"PYTHONPATH": str(folder), "DEFAULT_SERVICE": "tone", "DEVICE": "cpu"}


def asked(endpoint, name): # job ID
    return submit(endpoint, dict(text="Once.", service=name, output_format="pcm_24"))


def heard(endpoint, job): # the level of what a job is answered with
    [result] = ended(endpoint, job).output
    return round(float(abs(from_pcm(from_base64(result["audio"]), "pcm_24")).max()), 1)


def state(endpoint): # what the worker says of itself
    [message] = answered(endpoint, action="health").output
    return message["health"]


SWITCHING = f"""
import asyncio, json, logging, psutil
from linacodec_tier3.audio import from_base64, from_pcm
from linacodec_tier3.handler import handler, health
from linacodec_tier3.config import get_config
from linacodec_tier3.tts import load_tts_model, loaded_engines
logging.basicConfig(level="INFO", format="%(message)s")
load_tts_model("tone")

async def heard(n, name):
    given = dict(text="Once.", service=name, output_format="pcm_24")
    [result] = [m async for m in handler(dict(id=str(n), input=given))]
    level = abs(from_pcm(from_base64(result["audio"]), "pcm_24")).max()
    return round(float(level), 1), psutil.Process().memory_info().rss

async def all_of_them():
    return [await heard(n, {NAMES}[n // 10 % 4]) for n in range({JOBS})]

levels, memory = zip(*asyncio.run(all_of_them()))
print(json.dumps(dict(levels=levels, memory=memory, engines=health(get_config())["engines"])))
"""


def test_four_engines_take_turns_in_one_worker_in_bounded_memory_and_none_is_mixed_up(tmp_path):
    env = os.environ | site(tmp_path / "site") | dict(MAX_ENGINES="3")
    done = subprocess.run([sys.executable, "-c", SWITCHING], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    seen, one = json.loads(done.stdout), MB * 1e6
    assert seen["levels"] == [LEVELS[NAMES[n // 10 % 4]] for n in range(JOBS)]
    loads = done.stderr.count('"engine_loaded"')
    assert loads == JOBS / 10  # each is the longest unused when its turn comes, and stays while it is warm
    assert done.stderr.count("is given up") == loads + 1 - 3 and len(seen["engines"]) == 3
    first, most = seen["memory"][0], max(seen["memory"])
    assert first + one < most < first + 2.6 * one  # three may be held, and the first is among them
    assert max(seen["memory"][-40:]) < max(seen["memory"][40:80]) + one / 2


def test_what_is_to_be_loaded_at_the_start_is_there_before_the_first_job(tmp_path):
    env = site(tmp_path / "site") | dict(PRELOAD="north,tone")
    with LocalEndpoint(env=env) as endpoint:
        assert set(state(endpoint)["engines"]) == {"north", "tone"} and events(endpoint, "engine_loaded") == 1
        assert heard(endpoint, asked(endpoint, "north")) == LEVELS["north"]
        assert events(endpoint, "engine_loaded") == 1


def test_an_engine_that_speaks_is_not_given_up_for_another(tmp_path):
    env = site(tmp_path / "site") | dict(MAX_ENGINES="1", CONCURRENCY="2")
    with LocalEndpoint(env=env) as endpoint:
        long = dict(text="One. " * 40, service="tone", output_format="pcm_24", stream=True, max_chars=20,
                    parameters={"rtf": 1.0})
        job = submit(endpoint, long)
        wait_until(lambda: endpoint.job(job).sizes)
        assert heard(endpoint, asked(endpoint, "east")) == LEVELS["east"]
        assert set(state(endpoint)["engines"]) == {"tone", "east"}  # one more than there may be
        assert state(endpoint)["engines"]["tone"]["in_use"] and endpoint.job(job).status == "IN_PROGRESS"
        assert ended(endpoint, job).status == "COMPLETED"
        assert heard(endpoint, asked(endpoint, "west")) == LEVELS["west"]
        assert set(state(endpoint)["engines"]) == {"west"}


OUT_OF_MEMORY = """
import logging, resource
from linacodec_tier3.memory import own_memory
from linacodec_tier3.tts import load_tts_model, loaded_engines
logging.basicConfig(level="INFO", format="%(message)s")
load_tts_model("tone")
load_tts_model("north")
taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + 60_000_000,) * 2)
print(load_tts_model("east").name, *loaded_engines())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a bound on memory as Linux has it")
def test_memory_that_runs_out_while_an_engine_loads_is_had_from_the_others(tmp_path):
    env = os.environ | site(tmp_path / "site")
    done = subprocess.run([sys.executable, "-c", OUT_OF_MEMORY], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["east", "east"]  # in the place of both others
    assert "north is given up" in done.stderr and "as memory ran out" in done.stderr


def test_a_worker_without_runpod_says_what_its_sdk_makes_of_the_file_in_the_repository(tmp_path):
    (tmp_path / "test_input.json").write_text('{"input": {"text": "Hello."}}')
    env = {k: v for k, v in os.environ.items() if not k.startswith("RUNPOD")} | dict(DEFAULT_SERVICE="tone")
    worker = [sys.executable, "-m", "linacodec_tier3.handler"]
    done = subprocess.run(worker, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    said = done.stdout + done.stderr
    assert "asks a handler that streams for nothing" in said and "linacodec-tier3 serve" in said
    assert "async_generator object" in said  # which is what it is about


@pytest.mark.parametrize("env, why", [
    (dict(PRELOAD="nobody"), "PRELOAD='nobody': `service` is 'nobody'; known: default, "),
    (dict(PRELOAD="north,east", MAX_ENGINES="2"), "these are 3 engines, and MAX_ENGINES=2 may be held"),
    (dict(PRELOAD="north east"), "expected names of services with commas between them")])
def test_a_list_that_cannot_be_loaded_ends_the_worker_in_one_line(tmp_path, env, why):
    env = os.environ | site(tmp_path / "site") | env
    worker = [sys.executable, "-m", "linacodec_tier3.handler"]
    done = subprocess.run(worker, env=env, capture_output=True, text=True, timeout=120)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and last.startswith("linacodec-tier3 cannot start: PRELOAD=") and why in last
