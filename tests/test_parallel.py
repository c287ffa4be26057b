"""Two processes on one machine's cores: they compute what one does, resume each other's checkpoints, and write as one."""

import json
import math
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from paper_lib import runs
from paper_lib.data import Dataset
from paper_lib.models import DVAE
from paper_lib.paper import parameters, profiles
from paper_lib.training import loop, parallel
from paper_lib.training.autoencoder import AutoencoderTask
from paper_lib.training.checkpoint import load_tensors, save_tensors
from paper_lib.training.config import TrainingConfig
from paper_lib.training.loop import train
from paper_lib.training.slate import SLATETask

SMOKE = parameters.check("smoke")
TRICKS = dict(
    steps=6, batch_size=4, warmup_steps=3, clip=1.0, lr_decay_epochs=1, log_every=1, eval_every=2
)


@pytest.fixture
def together(process):
    """together(function, *arguments): in two processes at once, as torchrun would start them; `ends=False` gives them back running."""

    def start(function, *arguments, ends=True):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        children = [process(member, rank, port, function, *arguments) for rank in range(2)]
        if ends:
            for child in children:
                child.join(120)
            assert [child.exitcode for child in children] == [0, 0]
        return children

    return start


def member(rank, port, function, *arguments):
    os.environ |= dict(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE="2",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    with parallel.processes("cpu"):
        function(*arguments)


# ---------------------------------------------------------------- tasks


class Quiet:
    """A task whose random numbers come with the batch and depend on the image alone, so that the processes' draws are the single one's. In float64: Adam's
    steps are as long as the learning rate even where rounding alone decides a gradient's sign, as it does for some of slot attention's biases."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.model.double()
        self.validation = self.validation.double()

    def batch(self, indices):
        (image,) = super().batch(indices)
        draws = [torch.Generator().manual_seed(int(i)) for i in indices]
        tokens = torch.stack([torch.randint(16, (16,), generator=g) for g in draws])
        dtype = self.validation.dtype
        return (
            image.to(dtype),
            tokens,
            torch.stack([torch.randn(3, 16, generator=g, dtype=dtype) for g in draws]),
        )


class QuietSLATE(Quiet, SLATETask):
    def loss(self, batch, step):
        loss = self.model.autoencode(*batch[1:])[0].mean()
        return loss, {"cross_entropy": loss.detach()}


class QuietAutoencoder(Quiet, AutoencoderTask):
    def loss(self, batch, step):
        loss = nn.functional.mse_loss(self.model(batch[0], batch[2]).reconstruction, batch[0])
        return loss, {"mse": loss.detach()}


class SingleQuietSLATE(QuietSLATE):
    """In float32, at the paper's learning rate."""

    def __init__(self, config, *arguments):
        super().__init__(replace(config, lr=1e-4), *arguments)
        self.model.float()
        self.validation = self.validation.float()


def build(name, variant):
    splits = [
        Dataset(
            np.random.default_rng(k).integers(0, 256, (12, 16, 16, 3), np.uint8), np.arange(12), {}
        )
        for k in range(3)
    ]
    torch.manual_seed(0)
    if name == "autoencoder":
        config = profiles.autoencoder(SMOKE, variant, 0)
        return QuietAutoencoder(
            replace(config, model=replace(config.model, num_slots=3, slot_size=16)), *splits
        )
    config = profiles.slate(SMOKE, variant, 0)
    if name != "slate":
        config = replace(config, model=replace(config.model, dropout=0.0))
    return {"slate": SLATETask, "quiet": QuietSLATE, "single": SingleQuietSLATE}[name](
        config, *splits, DVAE(16).state_dict()
    )


def fit(folder, name, variant, **changes):
    """Train in this process, alone or with others; the first writes to `folder`, another would write to a folder of its own. Kept beside it: weights,
    gradients of the last step, outcome."""
    task = build(name, variant)
    own = (
        folder
        if parallel.is_first() or (folder / "checkpoint.safetensors").exists()
        else folder / "others"
    )
    outcome = train(task, TrainingConfig(**TRICKS | changes), 0, own)
    named = dict(task.model.named_parameters())
    tensors = {f"weights/{name}": p for name, p in named.items()} | {
        f"gradients/{name}": p.grad for name, p in named.items() if p.grad is not None
    }
    save_tensors(
        folder.parent / f"{folder.name}-{parallel.world_size()}-{parallel.rank()}", tensors, outcome
    )


def kept(folder, world_size=1, rank=0):
    return load_tensors(folder.parent / f"{folder.name}-{world_size}-{rank}")


def table(folder):
    return pd.read_csv(folder / "metrics.csv")


def assert_close(found, expected, tolerance=1e-9):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name],
            value,
            rtol=tolerance,
            atol=tolerance,
            msg=lambda text, name=name: f"{name}: {text}",
        )


# ---------------------------------------------------------------- two compute what one does


@pytest.mark.parametrize(
    "name, variant", [("single", "IN"), ("quiet", "vanilla"), ("autoencoder", "IN")]
)
def test_two_processes_reach_the_gradients_and_weights_of_one(together, tmp_path, name, variant):
    one, two = tmp_path / "one", tmp_path / "two"
    fit(one, name, variant)
    together(fit, two, name, variant)
    alone, outcome = kept(one)
    assert outcome["step"] == 6
    for rank in range(2):
        assert_close(kept(two, 2, rank)[0], alone, 1e-5 if name == "single" else 1e-9)
    initial = [f"slot_attn.slot_{part}" for part in ("mu", "log_sigma")]
    fresh = build(name, variant).model.state_dict()
    for part in initial:  # under IN they have no gradient, in two processes as in one: neither are they moved nor do they count in the norm
        assert (
            (f"gradients/{part}" in alone)
            == (variant == "vanilla")
            != torch.equal(kept(two, 2)[0][f"weights/{part}"], fresh[part])
        )
    found, expected = table(two), table(one)
    assert found.columns.tolist() == expected.columns.tolist() and found["step"].tolist() == [
        1,
        2,
        3,
        4,
        5,
        6,
    ]
    np.testing.assert_allclose(
        found,
        expected,
        rtol=1e-3,
        atol=1e-5,
        err_msg="logs are means over the processes, norms and evaluations as of one",
    )
    assert not (two / "others").exists(), "the first process writes, and no other"


def test_each_process_draws_its_own_noise(together, tmp_path):
    together(draws, tmp_path)
    seen = [np.load(tmp_path / f"{rank}.npy") for rank in range(2)]
    assert len(np.unique(np.concatenate(seen))) == 6
    state = torch.get_rng_state()
    parallel.seed_step(0, 0)
    assert torch.equal(state, torch.get_rng_state()), (
        "a single process goes on with the state that it has"
    )


def draws(folder):
    seen = []
    for step in (0, 1, 2):
        parallel.seed_step(0, step)
        seen.append(torch.rand(()).item())
    np.save(folder / f"{parallel.rank()}.npy", seen)


# ---------------------------------------------------------------- resumed


@pytest.mark.parametrize("first, then", [(2, 1), (1, 2)])
def test_another_number_of_processes_resumes_a_checkpoint(together, tmp_path, first, then):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    fit(whole, "quiet", "IN", steps=6)
    for world_size, steps in ((first, 4), (then, 6)):
        (fit if world_size == 1 else lambda *a, **k: together(fit_with, k, *a))(
            parts, "quiet", "IN", steps=steps
        )
    assert_close(kept(parts, then)[0], kept(whole)[0])
    assert table(parts)["step"].tolist() == [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose(table(parts), table(whole), rtol=1e-3, atol=1e-5)
    assert not any(
        name.startswith("model/module.")
        for name in load_tensors(parts / "checkpoint.safetensors")[0]
    )


def fit_with(changes, *arguments):
    fit(*arguments, **changes)


def test_as_many_processes_resume_bit_for_bit(together, tmp_path):
    """With the noise and the dropout of a real run."""
    for name, parts in (("whole", [6]), ("parts", [2, 6])):
        for steps in parts:
            together(fit_with, dict(steps=steps), tmp_path / name, "slate", "IN")
    assert (tmp_path / "whole/metrics.csv").read_bytes() == (
        tmp_path / "parts/metrics.csv"
    ).read_bytes()
    whole, parts = kept(tmp_path / "whole", 2)[0], kept(tmp_path / "parts", 2)[0]
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_two_processes_are_killed_and_one_goes_on(together, tmp_path):
    folder = tmp_path / "run"
    children = together(fit_with, dict(steps=500), folder, "slate", "IN", ends=False)
    start = time.time()
    while not (folder / "checkpoint.safetensors").exists():
        assert all(child.is_alive() for child in children) and time.time() - start < 60
        time.sleep(0.01)
    for child in children:
        child.kill()
        child.join()
    reached = load_tensors(folder / "checkpoint.safetensors")[1]["step"]
    fit(folder, "slate", "IN", steps=reached + 3)
    rows = table(folder)
    assert 2 <= reached < 500 and rows["step"].tolist() == list(range(1, reached + 4))
    assert np.isfinite(rows[["cross_entropy", "grad_norm_all"]]).all(axis=None)


# ---------------------------------------------------------------- divergence, errors


@pytest.mark.parametrize("in_step", [True, False])
def test_where_one_process_diverges_all_do(together, tmp_path, in_step):
    together(diverge, tmp_path / "run", in_step)
    for rank in range(2):
        _, outcome = kept(tmp_path / "run", 2, rank)
        assert (outcome["status"], outcome["step"]) == ("diverged", 4)
    rows = table(tmp_path / "run")
    assert (
        rows["step"].tolist() == [3, 4]
        and not math.isfinite(rows["loss"].iloc[-1])
        and math.isfinite(rows["cross_entropy"].iloc[-1])
    )
    tensors, info = load_tensors(tmp_path / "run/checkpoint.safetensors")
    assert info["step"] == 3 and all(value.isfinite().all() for value in tensors.values())


def diverge(folder, in_step):
    loss = QuietSLATE.loss

    def broken(self, batch, step):
        value, logs = loss(self, batch, step)
        return (value * math.inf if step == 4 and parallel.rank() == 1 else value), logs

    QuietSLATE.loss, loop.in_step = broken, lambda device: in_step
    fit(folder, "quiet", "IN", steps=9, log_every=3, eval_every=3)


def test_a_batch_that_cannot_be_shared_equally(monkeypatch):
    monkeypatch.setattr(parallel, "world_size", lambda: 3)
    monkeypatch.setattr(parallel, "rank", lambda: 1)
    with pytest.raises(
        ValueError,
        match="a batch of 4 does not divide among 3 processes: set training.batch_size to a multiple of 3",
    ):
        parallel.share(4)
    assert parallel.share(6) == slice(2, 4)


@pytest.mark.parametrize(
    "device, local_rank, remedy", [("cuda:1", 0, "say 'cuda'"), ("cuda", 2, "--nproc-per-node 2")]
)
def test_each_process_needs_a_gpu_of_its_own(monkeypatch, device, local_rank, remedy):
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", str(local_rank))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match=remedy), parallel.processes(device):
        pass


# ---------------------------------------------------------------- the command


def test_torchrun(elsewhere):
    """A run and the dVAE that it needs, from nothing; then once more, where there is nothing left to do."""
    config = profiles.slate(SMOKE, "IN", 0)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "paper_lib.runs",
        "smoke",
        runs.run_id(config),
    ]
    done = subprocess.run(
        command, cwd=runs.ROOT, env=dict(os.environ), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(f"{runs.run_id(config)}: finished") == 1
    for run in (runs.get(config, SMOKE), runs.get(config.dvae, SMOKE)):
        assert (
            run.summary["status"] == "finished"
            and run.summary["step"] == 6
            and run.summary["world_size"] == 2
        )
        assert sorted(path.name for path in run.folder.iterdir() if path.name != "cell.safetensors") == [
            "config.json", "metrics.csv", "samples.npz", "summary.json", "weights.safetensors"
        ]  # fmt: skip
    assert json.loads((runs.get(config, SMOKE).folder / "config.json").read_text())[
        "id"
    ] == runs.run_id(config)
