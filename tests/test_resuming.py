"""A run that is killed and started again goes on as if nothing had happened."""

import os
import pickle
import re
import signal
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from toy import PLAIN, Toy

from paper_lib import runs
from paper_lib.system.reading import BrokenFile
from paper_lib.training import checkpoint
from paper_lib.training.config import TrainingConfig
from paper_lib.training.loop import train


def longer(config, steps):
    training = replace(config.training, steps=steps, eval_every=5, log_every=1)
    return replace(config, training=training)


def finish(config, given):
    runs.get(config, given)


def wait_for(path, child, seconds=120):
    start = time.time()
    while not path.exists():
        assert child.is_alive() and time.time() - start < seconds, f"{path} did not appear"
        time.sleep(0.005)


def assert_same(run, other):
    assert run.folder != other.folder
    assert run.folder.name == other.folder.name
    files = ["metrics.csv", "weights.safetensors"]
    if run.config.kind == "slate":
        files.append("cell.safetensors")
    for name in files:
        assert (run.folder / name).read_bytes() == (other.folder / name).read_bytes(), name
    for name, value in run.samples.items():
        np.testing.assert_array_equal(value, other.samples[name])
    assert run.summary["final"] == other.summary["final"]
    assert run.summary["status"] == other.summary["status"] == "finished"
    left = [path.name for path in run.folder.iterdir() if "checkpoint" in path.name]
    assert not left, "nothing is left of the interruption"


@pytest.mark.parametrize("which, steps", [("vanilla", 60), ("IN", 60), ("dvae", 120)])
def test_a_killed_run_goes_on_bit_for_bit(smoke, process, elsewhere, monkeypatch, which, steps):
    config = longer(getattr(smoke, which).config, steps)
    folder = runs.folder_of(runs.run_id(config), "smoke")
    kills = 0
    for delay in np.random.default_rng(0).uniform(0.05, 0.35, 2):
        child = process(finish, config, smoke.given)
        wait_for(folder / "checkpoint.safetensors", child)
        time.sleep(delay)
        child.kill()
        child.join()
        kills += child.exitcode == -signal.SIGKILL and not (folder / "summary.json").exists()
    assert kills, "it finished before it could be killed"
    resumed = runs.get(config, smoke.given)
    monkeypatch.setenv("PAPER_RESULTS", str(elsewhere / "uninterrupted"))
    assert_same(resumed, runs.get(config, smoke.given))


def die_while_writing(config, given, checkpoints):
    """Run until so many checkpoints are whole, and be killed in the middle of the next."""
    save, done = checkpoint.save_file, []

    def save_file(tensors, path, metadata):
        save(tensors, path, metadata)
        if len(done) == checkpoints:
            os.truncate(path, os.path.getsize(path) // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        done.append(path)

    checkpoint.save_file = save_file
    runs.get(config, given)


@pytest.mark.parametrize("checkpoints", [0, 2])
def test_killed_while_a_checkpoint_is_written(smoke, process, elsewhere, monkeypatch, checkpoints):
    config = longer(smoke.dvae.config, 20)
    folder = runs.folder_of(runs.run_id(config), "smoke")
    child = process(die_while_writing, config, smoke.given, checkpoints)
    child.join(120)
    assert child.exitcode == -signal.SIGKILL
    path = folder / "checkpoint.safetensors"
    assert path.exists() == bool(checkpoints)
    if checkpoints:
        assert checkpoint.load_tensors(path)[1]["step"] == 5 * checkpoints
        assert len(pd.read_csv(folder / "metrics.csv")) == 5 * checkpoints
    resumed = runs.get(config, smoke.given)
    monkeypatch.setenv("PAPER_RESULTS", str(elsewhere / "uninterrupted"))
    assert_same(resumed, runs.get(config, smoke.given))


def test_nothing_is_left_of_a_run_that_was_killed_at_its_very_end(smoke, monkeypatch, elsewhere):
    """Its results were whole, and its checkpoint was still to be removed."""
    config = longer(smoke.dvae.config, 10)
    monkeypatch.setenv("PAPER_RESULTS", str(elsewhere / "at its end"))
    run = runs.get(config, smoke.given)
    left = [run.folder / "checkpoint.safetensors", run.folder / ".summary.json.part"]
    for path in left:
        path.touch()
    runs.get(config, replace(smoke.given, if_missing="error"))
    assert all(path.exists() for path in left), "who only reads removes nothing"
    again = runs.get(config, smoke.given)
    assert not any(path.exists() for path in left)
    assert again.summary == run.summary


class Unpickled:
    def __reduce__(self):
        return (pytest.fail, ("a checkpoint executed code",))


def test_the_pickle_of_the_next_test_would_execute_code():
    with pytest.raises(pytest.fail.Exception):
        pickle.loads(pickle.dumps(Unpickled()))


@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty", "pickle"])
def test_a_broken_checkpoint_is_an_error_and_no_code(tmp_path, damage):
    train(Toy(), TrainingConfig(**PLAIN), 0, tmp_path)
    path = tmp_path / "checkpoint.safetensors"
    content = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "garbage":
        path.write_bytes(b"\x00garbage" * 50)
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        torch.save({"model": Unpickled()}, path)
    with pytest.raises(BrokenFile, match=re.escape(f"{path} cannot be read")):
        train(Toy(), TrainingConfig(**PLAIN | {"steps": 8}), 0, tmp_path)


VALIDATION = [5, 5, 6, 4, 4, 4, 4, 4]
DECAYING = PLAIN | {"steps": 16, "lr_decay_epochs": 1, "warmup_steps": 3}


def test_a_checkpoint_holds_everything(tmp_path):
    """Model, optimiser, schedules, rows and the random state: a toy that is stopped and goes on
    takes the same steps."""
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    whole = Toy(VALIDATION)
    torch.manual_seed(3)
    train(whole, TrainingConfig(**DECAYING), 0, tmp_path / "whole")
    torch.manual_seed(3)
    train(Toy(VALIDATION), TrainingConfig(**DECAYING | {"steps": 10}), 0, tmp_path / "parts")
    state = torch.get_rng_state()
    torch.manual_seed(77)
    parts = Toy(VALIDATION[5:])
    outcome = train(parts, TrainingConfig(**DECAYING), 0, tmp_path / "parts")
    assert torch.equal(torch.get_rng_state(), state), "the random state is the checkpoint's again"
    assert outcome["step"] == 16
    for name in "ab":
        assert torch.equal(whole.model[name], parts.model[name])
    written = [(tmp_path / name / "metrics.csv").read_bytes() for name in ("whole", "parts")]
    assert written[0] == written[1]


def test_a_run_that_only_lacks_its_summary_takes_no_step_more(tmp_path):
    train(Toy(VALIDATION), TrainingConfig(**DECAYING), 0, tmp_path)
    before = (tmp_path / "metrics.csv").read_bytes()
    outcome = train(Toy(), TrainingConfig(**DECAYING), 0, tmp_path)
    assert outcome["status"] == "finished"
    assert outcome["step"] == 16
    assert (tmp_path / "metrics.csv").read_bytes() == before
