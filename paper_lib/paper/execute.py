"""One notebook, executed by papermill at a profile: whole, or not at all.

    python -m paper_lib.paper.execute quick fig01_overview OUTPUT.ipynb --device cpu

`make figures` calls it for each. What the profile replays (see `figures.REPLAYED`) is executed at
the cpu profile, on the results that are committed; its figures and tables say so, and go into a
folder cpu/ among the profile's own.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import nbformat
import papermill

from paper_lib.paper import figures, parameters, plots, tables
from paper_lib.paper.profiles import PROFILES
from paper_lib.runs import ROOT
from paper_lib.system.files import whole
from paper_lib.system.reading import BrokenFile, read_json, reading


def ensure_sound(path: Path) -> None:
    """Raise BrokenFile if a file is no notebook, or has no cell that takes parameters.

    Papermill would put the parameters of such a one first, where its own cell undoes them.
    """
    remedy = f"Get it again: git checkout -- notebooks/{path.name}"
    content = read_json(path, remedy)
    with reading(path, remedy):
        notebook = nbformat.from_dict(content)
        nbformat.validate(notebook)
        tagged = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    if len(tagged) != 1:
        raise BrokenFile(path, f"has {len(tagged)} cells with the tag 'parameters', not 1", remedy)


def execute(
    source: Path, output: Path, profile: str, device: str, if_missing: str = "train"
) -> None:
    """Execute a notebook, and write it with what it shows, whole or not at all.

    Raises BrokenFile for a source that is no notebook, papermill.PapermillExecutionError for a cell
    that fails, and OSError.
    """
    ensure_sound(source)
    given = {"profile": profile, "device": device, "if_missing": if_missing}
    with whole(output) as temporary:
        papermill.execute_notebook(source, temporary, given, progress_bar=False)


def replay(profile: str) -> dict[str, str]:
    """Return the environment in which the committed results are replayed beside a profile's own."""
    return {
        "PAPER_REPLAYED": "yes",
        "PAPER_FIGURES": str(plots.figures_root() / profile),
        "PAPER_TABLES": str(tables.tables_root() / profile),
        "PAPER_RESULTS": str(ROOT / "results"),
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m paper_lib.paper.execute", description="Execute a notebook at a profile."
    )
    parser.add_argument("profile", choices=PROFILES)
    parser.add_argument("notebook", choices=figures.NOTEBOOKS, metavar="NOTEBOOK")
    parser.add_argument("output", type=Path)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 ...")
    given = parser.parse_args(arguments)
    try:
        parameters.check(given.profile, device=given.device)
    except ValueError as error:
        parser.error(str(error))
    source = ROOT / "notebooks" / f"{given.notebook}.ipynb"
    shown = figures.profile_shown(given.notebook, given.profile)
    replayed = shown != given.profile
    if replayed:
        os.environ.update(replay(given.profile))  # a kernel inherits it
    try:
        execute(source, given.output, shown, given.device, "error" if replayed else "train")
    except (BrokenFile, papermill.PapermillExecutionError, OSError) as error:
        print(f"{given.notebook}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
