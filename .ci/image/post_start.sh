#!/bin/bash
# Run by RunPod's /start.sh when JupyterLab has been started. With MODE=http the HTTP server stands beside it; what it
# has to say, that API_KEY is missing for instance, is in the pod's log.
[ "${MODE:-queue}" = queue ] || python -u -m linacodec_tier3.worker &
