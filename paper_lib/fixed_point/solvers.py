"""Solvers: how a fixed point z = f(z) is found.

A solver is a small frozen object with one method, `solve(f, z0) -> Result`. Every sample of the batch is a problem of its own: it has its own
convergence, its own history, and stops by itself. `f` must therefore act on the samples independently (slot attention does), and is always
evaluated on the whole batch. Solvers know nothing of gradients: see `adjoints.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.linalg import vector_norm

Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Result:
    """What a solver found, and how the search went.

    value      (batch, ...): the iterate that the solver ends with (`Iteration`: the last; the others: the best seen).
    residuals  (steps, batch): relative residual ||f(z) - z|| / ||f(z)|| seen at each step, a row a step: by `Iteration` at the iterate that
               the step starts from (its f(z) is the step), by `Broyden` and `Anderson` at the one that it reaches (as DEQ's traces). A sample
               that has stopped repeats its last. If no sample took a step, there is one row: the residual at z0.
    steps      (batch,) int64: updates of z until the sample stopped.
    converged  (batch,) bool: the relative residual reached `tol`.
    failed     (batch,) bool: a singular system, or a step or residual that is not finite, stopped the sample.
    """

    value: Tensor
    residuals: Tensor
    steps: Tensor
    converged: Tensor
    failed: Tensor


def _flat(z: Tensor) -> Tensor:
    """(batch, ...) -> (batch, dim), in float32 at least: half precision is too coarse for norms and inner products."""
    z = z.detach()
    z = z.flatten(1) if z.dim() > 1 else z[:, None]
    return z.float() if z.dtype in (torch.float16, torch.bfloat16) else z


def relative_residual(z: Tensor, fz: Tensor) -> Tensor:
    """||f(z) - z|| / ||f(z)|| per sample: (batch, ...), (batch, ...) -> (batch,). Zero where both vanish."""
    z, fz = _flat(z), _flat(fz)
    return _relative(fz - z, fz)


def _relative(g: Tensor, fz: Tensor) -> Tensor:
    return vector_norm(g, dim=1) / vector_norm(fz, dim=1).clamp_min(torch.finfo(fz.dtype).tiny)


def _finite(x: Tensor) -> Tensor:
    """Which samples of x (batch, dim) are finite: (batch,). x - x is zero there and not a number elsewhere; `isfinite().all(1)` takes three times as long."""
    return (x - x).sum(1) == 0


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products over the last axis. Not a matrix product: autocast would round that to half precision."""
    return (a * b).sum(-1)


def _positive(solver) -> None:
    if solver.max_steps < 1:
        raise ValueError(
            f"{type(solver).__name__}: max_steps must be at least 1, got {solver.max_steps}"
        )
    if not solver.tol >= 0:
        raise ValueError(f"{type(solver).__name__}: tol must be zero or more, got {solver.tol}")


@dataclass(frozen=True)
class Iteration:
    """Plain iteration z_{k+1} = f(z_k), the paper's forward computation.

    max_steps  applications of f.
    tol        a sample stops once its relative residual is at most `tol`; 0 always takes `max_steps` (and never waits for the device).
    """

    max_steps: int
    tol: float = 0.0

    __post_init__ = _positive

    def solve(self, f: Map, z0: Tensor) -> Result:
        """z0 (batch, ...). The iterates carry gradients if gradients are enabled: `Unrolled` differentiates through this loop."""
        z, residuals = z0, []
        active = torch.ones(len(z0), dtype=torch.bool, device=z0.device)
        steps = torch.zeros(len(z0), dtype=torch.int64, device=z0.device)
        for _ in range(self.max_steps):
            fz = f(z)
            residual = relative_residual(z, fz)
            if self.tol > 0:
                z = torch.where(_like(active, z), fz, z)
                residuals.append(
                    torch.where(active, residual, residuals[-1]) if residuals else residual
                )
                steps = steps + active
                active = active & ~(residual <= self.tol) & ~residual.isnan()
                if not active.any():
                    break
            else:
                z, steps = fz, steps + 1
                residuals.append(residual)
        residuals = torch.stack(residuals)
        return Result(z, residuals, steps, residuals[-1] <= self.tol, ~_flat(z).isfinite().all(1))


@dataclass(frozen=True)
class Broyden:
    """Broyden's good method on g(z) = f(z) - z, as the authors' DEQ code has it: no line search, inverse Jacobian started at -I.

    The inverse Jacobian is -I + sum_i u_i v_i^T, one rank-one term a step and a history for each sample. The best iterate is kept.

    max_steps  updates of z; f is evaluated max_steps + 1 times. The history takes 2 * max_steps * dim numbers a sample, from the start.
    tol        relative residual at which a sample stops.

    Source: Broyden (1965); Bai et al., Deep Equilibrium Models (2019); Table 2 of the paper (B).
    """

    max_steps: int
    tol: float = 1e-6

    __post_init__ = _positive

    def solve(self, f: Map, z0: Tensor) -> Result:
        """z0 (batch, ...)."""
        search = _Search(f, z0, self.tol)
        step = g = search.g
        us = g.new_empty(self.max_steps - 1, *g.shape)  # the last step needs no update
        vs = torch.empty_like(us)

        def inverse_jacobian(left: Tensor, right: Tensor, x: Tensor) -> Tensor:
            return (left * _dot(right, x)[..., None]).sum(0) - x

        for k in range(self.max_steps):
            if not search.take(step) or k + 1 == self.max_steps:
                break
            delta_g, g = search.g - g, search.g
            v = inverse_jacobian(vs[:k], us[:k], step)  # v^T = step^T B
            Bg = inverse_jacobian(us[:k], vs[:k], g)
            # (step - B delta_g) / (v . delta_g), where B delta_g = B g + step: the step was -B times the g before.
            # v . delta_g = 0, a singular system, makes u and so the next step not finite: the sample fails there.
            u = -Bg / _dot(v, delta_g)[:, None]
            us[k], vs[k] = u, v
            step = -Bg - u * _dot(v, g)[:, None]  # by the updated B
        return search.result()


@dataclass(frozen=True)
class Anderson:
    """Anderson acceleration: the next iterate mixes the last `history` values of f with weights that minimise the mixed residual.

    max_steps  updates of z; f is evaluated max_steps + 1 times.
    tol        relative residual at which a sample stops.
    history    how many iterates are mixed.
    ridge      Tikhonov term of the least-squares problem, relative to the size of its matrix.
    mixing     1 takes the mixed values of f, 0 the mixed iterates.

    Source: Anderson (1965); Walker and Ni (2011). Not in the paper: our addition.
    """

    max_steps: int
    tol: float = 1e-6
    history: int = 5
    ridge: float = 1e-8
    mixing: float = 1.0

    def __post_init__(self):
        _positive(self)
        if self.history < 1 or not self.ridge >= 0 or not 0 < self.mixing <= 1:
            raise ValueError(
                f"Anderson: needs history >= 1, ridge >= 0 and 0 < mixing <= 1, got {self}"
            )

    def solve(self, f: Map, z0: Tensor) -> Result:
        """z0 (batch, ...)."""
        search = _Search(f, z0, self.tol)
        batch, dim = search.z.shape
        # the last m iterates take turns: the newest replaces the oldest, and only its row and column of the Gram matrix are new
        gs = search.g.new_empty(batch, self.history, dim)
        points = torch.empty_like(gs)  # z + mixing * g
        gram = search.g.new_empty(batch, self.history, self.history)
        for k in range(self.max_steps):
            m, new = min(k + 1, self.history), k % self.history
            gs[:, new], points[:, new] = search.g, search.z + self.mixing * search.g
            gram[:, new, :m] = gram[:, :m, new] = _dot(gs[:, :m], search.g[:, None])
            # weights: minimise |sum_i w_i g_i|^2 with sum_i w_i = 1, through the scaled normal equations (rows of one sample may be parallel)
            size = (
                gram[:, :m, :m]
                .diagonal(dim1=1, dim2=2)
                .mean(1)
                .clamp_min(torch.finfo(gram.dtype).tiny)
            )
            scaled = gram[:, :m, :m] / size[:, None, None]
            scaled.diagonal(dim1=1, dim2=2).add_(self.ridge)
            weights, info = torch.linalg.solve_ex(scaled, torch.ones_like(scaled[:, :, :1]))
            weights = weights / weights.sum(1, keepdim=True)
            search.active = (
                search.active & (info == 0)
            )  # a singular system; weights that are not finite make such a step, which `take` refuses
            if not search.take((weights * points[:, :m]).sum(1) - search.z):
                break
        return search.result()


class _Search:
    """The state that Broyden and Anderson share: the iterates, each sample's best, and who is still searching."""

    def __init__(self, f: Map, z0: Tensor, tol: float):
        self.f, self.like, self.tol = f, z0, tol
        self.z = _flat(z0)  # (batch, dim)
        self.g, self.residual = self._evaluate(self.z)
        self.best, self.lowest = self.z, self.residual
        self.residuals = []
        self.steps = torch.zeros(len(z0), dtype=torch.int64, device=z0.device)
        self.active = self._unfinished()

    def _evaluate(self, z: Tensor) -> tuple[Tensor, Tensor]:
        fz = _flat(self.f(z.to(self.like.dtype).view_as(self.like)))
        g = fz - z
        return g, _relative(g, fz)

    def _unfinished(self) -> Tensor:
        """Where the search may go on: neither converged nor not finite. An infinite residual alone is no failure: f(z) = 0 has one."""
        return (self.residual > self.tol) & _finite(self.g)

    def take(self, step: Tensor) -> bool:
        """Move the active samples by `step` (batch, dim) and look at f there. False once nobody searches any more."""
        self.active = self.active & _finite(step)
        if not self.active.any():
            return False
        self.z = torch.where(self.active[:, None], self.z + step, self.z)
        self.g, residual = self._evaluate(self.z)
        self.steps = self.steps + self.active
        self.residual = torch.where(self.active, residual, self.residual)
        self.residuals.append(self.residual)
        better = self.residual < self.lowest
        self.best = torch.where(better[:, None], self.z, self.best)
        self.lowest = torch.where(better, self.residual, self.lowest)
        self.active = self.active & self._unfinished()
        return True

    def result(self) -> Result:
        value = self.best.to(self.like.dtype).view_as(self.like)
        converged = self.lowest <= self.tol
        failed = ~(self.active | converged)  # a search stops for no other reason
        return Result(
            value, torch.stack(self.residuals or [self.residual]), self.steps, converged, failed
        )


def _like(mask: Tensor, z: Tensor) -> Tensor:
    return mask.view(-1, *[1] * (z.dim() - 1))
