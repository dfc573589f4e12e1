"The docs site as a browser shows it, page by page; `SITE=_docs` looks at one that is built already."
import os, shutil, subprocess
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest
from support_browser import IN_BROWSER, browser, served, sync_api
from test_site import ROOT, site_tool

pytestmark = IN_BROWSER

LOADED = """() => {
  for (const a of document.querySelectorAll("audio[preload=none]")) { a.preload = "auto"; a.load(); }
  for (const i of document.querySelectorAll("img")) i.loading = "eager";
}"""
READY = """() => [...document.querySelectorAll("audio")].every(a => a.error || a.readyState >= 1)
  && [...document.querySelectorAll("img")].every(i => i.complete)"""
LOOK = """code => {
  const all = selector => [...document.querySelectorAll(selector)];
  const said = e => (e.innerText ?? "").trim().slice(0, 60), root = document.documentElement, faults = [];
  for (const a of all("audio"))
    if (a.error || a.readyState < 1 || !(a.duration > 0)) faults.push("a player is not ready");
  for (const i of all("img"))
    if (!i.complete || !i.naturalWidth) faults.push(`a picture is not there: ${i.src.slice(0, 80)}`);
  if (root.scrollWidth > root.clientWidth) {
    const out = all("body *").filter(e => e.getBoundingClientRect().right > root.clientWidth + 1);
    faults.push(`wider than its window: ${out.slice(0, 3).map(e => `<${e.localName}> ${said(e)}`)}`);
  }
  for (const e of code ? all("pre, pre *, div.sourceCode") : [])
    if (getComputedStyle(e).display !== "inline" && e.scrollWidth > e.clientWidth + 1)
      faults.push(`code is scrolled: ${said(e)}`);
  const lines = code ? all("pre.sourceCode code > span").filter(said) : [];
  const height = line => line.getBoundingClientRect().height, one = Math.min(...lines.map(height));
  for (const e of lines) if (height(e) > 1.5 * one) faults.push(`code is wrapped: ${said(e)}`);
  const names = all("[id], [name]").flatMap(e => [e.id, e.getAttribute("name")]).filter(Boolean);
  return {faults, names, links: all("a[href]").map(a => a.href), players: all("audio").length,
          pictures: all("img").length, lines: lines.length};
}"""


class Visit:
    "Pages of a site, one after the other, in a window of some width."
    def __init__(self, browser, base, width):
        self.base, self.name, self.faults, self.seen = base, "", [], {}
        self.page = page = browser.new_page(viewport=dict(width=width, height=900))
        page.on("console", lambda m: m.type == "error" and self.say(f"console: {m.text}"))
        page.on("pageerror", lambda e: self.say(f"error: {e}"))
        page.on("request", lambda r: self.is_here(r.url) or self.say(f"asks elsewhere: {r.url[:100]}"))
        page.on("requestfailed", lambda r: self.say(f"request failed: {r.url[:100]}"))
        page.on("response", lambda r: r.status >= 400 and self.say(f"{r.status}: {r.url[:100]}"))

    def say(self, fault): self.faults.append(f"{self.name}: {fault}")
    def is_here(self, url): return url.startswith((self.base, "data:", "blob:"))

    def look(self, name, code=False): # a page's path; whether its code has to fit, too
        self.name = name
        self.page.goto(self.base + name)
        self.page.evaluate(LOADED)
        try: self.page.wait_for_function(READY, timeout=30_000)
        except sync_api.TimeoutError: pass  # what is not ready is found below
        self.seen[name] = found = self.page.evaluate(LOOK, code)
        for fault in found["faults"]: self.say(fault)

    def follow_links(self): # of all pages seen, those that stay on the site
        "Whether each leads to something, and to a place that is there."
        states = {}
        for self.name, found in self.seen.items():
            for url, place in sorted({urldefrag(url) for url in found["links"] if url.startswith(self.base)}):
                if url not in states: states[url] = self.page.request.get(url).status
                page = self.seen.get(unquote(url.removeprefix(self.base)))
                if states[url] != 200: self.say(f"a link is dead: {url}")
                elif place and page and unquote(place) not in page["names"]:
                    self.say(f"no such place: {url}#{place}")


def quarto(): # PATH on which it is, or None: the real one, or the stand-in where `.ci/run` looks for it
    path = f"{os.environ['PATH']}:{ROOT.parent / 'shared/tools'}"
    return path if shutil.which("quarto", path=path) else None


@pytest.fixture(scope="module")
def docs(): # the folder of the site
    if "SITE" in os.environ: return ROOT / os.environ["SITE"]
    if not (path := quarto()): pytest.skip("needs Quarto")
    env = {k: v for k, v in os.environ.items() if k != "CODEC"} | dict(PATH=path)
    made = subprocess.run(["make", "docs"], cwd=ROOT, env=env, capture_output=True, text=True)
    assert made.returncode == 0, made.stdout[-4_000:] + made.stderr[-4_000:]
    return ROOT / "_docs"


def read_first(): # pages whose code has to fit its column
    groups = site_tool.grouped(site_tool.notebooks(ROOT / "nbs"))
    return {site_tool.page_of(p) for title in ("Start", "Guides") for p in groups[title]}


@pytest.mark.parametrize("width", [1200, 390])
def test_every_page(docs, browser, width):
    pages, wide = sorted(p.relative_to(docs).as_posix() for p in docs.rglob("*.html")), width > 1000
    with served(docs) as base:
        visit = Visit(browser, base, width)
        for name in pages: visit.look(name, code=wide and name in read_first())
        visit.follow_links()
        visit.page.close()
    assert not visit.faults, "\n".join(visit.faults)
    count = lambda what: sum(found[what] for found in visit.seen.values())
    assert len(pages) > 60 and count("players") > 60 and count("pictures") > 60
    assert (count("lines") > 500) == wide and {"index.html", "tour.html"} <= read_first() <= set(pages)


GOOD = """<!DOCTYPE html>
<html><head><link rel="icon" href="data:,">
<style>pre { white-space: pre-wrap } span { display: block }</style></head>
<body><h1 id="top">One</h1><a href="two.html#top">two</a>
<img src="data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA=">
<pre class="sourceCode"><code><span>x = 1</span><span>y</span></code></pre></body></html>"""


@pytest.mark.parametrize("old, new, fault", [
    ("", "", None),
    ("One", "One<script>console.error('no')</script>", "one.html: console: no"),
    ("One", "One<script>nothing()</script>", "error: nothing is not defined"),
    ("data:image/gif;base64,R0lGOD", "lost.png?R0lGOD", "404: "),
    ("data:image/gif;base64,R0lGOD", "data:image/gif;base64,AAAA", "a picture is not there"),
    ("data:image/gif;base64,R0lGOD", "http://127.0.0.2:9/R0lGOD", "asks elsewhere: http://127.0.0.2"),
    ("One", "One<audio preload='none' src='data:audio/ogg;base64,T2dnUw=='>", "a player is not ready"),
    ("One", "<p style='width: 1300px'>One</p>", "wider than its window: <p> One"),
    ("x = 1", "x" * 400, "code is scrolled: xxx"),
    ("x = 1", "x " * 400, "code is wrapped: x x"),
    ("two.html#top", "three.html", "one.html: a link is dead"),
    ("two.html#top", "two.html#bottom", "no such place"),
])
def test_each_fault_is_seen(browser, tmp_path, old, new, fault):
    assert old in GOOD
    (tmp_path / "one.html").write_text(GOOD.replace(old, new, 1))
    (tmp_path / "two.html").write_text(GOOD)
    with served(tmp_path) as base:
        visit = Visit(browser, base, 1200)
        for name in ("one.html", "two.html"): visit.look(name, code=True)
        visit.follow_links()
        visit.page.close()
    found = "\n".join(visit.faults)
    assert fault in found if fault else not found
    assert "two.html: " not in found
