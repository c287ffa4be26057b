"""What solvers share: norms of the samples of a batch, and the bookkeeping of a search.

A solver that proposes steps needs nothing else. This is a complete one, damped iteration:

>>> from dataclasses import dataclass
>>> import torch
>>> from paper_lib.fixed_point import Implicit, Search, fixed_point
>>> @dataclass(frozen=True)
... class Damped:
...     max_steps: int
...     tol: float = 1e-6
...     damping: float = 0.5
...
...     def solve(self, f, z0):
...         search = Search(f, z0, self.tol)
...         for _ in range(self.max_steps):
...             if not search.take(self.damping * search.g):
...                 break
...         return search.result()
>>> solution = fixed_point(
...     torch.cos, torch.zeros(1, 1), solver=Damped(50), adjoint=Implicit(Damped(50))
... )
>>> solution.value.detach(), solution.converged
(tensor([[0.7391]]), tensor([True]))
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.linalg import vector_norm

from paper_lib.fixed_point.protocols import Map, Result

Norm = Literal["sample", "batch"]


def flatten(z: Tensor) -> Tensor:
    """Detach z (batch, ...) and return it as (batch, dim), in float32 at least.

    Half precision is too coarse for norms and inner products.
    """
    z = z.detach()
    z = z.flatten(1) if z.dim() > 1 else z[:, None]
    return z.float() if z.dtype in (torch.float16, torch.bfloat16) else z


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Return the inner products over the last axis.

    This is not a matrix product, because autocast would round that to half precision.
    """
    return (a * b).sum(-1)


def relative_residual(z: Tensor, fz: Tensor) -> Tensor:
    """Return ||f(z) - z|| / ||f(z)|| of each sample: (batch, ...), (batch, ...) -> (batch,).

    It is zero where both norms vanish.
    """
    z, fz = flatten(z), flatten(fz)
    return _relative(fz - z, fz)


def check_settings(name: str, max_steps: int, tol: float, norm: Norm = "sample") -> None:
    """Raise a ValueError that names the solver if a setting that solvers share makes no sense."""
    if max_steps < 1:
        raise ValueError(f"{name}: max_steps must be at least 1, got {max_steps}")
    if not tol >= 0:
        raise ValueError(f"{name}: tol must be zero or more, got {tol}")
    if norm not in ("sample", "batch"):
        raise ValueError(f"{name}: norm must be 'sample' or 'batch', got {norm!r}")


class Search:
    """The state of a search: the iterates, the best of them, and which samples are still searching.

    A solver reads the state, proposes a step, and hands it to `take` until that returns False; then
    `result` says how it went. The steps are taken for all samples at once, and a sample that has
    stopped stays where it is.

    f, z0   the map, and the initial guess (batch, ...); f is evaluated there at once.
    tol     the relative residual at which the search has converged.
    norm    "sample": every sample is a problem of its own. It has its own relative residual, stops
            by itself, and keeps its own best iterate.
            "batch": the batch is one problem. There is one relative residual, with both norms
            taken over all samples; they stop (and fail) together, and the best iterate of the
            whole batch is kept. This is the rule of DEQ's code (Bai et al. 2019).

    The state, which changes with every step:

    z         (batch, dim) the iterates, flattened.
    g         (batch, dim) f(z) - z.
    residual  (batch,) the relative residual; with the norm "batch" the same for all samples.
    active    (batch,) bool: the samples that are still searching.
    """

    def __init__(self, f: Map, z0: Tensor, tol: float, norm: Norm = "sample"):
        self.f, self.z0, self.tol, self.norm = f, z0, tol, norm
        self.z = flatten(z0)
        self.active = torch.ones(len(z0), dtype=torch.bool, device=z0.device)
        self.g, self.residual = self._evaluate()
        self._stop_finished()
        self._best, self._lowest = self.z, self.residual
        self._residuals = []
        self._steps = torch.zeros(len(z0), dtype=torch.int64, device=z0.device)

    def take(self, step: Tensor) -> bool:
        """Move the active samples by `step` (batch, dim), and evaluate f there.

        A sample whose step is not finite stays where it is, and has failed. Return False once no
        sample is active any more.
        """
        self.fail(~_finite(step))
        if not self.active.any():
            return False
        self.z = torch.where(self.active[:, None], self.z + step, self.z)
        self.g, residual = self._evaluate()
        self.residual = torch.where(self.active, residual, self.residual)
        self._residuals.append(self.residual)
        self._steps = self._steps + self.active
        better = self.residual < self._lowest
        self._best = torch.where(better[:, None], self.z, self._best)
        self._lowest = torch.where(better, self.residual, self._lowest)
        self._stop_finished()
        return True

    def fail(self, where: Tensor) -> None:
        """Stop the samples of a mask (batch,), which have met a singular system or the like."""
        if self.norm == "batch":
            where = where.any().expand_as(where)
        self.active = self.active & ~where

    def result(self) -> Result:
        """Return the best iterate, in the shape and dtype of z0, and how the search went."""
        converged = self._lowest <= self.tol
        return Result(
            value=self._best.to(self.z0.dtype).view_as(self.z0),
            residuals=torch.stack(self._residuals or [self.residual]),
            steps=self._steps,
            converged=converged,
            failed=~(self.active | converged),  # a search stops for no other reason
        )

    def _evaluate(self) -> tuple[Tensor, Tensor]:
        """Return f(z) - z, and the relative residual, at the current z."""
        fz = flatten(self.f(self.z.to(self.z0.dtype).view_as(self.z0)))
        g = fz - self.z
        if self.norm == "batch":
            return g, _relative(g.reshape(1, -1), fz.reshape(1, -1)).expand(len(g))
        return g, _relative(g, fz)

    def _stop_finished(self) -> None:
        """Stop the samples that have converged, and those whose residual is not finite."""
        self.active = self.active & (self.residual > self.tol)
        # It is g that must be finite: a relative residual is infinite where f(z) = 0, which is no
        # failure.
        self.fail(~_finite(self.g))


def _relative(g: Tensor, fz: Tensor) -> Tensor:
    smallest = torch.finfo(fz.dtype).tiny
    size = vector_norm(fz, dim=1)
    residual = vector_norm(g, dim=1) / size.clamp_min(smallest)
    # f(z) may be finite where its norm overflows: divided by that, any residual would be zero
    return torch.where(size.isinf(), size, residual)


def _finite(x: Tensor) -> Tensor:
    """Return which samples of x (batch, dim) are finite: (batch,).

    x - x is zero there and not a number elsewhere; `isfinite().all(1)` takes three times as long.
    """
    return (x - x).sum(1) == 0
