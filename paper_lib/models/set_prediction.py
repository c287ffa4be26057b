"""Locatello et al. (2020), set prediction: slots from a convolutional encoder, each classified into one object's properties."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from paper_lib.fixed_point import Solution
from paper_lib.models.encoder import ConvEncoder
from paper_lib.models.init import linear
from paper_lib.models.slot_attention import variant
from paper_lib.models.slot_encoder import SlotEncoder

NUM_PROPERTIES = 19  # 3 position, 2 size, 2 material, 3 shape, 8 colour, 1 present: the columns of `data.scenes.properties`


@dataclass(frozen=True)
class SetPredictionConfig:
    """Sizes of the set predictor (defaults: Locatello et al.'s), and how its slot attention is solved and differentiated (`variant`, a name in `VARIANTS`).

    channels                 of the encoder's convolutions
    strides                  of each of them
    classifier_hidden_size   of the MLP that reads a slot
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


@dataclass
class SetPredictionOutput:
    """predictions (B, K, 19), all in (0, 1), the last the confidence that there is an object; slots (B, K, D), attn (B, N, K), solution: as `SlotOutput`."""

    predictions: Tensor
    slots: Tensor
    attn: Tensor
    solution: Solution


class SetPredictor(nn.Module):
    """Encoder, slot attention, an MLP that reads every slot alike. The loss is `metrics.hungarian_huber_loss`."""

    def __init__(self, config: SetPredictionConfig):
        super().__init__()
        c = self.config = config
        self.encoder = ConvEncoder(c.image_size, c.channels, c.strides)
        self.slot_attn = SlotEncoder(
            c.channels,
            c.slot_size,
            c.mlp_hidden_size,
            c.num_slots,
            *variant(c.variant, c.num_iterations),
        )
        self.classifier = nn.Sequential(
            linear(c.slot_size, c.classifier_hidden_size),
            nn.ReLU(),
            linear(c.classifier_hidden_size, NUM_PROPERTIES),
            nn.Sigmoid(),
        )

    def forward(
        self, image: Tensor, slot_noise: Tensor | None = None, num_iterations: int | None = None
    ) -> SetPredictionOutput:
        """image (B, 3, H, W) in [0, 1]; slot_noise (B, K, D), standard normal, drawn if not given. At test time K may be another number of slots than the
        config's, and num_iterations another number of iterations."""
        out = self.slot_attn(self.encoder(image), slot_noise, num_iterations)
        return SetPredictionOutput(self.classifier(out.slots), out.slots, out.attn, out.solution)
