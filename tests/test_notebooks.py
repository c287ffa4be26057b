"""Every notebook from top to bottom on the smoke profile, and the command that makes them all."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import nbformat
import papermill
import pytest

from paper_lib.paper import batch, figures, profiles
from paper_lib.runs import ROOT

# figures and tables of each notebook, by part
FIGURES = dict.fromkeys(figures.NOTEBOOKS, [""]) | {
    "fig01_overview": ["", "reconstructions"],
    "fig04_qualitative": ["clevr", "shapestacks", "photos"],
    "fig07_property_prediction": ["", "test_time", "scenes"],
    "fig08_segmentation_masks": ["", "training"],
    "data_gallery": ["", "statistics"],
}
TABLES = dict.fromkeys(figures.NOTEBOOKS, ["", "claims"]) | {
    "fig02_one_line": [""],
    "fig08_segmentation_masks": ["", "test_time", "spread", "claims"],
    "data_gallery": ["properties", "sources"],
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
    words = "unknown profile 'huge': choose from smoke, quick, cpu, paper"
    with pytest.raises(papermill.PapermillExecutionError, match=words):
        execute("fig03a_residuals", tmp_path, profile="huge")


# ---- make figures ----

ARGUMENTS = ["smoke", "--only", "fig02_one_line", "--jobs", "1"]


def state(folder):
    """The dates of all files in a folder."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name[0] != "."]
    return {path.relative_to(folder): path.stat().st_mtime_ns for path in files}


def library():
    """Dates of what a notebook depends on: whoever edits that while this test runs should not be
    surprised."""
    sources = [*(ROOT / "paper_lib").rglob("*.py"), *(ROOT / "notebooks").glob("*.ipynb")]
    return [path.stat().st_mtime_ns for path in sources]


def dry_run(*words):
    """What Snakemake says that it would do."""
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--nolock", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def would_run():
    """The ids of the runs that Snakemake would train, and whether it would make the notebook."""
    words = ["--cores", "1", "--rerun-triggers", "mtime"]
    said = dry_run(*words, "--config", "profile=smoke", "only=fig02_one_line", "device=cpu")
    return set(re.findall(r"run_id=(\S+)", said)), "notebook=fig02_one_line" in said


def resources(said, rule):
    """What each job of a rule asks for."""
    return re.findall(rf"rule {rule}:.*?resources: (.*?)\n", said, re.DOTALL)


def test_slurm_gives_every_run_a_gpu_and_what_is_timed_a_machine(elsewhere):
    """As asked from a machine that has no GPU."""
    asked = ["profile=paper", "only=tab01_complexity,fig02_one_line", "device=cuda"]
    said = dry_run("--profile", "profiles/slurm", "--config", *asked)
    trained, notebooks = resources(said, "run"), resources(said, "notebook")
    (timed,) = resources(said, "timing")
    assert len(trained) == len(profiles.SEEDS["paper"])
    for job in trained:
        assert "gres=gpu:1" in job
        assert "runtime=2880" in job
    assert "gres=gpu:1" in timed
    assert "slurm_extra=--exclusive" in timed
    assert len(notebooks) == 2
    for job in notebooks:
        assert "gres" not in job


def start_batch_and_kill_it(folder):
    """As a machine that goes down while a run trains into the folder: nobody cleans up."""
    started = subprocess.Popen(
        [sys.executable, "-m", "paper_lib.paper.batch", *ARGUMENTS],
        cwd=ROOT,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not folder.exists():
        assert started.poll() is None, "it ended without starting the run"
        time.sleep(0.02)
    os.killpg(started.pid, signal.SIGKILL)
    started.wait()


def test_batch_makes_what_is_missing_and_nothing_else(smoke, elsewhere, capfd):
    results = elsewhere / "results"
    dvae, run = smoke.dvae.folder, smoke.IN.folder
    folder = results / "smoke/runs" / run.name
    # with today's dates, as a clone's
    shutil.copytree(dvae, results / "smoke/runs" / dvae.name, copy_function=shutil.copy)
    dvaes_files, sources = state(elsewhere), library()
    start_batch_and_kill_it(folder)
    assert not (folder / "summary.json").exists()

    # what is missing is made
    assert batch.main(ARGUMENTS) == 0, capfd.readouterr().err
    out = capfd.readouterr().out
    assert re.search(r"fig02_one_line +fig02_one_line.png", out)
    assert str(elsewhere / "figures") in out
    first = state(elsewhere)
    assert dvaes_files.items() <= first.items(), "the dVAE was there"
    made = {path.parts[3] for path in first if path.parts[:3] == ("results", "smoke", "runs")}
    assert made == {dvae.name, run.name}, "what this notebook shows, and no more"
    notebook = nbformat.read(results / "smoke/notebooks/fig02_one_line.ipynb", 4)
    assert "Neumann, 1 term" in shown(notebook)
    # the same run, in another process, and killed on the way
    for name in ("metrics.csv", "weights.safetensors"):
        assert (folder / name).read_bytes() == (run / name).read_bytes()

    # once more: there is nothing to do
    assert batch.main(ARGUMENTS) == 0
    second = state(elsewhere)
    if library() == sources:
        assert second == first
    changed = [path for path, date in second.items() if first.get(path) != date]
    assert not [path for path in changed if path.parts[2] == "runs"], "no run in any case"

    # a run whose folder is deleted is run again, alone, and its notebook after it
    shutil.rmtree(folder)
    assert would_run() == ({run.name}, True)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["huge"], "huge"),
        (["smoke", "--only", "fig99"], "fig99"),
        (["smoke", "--device", "gpu"], "'gpu'"),
    ],
)
def test_batch_refuses_nonsense_at_once(capsys, arguments, words):
    with pytest.raises(SystemExit) as error:
        batch.main(arguments)
    assert error.value.code == 2
    assert words in capsys.readouterr().err
