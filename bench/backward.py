"""The backward pass of slot attention against the number of iterations, in time and memory.

The report also says what share of a whole training step it is.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from bench.report import Report, how_timed
from bench.timing import alternate
from bench.training_step import SMALL, TINY, our_step
from paper_lib.models import SLATEConfig
from paper_lib.paper import complexity
from paper_lib.paper.complexity import ComplexityRunConfig

PARTS = ("forward", "backward", "update")


def bench(quick: bool) -> Report:
    if quick:
        run = ComplexityRunConfig(
            batch=2, tokens=16, slots=3, size=16, iterations=(1, 4), repeats=1
        )
        config, batch, repeats = TINY, 2, 1
    else:
        run = ComplexityRunConfig(batch=32, tokens=64, size=64, repeats=9)
        config, batch, repeats = SMALL, 32, 15
    measured = complexity.measure(run)
    return Report(
        "The backward pass",
        [
            f"Slot attention alone: batch {run.batch}, {run.tokens} inputs, {run.slots} slots, "
            f"size {run.size}. `forward_saved_MiB` is what the forward pass keeps for the backward "
            "pass, weights and inputs aside.",
            _table(measured),
            how_timed(run.repeats),
            "## Vanilla as a multiple of IN",
            _ratios(measured),
            "Ratios of the medians above, and of the bytes. `IN_backward_growth` is IN's backward "
            "pass over its own at the smallest n: 1 is constant.",
            f"## Parts of a training step, {config.image_size}x{config.image_size}, "
            f"batch {batch}, {config.num_iterations} iterations",
            _shares(config, batch, repeats),
            "Jointly with the dVAE, or on a frozen one; milliseconds (medians), and each part's "
            f"share of their sum. {how_timed(repeats)}",
        ],
    )


def _table(measured: pd.DataFrame) -> pd.DataFrame:
    table = measured[["variant", "n"]].rename(columns={"variant": "contestant"})
    for part in ("forward", "backward"):
        for quantile in ("", "_q25", "_q75"):  # the median has no suffix
            table[f"{part}_ms{quantile}"] = 1e3 * measured[f"{part}_s{quantile}"]
    table["forward_saved_MiB"] = measured["memory_bytes"] / 2**20
    return table


def _ratios(measured: pd.DataFrame) -> pd.DataFrame:
    by_variant = measured.pivot(index="n", columns="variant")
    ratios = pd.DataFrame(index=by_variant.index)
    columns = {"forward": "forward_s", "backward": "backward_s", "memory": "memory_bytes"}
    for name, column in columns.items():
        ratios[f"{name}_ratio"] = by_variant[column, "vanilla"] / by_variant[column, "IN"]
    backward = by_variant["backward_s", "IN"]
    ratios["IN_backward_growth"] = backward / backward.iloc[0]
    return ratios.reset_index()


def _shares(config: SLATEConfig, batch: int, repeats: int) -> pd.DataFrame:
    torch.manual_seed(0)
    image = torch.rand(batch, 3, config.image_size, config.image_size)
    steps = {}
    for frozen in (False, True):
        for variant in ("vanilla", "IN"):
            name = f"{variant}{', frozen dVAE' if frozen else ''}"
            steps[name] = our_step(replace(config, variant=variant), image, frozen)
    # the parts of one step follow each other, as contestants do
    parts = {(name, part): getattr(step, part) for name, step in steps.items() for part in PARTS}
    seconds = alternate(parts, repeats, "parts of a step")
    rows = []
    for name in steps:
        medians = {part: 1e3 * np.median(seconds[name, part]) for part in PARTS}
        total = sum(medians.values())
        row: dict[str, object] = {"contestant": name}
        row |= {f"{part}_ms": median for part, median in medians.items()}
        row |= {f"{part}_share": median / total for part, median in medians.items()}
        rows.append(row)
    return pd.DataFrame(rows)
