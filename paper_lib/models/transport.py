"""Slot attention whose competition is optimal transport, as another cell under the same solvers.

In slot attention each input shares one unit of attention among the slots, and nothing says how much
a slot gets. Here a plan of transport does: each input gives the mass that it has, each slot takes
the mass that it asks for, and mass goes where it is cheap.

Source: Zhang et al., Unlocking Slot Attention by Changing Optimal Transport Costs (2023); sizes and
numbers of steps are those of the authors' code for object discovery.
"""

from __future__ import annotations

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paper_lib.fixed_point import Adjoint, Solver
from paper_lib.models.layers import linear
from paper_lib.models.slot_attention import SlotAttention

ATTENTIONS = ("softmax", "sinkhorn", "mesh")
SINKHORN_STEPS = 5
MESH_STEPS = 4
MESH_RATE = 8.0  # length of a step of MESH, in units of the cost


def slot_attention(
    attention: str,
    input_size: int,
    slot_size: int,
    mlp_hidden_size: int,
    solver: Solver,
    adjoint: Adjoint,
    num_heads: int = 1,
) -> SlotAttention:
    """Return slot attention with the competition that is named; the rest is as `SlotAttention`.

    attention   "softmax" (Locatello et al.), "sinkhorn" or "mesh" (Zhang et al. 2023)
    """
    check_attention(attention, num_heads)
    sizes = input_size, slot_size, mlp_hidden_size
    if attention == "softmax":
        return SlotAttention(*sizes, solver, adjoint, num_heads)
    return TransportSlotAttention(*sizes, solver, adjoint, MESH_STEPS * (attention == "mesh"))


def check_attention(attention: str, num_heads: int) -> None:
    """Raise ValueError for an unknown attention, and for heads where there can be one only."""
    if attention not in ATTENTIONS:
        raise ValueError(f"attention must be one of {', '.join(ATTENTIONS)}, not {attention!r}")
    if attention != "softmax" and num_heads != 1:
        raise ValueError(f"{attention} attention has one head, not {num_heads}")


class TransportSlotAttention(SlotAttention):
    """Slot attention by entropic optimal transport between slots and inputs.

    mesh_steps   steps of MESH on the cost before the plan is made; 0 is plain Sinkhorn
    The others are those of `SlotAttention`.

    The cost of moving mass from an input to a slot is the distance of key and query. The masses of
    the inputs, and of the slots, are a softmax of what a small MLP says of each, times the number
    of slots. A slot is updated with the plan's sum of the values, which weighs as much as the
    slot's mass.

    The authors' code differs in two things that would leave no fixed point or another derivative:
    it adds noise to the cost before MESH, to part slots that are equal, and its backward pass takes
    the direction of each step of MESH for a constant. Here f is a map of the slots and the inputs
    alone, and its derivative is exact.
    """

    def __init__(
        self,
        input_size: int,
        slot_size: int,
        mlp_hidden_size: int,
        solver: Solver,
        adjoint: Adjoint,
        mesh_steps: int = 0,
    ):
        super().__init__(input_size, slot_size, mlp_hidden_size, solver, adjoint)
        self.mesh_steps = mesh_steps
        self.input_mass = _mass(input_size, mlp_hidden_size)
        self.slot_mass = _mass(slot_size, mlp_hidden_size)

    def cell(self, inputs: Tensor):
        """Return the map to iterate, slots -> (slots, masks), for inputs (B, N, input_size)."""
        inputs = self.norm_inputs(inputs)
        log_share = self.input_mass(inputs).squeeze(-1).log_softmax(-1)
        k, v = self.project_k(inputs), self.project_v(inputs)
        return partial(self.step, k=k, v=v, log_share=log_share)

    def step(self, slots: Tensor, k: Tensor, v: Tensor, log_share: Tensor) -> tuple[Tensor, Tensor]:
        """Refine the slots once.

        slots (B, K, D), keys and values (B, N, D), logarithms of the inputs' shares of all mass
        (B, N) -> new slots (B, K, D), masks (B, N, K), which sum to one over the slots.
        """
        normed = self.norm_slots(slots)
        log_total = math.log(slots.shape[1])
        log_taken = self.slot_mass(normed).squeeze(-1).log_softmax(-1) + log_total
        log_given = log_share + log_total
        cost, u = distances(self.project_q(normed), k), None
        if self.mesh_steps:
            cost, u = minimise_entropy(cost, log_taken, log_given, self.mesh_steps)
        plan = sinkhorn(cost, log_taken, log_given, u).exp()
        slots = self.gru(plan @ v, slots)
        slots = slots + self.mlp(self.norm_mlp(slots))
        return slots, (plan / plan.sum(1, keepdim=True)).mT


def distances(x: Tensor, y: Tensor) -> Tensor:
    """Return the Euclidean distances of rows: (B, K, D), (B, N, D) -> (B, K, N).

    `torch.cdist` has no second derivative.
    """
    square = x.square().sum(-1)[:, :, None] + y.square().sum(-1)[:, None] - 2 * x @ y.mT
    return square.clamp_min(1e-6).sqrt()  # where points meet, the distance has no derivative


def sinkhorn(
    cost: Tensor,
    log_rows: Tensor,
    log_columns: Tensor,
    u: Tensor | None = None,
    steps: int = SINKHORN_STEPS,
) -> Tensor:
    """Return the logarithm of a plan of transport, log T (B, K, N).

    Of all T with the marginals `rows` and `columns` the plan minimises <T, cost> - entropy(T), once
    the steps have converged; after any number of them its rows are exact.

    cost          (B, K, N)
    log_rows      (B, K), logarithms of the marginals; their masses must be the same in sum
    log_columns   (B, N)
    u             (B, K), the rows' potential to start from; none: zero
    steps         how often columns and rows are scaled, one after the other

    Source: Cuturi, Sinkhorn Distances (2013), in logarithms.
    """
    u = torch.zeros_like(log_rows) if u is None else u
    for _ in range(steps):
        u, v = _scale(cost, log_rows, log_columns, u)
    return _log_plan(cost, u, v)


def minimise_entropy(
    cost: Tensor,
    log_rows: Tensor,
    log_columns: Tensor,
    steps: int = MESH_STEPS,
    rate: float = MESH_RATE,
) -> tuple[Tensor, Tensor]:
    """Return a cost (B, K, N) whose plan has a lower entropy than the given one's, and the rows'
    potential (B, K) to make that plan from.

    MESH, minimise the entropy of Sinkhorn: steps of length `rate` down the gradient of the plan's
    entropy with respect to the cost. The plan comes near one without an entropy term, in which an
    input goes to few slots. Each step starts Sinkhorn from the potential of the step before.
    Marginals are as in `sinkhorn`.

    Source: Zhang et al. (2023).
    """
    u = None
    for _ in range(steps):
        gradient, u = entropy_gradient(cost, log_rows, log_columns, u)
        cost = cost - rate * F.normalize(gradient.flatten(1), dim=1).view_as(cost)
    return cost, u


def entropy_gradient(
    cost: Tensor,
    log_rows: Tensor,
    log_columns: Tensor,
    u: Tensor | None = None,
    steps: int = SINKHORN_STEPS,
) -> tuple[Tensor, Tensor]:
    """Return the gradient of the entropy of `sinkhorn`'s plan with respect to the cost (B, K, N),
    and the rows' potential.

    Backpropagation through the steps, written out: so it can itself be differentiated by whatever
    differentiates the cell, also within a checkpoint, where `torch.func.grad` cannot be.
    """
    u = torch.zeros_like(log_rows) if u is None else u
    trail = []
    for _ in range(steps):
        before = u
        u, v = _scale(cost, log_rows, log_columns, before)
        trail.append((before, v))
    log_plan = _log_plan(cost, u, v)
    to_plan = -log_plan.exp() * (log_plan + 1)
    to_cost, to_u, to_v = -to_plan, to_plan.sum(2), to_plan.sum(1)
    for before, after in reversed(trail):
        rows = (after[:, None] - cost).softmax(2) * to_u[:, :, None]
        to_v = to_v - rows.sum(1)
        columns = (before[:, :, None] - cost).softmax(1) * to_v[:, None]
        to_cost = to_cost + rows + columns
        to_u, to_v = -columns.sum(2), 0
    return to_cost, u


def _scale(cost: Tensor, log_rows: Tensor, log_columns: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Make the columns' marginals right, and then the rows': return u and v."""
    v = log_columns - (u[:, :, None] - cost).logsumexp(1)
    return log_rows - (v[:, None] - cost).logsumexp(2), v


def _log_plan(cost: Tensor, u: Tensor, v: Tensor) -> Tensor:
    return u[:, :, None] + v[:, None] - cost


def _mass(size: int, hidden_size: int) -> nn.Sequential:
    return nn.Sequential(
        linear(size, hidden_size, kaiming=True), nn.ReLU(), linear(hidden_size, 1, bias=False)
    )
