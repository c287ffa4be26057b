"""Regenerating images token by token: with cached keys and values, against the authors' code.

The authors' code computes all earlier positions again for each token. Both are timed on one thread,
and on as many as there are cores.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from bench import others
from bench.report import Report, how_timed
from bench.timing import alternate, compare
from bench.training_step import LARGE, PAPER, TINY
from paper_lib.models import SLATE, SLATEConfig

CACHED = "ours, cached"
RECOMPUTED = "ours, without the cache"
AUTHORS = "authors' code"


def bench(quick: bool) -> Report:
    # rounds are few at the larger sizes: the authors' code takes minutes at 96x96
    cases = [(TINY, 2, 1)] if quick else [(PAPER, 8, 2), (LARGE, 8, 1)]
    c = cases[0][0]
    parts: list[str | pd.DataFrame] = [
        f"From image to image, through slots and tokens: d_model {c.d_model}, "
        f"{c.num_dec_blocks} layers, {c.num_heads} heads, vocabulary {c.vocab_size}, "
        f"{c.num_slots} slots. `ratio` is to the cached one's median. Second table: milliseconds a "
        "token (all images together), the median over rounds at each position, then the mean over "
        "a quarter of the positions; `last_over_first` is the last quarter's over the first's: 1 "
        "is flat.",
        others.which_slate(),
    ]
    for config, images, repeats in cases:
        parts += measure(replace(config, variant="vanilla"), images, repeats)
    config, images, repeats = cases[0]
    torch.set_num_threads(os.cpu_count() or 1)
    try:
        parts += measure(replace(config, variant="vanilla"), images, repeats)
    finally:
        torch.set_num_threads(1)
    return Report("Generation, token by token", parts)


def measure(config: SLATEConfig, images: int, repeats: int) -> list[str | pd.DataFrame]:
    """Return the report's parts on one size: from `images` images to as many, `repeats` times."""
    torch.manual_seed(0)
    image = torch.rand(images, 3, config.image_size, config.image_size)
    theirs = others.slate(config)
    model = SLATE.from_official((theirs or SLATE(config)).state_dict(), config).eval()
    noise = torch.randn(images, config.num_slots, config.slot_size)
    tokens: dict[str, Tensor] = {}  # what each contestant generated last

    def ours(name: str, generate: Callable[[Tensor], Tensor]) -> Callable[[], None]:
        @torch.no_grad()
        def regenerate() -> None:
            slots = model.infer_slots(model.tokenize(image), noise).slots
            tokens[name] = generate(slots)
            model.decode_tokens(tokens[name])

        return regenerate

    contestants = {CACHED: ours(CACHED, model.generate_tokens)}
    clocks = {CACHED: _Clock(model.dictionary)}
    if theirs:
        other = AUTHORS
        contestants[AUTHORS] = _authors(theirs, model, image, noise, tokens)
        clocks[AUTHORS] = _Clock(theirs.dictionary)
    else:
        other = RECOMPUTED
        contestants[RECOMPUTED] = ours(RECOMPUTED, partial(generate_without_cache, model))
        clocks[RECOMPUTED] = clocks[CACHED]

    positions: dict[str, list[np.ndarray]] = {name: [] for name in contestants}

    def clocked(name: str) -> None:
        contestants[name]()
        positions[name].append(clocks[name].between(model.num_tokens))

    size = f"{config.image_size}x{config.image_size}"
    contestants[CACHED]()  # warms up: the other takes long, and would gain little
    seconds = alternate(
        {name: partial(clocked, name) for name in contestants},
        repeats,
        f"generation, {size}",
        warmup=0,
    )
    same = (tokens[CACHED] == tokens[other]).sum().item()
    threads = torch.get_num_threads()
    timed = [
        f"## {images} images of {size}, {model.num_tokens} tokens each, {threads} "
        f"{'thread' if threads == 1 else 'threads'}",
        compare(seconds, CACHED),
        "Same weights, same initial slots; tokens that are the same: "
        f"{same} of {tokens[CACHED].numel()}. {how_timed(repeats, 'one of ours')}",
    ]
    if threads > 1:  # there is no one moment between two tokens
        return timed
    return [*timed, _by_position({name: np.median(taken, 0) for name, taken in positions.items()})]


@torch.no_grad()
def generate_without_cache(model: SLATE, slots: Tensor) -> Tensor:
    """Generate as `SLATE.generate_tokens` does, with all positions anew for each token.

    slots (B, K, D) -> tokens (B, N)
    """
    slots = model.slot_proj(slots)
    rows = torch.zeros(len(slots), 1, dtype=torch.int64)  # of the dictionary: 0 is the start token
    for _ in range(model.num_tokens):
        x = model.tf_dec(model.positional_encoder(model.dictionary(rows)), slots)
        rows = torch.cat([rows, model.out(x[:, -1:]).argmax(-1) + 1], 1)
    return rows[:, 1:] - 1


def _authors(
    theirs: nn.Module, ours: SLATE, image: Tensor, noise: Tensor, tokens: dict[str, Tensor]
) -> Callable[[], None]:
    """Return the authors' regeneration of the images, from the initial slots that ours has.

    It returns pictures: the tokens, which it leaves in `tokens`, are what its dVAE decodes.
    """

    def keep_tokens(_, args) -> None:
        tokens[AUTHORS] = args[0].argmax(1).flatten(1)

    def same_slots(_, args) -> tuple[Tensor, Tensor]:
        return args[0], ours.slot_attn.initial_slots(noise)

    @torch.no_grad()
    def regenerate() -> None:
        theirs.reconstruct_autoregressive(image)

    theirs.eval()
    theirs.dvae.decoder.register_forward_pre_hook(keep_tokens)
    theirs.slot_attn.slot_attention.register_forward_pre_hook(same_slots)
    return regenerate


class _Clock:
    """Notes the times at which a module is called: the dictionary is, once a token."""

    def __init__(self, module: nn.Module):
        self.times: list[float] = []
        module.register_forward_pre_hook(self._note)

    def _note(self, module: nn.Module, args) -> None:
        self.times.append(time.perf_counter())

    def between(self, count: int) -> np.ndarray:
        """Return the seconds from each of the last `count` calls to the next, (count - 1,)."""
        return np.diff(self.times[-count:])


def _by_position(seconds: dict[str, np.ndarray]) -> pd.DataFrame:
    """Return a row for each contestant, with a column for each quarter of the positions.

    seconds   of each contestant, (positions,)
    """
    rows = []
    for name, taken in seconds.items():
        row: dict[str, object] = {"contestant": name}
        quarters = np.array_split(1e3 * taken, 4)
        first = 1
        for quarter in quarters:
            last = first + len(quarter) - 1
            row[f"tokens {first} to {last} (ms)"] = quarter.mean()
            first = last + 1
        row["last_over_first"] = quarters[-1].mean() / quarters[0].mean()
        rows.append(row)
    return pd.DataFrame(rows)
