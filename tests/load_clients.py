"""Listeners of the HTTP server, in a process of their own: a plan comes in as JSON, records go out.

Each asks, listens with a clock that starts with the first sound, and thinks before it asks again. Some read
no faster than they hear, and some leave. Who is told to come again later does so.
"""
import asyncio, base64, itertools, json, random, socket, sys, time
from contextlib import suppress

import aiohttp

from linacodec_tier3.contract import TOKENS, Numbering

STREAMED = [(TOKENS, "lines"), ("pcm_16", "lines"), ("pcm_24", "lines"), ("ogg_opus", "lines"),
            (TOKENS, "events"), ("pcm_16", "events"), ("mp3", "openai"), ("pcm", "openai"), ("wav", "openai"),
            ("opus", "openai"), ("aac", "openai"), ("flac", "openai"), ("mp3", "openai events")]
WHOLE = [(TOKENS, "whole"), ("wav", "whole"), ("flac", "whole"), ("mp3", "whole")]
BYTES_S = {"mp3": 8_000, "pcm": 48_000, "wav": 48_000}  # of sound, where bytes say how long it is
AHEAD_S = 0.5  # by which those who read slowly keep ahead of what they hear
ROOM = 64 * 2**10  # bytes that a slow reader's machine takes in advance
PATIENCE_S = 120


class Playout:
    "A player that begins with the first sound and waits when it has nothing to play."
    def __init__(self):
        self.ends, self.sound_s = None, 0.
        self.underrun_s = 0.  # all that it has waited

    def hear(self, seconds): # of sound that came just now
        now = time.monotonic()
        if self.ends is None: self.ends = now
        self.underrun_s += max(0., now - self.ends)
        self.ends, self.sound_s = max(self.ends, now) + seconds, self.sound_s + seconds

    def ahead_s(self): return self.ends - time.monotonic() # how long it can still play


def asked(rng, plan): # a request as a listener thinks of it
    "What one listener wants, in any way there is."
    format, way = rng.choice(STREAMED if rng.random() < 0.9 else WHOLE)
    words = plan["text"].split()
    n, first = round(2 ** rng.uniform(1, plan["longest"])), rng.randrange(len(words))
    fate = rng.random()
    leaves, slow = fate < plan["leave"], way != "whole" and 0 <= fate - plan["leave"] < plan["slow"]
    return dict(text=" ".join(itertools.islice(itertools.cycle(words), first, first + n)), format=format,
                way=way, service=rng.choice(("tone", "hibari", "hibari")), seed=rng.randrange(1_000),
                leaves_s=rng.uniform(0, 0.3) if leaves else None, slow=slow)


def request(want): # -> path, headers, JSON
    if want["way"].startswith("openai"):
        more = dict(stream_format="sse") if "events" in want["way"] else {}
        return "/v1/audio/speech", {}, dict(model=want["service"], input=want["text"], voice="alloy",
                                            response_format=want["format"], seed=want["seed"]) | more
    given = dict(text=want["text"], service=want["service"], seed=want["seed"], output_format=want["format"])
    if want["service"] == "tone": given["parameters"] = dict(rtf=0.02)  # takes its turn, and no processor
    accept = {"Accept": "text/event-stream"} if want["way"] == "events" else {}
    return "/speak", accept, given | dict(stream=want["way"] != "whole")


def message_in(line, way): # -> a message, or None
    if "events" not in way: return json.loads(line)
    return json.loads(line[6:]) if line.startswith(b"data: ") else None


async def lines_of(content): # as they come
    rest = bytearray()
    async for piece in content.iter_any():
        at = len(rest)
        rest += piece
        while (end := rest.find(b"\n", at)) >= 0:
            yield bytes(rest[:end])
            del rest[:end + 1]
            at = 0
    if rest: yield bytes(rest)


class Listener:
    "One answer as it is heard."
    def __init__(self, want): self.want, self.play, self.sums = want, Playout(), Numbering()
    first, last, bytes = None, None, 0

    async def came(self, seconds): # of sound
        self.first = self.first or time.monotonic()
        self.play.hear(seconds)
        if self.want["slow"] and (ahead := self.play.ahead_s() - AHEAD_S) > 0: await asyncio.sleep(ahead)

    async def message(self, m):
        if m.get("status") == "error" or m.get("type") == "error": raise RuntimeError(f"in the stream: {m}")
        if m.get("type") == "speech.audio.delta": await self.sound(base64.b64decode(m["audio"]))
        elif m.get("status") == "streaming":
            assert m["seq"] == self.sums.seq, f"partial {m['seq']} instead of {self.sums.seq}"
            self.sums.count(m)
            await self.came(m["duration"])
        else: self.last = m

    async def sound(self, data):
        self.bytes += len(data)
        await self.came(len(data) / BYTES_S.get(self.want["format"], float("inf")))

    async def hear(self, answer):
        way = self.want["way"]
        if way == "whole":
            self.last = await answer.json()
            return await self.came(self.last["duration"])
        if way == "openai":
            async for piece in answer.content.iter_any(): await self.sound(piece)
            return
        async for line in lines_of(answer.content):
            if m := line and message_in(line, way): await self.message(m)

    def check(self): # raises for an answer that is not whole
        way, last = self.want["way"], self.last
        if way == "openai": assert self.bytes > 100, f"{self.bytes} bytes"
        elif way == "openai events": assert last and last["type"] == "speech.audio.done", last
        else:
            assert last and last["status"] == "complete", "the last message is missing"
            if way != "whole": assert last["manifest"] == self.sums.manifest(), "the manifest does not agree"

    def told(self, start): # -> the rest of a record; underruns where it is known how long bytes sound
        timed = not self.want["way"].startswith("openai") or self.want["format"] in BYTES_S
        listened = timed and self.first and self.want["way"] != "whole"
        return dict(at_s=start, wall_s=time.monotonic() - start, first_s=self.first and self.first - start,
                    sound_s=self.play.sound_s if timed else None,
                    underrun_s=self.play.underrun_s if listened else None)


async def ask(session, url, want): # -> record
    "Ask once and listen."
    path, headers, body = request(want)
    heard, start = Listener(want), time.monotonic()
    record = {k: want[k] for k in ("format", "way", "service", "slow", "text")} | dict(why="")
    async def listen():
        async with session.post(url + path, json=body, headers=headers) as answer:
            record["status"] = answer.status
            if answer.status == 429:
                record["pause_s"] = float(answer.headers["Retry-After"])
                return "refused"
            if answer.status != 200: raise RuntimeError(f"{answer.status}: {await answer.text()}")
            await heard.hear(answer)
            heard.check()
            return "whole"
    try: record["end"] = await asyncio.wait_for(listen(), want["leaves_s"] or PATIENCE_S)
    except TimeoutError:
        if not want["leaves_s"]: record["why"] = f"nothing after {PATIENCE_S} s"
        record["end"] = "left" if want["leaves_s"] else "failed"
    except Exception as e: record |= dict(end="failed", why=f"{type(e).__name__}: {e}"[:300])
    return record | heard.told(start)


async def one(plan, n, sessions, records): # a listener's two minutes
    "Ask, listen, think; come again when told to."
    rng, until = random.Random(f"{plan['seed']} {n}"), time.monotonic() + plan["seconds"]
    pause = lambda: rng.expovariate(plan["rate"] / plan["clients"]) if plan["rate"] else 0.
    after = time.monotonic() + pause()
    for _ in range(plan["jobs"]):
        if after > until: return
        await asyncio.sleep(max(0., after - time.monotonic()))
        want = asked(rng, plan)
        for tries in itertools.count(1):
            record = await ask(sessions[want["slow"]], plan["url"], want)
            records.append(record | dict(client=n, tries=tries))
            if record["end"] != "refused" or time.monotonic() > until: break
            await asyncio.sleep(record["pause_s"] + rng.uniform(0, 0.5))
        after = max(time.monotonic(), after + pause())


def small(address): # a socket that takes in little
    s = socket.socket(*address[:3])
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, ROOM)
    return s


async def main(plan): # -> records
    connector = lambda **how: aiohttp.TCPConnector(limit=0, **how)
    timeout, records = aiohttp.ClientTimeout(total=None), []
    async with aiohttp.ClientSession(connector=connector(), timeout=timeout) as quick, \
            aiohttp.ClientSession(connector=connector(socket_factory=small), timeout=timeout) as slow:
        await asyncio.gather(*(one(plan, n, (quick, slow), records) for n in range(plan["clients"])))
    return records


if __name__ == "__main__":
    with suppress(BrokenPipeError): print(json.dumps(asyncio.run(main(json.loads(sys.stdin.read())))))
