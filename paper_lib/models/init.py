"""The authors' initialisation: Xavier or Kaiming weights, orthogonal recurrence, zero biases. It is part of the setting."""

from torch import nn


def linear(
    in_features: int, out_features: int, bias: bool = True, kaiming: bool = False, gain: float = 1.0
) -> nn.Linear:
    """A linear layer; Xavier uniform with `gain`, or Kaiming uniform before a ReLU."""
    return _init(nn.Linear(in_features, out_features, bias), kaiming, gain)


def conv2d(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    stride: int = 1,
    padding: int = 0,
    bias: bool = True,
    kaiming: bool = False,
) -> nn.Conv2d:
    """A convolution; Xavier uniform, or Kaiming uniform before a ReLU."""
    return _init(
        nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=bias), kaiming
    )


def conv_transpose2d(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    stride: int,
    padding: int,
    output_padding: int,
) -> nn.ConvTranspose2d:
    """A transposed convolution; Xavier uniform."""
    return _init(
        nn.ConvTranspose2d(in_channels, out_channels, kernel_size, stride, padding, output_padding),
        kaiming=False,
    )


def gru_cell(input_size: int, hidden_size: int) -> nn.GRUCell:
    """A GRU cell; Xavier uniform input weights, orthogonal recurrent weights."""
    cell = nn.GRUCell(input_size, hidden_size)
    nn.init.xavier_uniform_(cell.weight_ih)
    nn.init.orthogonal_(cell.weight_hh)
    nn.init.zeros_(cell.bias_ih)
    nn.init.zeros_(cell.bias_hh)
    return cell


def _init(module, kaiming: bool, gain: float = 1.0):
    if kaiming:
        nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")
    else:
        nn.init.xavier_uniform_(module.weight, gain)
    if module.bias is not None:
        nn.init.zeros_(module.bias)
    return module
