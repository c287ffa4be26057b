"""Memory: how much is free, how much was used, and what becomes of what is freed on a CPU."""

from __future__ import annotations

import ctypes
import os
import sys

import torch

from paper_lib.system.device import is_cuda

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # names and values from glibc's malloc.h


def keep_freed_memory() -> bool:
    """Make this process keep what it frees, and return whether malloc could be told so.

    Every training step asks for the same tensors again. glibc gives the large ones back to the
    system, which clears each page anew: a third of a step at the paper's sizes. From this call on
    the process holds its peak until it ends. Only glibc's malloc can be told.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # another C library
        return False
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, -1))


def free_memory(device: str | torch.device) -> int:
    """Return the bytes that are free on a GPU, or else on this machine.

    Where the system does not tell, the answer is 4 GiB.
    """
    if is_cuda(device):
        return torch.cuda.mem_get_info(device)[0]
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, AttributeError):  # not Linux
        return 4 * 2**30


def peak_memory(device: str | torch.device = "cpu") -> int:
    """Return the bytes of the process's largest resident set so far.

    On a GPU it is the peak of PyTorch's allocator instead.
    """
    if is_cuda(device):
        return torch.cuda.max_memory_allocated(device)
    import resource  # here, as only Unix has it

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # bytes on macOS, KiB elsewhere
