"""The training loop: schedules, batches, the tricks that are ablated, logging and divergence."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from toy import PLAIN, Toy

from paper_lib import runs
from paper_lib.paper import profiles
from paper_lib.training import checkpoint, loop
from paper_lib.training import run as training_run
from paper_lib.training.batches import batch_indices
from paper_lib.training.config import TrainingConfig
from paper_lib.training.loop import train
from paper_lib.training.schedules import HalveOnPlateau, cosine, exponential, linear_warmup
from paper_lib.training.slate import SLATETask

# ---- schedules ----


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
    found = [exponential(step, 10) for step in (0, 5, 10, 30)]
    assert found == pytest.approx([1, 2**-0.5, 0.5, 0.125])
    assert exponential(10**6, None) == exponential(10**6, 0) == 1


def test_cosine():
    steps = (0, 7_500, 15_000, 22_500, 30_000, 250_000)
    found = [cosine(step, 1.0, 0.1, 30_000) for step in steps]
    root = 2**-0.5
    expected = [1.0, 0.1 + 0.45 * (1 + root), 0.55, 0.1 + 0.45 * (1 - root), 0.1, 0.1]
    assert found == pytest.approx(expected)
    assert cosine(0, 2.0, 0.5, 0) == 0.5


PLATEAUS = [
    # improved at 2: halved at 4 and 6; improved at 7: halved at 9
    (2, [5, 4, 4, 4, 4, 4, 3, 3, 3], [1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125]),
    (3, [5, 6, 7, 8, 9, 9, 9], [1, 1, 1, 0.5, 0.5, 0.5, 0.25]),
    # what is not a number is no improvement
    (2, [5, math.nan, math.nan, 4], [1, 1, 0.5, 0.5]),
    (None, [5] * 9, [1] * 9),
    (0, [5] * 9, [1] * 9),
]


@pytest.mark.parametrize("patience, validation, factors", PLATEAUS)
def test_halving_on_a_plateau(patience, validation, factors):
    decay, seen = HalveOnPlateau(patience), []
    for step, value in enumerate(validation, 1):
        resumed = HalveOnPlateau(patience)  # its state survives a checkpoint's JSON
        resumed.state = json.loads(json.dumps(decay.state))
        decay = resumed
        decay.update(step, value)
        seen.append(decay.factor)
    assert seen == factors


# ---- batches ----


def epoch_batches(count, batch_size, epoch, seed):
    steps = count // batch_size
    return [
        batch_indices(count, epoch * steps + k, batch_size, seed).tolist() for k in range(steps)
    ]


@pytest.mark.parametrize("count, batch_size", [(10, 3), (12, 4), (5, 5)])
def test_an_epoch_visits_each_image_at_most_once(count, batch_size):
    for epoch in range(4):
        seen = epoch_batches(count, batch_size, epoch, seed=1)
        for batch in seen:
            assert len(batch) == batch_size
            assert batch == sorted(batch)
        visited = sum(seen, [])
        assert len(set(visited)) == len(visited) == count // batch_size * batch_size


@pytest.mark.parametrize("count, batch_size", [(10, 3), (12, 4)])
def test_each_epoch_and_seed_has_a_shuffle_of_its_own(count, batch_size):
    epochs = [epoch_batches(count, batch_size, epoch, seed=1) for epoch in range(4)]
    for one, next_one in zip(epochs, epochs[1:]):
        assert one != next_one
    assert epochs[0] != epoch_batches(count, batch_size, 0, seed=2)


def test_a_batch_is_a_function_of_its_step_alone():
    first = batch_indices(10, 3, 3, seed=1)
    state = torch.get_rng_state()
    np.random.seed(5)
    batch_indices(10, 7, 3, seed=1)
    np.testing.assert_array_equal(first, batch_indices(10, 3, 3, seed=1))
    assert torch.equal(state, torch.get_rng_state())


def test_the_batches_are_what_they_were():
    """Runs that are finished, or half done, saw these."""
    assert batch_indices(10, 0, 3, seed=1).tolist() == [4, 7, 8]
    assert batch_indices(10, 4, 3, seed=1).tolist() == [0, 1, 6]


def test_a_batch_larger_than_the_data_is_all_of_it():
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 3), dtype=np.uint8)
    task = Toy()
    task.images = images
    (batch,) = task.batch(batch_indices(3, 7, 10, seed=0))
    assert batch.shape == (3, 3, 4, 5)
    assert batch.dtype == torch.float32
    np.testing.assert_allclose(batch.permute(0, 2, 3, 1).numpy(), images / np.float32(255))


# ---- the tricks ----


@pytest.fixture
def steps(monkeypatch):
    """What the optimiser got at each step: for each group its learning rate and its gradient."""
    seen, step = [], torch.optim.Adam.step

    def spy(self):
        seen.append([(group["lr"], group["params"][0].grad.clone()) for group in self.param_groups])
        return step(self)

    monkeypatch.setattr(torch.optim.Adam, "step", spy)
    return seen


def learning_rates(steps, group):
    return [groups[group][0] for groups in steps]


def assert_gradients(steps, scales):
    """That each step's gradients are `Toy.gradient`, scaled."""
    for groups, scale in zip(steps, scales, strict=True):
        for (_, gradient), expected in zip(groups, Toy.gradient.values(), strict=True):
            torch.testing.assert_close(gradient, scale * expected, rtol=1e-5, atol=1e-7)


def test_without_tricks(steps, tmp_path):
    outcome = train(Toy(), TrainingConfig(**PLAIN), 0, tmp_path)
    assert outcome["status"] == "finished"
    assert outcome["step"] == 6
    assert outcome["seconds"] > 0
    assert learning_rates(steps, 0) == [0.1] * 6
    assert learning_rates(steps, 1) == [0.2] * 6
    assert_gradients(steps, [1, 2, 3, 4, 5, 6])


@pytest.mark.parametrize("clip", [1.0, 24.0, 1e9])
def test_clipping_is_by_the_infinity_norm_over_all_parameters(steps, tmp_path, clip):
    train(Toy(), TrainingConfig(**PLAIN | {"clip": clip}), 0, tmp_path)
    # the largest entry is 12, of group b; group a is scaled with it
    assert_gradients(steps, [(k + 1) * min(1.0, clip / (12 * (k + 1))) for k in range(6)])


def test_norms_are_logged_before_clipping(tmp_path):
    train(Toy(), TrainingConfig(**PLAIN | {"clip": 1.0}), 0, tmp_path)
    rows = pd.read_csv(tmp_path / "metrics.csv")
    of_all = math.sqrt(25 + 0.25 + 144)
    np.testing.assert_allclose(rows["grad_norm_a"], 5 * rows["step"], rtol=1e-5)
    np.testing.assert_allclose(rows["grad_norm_all"], of_all * rows["step"], rtol=1e-5)


def test_none_removes_clipping(steps, tmp_path):
    train(Toy(), TrainingConfig(**PLAIN | {"clip": None}), 0, tmp_path)
    assert_gradients(steps, [1, 2, 3, 4, 5, 6])


def test_warmup_is_not_for_the_dvae(steps, tmp_path):
    train(Toy(), TrainingConfig(**PLAIN | {"warmup_steps": 4}), 0, tmp_path)
    assert learning_rates(steps, 0) == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1, 0.1])
    assert learning_rates(steps, 1) == pytest.approx([0.2] * 6)


def test_learning_rates_decay_by_epochs(steps, tmp_path):
    """8 images in batches of 2: an epoch is 4 steps; evaluated every 2.

    Validation improves at step 2, and not until 6: halved; it improves at 8, and not until 12:
    halved.
    """
    config = TrainingConfig(**PLAIN | {"steps": 16, "lr_decay_epochs": 1})
    train(Toy([5, 5, 6, 4, 4, 4, 4, 4]), config, 0, tmp_path)
    assert learning_rates(steps, 0) == pytest.approx([0.1] * 6 + [0.05] * 6 + [0.025] * 4)
    assert learning_rates(steps, 1) == pytest.approx([0.2] * 6 + [0.1] * 6 + [0.05] * 4)


def test_learning_rates_decay_after_as_many_epochs_as_asked_for(steps, tmp_path):
    config = TrainingConfig(**PLAIN | {"steps": 16, "lr_decay_epochs": 2})
    train(Toy([5] * 8), config, 0, tmp_path)
    assert learning_rates(steps, 0) == pytest.approx([0.1] * 10 + [0.05] * 6)


def test_learning_rates_decay_exponentially_during_the_warmup_too(steps, tmp_path):
    train(Toy(), TrainingConfig(**PLAIN | {"warmup_steps": 4, "decay_steps": 3}), 0, tmp_path)
    warmup = np.array([0.25, 0.5, 0.75, 1, 1, 1])
    halving = 0.5 ** (np.arange(6) / 3)
    assert learning_rates(steps, 0) == pytest.approx(list(0.1 * warmup * halving))
    assert learning_rates(steps, 1) == pytest.approx(list(0.2 * halving)), "without warm-up"


def test_a_task_may_add_to_a_batch(tmp_path):
    seen = []

    class Labelled(Toy):
        def batch(self, indices):
            return *super().batch(indices), torch.as_tensor(indices)

        def loss(self, batch, step):
            seen.append(batch)
            return super().loss(batch[:1], step)

    train(Labelled(), TrainingConfig(**PLAIN), 4, tmp_path)
    for step, (image, labels) in enumerate(seen):
        assert labels.tolist() == batch_indices(8, step, 2, seed=4).tolist()
        assert image.shape == (2, 3, 2, 2)
    assert len(seen) == 6


# ---- what is written down ----


def test_rows_hold_means_and_largest_norms_of_their_interval(tmp_path):
    config = TrainingConfig(**PLAIN | {"steps": 7, "log_every": 2, "eval_every": 4})
    train(Toy([7, 8]), config, 0, tmp_path)
    rows = pd.read_csv(tmp_path / "metrics.csv")
    assert rows["step"].tolist() == [2, 4, 6, 7]  # the last step is always there
    assert rows["twice"].tolist() == [1, 5, 9, 12]
    np.testing.assert_allclose(rows["grad_norm_a"], [7.5, 17.5, 27.5, 35], rtol=1e-5)
    np.testing.assert_allclose(rows["grad_norm_a_max"], [10, 20, 30, 35], rtol=1e-5)
    assert rows["val"].isna().tolist() == [True, False, True, False]
    assert rows["val"].dropna().tolist() == [7, 8]


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"batch_size": 0},
        {"log_every": 0},
        {"log_every": 3, "eval_every": 4},
        {"eval_every": 0},
    ],
)
def test_training_config_refuses_nonsense(wrong):
    with pytest.raises(ValueError, match="at least 1"):
        TrainingConfig(**PLAIN | wrong)


# ---- divergence ----


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path, steps):
    outcome = train(Toy([3, 2], broken=5), TrainingConfig(**PLAIN | {"steps": 100}), 0, tmp_path)
    assert outcome["status"] == "diverged"
    assert outcome["step"] == len(steps) == 5
    rows = pd.read_csv(tmp_path / "metrics.csv")
    assert rows["step"].tolist() == [1, 2, 3, 4, 5, 5]
    assert rows["val"].dropna().tolist() == [3, 2]
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
    run = runs.get(config, smoke.given)
    assert run.summary["status"] == "diverged"
    assert run.summary["step"] == 5
    # the same run up to there
    for column in ("cross_entropy", "grad_norm_all", "val_cross_entropy", "spectral_norm"):
        np.testing.assert_array_equal(run.metrics[column][:5], smoke.vanilla.metrics[column][:5])
    last = smoke.vanilla.metrics["val_cross_entropy"][3]
    assert run.summary["final"]["val_cross_entropy"] == last
    assert run.samples["reconstruction"].shape == smoke.vanilla.samples["reconstruction"].shape
    assert all(value.isfinite().all() for value in run.weights.values())
    assert not (run.folder / "checkpoint.safetensors").exists()
    monkeypatch.setattr(training_run, "train", None)  # it is loaded from now on
    assert runs.get(config, smoke.given).summary["status"] == "diverged"


def test_a_run_that_diverges_at_once_is_finished_too(smoke, elsewhere, monkeypatch):
    broken_at(monkeypatch, 0)
    run = runs.get(smoke.IN.config, smoke.given)
    assert run.summary["status"] == "diverged"
    assert run.summary["step"] == 0
    assert run.metrics["step"].tolist() == [0]
    assert not run.has_cell


def breaks_weights_at(monkeypatch, step_of_nan):
    """Have the optimiser leave weights that are not finite after so many of its steps."""
    step, count = torch.optim.Adam.step, []

    def breaks(self):
        step(self)
        count.append(1)
        if len(count) == step_of_nan:
            self.param_groups[0]["params"][0].data.fill_(math.nan)

    monkeypatch.setattr(torch.optim.Adam, "step", breaks)


def test_weights_that_are_no_longer_finite_end_the_run_with_the_last_whole_ones(
    smoke, elsewhere, monkeypatch
):
    """A finite loss with an infinite gradient, at the step before an evaluation."""
    breaks_weights_at(monkeypatch, 10)  # after six steps of the dVAE: the fourth of SLATE
    run = runs.get(smoke.vanilla.config, smoke.given)
    assert run.summary["status"] == "diverged"
    assert run.summary["step"] == 4
    # pictures and weights are of the last weights that were whole
    assert all(value.isfinite().all() for value in run.weights.values())
    evaluated = smoke.vanilla.metrics["val_cross_entropy"].dropna().tolist()
    assert run.metrics["val_cross_entropy"].dropna().tolist() == evaluated[:1]


# ---- divergence that is seen late, as on a GPU ----


@pytest.fixture
def behind(monkeypatch):
    """A device that may be steps behind: losses are looked at when a row is made."""
    monkeypatch.setattr(loop, "in_step", lambda device: False)


@pytest.mark.parametrize("broken", [0, 3, 4, 5, 6, 7, 8, None])
def test_a_divergence_that_is_seen_late_is_recorded_where_it_happened(
    tmp_path, monkeypatch, broken
):
    config = TrainingConfig(**PLAIN | {"steps": 9, "log_every": 2, "eval_every": 4})
    outcomes, written = [], []
    for in_step in (True, False):
        monkeypatch.setattr(loop, "in_step", lambda device, answer=in_step: answer)
        folder = tmp_path / str(in_step)
        folder.mkdir()
        outcomes.append(train(Toy(broken=broken), config, 0, folder) | {"seconds": 0})
        written.append((folder / "metrics.csv").read_bytes())
    assert outcomes[0] == outcomes[1]
    assert outcomes[0]["step"] == (9 if broken is None else broken)
    assert written[0] == written[1]


# the step of the last evaluation before a loss that is not finite: every 4, and at the end
LAST_WHOLE = {0: None, 3: None, 4: 4, 5: 4, 6: 4, 7: 4, 8: 8, None: 9}


@pytest.mark.parametrize("in_step", [True, False])
@pytest.mark.parametrize("broken, kept", LAST_WHOLE.items())
def test_the_checkpoint_before_a_divergence_is_whole(tmp_path, monkeypatch, broken, kept, in_step):
    monkeypatch.setattr(loop, "in_step", lambda device: in_step)
    config = TrainingConfig(**PLAIN | {"steps": 9, "log_every": 2, "eval_every": 4})
    train(Toy(broken=broken), config, 0, tmp_path)
    path = tmp_path / "checkpoint.safetensors"
    assert path.exists() == (kept is not None)
    if kept:
        tensors, info = checkpoint.load_tensors(path)
        assert info["step"] == kept
        assert all(value.isfinite().all() for value in tensors.values())


def test_weights_that_break_behind_our_back(tmp_path, monkeypatch, behind):
    breaks_weights_at(monkeypatch, 4)
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

    rows = {"steps": 12, "log_every": 3, "eval_every": 6}
    config = TrainingConfig(**PLAIN | rows | {"clip": 1.0, "warmup_steps": 5})
    train(Counted(), config, 0, tmp_path)
    assert waited == {3, 6, 9, 12}


def test_the_smoke_runs_are_what_the_profiles_say(smoke):
    assert smoke.IN.config == profiles.slate(smoke.given, "IN", 0)
    assert smoke.IN.summary["status"] == "finished"
    assert smoke.IN.metrics["step"].tolist() == list(range(1, 7))
