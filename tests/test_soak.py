"Hours of service in minutes: jobs of all kinds, side by side, while workers die and a volume fills up."
import gc, itertools, json, os, random, signal, subprocess, threading, time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from statistics import mean

import numpy as np
import psutil
import pytest

from linacodec_tier3.client import Client, JobFailed, batch_audio, joined, output, pieces, poll, stream
from linacodec_tier3.contract import TOKENS, check_message, unpack_tokens
from linacodec_tier3.evaluate.reporting import machine
from linacodec_tier3.local.endpoint import DEFAULT_COMMAND, LocalEndpoint
from support import PARAGRAPH, wait_until, with_weights

RESULT = os.environ.get("SOAK_RESULT")  # where the long run is stored, if anywhere
AT_ONCE, CLIENTS = 4, 6  # jobs in a worker; who asks, so that some jobs wait
KINDS = [(format, True) for format in (TOKENS, "pcm_16", "pcm_24", "ogg_opus")] + \
        [(format, False) for format in (TOKENS, "wav", "flac", "mp3")]
WORDS = PARAGRAPH.split()
CONNECTIONS = AT_ONCE + CLIENTS + 4  # at most: one a job, one a client; to take, to stop, to ping, to listen
WINDOW = 100  # jobs of a worker's life over which its memory is averaged
GROWTH = 1.1  # at most, from the second window to the last


SLOW = dict(text=PARAGRAPH, service="tone", parameters={"rtf": 0.1})  # lasts seconds


def kind(rng): # a request without its text, and how many words that has
    "One job of a working day."
    format, streamed = rng.choice(KINDS)
    n = round(2 ** rng.uniform(0, 6))
    asked = dict(service=rng.choice(("tone", "hibari")), output_format=format, stream=streamed,
                 max_chars=rng.choice((40, 120, 500)))
    if rng.random() < 0.5: asked |= dict(seed=rng.randrange(1_000), speed=rng.choice((0.8, 1.0, 1.3)))
    if format == TOKENS:
        asked |= dict(token_encoding=rng.choice(("list", "u16_b64")))
        if streamed: asked |= dict(embedding_mode=rng.choice(("every", "first")))
    return asked, n


def requests(rng, jobs): # of the contract
    "Every hundred of them asks for as much as any other, in another order and in other words."
    day = [kind(rng) for _ in range(WINDOW)]
    for start in range(0, jobs, WINDOW):
        for asked, n in rng.sample(day, len(day))[:jobs - start]:
            first = rng.randrange(len(WORDS))
            yield asked | dict(text=" ".join(itertools.islice(itertools.cycle(WORDS), first, first + n)))


def check_stream(partials, format): # in order and counted already, as `client.stream` gives them
    "Whole by its manifest, and what it says of itself is so."
    for p in partials: check_message(p)
    *parts, last = partials
    assert last["status"] == "complete" and {p["format"] for p in partials} == {format}
    assert last["total_chunks"] == parts[-1]["chunk"]
    if format == TOKENS:
        assert all(len(unpack_tokens(p)) == p["num_tokens"] for p in parts) and "embedding" in parts[0]
        assert sum(p["num_tokens"] for p in parts) == last["manifest"]["tokens"] == last["total_tokens"]
    else:
        seconds = last["manifest"]["samples"] / parts[0]["sample_rate"]
        check_length(joined(pieces(partials)), seconds, format)


def check_batch(result, format):
    "A batch result as long as it says."
    check_message(result)
    assert result["status"] == "complete" and result["format"] == format
    if format == TOKENS:
        assert len(unpack_tokens(result)) == result["total_tokens"] and len(result["embedding"]) == 128
    else: check_length(batch_audio(result), result["duration"], format)


def check_length(sound, seconds, format): # mp3 rounds up to its frames
    audio, rate = sound
    more = len(audio) - seconds * rate
    assert abs(more) < 1 or format == "mp3" and 0 < more < 0.1 * rate, (format, len(audio), seconds * rate)
    assert np.abs(audio).max() > 0.01


class Volume:
    "A small file system in a mount namespace of its own, which workers enter and the test looks into."
    def __init__(self, folder):
        mount = f"mount -t tmpfs -o size=64m tmpfs '{folder}' && echo there && exec cat"
        pipe = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.holder = subprocess.Popen(["unshare", "-rm", "sh", "-c", mount], **pipe)
        self.there = self.holder.stdout.readline() == "there\n"
        self.folder, self.inside = folder, Path(f"/proc/{self.holder.pid}/root{folder}")
        self.enter = ["nsenter", "-t", str(self.holder.pid), "-U", "-m", "--preserve-credentials"]

    @property
    def converted(self): return sorted(p.name for p in self.inside.glob("codec/converted/*"))

    def fill(self):
        "What was converted is gone, and there is no room to convert it again."
        shell = f"cd '{self.folder}' && rm -r codec/converted && cat /dev/zero > full"
        done = subprocess.run([*self.enter, "sh", "-c", shell], capture_output=True, text=True)
        assert "No space left" in done.stderr and not self.converted, done.stderr

    def free(self): (self.inside / "full").unlink()

    def __enter__(self):
        if not self.there: pytest.skip("no mounts in a namespace of our own on this machine")
        return self

    def __exit__(self, *exc):
        self.holder.stdin.close()
        self.holder.wait()


class Watch:
    "Looks at the worker four times a second: its memory, and how many jobs it has done so far."
    def __init__(self, endpoint):
        self.endpoint, self.served, self.seen = endpoint, Counter(), defaultdict(list)
        self.ended, self.thread = threading.Event(), threading.Thread(target=self.run, name="watch")

    def run(self):
        while not self.ended.wait(0.25):
            with suppress(psutil.Error, ValueError):  # between two workers
                worker, process = the_worker(self.endpoint)
                self.seen[worker].append((self.served[worker], process.memory_info().rss / 1e6))

    def windows(self, worker): # of its life: mean and peak in MB
        by = defaultdict(list)
        for jobs, rss in self.seen[worker]: by[jobs // WINDOW].append(rss)
        return [dict(jobs=[WINDOW * w, WINDOW * (w + 1)], mean_mb=round(mean(by[w]), 1),
                     peak_mb=round(max(by[w]), 1), looks=len(by[w])) for w in sorted(by)]

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *exc):
        self.ended.set()
        self.thread.join()


def the_worker(endpoint): # its ID and process; `ValueError` between two workers
    pids = endpoint._ask(lambda s: [(slot.worker, slot.process.pid) for slot in s.slots if slot.process])
    [(worker, pid)] = pids
    return worker, psutil.Process(pid)


def held(process): # by it, now; connections stay open for the next request, as many as were ever used at once
    connections = len(process.net_connections())
    return dict(threads=process.num_threads(), files=process.num_fds() - connections, connections=connections)


class Soak:
    "Runs jobs and faults on one endpoint, and keeps count."
    def __init__(self, endpoint, watch, seed):
        self.endpoint, self.watch, self.rng = endpoint, watch, random.Random(seed)
        self.counts, self.kinds, self.lock = Counter(), Counter(), threading.Lock()
        self.start = time.monotonic()

    def run(self, jobs, left=0., faults={}): # share of jobs whose client goes; job -> what happens meanwhile
        "So many jobs, `CLIENTS` at a time; afterwards none is left."
        leaves = set(self.rng.sample(sorted({*range(jobs)} - {*faults}), round(left * jobs)))
        here = threading.local()
        asked = [(request, self.rng.random()) for request in requests(self.rng, jobs)]
        def one(n):
            if not hasattr(here, "client"): here.client = Client(self.endpoint.endpoint_url)
            self.job(here.client, *asked[n], n in leaves, faults.get(n))
        with ThreadPoolExecutor(CLIENTS) as pool:
            for done in [pool.submit(one, n) for n in range(jobs)]: done.result()

    def job(self, client, asked, moment, leaves, fault): # `moment`: from 0 to 1
        format, streamed, stays = asked["output_format"], asked["stream"], True
        if fault or leaves and moment < 0.7: asked |= SLOW  # else it may have ended when something happens
        job = client.submit(**asked)
        if fault: self.fault(job, moment, *([fault] if isinstance(fault, str) else fault))
        if leaves:
            time.sleep(moment)
            stays = client.cancel(job)["status"] != "CANCELLED"
        if not stays: assert_cancelled(client, job)
        elif streamed: check_stream(list(stream(client, job)), format)
        else: check_batch(output(client, job), format)
        record = self.endpoint.job(job)
        with self.lock:
            if record.worker: self.watch.served[record.worker] += 1
            self.counts["whole" if stays else "cancelled"] += 1
            self.counts["served again"] += record.retries > 0
            self.kinds[f"{format}, {'streamed' if streamed else 'at once'}"] += 1

    def fault(self, job, moment, name, *calls): # a signal to the worker that does a job; what comes after it
        wait_until(lambda: self.endpoint.job(job).taken, 120)
        time.sleep(moment)
        [pid] = self.endpoint.worker_pids
        os.kill(pid, getattr(signal, name))
        if calls: wait_until(lambda: pid not in self.endpoint.worker_pids)  # it lets go of files
        for call in calls: call()
        with self.lock: self.counts[name] += 1

    def idle(self): # the worker's ID, what it holds, what this process holds; once nothing runs
        wait_until(lambda: self.endpoint.health()["workers"]["idle"], 120)
        gc.collect()
        time.sleep(2)  # what has just ended lets go
        worker, process = the_worker(self.endpoint)
        return worker, held(process), held(psutil.Process())


def assert_cancelled(client, job):
    with pytest.raises(JobFailed, match="CANCELLED"): list(poll(client, job))


def test_forty_jobs_of_all_kinds_a_killed_worker_and_a_client_that_goes(tmp_path):
    env = with_weights(tmp_path) | dict(CONCURRENCY=str(AT_ONCE))
    with LocalEndpoint(env=env) as endpoint, Watch(endpoint) as watch:
        soak = Soak(endpoint, watch, 1)
        soak.run(20, left=0.05)
        soak.run(20, faults={5: "SIGKILL"})
    assert sum(soak.counts[end] for end in ("whole", "cancelled")) == 40 == sum(soak.kinds.values())
    assert soak.counts["SIGKILL"] == 1 and soak.counts["served again"] and len(watch.served) == 2
    assert len(soak.kinds) == len(KINDS)


@pytest.mark.slow
def test_a_thousand_jobs(tmp_path):
    volume = tmp_path / "volume"
    volume.mkdir()
    env = with_weights(tmp_path / "weights") | dict(CONCURRENCY=str(AT_ONCE), VOLUME_DIR=str(volume),
                                                    CODEC_HOME=str(volume / "codec"))
    with ExitStack() as stack:
        small = stack.enter_context(Volume(volume))
        endpoint = stack.enter_context(LocalEndpoint(env=env, command=[*small.enter, *DEFAULT_COMMAND]))
        soak = Soak(endpoint, stack.enter_context(Watch(endpoint)), 2)
        found = all_of_it(soak, small)
    if RESULT: Path(RESULT).write_text(json.dumps(found, indent=1) + "\n")
    judge(found)


def all_of_it(soak, volume): # -> what is stored
    "Faults, then a thousand jobs of one worker's life, then faults."
    assert len(volume.converted) == 3
    def freed(): # the worker that found no room has said so
        warned = [line for line in soak.endpoint.logs() if "CODEC_HOME" in line and "WARN" in line]
        assert len(warned) >= 3 and not volume.converted, warned
        volume.free()
    soak.run(10)
    _, _, here_after_ten = soak.idle()
    soak.run(110, 0.09, {10: ("SIGKILL", volume.fill), 40: ("SIGKILL", freed), 60: "SIGTERM", 80: "SIGKILL",
                         100: "SIGKILL"})
    assert len(volume.converted) == 3
    [pid] = soak.endpoint.worker_pids
    os.kill(pid, signal.SIGTERM)  # a fresh one, whose life is counted from its first job
    soak.counts["SIGTERM"] += 1
    wait_until(lambda: pid not in soak.endpoint.worker_pids and soak.endpoint.worker_pids, 120)
    soak.run(10)
    worker, there_after_ten, _ = soak.idle()
    soak.run(1_120, 0.09)
    alive, there, _ = soak.idle()
    soak.run(40, 0.09, {10: "SIGKILL", 25: "SIGTERM"})
    _, _, here = soak.idle()
    assert alive == worker
    return dict(
        machine=machine(), seconds=round(time.monotonic() - soak.start), jobs=sum(soak.kinds.values()),
        at_once=AT_ONCE, counts=dict(soak.counts), kinds=dict(sorted(soak.kinds.items())), volume_filled=1,
        workers=len(soak.watch.seen), life=dict(jobs=soak.watch.served[worker], after_ten=there_after_ten,
                                                at_end=there, windows=soak.watch.windows(worker)),
        endpoint=dict(after_ten=here_after_ten, at_end=here))


def judge(found):
    "What the soak must show."
    counts, life, here = found["counts"], found["life"], found["endpoint"]
    assert counts["whole"] + counts["cancelled"] == found["jobs"] > 1_000
    assert counts["cancelled"] > 0.06 * found["jobs"] and counts["served again"] >= 3
    assert counts["SIGKILL"] == 5 and counts["SIGTERM"] >= 2 and found["volume_filled"] == 1
    assert len(found["kinds"]) == len(KINDS) and life["jobs"] > 1_000
    assert life["windows"][9]["mean_mb"] / life["windows"][1]["mean_mb"] < GROWTH
    for then, now in ((life["after_ten"], life["at_end"]), (here["after_ten"], here["at_end"])):
        assert now["threads"] <= then["threads"] and now["files"] <= then["files"], (then, now)
        assert now["connections"] <= CONNECTIONS, now
