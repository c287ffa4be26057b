"""Gradients of slot attention by each estimator, beside the exact implicit gradient.

The exact one is Eq. 1 by a dense solve, at a z* that is iterated until it has converged.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

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
    """The exact implicit gradient, and what says whether it can be trusted, computed when asked.

    gradient          (parameters,)
    star              (B, K, D) z*
    residual          (B,) relative residual at z*: the gradient exists where it is about zero
    jacobian          (B, K D, K D) J at z*
    one_step_error    (B,) ||u - c|| / ||c||, for the cotangent c and u = c (I - J)^-1: how far the
                      one-step gradient with respect to a constant that is added to f, which is c,
                      lies from the exact one, u
    """

    gradient: Tensor
    star: Tensor
    residual: Tensor
    jacobian: Tensor
    one_step_error: Tensor

    @cached_property
    def spectral_radius(self) -> Tensor:
        """(B,) of J at z*."""
        return torch.linalg.eigvals(self.jacobian).abs().amax(1)

    @cached_property
    def spectral_norm(self) -> Tensor:
        """(B,) of J at z*."""
        return torch.linalg.matrix_norm(self.jacobian, 2)

    @cached_property
    def condition(self) -> Tensor:
        """(B,) of I - J."""
        return torch.linalg.cond(_identity_minus(self.jacobian))

    @property
    def exists(self) -> bool:
        """Whether a fixed point has been reached, by every sample."""
        return bool(self.residual.max() <= CONVERGED)


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
    c = cotangent.flatten(1)
    u = torch.linalg.solve(_identity_minus(J).transpose(1, 2), c)
    attention.zero_grad()
    (step(result.value) * u.view_as(slots)).sum().backward()
    return Exact(
        gradient=_flat_grad(attention),
        star=result.value,
        residual=result.residuals[-1],
        jacobian=J,
        one_step_error=(u - c).norm(dim=1) / c.norm(dim=1),
    )


def _identity_minus(J: Tensor) -> Tensor:
    return torch.eye(J.shape[1], dtype=J.dtype) - J


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
    rows = []
    existing = []
    scenes = 0
    for scene in _scenes(run, seed):
        scenes += 1
        if scene.exact.exists:
            existing.append(scene.exact)
        by_hand = one_added_line(scene.attention, *scene.arguments)
        for name, pair in estimators.items():
            gradient = by_hand
            if pair is not None:
                attention_of_pair, _, _ = run.cell(*pair, torch.float64)
                gradient = cell_gradient(attention_of_pair, *scene.arguments)
            cosine, ratio = NAN, NAN
            if scene.exact.exists:
                cosine, ratio = cosine_and_norm_ratio(gradient, scene.exact.gradient)
            row = {"estimator": name, "scene": scene.number, "cosine": cosine, "norm ratio": ratio}
            row["difference"] = ((gradient - by_hand).norm() / by_hand.norm()).item()
            rows.append(row)
    largest_radius = max((e.spectral_radius.max().item() for e in existing), default=NAN)
    largest_condition = max((e.condition.max().item() for e in existing), default=NAN)
    check = {
        "scenes": scenes,
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


def measure(
    runs: list[RunResult], estimators: dict[str, tuple], seed: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Measure gradients against the exact one on runs' trained cells, in float64, scene by scene.

    estimators   name -> (solver, adjoint)
    seed         draws the cotangents

    Returns two tables, for runs that left a cell.

    scenes       a row for each run and scene: whether it "converges" to a fixed point, the relative
                 "residual" after as many iterations as in training, and of the fixed point, nan
                 where there is none, "spectral radius" and "spectral norm" of J, "condition" of
                 I - J, and "one-step error" (see `Exact`).
    gradients    a row for each estimator, run, and scene that converges, and for either place that
                 its solver starts from ("from"): the initial slots, or the fixed point itself,
                 where what is left is the adjoint's own error. "cosine", "norm ratio", and "error",
                 which is ||gradient - exact|| / ||exact||.
    """
    of_scenes, of_gradients = [], []
    for run in runs:
        if not run.has_cell:
            continue
        n = run.config.model.num_iterations
        cells = {name: run.cell(*pair, torch.float64)[0] for name, pair in estimators.items()}
        for scene in _scenes(run, seed):
            inputs, slots, cotangent = scene.arguments
            exact = scene.exact
            with torch.no_grad():
                iterated = Iteration(n + 1).solve(_step(scene.attention, inputs), slots)
            at = {"seed": run.config.seed, "scene": scene.number}
            of_scenes.append({**at, "converges": exact.exists})
            of_scenes[-1]["residual"] = iterated.residuals[-1].item()
            if not exact.exists:
                continue
            for name in ("spectral_radius", "spectral_norm", "condition", "one_step_error"):
                label = name.replace("_", " ").replace("one step", "one-step")
                of_scenes[-1][label] = getattr(exact, name).item()
            for start, begin in {"initial slots": slots, "fixed point": exact.star}.items():
                for name, cell in cells.items():
                    gradient = cell_gradient(cell, inputs, begin, cotangent)
                    cosine, ratio = cosine_and_norm_ratio(gradient, exact.gradient)
                    error = (gradient - exact.gradient).norm() / exact.gradient.norm()
                    row = {"estimator": name, "from": start, "error": error.item()}
                    row |= {"cosine": cosine, "norm ratio": ratio}
                    of_gradients.append({**at, **row})
    columns = ["seed", "scene", "estimator", "from", "error", "cosine", "norm ratio"]
    scenes = ["seed", "scene", "converges", "residual", "spectral radius", "spectral norm"]
    scenes += ["condition", "one-step error"]
    return pd.DataFrame(of_scenes, columns=scenes), pd.DataFrame(of_gradients, columns=columns)


@dataclass(frozen=True)
class _Scene:
    """A trained cell on one of its test scenes.

    attention   iterates as often as in training
    arguments   inputs (1, N, D), initial slots (1, K, D) and a cotangent (1, K, D), in float64
    """

    number: int
    attention: SlotAttention
    arguments: tuple[Tensor, Tensor, Tensor]
    exact: Exact


def _scenes(run: RunResult, seed: int) -> Iterator[_Scene]:
    """Walk a run's test scenes; the same cotangent, drawn by the seed, for each."""
    usual = (Iteration(run.config.model.num_iterations), Neumann())
    attention, all_inputs, all_slots = run.cell(*usual, torch.float64)
    for number in range(len(all_inputs)):
        inputs, slots = all_inputs[number : number + 1], all_slots[number : number + 1]
        generator = torch.Generator().manual_seed(seed)
        cotangent = torch.randn(slots.shape, generator=generator, dtype=slots.dtype)
        arguments = (inputs, slots, cotangent)
        exact = exact_implicit_gradient(attention, *arguments)
        yield _Scene(number, attention, arguments, exact)


def bolte_bound(norm):
    """Return the bound on `Exact.one_step_error` where the norm of J is below 1: norm / (1 - norm).

    One-step differentiation errs, at the fixed point of a map that contracts by rho < 1 and whose
    derivative with respect to a parameter has a norm of at most L, by at most L rho / (1 - rho);
    for a constant that is added to the map, L = 1. The contraction is by the norm of J, of which
    the spectral radius is but a lower bound. At an iterate z instead of the fixed point z*, the
    Lipschitz constant of that derivative times ||z - z*|| comes on top; it is not estimated here.

    norm    any array

    Source: Bolte, Pauwels and Vaiter, One-step differentiation of iterative algorithms (2023).
    """
    return norm / (1 - norm)


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
