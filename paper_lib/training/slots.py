"""What every task with slots does to them: draws the initial ones, measures the cell that refines them, keeps that cell, varies both at test time."""

from __future__ import annotations

import torch
from torch import Tensor

from paper_lib.fixed_point import Iteration, spectral_norm
from paper_lib.models.slot_encoder import SlotEncoder


def slot_noise(encoder: SlotEncoder, batch: int, seed: int, num_slots: int | None = None) -> Tensor:
    """(B, K, D) standard normal, the same on every device; K is the encoder's unless given."""
    shape = batch, num_slots or encoder.num_slots, encoder.slot_mu.shape[-1]
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(
        encoder.slot_mu.device
    )


@torch.no_grad()
def measure_cell(
    encoder: SlotEncoder, embedded: Tensor, noise: Tensor, residual_steps: int
) -> dict[str, float]:
    """The cell at work on embedded inputs (B, N, input_size) from noise (B, K, D): the spectral norm of its Jacobian at the slots that the model uses, and
    the relative residual of each step of the iteration (step n goes from z_(n-1) to z_n), means over the batch."""
    cell = encoder.cell(embedded)
    step = lambda slots: cell(slots)[0]  # noqa: E731
    norms = spectral_norm(step, encoder(embedded, noise).slots)
    residuals = (
        Iteration(residual_steps).solve(step, encoder.initial_slots(noise)).residuals.mean(1)
    )
    return {
        "spectral_norm": norms.mean().item(),
        "spectral_norm_median": norms.median().item(),
        "spectral_norm_max": norms.max().item(),
        **{f"residual_{n + 1}": value for n, value in enumerate(residuals.tolist())},
    }


@torch.no_grad()
def kept_cell(encoder: SlotEncoder, embedded: Tensor) -> dict[str, Tensor]:
    """The trained slot attention and something to run it on, small enough to keep (float16): its weights as weights/<name>, and for embedded inputs
    (B, N, input_size) what it attends to, inputs (B, N, input_size), and initial slots (B, K, slot_size)."""
    tensors = {
        f"weights/{name}": value for name, value in encoder.slot_attention.state_dict().items()
    }
    tensors |= {
        "inputs": encoder.inputs(embedded),
        "slots": encoder.initial_slots(slot_noise(encoder, len(embedded), seed=0)),
    }
    return {name: value.half() for name, value in tensors.items()}


def settings_at_test_time(
    num_slots: tuple[int, ...], num_iterations: tuple[int, ...]
) -> dict[str, dict[str, int]]:
    """Suffix of a metric's name -> the setting it is measured in: as trained, with so many slots, with so many iterations."""
    slots = {f"_slots_{k}": {"num_slots": k} for k in num_slots}
    return {"": {}, **slots, **{f"_iterations_{n}": {"num_iterations": n} for n in num_iterations}}
