"The worker imports no room that it does not need, and a name of the package costs nothing until it is used."
import json, statistics, subprocess, sys

import pytest

import linacodec_tier3

NAMES = ("LinaCodec", "Client", "speak", "client_for", "LocalEndpoint", "register_engine")
LIMIT_MS = 50
HEAVY = {"aiohttp", "boto3", "hibari_tts", "huggingface_hub", "numpy", "pydantic", "requests", "runpod",
         "safetensors", "soundfile", "soxr", "torch"}
ROOMS = tuple(f"linacodec_tier3.{room}" for room in ("local", "explore", "train", "evaluate"))
NOT_NEEDED = { # what the use of a name leaves alone
    "LinaCodec": {"aiohttp", "boto3", "hibari_tts", "huggingface_hub", "requests", "runpod"},
    "Client": {"aiohttp", "boto3", "hibari_tts", "huggingface_hub", "runpod", "torch"},
    "speak": {"aiohttp", "boto3", "hibari_tts", "huggingface_hub", "runpod", "torch"},
    "client_for": {"aiohttp", "boto3", "hibari_tts", "huggingface_hub", "runpod", "torch"},
    "LocalEndpoint": {"boto3", "hibari_tts", "huggingface_hub", "runpod", "torch"},
    "register_engine": {"aiohttp", "boto3", "hibari_tts", "huggingface_hub", "runpod", "torch"},
}


def fresh(
    code:str, # runs in an interpreter of its own; `spent` is what it measures
) -> tuple: # names of the modules there are afterwards, and `spent`
    "What an import does in a process that has imported nothing before."
    code = f"import json, sys, time\nspent = None\n{code}\nprint(json.dumps([sorted(sys.modules), spent]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert not done.returncode, done.stderr[-2_000:]
    modules, spent = json.loads(done.stdout.splitlines()[-1])
    return set(modules), spent


def inside(rooms, modules): return {m for m in modules if m.startswith(rooms)}


def test_the_worker_imports_neither_local_nor_train_nor_evaluate():
    modules, _ = fresh("import linacodec_tier3.handler")
    assert "runpod" in modules and not inside(ROOMS, modules)


def test_nor_does_it_as_a_program(): # which ends here where the SDK would begin
    code = """
import os, runpod, runpy
os.environ["CODEC"] = "none"
runpod.serverless.start = lambda *args, **kwargs: globals().update(spent="started")
sys.argv = ["handler"]
runpy.run_module("linacodec_tier3.handler", run_name="__main__")
"""
    modules, spent = fresh(code)
    assert spent == "started" and not inside(ROOMS, modules)


def test_the_six_names_are_there_and_importing_the_package_loads_none_of_them():
    modules, names = fresh("import linacodec_tier3; spent = dir(linacodec_tier3)")
    assert set(NAMES) == set(linacodec_tier3.__all__) <= set(names)
    assert not HEAVY & modules and inside("linacodec_tier3", modules) == {"linacodec_tier3"}


def test_importing_the_package_takes_less_than_50_ms_with_each_name_unloaded():
    code = """
began = time.perf_counter()
import linacodec_tier3
dir(linacodec_tier3)
spent = 1e3 * (time.perf_counter() - began)
"""
    spent = [fresh(code)[1] for _ in range(5)]
    assert statistics.median(spent) < LIMIT_MS, spent


@pytest.mark.parametrize("name", NAMES)
def test_a_name_loads_what_it_needs_and_nothing_else(name):
    shown = f"spent = [{name}.__module__, {name}.__name__]"
    modules, spent = fresh(f"from linacodec_tier3 import {name}; {shown}")
    assert spent[1] == name and spent[0] in modules
    assert not NOT_NEEDED[name] & modules
    if name != "LocalEndpoint": assert not inside(ROOMS, modules)


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'LinaCodex'"): linacodec_tier3.LinaCodex
