"What a notebook may count on when somebody opens it, and which notebooks have cells that ask for more."
import ast, re
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WITH_JUPYTER = {"jsonschema", "psutil"}  # development requirements that JupyterLab brings, too


def extras() -> set[str]: # packages, as they are imported
    "What only those have who develop, train or judge."
    settings = ConfigParser()
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    names = lambda key: {re.match(r"[\w.-]+", entry)[0].replace("-", "_").lower()
                         for entry in settings["DEFAULT"][key].split()}
    there = names("requirements") | names("notebook_requirements") | WITH_JUPYTER
    keys = [key for key in settings["DEFAULT"] if key.endswith("_requirements")]
    more = [key for key in keys if key != "notebook_requirements"]
    return set().union(*map(names, more)) - there


def imported(
    source:str, # of a cell
) -> Iterator[str]: # packages
    "What a cell imports, its functions apart."
    try: body = ast.parse(source).body
    except SyntaxError: return
    for node in body:
        if isinstance(node, ast.Import): yield from (alias.name.split(".")[0] for alias in node.names)
        if isinstance(node, ast.ImportFrom) and not node.level: yield node.module.split(".")[0]


def asks_for_more(
    cells:list, # of a notebook
) -> bool: # True: it has to begin with `%load_ext linacodec_tier3.run_all`
    "Whether some cell is marked, or imports what the `notebook` extra does not bring."
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    mark = re.compile(r"^#\|\s*(slow|gpu|weights|needs .+|eval:\s*false)\s*$", re.M)
    return any(map(mark.search, sources)) or any(extras() & set(imported(source)) for source in sources)
