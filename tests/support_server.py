"What the tests of the HTTP server share: the real one, in a process of its own."
import os, socket, subprocess, sys, time
from contextlib import contextmanager

import requests

READY_S = 120


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as free: return free.getsockname()[1]


@contextmanager
def serving(**env): # the real server: its process and its address
    port = free_port()
    env = os.environ | dict(PORT=str(port), CODEC="nano") | env
    command = [sys.executable, "-m", "linacodec_tier3.server"]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        try:
            url, until = f"http://127.0.0.1:{port}", time.monotonic() + READY_S
            while pinged(url) != 200:
                assert process.poll() is None and time.monotonic() < until, process.stdout.read1().decode()
                time.sleep(0.1)
            yield process, url
        finally: process.kill()


def pinged(url):
    try: return requests.get(f"{url}/ping", timeout=5).status_code
    except requests.ConnectionError: return None
