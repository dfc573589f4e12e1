"`.ci/gpu.py`, rehearsed on a processor: what it finds is stored, and no step's end is the end of the others."
import json, os, re, signal, subprocess, sys, time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / ".ci/gpu.py"

# The script with steps of its own: each is a process that runs this same file.
PLANTED = f'''
import importlib.util, os, sys, time
spec = importlib.util.spec_from_file_location("gpu", {str(SCRIPT)!r})
gpu = sys.modules["gpu"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(gpu)
gpu.STEPS.clear()

@gpu.step(20, least_s=0)
def dies(b):
    b.part("before", lambda: dict(sound="bang"))
    os.kill(os.getpid(), 11)

@gpu.step(1, least_s=0)
def overruns(b):
    b.part("before", lambda: dict(sound="tick"))
    time.sleep(60)

@gpu.step(20, least_s=0)
def raises(b):
    b.part("first", lambda: 1 / 0)
    b.part("second", lambda: dict(fine=True))
    b.part("third", lambda: dict(fine=True), least_s=1000)
    raise ValueError("after all parts")

@gpu.step(20, least_s=0)
def works(b): b.part("only", lambda: dict(nan=float("nan"), third=1 / 3))

@gpu.step(20, least_s=1000)
def late(b): raise AssertionError("there was no time for this")

gpu.main()
'''


def run(
    script:Path, # what to run
    out:Path, # where its results go
    *more:str, # further arguments
) -> tuple[dict, str]: # the stored results, and what was printed
    "A rehearsal that ends well."
    command = [sys.executable, script, "--device", "cpu", "--rehearse", "--out", out, *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    return json.loads((out / "gpu.json").read_text()), done.stdout


@pytest.fixture
def planted(tmp_path):
    "The script with the steps above."
    script = tmp_path / "planted.py"
    script.write_text(PLANTED)
    return script


def test_rehearsal(tmp_path):
    found, shown = run(SCRIPT, tmp_path, "--steps", "environment,device_assert,graphs", "--limit", "180")
    status = {name: s["status"] for name, s in found["steps"].items()}
    assert status == dict.fromkeys(("environment", "device_assert", "graphs"), "done")
    assert set(found["found"]["environment"]) > {"software", "copy", "product, tf32", "launch"}
    assert found["found"]["environment"]["product, float32"]["relative_error"] < 1e-4
    assert found["found"]["device_assert"]["planted"]["raised"] and "IndexError" in shown
    assert found["found"]["device_assert"]["codec_afterwards"]["works"]
    assert "published" in found["found"]["graphs"]["error"]["error"]  # `prepare` would have written it
    assert found["rehearsal"] and found["seconds"] < 180 and len(found["code"]) == 12
    assert str(ROOT) not in json.dumps(found["found"])


@pytest.mark.slow
def test_whole_rehearsal(tmp_path):
    found, _ = run(SCRIPT, tmp_path, "--limit", "360")
    assert {step: end["status"] for step, end in found["steps"].items() if end["status"] != "done"} == {}
    assert set(found["found"]) == set(found["steps"]) and len(found["steps"]) == 12 and found["seconds"] < 360
    for codec, part in found["found"]["correctness"].items():
        assert "error" not in part or "float16" in part["error"], codec  # which a processor refuses


def test_one_command_everywhere():
    notebook = (ROOT / "nbs/codec/24_gpu_measured.ipynb").read_text()
    told = re.search(r"python3 \.ci/gpu\.py [^\"\\]*", notebook)[0].split()
    given = dict(zip(told[2::2], told[3::2]))
    made = subprocess.run(["make", "-n", "gpu", "gpu-pack"], cwd=ROOT, capture_output=True, text=True).stdout
    asked = next(line for line in made.splitlines() if ".ci/gpu.py" in line)
    known = subprocess.run([sys.executable, SCRIPT, "--help"], capture_output=True, text=True).stdout
    assert {*given} | {*re.findall(r"--[a-z]+", asked)} <= {*re.findall(r"--[a-z]+", known)}
    assert f"-d {given['--pack']} " in made and (ROOT / given["--known"]).is_file()
    assert given["--out"].endswith("/gpu") and '--out="$RUN_OUT/gpu"' in asked


def test_no_step_ends_the_others(planted, tmp_path):
    found, shown = run(planted, tmp_path / "out")
    status = {name: s["status"] for name, s in found["steps"].items()}
    assert status == dict(dies="died", overruns="killed", raises="done", works="done", late="skipped")
    assert "-11" in found["steps"]["dies"]["why"] and found["steps"]["overruns"]["seconds"] < 15
    assert [found["found"][name]["before"]["sound"] for name in ("dies", "overruns")] == ["bang", "tick"]
    raised = found["found"]["raises"]
    assert raised["first"]["error"].startswith("ZeroDivisionError") and raised["second"]["fine"]
    assert raised["skipped"] == ["third"]
    assert raised["error"]["error"] == "ValueError: after all parts"
    assert {k: found["found"]["works"]["only"][k] for k in ("nan", "third")} == dict(nan=None, third=0.33333)
    assert "dies: died" in shown and "late: skipped" in shown


def test_an_earlier_run_is_kept(planted, tmp_path):
    old, _ = run(planted, tmp_path / "old", "--steps", "raises")
    old["found"]["raises"]["second"] = dict(fine="then")
    old["found"]["works"] = dict(only=dict(third=0), other=dict(kept=True))
    known = tmp_path / "known.json"
    known.write_text(json.dumps(old))
    found, _ = run(planted, tmp_path / "new", "--known", known, "--steps", "works,late")
    assert list(found["steps"]) == ["raises", "works", "late"]
    assert [found["steps"][name].get("run") for name in found["steps"]] == [0, 1, None]
    assert found["found"]["raises"] == old["found"]["raises"]
    assert found["found"]["works"]["other"] == dict(kept=True)
    assert [found["found"]["works"]["only"][k] for k in ("third", "run")] == [.33333, 1]
    assert [r["seconds"] for r in found["runs"]] == [old["seconds"], found["seconds"]]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_cut_off(planted, tmp_path, how):
    planted.write_text(planted.read_text().replace("gpu.step(1,", "gpu.step(60,"))
    command = [sys.executable, planted, "--device", "cpu", "--rehearse", "--out", tmp_path]
    process, file, found = subprocess.Popen(command, stdout=subprocess.DEVNULL), tmp_path / "gpu.json", {}
    ends = time.monotonic() + 60
    while "before" not in found.get("overruns", {}) and time.monotonic() < ends:
        time.sleep(.1)
        if file.exists(): found = json.loads(file.read_text())["found"]
    process.send_signal(how)
    process.wait(30)
    stored = json.loads(file.read_text())
    assert [stored["found"][name]["before"]["sound"] for name in ("dies", "overruns")] == ["bang", "tick"]
    assert stored["steps"]["overruns"]["status"] == ("killed" if how == signal.SIGTERM else "running")


def test_wrong_arguments(tmp_path):
    def refused(*more):
        command = [sys.executable, SCRIPT, "--out", tmp_path, *more]
        return subprocess.run(command, capture_output=True, text=True).stderr
    assert refused("--steps", "speed,juggling").startswith("--steps juggling: known are prepare, environment")
    assert "no wheels there; `make gpu-pack` fetches them" in refused("--pack", str(tmp_path))
