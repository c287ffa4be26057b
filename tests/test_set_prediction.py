"""Locatello et al.'s set predictor: the model, its targets, its loss and scores, its training and
its runs."""

import itertools
import math
from dataclasses import fields, replace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from paper_lib import runs
from paper_lib.data import clevr_format as clevr
from paper_lib.fixed_point import Iteration, Unrolled
from paper_lib.metrics import average_precision
from paper_lib.metrics.set_matching import ATTRIBUTES, SCENE_UNITS
from paper_lib.models import SetPredictionConfig, SetPredictor, variant
from paper_lib.paper import parameters
from paper_lib.training.config import ARITHMETIC, DataConfig, TrainingConfig
from paper_lib.training.loop import train
from paper_lib.training.set_prediction import (
    SetPredictionRunConfig,
    SetPredictionTask,
    average_object,
    scores,
    targets,
)
from paper_lib.training.slots import slot_noise
from paper_lib.training.task import to_float

# sizes that differ wherever they may, so that none can stand in for another
SMALL = SetPredictionConfig(
    image_size=16,
    channels=6,
    strides=(1, 2),
    slot_size=10,
    mlp_hidden_size=14,
    num_slots=5,
    num_iterations=3,
    classifier_hidden_size=11,
    variant="IN",
)
RUN = SetPredictionRunConfig(
    model=SMALL,
    data=DataConfig(size=16, num_scenes=60, min_objects=3, max_objects=4, samples_per_pixel=4),
    training=TrainingConfig(
        lr=1e-3,
        steps=4,
        batch_size=4,
        warmup_steps=3,
        clip=None,
        lr_decay_epochs=None,
        decay_steps=8,
        log_every=1,
        eval_every=2,
        arithmetic=ARITHMETIC,
    ),
    eval_images=8,
    jacobian_images=2,
    residual_steps=3,
    test_images=7,
    sample_images=3,
    test_slots=(5, 6),
    test_iterations=(3, 6),
)
INITIAL_SLOTS = {"slot_attn.slot_mu", "slot_attn.slot_log_sigma"}


def predictor(seed=0, **changes):
    torch.manual_seed(seed)
    return SetPredictor(replace(SMALL, **changes))


def images(batch=2):
    return torch.rand(batch, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def noise(batch=2, slots=5):
    return torch.randn(batch, slots, 10, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def scenes(root):
    return [RUN.data.load(name) for name in ("train", "validation", "test")]


def build(scenes, config=RUN):
    torch.manual_seed(config.seed)
    return SetPredictionTask(config, *scenes)


# ---- the model ----


@pytest.mark.parametrize("choice", ["vanilla", "IN", "BB"])
def test_shapes(choice):
    out = predictor(variant=choice)(images(), noise())
    assert out.predictions.shape == (2, 5, 19)
    assert out.slots.shape == (2, 5, 10)
    assert out.attn.shape == (2, 64, 5)
    assert ((out.predictions > 0) & (out.predictions < 1)).all()
    assert out.solution.value is out.slots
    torch.testing.assert_close(out.attn.sum(2), torch.ones(2, 64))


def test_the_classifier_line_by_line():
    """It reads every slot by itself."""
    model = predictor()
    with torch.no_grad():  # biases start at zero, which would hide a missing one
        for p in model.classifier.parameters():
            p.add_(0.1 * torch.randn_like(p))
    out = model(images(), noise())
    first, _, second, _ = model.classifier
    for k in range(5):
        hidden = F.relu(out.slots[:, k] @ first.weight.T + first.bias)
        logits = hidden @ second.weight.T + second.bias
        torch.testing.assert_close(out.predictions[:, k], 1 / (1 + (-logits).exp()))


def test_predictions_are_a_set():
    model, order = predictor(), torch.tensor([4, 2, 0, 3, 1])
    one, two = model(images(), noise()).predictions, model(images(), noise()[:, order]).predictions
    torch.testing.assert_close(one[:, order], two)
    assert not torch.allclose(one, two, atol=1e-4)


def test_parameters_at_the_papers_size():
    """A convolution has out * in * 25 + out: 3 -> 64: 4,864; 64 -> 64: 102,464. A position
    embedding has 320."""
    encoder = 4_864 + 3 * 102_464 + 320
    inputs = 128 + 2 * (64 * 64 + 64)  # layer norm and MLP
    slots = 2 * 64 + 3 * 128 + 3 * 64 * 64  # mean and scale, norms, q k v
    slots += 2 * 192 * 64 + 2 * 192 + (64 * 128 + 128) + (128 * 64 + 64)  # GRU, MLP
    classifier = (64 * 64 + 64) + (64 * 19 + 19)
    model = SetPredictor(SetPredictionConfig())
    count = sum(p.numel() for p in model.parameters())
    assert count == encoder + inputs + slots + classifier == 380_755
    assert model.encoder.side == 32


@pytest.mark.parametrize("choice", ["vanilla", "IN", "IB"])
def test_gradients_reach_every_parameter(choice):
    model = predictor(variant=choice)
    model(images(), noise()).predictions[..., 3].square().sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    without = {name for name, gradient in gradients.items() if gradient is None}
    # only the unrolled loop tells the initial guess anything
    assert without == (set() if choice == "vanilla" else INITIAL_SLOTS)
    zero = {name for name in gradients.keys() - without if not gradients[name].any()}
    # a shift of the normalised slots cancels in the softmax over slots: its gradient is nothing
    # but rounding
    assert zero <= {"slot_attn.slot_attention.norm_slots.bias"}


@pytest.mark.parametrize("n", [1, 3])
def test_vanilla_and_implicit_predict_the_same(n):
    """IN applies the cell once more, at the fixed point: vanilla with one iteration more computes
    the same."""
    one = predictor(variant="vanilla", num_iterations=n + 1)(images(), noise())
    two = predictor(variant="IN", num_iterations=n)(images(), noise())
    torch.testing.assert_close(one.predictions, two.predictions)


@pytest.mark.parametrize("choice", ["vanilla", "IN", "BB"])
def test_more_iterations_and_slots_at_test_time(choice):
    model, longer = predictor(variant=choice), predictor(variant=choice, num_iterations=6)
    six, _ = variant(choice, 6)
    eight = noise(slots=8)
    with torch.no_grad():
        out, usual, same = (
            model(images(), eight, six),
            model(images(), eight),
            longer(images(), eight),
        )
    torch.testing.assert_close(out.predictions, same.predictions)
    assert out.predictions.shape == (2, 8, 19)
    assert not torch.equal(out.slots, usual.slots)


# ---- targets ----


@pytest.mark.parametrize(
    "shape, size, material, colour",
    [("cube", "small", "metal", "yellow"), ("cylinder", "large", "rubber", "red")],
)
def test_the_columns_are_what_the_scores_read(shape, size, material, colour):
    item = clevr.Object(shape, size, material, colour, (-3.0, 1.5, 0.35), 0.0)
    row = clevr.properties((item,), 3)
    assert row.shape == (3, 19)
    assert (row[1:] == 0).all()
    assert row[0, 18] == 1
    np.testing.assert_allclose(SCENE_UNITS * row[0, :3] - 3, item.position, atol=1e-6)
    values = {
        "size": tuple(clevr.SIZES),
        "material": clevr.MATERIALS,
        "shape": clevr.SHAPES,
        "colour": tuple(clevr.COLOURS),
    }
    for name, columns in ATTRIBUTES.items():
        assert len(values[name]) == columns.stop - columns.start
        assert row[0, columns].sum() == 1
        assert values[name][row[0, columns].argmax()] == getattr(item, name)
    bounds = [(columns.start, columns.stop) for columns in ATTRIBUTES.values()]
    assert bounds == [(3, 5), (5, 7), (7, 10), (10, 18)]


def test_targets_have_a_row_for_every_slot(scenes):
    indices = np.array([3, 5, 20])
    image, target = build(scenes).batch(indices)
    assert target.shape == (3, 5, 19)
    assert target.dtype == torch.float32
    np.testing.assert_array_equal(target[:, :4].numpy(), scenes[0].properties[indices])
    assert (target[:, 4] == 0).all()
    objects = [len(np.unique(mask)) - 1 for mask in scenes[0].masks[indices]]
    assert target[..., -1].sum(1).tolist() == objects
    torch.testing.assert_close(image, to_float(scenes[0].images[indices]))


def test_the_average_object():
    """There are three objects in eight slots."""
    properties = np.zeros((2, 2, 19), np.float32)
    properties[0, 0, [0, 3, 18]] = 0.2, 1, 1
    properties[0, 1, [0, 4, 18]] = 0.4, 1, 1
    properties[1, 0, [0, 4, 18]] = 0.9, 1, 1
    expected = torch.zeros(19)
    expected[[0, 3, 4, 18]] = torch.tensor([0.5, 1 / 3, 2 / 3, 3 / 8])
    torch.testing.assert_close(average_object(properties, 4), expected)
    assert targets(properties, 4).shape == (2, 4, 19)


# ---- loss and scores ----


def huber(predictions, true, order):
    """The loss of pairs in one order: (K, 19), (K, 19)."""
    pairs = F.huber_loss(predictions, true[list(order)], reduction="none")
    return pairs.mean(1).sum().item()


def best_matching(predictions, true):
    """The cheapest of all orders of the targets, tried one by one, and its loss."""
    losses = {}
    for order in itertools.permutations(range(len(true))):
        losses[order] = huber(predictions, true, order)
    best = min(losses, key=losses.get)
    return best, losses[best]


def predicted(scenes):
    """A task's loss on three scenes, and its predictions and targets for them."""
    task = build(scenes)
    batch = task.batch(np.arange(3))
    torch.manual_seed(7)
    loss, logs = task.loss(batch, 0)
    torch.manual_seed(7)
    predictions = task.model(batch[0]).predictions.detach()
    assert logs["loss"].item() == loss.item()
    return loss.item(), predictions, batch[1]


def test_the_loss_by_hand(scenes):
    """Huber's under the cheapest of all matchings."""
    loss, predictions, true = predicted(scenes)
    losses = [best_matching(p, t)[1] for p, t in zip(predictions, true)]
    assert loss == pytest.approx(np.mean(losses), rel=1e-5)
    assert scores(predictions, true)["loss"] == pytest.approx(loss, rel=1e-5)


def test_the_scores_by_hand(scenes):
    """What the cheapest matching's pairs with an object have right."""
    _, predictions, true = predicted(scenes)
    matched = []
    for p, t in zip(predictions, true):
        order, _ = best_matching(p, t)
        matched += [(p[k], t[j]) for k, j in enumerate(order) if t[j, 18] == 1]
    assert len(matched) == true[..., 18].sum()
    found = scores(predictions, true)
    columns = {
        "size": slice(3, 5),
        "material": slice(5, 7),
        "shape": slice(7, 10),
        "colour": slice(10, 18),
    }
    for name, of in columns.items():
        right = [p[of].argmax() == t[of].argmax() for p, t in matched]
        assert found[f"{name}_accuracy"] == pytest.approx(np.mean(right))
    distances = [6 * (p[:3] - t[:3]).norm().item() for p, t in matched]
    assert found["position_error"] == pytest.approx(np.mean(distances), rel=1e-5)
    thresholds = {"inf": math.inf, "1": 1, "0.5": 0.5, "0.25": 0.25, "0.125": 0.125}
    for name, threshold in thresholds.items():
        ap = average_precision(predictions.numpy(), true.numpy(), threshold)
        assert found[f"ap_{name}"] == ap


SHUFFLED = torch.tensor([3, 1, 4, 0, 2])


def test_scores_of_the_truth(scenes):
    true = targets(scenes[1].properties[:8], 5)
    perfect = scores(true[:, SHUFFLED], true)
    for name, value in perfect.items():
        right = name.startswith("ap_") or name.endswith("accuracy")
        assert value == (1.0 if right else 0), name


def test_scores_of_something_near_the_truth(scenes):
    true = targets(scenes[1].properties[:8], 5)
    wrong = true[:, SHUFFLED].clone()
    wrong[..., 0] += 0.1  # 0.6 scene units away
    wrong[..., 10:18] = wrong[..., 10:18].roll(1, -1)  # and of the wrong colour
    off = scores(wrong, true)
    assert off["colour_accuracy"] == 0
    assert off["shape_accuracy"] == 1
    assert off["ap_inf"] == 0
    assert off["position_error"] == pytest.approx(0.6, rel=1e-4)


# ---- the task ----


def test_evaluation_is_what_the_model_computes(scenes):
    task = build(scenes)
    metrics = task.evaluate()
    image, true = to_float(scenes[1].images[:8]), targets(scenes[1].properties[:8], 5)
    with torch.no_grad():
        out = task.model(image, slot_noise(task.model.slot_attn, 8, seed=0))
    expected = scores(out.predictions, true)
    assert metrics["val_loss"] == pytest.approx(expected.pop("loss"), rel=1e-5)
    assert "loss" not in metrics
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    average = scores(average_object(scenes[0].properties, 5).expand(8, 5, 19), true)
    assert {name: metrics[f"average_object_{name}"] for name in average} == pytest.approx(average)
    accuracies = {"size_accuracy", "material_accuracy", "shape_accuracy", "colour_accuracy"}
    assert accuracies | {"position_error", "ap_inf", "ap_0.125"} <= set(metrics)


def test_the_cell_is_measured(scenes):
    metrics = build(scenes).evaluate()
    assert metrics["spectral_norm"] > 0
    assert {"residual_1", "residual_3"} <= set(metrics)
    assert "residual_4" not in metrics


def test_evaluation_leaves_random_states_alone(scenes):
    task = build(scenes)
    task.model.eval()
    before, numpys = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = task.evaluate()
    task.samples()
    task.cell()
    assert torch.equal(before, torch.get_rng_state())
    assert (numpys == np.random.get_state()[1]).all()
    torch.manual_seed(99)
    assert first == task.evaluate(), "the same draws at every evaluation"


def test_final_scores(scenes):
    task = build(scenes)
    final = task.final()
    for name in scores(torch.zeros(1, 5, 19), targets(scenes[2].properties[:1], 5)):
        # 5 slots and 3 iterations are how it is trained
        assert final[f"test_{name}"] == final[f"test_{name}_slots_5"]
        assert final[f"test_{name}"] == final[f"test_{name}_iterations_3"]
    assert final["test_images"] == 7
    assert final["test_loss"] != final["test_loss_slots_6"]
    assert final["test_loss"] != final["test_loss_iterations_6"]
    assert all(math.isfinite(value) for value in final.values())
    average = scores(task.average.expand(7, 5, 19), targets(scenes[2].properties[:7], 5))
    assert final["test_average_object_loss"] == pytest.approx(average["loss"])


def test_final_scores_by_the_number_of_objects(scenes):
    final = build(scenes).final()
    total = 0
    for n in (3, 4):
        total += final[f"test_images_objects_{n}"] * final[f"test_loss_objects_{n}"]
    assert total / 7 == pytest.approx(final["test_loss"], rel=1e-5)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"data": replace(RUN.data, size=32)}, "16 and 32"),
        ({"model": replace(SMALL, num_slots=3)}, "largest number of objects, 4, not 3"),
        ({"test_slots": (6, 3)}, "largest number of objects, 4, not 3"),
    ],
)
def test_a_model_that_does_not_fit_its_data_is_refused(scenes, changes, words):
    with pytest.raises(ValueError, match=words):
        build(scenes, replace(RUN, **changes))


def test_scenes_without_properties_are_refused(scenes):
    with pytest.raises(ValueError, match="'clevr_mirror' comes without the properties"):
        build([replace(split, properties=None) for split in scenes])


def test_no_other_slots_need_be_tested(scenes):
    task = build(scenes, replace(RUN, test_slots=(), test_iterations=()))
    for name in task.final():
        assert "_slots_" not in name
        assert "_iterations_" not in name


@pytest.mark.parametrize("choice", ["vanilla", "IN"])
def test_a_few_steps_reduce_the_loss(scenes, choice, tmp_path):
    task = build(scenes, replace(RUN, model=replace(SMALL, variant=choice)))
    before = task.evaluate()["val_loss"]
    training = replace(RUN.training, steps=40, warmup_steps=0, decay_steps=None, eval_every=40)
    outcome = train(task, training, 0, tmp_path)
    rows = pd.read_csv(tmp_path / "metrics.csv")
    assert outcome["status"] == "finished"
    assert rows["val_loss"].iloc[-1] < 0.8 * before


@pytest.mark.parametrize("choice", ["vanilla", "IN"])
def test_a_run_that_is_stopped_goes_on_bit_for_bit(scenes, choice, tmp_path):
    config = replace(RUN, model=replace(SMALL, variant=choice))
    folders = [tmp_path / name for name in ("whole", "parts")]
    for folder in folders:
        folder.mkdir()
    whole = build(scenes, config)
    train(whole, RUN.training, 0, folders[0])
    train(build(scenes, config), replace(RUN.training, steps=2), 0, folders[1])
    # other weights and random state: both are the checkpoint's again
    resumed = build(scenes, replace(config, seed=5))
    train(resumed, RUN.training, 0, folders[1])
    written = [(folder / "metrics.csv").read_bytes() for folder in folders]
    assert written[0] == written[1]
    theirs = resumed.model.state_dict()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, theirs[name]), name


# ---- a run ----


def test_a_run(elsewhere):
    run = runs.get(RUN, parameters.check("smoke", if_missing="train"))
    assert run.folder.name.startswith("set_prediction-IN-seed0-")
    assert run.summary["status"] == "finished"
    kept = {"val_loss", "ap_inf", "spectral_norm", "test_ap_1", "test_ap_inf_slots_6"}
    assert kept | {"test_average_object_loss"} <= set(run.summary["final"])
    shapes = {
        "image": (3, 16, 16, 3),
        "predictions": (3, 5, 19),
        "targets": (3, 5, 19),
        "attn": (3, 64, 5),
    }
    assert {name: value.shape for name, value in run.samples.items()} == shapes
    test = RUN.data.load("test")
    np.testing.assert_array_equal(run.samples["targets"][:, :4], test.properties[:3])

    model = SetPredictor(SMALL)
    model.load_state_dict(run.weights)
    with torch.no_grad():
        out = model(to_float(test.images[:4]), slot_noise(model.slot_attn, 4, seed=0))
        attention, inputs, slots = run.cell(Iteration(4), Unrolled())
        found = attention(inputs, slots).value
    assert inputs.shape == (4, 64, 6)
    assert slots.shape == (4, 5, 10)
    torch.testing.assert_close(found, out.slots, rtol=2e-2, atol=2e-2)


def values(config):
    return {f.name: getattr(config, f.name) for f in fields(config)}


def test_the_defaults_are_the_papers():
    """And for ever: what is equal to a default is not in a run's hash."""
    assert values(SetPredictionConfig()) == {
        "image_size": 128,
        "channels": 64,
        "strides": (1, 2, 2, 1),
        "slot_size": 64,
        "mlp_hidden_size": 128,
        "num_slots": 10,
        "num_iterations": 3,
        "classifier_hidden_size": 64,
        "variant": "IN",
        "solver": None,
        "adjoint": None,
    }
    assert values(SetPredictionRunConfig()) == {
        "model": SetPredictionConfig(),
        "data": DataConfig(name="clevr", size=128, num_scenes=100_000),
        "training": TrainingConfig(
            lr=4e-4,
            steps=150_000,
            batch_size=512,
            warmup_steps=1_000,
            clip=None,
            lr_decay_epochs=None,
            decay_steps=50_000,
            log_every=100,
            eval_every=2_500,
        ),
        "seed": 0,
        "eval_images": 512,
        "jacobian_images": 32,
        "residual_steps": 21,
        "test_images": 15_000,
        "sample_images": 12,
        "test_slots": (12, 16),
        "test_iterations": (1, 2, 5, 7, 11),
    }
    assert runs.run_id(SetPredictionRunConfig()) == "set_prediction-IN-seed0-4744899ee3"
