"""Locatello et al. (2020), set prediction: each slot is classified into one object's properties."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from paper_lib.fixed_point import Adjoint, Solution, Solver
from paper_lib.models.conv_encoder import ConvEncoder
from paper_lib.models.layers import linear
from paper_lib.models.sizes import check_sizes
from paper_lib.models.slot_encoder import SlotEncoder
from paper_lib.models.variants import solver_and_adjoint

# 3 position, 2 size, 2 material, 3 shape, 8 colour, 1 present: the columns of a scene's properties
NUM_PROPERTIES = 19


@dataclass(frozen=True)
class SetPredictionConfig:
    """Sizes of the set predictor, and how its slot attention is solved and differentiated.

    The defaults are Locatello et al.'s.

    channels                 of the encoder's convolutions
    strides                  of each of them
    classifier_hidden_size   of the MLP that reads a slot
    variant                  a row of Table 2, a name in `VARIANTS`
    num_iterations           the variant's number of iterations
    solver, adjoint          replace the variant's: objects of `paper_lib.fixed_point`
    """

    image_size: int = 128
    channels: int = 64
    strides: tuple[int, ...] = (1, 2, 2, 1)
    slot_size: int = 64
    mlp_hidden_size: int = 128
    num_slots: int = 10
    num_iterations: int = 3
    classifier_hidden_size: int = 64
    variant: str = "IN"
    solver: Solver | None = None
    adjoint: Adjoint | None = None

    def __post_init__(self):
        check_sizes(self)
        solver_and_adjoint(self)  # refuses a pair that makes no sense


@dataclass
class SetPredictionOutput:
    """What the set predictor makes of images.

    predictions             (B, K, 19), the last of them the confidence that there is an object
    slots, attn, solution   as `SlotOutput`; attn is None for a model without attention
    """

    predictions: Tensor
    slots: Tensor
    attn: Tensor | None
    solution: Solution


class SetPredictor(nn.Module):
    """Encoder, slot attention, an MLP that reads every slot alike.

    The loss is `metrics.hungarian_huber_loss`.
    """

    def __init__(self, config: SetPredictionConfig):
        super().__init__()
        c = self.config = config
        self.encoder = ConvEncoder(c.image_size, c.channels, c.strides)
        solver, adjoint = solver_and_adjoint(c)
        self.slot_attn = SlotEncoder(
            c.channels, c.slot_size, c.mlp_hidden_size, c.num_slots, solver, adjoint
        )
        self.classifier = nn.Sequential(
            linear(c.slot_size, c.classifier_hidden_size),
            nn.ReLU(),
            linear(c.classifier_hidden_size, NUM_PROPERTIES),
            nn.Sigmoid(),
        )

    def forward(
        self, image: Tensor, slot_noise: Tensor | None = None, solver: Solver | None = None
    ) -> SetPredictionOutput:
        """image (B, 3, H, W) in [0, 1] -> predictions in (0, 1), as many as the noise has slots.

        slot_noise   (B, K, D) standard normal, drawn if not given
        solver       another one than the config's, as at test time
        """
        out = self.slot_attn(self.encoder(image), slot_noise, solver)
        predictions = self.classifier(out.slots)
        return SetPredictionOutput(predictions, out.slots, out.attn, out.solution)
