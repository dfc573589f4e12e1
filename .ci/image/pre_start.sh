#!/bin/bash
# Run by RunPod's /start.sh before it starts JupyterLab. That script ends the container when this one fails, so it
# never does.
python /opt/linacodec-tier3/copy_notebooks.py \
    "${NOTEBOOKS:-/opt/linacodec-tier3/notebooks}" "${VOLUME_DIR:-/workspace}/linacodec-tier3" || true
