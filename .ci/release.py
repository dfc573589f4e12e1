#!/usr/bin/env python3
"""What a release must be, and what is said of it.

    .ci/release.py check v0.1.0    # every place of the tree says this version; names those that do not
    .ci/release.py notes v0.1.0    # what CHANGELOG.md says of this version, for the release's page

The release workflow runs both. Python's standard library is enough.
"""
import re, sys
from configparser import ConfigParser
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TAG = re.compile(r"v(\d+)\.(\d+)\.(\d+)")
HEADING = re.compile(r"^## \[([^]]+)\](.*)$", re.M)


def sections(
    changelog:str, # CHANGELOG.md
) -> dict[str, tuple[str, str]]: # version -> the rest of its heading, and what stands below; in their order
    "The changelog, a version at a time."
    found = list(HEADING.finditer(changelog))
    ends = [m.start() for m in found[1:]] + [len(changelog)]
    return {m[1]: (m[2], changelog[m.end():end].strip()) for m, end in zip(found, ends)}


def numbers(
    version:str, # as in 0.1.0
) -> tuple[int, ...]: # to compare by
    "A version as numbers; what is none comes before all others."
    known = TAG.fullmatch("v" + version)
    return tuple(map(int, known.groups())) if known else ()


def changelog_faults(
    version:str, # to be released
    changelog:str, # CHANGELOG.md
) -> list[str]: # one line each
    "What keeps the changelog from being this version's."
    found = sections(changelog)
    if version not in found: return [f"CHANGELOG.md has no heading `## [{version}] - YYYY-MM-DD`"]
    heading, text = found[version]
    faults = []
    try: date.fromisoformat(heading.removeprefix(" - "))
    except ValueError:
        faults.append(f"CHANGELOG.md: `[{version}]{heading}` is not `[{version}] - YYYY-MM-DD`")
    if not re.search(r"^- ", text, re.M): faults.append(f"CHANGELOG.md: nothing is listed below [{version}]")
    if found.get("Unreleased", ("", ""))[1]: faults.append("CHANGELOG.md: something is still [Unreleased]")
    released = [v for v in found if v != "Unreleased"]
    if released != sorted(released, key=numbers, reverse=True):
        faults.append("CHANGELOG.md: versions do not stand newest first")
    elif released[0] != version: faults.append(f"CHANGELOG.md: {released[0]} is newer than {version}")
    return faults


def faults(
    tag:str, # as in v0.1.0
    root:Path=ROOT, # of the tree
) -> list[str]: # one line each; empty for a tree that can be released
    "Every place that does not say what the tag says."
    if not TAG.fullmatch(tag): return [f"{tag} is no tag of the form v1.2.3"]
    version, read = tag[1:], lambda name: (root / name).read_text(encoding="utf-8")
    settings = ConfigParser()
    settings.read_string(read("settings.ini"))
    said = {"settings.ini": settings["DEFAULT"]["version"]}
    places = {"linacodec_tier3/__init__.py": r'^__version__ = "(.*)"$',
              "nbs/images/version.svg": r'label="version: ([^"]*)"'}
    for name, pattern in places.items(): said[name] = re.search(pattern, read(name), re.M)[1]
    wrong = [f"{name} says {found}, the tag {version}" for name, found in said.items() if found != version]
    return wrong + changelog_faults(version, read("CHANGELOG.md"))


def main():
    match sys.argv[1:]:
        case ["check", tag]:
            if found := faults(tag): sys.exit("\n".join(found))
            print(f"{tag}: can be released")
        case ["notes", tag]:
            if found := faults(tag): sys.exit("\n".join(found))
            print(sections((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))[tag[1:]][1])
        case _: sys.exit(__doc__.strip())


if __name__ == "__main__": main()
