"""Regenerating images token by token: with cached keys and values, against the authors' code, which computes all earlier positions again for each token."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from paper_lib.bench import others
from paper_lib.bench.report import Report, how_timed
from paper_lib.bench.timing import alternate, compare
from paper_lib.bench.training_step import PAPER, TINY
from paper_lib.models import SLATE

CACHED, RECOMPUTED, AUTHORS = "ours, cached", "ours, without the cache", "authors' code"


class _Clock:
    """When a module was called."""

    def __init__(self, module):
        self.times: list[float] = []
        module.register_forward_pre_hook(lambda *_: self.times.append(time.perf_counter()))

    def between(self, count: int) -> np.ndarray:
        """Seconds from each of the last `count` calls to the next, (count - 1,)."""
        return np.diff(self.times[-count:])


@torch.no_grad()
def generate_without_cache(model: SLATE, slots: Tensor) -> Tensor:
    """What `SLATE.generate_tokens` computes, all positions anew for each token: slots (B, K, D) -> (B, N)."""
    projected = model.tf_dec.project_slots(model.slot_proj(slots))
    rows = torch.zeros(len(slots), 1, dtype=torch.int64)
    for _ in range(model.num_tokens):
        x = model.tf_dec(model.positional_encoder(model.dictionary(rows)), projected)
        rows = torch.cat([rows, model.out(x[:, -1:]).argmax(-1) + 1], 1)
    return rows[:, 1:] - 1


def bench(quick: bool) -> Report:
    config, images, repeats = (TINY, 2, 1) if quick else (PAPER, 8, 3)
    config = replace(config, variant="vanilla")
    torch.manual_seed(0)
    image = torch.rand(images, 3, config.image_size, config.image_size)
    theirs = others.slate(config)
    model = SLATE.from_official((theirs or SLATE(config)).state_dict(), config).eval()
    noise = torch.randn(images, config.num_slots, config.slot_size)
    tokens: dict[str, Tensor] = {}

    @torch.no_grad()
    def ours(name: str, generate) -> None:
        slots = model.infer_slots(model.tokenize(image), noise).slots
        tokens[name] = generate(slots)
        model.decode_tokens(tokens[name])

    contestants = {CACHED: lambda: ours(CACHED, model.generate_tokens)}
    clocks = {CACHED: _Clock(model.dictionary)}
    if theirs:
        theirs.eval()
        clocks[AUTHORS] = _Clock(theirs.dictionary)
        # theirs returns pictures: its tokens are what its dVAE decodes, its initial slots are replaced by ours
        theirs.dvae.decoder.register_forward_pre_hook(lambda _, args: tokens.update({AUTHORS: args[0].argmax(1).flatten(1)}))
        theirs.slot_attn.slot_attention.register_forward_pre_hook(lambda _, args: (args[0], model.slot_attn.initial_slots(noise)))
        contestants[AUTHORS] = torch.no_grad()(lambda: theirs.reconstruct_autoregressive(image))
    else:
        contestants[RECOMPUTED] = lambda: ours(RECOMPUTED, lambda slots: generate_without_cache(model, slots))
        clocks[RECOMPUTED] = clocks[CACHED]

    positions: dict[str, list[np.ndarray]] = {name: [] for name in contestants}

    def clocked(name: str, run):
        def timed() -> None:
            run()
            positions[name].append(clocks[name].between(model.num_tokens))

        return timed

    other = next(name for name in contestants if name != CACHED)
    seconds = alternate({name: clocked(name, run) for name, run in contestants.items()}, repeats, "generation")
    same = (tokens[CACHED] == tokens[other]).sum().item()
    sizes = (
        f"{images} images of {config.image_size}x{config.image_size}, {model.num_tokens} tokens each, d_model {config.d_model}, "
        f"{config.num_dec_blocks} layers, {config.num_heads} heads, vocabulary {config.vocab_size}, {config.num_slots} slots"
    )
    return Report(
        "Generation, token by token",
        [
            f"{sizes}: from image to image, through slots and tokens. `ratio` is to the cached one's median. "
            f"Same weights, same initial slots; tokens that are the same: {same} of {tokens[CACHED].numel()}.",
            others.which_slate(),
            compare(seconds, CACHED),
            how_timed(repeats),
            "## Cost of a token by its position",
            _by_position({name: np.median(taken[1:], 0) for name, taken in positions.items()}),
            "Milliseconds a token (all images together): the median over rounds at each position, then the mean over a quarter of the positions. "
            "`last_over_first` is the last quarter's over the first's: 1 is flat.",
        ],
    )


def _by_position(seconds: dict[str, np.ndarray]) -> pd.DataFrame:
    """(positions,) seconds of each contestant -> a row each, a column for each quarter of the positions."""
    rows = []
    for name, taken in seconds.items():
        quarters = np.array_split(1e3 * taken, 4)
        starts = np.cumsum([0, *map(len, quarters)])
        columns = {f"tokens {a + 1} to {b} (ms)": quarter.mean() for a, b, quarter in zip(starts, starts[1:], quarters)}
        rows.append({"contestant": name, **columns, "last_over_first": quarters[-1].mean() / quarters[0].mean()})
    return pd.DataFrame(rows)
