"""What makes the models fast on a CPU, each against the plain form that it stands for."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from paper_lib.models import DVAE, fast
from paper_lib.models.fast import causal_attention as attention_module
from paper_lib.models.fast.causal_attention import attention, causal_attention
from paper_lib.models.fast.dropout import dropout
from paper_lib.models.transformer import MultiHeadAttention


def random_inputs(T, S=None, dtype=torch.float64):
    """Queries (2, 3, T, 5), keys and values (2, 3, S, 5)."""
    generator = torch.Generator().manual_seed(T)
    return [
        torch.randn(2, 3, length, 5, generator=generator, dtype=dtype).requires_grad_()
        for length in (T, S or T, S or T)
    ]


def gradients(out, of):
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=out.dtype)
    return torch.autograd.grad(out, of, weights)


def assert_same_with_gradients(ours, plain, inputs):
    torch.testing.assert_close(ours, plain)
    torch.testing.assert_close(gradients(ours, inputs), gradients(plain, inputs))


@pytest.fixture
def masks(monkeypatch):
    """The dropout masks that attention draws, as they come."""
    drawn = []
    original = attention_module.dropout_mask

    def dropout_mask(*args):
        drawn.append(original(*args))
        return drawn[-1].clone()

    monkeypatch.setattr(attention_module, "dropout_mask", dropout_mask)
    return drawn


# ---------------------------------------------------------------- attention


@pytest.mark.parametrize("T, block", [(1, 64), (12, 64), (12, 12), (12, 4), (13, 4), (13, 1)])
def test_causal_attention_without_dropout_is_torchs(monkeypatch, T, block):
    monkeypatch.setattr(attention_module, "BLOCK", block)
    q, k, v = inputs = random_inputs(T)
    ours = attention(q, k, v, p=0.0, causal=True)
    assert_same_with_gradients(
        ours, F.scaled_dot_product_attention(q, k, v, is_causal=True), inputs
    )


def test_attention_to_few_keys_without_dropout_is_torchs():
    q, k, v = inputs = random_inputs(12, 3)
    ours = attention(q, k, v, p=0.0, causal=False)
    assert_same_with_gradients(ours, F.scaled_dot_product_attention(q, k, v), inputs)


@pytest.mark.parametrize("block", [64, 5, 3])
def test_causal_attention_with_dropout_is_that_of_the_whole_matrix(monkeypatch, masks, block):
    """The same masks, on the matrix of all weights, differentiated by autograd."""
    T, p = 11, 0.3
    monkeypatch.setattr(attention_module, "BLOCK", block)
    torch.manual_seed(0)
    q, k, v = inputs = random_inputs(T)
    ours = causal_attention(q, k, v, p)
    assert len(masks) == math.ceil(T / block)
    rows = [F.pad(mask, (0, T - mask.shape[-1])) for mask in masks]
    mask = torch.cat(rows, 1).unflatten(0, (2, 3))
    kept = mask[..., torch.ones(T, T).tril() > 0]
    assert 0.1 < (kept == 0).double().mean() < 0.5
    assert (kept[kept != 0] == 1 / (1 - p)).all()
    logits = (q @ k.mT).masked_fill(torch.ones(T, T).triu(1) > 0, -math.inf)
    assert_same_with_gradients(ours, (logits.softmax(-1) * mask) @ v, inputs)


def test_no_query_sees_a_later_key(monkeypatch):
    monkeypatch.setattr(attention_module, "BLOCK", 4)
    q, k, v = random_inputs(10)
    for t in range(10):
        dk, dv = torch.autograd.grad(causal_attention(q, k, v, 0.1)[:, :, t].sum(), (k, v))
        assert not dk[:, :, t + 1 :].any() and not dv[:, :, t + 1 :].any()
        assert dv[:, :, : t + 1].any()


def test_half_precision_stays_half():
    inputs = random_inputs(9, dtype=torch.bfloat16)
    out = causal_attention(*inputs, 0.1)
    assert out.dtype == torch.bfloat16
    assert {g.dtype for g in gradients(out, inputs)} == {torch.bfloat16}


@pytest.mark.parametrize("causal", [True, False])
def test_a_module_that_drops_next_to_nothing_computes_what_it_computes_in_evaluation(causal):
    """In training on a CPU it takes the fast form, in evaluation torch's own."""
    torch.manual_seed(0)
    module = MultiHeadAttention(16, 4, dropout=1e-9, gain=1.0)
    x = torch.randn(2, 70, 16)
    keys, values = module.keys_and_values(x if causal else x[:, :3])
    trained = module.train()(x, keys, values, causal)
    torch.testing.assert_close(trained, module.eval()(x, keys, values, causal))


# ---------------------------------------------------------------- dropout


@pytest.mark.parametrize("p", [0.003, 0.1, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("numel", [400_000, 399_999, 400_001, 399_998])
def test_dropout_rate_and_scale(p, numel):
    torch.manual_seed(11)
    x = torch.rand(numel) + 0.5
    y = dropout(x, p)
    kept = y != 0
    assert y.shape == x.shape and y.dtype == x.dtype
    rate = (~kept).double().mean().item()
    assert abs(rate - p) < 1e-5 + 4.5 * math.sqrt(p * (1 - p) / numel)
    torch.testing.assert_close(y[kept], x[kept] / (1 - p), rtol=1e-6, atol=0)


def test_dropout_takes_each_of_the_four_numbers_in_a_random_word_alike_and_apart():
    torch.manual_seed(12)
    n, p = 250_000, 0.1
    zero = (dropout(torch.ones(4 * n), p) == 0).view(n, 4).double()
    bound = 4.5 * math.sqrt(p * (1 - p) / n)
    assert ((zero.mean(0) - p).abs() < bound).all()
    # how often two numbers of a word go together: p^2, as neighbours across words do
    joint = zero.T @ zero / n
    off_diagonal = ~torch.eye(4, dtype=torch.bool)
    assert ((joint[off_diagonal] - p**2).abs() < 4.5 * math.sqrt(p**2 / n)).all()
    assert abs((zero[1:] * zero[:-1]).mean() - p**2) < 4.5 * math.sqrt(p**2 / (4 * n))


@pytest.mark.parametrize("numel", [1, 2, 3, 5])
def test_dropout_of_a_few_elements(numel):
    """The last elements of a tensor that does not fill its words count, too."""
    torch.manual_seed(13)
    zeros = torch.stack([dropout(torch.ones(numel), 0.5) == 0 for _ in range(4_000)])
    rate = zeros.double().mean(0)
    assert ((rate - 0.5).abs() < 4.5 * 0.5 / math.sqrt(4_000)).all()


def test_dropout_of_nothing_and_of_a_strided_tensor():
    assert dropout(torch.ones(0, 3), 0.5).shape == (0, 3)
    x = torch.rand(30, 20, dtype=torch.float64).T
    y = dropout(x, 0.5)
    kept = y != 0
    assert y.shape == (20, 30) and y.dtype == torch.float64 and 0.4 < kept.double().mean() < 0.6
    torch.testing.assert_close(y[kept], 2 * x[kept])


def test_gradient_of_dropout():
    x = torch.randn(7, 9, requires_grad=True)
    y = dropout(x, 0.3)
    y.backward(torch.full_like(y, 2.0))
    torch.testing.assert_close(x.grad, torch.where(y == 0, 0.0, 2 / 0.7))
    assert 0 < (x.grad == 0).sum() < x.numel()


def test_dropout_that_drops_nothing():
    x = torch.randn(1_001)
    assert torch.equal(dropout(x, 0.0), x)
    assert torch.equal(fast.Dropout(0.0).train()(x), x)
    assert torch.equal(fast.Dropout(0.5).eval()(x), x)
    assert not torch.equal(fast.Dropout(0.5).train()(x), x)


def test_dropout_is_reproducible():
    x = torch.ones(103)
    torch.manual_seed(14)
    first, second = dropout(x, 0.5), dropout(x, 0.5)
    torch.manual_seed(14)
    assert torch.equal(first, dropout(x, 0.5)) and not torch.equal(first, second)


# ---------------------------------------------------------------- convolutions


def random_dvae():
    """A dVAE whose norms have scales and biases of their own, in float64."""
    torch.manual_seed(0)
    dvae = DVAE(9).double()
    with torch.no_grad():
        for p in dvae.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return dvae


@pytest.mark.parametrize("grid", [(4, 4), (3, 5), (1, 1)])
def test_the_decoder_is_that_of_nn_sequential(grid):
    decoder = random_dvae().decoder
    tokens = torch.randn(2, 9, *grid, dtype=torch.float64).softmax(1).requires_grad_()
    image = decoder(tokens)
    assert image.shape == (2, 3, 4 * grid[0], 4 * grid[1])
    plain = nn.Sequential.forward(decoder, tokens)
    assert_same_with_gradients(image, plain, [tokens, *decoder.parameters()])


def test_log_probs_and_softmax_are_torchs_with_the_channels_last_in_memory():
    dvae, image = random_dvae(), torch.rand(2, 3, 12, 16, dtype=torch.float64)
    logits = dvae.encoder(image)
    for ours, plain in [
        (dvae.log_probs(image), F.log_softmax(logits, 1)),
        (fast.softmax(logits, 1), F.softmax(logits, 1)),
    ]:
        torch.testing.assert_close(ours, plain)
        assert ours.is_contiguous(memory_format=torch.channels_last)


def test_a_convolution_is_torchs_with_the_channels_last_in_memory():
    conv = nn.Conv2d(3, 5, 3, stride=2, padding=1, bias=False).double()
    x = torch.rand(2, 3, 9, 8, dtype=torch.float64, requires_grad=True)
    ours = fast.conv2d(x, conv.weight, conv.stride, conv.padding)
    assert ours.is_contiguous(memory_format=torch.channels_last)
    assert_same_with_gradients(ours, conv(x), [x, conv.weight])
