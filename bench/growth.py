"""How the cost of a training step grows with each of its sizes: one at a time, from a small base."""

from __future__ import annotations

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

from bench.report import Report, how_timed
from bench.timing import alternate
from bench.training_step import SMALL, TINY, Step, our_step
from paper_lib.models import SLATEConfig
from paper_lib.paper import plots

BATCH = 16
AXES = {  # name -> (field of the config, values); the batch is no field
    "image size": ("image_size", (16, 32, 48, 64)),
    "batch": (None, (4, 8, 16, 32)),
    "slots": ("num_slots", (4, 7, 14, 28)),
    "vocabulary": ("vocab_size", (64, 256, 1024, 4096)),
    "iterations": ("num_iterations", (1, 3, 7, 15, 31)),
}
QUICK = {
    "image size": ("image_size", (8, 16)),
    "batch": (None, (1, 2)),
    "slots": ("num_slots", (2, 4)),
}
METHODS = ("vanilla", "IN")


def bench(quick: bool) -> Report:
    base, batch, axes, repeats = (TINY, 2, QUICK, 1) if quick else (SMALL, BATCH, AXES, 4)
    cases = [
        (axis, value, method)
        for axis, (_, values) in axes.items()
        for value in values
        for method in METHODS
    ]
    steps = {
        (axis, value, method): _step(base, batch, axes[axis][0], value, method)
        for axis, value, method in cases
    }
    seconds = alternate(steps, repeats, "growth")
    medians = {
        (axis, method): pd.Series({v: np.median(seconds[axis, v, method]) for v in values})
        for axis, (_, values) in axes.items()
        for method in METHODS
    }
    rows = []
    for axis, value, method in cases:
        q25, q75 = 1e3 * np.quantile(seconds[axis, value, method], [0.25, 0.75])
        row = {
            "axis": axis,
            "value": value,
            "method": method,
            "median_ms": 1e3 * medians[axis, method][value],
            "q25_ms": q25,
            "q75_ms": q75,
        }
        rows.append(row | {"ratio": medians[axis, method][value] / medians[axis, method].iloc[0]})
    exponents = [
        {"axis": axis, **{method: exponent(medians[axis, method]) for method in METHODS}}
        for axis in axes
    ]
    sizes = (
        f"{base.image_size}x{base.image_size}, batch {batch}, {base.num_slots} slots, vocabulary {base.vocab_size}, {base.num_iterations} iterations, "
        f"d_model {base.d_model}, {base.num_dec_blocks} layers"
    )
    return Report(
        "How a training step grows",
        [
            f"A step with the dVAE trained jointly, on random images. One size changes at a time; the others are {sizes}.",
            "## Exponents",
            pd.DataFrame(exponents),
            "Slope of a straight line through the logarithms of value and median: 1 is proportional; for the image size, 2 is proportional to the tokens.",
            "## Times",
            pd.DataFrame(rows),
            f"`ratio` is to the median at the smallest value. {how_timed(repeats)}",
        ],
        figure=_draw(medians, axes),
        caption=f"Milliseconds of a training step against one size at a time, from {sizes}. One thread, medians of {repeats}.",
    )


def exponent(medians: pd.Series) -> float:
    """Least-squares slope of log time against log value (the index)."""
    return float(
        np.polyfit(np.log(medians.index.to_numpy(float)), np.log(medians.to_numpy()), 1)[0]
    )


def _step(base: SLATEConfig, batch: int, name: str | None, value: int, method: str) -> Step:
    torch.manual_seed(0)
    config = replace(base, variant=method, **({name: value} if name else {}))
    return our_step(
        config, torch.rand(batch if name else value, 3, config.image_size, config.image_size)
    )


def _draw(medians: dict, axes: dict):
    fig, panels = plots.figure(1, len(axes), height=2.2, sharey=True)
    for ax, axis in zip(panels, axes):
        for method in METHODS:
            plots.line(ax, method, 1e3 * medians[axis, method], plots.name(method))
        ax.set(xscale="log", yscale="log", xlabel=axis)
        ax.set_xticks(axes[axis][1], [str(value) for value in axes[axis][1]])
        ax.minorticks_off()
    panels[0].set_ylabel("ms a step")
    panels[0].legend()
    plt.close(
        fig
    )  # what is drawn stays in the figure; an open one would be kept for the whole process
    return fig
