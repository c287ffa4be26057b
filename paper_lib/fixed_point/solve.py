"""`fixed_point`: a solver finds the fixed point, an adjoint differentiates it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from paper_lib.fixed_point.adjoints import Neumann
from paper_lib.fixed_point.backward import apply_with_adjoint
from paper_lib.fixed_point.protocols import (
    Adjoint,
    Map,
    Result,
    Solver,
    Step,
    Unrolling,
    check_object,
    check_value,
)


@dataclass
class Solution:
    """What `fixed_point` returns.

    value      (batch, ...) like z0; gradients flow as the adjoint says. It is the last iterate with
               `Unrolled`, `Checkpointed` and `Truncated`, the last of its own steps with `Phantom`,
               and f(z*), one more application, with the others.
    aux        with `has_aux`: what f returned beside its value, at its last application.
    residuals  (steps, batch), steps (batch,), converged (batch,), failed (batch,): see `Result`.
    """

    value: Tensor
    aux: Any
    residuals: Tensor
    steps: Tensor
    converged: Tensor
    failed: Tensor
    # The backward pass fills this list. It can't refer to the solution itself: value -> graph ->
    # solution -> value would be a cycle that holds the graph's memory.
    _backward: list[Result] = field(default_factory=list, repr=False)

    @property
    def backward(self) -> Result | None:
        """The `Result` of the adjoint's own solve (`Implicit`), once the backward pass has run."""
        return self._backward[-1] if self._backward else None


def fixed_point(
    f: Callable,
    z0: Tensor,
    *,
    solver: Solver,
    adjoint: Adjoint | Unrolling,
    has_aux: bool = False,
) -> Solution:
    """Find z* = f(z*) from z0, differentiable with respect to everything that f uses.

    f         (batch, ...) -> (batch, ...), each sample by itself.
    z0        (batch, ...), the initial guess, of any float dtype. `Unrolled`, `Checkpointed` and
              `StraightThrough` send gradients into it.
    solver    `Iteration`, `Broyden`, `Anderson`, or any other `Solver`.
    adjoint   `Unrolled`, `Neumann`, `Implicit`, the others of `adjoints.py`, or any other `Adjoint`
              or `Unrolling`.
    has_aux   f returns (z, aux): something beside its value, such as attention masks.

    A ValueError is raised for a pair that makes no sense, for an f that changes its argument in
    place, and for a value that is not of z0's shape, which would be broadcast; a TypeError for what
    is no solver, no adjoint or no tensor of floats. A search that fails is reported in the
    solution, never raised.
    """
    check_pair(solver, adjoint)
    _check_guess(z0)
    backward_results: list[Result] = []

    def apply(z: Tensor) -> tuple[Tensor, Any]:
        before = _version(z)
        out, aux = f(z) if has_aux else (f(z), None)
        check_value("f", out, z)
        if _version(z) != before:
            raise ValueError("f changes its argument in place: it would have a residual of zero")
        return out.to(z.dtype), aux  # under autocast f may answer in half precision

    step = Step(apply)
    if isinstance(adjoint, Unrolling):
        result = adjoint.unroll(step, solver, z0)
        value = result.value
    else:
        with torch.no_grad():
            result = solver.solve(step, z0)
        _check_result(solver, result, z0)
        if adjoint == Neumann(terms=1):
            value = one_step_gradient(step, result)
        else:
            value = apply_with_adjoint(step, result.value.detach(), adjoint, backward_results)
    return Solution(
        value=value,
        aux=step.aux,
        residuals=result.residuals,
        steps=result.steps,
        converged=result.converged,
        failed=result.failed,
        _backward=backward_results,
    )


def _check_guess(z0: Tensor) -> None:
    if not isinstance(z0, Tensor) or not z0.is_floating_point():
        given = z0.dtype if isinstance(z0, Tensor) else type(z0).__name__
        raise TypeError(f"z0 must be a tensor of floats, (batch, ...), not {given}")
    if z0.ndim == 0:
        raise ValueError("z0 must be (batch, ...), not a single number: z0[None] is a batch of one")


def _check_result(solver: Solver, result: Result, z0: Tensor) -> None:
    if not isinstance(result, Result):
        raise TypeError(f"solver {solver!r} returned a {type(result).__name__}, not a Result")
    check_value(f"solver {solver!r}", result.value, z0)


def _version(z: Tensor) -> int:
    """Return how often a tensor was changed in place, where that is counted."""
    return 0 if torch.compiler.is_compiling() or z.is_inference() else z._version


def one_step_gradient(step: Map, result: Result) -> Tensor:
    """The paper's one added line (Fig. 2): apply f once more, to the detached fixed point.

    Its gradient is that of this one application, dl/dz* df/dw: `Neumann(terms=1)`.
    """
    value = step(result.value.detach())
    return value


def check_pair(solver: Solver, adjoint: Adjoint | Unrolling) -> None:
    """Raise an error, with the reason, if this solver and this adjoint make no sense together.

    ValueError for a pair that can't work, TypeError for what is no solver or no adjoint.
    """
    check_object("solver", solver, Solver)
    check_object("adjoint", adjoint, Unrolling if isinstance(adjoint, Unrolling) else Adjoint)
    adjoint.check(solver)
