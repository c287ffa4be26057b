"""SLATE (Singh et al. 2021): a dVAE's tokens, slots, and a transformer that predicts the tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paper_lib.fixed_point import Adjoint, Solver
from paper_lib.models.dvae import DVAE, gumbel_softmax, sample_categorical
from paper_lib.models.layers import linear
from paper_lib.models.sizes import check_sizes
from paper_lib.models.slot_encoder import SlotEncoder, SlotOutput, check_initial
from paper_lib.models.transformer import LearnedPositionalEncoding, TransformerDecoder
from paper_lib.models.transport import check_attention
from paper_lib.models.variants import solver_and_adjoint


@dataclass(frozen=True)
class SLATEConfig:
    """Sizes of a SLATE, and how its slot attention is solved and differentiated.

    variant           a row of Table 2, a name in `VARIANTS`
    num_iterations    the variant's number of iterations
    solver, adjoint   replace the variant's: objects of `paper_lib.fixed_point`
    initial           initial slots: "drawn", or "learned" as in `SlotEncoder`
    attention         how slots compete: "softmax", or by optimal transport, "sinkhorn" or "mesh"
    """

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
    solver: Solver | None = None
    adjoint: Adjoint | None = None
    initial: str = "drawn"
    attention: str = "softmax"

    def __post_init__(self):
        check_sizes(self)
        check_initial(self.initial)
        check_attention(self.attention, self.num_slot_heads)
        solver_and_adjoint(self)  # refuses a pair that makes no sense


@dataclass
class SLATEOutput:
    """What a training pass gives.

    cross_entropy   summed over tokens, mean over images
    mse             squared error, summed over pixels and channels, mean over images
    slots, attn     as `SlotOutput`
    """

    cross_entropy: Tensor
    mse: Tensor
    slots: Tensor
    attn: Tensor


class SLATE(nn.Module):
    """Module and parameter names are those of the authors' code, so that their weights load.

    Raises ValueError for an image_size that is no multiple of 4.
    """

    def __init__(self, config: SLATEConfig):
        super().__init__()
        c = self.config = config
        if c.image_size % 4:
            raise ValueError(
                f"image_size {c.image_size} is not a multiple of 4: a token covers 4x4 pixels"
            )
        self.num_tokens = (c.image_size // 4) ** 2
        self.dvae = DVAE(c.vocab_size)
        self.positional_encoder = LearnedPositionalEncoding(
            1 + self.num_tokens, c.d_model, c.dropout
        )
        solver, adjoint = solver_and_adjoint(c)
        self.slot_attn = SlotEncoder(
            c.d_model,
            c.slot_size,
            c.mlp_hidden_size,
            c.num_slots,
            solver,
            adjoint,
            c.num_slot_heads,
            c.initial,
            c.attention,
        )
        self.dictionary = TokenEmbedding(c.vocab_size, c.d_model)
        self.slot_proj = linear(c.slot_size, c.d_model, bias=False)
        self.tf_dec = TransformerDecoder(c.num_dec_blocks, c.d_model, c.num_heads, c.dropout)
        self.out = linear(c.d_model, c.vocab_size, bias=False)

    @classmethod
    def from_official(cls, state_dict: dict[str, Tensor], config: SLATEConfig) -> SLATE:
        """Return a model with weights that were saved by the authors' SLATE code.

        Raises RuntimeError naming every key that does not fit `config`.
        """
        model = cls(config)
        # Their causal masks are parameters; ours are computed.
        weights = {k: v for k, v in state_dict.items() if not k.endswith("self_attn_mask")}
        model.load_state_dict(weights)
        return model

    def forward(self, image: Tensor, tau: float, hard: bool = False) -> SLATEOutput:
        """Make one training pass over images (B, 3, H, W) in [0, 1].

        tau, hard: temperature of the relaxed sample that the dVAE decodes, and whether it is made
        one-hot. The decoder's targets are tokens drawn apart from that sample. No gradient flows
        between the dVAE and the rest.
        """
        log_probs = self.dvae.log_probs(image)
        decoded = self.dvae.decoder(gumbel_softmax(log_probs, tau, hard))
        mse = (image - decoded).square().sum() / len(image)
        tokens = sample_categorical(log_probs.detach())
        cross_entropy, out = self.autoencode(tokens)
        return SLATEOutput(cross_entropy.mean(), mse, out.slots, out.attn)

    def autoencode(
        self, tokens: Tensor, slot_noise: Tensor | None = None
    ) -> tuple[Tensor, SlotOutput]:
        """tokens (B, N) -> cross entropy (B,) as `cross_entropy`, and the slots it comes from.

        Slot attention and the decoder see the same embeddings, dropout included, as in the
        authors' code.
        """
        embedded = self.embed(tokens)
        out = self.slot_attn(embedded[:, 1:], slot_noise)
        return self._cross_entropy(embedded, tokens, out.slots), out

    def infer_slots(self, tokens: Tensor, slot_noise: Tensor | None = None) -> SlotOutput:
        """tokens (B, N) -> slots and masks.

        slot_noise: (B, K, D), standard normal, drawn if not given.
        """
        return self.slot_attn(self.embed(tokens)[:, 1:], slot_noise)

    def cross_entropy(self, tokens: Tensor, slots: Tensor) -> Tensor:
        """tokens (B, N), slots (B, K, D) -> (B,) cross entropy of the tokens, summed over them.

        Each is predicted from those before it and the slots.
        """
        return self._cross_entropy(self.embed(tokens), tokens, slots)

    @torch.no_grad()
    def generate_tokens(self, slots: Tensor, progress: Callable | None = None) -> Tensor:
        """slots (B, K, D) -> (B, N) tokens, one after the other, the most likely each time.

        Call it in eval mode. Keys and values of the slots and of past tokens are kept, so that a
        token costs one position's work.

        progress: takes the range of positions and yields them, as `tqdm` does
        """
        caches = self.tf_dec.caches(self.slot_proj(slots), self.num_tokens)
        row = torch.zeros(len(slots), 1, dtype=torch.int64, device=slots.device)  # the start token
        rows = []
        positions = range(self.num_tokens)
        for position in progress(positions) if progress else positions:
            x = self.positional_encoder(self.dictionary(row), offset=position)
            logits = self.out(self.tf_dec.next(x, caches))
            row = logits.argmax(-1) + 1
            rows.append(row)
        return torch.cat(rows, 1) - 1

    def tokenize(self, image: Tensor) -> Tensor:
        """image (B, 3, H, W) in [0, 1] -> (B, N) most likely tokens, row by row."""
        return self.dvae.encoder(image).argmax(1).flatten(1)

    @torch.no_grad()
    def sample_tokens(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """image (B, 3, H, W) in [0, 1] -> (B, N) tokens drawn from the dVAE's posterior."""
        return sample_categorical(self.dvae.log_probs(image), generator)

    def decode_tokens(self, tokens: Tensor) -> Tensor:
        """tokens (B, N) -> image (B, 3, H, W) in [0, 1]."""
        side = self.config.image_size // 4
        one_hot = F.one_hot(tokens.view(-1, side, side), self.config.vocab_size).movedim(-1, 1)
        return self.dvae.decoder(one_hot.to(self.out.weight.dtype)).clamp(0, 1)

    def embed(self, tokens: Tensor) -> Tensor:
        """tokens (B, N) -> embeddings of the start token and the tokens (B, 1 + N, d_model)."""
        rows = F.pad(tokens + 1, (1, 0))
        return self.positional_encoder(self.dictionary(rows))

    def _cross_entropy(self, embedded: Tensor, tokens: Tensor, slots: Tensor) -> Tensor:
        hidden = self.tf_dec(embedded[:, :-1], self.slot_proj(slots))
        logits = self.out(hidden)  # (B, N, vocab_size)
        losses = F.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="none")
        return losses.view_as(tokens).sum(1)


class TokenEmbedding(nn.Module):
    """Embeddings, which start standard normal. Row 0 is the start token, row t + 1 is token t."""

    def __init__(self, vocab_size: int, d_model: int):
        super().__init__()
        self.dictionary = nn.Embedding(vocab_size + 1, d_model)

    def forward(self, rows: Tensor) -> Tensor:
        """rows (B, T) -> (B, T, d_model)."""
        return self.dictionary(rows)
