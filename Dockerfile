# Two images from one recipe:
#
#     docker build -t NAME/linacodec-tier3:VERSION .                      # the worker, which is the last stage
#     docker build --target pod -t NAME/linacodec-tier3-pod:VERSION .     # JupyterLab with the notebooks
#
# A stage makes what others copy, so no image has tools in it that were needed only to build it. What changes often
# comes last: after a change of code, the package alone is installed and copied again. nbs/38_image.ipynb explains it
# and has the sizes; .ci/image.py carries these lines out without a container engine.

# Both have Python 3.12 of Ubuntu 24.04 at /usr/bin/python3, where the virtual environment expects it.
ARG BASE=ubuntu:24.04
ARG POD_BASE=runpod/base:1.0.3-cuda1300-ubuntu2404

# torch brings its CUDA libraries, the host its driver: the worker needs neither a CUDA image nor a compiler.
FROM ${BASE} AS base
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3 \
    && rm -rf /var/cache/apt/* /var/lib/apt/lists/*

# What to install, without the version of this package: a release that changes nothing else installs nothing anew.
FROM base AS requirements
WORKDIR /build
COPY .ci/image/requirements.py settings.ini requirements.lock ./
# Extras of settings.ini, as in "notebook train".
ARG ENGINES=""
# Another version of torch, should TORCH_INDEX lack the one in requirements.lock.
ARG TORCH_VERSION=""
RUN python3 requirements.py --extras "$ENGINES" --torch "$TORCH_VERSION"

FROM base AS builder
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-venv \
    && rm -rf /var/cache/apt/* /var/lib/apt/lists/*
ENV PATH=/opt/venv/bin:$PATH \
    PIP_NO_CACHE_DIR=1
WORKDIR /build
COPY --from=requirements /build/constraints.txt /build/torch.txt ./
# Another index for torch alone, where hosts have older drivers: https://download.pytorch.org/whl/cu126
ARG TORCH_INDEX=""
RUN python3 -m venv /opt/venv \
    && python -m pip install -c constraints.txt pip setuptools wheel \
    && if [ -n "$TORCH_INDEX" ]; then \
        python -m pip install --no-deps -c constraints.txt -r torch.txt --index-url "$TORCH_INDEX"; fi \
    && python -m pip install -c constraints.txt -r torch.txt
COPY --from=requirements /build/requirements.txt ./
RUN python -m pip install --no-build-isolation -c constraints.txt -r requirements.txt
# Upstream's package for LINACODEC_BACKEND=upstream: a commit of 40 digits; the notebooks compare with f75b64ea288b67f5c7d3369ad6f58bfeb239f6cb.
ARG UPSTREAM_COMMIT=""
ARG UPSTREAM_ARCHIVES=https://github.com/ysharma3501/LinaCodec/archive
COPY .ci/image/upstream.sh ./
RUN sh upstream.sh "$UPSTREAM_COMMIT" "$UPSTREAM_ARCHIVES"
# The package lies beside the environment and not in it, for it is copied alone.
RUN echo /opt/app > "$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/linacodec_tier3.pth"

# Weights fetched when the image is built: a hub repository, such as YatharthS/LinaCodec, and its commit, tag or branch.
FROM builder AS weights
ARG BAKE=""
ARG BAKE_REVISION=main
COPY .ci/image/bake.py ./
COPY linacodec_tier3/config.py /opt/app/linacodec_tier3/
COPY linacodec_tier3/weights /opt/app/linacodec_tier3/weights
RUN python bake.py /opt/weights "$BAKE" "$BAKE_REVISION"

FROM builder AS sources
WORKDIR /src
COPY setup.py settings.ini README.md LICENSE ./
COPY linacodec_tier3 linacodec_tier3

FROM sources AS whole-package
RUN python -m pip install --no-deps --no-build-isolation --target /opt/app .

FROM sources AS worker-package
RUN rm -r linacodec_tier3/evaluate linacodec_tier3/explore linacodec_tier3/local linacodec_tier3/train \
    && python -m pip install --no-deps --no-build-isolation --target /opt/app .

# What only a compiler could use, and what was there to test torch.
FROM builder AS slim
COPY .ci/image/slim.py ./
RUN python slim.py /opt/venv

# A RunPod pod: /start.sh of the base runs /pre_start.sh and starts `python -m jupyter lab` on 8888. Where this
# environment comes first on PATH, that is its JupyterLab.
FROM ${POD_BASE} AS pod
LABEL org.opencontainers.image.title="LinaCodec Tier 3 pod" \
      org.opencontainers.image.description="JupyterLab with the explorer and all notebooks of LinaCodec Tier 3" \
      org.opencontainers.image.licenses="Apache-2.0"
ARG BAKE=""
ARG BAKE_REVISION=main
# Only /workspace survives a pod, so all caches lie there. NVIDIA's variables are the base's, or these.
ENV PATH=/opt/app/bin:/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    VOLUME_DIR=/workspace \
    HF_HOME=/workspace/.cache/huggingface \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    CODEC_HOME=${BAKE:+/opt/weights/linacodec} \
    TORCH_HOME=${BAKE:+/opt/weights/torch} \
    LINACODEC_WEIGHTS=${BAKE} \
    LINACODEC_REVISION=${BAKE:+${BAKE_REVISION}}
WORKDIR /
COPY --from=builder /opt/venv /opt/venv
COPY --from=requirements /build/constraints.txt /build/notebook.txt /opt/linacodec-tier3/
RUN python -m pip install --no-cache-dir -c /opt/linacodec-tier3/constraints.txt -r /opt/linacodec-tier3/notebook.txt
COPY --from=weights /opt/weights /opt/weights
COPY .ci/image/jupyter_lab_config.py /opt/venv/etc/jupyter/
COPY .ci/image/pre_start.sh .ci/image/post_start.sh /
COPY .ci/image/copy_notebooks.py /opt/linacodec-tier3/
COPY nbs /opt/linacodec-tier3/notebooks
COPY --from=whole-package /opt/app /opt/app
# With MODE=http and API_KEY the HTTP server stands beside JupyterLab, at 8000.
EXPOSE 8000 8888
# NVIDIA's entrypoint, which the base inherits, ends the container where a driver is older than its CUDA.
ENTRYPOINT ["/start.sh"]

FROM base AS worker
LABEL org.opencontainers.image.title="LinaCodec Tier 3 worker" \
      org.opencontainers.image.description="RunPod Serverless worker that streams speech as LinaCodec tokens or PCM" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --create-home --uid 10001 worker
ARG BAKE=""
ARG BAKE_REVISION=main
# Empty settings count as unset. Where weights are in the image, they are used; otherwise they are kept on
# /runpod-volume when that is mounted, and in the container when it is not.
ENV PATH=/opt/app/bin:/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    HEARTBEAT=/tmp/heartbeat \
    CODEC_HOME=${BAKE:+/opt/weights/linacodec} \
    TORCH_HOME=${BAKE:+/opt/weights/torch} \
    LINACODEC_WEIGHTS=${BAKE} \
    LINACODEC_REVISION=${BAKE:+${BAKE_REVISION}}
WORKDIR /home/worker
COPY --from=slim /opt/venv /opt/venv
COPY --from=weights /opt/weights /opt/weights
COPY .ci/image/as_worker.sh /usr/local/bin/as_worker
COPY --from=worker-package /opt/app /opt/app
# Where the HTTP server listens, unless PORT says otherwise.
EXPOSE 8000
# RunPod does not ask; `docker ps` and whatever else watches containers does. A cold start may take minutes.
HEALTHCHECK --interval=30s --timeout=10s --start-period=10m --retries=3 \
    CMD ["python", "-m", "linacodec_tier3.heartbeat"]
# As the user `worker`, unless only root may write to the volume. MODE=queue, the default, takes jobs from RunPod's
# queue; MODE=http answers requests itself, on a load-balancing endpoint or a pod.
ENTRYPOINT ["/bin/sh", "/usr/local/bin/as_worker"]
CMD ["python", "-u", "-m", "linacodec_tier3.worker"]
