"""How the cost of a training step grows with each of its sizes, one at a time from a small base."""

from __future__ import annotations

from dataclasses import replace

import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.figure import Figure

from bench.report import Report, how_timed
from bench.timing import Seconds, alternate, compare
from bench.training_step import SMALL, TINY, Step, our_step
from paper_lib.models import SLATEConfig
from paper_lib.paper import plots, styles
from paper_lib.paper.statistics import log_log_slope

Axes = dict[str, tuple[str | None, tuple[int, ...]]]

BATCH = 16
AXES: Axes = {  # name -> (field of the config, values); the batch is no field
    "image size": ("image_size", (16, 32, 48, 64)),
    "batch": (None, (4, 8, 16, 32)),
    "slots": ("num_slots", (4, 7, 14, 28)),
    "vocabulary": ("vocab_size", (64, 256, 1024, 4096)),
    "iterations": ("num_iterations", (1, 3, 7, 15, 31)),
}
QUICK: Axes = {
    "image size": ("image_size", (8, 16)),
    "batch": (None, (1, 2)),
    "slots": ("num_slots", (2, 4)),
}
METHODS = ("vanilla", "IN")


def bench(quick: bool) -> Report:
    base, batch, axes, repeats = (TINY, 2, QUICK, 1) if quick else (SMALL, BATCH, AXES, 4)
    steps = {}
    for axis, (field, values) in axes.items():
        for value in values:
            for method in METHODS:
                steps[axis, value, method] = _step(base, batch, field, value, method)
    times = _times(alternate(steps, repeats, "growth"), axes)
    curves = _medians(times)
    exponents = []
    for axis in axes:
        slopes = {method: log_log_slope(curves[axis, method]) for method in METHODS}
        exponents.append({"axis": axis, **slopes})
    sizes = (
        f"{base.image_size}x{base.image_size}, batch {batch}, {base.num_slots} slots, "
        f"vocabulary {base.vocab_size}, {base.num_iterations} iterations, "
        f"d_model {base.d_model}, {base.num_dec_blocks} layers"
    )
    return Report(
        "How a training step grows",
        [
            "A step with the dVAE trained jointly, on random images. One size changes at a time; "
            f"the others are {sizes}.",
            "## Exponents",
            pd.DataFrame(exponents),
            "Slope of a straight line through the logarithms of value and median: 1 is "
            "proportional; for the image size, 2 is proportional to the tokens.",
            "## Times",
            times,
            f"`ratio` is to the median at the smallest value. {how_timed(repeats)}",
        ],
        figure=_draw(curves, axes),
        caption="Milliseconds of a training step against one size at a time, "
        f"from {sizes}. One thread, medians of {repeats}.",
    )


def _step(base: SLATEConfig, batch: int, field: str | None, value: int, method: str) -> Step:
    torch.manual_seed(0)
    config = replace(base, variant=method)
    if field is None:
        batch = value
    else:
        config = replace(config, **{field: value})
    return our_step(config, torch.rand(batch, 3, config.image_size, config.image_size))


def _times(seconds: Seconds, axes: Axes) -> pd.DataFrame:
    """Return a row for each axis, value and method, with `ratio` to the axis's smallest value.

    seconds   (axis, value, method) -> (rounds,)
    """
    tables = []
    for axis, (_, values) in axes.items():
        of_axis = []
        for method in METHODS:
            taken = {value: seconds[axis, value, method] for value in values}
            table = compare(taken, values[0]).rename(columns={"contestant": "value"})
            table.insert(0, "axis", axis)
            table.insert(2, "method", method)
            of_axis.append(table)
        # the methods of one value stand below each other
        tables.append(pd.concat(of_axis).sort_values("value", kind="stable"))
    return pd.concat(tables, ignore_index=True)


def _medians(times: pd.DataFrame) -> dict[tuple[str, str], pd.Series]:
    """Return (axis, method) -> median milliseconds, indexed by value."""
    medians = {}
    for key, rows in times.groupby(["axis", "method"]):
        medians[key] = rows.set_index("value")["median_ms"]
    return medians


def _draw(curves: dict[tuple[str, str], pd.Series], axes: Axes) -> Figure:
    fig, panels = plots.figure(1, len(axes), height=2.2, sharey=True)
    for ax, (axis, (_, values)) in zip(panels, axes.items()):
        for method in METHODS:
            plots.line(ax, method, curves[axis, method], styles.name(method))
        ax.set(xscale="log", yscale="log", xlabel=axis)
        ax.set_xticks(values, [str(value) for value in values])
        ax.minorticks_off()
    panels[0].set_ylabel("ms a step")
    panels[0].legend()
    plt.close(fig)  # what is drawn stays in it; an open one would be kept for the whole process
    return fig
