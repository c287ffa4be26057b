"""Adjoints: how gradients pass through a fixed point.

With z* = f_w(z*, x) and J = df/dz at z*, the implicit function theorem gives (Eq. 1 of the paper)

    dl/dw = dl/dz* (I - J)^-1 df_w(z*, x)/dw .

Some adjoints approximate (I - J)^-1: f is applied once to the detached z*, that application carries
the gradient df_w/dw, and the adjoint decides what row vector u, standing for dl/dz* (I - J)^-1, is
sent into it. The others run f with gradients and leave the rest to backpropagation. n is the number
of iterations, k that of the adjoint; memory is what the forward pass keeps, in applications of f
(`Checkpointed` keeps the iterates beside one).

    adjoint            u, or what is backpropagated through        memory     source
    Neumann(k, a)      a sum_{i < k} g ((1 - a) I + a J)^i         1          Chang et al. 2022
    Implicit(solver)   u = u J + g, to a tolerance                 1          Bai et al. 2019
    Unrolled()         all n iterations                            n          Locatello et al. 2020
    Checkpointed()     the same, each computed twice               1 + z_i    Chen et al. 2016
    Truncated(k)       the last k of the n iterations              k          Williams, Peng 1990
    Phantom(k, a)      k damped iterations more, from z*           k          Geng et al. 2021
    StraightThrough()  one more from z*, as if it were from z0     1          Jia et al. 2023

Three names of one gradient: `Neumann(1)` after n iterations is Jacobian-free backpropagation (Fung
et al. 2022), is `Truncated(1)` of n + 1 iterations, and is what is left of n + 1 iterations when
the iterate is detached at every step, because then no gradient passes from the last application to
the ones before.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from paper_lib.fixed_point.iteration import Iteration
from paper_lib.fixed_point.protocols import LinearSolver, Map, Result, Solver, Step, check_object


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
    """The solution of u = u J + dl/dz* (Eq. 2), by any solver of fixed points or of linear systems.

    solver   has a tolerance and a number of steps of its own. `Iteration`, `Broyden` or `Anderson`
             search for the fixed point u; `GMRES` solves u (I - J) = dl/dz*, which is linear.

    The search starts from zero, as in the authors' DEQ code. How it went is in `solution.backward`
    after the backward pass.
    """

    solver: Solver | LinearSolver

    def __post_init__(self):
        linear = isinstance(self.solver, LinearSolver)
        check_object("Implicit", self.solver, LinearSolver if linear else Solver)

    def check(self, solver: Solver) -> None:
        """Any solver will do."""

    def solve(self, vjp: Map, g: Tensor) -> tuple[Tensor, Result]:
        """Return the u that the solver finds, and how its search went."""
        if isinstance(self.solver, LinearSolver):
            result = self.solver.solve_linear(vjp, g)
        else:
            result = self.solver.solve(lambda u: vjp(u) + g, torch.zeros_like(g))
        return result.value, result


@dataclass(frozen=True)
class Unrolled:
    """Backpropagation through every iteration (vanilla slot attention).

    Time and memory grow with the number of iterations.
    """

    def check(self, solver: Solver) -> None:
        _must_be_iteration(self, solver)

    def unroll(self, step: Step, solver: Solver, z0: Tensor) -> Result:
        """Iterate from z0; the iteration itself carries the gradient."""
        return solver.solve(step, z0)


@dataclass(frozen=True)
class Checkpointed:
    """The gradient of `Unrolled`, with what an iteration computes thrown away and computed again.

    The forward pass keeps the iterates z_k alone, and the backward pass applies f a second time to
    each. It is the memory that an implicit gradient has to be compared with.

    Source: Chen et al., Training Deep Nets with Sublinear Memory Cost (2016);
    torch.utils.checkpoint.
    """

    def check(self, solver: Solver) -> None:
        _must_be_iteration(self, solver)

    def unroll(self, step: Step, solver: Solver, z0: Tensor) -> Result:
        """Iterate from z0, with every application of f checkpointed."""
        step.apply = partial(checkpoint, step.apply, use_reentrant=False)
        return solver.solve(step, z0)


@dataclass(frozen=True)
class Truncated:
    """Backpropagation through the last k iterations, at the iterates as they are.

    k   how many; n or more is `Unrolled`. One is the gradient of the paper's one added line, with
        the last of the n iterations in its place.

    Nothing is solved for, and the iteration need not have converged. Where it has, the gradient is
    that of `Neumann(k)`.

    Source: Williams and Peng (1990), truncated backpropagation through time; Shaban et al.,
    Truncated Back-propagation for Bilevel Optimization (2019).
    """

    k: int = 1

    def __post_init__(self):
        if self.k < 1:
            raise ValueError(f"Truncated: k must be at least 1, got {self.k}")

    def check(self, solver: Solver) -> None:
        _must_be_iteration(self, solver)
        if solver.tol > 0:
            raise ValueError(
                f"Truncated({self.k}) counts from the last iteration, and with a tolerance a "
                "sample may stop before: use Iteration(n) without one."
            )

    def unroll(self, step: Step, solver: Solver, z0: Tensor) -> Result:
        """Iterate from z0; the last k applications carry gradients."""
        without = solver.max_steps - self.k
        applied = 0

        def truncated(z: Tensor) -> Tensor:
            nonlocal applied
            applied += 1
            with torch.set_grad_enabled(torch.is_grad_enabled() and applied > without):
                return step(z)

        return solver.solve(truncated, z0)


@dataclass(frozen=True)
class Phantom:
    """The phantom gradient, unrolled: backpropagation through damped iterations from z*.

    steps    how many: z <- (1 - a) z + a f(z), from the detached z*. The value is the last of them.
    damping  a in (0, 1].

    At a fixed point it is the gradient of `Neumann(steps, damping)`, the same authors' other form.
    Elsewhere J is taken at each of the iterates, and the value moves on.

    Source: Geng et al., On Training Implicit Models (2021), unrolling-based phantom gradient.
    """

    steps: int = 5
    damping: float = 0.5

    def __post_init__(self):
        if self.steps < 1 or not 0 < self.damping <= 1:
            raise ValueError(f"Phantom: needs steps >= 1 and 0 < damping <= 1, got {self}")

    def check(self, solver: Solver) -> None:
        """Any solver will do."""

    def unroll(self, step: Step, solver: Solver, z0: Tensor) -> Result:
        """Search without gradients, then iterate from what was found, with them."""
        with torch.no_grad():
            result = solver.solve(step, z0)
        z = result.value.detach()
        for _ in range(self.steps):
            z = (1 - self.damping) * z + self.damping * step(z)
        return replace(result, value=z)


@dataclass(frozen=True)
class StraightThrough:
    """The one-step gradient, which is also sent to the initial guess, as if z* were z0.

    The gradient with respect to whatever f uses is that of `Neumann(1)`; that with respect to z0 is
    dl/dz* J. So an initial guess can be learned. (A fixed point does not depend on where the search
    began: the exact gradient is zero.)

    Source: Jia et al., Improving Object-centric Learning with Query Optimization (2023), BO-QSA.
    Their code detaches before the last of n iterations, which is n - 1 iterations here.
    """

    def check(self, solver: Solver) -> None:
        """Any solver will do."""

    def unroll(self, step: Step, solver: Solver, z0: Tensor) -> Result:
        """Search without gradients, then apply f to the z found, whose gradient goes to z0."""
        with torch.no_grad():
            result = solver.solve(step, z0)
        z = result.value.detach() + (z0 - z0.detach())
        return replace(result, value=step(z))


def _must_be_iteration(adjoint, solver: Solver) -> None:
    if not isinstance(solver, Iteration):
        name = type(adjoint).__name__
        raise ValueError(
            f"{name}() differentiates through plain iteration, and {type(solver).__name__} "
            "is a black box: its steps are chosen by tests and linear solves that have no "
            f"useful gradient. Use Iteration(n) with {name}(), or Neumann() or Implicit(...) "
            "with this solver."
        )
