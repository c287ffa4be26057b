"""Generating tokens for several images on several cores."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from paper_lib.system.threads import one_thread


def generate_tokens(model, slots: Tensor, progress: Callable | None = None) -> Tensor:
    """SLATE.generate_tokens, slots (B, K, D) -> (B, N), with a part of the images on each thread.

    The products for one token are too small to be shared by threads; the images are apart anyway.
    torch lets go of Python's lock while it computes. `progress` sees the first part's positions.
    """
    threads = min(torch.get_num_threads(), len(slots))
    if threads < 2 or slots.device.type != "cpu":
        return model.generate_tokens(slots, progress)
    first, *others = slots.chunk(threads)
    settings = {"initializer": torch.set_num_threads, "initargs": (1,)}  # of each thread's own
    with one_thread(), ThreadPoolExecutor(len(others), **settings) as pool:
        started = [pool.submit(model.generate_tokens, part) for part in others]
        tokens = [model.generate_tokens(first, progress)]
        return torch.cat([*tokens, *(part.result() for part in started)])
