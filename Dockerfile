# The worker. CUDA 13.0 is what torch 2.13 is built for; its libraries come with torch, the driver from the host.
FROM runpod/base:1.0.3-cuda1300-ubuntu2404

LABEL org.opencontainers.image.title="LinaCodec Tier 3 worker" \
      org.opencontainers.image.description="RunPod Serverless worker that streams speech as LinaCodec tokens or PCM" \
      org.opencontainers.image.licenses="Apache-2.0"

# The base image points HF_HOME at a pod's /workspace, which a Serverless worker lacks. Empty means unset: the package then
# keeps its caches on /runpod-volume when that is mounted, and in the container when it is not.
ENV HF_HOME="" \
    PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1

WORKDIR /src

# Ubuntu manages its own Python, so the worker gets a virtual environment. All of this layer is third-party: it is built
# again only when the requirements change.
COPY requirements.lock settings.ini setup.py ./
RUN python3.12 -m venv /opt/venv \
    && python -m pip install --no-cache-dir -c requirements.lock pip setuptools wheel \
    && python -m pip install --no-cache-dir --no-build-isolation -c requirements.lock .

COPY README.md LICENSE ./
COPY linacodec_tier3 linacodec_tier3
RUN python -m pip install --no-cache-dir --no-build-isolation --no-deps .

# Away from the sources, which `python -m` would otherwise import in place of the installed package.
WORKDIR /
CMD ["python", "-u", "-m", "linacodec_tier3.handler"]
