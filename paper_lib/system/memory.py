"""Memory: how much of it is free, and what becomes of what a training step frees on a CPU."""

import ctypes
import os

import torch

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h


def keep_freed_memory() -> bool:
    """Have this process keep what it frees, for its next training step. Returns whether malloc could be told so (glibc's can).

    Every step asks for the same tensors again. glibc gives the large ones back to the system, which clears each page anew: a third of a step at the paper's
    sizes. The process holds its peak until it ends.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # another C library
        return False
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, -1))


def free_memory(device: str | torch.device) -> int:
    """Bytes that are free on a GPU, or on this machine; where the system does not tell, 4 GiB."""
    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, AttributeError):  # not Linux
        return 4 * 2**30
