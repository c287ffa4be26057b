"""What every task with slots does: draw them, measure the cell, keep it, vary both at test time."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from paper_lib.fixed_point import Iteration, spectral_norm
from paper_lib.models import SlotAttention
from paper_lib.models.slot_encoder import SlotEncoder
from paper_lib.models.transport import slot_attention
from paper_lib.system.reading import reading
from paper_lib.training.checkpoint import REMEDY, load_tensors


def slot_noise(encoder: SlotEncoder, batch: int, seed: int, num_slots: int | None = None) -> Tensor:
    """Draw standard normal noise (B, K, D), the same on every device; K is the encoder's unless
    given."""
    shape = batch, num_slots or encoder.num_slots, encoder.slot_size
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return noise.to(next(encoder.parameters()).device)


@torch.no_grad()
def measure_cell(
    encoder: SlotEncoder, embedded: Tensor, noise: Tensor, residual_steps: int
) -> dict[str, float]:
    """Measure the cell at work on embedded inputs (B, N, input_size) from noise (B, K, D).

    Returns the spectral norm of its Jacobian at the slots that the model uses (mean, median and
    maximum over the batch), and for every step n of the iteration, which goes from z_(n-1) to z_n,
    the mean relative residual.
    """
    cell = encoder.cell(embedded)

    def step(slots: Tensor) -> Tensor:
        return cell(slots)[0]

    norms = spectral_norm(step, encoder(embedded, noise).slots)
    result = Iteration(residual_steps).solve(step, encoder.initial_slots(noise))
    residuals = result.residuals.mean(1).tolist()
    return {
        "spectral_norm": norms.mean().item(),
        "spectral_norm_median": norms.median().item(),
        "spectral_norm_max": norms.max().item(),
        **{f"residual_{n}": value for n, value in enumerate(residuals, start=1)},
    }


@torch.no_grad()
def kept_cell(encoder: SlotEncoder, embedded: Tensor) -> dict[str, Tensor]:
    """Return the trained slot attention and something to run it on, small enough to keep (float16).

    Its weights are named weights/<name>; for embedded inputs (B, N, input_size), `inputs` is what
    it attends to, (B, N, input_size), and `slots` are initial slots (B, K, slot_size).
    """
    weights = encoder.slot_attention.state_dict()
    tensors = {f"weights/{name}": value for name, value in weights.items()}
    tensors["inputs"] = encoder.inputs(embedded)
    tensors["slots"] = encoder.initial_slots(slot_noise(encoder, len(embedded), seed=0))
    return {name: value.half() for name, value in tensors.items()}


def load_cell(
    path: Path, model, solver, adjoint, dtype: torch.dtype = torch.float32
) -> tuple[SlotAttention, Tensor, Tensor]:
    """Load what `kept_cell` kept, under any solver and adjoint; `model` is the model's config.

    Returns the slot attention, its inputs (B, N, D) and initial slots (B, K, D). Raises BrokenFile
    for a file that is not whole, or of another model.
    """
    tensors = {name: value.to(dtype) for name, value in load_tensors(path)[0].items()}
    with reading(path, REMEDY):
        inputs, slots = tensors.pop("inputs"), tensors.pop("slots")
    # Locatello et al.'s models have one head, and one attention
    attention = slot_attention(
        getattr(model, "attention", "softmax"),
        inputs.shape[-1],
        model.slot_size,
        model.mlp_hidden_size,
        solver,
        adjoint,
        getattr(model, "num_slot_heads", 1),
    )
    weights = {name.removeprefix("weights/"): value for name, value in tensors.items()}
    with reading(path, REMEDY):
        attention.to(dtype).load_state_dict(weights)
    return attention, inputs, slots


def at_test_time(
    encoder: SlotEncoder, num_slots: tuple[int, ...], num_iterations: tuple[int, ...]
) -> dict[str, dict]:
    """Return the settings that a trained model is scored in: suffix of the metrics' names -> what
    differs from training, a number of slots or a solver.

    A solver without `max_steps` iterates as it was trained to.
    """
    settings: dict[str, dict] = {"": {}}
    for k in num_slots:
        settings[f"_slots_{k}"] = {"num_slots": k}
    solver = encoder.solver
    if is_dataclass(solver) and "max_steps" in [f.name for f in fields(solver)]:
        for n in num_iterations:
            settings[f"_iterations_{n}"] = {"solver": replace(solver, max_steps=n)}
    return settings
