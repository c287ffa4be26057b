"""One look for all figures: seeds as bands, a caption that says the scale, PNG and PDF."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullFormatter

from paper_lib.paper.captions import caption as caption_of
from paper_lib.paper.styles import name, style
from paper_lib.runs import ROOT
from paper_lib.system.files import whole

WIDTH = 6.75  # inches: the text width of a two-column paper
CAPTION_CHARACTERS = 145  # a line of the caption, at its font size

# Fonts and lines for print at the text width.
_RC = {
    "font.family": "DejaVu Sans",
    "font.size": 7.5,
    "axes.titlesize": 8,
    "axes.titleweight": "bold",
    "axes.labelsize": 7.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "xtick.major.width": 0.8,
    "ytick.major.width": 0.8,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "figure.dpi": 130,
    "savefig.dpi": 200,
    "pdf.fonttype": 42,
}


def figure(rows: int = 1, columns: int = 1, height: float = 2.4, **kwargs):
    """Return a figure of the text width in the common style, and its axes.

    `height` is in inches; `kwargs` are those of `plt.subplots`.
    """
    sns.set_theme(context="paper", style="ticks")
    plt.rcParams.update(_RC)
    return plt.subplots(rows, columns, figsize=(WIDTH, height), layout="constrained", **kwargs)


# ---- what is drawn into axes ----


RANGE = "range over seeds"  # what `band` shades, for the caption


def band(ax, method: str, values: pd.DataFrame, label: str | None = None, **kwargs) -> None:
    """Draw the mean over seeds as a line and their range as a band, in the method's style.

    values   index step, one column a seed; a cross marks where a seed's curve ends early
    label    stands in the legend, with the number of seeds; the method's name unless given
    kwargs   are those of `ax.plot`, and replace the method's style
    """
    drawn = {"color": style(method).colour, "linestyle": style(method).line} | kwargs
    text = f"{label or name(method)}, {count_of_seeds(values)}"
    ax.plot(values.index, values.mean(axis=1), label=text, **drawn)
    if values.shape[1] > 1:
        low, high = values.min(axis=1), values.max(axis=1)
        shade = {"color": drawn["color"], "alpha": 0.18, "linewidth": 0, "gid": RANGE}
        ax.fill_between(values.index, low, high, **shade)
    for seed in values:
        what = f"{name(method)}, seed {seed}: diverged here"
        mark_divergence(ax, values[seed], drawn["color"], what)


def count_of_seeds(values: pd.DataFrame) -> str:
    """Return "1 seed" or "3 seeds", for curves with one column a seed."""
    count = values.shape[1]
    return f"{count} seed{'s' if count > 1 else ''}"


def mark_divergence(ax, values: pd.Series, colour, label: str | None = None) -> None:
    """Draw a cross where a curve ends before its index does."""
    curve = values.dropna()
    if len(curve) and curve.index[-1] < values.index[-1]:
        ax.plot(curve.index[-1], curve.iloc[-1], "x", color=colour, markersize=7, label=label)


def line(ax, method: str, values: pd.Series, label: str | None = None, **kwargs) -> None:
    """Draw one curve with markers, in the method's style; `kwargs` of `ax.plot` replace it."""
    drawn = {
        "color": style(method).colour,
        "linestyle": style(method).line,
        "marker": style(method).marker,
        "markersize": 3.5,
    }
    ax.plot(values.index, values, label=label, **(drawn | kwargs))


def spread(ax, table: pd.DataFrame, group: str, column: str, colours: list[str]) -> None:
    """Draw a row for each group, top to bottom as they come in the table.

    A row has a dot for each of the group's values in the column, and a bar at their median.
    """
    sns.stripplot(
        table,
        y=group,
        x=column,
        hue=group,
        palette=colours,
        legend=False,
        size=3.5,
        alpha=0.8,
        jitter=False,
        ax=ax,
    )
    for row, (_, values) in enumerate(table.groupby(group, sort=False)[column]):
        ax.plot([values.median()] * 2, [row - 0.32, row + 0.32], color="black", linewidth=1.6)
    ax.set_ylabel("")


def mark_value(ax, value: float) -> None:
    """Draw a dotted vertical line at a value to compare with, such as the dVAE's floor."""
    ax.axvline(value, color="0.5", linestyle=":", linewidth=1)


def bound(ax, of, label: str) -> None:
    """Draw a bound on y, a function of x in (0, 1) that grows without end, and shade where, from
    1 on, it says nothing."""
    right = ax.get_xlim()[1]
    x = np.linspace(0.3, 0.99, 100)
    ax.plot(x, of(x), color="0.3", linewidth=1, label=label)
    ax.axvspan(1, max(right, 1.1), color="0.5", alpha=0.15, linewidth=0)
    ax.set_xlim(right=max(right, 1.1))


def colour_bars(ax, shares: dict[str, dict[str, float]]) -> None:
    """Draw bars in the objects' own colours, a group a data set: data set -> colour -> share."""
    left = 0
    middles = []
    for by_colour in shares.values():
        ax.bar(
            range(left, left + len(by_colour)),
            list(by_colour.values()),
            color=list(by_colour),
            edgecolor="0.3",
            linewidth=0.5,
        )
        middles.append(left + (len(by_colour) - 1) / 2)
        left += len(by_colour) + 1
    ax.set_xticks(middles, list(shares))


def forest(ax, labels: list[str], judged: list) -> None:
    """Draw judged claims, a row each from top to bottom: how far each lies on its claim's side.

    A dot is the mean, a bar the 95% interval, where there is one; beyond the line the claim holds.

    labels    what stands on the left
    judged    `claims.Judged` with a mean and a threshold, all ratios, or none
    """
    colours = {"supported": "#2e8b57", "not supported": "#d62728"}
    if judged and judged[0].ratio:
        ax.set_xscale("log")
        mark_value(ax, 1)
    else:  # differences are of several units
        ax.set_xscale("symlog", linthresh=0.1)
        mark_value(ax, 0)
    for row, claim in enumerate(judged):
        mean, low, high = np.exp(claim.margin) if claim.ratio else claim.margin
        look = {"color": colours.get(claim.verdict, "0.45"), "linewidth": 1.6}
        if not np.isnan(low):
            ax.plot([low, high], [row, row], **look)
        filled = look["color"] if not np.isnan(low) else "white"
        ax.plot(mean, row, "o", markersize=3.5, markerfacecolor=filled, **look)
    ax.set(yticks=range(len(judged)), yticklabels=labels, ylim=(len(judged) - 0.5, -0.5))
    ax.tick_params(axis="y", labelsize=6, length=0)
    ax.grid(axis="y", linewidth=0.3, color="0.9")


def steps_axis(ax) -> None:
    """Make the x axis one of training steps: thousands with a comma, few ticks."""
    ax.xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=[1, 2, 5, 10]))
    ax.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    ax.set_xlabel("training step")
    ax.set_xlim(left=0)


def legend_above(fig, ax, columns: int) -> None:
    """Put the legend of these axes above the whole figure."""
    fig.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=columns)


# ---- saving ----


def figures_root() -> Path:
    """Return figures/ in the project, or what the environment variable PAPER_FIGURES names."""
    return Path(os.environ.get("PAPER_FIGURES", ROOT / "figures"))


def save(fig, notebook: str, given, part: str = "", caption: str | None = None) -> None:
    """Write figures/<profile>/<notebook>[_part].png and .pdf; the caption says what bands are.

    given     the notebook's `Parameters`, whose `folder` stands for <profile>
    caption   stands under the figure; unless given, it says the scale and the data of the pair that
              most figures compare
    """
    text = caption or caption_of(given)
    if any(shade.get_gid() == RANGE for ax in fig.axes for shade in ax.collections):
        text = f"Lines are means over seeds, bands their range. {text}"
    text = "\n".join(textwrap.wrap(text, CAPTION_CHARACTERS))
    fig.supxlabel(text, fontsize=6, color="0.35", x=0.01, ha="left")
    for ax in fig.axes:
        _plain_log_axis(ax)
    stem = figures_root() / given.folder / "_".join(filter(None, [notebook, part]))
    for suffix in (".png", ".pdf"):
        # without a date in the file, the same figure is the same bytes
        metadata = {"CreationDate": None} if suffix == ".pdf" else None
        with whole(stem.with_suffix(suffix)) as temporary:
            fig.savefig(temporary, metadata=metadata)


def _plain_log_axis(ax) -> None:
    """Give logarithmic axes over less than two decades plain numbers, at 1, 2 and 5.

    A y axis over a factor of less than three becomes linear.
    """
    for axis, (low, high) in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
        fixed = isinstance(axis.get_major_locator(), FixedLocator)
        if axis.get_scale() != "log" or fixed or high / low > 100:
            continue
        if axis is ax.yaxis and high / low < 3:
            ax.set_yscale("linear")
            continue
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_minor_formatter(NullFormatter())
