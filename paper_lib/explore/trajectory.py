"""The search for the slots of one image, step by step."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from paper_lib.fixed_point import Solver, Unrolled
from paper_lib.fixed_point.search import relative_residual
from paper_lib.models import SLATE
from paper_lib.training.slots import slot_noise
from paper_lib.training.task import to_float


@dataclass(frozen=True)
class Trajectory:
    """What the slots of one image are after each of n applications of the cell.

    slots      (n, K, D)
    attn       (n, N, K), the masks that these slots were made with; they sum to one over the slots
    residuals  (n,), how far each application moved the slots, relative to their length
    """

    slots: Tensor
    attn: Tensor
    residuals: Tensor

    def paths(self) -> np.ndarray:
        """Return the slots in the plane in which they move and differ most, (n, K, 2) in [0, 1].

        It is spanned by the first two principal components of all slots of all steps.
        """
        flat = self.slots.flatten(0, 1)
        centred = flat - flat.mean(0)
        directions = torch.linalg.svd(centred, full_matrices=False).Vh[:2]
        plane = (centred @ directions.T).view(*self.slots.shape[:2], 2)
        low, high = plane.amin((0, 1)), plane.amax((0, 1))
        return ((plane - low) / (high - low).clamp(min=1e-12)).numpy()


@torch.no_grad()
def trajectory(
    model: SLATE, image: np.ndarray, noise: Tensor, solver: Solver, applications: int
) -> Trajectory:
    """Search for the slots of one image (H, W, 3) uint8 from noise (K, D), standard normal.

    After the n-th application the slots are f(z), with z where the solver stands after n - 1 steps.
    The solver is any dataclass with `max_steps`, and is run with one step, with two, and so on.
    """
    tokens = model.tokenize(to_float(image[None]))
    encoder = model.slot_attn
    cell = encoder.cell(model.embed(tokens)[:, 1:])
    start = encoder.initial_slots(noise[None])

    def step(slots: Tensor) -> Tensor:
        return cell(slots)[0]

    slots, attn, residuals = [], [], []
    for n in range(applications):
        before = replace(solver, max_steps=n).solve(step, start).value if n else start
        value, masks = cell(before)
        slots.append(value[0])
        attn.append(masks[0])
        residuals.append(relative_residual(before, value)[0])
    return Trajectory(torch.stack(slots), torch.stack(attn), torch.stack(residuals))


def applications_of(model: SLATE) -> int:
    """Return how often a model applies its cell: every step, and with all gradients but the
    unrolled one once more at the end, which is the paper's added line."""
    attention = model.slot_attn.slot_attention
    added = 0 if isinstance(attention.adjoint, Unrolled) else 1
    return attention.solver.max_steps + added


def initial_noise(model: SLATE, seed: int, num_slots: int, turn: int = 0) -> Tensor:
    """Return noise (K, D) for the initial slots of one image.

    With seed 0 and the model's own number of slots, image k of the test set gets at `turn` k what
    the committed results have drawn for it.
    """
    return slot_noise(model.slot_attn, 64, seed, num_slots)[turn % 64]
