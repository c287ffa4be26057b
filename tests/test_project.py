"""The project as a whole: its lists agree, its notebooks are in shape, its repository stays small, its figures can be told apart."""

import ast
import json
import re
import subprocess
import sys
import tomllib

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from paper_lib.models import VARIANTS
from paper_lib.paper import experiments, plots
from paper_lib.runs import ROOT, run_id

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SETTING = experiments.setting("smoke")


def test_environment_yml_and_pyproject_name_the_same_dependencies():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [
        line.strip()
        for line in (ROOT / "environment.yml").read_text().splitlines()
        if line.strip().startswith("- ")
    ]
    entries = [line.removeprefix("- ").strip() for line in lines]
    pip = entries[entries.index("pip:") + 1 :]
    assert pip[-1] == "--editable ." and pip[:-1] == project["dependencies"] and len(pip) > 10
    assert f"python{project['requires-python']}" in entries


def test_what_is_imported_is_a_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {re.split(r"[=<>]", entry)[0].replace("-", "_") for entry in project["dependencies"]}
    distribution = {
        "ignite": "pytorch_ignite",
        "sklearn": "scikit_learn",
        "IPython": "jupyterlab",
        "nbformat": "nbval",
        "google": "protobuf",
        "drjit": "mitsuba",
        "PIL": "pillow",
        "skimage": "scikit_image",
    }
    imported = set()
    for path in [*(ROOT / "paper_lib").rglob("*.py"), *(ROOT / "tests").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(node.module.split(".")[0])
    standard = sys.stdlib_module_names
    ours = {"paper_lib", "conftest"} | {path.stem for path in (ROOT / "tests").glob("*.py")}
    assert {distribution.get(name, name) for name in imported - standard - ours} <= named


# ---------------------------------------------------------------- notebooks


def test_notebooks_and_experiments_name_each_other():
    assert {path.stem for path in NOTEBOOKS} == set(experiments.NOTEBOOKS)
    readme = (ROOT / "README.md").read_text()
    assert not [name for name in experiments.NOTEBOOKS if name not in readme]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_in_shape(path):
    cells = json.loads(path.read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert cells[0]["cell_type"] == "markdown" and "".join(cells[0]["source"]).startswith("# ")
    assert sum(1 for source in code for line in source.splitlines() if line.strip()) <= 80
    (parameters,) = [
        "".join(cell["source"])
        for cell in cells
        if "parameters" in cell.get("metadata", {}).get("tags", [])
    ]
    values = {}
    exec(parameters, values)
    given = {name: value for name, value in values.items() if not name.startswith("__")}
    common = {"profile", "seeds", "device", "if_missing", "overrides"}
    assert common <= set(given)
    experiments.setting(**{name: given[name] for name in common})
    assert (
        given["profile"] == "cpu"
        and given["seeds"] is None
        and given["overrides"] == {}
        and parameters in code[0]
    ), "before anything else"
    assert all(name in "".join(code[1:]) for name in given), "and each is used"
    assert f'"{path.stem}"' in "".join(code), "what it saves has its name"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_with_its_outputs(path):
    code = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    outputs = [output for cell in code for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert outputs, "run `make stored`"
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1)), (
        "all of it was run, from top to bottom"
    )
    assert any("image/png" in output.get("data", {}) for output in outputs)


# ---------------------------------------------------------------- the repository


def committed(folder):
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z", folder],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).exists()]


def test_what_is_committed_of_runs_is_small():
    files = committed("results/cpu/runs")
    assert files, "the results that the notebooks show"
    large = {
        path.relative_to(ROOT): path.stat().st_size
        for path in files
        if path.stat().st_size > 300_000
    }
    assert not [
        path
        for path in large
        if not (path.name == "weights.safetensors" and path.parent.name.startswith("dvae-"))
    ], large
    assert not [path.name for path in files if path.name.startswith((".", "checkpoint"))], (
        "of unfinished runs, and locks"
    )
    for folder in {path.parent for path in files}:
        assert json.loads((folder / "config.json").read_text())["id"] == folder.name


def test_every_committed_run_is_shown_somewhere():
    shown = {
        c
        for name in experiments.NOTEBOOKS
        for c in experiments.runs_of(name, experiments.setting("cpu"))
    }
    assert {path.parent.name for path in committed("results/cpu/runs")} <= {
        run_id(c) for c in shown
    }


# ---------------------------------------------------------------- figures and tables


def luminance(colour):
    """Relative luminance (Rec. 709) of a colour: what is left of it in grey."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def test_methods_can_be_told_apart():
    assert set(plots.COLOURS) == set(plots.LINES) == set(plots.MARKERS) == set(VARIANTS)
    for choice in (plots.COLOURS, plots.LINES, plots.MARKERS):
        assert len(set(choice.values())) == len(choice)
    vanilla, implicit = (luminance(plots.COLOURS[method]) for method in ("vanilla", "IN"))
    assert max(vanilla, implicit) + 0.05 > 1.4 * (min(vanilla, implicit) + 0.05), (
        "in grey, too: a contrast of 1.4"
    )


@pytest.mark.parametrize("part", ["", "two"])
def test_a_figure_is_saved_whole_twice_and_the_same(elsewhere, part):
    contents = []
    for _ in range(2):
        fig, ax = plots.figure(1, 2)
        ax[0].plot([1, 2, 3], [3, 1, 2])
        plots.save(fig, "fig00_test", SETTING, part=part)
        plt.close(fig)
        files = sorted((elsewhere / "figures/smoke").iterdir())
        stem = "fig00_test_two" if part else "fig00_test"
        assert [path.name for path in files] == [f"{stem}.pdf", f"{stem}.png"], (
            "and no temporary file beside them"
        )
        contents.append([path.read_bytes() for path in files])
    assert contents[0] == contents[1]
    pdf, png = contents[0]
    assert (
        pdf.startswith(b"%PDF")
        and pdf.rstrip().endswith(b"%%EOF")
        and png.startswith(b"\x89PNG")
        and png.endswith(b"IEND\xaeB`\x82")
    )
    assert plt.imread(elsewhere / "figures/smoke" / f"{stem}.png").shape[1] == pytest.approx(
        plots.WIDTH * 200, abs=2
    )


def test_a_figure_that_fails_leaves_the_old_one(elsewhere, monkeypatch):
    fig, _ = plots.figure()
    plots.save(fig, "fig00_test", SETTING)
    before = {path: path.read_bytes() for path in (elsewhere / "figures/smoke").iterdir()}

    def fails(path, **_):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(fig, "savefig", fails)
    with pytest.raises(OSError, match="disk full"):
        plots.save(fig, "fig00_test", SETTING)
    assert {path: path.read_bytes() for path in (elsewhere / "figures/smoke").iterdir()} == before
    plt.close(fig)


def test_a_figure_says_its_scale_and_data():
    for profile in experiments.PROFILES:
        setting = experiments.setting(profile)
        fig, _ = plots.figure()
        fig.savefig = lambda *_, **__: None
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(plots, "whole", lambda path: open("/dev/null", "w"))
            plots.save(fig, "fig00_test", setting)
        text = fig._supxlabel.get_text().replace("\n", " ")
        assert "Generated CLEVR-Mirror" in text and experiments.PROFILES[profile] in text
        plt.close(fig)


def test_tables(elsewhere):
    table = pd.DataFrame({"a": [1, 2], "b & c": ["x_1", "50%"]})
    assert plots.save_table(table, "tab00_test", SETTING, part="part") is table
    stem = elsewhere / "results/smoke/tables/tab00_test_part"
    assert pd.read_csv(stem.with_suffix(".csv")).equals(table)
    assert (
        "x_1" in stem.with_suffix(".md").read_text()
        and r"b \& c" in stem.with_suffix(".tex").read_text()
    )
    assert r"50\%" in stem.with_suffix(".tex").read_text()


@pytest.mark.parametrize(
    "values, text",
    [([51.61], "51.6"), ([50.9, 52.8, 51.1], "51.6 [50.9, 52.8]"), ([2.0, 2.0], "2 [2, 2]")],
)
def test_mean_and_range(values, text):
    assert plots.mean_and_range(pd.Series(values)) == text


def test_a_diverged_seed_ends_in_a_cross():
    fig, ax = plots.figure()
    values = pd.DataFrame({0: [1.0, 2.0, 3.0], 1: [1.0, 2.0, np.nan]}, index=[10, 20, 30])
    plots.band(ax, "vanilla", values)
    mean, *crosses = ax.lines
    assert mean.get_label() == "vanilla, 2 seeds" and mean.get_ydata().tolist() == [1, 2, 3]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in crosses] == [
        (20, 2)
    ] and "seed 1: diverged" in crosses[0].get_label()
    assert len(ax.collections) == 1
    plt.close(fig)


@pytest.mark.parametrize(
    "values, cross",
    [
        ([3, 2, 1], None),
        ([3, 2, np.nan], (20, 2)),
        ([3, np.nan, np.nan], (10, 3)),
        ([3, np.nan, 1], None),  # not evaluated at every step: that is no end
        (
            [np.nan] * 3,
            None,
        ),  # it diverged before it was ever evaluated: there is no place for a cross
        ([], None),
    ],
)
def test_a_cross_marks_where_a_curve_ends_early(values, cross):
    fig, ax = plots.figure()
    plots.mark_divergence(
        ax, pd.Series(values, index=[10, 20, 30][: len(values)], dtype=float), "#123456", "its name"
    )
    found = [(line.get_xdata()[0], line.get_ydata()[0]) for line in ax.lines]
    assert found == ([cross] if cross else [])
    assert all(
        (line.get_marker(), line.get_color(), line.get_label()) == ("x", "#123456", "its name")
        for line in ax.lines
    )
    plt.close(fig)


def test_a_cross_needs_no_label():
    fig, ax = plots.figure()
    plots.mark_divergence(ax, pd.Series([1.0, np.nan], index=[1, 2]), "red")
    assert len(ax.lines) == 1 and not ax.get_legend_handles_labels()[1]
    plt.close(fig)


@pytest.mark.parametrize("count", [1, 2, 3, 6, 10])
def test_shades_darken_in_their_order(count):
    found = [luminance(shade) for shade in plots.shades(count)]
    assert len(found) == count and found == sorted(found, reverse=True)
    steps = [(a + 0.05) / (b + 0.05) for a, b in zip(found, found[1:])]
    assert min(steps, default=2) > (1.2 if count <= 6 else 1), "six can be told apart in grey"


@pytest.mark.parametrize("low, high, scale", [(1, 2, "linear"), (1, 50, "log"), (1, 5_000, "log")])
def test_logarithmic_axes(low, high, scale):
    fig, ax = plots.figure()
    ax.set_yscale("log")
    ax.set_ylim(low, high)
    plots._plain_log_axis(ax)
    assert ax.get_yscale() == scale
    plt.close(fig)
