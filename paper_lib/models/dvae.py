"""SLATE's discrete VAE: an image becomes a grid of tokens, 4x4 pixels each, and tokens become an image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paper_lib.models.init import conv2d


class ConvBlock(nn.Module):
    """Convolution without bias, group norm with one group, ReLU. Parameter names as in the authors' code (`m` is the convolution)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
    ):
        super().__init__()
        self.m = conv2d(
            in_channels, out_channels, kernel_size, stride, padding, bias=False, kaiming=True
        )
        self.weight = nn.Parameter(torch.ones(out_channels))
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        return self._apply_weights(x, self.m.weight, self.weight, self.bias)

    def pixels(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, H, W, 2, 2, out_channels / 4): `pixel_shuffle` lays these four pixels of each place out as a picture of twice the size.

        The weights are brought into an order in which a pixel's channels lie side by side in memory, so that runs of them are copied, not single numbers.
        """
        y = self._apply_weights(
            x,
            *(
                w.unflatten(0, (-1, 4)).transpose(0, 1).flatten(0, 1)
                for w in (self.m.weight, self.weight, self.bias)
            ),
        )
        return y.permute(0, 2, 3, 1).unflatten(-1, (2, 2, -1))

    def _apply_weights(self, x: Tensor, kernel: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        x, kernel = (
            t.contiguous(memory_format=torch.channels_last) for t in (x, kernel)
        )  # faster on a CPU, and on a GPU in half precision
        x = F.conv2d(x, kernel, None, self.m.stride, self.m.padding)
        return F.relu(F.group_norm(x, 1, weight, bias), inplace=True)


def pixel_shuffle(pixels: Tensor) -> Tensor:
    """(B, H, W, 2, 2, C) -> (B, C, 2 H, 2 W), the channels last in memory."""
    return pixels.transpose(2, 3).flatten(1, 2).flatten(2, 3).permute(0, 3, 1, 2)


class Decoder(nn.Sequential):
    """Convolution blocks, two of them followed by a pixel shuffle, and a 1x1 convolution: it comes before the last shuffle, and leaves three channels to it."""

    def forward(self, tokens: Tensor) -> Tensor:
        *layers, _, last = self
        x = tokens
        for layer, following in zip(layers, layers[1:]):
            if isinstance(layer, ConvBlock):
                x = (
                    pixel_shuffle(layer.pixels(x))
                    if isinstance(following, nn.PixelShuffle)
                    else layer(x)
                )
        return pixel_shuffle(F.linear(layers[-1].pixels(x), last.weight.flatten(1), last.bias))


class DVAE(nn.Module):
    """Encoder (B, 3, H, W) -> logits (B, vocab, H/4, W/4); decoder: (relaxed) one-hot tokens (B, vocab, H/4, W/4) -> image (B, 3, H, W).

    Source: Ramesh et al. 2021; the layers of the authors' SLATE code.
    """

    def __init__(self, vocab_size: int, channels: int = 3, width: int = 64):
        super().__init__()
        w = width
        self.encoder = nn.Sequential(
            ConvBlock(channels, w, 4, 4),
            *[ConvBlock(w, w, 1) for _ in range(6)],
            conv2d(w, vocab_size, 1),
        )
        self.decoder = Decoder(
            ConvBlock(vocab_size, w, 1), ConvBlock(w, w, 3, 1, 1), ConvBlock(w, w, 1), ConvBlock(w, w, 1), ConvBlock(w, 4 * w, 1), nn.PixelShuffle(2),
            ConvBlock(w, w, 3, 1, 1), ConvBlock(w, w, 1), ConvBlock(w, w, 1), ConvBlock(w, 4 * w, 1), nn.PixelShuffle(2),
            conv2d(w, channels, 1),
        )  # fmt: skip

    def log_probs(self, image: Tensor) -> Tensor:
        """image (B, 3, H, W) in [0, 1] -> log-probabilities of the tokens (B, vocab, H/4, W/4)."""
        return F.log_softmax(self.encoder(image).movedim(1, -1), -1).movedim(
            -1, 1
        )  # the tokens lie last in memory: no copy


def gumbel_like(logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Standard Gumbel noise in the shape of `logits`, in float32 at least."""
    dtype = torch.promote_types(logits.dtype, torch.float32)
    uniform = torch.empty_like(logits, dtype=dtype).uniform_(
        generator=generator
    )  # a CPU draws it five times as fast as exponential_
    return uniform.clamp_min_(torch.finfo(dtype).tiny).log_().neg_().log_().neg_()


def gumbel_softmax(logits: Tensor, tau: float, hard: bool = False, dim: int = 1) -> Tensor:
    """A relaxed sample of the categorical distribution along `dim`; `hard` makes it one-hot forward and keeps the relaxed gradient."""
    soft = F.softmax((logits + gumbel_like(logits)).div_(tau).movedim(dim, -1), -1).movedim(-1, dim)
    if not hard:
        return soft
    one_hot = torch.zeros_like(soft).scatter_(dim, soft.argmax(dim, keepdim=True), 1.0)
    return one_hot - soft.detach() + soft
