"""The project as a whole: its lists agree, its notebooks are in shape, its repository is small."""

import ast
import json
import re
import subprocess
import sys
import tomllib

import pytest
import yaml

from paper_lib.paper import figures, parameters
from paper_lib.runs import ROOT, run_id

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
COLUMNS = 100
LINES_OF_A_CELL = 25


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


# ---------------------------------------------------------------- dependencies


def test_environment_yml_and_pyproject_name_the_same_dependencies():
    lines = [line.strip() for line in (ROOT / "environment.yml").read_text().splitlines()]
    entries = [line.removeprefix("- ").strip() for line in lines if line.startswith("- ")]
    pip = entries[entries.index("pip:") + 1 :]
    assert pip[-1] == "--editable ."
    assert pip[:-1] == project()["dependencies"] and len(pip) > 10
    assert f"python{project()['requires-python']}" in entries


def test_what_is_imported_is_a_dependency():
    extras = project()["optional-dependencies"]
    entries = project()["dependencies"] + extras["bench"] + extras["browser"]
    named = {re.split(r"[=<>]", entry)[0].replace("-", "_") for entry in entries}
    distribution = {
        "sklearn": "scikit_learn",
        "IPython": "jupyterlab",
        "nbformat": "nbval",
        "google": "protobuf",
        "drjit": "mitsuba",
        "PIL": "pillow",
        "traitlets": "ipywidgets",
        "skimage": "scikit_image",
        "yaml": "snakemake",
    }
    imported = set()
    for folder in ("paper_lib", "bench", "tests"):
        for path in (ROOT / folder).rglob("*.py"):
            imported |= imports(path.read_text())
    for path in NOTEBOOKS:
        for source in code_of(path):
            imported |= imports(source)
    ours = {"paper_lib", "bench", "faults"}
    ours |= {path.stem for path in (ROOT / "tests").glob("*.py")}
    foreign = imported - set(sys.stdlib_module_names) - ours
    assert {distribution.get(name, name) for name in foreign} <= named


def imports(source):
    """The top-level packages that a program imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module.split(".")[0])
    return found


def test_the_lock_names_every_dependency():
    """That its versions fit together, and are all that is needed, `.ci/lock.py` asks pip."""
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert all(re.match(r"[\w.-]+==[\w.]+( ; .*)?$", pin) for pin in pins), "one version, public"
    locked = {pin.partition("==")[0] for pin in pins}
    extras = project()["optional-dependencies"].values()
    for entry in [*project()["dependencies"], *(entry for extra in extras for entry in extra)]:
        assert re.split(r"[=<>\[]", entry)[0].lower() in locked, entry
        if "==" in entry:
            assert entry in pins


# ---------------------------------------------------------------- citation


def test_the_citation_file_says_what_to_cite():
    """The fields that version 1.2.0 of the format requires, and this project's own."""
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["cff-version"] == "1.2.0" and cited["type"] == "software"
    assert cited["version"] == project()["version"] and cited["license"] == "MIT"
    paper = cited["preferred-citation"]
    for entry in [cited, paper, *cited["references"]]:
        assert entry["title"] and entry["authors"]
        for author in entry["authors"]:
            assert author.keys() in ({"name"}, {"family-names", "given-names"})
        assert entry is cited or {"type", "year", "url"} <= entry.keys()
    assert cited["message"]
    bibtex = re.search(r"```bibtex\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    names = " and ".join(f"{a['family-names']}, {a['given-names']}" for a in paper["authors"])
    for value in (paper["title"], names, str(paper["year"]), paper["collection-title"]):
        assert f"{{{value}}}" in bibtex, "as in the README"


# ---------------------------------------------------------------- notebooks


def cells_of(path):
    return json.loads(path.read_text())["cells"]


def is_parameters(cell):
    return "parameters" in cell["metadata"].get("tags", [])


def code_of(path):
    return ["".join(cell["source"]) for cell in cells_of(path) if cell["cell_type"] == "code"]


def every_notebook(test):
    return pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)(test)


def test_notebooks_and_figures_name_each_other():
    assert {path.stem for path in NOTEBOOKS} == set(figures.NOTEBOOKS)
    readme = (ROOT / "README.md").read_text()
    assert not [name for name in figures.NOTEBOOKS if name not in readme]


@every_notebook
def test_a_notebook_begins_with_its_title_and_its_parameters(path):
    cells, code = cells_of(path), code_of(path)
    assert cells[0]["cell_type"] == "markdown" and "".join(cells[0]["source"]).startswith("# ")
    (parameters_cell,) = [cell for cell in cells if is_parameters(cell)]
    source = "".join(parameters_cell["source"])
    assert source == code[0], "before anything else"
    values = {}
    exec(source, values)
    values.pop("__builtins__")
    common = {"profile", "seeds", "device", "if_missing", "overrides"}
    assert common <= set(values)
    given = parameters.check(**{name: values[name] for name in common})
    assert given == parameters.check("cpu") and not given.custom
    assert all(name in "".join(code[1:]) for name in values), "each is used"
    assert f'"{path.stem}"' in "".join(code), "what it saves has its name"


@every_notebook
def test_a_notebook_is_easy_on_the_eye(path):
    """`ruff check` and `ruff format --check` look at its code; here is what they do not see."""
    wide, long = [], []
    for cell in cells_of(path):
        lines = "".join(cell["source"]).splitlines()
        wide += [line for line in lines if len(line) > COLUMNS]
        if cell["cell_type"] == "code" and len([li for li in lines if li]) > LINES_OF_A_CELL:
            long.append(cell["id"])
    assert not wide and not long


@every_notebook
def test_a_notebook_is_stored_with_its_outputs(path):
    code = [cell for cell in cells_of(path) if cell["cell_type"] == "code"]
    outputs = [output for cell in code for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert outputs, "run `make stored`"
    # all of it was run, from top to bottom
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert any("image/png" in output.get("data", {}) for output in outputs)


# ---------------------------------------------------------------- the repository


def committed(folder):
    command = ["git", "-C", str(ROOT), "ls-files", "-z", folder]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    paths = [ROOT / name for name in listed.split("\0") if name]
    return [path for path in paths if path.exists()]


def test_what_is_committed_of_runs_is_small():
    files = committed("results/cpu/runs")
    assert files, "the results that the notebooks show"
    for path in files:
        # weights are committed of dVAEs, and of the first seed of the flagship
        limit = 3_000_000 if path.name == "weights.safetensors" else 400_000
        assert path.stat().st_size <= limit, path
        # of unfinished runs, and locks
        assert not path.name.startswith((".", "checkpoint")), path


def test_a_committed_run_says_its_id():
    for folder in {path.parent for path in committed("results/cpu/runs")}:
        assert json.loads((folder / "config.json").read_text())["id"] == folder.name


def test_every_committed_run_is_asked_for_by_a_figure_or_the_protocol():
    asked_for = {run_id(config) for config in figures.all_runs(parameters.check("cpu"))}
    assert {path.parent.name for path in committed("results/cpu/runs")} <= asked_for
