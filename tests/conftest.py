"Flags, the order and company in which tests run, and the closing line."
import fcntl, os, shlex
from configparser import ConfigParser
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

os.environ.pop("VIRTUAL_ENV", None)  # IPython, in which notebooks run, adds the packages of the one it names
os.environ["CODEC"] = "none"  # a worker loads no codec, which takes it seconds, unless a test asks for one
os.environ["EXPECTED_RTF"] = "0.66"  # on a busy machine an engine may be slow, and bytes are compared
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run side by side, and threads would wait

ROOT = Path(__file__).resolve().parent.parent
_settings = ConfigParser()
_settings.read(ROOT / "settings.ini", encoding="utf-8")
FLAGS = _settings["DEFAULT"]["tst_flags"].split()  # one list for options, markers and what nbdev calls flags
_exit = pytest.StashKey[int]()

# Tests run side by side: `-n auto`. What takes longest starts first, so that no processor waits for it at the
# end; the order of the others does not matter. A file's tests stay together, as they share what they start;
# notebooks are one each. What measures time has the machine to itself, at the end.
SLOWEST = ("test_client_faults", "test_memory", "test_codec_product", "03_recipe", "test_codec_choice",
           "test_soak", "06_words", "test_faults", "test_text_fuzz", "test_stops", "test_laws",
           "test_volume", "test_weights", "test_fuzz", "test_local", "test_install", "22_speed",
           "12_linacodec", "25_precision", "02_objectives", "test_chunker", "test_fault_matrix",
           "test_fitness", "test_server", "test_openai", "test_http_engine", "test_cold_start", "01_messages",
           "09_handler", "13_cli", "01_evaluation", "23_gpu", "test_bucket", "test_run_all",
           "test_site_seen", "test_image")
ALONE = ("[07_background.ipynb]", "[08_generators.ipynb]", "[21_benchmarks.ipynb]")
MEMORY = 2 * 2**30  # bytes that a process of tests should have, with what it starts


def pytest_addoption(parser):
    for flag in FLAGS:
        parser.addoption(f"--{flag}", action="store_true", help=f"run what is flagged {flag}, too")


def pytest_configure(config):
    if os.environ.get("WORKER"):  # a command that takes the worker's place: `.ci/image.py run`
        from linacodec_tier3.local import endpoint
        setattr(endpoint, "DEFAULT_COMMAND", shlex.split(os.environ["WORKER"]))
    for flag in FLAGS: config.addinivalue_line("markers", f"{flag}: runs with --{flag} only")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config): # for `-n auto`
    "One more than there are processors, as tests often wait; fewer where memory is short."
    return max(1, min((os.cpu_count() or 1) + 1, 8, psutil.virtual_memory().available // MEMORY))


def is_alone(nodeid): return "::test_runs" in nodeid and any(name in nodeid for name in ALONE)


def unit_of(nodeid): # what one process runs in one go
    "The file of a test, or the test where that can stand for itself."
    if is_alone(nodeid): return "alone"
    return nodeid if "::test_runs[" in nodeid else nodeid.partition("::")[0]


def rank(item): # sorts by it
    "Slow ones first, and at the end those that run alone."
    places = [place for place, name in enumerate(SLOWEST) if name in item.nodeid]
    return is_alone(item.nodeid), min(places, default=len(SLOWEST))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    "Units of tests in the order in which they were collected, each to the process that is free."
    from xdist.scheduler import LoadScopeScheduling
    class InOrder(LoadScopeScheduling):
        def _split_scope(self, nodeid): return unit_of(nodeid)
    config.option.loadscopereorder = False
    return InOrder(config, log)


def pytest_collection_modifyitems(config, items):
    for item in items:
        for flag in FLAGS:
            if item.get_closest_marker(flag) and not config.getoption(flag):
                item.add_marker(pytest.mark.skip(reason=f"needs --{flag}"))
    items.sort(key=rank)


@contextmanager
def turn(
    alone:bool, # True: no other test of this tree runs meanwhile, in whatever process
    gate:Path=ROOT / "setup.py", # any two files to lock
    room:Path=ROOT / "settings.ini",
): # holds the turn
    "Tests that measure time wait until the others are done with what they run, and the others for them."
    how = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
    with open(gate) as gate, open(room) as room:
        fcntl.flock(gate, how)  # who waits for the room to itself keeps newcomers out
        fcntl.flock(room, how)
        fcntl.flock(gate, fcntl.LOCK_UN)
        try: yield
        finally: fcntl.flock(room, fcntl.LOCK_UN)  # said, as a forked child may hold the file open


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item):
    with turn(is_alone(item.nodeid)): return (yield)


@pytest.fixture
def flags(
    request,
) -> list: # flags asked for on the command line
    "What to run besides the usual."
    return [flag for flag in FLAGS if request.config.getoption(flag)]


def pytest_sessionfinish(session, exitstatus): session.config.stash[_exit] = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config):
    "The closing line, after pytest's own; a run that ended badly never reads as one without failures."
    reporter, status = config.pluginmanager.get_plugin("terminalreporter"), config.stash.get(_exit, None)
    if reporter is None or status is None: return
    count = lambda *kinds: sum(len(reporter.stats.get(kind, ())) for kind in kinds)
    failed = count("failed", "error") or int(status != 0)
    skipped = count("skipped", "xfailed")
    reporter.ensure_newline()
    line = f"{count('passed', 'xpassed')} passed, {failed} failed"
    reporter.write_line(line + (f", {skipped} skipped" if skipped else ""))


@pytest.fixture(scope="session")
def endpoint(): # a running `LocalEndpoint` with one worker, set up as it comes
    "For the tests that need nothing special of it."
    from linacodec_tier3.local.endpoint import LocalEndpoint
    with LocalEndpoint() as running: yield running
