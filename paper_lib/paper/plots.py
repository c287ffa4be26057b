"""One style for all figures: one colour per method, seeds as bands, a caption that says the scale, PNG and PDF."""

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
from paper_lib.runs import ROOT, RunResult, results_root
from paper_lib.system.files import whole

# The paper's colours: vanilla red, implicit blue. Lightness, line style and marker differ too, so that the curves can be told apart in grey.
COLOURS = {
    "vanilla": "#d62728",
    "IN": "#1f4e9c",
    "BN": "#56a0d3",
    "BB": "#2e8b57",
    "IB": "#c58b1a",
    "AN": "#8a5fbf",
    "AA": "#6b6b6b",
}
LINES = {
    "vanilla": "--",
    "IN": "-",
    "BN": "-.",
    "BB": (0, (5, 1)),
    "IB": ":",
    "AN": (0, (3, 1, 1, 1)),
    "AA": (0, (1, 1)),
}
MARKERS = {"vanilla": "s", "IN": "o", "BN": "^", "BB": "v", "IB": "D", "AN": "P", "AA": "X"}
NAMES = {"vanilla": "vanilla", "IN": "implicit (IN)"}

WIDTH = 6.75  # inches: the text width of a two-column paper


def use_style() -> None:
    """Fonts and lines for print at the text width."""
    sns.set_theme(context="paper", style="ticks")
    plt.rcParams.update({
        "font.family": "DejaVu Sans", "font.size": 7.5, "axes.titlesize": 8, "axes.titleweight": "bold", "axes.labelsize": 7.5,
        "xtick.labelsize": 7, "ytick.labelsize": 7, "legend.fontsize": 7, "legend.frameon": False, "lines.linewidth": 1.4,
        "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.8, "xtick.major.width": 0.8, "ytick.major.width": 0.8,
        "xtick.major.size": 3, "ytick.major.size": 3, "figure.dpi": 130, "savefig.dpi": 200, "pdf.fonttype": 42,
    })  # fmt: skip


def figure(rows: int = 1, columns: int = 1, height: float = 2.4, **kwargs):
    """A figure of the text width in the common style, and its axes."""
    use_style()
    return plt.subplots(rows, columns, figsize=(WIDTH, height), layout="constrained", **kwargs)


def name(method: str) -> str:
    """A method as legends and tables call it."""
    return NAMES.get(method, method)


def curves(runs: list[RunResult], column: str) -> pd.DataFrame:
    """A metric over training: index step, one column a seed; rows where it was logged. A diverged run ends where it diverged."""
    columns = {}
    for run in runs:
        metrics = run.metrics.set_index("step")
        columns[run.config.seed] = (
            metrics[column].dropna() if column in metrics else pd.Series(dtype=float)
        )  # it diverged before its first evaluation
    return pd.concat(columns, axis=1)


def band(ax, method: str, values: pd.DataFrame, label: str | None = None, **kwargs) -> None:
    """Mean over seeds (columns) as a line, their range as a band, with the number of seeds in the legend; a cross where a seed's curve ends early."""
    seeds = values.shape[1]
    text = f"{label or name(method)}, {seeds} seed{'s' if seeds > 1 else ''}"
    style = {"color": COLOURS[method], "linestyle": LINES[method]} | kwargs
    ax.plot(values.index, values.mean(axis=1), label=text, **style)
    if seeds > 1:
        ax.fill_between(
            values.index,
            values.min(axis=1),
            values.max(axis=1),
            color=style["color"],
            alpha=0.18,
            linewidth=0,
        )
    for seed in values:
        mark_divergence(
            ax, values[seed], style["color"], f"{name(method)}, seed {seed}: diverged here"
        )


def mark_divergence(ax, values: pd.Series, colour, label: str | None = None) -> None:
    """A cross where a curve ends before its index does."""
    curve = values.dropna()
    if len(curve) and curve.index[-1] < values.index[-1]:
        ax.plot(curve.index[-1], curve.iloc[-1], "x", color=colour, markersize=7, label=label)


def shades(count: int) -> list:
    """So many colours from light to dark, for an ordered parameter."""
    return sns.color_palette("viridis_r", count)


def tones(methods: list[str]) -> list:
    """A colour for each entry: where a method comes more than once, its colour from light to dark, for an ordered parameter within it."""
    ladder = {
        method: iter(sns.light_palette(COLOURS[method], methods.count(method) + 1)[1:])
        for method in methods
    }
    return [next(ladder[method]) for method in methods]


def steps_axis(ax) -> None:
    """A training-step axis: thousands with a comma, few ticks."""
    ax.xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=[1, 2, 5, 10]))
    ax.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    ax.set_xlabel("training step")
    ax.set_xlim(left=0)


def pictures(ax, images: np.ndarray | None, title: str, first: int = 10) -> None:
    """The first uint8 images (n, H, W, 3) side by side, without smoothing; None (a run that has no pictures) leaves the row empty."""
    ax.set_xticks([]), ax.set_yticks([])
    ax.spines[:].set_visible(False)
    ax.set_ylabel(title, rotation=0, ha="right", va="center")
    if images is not None:
        padded = np.pad(images[:first], ((0, 0), (0, 0), (0, 1), (0, 0)), constant_values=255)
        n, height, width, _ = padded.shape
        ax.imshow(
            padded.transpose(1, 0, 2, 3).reshape(height, n * width, 3), interpolation="nearest"
        )


def figures_root() -> Path:
    """figures/ in the project, or where the environment variable PAPER_FIGURES says."""
    return Path(os.environ.get("PAPER_FIGURES", ROOT / "figures"))


def save(fig, notebook: str, setting, part: str = "", caption: str | None = None) -> None:
    """Write figures/<profile>/<notebook>[_part].png and .pdf (or figures/<profile>/custom/, see Setting.folder).

    Under the figure stands the setting's caption line, which says its scale and its data.
    """
    text = "\n".join(textwrap.wrap(caption or caption_of(setting), 145))
    fig.supxlabel(text, fontsize=6, color="0.35", x=0.01, ha="left")
    for ax in fig.axes:
        _plain_log_axis(ax)
    stem = figures_root() / setting.folder / "_".join(filter(None, [notebook, part]))
    for suffix in (".png", ".pdf"):
        with whole(stem.with_suffix(suffix)) as temporary:
            # without a date in the file, the same figure is the same bytes
            fig.savefig(temporary, metadata={"CreationDate": None} if suffix == ".pdf" else None)


def _plain_log_axis(ax) -> None:
    """Logarithmic axes over less than two decades get plain numbers at 1, 2 and 5; a y axis over a factor of less than three becomes linear."""
    for axis, limits in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
        fixed = isinstance(axis.get_major_locator(), FixedLocator)
        if axis.get_scale() != "log" or fixed or limits[1] / limits[0] > 100:
            continue
        if axis is ax.yaxis and limits[1] / limits[0] < 3:
            ax.set_yscale("linear")
            continue
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_minor_formatter(NullFormatter())


def tables_root() -> Path:
    """Where the results are, or where the environment variable PAPER_TABLES says."""
    return Path(os.environ.get("PAPER_TABLES", results_root()))


def save_table(table: pd.DataFrame, notebook: str, setting, part: str = "") -> pd.DataFrame:
    """Write results/<profile>/tables/<notebook>[_part].csv, .md and .tex; returns the table for the notebook to show."""
    stem = tables_root() / setting.folder / "tables" / "_".join(filter(None, [notebook, part]))
    content = {
        ".csv": table.to_csv(index=False),
        ".md": table.to_markdown(index=False) + "\n",
        ".tex": table.to_latex(index=False, escape=True),
    }
    for suffix, text in content.items():
        with whole(stem.with_suffix(suffix)) as temporary:
            temporary.write_text(text)
    return table


def mean_and_range(values: pd.Series) -> str:
    """Such as 51.6 [50.9, 52.8]; the mean alone for a single seed."""
    low, mean, high = (f"{v:.3g}" for v in (values.min(), values.mean(), values.max()))
    return f"{mean} [{low}, {high}]" if len(values) > 1 else mean


def line(ax, method: str, values: pd.Series, label: str) -> None:
    """One curve with markers, in the method's colour."""
    ax.plot(
        values.index,
        values,
        color=COLOURS[method],
        linestyle=LINES[method],
        marker=MARKERS[method],
        markersize=3.5,
        label=label,
    )


def spread(ax, table: pd.DataFrame, group: str, column: str, colours: list[str]) -> None:
    """A row for each group (top to bottom as they come in the table): a dot for each table row, and a bar at their median."""
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


def colour_bars(ax, shares: dict[str, dict[str, float]]) -> None:
    """Bars in the objects' own colours, a group a data set: data set -> colour -> share."""
    left, ticks = 0, []
    for name, by_colour in shares.items():
        ax.bar(
            range(left, left + len(by_colour)),
            list(by_colour.values()),
            color=list(by_colour),
            edgecolor="0.3",
            linewidth=0.5,
        )
        ticks.append((left + (len(by_colour) - 1) / 2, name))
        left += len(by_colour) + 1
    ax.set_xticks([x for x, _ in ticks], [name for _, name in ticks])
