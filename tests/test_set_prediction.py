"""Locatello et al.'s set predictor: the model, its targets, its loss and scores, its training and its runs."""

import itertools
import math
from dataclasses import replace

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
from paper_lib.training.config import DataConfig, TrainingConfig
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
    SMALL,
    DataConfig(size=16, num_scenes=60, min_objects=3, max_objects=4, samples_per_pixel=4),
    TrainingConfig(
        steps=4,
        batch_size=4,
        warmup_steps=3,
        clip=None,
        lr_decay_epochs=None,
        log_every=1,
        eval_every=2,
        decay_steps=8,
    ),
    lr=1e-3,
    eval_images=8,
    jacobian_images=2,
    residual_steps=3,
    test_images=7,
    sample_images=3,
    test_slots=(5, 6),
    test_iterations=(3, 6),
)


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


# ---------------------------------------------------------------- the model


@pytest.mark.parametrize("choice", ["vanilla", "IN", "BB"])
def test_shapes_and_the_classifier(choice):
    model = predictor(variant=choice)
    with torch.no_grad():
        for (
            p
        ) in model.classifier.parameters():  # biases start at zero, which would hide a missing one
            p.add_(0.1 * torch.randn_like(p))
    out = model(images(), noise())
    assert (
        out.predictions.shape == (2, 5, 19)
        and out.slots.shape == (2, 5, 10)
        and out.attn.shape == (2, 64, 5)
    )
    assert ((out.predictions > 0) & (out.predictions < 1)).all() and out.solution.value is out.slots
    torch.testing.assert_close(out.attn.sum(2), torch.ones(2, 64))
    first, _, second, _ = model.classifier
    for k in range(5):  # every slot is read by itself
        logits = F.linear(
            F.relu(F.linear(out.slots[:, k], first.weight, first.bias)), second.weight, second.bias
        )
        torch.testing.assert_close(out.predictions[:, k], 1 / (1 + (-logits).exp()))


def test_predictions_are_a_set():
    model, order = predictor(), torch.tensor([4, 2, 0, 3, 1])
    one, two = model(images(), noise()).predictions, model(images(), noise()[:, order]).predictions
    torch.testing.assert_close(one[:, order], two)
    assert not torch.allclose(one, two, atol=1e-4)


def test_parameters_at_the_papers_size():
    """Convolution 3 -> 64: 64 * 3 * 25 + 64 = 4,864; 64 -> 64: 102,464. Position embedding: 320."""
    encoder = 4_864 + 3 * 102_464 + 320
    inputs = 128 + 2 * (64 * 64 + 64)  # layer norm and MLP
    slots = 2 * 64 + 3 * 128 + 3 * 64 * 64  # mean and scale, norms, q k v
    slots += 2 * 192 * 64 + 2 * 192 + (64 * 128 + 128) + (128 * 64 + 64)  # GRU, MLP
    classifier = (64 * 64 + 64) + (64 * 19 + 19)
    model = SetPredictor(SetPredictionConfig())
    assert (
        sum(p.numel() for p in model.parameters())
        == encoder + inputs + slots + classifier
        == 380_755
    )
    assert model.encoder.side == 32


@pytest.mark.parametrize("choice", ["vanilla", "IN", "IB"])
def test_gradients_reach_every_parameter(choice):
    model = predictor(variant=choice)
    model(images(), noise()).predictions[..., 3].square().sum().backward()
    without = {name for name, p in model.named_parameters() if p.grad is None}
    # only the unrolled loop tells the initial guess anything
    assert without == (
        set() if choice == "vanilla" else {"slot_attn.slot_mu", "slot_attn.slot_log_sigma"}
    )
    reached = {
        name
        for name, p in model.named_parameters()
        if p.grad is not None and p.grad.abs().max() > 0
    }
    # a shift of the normalised slots cancels in the softmax over slots: its gradient is nothing but rounding
    assert reached | without | {"slot_attn.slot_attention.norm_slots.bias"} == {
        name for name, _ in model.named_parameters()
    }


@pytest.mark.parametrize("n", [1, 3])
def test_vanilla_and_implicit_predict_the_same(n):
    """IN applies the cell once more, at the fixed point: vanilla with one iteration more computes the same."""
    one = predictor(variant="vanilla", num_iterations=n + 1)(images(), noise())
    two = predictor(variant="IN", num_iterations=n)(images(), noise())
    torch.testing.assert_close(one.predictions, two.predictions)


@pytest.mark.parametrize("choice", ["vanilla", "IN", "BB"])
def test_more_iterations_and_slots_at_test_time(choice):
    model, longer = predictor(variant=choice), predictor(variant=choice, num_iterations=6)
    six, _ = variant(choice, 6)
    with torch.no_grad():
        out = model(images(), noise(slots=8), six)
        torch.testing.assert_close(out.predictions, longer(images(), noise(slots=8)).predictions)
        assert out.predictions.shape == (2, 8, 19) and not torch.equal(
            out.slots, model(images(), noise(slots=8)).slots
        )


# ---------------------------------------------------------------- targets, loss and scores


@pytest.mark.parametrize(
    "shape, size, material, colour",
    [("cube", "small", "metal", "yellow"), ("cylinder", "large", "rubber", "red")],
)
def test_the_columns_are_what_the_scores_read(shape, size, material, colour):
    item = clevr.Object(shape, size, material, colour, (-3.0, 1.5, 0.35), 0.0)
    row = clevr.properties((item,), 3)
    assert row.shape == (3, 19) and (row[1:] == 0).all() and row[0, 18] == 1
    np.testing.assert_allclose(SCENE_UNITS * row[0, :3] - 3, item.position, atol=1e-6)
    order = {
        "size": tuple(clevr.SIZES),
        "material": clevr.MATERIALS,
        "shape": clevr.SHAPES,
        "colour": tuple(clevr.COLOURS),
    }
    for name, group in ATTRIBUTES.items():
        assert row[0, group].sum() == 1 and len(order[name]) == group.stop - group.start
        assert order[name][row[0, group].argmax()] == getattr(item, name)
    assert [(group.start, group.stop) for group in ATTRIBUTES.values()] == [
        (3, 5),
        (5, 7),
        (7, 10),
        (10, 18),
    ]


def test_targets_have_a_row_for_every_slot(scenes):
    task = build(scenes)
    indices = np.array([3, 5, 20])
    image, target = task.batch(indices)
    assert target.shape == (3, 5, 19) and target.dtype == torch.float32
    np.testing.assert_array_equal(target[:, :4].numpy(), scenes[0].properties[indices])
    assert (target[:, 4] == 0).all() and target[..., -1].sum(1).tolist() == [
        len(np.unique(mask)) - 1 for mask in scenes[0].masks[indices]
    ]
    torch.testing.assert_close(image, to_float(scenes[0].images[indices]))


def test_the_average_object():
    properties = np.zeros((2, 2, 19), np.float32)
    properties[0, 0, [0, 3, 18]], properties[0, 1, [0, 4, 18]], properties[1, 0, [0, 4, 18]] = (
        (0.2, 1, 1),
        (0.4, 1, 1),
        (0.9, 1, 1),
    )
    row = average_object(properties, 4)
    expected = torch.zeros(19)
    expected[[0, 3, 4, 18]] = torch.tensor(
        [0.5, 1 / 3, 2 / 3, 3 / 8]
    )  # three objects in eight slots
    torch.testing.assert_close(row, expected)
    assert targets(properties, 4).shape == (2, 4, 19)


def test_the_loss_and_the_scores_by_hand(scenes):
    """Huber under the cheapest of all matchings, tried one by one; then what those matched pairs have right."""
    task = build(scenes)
    batch = task.batch(np.arange(3))
    torch.manual_seed(7)
    loss, logs = task.loss(batch, 0)
    torch.manual_seed(7)
    predictions, true = task.model(batch[0]).predictions.detach(), batch[1]
    total, matched = 0.0, []
    for p, t in zip(predictions, true):
        pairs = lambda order: F.huber_loss(p, t[list(order)], reduction="none").mean(1).sum().item()  # noqa: B023, E731
        best = min(itertools.permutations(range(5)), key=pairs)
        total += pairs(best) / 3
        matched += [(p[k], t[j]) for k, j in enumerate(best) if t[j, 18] == 1]
    assert loss.item() == pytest.approx(total, rel=1e-5) == logs["loss"].item()
    found = scores(predictions, true)
    assert found["loss"] == pytest.approx(total, rel=1e-5) and len(matched) == true[..., 18].sum()
    for name, group in {
        "size": slice(3, 5),
        "material": slice(5, 7),
        "shape": slice(7, 10),
        "colour": slice(10, 18),
    }.items():
        assert found[f"{name}_accuracy"] == pytest.approx(
            np.mean([p[group].argmax().item() == t[group].argmax().item() for p, t in matched])
        )
    assert found["position_error"] == pytest.approx(
        np.mean([6 * (p[:3] - t[:3]).norm().item() for p, t in matched]), rel=1e-5
    )
    for name, threshold in {
        "ap_inf": math.inf,
        "ap_1": 1,
        "ap_0.5": 0.5,
        "ap_0.25": 0.25,
        "ap_0.125": 0.125,
    }.items():
        assert found[name] == average_precision(predictions.numpy(), true.numpy(), threshold)


def test_scores_of_the_truth(scenes):
    true = targets(scenes[1].properties[:8], 5)
    shuffled = true[:, torch.tensor([3, 1, 4, 0, 2])]
    perfect = scores(shuffled, true)
    assert {
        perfect[name] for name in perfect if name.startswith("ap_") or name.endswith("accuracy")
    } == {1.0}
    assert perfect["loss"] == perfect["position_error"] == 0
    wrong = shuffled.clone()
    wrong[..., 0] += 0.1  # 0.6 scene units away
    wrong[..., 10:18] = wrong[..., 10:18].roll(1, -1)  # and of the wrong colour
    off = scores(wrong, true)
    assert (
        off["colour_accuracy"] == 0
        and off["shape_accuracy"] == 1
        and off["ap_inf"] == 0
        and off["position_error"] == pytest.approx(0.6, rel=1e-4)
    )


# ---------------------------------------------------------------- the task


def test_evaluation_is_what_the_model_computes(scenes):
    task = build(scenes)
    metrics = task.evaluate()
    image, true = to_float(scenes[1].images[:8]), targets(scenes[1].properties[:8], 5)
    with torch.no_grad():
        expected = scores(
            task.model(image, slot_noise(task.model.slot_attn, 8, seed=0)).predictions, true
        )
    assert (
        metrics["val_loss"] == pytest.approx(expected.pop("loss"), rel=1e-5)
        and "loss" not in metrics
    )
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    average = scores(average_object(scenes[0].properties, 5).expand(8, 5, 19), true)
    assert {name: metrics[f"average_object_{name}"] for name in average} == pytest.approx(average)
    assert (
        metrics["spectral_norm"] > 0
        and {"residual_1", "residual_3"} <= set(metrics)
        and "residual_4" not in metrics
    )
    assert {
        "size_accuracy",
        "material_accuracy",
        "shape_accuracy",
        "colour_accuracy",
        "position_error",
        "ap_inf",
        "ap_0.125",
    } <= set(metrics)


def test_evaluation_leaves_random_states_alone(scenes):
    task = build(scenes)
    task.model.eval()
    before, numpys = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = task.evaluate()
    task.samples(), task.cell()
    assert torch.equal(before, torch.get_rng_state()) and (numpys == np.random.get_state()[1]).all()
    torch.manual_seed(99)
    assert first == task.evaluate(), "the same draws at every evaluation"


def test_final_scores(scenes):
    task = build(scenes)
    final = task.final()
    names = list(scores(torch.zeros(1, 5, 19), targets(scenes[2].properties[:1], 5)))
    for name in names:
        assert (
            final[f"test_{name}"]
            == final[f"test_{name}_slots_5"]
            == final[f"test_{name}_iterations_3"]
        ), "which is how it is trained"
    weighted = sum(
        final[f"test_images_objects_{n}"] * final[f"test_loss_objects_{n}"] for n in (3, 4)
    )
    assert weighted / 7 == pytest.approx(final["test_loss"], rel=1e-5) and final["test_images"] == 7
    assert (
        final["test_loss"] != final["test_loss_slots_6"]
        and final["test_loss"] != final["test_loss_iterations_6"]
    )
    average = task.average.expand(7, 5, 19)
    assert final["test_average_object_loss"] == pytest.approx(
        scores(average, targets(scenes[2].properties[:7], 5))["loss"]
    )
    assert all(math.isfinite(value) for value in final.values())


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(data=replace(RUN.data, size=32)), "16 and 32"),
        (dict(model=replace(SMALL, num_slots=3)), "largest number of objects, 4, not 3"),
        (dict(test_slots=(6, 3)), "largest number of objects, 4, not 3"),
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
    assert not [name for name in task.final() if "_slots_" in name or "_iterations_" in name]


@pytest.mark.parametrize("choice", ["vanilla", "IN"])
def test_a_few_steps_reduce_the_loss(scenes, choice, tmp_path):
    task = build(scenes, replace(RUN, model=replace(SMALL, variant=choice)))
    before = task.evaluate()["val_loss"]
    training = replace(RUN.training, steps=40, warmup_steps=0, decay_steps=None, eval_every=40)
    outcome = train(task, training, 0, tmp_path)
    rows = pd.read_csv(tmp_path / "metrics.csv")
    assert outcome["status"] == "finished" and rows["val_loss"].iloc[-1] < 0.8 * before


@pytest.mark.parametrize("choice", ["vanilla", "IN"])
def test_a_run_that_is_stopped_goes_on_bit_for_bit(scenes, choice, tmp_path):
    config = replace(RUN, model=replace(SMALL, variant=choice))
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    whole = build(scenes, config)
    train(whole, RUN.training, 0, tmp_path / "whole")
    train(build(scenes, config), replace(RUN.training, steps=2), 0, tmp_path / "parts")
    resumed = build(
        scenes, replace(config, seed=5)
    )  # other weights and random state: both are the checkpoint's again
    train(resumed, RUN.training, 0, tmp_path / "parts")
    assert (tmp_path / "whole/metrics.csv").read_bytes() == (
        tmp_path / "parts/metrics.csv"
    ).read_bytes()
    theirs = resumed.model.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in whole.model.state_dict().items())


# ---------------------------------------------------------------- a run


def test_a_run(elsewhere):
    setting = parameters.check("smoke", if_missing="train")
    run = runs.get(RUN, setting)
    assert (
        run.folder.name.startswith("set_prediction-IN-seed0-")
        and run.summary["status"] == "finished"
    )
    assert {
        "val_loss",
        "ap_inf",
        "spectral_norm",
        "test_ap_1",
        "test_ap_inf_slots_6",
        "test_average_object_loss",
    } <= set(run.summary["final"])
    samples = run.samples
    assert samples["image"].shape == (3, 16, 16, 3) and samples["attn"].shape == (3, 64, 5)
    assert samples["predictions"].shape == samples["targets"].shape == (3, 5, 19)
    model, test = SetPredictor(SMALL), RUN.data.load("test")
    model.load_state_dict(run.weights)
    with torch.no_grad():
        out = model(to_float(test.images[:4]), slot_noise(model.slot_attn, 4, seed=0))
        attention, inputs, slots = run.cell(Iteration(4), Unrolled())
        assert inputs.shape == (4, 64, 6) and slots.shape == (4, 5, 10)
        torch.testing.assert_close(attention(inputs, slots).value, out.slots, rtol=2e-2, atol=2e-2)
    np.testing.assert_array_equal(samples["targets"][:, :4], test.properties[:3])


def test_the_defaults_are_the_papers():
    """And for ever: what is equal to a default is not in a run's hash."""
    assert SetPredictionConfig() == SetPredictionConfig(
        128, 64, (1, 2, 2, 1), 64, 128, 10, 3, 64, "IN"
    )
    training = TrainingConfig(150_000, 512, 1_000, None, None, 100, 2_500, 50_000)
    data = DataConfig("clevr", 128, 100_000)
    assert SetPredictionRunConfig() == SetPredictionRunConfig(
        SetPredictionConfig(),
        data,
        training,
        0,
        4e-4,
        512,
        32,
        21,
        15_000,
        12,
        (12, 16),
        (1, 2, 5, 7, 11),
    )
    assert runs.run_id(SetPredictionRunConfig()) == "set_prediction-IN-seed0-4744899ee3"
