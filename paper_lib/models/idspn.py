"""iDSPN (Zhang et al. 2022): a set is found by descent, until its code is that of the image.

An image is encoded as a vector, a set is encoded as a vector, and the set that is predicted is one
whose vector is the image's. What iterates is a step of gradient descent on the set, so that its
fixed point is a minimum, and the solvers and adjoints of `paper_lib.fixed_point` apply as they do
to slots.

Source: Zhang, Zhang, Lacoste-Julien, Burghouts and Snoek, Multiset-Equivariant Set Prediction with
Approximate Implicit Differentiation (2022). The image's encoder is the one of the set predictor
with slots, not their ResNet.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from paper_lib.fixed_point import Adjoint, Solver, check_pair, fixed_point
from paper_lib.models.conv_encoder import ConvEncoder
from paper_lib.models.layers import linear
from paper_lib.models.set_prediction import NUM_PROPERTIES, SetPredictionOutput
from paper_lib.models.sizes import check_sizes
from paper_lib.models.slot_encoder import SlotOutput
from paper_lib.models.variants import solver_and_adjoint


@dataclass(frozen=True)
class IDSPNConfig:
    """Sizes of an iDSPN, and how its minimum is found and differentiated.

    The defaults are the authors' for pictures of 128x128, where they have any.

    channels, strides   of the image encoder's convolutions
    hidden_size         of the MLP that reads an element of the set
    code_size           of the vectors that images and sets are encoded as
    num_slots           elements of the set
    num_iterations      steps of the descent (theirs: half as many in the first half of training)
    rate, momentum      of the descent, Nesterov's
    clip                largest norm of its gradient, an image's set at a time
    variant             a row of Table 2, a name in `VARIANTS`
    solver, adjoint     replace the variant's: objects of `paper_lib.fixed_point`
    """

    image_size: int = 128
    channels: int = 64
    strides: tuple[int, ...] = (2, 2, 2, 2)
    hidden_size: int = 512
    code_size: int = 512
    num_slots: int = 10
    num_iterations: int = 40
    rate: float = 1.0
    momentum: float = 0.9
    clip: float = 10.0
    variant: str = "IN"
    solver: Solver | None = None
    adjoint: Adjoint | None = None

    def __post_init__(self):
        check_sizes(self)
        if not (self.rate > 0 and 0 <= self.momentum < 1 and self.clip > 0):
            raise ValueError(
                "rate and clip must be above 0 and momentum at least 0 and below 1, not "
                f"{self.rate}, {self.clip} and {self.momentum}"
            )
        solver_and_adjoint(self)  # refuses a pair that makes no sense


class IDSPN(nn.Module):
    """An encoder of images, and the descent to a set whose code is the image's.

    The loss is `metrics.hungarian_huber_loss`.
    """

    def __init__(self, config: IDSPNConfig):
        super().__init__()
        c = self.config = config
        features = ConvEncoder(c.image_size, c.channels, c.strides)
        size = features.side**2 * c.channels
        self.encoder = nn.Sequential(
            features, nn.Flatten(), nn.LayerNorm(size), linear(size, c.code_size)
        )
        set_encoder = SetEncoder(NUM_PROPERTIES, c.hidden_size, c.code_size, c.num_slots)
        self.descent = SetDescent(set_encoder, *solver_and_adjoint(c), c.rate, c.momentum, c.clip)

    def forward(
        self, image: Tensor, slot_noise: Tensor | None = None, solver: Solver | None = None
    ) -> SetPredictionOutput:
        """image (B, 3, H, W) in [0, 1] -> predictions (B, K, 19), real numbers; no attention.

        slot_noise   (B, K, 19) standard normal, which the descent starts from, drawn if not given
        solver       another one than the config's, as at test time
        """
        out = self.descent(self.encoder(image), slot_noise, solver)
        sets, _ = out.slots.chunk(2, dim=-1)
        return SetPredictionOutput(sets, out.slots, None, out.solution)


class SetEncoder(nn.Module):
    """An MLP on every element, then each feature sorted over the elements, and a weighted sum.

    Which element a weight meets depends on the sort: the gradient with respect to the set can part
    elements that are nearly equal, which no function of each element and a sum of all can do.

    size            features of an element
    hidden_size     of the MLP
    code_size       of the vector that a set is encoded as
    num_elements    of the sets: the weights are as many

    Source: Zhang et al., FSPool (2020).
    """

    def __init__(self, size: int, hidden_size: int, code_size: int, num_elements: int):
        super().__init__()
        self.size = size
        self.num_elements = num_elements
        self.mlp = nn.Sequential(
            linear(size, hidden_size, kaiming=True), nn.ReLU(), linear(hidden_size, code_size)
        )
        self.weight = nn.Parameter(torch.empty(num_elements, code_size))
        nn.init.normal_(self.weight, std=num_elements**-0.5)

    def forward(self, sets: Tensor) -> Tensor:
        """sets (B, K, size) -> codes (B, code_size). The order of the elements does not matter."""
        features = self.mlp(sets)
        return (features * self._weights(features)).sum(1)

    def energy(self, sets: Tensor, codes: Tensor) -> Tensor:
        """sets (B, K, size), codes (B, code_size) -> half their mean squared difference, (B,)."""
        return (self(sets) - codes).square().mean(1) / 2

    def energy_gradient(self, sets: Tensor, codes: Tensor) -> Tensor:
        """Return the gradient of the energy with respect to the sets (B, K, size).

        Backpropagation, written out: so it can itself be differentiated by whatever differentiates
        the descent, also within a checkpoint, where `torch.func.grad` cannot be.
        """
        first, _, second = self.mlp
        hidden = first(sets)
        features = second(hidden.relu())
        weights = self._weights(features)
        error = ((features * weights).sum(1) - codes) / codes.shape[1]
        to_features = weights * error[:, None]
        return (to_features @ second.weight * (hidden > 0)) @ first.weight

    def _weights(self, features: Tensor) -> Tensor:
        """Return the weight that each feature (B, K, code_size) meets once they are sorted."""
        ranks = features.detach().argsort(1).argsort(1)
        return self.weight.expand(len(features), -1, -1).gather(1, ranks)


class SetDescent(nn.Module):
    """Descent on the energy of a set, as the search for a fixed point.

    What iterates is the set and its velocity, side by side: (B, K, 2 size). Where it stands still,
    the velocity is zero and so is the gradient of the energy.

    set_encoder            the g of the energy ||g(set) - code||^2
    solver, adjoint        any pair of `paper_lib.fixed_point`
    rate, momentum, clip   as `IDSPNConfig`

    Their approximate implicit differentiation is `Neumann(1)` of this map: it sends dl/dset into
    the gradient of the energy, and takes the Hessian for the identity. Here that gradient is
    multiplied by the length of the step, rate (1 + momentum), which is theirs without.
    """

    def __init__(
        self,
        set_encoder: SetEncoder,
        solver: Solver,
        adjoint: Adjoint,
        rate: float = 1.0,
        momentum: float = 0.9,
        clip: float = 10.0,
    ):
        super().__init__()
        check_pair(solver, adjoint)
        self.set_encoder = set_encoder
        self.num_slots = set_encoder.num_elements
        self.slot_size = set_encoder.size
        self.solver = solver
        self.adjoint = adjoint
        self.rate = rate
        self.momentum = momentum
        self.clip = clip

    def forward(
        self, codes: Tensor, slot_noise: Tensor | None = None, solver: Solver | None = None
    ) -> SlotOutput:
        """codes (B, code_size) -> sets and velocities (B, K, 2 size), as slots without attention.

        slot_noise, solver   as `IDSPN`
        """
        if slot_noise is None:
            shape = len(codes), self.num_slots, self.slot_size
            slot_noise = torch.randn(shape, device=codes.device, dtype=codes.dtype)
        solution = fixed_point(
            self.cell(codes),
            self.initial_slots(slot_noise),
            solver=solver or self.solver,
            adjoint=self.adjoint,
            has_aux=True,
        )
        return SlotOutput(solution.value, None, solution)

    def initial_slots(self, noise: Tensor) -> Tensor:
        """Standard normal noise (B, K, size) -> a tenth of it, at rest, (B, K, 2 size).

        Raises ValueError for another number of elements than the set encoder has weights for.
        """
        if noise.shape[1] != self.num_slots:
            raise ValueError(f"sets have {self.num_slots} elements, not {noise.shape[1]}")
        return torch.cat([0.1 * noise, torch.zeros_like(noise)], -1)

    def cell(self, codes: Tensor):
        """Return the map to iterate for codes (B, code_size): (B, K, 2 size) -> (the same, None).

        The second is where slot attention has its masks.
        """
        return partial(self.step, codes=codes)

    def step(self, state: Tensor, codes: Tensor) -> tuple[Tensor, None]:
        """Take a step of Nesterov's, as `torch.optim.SGD` does."""
        sets, velocity = state.chunk(2, dim=-1)
        gradient = clipped(self.set_encoder.energy_gradient(sets, codes), self.clip)
        velocity = self.momentum * velocity + gradient
        sets = sets - self.rate * (gradient + self.momentum * velocity)
        return torch.cat([sets, velocity], -1), None


def clipped(gradient: Tensor, largest: float) -> Tensor:
    """Return gradients (B, K, D) shortened to a norm of `largest`, each sample's by itself."""
    norm = torch.linalg.vector_norm(gradient, dim=(1, 2), keepdim=True)
    return gradient * (largest / norm.clamp_min(largest))
