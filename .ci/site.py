#!/usr/bin/env python3
"""The docs site: its sidebar, what is done to pages after they are built, and what must be true of them.

    .ci/site.py sidebar     # write nbs/sidebar.yml: every notebook in its group, in reading order
    .ci/site.py finish      # make links between notebooks links between pages; dress what the stand-in built
    .ci/site.py check       # fail for dead links, missing outputs, resources from elsewhere, pages too large

`make docs` does all three. Python's standard library is enough.
"""
import json, re, sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

ROOT = Path(__file__).resolve().parent.parent
MAX_BYTES = 2_000_000  # of a page
ICON = ("data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E"
        "%3Cpath fill='%232a7f62' d='M1 6h2v4H1zM5 2h2v12H5zM9 4h2v8H9zM13 7h2v2h-2z'/%3E%3C/svg%3E")
SITE = re.compile(r"https://linacodec-tier3\.github\.io/linacodec_tier3/?")

# Reading order. A pattern is that of `Path.match`, from nbs/; a notebook belongs where it matches first.
GROUPS = (
    ("Start", ("index.ipynb", "00_*.ipynb", "20_*.ipynb")),
    ("Deployment", ("37_*.ipynb", "38_*.ipynb")),
    ("Guides", ("25_http.ipynb", "3?_*.ipynb", "2?_*.ipynb")),
    ("The worker, settings to engines", (
        "01_*.ipynb", "02_*.ipynb", "03_*.ipynb", "text/*.ipynb", "04_*.ipynb", "05_*.ipynb",
        "engines/*.ipynb", "speech/*.ipynb", "weights/*.ipynb")),
    ("The worker, request to answer", (
        "contract/*.ipynb", "06_*.ipynb", "07_*.ipynb", "08_*.ipynb", "start/*.ipynb", "09_*.ipynb",
        "openai/*.ipynb", "web/*.ipynb", "10_*.ipynb", "11_worker.ipynb")),
    ("Beside the worker", ("local/*.ipynb", "1?_*.ipynb", "explore/*.ipynb")),
    ("Endpoints on RunPod", ("deploy/*.ipynb",)),
    ("The codec", ("codec/*.ipynb",)),
    ("Training", ("train/*.ipynb",)),
    ("Judging", ("evaluate/*.ipynb",)),
    ("Reference", ("reference.ipynb",)))


def notebooks(
    nbs:Path, # folder of notebooks
) -> list[str]: # paths from there
    "What nbdev makes pages of."
    paths = [p.relative_to(nbs) for p in sorted(nbs.rglob("*.ipynb"))]
    return [p.as_posix() for p in paths if not any(part[0] in "._" for part in p.parts)]


def grouped(
    paths:list[str], # from nbs/
) -> dict[str, list[str]]: # title -> its notebooks
    "Every notebook in its group; one that belongs nowhere ends the program."
    left, groups = list(paths), {}
    for title, patterns in GROUPS:
        groups[title] = []
        for pattern in patterns:
            depth = pattern.count("/")
            found = [p for p in left if p.count("/") == depth and Path(p).match(pattern)]
            groups[title] += found
            left = [p for p in left if p not in found]
    if left: sys.exit(f".ci/site.py: in no group of the sidebar: {', '.join(left)}")
    return {title: inside for title, inside in groups.items() if inside}


def sidebar(
    nbs:Path, # folder of notebooks
) -> str: # YAML
    "The sidebar as Quarto wants it."
    lines = ["# Made by `.ci/site.py sidebar`.", "website:", "  sidebar:", "    contents:"]
    for title, inside in grouped(notebooks(nbs)).items():
        lines += [f"      - section: \"{title}\"", "        contents:", *(f"          - {p}" for p in inside)]
    return "\n".join(lines) + "\n"


def page_of(
    notebook:str, # path of a notebook
) -> str: # path of its page
    "What nbdev calls the page of a notebook."
    path = Path(notebook)
    return (path.parent / (re.sub(r"^\d+[a-zA-Z0-9]*_", "", path.stem) + ".html")).as_posix()


def navigation(
    page:str, # path of the page that it is for
    titles:dict[str, str], # page -> title
    groups:dict[str, list[str]], # as `grouped` gives them
) -> str: # HTML
    "The sidebar of a page that the stand-in built."
    up, parts = "../" * page.count("/"), []
    for title, inside in groups.items():
        pages = [page_of(p) for p in inside]
        here = lambda p: ' class="here"' if p == page else ""
        items = "".join(f'<li><a{here(p)} href="{up}{p}">{titles.get(p, p)}</a></li>' for p in pages)
        is_open = " open" if page in pages or title in ("Start", "Guides") else ""
        parts.append(f"<details{is_open}><summary>{title}</summary><ul>{items}</ul></details>")
    return f'<nav id="side">{"".join(parts)}</nav>'


def dressed(
    text:str, # of a page that the stand-in built
    style:str, # CSS
) -> str: # of the page
    "A page with the site's style, and with its one line under the title."
    text = text.replace("</head>", f'<style id="dress">{style}</style>\n</head>')
    text = text.replace('<nav id="side">', '<a id="to-side" href="#side">All pages</a>\n<nav id="side">', 1)
    line = re.search(r'<meta name="description" content="([^"]*)"', text)
    if not line: return text
    under = f'\n<div class="description">{line[1]}</div>'
    return re.sub(r'<h1 class="title">.*?</h1>', lambda m: m[0] + under, text, count=1)


def finish(
    site:Path, # of built pages
    nbs:Path, # folder of notebooks
) -> None: # pages are rewritten
    "What Quarto does by itself and the stand-in does not; and links to the site's address become relative."
    groups = grouped(notebooks(nbs))
    style = (nbs / "styles.css").read_text(encoding="utf-8")
    for path in sorted(site.rglob("*.html")):
        page = path.relative_to(site).as_posix()
        text = path.read_text(encoding="utf-8")
        link = lambda m: f'href="{page_of(m[1])}{m[2] or ""}"'
        text = re.sub(r'href="((?!https?:)[^"#]+\.ipynb)(#[^"]*)?"', link, text)
        text = re.sub(f'href="{SITE.pattern}', f'href="{"../" * page.count("/")}', text)
        if nav := re.search(r'<nav id="side">.*?</nav>', text, re.S):  # the stand-in's
            links = re.findall(r'<a (?:class="here" )?href="([^"]+)">(.*?)</a>', nav[0])
            titles = {href.removeprefix("../" * page.count("/")): name for href, name in links}
            text = text.replace(nav[0], navigation(page, titles, groups))
            if 'id="dress"' not in text: text = dressed(text, style)
        if 'rel="icon"' not in text:  # a browser would ask for one
            text = text.replace("</head>", f'<link rel="icon" href="{ICON}">\n</head>')
        path.write_text(text, encoding="utf-8")


class Page(HTMLParser):
    "What a page links to, loads and shows."
    LOADS = dict.fromkeys(("img", "script", "audio", "source", "video", "iframe", "embed"), "src")
    LOADS["object"] = "data"

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.ids, self.links, self.loads, self.shown = set(), [], [], Counter()
        self.in_style = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.ids |= {given[k] for k in ("id", "name") if given.get(k)}
        self.shown[tag] += 1
        if tag == "a" and given.get("href"): self.links.append(given["href"])
        if tag in self.LOADS and given.get(self.LOADS[tag]): self.loads.append(given[self.LOADS[tag]])
        kinds = (given.get("rel") or "").split()
        if tag == "link" and {"stylesheet", "icon", "preload", "preconnect", "modulepreload"} & set(kinds):
            self.loads.append(given.get("href") or "")
        self.loads += re.findall(r"url\(['\"]?([^'\")]+)", given.get("style") or "")
        self.in_style = tag == "style"

    def handle_data(self, data):
        if not self.in_style: return
        self.loads += re.findall(r"url\(['\"]?([^'\")]+)", data)
        self.loads += re.findall(r"@import\s+['\"]([^'\"]+)", data)

    def handle_endtag(self, tag): self.in_style = False


def text_of(value): return value if isinstance(value, str) else "".join(value or ())


def expected(
    notebook:Path, # file
) -> Counter: # audio, img and table that its page has to show
    "What the cells that readers see have stored."
    found = Counter()
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        unseen = re.search(r"^#\|\s*(hide|(include|output):\s*false)\s*$", text_of(cell["source"]), re.M)
        if cell["cell_type"] != "code" or unseen: continue
        for out in cell["outputs"]:
            data = out.get("data", {})
            page, markdown = text_of(data.get("text/html")), text_of(data.get("text/markdown"))
            if page: found.update({tag: page.count(f"<{tag}") for tag in ("audio", "img", "table")})
            elif markdown: found["table"] += len(re.findall(r"^\|(?=.*-)[ :|-]+\|$", markdown, re.M))
            elif {"image/png", "image/jpeg"} & data.keys(): found["img"] += 1
    return +found


def is_elsewhere(url): return bool(re.match(r"(https?:)?//", url))


def faults_of_links(
    page:str, # path from the site's root
    pages:dict[str, Page], # all of them
    site:Path, # root
):
    "Links and resources of a page that lead nowhere, or elsewhere."
    def target(url):
        path, anchor = urldefrag(url)
        file = (site / page).parent / unquote(path.split("?")[0]) if path else site / page
        return file / "index.html" if file.is_dir() else file, unquote(anchor)
    for url in pages[page].loads:
        if is_elsewhere(url): yield f"loads {url[:100]} from elsewhere"
        elif re.match(r"(data|blob|about):|#", url): continue
        elif not target(url)[0].exists(): yield f"loads {url[:100]}, which is not there"
    for url in pages[page].links:
        if is_elsewhere(url) or re.match(r"(mailto|javascript|data):", url): continue
        file, anchor = target(url)
        if not file.exists(): yield f"links to {url}, which is not there"
        elif anchor and file.suffix == ".html":
            name = file.resolve().relative_to(site.resolve()).as_posix()
            if name not in pages or anchor in pages[name].ids: continue
            yield f"links to {url}, which has no such place"


def faults(
    site:Path, # of built pages
    nbs:Path, # folder of notebooks
) -> list[str]: # sentences, by page
    "Everything that is wrong with a site."
    files = {p.relative_to(site).as_posix(): p for p in sorted(site.rglob("*.html"))}
    pages, found = {name: Page(p.read_text(encoding="utf-8")) for name, p in files.items()}, []
    for name in pages:
        size = files[name].stat().st_size
        if size > MAX_BYTES: found.append(f"{name}: has {size:,} bytes; at most {MAX_BYTES:,}")
        found += [f"{name}: {fault}" for fault in faults_of_links(name, pages, site)]
    for notebook in notebooks(nbs):
        name = page_of(notebook)
        if name not in pages: found.append(f"{name}: is not there, though {notebook} is"); continue
        for tag, count in expected(nbs / notebook).items():
            if pages[name].shown[tag] < count:
                found.append(f"{name}: shows {pages[name].shown[tag]} <{tag}>, and {notebook} stores {count}")
    home = pages["index.html"].links if "index.html" in pages else []
    linked = {urldefrag(url)[0].removeprefix("./") for url in home}
    for name in sorted({page_of(p) for p in notebooks(nbs)} & pages.keys() - linked):
        found.append(f"{name}: nothing on index.html leads to it")
    return list(dict.fromkeys(found))


def main():
    command, site, nbs = (sys.argv[1:] + [""])[0], ROOT / "_docs", ROOT / "nbs"
    if command == "sidebar":
        made, file = sidebar(nbs), nbs / "sidebar.yml"
        if not file.exists() or file.read_text() != made: file.write_text(made)
    elif command == "finish": finish(site, nbs)
    elif command == "check":
        found = faults(site, nbs)
        print(*found, f"{len(list(site.rglob('*.html')))} pages, {len(found)} faults", sep="\n")
        sys.exit(bool(found))
    else: sys.exit(__doc__)


if __name__ == "__main__": main()
