"""Locatello et al.'s convolutional encoder: from a picture to features that know where they lie."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from paper_lib.models import fast
from paper_lib.models.layers import conv2d, linear


class ConvEncoder(nn.Module):
    """5x5 convolutions, each followed by a ReLU, then the position embedding.

    image_size   side of the square images, in pixels
    channels     of every convolution
    strides      one for each convolution; `side`, of the grid of features, is image_size divided by
                 their product

    Raises ValueError if image_size is no multiple of that product.
    """

    def __init__(self, image_size: int, channels: int, strides: tuple[int, ...]):
        super().__init__()
        if not strides or image_size % math.prod(strides):
            raise ValueError(
                f"strides must be at least one, and image_size {image_size} a multiple of their "
                f"product: {strides}"
            )
        self.side = image_size // math.prod(strides)
        layers = []
        in_channels = 3
        for stride in strides:
            layers += [conv2d(in_channels, channels, 5, stride, padding=2), nn.ReLU()]
            in_channels = channels
        self.cnn = fast.channels_last(nn.Sequential(*layers))  # nn.Sequential
        self.position = PositionEmbedding(channels, self.side)

    def forward(self, image: Tensor) -> Tensor:
        """image (B, 3, H, W) in [0, 1] -> features (B, side * side, channels), row by row."""
        x = self.cnn(2 * image - 1)  # the authors' networks see [-1, 1]
        return self.position(x).flatten(2).mT


class PositionEmbedding(nn.Module):
    """Adds to features (B, channels, side, side) a learned linear map of each cell's position.

    A position is x, y, 1 - x, 1 - y, all in [0, 1].

    Source: Locatello et al., the "soft" position embedding.
    """

    def __init__(self, channels: int, side: int):
        super().__init__()
        self.project = linear(4, channels)
        places = torch.linspace(0, 1, side)
        y, x = torch.meshgrid(places, places, indexing="ij")
        self.register_buffer("grid", torch.stack([x, y, 1 - x, 1 - y], -1), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        return features + self.project(self.grid).movedim(-1, 0)

    @torch.no_grad()
    def centre(self, gain: float) -> None:
        """Multiply the embedding's slopes in x and y by `gain`, and make it zero in the middle."""
        x, y = gain * self.project.weight[:, :2].T
        self.project.weight.copy_(torch.stack([x, y, -x, -y], 1))
        self.project.bias.zero_()
