"""The backward pass of slot attention against the number of iterations, in time and memory; and what it is of a whole training step."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from bench.report import Report, how_timed
from bench.timing import alternate
from bench.training_step import SMALL, TINY, our_step
from paper_lib.paper import complexity
from paper_lib.paper.complexity import ComplexityRun

PARTS = ("forward", "backward", "update")


def bench(quick: bool) -> Report:
    run = (
        ComplexityRun(batch=2, tokens=16, slots=3, size=16, iterations=(1, 4), repeats=1)
        if quick
        else ComplexityRun(batch=32, tokens=64, size=64, repeats=9)
    )
    config, batch, repeats = (TINY, 2, 1) if quick else (SMALL, 32, 15)
    measured = complexity.measure(run)
    return Report(
        "The backward pass",
        [
            f"Slot attention alone: batch {run.batch}, {run.tokens} inputs, {run.slots} slots, size {run.size}. `forward_saved_MiB` is what the forward pass "
            "keeps for the backward pass, weights and inputs aside.",
            _table(measured),
            how_timed(run.repeats),
            "## Vanilla as a multiple of IN",
            _ratios(measured),
            "Ratios of the medians above, and of the bytes. `IN_backward_growth` is IN's backward pass over its own at the smallest n: 1 is constant.",
            f"## Parts of a training step, {config.image_size}x{config.image_size}, batch {batch}, {config.num_iterations} iterations",
            _shares(config, batch, repeats),
            "Jointly with the dVAE, or on a frozen one; milliseconds (medians), and each part's share of their sum. "
            + how_timed(repeats),
        ],
    )


def _table(measured: pd.DataFrame) -> pd.DataFrame:
    times = {
        name.replace("_s", "_ms"): 1e3 * measured[name]
        for name in measured
        if name.startswith(("forward_s", "backward_s"))
    }
    ordered = {
        f"{part}_ms{q}": times[f"{part}_ms{q}"]
        for part in ("forward", "backward")
        for q in ("", "_q25", "_q75")
    }
    return pd.DataFrame(
        {
            "contestant": measured["variant"],
            "n": measured["n"],
            **ordered,
            "forward_saved_MiB": measured["memory_bytes"] / 2**20,
        }
    )


def _ratios(measured: pd.DataFrame) -> pd.DataFrame:
    wide = measured.pivot(index="n", columns="variant")
    columns = {"forward": "forward_s", "backward": "backward_s", "memory": "memory_bytes"}
    ratios = {
        f"{name}_ratio": wide[column, "vanilla"] / wide[column, "IN"]
        for name, column in columns.items()
    }
    growth = wide["backward_s", "IN"] / wide["backward_s", "IN"].iloc[0]
    return pd.DataFrame({**ratios, "IN_backward_growth": growth}).reset_index()


def _shares(config, batch: int, repeats: int) -> pd.DataFrame:
    torch.manual_seed(0)
    image = torch.rand(batch, 3, config.image_size, config.image_size)
    steps = {
        f"{variant}{', frozen dVAE' if frozen else ''}": our_step(
            replace(config, variant=variant), image, frozen
        )
        for frozen in (False, True)
        for variant in ("vanilla", "IN")
    }
    # the parts of one step follow each other, as contestants do
    seconds = alternate(
        {(name, part): getattr(step, part) for name, step in steps.items() for part in PARTS},
        repeats,
        "parts of a step",
    )
    rows = []
    for name in steps:
        medians = {part: 1e3 * np.median(seconds[name, part]) for part in PARTS}
        shares = {
            f"{part}_share": median / sum(medians.values()) for part, median in medians.items()
        }
        rows.append(
            {
                "contestant": name,
                **{f"{part}_ms": median for part, median in medians.items()},
                **shares,
            }
        )
    return pd.DataFrame(rows)
