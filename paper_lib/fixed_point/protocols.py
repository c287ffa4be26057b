"""The interface: what a solver and an adjoint are. Any object with these methods will do.

A solver finds a fixed point z* = f(z*) and knows nothing of gradients. An adjoint turns the
gradient with respect to z* into the one that is sent into f, and knows nothing of how z* was found;
or it is an `Unrolling`, and lets backpropagation do that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

Map = Callable[[Tensor], Tensor]
"""A function (batch, ...) -> (batch, ...) that treats every sample of the batch by itself."""


@dataclass(frozen=True)
class Result:
    """What a solver found, and how the search went.

    value      (batch, ...), like the initial guess: the iterate that the solver ends with
               (`Iteration` and `GMRES`: the last; `Broyden` and `Anderson`: the best seen).
    residuals  (steps, batch): the relative residual ||f(z) - z|| / ||f(z)|| seen at each step.
               `Iteration` takes it at the iterate that the step starts from (its f(z) is the step),
               the others at the iterate that the step reaches (as DEQ's traces).
               A sample that has stopped repeats its last. If no sample took a step, there is one
               row: the residual at the initial guess.
    steps      (batch,) int64: updates of z until the sample stopped.
    converged  (batch,) bool: the relative residual reached the solver's tolerance.
    failed     (batch,) bool: a singular system, or a step or residual that is not finite, stopped
               the sample.
    """

    value: Tensor
    residuals: Tensor
    steps: Tensor
    converged: Tensor
    failed: Tensor


@runtime_checkable
class Solver(Protocol):
    """Finds a fixed point of a map.

    The library's solvers are frozen dataclasses with a field `max_steps`, so that
    `dataclasses.replace` makes the same solver with another number of steps. `search.py` holds what
    a new solver can reuse, and shows a complete one.
    """

    def solve(self, f: Map, z0: Tensor) -> Result:
        """Search for z = f(z) from z0 (batch, ...), of any float dtype.

        - f takes and returns tensors of z0's shape and dtype. Evaluate it on the whole batch.
        - `Result.value` has z0's shape, dtype and device. z0 itself stays unchanged.
        - Report a search that fails in `Result.failed`, and never raise.
        - `fixed_point` calls this without gradients (except to unroll an `Iteration`), so that the
          steps need not be differentiable.
        - `Implicit` calls this too, with the affine map u -> u J + g in place of f. A solver that
          differentiates f can't be used there, as that map is itself made of derivatives.
        """
        ...


@runtime_checkable
class Adjoint(Protocol):
    """Turns dl/dz* into the row vector u that f's own gradient df/dw is multiplied with.

    With J = df/dz at z*, the implicit function theorem asks for u = dl/dz* (I - J)^-1 (Eq. 1 of the
    paper); an adjoint is a way to compute or to approximate it. A complete one is Jacobian-free
    backpropagation (Fung et al. 2022), which takes (I - J)^-1 for the identity:

    >>> import torch
    >>> from paper_lib.fixed_point import Iteration, fixed_point
    >>> class JacobianFree:
    ...     def check(self, solver):
    ...         pass
    ...
    ...     def solve(self, vjp, g):
    ...         return g, None
    >>> w = torch.tensor(0.5, requires_grad=True)
    >>> solution = fixed_point(
    ...     lambda z: w * z + 1, torch.zeros(1, 1), solver=Iteration(50), adjoint=JacobianFree()
    ... )
    >>> solution.value.backward()  # z* = 1 / (1 - w) = 2, and df/dw = z*
    >>> w.grad
    tensor(2.)
    """

    def check(self, solver: Solver) -> None:
        """Raise a ValueError, with the reason, if this adjoint makes no sense with this solver."""
        ...

    def solve(self, vjp: Map, g: Tensor) -> tuple[Tensor, Result | None]:
        """Return u, and the `Result` of the solve if there was one (else None).

        This is called in the backward pass, without gradients.

        vjp   u -> u J, the vector-Jacobian product at z*, (batch, ...) -> (batch, ...); it may be
              called any number of times.
        g     (batch, ...), the incoming gradient dl/dz*.
        """
        ...


class Step:
    """f as a map z -> z, which remembers what f returned beside z at its last application.

    apply   z (batch, ...) -> (f(z), whatever else), which remembers nothing
    aux     what was returned beside z
    """

    def __init__(self, apply: Callable[[Tensor], tuple[Tensor, Any]]):
        self.apply = apply
        self.aux = None

    def __call__(self, z: Tensor) -> Tensor:
        z, self.aux = self.apply(z)
        return z


@runtime_checkable
class Unrolling(Protocol):
    """An adjoint that runs f with gradients itself; backpropagation does the rest."""

    def check(self, solver: Solver) -> None:
        """Raise a ValueError, with the reason, if this adjoint makes no sense with this solver."""
        ...

    def unroll(self, step: Step, solver: Solver, z0: Tensor) -> Result:
        """Search for z = step(z) from z0 (batch, ...), and return a value that carries gradients.

        Gradients are enabled where the caller has them enabled, and the value is the same without.
        """
        ...


@runtime_checkable
class LinearSolver(Protocol):
    """Solves the linear equation of the implicit gradient: an alternative to a `Solver` there."""

    def solve_linear(self, product: Map, g: Tensor) -> Result:
        """Solve u = uJ + g, g (batch, ...), where product is u -> uJ, sample by sample.

        `Result` is as a `Solver`'s. This is called in the backward pass, without gradients.
        """
        ...


def check_object(name: str, part: object, protocol: type) -> None:
    """Raise a TypeError if `part` is not an object with the methods of `protocol`."""
    if isinstance(part, type) or not isinstance(part, protocol):
        raise TypeError(
            f"{name}: expected an object such as Iteration(7) or Neumann(), with the methods of "
            f"{protocol.__name__}, got {part!r}"
        )


def check_value(name: str, value: object, like: Tensor) -> None:
    """Raise an error that names who returned `value`, if it is no tensor of `like`'s shape.

    TypeError for what is no tensor, ValueError for another shape.
    """
    if not isinstance(value, Tensor):
        hint = ": with has_aux=True it may return (z, aux)" if isinstance(value, tuple) else ""
        raise TypeError(f"{name} returned a {type(value).__name__}, not a tensor{hint}")
    if value.shape != like.shape:
        expected = tuple(like.shape)
        raise ValueError(f"{name} returned a value of shape {tuple(value.shape)}, not {expected}")
