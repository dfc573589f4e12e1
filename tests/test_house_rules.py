"One breach of each house rule, planted in a copy of the tree, is named; what is allowed is not."
import importlib.util, json, shutil
from pathlib import Path

import pytest
from nbdev.export import nb_export

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = "nbs/14_planted.ipynb"
_spec = importlib.util.spec_from_file_location("house", ROOT / ".ci" / "house.py")
house = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(house)

# (rule, the line that breaks it, what is said of it, cell)
PLANTED = [
    ("syntax", 1, "does not match", "x = [1, 2)"),
    ("line", 2, "111 characters; at most 110", "short = 1\n" + "x = " + "1" * 107),
    ("cell", 1, "31 lines; at most 30", "\n".join(f"print({n})" for n in range(31))),
    ("name", 3, "`read_config` is public in config and planted",
     "#| export\nREQUESTS = 1\ndef read_config() -> None:\n    'As config has one already.'\nread_config()"),
    ("docstring", 2, "`f` says 'Not four words.'; at least 4 words",
     "def f():\n    'Not four words.'\nf()"),
    ("docments", 2, "`half` does not explain `n`, the result",
     "#| export\ndef half(\n    n:int,\n    kind=float, # of the result\n) -> float:\n"
     "    'A number divided by two.'\n    return kind(n / 2)"),
    ("called", 2, "no notebook and no test calls `nobody_calls_this`",
     "#| export\ndef nobody_calls_this() -> None:\n    'It is shown nowhere at all.'"),
    ("import", 1, "there is no module linacodec_tier3.seat", "import linacodec_tier3.seat"),
    ("import", 2, "there is no `bake` in chunker", "x = 1\nfrom linacodec_tier3.chunker import bake"),
    ("private", 2, "takes `chunker._best`", "from linacodec_tier3 import chunker\nchunker._best"),
    ("private", 1, "takes `_best` from chunker", "from linacodec_tier3.chunker import _best"),
    ("targets", 1, "assigns to 5 names at once; fewer than 5", "a, b, c, d, e = range(5)"),
    ("attribute", 2, "keeps state in `stop.asked`", "def stop(): pass\nstop.asked = True"),
    ("counter", 2, "`count` is a list of one that is written to",
     "count = [0]\ndef more(): count[0] += 1\nmore()"),
    ("order", 2, "imports train.recipe, but nbs/train/",
     "#| export\nfrom linacodec_tier3.train import recipe"),
]

ALLOWED = [
    "NUMBERS = [\n" + "\n".join(f"    ({n}, {n}.5)," for n in range(40)) + "\n]",  # a table of data
    "class Row:\n    'What one row says.'\n" + "\n".join(f"    field_{n}:int = {n}" for n in range(40)),
    "def volume(): pass\ndef at_parameter(volume): volume.size = 1\nat_parameter(volume)",
    "rows = [0]\nrows.append(1)\nfirst, *rest = rows\n(a, b), (c, d) = (1, 2), (3, 4)",
    "#| export\ndef main() -> None:\n    'The command of this module.'\nmain()",
    "#| export\ndef inner(\n    n:int, # anything\n): # the same\n    'Part of the next one.'\n    return n",
    "#| export\ndef outer(\n    n:int, # anything\n): # the same\n    'What a test calls directly.'\n"
    "    return inner(n)",
    "outer(half(1))",
    "!ls\n%matplotlib inline",
]


def cell(number, source, kind="code"):
    shown = dict(outputs=[], execution_count=None) if kind == "code" else {}
    return dict(cell_type=kind, id=f"{number:08x}", metadata={}, source=source.splitlines(True), **shown)


@pytest.fixture(scope="module")
def tree(tmp_path_factory): # root of a copy with a notebook of breaches
    root = tmp_path_factory.mktemp("copy")
    for name in ("nbs", "linacodec_tier3", "tests", ".ci"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    sources = [*(source for *_, source in PLANTED), *ALLOWED, "#| default_exp planted"]
    cells = [cell(n, source) for n, source in enumerate(sources)]
    prose = [cell(n, "Prose.", "markdown") for n in range(len(cells), 61)]
    nb = dict(cells=[*cells, *prose], metadata={}, nbformat=4, nbformat_minor=5)
    (root / NOTEBOOK).write_text(json.dumps(nb), encoding="utf-8")
    nb_export(root / NOTEBOOK, lib_path=root / "linacodec_tier3")
    return root


@pytest.fixture(scope="module")
def found(tree): return house.breaches(tree)


@pytest.mark.parametrize("number", range(len(PLANTED)), ids=[rule for rule, *_ in PLANTED])
def test_a_breach_is_named_with_its_line(number, tree, found):
    rule, line, what, source = PLANTED[number]
    [breach] = [b for b in found if f"{NOTEBOOK} cell {number} " in b.place]
    assert breach.rule == rule and what in breach.what and f"#{number:08x} line {line}" in breach.place
    if not source.startswith("#| export"): return
    path, made = breach.place.rpartition("(")[2].rstrip(")").split(":")
    wanted = source.split("\n")[line - 1].replace("from linacodec_tier3.", "from .")
    assert (tree / path).read_text().split("\n")[int(made) - 1] == wanted


def test_a_notebook_of_too_many_cells_is_named(found):
    assert house.Breach("notebook", NOTEBOOK, "61 cells; at most 60") in found


def test_what_the_rules_allow_is_not_named(found):
    allowed = range(len(PLANTED), len(PLANTED) + len(ALLOWED))
    assert not [str(b) for b in found if any(f"{NOTEBOOK} cell {n} " in b.place for n in allowed)]


def test_every_rule_has_a_breach_here():
    rules = {rule.__doc__.split(":")[0] for rule in house.RULES}
    assert rules == {rule for rule, *_ in PLANTED} | {"notebook"}


def test_contributing_says_what_each_rule_asks_for():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    rows = [row.split("|")[1] for row in text.split("\n") if row.startswith("| `")]
    listed = {name for row in rows for name in row.split("`")}
    assert {rule.__doc__.split(":")[0] for rule in house.RULES} <= listed


def test_files_are_read_as_notebooks_are(tree):
    (tree / "tests" / "test_planted.py").write_text("x = 1\n\n\na, b, c, d, e = range(5)\n")
    said = "tests/test_planted.py:4: targets: assigns to 5 names at once; fewer than 5"
    assert said in map(str, house.breaches(tree))


def test_this_tree_keeps_the_rules():
    broken = "\n".join(map(str, house.breaches(ROOT)))
    if broken: pytest.fail(broken, pytrace=False)
