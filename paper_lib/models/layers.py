"""Torch's layers with the authors' initialisation, which is part of the setting; attention's heads.

Weights are Xavier or Kaiming uniform, recurrent ones orthogonal, biases zero. Torch's own draws,
which come first and are overwritten, stay: without them a seed would give other weights.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def linear(
    in_features: int, out_features: int, bias: bool = True, kaiming: bool = False, gain: float = 1.0
) -> nn.Linear:
    """Return a linear layer: Xavier uniform with `gain`, or Kaiming uniform before a ReLU."""
    return _initialised(nn.Linear(in_features, out_features, bias), kaiming, gain)


def conv2d(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    stride: int = 1,
    padding: int = 0,
    bias: bool = True,
    kaiming: bool = False,
) -> nn.Conv2d:
    """Return a convolution: Xavier uniform, or Kaiming uniform before a ReLU."""
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=bias)
    return _initialised(conv, kaiming)


def conv_transpose2d(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    stride: int,
    padding: int,
    output_padding: int,
) -> nn.ConvTranspose2d:
    """Return a transposed convolution, Xavier uniform."""
    conv = nn.ConvTranspose2d(
        in_channels, out_channels, kernel_size, stride, padding, output_padding
    )
    return _initialised(conv)


class GRUCell(nn.GRUCell):
    """nn.GRUCell, started as the authors start it, with its formula written out.

    On a GPU torch's fused kernel has no forward-mode derivative, which a spectral norm needs.
    """

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.xavier_uniform_(self.weight_ih)
        nn.init.orthogonal_(self.weight_hh)
        nn.init.zeros_(self.bias_ih)
        nn.init.zeros_(self.bias_hh)

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        """x (..., input_size), hidden (..., hidden_size) -> (..., hidden_size)."""
        from_x = F.linear(x, self.weight_ih, self.bias_ih)
        from_hidden = F.linear(hidden, self.weight_hh, self.bias_hh)
        size = hidden.shape[-1]
        # both gates in one pass
        gates = torch.sigmoid(from_x[..., : 2 * size] + from_hidden[..., : 2 * size])
        reset, update = gates.chunk(2, dim=-1)
        new = torch.tanh(from_x[..., 2 * size :] + reset * from_hidden[..., 2 * size :])
        return new + update * (hidden - new)


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """(B, T, D) -> (B, heads, T, D / heads)."""
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(B, heads, T, D / heads) -> (B, T, D)."""
    return x.transpose(1, 2).flatten(2)


def _initialised(layer, kaiming: bool = False, gain: float = 1.0):
    if kaiming:
        nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
    else:
        nn.init.xavier_uniform_(layer.weight, gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
