"""Two processes on one machine's cores: they compute what one does, resume each other's
checkpoints, and write as one."""

import json
import math
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from paper_lib import runs
from paper_lib.data import Dataset
from paper_lib.models import DVAE
from paper_lib.paper import locatello, parameters, profiles
from paper_lib.training import loop, parallel
from paper_lib.training.autoencoder import AutoencoderTask
from paper_lib.training.checkpoint import load_tensors, save_tensors
from paper_lib.training.config import TrainingConfig
from paper_lib.training.loop import train
from paper_lib.training.slate import SLATETask

SMOKE = parameters.check("smoke")
TRICKS = {
    "steps": 6,
    "batch_size": 4,
    "warmup_steps": 3,
    "clip": 1.0,
    "lr_decay_epochs": 1,
    "log_every": 1,
    "eval_every": 2,
}


@pytest.fixture
def together(process):
    """together(function, *arguments): in two processes at once, as torchrun would start them.

    `ends=False` gives the processes back while they run.
    """

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
    os.environ["RANK"] = os.environ["LOCAL_RANK"] = str(rank)
    os.environ["WORLD_SIZE"] = "2"
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = "127.0.0.1", str(port)
    with parallel.processes("cpu"):
        function(*arguments)


# ---- tasks ----


class Quiet:
    """A task whose random numbers come with the batch and depend on the image alone, so that the
    processes' draws are the single one's.

    It is in float64: Adam's steps are as long as the learning rate even where rounding alone
    decides a gradient's sign, as it does for some of slot attention's biases.
    """

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.model.double()
        self.validation = self.validation.double()

    def batch(self, indices):
        (image,) = super().batch(indices)
        dtype = self.validation.dtype
        draws = [torch.Generator().manual_seed(int(i)) for i in indices]
        tokens = torch.stack([torch.randint(16, (16,), generator=g) for g in draws])
        noise = torch.stack([torch.randn(3, 16, generator=g, dtype=dtype) for g in draws])
        return image.to(dtype), tokens, noise


class QuietSLATE(Quiet, SLATETask):
    def loss(self, batch, step):
        _, tokens, noise = batch
        loss = self.model.autoencode(tokens, noise)[0].mean()
        return loss, {"cross_entropy": loss.detach()}


class QuietAutoencoder(Quiet, AutoencoderTask):
    def loss(self, batch, step):
        image, _, noise = batch
        loss = nn.functional.mse_loss(self.model(image, noise).reconstruction, image)
        return loss, {"mse": loss.detach()}


class SingleQuietSLATE(QuietSLATE):
    """In float32, at the paper's learning rate."""

    def __init__(self, config, *arguments):
        training = replace(config.training, lr=1e-4)
        super().__init__(replace(config, training=training), *arguments)
        self.model.float()
        self.validation = self.validation.float()


def noise_split(seed):
    images = np.random.default_rng(seed).integers(0, 256, (12, 16, 16, 3), np.uint8)
    return Dataset(images, np.arange(12), {})


def build(name, variant):
    splits = [noise_split(seed) for seed in range(3)]
    torch.manual_seed(0)
    if name == "autoencoder":
        config = locatello.autoencoder(SMOKE, variant, 0)
        model = replace(config.model, num_slots=3, slot_size=16)
        return QuietAutoencoder(replace(config, model=model), *splits)
    config = profiles.slate(SMOKE, variant, 0)
    if name != "slate":
        config = replace(config, model=replace(config.model, dropout=0.0))
    task = {"slate": SLATETask, "quiet": QuietSLATE, "single": SingleQuietSLATE}[name]
    return task(config, *splits, DVAE(16).state_dict())


def fit(folder, name, variant, **changes):
    """Train in this process, alone or with others.

    The first writes to `folder`; another would write to a folder of its own. Kept beside it are
    weights, gradients of the last step, and the outcome.
    """
    task = build(name, variant)
    resumes = (folder / "checkpoint.safetensors").exists()
    own = folder if parallel.is_first() or resumes else folder / "others"
    outcome = train(task, TrainingConfig(**TRICKS | changes), 0, own)
    tensors = {}
    for parameter, p in task.model.named_parameters():
        tensors[f"weights/{parameter}"] = p
        if p.grad is not None:
            tensors[f"gradients/{parameter}"] = p.grad
    save_tensors(beside(folder, parallel.world_size(), parallel.rank()), tensors, outcome)


def fit_with(changes, *arguments):
    fit(*arguments, **changes)


def beside(folder, world_size, rank):
    return folder.parent / f"{folder.name}-{world_size}-{rank}"


def kept(folder, world_size=1, rank=0):
    return load_tensors(beside(folder, world_size, rank))


def table(folder):
    return pd.read_csv(folder / "metrics.csv")


def assert_close(found, expected, tolerance=1e-9):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        error = (found[name] - value).abs().max().item()
        assert torch.allclose(found[name], value, tolerance, tolerance), f"{name}: {error}"


# ---- two compute what one does ----


@pytest.mark.parametrize(
    "name, variant, tolerance",
    [("single", "IN", 1e-5), ("quiet", "vanilla", 1e-9), ("autoencoder", "IN", 1e-9)],
)
def test_two_processes_reach_the_gradients_and_weights_of_one(
    together, tmp_path, name, variant, tolerance
):
    one, two = tmp_path / "one", tmp_path / "two"
    fit(one, name, variant)
    together(fit, two, name, variant)
    alone, outcome = kept(one)
    assert outcome["step"] == 6
    for rank in range(2):
        assert_close(kept(two, 2, rank)[0], alone, tolerance)
    assert not (two / "others").exists(), "the first process writes, and no other"
    found, expected = table(two), table(one)
    assert found.columns.tolist() == expected.columns.tolist()
    assert found["step"].tolist() == [1, 2, 3, 4, 5, 6]
    # logs are means over the processes, norms and evaluations as of one
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("variant, reached", [("vanilla", True), ("IN", False)])
def test_initial_slots_have_a_gradient_under_vanilla_alone(together, tmp_path, variant, reached):
    """In two processes as in one: without one they are not moved, and do not count in the norm."""
    together(fit_with, {"steps": 2}, tmp_path / "run", "quiet", variant)
    tensors, _ = kept(tmp_path / "run", 2)
    fresh = build("quiet", variant).model.state_dict()
    for name in ("slot_attn.slot_mu", "slot_attn.slot_log_sigma"):
        assert (f"gradients/{name}" in tensors) == reached
        assert torch.equal(tensors[f"weights/{name}"], fresh[name]) == (not reached)


def test_each_process_draws_its_own_noise(together, tmp_path):
    together(draws, tmp_path)
    seen = [np.load(tmp_path / f"{rank}.npy") for rank in range(2)]
    assert len(np.unique(np.concatenate(seen))) == 6


def test_a_single_process_goes_on_with_the_random_state_that_it_has():
    state = torch.get_rng_state()
    parallel.seed_step(0, 0)
    assert torch.equal(state, torch.get_rng_state())


def draws(folder):
    seen = []
    for step in (0, 1, 2):
        parallel.seed_step(0, step)
        seen.append(torch.rand(()).item())
    np.save(folder / f"{parallel.rank()}.npy", seen)


# ---- resumed ----


@pytest.mark.parametrize("first, then", [(2, 1), (1, 2)])
def test_another_number_of_processes_resumes_a_checkpoint(together, tmp_path, first, then):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    fit(whole, "quiet", "IN", steps=6)
    for world_size, steps in ((first, 4), (then, 6)):
        start = fit_with if world_size == 1 else partial(together, fit_with)
        start({"steps": steps}, parts, "quiet", "IN")
    assert_close(kept(parts, then)[0], kept(whole)[0])
    assert table(parts)["step"].tolist() == [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose(table(parts), table(whole), rtol=1e-3, atol=1e-5)
    for name in load_tensors(parts / "checkpoint.safetensors")[0]:
        assert not name.startswith("model/module."), "names are those of the model by itself"


def test_as_many_processes_resume_bit_for_bit(together, tmp_path):
    """With the noise and the dropout of a real run."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    together(fit_with, {"steps": 6}, whole, "slate", "IN")
    together(fit_with, {"steps": 2}, parts, "slate", "IN")
    together(fit_with, {"steps": 6}, parts, "slate", "IN")
    assert (whole / "metrics.csv").read_bytes() == (parts / "metrics.csv").read_bytes()
    resumed = kept(parts, 2)[0]
    for name, value in kept(whole, 2)[0].items():
        assert torch.equal(value, resumed[name]), name


def test_two_processes_are_killed_and_one_goes_on(together, tmp_path):
    folder = tmp_path / "run"
    children = together(fit_with, {"steps": 500}, folder, "slate", "IN", ends=False)
    start = time.time()
    while not (folder / "checkpoint.safetensors").exists():
        assert all(child.is_alive() for child in children)
        assert time.time() - start < 60
        time.sleep(0.01)
    for child in children:
        child.kill()
        child.join()
    reached = load_tensors(folder / "checkpoint.safetensors")[1]["step"]
    assert 2 <= reached < 500
    fit(folder, "slate", "IN", steps=reached + 3)
    rows = table(folder)
    assert rows["step"].tolist() == list(range(1, reached + 4))
    assert np.isfinite(rows[["cross_entropy", "grad_norm_all"]]).all(axis=None)


# ---- divergence, errors ----


@pytest.mark.parametrize("in_step", [True, False])
def test_where_one_process_diverges_all_do(together, tmp_path, in_step):
    together(diverge, tmp_path / "run", in_step)
    for rank in range(2):
        _, outcome = kept(tmp_path / "run", 2, rank)
        assert outcome["status"] == "diverged"
        assert outcome["step"] == 4
    rows = table(tmp_path / "run")
    assert rows["step"].tolist() == [3, 4]
    assert not math.isfinite(rows["loss"].iloc[-1])
    assert math.isfinite(rows["cross_entropy"].iloc[-1])
    tensors, info = load_tensors(tmp_path / "run/checkpoint.safetensors")
    assert info["step"] == 3
    assert all(value.isfinite().all() for value in tensors.values())


def diverge(folder, in_step):
    """Train while the second process meets a loss that is not finite, at step 4."""
    loss = QuietSLATE.loss

    def broken(self, batch, step):
        value, logs = loss(self, batch, step)
        return (value * math.inf if step == 4 and parallel.rank() == 1 else value), logs

    QuietSLATE.loss = broken
    loop.in_step = lambda device: in_step
    fit(folder, "quiet", "IN", steps=9, log_every=3, eval_every=3)


def test_a_batch_that_cannot_be_shared_equally(monkeypatch):
    monkeypatch.setattr(parallel, "world_size", lambda: 3)
    monkeypatch.setattr(parallel, "rank", lambda: 1)
    words = (
        "a batch of 4 does not divide among 3 processes: set training.batch_size to a multiple of 3"
    )
    with pytest.raises(ValueError, match=words):
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


# ---- the command ----


def torchrun(*arguments):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "-m", "paper_lib.runs", *arguments]
    return subprocess.run(command, cwd=runs.ROOT, capture_output=True, text=True, timeout=300)


def test_torchrun(elsewhere):
    """A run and the dVAE that it needs, from nothing."""
    config = profiles.slate(SMOKE, "IN", 0)
    done = torchrun("smoke", runs.run_id(config))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(f"{runs.run_id(config)}: finished") == 1
    loaded = parameters.check("smoke", if_missing="error")
    files = {"checksums.json", "config.json", "metrics.csv", "samples.npz", "summary.json"}
    files |= {"weights.safetensors"}
    for part, extra in ((config, {"cell.safetensors"}), (config.dvae, set())):
        run = runs.get(part, loaded)
        assert run.summary["status"] == "finished"
        assert run.summary["step"] == 6
        assert run.summary["world_size"] == 2
        assert {path.name for path in run.folder.iterdir()} == files | extra
        written = json.loads((run.folder / "config.json").read_text())
        assert written["id"] == runs.run_id(part)
