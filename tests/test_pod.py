"""The pod's image as somebody meets it: the console's link opened in a browser, and a notebook run there.

POD names a command that starts it as RunPod does; `.ci/image.py prove` has one for what was built here.
"""
import os, shlex, shutil, signal, subprocess, time

import pytest
import requests

try: from playwright import sync_api
except ImportError: sync_api = None
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [pytest.mark.skipif(not os.environ.get("POD"), reason="POD names no command that starts a pod"),
              pytest.mark.skipif(not sync_api, reason="needs the `browser` extra"),
              pytest.mark.skipif(not CHROMIUM, reason="needs Chromium: apt-get install chromium")]
LAB, TOKEN, PATIENCE_S = "http://127.0.0.1:8888", "a-password", 200
EXPLORER, CHUNKER = "20_explore.ipynb", "04_chunker.ipynb"
FOLDER = "workspace/linacodec-tier3"


@pytest.fixture(scope="module")
def lab(tmp_path_factory): # the address that RunPod's console links to
    log = tmp_path_factory.mktemp("pod") / "log"
    with open(log, "wb") as out:
        env = {k: v for k, v in os.environ.items() if k != "CODEC"} | {"JUPYTER_PASSWORD": TOKEN}
        command = shlex.split(os.environ["POD"])
        pod = subprocess.Popen(command, env=env, stdout=out, stderr=out, start_new_session=True)
    def answers():
        try: return requests.get(f"{LAB}/api/status", params=dict(token=TOKEN), timeout=5).ok
        except requests.RequestException: return False
    try:
        end = time.monotonic() + PATIENCE_S
        while not answers():
            assert pod.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.5)
        yield f"{LAB}/?token={TOKEN}"
    finally:
        os.killpg(pod.pid, signal.SIGKILL)
        pod.wait(60)


@pytest.fixture(scope="module")
def browser(lab):
    with sync_api.sync_playwright() as p:
        found = p.chromium.launch(executable_path=CHROMIUM, args=("--no-sandbox", "--disable-gpu"))
        yield found
        found.close()


def asked(path):
    "What Jupyter's own API says."
    return requests.get(f"{LAB}/api/{path}", params=dict(token=TOKEN), timeout=30).json()


def is_idle(name):
    "Whether a notebook's kernel is there and has nothing to do."
    idle = lambda session: session["kernel"]["execution_state"] == "idle"
    return any(idle(session) for session in asked("sessions") if session["path"].endswith(name))


def saved(page, name):
    "The notebook's code cells as they are now."
    page.keyboard.press("Control+s")
    time.sleep(5)
    return [c for c in asked(f"contents/{FOLDER}/{name}")["content"]["cells"] if c["cell_type"] == "code"]


def run_all(page, name):
    "Run > Run All Cells, as somebody would; the outputs, once all have run."
    page.set_default_timeout(PATIENCE_S * 1000)
    page.wait_for_selector(".jp-Notebook .jp-CodeCell")
    end = time.monotonic() + PATIENCE_S
    def wait(): time.sleep(2) if time.monotonic() < end else pytest.fail(f"{name} takes too long")
    while not is_idle(name): wait()
    page.get_by_text("Run", exact=True).first.click()
    page.get_by_text("Run All Cells", exact=True).first.click()
    while True:
        wait()
        if not is_idle(name): continue
        cells = saved(page, name)
        if all(c["execution_count"] for c in cells if "".join(c["source"]).strip()):
            return [out for c in cells for out in c["outputs"]]
        failed = [out for c in cells for out in c["outputs"] if out["output_type"] == "error"]
        assert not failed, failed


def test_the_consoles_link_opens_the_explorer_and_run_all_shows_it(lab, browser):
    page = browser.new_page(viewport=dict(width=1280, height=1100))
    page.goto(lab)
    outputs = run_all(page, EXPLORER)
    assert page.url.split("?")[0].endswith(f"/lab/tree/{FOLDER}/{EXPLORER}")
    assert not [out for out in outputs if out["output_type"] == "error"]
    page.wait_for_selector(".lt3-state", state="attached")
    page.locator("button.lt3-button", has_text="Stream").first.wait_for()
    if os.environ.get("PICTURE"): page.screenshot(path=os.environ["PICTURE"])
    page.close()


def test_a_notebook_of_the_project_runs_there_from_top_to_bottom(lab, browser):
    page = browser.new_page(viewport=dict(width=1280, height=1100))
    page.goto(f"{LAB}/lab/tree/{FOLDER}/{CHUNKER}?token={TOKEN}")
    outputs = run_all(page, CHUNKER)
    assert outputs and not [out for out in outputs if out["output_type"] == "error"]
    page.close()
