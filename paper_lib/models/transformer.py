"""SLATE's autoregressive decoder: a pre-norm transformer that predicts the next token from the tokens so far and the slots."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paper_lib.models.causal_attention import causal_attention
from paper_lib.models.dropout import Dropout, dropout, slow_on
from paper_lib.models.init import linear


class PositionalEncoding(nn.Module):
    """Adds a learned position embedding (1, max_len, d_model) of standard deviation 1, then dropout."""

    def __init__(self, max_len: int, d_model: int, dropout: float):
        super().__init__()
        self.dropout = Dropout(dropout)
        self.pe = nn.Parameter(torch.zeros(1, max_len, d_model))
        nn.init.trunc_normal_(self.pe)

    def forward(self, x: Tensor, offset: int = 0) -> Tensor:
        return self.dropout(x + self.pe[:, offset : offset + x.shape[1]])


class MultiHeadAttention(nn.Module):
    """Multi-head attention without biases; `gain` scales the initial output projection."""

    def __init__(self, d_model: int, num_heads: int, dropout: float, gain: float):
        super().__init__()
        if d_model % num_heads:
            raise ValueError(f"d_model {d_model} is not a multiple of num_heads {num_heads}")
        self.num_heads, self.dropout = num_heads, dropout
        self.proj_q = linear(d_model, d_model, bias=False)
        self.proj_k = linear(d_model, d_model, bias=False)
        self.proj_v = linear(d_model, d_model, bias=False)
        self.proj_o = linear(d_model, d_model, bias=False, gain=gain)

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, causal: bool = False) -> Tensor:
        """x (B, T, d_model); keys, values (B, heads, S, d_model / heads) from `project` -> (B, T, d_model)."""
        q = self._heads(self.proj_q(x))
        p = self.dropout if self.training else 0.0
        if not p or not slow_on(x):
            out = F.scaled_dot_product_attention(q, keys, values, dropout_p=p, is_causal=causal)
        elif causal:
            out = causal_attention(q * q.shape[-1] ** -0.5, keys, values, p)
        else:  # the softmax over a few slots is ten times as fast where they are not last
            weights = (keys @ (q * q.shape[-1] ** -0.5).transpose(-1, -2)).softmax(
                -2
            )  # (B, heads, S, T)
            out = dropout(weights, p).transpose(-1, -2) @ values
        return dropout(self.proj_o(out.transpose(1, 2).flatten(2)), p)

    def project(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """source (B, S, d_model) -> keys and values, (B, heads, S, d_model / heads) each."""
        return self._heads(self.proj_k(source)), self._heads(self.proj_v(source))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class Block(nn.Module):
    """Self-attention over the tokens, attention to the slots, feed-forward; each with a residual.

    The first block of the authors' code adds its self-attention to the normalised input; the others to the input.
    """

    def __init__(self, d_model: int, num_heads: int, dropout: float, gain: float, is_first: bool):
        super().__init__()
        self.is_first = is_first
        self.self_attn_layer_norm = nn.LayerNorm(d_model)
        self.self_attn = MultiHeadAttention(d_model, num_heads, dropout, gain)
        self.encoder_decoder_attn_layer_norm = nn.LayerNorm(d_model)
        self.encoder_decoder_attn = MultiHeadAttention(d_model, num_heads, dropout, gain)
        self.ffn_layer_norm = nn.LayerNorm(d_model)
        self.ffn = nn.Sequential(
            linear(d_model, 4 * d_model, kaiming=True),
            nn.ReLU(),
            linear(4 * d_model, d_model, gain=gain),
            Dropout(dropout),
        )

    def forward(
        self, x: Tensor, slots: tuple[Tensor, Tensor], cache: Cache | None = None
    ) -> Tensor:
        """x (B, T, d_model); slots: their projected keys and values -> (B, T, d_model).

        Without a cache the T tokens attend to each other, causally. With one, x is the next token (T = 1), after those whose keys and values it holds.
        """
        normed = self.self_attn_layer_norm(x)
        keys, values = self.self_attn.project(normed)
        if cache is not None:
            keys, values = cache.append(keys, values)
        attended = self.self_attn(normed, keys, values, causal=cache is None)
        x = (normed if self.is_first else x) + attended
        x = x + self.encoder_decoder_attn(self.encoder_decoder_attn_layer_norm(x), *slots)
        return x + self.ffn(self.ffn_layer_norm(x))


class Cache:
    """A block's keys and values of the tokens so far, in memory that is there from the start: a new token copies no old one."""

    def __init__(self, max_len: int):
        self.max_len, self.length = max_len, 0

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Of the next token, (B, heads, 1, d_model / heads) each -> of all so far, (B, heads, length, d_model / heads)."""
        if not self.length:
            self.memory = keys.new_empty(2, *keys.shape[:2], self.max_len, keys.shape[-1])
        self.memory[0, :, :, self.length], self.memory[1, :, :, self.length] = (
            keys[:, :, 0],
            values[:, :, 0],
        )
        self.length += 1
        return self.memory[:, :, :, : self.length].unbind()


class TransformerDecoder(nn.Module):
    """A stack of blocks and a final layer norm. Output projections start scaled by (3 layers)^-1/2."""

    def __init__(self, num_blocks: int, d_model: int, num_heads: int, dropout: float):
        super().__init__()
        gain = (3 * num_blocks) ** -0.5
        self.blocks = nn.ModuleList(
            Block(d_model, num_heads, dropout, gain, is_first=i == 0) for i in range(num_blocks)
        )
        self.layer_norm = nn.LayerNorm(d_model)

    def project_slots(self, slots: Tensor) -> list[tuple[Tensor, Tensor]]:
        """slots (B, K, d_model) -> each block's keys and values of them."""
        return [block.encoder_decoder_attn.project(slots) for block in self.blocks]

    def forward(
        self, x: Tensor, slots: list[tuple[Tensor, Tensor]], caches: list[Cache] | None = None
    ) -> Tensor:
        """x (B, T, d_model), projected slots -> (B, T, d_model). With `caches`, one a block, x is the next token (T = 1)."""
        for block, projected, cache in zip(self.blocks, slots, caches or [None] * len(slots)):
            x = block(x, projected, cache)
        return self.layer_norm(x)
