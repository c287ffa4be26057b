"""Training in bfloat16 on a processor that cannot multiply it."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from paper_lib.system.device import is_cuda
from paper_lib.system.machine import bfloat16_gain

aten = torch.ops.aten
PRODUCTS = {
    aten.mm.default: aten.mm,
    aten.addmm.default: aten.addmm,
    aten.bmm.default: aten.bmm,
    aten.bmm.out: aten.bmm,
    aten.baddbmm.default: aten.baddbmm,
    aten.convolution.default: aten.convolution,
    aten.convolution_backward.default: aten.convolution_backward,
}
IN_PLACE = {aten.baddbmm_.default: aten.baddbmm}


def is_emulated(precision: str, device: str) -> bool:
    """Return whether training in this precision takes float32's products and rounds them.

    It does in bfloat16, on a processor that is slower at it than at float32.
    """
    return precision == "bfloat16" and not is_cuda(device) and bfloat16_gain() < 1


def bfloat16_products(precision: str, device: str):
    """Return the context in which a training step's passes run: `Float32Products` where the
    precision is emulated, and none elsewhere."""
    return Float32Products() if is_emulated(precision, device) else nullcontext()


class Float32Products(TorchDispatchMode):
    """Within it, matrix products and convolutions of bfloat16 numbers run in float32, and their
    results are rounded to bfloat16.

    This is what a processor with bfloat16 products computes: it, too, adds them up in float32.
    Without such products torch takes fifty times as long.
    """

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        product = PRODUCTS.get(function) or IN_PLACE.get(function)
        halves = [a for a in args if isinstance(a, Tensor) and a.dtype == torch.bfloat16]
        if product is None or not halves:
            return function(*args, **kwargs)
        out = args[0] if function in IN_PLACE else kwargs.pop("out", None)
        result = product(*tree_map_only(Tensor, Tensor.float, args), **kwargs)
        if out is not None:
            return out.copy_(result)
        return tree_map_only(Tensor, Tensor.bfloat16, result)
