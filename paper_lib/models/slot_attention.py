"""Slot attention (Locatello et al. 2020) as a fixed point.

A cell is iterated, a solver iterates it, and an adjoint differentiates what the solver found.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from paper_lib.fixed_point import Adjoint, Solution, Solver, check_pair, fixed_point
from paper_lib.models.layers import GRUCell, linear, merge_heads, split_heads

EPSILON = 1e-8  # is added to the attention before each slot's weighted mean is taken


class SlotAttention(nn.Module):
    """Slots compete for the inputs through attention and are updated by a GRU, again and again.

    input_size, slot_size, mlp_hidden_size   features of inputs, slots and the residual MLP
    solver, adjoint                          any pair of `paper_lib.fixed_point`; a solver may be
                                             any object with a `solve` method
    num_heads                                attention heads

    Raises ValueError, with the reason, for a pair that makes no sense.

    Source: Locatello et al., Algorithm 1; the parameters keep the names of the authors' SLATE code.
    """

    def __init__(
        self,
        input_size: int,
        slot_size: int,
        mlp_hidden_size: int,
        solver: Solver,
        adjoint: Adjoint,
        num_heads: int = 1,
    ):
        super().__init__()
        check_pair(solver, adjoint)
        if slot_size % num_heads:
            raise ValueError(f"slot_size {slot_size} is not a multiple of num_heads {num_heads}")
        self.solver = solver
        self.adjoint = adjoint
        self.num_heads = num_heads
        self.norm_inputs = nn.LayerNorm(input_size)
        self.norm_slots = nn.LayerNorm(slot_size)
        self.norm_mlp = nn.LayerNorm(slot_size)
        self.project_q = linear(slot_size, slot_size, bias=False)
        self.project_k = linear(input_size, slot_size, bias=False)
        self.project_v = linear(input_size, slot_size, bias=False)
        self.gru = GRUCell(slot_size, slot_size)
        self.mlp = nn.Sequential(
            linear(slot_size, mlp_hidden_size, kaiming=True),
            nn.ReLU(),
            linear(mlp_hidden_size, slot_size),
        )

    def forward(self, inputs: Tensor, slots: Tensor, solver: Solver | None = None) -> Solution:
        """inputs (B, N, input_size), initial slots (B, K, slot_size) -> Solution.

        Its `.value` is the slots (B, K, slot_size), its `.aux` their masks (B, N, K).
        solver: another one than the module was built with, as at test time.
        """
        if solver is None:
            solver = self.solver
        cell = self.cell(inputs)
        return fixed_point(cell, slots, solver=solver, adjoint=self.adjoint, has_aux=True)

    def cell(self, inputs: Tensor):
        """Return the map to iterate, slots -> (slots, masks), for inputs (B, N, input_size).

        The inputs are projected once, however often the map is applied.
        """
        inputs = self.norm_inputs(inputs)
        k = split_heads(self.project_k(inputs), self.num_heads)
        v = split_heads(self.project_v(inputs), self.num_heads)
        return partial(self.step, k=k * k.shape[-1] ** -0.5, v=v)

    def step(self, slots: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Refine the slots once.

        slots (B, K, D), keys (scaled) and values (B, heads, N, D / heads) -> new slots (B, K, D),
        masks (B, N, K), summed over heads.
        """
        q = split_heads(self.project_q(self.norm_slots(slots)), self.num_heads)
        # Slots compete: the softmax runs over heads and slots together, as SLATE's does.
        # The inputs lie last, as the sums over them are the long ones.
        logits = q @ k.mT  # (B, heads, K, N)
        attn = logits.flatten(1, 2).softmax(dim=1).view_as(logits)
        # A slot is updated with the weighted mean of the inputs' values.
        weights = attn + EPSILON
        updates = (weights @ v) / weights.sum(dim=-1, keepdim=True)
        slots = self.gru(merge_heads(updates), slots)
        slots = slots + self.mlp(self.norm_mlp(slots))
        return slots, attn.sum(dim=1).mT
