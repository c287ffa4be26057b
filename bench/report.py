"""A benchmark's report: paragraphs and tables, then the machine, the versions and the commit; Markdown, and a figure where there is one."""

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

from paper_lib import runs
from paper_lib.data.parallel import cores
from paper_lib.paper import plots
from paper_lib.system.files import whole
from paper_lib.system.machine import processor

LOAD_BEFORE = os.getloadavg()[
    0
]  # what other processes did when this one began: what comes later is its own


@dataclass
class Report:
    """title; parts: paragraphs and tables, in order; packages: whose versions matter beside torch's; figure and caption: saved beside the text."""

    title: str
    parts: list[str | pd.DataFrame]
    packages: tuple[str, ...] = ()
    figure: Figure | None = None
    caption: str = field(default="", repr=False)


def write(report: Report, name: str, folder: Path) -> Path:
    """Write <folder>/<name>.md, whole, and <name>.png and .pdf if there is a figure; returns the Markdown's path."""
    parts = [
        f"# {report.title}",
        *(markdown(part) if isinstance(part, pd.DataFrame) else part for part in report.parts),
    ]
    if report.figure is not None:
        plots.save(
            report.figure, name, SimpleNamespace(folder=folder.absolute()), caption=report.caption
        )
        parts.append(f"![{report.caption}]({name}.png)")
    parts.append(f"{_provenance(report.packages)}\nWritten by `python -m bench {name}`.")
    with whole(folder / f"{name}.md") as temporary:
        temporary.write_text("\n\n".join(parts) + "\n")
    return folder / f"{name}.md"


def how_timed(rounds: int | str, warmup: str = "one that warms up") -> str:
    """The sentence under a table of times; `rounds` is a number, or says where the number is; `warmup` is what came before them."""
    over = rounds if isinstance(rounds, str) else f"{rounds} round{'s' if rounds > 1 else ''}"
    return f"Contestants take turns within one process and one thread, float32; median and quartiles (q25, q75) over {over} after {warmup}."


def markdown(table: pd.DataFrame) -> str:
    """A table whose numbers have four digits."""
    return table.map(_text).to_markdown(index=False, disable_numparse=True)


def _text(value) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _provenance(packages: tuple[str, ...]) -> str:
    versions = ", ".join(f"{name} {_version(name)}" for name in ("torch", "numpy", *packages))
    threads = torch.get_num_threads()
    return (
        f"{processor()}, {cores()} cores, of which other processes kept {LOAD_BEFORE:.1f} busy when this began; {threads} thread{'s' if threads > 1 else ''}; "
        f"Python {platform.python_version()}, {versions}; commit {runs._commit()}."
    )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "(version unknown)"
