"One flag list for everything: settings.ini's `tst_flags` are pytest options, pytest markers and notebook flags."
import os
from configparser import ConfigParser
from pathlib import Path

import pytest

os.environ["CODEC"] = "none"  # a worker loads no codec, which takes it seconds, unless a test asks for one

ROOT = Path(__file__).resolve().parent.parent
_settings = ConfigParser()
_settings.read(ROOT / "settings.ini", encoding="utf-8")
FLAGS = _settings["DEFAULT"]["tst_flags"].split()
_exit = pytest.StashKey[int]()


def pytest_addoption(parser):
    for flag in FLAGS: parser.addoption(f"--{flag}", action="store_true", help=f"run what is flagged {flag}, too")


def pytest_configure(config):
    for flag in FLAGS: config.addinivalue_line("markers", f"{flag}: runs with --{flag} only")


def pytest_collection_modifyitems(config, items):
    for item in items:
        for flag in FLAGS:
            if item.get_closest_marker(flag) and not config.getoption(flag):
                item.add_marker(pytest.mark.skip(reason=f"needs --{flag}"))


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
    reporter.write_line(f"{count('passed', 'xpassed')} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))


@pytest.fixture(scope="session")
def endpoint(): # a running `LocalEndpoint` with one worker, set up as it comes
    "For the tests that need nothing special of it."
    from linacodec_tier3.local.endpoint import LocalEndpoint
    with LocalEndpoint() as running: yield running
