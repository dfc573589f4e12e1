#!/usr/bin/env python3
"""The house rules, checked without running anything: every breach is named with its file and line.

    .ci/house.py                      # this tree; .ci/house.py TREE for another one
    .ci/house.py --only 04_chunker    # breaches whose place holds this word
    .ci/house.py --count              # how many there are of each rule

It needs Python's standard library only. CONTRIBUTING.md says what the rules are for.
"""
import argparse, ast, io, json, re, sys, tokenize
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

PACKAGE = "linacodec_tier3"
LINE = 110  # characters
CELL = 30  # lines of code
CELLS = 60  # in a notebook
WORDS = 4  # of a docstring, at least
TARGETS = 5  # of one assignment, too many

# Where the folders of rooms stand among the numbered notebooks at the top. What the worker's image runs ends
# with the server, 10. The explorer comes after everything that it shows. Those who train and those who judge
# stand beside the house: nobody imports them, and of the two only the judges import the others.
FOLDERS = {"text": 3, "weights": 5.05, "engines": 5.1, "codec": 5.3, "contract": 6, "speech": 7.5,
           "start": 8.5, "openai": 8.7, "web": 9.5,
           "local": 10.5, "deploy": 12.5, "explore": 14, "train": 90, "evaluate": 91}

# Every command has a `main`, called as `python -m linacodec_tier3.MODULE`; nobody imports one by this name.
IN_MANY_MODULES = {"main"}

# Notebooks that may have more cells, and why: {"folder/name": "reason"}.
LONG_NOTEBOOKS = {}

DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
ASSIGNMENTS = (ast.Assign, ast.AugAssign, ast.AnnAssign)


@dataclass(frozen=True)
class Breach:
    "One place where a rule is not kept."
    rule: str  # one word, as `--count` lists it
    place: str  # file and line; of a notebook the cell, the line in it, and the line in the module made of it
    what: str  # half a sentence

    def __str__(self): return f"{self.place}: {self.rule}: {self.what}"


@dataclass
class Source:
    "A piece of Python: a notebook's code cell, or a file."
    path: str  # of the notebook or file, from the tree's root
    text: str  # magics and shell lines blanked
    module: str = ""  # of the package, that it belongs to
    cell: str = ""  # number and id; "" for a file
    exported: bool = False  # part of the module's file
    runs: bool = True  # when its notebook is tested
    shift: int = 0  # lines in the module's file before the cell's first; 0 when that is not known
    tree: ast.AST = field(init=False)  # empty when the text is no Python
    error: SyntaxError | None = field(init=False, default=None)  # what is wrong with it then

    def __post_init__(self):
        try: self.tree = ast.parse(self.text)
        except SyntaxError as e: self.tree, self.error = ast.parse(""), e

    def at(self, line):
        "The place of a line, counted from 1, for people."
        if not self.cell: return f"{self.path}:{line}"
        made = f" ({module_path(self.module)}:{self.shift + line})" if self.shift else ""
        return f"{self.path} cell {self.cell} line {line}{made}"

    def walk(self, *kinds):
        "All nodes of some kinds."
        return (node for node in ast.walk(self.tree) if isinstance(node, kinds))


def module_path(module): return f"{PACKAGE}/{module.replace('.', '/')}.py"


def without_magics(text):
    "A cell's text; where that is no Python, with magics and shell lines blanked, so that line numbers stay."
    try: ast.parse(text)
    except SyntaxError: return re.sub(r"^\s*[%!].*$", "", text, flags=re.M)
    return text


def room_of(path):
    "The order of a notebook's room: its own number, or its folder's place and then its number there."
    *folders, name = path.with_suffix("").parts
    number = int((re.match(r"\d+", name) or ["99"])[0])
    return (FOLDERS.get(folders[0], 99), number) if folders else (number, 0)


class House:
    "Everything that the rules look at, read once."
    def __init__(self, root):
        self.root = Path(root).resolve()
        self.rooms = {}  # module -> (order, notebook)
        self.cells, self.sizes = [], {}
        nbs = self.root / "nbs"
        for path in sorted(nbs.rglob("*.ipynb")):
            inside = path.relative_to(nbs)
            if not any(part[0] in "._" for part in inside.parts): self.read_notebook(path, inside)
        files = sorted([*self.root.glob("tests/*.py"), *self.root.glob(".ci/*.py"), *self.root.glob("*.py")])
        self.files = [Source(p.relative_to(self.root).as_posix(), p.read_text("utf-8")) for p in files]
        self.public = {module: self.exports(module) for module in self.rooms}

    def read_notebook(self, path, inside):
        cells = json.loads(path.read_text("utf-8"))["cells"]
        texts = ["".join(cell["source"]) for cell in cells]
        name = (re.search(r"^#\|\s*default_exp\s+(\S+)", "\n".join(texts), re.M) or ["", ""])[1]
        if name: self.rooms[name] = room_of(inside), f"nbs/{inside.as_posix()}"
        self.sizes[f"nbs/{inside.as_posix()}"] = len(cells)
        starts = self.cell_starts(name)
        for number, (cell, text) in enumerate(zip(cells, texts)):
            if cell["cell_type"] != "code" or not text.strip(): continue
            flags = re.findall(r"^#\|\s*(.+?)\s*$", text, re.M)
            exported = bool(name) and any(flag.startswith("export") for flag in flags)
            lead = re.match(r"(?:#\|.*\n)*", text)[0].count("\n")
            self.cells.append(Source(
                f"nbs/{inside.as_posix()}", without_magics(text), name, f"{number} #{cell.get('id')}",
                exported, runs=not any(re.match(r"eval:\s*false", flag) for flag in flags),
                shift=starts[cell["id"]] - lead if exported and cell.get("id") in starts else 0))

    def cell_starts(self, module):
        "Where each cell starts in its module's file: cell id -> the line above it."
        path = self.root / module_path(module)
        lines = path.read_text("utf-8").split("\n") if module and path.exists() else ()
        return {line.rpartition("#")[2]: n for n, line in enumerate(lines, 1) if line.startswith("# %% ../")}

    def exports(self, module):
        "A module's `__all__`; none when nbdev has not written it yet."
        path = self.root / module_path(module)
        tree = ast.parse(path.read_text("utf-8") if path.exists() else "")
        lists = [n.value for n in tree.body if isinstance(n, ast.Assign) and "__all__" in names_bound(n)]
        return ast.literal_eval(lists[0]) if lists else []

    def everything(self): return [*self.cells, *self.files]

    def exported(self): return [s for s in self.cells if s.exported]


def names_bound(node):
    "What a statement defines or assigns to."
    if hasattr(node, "name"): return [node.name]
    targets = getattr(node, "targets", [node.target] if hasattr(node, "target") else [])
    return [n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)]


def code_that_is_no_python(house):
    "syntax: all code can be read."
    for s in house.everything():
        if s.error: yield s.at(s.error.lineno or 1), s.error.msg


def lines_that_are_long(house):
    "line: no line over 110 characters."
    for s in house.everything():
        for n, line in enumerate(s.text.split("\n"), 1):
            if len(line) > LINE: yield s.at(n), f"{len(line)} characters; at most {LINE}"


def is_display(value):
    "Whether an expression writes data down: a constant or a container, with nothing in it that works."
    outer = isinstance(value, (ast.Dict, ast.List, ast.Tuple, ast.Set, ast.Constant))
    outer = outer or isinstance(value, ast.Call) and getattr(value.func, "id", "") == "dict"
    return outer and not any(isinstance(n, (ast.Lambda, ast.comprehension)) for n in ast.walk(value))


def is_table(tree):
    "Whether a cell only writes data down: assigned displays, and classes of declared fields."
    def is_field(node):
        is_doc = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        return is_doc or isinstance(node, ast.AnnAssign)
    def is_data(node):
        if isinstance(node, ast.ClassDef): return all(map(is_field, node.body))
        return isinstance(node, (ast.Assign, ast.AnnAssign)) and is_display(node.value)
    return bool(tree.body) and all(map(is_data, tree.body))


def cells_that_are_long(house):
    "cell: no code cell over 30 lines, tables of data apart."
    for s in house.cells:
        count = sum(not line.startswith("#|") for line in s.text.strip().split("\n"))
        if count > CELL and not is_table(s.tree): yield s.at(1), f"{count} lines; at most {CELL}"


def notebooks_that_are_long(house):
    "notebook: no notebook over 60 cells, unless a reason is given here."
    for path, count in house.sizes.items():
        name = path.removeprefix("nbs/").removesuffix(".ipynb")
        if count > CELLS and name not in LONG_NOTEBOOKS: yield path, f"{count} cells; at most {CELLS}"


def names_that_mean_two_things(house):
    "name: no public name in two modules, `main` apart."
    homes = defaultdict(list)
    for module, names in house.public.items():
        for name in names: homes[name].append(module)
    for name, modules in homes.items():
        if len(modules) < 2 or name in IN_MANY_MODULES: continue
        for module in modules:
            yield where_defined(house, module, name), f"`{name}` is public in {' and '.join(sorted(modules))}"


def where_defined(house, module, name):
    "The place at which a module defines a public name."
    for s in house.exported():
        for node in s.tree.body:
            if s.module == module and name in names_bound(node): return s.at(node.lineno)
    return module_path(module)


def docstrings_that_are_short(house):
    "docstring: none under four words."
    for s in house.everything():
        for node in s.walk(*DEFINITIONS, ast.ClassDef):
            doc = ast.get_docstring(node)
            if doc is not None and sum(bool(re.search(r"\w", word)) for word in doc.split()) < WORDS:
                yield s.at(node.body[0].lineno), f"`{node.name}` says {doc!r}; at least {WORDS} words"


def comment_lines(text):
    "Lines with a comment, directives apart -> whether nothing else is on it."
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return {t.start[0]: not t.line[:t.start[1]].strip() for t in tokens
            if t.type == tokenize.COMMENT and not t.string.startswith("#|")}


def gives_something(function):
    "Whether a function has a result to explain."
    inner = [n for n in ast.walk(function) if n is not function and isinstance(n, (*DEFINITIONS, ast.Lambda))]
    foreign = {id(x) for n in inner for x in ast.walk(n)}
    own = [n for n in ast.walk(function) if id(n) not in foreign]
    given = any(isinstance(n, (ast.Return, ast.Yield, ast.YieldFrom)) and n.value for n in own)
    says_none = isinstance(function.returns, ast.Constant) and function.returns.value is None
    return not says_none and bool(given or function.returns)


def unexplained(function, source):
    "What a function's comments leave out: its parameters' names, and \"the result\"."
    comments, lines, args = comment_lines(source.text), source.text.split("\n"), function.args
    params = [*args.posonlyargs, *args.args, args.vararg, *args.kwonlyargs, args.kwarg]
    params = sorted((p for p in params if p and p.arg not in ("self", "cls")), key=lambda p: p.lineno)
    heads = range(function.body[0].lineno, function.lineno - 1, -1)
    end = next((n for n in heads if re.search(r"\)\s*(->.*)?:", lines[n - 1])), function.lineno)
    later = [p.lineno for p in params] + [end]
    for i, p in enumerate(params):  # a comment belongs to the last parameter on its line, or stands above it
        beside = p.lineno in comments and p.lineno not in later[i + 1:]
        if not beside and not comments.get(p.lineno - 1): yield f"`{p.arg}`"
    if gives_something(function) and end not in comments: yield "the result"


def comments_that_lack(house):
    "docments: public functions, `__init__` and `forward` of public classes explain parameters and result."
    for s in house.exported():
        for node in s.tree.body:
            if getattr(node, "name", None) not in house.public[s.module]: continue
            if ast.get_docstring(node) is None: yield s.at(node.lineno), f"`{node.name}` has no docstring"
            methods = [m for m in node.body if getattr(m, "name", "") in ("__init__", "forward")]
            functions = {f"{node.name}.{method.name}": method for method in methods}
            if isinstance(node, DEFINITIONS): functions = {node.name: node}
            for name, function in functions.items():
                lacks = ", ".join(unexplained(function, s))
                if lacks: yield s.at(function.lineno), f"`{name}` does not explain {lacks}"


def names_used(tree):
    "Names that code calls or hands over, imports and `show_doc` apart."
    shown = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "show_doc"]
    skipped = {id(x) for call in shown for x in ast.walk(call)}
    for n in ast.walk(tree):
        if id(n) in skipped: continue
        if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load): yield n.id
        if isinstance(n, ast.Attribute): yield n.attr


def functions_nobody_calls(house):
    "called: a notebook or test calls every exported function, itself or by what it calls of the same module."
    parts = defaultdict(set)  # (module, name of a definition) -> the names that its code uses
    for s in house.exported():
        for node in s.tree.body:
            for name in names_bound(node): parts[s.module, name] |= set(names_used(node)) - {name}
    direct = {name for s in house.everything() if not s.exported and s.runs for name in names_used(s.tree)}
    used = {module: reached(direct, module, parts) for module in house.rooms}
    for s in house.exported():
        for node in s.tree.body:
            if not isinstance(node, DEFINITIONS) or node.name not in house.public[s.module]: continue
            if node.name in used[s.module]: continue
            yield s.at(node.lineno), f"no notebook and no test calls `{node.name}`"


def reached(names, module, parts):
    "Names that some names lead to within a module."
    new, found = set(names), set()
    while new:
        found |= new
        new = {part for name in new for part in parts.get((module, name), ())} - found
    return found


def taken_from_package(node, module):
    "What an import that stands in `module` takes from the package: (module, name or None) pairs."
    if isinstance(node, ast.Import):
        names = [a.name for a in node.names if a.name.startswith(f"{PACKAGE}.")]
        return [(name.removeprefix(f"{PACKAGE}."), None) for name in names]
    base = node.module or ""
    if node.level:
        home = [PACKAGE, *module.split(".")][:-node.level]
        base = ".".join([*home, base] if base else home)
    if base.split(".")[0] != PACKAGE: return []
    return [(base.removeprefix(PACKAGE).removeprefix("."), a.name) for a in node.names]


def names_there(house, module):
    "What can be imported from a module or package; None when there is no such module."
    path = house.root / PACKAGE / module.replace(".", "/")
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if not file.exists(): return None
    tree = ast.parse(file.read_text("utf-8"))
    imports = [n for n in ast.walk(tree) if isinstance(n, (ast.Import, ast.ImportFrom))]
    imported = {alias.asname or alias.name for n in imports for alias in n.names}
    stars = [f"{module}.{n.module}" for n in imports if n.names[0].name == "*"]
    defined = {name for n in ast.walk(tree) for name in names_bound(n)}
    lazy = {n.arg for n in ast.walk(tree) if isinstance(n, ast.keyword)}  # as in `dict(LinaCodec="codec")`
    inside = {p.stem for p in path.iterdir()} if path.is_dir() else set()
    inside |= {name for star in stars for name in house.exports(star)}
    return imported | defined | inside | (lazy if "__getattr__" in defined else set())


def imports_of_nothing(house):
    "import: what is imported from the package is there."
    there = {}
    for s in house.everything():
        for node in s.walk(ast.Import, ast.ImportFrom):
            for module, name in taken_from_package(node, s.module):
                if module not in there: there[module] = names_there(house, module)
                if there[module] is None: yield s.at(node.lineno), f"there is no module {PACKAGE}.{module}"
                elif name not in (None, "*") and name not in there[module]:
                    yield s.at(node.lineno), f"there is no `{name}` in {module or PACKAGE}"


def is_private(name): return bool(re.match(r"_[^_]", name or ""))


def private_names_taken(house):
    "private: no import of another room's private name."
    for s in house.everything():
        rooms = set()  # names that stand for modules here
        for node in s.walk(ast.Import, ast.ImportFrom):
            for module, name in taken_from_package(node, s.module):
                if is_private(name) and module != s.module:
                    yield s.at(node.lineno), f"takes `{name}` from {module}"
                if f"{module}.{name}".strip(".") in house.rooms:
                    rooms |= {a.asname or a.name for a in node.names}
        for node in s.walk(ast.Attribute):
            if getattr(node.value, "id", "") in rooms and is_private(node.attr):
                yield s.at(node.lineno), f"takes `{node.value.id}.{node.attr}`"


def assignments_that_are_wide(house):
    "targets: no assignment to five names or more at once."
    for s in house.everything():
        for node in s.walk(ast.Assign):
            count = max(len(getattr(target, "elts", ())) for target in node.targets)
            if count < TARGETS: continue
            yield s.at(node.lineno), f"assigns to {count} names at once; fewer than {TARGETS}"


def attributes_of(functions, node):
    "Where code below `node` assigns to an attribute of one of some functions: (line, name) pairs."
    if isinstance(node, (*DEFINITIONS, ast.Lambda)):
        functions = functions - {a.arg for a in ast.walk(node.args) if isinstance(a, ast.arg)}
    if isinstance(node, ASSIGNMENTS):
        for target in getattr(node, "targets", [getattr(node, "target", None)]):
            if isinstance(target, ast.Attribute) and getattr(target.value, "id", "") in functions:
                yield node.lineno, f"{target.value.id}.{target.attr}"
    for child in ast.iter_child_nodes(node): yield from attributes_of(functions, child)


def functions_with_attributes(house):
    "attribute: no state kept as an attribute of a function."
    for s in house.everything():
        functions = {node.name for node in s.walk(*DEFINITIONS)}
        for line, name in attributes_of(functions, s.tree): yield s.at(line), f"keeps state in `{name}`"


def lists_that_count(house):
    "counter: no list of one element in place of a variable."
    for s in house.everything():
        boxes = [n for n in s.walk(ast.Assign) if isinstance(n.value, ast.List) and len(n.value.elts) == 1]
        boxes = {name for box in boxes for name in names_bound(box)}
        for n in s.walk(ast.Subscript):
            first = isinstance(n.slice, ast.Constant) and n.slice.value == 0
            if first and isinstance(n.ctx, ast.Store) and getattr(n.value, "id", "") in boxes:
                yield s.at(n.lineno), f"`{n.value.id}` is a list of one that is written to; use a variable"


def place_of(house, module):
    "Where a module or a folder of modules stands: (order, notebook), the last one's of a folder."
    inside = [place for name, place in house.rooms.items() if f"{name}.".startswith(f"{module}.")]
    return max(inside, default=None)


def imports_that_go_up(house):
    "order: a module imports only modules above it in the house."
    for s in house.exported():
        for node in s.walk(ast.Import, ast.ImportFrom):
            for module, name in taken_from_package(node, s.module):
                inner = f"{module}.{name}".strip(".")
                target = inner if place_of(house, inner) else module
                if f"{s.module}.".startswith(f"{target}.") or not place_of(house, target): continue
                order, notebook = place_of(house, target)
                if order < house.rooms[s.module][0]: continue
                yield s.at(node.lineno), f"imports {target}, but {notebook} comes later"


RULES = (code_that_is_no_python, lines_that_are_long, cells_that_are_long, notebooks_that_are_long,
         names_that_mean_two_things, docstrings_that_are_short, comments_that_lack, functions_nobody_calls,
         imports_of_nothing, private_names_taken, assignments_that_are_wide, functions_with_attributes,
         lists_that_count, imports_that_go_up)


def breaches(root):
    "Every breach in a tree, in reading order."
    house = House(root)
    found = {Breach(rule.__doc__.split(":")[0], *breach) for rule in RULES for breach in rule(house)}
    numbers = lambda b: [int(n) for n in re.findall(r"\b\d+\b", b.place)]
    return sorted(found, key=lambda b: (re.split("[ :]", b.place)[0], numbers(b), b.rule, b.what))


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = Path(__file__).resolve().parent.parent
    args.add_argument("tree", nargs="?", type=Path, default=here, help="the root of a clone")
    args.add_argument("--only", default="", help="show breaches whose place holds this")
    args.add_argument("--count", action="store_true", help="show how many there are of each rule")
    args = args.parse_args()
    found = [b for b in breaches(args.tree) if args.only in b.place]
    counts = Counter(b.rule for b in found).most_common()
    print(*(f"{n:5d} {rule}" for rule, n in counts) if args.count else found, sep="\n")
    sys.exit(f"{len(found)} breaches of the house rules" if found else 0)


if __name__ == "__main__": main()
