"""SLATE's decoder: a pre-norm transformer that predicts each token from those before and the slots.

Source: the authors' SLATE code, which names the modules and parameters.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paper_lib.models import fast
from paper_lib.models.layers import linear, merge_heads, split_heads

KeysAndValues = tuple[Tensor, Tensor]  # (B, heads, S, d_model / heads) each


class LearnedPositionalEncoding(nn.Module):
    """Adds a learned embedding of the position, (1, max_len, d_model), then drops out.

    The embedding starts as a standard normal, cut at two standard deviations.
    """

    def __init__(self, max_len: int, d_model: int, dropout: float):
        super().__init__()
        self.dropout = fast.Dropout(dropout)  # nn.Dropout
        self.pe = nn.Parameter(torch.zeros(1, max_len, d_model))
        nn.init.trunc_normal_(self.pe)

    def forward(self, x: Tensor, offset: int = 0) -> Tensor:
        """x (B, T, d_model), whose first element has the position `offset` -> (B, T, d_model)."""
        return self.dropout(x + self.pe[:, offset : offset + x.shape[1]])


class TransformerDecoder(nn.Module):
    """A stack of blocks and a final layer norm. Output projections start at (3 layers)^-1/2."""

    def __init__(self, num_blocks: int, d_model: int, num_heads: int, dropout: float):
        super().__init__()
        gain = (3 * num_blocks) ** -0.5
        self.blocks = nn.ModuleList(
            TransformerDecoderBlock(d_model, num_heads, dropout, gain, is_first=i == 0)
            for i in range(num_blocks)
        )
        self.layer_norm = nn.LayerNorm(d_model)

    def forward(self, x: Tensor, slots: Tensor) -> Tensor:
        """All positions at once: x (B, T, d_model), slots (B, K, d_model) -> (B, T, d_model)."""
        for block in self.blocks:
            x = block(x, block.encoder_decoder_attn.keys_and_values(slots))
        return self.layer_norm(x)

    def caches(self, slots: Tensor, max_len: int) -> list[KVCache]:
        """Return what `next` needs to generate at most `max_len` tokens from slots (B, K, d_model).

        There is a cache for each block.
        """
        return [
            KVCache(block.encoder_decoder_attn.keys_and_values(slots), max_len)
            for block in self.blocks
        ]

    def next(self, x: Tensor, caches: list[KVCache]) -> Tensor:
        """One position after the other: x (B, 1, d_model), the next -> (B, 1, d_model).

        The caches hold the keys and values of the slots and of the positions before, and grow.
        """
        for block, cache in zip(self.blocks, caches):
            x = block(x, cache.slots, cache)
        return self.layer_norm(x)


class TransformerDecoderBlock(nn.Module):
    """Self-attention over the tokens, attention to the slots, feed-forward; each with a residual.

    In the authors' code the first block adds its self-attention to the normalised input, the other
    blocks to the input.
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
            fast.Dropout(dropout),  # nn.Dropout
        )

    def forward(self, x: Tensor, slots: KeysAndValues, cache: KVCache | None = None) -> Tensor:
        """x (B, T, d_model), keys and values of the slots -> (B, T, d_model).

        The tokens attend to each other, causally. With a cache x is the next token (T = 1), which
        attends to those that the cache holds, and to itself.
        """
        normed = self.self_attn_layer_norm(x)
        keys, values = self.self_attn.keys_and_values(normed)
        if cache is not None:
            keys, values = cache.append(keys, values)
        attended = self.self_attn(normed, keys, values, causal=cache is None)
        x = (normed if self.is_first else x) + attended
        x = x + self.encoder_decoder_attn(self.encoder_decoder_attn_layer_norm(x), *slots)
        return x + self.ffn(self.ffn_layer_norm(x))


class MultiHeadAttention(nn.Module):
    """Multi-head attention without biases, with dropout of the attention and of the output.

    gain   scale of the initial output projection
    """

    def __init__(self, d_model: int, num_heads: int, dropout: float, gain: float):
        super().__init__()
        if d_model % num_heads:
            raise ValueError(f"d_model {d_model} is not a multiple of num_heads {num_heads}")
        self.num_heads = num_heads
        self.dropout = dropout
        self.proj_q = linear(d_model, d_model, bias=False)
        self.proj_k = linear(d_model, d_model, bias=False)
        self.proj_v = linear(d_model, d_model, bias=False)
        self.proj_o = linear(d_model, d_model, bias=False, gain=gain)
        self.output_dropout = fast.Dropout(dropout)  # nn.Dropout

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, causal: bool = False) -> Tensor:
        """x (B, T, d_model), what `keys_and_values` made of the source -> (B, T, d_model)."""
        queries = split_heads(self.proj_q(x), self.num_heads)
        p = self.dropout if self.training else 0.0
        if p == 0 or not fast.eager_on_cpu(x):
            attended = F.scaled_dot_product_attention(
                queries, keys, values, dropout_p=p, is_causal=causal
            )
        else:  # the same, where torch has no fused kernel with dropout
            attended = fast.attention(queries, keys, values, p, causal)
        return self.output_dropout(self.proj_o(merge_heads(attended)))

    def keys_and_values(self, source: Tensor) -> KeysAndValues:
        """source (B, S, d_model) -> keys and values, (B, heads, S, d_model / heads) each."""
        keys = split_heads(self.proj_k(source), self.num_heads)
        values = split_heads(self.proj_v(source), self.num_heads)
        return keys, values


class KVCache:
    """A block's keys and values while tokens are generated: the slots', and the tokens' so far.

    The memory is there from the start: a new token copies no old one.
    """

    def __init__(self, slots: KeysAndValues, max_len: int):
        self.slots = slots
        slot_keys, _ = slots
        batch, heads, _, size = slot_keys.shape
        self.keys = slot_keys.new_empty(batch, heads, max_len, size)
        self.values = torch.empty_like(self.keys)
        self.length = 0

    def append(self, keys: Tensor, values: Tensor) -> KeysAndValues:
        """Take the next token's, (B, heads, 1, size) each, and return those of all so far."""
        self.keys[:, :, self.length] = keys[:, :, 0]
        self.values[:, :, self.length] = values[:, :, 0]
        self.length += 1
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]
