"What `pip install .` leaves works alone: nothing of nbdev, Jupyter or matplotlib is needed."
import json, os, shutil, subprocess, sys
from configparser import ConfigParser
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parent.parent
DEV = ("nbdev", "execnb", "IPython", "ipykernel", "jupyterlab", "ipywidgets", "matplotlib",
       "pytest", "torchaudio", "vocos", "einops", "jsonargparse")
SPEAK = """
import importlib, json, os, pkgutil, sys
os.environ["CODEC_HOME"] = "converted"
import linacodec_tier3, numpy as np
from linacodec_tier3.client import Client, speak
from linacodec_tier3.codec import LinaCodec
from linacodec_tier3.local.endpoint import LocalEndpoint

names = [m.name for m in pkgutil.walk_packages(linacodec_tier3.__path__, "linacodec_tier3.")]
for name in names: importlib.import_module(name)
codec = LinaCodec.from_pretrained("linacodec-nano", device="cpu")
assert len(codec.decode(*codec.encode(np.sin(np.arange(24_000.)), 24_000))) > 40_000
with LocalEndpoint() as endpoint:
    pieces = list(speak(Client(endpoint.endpoint_url), "Good morning.", output_format="pcm_24"))
print(json.dumps(dict(where=linacodec_tier3.__file__, modules=names,
                      there=[m for m in %r if importlib.util.find_spec(m)],
                      imported=sorted(sys.modules), seconds=sum(len(p.audio) / p.rate for p in pieces))))
"""


def run(*command, cwd):
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=clean, capture_output=True, text=True)
    assert not done.returncode, (done.stdout + done.stderr)[-4_000:]
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory): # a virtual environment with the package and what it requires, nothing else
    folder = tmp_path_factory.mktemp("install")
    listed = run("git", "ls-files", "-co", "--exclude-standard", "-z", cwd=ROOT).split("\0")
    for name in filter(None, listed):
        if not (ROOT / name).exists(): continue
        (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / "source" / name)
    run(sys.executable, "-m", "venv", folder / "venv", cwd=folder)
    pip = [folder / "venv/bin/python", "-m", "pip", "-q", "--disable-pip-version-check"]
    run(*pip, "install", "--no-compile", "-c", "source/requirements.lock", "./source", cwd=folder)
    run(*pip, "check", cwd=folder)
    yield folder / "venv"
    shutil.rmtree(folder)  # over a gigabyte


def test_what_is_locked_runs_on_the_oldest_python_too(): # Debian 12 has 3.11.2
    settings = ConfigParser()
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    oldest = settings["DEFAULT"]["min_python"] + ".0"
    asked = {d.name: d.metadata.get("Requires-Python") or "" for d in distributions()}
    assert len(asked) > 100 and any(asked.values())
    assert {name: python for name, python in asked.items() if oldest not in SpecifierSet(python)} == {}


def test_package_worker_and_client_work_without_development_tools(installed, tmp_path):
    said = json.loads(run(installed / "bin/python", "-c", SPEAK % (DEV,), cwd=tmp_path).splitlines()[-1])
    assert Path(said["where"]).is_relative_to(installed)
    assert not said["there"] and not set(DEV) & set(said["imported"])
    sources = {f"linacodec_tier3.{path.stem}" for path in (ROOT / "linacodec_tier3").glob("[!_]*.py")}
    assert sources <= set(said["modules"]) and 0.4 < said["seconds"] < 3


def test_command_line_answers(installed, tmp_path):
    assert "serve" in run(installed / "bin/linacodec-tier3", "--help", cwd=tmp_path)
