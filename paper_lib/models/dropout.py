"""Dropout, at a fifth of the cost on a CPU."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def dropout(x: Tensor, p: float) -> Tensor:
    """Zero each element with probability p, scale the rest by 1 / (1 - p)."""
    if p == 0 or not slow_on(x):
        return F.dropout(x, p)
    return x * dropout_mask(x.shape, p, x.dtype)


def slow_on(x: Tensor) -> bool:
    """Whether torch's own dropout is slow there: run step by step on a CPU. It draws 64 random bits for each element, a sixth of a SLATE training step."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def dropout_mask(shape: torch.Size, p: float, dtype: torch.dtype) -> Tensor:
    """What dropout multiplies by, on the CPU: 0 with probability p (met to within 1e-5: 16 random bits decide), else 1 / (1 - p)."""
    numel = math.prod(shape)
    # twice as fast as torch's generator, which seeds it
    generator = np.random.Generator(np.random.SFC64(torch.randint(2**62, ()).item()))
    words = torch.from_numpy(generator.integers(2**64, size=numel // 4 + 1, dtype=np.uint64))
    mask = torch.empty(shape, dtype=dtype)
    torch.ge(
        words.view(torch.int16)[:numel].view(shape), round(p * 2**16) - 2**15, out=mask
    )  # straight to numbers: no pass over booleans
    return mask.mul_(1 / (1 - p))


class Dropout(nn.Module):
    """`dropout` in training, nothing in evaluation."""

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.p) if self.training else x
