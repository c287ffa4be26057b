"""What may announce that training is about to fail, measured on a model in training."""

from __future__ import annotations

import torch
from torch import Tensor

from paper_lib.fixed_point import spectral_norm
from paper_lib.models.slot_encoder import SlotEncoder


@torch.no_grad()
def path_norm(encoder: SlotEncoder, embedded: Tensor, noise: Tensor, steps: int) -> Tensor:
    """Return the spectral norm of d z_n / d z_0 after n = `steps` iterations, of shape (B,).

    It is the norm of the product of the Jacobians along the iteration, which is what unrolling
    multiplies a gradient by. embedded (B, N, input_size), noise (B, K, D).
    """
    cell = encoder.cell(embedded)

    def iterate(slots: Tensor) -> Tensor:
        for _ in range(steps):
            slots, _ = cell(slots)
        return slots

    return spectral_norm(iterate, encoder.initial_slots(noise))


def gradient_spread(losses, parameters: list[Tensor]) -> float:
    """Return how far the gradients of several batches lie apart, as a share of their mean's length.

    It is the square root of the trace of their covariance, by the length of their mean: 0 where all
    are the same, large where the batches disagree, or where one of them is an outlier.

    losses   an iterable of scalars, one a batch; each is differentiated as it comes
    """
    gradients = []
    for loss in losses:
        parts = torch.autograd.grad(loss, parameters)
        gradients.append(torch.cat([part.flatten() for part in parts]))
    stacked = torch.stack(gradients).double()
    mean = stacked.mean(0)
    variance = (stacked - mean).square().sum(1).sum() / (len(stacked) - 1)
    return (variance.sqrt() / mean.norm()).item()
