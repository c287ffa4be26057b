"""SLATE's autoregressive decoder: a pre-norm transformer that predicts the next token from the tokens so far and the slots."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paper_lib.models.dropout import Dropout, dropout
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
        if p and x.device.type == "cpu":  # torch's own has no fused CPU kernel with dropout, and is slower than this
            q = q * q.shape[-1] ** -0.5
            if causal:
                weights = (q @ keys.transpose(-1, -2)).add_(torch.full((q.shape[-2],) * 2, -torch.inf, dtype=q.dtype).triu(1)).softmax(-1)
                out = dropout(weights, p) @ values
            else:  # the softmax over a few slots is ten times as fast where they are not last
                weights = (keys @ q.transpose(-1, -2)).softmax(-2)  # (B, heads, S, T)
                out = dropout(weights, p).transpose(-1, -2) @ values
        else:
            out = F.scaled_dot_product_attention(q, keys, values, dropout_p=p, is_causal=causal)
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
        self.ffn = nn.Sequential(linear(d_model, 4 * d_model, kaiming=True), nn.ReLU(), linear(4 * d_model, d_model, gain=gain), Dropout(dropout))

    def forward(self, x: Tensor, slots: tuple[Tensor, Tensor], past: tuple[Tensor, Tensor] | None = None):
        """x (B, T, d_model); slots: their projected keys and values -> x, and the self-attention's keys and values.

        Without `past` the T tokens attend to each other, causally. With it, x is the next token (T = 1), after those whose keys and values `past` holds.
        """
        normed = self.self_attn_layer_norm(x)
        keys, values = self.self_attn.project(normed)
        if past is not None:
            keys, values = torch.cat([past[0], keys], 2), torch.cat([past[1], values], 2)
        attended = self.self_attn(normed, keys, values, causal=past is None)
        x = (normed if self.is_first else x) + attended
        x = x + self.encoder_decoder_attn(self.encoder_decoder_attn_layer_norm(x), *slots)
        return x + self.ffn(self.ffn_layer_norm(x)), (keys, values)


class TransformerDecoder(nn.Module):
    """A stack of blocks and a final layer norm. Output projections start scaled by (3 layers)^-1/2."""

    def __init__(self, num_blocks: int, d_model: int, num_heads: int, dropout: float):
        super().__init__()
        gain = (3 * num_blocks) ** -0.5
        self.blocks = nn.ModuleList(Block(d_model, num_heads, dropout, gain, is_first=i == 0) for i in range(num_blocks))
        self.layer_norm = nn.LayerNorm(d_model)

    def project_slots(self, slots: Tensor) -> list[tuple[Tensor, Tensor]]:
        """slots (B, K, d_model) -> each block's keys and values of them."""
        return [block.encoder_decoder_attn.project(slots) for block in self.blocks]

    def forward(self, x: Tensor, slots: list, past: list | None = None) -> tuple[Tensor, list]:
        """x (B, T, d_model), projected slots, what the last call returned as the past -> (B, T, d_model), the past including x."""
        present = []
        for i, block in enumerate(self.blocks):
            x, cache = block(x, slots[i], None if past is None else past[i])
            present.append(cache)
        return self.layer_norm(x), present
