"What the tests that need several processes share."
import json, re, shutil, subprocess, sys, time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import requests

from linacodec_tier3.client import joined, pieces
from linacodec_tier3.contract import FINAL_STATES
from linacodec_tier3.codec.seeded import write_seeded
from linacodec_tier3.local.endpoint import LocalEndpoint
from linacodec_tier3.local.jobs import Job

PARAGRAPH = (
    "The harbour was quiet when the last boat came in. Nobody had expected it before morning, "
    "least of all the keeper,\n"
    "who stood at the end of the pier with a lamp in his hand and counted the strokes of the "
    "oars. There were seven of them, then\n"
    "none; the boat turned slowly, and somebody laughed. \"You are late,\" he said. \"We are early,\" "
    "they answered, \"by eleven hours.\"\n"
    "So it was that the news reached the town on a Tuesday: the bridge was finished, the road was "
    "open, and the price of salt would\n"
    "fall before the week was out.")


ROOT = Path(__file__).resolve().parent.parent


def listed_copy(
    folder:Path, # made if it is not there
    names:tuple=(), # files and folders of the tree; all when there are none
) -> None:
    "A copy of what git would keep of this tree, changes that are not committed included."
    command = ["git", "ls-files", "-co", "--exclude-standard", "-z", "--", *names]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if not (ROOT / name).exists(): continue
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)


def install_engine(
    folder:Path, # goes onto a worker's PYTHONPATH
) -> dict: # environment of such a worker
    "What `pip install` would leave of a package that brings `odd_engines.Witness`."
    info = folder / "odd_engines-1.0.dist-info"
    info.mkdir()
    shutil.copy(Path(__file__).with_name("odd_engines.py"), folder)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: odd-engines\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[linacodec_tier3.engines]\nwitness = odd_engines:Witness\n")
    return {"PYTHONPATH": str(folder), "DEFAULT_SERVICE": "witness"}


def without_weights(
    folder:Path, # empty
) -> dict: # environment of a worker that has no codec and fetches none, whatever this machine has
    "The codec's weights are not there."
    return {"CODEC": "auto", "LINACODEC_WEIGHTS": str(folder), "LINACODEC_BACKEND": "native"}


def nowhere(
    folder:Path, # empty
) -> dict: # environment of a worker that finds neither published weights nor a hub, whatever this machine has
    "The codec's weights are not there, and cannot be fetched."
    places = dict(CODEC_HOME=str(folder / "codec"), TORCH_HOME=str(folder), VOLUME_DIR=str(folder / "volume"))
    as_it_comes = dict(LINACODEC_WEIGHTS="", LINACODEC_REVISION="", LINACODEC_BACKEND="")
    hub = dict(HF_ENDPOINT="http://127.0.0.1:9", HF_HUB_OFFLINE="0")
    return dict(CODEC="auto", DEVICE="cpu") | places | as_it_comes | hub


def with_weights(
    folder:Path, # is filled with random weights, small enough for a test
) -> dict: # environment of a worker that makes tokens with them
    "The codec's weights are there."
    weights = str(write_seeded(folder, "tiny", seed=0))
    return dict(CODEC="auto", LINACODEC_WEIGHTS=weights, LINACODEC_BACKEND="native", DEVICE="cpu",
                CODEC_HOME=str(folder / "home"))


def wait_until(
    look:Callable, # what to wait for
    seconds:float=30, # how long at most
): # the first true value of `look()`; fails when there is none
    "Wait for another process."
    end = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < end, f"still nothing after {seconds} s"
        time.sleep(0.02)
    return found


def submit(
    endpoint:LocalEndpoint, # running
    request, # any JSON value, sent as `input`
) -> str: # job ID
    "Queue a request as it stands."
    answer = requests.post(f"{endpoint.endpoint_url}/run", data=json.dumps({"input": request}), timeout=10)
    answer.raise_for_status()
    return answer.json()["id"]


def ended(
    endpoint:LocalEndpoint, # running
    job:str, # job ID
    seconds:float=60, # to wait at most
) -> Job: # the endpoint's record of it
    "A job in its last state."
    wait_until(lambda: endpoint.job(job).status in FINAL_STATES, seconds)
    return endpoint.job(job)


def answered(
    endpoint:LocalEndpoint, # running
    **request, # as in the contract
) -> Job: # in its last state
    "Ask, and wait for the answer."
    return ended(endpoint, submit(endpoint, request))


def echo_endpoint(
    **settings, # of the endpoint
) -> LocalEndpoint: # not started
    "An endpoint whose workers run `echo_worker.py`: they yield numbers and misbehave on request."
    worker = Path(__file__).with_name("echo_worker.py")
    return LocalEndpoint(command=[sys.executable, "-u", str(worker)], grace=2.0, **settings)


class PlainClient:
    "Plain HTTP to an endpoint, with its key if it has one."
    def __init__(self, endpoint):
        self.url, self.session = endpoint.endpoint_url, requests.Session()
        if endpoint.api_key: self.session.headers["Authorization"] = f"Bearer {endpoint.api_key}"

    def call(self, method, path, **options) -> requests.Response:
        "One request, answered or not."
        return self.session.request(method, f"{self.url}/{path}", timeout=100, **options)

    def run(self, **ask) -> str: # job ID
        "Submit a job with this input."
        return self.call("POST", "run", json={"input": ask}).json()["id"]

    def follow(self, job_id) -> Iterator[tuple[dict, float]]: # (partial, seconds since the first poll)
        "A job's partials as they come, until it has ended."
        start, status, got = time.monotonic(), None, [None]
        while status not in FINAL_STATES or got:
            answer = self.call("GET", f"stream/{job_id}").json()
            status, got = answer["status"], [p["output"] for p in answer["stream"]]
            for partial in got: yield partial, time.monotonic() - start

    def seqs(self, job_id) -> list[int]: # of the partials, as they came
        "The numbers of a job's partials."
        return [p["seq"] for p, _ in self.follow(job_id)]


def heard(
    partials:list, # of one stream, in order
    codec=None, # decodes tokens
) -> np.ndarray: # mono float32, shape (n,)
    "What a stream sounds like."
    return joined(pieces(partials, codec))[0]


def events(
    endpoint:LocalEndpoint, # running
    name:str, # of a structured log event
) -> int: # how many its workers have logged
    "How often something happened in the workers."
    return "\n".join(endpoint.logs()).count(f'"event": "{name}"')


def bare(
    text:str, # anything
) -> str: # the same without whitespace
    "What chunks must give back."
    return re.sub(r"\s", "", text)
