"""Dropout at a fifth of the cost on a CPU.

Torch draws 64 random bits there for each element, which takes a sixth of a SLATE training step.
Sixteen decide as well.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Dropout(nn.Dropout):
    """nn.Dropout, with cheaper masks where torch runs step by step on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.p) if self.training else x


def dropout(x: Tensor, p: float) -> Tensor:
    """Zero each element with probability p and scale the rest by 1 / (1 - p), as F.dropout does."""
    if p == 0 or not eager_on_cpu(x):
        return F.dropout(x, p)
    return x * dropout_mask(x.shape, p, x.dtype)


def eager_on_cpu(x: Tensor) -> bool:
    """Return whether torch runs the operations on x one by one, on a CPU.

    A GPU, and what torch compiles, have fast kernels of their own.
    """
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def dropout_mask(shape: torch.Size, p: float, dtype: torch.dtype) -> Tensor:
    """Return what dropout multiplies by, on the CPU: 0 with probability p, else 1 / (1 - p).

    The probability is met to within 1e-5.
    """
    # NumPy draws them twice as fast as torch, whose generator seeds NumPy's.
    seed = torch.randint(2**62, ()).item()
    generator = np.random.Generator(np.random.SFC64(seed))
    numel = math.prod(shape)
    words = generator.integers(2**64, size=numel // 4 + 1, dtype=np.uint64)
    numbers = torch.from_numpy(words).view(torch.int16)[:numel].view(shape)
    # The comparison writes numbers, not booleans, which would take another pass.
    mask = torch.empty(shape, dtype=dtype)
    torch.ge(numbers, round(p * 2**16) - 2**15, out=mask)
    return mask.mul_(1 / (1 - p))
