"""Regenerating images token by token: with cached keys and values, against the authors' code, which computes all earlier positions again for each token."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from bench import others
from bench.report import Report, how_timed
from bench.timing import alternate, compare
from bench.training_step import LARGE, PAPER, TINY
from paper_lib.models import SLATE, SLATEConfig

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
    slots = model.slot_proj(slots)
    rows = torch.zeros(len(slots), 1, dtype=torch.int64)
    for _ in range(model.num_tokens):
        x = model.tf_dec(model.positional_encoder(model.dictionary(rows)), slots)
        rows = torch.cat([rows, model.out(x[:, -1:]).argmax(-1) + 1], 1)
    return rows[:, 1:] - 1


def measure(config: SLATEConfig, images: int, repeats: int) -> list[str | pd.DataFrame]:
    """The parts of the report on one size: from `images` images to as many, `repeats` times."""
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
        theirs.dvae.decoder.register_forward_pre_hook(
            lambda _, args: tokens.update({AUTHORS: args[0].argmax(1).flatten(1)})
        )
        theirs.slot_attn.slot_attention.register_forward_pre_hook(
            lambda _, args: (args[0], model.slot_attn.initial_slots(noise))
        )
        contestants[AUTHORS] = torch.no_grad()(lambda: theirs.reconstruct_autoregressive(image))
    else:
        contestants[RECOMPUTED] = lambda: ours(
            RECOMPUTED, lambda slots: generate_without_cache(model, slots)
        )
        clocks[RECOMPUTED] = clocks[CACHED]

    positions: dict[str, list[np.ndarray]] = {name: [] for name in contestants}

    def clocked(name: str, run):
        def timed() -> None:
            run()
            positions[name].append(clocks[name].between(model.num_tokens))

        return timed

    other = next(name for name in contestants if name != CACHED)
    size = f"{config.image_size}x{config.image_size}"
    contestants[CACHED]()  # warms up: the other takes long, and would gain little
    seconds = alternate(
        {name: clocked(name, run) for name, run in contestants.items()},
        repeats,
        f"generation, {size}",
        warmup=0,
    )
    same = (tokens[CACHED] == tokens[other]).sum().item()
    return [
        f"## {images} images of {size}, {model.num_tokens} tokens each",
        compare(seconds, CACHED),
        f"Same weights, same initial slots; tokens that are the same: {same} of {tokens[CACHED].numel()}. {how_timed(repeats, 'one of ours')}",
        _by_position({name: np.median(taken, 0) for name, taken in positions.items()}),
    ]


def bench(quick: bool) -> Report:
    cases = (
        [(TINY, 2, 1)] if quick else [(PAPER, 8, 2), (LARGE, 8, 1)]
    )  # the authors' code takes minutes at 96x96
    c = cases[0][0]
    parts = [
        f"From image to image, through slots and tokens: d_model {c.d_model}, {c.num_dec_blocks} layers, {c.num_heads} heads, vocabulary {c.vocab_size}, "
        f"{c.num_slots} slots. `ratio` is to the cached one's median. Second table: milliseconds a token (all images together), the median over rounds at each "
        "position, then the mean over a quarter of the positions; `last_over_first` is the last quarter's over the first's: 1 is flat.",
        others.which_slate(),
    ]
    for config, images, repeats in cases:
        parts += measure(replace(config, variant="vanilla"), images, repeats)
    return Report("Generation, token by token", parts)


def _by_position(seconds: dict[str, np.ndarray]) -> pd.DataFrame:
    """(positions,) seconds of each contestant -> a row each, a column for each quarter of the positions."""
    rows = []
    for name, taken in seconds.items():
        quarters = np.array_split(1e3 * taken, 4)
        starts = np.cumsum([0, *map(len, quarters)])
        columns = {
            f"tokens {a + 1} to {b} (ms)": quarter.mean()
            for a, b, quarter in zip(starts, starts[1:], quarters)
        }
        rows.append(
            {
                "contestant": name,
                **columns,
                "last_over_first": quarters[-1].mean() / quarters[0].mean(),
            }
        )
    return pd.DataFrame(rows)
