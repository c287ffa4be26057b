"""Training in bfloat16 on a processor that cannot multiply it."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from paper_lib.system.machine import bfloat16_gain

aten = torch.ops.aten
PRODUCTS = {op: op.overloadpacket for op in (
    aten.mm.default, aten.addmm.default, aten.bmm.default, aten.bmm.out, aten.baddbmm.default, aten.convolution.default, aten.convolution_backward.default,
)}  # fmt: skip
IN_PLACE = {aten.baddbmm_.default: aten.baddbmm}


def is_emulated(precision: str, device: str) -> bool:
    """Whether training in this precision takes float32's products and rounds them: bfloat16, on a processor that is slower at it."""
    return precision == "bfloat16" and torch.device(device).type == "cpu" and bfloat16_gain() < 1


def bfloat16_products(precision: str, device: str):
    """The context in which a training step's passes run: `Float32Products` where the precision is emulated, else none."""
    return Float32Products() if is_emulated(precision, device) else nullcontext()


class Float32Products(TorchDispatchMode):
    """Within it matrix products and convolutions of bfloat16 numbers run in float32, and their results are rounded to bfloat16.

    This is what a processor with bfloat16 products computes: it, too, adds them up in float32. Without them torch takes fifty times as long.
    """

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        product = PRODUCTS.get(function) or IN_PLACE.get(function)
        if product is None or not any(
            isinstance(a, Tensor) and a.dtype == torch.bfloat16 for a in args
        ):
            return function(*args, **kwargs)
        out = args[0] if function in IN_PLACE else kwargs.pop("out", None)
        result = product(*tree_map_only(Tensor, Tensor.float, args), **kwargs)
        return tree_map_only(Tensor, Tensor.bfloat16, result) if out is None else out.copy_(result)
