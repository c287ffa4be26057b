"""Gradients of slot attention by each estimator, and the exact implicit gradient by a dense solve, to compare them."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from paper_lib.fixed_point import Iteration, Neumann, adjoints, jacobian
from paper_lib.models import SlotAttention, variant
from paper_lib.runs import RunResult

CONVERGED = 1e-8  # relative residual at which z* counts as a fixed point


def cell_gradient(
    attention: SlotAttention, inputs: Tensor, slots: Tensor, cotangent: Tensor
) -> Tensor:
    """Gradient of sum(cotangent * result) with respect to the cell's weights, as its own solver and adjoint give it: (parameters,).

    inputs (B, N, D), initial slots and cotangent (B, K, D).
    """
    attention.zero_grad()
    (attention(inputs, slots).value * cotangent).sum().backward()
    return _flat_grad(attention)


def one_added_line(
    attention: SlotAttention, inputs: Tensor, slots: Tensor, cotangent: Tensor
) -> Tensor:
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


def exact_implicit_gradient(
    attention: SlotAttention,
    inputs: Tensor,
    slots: Tensor,
    cotangent: Tensor,
    steps: int = 2_000,
    tol: float = 1e-12,
) -> Exact:
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
    return Exact(
        _flat_grad(attention),
        result.residuals[-1],
        torch.linalg.eigvals(J).abs().amax(1),
        torch.linalg.cond(I_minus_J),
    )


def residuals(run: RunResult, steps: int) -> Tensor:
    """Relative residual of each of `steps` steps of a run's trained cell, in float64: (steps, scenes); nan for a run that left no cell."""
    if not run.has_cell:
        return torch.full((steps, 4), float("nan"), dtype=torch.float64)
    attention, inputs, slots = run.cell(Iteration(steps), Neumann(), torch.float64)
    with torch.no_grad():
        return attention(inputs, slots).residuals


def solver_statistics(run: RunResult) -> dict[str, str]:
    """How a run's own solver and adjoint do on its trained cell, in float64, over its test scenes; empty for a run that left no cell.

    Means of the steps taken and of the smallest relative residual, forward, and backward for an adjoint that solves Eq. 2; and medians of what decides whether
    Eq. 2 can be solved, at the iterate where the gradient is taken: the spectral radius of J, and the largest gain of (I - J)^-1.
    """
    if not run.has_cell:
        return {}
    attention, inputs, slots = run.cell(
        *variant(run.config.model.variant, run.config.model.num_iterations), torch.float64
    )
    solution = attention(inputs, slots)
    (
        solution.value * torch.randn(slots.shape, generator=torch.Generator().manual_seed(0))
    ).sum().backward()
    parts = {"forward": solution, "backward": solution.backward}
    statistics = {
        f"{name} {what}": text(part)
        for name, part in parts.items()
        if part is not None
        for what, text in (
            ("steps", lambda p: f"{p.steps.double().mean():.0f}"),
            ("residual", lambda p: f"{p.residuals.amin(0).mean():.2g}"),
        )
    }
    cell = attention.cell(inputs)
    J = jacobian(lambda z: cell(z)[0], solution.value.detach())
    gain = 1 / torch.linalg.svdvals(torch.eye(J.shape[1], dtype=J.dtype) - J)[:, -1]
    return statistics | {
        "spectral radius": f"{torch.linalg.eigvals(J).abs().amax(1).median():.2f}",
        "gain of (I - J)^-1": f"{gain.median():.3g}",
    }


def compare(
    run: RunResult, estimators: dict[str, tuple | None], seed: int = 0
) -> tuple[pd.DataFrame, dict]:
    """Gradients on a run's trained cell, in float64, scene by scene; nan against the exact gradient where a scene's iteration does not converge.

    estimators: name -> (solver, adjoint), or None for the paper's line written out. Returns a table with a row for each estimator and scene (cosine and norm
    ratio against the exact implicit gradient, relative difference from the written-out line), and what says whether the exact gradient can be trusted.
    """
    rows, converged = [], []
    for scene in range(len(run.cell(Iteration(1), Neumann())[1])):
        gradients = {}
        for name, pair in estimators.items():
            solver, adjoint = pair or (Iteration(run.config.model.num_iterations), Neumann())
            attention, inputs, slots = run.cell(solver, adjoint, torch.float64)
            inputs, slots = inputs[scene : scene + 1], slots[scene : scene + 1]
            cotangent = torch.randn(
                slots.shape, generator=torch.Generator().manual_seed(seed), dtype=slots.dtype
            )
            gradients[name] = (cell_gradient if pair else one_added_line)(
                attention, inputs, slots, cotangent
            )
        exact = exact_implicit_gradient(attention, inputs, slots, cotangent)
        exists = exact.residual.max() <= CONVERGED
        if exists:
            converged.append(exact)
        by_hand = next(gradients[name] for name, pair in estimators.items() if pair is None)
        for name, gradient in gradients.items():
            cosine, ratio = (
                cosine_and_norm_ratio(gradient, exact.gradient)
                if exists
                else (float("nan"), float("nan"))
            )
            difference = ((gradient - by_hand).norm() / by_hand.norm()).item()
            rows.append(
                {
                    "estimator": name,
                    "scene": scene,
                    "cosine": cosine,
                    "norm ratio": ratio,
                    "difference": difference,
                }
            )
    largest = lambda name: max(
        (getattr(exact, name).max().item() for exact in converged), default=float("nan")
    )  # noqa: E731
    check = {
        "scenes": scene + 1,
        "scenes that converge": len(converged),
        "residual asked of z*": f"{CONVERGED:g}",
        "largest spectral radius of J": f"{largest('spectral_radius'):.2f}",
        "largest condition of I - J": f"{largest('condition'):.3g}",
    }
    return pd.DataFrame(rows), check


def cosine_and_norm_ratio(gradient: Tensor, reference: Tensor) -> tuple[float, float]:
    """Cosine of the angle between two gradients, and the ratio of their lengths."""
    return torch.cosine_similarity(gradient, reference, dim=0).item(), (
        gradient.norm() / reference.norm()
    ).item()


def the_line() -> tuple[str, int]:
    """The one added line as it stands in `fixed_point/adjoints.py`, and its line number: read from the file, not typed."""
    source, _ = inspect.getsourcelines(adjoints)
    (number,) = [
        i
        for i, line in enumerate(source, 1)
        if "the one added line" in line and "=" in line.split("#")[0]
    ]
    return source[number - 1].strip(), number


def _flat_grad(attention: SlotAttention) -> Tensor:
    return torch.cat([p.grad.flatten() for p in attention.parameters()]).clone()
