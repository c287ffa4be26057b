"""SLATE's discrete VAE: an image becomes a grid of tokens, one for 4x4 pixels, and tokens an image.

Source: Ramesh et al. (2021); the layers of the authors' SLATE code.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paper_lib.models import fast
from paper_lib.models.layers import conv2d


class DVAE(nn.Module):
    """An encoder and a decoder between images and tokens, of which there are `vocab_size`.

    encoder   image (B, 3, H, W) -> logits (B, vocab_size, H/4, W/4)
    decoder   one-hot tokens, which may be relaxed (B, vocab_size, H/4, W/4) -> image (B, 3, H, W)
    """

    def __init__(self, vocab_size: int):
        super().__init__()
        self.encoder = nn.Sequential(
            ConvBlock(3, 64, 4, stride=4),
            ConvBlock(64, 64, 1),
            ConvBlock(64, 64, 1),
            ConvBlock(64, 64, 1),
            ConvBlock(64, 64, 1),
            ConvBlock(64, 64, 1),
            ConvBlock(64, 64, 1),
            conv2d(64, vocab_size, 1),
        )
        # nn.Sequential would compute the same, more slowly.
        self.decoder = fast.PixelShuffleDecoder(
            ConvBlock(vocab_size, 64, 1),
            ConvBlock(64, 64, 3, padding=1),
            ConvBlock(64, 64, 1),
            ConvBlock(64, 64, 1),
            ConvBlock(64, 4 * 64, 1),
            nn.PixelShuffle(2),
            ConvBlock(64, 64, 3, padding=1),
            ConvBlock(64, 64, 1),
            ConvBlock(64, 64, 1),
            ConvBlock(64, 4 * 64, 1),
            nn.PixelShuffle(2),
            conv2d(64, 3, 1),
        )

    def log_probs(self, image: Tensor) -> Tensor:
        """Return the tokens' log-probabilities (B, vocab_size, H/4, W/4) for images in [0, 1]."""
        return fast.log_softmax(self.encoder(image), dim=1)  # F.log_softmax, without a copy


class ConvBlock(nn.Module):
    """Convolution without bias, group norm with one group, ReLU.

    The parameters keep the names of the authors' code: `m` is the convolution, `weight` and `bias`
    are the norm's.
    """

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
        # self.m(x), with the channels last in memory
        x = fast.conv2d(x, self.m.weight, self.m.stride, self.m.padding)
        return F.relu(F.group_norm(x, 1, self.weight, self.bias), inplace=True)


def gumbel_softmax(log_probs: Tensor, tau: float, hard: bool = False) -> Tensor:
    """Draw relaxed one-hot tokens (B, vocab_size, h, w) at temperature tau.

    hard: they are one-hot, with the relaxed sample's gradient.

    Source: Jang et al. (2017), Maddison et al. (2017).
    """
    noisy = log_probs + _gumbel_noise_like(log_probs)
    soft = fast.softmax(noisy.div_(tau), dim=1)  # F.softmax, without a copy
    if not hard:
        return soft
    one_hot = torch.zeros_like(soft).scatter_(1, soft.argmax(1, keepdim=True), 1.0)
    return one_hot - soft.detach() + soft


def sample_categorical(log_probs: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw tokens from (B, vocab_size, h, w) log-probabilities: (B, h * w), row by row.

    Each takes one random number, at which its cumulative distribution is inverted.
    """
    log_probs = log_probs.to(_float32_at_least(log_probs))
    cumulative = log_probs.exp().movedim(1, -1).flatten(1, 2).cumsum(-1)  # (B, h * w, vocab_size)
    total = cumulative[..., -1:]  # one, but for rounding
    uniform = torch.rand(total.shape, generator=generator, device=total.device, dtype=total.dtype)
    tokens = torch.searchsorted(cumulative, uniform * total, right=True).squeeze(-1)
    return tokens.clamp_max(log_probs.shape[1] - 1)


def _gumbel_noise_like(x: Tensor) -> Tensor:
    """Return -log(-log(u)) for uniform u."""
    noise = torch.rand_like(x, dtype=_float32_at_least(x))
    noise.clamp_min_(torch.finfo(noise.dtype).tiny)
    return noise.log_().neg_().log_().neg_()


def _float32_at_least(x: Tensor) -> torch.dtype:
    """Return the precision to draw in: sums and random numbers in half precision are too coarse."""
    return torch.promote_types(x.dtype, torch.float32)
