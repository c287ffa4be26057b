"""Which images a step sees."""

from __future__ import annotations

from functools import lru_cache

import numpy as np


def batch_indices(count: int, step: int, batch_size: int, seed: int) -> np.ndarray:
    """Return which of `count` images are in a step's batch, in ascending order.

    They are a function of the step alone, so that a resumed run sees the same. Each epoch is a new
    shuffle; what is left of it at its end, less than a batch, is dropped.
    """
    batch_size = min(batch_size, count)
    epoch, k = divmod(step, count // batch_size)
    return np.sort(_shuffled(count, epoch, seed)[k * batch_size : (k + 1) * batch_size])


@lru_cache(1)
def _shuffled(count: int, epoch: int, seed: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(count)
