"What PyPI gets works alone: nothing of nbdev, Jupyter or matplotlib is needed, and no network to speak."
import json, os, shutil, subprocess, sys
from pathlib import Path

import pytest, soundfile

from linacodec_tier3 import __version__
from support import listed_copy

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


def run(*command, cwd, **env):
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")} | env
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=clean, capture_output=True, text=True)
    assert not done.returncode, (done.stdout + done.stderr)[-4_000:]
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory): # a virtual environment with the package and what it requires, nothing else
    folder = tmp_path_factory.mktemp("install")
    listed_copy(folder / "source")
    run(sys.executable, "-m", "build", "--no-isolation", "-o", "dist", "source", cwd=folder)
    wheel, = (folder / "dist").glob("*.whl")
    run(sys.executable, "-m", "venv", folder / "venv", cwd=folder)
    pip = [folder / "venv/bin/python", "-m", "pip", "-q", "--disable-pip-version-check"]
    run(*pip, "install", "--no-compile", "-c", "source/requirements.lock", wheel, cwd=folder)
    run(*pip, "check", cwd=folder)
    yield folder / "venv"
    shutil.rmtree(folder)  # over a gigabyte


def test_package_worker_and_client_work_without_development_tools(installed, tmp_path):
    said = json.loads(run(installed / "bin/python", "-c", SPEAK % (DEV,), cwd=tmp_path).splitlines()[-1])
    assert Path(said["where"]).is_relative_to(installed)
    assert not said["there"] and not set(DEV) & set(said["imported"])
    sources = {f"linacodec_tier3.{path.stem}" for path in (ROOT / "linacodec_tier3").glob("[!_]*.py")}
    assert sources <= set(said["modules"]) and 0.4 < said["seconds"] < 3


def test_command_line_speaks_where_nothing_can_be_fetched(installed, tmp_path):
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9")
    alone = dict(HOME=str(tmp_path), HF_HOME=str(tmp_path), CODEC="auto", no_proxy="127.0.0.1") | nowhere
    command = installed / "bin/linacodec-tier3"
    assert run(command, "--version", cwd=tmp_path).strip() == __version__
    said = run(command, "run", "--text", "Good morning.", "--out", "said", cwd=tmp_path, **alone)
    sound, rate = soundfile.read(tmp_path / "said/speech.wav")
    assert "linacodec-nano" in said and rate == 48_000 and 0.4 < len(sound) / rate < 3


def test_what_an_image_is_tried_with_speaks(installed, tmp_path): # the release workflow pipes it into each
    with_codec = dict(HOME=str(tmp_path), HF_HOME=str(tmp_path), CODEC="auto")
    said = run(installed / "bin/python", ROOT / ".ci/speaks.py", cwd=tmp_path, **with_codec)
    assert [line.partition(":")[0] for line in said.splitlines()] == ["linacodec_tokens", "pcm_16"]
