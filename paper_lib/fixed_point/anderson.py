"""Anderson acceleration: a solver that mixes the last few iterates."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from paper_lib.fixed_point.protocols import Map, Result
from paper_lib.fixed_point.search import Norm, Search, check_settings, dot


@dataclass(frozen=True)
class Anderson:
    """Anderson acceleration: the next iterate mixes the last `history` values of f.

    The weights minimise the norm of the mixed f(z) - z. The best iterate is kept.

    max_steps  updates of z; f is evaluated max_steps + 1 times.
    tol        relative residual at which a sample stops.
    history    how many iterates are mixed.
    ridge      Tikhonov term of the least-squares problem, relative to the size of its matrix.
    mixing     1 takes the mixed values of f, 0 the mixed iterates.
    norm       "sample" or "batch": whose residual decides when to stop (see `Search`).

    Source: Anderson (1965); Walker and Ni (2011). Not in the paper: our addition.
    """

    max_steps: int
    tol: float = 1e-6
    history: int = 5
    ridge: float = 1e-8
    mixing: float = 1.0
    norm: Norm = "sample"

    def __post_init__(self):
        check_settings("Anderson", self.max_steps, self.tol, self.norm)
        if self.history < 1 or not self.ridge >= 0 or not 0 < self.mixing <= 1:
            raise ValueError(
                f"Anderson: needs history >= 1, ridge >= 0 and 0 < mixing <= 1, got {self}"
            )

    def solve(self, f: Map, z0: Tensor) -> Result:
        """Search for z = f(z) from z0 (batch, ...)."""
        search = Search(f, z0, self.tol, self.norm)
        batch, dim = search.z.shape
        # The last iterates take turns: the newest replaces the oldest, and only its row and column
        # of the Gram matrix are new.
        gs = search.g.new_empty(batch, self.history, dim)
        points = torch.empty_like(gs)  # z + mixing * g
        gram = search.g.new_empty(batch, self.history, self.history)
        for k in range(self.max_steps):
            count, newest = min(k + 1, self.history), k % self.history
            gs[:, newest] = search.g
            points[:, newest] = search.z + self.mixing * search.g
            products = dot(gs[:, :count], search.g[:, None])
            gram[:, newest, :count] = gram[:, :count, newest] = products
            weights, singular = _weights(gram[:, :count, :count], self.ridge)
            search.fail(singular)
            target = (weights * points[:, :count]).sum(1)
            if not search.take(target - search.z):
                break
        return search.result()


def _weights(gram: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """Return the weights that minimise |sum_i w_i g_i|^2 with sum_i w_i = 1, and where that fails.

    The normal equations are scaled and regularised, as rows of one sample may be parallel. Weights
    that are not finite are not marked: they make such a step, which `Search.take` refuses.

    (batch, count, count) Gram matrices -> (batch, count, 1), (batch,) bool.
    """
    size = gram.diagonal(dim1=1, dim2=2).mean(1).clamp_min(torch.finfo(gram.dtype).tiny)
    scaled = gram / size[:, None, None]
    scaled.diagonal(dim1=1, dim2=2).add_(ridge)
    weights, info = torch.linalg.solve_ex(scaled, torch.ones_like(scaled[:, :, :1]))
    return weights / weights.sum(1, keepdim=True), info != 0
