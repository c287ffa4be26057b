"""Every claim at a glance: one table of all verdicts, and the README's part that is made of it.

    python -m paper_lib.paper.claims_table      write the README's part anew

The table is the notebook `claims`, stored as results/<profile>/tables/claims.csv.
"""

from __future__ import annotations

import math
import sys

import pandas as pd

from paper_lib.paper import figures, parameters, published, tables
from paper_lib.paper.evidence import evidence
from paper_lib.runs import ROOT

BEGIN = "<!-- claims: written by python -m paper_lib.paper.claims_table -->"
END = "<!-- end of claims -->"


def table(judged: dict[str, list], given) -> pd.DataFrame:
    """Return a row for each of `verdicts.every`, by number, beside what the paper says.

    The share of the paper's effect is `claims.Judged`'s.
    """
    rows = []
    for notebook, verdicts_of_it in judged.items():
        for claim in verdicts_of_it:
            row = claim.row()
            row["share of the paper's effect"] = percent(claim.share)
            row["the paper's words"] = published.WORDS.get(claim.number, "")
            row["shown in"] = notebook
            row["runs"] = "" if math.isnan(claim.mean) else runs_in_words(notebook, given)
            rows.append(row)
    rows.sort(key=lambda row: order(row[""]))
    return tables.from_rows(rows)


def order(number: str) -> tuple[bool, int]:
    """Return a key that sorts numbers of claims: the paper's, C1 to C17, before ours."""
    return number[0] != "C", int(number[1:])


def percent(share: float) -> str:
    """Return a share as 14%; "" for nan."""
    return "" if math.isnan(share) else f"{share:.0%}"


def runs_in_words(notebook: str, given) -> str:
    """Say what a notebook's runs are: 32x32, 3,000 steps, first protocol."""
    configs = figures.every_config(figures.NOTEBOOKS[notebook](given))
    trained = [getattr(config, "slate", config) for config in configs]
    trained = [config for config in trained if hasattr(config, "training")]
    if not trained:  # timed only
        return ""
    sizes = sorted({config.data.size for config in trained})
    steps = sorted({config.training.steps for config in trained})
    said = [" and ".join(f"{size}x{size}" for size in sizes)]
    said.append(f"{' or '.join(f'{count:,}' for count in steps)} steps")
    if given.profile == "cpu":
        second = set(figures.every_config(evidence(given)))
        protocols = {"second" if config in second else "first" for config in trained}
        said.append(f"{' and '.join(sorted(protocols))} protocol")
    return ", ".join(said)


def readme_part(stored: pd.DataFrame) -> str:
    """Return what the README says of the table: Markdown, a row a claim."""
    lines = [
        "| | the claim | what is measured | ours [95% interval] | holds if | the paper's "
        "| seeds | verdict | shown in |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in stored.to_dict("records"):
        ours = row["mean"]
        if row["95% interval"].startswith("["):
            ours += f" {row['95% interval']}"
        where = f"[`{row['shown in']}`](notebooks/{row['shown in']}.ipynb)"
        of = row["runs"]
        share = row["share of the paper's effect"]
        cells = [
            row[""],
            row["the claim"],
            row["statistic"],
            ours,
            row["holds if"],
            row["the paper's"] + (share and f" ({share})"),
            row["seeds"],
            verdict_in_words(row),
            f"{where}{f', {of}' if of else ''}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def verdict_in_words(row: dict) -> str:
    """Return a row's verdict; with too few seeds for one, where the mean points."""
    few = row["95% interval"].endswith(("seed", "seeds"))
    if row["verdict"] == "inconclusive" and few and row["mean agrees"]:
        agrees = {"yes": "agrees", "no": "does not agree"}[row["mean agrees"]]
        return f"inconclusive: {row['95% interval']}, {agrees}"
    decided = row["verdict"] in ("supported", "not supported")
    return f"**{row['verdict']}**" if decided else row["verdict"]


def load(given) -> pd.DataFrame:
    """Load the stored table, all cells as text."""
    path = tables.tables_root() / given.folder / "tables" / "claims.csv"
    stored = pd.read_csv(path, dtype=str, keep_default_na=False)
    return stored.rename(columns={"Unnamed: 0": ""})


def replaced(readme: str, part: str) -> str:
    """Return the README's text with what is between the two marks replaced.

    Raises ValueError where it has not exactly one of each.
    """
    if (readme.count(BEGIN), readme.count(END)) != (1, 1):
        raise ValueError(f"README.md must have {BEGIN} and {END} once each")
    before, rest = readme.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{part}\n{END}{after}"


def main() -> int:
    path = ROOT / "README.md"
    part = readme_part(load(parameters.check("cpu")))
    path.write_text(replaced(path.read_text(), part))
    return 0


if __name__ == "__main__":
    sys.exit(main())
