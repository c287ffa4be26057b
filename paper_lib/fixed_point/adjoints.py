"""Adjoints: how gradients pass through a fixed point, and `fixed_point`, which pairs a solver with one.

With z* = f_w(z*, x) and J = df/dz at z*, the implicit function theorem gives (Eq. 1 of the paper)

    dl/dw = dl/dz* (I - J)^-1 df_w(z*, x)/dw .

All but `Unrolled` apply f once to the detached z*. That one application carries the gradient df_w/dw; the adjoint only decides what row vector
u, standing for dl/dz* (I - J)^-1, is sent into it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from paper_lib.fixed_point.solvers import Iteration, Result


@dataclass(frozen=True)
class Unrolled:
    """Backpropagate through every iteration (vanilla slot attention): time and memory grow with the number of iterations."""

    def check(self, solver) -> None:
        if not isinstance(solver, Iteration):
            raise ValueError(
                f"Unrolled() differentiates through plain iteration, and {type(solver).__name__} is a black box: its steps are chosen by tests and "
                "linear solves that have no useful gradient. Use Iteration(n) with Unrolled(), or Neumann() or Implicit(...) with this solver."
            )


@dataclass(frozen=True)
class Neumann:
    """The first terms of (I - J)^-1 = sum_i J^i (Eq. 3).

    terms    1 is the i = 0 term alone: the gradient of one application of f at the detached z*. This is the paper's "first-order" implicit slot
             attention, its one added line (Fig. 2).
    damping  a in (0, 1]: the series of the damped map (1 - a) z + a f(z), which has the same fixed point: (I - J)^-1 = a sum_i ((1 - a) I + a J)^i.

    Source: the paper, Sec. 3 and 4.3; Geng et al., On Training Implicit Models (2021), for the damped series.
    """

    terms: int = 1
    damping: float = 1.0

    def __post_init__(self):
        if self.terms < 1 or not 0 < self.damping <= 1:
            raise ValueError(f"Neumann: needs terms >= 1 and 0 < damping <= 1, got {self}")

    def check(self, solver) -> None:
        pass

    def solve(self, vjp, g: Tensor) -> tuple[Tensor, Result | None]:
        """u = a sum_{i < terms} g ((1 - a) I + a J)^i, from vjp: u -> u J."""
        u = term = self.damping * g
        for _ in range(self.terms - 1):
            term = (1 - self.damping) * term + self.damping * vjp(term)
            u = u + term
        return u, None


@dataclass(frozen=True)
class Implicit:
    """Solve u = u J + dl/dz* (Eq. 2), itself a fixed point, with any solver, starting from zero as the authors' DEQ code does.

    How that solve went is in `solution.backward` after the backward pass.
    """

    solver: Any

    def __post_init__(self):
        _check_object("Implicit", self.solver, "solve")

    def check(self, solver) -> None:
        pass

    def solve(self, vjp, g: Tensor) -> tuple[Tensor, Result | None]:
        result = self.solver.solve(lambda u: vjp(u) + g, torch.zeros_like(g))
        return result.value, result


@dataclass
class Solution:
    """What `fixed_point` returns.

    value      (batch, ...) like z0; gradients flow as the adjoint says. `Unrolled`: the last iterate. `Neumann` and `Implicit`: f(z*).
    aux        with `has_aux`: what f returned beside its value, at its last application.
    residuals  (steps, batch), steps (batch,), converged (batch,), failed (batch,): see `solvers.Result`.
    backward   `Implicit` only, and only after the backward pass: the `Result` of the linear solve of Eq. 2.
    """

    value: Tensor
    aux: Any
    residuals: Tensor
    steps: Tensor
    converged: Tensor
    failed: Tensor
    # a box, not a reference to this object: value -> graph -> solution -> value would be a cycle that holds the graph's memory
    _backward: list = field(default_factory=list, repr=False)

    @property
    def backward(self) -> Result | None:
        return self._backward[-1] if self._backward else None


def check_pair(solver, adjoint) -> None:
    """ValueError, with the reason, if this solver and this adjoint make no sense together."""
    for name, part, method in (("solver", solver, "solve"), ("adjoint", adjoint, "check")):
        _check_object(name, part, method)
    adjoint.check(solver)


def _check_object(name: str, part, method: str) -> None:
    if isinstance(part, type) or not hasattr(part, method):
        raise TypeError(
            f"{name}: expected an object such as Iteration(7) or Neumann(), got {part!r}"
        )


def fixed_point(f, z0: Tensor, *, solver, adjoint, has_aux: bool = False) -> Solution:
    """Find z* = f(z*) from z0, differentiable with respect to everything that f uses.

    f         (batch, ...) -> (batch, ...), each sample by itself; with `has_aux` it returns (z, aux).
    z0        (batch, ...) the initial guess, any float dtype. Only `Unrolled` sends gradients into it.
    solver    `Iteration`, `Broyden`, `Anderson`, or any object with their `solve`.
    adjoint   `Unrolled`, `Neumann` or `Implicit`.

    Raises ValueError for a pair that makes no sense. A search that fails is reported in the solution, never raised.
    """
    check_pair(solver, adjoint)
    aux = None

    def step(z: Tensor) -> Tensor:
        nonlocal aux
        out = f(z)
        if has_aux:
            out, aux = out
        return out.to(z.dtype)  # under autocast f may answer in half precision

    if isinstance(adjoint, Unrolled):
        result = solver.solve(step, z0)
        return Solution(
            result.value, aux, result.residuals, result.steps, result.converged, result.failed
        )

    with torch.no_grad():
        result = solver.solve(step, z0)
    box: list[Result] = []
    if isinstance(adjoint, Neumann) and adjoint == Neumann():
        value = step(
            result.value.detach()
        )  # the one added line (Fig. 2): differentiate through one application at the detached fixed point
    else:
        value = _value_with_adjoint(step, result.value.detach(), adjoint, box)
    return Solution(
        value, aux, result.residuals, result.steps, result.converged, result.failed, box
    )


def _value_with_adjoint(step, z: Tensor, adjoint, box: list) -> Tensor:
    """f(z), whose backward pass first turns the incoming dl/dz* into the adjoint's u."""
    if not torch.is_grad_enabled():
        return step(z)
    z = z.requires_grad_()
    fz = step(z)
    if not fz.requires_grad:
        return fz

    def vjp(u: Tensor) -> Tensor:
        (uJ,) = torch.autograd.grad(fz, z, u, retain_graph=True, allow_unused=True)
        return torch.zeros_like(u) if uJ is None else uJ

    def solve(g: Tensor) -> Tensor:
        u, result = adjoint.solve(vjp, g)
        if result is not None:
            box[:] = [result]
        return u

    return _SendBack.apply(fz, solve)


class _SendBack(torch.autograd.Function):
    """The identity forward; backward, `solve` of the incoming gradient."""

    @staticmethod
    def forward(ctx, fz, solve):
        ctx.solve = solve
        return fz.view_as(fz)

    @staticmethod
    def backward(ctx, g):
        if (
            torch.is_grad_enabled()
        ):  # create_graph: u would pass for a constant, and a second derivative be silently wrong
            raise RuntimeError(
                "create_graph=True: Implicit and Neumann (beyond its plain first term) have no second derivatives; use Unrolled()"
            )
        return ctx.solve(g), None
