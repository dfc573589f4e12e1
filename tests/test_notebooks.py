"Every notebook runs top to bottom, and is stored as a reader should find it."
import ast, json, os, re, signal, subprocess, sys
from contextlib import suppress
from pathlib import Path

import pytest
from nbdev.process import NBProcessor

NBS = Path(__file__).resolve().parent.parent / "nbs"
MAX_BYTES = 500_000
TIMEOUT_S, SLOW_TIMEOUT_S = 1200, 7200  # of notebooks that take 60 and 1200 s at most on two quiet cores


def notebooks() -> list: # paths, in reading order; nbdev too passes over names that start with "." or "_"
    "All that nbdev would test."
    hidden = lambda path: any(part[0] in "._" for part in path.relative_to(NBS).parts)
    return sorted(path for path in NBS.rglob("*.ipynb") if not hidden(path))


each_notebook = pytest.mark.parametrize("path", notebooks(), ids=lambda p: p.relative_to(NBS).as_posix())


def run_group(
    cmd:list, # program and arguments
    log:Path, # where its output goes: a pipe would stay open as long as any child of a child
    timeout:float, # seconds
) -> int|None: # exit status, or None when the time was up
    "A command that ends together with everything it started."
    with open(log, "wb") as out:
        env = {k: v for k, v in os.environ.items() if k != "CODEC"}  # as it comes
        proc = subprocess.Popen(cmd, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=NBS.parent,
                                env=env, start_new_session=True)
        try: return proc.wait(timeout)
        except subprocess.TimeoutExpired: return None
        finally:
            with suppress(ProcessLookupError): os.killpg(proc.pid, signal.SIGKILL)
            proc.wait()


@each_notebook
def test_runs(path, flags, tmp_path):
    timeout, log = SLOW_TIMEOUT_S if "slow" in flags else TIMEOUT_S, tmp_path / "log"
    nbdev_test = Path(sys.executable).with_name("nbdev_test")
    command = [nbdev_test, "--path", path, "--n_workers", "0", "--flags", " ".join(flags)]
    status = run_group(command, log, timeout)
    shown = log.read_text(errors="replace")
    if status is None: pytest.fail(f"{path.name} was still running after {timeout} s\n{shown}", pytrace=False)
    # nbdev exits 0 when its own rules left nothing to run; only this word says that the notebook ran
    if status or "Success." not in shown:
        pytest.fail(shown or f"nbdev_test ended with {status}", pytrace=False)


@each_notebook
def test_stored(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    outputs = [out for cell in code for out in cell["outputs"]]
    fault = None
    if path.stat().st_size > MAX_BYTES:
        fault = f"is over {MAX_BYTES:,} bytes: shorter clips, smaller pictures"
    elif code and not outputs: fault = "stores no output: run `make outputs`"
    elif any(out["output_type"] == "error" for out in outputs): fault = "stores an error: run `make outputs`"
    elif ways := re.findall(r"/\S+/linacodec_tier3/\w+\.py:\d+", json.dumps(outputs)):
        fault = f"stores a path of one machine, {ways[0]}: run `make outputs`"
    if fault: pytest.fail(f"{path.name} {fault}", pytrace=False)


def is_import(node): return isinstance(node, (ast.Import, ast.ImportFrom))


def runs_for_docs(
    cell, # of a processed notebook
) -> bool: # True: it holds an import, at any depth, and more than imports
    "Would nbdev run this cell's other code, without the cells before it, only because it imports something?"
    nodes, flags = cell.cell_type == "code" and cell.parsed_(), cell.directives_
    if not nodes or "nbdev_export()" in cell.source: return False
    if flags.keys() & {"export", "exports", "exporti", "exec_doc"}: return False
    if flags.get("eval:", [""])[0].lower() == "false" or all(map(is_import, nodes)): return False
    return any(is_import(inner) for node in nodes for inner in ast.walk(node))


@each_notebook
def test_import_cells(path):
    cells = [cell for cell in NBProcessor(path).nb.cells if runs_for_docs(cell)]
    mixed = "\n".join(f"cell {cell.id}: {cell.source.strip().splitlines()[0]}" for cell in cells)
    said = "building the docs would run more than imports; move them to a cell of their own:"
    if mixed: pytest.fail(f"{said}\n{mixed}", pytrace=False)
