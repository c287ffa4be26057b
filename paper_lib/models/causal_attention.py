"""Causal attention with dropout, for training on a CPU, where torch's own has no fused kernel."""

from __future__ import annotations

import torch
from torch import Tensor

from paper_lib.models.dropout import dropout_mask

BLOCK = 64  # queries at a time


def causal_attention(q: Tensor, k: Tensor, v: Tensor, p: float) -> Tensor:
    """dropout(softmax(q k^T, over the keys up to the query's own), p) v, for q, k, v (batch, heads, T, size), q scaled -> (batch, heads, T, size).

    Queries are taken in blocks, each with the keys up to its last: of what the mask hides, only a triangle in each block is computed.
    """
    out = _CausalAttention.apply(*(x.flatten(0, 1) for x in (q, k, v)), p)
    return out.unflatten(0, q.shape[:2])


class _CausalAttention(torch.autograd.Function):
    """On (N, T, size). By hand, since autograd's gradient of a slice is a whole tensor of zeros, one for each block."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, p: float) -> Tensor:
        out, kept = torch.empty_like(q), []
        for start, stop in _blocks(q):
            hidden = torch.full((stop - start, stop), -torch.inf, dtype=q.dtype).triu_(start + 1)
            weights = torch.baddbmm(hidden, q[:, start:stop], k[:, :stop].transpose(1, 2)).softmax(
                -1
            )
            dropped = dropout_mask(weights.shape, p, weights.dtype).mul_(weights)
            torch.bmm(dropped, v[:, :stop], out=out[:, start:stop])
            kept += [weights, dropped]
        ctx.save_for_backward(q, k, v, out, *kept)
        return out

    @staticmethod
    def backward(ctx, g: Tensor):
        q, k, v, out, *kept = ctx.saved_tensors
        # softmax's backward pass subtracts each query's mean of its weights' gradients; dropout included, that mean is g . out
        mean = (g * out).sum(-1, keepdim=True)
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for (start, stop), weights, dropped in zip(_blocks(q), kept[::2], kept[1::2]):
            block = g[:, start:stop]
            dv[:, :stop].baddbmm_(dropped.transpose(1, 2), block)
            d_logits = (
                torch.bmm(block, v[:, :stop].transpose(1, 2))
                .mul_(dropped)
                .addcmul_(weights, mean[:, start:stop], value=-1)
            )
            torch.bmm(d_logits, k[:, :stop], out=dq[:, start:stop])
            dk[:, :stop].baddbmm_(d_logits.transpose(1, 2), q[:, start:stop])
        return dq, dk, dv, None


def _blocks(q: Tensor) -> list[tuple[int, int]]:
    T = q.shape[1]
    return [(start, min(start + BLOCK, T)) for start in range(0, T, BLOCK)]
