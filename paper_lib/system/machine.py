"""What machine this is, and what it can do."""

from __future__ import annotations

import os
import platform
import time
from functools import cache
from pathlib import Path


def processor() -> str:
    """Return the processor's model name, such as "AMD EPYC".

    Without /proc/cpuinfo it is what Python's `platform` knows.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    for line in lines:
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.machine()


def cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # not Linux


@cache
def bfloat16_gain() -> float:
    """Return how many times as fast as in float32 the processor multiplies matrices in bfloat16.

    It is measured, once in a process. Without an instruction for it the gain is below 0.1.
    """
    import torch  # here, so that processes which only count cores start without it

    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.ones(256, 256, dtype=dtype)
        taken = []
        for _ in range(5):
            start = time.perf_counter()
            a @ a
            taken.append(time.perf_counter() - start)
        seconds[dtype] = min(taken)
    return seconds[torch.float32] / seconds[torch.bfloat16]
