"""Gradients of slot attention by each estimator, beside the exact implicit gradient.

The exact one is Eq. 1 by a dense solve, at a z* that is iterated until it has converged.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from paper_lib.fixed_point import Iteration, Neumann, jacobian
from paper_lib.models import SlotAttention, solver_and_adjoint
from paper_lib.runs import RunResult

CONVERGED = 1e-8  # relative residual at which z* counts as a fixed point
NAN = float("nan")


# ---- the gradients ----


def cell_gradient(
    attention: SlotAttention, inputs: Tensor, slots: Tensor, cotangent: Tensor
) -> Tensor:
    """Return the gradient of sum(cotangent * result) with respect to the cell's weights.

    It is as attention's own solver and adjoint give it, of shape (parameters,).
    inputs (B, N, D), initial slots and cotangent (B, K, D).
    """
    attention.zero_grad()
    (attention(inputs, slots).value * cotangent).sum().backward()
    return _flat_grad(attention)


def one_added_line(
    attention: SlotAttention, inputs: Tensor, slots: Tensor, cotangent: Tensor
) -> Tensor:
    """Return the same gradient by the paper's Fig. 2, written out; arguments as above.

    The cell is iterated without gradients, and then comes the one line.
    """
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
    """The exact implicit gradient, and what says whether it can be trusted.

    gradient          (parameters,)
    residual          (B,) relative residual at z*: the gradient exists where it is about zero
    spectral_radius   (B,) of J at z*
    condition         (B,) of I - J
    """

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
    """Return the gradient of Eq. 1: u = cotangent (I - J)^-1 by a dense solve, then u df/dw.

    It is taken at a z* that is iterated `steps` times, or until its relative residual is below
    `tol`. The tensors are as in `cell_gradient`, and should be float64.
    """
    step = _step(attention, inputs)
    with torch.no_grad():
        result = Iteration(steps, tol).solve(step, slots)
    J = jacobian(step, result.value)
    I_minus_J = torch.eye(J.shape[1], dtype=J.dtype) - J
    u = torch.linalg.solve(I_minus_J.transpose(1, 2), cotangent.flatten(1))
    attention.zero_grad()
    (step(result.value) * u.view_as(slots)).sum().backward()
    return Exact(
        gradient=_flat_grad(attention),
        residual=result.residuals[-1],
        spectral_radius=torch.linalg.eigvals(J).abs().amax(1),
        condition=torch.linalg.cond(I_minus_J),
    )


def cosine_and_norm_ratio(gradient: Tensor, reference: Tensor) -> tuple[float, float]:
    """Return the cosine of the angle between two gradients, and the ratio of their lengths."""
    cosine = torch.cosine_similarity(gradient, reference, dim=0)
    return cosine.item(), (gradient.norm() / reference.norm()).item()


# ---- what they say of a trained cell ----


def compare(
    run: RunResult, estimators: dict[str, tuple | None], seed: int = 0
) -> tuple[pd.DataFrame, dict]:
    """Compare gradients on a run's trained cell, in float64, scene by scene.

    estimators   name -> (solver, adjoint), or None for the paper's line written out
    seed         draws the cotangent

    Returns a table with a row for each estimator and scene: cosine and norm ratio against the exact
    implicit gradient, nan where a scene's iteration does not converge, and relative difference from
    the line written out. With it comes what says whether the exact gradient can be trusted.
    """
    usual = (Iteration(run.config.model.num_iterations), Neumann())
    attention, all_inputs, all_slots = run.cell(*usual, torch.float64)
    rows = []
    existing = []
    for scene in range(len(all_inputs)):
        inputs, slots = all_inputs[scene : scene + 1], all_slots[scene : scene + 1]
        generator = torch.Generator().manual_seed(seed)
        cotangent = torch.randn(slots.shape, generator=generator, dtype=slots.dtype)
        exact = exact_implicit_gradient(attention, inputs, slots, cotangent)
        exists = exact.residual.max() <= CONVERGED
        if exists:
            existing.append(exact)
        by_hand = one_added_line(attention, inputs, slots, cotangent)
        for name, pair in estimators.items():
            gradient = by_hand
            if pair is not None:
                attention_of_pair, _, _ = run.cell(*pair, torch.float64)
                gradient = cell_gradient(attention_of_pair, inputs, slots, cotangent)
            cosine, ratio = NAN, NAN
            if exists:
                cosine, ratio = cosine_and_norm_ratio(gradient, exact.gradient)
            row = {"estimator": name, "scene": scene, "cosine": cosine, "norm ratio": ratio}
            row["difference"] = ((gradient - by_hand).norm() / by_hand.norm()).item()
            rows.append(row)
    largest_radius = max((e.spectral_radius.max().item() for e in existing), default=NAN)
    largest_condition = max((e.condition.max().item() for e in existing), default=NAN)
    check = {
        "scenes": len(all_inputs),
        "scenes that converge": len(existing),
        "residual asked of z*": f"{CONVERGED:g}",
        "largest spectral radius of J": f"{largest_radius:.2f}",
        "largest condition of I - J": f"{largest_condition:.3g}",
    }
    return pd.DataFrame(rows), check


def difference_from_the_line(run: RunResult, seed: int = 0) -> float:
    """Return the relative difference of IN's gradient from the paper's line written out.

    It is of a run's trained cell, on its test scenes, in float64; `seed` draws the cotangent; nan
    for a run that left no cell.
    """
    if not run.has_cell:
        return NAN
    solver = Iteration(run.config.model.num_iterations)
    attention, inputs, slots = run.cell(solver, Neumann(terms=1), torch.float64)
    generator = torch.Generator().manual_seed(seed)
    cotangent = torch.randn(slots.shape, generator=generator, dtype=slots.dtype)
    by_hand = one_added_line(attention, inputs, slots, cotangent)
    ours = cell_gradient(attention, inputs, slots, cotangent)
    return ((ours - by_hand).norm() / by_hand.norm()).item()


def residuals(run: RunResult, steps: int) -> Tensor:
    """Iterate a run's trained cell on its test scenes, in float64.

    Returns the relative residual of each of `steps` steps, (steps, scenes); nan for a run that left
    no cell.
    """
    if not run.has_cell:
        return torch.full((steps, 4), NAN, dtype=torch.float64)
    attention, inputs, slots = run.cell(Iteration(steps), Neumann(), torch.float64)
    with torch.no_grad():
        return attention(inputs, slots).residuals


def solver_statistics(run: RunResult) -> dict[str, str]:
    """Say how a run's own solver and adjoint do on its trained cell, over its test scenes.

    These are means of the steps taken and of the smallest relative residual, forward, and backward
    for an adjoint that solves Eq. 2; and medians of what decides whether Eq. 2 can be solved, at
    the iterate where the gradient is taken: the spectral radius of J, and the largest gain of
    (I - J)^-1. All is in float64. A run that left no cell has none of them.
    """
    if not run.has_cell:
        return {}
    solver, adjoint = solver_and_adjoint(run.config.model)
    attention, inputs, slots = run.cell(solver, adjoint, torch.float64)
    solution = attention(inputs, slots)
    cotangent = torch.randn(slots.shape, generator=torch.Generator().manual_seed(0))
    (solution.value * cotangent).sum().backward()
    statistics = {}
    for half, solve in (("forward", solution), ("backward", solution.backward)):
        if solve is not None:
            statistics[f"{half} steps"] = f"{solve.steps.double().mean():.0f}"
            statistics[f"{half} residual"] = f"{solve.residuals.amin(0).mean():.2g}"
    J = jacobian(_step(attention, inputs), solution.value.detach())
    radius = torch.linalg.eigvals(J).abs().amax(1)
    gain = 1 / torch.linalg.svdvals(torch.eye(J.shape[1], dtype=J.dtype) - J)[:, -1]
    statistics["spectral radius"] = f"{radius.median():.2f}"
    statistics["gain of (I - J)^-1"] = f"{gain.median():.3g}"
    return statistics


def _step(attention: SlotAttention, inputs: Tensor):
    """Return the map slots -> slots, without the masks."""
    cell = attention.cell(inputs)

    def step(slots: Tensor) -> Tensor:
        return cell(slots)[0]

    return step


def _flat_grad(attention: SlotAttention) -> Tensor:
    return torch.cat([p.grad.flatten() for p in attention.parameters()]).clone()
