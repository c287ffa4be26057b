"""Tables: what stands in a cell, and the three files that each table is saved as."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd

from paper_lib.paper.claims import Judged
from paper_lib.runs import results_root
from paper_lib.system.files import whole


def mean_and_range(values: pd.Series) -> str:
    """Return text such as 51.6 [50.9, 52.8]; the mean alone for a single value."""
    low, mean, high = (f"{v:.3g}" for v in (values.min(), values.mean(), values.max()))
    return f"{mean} [{low}, {high}]" if len(values) > 1 else mean


def from_rows(rows: list[dict]) -> pd.DataFrame:
    """Return a table with a dict a row; what a row says nothing about stays empty."""
    table = pd.DataFrame(rows).astype(object)
    table[table.isna()] = ""  # `fillna` would give some columns of numbers back, in pandas 2
    return table


def tables_root() -> Path:
    """Return where the results are, or what the environment variable PAPER_TABLES names."""
    return Path(os.environ.get("PAPER_TABLES", results_root()))


def save_table(table: pd.DataFrame, notebook: str, given, part: str = "") -> pd.DataFrame:
    """Write results/<profile>/tables/<notebook>[_part].csv, .md and .tex.

    given     the notebook's `Parameters`, whose `folder` stands for <profile>

    Returns the table, for the notebook to show.
    """
    stem = tables_root() / given.folder / "tables" / "_".join(filter(None, [notebook, part]))
    content = {
        ".csv": table.to_csv(index=False),
        ".md": table.to_markdown(index=False) + "\n",
        ".tex": table.to_latex(index=False, escape=True),
    }
    for suffix, text in content.items():
        with whole(stem.with_suffix(suffix)) as temporary:
            temporary.write_text(text)
    return table


def save_claims(judged: list[Judged], notebook: str, given) -> str:
    """Save judged claims as the table <notebook>_claims.

    Returns them in words, a paragraph each.
    """
    save_table(from_rows([claim.row() for claim in judged]), notebook, given, part="claims")
    return "\n\n".join(claim.sentence() for claim in judged)
