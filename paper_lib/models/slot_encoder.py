"""Layer norm and MLP over the inputs, random initial slots, slot attention: the piece that SLATE and both models of Locatello et al. (2020) share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from paper_lib.fixed_point import Solution
from paper_lib.models.init import linear
from paper_lib.models.slot_attention import SlotAttention


@dataclass
class SlotOutput:
    """slots (B, K, D); attn (B, N, K), masks that sum to one over the slots; solution: how the fixed point was found."""

    slots: Tensor
    attn: Tensor
    solution: Solution


class SlotEncoder(nn.Module):
    """Inputs in, slots out. Initial slots are drawn with a learned mean and scale that all slots share.

    input_size, slot_size, mlp_hidden_size   features of inputs, slots and slot attention's residual MLP
    num_slots                                how many are drawn where no noise is given
    solver, adjoint, num_heads               as `SlotAttention`
    """

    def __init__(
        self,
        input_size: int,
        slot_size: int,
        mlp_hidden_size: int,
        num_slots: int,
        solver,
        adjoint,
        num_heads: int = 1,
    ):
        super().__init__()
        self.num_slots = num_slots
        self.layer_norm = nn.LayerNorm(input_size)
        self.mlp = nn.Sequential(
            linear(input_size, input_size, kaiming=True), nn.ReLU(), linear(input_size, input_size)
        )
        self.slot_mu = nn.Parameter(torch.empty(1, 1, slot_size))
        self.slot_log_sigma = nn.Parameter(torch.empty(1, 1, slot_size))
        nn.init.xavier_uniform_(self.slot_mu)
        nn.init.xavier_uniform_(self.slot_log_sigma)
        self.slot_attention = SlotAttention(
            input_size, slot_size, mlp_hidden_size, solver, adjoint, num_heads
        )

    def forward(
        self, embedded: Tensor, slot_noise: Tensor | None = None, num_iterations: int | None = None
    ) -> SlotOutput:
        """embedded inputs (B, N, input_size), standard normal noise (B, K, slot_size), drawn if not given -> SlotOutput.

        As many slots as the noise has; num_iterations: another number of the solver's steps than it was built with.
        """
        if slot_noise is None:
            slot_noise = torch.randn(
                len(embedded),
                self.num_slots,
                self.slot_mu.shape[-1],
                device=embedded.device,
                dtype=embedded.dtype,
            )
        solution = self.slot_attention(
            self.inputs(embedded), self.initial_slots(slot_noise), num_iterations
        )
        return SlotOutput(solution.value, solution.aux, solution)

    def initial_slots(self, noise: Tensor) -> Tensor:
        """Standard normal noise (B, K, D) -> initial slots (B, K, D), with the learned mean and scale that all slots share."""
        return self.slot_mu + self.slot_log_sigma.exp() * noise

    def inputs(self, embedded: Tensor) -> Tensor:
        """Embedded inputs (B, N, input_size) -> what slot attention attends to, of the same shape."""
        return self.mlp(self.layer_norm(embedded))

    def cell(self, embedded: Tensor):
        """The slot attention cell for these embedded inputs (B, N, input_size)."""
        return self.slot_attention.cell(self.inputs(embedded))
