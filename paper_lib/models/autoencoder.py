"""Locatello et al. (2020), object discovery: each slot draws a picture and says where it shows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from paper_lib.fixed_point import Adjoint, Solution, Solver
from paper_lib.models import fast
from paper_lib.models.conv_encoder import ConvEncoder, PositionEmbedding
from paper_lib.models.layers import conv2d, conv_transpose2d
from paper_lib.models.sizes import check_sizes
from paper_lib.models.slot_encoder import SlotEncoder
from paper_lib.models.variants import solver_and_adjoint


@dataclass(frozen=True)
class AutoencoderConfig:
    """Sizes of the autoencoder, and how its slot attention is solved and differentiated.

    The defaults are Locatello et al.'s.

    channels           of the encoder's convolutions
    strides            of each of them
    broadcast_size     side of the grid over which the decoder broadcasts a slot
    decoder_channels   of the decoder's convolutions
    decoder_strides    of each of them but the last, 1 or 2; image_size is broadcast_size times
                       their product
    init               "authors", or "apart" for short trainings: see `start_apart`
    variant            a row of Table 2, a name in `VARIANTS`
    num_iterations     the variant's number of iterations
    solver, adjoint    replace the variant's: objects of `paper_lib.fixed_point`
    """

    image_size: int = 128
    channels: int = 64
    strides: tuple[int, ...] = (1, 1, 1, 1)
    slot_size: int = 64
    mlp_hidden_size: int = 128
    num_slots: int = 7
    num_iterations: int = 3
    broadcast_size: int = 8
    decoder_channels: int = 64
    decoder_strides: tuple[int, ...] = (2, 2, 2, 2, 1)
    init: str = "authors"
    variant: str = "IN"
    solver: Solver | None = None
    adjoint: Adjoint | None = None

    def __post_init__(self):
        check_sizes(self)
        solver_and_adjoint(self)  # refuses a pair that makes no sense


@dataclass
class AutoencoderOutput:
    """What the autoencoder makes of images. Pictures are about [0, 1], not clipped to it.

    reconstruction          (B, 3, H, W), the sum of the components under their masks
    components              (B, K, 3, H, W), each slot's picture
    masks                   (B, K, H, W), which sum to one over the slots
    slots, attn, solution   as `SlotOutput`
    """

    reconstruction: Tensor
    components: Tensor
    masks: Tensor
    slots: Tensor
    attn: Tensor
    solution: Solution


class SlotAttentionAutoEncoder(nn.Module):
    """Encoder, slot attention, spatial broadcast decoder.

    Images are in [0, 1], as everywhere here; inside, the networks work in [-1, 1] as the authors'
    do. A mean squared error is a quarter of theirs for it.
    """

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        c = self.config = config
        self.encoder = ConvEncoder(c.image_size, c.channels, c.strides)
        solver, adjoint = solver_and_adjoint(c)
        self.slot_attn = SlotEncoder(
            c.channels, c.slot_size, c.mlp_hidden_size, c.num_slots, solver, adjoint
        )
        self.decoder = SpatialBroadcastDecoder(
            c.slot_size, c.broadcast_size, c.decoder_channels, c.decoder_strides, c.image_size
        )
        if c.init not in ("authors", "apart"):
            raise ValueError(f"init must be 'authors' or 'apart', not {c.init!r}")
        if c.init == "apart":
            self.start_apart()

    def forward(
        self, image: Tensor, slot_noise: Tensor | None = None, solver: Solver | None = None
    ) -> AutoencoderOutput:
        """image (B, 3, H, W) in [0, 1] -> AutoencoderOutput, with as many slots as the noise has.

        slot_noise   (B, K, D) standard normal, drawn if not given
        solver       another one than the config's, as at test time
        """
        out = self.slot_attn(self.encoder(image), slot_noise, solver)
        reconstruction, components, masks = self.decode(out.slots)
        return AutoencoderOutput(
            reconstruction, components, masks, out.slots, out.attn, out.solution
        )

    def decode(self, slots: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """slots (B, K, D) -> reconstruction, components, masks, as in `AutoencoderOutput`."""
        colours, logits = self.decoder(slots).split([3, 1], dim=2)
        components = (colours + 1) / 2
        masks = logits.softmax(dim=1)
        reconstruction = (masks * components).sum(dim=1)
        return reconstruction, components, masks.squeeze(2)

    @torch.no_grad()
    def start_apart(self) -> None:
        """Draw the weights anew so that every slot has a part of the picture from the start.

        As the authors draw them, nothing tells slots apart at first but their initial noise. It
        only harms the reconstruction, so it is trained away, all slots are drawn into one, and it
        takes a long training to part them again. PyTorch's own weights, which are smaller, change
        slots less in an iteration; larger position embeddings, zero in the middle of the picture,
        and larger queries make slots compete for different places; without biases in between, no
        slot wins all of them.
        """
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
                module.reset_parameters()
        self.encoder.position.centre(gain=2)
        self.decoder.position.centre(gain=4)
        self.slot_attn.mlp[0].bias.zero_()
        self.slot_attn.mlp[2].bias.zero_()
        self.slot_attn.slot_attention.project_q.weight *= 6


class SpatialBroadcastDecoder(nn.Module):
    """A slot at every cell of a small grid, its position added, then convolutions with ReLUs.

    Of the 5x5 convolutions each with stride 2 is transposed and doubles the side; a 3x3 is the
    last.

    Source: Watters et al. (2019), "Spatial Broadcast Decoder"; Locatello et al. for the sizes.
    Raises ValueError where image_size is not what the strides make of broadcast_size.
    """

    def __init__(
        self,
        slot_size: int,
        broadcast_size: int,
        channels: int,
        strides: tuple[int, ...],
        image_size: int,
    ):
        super().__init__()
        fits = image_size == broadcast_size * math.prod(strides)
        if not strides or set(strides) - {1, 2} or not fits:
            raise ValueError(
                f"decoder_strides must be ones and twos, and image_size {image_size} be "
                f"broadcast_size {broadcast_size} times them all: {strides}"
            )
        self.side = broadcast_size
        self.position = PositionEmbedding(slot_size, broadcast_size)
        layers = []
        in_channels = slot_size
        for stride in strides:
            layers += [_convolution(in_channels, channels, stride), nn.ReLU()]
            in_channels = channels
        layers.append(conv2d(channels, 4, 3, padding=1))
        self.cnn = fast.channels_last(nn.Sequential(*layers))  # nn.Sequential

    def forward(self, slots: Tensor) -> Tensor:
        """slots (B, K, D) -> (B, K, 4, H, W): red, green, blue, and the logit of the mask."""
        grid = slots.flatten(0, 1)[:, :, None, None].expand(-1, -1, self.side, self.side)
        return self.cnn(self.position(grid)).unflatten(0, slots.shape[:2])


def _convolution(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if stride == 1:  # transposed, it would be the same convolution with its kernel turned around
        return conv2d(in_channels, out_channels, 5, padding=2)
    return conv_transpose2d(in_channels, out_channels, 5, stride=2, padding=2, output_padding=1)
