"The local endpoint as its clients see it: plain HTTP and the official client."
import json, time

import pytest
import requests
import runpod

from linacodec_tier3.config import PARTIAL_LIMIT, RESULT_LIMIT, SYNC_RESULT_LIMIT
from linacodec_tier3.local.endpoint import LocalEndpoint
from support import PlainClient, echo_endpoint, wait_until

PARTS = {str(i): 900_000 for i in range(12)}  # together over the limit of /run, under that of /runsync


@pytest.fixture(scope="module")
def ep():
    with echo_endpoint(api_key="a key", short_times=True) as running: yield running


@pytest.fixture(scope="module")
def http(ep):
    plain = PlainClient(ep)
    yield plain
    plain.session.close()


@pytest.fixture
def client(ep, monkeypatch):
    monkeypatch.setattr(runpod, "endpoint_url_base", ep.url)
    return runpod.Endpoint("local", api_key="a key")


def test_the_official_client_works_unchanged(client):
    job = client.run({"n": 3})
    assert [p["seq"] for p in job.stream()] == [0, 1, 2]
    assert job.status() == "COMPLETED"
    assert [p["seq"] for p in client.run_sync({"input": {"n": 2}})] == [0, 1]


def test_each_partial_comes_when_it_is_made_and_the_record_says_when(ep, http):
    job_id = http.run(n=5, pause=0.1)
    arrivals = [(p["seq"], seconds) for p, seconds in http.follow(job_id)]
    assert [seq for seq, _ in arrivals] == [0, 1, 2, 3, 4]
    assert arrivals[-1][1] - arrivals[0][1] > 0.3, arrivals
    status = http.call("POST", f"status/{job_id}").json()
    assert status == http.call("GET", f"status/{job_id}").json()
    assert (status["status"], len(status["output"])) == ("COMPLETED", 5)
    record = ep.job(job_id)
    assert record.created <= record.taken <= record.first_partial <= record.done
    assert 500 <= status["executionTime"] < 5000


def test_runsync_comes_back_early_when_told_to_with_the_truth_so_far(ep, http):
    early = http.call("POST", "runsync?wait=200", json={"input": {"n": 2, "pause": 0.4}}).json()
    assert early["status"] in ("IN_QUEUE", "IN_PROGRESS")
    done = http.call("POST", "runsync", json={"input": {"n": 1}}).json()
    assert (done["status"], [p["seq"] for p in done["output"]]) == ("COMPLETED", [0])
    assert http.call("GET", f"status/{early['id']}").json()["status"] == "COMPLETED"
    assert early["id"].startswith("sync-") and done["id"].startswith("sync-")
    plain = http.run(n=1)
    assert http.seqs(plain) == [0] and not plain.startswith("sync-")
    assert ep.job(early["id"]).wait == 0.2


BIG = json.dumps({"input": {"text": "x" * RESULT_LIMIT}})
REFUSED = [
    ("POST", "run", dict(data=b"{"), 400), ("POST", "run", dict(data=b"\xff"), 400),
    ("POST", "run", dict(json=[1]), 400), ("POST", "run", dict(json={"text": "hi"}), 400),
    ("POST", "run", dict(json={"input": {}, "policy": {"ttl": "1h"}}), 400),
    ("POST", "runsync?wait=long", dict(json={"input": {}}), 400),
    ("POST", "run", dict(data=b"[" * 200_000), 400), ("POST", "run", dict(data=BIG), 413),
    ("POST", "runsync", dict(data=BIG[:-2] + "x" * RESULT_LIMIT + BIG[-2:]), 413),
    ("GET", "stream/no-such-job", {}, 404), ("POST", "cancel/no-such-job", {}, 404),
    ("GET", "run", {}, 405), ("GET", "nothing", {}, 404),
]


@pytest.mark.parametrize("method, path, options, status", REFUSED, ids=range(len(REFUSED)))
def test_what_cannot_be_a_job_is_refused_in_one_line(ep, http, method, path, options, status):
    answer = http.call(method, path, **options)
    error = answer.json()["error"]
    assert answer.status_code == status and isinstance(error, str) and "\n" not in error
    assert ep.health()["jobs"]["inQueue"] == 0


def test_a_request_too_large_for_run_may_fit_runsync(ep, http):
    short = BIG[:-3] + '"}, "policy": {"executionTimeout": 60000}}'
    status = http.call("POST", "runsync", data=short).status_code
    assert status == (413 if len(BIG) > SYNC_RESULT_LIMIT else 200)
    assert ep.health()["jobs"]["inQueue"] == 0


WRONG_KEYS = ({}, *({"Authorization": wrong} for wrong in (
    "Bearer a kez", "a kez", "Bearer", "Basic a key", "Bearer A KEY", "Bearera key",
    "Bearer \u00e9".encode())))
KEYS = "Bearer a key", "bearer a key", "BEARER  a key", "a key"


@pytest.mark.parametrize("written", KEYS)
def test_the_key_is_taken_as_people_write_it(ep, written):
    answer = requests.get(f"{ep.endpoint_url}/health", headers={"authorization": written})
    assert answer.status_code == 200


def test_without_the_key_nothing_is_answered_on_either_side(ep, client):
    for headers in WRONG_KEYS:
        assert requests.get(f"{ep.endpoint_url}/health", headers=headers).status_code == 401
    for path in ("job-take/w", "job-stop/w?key=guess", "ping/w"):
        assert requests.get(f"{ep.endpoint_url}/{path}").status_code == 401
    with pytest.raises(RuntimeError, match="401"): runpod.Endpoint("local", api_key="wrong").health()


def test_a_partial_over_the_limit_is_refused_and_only_its_missing_seq_tells(ep, http):
    job_id = http.run(n=4, bytes={"1": PARTIAL_LIMIT, "2": PARTIAL_LIMIT - 100})
    assert http.seqs(job_id) == [0, 2, 3]
    record = ep.job(job_id)
    assert record.status == "COMPLETED" and record.sizes[1] <= PARTIAL_LIMIT
    assert [(r.kind, r.status) for r in record.refused] == [("partial", 400)]


def test_a_result_over_the_limit_leaves_the_job_to_its_timeout(ep, http):
    failed = ep.health()["jobs"]["failed"]
    asked = {"input": {"n": 12, "bytes": PARTS}, "policy": {"executionTimeout": 2500}}
    job_id = http.call("POST", "run", json=asked).json()["id"]
    assert http.seqs(job_id) == list(range(12))
    assert http.call("GET", f"status/{job_id}").json()["status"] == "TIMED_OUT"
    assert [(r.kind, r.status) for r in ep.job(job_id).refused] == [("result", 400)]
    assert ep.health()["jobs"]["failed"] == failed + 1


def test_the_same_result_is_allowed_through_runsync(http):
    done = http.call("POST", "runsync", json={"input": {"n": 12, "bytes": PARTS}}).json()
    assert (done["status"], len(done["output"])) == ("COMPLETED", 12)


def test_an_exception_in_the_handler_ends_the_job_after_the_partials_before_it(ep, http):
    failed = ep.health()["jobs"]["failed"]
    job_id = http.run(n=3, fail_at=2)
    assert http.seqs(job_id) == [0, 1]
    status = http.call("GET", f"status/{job_id}").json()
    assert status["status"] == "FAILED" and "cannot make partial 2" in status["error"]
    assert ep.health()["jobs"]["failed"] == failed + 1


# The official client's `stream()` does not know CANCELLED as an end and would poll for ever; `status()` does.


def test_a_cancelled_job_frees_its_worker_and_one_that_waits_never_reaches_any(ep, http, client):
    before = client.health()["jobs"]
    running, waiting = http.run(n=100, pause=0.1), http.run()
    wait_until(lambda: ep.job(running).sizes, 10)
    assert client.health()["jobs"] == before | dict(inProgress=1, inQueue=1)
    for job_id in (waiting, running):
        assert http.call("POST", f"cancel/{job_id}").json() == {"id": job_id, "status": "CANCELLED"}
    after = http.run(n=1)
    assert http.seqs(after) == [0]
    assert ep.job(after).taken - ep.job(running).done < 3
    assert ep.job(waiting).taken is None and ep.job(running).stops
    assert http.call("POST", f"cancel/{after}").json()["status"] == "COMPLETED"


def test_execution_timeout_and_purge(http, client):
    slow = client.run({"input": {"n": 100, "pause": 0.1}, "policy": {"executionTimeout": 2000}})
    wait_until(lambda: slow.status() == "IN_PROGRESS", 10)
    queued = [http.run() for _ in range(4)]
    waiting = client.health()["jobs"]["inQueue"]
    assert waiting >= 4
    assert client.purge_queue() == {"removed": waiting, "status": "completed"}
    wait_until(lambda: slow.status() == "TIMED_OUT", 10)
    assert {http.call("GET", f"status/{i}").json()["status"] for i in queued} == {"CANCELLED"}
    assert http.seqs(http.run(n=1)) == [0]


def is_gone(http, job_id): return http.call("GET", f"status/{job_id}").status_code == 404


def test_a_job_past_its_ttl_is_deleted_whether_it_waits_or_runs(ep, http):
    ask = dict(input={"n": 400, "pause": 0.1}, policy={"ttl": 2500})
    runs = http.call("POST", "run", json=ask).json()["id"]
    waits = http.call("POST", "run", json=ask | {"policy": {"ttl": 300}}).json()["id"]
    wait_until(lambda: ep.job(runs).sizes, 10)
    [pid] = ep.worker_pids
    wait_until(lambda: is_gone(http, waits), 10)
    wait_until(lambda: is_gone(http, runs), 10)
    for method, name in (("GET", "stream"), ("POST", "cancel"), ("POST", "retry")):
        assert http.call(method, f"{name}/{runs}").status_code == 404
    assert runs not in http.call("GET", "requests").text
    assert http.seqs(http.run(n=1)) == [0] and ep.worker_pids == [pid]  # it was told to stop, and lives
    late = http.call("POST", "runsync?wait=20000", json=ask | {"policy": {"ttl": 300}})
    assert late.status_code == 404 and "ttl" in late.json()["error"]


def test_the_official_client_cancels(http, client):
    official = runpod.endpoint.runner.Job("local", http.run(n=100, pause=0.1), client.rp_client)
    assert official.cancel()["status"] == "CANCELLED"
    assert official.status() == "CANCELLED"


def test_a_job_cancelled_right_after_it_was_taken_stops_too(ep, http): # the SDK may lose the stop signal
    job_id = http.run(n=100, pause=0.05)
    wait_until(lambda: ep.job(job_id).taken, 10)
    http.call("POST", f"cancel/{job_id}")
    assert http.seqs(http.run(n=1)) == [0]
    assert time.monotonic() - ep.job(job_id).done < 4


def test_what_the_endpoint_says_of_itself(ep):
    assert wait_until(lambda: ep._state.slots[0].last_ping, 10)
    assert any("Starting Serverless Worker" in line for line in ep.logs())
    wait_until(lambda: ep.health()["workers"]["idle"], 10)
    workers = dict(idle=1, running=0, initializing=0, throttled=0, unhealthy=0, ready=1)
    assert ep.health()["workers"] == workers and ep.failure is None
    with pytest.raises(RuntimeError, match="already runs"): ep.start()
    with pytest.raises(OSError): echo_endpoint(port=ep.port).start()


def test_a_failed_job_is_tried_again_under_its_id_and_others_are_not(ep, http):
    job_id = http.run(n=3, fail_at=2)
    assert http.seqs(job_id) == [0, 1]
    assert http.call("POST", f"retry/{job_id}").json() == {"id": job_id, "status": "IN_QUEUE"}
    assert http.seqs(job_id) == [0, 1]
    status = http.call("GET", f"status/{job_id}").json()
    assert (status["status"], status["retries"]) == ("FAILED", 1)
    done = http.run(n=1)
    assert http.seqs(done) == [0]
    answer = http.call("POST", f"retry/{done}")
    assert answer.status_code == 400 and "COMPLETED" in answer.json()["error"]
    listed = {job["id"]: job for job in http.call("GET", "requests").json()["requests"]}
    assert listed[job_id]["status"] == "FAILED" and listed[done]["status"] == "COMPLETED"
    assert not any("output" in job for job in listed.values())


def test_other_keys_of_a_request_reach_the_worker(http):
    extra = {"s3Config": {"bucketName": "b"}, "webhook": "https://example.com", "anything": [1]}
    ask = {"input": {"n": 1, "tell": True}, "policy": {"lowPriority": True}, "id": "mine"} | extra
    done = http.call("POST", "runsync", json=ask).json()
    told = done["output"][0]["job"]
    assert told == extra | {"input": ask["input"], "id": done["id"]}


SHORTEST, LONGEST = {"executionTimeout": 5_000, "ttl": 10_000}, 604_800_000  # ms


@pytest.fixture(scope="module")
def strict(): # as the platform is, and without a worker
    running = LocalEndpoint(command=["sleep", "100"], rate_limits=True, grace=1.0).start(wait=False)
    yield running
    running.stop()


def test_limits_of_time_are_the_platform_s(strict):
    http = PlainClient(strict)
    for key, shortest in SHORTEST.items():
        for ms, code in ((shortest, 200), (LONGEST, 200), (shortest - 1, 400), (LONGEST + 1, 400)):
            answer = http.call("POST", "run", json={"input": {}, "policy": {key: ms}})
            assert answer.status_code == code, (key, ms, answer.text)
            said = answer.json().get("error", "")
            assert code == 200 or key in said and str(shortest) in said
    for ms in ("999", "300001", "-1", "", "\u00b2", "9" * 5_000):
        answer = http.call("POST", f"runsync?wait={ms}", json={"input": {}})
        assert answer.status_code == 400 and "1000 to 300000" in answer.json()["error"]
    assert http.call("POST", "runsync?wait=1000", json={"input": {}}).json()["status"] == "IN_QUEUE"
    unknown = http.call("POST", "run", json={"input": {}, "policy": {"timeout": 5}})
    assert unknown.status_code == 400 and "'timeout'" in unknown.json()["error"]


def test_what_comes_too_often_is_refused_with_429_and_the_time_to_wait(strict):
    http = PlainClient(strict)
    job_id = http.run()
    answers = [http.call("POST", f"cancel/{job_id}") for _ in range(150)]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused and {answer.status_code for answer in answers} == {200, 429}
    assert "\n" not in refused[0].json()["error"] and 1 <= int(refused[0].headers["Retry-After"]) <= 10
    codes = [http.call("POST", "purge-queue").status_code for _ in range(3)]
    assert codes == [200, 200, 429]
    assert http.call("GET", f"status/{job_id}").status_code == 200  # kinds are counted apart
    assert http.call("GET", "health").status_code == 200
