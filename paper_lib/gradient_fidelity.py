"""Gradients of slot attention by each estimator, and the exact implicit gradient by a dense solve, to compare them."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

import torch
from torch import Tensor

from paper_lib.fixed_point import Iteration, adjoints, jacobian
from paper_lib.models import SlotAttention


def cell_gradient(attention: SlotAttention, inputs: Tensor, slots: Tensor, cotangent: Tensor) -> Tensor:
    """Gradient of sum(cotangent * result) with respect to the cell's weights, as its own solver and adjoint give it: (parameters,).

    inputs (B, N, D), initial slots and cotangent (B, K, D).
    """
    attention.zero_grad()
    (attention(inputs, slots).value * cotangent).sum().backward()
    return _flat_grad(attention)


def one_added_line(attention: SlotAttention, inputs: Tensor, slots: Tensor, cotangent: Tensor) -> Tensor:
    """The same gradient by the paper's Fig. 2, written out: iterate without gradients, then the one line."""
    attention.zero_grad()
    cell = attention.cell(inputs)
    with torch.no_grad():
        for _ in range(attention.solver.max_steps):
            slots, _ = cell(slots)
    slots, _ = cell(slots.detach())
    (slots * cotangent).sum().backward()
    return _flat_grad(attention)


@dataclass(frozen=True)
class Exact:
    """gradient (parameters,); residual, spectral_radius and condition (of I - J): (B,), what says whether the gradient can be trusted."""

    gradient: Tensor
    residual: Tensor
    spectral_radius: Tensor
    condition: Tensor


def exact_implicit_gradient(attention: SlotAttention, inputs: Tensor, slots: Tensor, cotangent: Tensor, steps: int = 2_000, tol: float = 1e-12) -> Exact:
    """Eq. 1 at a z* that is iterated until it has converged: u = cotangent (I - J)^-1 by a dense solve, then u df/dw. Use float64."""
    cell = attention.cell(inputs)
    step = lambda z: cell(z)[0]  # noqa: E731
    with torch.no_grad():
        result = Iteration(steps, tol).solve(step, slots)
    J = jacobian(step, result.value)
    I_minus_J = torch.eye(J.shape[1], dtype=J.dtype) - J
    u = torch.linalg.solve(I_minus_J.transpose(1, 2), cotangent.flatten(1))
    attention.zero_grad()
    (step(result.value) * u.view_as(slots)).sum().backward()
    return Exact(_flat_grad(attention), result.residuals[-1], torch.linalg.eigvals(J).abs().amax(1), torch.linalg.cond(I_minus_J))


def cosine_and_norm_ratio(gradient: Tensor, reference: Tensor) -> tuple[float, float]:
    """Cosine of the angle between two gradients, and the ratio of their lengths."""
    return torch.cosine_similarity(gradient, reference, dim=0).item(), (gradient.norm() / reference.norm()).item()


def the_line() -> tuple[str, int]:
    """The one added line as it stands in `fixed_point/adjoints.py`, and its line number: read from the file, not typed."""
    source, _ = inspect.getsourcelines(adjoints)
    (number,) = [i for i, line in enumerate(source, 1) if "the one added line" in line and "=" in line.split("#")[0]]
    return source[number - 1].strip(), number


def _flat_grad(attention: SlotAttention) -> Tensor:
    return torch.cat([p.grad.flatten() for p in attention.parameters()]).clone()
