"""The command that makes all figures: what it makes, what it leaves alone, what it refuses."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import nbformat
import pytest

from paper_lib.paper import batch, captions, figures, parameters, profiles
from paper_lib.runs import ROOT

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
    shown = [str(cell.get("outputs")) for cell in notebook.cells]
    assert any("Neumann, 1 term" in text for text in shown)
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


def test_a_checkout_that_cannot_be_written_to_stays_as_it_is(elsewhere, monkeypatch):
    """Snakemake keeps its notes beside the results then."""
    commands = []

    def noted(command, **given):
        commands.append(command)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(subprocess, "run", noted)
    monkeypatch.setattr(os, "access", lambda path, mode: path != ROOT)
    assert batch.main(ARGUMENTS) == 0
    (command,) = commands
    assert command[command.index("--directory") + 1] == str(elsewhere / "results")
    assert command[command.index("--snakefile") + 1] == str(ROOT / "Snakefile")


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


def test_what_the_quick_profile_replays_is_the_committed_results_and_says_so(tmp_path):
    """No run is made for it, wherever results go; pictures go into a folder of their own."""
    places = {"PAPER_RESULTS": "results", "PAPER_FIGURES": "figures", "PAPER_TABLES": "tables"}
    places = {name: str(tmp_path / folder) for name, folder in places.items()}
    output = tmp_path / "results/quick/notebooks/fig06c_one_iteration.ipynb"
    words = ["paper_lib.paper.execute", "quick", "fig06c_one_iteration", str(output)]
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=ROOT, env=os.environ | places, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()
    assert (tmp_path / "figures/quick/cpu/fig06c_one_iteration.png").exists()
    assert (tmp_path / "tables/quick/cpu/tables/fig06c_one_iteration.csv").exists()
    assert not (tmp_path / "results/quick/runs").exists()
    assert not (tmp_path / "results/cpu").exists()
    cells = nbformat.read(output, as_version=4).cells
    assert "PAPER_REPLAYED" not in os.environ
    assert any("'cpu'" in cell.source or '"cpu"' in cell.source for cell in cells)


def test_replays_are_named_and_marked(monkeypatch):
    for profile, names in figures.REPLAYED.items():
        assert set(names) < set(figures.NOTEBOOKS)
        for name in figures.NOTEBOOKS:
            shown = "cpu" if name in names else profile
            assert figures.profile_shown(name, profile) == shown
    monkeypatch.setenv("PAPER_REPLAYED", "yes")
    words = captions.caption(parameters.check("cpu"))
    assert words.startswith("Replayed from the committed results, not made here.")
