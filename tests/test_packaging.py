"What PyPI gets, what a release must be, and that the checks of workflows and scripts find what they are for."
import hashlib, importlib.util, re, shutil, subprocess, sys, tarfile
from configparser import ConfigParser
from email import message_from_string
from importlib.metadata import distributions
from pathlib import Path
from unittest.mock import patch
from zipfile import ZipFile

import pytest, yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from twine.commands.check import check

import linacodec_tier3
from linacodec_tier3 import tts
from support import listed_copy

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = ROOT / ".github" / "workflows"
_spec = importlib.util.spec_from_file_location("release", ROOT / ".ci" / "release.py")
release = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(release)
_settings = ConfigParser()
_settings.read(ROOT / "settings.ini", encoding="utf-8")
SETTINGS = _settings["DEFAULT"]
NAME = f"linacodec_tier3-{SETTINGS['version']}"


@pytest.fixture(scope="module")
def built(tmp_path_factory): # a folder with the source distribution, and the wheel built from that
    folder = tmp_path_factory.mktemp("packaging")
    listed_copy(folder / "source")
    command = [sys.executable, "-m", "build", "--no-isolation", "-o", folder / "dist", folder / "source"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert not done.returncode, (done.stdout + done.stderr)[-4_000:]
    return folder / "dist"


@pytest.fixture(scope="module")
def wheel(built): # name -> content
    with ZipFile(built / f"{NAME}-py3-none-any.whl") as file:
        return {name: file.read(name) for name in file.namelist()}


@pytest.fixture(scope="module")
def metadata(wheel): return message_from_string(wheel[f"{NAME}.dist-info/METADATA"].decode())


def test_wheel_is_the_package_and_nothing_else(wheel):
    files = [p for p in (ROOT / "linacodec_tier3").rglob("*") if p.is_file() and p.suffix != ".pyc"]
    in_tree = {p.relative_to(ROOT).as_posix() for p in files}
    assert {name for name in wheel if ".dist-info/" not in name} == in_tree
    assert sum(map(len, wheel.values())) < 20_000_000  # the small codec's weights are most of it


def test_wheel_holds_the_small_codec_as_it_was_published(wheel):
    at = "linacodec_tier3/codec/linacodec-nano/"
    lines = wheel[at + "SHA256SUMS"].decode().splitlines()
    assert len(lines) == 4
    for line in lines:
        digest, name = line.split()
        assert hashlib.sha256(wheel[at + name]).hexdigest() == digest, name


def test_source_distribution_holds_what_building_needs(built):
    with tarfile.open(built / f"{NAME}.tar.gz") as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    assert {"setup.py", "settings.ini", "README.md", "LICENSE", "requirements.lock", "CHANGELOG.md"} <= names
    assert not [n for n in names if n.endswith(".ipynb") or n.startswith(("tests", ".ci", ".github"))]


def test_metadata_is_that_of_settings(metadata):
    assert metadata["Version"] == SETTINGS["version"] == linacodec_tier3.__version__
    assert metadata["License-Expression"] == "Apache-2.0" and metadata["License-File"] == "LICENSE"
    assert metadata["Requires-Python"] == f">={SETTINGS['min_python']}"
    urls = dict(line.split(", ") for line in metadata.get_all("Project-URL"))
    assert {"Documentation", "Changelog", "Issues"} == urls.keys()
    assert metadata["Home-page"] == SETTINGS["git_url"]
    named = lambda line: re.match(r"[\w.-]+", line)[0]
    required = [line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line]
    assert [*map(named, required)] == [*map(named, SETTINGS["requirements"].split())]
    assert {"notebook", "dev", "slow", "train", "browser"} <= set(metadata.get_all("Provides-Extra"))


def test_description_leads_somewhere_from_any_page(built, metadata):
    assert not check([str(built / "*")], strict=True)
    text = metadata.get_payload()
    assert "linacodec-tier3" in text and not re.findall(r"\]\((?!https?:|#)[^)]*\)", text)
    places = re.findall(rf"{SETTINGS['git_url']}/(?:blob|raw)/v{SETTINGS['version']}/([^)#]+)", text)
    assert len(places) > 10 and not [place for place in places if not (ROOT / place).exists()]


def test_versions_of_python_are_those_that_ci_runs(metadata):
    pythons = SETTINGS["pythons"].split()
    jobs = yaml.safe_load((WORKFLOWS / "ci.yml").read_text())["jobs"]
    assert jobs["check"]["strategy"]["matrix"]["python"] == pythons and pythons[0] == SETTINGS["min_python"]
    classified = [c.rpartition(" :: ")[2] for c in metadata.get_all("Classifier") if "Python :: 3." in c]
    assert classified == pythons


def test_locked_versions_are_for_every_python_that_is_supported():
    lock = re.findall(r"^([\w.-]+)==", (ROOT / "requirements.lock").read_text(), re.M)
    locked = set(map(canonicalize_name, lock))
    wanted = {d.name: SpecifierSet(d.metadata.get("Requires-Python", "")) for d in distributions()
              if canonicalize_name(d.name) in locked}
    assert len(wanted) > 200
    lines = [line for key in SETTINGS if key.endswith("requirements") for line in SETTINGS[key].split()]
    listed = [Requirement(line) for line in lines]
    for version in ("3.11.2", *SETTINGS["pythons"].split()[1:]): # Debian 12 has the first of these
        here = dict(python_version=".".join(version.split(".")[:2]))
        left_out = {r.name for r in listed if r.marker and not r.marker.evaluate(here)}
        refuse = {name for name, pythons in wanted.items() if version not in pythons}
        assert not refuse - left_out, version


def test_image_action_takes_what_it_uses(): # actionlint reads workflows only
    action = (ROOT / ".github/actions/image/action.yml").read_text()
    assert set(re.findall(r"inputs\.([\w-]+)", action)) == yaml.safe_load(action)["inputs"].keys()


@pytest.fixture
def tree(tmp_path): # what `release.faults` reads, as it is before a release of 1.2.3
    shutil.copytree(ROOT / "nbs/images", tmp_path / "nbs/images")
    shutil.copy(ROOT / "settings.ini", tmp_path)
    (tmp_path / "linacodec_tier3").mkdir()
    shutil.copy(ROOT / "linacodec_tier3/__init__.py", tmp_path / "linacodec_tier3")
    old = re.escape(SETTINGS["version"])
    for name in "settings.ini", "linacodec_tier3/__init__.py", "nbs/images/version.svg":
        text = (tmp_path / name).read_text()
        changed = re.sub(rf"(version(?:__)?(?: = \"?|: )){old}", r"\g<1>1.2.3", text)
        assert changed != text
        (tmp_path / name).write_text(changed)
    (tmp_path / "CHANGELOG.md").write_text(CHANGELOG)
    return tmp_path


CHANGELOG = """# Changelog

## [Unreleased]

## [1.2.3] - 2026-11-28

### Added
- Something.

## [1.2.2] - 2026-11-01

### Fixed
- Something else.
"""


def test_a_tree_that_says_one_version_can_be_released(tree):
    assert release.faults("v1.2.3", tree) == []
    assert release.sections(CHANGELOG)["1.2.3"] == (" - 2026-11-28", "### Added\n- Something.")


@pytest.mark.parametrize("name, was, becomes, said", [
    ("settings.ini", "version = 1.2.3", "version = 1.2.4", "settings.ini says 1.2.4, the tag 1.2.3"),
    ("linacodec_tier3/__init__.py", '"1.2.3"', '"1.2.2"', "__init__.py says 1.2.2"),
    ("nbs/images/version.svg", "version: 1.2.3", "version: 1.2.2", "version.svg says 1.2.2"),
    ("CHANGELOG.md", "## [1.2.3]", "## [1.2.4]", "no heading `## [1.2.3] - YYYY-MM-DD`"),
    ("CHANGELOG.md", " - 2026-11-28", "", "is not `[1.2.3] - YYYY-MM-DD`"),
    ("CHANGELOG.md", " - 2026-11-28", " - 2026-11-31", "is not `[1.2.3] - YYYY-MM-DD`"),
    ("CHANGELOG.md", "### Added\n- Something.", "Soon.", "nothing is listed below [1.2.3]"),
    ("CHANGELOG.md", "## [Unreleased]\n", "## [Unreleased]\n- More.\n", "something is still [Unreleased]"),
    ("CHANGELOG.md", "## [1.2.2]", "## [1.10.0]", "versions do not stand newest first"),
    ("CHANGELOG.md", "## [Unreleased]", "## [1.10.0] - 2026-12-01", "1.10.0 is newer than 1.2.3"),
])
def test_a_release_that_is_not_ready_is_told_why(tree, name, was, becomes, said):
    text = (tree / name).read_text()
    assert was in text
    (tree / name).write_text(text.replace(was, becomes))
    found = release.faults("v1.2.3", tree)
    assert len(found) == 1 and said in found[0]


@pytest.mark.parametrize("tag", ["1.2.3", "v1.2", "v1.2.3rc1", "main"])
def test_only_a_version_is_a_tag(tree, tag):
    assert release.faults(tag, tree) == [f"{tag} is no tag of the form v1.2.3"]


LINTED = (".github", "Dockerfile", "Makefile", "requirements.lock", "settings.ini", "setup.py", ".ci")
FLOWS = ".github/workflows/"


@pytest.mark.parametrize("name, pattern, becomes, said", [
    (FLOWS + "ci.yml", "^", "", ""),
    (FLOWS + "ci.yml", r"^permissions: \{\}", "permissions: write-all", "excessive-permissions"),
    (FLOWS + "ci.yml", r"target: \$\{\{", "traget: ${{", "traget"),
    (FLOWS + "release.yml", "@[0-9a-f]{40} # v", "@v", "unpinned"),
    (FLOWS + "release.yml", r'check "\$GITHUB_REF_NAME"', "check ${{ github.ref_name }}", "injection"),
    (FLOWS + "release.yml", r'is-ancestor "\$GITHUB_SHA"', "is-ancestor $GITHUB_SHA", "SC2086"),
    (FLOWS + "release.yml", "needs: pypi", "needs: pipy", "pipy"),
    (".github/actions/image/action.yml", "@[0-9a-f]{40} # v", "@v", "unpinned"),
    (".github/dependabot.yml", "interval: monthly", "interval: sometimes", "dependabot.yml"),
    (".ci/unchanged", r"\|\| exit$", "", "SC2164"),
    ("Dockerfile", "^FROM ", "FROM ubuntu:latest AS planted\nFROM ", "DL3007"),
])
def test_lint_finds_what_is_planted(tmp_path, name, pattern, becomes, said):
    listed_copy(tmp_path, LINTED)
    planted, count = re.subn(pattern, lambda _: becomes, (tmp_path / name).read_text(), count=1, flags=re.M)
    assert count
    (tmp_path / name).write_text(planted)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv/bin").symlink_to(Path(sys.executable).parent)
    (tmp_path / ".venv/.ready").touch()
    for command in "git init -q", "git add .": subprocess.run(command.split(), cwd=tmp_path, check=True)
    done = subprocess.run(["make", "lint"], cwd=tmp_path, capture_output=True, text=True)
    shown = done.stdout + done.stderr
    assert bool(done.returncode) == bool(said) and said in shown, shown


def test_an_engine_is_listed_where_its_extra_is_installed_and_nothing_else_of_the_package(metadata, wheel):
    points = wheel[f"{NAME}.dist-info/entry_points.txt"].decode().partition("[linacodec_tier3.engines]\n")[2]
    engines = re.findall(r"(?m)^(\S+) ?= ?linacodec_tier3\.(\S+?):\w+(?: ?\[(\w+)\])?", points)
    assert [name for name, _, _ in engines] == sorted(re.findall(r"(\S+?)=", SETTINGS["engines"]))
    lines = [line.replace('"', "'") for line in metadata.get_all("Requires-Dist")]
    asked = {extra: {re.match(r"[\w.-]+", line)[0] for line in lines if line.endswith(f"extra == '{extra}'")}
             for extra in {*(extra for *_, extra in engines), "engines"}}
    for name, module, extra in engines:
        assert f"linacodec_tier3/{module.replace('.', '/')}.py" in wheel
        if not extra: continue
        brought = asked[extra]
        wanted = SETTINGS[f"{extra}_requirements"].split()
        assert brought == {re.match(r"[\w.-]+", line)[0] for line in wanted}
        with patch.object(tts, "Distribution", Installed(brought)):
            assert tts.extra_is_there(extra, lines), name
        with patch.object(tts, "Distribution", Installed({*brought} - {min(brought)})):
            assert not tts.extra_is_there(extra, lines), name
        assert brought <= asked["engines"]


class Installed:
    "An environment with these distributions."
    def __init__(self, names): self.names = names
    def discover(self, name): return iter([name] if name in self.names else [])
