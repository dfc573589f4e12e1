"Memory that stays where it is when jobs of all lengths follow one another in threads that stay."
import os, subprocess, sys

import pytest

SCRIPT = """
import sys
from linacodec_tier3.config import get_config
get_config()
import numpy as np, torch
from linacodec_tier3.background import Ahead, MemoryBack
torch.set_num_threads(1)
net = torch.nn.Sequential(*[torch.nn.Conv1d(32, 32, 7, padding=3) for _ in range(12)])
def job(length):
    with torch.inference_mode(): yield net(torch.zeros(1, 32, length)).shape
def resident():
    MemoryBack(0)()
    return int(open("/proc/self/status").read().split("VmRSS:")[1].split()[0]) / 1e3
seen = []
for k in range(700):
    [_] = Ahead(job(1000 + 7 * k))
    if k in (99, 699): seen.append(resident())
print(*seen)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_lengths_that_were_heard_once_take_no_memory():
    env = {k: v for k, v in os.environ.items() if not k.endswith("CACHE_CAPACITY")}
    def grown(**more):
        line = [sys.executable, "-c", SCRIPT]
        done = subprocess.run(line, env=env | more, capture_output=True, text=True, timeout=300, check=True)
        first, last = map(float, done.stdout.split())
        return last / first
    assert grown() < 1.1
