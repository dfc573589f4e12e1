"Run All: every notebook runs from top to bottom for somebody who has the `notebook` extra and nothing else."
import json, os, shutil, subprocess, sys
from pathlib import Path

import pytest
from support_run_all import ROOT, asks_for_more, extras
from test_notebooks import each_notebook, notebooks, run_group

NBS = ROOT / "nbs"
EXTENSION = "%load_ext linacodec_tier3.run_all"
LEFT_OUT = "Left out: it needs "
TIMEOUT_S = 1800  # of notebooks that take 200 s at most on two quiet cores
QUICK = ("04_chunker", "codec/15_upstream", "evaluate/00_measures")  # with every mark but `gpu`, in seconds
HIDE = """
import sys
from importlib.machinery import PathFinder
hidden, found = set({names!r}), PathFinder.find_spec
PathFinder.find_spec = lambda name, *rest: None if name.partition(".")[0] in hidden else found(name, *rest)
"""


def cells_of(path): return json.loads(Path(path).read_text(encoding="utf-8"))["cells"]


@each_notebook
def test_a_notebook_that_asks_for_more_begins_by_saying_how_it_is_run(path):
    cells = cells_of(path)
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    first = [EXTENSION in source.splitlines() for source in code[:2]]
    assert any(first) == asks_for_more(cells), f"{EXTENSION} belongs at the top where a cell needs more"
    assert not any("nbdev_export()" in source for source in code), "in the shell: `nbdev_export`"


def executed(
    path:Path, # notebook
    jupyter:Path, # the program, of the environment to run it in
    folder:Path, # empty, for what comes out
    **more, # environment variables
) -> list: # the notebook's cells
    "A notebook, run by plain nbclient where it lies; fails with what nbclient says if a cell does."
    made, log = folder / "made.ipynb", folder / "log"
    unset = ("CODEC", "FLAGS", "PYTHONPATH", "VIRTUAL_ENV")
    base = {k: v for k, v in os.environ.items() if k not in unset}
    command = ["env", "-i", *(f"{k}={v}" for k, v in (base | more).items()), jupyter, "execute",
               "--timeout", str(TIMEOUT_S), "--output", made, path]
    status = run_group(list(map(str, command)), log, TIMEOUT_S)
    if status or not made.exists(): pytest.fail(log.read_text(errors="replace")[-4_000:], pytrace=False)
    return cells_of(made)


def left_out(cell): # of a notebook that has been run
    "Whether a cell says that it was left out."
    plain = ["".join(out.get("data", {}).get("text/plain", "")) for out in cell.get("outputs", [])]
    return any(line.startswith(LEFT_OUT) for line in plain)


def shown(outputs): # -> kinds of data and texts, in order; notes that a cell was left out apart
    "What a cell shows, whoever shows it."
    text = lambda value: value if isinstance(value, str) else "".join(value or ())
    data = lambda out: {kind: text(v) for kind, v in out.get("data", {}).items()}
    found = [data(out) or text(out["text"]) for out in outputs]
    noted = lambda found: isinstance(found, dict) and found.get("text/plain", "").startswith(LEFT_OUT)
    return [one for one in found if not noted(one)]


def check_kept(
    path:Path, # notebook, as it is stored
    cells:list, # the same notebook after it was run
) -> int: # cells that were left out
    "Cells that were left out say so, and show what is stored."
    count = 0
    for before, after in zip(cells_of(path), cells, strict=True):
        if not left_out(after): continue
        assert shown(after["outputs"]) == shown(before["outputs"]), "".join(before["source"])
        count += 1
    return count


@pytest.mark.parametrize("name", QUICK)
def test_some_run_without_development_packages(name, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(HIDE.format(names=sorted(extras())))
    path = NBS / f"{name}.ipynb"
    jupyter = Path(sys.executable).with_name("jupyter")
    cells = executed(path, jupyter, tmp_path, PYTHONPATH=str(tmp_path))
    assert check_kept(path, cells) >= 1


def test_the_quick_ones_have_every_mark_and_a_package_that_is_missing():
    code = "\n".join("".join(cell["source"]) for name in QUICK for cell in cells_of(NBS / f"{name}.ipynb"))
    assert all(f"#| {mark}" in code for mark in ("slow", "weights", "eval: false", "needs jiwer"))
    assert "from hypothesis import" in code and "hypothesis" in extras() and len(notebooks()) > 60


@pytest.fixture(scope="module")
def alone(tmp_path_factory): # an environment with the `notebook` extra alone; its `jupyter`
    folder = tmp_path_factory.mktemp("notebook")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pip = [folder / "bin/python", "-m", "pip", "-qq", "--disable-pip-version-check", "install",
           "-c", "requirements.lock"]
    subprocess.run([*pip, "pip", "setuptools", "wheel"], check=True, cwd=ROOT)
    subprocess.run([*pip, "--no-build-isolation", "-e", ".[notebook]"], check=True, cwd=ROOT)
    yield folder / "bin/jupyter"
    shutil.rmtree(folder)


@pytest.mark.slow
@each_notebook
def test_all_run_with_the_notebook_extra_alone(path, alone, tmp_path):
    cells = executed(path, alone, tmp_path, PATH=f"{alone.parent}:{os.environ['PATH']}")
    check_kept(path, cells)
