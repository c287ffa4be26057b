"""What makes the models fast on a CPU, apart from them.

Nothing here is part of a model: each name stands for a plain form that computes the same.

    attention             F.scaled_dot_product_attention with dropout
    Dropout               nn.Dropout
    PixelShuffleDecoder   nn.Sequential, of the layers of the dVAE's decoder
    conv2d, softmax, log_softmax, channels_last
                          torch's own, with the channels last in memory

Dropout draws other numbers than torch's; without it, each result is the plain form's but for the
rounding.
"""

from paper_lib.models.fast.causal_attention import attention
from paper_lib.models.fast.convolution import channels_last, conv2d, log_softmax, softmax
from paper_lib.models.fast.dropout import Dropout, eager_on_cpu
from paper_lib.models.fast.pixel_shuffle import PixelShuffleDecoder

__all__ = [
    "Dropout",
    "PixelShuffleDecoder",
    "attention",
    "channels_last",
    "conv2d",
    "eager_on_cpu",
    "log_softmax",
    "softmax",
]
