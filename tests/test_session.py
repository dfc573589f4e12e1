"""Text as it is written, over a WebSocket to the real server: how soon it is heard, how soon it is silent,
the same sound as from a request, and nothing left of clients that go."""
import asyncio, io, json, os, random, signal, time, wave
from contextlib import asynccontextmanager

import pytest
import requests
import websockets
from jsonschema import Draft202012Validator

from linacodec_tier3.audio import from_pcm
from linacodec_tier3.contract import payload
from linacodec_tier3.openai.encoders import StreamEncoder
from support_server import serving

SENTENCES = (
    "The harbour lay still that morning, and nobody was there.",
    "Eleven boats rocked on their ropes all day.",
    "Far out, a lamp was lit, and then a second one.", "Nobody spoke of it to strangers afterwards.",
    "The keeper counted the strokes of the bell.", "Then the fog came in.")
TEXT = " ".join(SENTENCES)
SOONEST = dict(split_granularity="sentence", stream_audio=True, response_format="pcm", seed=7)


@pytest.fixture(scope="module")
def server(): # the process and its address
    with serving(CONCURRENCY="4", SESSIONS="200") as running: yield running


class Client: # keeps what comes, and when
    def __init__(self, socket): self.socket, self.came, self.fed = socket, [], []

    async def say(self, kind, **keys): await self.socket.send(json.dumps(dict(type=kind, **keys)))

    async def hear(self, until, n=1): # until the n-th message of this type
        async with asyncio.timeout(60):
            while len(self.all(until)) < n: await self.hear_one()
        return self.all(until)[n - 1]

    async def hear_one(self):
        message = await self.socket.recv()
        self.came.append((time.monotonic(), message if isinstance(message, bytes) else json.loads(message)))

    def all(self, kind): return [m for _, m in self.came if isinstance(m, dict) and m["type"] == kind]

    @property
    def sound(self): return b"".join(m for _, m in self.came if isinstance(m, bytes))


def address(url): return url.replace("http", "ws") + "/v1/audio/speech/stream"


@asynccontextmanager
async def connected(url, **config):
    async with websockets.connect(address(url), max_size=None, max_queue=None) as socket:
        client = Client(socket)
        await client.say("session.config", **config)
        yield client


async def spoken(url, text, **config): # the client after one utterance
    async with connected(url, **SOONEST | config) as client:
        await client.say("input.text", text=text)
        await client.say("input.done")
        await client.hear("session.done")
        return client


def left(url): # what the server has to do, and holds
    state = requests.get(f"{url}/health", timeout=30).json()
    return {k: state[k] for k in ("at_work", "waiting", "jobs", "sessions")}


def quiet(url, seconds=30): # once nothing is left
    end = time.monotonic() + seconds
    while any(left(url).values()): assert time.monotonic() < end, left(url); time.sleep(0.05)


# -- how soon it is heard

def test_sound_is_at_most_one_sentence_behind_the_text(server):
    async def feed(client): # twenty words a second
        so_far = 0
        for word in TEXT.split(" "):
            await client.say("input.text", text=f"{word} ")
            so_far += len(word) + 1
            client.fed.append((time.monotonic(), so_far))
            await asyncio.sleep(0.05)
        await client.say("input.done")
    async def talk():
        await spoken(server[1], "Hi.")  # what is loaded, is loaded
        async with connected(server[1], **SOONEST) as client:
            feeding = asyncio.create_task(feed(client))
            await client.hear("session.done")
            await feeding
            return client
    behind = []
    for _ in range(3):  # a busy machine may be late once
        client = asyncio.run(talk())
        starts = client.all("audio.start")
        assert [s["sentence_text"] for s in starts] == list(SENTENCES)
        places = [n for n, (_, m) in enumerate(client.came) if m in starts]
        first = [next(at for at, m in client.came[n:] if isinstance(m, bytes)) for n in places]
        written = {n: at for at, n in client.fed}
        ends = [written[s["text_span"][1] + 1] for s in starts]  # when the text of each was sent
        behind = [n for n, (at, end) in enumerate(zip(first, ends[2:])) if at > end]
        if not behind: break
    assert not behind


# -- the same sound

def speak(url, text, **given): # the sound of `/speak`, as 16 bits at 24 kHz
    given = dict(text=text, stream=True, output_format="pcm_24", seed=7) | given
    lines = map(json.loads, requests.post(f"{url}/speak", json=given, timeout=60).text.splitlines())
    *partials, last = lines
    assert last["status"] == "complete"
    encode = StreamEncoder("pcm").write
    return b"".join(encode(from_pcm(payload(p), p["format"])) for p in partials)


def test_an_utterance_that_is_not_split_sounds_as_from_a_request(server):
    client = asyncio.run(spoken(server[1], TEXT, split_granularity="none"))
    assert client.sound == speak(server[1], TEXT)


def test_sentences_sound_as_those_of_a_request_whose_chunks_they_are(server):
    """All that a text known bit by bit forces is that each sentence begins a chunk. Where a request's chunks
    are its sentences, too, as with a limit under which no two of these have room, every sample is the same,
    pauses included."""
    whole = speak(server[1], TEXT, max_chars=60)
    for n in (1, 7, len(TEXT)): # characters at a time
        async def talk():
            async with connected(server[1], **SOONEST) as client:
                for at in range(0, len(TEXT), n): await client.say("input.text", text=TEXT[at:at + n])
                await client.say("input.done")
                await client.hear("session.done")
                return client
        client = asyncio.run(talk())
        assert client.sound == whole
    seconds = [m["seconds"] for m in client.all("audio.done")]
    assert sum(seconds) == pytest.approx(len(whole) / 48_000)


def test_through_the_codec_all_sentences_have_one_voice(server):
    given = dict(text=TEXT, stream=True, output_format="linacodec_tokens", seed=7, max_chars=60)
    lines = requests.post(f"{server[1]}/speak", json=given, timeout=60).text.splitlines()
    *partials, _ = map(json.loads, lines)
    client = asyncio.run(spoken(server[1], TEXT, response_format="linacodec_tokens"))
    mine = [m["partial"] for m in client.all("audio.tokens")]
    assert [m["tokens"] for m in mine] == [p["tokens"] for p in partials] and len(mine) == len(SENTENCES)
    assert {str(m["embedding"]) for m in mine} == {str(partials[0]["embedding"])}


def test_a_client_of_vllm_omni_hears_what_it_expects(server):
    "Messages and keys as that project's example client sends and reads them: two utterances, one connection."
    config = dict(speaker="heart", task_type="CustomVoice", language="Auto", response_format="wav", speed=1.0)
    async def talk():
        async with websockets.connect(address(server[1]), max_size=None) as socket:
            client, heard = Client(socket), []
            await client.say("session.config", **config)
            for utterance, text in enumerate((TEXT, "A second one.")):
                for word in text.split(" "): await client.say("input.text", text=f"{word} ")
                await client.say("input.done")
                start, file, done, last = [await socket.recv() for _ in range(4)]
                start, done, last = map(json.loads, (start, done, last))
                at = dict(utterance_index=utterance, sentence_index=0)
                begins = at | dict(type="audio.start", sentence_text=text, format="wav")
                ends = at | dict(type="audio.done", total_bytes=len(file), error=False)
                assert start.items() >= begins.items() and done.items() >= ends.items()
                assert last == dict(type="session.done", utterance_index=utterance, total_sentences=1)
                with wave.open(io.BytesIO(file)) as wav: heard.append(wav.getnframes() / wav.getframerate())
            await client.say("session.close")
            with pytest.raises(websockets.ConnectionClosedOK): await socket.recv()
            return heard
    long, short = asyncio.run(talk())
    assert 10 < long < 40 and 0.5 < short < 3


# -- interruptions

def test_cancel_silences_and_says_what_was_sent(server):
    async def talk():
        async with connected(server[1], **SOONEST) as client:
            late = []
            for n in range(5):  # the best counts: the machine may be busy
                await client.say("input.text", text=60 * (TEXT + " "))
                await client.hear("audio.done", 2 * (n + 1))
                asked = time.monotonic()
                await client.say("cancel")
                told = await client.hear("cancelled", n + 1)
                late.append(max((at - asked for at, m in client.came if isinstance(m, bytes)), default=0))
                assert told["utterance_index"] == n and told["seconds"] > 0
                begins, ends = told["text_span"]
                assert begins == 0 < ends < 60 * len(TEXT)
                sent = [m for m in client.all("audio.done") if m["utterance_index"] == n]
                assert told["seconds"] == pytest.approx(sum(m["seconds"] for m in sent))
                assert [m["cancelled"] for m in sent[:-1]] == [False] * (len(sent) - 1)
            for _ in range(10):  # and nothing comes behind it
                with pytest.raises(TimeoutError): await asyncio.wait_for(client.socket.recv(), 0.02)
            await client.say("input.text", text="All is well.")
            await client.say("input.done")
            done = await client.hear("session.done")
            assert (done["utterance_index"], done["total_sentences"]) == (5, 1)
            return late, client
    late, client = asyncio.run(talk())
    assert min(late) < 0.2, late
    assert client.all("audio.start")[-1]["sentence_text"] == "All is well."
    quiet(server[1])


# -- who leaves, and what ends

def held(process): # threads and open files
    base = f"/proc/{process.pid}"
    return len(os.listdir(f"{base}/task")), len(os.listdir(f"{base}/fd"))


def test_clients_that_go_at_any_moment_leave_nothing(server):
    rng = random.Random(3)
    process, url = server
    async def goes(seed):
        try:
            async with asyncio.timeout(10), connected(url, **SOONEST) as client:
                for word in rng.choices(TEXT.split(" "), k=rng.randint(0, 60)):
                    await client.say("input.text", text=f"{word} ")
                for kind in rng.sample(("input.done", "cancel", "session.close"), rng.randint(0, 3)):
                    await client.say(kind)
                end = time.monotonic() + rng.choice((0, 0.01, 0.1, 0.3))
                while (rest := end - time.monotonic()) > 0: await asyncio.wait_for(client.hear_one(), rest)
                if seed % 2: client.socket.transport.abort()  # without a word
        except (TimeoutError, websockets.ConnectionClosed): pass
    async def all_go(n): await asyncio.gather(*map(goes, range(n)))
    asyncio.run(all_go(20))  # as many threads as there will be
    quiet(url)
    before = held(process)
    asyncio.run(all_go(100))
    quiet(url)
    end = time.monotonic() + 20
    def more(now): return now[0] > before[0] + 4 or now[1] > before[1]  # some threads are kept for later
    while more(now := held(process)):
        assert time.monotonic() < end, (before, now)
        time.sleep(0.2)
    assert asyncio.run(spoken(url, "All is well.")).sound


def test_sigterm_tells_sessions_and_lets_them_finish():
    with serving(SHUTDOWN_GRACE_S="30", CODEC="none") as (process, url):
        async def talk():
            async with connected(url, **SOONEST) as idle, connected(url, **SOONEST) as busy:
                await busy.say("input.text", text=8 * (TEXT + " "))
                await busy.hear("audio.start", 2)
                process.send_signal(signal.SIGTERM)
                for client in (idle, busy):
                    with pytest.raises(websockets.ConnectionClosed): await client.hear("session.done")
                    assert client.socket.close_code == 1012 and client.all("error")[0]["code"] == "ending"
                done = busy.all("audio.done")
                assert not done[-1]["error"] and len(done) == 8 * len(SENTENCES) - 1  # what was certain
        asyncio.run(talk())
        assert process.wait(20) == 0


# -- whatever is said

def test_whatever_is_said_is_answered_in_the_schema(server):
    process, url = server
    check = Draft202012Validator(requests.get(f"{url}/v1/audio/speech/stream/schema", timeout=30).json())
    rng = random.Random(5)
    values = (None, True, -1, 2**70, 1e308, "", "Auto", "\ud800", "x" * 300, [], [1], {}, {"a": [{}]})
    kinds = ("session.config", "input.text", "input.done", "cancel", "session.config", "audio.start", "", 5)
    keys = ("text", "voice", "speaker", "model", "speed", "seed", "language", "response_format",
            "stream_audio", "split_granularity", "parameters", "ref_audio", "word_timestamps",
            "instructions", "odd")
    def message():
        odd = rng.random()
        if odd < 0.1: return rng.randbytes(rng.randint(0, 200))
        if odd < 0.2: return rng.choice(("{", "[]", "null", "[" * 50_000, "\x00", "x" * 200_000))
        more = {rng.choice(keys): rng.choice(values) for _ in range(rng.randint(0, 2))}
        if odd < 0.5: more = {"text": rng.choice((TEXT, "* * *", "A. B", "\u0301", "```\n"))}
        return json.dumps(dict(type=rng.choice(kinds)) | more)
    async def talk(n):
        async with websockets.connect(address(url), max_size=None) as socket:
            client, sent = Client(socket), 0
            if n % 4: await client.say("session.config", **SOONEST)
            for _ in range(30):
                await socket.send(message())
                sent += 1
            await client.say("nobody")  # is answered in its turn
            while not any("nobody" in e["message"] for e in client.all("error")):
                await asyncio.wait_for(client.hear_one(), 30)
            await client.say("cancel")
            await client.say("session.close")
            with pytest.raises(websockets.ConnectionClosed):
                while True: await asyncio.wait_for(client.hear_one(), 30)
            for m in (m for _, m in client.came if isinstance(m, dict)):
                check.validate(m)
                assert "Traceback" not in str(m)
    for n in range(8): asyncio.run(talk(n))
    async def huge():
        async with websockets.connect(address(url), max_size=None) as socket:
            with pytest.raises(websockets.ConnectionClosed) as closed:
                await socket.send("x" * 9_000_000)
                await socket.recv()
            assert closed.value.rcvd.code == 1009
    asyncio.run(huge())
    quiet(url)
    assert asyncio.run(spoken(url, "All is well.")).sound
