"""What an adjoint makes of one image's gradient, beside the exact one."""

from __future__ import annotations

import copy

import numpy as np
import torch

from paper_lib.fixed_point import Adjoint, Solver
from paper_lib.models import SLATE
from paper_lib.paper.gradient_fidelity import (
    cell_gradient,
    cosine_and_norm_ratio,
    exact_implicit_gradient,
)
from paper_lib.training.task import to_float

# Where a search has come no closer to a fixed point than this, there is no exact gradient.
CLOSE = 1e-4


def fidelity(
    model: SLATE,
    image: np.ndarray,
    noise: torch.Tensor,
    pairs: dict[str, tuple[Solver, Adjoint]],
) -> tuple[dict[str, tuple[float, float]], float]:
    """Compare gradients of the cross entropy with respect to the cell's weights, for one image.

    image (H, W, 3) uint8; noise (K, D) for the initial slots; pairs: name -> solver and adjoint.
    Returns name -> (cosine with the exact implicit gradient, length / its length), and the relative
    residual at the z* where that was taken: above `CLOSE` there is no exact gradient. All in
    float64.
    """
    model = copy.deepcopy(model).double()
    encoder = model.slot_attn
    attention = encoder.slot_attention
    with torch.no_grad():
        tokens = model.tokenize(to_float(image[None]).double())
        inputs = encoder.inputs(model.embed(tokens)[:, 1:])
        start = encoder.initial_slots(noise[None].double())
    slots = attention(inputs, start).value.detach().requires_grad_()
    loss = model.cross_entropy(tokens, slots).sum()
    (cotangent,) = torch.autograd.grad(loss, slots)
    exact = exact_implicit_gradient(attention, inputs, start, cotangent, steps=300, tol=1e-8)
    compared = {}
    for name, (solver, adjoint) in pairs.items():
        attention.solver, attention.adjoint = solver, adjoint
        gradient = cell_gradient(attention, inputs, start, cotangent)
        compared[name] = cosine_and_norm_ratio(gradient, exact.gradient)
    return compared, exact.residual.item()
