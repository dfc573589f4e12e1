"How soon the first sound is at the client: by HTTP, through the queue, and as the worker itself says."
import itertools, os, time
from functools import partial

import pytest

from linacodec_tier3.client import Client, in_order, poll
from linacodec_tier3.evaluate.reporting import machine
from linacodec_tier3.local.endpoint import LocalEndpoint
from support_server import by_http, pinged, serving, store

RESULT = os.environ.get("HTTP_RESULT")  # where the measurement is stored, if anywhere
ROUNDS = int(os.environ.get("HTTP_ROUNDS") or 15)
FORMATS = ("linacodec_tokens", "pcm_16", "pcm_24")
TEXT = ("One sentence is heard while others are made. The harbour lay still, and eleven boats rocked on "
        "their ropes.")
TARGETS = dict(own_times=1.5, own_ms=20, sooner=5)  # times the worker's own and so much more; than the queue


def by_queue(endpoint, client, given): # ms until the first partial: at the client, posted, the worker's own
    "One job through the queue, back to back with the one before."
    start, first = time.monotonic(), None
    job = client.submit(**given)
    def arrivals():
        nonlocal first
        for p in poll(client, job):
            first = first or time.monotonic()
            yield p
    *_, last = in_order(arrivals())
    posted = endpoint.job(job).first_partial
    return dict(client_ms=1e3 * (first - start), posted_ms=1e3 * (posted - start),
                own_ms=last["timing"]["first_partial"])


def measured(url, endpoint, client, rounds): # -> format -> road -> rows
    "The same request by both roads in turn, each twice: the second counts, as it follows one of its kind."
    rows = {format: dict(http=[], queue=[]) for format in FORMATS}
    roads = dict(http=partial(by_http, url), queue=partial(by_queue, endpoint, client))
    for seed, (format, found), (road, ask) in itertools.product(range(rounds), rows.items(), roads.items()):
        given = dict(text=TEXT, stream=True, service="hibari", output_format=format, seed=seed)
        _, row = ask(given), ask(given)
        found[road].append({k: round(ms, 2) for k, ms in row.items()})
    return rows


@pytest.mark.skipif(not RESULT, reason="times mean something on a quiet machine only: `make http-measured`")
def test_how_soon_the_first_sound_is_there():
    where = machine()
    with LocalEndpoint(env={"CODEC": "nano"}) as endpoint, serving() as (_, url):
        rows, pings = measured(url, endpoint, Client(endpoint.endpoint_url), ROUNDS), []
        for _ in range(3 * ROUNDS):
            start = time.monotonic()
            assert pinged(url) == 200
            pings.append(round(1e3 * (time.monotonic() - start), 2))
    found = dict(machine=where, rounds=ROUNDS, text=TEXT, targets=TARGETS, rows=rows, ping_ms=pings)
    store(RESULT, "first", found)
    for format, of in rows.items():  # what any machine shows
        assert len(of["http"]) == len(of["queue"]) == ROUNDS, format
        assert all(row["client_ms"] > row["own_ms"] > 0 for row in [*of["http"], *of["queue"]]), of
