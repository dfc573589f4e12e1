"""Run notebooks and store what they show: `python .ci/outputs.py NOTEBOOK…`, each in a process of its own.

nbdev's tester runs notebooks but stores nothing. Cells that it skips (`#| eval: false`, the `tst_flags` of
settings.ini, the export at the end) are skipped here too and keep the outputs they have; FLAGS="slow gpu" in
the environment runs flagged ones.
"""
import os, re, subprocess, sys
from pathlib import Path

from execnb.nbio import read_nb, write_nb
from execnb.shell import CaptureShell
from nbdev.clean import nbdev_clean
from nbdev.config import get_config
from nbdev.process import extract_directives

DPI = 80
ROOT = Path(__file__).resolve().parent.parent


def is_skipped(
    cell, # notebook cell
    flags:set, # flags that leave a cell out
) -> bool: # True: leave it as it is
    "Would nbdev's tester pass over this cell?"
    if cell.cell_type != "code": return True
    directives = extract_directives(cell, remove=False)
    off = directives.get("eval:", [""])[0].lower() == "false"
    return off or bool(flags & directives.keys()) or "nbdev_export(" in cell.source


def as_shown(
    text:str, # of a stream
) -> str: # without what a terminal would have overwritten, and without this machine's way to the tree
    "A progress bar's last state instead of all of them; paths as from the tree's top."
    return re.sub(r"^.*\r(?!\n)", "", text.replace("\r\n", "\n"), flags=re.M).replace(f"{ROOT}/", "")


def run_cell(
    path:Path, # notebook, for the error
    shell, # the notebook's
    cell, # code cell, gets new outputs
) -> None: # ends the process when the cell raises
    "Run one cell and keep what it shows."
    cell.outputs = []
    shell.cell(cell)
    if shell.exc: sys.exit(shell.prettytb(path))
    for out in cell.outputs:
        if out["output_type"] == "stream": out["text"] = as_shown("".join(out["text"])).splitlines(True)


def store_outputs(
    path:Path, # notebook, rewritten only if every cell ran
) -> None: # ends the process when one does not
    "Run one notebook here."
    cfg = get_config()
    flags = set(cfg.tst_flags.split()) - set(os.environ.get("FLAGS", "").split())
    sys.path.insert(0, str(cfg.config_path))
    os.chdir(path.parent)
    nb, shell = read_nb(path), CaptureShell(path, mpl_format="png")
    shell.run(f"import matplotlib; matplotlib.rcParams['figure.dpi'] = {DPI}; del matplotlib")
    for cell in nb.cells:
        if not is_skipped(cell, flags): run_cell(path, shell, cell)
    write_nb(nb, path)
    nbdev_clean.__wrapped__(str(path))


def main(paths):
    "All of them, whatever becomes of one; a process each, as their states must not mix."
    failed = []
    for path in paths:
        print(path, flush=True)
        if subprocess.run([sys.executable, __file__, "--here", path]).returncode: failed.append(path)
    sys.exit("failed: " + " ".join(failed) if failed else 0)


if __name__ == "__main__":
    os.environ.setdefault("CODEC", "nano")  # what is stored is the same whichever weights this machine has
    if sys.argv[1:2] == ["--here"]: store_outputs(Path(sys.argv[2]).resolve())
    else: main(sys.argv[1:])
