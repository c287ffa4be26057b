"""Adjoints: how gradients pass through a fixed point.

With z* = f_w(z*, x) and J = df/dz at z*, the implicit function theorem gives (Eq. 1 of the paper)

    dl/dw = dl/dz* (I - J)^-1 df_w(z*, x)/dw .

`Unrolled` does without the theorem. The others apply f once to the detached z*: that application
carries the gradient df_w/dw, and the adjoint decides what row vector u, standing for
dl/dz* (I - J)^-1, is sent into it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from paper_lib.fixed_point.iteration import Iteration
from paper_lib.fixed_point.protocols import Map, Result, Solver, check_object


@dataclass(frozen=True)
class Unrolled:
    """Backpropagation through every iteration (vanilla slot attention).

    Time and memory grow with the number of iterations. There is nothing to solve: `fixed_point`
    lets the iteration itself carry the gradient.
    """

    def check(self, solver: Solver) -> None:
        if not isinstance(solver, Iteration):
            raise ValueError(
                f"Unrolled() differentiates through plain iteration, and {type(solver).__name__} "
                "is a black box: its steps are chosen by tests and linear solves that have no "
                "useful gradient. Use Iteration(n) with Unrolled(), or Neumann() or Implicit(...) "
                "with this solver."
            )


@dataclass(frozen=True)
class Neumann:
    """The first terms of (I - J)^-1 = sum_i J^i (Eq. 3).

    terms    1 is the i = 0 term alone: the gradient of one application of f at the detached z*.
             This is the paper's "first-order" implicit slot attention, its one added line (Fig. 2).
    damping  a in (0, 1]: the series of the damped map (1 - a) z + a f(z), which has the same fixed
             point: (I - J)^-1 = a sum_i ((1 - a) I + a J)^i.

    Source: the paper, Sec. 3 and 4.3; Geng et al., On Training Implicit Models (2021), for the
    damped series.
    """

    terms: int = 1
    damping: float = 1.0

    def __post_init__(self):
        if self.terms < 1 or not 0 < self.damping <= 1:
            raise ValueError(f"Neumann: needs terms >= 1 and 0 < damping <= 1, got {self}")

    def check(self, solver: Solver) -> None:
        """Any solver will do."""

    def solve(self, vjp: Map, g: Tensor) -> tuple[Tensor, None]:
        """Return u = a sum_{i < terms} g ((1 - a) I + a J)^i."""
        u = term = self.damping * g
        for _ in range(self.terms - 1):
            term = (1 - self.damping) * term + self.damping * vjp(term)
            u = u + term
        return u, None


@dataclass(frozen=True)
class Implicit:
    """The solution of u = u J + dl/dz* (Eq. 2), itself a fixed point, by any solver.

    The search starts from zero, as in the authors' DEQ code. How it went is in `solution.backward`
    after the backward pass.
    """

    solver: Solver

    def __post_init__(self):
        check_object("Implicit", self.solver, Solver)

    def check(self, solver: Solver) -> None:
        """Any solver will do."""

    def solve(self, vjp: Map, g: Tensor) -> tuple[Tensor, Result]:
        """Return the u that the solver finds, and how its search went."""
        result = self.solver.solve(lambda u: vjp(u) + g, torch.zeros_like(g))
        return result.value, result
