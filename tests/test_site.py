"What `.ci/site.py` finds wrong with a docs site and makes of one; what `.ci/readme.py` makes of README.md."
import importlib.util, json, re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PLAYER = '<audio controls title="one" src="data:audio/ogg;base64,T2dnUw=="></audio>'


def tool(name): # a module
    "A script of .ci."
    spec = importlib.util.spec_from_file_location(f"ci_{name}", ROOT / ".ci" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


site_tool = tool("site")


def notebook(path, *outputs):
    shown = [dict(output_type="display_data", data=data) for data in outputs]
    cells = [dict(cell_type="code", source="shown()", outputs=[out]) for out in shown]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dict(cells=[dict(cell_type="markdown", source="# Title"), *cells])))


@pytest.fixture
def built(tmp_path): # (site, nbs): two notebooks and their pages, without a fault
    nbs, site = tmp_path / "nbs", tmp_path / "site"
    notebook(nbs / "index.ipynb", {"text/html": PLAYER}, {"image/png": "iVBORw0KGgo="})
    notebook(nbs / "codec/03_wavlm.ipynb", {"text/markdown": "| a |\n|---|\n| 1 |"})
    (site / "codec").mkdir(parents=True)
    (site / "clip.ogg").write_bytes(b"OggS")
    (site / "index.html").write_text(
        f'<a href="codec/wavlm.html#part">wavlm</a> <a href="index.html">home</a> {PLAYER}'
        '<img src="clip.ogg"><a href="https://example.org/paper">elsewhere, but only linked</a>')
    (site / "codec/wavlm.html").write_text(
        '<h2 id="part">Part</h2><a href="../index.html">home</a><table></table>')
    return site, nbs


def test_a_site_without_fault(built): assert site_tool.faults(*built) == []


@pytest.mark.parametrize("page, old, new, fault", [
    ("index.html", "codec/wavlm.html#part", "codec/wavlm.html#gone", "which has no such place"),
    ("index.html", 'href="index.html"', 'href="gone.html"', "links to gone.html, which is not there"),
    ("codec/wavlm.html", "../index.html", "03_wavlm.ipynb", "links to 03_wavlm.ipynb, which is not there"),
    ("index.html", 'src="clip.ogg"', 'src="lost.png"', "loads lost.png, which is not there"),
    ("index.html", 'src="clip.ogg"', 'src="//cdn.example/a.png"', "loads //cdn.example/a.png from elsewhere"),
    ("index.html", "<img", '<script src="https://cdn.example/x.js"></script><img', "x.js from elsewhere"),
    ("index.html", "<img", '<link rel="stylesheet" href="https://cdn.example/x.css"><img', "x.css from else"),
    ("index.html", "<img", "<style>@import 'https://cdn.example/y.css';</style><img", "y.css from elsewhere"),
    ("index.html", "<img", "<style>b {src: url(https://cdn.example/f.woff)}</style><img", "f.woff from else"),
    ("index.html", PLAYER, "", "shows 0 <audio>, and index.ipynb stores 1"),
    ("index.html", '<img src="clip.ogg">', "", "shows 0 <img>, and index.ipynb stores 1"),
    ("codec/wavlm.html", "<table></table>", "", "shows 0 <table>, and codec/03_wavlm.ipynb stores 1"),
    ("index.html", "codec/wavlm.html#part", "index.html", "nothing on index.html leads to it"),
    ("index.html", "home", "x" * 2_000_001, "bytes; at most 2,000,000"),
])
def test_each_fault_is_found(built, page, old, new, fault):
    text = (built[0] / page).read_text()
    assert old in text
    (built[0] / page).write_text(text.replace(old, new, 1))
    found = "\n".join(site_tool.faults(*built))
    assert found.startswith(page if "nothing on" not in fault else "codec/wavlm.html") and fault in found


def test_a_page_that_is_missing(built):
    (built[0] / "codec/wavlm.html").unlink()
    assert "codec/wavlm.html: is not there, though codec/03_wavlm.ipynb is" in site_tool.faults(*built)


def test_a_page_of_the_stand_in_is_finished(built):
    site, nbs = built
    (nbs / "styles.css").write_text("pre { white-space: pre-wrap; }")
    (site / "codec/wavlm.html").write_text(
        '<head><meta name="description" content="Its one line."></head><nav id="side"><ul>'
        '<li><a href="../index.html">Home &amp; start</a></li>'
        '<li><a href="../codec/wavlm.html">WavLM</a></li></ul></nav>'
        '<h1 class="title">WavLM</h1><h2 id="part">Part</h2><a href="../index.ipynb">home</a>'
        '<table></table>'
        '<a href="https://linacodec-tier3.github.io/linacodec_tier3/codec/wavlm.html#part">here</a>')
    site_tool.finish(site, nbs)
    once = (site / "codec/wavlm.html").read_text()
    assert site_tool.faults(site, nbs) == []
    for part in ('href="../codec/wavlm.html#part"', 'class="here" href="../codec/wavlm.html">WavLM',
                 "Home &amp; start", "<summary>The codec</summary>", "pre-wrap",
                 '<div class="description">Its one line.</div>'):
        assert part in once, part
    site_tool.finish(site, nbs)
    assert (site / "codec/wavlm.html").read_text() == once


def test_every_notebook_is_in_the_sidebar_once():
    lines = (ROOT / "nbs/sidebar.yml").read_text().splitlines()
    listed = [line.strip()[2:] for line in lines if line.endswith(".ipynb")]
    assert sorted(listed) == sorted(site_tool.notebooks(ROOT / "nbs")) and len(listed) > 60
    assert (ROOT / "nbs/sidebar.yml").read_text() == site_tool.sidebar(ROOT / "nbs")
    assert listed[:2] == ["index.ipynb", "00_tour.ipynb"] and listed[-1] == "reference.ipynb"


def test_a_notebook_that_belongs_nowhere_is_told(tmp_path):
    notebook(tmp_path / "strange/00_room.ipynb")
    with pytest.raises(SystemExit, match="strange/00_room.ipynb"): site_tool.sidebar(tmp_path)


def test_readme_is_short_and_all_that_it_shows_is_in_the_tree():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = [t for t in re.findall(r"\]\(([^)\s]+)\)", text) if not t.startswith(("http", "#"))]
    assert len(text.splitlines()) <= 150 and len(targets) > 10
    assert [t for t in targets if not (ROOT / t).exists()] == []
    sounds = tool("readme").sounds()
    assert {name: (ROOT / f"nbs/images/{name}.ogg").read_bytes() for name in ("original", "nano")} == sounds
    assert all(f"(nbs/images/{name}.ogg)" in text for name in sounds)


def test_what_nbdev_leaves_becomes_a_readme(tmp_path, monkeypatch):
    readme = tool("readme")
    for name, inside in dict(ROOT=".", NBS="nbs", IMAGES="nbs/images", MADE="index_files").items():
        monkeypatch.setattr(readme, name, tmp_path / inside)
    notebook(tmp_path / "nbs/index.ipynb", {"text/html": f'<div class="clips">{PLAYER}</div>'})
    (tmp_path / "nbs/00_tour.ipynb").write_text("{}")
    for shown in ("*(audio player: see the docs site)*", f'<div class="clips">\n{PLAYER}\n</div>'):
        (tmp_path / "index_files").mkdir()
        (tmp_path / "index_files/cell-5.png").write_bytes(b"PNG")
        (tmp_path / "README.md").write_text(
            f"![](index_files/cell-5.png)\n\n{shown}\n\n[tour](00_tour.ipynb) [out](https://a.b)")
        readme.main()
        text = (tmp_path / "README.md").read_text()
        assert "](nbs/images/readme-1.png)" in text and "[one](nbs/images/one.ogg)" in text
        assert "[tour](nbs/00_tour.ipynb) [out](https://a.b)" in text and "<audio" not in text
        assert not (tmp_path / "index_files").exists()
    assert (tmp_path / "nbs/images/one.ogg").read_bytes() == b"OggS"
