"Many listeners at once: no admitted one loses anything, whoever is too many is told when to come again."
import json, os, subprocess, sys, threading, time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from statistics import mean, median

import psutil
import pytest
import requests

from linacodec_tier3.evaluate.reporting import machine
from support import PARAGRAPH, wait_until
from support_server import serving, store

RESULT = os.environ.get("HTTP_RESULT")  # where the long run is stored, if anywhere
SECONDS = float(os.environ.get("LOAD_SECONDS") or 120)  # of each of its two phases
LISTENERS, AT_WORK, LINE = 32, 8, 8
SHARE = 0.6  # of what the processors can do, which listeners ask for in the first phase
FIRST_MS = (0, 25, 50, 100, 200, 400, 800, 1600, 3200, 6400)  # edges of a histogram; the last one is open
UNDERRUN_MS = (0, 1, 10, 30, 100, 300, 1000)
PLAN = dict(text=PARAGRAPH, longest=7,  # two words of it to 2 ** `longest`
            seed=1, rate=0, slow=0.03, leave=0.05, jobs=10**9)
FOREVER_S = 600
GROWTH = 1.1  # of memory, at most, after the warm-up


def listen(url, **plan): # -> records, as `load_clients` writes them
    "Let listeners ask, in a process of their own."
    command = [sys.executable, Path(__file__).with_name("load_clients.py")]
    given = json.dumps(PLAN | dict(url=url) | plan)
    done = subprocess.run(command, input=given, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


class Watch:
    "Looks at the server four times a second: its memory and threads, its line, and how soon it answers."
    def __init__(self, process, url):
        self.process, self.url, self.seen = psutil.Process(process.pid), url, []
        self.ended, self.thread = threading.Event(), threading.Thread(target=self.run, name="watch")

    def run(self):
        start, session = time.monotonic(), requests.Session()
        while not self.ended.wait(0.25):
            with suppress(requests.Timeout):
                before = time.monotonic()
                session.get(f"{self.url}/ping", timeout=30).raise_for_status()
                ping_ms, line = 1e3 * (time.monotonic() - before), self.line(session)
                self.seen.append(dict(at=before - start, ping_ms=ping_ms, **line, **held(self.process)))

    def line(self, session):
        health = session.get(f"{self.url}/health", timeout=30).json()
        return {k: health[k] for k in ("at_work", "waiting", "jobs")}

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *exc):
        self.ended.set()
        self.thread.join()

    def told(self): # -> what is stored
        tenths = [self.seen[i * len(self.seen) // 10:(i + 1) * len(self.seen) // 10] for i in range(10)]
        pings = [look["ping_ms"] for look in self.seen]
        most = {k: max(look[k] for look in self.seen) for k in ("at_work", "waiting", "threads", "files")}
        memory = [round(mean(look["mb"] for look in tenth), 1) for tenth in tenths if tenth]
        return dict(most=most, ping_ms=quantiles(pings), memory_mb=memory)


def held(process): # by the server, now
    return dict(mb=process.memory_info().rss / 1e6, threads=process.num_threads(), files=process.num_fds())


def at_rest(process, url): # what it holds once nothing runs
    empty = lambda h: not (h["at_work"] or h["waiting"] or h["jobs"])
    wait_until(lambda: empty(requests.get(f"{url}/health", timeout=30).json()), 60)
    time.sleep(0.5)
    return held(psutil.Process(process.pid))


def quantiles(values): # rounded; of none: none
    values, last, at = sorted(values), len(values) - 1, {"median": 0.5, "p90": 0.9, "p99": 0.99, "most": 1.}
    return {name: round(values[min(last, int(p * len(values)))], 1) for name, p in at.items() if values}


def histogram(values, edges): # how many from each edge to the next
    return [sum(low <= v < high for v in values) for low, high in zip(edges, (*edges[1:], float("inf")))]


def summary(records): # of one phase
    "What listeners heard, in figures."
    seconds = max(r["at_s"] + r["wall_s"] for r in records) - min(r["at_s"] for r in records)
    whole = [r for r in records if r["end"] == "whole"]
    first = [1e3 * r["first_s"] for r in whole if r["way"] != "whole"]
    dry = [1e3 * r["underrun_s"] for r in whole if r["underrun_s"] is not None]
    pauses = [r["pause_s"] for r in records if r["end"] == "refused"]
    worst = sorted((r for r in whole if r["underrun_s"]), key=lambda r: -r["underrun_s"])[:3]
    worst = [{k: r[k] for k in ("format", "way", "service", "slow", "sound_s", "underrun_s")} for r in worst]
    return dict(
        worst=worst, seconds=round(seconds, 1), ends=dict(Counter(r["end"] for r in records)),
        kinds=dict(sorted(Counter(f"{r['format']}, {r['way']}" for r in whole).items())),
        slow=sum(r["slow"] for r in whole), came_again=sum(r["tries"] > 1 for r in whole),
        pause_s=[min(pauses), max(pauses)] if pauses else [],
        why=sorted({r["why"] for r in records} - {""})[:5], first_ms=quantiles(first),
        sound_s=round(sum(r["sound_s"] or 0 for r in whole), 1),
        first_histogram=histogram(first, FIRST_MS), underrun_ms=quantiles(dry),
        underrun_histogram=histogram(dry, UNDERRUN_MS))


def a_second(records, seconds): # answers, while clients still asked; what was half done then counts half
    start = min(r["at_s"] for r in records)
    shares = [(start + seconds - r["at_s"]) / r["wall_s"] for r in records if r["end"] == "whole"]
    return sum(min(1., max(0., share)) for share in shares) / seconds


def phase(server, **plan): # -> what is stored
    with Watch(*server) as watch: records = listen(server[1], **plan)
    rate = dict(asked_a_second=round(plan["rate"], 2)) if plan.get("rate") else {}
    if plan["seconds"] < FOREVER_S: rate["answered_a_second"] = round(a_second(records, plan["seconds"]), 2)
    return rate | summary(records) | watch.told()


def all_whole(found): # whoever was admitted and stayed
    assert not found["ends"].get("failed") and found["ends"]["whole"], (found["ends"], found["why"])


@pytest.fixture(scope="module")
def server(): # its process and its address
    with serving(CONCURRENCY="8", HTTP_LINE="1") as running: yield running


def test_listeners_at_once_and_too_many_of_them(server):
    some = phase(server, seconds=2, clients=5, slow=0.1, leave=0, longest=3)
    before = at_rest(*server)
    many = phase(server, seconds=2, clients=14, leave=0.1, longest=3)
    after = at_rest(*server)
    for found in (some, many): all_whole(found)
    assert not some["ends"].get("refused") and many["ends"]["refused"] and many["came_again"], many["ends"]
    assert many["most"]["at_work"] <= 8 and many["most"]["waiting"] <= 1 <= many["pause_s"][0]
    assert after["threads"] <= before["threads"] + 16 and after["mb"] < 1.5 * before["mb"], (before, after)


def test_a_short_text_does_not_wait_until_long_ones_are_far_ahead(server):
    given = dict(stream=True, output_format="ogg_opus", service="tone", max_chars=40,
                 parameters=dict(rtf=0.2))
    with requests.Session() as session:
        def ask(text, **how):
            return session.post(f"{server[1]}/speak", json=given | dict(text=text), timeout=60, **how)
        long = [ask(PARAGRAPH * 9 + "!" * n, stream=True) for n in range(7)]
        kept = [answer.iter_content(100) for answer in long]  # a connection ends with what reads from it
        for pieces in kept: next(pieces)
        lasts = [json.loads(ask("Hello there.").text.splitlines()[-1]) for _ in range(5)]
        for answer in long: answer.close()
    waited, longest = [last["timing"]["queued"] for last in lasts], 1e3 * 0.2 * 0.06 * 40
    assert median(waited) < 2 * longest, waited  # until one chunk is done, not until seven are
    at_rest(*server)


@pytest.mark.slow
def test_two_minutes_of_thirty_two_listeners_and_three_times_as_much():
    started = machine()
    with serving(CONCURRENCY=str(AT_WORK), HTTP_LINE=str(LINE)) as server:
        listen(server[1], seconds=SECONDS / 10, clients=LISTENERS)  # every format, every length
        before = at_rest(*server)
        full = phase(server, seconds=max(8, SECONDS / 10), clients=AT_WORK, slow=0, leave=0, seed=2)
        asked = SHARE * full["answered_a_second"]
        carried = phase(server, seconds=SECONDS, clients=LISTENERS, rate=asked, seed=3)
        between = at_rest(*server)
        beyond = phase(server, seconds=SECONDS, clients=LISTENERS, rate=3 * asked, seed=4)
        after = at_rest(*server)
    edges = dict(first_ms=FIRST_MS, underrun_ms=UNDERRUN_MS)
    rest = dict(before=before, between=between, after=after)
    found = dict(machine=started, listeners=LISTENERS, at_work=AT_WORK, line=LINE, edges=edges,
                 full=full, carried=carried, beyond=beyond, rest=rest)
    if RESULT: store(RESULT, "load", found)
    judge(found)


def judge(found):
    "What a load must show on any machine; what a busy one may miss, the notebook says."
    carried, beyond, rest = found["carried"], found["beyond"], found["rest"]
    for phase in (found["full"], carried, beyond): all_whole(phase)
    assert beyond["ends"]["refused"] > carried["ends"].get("refused", 0), (carried["ends"], beyond["ends"])
    assert beyond["came_again"]
    assert beyond["most"]["at_work"] <= found["at_work"] and beyond["most"]["waiting"] <= found["line"]
    for phase in (carried, beyond):  # the first third finds lengths, and as much at once, that are new
        assert phase["memory_mb"][-1] < GROWTH * phase["memory_mb"][3], phase["memory_mb"]
    assert rest["after"]["files"] <= rest["before"]["files"] + 8, rest  # connections that are kept


@pytest.mark.slow
def test_twelve_hundred_answers_leave_memory_where_it_was():
    with serving(CONCURRENCY="4") as server:
        found = phase(server, seconds=FOREVER_S, clients=4, jobs=300, slow=0, leave=0, longest=5, seed=5)
    if RESULT: store(RESULT, "memory", found)
    all_whole(found)
    assert found["ends"] == {"whole": 1200} and found["memory_mb"][-1] < GROWTH * found["memory_mb"][3], found


@pytest.mark.slow
def test_what_more_places_bring():
    found = {}
    for places in (1, 2, 4, 8, 16):
        with serving(CONCURRENCY=str(places), HTTP_LINE=str(LISTENERS)) as server:
            listen(server[1], seconds=SECONDS / 40, clients=AT_WORK)
            found[places] = phase(server, seconds=SECONDS / 15, clients=AT_WORK, slow=0, leave=0, seed=6)
            all_whole(found[places])
    keep = ("seconds", "ends", "sound_s", "first_ms", "underrun_ms", "memory_mb")
    if RESULT: store(RESULT, "places", {n: {k: of[k] for k in keep} for n, of in found.items()})
