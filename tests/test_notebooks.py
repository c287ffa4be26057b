"""Every notebook from top to bottom on the smoke profile."""

import re

import nbformat
import papermill
import pytest

from paper_lib.paper import figures
from paper_lib.runs import ROOT

# figures and tables of each notebook, by part
FIGURES = dict.fromkeys(figures.NOTEBOOKS, [""]) | {
    "flagship": ["slots", ""],
    "fig01_overview": ["", "reconstructions"],
    "fig04_qualitative": ["clevr", "shapestacks"],
    "fig07_property_prediction": ["", "test_time", "scenes"],
    "fig08_segmentation_masks": ["", "training"],
    "ext01_gradient_fidelity": ["", "when", "along"],
    "data_gallery": ["", "statistics"],
    "diagnose_slots": ["", "residuals"],
}
TABLES = dict.fromkeys(figures.NOTEBOOKS, ["", "claims"]) | {
    "fig02_one_line": [""],
    "fig08_segmentation_masks": ["", "test_time", "spread", "claims"],
    "ext01_gradient_fidelity": ["", "cells", "along", "claims"],
    "data_gallery": ["properties", "sources"],
    "claims": [""],
    "explore_slots": [],
    "diagnose_slots": [""],
}
# what no reader should see
GARBAGE = re.compile(r"nan%|inf%|<bound method|<paper_lib|object at 0x|Traceback|\{n\}|Warning\b.*")


def execute(name, out, **parameters):
    source = ROOT / "notebooks" / f"{name}.ipynb"
    return papermill.execute_notebook(
        source,
        out / f"{name}.ipynb",
        parameters,
        cwd=ROOT,
        progress_bar=False,
        log_output=False,
        # torch takes two seconds to leave a process in good order
        shutdown_kernel="immediate",
    )


def outputs(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def shown(notebook):
    """All text that a notebook's code cells put out."""
    texts = []
    for output in outputs(notebook):
        texts.append(output.get("text", ""))
        for kind, value in output.get("data", {}).items():
            if kind.startswith("text/"):
                texts.append(str(value))
    return "\n".join(texts)


def named(name, parts, suffixes):
    """The files that a notebook writes."""
    stems = [f"{name}_{part}" if part else name for part in parts]
    return {stem + suffix for stem in stems for suffix in suffixes}


@pytest.mark.parametrize("name", figures.NOTEBOOKS)
def test_a_notebook_runs_from_top_to_bottom(smoke, root, tmp_path, name):
    notebook = execute(name, tmp_path, profile="smoke", if_missing="train")
    nbformat.validate(notebook)
    kinds = [output["output_type"] for output in outputs(notebook)]
    assert "error" not in kinds
    assert any("image/png" in output.get("data", {}) for output in outputs(notebook))

    drawn = {path.name: path for path in (root / "figures/smoke").glob(f"{name}*")}
    assert set(drawn) == named(name, FIGURES[name], (".png", ".pdf"))
    for path in drawn.values():
        assert path.stat().st_size > 5_000

    tables = {path.name: path for path in (root / "results/smoke/tables").glob(f"{name}*")}
    assert set(tables) == named(name, TABLES[name], (".csv", ".md", ".tex"))
    for text in [shown(notebook), *(path.read_text() for path in tables.values())]:
        assert not GARBAGE.findall(text)


@pytest.mark.parametrize("name", ["fig07_property_prediction", "fig08_segmentation_masks"])
def test_a_notebook_shows_runs_that_diverged(smoke, root, tmp_path, name):
    """Before their first evaluation: there is nothing but their status to show, and the figures are
    drawn around that."""
    changes = {"training.lr": 1e30}
    notebook = execute(name, tmp_path, profile="smoke", if_missing="train", overrides=changes)
    assert "diverged" in (root / f"results/smoke/custom/tables/{name}.csv").read_text()
    assert "decides nothing" in shown(notebook) or "inconclusive" in shown(notebook)


def test_every_notebook_that_is_looked_at_is_there():
    assert set(FIGURES) == set(TABLES) == set(figures.NOTEBOOKS)


def test_a_wrong_parameter_ends_in_our_message(tmp_path):
    words = "unknown profile 'huge': choose from smoke, quick, cpu, gpu, paper"
    with pytest.raises(papermill.PapermillExecutionError, match=words):
        execute("fig03a_residuals", tmp_path, profile="huge")
