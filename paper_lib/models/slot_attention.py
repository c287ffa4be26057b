"""Slot attention (Locatello et al. 2020) as a fixed point: a cell that is iterated, a solver that iterates it, an adjoint that differentiates it."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paper_lib.fixed_point import (
    Anderson,
    Broyden,
    Implicit,
    Iteration,
    Neumann,
    Solution,
    Unrolled,
    check_pair,
    fixed_point,
)
from paper_lib.models.init import gru_cell, linear

# Table 2: how the fixed point is found, and how its gradient is estimated; n bounds the steps of each. Names as in the paper; the A's are ours.
VARIANTS = {
    "vanilla": lambda n: (Iteration(n), Unrolled()),
    "IB": lambda n: (Iteration(n), Implicit(Broyden(n))),
    "BB": lambda n: (Broyden(n), Implicit(Broyden(n))),
    "IN": lambda n: (Iteration(n), Neumann()),
    "BN": lambda n: (Broyden(n), Neumann()),
    "AA": lambda n: (Anderson(n), Implicit(Anderson(n))),
    "AN": lambda n: (Anderson(n), Neumann()),
}


def variant(name: str, num_iterations: int):
    """(solver, adjoint) of a row of Table 2."""
    if name not in VARIANTS:
        raise ValueError(f"unknown variant {name!r}: choose from {', '.join(VARIANTS)}")
    return VARIANTS[name](num_iterations)


class SlotAttention(nn.Module):
    """Slots compete for the inputs through attention and are updated by a GRU, again and again.

    input_size, slot_size, mlp_hidden_size   features of inputs, slots and the residual MLP
    solver, adjoint                          any pair of `paper_lib.fixed_point`
    num_heads                                attention heads; the softmax runs over heads and slots together, as SLATE's
    epsilon                                  added to the attention before the weighted mean is normalised

    Source: Locatello et al., Algorithm 1; the parameters keep the names of the authors' SLATE code.
    """

    def __init__(
        self,
        input_size: int,
        slot_size: int,
        mlp_hidden_size: int,
        solver,
        adjoint,
        num_heads: int = 1,
        epsilon: float = 1e-8,
    ):
        super().__init__()
        check_pair(solver, adjoint)
        if slot_size % num_heads:
            raise ValueError(f"slot_size {slot_size} is not a multiple of num_heads {num_heads}")
        self.solver, self.adjoint = solver, adjoint
        self.num_heads, self.epsilon = num_heads, epsilon
        self.norm_inputs = nn.LayerNorm(input_size)
        self.norm_slots = nn.LayerNorm(slot_size)
        self.norm_mlp = nn.LayerNorm(slot_size)
        self.project_q = linear(slot_size, slot_size, bias=False)
        self.project_k = linear(input_size, slot_size, bias=False)
        self.project_v = linear(input_size, slot_size, bias=False)
        self.gru = gru_cell(slot_size, slot_size)
        self.mlp = nn.Sequential(
            linear(slot_size, mlp_hidden_size, kaiming=True),
            nn.ReLU(),
            linear(mlp_hidden_size, slot_size),
        )

    def forward(self, inputs: Tensor, slots: Tensor, num_iterations: int | None = None) -> Solution:
        """inputs (B, N, input_size), initial slots (B, K, slot_size) -> Solution: `.value` (B, K, slot_size), `.aux` the masks (B, N, K).

        num_iterations: another number of the solver's steps than it was built with, as at test time.
        """
        solver = (
            self.solver
            if num_iterations is None
            else replace(self.solver, max_steps=num_iterations)
        )
        return fixed_point(
            self.cell(inputs), slots, solver=solver, adjoint=self.adjoint, has_aux=True
        )

    def cell(self, inputs: Tensor):
        """The map to iterate, slots -> (slots, masks), for inputs (B, N, input_size): they are projected once."""
        inputs = self.norm_inputs(inputs)
        k = (
            self._heads(self.project_k(inputs))
            * (self.project_k.out_features // self.num_heads) ** -0.5
        )
        v = self._heads(self.project_v(inputs))
        return lambda slots: self.step(slots, k, v)

    def step(self, slots: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """One refinement. slots (B, K, D), keys (scaled) and values (B, heads, N, D / heads) -> slots (B, K, D), masks (B, N, K) summed over heads."""
        B, K, D = slots.shape
        q = self._heads(self.project_q(self.norm_slots(slots)))
        logits = q @ k.transpose(
            -1, -2
        )  # (B, heads, K, N): inputs last, as the sums over them are the long ones
        attn = logits.flatten(1, 2).softmax(1).view_as(logits)
        weights = attn + self.epsilon
        updates = (weights @ v) / weights.sum(
            -1, keepdim=True
        )  # each slot's weighted mean of the inputs
        slots = self._gru(updates.transpose(1, 2).reshape(B, K, D), slots)
        return slots + self.mlp(self.norm_mlp(slots)), attn.sum(1).transpose(1, 2)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def _gru(self, x: Tensor, h: Tensor) -> Tensor:
        # nn.GRUCell's own formula, written out: on a GPU its fused kernel has no forward-mode derivative, which `spectral_norm` needs
        gru = self.gru
        from_input, from_hidden = (
            F.linear(x, gru.weight_ih, gru.bias_ih),
            F.linear(h, gru.weight_hh, gru.bias_hh),
        )
        D = h.shape[-1]
        reset, update = (
            (from_input[..., : 2 * D] + from_hidden[..., : 2 * D]).sigmoid().chunk(2, -1)
        )
        candidate = torch.tanh(from_input[..., 2 * D :] + reset * from_hidden[..., 2 * D :])
        return candidate + update * (h - candidate)
