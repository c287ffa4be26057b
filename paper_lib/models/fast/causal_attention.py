"""Attention with dropout, for training on a CPU, where torch's own has no fused kernel for it."""

from __future__ import annotations

import torch
from torch import Tensor

from paper_lib.models.fast.dropout import dropout, dropout_mask

BLOCK = 64  # queries at a time


def attention(q: Tensor, k: Tensor, v: Tensor, p: float, causal: bool) -> Tensor:
    """dropout(softmax(q k^T / sqrt(size)), p) v, as F.scaled_dot_product_attention computes it.

    q (batch, heads, T, size), k and v (batch, heads, S, size) -> (batch, heads, T, size).
    causal: a query sees the keys up to its own place only.
    """
    q = q * q.shape[-1] ** -0.5
    if causal:
        return causal_attention(q, k, v, p)
    # The softmax over few keys, such as slots, is ten times as fast where they do not lie last.
    weights = (k @ q.mT).softmax(dim=-2)  # (batch, heads, S, T)
    return dropout(weights, p).mT @ v


def causal_attention(q: Tensor, k: Tensor, v: Tensor, p: float) -> Tensor:
    """dropout(softmax(q k^T, over the keys up to the query's own), p) v.

    q (scaled), k, v (batch, heads, T, size) -> (batch, heads, T, size). Queries are taken in
    blocks, each with the keys up to its last: of what the mask hides, only a triangle in each
    block is computed.
    """
    batch_and_heads = q.shape[:2]
    q, k, v = (x.flatten(0, 1) for x in (q, k, v))
    return _CausalAttention.apply(q, k, v, p).unflatten(0, batch_and_heads)


class _CausalAttention(torch.autograd.Function):
    """`causal_attention` of (N, T, size).

    The gradient is written by hand, since autograd's gradient of a slice is a whole tensor of
    zeros, one for each block.
    """

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, p: float) -> Tensor:
        out = torch.empty_like(q)
        kept = []
        for start, stop in _blocks(q):
            seen_k, seen_v = k[:, :stop], v[:, :stop]
            hidden = torch.full((stop - start, stop), -torch.inf, dtype=q.dtype).triu_(start + 1)
            logits = torch.baddbmm(hidden, q[:, start:stop], seen_k.mT)
            weights = logits.softmax(dim=-1)
            dropped = dropout_mask(weights.shape, p, weights.dtype).mul_(weights)
            torch.bmm(dropped, seen_v, out=out[:, start:stop])
            kept += [weights, dropped]
        ctx.save_for_backward(q, k, v, out, *kept)
        return out

    @staticmethod
    def backward(ctx, d_out: Tensor):
        q, k, v, out, *kept = ctx.saved_tensors
        # The softmax's backward pass subtracts each query's mean of its weights' gradients.
        # With the dropout, that mean is d_out . out.
        mean = (d_out * out).sum(dim=-1, keepdim=True)
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for (start, stop), weights, dropped in zip(_blocks(q), kept[::2], kept[1::2]):
            d_block = d_out[:, start:stop]
            dv[:, :stop].baddbmm_(dropped.mT, d_block)
            d_logits = torch.bmm(d_block, v[:, :stop].mT).mul_(dropped)
            d_logits.addcmul_(weights, mean[:, start:stop], value=-1)
            torch.bmm(d_logits, k[:, :stop], out=dq[:, start:stop])
            dk[:, :stop].baddbmm_(d_logits.mT, q[:, start:stop])
        return dq, dk, dv, None


def _blocks(q: Tensor) -> list[tuple[int, int]]:
    T = q.shape[1]
    return [(start, min(start + BLOCK, T)) for start in range(0, T, BLOCK)]
