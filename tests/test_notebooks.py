"""Every notebook from top to bottom on the smoke profile, and the command that makes all figures."""

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

from paper_lib.paper import batch, figures
from paper_lib.runs import ROOT

# figures and tables of each notebook, by part
FIGURES = {
    "fig01_overview": ["", "reconstructions"],
    "fig04_qualitative": ["clevr", "shapestacks", "photos"],
    "fig07_property_prediction": ["", "test_time", "scenes"],
    "fig08_segmentation_masks": ["", "training"],
    "data_gallery": ["", "statistics"],
}
TABLES = {name: ["", "claims"] for name in figures.NOTEBOOKS} | {
    "fig02_one_line": [""],
    "fig08_segmentation_masks": ["", "test_time", "spread", "claims"],
    "data_gallery": ["properties", "sources"],
}


def execute(name, out, **parameters):
    source = ROOT / "notebooks" / f"{name}.ipynb"
    quiet = dict(
        progress_bar=False, log_output=False, shutdown_kernel="immediate"
    )  # torch takes two seconds to leave a process in good order
    return papermill.execute_notebook(source, out / f"{name}.ipynb", parameters, cwd=ROOT, **quiet)


def shown(notebook):
    """All text that a notebook's code cells put out."""
    texts = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            texts += [
                output.get("text", ""),
                *(
                    str(value)
                    for kind, value in output.get("data", {}).items()
                    if kind.startswith("text/")
                ),
            ]
    return "\n".join(texts)


@pytest.mark.parametrize("name", figures.NOTEBOOKS)
def test_a_notebook_runs_from_top_to_bottom(smoke, root, tmp_path, name):
    notebook = execute(name, tmp_path, profile="smoke", if_missing="train")
    nbformat.validate(notebook)
    expected = {
        f"{'_'.join(filter(None, [name, part]))}{suffix}"
        for part in FIGURES.get(name, [""])
        for suffix in (".png", ".pdf")
    }
    figures = {path.name: path.stat().st_size for path in (root / "figures/smoke").glob(f"{name}*")}
    assert set(figures) == expected and min(figures.values()) > 5_000
    expected = {
        f"{'_'.join(filter(None, [name, part]))}{suffix}"
        for part in TABLES.get(name, [""])
        for suffix in (".csv", ".md", ".tex")
    }
    tables = {
        path.name: path.read_text() for path in (root / "results/smoke/tables").glob(f"{name}*")
    }
    assert set(tables) == expected
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output["output_type"] == "error"] and any(
        "image/png" in output.get("data", {}) for output in outputs
    )
    for text in [shown(notebook), *tables.values()]:
        garbage = re.findall(
            r"nan%|inf%|<bound method|<paper_lib|object at 0x|Traceback|\{n\}|Warning\b.*", text
        )
        assert not garbage, garbage


@pytest.mark.parametrize("name", ["fig07_property_prediction", "fig08_segmentation_masks"])
def test_a_notebook_shows_runs_that_diverged(smoke, root, tmp_path, name):
    """Before their first evaluation: there is nothing but their status to show, and the figures are drawn around that."""
    notebook = execute(name, tmp_path, profile="smoke", if_missing="train", overrides={"lr": 1e30})
    assert "diverged" in (root / f"results/smoke/custom/tables/{name}.csv").read_text()
    assert "decides nothing" in shown(notebook) or "inconclusive" in shown(notebook)


def test_every_notebook_is_looked_at():
    assert set(FIGURES) | set(TABLES) <= set(figures.NOTEBOOKS)


def test_a_wrong_parameter_ends_in_our_message(tmp_path):
    with pytest.raises(
        papermill.PapermillExecutionError,
        match="unknown profile 'huge': choose from smoke, quick, cpu, paper",
    ):
        execute("fig03a_residuals", tmp_path, profile="huge")


# ---------------------------------------------------------------- make figures


ARGUMENTS = ["smoke", "--only", "fig02_one_line", "--jobs", "1"]


def state(folder):
    return {
        path.relative_to(folder): path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


def library():
    """Dates of what a notebook depends on: whoever edits that while this test runs should not be surprised."""
    return [
        path.stat().st_mtime_ns
        for path in [*(ROOT / "paper_lib").rglob("*.py"), *(ROOT / "notebooks").glob("*.ipynb")]
    ]


def would_run():
    """The ids of the runs that Snakemake would train, by a dry run."""
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--dry-run",
        "--cores",
        "1",
        "--nolock",
        "--rerun-triggers",
        "mtime",
    ]
    done = subprocess.run(
        [*command, "--config", "profile=smoke", "only=fig02_one_line", "device=cpu"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(
        re.findall(r"run_id=(\S+)", done.stdout + done.stderr)
    ), "notebook=fig02_one_line" in done.stdout + done.stderr


def test_slurm_gives_every_run_a_gpu_and_what_is_timed_a_machine(elsewhere):
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--profile",
        "profiles/slurm",
        "--dry-run",
        "--nolock",
    ]
    asked = [
        "--config",
        "profile=paper",
        "only=tab01_complexity,fig02_one_line",
        "device=cuda",
    ]  # from a machine that has none
    done = subprocess.run([*command, *asked], cwd=ROOT, capture_output=True, text=True, check=True)
    jobs = {
        rule: re.findall(
            rf"rule {rule}:.*?resources: (.*?)\n", done.stdout + done.stderr, re.DOTALL
        )
        for rule in ("run", "timing", "notebook")
    }
    assert [len(resources) for resources in jobs.values()] == [
        len(profiles.SEEDS["paper"]),
        1,
        2,
    ]
    assert all(
        "gres=gpu:1" in resources and "runtime=2880" in resources for resources in jobs["run"]
    )
    assert "gres=gpu:1" in jobs["timing"][0] and "slurm_extra=--exclusive" in jobs["timing"][0]
    assert all("gres" not in resources for resources in jobs["notebook"])


def test_batch_makes_what_is_missing_and_nothing_else(smoke, elsewhere, capfd):
    results = elsewhere / "results"
    folder = results / "smoke/runs" / smoke.IN.folder.name
    shutil.copytree(
        smoke.dvae.folder,
        results / "smoke/runs" / smoke.dvae.folder.name,
        copy_function=shutil.copy,
    )  # with today's dates, as a clone's
    dvae, before = state(elsewhere), library()
    killed = subprocess.Popen(
        [sys.executable, "-m", "paper_lib.paper.batch", *ARGUMENTS],
        cwd=ROOT,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not folder.exists():
        assert killed.poll() is None, "it ended without starting the run"
        time.sleep(0.02)
    os.killpg(killed.pid, signal.SIGKILL)  # as a machine that goes down: nobody cleans up
    killed.wait()
    assert not (folder / "summary.json").exists()

    assert batch.main(ARGUMENTS) == 0, capfd.readouterr().err
    out = capfd.readouterr().out
    assert (
        re.search(r"fig02_one_line +fig02_one_line.png", out) and str(elsewhere / "figures") in out
    )
    first = state(elsewhere)
    assert dvae.items() <= first.items(), "the dVAE was there"
    made = {path.parts[3] for path in first if path.parts[:3] == ("results", "smoke", "runs")}
    assert made == {smoke.dvae.folder.name, smoke.IN.folder.name}, (
        "what this notebook shows, and no more"
    )
    assert "Neumann, 1 term" in shown(
        nbformat.read(results / "smoke/notebooks/fig02_one_line.ipynb", 4)
    )
    for name in ("metrics.csv", "weights.safetensors"):
        assert (folder / name).read_bytes() == (smoke.IN.folder / name).read_bytes(), (
            "the same run, in another process, and killed on the way"
        )

    assert batch.main(ARGUMENTS) == 0
    if library() == before:
        assert state(elsewhere) == first, "nothing to do"
    assert {
        path
        for path, date in state(elsewhere).items()
        if first.get(path) != date and path.parts[2] == "runs"
    } == set(), "no run in any case"
    shutil.rmtree(folder)
    assert would_run() == ({smoke.IN.folder.name}, True), (
        "a run whose folder is deleted is run again, alone, and its notebook after it"
    )


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
    assert error.value.code == 2 and words in capsys.readouterr().err
