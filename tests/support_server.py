"What the tests of the HTTP server share: the real one, in a process of its own."
import json, os, socket, subprocess, sys, time
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile

import requests

READY_S = 120


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as free: return free.getsockname()[1]


@contextmanager
def serving(**env): # the real server: its process and its address
    port = free_port()
    env = os.environ | dict(PORT=str(port), CODEC="nano") | env
    command = [sys.executable, "-m", "linacodec_tier3.server"]
    with TemporaryFile() as said, subprocess.Popen(command, env=env, stdout=said, stderr=said) as process:
        try:
            url, until = f"http://127.0.0.1:{port}", time.monotonic() + READY_S
            while pinged(url) != 200:
                if process.poll() is not None or time.monotonic() > until: raise AssertionError(last_of(said))
                time.sleep(0.1)
            yield process, url
        finally: process.kill()


def last_of(said, most=3_000): # of a file in which a process writes
    said.seek(max(0, said.seek(0, os.SEEK_END) - most))
    return said.read().decode(errors="replace")


def store(path, what, found): # among the other measurements of HTTP
    "Keep one measurement in a file of several."
    path = Path(path)
    kept = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(kept | {what: found}, indent=1) + "\n")


def by_http(url, given): # ms until the first line of a stream has arrived, and what the worker says of itself
    "One request on a connection of its own, read byte by byte as it comes."
    body, host = json.dumps(given).encode(), url.removeprefix("http://")
    head = f"POST /speak HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    name, port = host.split(":")
    start, first, came = time.monotonic(), None, bytearray()
    with socket.create_connection((name, int(port)), 60) as s:
        s.sendall(head.encode() + body)
        while piece := s.recv(1 << 18):
            came += piece
            if not first and b"}\n" in came: first = time.monotonic()
    assert came.startswith(b"HTTP/1.1 200"), came[:300]
    [last] = [json.loads(line) for line in came.split(b"\n") if line.startswith(b'{"status": "complete"')]
    return dict(client_ms=1e3 * (first - start), own_ms=last["timing"]["first_partial"])


def pinged(url):
    try: return requests.get(f"{url}/ping", timeout=5).status_code
    except requests.ConnectionError: return None
