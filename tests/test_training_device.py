"""What a GPU wants of the training loop, tested on a CPU; precision, determinism, compilation."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from toy import PLAIN, Toy

from paper_lib.data import Dataset
from paper_lib.paper import locatello, parameters
from paper_lib.training import bfloat16, checkpoint, device, loop
from paper_lib.training.config import TrainingConfig
from paper_lib.training.device import OnDevice
from paper_lib.training.loop import train
from paper_lib.training.set_prediction import SetPredictionTask
from paper_lib.training.slate import SLATETask
from paper_lib.training.task import to_float


def slate_task(smoke, config):
    torch.manual_seed(config.seed)
    splits = {name: config.data.load(name) for name in ("train", "validation", "test")}
    return SLATETask(config, **splits, dvae_weights=smoke.dvae.weights)


# ---- images on the device ----


def test_images_on_the_device_are_the_same_pictures():
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (5000, 2, 3, 3), dtype=np.uint8)  # more than one piece
    there, indices = OnDevice(images, "cpu"), np.array([0, 4095, 4096, 4999])
    assert len(there) == 5000
    assert there[indices].dtype == torch.uint8
    assert torch.equal(to_float(there[indices]), to_float(images[indices]))


def test_training_on_images_on_the_device_is_the_same_training(tmp_path, monkeypatch, smoke):
    config = replace(smoke.IN.config.training, steps=4)
    written = []
    for name in ("map", "device"):
        if name == "device":
            monkeypatch.setattr(loop, "resident", OnDevice)
        (tmp_path / name).mkdir()
        train(slate_task(smoke, smoke.IN.config), config, 0, tmp_path / name)
        written.append((tmp_path / name / "metrics.csv").read_bytes())
    assert written[0] == written[1]


def test_properties_go_with_images_on_the_device():
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (6, 16, 16, 3), np.uint8)
    properties = random.random((6, 3, 19), np.float32)
    split = Dataset(images, np.arange(6), {}, properties=properties)
    config = locatello.set_prediction(parameters.check("smoke"), "IN", 0)
    task = SetPredictionTask(config, split, split, split)
    indices = np.array([1, 4])
    before = task.batch(indices)
    task.images = OnDevice(task.images, "cpu")
    for one, other in zip(before, task.batch(indices), strict=True):
        assert torch.equal(one, other)


def test_images_stay_where_they_are_if_they_do_not_fit(monkeypatch):
    images = np.zeros((8, 2, 2, 3), np.uint8)
    monkeypatch.setattr(device, "OnDevice", lambda images, name: ("moved", name))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda name: (2 * images.nbytes - 1, 10**9))
    assert device.resident(images, "cuda:1") is images
    assert device.resident(images, "cpu") is images
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda name: (2 * images.nbytes, 10**9))
    assert device.resident(images, "cuda:1") == ("moved", "cuda:1")


# ---- precision and determinism ----


def torch_settings():
    """Whether autocast is on, and whether deterministic algorithms are."""
    return torch.is_autocast_enabled("cpu"), torch.are_deterministic_algorithms_enabled()


class Watching(Toy):
    """Notes what torch is set to, in the loss and in the evaluation."""

    def loss(self, batch, step):
        self.in_loss = torch_settings()
        if step == self.broken:
            raise InterruptedError
        return super().loss(batch, step)

    def evaluate(self):
        self.in_evaluation = torch_settings()
        return super().evaluate()


@pytest.mark.parametrize(
    "asked, in_loss, in_evaluation",
    [
        ({}, (False, False), (False, False)),
        ({"precision": "bfloat16"}, (True, False), (False, False)),
        ({"deterministic": True}, (False, True), (False, True)),
    ],
)
def test_precision_and_determinism_are_for_the_training(tmp_path, asked, in_loss, in_evaluation):
    watching = Watching()
    train(watching, TrainingConfig(**PLAIN | asked), 0, tmp_path)
    assert watching.in_loss == in_loss
    assert watching.in_evaluation == in_evaluation
    assert torch_settings() == (False, False)


def determinism():
    """Whether deterministic algorithms are on, and whether they only warn."""
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )


@pytest.mark.parametrize("before", [(False, False), (True, True), (True, False)])
def test_determinism_is_as_before_after_an_error_too(tmp_path, before):
    try:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        watching = Watching(broken=3)
        with pytest.raises(InterruptedError):
            train(watching, TrainingConfig(**PLAIN | {"deterministic": True}), 0, tmp_path)
        assert watching.in_loss == (False, True)
        assert determinism() == before
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    "wrong, remedy",
    [
        ({"precision": "float16"}, "'float32' or 'bfloat16', not 'float16'"),
        ({"precision": None}, "'float32' or"),
        ({"compile": 1}, "true or false"),
        ({"deterministic": "yes"}, "deterministic must be true"),
    ],
)
def test_values_that_training_does_not_know(wrong, remedy):
    with pytest.raises(ValueError, match=remedy):
        TrainingConfig(**PLAIN | wrong)


# ---- bfloat16 ----


@pytest.mark.parametrize("which", ["vanilla", "IN"])
def test_bfloat16_stays_near_float32(tmp_path, smoke, which):
    run = getattr(smoke, which)
    task = slate_task(smoke, run.config)
    train(task, replace(run.config.training, precision="bfloat16"), 0, tmp_path)
    assert all(p.dtype == torch.float32 for p in task.model.parameters())
    found = pd.read_csv(tmp_path / "metrics.csv")
    # Tokens are drawn from rounded probabilities. Gradients are compared while the weights still
    # are alike: one other token can double vanilla's later.
    compared = [
        ("cross_entropy", 0.03, None),
        ("grad_norm_all", 0.1, 3),
        ("val_cross_entropy", 0.03, None),
    ]
    for column, tolerance, rows in compared:
        half, single = (table[column].dropna()[:rows] for table in (found, run.metrics))
        assert (half != single).any(), column
        np.testing.assert_allclose(half, single, rtol=tolerance, err_msg=column)


@pytest.mark.parametrize(
    "precision, gain, emulated",
    [("bfloat16", 0.02, True), ("bfloat16", 4.0, False), ("float32", 0.02, False)],
)
def test_a_precision_that_the_processor_has_not(
    tmp_path, monkeypatch, capfd, precision, gain, emulated
):
    entered = []

    def enter(self):
        entered.append(self)
        return self

    monkeypatch.setattr(bfloat16, "bfloat16_gain", lambda: gain)
    monkeypatch.setattr(bfloat16.Float32Products, "__enter__", enter)
    monkeypatch.setattr(bfloat16.Float32Products, "__exit__", lambda *_: None)
    train(Toy(), TrainingConfig(**PLAIN | {"precision": precision}), 0, tmp_path)
    assert ("(bfloat16 emulated)" in capfd.readouterr().err) == emulated, "the progress bar says it"
    assert len(entered) == 2 * PLAIN["steps"] * emulated, "around both passes of every step"


def random_products():
    generators = [torch.Generator().manual_seed(k) for k in range(3)]
    return [torch.randn(3, 4, 4, generator=g).bfloat16() for g in generators]


def test_emulated_products_are_float32_s_rounded():
    a, b, c = random_products()
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
    a, b, c = a.float(), b.float(), c.float()
    expected = [a[0] @ b[0], 2 * c[0, 0] + 3 * a[0] @ b[0], a @ b, c + a @ b, a @ b, c + a @ b]
    for product, exact in zip(found, expected, strict=True):
        assert product.dtype == torch.bfloat16
        torch.testing.assert_close(product.float(), exact, rtol=2**-8, atol=1e-6)
    assert torch.equal(found[0], expected[0].bfloat16())
    assert found[4] is out
    assert found[5] is total


def test_emulation_leaves_everything_else_alone():
    a, b, _ = random_products()
    with bfloat16.Float32Products():
        assert (a[0].float() @ b[0].float()).dtype == torch.float32
        total = a + b
    assert total.dtype == torch.bfloat16
    assert torch.equal(total, a + b)


def test_emulated_convolutions_and_their_gradients():
    x, w = torch.randn(2, 3, 8, 8), torch.randn(5, 3, 3, 3)
    half = [t.bfloat16().requires_grad_() for t in (x, w)]
    single = [t.detach().float().requires_grad_() for t in half]
    with bfloat16.Float32Products():
        y = torch.conv2d(*half, padding=1)
        y.sum().backward()
    expected = torch.conv2d(*single, padding=1)
    expected.sum().backward()
    assert torch.equal(y, expected.bfloat16())
    for one, other in zip(half, single):
        assert torch.equal(one.grad, other.grad.bfloat16())


# ---- compilation ----


class Squares(Toy):
    """A loss that a compiler can do something to, with a number of the step in it."""

    def loss(self, batch, step):
        a = (self.model["a"] * batch[0].mean() - 3.0).square().sum()
        b = self.model["b"].exp().tanh().sum()
        loss = (a + b) * math.cos(0.1 * step)
        return loss, {"loss": loss.detach(), "twice": 2.0 * step}


def test_compiled(tmp_path):
    try:
        device.check_compiler("cpu")
    except RuntimeError as error:
        pytest.skip(f"there is no C++ compiler here: {error}")
    tasks, tables = [], []
    for compiled in (False, True):
        folder = tmp_path / str(compiled)
        folder.mkdir()
        tasks.append(Squares())
        train(tasks[-1], TrainingConfig(**PLAIN | {"compile": compiled}), 0, folder)
        tables.append(pd.read_csv(folder / "metrics.csv"))
    for part in "ab":
        plain, compiled = (task.model[part] for task in tasks)
        torch.testing.assert_close(compiled, plain, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(*tables, rtol=1e-5)
    kept = checkpoint.model_weights(tmp_path / "True/checkpoint.safetensors")
    assert kept.keys() == {"a", "b"}


def test_compiling_where_there_is_no_compiler(tmp_path, monkeypatch):
    def missing(function):
        raise FileNotFoundError("g++")

    monkeypatch.setattr(torch, "compile", missing)
    with pytest.raises(RuntimeError, match="C\\+\\+ compiler.*set training.compile to false"):
        train(Toy(), TrainingConfig(**PLAIN | {"compile": True}), 0, tmp_path)
    assert not list(tmp_path.iterdir())
