"A result over the platform's limit goes to the bucket, whole."
import boto3
import numpy as np
import pytest
import requests
from moto.server import ThreadedMotoServer

from linacodec_tier3.audio import from_pcm
from linacodec_tier3.client import Client, stream
from linacodec_tier3.config import RESULT_LIMIT
from linacodec_tier3.local.endpoint import LocalEndpoint
from support import PARAGRAPH, answered, heard

REQUEST = dict(text=PARAGRAPH * 4, seed=7, output_format="pcm_24")
BUCKET = "results"


@pytest.fixture(scope="module")
def bucket(): # environment of a worker that has one
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    url = "http://{}:{}".format(*server.get_host_and_port())
    keys = dict(aws_access_key_id="key", aws_secret_access_key="secret")
    boto3.client("s3", endpoint_url=url, region_name="us-east-1", **keys).create_bucket(Bucket=BUCKET)
    yield dict(BUCKET_ENDPOINT_URL=url, BUCKET_ACCESS_KEY_ID="key", BUCKET_SECRET_ACCESS_KEY="secret",
               BUCKET_NAME=BUCKET)
    server.stop()


def test_result_over_the_limit_is_uploaded_whole(bucket):
    with LocalEndpoint(env=bucket) as endpoint:
        [result] = answered(endpoint, **REQUEST).output
        client = Client(endpoint.endpoint_url)
        streamed = heard(list(stream(client, client.submit(**REQUEST, stream=True))))
        [small] = answered(endpoint, **REQUEST | dict(text="Good morning.")).output
    audio = requests.get(result["audio_url"], timeout=30)
    assert audio.status_code == 200 and len(audio.content) > RESULT_LIMIT * 3 / 4 and "audio" not in result
    assert np.array_equal(from_pcm(audio.content, "pcm_24"), streamed)
    assert "audio" in small and "audio_url" not in small


def test_a_bucket_that_cannot_be_written_is_named_in_the_error(bucket):
    with LocalEndpoint(env=bucket | dict(BUCKET_NAME="not-there")) as endpoint:
        job = answered(endpoint, **REQUEST)
    assert job.status == "FAILED" and "could not be uploaded" in job.error
    assert "BUCKET_" in job.error and "\n" not in job.error
