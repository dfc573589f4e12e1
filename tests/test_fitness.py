"A worker that cannot do its work ends before it has taken a job, and one line says what to do."
import shlex, socket, subprocess, sys, threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest
from support import answered, nowhere, submit, wait_until, with_weights

from linacodec_tier3.local.endpoint import LocalEndpoint
from linacodec_tier3.local.process import worker_env

WORKER = [sys.executable, "-u", "-m", "linacodec_tier3.handler"]
FULL, SMALL = "size=512k", "size=50m"  # less than is written on trial, and than is to be left


def mounted(
    shell:str, # what is mounted before, in a namespace of its own
) -> list: # the worker's command; skips the test where the machine does not allow this
    "A worker that sees other mounts than the test does."
    done = subprocess.run(["unshare", "-rm", "sh", "-c", shell], capture_output=True, text=True)
    if done.returncode: pytest.skip(f"no mounts in a namespace of our own on this machine: {done.stderr}")
    return ["unshare", "-rm", "sh", "-c", f'{shell} && exec "$@"', "sh", *WORKER]


def read_only(folder):
    quoted = shlex.quote(str(folder))
    return f"mount --bind {quoted} {quoted} && mount -o remount,bind,ro {quoted}"


def tmpfs(folder, size): return f"mount -t tmpfs -o {size} tmpfs {shlex.quote(str(folder))}"


@contextmanager
def pinged(): # a base URL, and what was said to it
    "A platform that only listens."
    said = []
    class Platform(BaseHTTPRequestHandler):
        def do_GET(self):
            asked = parse_qs(urlsplit(self.path).query)
            said.append({k: v[0] for k, v in asked.items()} | dict(path=self.path))
            self.send_response(200); self.end_headers()
        def log_message(self, *args): pass
    server = HTTPServer(("127.0.0.1", 0), Platform)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try: yield f"http://127.0.0.1:{server.server_port}/v2/x", said
    finally: server.shutdown(); server.server_close()


def refused(
    env:dict, # additions to the worker's
    command:list=WORKER, # what is started
) -> tuple[str, str]: # the check that failed and the line that says so; nothing but a ping went out
    "A worker that ends by itself, with 1."
    with pinged() as (base, said):
        done = subprocess.run(command, env=worker_env(base, "w", "key", env), capture_output=True, text=True,
                              timeout=300)
    log = done.stdout + done.stderr
    assert done.returncode == 1 and "Traceback" not in log, log[-3000:]
    [line] = [line for line in log.splitlines() if "Fitness check failed" in line]
    assert [(s["status"], "/ping/" in s["path"]) for s in said] == [("unhealthy", True)], said
    assert said[0]["reason"] in line or len(said[0]["reason"]) == 256
    return said[0]["check"], line.partition("Unfit: ")[2]


def published(folder, **more): # settings with which the weights are missing, and nothing else will do
    return nowhere(folder) | dict(CODEC="published") | more


@pytest.fixture
def volume(tmp_path): # a folder that is the volume's
    "Where a network volume is mounted."
    (tmp_path / "volume").mkdir()
    return tmp_path / "volume"


def test_a_gpu_that_is_not_there():
    name, line = refused(dict(DEVICE="cuda", CUDA_VISIBLE_DEVICES=""))
    assert name == "gpu" and "DEVICE='cuda': not on this machine" in line and "unset it" in line


def test_a_volume_that_is_read_only(volume, tmp_path):
    env = published(tmp_path, CODEC_HOME=str(volume))
    name, line = refused(env, mounted(read_only(volume)))
    assert name == "volume" and f"{volume} cannot be written (Read-only file system)" in line
    assert line.endswith("set CODEC_HOME and TORCH_HOME to folders that can be written")


def test_a_volume_that_is_full(volume, tmp_path):
    name, line = refused(published(tmp_path, CODEC_HOME=str(volume)), mounted(tmpfs(volume, FULL)))
    assert name == "volume" and "cannot be written (No space left on device)" in line
    assert line.endswith("make room for 2 GB")


def test_a_volume_without_room_for_the_weights(volume, tmp_path):
    name, line = refused(published(tmp_path, CODEC_HOME=str(volume)), mounted(tmpfs(volume, SMALL)))
    assert name == "volume" and "can be written" in line and line.endswith("make room for 2 GB")


def test_weights_that_are_neither_here_nor_to_be_had(tmp_path):
    name, line = refused(published(tmp_path))
    assert name == "weights" and "no config.yaml" in line and "cannot be reached" in line
    assert "linacodec-tier3 prefetch" in line


def test_a_hub_that_does_not_answer(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hub = f"http://127.0.0.1:{silent.getsockname()[1]}"
        name, line = refused(published(tmp_path, HF_ENDPOINT=hub))
    assert name == "weights" and f"{hub} cannot be reached" in line


def test_a_disk_that_is_nearly_full(tmp_path):
    (tmp_path / "temporary").mkdir()
    there = mounted(tmpfs(tmp_path / "temporary", SMALL))
    name, line = refused(dict(TMPDIR=str(tmp_path / "temporary")), there)
    assert name == "disk" and "free 100 MB there" in line and "containerDiskInGb" in line


def test_a_worker_that_is_not_fit_takes_no_job():
    endpoint = LocalEndpoint(env=dict(DEVICE="cuda", CUDA_VISIBLE_DEVICES=""))
    endpoint.start(wait=False)
    try:
        job = submit(endpoint, dict(text="Nobody will say this."))
        failure = wait_until(lambda: endpoint.failure, 120)
        assert "exited with code 1" in failure and "Fitness check failed: gpu" in failure
        assert endpoint.job(job).status == "IN_QUEUE" and endpoint.job(job).worker is None
    finally: endpoint.stop()


def test_a_read_only_volume_is_a_warning_where_the_weights_are_complete(volume, tmp_path):
    env = with_weights(tmp_path) | dict(VOLUME_DIR=str(volume), CODEC_HOME=str(volume))
    with LocalEndpoint(env=env, command=mounted(read_only(volume))) as endpoint:
        job = answered(endpoint, text="All is well.", stream=True)
        assert job.status == "COMPLETED" and job.output[-1]["format"] == "linacodec_tokens", job.error
        said = [line for line in endpoint.logs() if "not as it might be: volume" in line]
        assert len(said) == 1 and "Read-only" in said[0] and "what is needed now is complete" in said[0]
        assert any("All fitness checks passed" in line for line in endpoint.logs())


def test_where_another_codec_may_do_missing_weights_are_a_warning(tmp_path):
    env = nowhere(tmp_path) | dict(LINACODEC_WEIGHTS="somebody/nothing", LOG_LEVEL="info")
    with LocalEndpoint(env=env) as endpoint:
        assert answered(endpoint, text="Hello.", stream=True, output_format="pcm_16").status == "COMPLETED"
        assert any("not as it might be: weights: somebody/nothing" in line for line in endpoint.logs())
