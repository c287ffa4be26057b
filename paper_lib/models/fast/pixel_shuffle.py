"""The dVAE's decoder, with pixel shuffles that copy runs of memory instead of single numbers."""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from paper_lib.models.fast.convolution import conv2d


class PixelShuffleDecoder(nn.Sequential):
    """nn.Sequential of convolution blocks, pixel shuffles, and a 1x1 convolution at the end.

    The layers are `dvae.ConvBlock`s, two or more of them followed by nn.PixelShuffle(2); the last
    pixel shuffle comes right before the 1x1 convolution. It is computed after it: a 1x1 convolution
    treats every pixel alike, and leaves fewer channels to be shuffled.
    """

    def forward(self, x: Tensor) -> Tensor:
        *layers, _, last_conv = self
        for layer, following in pairwise(layers):
            if isinstance(following, nn.PixelShuffle):
                x = _lay_out(_four_pixels(layer, x))
            elif not isinstance(layer, nn.PixelShuffle):
                x = layer(x)
        x = _four_pixels(layers[-1], x)
        x = F.linear(x, last_conv.weight.flatten(1), last_conv.bias)
        return _lay_out(x)


def _four_pixels(block, x: Tensor) -> Tensor:
    """block(x), as the four pixels that a pixel shuffle makes of every place.

    (B, C, H, W) -> (B, H, W, 2, 2, out_channels / 4). nn.PixelShuffle(2) takes a pixel's channels
    from every fourth channel. The weights are brought into an order in which they are neighbours.
    """
    kernel = _every_fourth_together(block.m.weight)
    weight = _every_fourth_together(block.weight)
    bias = _every_fourth_together(block.bias)
    x = conv2d(x, kernel, block.m.stride, block.m.padding)
    x = F.relu(F.group_norm(x, 1, weight, bias), inplace=True)
    return x.permute(0, 2, 3, 1).unflatten(-1, (2, 2, -1))


def _every_fourth_together(weight: Tensor) -> Tensor:
    return weight.unflatten(0, (-1, 4)).transpose(0, 1).flatten(0, 1)


def _lay_out(pixels: Tensor) -> Tensor:
    """(B, H, W, 2, 2, C) -> (B, C, 2 H, 2 W), with the channels last in memory."""
    rows = pixels.transpose(2, 3)  # (B, H, 2, W, 2, C)
    return rows.flatten(1, 2).flatten(2, 3).permute(0, 3, 1, 2)
