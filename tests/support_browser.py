"What the tests that look through a browser share: Debian's Chromium, driven by playwright."
import functools, http.server, shutil, threading
from contextlib import contextmanager
from pathlib import Path

import pytest

try: from playwright import sync_api
except ImportError: sync_api = None
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
IN_BROWSER = [pytest.mark.slow,
              pytest.mark.skipif(not sync_api, reason="needs the `browser` extra"),
              pytest.mark.skipif(not CHROMIUM, reason="needs Chromium: apt-get install chromium")]
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-sync", "--disable-component-update",
         "--disable-background-networking")


def in_browser(test): # a test of its own, or a class of them
    "Marks a test that needs a browser, in a file where others need none."
    for mark in IN_BROWSER: test = mark(test)
    return test


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as p:
        found = p.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield found
        found.close()


class _Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *about): pass


@contextmanager
def served(
    folder:Path, # of pages
): # gives the address, with a slash at its end
    "A folder on loopback."
    handler = functools.partial(_Silent, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try: yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()
