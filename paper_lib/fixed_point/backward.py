"""How an adjoint enters PyTorch's backward pass: a node of the graph that solves for u."""

from __future__ import annotations

import torch
from torch import Tensor

from paper_lib.fixed_point.protocols import Adjoint, Map, Result, check_value


def apply_with_adjoint(step: Map, z: Tensor, adjoint: Adjoint, results: list[Result]) -> Tensor:
    """Return f(z), whose backward pass first turns the incoming dl/dz* into the adjoint's u.

    step     f, which autograd differentiates with respect to whatever f uses.
    z        (batch, ...), the detached z*.
    results  the list that the backward pass leaves the adjoint's latest `Result` in, if it has one.
    """
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
        found = adjoint.solve(vjp, g)
        if not isinstance(found, tuple) or len(found) != 2:
            raise TypeError(f"adjoint {adjoint!r} must return (u, Result or None), not {found!r}")
        u, result = found
        check_value(f"adjoint {adjoint!r}", u, g)
        if result is not None:
            results[:] = [result]
        return u

    return _ReplaceGradient.apply(fz, solve)


class _ReplaceGradient(torch.autograd.Function):
    """The identity forward; backward, `solve` of the incoming gradient."""

    @staticmethod
    def forward(ctx, fz, solve):
        ctx.solve = solve
        return fz.view_as(fz)

    @staticmethod
    def backward(ctx, g):
        # With create_graph, u would pass for a constant, and a second derivative be silently wrong.
        if torch.is_grad_enabled():
            raise RuntimeError(
                "create_graph=True: an adjoint that solves for its gradient (such as Implicit(...) "
                "or Neumann(2)) has no second derivative; use Unrolled()"
            )
        return ctx.solve(g), None
