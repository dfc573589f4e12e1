"""Do two commits say the same, to the last sample?

    python .ci/streams.py record FILE     # in one
    python .ci/streams.py compare FILE    # in the other

The worker runs behind the local endpoint with the package's own codec on the CPU and is asked over plain HTTP
for streams and batches of fixed seeds in every format. Times and what a later version adds are left out;
everything else must be equal.
"""
import base64, hashlib, json, os, socket, subprocess, sys, time
from contextlib import closing, contextmanager
from itertools import product
from pathlib import Path

import requests

TEXTS = {
    "short": "Dr. Ames paid 12.50 for it; was that wrong?",
    "long": "The harbour was quiet when the last boat came in. Nobody had expected it before morning, "
            "least of all the keeper, who stood at the end of the pier with a lamp in his hand.\n\n"
            "There were seven strokes of the oars, then none; the boat turned slowly, and somebody laughed. "
            "“You are late,” he said. “We are early,” they answered, “by eleven hours.”"}
STREAMED = ("linacodec_tokens", "pcm_16", "pcm_24", "ogg_opus")
FORMATS = (*STREAMED, "mp3", "wav", "flac")
TIMES = {"encode_time_ms", "generate_time_ms", "process_time_ms", "elapsed_time_seconds", "timing",
         "real_time_factor"}
ADDED = {"fingerprint"}


def requests_to_compare() -> dict: # name -> a job's `input`
    "Streams and batches, engines, seeds, sizes of chunks and ways of writing tokens."
    asked = {}
    for (name, text), format, service in product(TEXTS.items(), FORMATS, ("hibari", "tone")):
        base = dict(text=text, output_format=format, service=service, seed=7)
        asked[f"{service} {name} {format} batch"] = base
        if format in STREAMED: asked[f"{service} {name} {format} stream"] = base | dict(stream=True)
    text = TEXTS["long"]
    compact = dict(token_encoding="u16_b64", embedding_mode="first")
    asked["compact tokens"] = dict(text=text, stream=True, seed=8, **compact)
    asked["small chunks"] = dict(text=text, stream="true", seed=9, max_chars=60, speed=1.2)
    asked["an alias"] = dict(text=text, speaker_voice="heart", output_format="pcm_24", seed=10)
    asked["an error"] = dict(text=text, output_format="mp4")
    return asked


def comparable(
    said, # JSON
): # the same without times and without what a later version adds; long strings as their digests
    "What must not change."
    if isinstance(said, dict):
        return {k: comparable(v) for k, v in sorted(said.items()) if k not in TIMES | ADDED}
    if isinstance(said, list) and len(said) > 40: return ["list", len(said), digest(json.dumps(said))]
    if isinstance(said, list): return [comparable(v) for v in said]
    return ["text", len(said), digest(said)] if isinstance(said, str) and len(said) > 400 else said


def without_serial(
    messages:list, # partials, or the result, of one job
) -> list: # with nothing left of the number that each Ogg stream draws for itself
    "Ogg pages without serial number and checksum; the sum over the payload goes with them."
    said = json.loads(json.dumps(messages))
    for key in ("audio_chunk", "audio"):
        some = [m for m in said if isinstance(m, dict) and m.get("format") == "ogg_opus" and key in m]
        data = bytearray().join(base64.b64decode(m[key]) for m in some)
        at = 0
        while at < len(data):  # RFC 3533, section 6: the page header
            assert data[at:at + 4] == b"OggS"
            data[at + 14:at + 18] = data[at + 22:at + 26] = bytes(4)
            segments = data[at + 26]
            at += 27 + segments + sum(data[at + 27:at + 27 + segments])
        whole = hashlib.sha256(data).hexdigest()
        for m in some: m[key] = f"{len(base64.b64decode(m[key]))} bytes of {whole}"
    for m in said:
        is_opus = isinstance(m, dict) and m.get("format") == "ogg_opus"
        if is_opus and "manifest" in m: del m["manifest"]["crc32"]
    return said


def digest(text): return hashlib.sha256(text.encode()).hexdigest()[:16]


@contextmanager
def endpoint():
    "A local endpoint of this checkout; its address."
    with closing(socket.create_server(("127.0.0.1", 0))) as s: port = s.getsockname()[1]
    program = "from linacodec_tier3.cli import main; main()"
    command = [sys.executable, "-c", program, "serve", "--port", str(port)]
    here = dict(os.environ, CODEC="nano", DEVICE="cpu", PYTHONPATH=str(Path.cwd()), OMP_NUM_THREADS="2")
    server = subprocess.Popen(command, env=here, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        url, end = f"http://127.0.0.1:{port}/v2/local", time.monotonic() + 120
        while not ready(url):
            if server.poll() is not None or time.monotonic() > end:
                sys.exit("the local endpoint does not come up")
            time.sleep(0.2)
        yield url
    finally:
        server.terminate()
        server.wait()


def ready(url):
    try: return requests.get(f"{url}/health", timeout=5).json()["workers"]["idle"]
    except requests.ConnectionError: return False


def answer(url, request):
    "Everything that a client gets of one job."
    job, partials = requests.post(f"{url}/run", json={"input": request}, timeout=30).json()["id"], []
    while True:
        found = requests.get(f"{url}/stream/{job}", timeout=60).json()
        partials += [item["output"] for item in found["stream"]]
        if not found["stream"] and found["status"] in ("COMPLETED", "FAILED"): break
    end = requests.get(f"{url}/status/{job}", timeout=30).json()
    said = dict(partials=without_serial(partials), output=without_serial(end.get("output") or []))
    return comparable(said | dict(status=end["status"], error=end.get("error")))


def main(what, file):
    with endpoint() as url:
        found = {name: answer(url, request) for name, request in requests_to_compare().items()}
    if what == "record":
        Path(file).write_text(json.dumps(found, indent=1))
        return print(f"{len(found)} answers recorded")
    before = json.loads(Path(file).read_text())
    other = [name for name in before | found if before.get(name) != found.get(name)]
    print(f"{len(found) - len(other)} of {len(before)} answers are equal")
    for name in other: print(f"  differs: {name}")
    sys.exit(bool(other))


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("record", "compare"): sys.exit(__doc__)
    main(*sys.argv[1:])
