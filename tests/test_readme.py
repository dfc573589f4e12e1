"README.md: its Python runs as printed, and its commands are there."
import argparse, json, re, subprocess, sys
from configparser import ConfigParser
from pathlib import Path

from linacodec_tier3.cli import parser
from linacodec_tier3.engines.catalogue import COLUMNS, table_row
from linacodec_tier3.local.endpoint import LocalEndpoint
from linacodec_tier3.tts import BUILT_IN_ENGINES

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language): # code, as printed
    return re.findall(rf"^``` ?{language}\n(.*?)^```", README, re.S | re.M)


def test_the_client_in_python_speaks():
    [code] = blocks("python")
    with LocalEndpoint(env=dict(CODEC="nano")) as endpoint:
        code = code.replace("http://127.0.0.1:8000/v2/local", endpoint.endpoint_url)
        assert endpoint.endpoint_url in code
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert not done.returncode, done.stderr[-4_000:]
    shapes = re.findall(r"^\((\d+),\) 48000$", done.stdout, re.M)
    assert shapes and sum(map(int, shapes)) > 48_000


def test_every_command_is_there():
    shell = "\n".join(blocks("sh"))
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
    made = re.findall(r"(?:^|`)make ([a-z-]+)", README, re.M)
    assert {"run", "explore", "serve"} <= set(made) <= {*targets}
    extra = re.search(r'pip install -c (\S+) -e "\.\[(\w+)\]"', shell)
    assert (ROOT / extra[1]).exists()
    assert f"{extra[2]}_requirements" in (ROOT / "settings.ini").read_text()
    assert (ROOT / re.search(r"\bnbs/\S+\.ipynb\b", shell)[0]).exists()
    known = next(a.choices for a in parser()._actions if isinstance(a, argparse._SubParsersAction))
    used = re.findall(r"linacodec-tier3 ([a-z]+) ", README)
    assert used and set(used) <= set(known)


def test_which_engine_when_is_what_the_engines_say_of_themselves():
    settings = ConfigParser()
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    others = re.findall(r"(\S+?)=linacodec", settings["DEFAULT"]["engines"])
    engines = sorted({*BUILT_IN_ENGINES, *others})
    table = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in README.splitlines()
             if line.startswith("|")]
    start = table.index([*COLUMNS]) + 2
    shown = {row[0].strip("`"): row for row in table[start:start + len(engines)]}
    assert [*shown] == engines
    for name, row in shown.items():
        said = [*table_row(name, {name: row[COLUMNS.index("run here with")]})]
        assert [*map(plain, row)] == [*map(plain, said)], "make outputs NBS=nbs/index.ipynb && make readme"
        measured = ROOT / f"nbs/engines/data/{name}.json"
        if not measured.exists(): assert row[COLUMNS.index("run here with")] in KINDS or name == "hibari"
        else:
            errors = json.loads(measured.read_text("utf-8"))["word_error_rate"]
            assert f"real weights: {errors:.1%}".replace("%", " %") in row[COLUMNS.index("run here with")]


KINDS = ("tiny weights", "no weights")


def plain(text): return text.replace("\\", "").replace("’", "'") # as before Quarto has dressed it
