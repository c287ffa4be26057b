"""Getting a run: loaded, trained, refused; its summary, its provenance, its command line."""

import json
import math
import os
import re
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
import torch

from paper_lib import data, runs
from paper_lib.data import Dataset
from paper_lib.fixed_point import Broyden, Implicit, Iteration, Neumann, Unrolled
from paper_lib.paper import figures, overrides, parameters, profiles
from paper_lib.runs import __main__ as command_line
from paper_lib.runs import perform, provenance
from paper_lib.training.config import ARITHMETIC
from paper_lib.training.slate import SLATETask
from paper_lib.training.slots import slot_noise

SMOKE = parameters.check("smoke", if_missing="train")
LOADED_ONLY = parameters.check("smoke", if_missing="error")


@pytest.fixture
def nothing_is_performed(monkeypatch):
    def fail(config, job):
        pytest.fail(f"{job.folder.name} was performed")

    monkeypatch.setattr(perform, "_perform", fail)


# ---- loaded, or missing ----


def test_runs_of_groups_within_groups_are_got(smoke, nothing_is_performed):
    one, two = smoke.vanilla.config, smoke.IN.config
    found = runs.get_all({"a": {"x": [one], "y": [two, one]}, "b": [two]}, LOADED_ONLY)
    folders = {name: [run.folder for run in group] for name, group in found["a"].items()}
    assert folders == {"x": [smoke.vanilla.folder], "y": [smoke.IN.folder, smoke.vanilla.folder]}
    assert [run.folder for run in found["b"]] == [smoke.IN.folder]


def test_a_missing_run_names_itself_and_the_remedy(elsewhere, nothing_is_performed):
    for profile in ("smoke", "cpu"):
        given = parameters.check(profile, if_missing="error")
        configs = [
            profiles.slate(given, "IN", 0).dvae,
            profiles.slate(given, "IN", 0),
            profiles.complexity(given),
        ]
        for config in configs:
            with pytest.raises(runs.MissingRun) as error:
                runs.get(config, given)
            text = str(error.value)
            assert f"python -m paper_lib.runs {profile} {runs.run_id(config)}" in text
            assert 'if_missing = "train"' in text
            assert "not finished" not in text
            assert isinstance(error.value, FileNotFoundError)
    assert not (elsewhere / "results").exists(), "asking leaves nothing behind"


def test_a_run_that_was_started_and_not_finished_is_missing(elsewhere, nothing_is_performed):
    config = profiles.slate(LOADED_ONLY, "IN", 0).dvae
    runs.folder_of(runs.run_id(config), "smoke").mkdir(parents=True)
    with pytest.raises(runs.MissingRun, match="started and not finished"):
        runs.get(config, LOADED_ONLY)


def test_a_run_is_loaded_once_it_is_there(smoke, nothing_is_performed):
    for given in (SMOKE, LOADED_ONLY):
        again = runs.get(smoke.IN.config, given)
        assert again.folder == smoke.IN.folder
        assert again.summary == smoke.IN.summary


def test_what_is_written_of_a_run(smoke):
    config = json.loads((smoke.IN.folder / "config.json").read_text())
    assert config["id"] == smoke.IN.folder.name == runs.run_id(smoke.IN.config)
    assert config["identity"] == json.loads(json.dumps(runs.identity(smoke.IN.config)))
    assert config["model"]["variant"] == "IN"
    assert config["dvae"]["vocab_size"] == 16
    measured = {"checksums.json", "config.json", "metrics.csv", "summary.json"}
    trained = measured | {"samples.npz", "weights.safetensors"}
    with_slots = trained | {"cell.safetensors"}
    for run, files in (
        (smoke.complexity, measured),
        (smoke.dvae, trained),
        (smoke.IN, with_slots),
    ):
        assert {path.name for path in run.folder.iterdir()} == files
        assert run.has_cell == ("cell.safetensors" in files)


@pytest.mark.parametrize("umask", [0o002, 0o022, 0o077])
def test_who_may_read_a_run_is_the_umasks_affair(smoke, elsewhere, umask):
    before = os.umask(umask)
    try:
        run = runs.get(smoke.dvae.config, SMOKE)
    finally:
        os.umask(before)
    rights = {path.name: path.stat().st_mode & 0o777 for path in run.folder.iterdir()}
    assert len(rights) == 6
    assert set(rights.values()) == {0o666 & ~umask}


def test_runs_that_others_build_on_come_first_and_once(smoke):
    slate, dvae, measured = smoke.IN.config, smoke.dvae.config, smoke.complexity.config
    assert runs.with_needs([slate, measured, smoke.vanilla.config, slate]) == [
        dvae,
        slate,
        measured,
        smoke.vanilla.config,
    ]


# ---- the summary ----


def test_where_a_run_comes_from(smoke):
    for run in (smoke.dvae, smoke.vanilla, smoke.IN, smoke.complexity):
        summary = run.summary
        assert summary["status"] == "finished"
        assert summary["seed"] == 0
        assert summary["threads"] == 1
        assert summary["device"].strip()
        assert summary["versions"]["torch"] == torch.__version__.split("+")[0]
        assert {"python", "numpy", "mitsuba"} <= set(summary["versions"])
        assert re.fullmatch(r"[0-9a-f]{40}\+?|unknown", summary["commit"])


def test_what_a_training_cost_and_where_it_ended(smoke):
    for run in (smoke.dvae, smoke.vanilla, smoke.IN):
        summary = run.summary
        assert 0 < summary["seconds"] < 600
        assert 1e8 < summary["peak_memory_bytes"] < 1e11
        assert summary["step"] == summary["final"]["step"] == run.metrics["step"].iloc[-1] == 6
        assert summary["data"]["door"] == "generator"
        assert summary["data"]["version"] == data.version("clevr_mirror")
        assert summary["data"]["settings"]["num_scenes"] == 60
        assert run.samples["image"].shape == (4, 16, 16, 3)
        assert run.samples["image"].dtype == np.uint8
        assert all(math.isfinite(value) for value in summary["final"].values())


def test_final_metrics(smoke):
    of_dvae = {"val_mse", "mean_image_mse", "codes_used", "perplexity"}
    of_dvae |= {"val_mse_objects", "mean_image_mse_objects", "colour_error"}
    assert of_dvae <= set(smoke.dvae.summary["final"])
    of_slate = {"val_cross_entropy", "spectral_norm", "residual_7", "test_mse", "test_mse_dvae"}
    assert of_slate <= set(smoke.IN.summary["final"])
    assert smoke.IN.summary["final"]["test_images"] == 4


def test_no_git_is_no_reason_to_fail(monkeypatch):
    def missing(*_, **__):
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", missing)
    assert provenance.commit() == "unknown"


# ---- performed ----


def test_getting_a_run_leaves_the_callers_random_state_and_threads_alone(smoke, elsewhere):
    torch.set_num_threads(2)
    try:
        torch.manual_seed(1234)
        before = torch.get_rng_state()
        run = runs.get(smoke.dvae.config, SMOKE)
        assert torch.get_num_threads() == 2
        assert torch.equal(before, torch.get_rng_state())
    finally:
        torch.set_num_threads(1)
    assert run.metrics.equals(smoke.dvae.metrics), "and is not touched by them"
    for name, value in run.weights.items():
        assert torch.equal(value, smoke.dvae.weights[name])


def test_deleting_a_folder_runs_that_run_again_alone(smoke, elsewhere):
    shutil.copytree(smoke.IN.folder.parents[2], elsewhere / "results")
    folder = elsewhere / "results/smoke/runs"
    files = {path: path.stat().st_mtime_ns for path in folder.glob("*/*")}
    gone = folder / smoke.vanilla.folder.name
    shutil.rmtree(gone)
    for run in (smoke.dvae, smoke.vanilla, smoke.IN, smoke.complexity):
        runs.get(run.config, SMOKE)
    changed = {path.parent for path, time in files.items() if path.stat().st_mtime_ns != time}
    assert changed == {gone}
    for name in ("metrics.csv", "weights.safetensors", "config.json"):
        assert (gone / name).read_bytes() == (smoke.vanilla.folder / name).read_bytes()


def get_and_log(config, log, barrier):
    original = perform._perform

    def logged(config, job):
        with open(log, "a") as file:
            file.write(f"{os.getpid()} {config.kind}\n")
        return original(config, job)

    perform._perform = logged
    while not barrier.exists():
        pass
    runs.get(config, SMOKE)


def test_two_processes_that_want_a_run_train_it_once(smoke, process, elsewhere):
    log, barrier = elsewhere / "log", elsewhere / "go"
    wanted = (smoke.IN.config, smoke.IN.config, smoke.dvae.config)
    children = [process(get_and_log, config, log, barrier) for config in wanted]
    barrier.touch()
    for child in children:
        child.join(120)
        assert child.exitcode == 0
    assert sorted(line.split()[1] for line in log.read_text().splitlines()) == ["dvae", "slate"]
    run = runs.get(smoke.IN.config, LOADED_ONLY)
    assert run.metrics.equals(smoke.IN.metrics)


@pytest.mark.parametrize("which", ["dvae", "IN"])
def test_numbers_that_this_code_does_not_compute_are_not_trained(smoke, elsewhere, which):
    """Results of an earlier arithmetic are shown; trained again they would not be the same."""
    config = getattr(smoke, which).config
    earlier = overrides.override(config, {"training.arithmetic": ARITHMETIC - 1})
    words = (
        f"arithmetic {ARITHMETIC - 1} can be shown.*computes arithmetic {ARITHMETIC}.*"
        f"training.arithmetic with {ARITHMETIC}"
    )
    with pytest.raises(ValueError, match=words):
        runs.get(earlier, SMOKE)
    folder = runs.folder_of(runs.run_id(earlier), "smoke")
    assert not folder.exists(), "asking leaves nothing behind"
    shutil.copytree(getattr(smoke, which).folder, folder, dirs_exist_ok=True)
    (folder / "checksums.json").unlink()
    (folder / "config.json").write_text(json.dumps({"id": folder.name}))
    assert runs.get(earlier, SMOKE).summary["status"] == "finished", "shown, where it is there"


def test_an_arithmetic_to_come_is_refused_at_once(smoke):
    with pytest.raises(ValueError, match=f"arithmetic must be 1 to {ARITHMETIC}"):
        overrides.override(smoke.IN.config, {"training.arithmetic": ARITHMETIC + 1})


@pytest.mark.parametrize(
    "wrong",
    [
        {"model.image_size": 32},
        {"model.vocab_size": 32},
        {"data.num_scenes": 40},
        {"data.size": 32},
    ],
)
def test_a_model_that_does_not_fit_its_dvae_or_data_is_refused(smoke, wrong):
    config = overrides.override(smoke.IN.config, wrong)
    pictures = Dataset(images=np.zeros((4, 16, 16, 3), np.uint8), indices=np.arange(4), source={})
    with pytest.raises(ValueError, match="must"):
        SLATETask(config, pictures, pictures, pictures, smoke.dvae.weights)


# ---- the command line ----


def test_the_command_line_lists_a_profiles_runs(smoke, capsys, nothing_is_performed):
    command_line.main(["smoke"])
    listed = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert set(listed) == {runs.run_id(config) for config in figures.all_runs(SMOKE)}
    assert set(listed.values()) <= {"finished", "missing"}
    for run in (smoke.dvae, smoke.vanilla, smoke.IN, smoke.complexity):
        assert listed[run.folder.name] == "finished"
    command_line.main(["cpu"])
    states = {line.split()[1] for line in capsys.readouterr().out.splitlines()}
    assert states == {"missing"}, "these are in the project's own folder"


def test_the_command_line_performs_what_is_missing(smoke, elsewhere, capsys):
    name = smoke.complexity.folder.name
    command_line.main(["smoke", name])
    assert f"{name}: finished" in capsys.readouterr().err
    assert (elsewhere / "results/smoke/runs" / name / "summary.json").exists()


def test_the_command_line_knows_no_other_runs(smoke, capsys, nothing_is_performed):
    command_line.main(["smoke", smoke.IN.folder.name])  # it is there
    with pytest.raises(SystemExit):
        command_line.main(["smoke", "slate-XX-seed0-0000000000"])
    error = capsys.readouterr().err
    assert "slate-XX-seed0-0000000000" in error
    assert smoke.IN.folder.name in error


def test_the_command_line_shows_a_config(smoke, elsewhere, capsys, nothing_is_performed):
    """Whole, and of a run without results as well."""
    name = smoke.IN.folder.name
    command_line.main(["smoke", name, "--show"])
    shown = json.loads(capsys.readouterr().out)
    written = json.loads((smoke.IN.folder / "config.json").read_text())
    del written["identity"]
    assert shown == written
    assert shown["training"]["steps"] == 6
    assert not (elsewhere / "results").exists()


def test_the_command_line_shows_all_configs(capsys, nothing_is_performed):
    command_line.main(["smoke", "--show"])
    text = capsys.readouterr().out
    for config in figures.all_runs(SMOKE):
        assert f'"id": "{runs.run_id(config)}"' in text


# ---- what a run is good for ----


@pytest.mark.parametrize("which, adjoint", [("vanilla", Unrolled()), ("IN", Neumann())])
def test_the_kept_cell_is_the_models(smoke, which, adjoint):
    run = getattr(smoke, which)
    splits = {name: run.config.data.load(name) for name in ("train", "validation", "test")}
    task = SLATETask(run.config, **splits, dvae_weights=smoke.dvae.weights)
    task.model.load_state_dict(run.weights)
    task.model.eval()
    attention, inputs, slots = run.cell(Iteration(run.config.model.num_iterations), adjoint)
    assert inputs.shape == (4, 16, 16)
    assert slots.shape == (4, 3, 16)
    assert inputs.dtype == slots.dtype == torch.float32
    with torch.no_grad():
        noise = slot_noise(task.model.slot_attn, 4, seed=0)
        out = task.model.infer_slots(task.model.tokenize(task.test[:4]), noise)
        ours = attention(inputs, slots)
        initial = task.model.slot_attn.initial_slots(noise)
    torch.testing.assert_close(slots, initial, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(ours.value, out.slots, rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(ours.aux, out.attn, rtol=2e-2, atol=2e-2)
    assert (out.slots - slots).abs().max() > 0.2, "or the initial slots would do as well"


def test_the_kept_cell_runs_under_any_solver_and_adjoint(smoke):
    doubled, inputs, _ = smoke.IN.cell(Broyden(3), Implicit(Broyden(3)), torch.float64)
    assert inputs.dtype == torch.float64
    assert doubled.project_q.weight.dtype == torch.float64
    assert doubled.solver == Broyden(3)


def test_weights_that_are_not_committed(smoke, elsewhere):
    folder = elsewhere / smoke.IN.folder.name
    shutil.copytree(smoke.IN.folder, folder)
    (folder / "weights.safetensors").unlink()
    run = replace(smoke.IN, folder=folder)
    with pytest.raises(runs.MissingRun, match="not committed"):
        _ = run.weights
    assert len(run.metrics) == 6


def test_a_run_with_a_solver_of_its_own(smoke, elsewhere):
    """From words in a notebook's parameters to slots that this solver found."""
    rules = {
        "model.solver": {"type": "Broyden", "max_steps": 4},
        "model.adjoint": {"type": "Neumann", "terms": 2},
        "training.steps": 2,
    }
    given = parameters.check("smoke", overrides=rules, if_missing="train")
    config = profiles.slate(given, "IN", 0)
    run = runs.get(config, given)
    assert run.folder.name.startswith("slate-Broyden-Neumann-seed0-")
    assert run.summary["status"] == "finished"
    written = json.loads((run.folder / "config.json").read_text())
    assert written["model"]["solver"]["max_steps"] == 4
    assert written["identity"]["model"]["adjoint"]["terms"] == 2
    assert runs.get(config, LOADED_ONLY).summary == run.summary
    both = run.metrics["cross_entropy"][:2], smoke.IN.metrics["cross_entropy"][:2]
    assert not np.allclose(*both, rtol=1e-6), "of other slots than IN's"
