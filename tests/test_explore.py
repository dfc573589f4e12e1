"The explorer, as somebody uses it: in JupyterLab, in a browser."
import io, json, os, shutil, socket, subprocess, sys, time
from pathlib import Path

import psutil
import pytest
from PIL import Image

from support import wait_until
from support_browser import IN_BROWSER, browser

pytestmark = IN_BROWSER

NBS = Path(__file__).resolve().parent.parent / "nbs"
PATIENCE_MS = 120_000  # for what takes seconds on a quiet machine
SETTINGS = { # of JupyterLab: asks nobody for news, and saves what widgets hold
    "@jupyterlab/apputils-extension/notification": dict(fetchNews="false", checkForUpdates=False),
    "@jupyter-widgets/jupyterlab-manager/plugin": dict(saveState=True)}
KEY = "rpa_a_key_that_nobody_may_find"
IDLE = """() => {
  const kernel = window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel;
  return kernel && kernel.connectionStatus === "connected" && kernel.status === "idle";
}"""
RAN = """() => {
  const cells = window.jupyterapp.shell.currentWidget.content.widgets.map(cell => cell.model);
  return cells.every(c => c.type !== "code" || c.executionCount > 0 && c.executionState !== "running");
}"""
NOTE_HEARD = """() => {
  window.heard = [];
  setInterval(() => {
    const now = document.querySelector("[data-heard]")?.dataset.heard;
    if (now && window.heard.at(-1) !== now) window.heard.push(now);
  }, 20);
}"""

OVERFLOWING = """() => [...document.querySelectorAll("[data-heard], [data-heard] *")].filter(e =>
    e.scrollWidth > e.clientWidth + 1 && e.clientWidth > 30 && e.tagName !== "INPUT"
    && getComputedStyle(e).overflowX !== "visible").map(e => e.className || e.tagName)"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory): # a running JupyterLab with a copy of the notebook: process, address and folder
    folder, home = tmp_path_factory.mktemp("notebooks"), tmp_path_factory.mktemp("jupyter")
    shutil.copy(NBS / "20_explore.ipynb", folder)
    shutil.copytree(NBS / "images", folder / "images")
    for name, values in SETTINGS.items():
        file = home / "config/lab/user-settings" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(values))
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    homes = {f"JUPYTER_{name.upper()}_DIR": str(home / name) for name in ("config", "data", "runtime")}
    command = [sys.executable, "-m", "jupyterlab", "--allow-root", "--no-browser", f"--ServerApp.port={port}",
               "--ServerApp.port_retries=0", f"--ServerApp.root_dir={folder}", "--IdentityProvider.token=t",
               "--LabApp.expose_app_in_browser=True"]
    with open(home / "log", "wb") as log:
        env = os.environ | homes | dict(CODEC="nano")
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log)
    def up():
        with socket.socket() as s: return s.connect_ex(("127.0.0.1", port)) == 0
    try:
        wait_until(up, 120)
        yield process, f"http://127.0.0.1:{port}/lab/tree/20_explore.ipynb?token=t", folder
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture(scope="module")
def faults(): return [] # what the browser complains of


@pytest.fixture(scope="module")
def page(lab, browser, faults): # the notebook, all of it run
    page = browser.new_page(viewport=dict(width=1280, height=1500))
    page.set_default_timeout(PATIENCE_MS)
    page.on("console", lambda m: m.type == "error" and faults.append(m.text))
    page.on("pageerror", lambda e: faults.append(str(e)))
    aborted = "net::ERR_ABORTED"  # JupyterLab's own: it asks for a picture before it knows where it is
    page.on("requestfailed", lambda r: r.failure != aborted and faults.append(f"{r.url}: {r.failure}"))
    page.goto(lab[1])
    run_all(page)
    yield page
    page.close()


def run_all(page):
    page.wait_for_function(IDLE)
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")
    page.wait_for_function(RAN)
    page.wait_for_selector(".lt3-state", state="attached")


def field(page, name, tag): return page.locator(f".lt3-field-{name} {tag}").first
def button(page, name): return page.locator("button.lt3-button", has_text=name).first
def says(page, words): return page.locator(".lt3-says", has_text=words).first.wait_for()


def stream(page, text, until="done", **chosen): # fields of the form that are lists
    field(page, "text", "textarea").fill(text)
    for name, label in chosen.items(): field(page, name, "select").select_option(label=label)
    run = runs(page) + 1
    button(page, "Stream").click()
    page.wait_for_selector(f'.lt3-state[data-run="{run}"][data-state="{until}"]', state="attached")


def players(page): # of the application: [state of being ready, seconds, fault] of each
    shown = "[...document.querySelectorAll('.jp-Cell:has(.lt3-state) audio')]"
    page.wait_for_function(f"{shown}.every(a => a.readyState === 4)")
    return page.evaluate(f"{shown}.map(a => [a.readyState, a.duration, a.error?.message ?? ''])")


def runs(page): return int(page.locator(".lt3-state").first.get_attribute("data-run"))


def test_every_cell_runs_and_shows_no_error(page):
    assert not page.locator(".jp-OutputArea [data-mime-type='application/vnd.jupyter.stderr']").count()
    assert not page.locator(".jp-RenderedText[data-mime-type='application/vnd.jupyter.error']").count()
    stored = page.locator(".jp-Cell:not(:has(.lt3-state)) .lt3-card")
    assert stored.count() == 3


def test_chunks_appear_with_players_and_are_heard_one_after_the_other(page, faults):
    page.evaluate(NOTE_HEARD)
    stream(page, "Three boats came in from the north. Four came in from the south. "
                 "Nobody had seen the eighth.")
    cards = page.locator(".jp-Cell:has(.lt3-state) .lt3-card").count()
    shown = players(page)
    assert cards > 1 and len(shown) == 2 * cards + 1
    assert all(ready == 4 and seconds > 0.5 and not fault for ready, seconds, fault in shown)
    page.wait_for_function(f"window.heard.includes('{cards}')")
    assert page.evaluate("window.heard") == [str(n + 1) for n in range(cards)]
    parts = page.evaluate("Object.values(window.lt3)[0].parts.map(p => [p.at, p.until])")
    gaps = [after[0] - before[1] for before, after in zip(parts, parts[1:])]
    assert len(parts) == cards and min(gaps) > -1e-6 and min(map(abs, gaps)) < 1e-6
    marked = page.locator(".jp-Cell:has(.lt3-state) .lt3-text mark").all_inner_texts()
    assert " ".join(marked).split() == field(page, "text", "textarea").input_value().split()
    assert page.locator(".jp-Cell:has(.lt3-state) .lt3-tokens img").count() == cards
    assert not faults


def test_a_player_silences_what_else_is_heard(page):
    stream(page, "One sentence that is rather long, so that there is time. And another sentence after it.")
    page.locator("audio[data-starts]").evaluate("a => a.play()")
    page.wait_for_function("!Object.values(window.lt3)[0].parts.length")
    page.locator(".lt3-card audio").first.evaluate("a => a.play()")
    page.wait_for_function("document.querySelector('audio[data-starts]').paused")
    page.locator(".lt3-card audio").first.evaluate("a => a.pause()")


def test_without_the_codec_and_as_a_file(page):
    page.locator(".lt3-field-codec").get_by_role("button", name="Off").click()
    stream(page, "Seven boats came in. The eighth did not, and nobody knew why.", format="ogg_opus")
    cards = page.locator(".jp-Cell:has(.lt3-state) .lt3-card")
    assert cards.count() == cards.locator("audio").count() == len(players(page)) - 1
    assert not page.locator(".jp-Cell:has(.lt3-state) .lt3-tokens").count()


def offered(page, name, which=""): # what a list offers, or of that only what is chosen
    found = field(page, name, "select").locator(f"option{which}").all_inner_texts()
    return [text.replace("\u00a0", " ") for text in found]


def test_language_and_markup_are_chosen_from_what_there_is(page, faults):
    assert offered(page, "language") == ["the engine's own · en", "en · English"]
    assert offered(page, "markup") == ["auto", "none"]
    odd = "Seven <b>boats</b> came in, says the sign; Добро пожаловать stands below it."
    missed = page.locator(".jp-Cell:has(.lt3-state) .lt3-missed")
    stream(page, odd)
    assert missed.locator("li s").all_inner_texts() == ["<b>", "</b>", "Добро пожаловать"]
    assert "characters 44 to 59: Cyrillic letters" in missed.inner_text()
    struck = page.locator(".jp-Cell:has(.lt3-state) .lt3-text .lt3-skipped").all_inner_texts()
    assert struck == missed.locator("li s").all_inner_texts()
    stream(page, odd, markup="none", language="en · English")
    assert missed.locator("li s").all_inner_texts() == ["Добро пожаловать"]
    field(page, "service", "select").select_option(label="tone")  # it names no language
    page.wait_for_function("document.querySelector('.lt3-field-language select').options.length > 2")
    stream(page, "Seven boats came in.", language="de · German", markup="auto")
    assert not missed.count()
    field(page, "service", "select").select_option(label="hibari")
    page.wait_for_function("document.querySelector('.lt3-field-language select').options.length === 2")
    assert offered(page, "language", ":checked") == ["the engine's own · en"]
    assert not faults


def test_stop_is_heard_at_once_and_stream_twice_is_once(page):
    field(page, "service", "select").select_option(label="tone")
    field(page, "options", "input").fill('{"rtf": 30}')
    field(page, "options", "input").press("Enter")
    before = runs(page)
    button(page, "Stream").evaluate("b => { b.click(); b.click(); }")
    page.wait_for_function("!document.querySelector('button.lt3-stop').disabled")
    began = time.monotonic()
    button(page, "Stop").click()
    says(page, "Stopped")
    assert time.monotonic() - began < 10  # its first chunk alone takes a minute
    assert runs(page) == before + 1 and not page.locator(".jp-Cell:has(.lt3-state) .lt3-card").count()
    assert button(page, "Stream").is_enabled() and button(page, "Stop").is_disabled()
    field(page, "service", "select").select_option(label="hibari")
    stream(page, "It speaks again.")


def test_what_is_wrong_is_said(page):
    stream(page, "   ", until="failed")
    assert "`text` is empty" in page.locator(".lt3-error").first.inner_text()
    stream(page, "Now it is right.")
    assert not page.locator(".lt3-error").count()


def test_a_key_leaves_its_field_and_is_not_saved(page, lab):
    field(page, "source", "select").select_option(label="RunPod endpoint")
    field(page, "endpoint", "input").fill("http://127.0.0.1:9/v2/gone")
    field(page, "key", "input").fill(KEY)
    field(page, "key", "input").press("Enter")
    page.wait_for_function("document.querySelector('.lt3-field-key input').value === ''")
    button(page, "Connect").click()
    page.locator(".lt3-error", has_text="is the endpoint up?").first.wait_for()
    page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    saved = wait_until(lambda: "widgets" in json.loads((lab[2] / "20_explore.ipynb").read_text())["metadata"]
                       and (lab[2] / "20_explore.ipynb").read_text())
    assert "/v2/gone" in saved and KEY not in saved


def workers(lab):
    below = psutil.Process(lab[0].pid).children(recursive=True)
    return [p for p in below if p.is_running() and "linacodec_tier3.handler" in " ".join(p.cmdline())]


def test_through_the_local_endpoint_which_ends_with_the_kernel(page, lab, faults):
    field(page, "source", "select").select_option(label="Local endpoint")
    button(page, "Connect").click()
    button(page, "Stream").wait_for()
    assert offered(page, "language") == ["the engine's own · en", "en · English"]
    page.locator(".lt3-field-codec").get_by_role("button", name="Compare").click()
    stream(page, "Seven boats came in. The eighth did not.")
    cards = page.locator(".jp-Cell:has(.lt3-state) .lt3-card")
    assert cards.locator("audio").count() == 2 * cards.count() == len(players(page)) - 1
    assert [p for p in workers(lab)]
    page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()")
    wait_until(lambda: not workers(lab), 60)
    run_all(page)
    stream(page, "And after a restart it speaks as before.")
    assert not faults


@pytest.mark.parametrize("theme", ["JupyterLab Dark", "JupyterLab Light"])
def test_it_fits_its_column_and_can_be_read(page, theme, tmp_path):
    change = "theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})"
    page.evaluate(change, theme)
    stream(page, "Seven boats came in. The eighth did not, and nobody on the pier knew why that was.")
    for width in (1280, 900):
        page.set_viewport_size(dict(width=width, height=1500))
        assert not page.evaluate(OVERFLOWING)
    page.set_viewport_size(dict(width=1280, height=1500))


def test_picture_of_it_for_the_docs(page, tmp_path): # `make explore-picture` keeps it
    kept = Path(os.environ.get("PICTURE", tmp_path / "explorer.png"))
    page.set_viewport_size(dict(width=1340, height=3000))
    stream(page, "The harbour was quiet when the last boat came in. Nobody had expected it before morning, "
                 "least of all the keeper, who counted the strokes of the oars.")
    page.wait_for_function("document.querySelector('[data-heard]').dataset.heard === '2'")
    app, card = page.locator("[data-heard]").first, page.locator(".lt3-card").first
    seen = Image.open(io.BytesIO(app.screenshot())).convert("RGB")
    top, first = app.bounding_box()["y"], card.bounding_box()
    seen = seen.crop((0, 3, seen.width, round(first["y"] + first["height"] - top) + 6))
    small = seen.quantize(64, dither=Image.Dither.NONE)
    small.save(kept, optimize=True)
    assert kept.stat().st_size < 60_000 and len(small.getcolors()) > 32
