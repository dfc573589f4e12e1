"The server's page in a browser: it speaks, shows where it is, stops, and says what is wrong."
import io, os
from pathlib import Path

import pytest, requests
from PIL import Image

from support_browser import IN_BROWSER, browser
from support_server import serving

pytestmark = IN_BROWSER
assert browser
TEXT = "The harbour lay still. 🌊 Eleven boats rocked on their ropes, and nobody spoke. " * 6
COUNT = """() => {
  window.heard = [];
  const start = AudioBufferSourceNode.prototype.start;
  AudioBufferSourceNode.prototype.start = function(when) {
    const peak = this.buffer.getChannelData(0).reduce((most, x) => Math.max(most, Math.abs(x)), 0);
    heard.push({seconds: this.buffer.duration, when, peak});
    return start.call(this, when);
  };
}"""


@pytest.fixture(scope="module")
def server():
    with serving() as (_, url): yield url


@pytest.fixture
def page(server, browser): # the page, as somebody finds it; what the browser complains of, and whom it asks
    context = browser.new_context(viewport=dict(width=390, height=844))
    page = context.new_page()
    page.faults, page.hosts = [], set()
    page.on("console", lambda m: m.type in ("error", "warning") and page.faults.append(m.text))
    page.on("pageerror", lambda e: page.faults.append(str(e)))
    page.on("request", lambda r: page.hosts.add("/".join(r.url.split("/")[:3])))
    page.add_init_script(f"({COUNT})()")
    page.goto(server)
    page.wait_for_selector("#service option", state="attached")
    yield page
    context.close()


def speak(page, text, **chosen):
    page.fill("#text", text)
    for field, value in chosen.items(): page.select_option(f"#{field}", value)
    page.click("#speak")


@pytest.mark.parametrize("format", ["pcm_24", "pcm_16"])
def test_it_speaks_and_shows_what_is_said(page, server, format):
    speak(page, TEXT, format=format)
    page.wait_for_selector("#said mark")
    marked = page.inner_text("#said mark")
    assert marked.strip() and marked in TEXT and page.inner_text("#said").strip() == TEXT.strip()
    page.wait_for_function("parseFloat(document.getElementById('seconds').textContent) >= 20")
    heard = page.evaluate("heard")
    assert len(heard) >= 2 and all(h["peak"] > 0.01 for h in heard)
    gaps = [b["when"] - a["when"] - a["seconds"] for a, b in zip(heard, heard[1:])]
    assert max(map(abs, gaps)) < 0.01  # each begins where the one before it ends
    assert page.inner_text("#first").endswith(" ms") and "as LinaCodec tokens" in page.inner_text("#bytes")
    assert not page.faults and page.hosts == {server}


def test_services_that_lack_something_cannot_be_chosen(page, server):
    services = requests.get(f"{server}/voices", timeout=30).json()
    look = "[...document.querySelectorAll('#service option')].map(o => [o.value, !o.disabled])"
    options = page.evaluate(look)
    assert dict(options) == {name: about["ready"] for name, about in services.items()}
    assert options[0] == ["hibari", True] and not all(ready for _, ready in options)


def test_stop_ends_it_and_it_speaks_again(page):
    speak(page, TEXT * 50)
    page.wait_for_selector("#said mark")
    page.keyboard.press("Escape")
    page.wait_for_selector("#speak:enabled")
    assert page.locator("#said mark").count() == 0 and page.is_disabled("#stop")
    speak(page, "All is well.")
    page.wait_for_selector("#speak:enabled", timeout=30_000)
    assert not page.faults and not page.inner_text("#error")


def test_what_is_wrong_is_said(page):
    speak(page, "🌊", format="pcm_24")
    page.evaluate("document.getElementById('voice').append(new Option('nobody', 'nobody', true, true))")
    page.click("#speak")
    page.wait_for_function("document.getElementById('error').textContent.includes('nobody')")
    assert page.is_enabled("#speak")


def test_a_key_is_asked_for_where_one_is_needed(browser):
    with serving(API_KEY="secret", CODEC="none") as (_, url):
        page = browser.new_page()
        page.goto(url)
        page.wait_for_function("document.getElementById('error').textContent.includes('the field Key')")
        page.click("#speak")
        page.wait_for_function("document.activeElement.id === 'key'")
        page.fill("#key", "wrong")
        page.press("#key", "Tab")
        page.wait_for_function("document.getElementById('error').textContent.includes('not the server')")
        page.fill("#text", "All is well.")
        page.fill("#key", "secret")
        page.press("#key", "Enter")  # lists the services, and speaks
        page.wait_for_function("document.getElementById('seconds').textContent.endsWith('s')")
        page.close()


def test_it_fits_a_telephone_and_works_by_keyboard(page):
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    unlabelled = page.evaluate("""[...document.querySelectorAll('input,select,textarea')]
                                  .filter(e => !e.labels.length).map(e => e.id)""")
    assert not unlabelled
    page.fill("#text", "All is well.")
    page.focus("#text")
    for _ in range(4): page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "speak"
    page.keyboard.press("Enter")
    page.wait_for_function("document.getElementById('seconds').textContent.endsWith('s')")
    page.wait_for_selector("#speak:enabled", timeout=30_000)
    assert page.evaluate("document.activeElement.id") == "speak"  # not lost while the button was pressed


def test_a_long_text_stays_in_sight(page):
    speak(page, TEXT * 30)
    page.wait_for_selector("#said mark")
    assert page.evaluate("document.getElementById('said').offsetHeight <= innerHeight / 2 + 1")
    page.evaluate("sound.shown = null; sound.spans = [[0, 1e9, 9000, 9100]]")  # as after ten minutes
    page.wait_for_function("""() => {
      const said = document.getElementById('said'), mark = said.firstElementChild;
      const top = mark.offsetTop - said.scrollTop; return mark.textContent.length >= 100 && top >= 0 &&
      top + mark.offsetHeight <= said.clientHeight; }""")
    page.click("#stop")
    assert not page.faults


def test_picture_of_it_for_the_docs(page): # PAGE_PICTURE=nbs/images/page.png keeps it
    page.set_viewport_size(dict(width=760, height=700))
    speak(page, page.input_value("#text"))  # its own: not every machine has a font for emoji
    page.wait_for_function("document.querySelector('#said mark')?.textContent.includes('lamp')")
    picture = Image.open(io.BytesIO(page.screenshot())).quantize(64)
    picture.save(small := io.BytesIO(), "PNG", optimize=True)
    assert 10_000 < small.tell() < 60_000
    if name := os.environ.get("PAGE_PICTURE"): Path(name).write_bytes(small.getvalue())
