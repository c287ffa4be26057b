"""From embedded inputs to slots: the piece that SLATE and both models of Locatello et al. share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from paper_lib.fixed_point import Adjoint, Solution, Solver
from paper_lib.models.layers import linear
from paper_lib.models.transport import slot_attention


@dataclass
class SlotOutput:
    """What slot attention found, or another search for slots, which need have no attention.

    slots      (B, K, D)
    attn       (B, N, K), masks that sum to one over the slots; or None
    solution   how the search for the fixed point went
    """

    slots: Tensor
    attn: Tensor | None
    solution: Solution


class SlotEncoder(nn.Module):
    """Layer norm and an MLP over the inputs, initial slots, slot attention.

    input_size, slot_size, mlp_hidden_size   features of inputs, slots and slot attention's MLP
    num_slots                                how many are drawn where no noise is given
    solver, adjoint, num_heads               as `SlotAttention`
    initial                                  "drawn" from one learned distribution, or "learned":
                                             a vector (slot_size,) for each slot, as in BO-QSA
    attention                                "softmax", or another of `transport.ATTENTIONS`

    What the adjoint sends to the initial slots is all that they learn from. `Unrolled` and
    `StraightThrough` send something; `Neumann` and `Implicit` send nothing, as a fixed point does
    not depend on where the search began. Drawn slots then keep the mean and the scale that they
    were initialised with, and learned ones stay the vectors that they were initialised with: every
    image's slots start at the same few points, which nothing has trained.

    Raises ValueError for another `initial`, and, once it runs, for another number of slots than
    there are learned ones.

    Source: Locatello et al. for drawn slots; Jia et al. (2023), BO-QSA, for learned ones, without
    the noise that their code adds to them and takes back during training.
    """

    def __init__(
        self,
        input_size: int,
        slot_size: int,
        mlp_hidden_size: int,
        num_slots: int,
        solver: Solver,
        adjoint: Adjoint,
        num_heads: int = 1,
        initial: str = "drawn",
        attention: str = "softmax",
    ):
        super().__init__()
        check_initial(initial)
        self.num_slots = num_slots
        self.slot_size = slot_size
        self.initial = initial
        self.layer_norm = nn.LayerNorm(input_size)
        self.mlp = nn.Sequential(
            linear(input_size, input_size, kaiming=True),
            nn.ReLU(),
            linear(input_size, input_size),
        )
        if initial == "learned":
            self.slot_queries = nn.Parameter(torch.empty(num_slots, slot_size))
            nn.init.xavier_uniform_(self.slot_queries)
        else:
            self.slot_mu = nn.Parameter(torch.empty(1, 1, slot_size))
            self.slot_log_sigma = nn.Parameter(torch.empty(1, 1, slot_size))
            nn.init.xavier_uniform_(self.slot_mu)
            nn.init.xavier_uniform_(self.slot_log_sigma)
        self.slot_attention = slot_attention(
            attention, input_size, slot_size, mlp_hidden_size, solver, adjoint, num_heads
        )

    def forward(
        self, embedded: Tensor, slot_noise: Tensor | None = None, solver: Solver | None = None
    ) -> SlotOutput:
        """embedded inputs (B, N, input_size) -> SlotOutput, with as many slots as the noise has.

        slot_noise   (B, K, slot_size) standard normal, drawn if not given
        solver       another one than the module was built with, as at test time
        """
        if slot_noise is None:  # drawn for learned slots, too: what is drawn later stays the same
            shape = len(embedded), self.num_slots, self.slot_size
            slot_noise = torch.randn(shape, device=embedded.device, dtype=embedded.dtype)
        inputs = self.inputs(embedded)
        solution = self.slot_attention(inputs, self.initial_slots(slot_noise), solver)
        return SlotOutput(solution.value, solution.aux, solution)

    def inputs(self, embedded: Tensor) -> Tensor:
        """Embedded inputs -> what slot attention attends to, both (B, N, input_size)."""
        return self.mlp(self.layer_norm(embedded))

    def initial_slots(self, noise: Tensor) -> Tensor:
        """Standard normal noise (B, K, D) -> initial slots (B, K, D).

        Drawn slots share the learned mean and scale. Learned slots are the same whatever the noise.
        """
        if self.initial == "learned":
            batch, num_slots, _ = noise.shape
            if num_slots != self.num_slots:
                raise ValueError(
                    f"{self.num_slots} initial slots were learned, and {num_slots} are asked for"
                )
            return self.slot_queries.expand(batch, -1, -1)
        return self.slot_mu + self.slot_log_sigma.exp() * noise

    @property
    def solver(self) -> Solver:
        """The solver that slot attention was built with."""
        return self.slot_attention.solver

    def cell(self, embedded: Tensor):
        """Return the cell of slot attention for these embedded inputs (B, N, input_size)."""
        return self.slot_attention.cell(self.inputs(embedded))


def check_initial(initial: str) -> None:
    """Raise ValueError for what is no way to get initial slots."""
    if initial not in ("drawn", "learned"):
        raise ValueError(f"initial must be 'drawn' or 'learned', not {initial!r}")
