"""A benchmark's report in Markdown: paragraphs and tables, then the machine and the versions."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import torch
from matplotlib.figure import Figure

from paper_lib.paper import plots
from paper_lib.runs.provenance import commit
from paper_lib.system.files import whole
from paper_lib.system.machine import cores, processor

# What other processes did when this one began: what comes later is its own.
LOAD_BEFORE = os.getloadavg()[0]


@dataclass
class Report:
    """What a benchmark has to say.

    parts      paragraphs and tables, in order
    packages   packages whose versions matter beside those of torch and numpy
    figure     a figure that is saved beside the text, with its caption
    """

    title: str
    parts: list[str | pd.DataFrame]
    packages: tuple[str, ...] = ()
    figure: Figure | None = None
    caption: str = field(default="", repr=False)


def write(report: Report, name: str, folder: Path) -> Path:
    """Write <folder>/<name>.md, and <name>.png and .pdf if there is a figure.

    Returns the path of the Markdown.
    """
    parts = [f"# {report.title}"]
    for part in report.parts:
        parts.append(markdown(part) if isinstance(part, pd.DataFrame) else part)
    if report.figure is not None:
        here = SimpleNamespace(folder=folder.absolute())  # in the place of a profile's own folder
        plots.save(report.figure, name, here, caption=report.caption)
        parts.append(f"![{report.caption}]({name}.png)")
    parts.append(f"{provenance(report.packages)}\nWritten by `python -m bench {name}`.")
    path = folder / f"{name}.md"
    with whole(path) as temporary:
        temporary.write_text("\n\n".join(parts) + "\n")
    return path


def how_timed(rounds: int | str, warmup: str = "one that warms up") -> str:
    """Return the sentence that stands under a table of times.

    rounds   how many, or words that say where the number is
    warmup   what came before them
    """
    if isinstance(rounds, int):
        rounds = f"{rounds} round{'s' if rounds > 1 else ''}"
    return (
        "Contestants take turns within one process and one thread, float32; "
        f"median and quartiles (q25, q75) over {rounds} after {warmup}."
    )


def markdown(table: pd.DataFrame) -> str:
    """Return the table in Markdown, its numbers with four digits."""
    return table.map(_text).to_markdown(index=False, disable_numparse=True)


def provenance(packages: tuple[str, ...]) -> str:
    """Return a line on the machine, how busy it was, the versions and the commit."""
    threads = torch.get_num_threads()
    versions = ", ".join(f"{name} {_version(name)}" for name in ("torch", "numpy", *packages))
    return (
        f"{processor()}, {cores()} cores, "
        f"of which other processes kept {LOAD_BEFORE:.1f} busy when this began; "
        f"{threads} thread{'s' if threads > 1 else ''}; "
        f"Python {platform.python_version()}, {versions}; commit {commit()}."
    )


def _text(value) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "(version unknown)"
