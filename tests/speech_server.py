"""A server that speaks by OpenAI's speech API, on this machine: with the embedded voice, and faults to order.

    python tests/speech_server.py [--port PORT] [voice …]

prints its base URL, and serves until its input ends.
"""
import argparse, io, itertools, json, sys, threading, time
from collections import deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import av
import numpy as np

from linacodec_tier3.audio import encode_file, resample, to_pcm
from linacodec_tier3.engines.calls import call_engine
from linacodec_tier3.tts import engine_class

OWN = 24_000  # Hz, of the embedded voice
TYPES = {"pcm": "audio/pcm", "wav": "audio/wav", "flac": "audio/flac", "mp3": "audio/mpeg",
         "opus": "audio/ogg", "aac": "audio/aac"}
UNKNOWN = 0xFFFFFFFF  # as a length: what streaming servers write, since they do not know it yet
PIECE = 4_000  # bytes
VOICES = {"heart": 1., "deep": 1.25}  # name -> by what its speech is stretched, which makes it lower


def wav_head(
    rate:int, # Hz
    length:int=UNKNOWN, # bytes of samples
) -> bytes: # 44 bytes
    "The head of a wav file with 16-bit samples of one channel."
    def whole(number, size=4): return number.to_bytes(size, "little")
    form = whole(1, 2) + whole(1, 2) + whole(rate) + whole(2 * rate) + whole(2, 2) + whole(16, 2)
    outer = whole(min(length + 36, UNKNOWN))
    return b"RIFF" + outer + b"WAVEfmt " + whole(16) + form + b"data" + whole(length)


def adts(
    sound:np.ndarray, # mono float32
    rate:int, # Hz
) -> bytes: # AAC
    "Sound as AAC in the frames that a server sends."
    out = io.BytesIO()
    with av.open(out, "w", format="adts") as file:
        stream = file.add_stream("aac", rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
        frame.sample_rate = rate
        for packet in (*stream.encode(frame), *stream.encode(None)): file.mux(packet)
    return out.getvalue()


def packed(
    sound:np.ndarray, # mono float32
    rate:int, # Hz
    form:str, # a key of `TYPES`
) -> bytes: # as a server sends it
    "Sound in one of the API's formats; a wav as if it were streamed, its lengths not known."
    if form == "aac": return adts(sound, rate)
    if form in ("pcm", "wav"):
        return (wav_head(rate) if form == "wav" else b"") + to_pcm(sound, "pcm_16")
    return encode_file(sound, rate, {"opus": "ogg_opus"}.get(form, form))


@dataclass
class SpeechServer:
    "A context manager; a fault is taken for each call, in turn, until there is none left."
    key:str = "" # that it asks for; "": none
    port:int = 0 # 0: any that is free
    voices:dict = field(default_factory=lambda: dict(VOICES))
    listed:object = "voices" # how it gives its list: "voices", "data", "plain", or None: it has none
    rate:int = OWN # Hz of what it sends
    faults:deque = field(default_factory=deque) # statuses, or names of what `_Handler` can do
    retry_after:str = "" # sent with a status
    elsewhere:str = "http://elsewhere.example/v1/audio/speech" # where a redirect leads
    asked:list = field(default_factory=list) # bodies of calls
    headers:list = field(default_factory=list) # of the same calls
    connections:set = field(default_factory=set) # ports from which they came
    hung_up:threading.Event = field(default_factory=threading.Event) # somebody left before the end
    down:threading.Event = field(default_factory=threading.Event)

    @property
    def url(self): return f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self):
        self._engine, self._turn = engine_class("hibari")(), threading.Lock()
        self._seeds = itertools.count(10_000)
        handler = type("Handler", (_Handler,), {"speech": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), handler)
        self._server.daemon_threads = True
        how = dict(kwargs={"poll_interval": 0.05}, daemon=True)
        threading.Thread(target=self._server.serve_forever, **how).start()
        return self

    def __exit__(self, *_):
        self.down.set()
        self._server.shutdown()
        self._server.server_close()

    def speak(self, body): # -> mono float32 at `rate`; without a seed, another sound each time
        with self._turn:
            seed = body.get("seed", next(self._seeds))
            sound = call_engine(self._engine, body["input"], "heart", seed, body.get("speed", 1))
        quiet = 1 if "seed" in body else np.random.default_rng(seed).uniform(.8, 1)
        return resample(sound * np.float32(quiet), OWN, int(self.rate * self.voices[body.get("voice")]))

    def listing(self):
        "The voices, in one of the shapes that are about."
        if self.listed == "voices": return {"voices": list(self.voices)}
        if self.listed == "plain": return [{"voice_id": n, "name": n.title()} for n in self.voices]
        return {"object": "list", "data": [{"id": n, "name": n.title()} for n in self.voices]}


class _Handler(BaseHTTPRequestHandler):
    protocol_version, speech = "HTTP/1.1", None

    def log_message(self, *_): pass

    def do_GET(self):
        if self.path != "/v1/audio/voices" or not self.speech.listed: return self._refuse(404, "Not Found")
        self._say(200, json.dumps(self.speech.listing()).encode(), "application/json")

    def do_POST(self):
        server, body = self.speech, json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server.asked.append(body)
        server.headers.append(dict(self.headers))
        server.connections.add(self.client_address[1])
        fault = server.faults.popleft() if server.faults else None
        try:
            if isinstance(fault, int): return self._refuse(fault, "the model is loading")
            if server.key and self.headers.get("Authorization") != f"Bearer {server.key}":
                return self._refuse(401, f"Incorrect API key provided: {self.headers.get('Authorization')}.")
            voice = body.get("voice")
            if voice not in server.voices: return self._refuse(400, f"there is no voice {voice!r}")
            getattr(self, f"_{fault or 'speak'}")(body)
        except OSError: server.hung_up.set()

    def _say(self, status, content, kind, **headers):
        self.send_response(status)
        head = {"Content-Type": kind, "Content-Length": str(len(content))} | headers
        for name, value in head.items(): self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def _refuse(self, status, why):
        after = {"Retry_After": self.speech.retry_after} if self.speech.retry_after else {}
        error = {"error": {"message": why, "type": "server_error", "param": None, "code": None}}
        self._say(status, json.dumps(error).encode(), "application/json", **after)

    def _begin(self, form, **headers):
        self.send_response(200)
        for name, value in {"Content-Type": TYPES[form], "Transfer-Encoding": "chunked"}.items():
            self.send_header(name, value)
        self.end_headers()

    def _piece(self, data):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def _send(self, body, pause=0., most=None): # in chunks; `most` bytes of it
        form = body.get("response_format", "mp3")
        data = packed(self.speech.speak(body), self.speech.rate, form)
        self._begin(form)
        for start in range(0, len(data) if most is None else min(most, len(data)), PIECE):
            self._piece(data[start:start + PIECE])
            time.sleep(pause)

    def _speak(self, body):
        self._send(body)
        self.wfile.write(b"0\r\n\r\n")

    def _slow(self, body): # a piece every fifth of a second
        self._send(body, pause=0.2)
        self.wfile.write(b"0\r\n\r\n")

    def _cut(self, body): # goes away in the middle
        self._send(body, most=30_000)
        self.close_connection = True

    def _odd(self, body): # ends properly, in the middle of a sample
        form = body["response_format"]
        self._begin(form)
        self._piece(packed(self.speech.speak(body), self.speech.rate, form)[:-1])
        self.wfile.write(b"0\r\n\r\n")

    def _short(self, body): # a wav file that is shorter than its head says
        data = to_pcm(self.speech.speak(body), "pcm_16")
        self._begin("wav")
        self._piece(wav_head(self.speech.rate, len(data)) + data[:len(data) // 4 * 2])
        self.wfile.write(b"0\r\n\r\n")

    def _endless(self, body):
        form = body["response_format"]
        sound = packed(self.speech.speak(body), self.speech.rate, form)
        self._begin(form)
        while not self.speech.down.is_set(): self._piece(sound if form == "pcm" else sound[-PIECE:])

    def _stalls(self, body): # says the beginning, and then nothing
        self._send(body, most=12_000)
        self._wait()

    def _never(self, body): self._wait()

    def _wait(self): # until the other side hangs up
        self.connection.settimeout(0.05)
        self.close_connection = True
        while not self.speech.down.is_set():
            try:
                if not self.connection.recv(1): return self.speech.hung_up.set()
            except TimeoutError: pass

    def _silent(self, body): # no answer at all
        self.close_connection = True

    def _closes(self, body): # answers, and closes the connection without having said so
        self._speak(body)
        self.wfile.flush()
        self.close_connection = True

    def _page(self, body): self._say(200, b"<html><title>Sign in</title><p>to go on</p></html>", "text/html")

    def _json(self, body): self._say(200, b'{"error": {"message": "out of memory"}}', "application/json")

    def _nothing(self, body): self._say(200, b"", TYPES[body["response_format"]])

    def _elsewhere(self, body):
        self._say(307, b"", "text/plain", Location=self.speech.elsewhere)

    def _another(self, body): # ignores the format that it was asked for
        self._speak(body | {"response_format": "mp3" if body["response_format"] != "mp3" else "wav"})



if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("voices", nargs="*", default=list(VOICES))
    given = parser.parse_args()
    named = {name: VOICES.get(name, 1.) for name in given.voices}
    with SpeechServer(port=given.port, voices=named) as running:
        print(running.url, flush=True)
        sys.stdin.read()
