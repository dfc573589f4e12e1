"What is in the repository for RunPod; the lines that `linacodec-tier3 deploy` prints, as a shell runs them."
import copy, json, os, random, re, subprocess, sys
from dataclasses import fields
from pathlib import Path

import jsonschema
import pytest

from linacodec_tier3.cli import main
from linacodec_tier3.client import Client, batch_audio, output, stream
from linacodec_tier3.config import Config, read_config
from linacodec_tier3.deploy.hub import NOT_ASKED, deploy_schemas, hub_files
from linacodec_tier3.deploy.mistakes import EndpointWanted, schema_mistakes
from linacodec_tier3.deploy.plan import CUDA, DISK, IMAGE_DISK, EndpointPlan, disk_needed, endpoint_body
from linacodec_tier3.local.endpoint import LocalEndpoint

ROOT = Path(__file__).resolve().parent.parent
IMAGE = "somebody/linacodec-tier3:0.1.0"
NEW = ["deploy", "--print", "--image", IMAGE]
LISTING = json.loads((ROOT / ".runpod/hub.json").read_text())
TESTS = json.loads((ROOT / ".runpod/tests.json").read_text())
TEST_INPUT = json.loads((ROOT / "test_input.json").read_text())


def with_value(body, place, value): # a copy; a place is a path with dots
    "A body in which one value is another."
    key, _, rest = place.partition(".")
    return {**body, key: with_value(body.get(key, {}), rest, value) if rest else value}


def test_what_is_in_the_repository_is_what_is_made_from_the_settings():
    for path, text in hub_files().items():
        again = f"{path}: `linacodec-tier3 deploy --write-hub .` makes it anew"
        assert (ROOT / path).read_text() == text, again


def test_the_listing_asks_for_every_setting_with_its_default():
    form = {v["key"]: v["input"]["default"] for v in LISTING["config"]["env"]}
    with_default = {f.name for f in fields(Config) if f.default not in ("", ())}
    assert {name.lower() for name in form} == with_default - set(NOT_ASKED)
    assert read_config({name: str(value) for name, value in form.items()}) == read_config({})


@pytest.mark.parametrize("name, given", [("hub", LISTING), ("tests", TESTS),
                                         ("endpoint", endpoint_body(EndpointPlan(image=IMAGE)))])
def test_schemas_accept_what_is_ours(name, given):
    jsonschema.Draft202012Validator.check_schema(deploy_schemas()[name])
    jsonschema.validate(given, deploy_schemas()[name], jsonschema.Draft202012Validator)


def mutations(body, count): # of JSON; the same ones each time
    "Copies in which something is missing, or is something else."
    odd = [None, 0, -1, 2.5, "", "x", "13.0", "QUEUE", [], ["x"], [1], {}, {"x": "y"}, True]
    dice = random.Random(0)
    def places(part, way=()):
        for key, value in part.items():
            yield *way, key
            if isinstance(value, dict): yield from places(value, (*way, key))
    for _ in range(count):
        other = copy.deepcopy(body)
        *way, last = dice.choice([*places(other)])
        part = other
        for key in way: part = part[key]
        if dice.random() < 0.2: del part[last]
        else: part[last if dice.random() < 0.9 else "extra"] = dice.choice(odd)
        yield other


def test_the_schema_and_the_check_refuse_the_same():
    body = endpoint_body(EndpointPlan(image=IMAGE, volume=("abc",), env=(("CODEC", "nano"),)))
    schema, seen = jsonschema.Draft202012Validator(deploy_schemas()["endpoint"]), set()
    for other in mutations(body, 500):
        accepted = not schema_mistakes(EndpointWanted, other)
        assert schema.is_valid(other) == accepted, other
        seen.add(accepted)
    assert seen == {True, False}


WRONG = { # what is wrong -> (place, value), what is said of it
    "CUDA list": (("gpu", {"pools": ["ADA_24"], "allowedCudaVersions": ["12.8", "13.0"]}), "a worker dies"),
    "CUDA version": (("gpu.minCudaVersion", "12.8"), "finds no GPU on an older host"),
    "disk": (("disk", 5), "the image takes more"),
    "kind of GPU": (("gpu.pools", ["ADA_16"]), "is no pool"),
    "card for a kind": (("gpu.pools", ["NVIDIA L4"]), "take its pool, AMPERE_24"),
    "volume's path for its id": (("networkVolumes", ["/runpod-volume"]), "is no id"),
    "a pod's path": (("env", {"VOLUME_DIR": "/workspace"}), "/workspace is where pods have a volume"),
    "volume missing": (("env", {"CODEC_HOME": "/runpod-volume/codec"}), "none is attached"),
    "port": (("ports", ["8000"]), "write it as 8000/http"),
    "image without version": (("image", "somebody/linacodec-tier3"), "has no version"),
    "workers": (("workers.min", 9), "raise workers.max"),
    "no workers": (("workers.max", 0), "no worker is ever started"),
    "seconds for milliseconds": (("timeout", 300), "counts milliseconds"),
    "timeout": (("timeout", 60_000), "JOB_TIMEOUT_S"),
    "setting": (("env", {"CONCURRENCY": "many"}), "expected a whole number from 1 to 64"),
    "secret": (("env", {"HF_TOKEN": "hf_plain"}), "RUNPOD_SECRET_hf_token"),
    "unknown field": (("gpuIds", "ADA_24"), "no such field")}


@pytest.mark.parametrize("what", WRONG)
def test_each_mistake_is_one_line(what, tmp_path, capsys):
    (place, value), said = WRONG[what]
    file = tmp_path / "body.json"
    file.write_text(json.dumps(endpoint_body(EndpointPlan(image=IMAGE))))
    assert main(["deploy", "--check", str(file)]) == 0
    file.write_text(json.dumps(with_value(json.loads(file.read_text()), place, value)))
    capsys.readouterr()
    assert main(["deploy", "--check", str(file)]) == 1
    shown = capsys.readouterr()
    assert shown.out == "" and len(shown.err.splitlines()) == 1 and said in shown.err
    assert "hf_plain" not in shown.err


@pytest.fixture
def shell(tmp_path): # function: lines, variables -> (process, [(arguments, input)])
    "Runs lines with a `curl` that keeps what it was told."
    kept = tmp_path / "kept"
    tool = tmp_path / "bin/curl"
    tool.parent.mkdir()
    tool.write_text(f"#!{sys.executable}\nimport json, sys\n"
                    "given = sys.stdin.read() if '@-' in sys.argv else ''\n"
                    f"print(json.dumps([sys.argv[1:], given]), file=open({str(kept)!r}, 'a'))\n")
    tool.chmod(0o755)
    def run(lines, **env):
        kept.unlink(missing_ok=True)
        bare = {k: v for k, v in os.environ.items() if k != "RUNPOD_API_KEY"}
        path = f"{tool.parent}:{os.environ['PATH']}"
        done = subprocess.run(["bash", "-e"], input=lines, env=bare | {"PATH": path} | env, text=True,
                              capture_output=True)
        return done, [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    return run


def printed(capsys, *args): # what the command writes
    capsys.readouterr()
    assert main([*args]) == 0
    return capsys.readouterr().out


def test_a_shell_sends_the_body_with_the_key_of_its_environment(shell, capsys):
    body = endpoint_body(EndpointPlan(image=IMAGE, env=(("CODEC", "nano"), ("VOICE", "it's $HOME `x`"))))
    lines = printed(capsys, *NEW, "--env", "CODEC=nano", "--env", "VOICE=it's $HOME `x`")
    done, [(arguments, sent)] = shell(lines, RUNPOD_API_KEY="rpa_secret")
    assert done.returncode == 0 and json.loads(sent) == body
    assert "https://api.runpod.io/v2/serverless" in arguments and "POST" in arguments
    assert "Authorization: Bearer rpa_secret" in arguments
    assert "rpa_secret" not in lines + done.stdout + done.stderr


def test_without_a_key_nothing_is_sent(shell, capsys):
    done, sent = shell(printed(capsys, *NEW))
    assert done.returncode and not sent and "set it to a key of your RunPod account" in done.stderr


def test_a_new_version_and_the_way_back(shell, capsys):
    for image in ("somebody/linacodec-tier3:0.2.0", IMAGE):
        lines = printed(capsys, "deploy", "--endpoint", "abc123", "--image", image)
        done, [(arguments, sent), (look, nothing)] = shell(lines, RUNPOD_API_KEY="key")
        assert done.returncode == 0 and json.loads(sent) == {"image": image}
        assert "PATCH" in arguments and "https://api.runpod.io/v2/serverless/abc123" in arguments
        assert "https://api.runpod.io/v2/serverless/abc123/releases" in look and not nothing


def test_a_volume(shell, capsys):
    lines = printed(capsys, "deploy", "--new-volume", "20", "--data-center", "EU-RO-1")
    done, [(arguments, sent)] = shell(lines, RUNPOD_API_KEY="key")
    assert json.loads(sent) == {"name": "linacodec-models", "size": 20, "dataCenter": "EU-RO-1"}
    assert "https://api.runpod.io/v2/network-volumes" in arguments


def test_the_cuda_version_is_that_of_the_locked_torch():
    built = {"2.11": "13.0", "2.12": "13.0", "2.13": "13.0"}  # of PyPI's wheels for Linux
    [locked] = re.findall(r"^torch==(\d+\.\d+)", (ROOT / "requirements.lock").read_text(), re.M)
    assert built[locked] == CUDA
    for found in re.findall(r"-cuda(\d+)-", (ROOT / "Dockerfile").read_text()):
        assert found.startswith(CUDA.replace(".", "")), "an image's base has another CUDA"
    assert LISTING["config"]["allowedCudaVersions"] == TESTS["config"]["allowedCudaVersions"] == [CUDA]


def test_the_disk_holds_the_image_and_what_it_may_fetch():
    file = ROOT / "nbs/data/image.json"
    if not file.exists(): pytest.skip("no image has been measured")
    for system, found in json.loads(file.read_text()).items():
        size = sum(layer["bytes"] for layer in found["worker"]["layers"]) / 1e9
        assert size < sum(IMAGE_DISK.values()), f"{system}: IMAGE_DISK says less than the image has"
        fetched = sum(DISK.values()) - sum(IMAGE_DISK.values())
        assert size / 0.9 < disk_needed(IMAGE_DISK) and (size + fetched) / 0.9 < EndpointPlan.disk


def test_what_the_hub_asks_is_answered_by_the_handler_that_it_looks_for():
    env = {v["key"]: v["value"] for v in TESTS["config"]["env"]} | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-u", str(ROOT / ".runpod/handler.py")]
    with LocalEndpoint(env=env, command=command) as endpoint:
        client = Client(endpoint.endpoint_url)
        for asked in [test["input"] for test in TESTS["tests"]] + [TEST_INPUT["input"]]:
            job = client.queue({"input": asked})
            if asked.get("stream"): last = list(stream(client, job))[-1]
            else: last = output(client, job)
            assert "error" not in last and ("action" in asked or last["status"] == "complete")
            if asked.get("output_format") == "wav":
                audio, rate = batch_audio(last)
                assert 0.5 < len(audio) / rate < 10
