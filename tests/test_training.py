"""The training loop: schedules, batches, the tricks that are ablated, logging, divergence, and a killed run that goes on as if nothing had happened."""

import json
import math
import os
import signal
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import SafetensorError
from torch import nn

from paper_lib import runs
from paper_lib.data import Dataset
from paper_lib.paper import parameters, profiles
from paper_lib.training import bfloat16, checkpoint, device, loop
from paper_lib.training.batches import batch_indices
from paper_lib.training.config import TrainingConfig
from paper_lib.training.device import OnDevice
from paper_lib.training.dvae import DVAERunConfig, DVAETask, code_usage
from paper_lib.training.loop import train
from paper_lib.training.schedules import HalveOnPlateau, cosine, exponential, linear_warmup
from paper_lib.training.set_prediction import SetPredictionTask
from paper_lib.training.slate import SLATETask

# ---------------------------------------------------------------- schedules


@pytest.mark.parametrize(
    "step, steps, factor",
    [
        (0, 10, 0),
        (1, 10, 0.1),
        (5, 10, 0.5),
        (10, 10, 1),
        (11, 10, 1),
        (10**6, 10, 1),
        (0, 0, 1),
        (3, 0, 1),
    ],
)
def test_linear_warmup(step, steps, factor):
    assert linear_warmup(step, steps) == pytest.approx(factor)


def test_exponential():
    assert [exponential(step, 10) for step in (0, 5, 10, 30)] == pytest.approx(
        [1, 2**-0.5, 0.5, 0.125]
    )
    assert exponential(10**6, None) == exponential(10**6, 0) == 1


def test_cosine():
    values = [
        cosine(step, 1.0, 0.1, 30_000) for step in (0, 7_500, 15_000, 22_500, 30_000, 250_000)
    ]
    assert values == pytest.approx(
        [1.0, 0.1 + 0.45 * (1 + 2**-0.5), 0.55, 0.1 + 0.45 * (1 - 2**-0.5), 0.1, 0.1]
    )
    assert cosine(0, 2.0, 0.5, 0) == 0.5


@pytest.mark.parametrize(
    "patience, validation, factors",
    [
        (
            2,
            [5, 4, 4, 4, 4, 4, 3, 3, 3],
            [1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125],
        ),  # improved at 2: halved at 4 and 6; improved at 7: halved at 9
        (3, [5, 6, 7, 8, 9, 9, 9], [1, 1, 1, 0.5, 0.5, 0.5, 0.25]),
        (2, [5, math.nan, math.nan, 4], [1, 1, 0.5, 0.5]),  # what is not a number is no improvement
        (None, [5] * 9, [1] * 9),
        (0, [5] * 9, [1] * 9),
    ],
)
def test_halving_on_a_plateau(patience, validation, factors):
    decay, seen = HalveOnPlateau(patience), []
    for step, value in enumerate(validation, 1):
        resumed = HalveOnPlateau(patience)  # its state survives a checkpoint's JSON
        resumed.state = json.loads(json.dumps(decay.state))
        decay = resumed
        decay.update(step, value)
        seen.append(decay.factor)
    assert seen == factors


# ---------------------------------------------------------------- batches


@pytest.mark.parametrize("n, batch", [(10, 3), (12, 4), (5, 5)])
def test_an_epoch_visits_each_image_at_most_once(n, batch):
    per_epoch, epochs = n // batch, []
    for epoch in range(4):
        seen = [
            batch_indices(n, epoch * per_epoch + k, batch, seed=1).tolist()
            for k in range(per_epoch)
        ]
        assert all(len(b) == batch and b == sorted(b) for b in seen)
        flat = sum(seen, [])
        assert len(set(flat)) == len(flat) == per_epoch * batch
        epochs.append(seen)
    if n > batch:
        assert all(a != b for a, b in zip(epochs, epochs[1:]))
        assert (
            batch_indices(n, 0, batch, seed=2).tolist()
            != batch_indices(n, 0, batch, seed=1).tolist()
        )
    state = torch.get_rng_state()
    np.random.seed(5)
    again = batch_indices(n, per_epoch, batch, seed=1)
    assert (again == batch_indices(n, per_epoch, batch, seed=1)).all() and torch.equal(
        state, torch.get_rng_state()
    )


def test_the_batches_are_what_they_were():
    """Runs that are finished, or half done, saw these."""
    assert batch_indices(10, 0, 3, seed=1).tolist() == [4, 7, 8] and batch_indices(
        10, 4, 3, seed=1
    ).tolist() == [0, 1, 6]


def test_a_batch_larger_than_the_data_is_all_of_it():
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 3), dtype=np.uint8)
    task = Toy()
    task.images = images
    (batch,) = task.batch(batch_indices(3, 7, 10, seed=0))
    assert batch.shape == (3, 3, 4, 5) and batch.dtype == torch.float32
    np.testing.assert_allclose(batch.permute(0, 2, 3, 1).numpy(), images / np.float32(255))


# ---------------------------------------------------------------- the tricks, on a task whose gradient is known


class Toy(loop.Task):
    """Two groups of parameters; the loss is linear in them, so that the gradient of step k is (k + 1) times `gradient`."""

    monitor = "val"
    gradient = {"a": torch.tensor([3.0, -4.0]), "b": torch.tensor([0.5, 12.0, 0.0])}

    def __init__(self, validation=(), broken=None):
        self.model = nn.ParameterDict(
            {name: nn.Parameter(torch.ones(len(g))) for name, g in self.gradient.items()}
        )
        self.groups = [
            {"params": [self.model["a"]], "lr": 0.1, "warmup": True, "log": "lr"},
            {"params": [self.model["b"]], "lr": 0.2, "warmup": False, "log": "lr_b"},
        ]
        self.watched = {"a": [self.model["a"]]}
        self.images = np.zeros((8, 2, 2, 3), np.uint8)
        self.validation, self.broken = list(validation), broken

    def loss(self, batch, step):
        loss = (step + 1) * sum((self.model[name] * g).sum() for name, g in self.gradient.items())
        return loss * (math.nan if step == self.broken else 1), {
            "loss": loss.detach(),
            "twice": 2.0 * step,
        }

    def evaluate(self):
        assert not self.model.training
        return {"val": self.validation.pop(0) if self.validation else 1.0}


@pytest.fixture
def steps(monkeypatch):
    """What the optimiser got at each step: learning rates and gradients."""
    seen, step = [], torch.optim.Adam.step

    def spy(self):
        seen.append([(group["lr"], group["params"][0].grad.clone()) for group in self.param_groups])
        return step(self)

    monkeypatch.setattr(torch.optim.Adam, "step", spy)
    return seen


PLAIN = dict(
    steps=6,
    batch_size=2,
    warmup_steps=0,
    clip=None,
    lr_decay_epochs=None,
    log_every=1,
    eval_every=2,
)


def test_without_tricks(steps, tmp_path):
    outcome = train(Toy(), TrainingConfig(**PLAIN), 0, tmp_path)
    assert outcome["status"] == "finished" and outcome["step"] == 6 and outcome["seconds"] > 0
    assert [[lr for lr, _ in groups] for groups in steps] == [[0.1, 0.2]] * 6
    for k, groups in enumerate(steps):
        for (_, gradient), expected in zip(groups, Toy.gradient.values()):
            torch.testing.assert_close(gradient, (k + 1) * expected)


@pytest.mark.parametrize("clip", [1.0, 24.0, 1e9])
def test_clipping_is_by_the_infinity_norm_over_all_parameters(steps, tmp_path, clip):
    train(Toy(), TrainingConfig(**PLAIN | {"clip": clip}), 0, tmp_path)
    for k, groups in enumerate(steps):
        scale = min(
            1.0, clip / (12 * (k + 1))
        )  # 12, of group b, is the largest: group a is scaled with it
        for (_, gradient), expected in zip(groups, Toy.gradient.values()):
            torch.testing.assert_close(gradient, scale * (k + 1) * expected, rtol=1e-5, atol=1e-7)
    rows = pd.read_csv(tmp_path / "metrics.csv")
    np.testing.assert_allclose(
        rows["grad_norm_a"], 5 * rows["step"], rtol=1e-5, err_msg="logged before clipping"
    )
    np.testing.assert_allclose(
        rows["grad_norm_all"], math.sqrt(25 + 0.25 + 144) * rows["step"], rtol=1e-5
    )


@pytest.mark.parametrize("off", [None, 0])
def test_none_and_zero_remove_clipping(steps, tmp_path, off):
    train(Toy(), TrainingConfig(**PLAIN | {"clip": off}), 0, tmp_path)
    torch.testing.assert_close(steps[5][0][1], 6 * Toy.gradient["a"])


def test_warmup_is_not_for_the_dvae(steps, tmp_path):
    train(Toy(), TrainingConfig(**PLAIN | {"warmup_steps": 4}), 0, tmp_path)
    assert [groups[0][0] for groups in steps] == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1, 0.1])
    assert [groups[1][0] for groups in steps] == pytest.approx([0.2] * 6)


def test_learning_rates_decay_by_epochs(steps, tmp_path):
    """8 images, batch 2: an epoch is 4 steps; evaluated every 2. Improves at step 2, not until 6: halved; improves at 8, not until 12: halved."""
    settings = PLAIN | {"steps": 16, "lr_decay_epochs": 1}
    train(Toy([5, 5, 6, 4, 4, 4, 4, 4]), TrainingConfig(**settings), 0, tmp_path)
    assert [groups[0][0] for groups in steps] == pytest.approx([0.1] * 6 + [0.05] * 6 + [0.025] * 4)
    assert [groups[1][0] for groups in steps] == pytest.approx([0.2] * 6 + [0.1] * 6 + [0.05] * 4)
    steps.clear()
    (tmp_path / "two").mkdir()
    train(Toy([5] * 8), TrainingConfig(**settings | {"lr_decay_epochs": 2}), 0, tmp_path / "two")
    assert [groups[0][0] for groups in steps] == pytest.approx([0.1] * 10 + [0.05] * 6)


def test_learning_rates_decay_exponentially_during_the_warmup_too(steps, tmp_path):
    train(Toy(), TrainingConfig(**PLAIN | {"warmup_steps": 4, "decay_steps": 3}), 0, tmp_path)
    warmup = np.array([0.25, 0.5, 0.75, 1, 1, 1])
    halving = 0.5 ** (np.arange(6) / 3)
    assert [groups[0][0] for groups in steps] == pytest.approx(list(0.1 * warmup * halving))
    assert [groups[1][0] for groups in steps] == pytest.approx(list(0.2 * halving)), (
        "without warm-up"
    )


def test_a_task_may_add_to_a_batch(tmp_path):
    seen = []

    class Labelled(Toy):
        def batch(self, indices):
            return *super().batch(indices), torch.as_tensor(indices)

        def loss(self, batch, step):
            seen.append(batch)
            return super().loss(batch[:1], step)

    train(Labelled(), TrainingConfig(**PLAIN), 4, tmp_path)
    assert [labels.tolist() for _, labels in seen] == [
        batch_indices(8, step, 2, seed=4).tolist() for step in range(6)
    ]
    assert all(image.shape == (2, 3, 2, 2) for image, _ in seen)


def test_rows_hold_means_and_largest_norms_of_their_interval(tmp_path):
    train(
        Toy([7, 8]),
        TrainingConfig(**PLAIN | {"steps": 7, "log_every": 2, "eval_every": 4}),
        0,
        tmp_path,
    )
    rows = pd.read_csv(tmp_path / "metrics.csv")
    assert rows["step"].tolist() == [2, 4, 6, 7]  # the last step is always there
    assert rows["twice"].tolist() == [1, 5, 9, 12]
    np.testing.assert_allclose(rows["grad_norm_a"], [7.5, 17.5, 27.5, 35], rtol=1e-5)
    np.testing.assert_allclose(rows["grad_norm_a_max"], [10, 20, 30, 35], rtol=1e-5)
    assert rows["val"].isna().tolist() == [True, False, True, False] and rows[
        "val"
    ].dropna().tolist() == [7, 8]


@pytest.mark.parametrize(
    "wrong",
    [
        dict(steps=0),
        dict(batch_size=0),
        dict(log_every=0),
        dict(log_every=3, eval_every=4),
        dict(eval_every=0),
    ],
)
def test_training_config_refuses_nonsense(wrong):
    with pytest.raises(ValueError, match="at least 1"):
        TrainingConfig(**PLAIN | wrong)


# ---------------------------------------------------------------- divergence


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path, steps):
    outcome = train(Toy([3, 2], broken=5), TrainingConfig(**PLAIN | {"steps": 100}), 0, tmp_path)
    assert outcome["status"] == "diverged" and outcome["step"] == 5 and len(steps) == 5
    rows = pd.read_csv(tmp_path / "metrics.csv")
    assert rows["step"].tolist() == [1, 2, 3, 4, 5, 5] and rows["val"].dropna().tolist() == [3, 2]
    assert not math.isfinite(rows["loss"].iloc[-1])
    assert checkpoint.load_tensors(tmp_path / "checkpoint.safetensors")[1]["step"] == 4


def broken_at(monkeypatch, step_of_nan):
    whole = SLATETask.loss

    def loss(self, batch, step):
        value, logs = whole(self, batch, step)
        return (value * math.nan if step == step_of_nan else value), logs

    monkeypatch.setattr(SLATETask, "loss", loss)


def test_a_diverged_run_is_a_finished_run_that_says_so(smoke, elsewhere, monkeypatch):
    broken_at(monkeypatch, 5)
    config = smoke.vanilla.config
    run = runs.get(config, smoke.setting)
    assert run.summary["status"] == "diverged" and run.summary["step"] == 5
    # the same run up to there
    for column in ("cross_entropy", "grad_norm_all", "val_cross_entropy", "spectral_norm"):
        np.testing.assert_array_equal(run.metrics[column][:5], smoke.vanilla.metrics[column][:5])
    assert (
        run.summary["final"]["val_cross_entropy"] == smoke.vanilla.metrics["val_cross_entropy"][3]
    )
    assert run.samples["reconstruction"].shape == smoke.vanilla.samples["reconstruction"].shape
    assert all(value.isfinite().all() for value in run.weights.values())
    assert not (run.folder / "checkpoint.safetensors").exists()
    monkeypatch.setattr(runs, "train", None)  # it is loaded from now on
    assert runs.get(config, smoke.setting).summary["status"] == "diverged"


def test_a_run_that_diverges_at_once_is_finished_too(smoke, elsewhere, monkeypatch):
    broken_at(monkeypatch, 0)
    run = runs.get(smoke.IN.config, smoke.setting)
    assert (
        run.summary["status"] == "diverged"
        and run.summary["step"] == 0
        and run.metrics["step"].tolist() == [0]
    )


def test_weights_that_are_no_longer_finite_end_the_run_with_the_last_whole_ones(
    smoke, elsewhere, monkeypatch
):
    """A finite loss with an infinite gradient, at the step before an evaluation."""
    step = torch.optim.Adam.step
    count = []

    def breaks(self):
        step(self)
        count.append(1)
        if len(count) == 10:  # after six steps of the dVAE: the fourth of SLATE
            self.param_groups[0]["params"][0].data.fill_(math.nan)

    monkeypatch.setattr(torch.optim.Adam, "step", breaks)
    run = runs.get(smoke.vanilla.config, smoke.setting)
    assert run.summary["status"] == "diverged" and run.summary["step"] == 4
    assert all(value.isfinite().all() for value in run.weights.values()), (
        "pictures and weights are of the last weights that were whole"
    )
    assert (
        run.metrics["val_cross_entropy"].dropna().tolist()
        == smoke.vanilla.metrics["val_cross_entropy"].dropna().tolist()[:1]
    )


# ---------------------------------------------------------------- what a GPU wants, on a CPU


@pytest.fixture
def behind(monkeypatch):
    """A device that may be steps behind: losses are looked at when a row is made."""
    monkeypatch.setattr(loop, "in_step", lambda device: False)


@pytest.mark.parametrize("broken", [0, 3, 4, 5, 6, 7, 8, None])
def test_a_divergence_that_is_seen_late_is_recorded_where_it_happened(
    tmp_path, monkeypatch, broken
):
    settings = TrainingConfig(**PLAIN | {"steps": 9, "log_every": 2, "eval_every": 4})
    outcomes = {}
    for in_step in (True, False):
        monkeypatch.setattr(loop, "in_step", lambda device, answer=in_step: answer)
        folder = tmp_path / str(in_step)
        folder.mkdir()
        outcomes[in_step] = train(Toy(broken=broken), settings, 0, folder) | {"seconds": 0}
    assert outcomes[True] == outcomes[False]
    assert outcomes[True]["step"] == (9 if broken is None else broken)
    assert (tmp_path / "True/metrics.csv").read_bytes() == (
        tmp_path / "False/metrics.csv"
    ).read_bytes()
    kept = [
        checkpoint.load_tensors(path)[1]["step"]
        for path in sorted(tmp_path.glob("*/checkpoint.safetensors"))
    ]
    assert kept == 2 * {None: [9], 8: [8]}.get(broken, [4] if broken and broken >= 4 else [])
    for path in tmp_path.glob("*/checkpoint.safetensors"):
        assert all(value.isfinite().all() for value in checkpoint.load_tensors(path)[0].values())


def test_weights_that_break_behind_our_back(tmp_path, monkeypatch, behind):
    step, count = torch.optim.Adam.step, []

    def breaks(self):
        step(self)
        count.append(1)
        if len(count) == 4:
            self.param_groups[0]["params"][0].data.fill_(math.nan)

    monkeypatch.setattr(torch.optim.Adam, "step", breaks)
    outcome = train(Toy(), TrainingConfig(**PLAIN | {"log_every": 2, "eval_every": 2}), 0, tmp_path)
    assert (outcome["status"], outcome["step"]) == ("diverged", 4)
    assert checkpoint.load_tensors(tmp_path / "checkpoint.safetensors")[1]["step"] == 2


def test_nothing_waits_for_the_device_between_rows(tmp_path, monkeypatch, behind):
    reached, waited = [0], set()

    def spied(whole):
        def spy(self, *arguments):
            waited.add(reached[0])
            return whole(self, *arguments)

        return spy

    for name in ("item", "tolist", "cpu", "numpy", "__float__", "__bool__"):
        monkeypatch.setattr(torch.Tensor, name, spied(getattr(torch.Tensor, name)))

    class Counted(Toy):
        def loss(self, batch, step):
            reached[0] = step + 1
            return super().loss(batch, step)

    train(
        Counted(),
        TrainingConfig(
            **PLAIN | {"steps": 12, "log_every": 3, "eval_every": 6, "clip": 1.0, "warmup_steps": 5}
        ),
        0,
        tmp_path,
    )
    assert waited == {3, 6, 9, 12}


def test_images_on_the_device_are_the_same_pictures(tmp_path, monkeypatch, task, smoke):
    images = np.random.default_rng(0).integers(
        0, 256, (5000, 2, 3, 3), dtype=np.uint8
    )  # put there in more than one piece
    there, indices = OnDevice(images, "cpu"), np.array([0, 4095, 4096, 4999])
    assert len(there) == 5000 and there[indices].dtype == torch.uint8
    assert torch.equal(loop.to_float(there[indices]), loop.to_float(images[indices]))
    config = replace(smoke.IN.config.training, steps=4)
    for name in ("map", "device"):
        if name == "device":
            monkeypatch.setattr(loop, "resident", OnDevice)
        (tmp_path / name).mkdir()
        train(task(), config, 0, tmp_path / name)
    assert (tmp_path / "map/metrics.csv").read_bytes() == (
        tmp_path / "device/metrics.csv"
    ).read_bytes()


def test_properties_go_with_images_on_the_device():
    random = np.random.default_rng(0)
    split = Dataset(
        random.integers(0, 256, (6, 16, 16, 3), np.uint8),
        np.arange(6),
        {},
        properties=random.random((6, 3, 19), np.float32),
    )
    subject = SetPredictionTask(
        profiles.set_prediction(parameters.check("smoke"), "IN", 0), split, split, split
    )
    indices = np.array([1, 4])
    before = subject.batch(indices)
    subject.images = OnDevice(subject.images, "cpu")
    assert all(torch.equal(a, b) for a, b in zip(before, subject.batch(indices)))


def test_images_stay_where_they_are_if_they_do_not_fit(monkeypatch):
    images = np.zeros((8, 2, 2, 3), np.uint8)
    monkeypatch.setattr(device, "OnDevice", lambda images, name: ("moved", name))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda name: (2 * images.nbytes - 1, 10**9))
    assert device.resident(images, "cuda:1") is images and device.resident(images, "cpu") is images
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda name: (2 * images.nbytes, 10**9))
    assert device.resident(images, "cuda:1") == ("moved", "cuda:1")


class Watching(Toy):
    """Notes what torch is set to, in the loss and in the evaluation."""

    def loss(self, batch, step):
        self.in_loss = (
            torch.is_autocast_enabled("cpu"),
            torch.are_deterministic_algorithms_enabled(),
        )
        if step == self.broken:
            raise InterruptedError
        return super().loss(batch, step)

    def evaluate(self):
        self.in_evaluation = (
            torch.is_autocast_enabled("cpu"),
            torch.are_deterministic_algorithms_enabled(),
        )
        return super().evaluate()


@pytest.mark.parametrize("asked, in_loss, in_evaluation", [({}, (False, False), (False, False)), (dict(precision="bfloat16"), (True, False), (False, False)),
                                                           (dict(deterministic=True), (False, True), (False, True))])  # fmt: skip
def test_precision_and_determinism_are_for_the_training(tmp_path, asked, in_loss, in_evaluation):
    watching = Watching()
    train(watching, TrainingConfig(**PLAIN | asked), 0, tmp_path)
    assert (watching.in_loss, watching.in_evaluation) == (in_loss, in_evaluation)
    assert not torch.is_autocast_enabled("cpu") and not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("before", [(False, False), (True, True), (True, False)])
def test_determinism_is_as_before_after_an_error_too(tmp_path, before):
    try:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        watching = Watching(broken=3)
        with pytest.raises(InterruptedError):
            train(watching, TrainingConfig(**PLAIN | {"deterministic": True}), 0, tmp_path)
        assert watching.in_loss == (False, True)
        assert (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ) == before
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("which", ["vanilla", "IN"])
def test_bfloat16_stays_near_float32(tmp_path, task, smoke, which):
    config = getattr(smoke, which).config
    half = task(config)
    train(half, replace(config.training, precision="bfloat16"), 0, tmp_path)
    found, single = pd.read_csv(tmp_path / "metrics.csv"), getattr(smoke, which).metrics
    assert all(p.dtype == torch.float32 for p in half.model.parameters())
    # tokens are drawn from rounded probabilities; gradients are compared while the weights still are alike: one other token can double vanilla's later
    for column, tolerance, rows in [
        ("cross_entropy", 0.03, None),
        ("grad_norm_all", 0.1, 3),
        ("val_cross_entropy", 0.03, None),
    ]:
        half_precision, full = (frame[column].dropna()[:rows] for frame in (found, single))
        assert (half_precision != full).any(), column
        np.testing.assert_allclose(half_precision, full, rtol=tolerance, err_msg=column)


@pytest.mark.parametrize(
    "precision, gain, emulated",
    [("bfloat16", 0.02, True), ("bfloat16", 4.0, False), ("float32", 0.02, False)],
)
def test_a_precision_that_the_processor_has_not(
    tmp_path, monkeypatch, capfd, precision, gain, emulated
):
    monkeypatch.setattr(bfloat16, "bfloat16_gain", lambda: gain)
    calls = []
    monkeypatch.setattr(
        bfloat16.Float32Products, "__enter__", lambda self: calls.append(self) or self
    )
    monkeypatch.setattr(bfloat16.Float32Products, "__exit__", lambda *_: None)
    train(Toy(), TrainingConfig(**PLAIN | {"precision": precision}), 0, tmp_path)
    assert ("(bfloat16 emulated)" in capfd.readouterr().err) == emulated, "the progress bar says it"
    assert len(calls) == 2 * PLAIN["steps"] * emulated, "around both passes of every step"


def test_emulated_products_are_float32_s_rounded():
    a, b, c = (
        torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(k)).bfloat16()
        for k in range(3)
    )
    out, total = torch.empty_like(c), c.clone()
    with bfloat16.Float32Products():
        found = [
            a[0] @ b[0],
            torch.addmm(c[0, 0], a[0], b[0], beta=2, alpha=3),
            a @ b,
            torch.baddbmm(c, a, b),
            torch.bmm(a, b, out=out),
            total.baddbmm_(a, b),
        ]
        assert (a[0].float() @ b[0].float()).dtype == torch.float32 and torch.equal(
            a + b, torch.add(a, b)
        )
    a, b, c = a.float(), b.float(), c.float()
    expected = [a[0] @ b[0], 2 * c[0, 0] + 3 * a[0] @ b[0], a @ b, c + a @ b, a @ b, c + a @ b]
    for product, whole in zip([*found, out, total], [*expected, *expected[-2:]]):
        assert product.dtype == torch.bfloat16
        torch.testing.assert_close(product.float(), whole, rtol=2**-8, atol=1e-6)
    assert torch.equal(found[0], expected[0].bfloat16()) and found[4] is out and found[5] is total


def test_emulated_convolutions_and_their_gradients():
    x, w = torch.randn(2, 3, 8, 8), torch.randn(5, 3, 3, 3)
    half = [t.bfloat16().requires_grad_() for t in (x, w)]
    single = [t.detach().float().requires_grad_() for t in half]
    with bfloat16.Float32Products():
        y = torch.conv2d(*half, padding=1)
        y.sum().backward()
    expected = torch.conv2d(*single, padding=1)
    expected.sum().backward()
    assert torch.equal(y, expected.bfloat16()) and all(
        torch.equal(h.grad, s.grad.bfloat16()) for h, s in zip(half, single)
    )


class Squares(Toy):
    """A loss that a compiler can do something to, with a number of the step in it."""

    def loss(self, batch, step):
        loss = (
            (self.model["a"] * batch[0].mean() - 3.0).square().sum()
            + self.model["b"].exp().tanh().sum()
        ) * math.cos(0.1 * step)
        return loss, {"loss": loss.detach(), "twice": 2.0 * step}


def test_compiled(tmp_path):
    try:
        device.check_compiler("cpu")
    except RuntimeError as error:
        pytest.skip(f"there is no C++ compiler here: {error}")
    subjects = {}
    for name in (False, True):
        (tmp_path / str(name)).mkdir()
        subjects[name] = Squares()
        train(subjects[name], TrainingConfig(**PLAIN | {"compile": name}), 0, tmp_path / str(name))
    for part in "ab":
        torch.testing.assert_close(
            subjects[True].model[part], subjects[False].model[part], rtol=1e-5, atol=1e-5
        )
    np.testing.assert_allclose(
        *(pd.read_csv(tmp_path / f"{name}/metrics.csv") for name in (True, False)), rtol=1e-5
    )
    assert checkpoint.model_weights(tmp_path / "True/checkpoint.safetensors").keys() == {"a", "b"}


def test_compiling_where_there_is_no_compiler(tmp_path, monkeypatch):
    def missing(function):
        raise FileNotFoundError("g++")

    monkeypatch.setattr(torch, "compile", missing)
    with pytest.raises(RuntimeError, match="C\\+\\+ compiler.*set training.compile to false"):
        train(Toy(), TrainingConfig(**PLAIN | {"compile": True}), 0, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong, remedy", [(dict(precision="float16"), "'float32' or 'bfloat16', not 'float16'"), (dict(precision=None), "'float32' or"),
                                           (dict(compile=1), "true or false"), (dict(deterministic="yes"), "deterministic must be true")])  # fmt: skip
def test_values_that_training_does_not_know(wrong, remedy):
    with pytest.raises(ValueError, match=remedy):
        TrainingConfig(**PLAIN | wrong)


# ---------------------------------------------------------------- the dVAE's health


def test_a_collapsed_dvae_is_refused(smoke, elsewhere):
    healthy = smoke.dvae.config
    for wrong, reason in (
        (dict(min_codes=17), "codes in use, fewer than 17"),
        (dict(max_mse_fraction=0.0), "exceeds 0.0 of the mean image's"),
    ):
        config = replace(smoke.IN.config, dvae=replace(healthy, **wrong))
        with pytest.raises(RuntimeError, match="fails its check") as error:
            runs.get(config, smoke.setting)
        assert reason in str(error.value) and runs.run_id(config.dvae) in str(error.value)
        assert not (
            runs.results_root() / "smoke/runs" / runs.run_id(config) / "summary.json"
        ).exists()


def test_faults():
    config, fine = DVAERunConfig(), {"codes_used": 16, "val_mse": 10.0, "mean_image_mse": 20.0}
    assert config.faults(fine) == []
    assert (
        len(config.faults(fine | {"codes_used": 3})) == 1
        and len(config.faults(fine | {"val_mse": 10.1})) == 1
    )
    assert (
        len(config.faults(fine | {"val_mse": math.nan})) == 1
        and len(config.faults(fine | {"codes_used": 1, "val_mse": 38, "mean_image_mse": 32})) == 2
    )
    assert config.faults({}), (
        "one that diverged before its first evaluation has no metrics, and is not healthy"
    )


def test_code_usage():
    usage = code_usage(torch.tensor([[0, 0, 3], [3, 3, 0]]), 5)
    assert usage["codes_used"] == 2 and usage["perplexity"] == pytest.approx(2)
    assert code_usage(torch.arange(5), 5)["perplexity"] == pytest.approx(5)


# ---------------------------------------------------------------- SLATE and dVAE as tasks


def splits(config):
    return [config.data.load(name) for name in ("train", "validation", "test")]


@pytest.fixture
def task(smoke):
    def build(config=smoke.IN.config):
        torch.manual_seed(config.seed)
        return SLATETask(
            config, *splits(config), dvae_weights=smoke.dvae.weights if config.dvae else None
        )

    return build


def test_a_frozen_dvae_stays_as_it_was(smoke):
    for run in (smoke.vanilla, smoke.IN):
        for name, value in smoke.dvae.weights.items():
            assert torch.equal(run.weights[f"dvae.{name}"], value), name
        moved = [
            name
            for name in run.weights
            if name.startswith(("tf_dec", "slot_attn.slot_attention.gru"))
        ]
        fresh = SLATETask(
            run.config, *splits(run.config), dvae_weights=smoke.dvae.weights
        ).model.state_dict()
        assert moved and not any(
            torch.equal(fresh[name], run.weights[name]) for name in moved if "norm" not in name
        )


@pytest.mark.parametrize("clip", [None, 1e-3])
def test_logged_gradient_norms(task, smoke, tmp_path, clip):
    config = replace(smoke.vanilla.config.training, steps=1, clip=clip)
    by_hand = task(smoke.vanilla.config)
    by_hand.model.train()
    by_hand.loss(by_hand.batch(batch_indices(len(by_hand.images), 0, config.batch_size, 0)), 0)[
        0
    ].backward()
    squares = {
        name: p.grad.double().square().sum().item()
        for name, p in by_hand.model.named_parameters()
        if p.grad is not None
    }
    cell = sum(
        value for name, value in squares.items() if name.startswith("slot_attn.slot_attention.")
    )
    train(task(smoke.vanilla.config), config, 0, tmp_path)
    row = pd.read_csv(tmp_path / "metrics.csv").iloc[0]
    assert row["grad_norm_all"] == pytest.approx(math.sqrt(sum(squares.values())), rel=1e-4)
    assert row["grad_norm_slot_attention"] == pytest.approx(math.sqrt(cell), rel=1e-4)
    assert 0 < cell < sum(squares.values())


@pytest.mark.parametrize("kind", ["slate", "joint", "dvae"])
def test_evaluation_leaves_random_states_alone(task, smoke, kind):
    if kind == "dvae":
        subject = DVAETask(smoke.dvae.config, *splits(smoke.dvae.config)[:2])
    else:
        subject = task(smoke.IN.config if kind == "slate" else replace(smoke.IN.config, dvae=None))
    subject.model.eval()
    before, numpys = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = subject.evaluate()
    torch.manual_seed(99)
    assert first == subject.evaluate(), "the same draws at every evaluation"
    torch.set_rng_state(before)
    subject.evaluate()
    assert torch.equal(before, torch.get_rng_state()) and (numpys == np.random.get_state()[1]).all()
    assert not any(p.grad is not None for p in subject.model.parameters())


def test_joint_training(task, smoke, tmp_path):
    config = replace(smoke.IN.config, dvae=None, tau_steps=4)
    joint = task(config)
    before = {name: value.clone() for name, value in joint.model.dvae.state_dict().items()}
    outcome = train(joint, replace(config.training, steps=2, warmup_steps=10), 0, tmp_path)
    rows = pd.read_csv(tmp_path / "metrics.csv")
    assert outcome["status"] == "finished" and rows["step"].tolist() == [1, 2]
    assert rows["tau"].tolist() == pytest.approx([1.0, cosine(1, 1.0, 0.1, 4)], rel=1e-5)
    assert rows["mse"].gt(0).all() and rows["cross_entropy"].gt(0).all()
    assert (
        1 <= rows["codes_used"].iloc[-1] <= config.model.vocab_size
        and rows["perplexity"].iloc[-1] >= 1
    )
    assert not any(
        torch.equal(before[name], value) for name, value in joint.model.dvae.state_dict().items()
    )
    # Adam's first steps are as long as the learning rate: 3e-4 for the dVAE without warm-up
    assert (
        joint.model.dvae.encoder[-1].weight.detach() - before["encoder.7.weight"]
    ).abs().max().item() == pytest.approx(2 * 3e-4, rel=0.05)


def test_the_losses_are_summed_over_an_image(task, smoke):
    config = smoke.dvae.config
    pictures = Dataset(
        images=np.full((4, 16, 16, 3), 51, np.uint8), indices=np.arange(4), source={}
    )
    subject = DVAETask(config, pictures, pictures)
    for p in subject.model.decoder[-1].parameters():
        nn.init.zeros_(p)  # a black picture
    loss, logs = subject.loss(subject.batch(np.arange(4)), 0)
    assert loss.item() == pytest.approx(0.2**2 * 3 * 16 * 16, rel=1e-5) == logs["mse"].item()
    metrics = subject.evaluate()
    assert metrics["val_mse"] == pytest.approx(0.2**2 * 3 * 16 * 16, rel=1e-5) and metrics[
        "mean_image_mse"
    ] == pytest.approx(0, abs=1e-6)


# ---------------------------------------------------------------- killed and resumed


def longer(config, steps):
    return replace(
        config, training=replace(config.training, steps=steps, eval_every=5, log_every=1)
    )


def finish(config, setting):
    runs.get(config, setting)


def wait_for(path, child, seconds=120):
    start = time.time()
    while not path.exists():
        assert child.is_alive() and time.time() - start < seconds, f"{path} did not appear"
        time.sleep(0.005)


def assert_same(run, other):
    assert run.folder != other.folder and run.folder.name == other.folder.name
    for name in (
        "metrics.csv",
        "weights.safetensors",
        *(["cell.safetensors"] if run.config.kind == "slate" else []),
    ):
        assert (run.folder / name).read_bytes() == (other.folder / name).read_bytes(), name
    for name, value in run.samples.items():
        np.testing.assert_array_equal(value, other.samples[name])
    assert (
        run.summary["final"] == other.summary["final"]
        and run.summary["status"] == other.summary["status"] == "finished"
    )
    assert not [path.name for path in run.folder.iterdir() if "checkpoint" in path.name], (
        "nothing is left of the interruption"
    )


@pytest.mark.parametrize("which, steps", [("vanilla", 60), ("IN", 60), ("dvae", 120)])
def test_a_killed_run_goes_on_bit_for_bit(smoke, process, elsewhere, monkeypatch, which, steps):
    config = longer(getattr(smoke, which).config, steps)
    folder = runs.results_root() / "smoke/runs" / runs.run_id(config)
    kills = 0
    for delay in np.random.default_rng(0).uniform(0.05, 0.35, 2):
        child = process(finish, config, smoke.setting)
        wait_for(folder / "checkpoint.safetensors", child)
        time.sleep(delay)
        child.kill()
        child.join()
        kills += child.exitcode == -signal.SIGKILL and not (folder / "summary.json").exists()
    assert kills, "it finished before it could be killed"
    resumed = runs.get(config, smoke.setting)
    monkeypatch.setenv("PAPER_RESULTS", str(elsewhere / "uninterrupted"))
    assert_same(resumed, runs.get(config, smoke.setting))


def die_while_writing(config, setting, checkpoints):
    """Run until so many checkpoints are whole, and be killed in the middle of the next."""
    save, done = checkpoint.save_file, []

    def save_file(tensors, path, metadata):
        save(tensors, path, metadata)
        if len(done) == checkpoints:
            os.truncate(path, os.path.getsize(path) // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        done.append(path)

    checkpoint.save_file = save_file
    runs.get(config, setting)


@pytest.mark.parametrize("checkpoints", [0, 2])
def test_killed_while_a_checkpoint_is_written(smoke, process, elsewhere, monkeypatch, checkpoints):
    config = longer(smoke.dvae.config, 20)
    folder = runs.results_root() / "smoke/runs" / runs.run_id(config)
    child = process(die_while_writing, config, smoke.setting, checkpoints)
    child.join(120)
    assert child.exitcode == -signal.SIGKILL
    if checkpoints:
        assert (
            checkpoint.load_tensors(folder / "checkpoint.safetensors")[1]["step"] == 5 * checkpoints
        )
        assert len(pd.read_csv(folder / "metrics.csv")) == 5 * checkpoints
    else:
        assert not (folder / "checkpoint.safetensors").exists()
    resumed = runs.get(config, smoke.setting)
    monkeypatch.setenv("PAPER_RESULTS", str(elsewhere / "uninterrupted"))
    assert_same(resumed, runs.get(config, smoke.setting))


@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty", "pickle"])
def test_a_broken_checkpoint_is_an_error_and_no_code(tmp_path, damage):
    train(Toy(), TrainingConfig(**PLAIN), 0, tmp_path)
    path = tmp_path / "checkpoint.safetensors"
    content = path.read_bytes()
    if damage == "pickle":
        torch.save({"model": Unpickled()}, path)
    else:
        path.write_bytes(
            {
                "truncated": content[: len(content) // 2],
                "garbage": b"\x00garbage" * 50,
                "empty": b"",
            }[damage]
        )
    with pytest.raises(SafetensorError):
        train(Toy(), TrainingConfig(**PLAIN | {"steps": 8}), 0, tmp_path)


class Unpickled:
    def __reduce__(self):
        return (pytest.fail, ("a checkpoint executed code",))


def test_a_checkpoint_holds_everything(tmp_path):
    """Model, optimiser, schedules, rows and the random state: a toy that is stopped and goes on takes the same steps."""
    validation = [5, 5, 6, 4, 4, 4, 4, 4]
    settings = PLAIN | {"steps": 16, "lr_decay_epochs": 1, "warmup_steps": 3}
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    whole = Toy(validation)
    torch.manual_seed(3)
    train(whole, TrainingConfig(**settings), 0, tmp_path / "whole")
    torch.manual_seed(3)
    train(Toy(validation), TrainingConfig(**settings | {"steps": 10}), 0, tmp_path / "parts")
    state = torch.get_rng_state()
    torch.manual_seed(77)
    parts = Toy(validation[5:])
    outcome = train(parts, TrainingConfig(**settings), 0, tmp_path / "parts")
    assert torch.equal(torch.get_rng_state(), state), "the random state is the checkpoint's again"
    assert outcome["step"] == 16
    assert all(torch.equal(whole.model[name], parts.model[name]) for name in "ab")
    assert (tmp_path / "whole/metrics.csv").read_bytes() == (
        tmp_path / "parts/metrics.csv"
    ).read_bytes()
    outcome = train(Toy(), TrainingConfig(**settings), 0, tmp_path / "parts")
    assert outcome["status"] == "finished" and outcome["step"] == 16, (
        "a run that only lacks its summary takes no step more"
    )


def test_the_smoke_runs_are_what_the_profiles_say(smoke):
    assert (
        smoke.IN.config == profiles.slate(smoke.setting, "IN", 0)
        and smoke.IN.summary["status"] == "finished"
    )
    assert smoke.IN.metrics["step"].tolist() == list(range(1, 7))
