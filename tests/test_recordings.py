"Recordings to copy: hostile ones, and all the ways in which a request can bring one, through the worker."
import asyncio, json, shutil, socket, ssl, subprocess, sys, threading, time
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest.mock import patch
from urllib.parse import quote_from_bytes

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings, strategies as st
from support import ended, submit
from support_recordings import MADE, RATE, as_wav, encoded, note, pitch

from linacodec_tier3 import handler as worker
from linacodec_tier3.audio import decode_file, from_base64, from_pcm
from linacodec_tier3.client import Client, joined, speak
from linacodec_tier3.config import get_config
from linacodec_tier3.engines import fetch
from linacodec_tier3.engines.tone import Tone
from linacodec_tier3.engines.voices import data_url
from linacodec_tier3.local.endpoint import LocalEndpoint
from linacodec_tier3.recordings import LEVEL_DB, PEAK, RecordingError, levelled, read_sound, speech_db
from linacodec_tier3.tts import forget_engine, register_engine

FILES = {name: encoded(note(seconds=1.0), name) for name in MADE}
ROOT = Path(__file__).resolve().parent.parent


# What a file may hold

@pytest.mark.parametrize("name", MADE)
def test_each_format_is_heard_at_one_level(name):
    sound, rate = read_sound(encoded(note(330, level=0.01), name))
    assert pitch(sound, rate) == pytest.approx(330, abs=1) and 1.9 < len(sound) / rate < 2.1
    even = levelled(sound, rate)
    assert speech_db(even, rate) == pytest.approx(LEVEL_DB, abs=0.3) and np.abs(even).max() <= PEAK


def test_what_only_claims_to_be_of_a_format_is_damaged():
    for text in (b"RIFF\x00\x00\x00\x00WAVE", b"ID3", b"OggS", b"fLaC", b"\x1aE\xdf\xa3", b"....ftypM4A "):
        with pytest.raises(RecordingError, match="cannot be read: as"): read_sound(text + b"Dear all, " * 50)


MEMORY = """
import resource, sys
sys.path.insert(0, "tests")
from support_recordings import *
from linacodec_tier3.recordings import RecordingError, read_sound
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
data = {made}
read_sound(encoded(note(), "mp4"))
before = peak()
try: print(len(read_sound(data)[0]) / RATE, end=" ")
except RecordingError as e: print(e, end=" ")
print("MB:", peak() - before)
"""


def grown(made):
    "What reading a file said, and by how many MB the process grew."
    code = MEMORY.replace("{made}", made)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not done.stderr
    said, _, mb = done.stdout.rpartition(" MB: ")
    return said, float(mb)


def test_a_picture_of_gigabytes_beside_the_sound_is_not_looked_at():
    said, mb = grown('encoded(note(), "mp4", also=[huge_png(12_000)])')
    assert float(said) == pytest.approx(2, abs=0.1) and mb < 200, "decoded, it has 432 MB"


def test_hours_in_a_few_megabytes_take_no_more_than_minutes():
    said, mb = grown("silent_hours(5)")
    assert "is silent in its first 330." in said and mb < 700, "decoded, it has 7 GB"


def test_an_endless_length_in_a_header_is_not_believed():
    wav = bytearray(as_wav(note(), subtype="PCM_16"))
    wav[4:8] = wav[40:44] = b"\xff\xff\xff\x7f"
    assert len(read_sound(bytes(wav))[0]) == 2 * RATE
    m4a = FILES["m4a"]
    at = m4a.index(b"mdhd") + 16  # after version, flags, two dates and the time scale
    claims_hours = m4a[:at] + b"\x7f\xff\xff\xff" + m4a[at + 4:]
    assert 0.9 < len(read_sound(claims_hours)[0]) / RATE < 1.1


def test_marks_in_other_alphabets_are_no_reason_to_refuse_a_recording():
    tagged = encoded(note(), "mp4", metadata={"title": "Q" * 8})
    assert tagged.count(b"Q" * 8) == 1
    assert len(read_sound(tagged.replace(b"Q" * 8, b"caf\xe9\xff\xfe\xfaQ"))[0]) > RATE


def test_a_playlist_opens_no_other_file(tmp_path):
    (tmp_path / "secret.wav").write_bytes(as_wav(note()))
    for text in (f"#EXTM3U\n#EXTINF:10,\nfile://{tmp_path}/secret.wav\n",
                 f"ffconcat version 1.0\nfile '{tmp_path}/secret.wav'\n"):
        with pytest.raises(RecordingError, match="is none of"): read_sound(text.encode())


def test_damage_is_not_told_to_the_log_by_libraries(capfd):
    rng = np.random.default_rng(1)
    for data in FILES.values():
        spoilt = np.frombuffer(data, np.uint8).copy()
        spoilt[rng.integers(64, len(data), 200)] ^= 0x55
        try: read_sound(spoilt.tobytes())
        except RecordingError: pass
    assert capfd.readouterr() == ("", "")


@given(st.sampled_from(sorted(MADE)), st.data())
@settings(max_examples=150, deadline=None)
def test_whatever_a_file_holds_it_is_sound_or_one_line(name, draw):
    data = bytearray(FILES[name])
    for _ in range(draw.draw(st.integers(1, 12))):
        at = draw.draw(st.integers(0, min(len(data), 600) - 1))
        data[at] = draw.draw(st.integers(0, 255))
    data = bytes(data[:draw.draw(st.integers(0, len(data)))])
    began = time.monotonic()
    try: sound, rate = read_sound(data, 10)
    except RecordingError as e: assert "\n" not in str(e) and len(str(e)) < 200
    else: assert np.isfinite(sound).all() and sound.ndim == 1 and 0.5 <= len(sound) / rate <= 10
    assert time.monotonic() - began < 10


HEADS = (b"RIFF____WAVEfmt ", b"fLaC", b"OggS", b"\x1aE\xdf\xa3", b"____ftypM4A ", b"ID3\x04", b"\xff\xf1",
         b"FORM____AIFF", b"caff", b"#!AMR\n", b"\xff\xfb", b"")


@given(st.sampled_from(HEADS), st.binary(max_size=400))
@settings(max_examples=150, deadline=None)
def test_what_only_begins_as_a_recording_is_one_line(head, rest):
    try: read_sound(head + rest)
    except RecordingError as e: assert "\n" not in str(e)


# What a request may bring

class Copier(Tone):
    "Answers with the recording itself, and counts."
    name, copies_voices, loaded, prepared = "copier", True, 0, []

    def __init__(self): type(self).loaded += 1

    def prepare(self, recording):
        self.prepared.append(recording)
        return recording.sound(self.rate, most_s=5)

    def synthesise(self, chunk, voice, *how):
        return voice if isinstance(voice, np.ndarray) else super().synthesise(chunk, voice, *how)


@pytest.fixture
def copier():
    register_engine(Copier)
    Copier.loaded, Copier.prepared = 0, []
    yield Copier
    forget_engine("copier")


async def messages(job, **request):
    given = dict(text="Hello.", service="copier", output_format="pcm_24") | request
    return [m async for m in worker.handler(dict(id=job, input=given))]


def asked(**request): return asyncio.run(messages("job", **request))[-1]


class Answers(BaseHTTPRequestHandler):
    "One recording, and a path on which nothing ever comes."
    body, log_message = b"", lambda *_: None

    def do_GET(self):
        if self.path == "/never": return time.sleep(30)
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)


def certificate(file, host):
    "A key and a certificate that vouches for itself, in one file."
    key, now, day = ec.generate_private_key(ec.SECP256R1()), datetime.now(timezone.utc), timedelta(days=1)
    who = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    made = x509.CertificateBuilder().subject_name(who).issuer_name(who).public_key(key.public_key())
    made = made.serial_number(1).not_valid_before(now - day).not_valid_after(now + day)
    made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), False)
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    private = key.private_bytes(pem, pkcs8, serialization.NoEncryption())
    file.write_bytes(made.sign(key, hashes.SHA256()).public_bytes(pem) + private)
    return file


@pytest.fixture
def hosts(tmp_path):
    "The worker's own fetch, but for where one name leads and whom it trusts; gives the voices folder."
    pem = certificate(tmp_path / "both.pem", "voices.example.com")
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs.load_cert_chain(pem)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.daemon_threads, server.handle_error = True, lambda *_: None
    server.socket = theirs.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()

    def connected(place, seconds):
        assert place == ("93.184.216.34", 443)
        sock = socket.socket()
        sock.connect(server.server_address)
        sock.settimeout(seconds)
        return sock

    cfg = replace(get_config(), voice_hosts="voices.example.com", voices_dir=tmp_path)
    with patch.object(fetch, "_trusted", lambda: ssl.create_default_context(cafile=pem)), \
            patch.object(fetch, "public_addresses", lambda host: ["93.184.216.34"]), \
            patch("socket.create_connection", connected), patch.object(worker, "get_config", lambda: cfg):
        yield tmp_path
    server.shutdown()
    server.server_close()


def test_ten_requests_with_one_recording_prepare_it_once(copier, hosts):
    Answers.body = file = FILES["m4a"]
    (hosts / "me.m4a").write_bytes(file)
    url = data_url(file)
    ways = ("me.m4a", url, "data:," + quote_from_bytes(file), "https://voices.example.com/me?sig=1")
    heard = [asked(voice=way)["audio"] for way in (*ways, *ways, url, url)]
    assert len(heard) == 10 and len(set(heard)) == 1 and len(copier.prepared) == 1
    assert pitch(from_pcm(from_base64(heard[0]), "pcm_24"), 24_000) == pytest.approx(440, abs=2)
    asked(voice=url, voice_text="Hello.")
    assert [r.transcript for r in copier.prepared] == ["", "Hello."]
    [said] = asyncio.run(messages("about", action="voices"))
    about = said["voices"]["copier"]
    assert about["recordings"] == ["me.m4a"] and about["copies"]["hosts"] == ["voices.example.com"]
    assert said["voices"]["hibari"]["copies"] is None


BAD = {  # what a request holds -> what the answer says
    "data:audio/wav;base64,UklGRg": "cannot be read",
    "data:audio/wav;base64,####": "is not in base64",
    "data:audio/wav": "has no comma",
    data_url(as_wav(np.zeros(RATE))): "is silent",
    data_url(as_wav(note(seconds=0.2))): "has 0.2",
    "https://voices.example.com/text": "but a web page",
    "https://evil.example/me.wav": "and not from evil.example",
    "https://169.254.169.254/latest/meta-data": "names no host",
    "http://voices.example.com/me.wav": "https is fetched, and not http",
    "text.wav": "recording text.wav cannot be read: it is none of"}


@pytest.mark.parametrize("voice", BAD, ids=[why for why in BAD.values()])
def test_a_bad_recording_is_one_line_and_loads_nothing(copier, hosts, voice):
    Answers.body = b"<html>a secret in the body"
    (hosts / "text.wav").write_text("a secret in the file")
    error = asked(voice=voice)["error"]
    assert BAD[voice] in error and "\n" not in error and len(error) < 300
    assert "secret" not in error and str(hosts) not in error and copier.loaded == 0


def test_an_engine_that_copies_nothing_says_which_one_does(copier):
    error = asked(service="hibari", voice=data_url(FILES["wav"]))["error"]
    assert "engine 'hibari' cannot copy" in error and "copier" in error and copier.loaded == 0


def test_the_loop_goes_on_while_something_is_fetched_and_a_cancelled_job_ends_at_once(copier, hosts):
    async def cancelled():
        job = asyncio.create_task(messages("slow", voice="https://voices.example.com/never"))
        ticks, until = 0, time.monotonic() + 10
        while not any(t.name == "fetch" for t in threading.enumerate()) and time.monotonic() < until:
            await asyncio.sleep(0.01)
        for _ in range(20):
            await asyncio.sleep(0.01)
            ticks += 1
        began = time.monotonic()
        job.cancel()
        with pytest.raises(asyncio.CancelledError): await job
        return ticks, time.monotonic() - began
    ticks, seconds = asyncio.run(cancelled())
    assert ticks == 20 and seconds < 4, "the server says nothing for half a minute"
    until = time.monotonic() + 5
    while any(t.name == "fetch" for t in threading.enumerate()): assert time.monotonic() < until, "left"


# Through a worker of its own

def test_a_request_brings_its_voice_and_no_log_holds_it(tmp_path):
    install_copier(tmp_path)
    env = dict(PYTHONPATH=str(tmp_path), DEFAULT_SERVICE="humming", CODEC="none", LOG_LEVEL="debug")
    long = as_wav(note(660, seconds=20), subtype="PCM_16")
    with LocalEndpoint(env=env) as running:
        client = Client(running.endpoint_url)
        for hz, file in ((165, encoded(note(165), "webm")), (660, long), (330, encoded(note(330), "m4a"))):
            how = dict(voice=data_url(file), output_format="pcm_24", seed=1)
            sound, rate = joined(speak(client, "Hm, hm, hm, hm.", **how))
            assert pitch(sound, rate) == pytest.approx(hz, abs=15)
        wrong = data_url(long)[:-400] + "#" * 400
        job = ended(running, submit(running, dict(text="Hm.", voice=wrong, output_format="pcm_24")))
        said = json.dumps([job.output, job.error, running.logs()], default=str)
        assert "is not in base64" in said and data_url(long)[1000:1100] not in said
        (tmp_path / "me.opus").write_bytes(encoded(note(550), "opus"))
        main = "from linacodec_tier3.cli import main; raise SystemExit(main())"
        command = [sys.executable, "-c", main, "run"]
        asked = ["--voice", f"{tmp_path}/me.opus", "--text", "Hm, hm, hm, hm.", "--format", "pcm_24",
                 "--url", running.endpoint_url, "--out", f"{tmp_path}/out"]
        done = subprocess.run([*command, *asked], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        said = decode_file((tmp_path / "out/speech.wav").read_bytes())
        assert pitch(*said) == pytest.approx(550, abs=15)
        asked[1] = "./gone.wav"
        done = subprocess.run([*command, *asked], capture_output=True, text=True)
        assert done.returncode == 1 and done.stderr.count("\n") == 1 and "No such file" in done.stderr


def install_copier(folder):
    "What `pip install` would leave of the engine in `humming_engine.py`."
    info = folder / "humming_engine-1.0.dist-info"
    info.mkdir()
    shutil.copy(Path(__file__).with_name("humming_engine.py"), folder)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: humming-engine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[linacodec_tier3.engines]\nhumming = humming_engine:Humming\n")
