"""Causal attention in blocks of queries, against whole matrices, torch's own attention and autograd."""

import math

import pytest
import torch
import torch.nn.functional as F

from paper_lib.models import causal_attention as module
from paper_lib.models.causal_attention import causal_attention


def inputs(T, dtype=torch.float64):
    generator = torch.Generator().manual_seed(T)
    return [
        torch.randn(2, 3, T, 5, generator=generator, dtype=dtype).requires_grad_() for _ in range(3)
    ]


def gradients(out, of):
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=out.dtype)
    return torch.autograd.grad(out, of, weights)


@pytest.mark.parametrize("T, block", [(1, 64), (12, 64), (12, 12), (12, 4), (13, 4), (13, 1)])
def test_without_dropout_it_is_torch_s(monkeypatch, T, block):
    monkeypatch.setattr(module, "BLOCK", block)
    qkv = inputs(T)
    ours, torchs = (
        causal_attention(*qkv, 0.0),
        F.scaled_dot_product_attention(*qkv, is_causal=True, scale=1.0),
    )
    torch.testing.assert_close(ours, torchs)
    torch.testing.assert_close(gradients(ours, qkv), gradients(torchs, qkv))


@pytest.mark.parametrize("block", [64, 5, 3])
def test_with_dropout_it_is_the_whole_matrix(monkeypatch, block):
    """The same masks, on the matrix of all weights, differentiated by autograd."""
    T, p, drawn = 11, 0.3, []
    monkeypatch.setattr(module, "BLOCK", block)
    original = module.dropout_mask
    monkeypatch.setattr(
        module, "dropout_mask", lambda *args: drawn.append(original(*args)) or drawn[-1].clone()
    )
    torch.manual_seed(0)
    q, k, v = qkv = inputs(T)
    ours = causal_attention(*qkv, p)
    assert len(drawn) == math.ceil(T / block)
    mask = torch.cat([F.pad(part, (0, T - part.shape[-1])) for part in drawn], 1).unflatten(
        0, (2, 3)
    )
    kept = mask[..., torch.ones(T, T).tril() > 0]
    assert 0.1 < (kept == 0).double().mean() < 0.5 and (kept[kept != 0] == 1 / (1 - p)).all()
    whole = ((q @ k.mT).masked_fill(torch.ones(T, T).triu(1) > 0, -math.inf).softmax(-1) * mask) @ v
    torch.testing.assert_close(ours, whole)
    torch.testing.assert_close(gradients(ours, qkv), gradients(whole, qkv))


def test_no_query_sees_a_later_key(monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 4)
    q, k, v = inputs(10)
    for t in range(10):
        (dk, dv) = torch.autograd.grad(causal_attention(q, k, v, 0.1)[:, :, t].sum(), (k, v))
        assert (
            not dk[:, :, t + 1 :].any() and not dv[:, :, t + 1 :].any() and dv[:, :, : t + 1].any()
        )


def test_half_precision_stays_half():
    q, k, v = inputs(9, torch.bfloat16)
    out = causal_attention(q, k, v, 0.1)
    assert out.dtype == torch.bfloat16 and {g.dtype for g in gradients(out, (q, k, v))} == {
        torch.bfloat16
    }
