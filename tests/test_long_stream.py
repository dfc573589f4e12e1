"A text of any length streams to its end, under the limits, in memory that does not grow."
import psutil

from linacodec_tier3.client import Client, stream
from linacodec_tier3.config import PARTIAL_LIMIT
from support import PARAGRAPH

MB = 1_000_000


def test_twenty_minutes_of_pcm_complete_within_limits_and_in_flat_memory(endpoint):
    client, seconds, memory = Client(endpoint.endpoint_url), 0.0, []
    text = "\n\n".join(f"Part {n}. {PARAGRAPH}" for n in range(1, 41))
    job = client.submit(text, stream=True, output_format="pcm_24")
    [pid] = endpoint.worker_pids
    for last in stream(client, job):
        seconds += last.get("duration", 0)
        memory.append((seconds, psutil.Process(pid).memory_info().rss))
    after_a_minute = next(rss for s, rss in memory if s >= 60)
    record = endpoint.job(job)
    assert seconds > 20 * 60 and record.status == "COMPLETED" and record.output == [last]
    assert max(record.sizes) <= PARTIAL_LIMIT and not record.refused and record.worker and not record.retries
    assert last["manifest"]["partials"] == len(record.sizes) - 1
    assert last["manifest"]["samples"] == round(seconds * 24_000)
    assert max(rss for s, rss in memory if s >= 60) < after_a_minute + 200 * MB
