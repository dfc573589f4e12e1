"Tests run side by side, but for those that measure time."
import threading

from conftest import ALONE, ROOT, SLOWEST, is_alone, rank, turn, unit_of
from support import wait_until

NOTEBOOK = "tests/test_notebooks.py::test_runs[08_generators.ipynb]"


def test_who_runs_alone_waits_for_the_others_and_newcomers_wait_for_it(tmp_path):
    gate, room = tmp_path / "gate", tmp_path / "room"
    gate.touch(), room.touch()
    events, may_go, started = [], threading.Event(), []

    def run(name, alone):
        started.append(name)
        with turn(alone, gate, room):
            events.append(f"{name} in")
            if name == "first": may_go.wait(30)
            events.append(f"{name} out")

    def start(name, alone):
        thread = threading.Thread(target=run, args=(name, alone), daemon=True)
        thread.start()
        wait_until(lambda: name in started)
        return thread

    first = start("first", False)
    wait_until(lambda: events == ["first in"])
    beside = start("beside", False)
    beside.join(30)
    alone = start("alone", True)
    alone.join(0.5)  # it is at the gate, and does not get in
    late = start("late", False)
    late.join(0.2)
    assert events == ["first in", "beside in", "beside out"]
    may_go.set()
    for thread in (first, alone, late): thread.join(30)
    assert events[3:] == ["first out", "alone in", "alone out", "late in", "late out"]


def test_a_notebook_is_a_unit_and_so_is_a_file():
    other = "tests/test_notebooks.py::test_runs[01_config.ipynb]"
    assert (unit_of(NOTEBOOK), unit_of(other)) == ("alone", other)
    assert unit_of(NOTEBOOK.replace("runs", "stored")) == "tests/test_notebooks.py"
    assert is_alone(NOTEBOOK) and not is_alone(other)


def test_the_slow_ones_come_first_and_those_that_run_alone_last():
    class Item:
        def __init__(self, nodeid): self.nodeid = nodeid
    slow, slower, other = (f"tests/{name}.py::test_a" for name in (SLOWEST[-1], SLOWEST[0], "test_other"))
    in_turn = sorted(map(Item, [NOTEBOOK, slow, slower, other]), key=rank)
    assert [item.nodeid for item in in_turn] == [slower, slow, other, NOTEBOOK]


def test_what_is_named_is_there():
    names = [path.name for path in (*ROOT.glob("tests/test_*.py"), *ROOT.glob("nbs/**/[0-9]*.ipynb"))]
    assert not [name for name in SLOWEST if not any(there.startswith(name) for there in names)]
    assert {name.strip("[]") for name in ALONE} <= {*names}
