"""SLATE (Singh et al. 2021): dVAE tokens in, slots in the middle, a transformer that predicts the tokens from the slots."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paper_lib.models.dvae import DVAE, gumbel_softmax
from paper_lib.models.init import linear
from paper_lib.models.slot_attention import variant
from paper_lib.models.slot_encoder import SlotEncoder, SlotOutput
from paper_lib.models.transformer import Cache, PositionalEncoding, TransformerDecoder


@dataclass(frozen=True)
class SLATEConfig:
    """Sizes of a SLATE, and how its slot attention is solved and differentiated (`variant`, a name in `VARIANTS`)."""

    image_size: int = 64
    vocab_size: int = 1024
    d_model: int = 192
    slot_size: int = 192
    mlp_hidden_size: int = 192
    num_slots: int = 12
    num_iterations: int = 7
    num_slot_heads: int = 1
    num_dec_blocks: int = 4
    num_heads: int = 4
    dropout: float = 0.1
    variant: str = "IN"


@dataclass
class SLATEOutput:
    """cross_entropy: summed over tokens, mean over images; mse: summed over pixels and channels, mean over images; slots, attn as `SlotOutput`."""

    cross_entropy: Tensor
    mse: Tensor
    slots: Tensor
    attn: Tensor


class SLATE(nn.Module):
    """Module and parameter names are those of the authors' code, so that their weights load as they are."""

    def __init__(self, config: SLATEConfig):
        super().__init__()
        c = self.config = config
        if c.image_size % 4:
            raise ValueError(
                f"image_size {c.image_size} is not a multiple of 4: a token covers 4x4 pixels"
            )
        self.num_tokens = (c.image_size // 4) ** 2
        self.dvae = DVAE(c.vocab_size)
        self.positional_encoder = PositionalEncoding(1 + self.num_tokens, c.d_model, c.dropout)
        solver, adjoint = variant(c.variant, c.num_iterations)
        self.slot_attn = SlotEncoder(
            c.d_model,
            c.slot_size,
            c.mlp_hidden_size,
            c.num_slots,
            solver,
            adjoint,
            c.num_slot_heads,
        )
        self.dictionary = TokenDictionary(c.vocab_size, c.d_model)
        self.slot_proj = linear(c.slot_size, c.d_model, bias=False)
        self.tf_dec = TransformerDecoder(c.num_dec_blocks, c.d_model, c.num_heads, c.dropout)
        self.out = linear(c.d_model, c.vocab_size, bias=False)

    @classmethod
    def from_official(cls, state_dict: dict[str, Tensor], config: SLATEConfig) -> SLATE:
        """A model with weights saved by the authors' SLATE code. Raises RuntimeError naming every key that does not fit `config`."""
        model = cls(config)
        # their causal masks are parameters; ours are computed
        model.load_state_dict(
            {k: v for k, v in state_dict.items() if not k.endswith("self_attn_mask")}
        )
        return model

    def forward(self, image: Tensor, tau: float, hard: bool = False) -> SLATEOutput:
        """One training pass: image (B, 3, H, W) in [0, 1]; tau: Gumbel temperature of the relaxed sample that the dVAE decodes.

        The decoder's targets are tokens drawn apart from that sample. No gradient flows between the dVAE and the rest.
        """
        log_probs = self.dvae.log_probs(image)
        mse = (
            image - self.dvae.decoder(gumbel_softmax(log_probs, tau, hard))
        ).square().sum() / len(image)
        cross_entropy, out = self.autoencode(_draw(log_probs.detach()))
        return SLATEOutput(cross_entropy.mean(), mse, out.slots, out.attn)

    def autoencode(
        self, tokens: Tensor, slot_noise: Tensor | None = None
    ) -> tuple[Tensor, SlotOutput]:
        """tokens (B, N) -> cross entropy (B,) summed over tokens, and the slots they were predicted from.

        Slot attention and the decoder see the same embeddings, dropout included, as in the authors' code.
        """
        embedded = self.embed(tokens)
        out = self.slot_attn(embedded[:, 1:], slot_noise)
        return self._cross_entropy(embedded, tokens, out.slots), out

    def tokenize(self, image: Tensor) -> Tensor:
        """image (B, 3, H, W) in [0, 1] -> (B, N) most likely tokens, row by row."""
        return self.dvae.encoder(image).argmax(1).flatten(1)

    def sample_tokens(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """image (B, 3, H, W) in [0, 1] -> (B, N) tokens drawn from the dVAE's posterior. No gradient."""
        with torch.no_grad():
            return _draw(self.dvae.log_probs(image), generator)

    def infer_slots(self, tokens: Tensor, slot_noise: Tensor | None = None) -> SlotOutput:
        """tokens (B, N) -> slots and masks. slot_noise (B, K, D), standard normal, drawn if not given."""
        return self.slot_attn(self.embed(tokens)[:, 1:], slot_noise)

    def slot_cell(self, tokens: Tensor):
        """The map slots -> (slots, masks) that slot attention iterates for tokens (B, N): what a spectral norm is the norm of."""
        return self.slot_attn.cell(self.embed(tokens)[:, 1:])

    def cross_entropy(self, tokens: Tensor, slots: Tensor) -> Tensor:
        """tokens (B, N), slots (B, K, D) -> (B,) cross entropy of the tokens, summed over them, each predicted from those before it."""
        return self._cross_entropy(self.embed(tokens), tokens, slots)

    @torch.no_grad()
    def generate_tokens(self, slots: Tensor) -> Tensor:
        """slots (B, K, D) -> (B, N) tokens, one after the other, the most likely each time. Call it in eval mode.

        Keys and values of past tokens, and of the slots, are kept, so that a token costs one position's work.
        """
        projected = self.tf_dec.project_slots(self.slot_proj(slots))
        rows = [
            torch.zeros(len(slots), 1, dtype=torch.int64, device=slots.device)
        ]  # row 0 is the start token, row t + 1 token t
        caches = [Cache(self.num_tokens) for _ in self.tf_dec.blocks]
        for i in range(self.num_tokens):
            x = self.tf_dec(
                self.positional_encoder(self.dictionary(rows[-1]), offset=i), projected, caches
            )
            rows.append(self.out(x).argmax(-1) + 1)
        return torch.cat(rows[1:], 1) - 1

    def decode_tokens(self, tokens: Tensor) -> Tensor:
        """tokens (B, N) -> image (B, 3, H, W) in [0, 1]."""
        side = self.config.image_size // 4
        one_hot = F.one_hot(tokens.view(-1, side, side), self.config.vocab_size).movedim(-1, 1)
        return self.dvae.decoder(one_hot.to(self.out.weight.dtype)).clamp(0, 1)

    def embed(self, tokens: Tensor) -> Tensor:
        """tokens (B, N) -> embeddings of the start token and the tokens (B, 1 + N, d_model)."""
        return self.positional_encoder(self.dictionary(F.pad(tokens + 1, (1, 0))))

    def _cross_entropy(self, embedded: Tensor, tokens: Tensor, slots: Tensor) -> Tensor:
        hidden = self.tf_dec(embedded[:, :-1], self.tf_dec.project_slots(self.slot_proj(slots)))
        return (
            F.cross_entropy(self.out(hidden).flatten(0, 1), tokens.flatten(), reduction="none")
            .view_as(tokens)
            .sum(1)
        )


class TokenDictionary(nn.Module):
    """Embeddings of tokens (standard normal); row 0 is the start token, token t is row t + 1."""

    def __init__(self, vocab_size: int, d_model: int):
        super().__init__()
        self.dictionary = nn.Embedding(vocab_size + 1, d_model)

    def forward(self, rows: Tensor) -> Tensor:
        return self.dictionary(rows)


def _draw(log_probs: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """(B, vocab, h, w) -> (B, h * w) tokens, each from its categorical distribution, by inverting its cumulative one: one random number a token."""
    log_probs = log_probs.to(
        torch.promote_types(log_probs.dtype, torch.float32)
    )  # bfloat16's sums would be too coarse to draw from
    cumulative = log_probs.exp().movedim(1, -1).flatten(1, 2).cumsum(-1)  # (B, h * w, vocab)
    u = (
        torch.rand(
            cumulative[..., :1].shape,
            generator=generator,
            device=cumulative.device,
            dtype=cumulative.dtype,
        )
        * cumulative[..., -1:]
    )
    return (
        torch.searchsorted(cumulative, u, right=True).squeeze(-1).clamp_max(log_probs.shape[1] - 1)
    )
