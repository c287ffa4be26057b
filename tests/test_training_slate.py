"""SLATE and its dVAE as training tasks: their losses, their metrics, and the dVAE's check."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from paper_lib import runs
from paper_lib.data import Dataset
from paper_lib.training.batches import batch_indices
from paper_lib.training.dvae import DVAERunConfig, DVAETask, code_usage
from paper_lib.training.loop import train
from paper_lib.training.schedules import cosine
from paper_lib.training.slate import SLATETask


def splits(config):
    return {name: config.data.load(name) for name in ("train", "validation", "test")}


def dvae_task(config):
    return DVAETask(config, config.data.load("train"), config.data.load("validation"))


@pytest.fixture
def slate_task(smoke):
    def build(config):
        torch.manual_seed(config.seed)
        weights = smoke.dvae.weights if config.dvae else None
        return SLATETask(config, **splits(config), dvae_weights=weights)

    return build


# ---- the dVAE's health ----


@pytest.mark.parametrize(
    "wrong, reason",
    [
        ({"min_codes": 17}, "codes in use, fewer than 17"),
        ({"max_mse_fraction": 0.0}, "exceeds 0.0 of the mean image's"),
        ({"max_object_mse_fraction": 0.0}, "MSE on objects .* exceeds 0.0 of the mean image's"),
        ({"max_colour_error": 0.0}, "colour error .* exceeds 0.0"),
    ],
)
def test_nothing_is_built_on_a_dvae_that_fails_its_check(smoke, elsewhere, wrong, reason):
    config = replace(smoke.IN.config, dvae=replace(smoke.dvae.config, **wrong))
    with pytest.raises(RuntimeError, match=f"fails its check.*{reason}") as error:
        runs.get(config, smoke.given)
    assert runs.run_id(config.dvae) in str(error.value)
    assert not (runs.folder_of(runs.run_id(config), "smoke") / "summary.json").exists()


HEALTHY = {
    "codes_used": 16,
    "val_mse": 10.0,
    "mean_image_mse": 20.0,
    "val_mse_objects": 1.5,
    "mean_image_mse_objects": 5.0,
    "colour_error": 0.1,
}


@pytest.mark.parametrize(
    "found, faults",
    [
        ({}, 0),
        ({"codes_used": 3}, 1),
        ({"val_mse": 10.1}, 1),
        ({"val_mse": math.nan}, 1),
        ({"codes_used": 1, "val_mse": 38, "mean_image_mse": 32}, 2),
        ({"val_mse_objects": 1.6}, 1),
        ({"val_mse_objects": math.nan}, 1),
        ({"colour_error": 0.11}, 1),
        ({"colour_error": math.nan}, 1),
        ({"val_mse": 11, "val_mse_objects": 2, "colour_error": 1, "codes_used": 1}, 4),
    ],
)
def test_faults(found, faults):
    strict = DVAERunConfig(max_object_mse_fraction=0.3, max_colour_error=0.1)
    assert len(strict.faults(HEALTHY | found)) == faults


def test_objects_are_not_looked_at_unless_asked_for():
    """Committed dVAEs were trained before there were these metrics."""
    before = {name: HEALTHY[name] for name in ("codes_used", "val_mse", "mean_image_mse")}
    assert DVAERunConfig().faults(before) == []
    bad_objects = HEALTHY | {"val_mse_objects": 5.0, "colour_error": 1.0}
    assert DVAERunConfig().faults(bad_objects) == []


def test_a_dvae_that_diverged_before_its_first_evaluation_is_not_healthy():
    assert DVAERunConfig().faults({}) == ["its training diverged before the first evaluation"]


def test_code_usage():
    usage = code_usage(torch.tensor([[0, 0, 3], [3, 3, 0]]), 5)
    assert usage["codes_used"] == 2
    assert usage["perplexity"] == pytest.approx(2)
    assert code_usage(torch.arange(5), 5)["perplexity"] == pytest.approx(5)


# ---- the dVAE's task ----


def black(task):
    """A task whose dVAE decodes everything to black."""
    for p in task.model.decoder[-1].parameters():
        nn.init.zeros_(p)
    return task


def pictures(images, masks=None):
    return Dataset(images=images, indices=np.arange(len(images)), source={}, masks=masks)


def test_the_losses_are_summed_over_an_image(smoke):
    grey = pictures(np.full((4, 16, 16, 3), 51, np.uint8))  # 0.2
    task = black(DVAETask(smoke.dvae.config, grey, grey))
    loss, logs = task.loss(task.batch(np.arange(4)), 0)
    error = 0.2**2 * 3 * 16 * 16
    assert loss.item() == logs["mse"].item() == pytest.approx(error, rel=1e-5)
    metrics = task.evaluate()
    assert metrics["val_mse"] == pytest.approx(error, rel=1e-5)
    assert metrics["mean_image_mse"] == pytest.approx(0, abs=1e-6)
    assert "colour_error" not in metrics, "without masks"
    assert "val_mse_objects" not in metrics


def two_objects():
    """Two images on grey ground, 0.2: in the first an object of 4 red pixels, 1.0, and one of 12
    pixels, half of them red, half white; in the second one of 8 red pixels, with number 2."""
    images = np.full((2, 16, 16, 3), 51, np.uint8)
    masks = np.zeros((2, 16, 16), np.uint8)
    red, white = [255, 0, 0], [255, 255, 255]
    images[0, 2:4, 2:4], masks[0, 2:4, 2:4] = red, 1
    images[0, 8:10, 3:9], masks[0, 8:10, 3:9] = red, 2
    images[0, 9, 3:9] = white
    images[1, 5:9, 5:7], masks[1, 5:9, 5:7] = red, 2
    return pictures(images, masks)


def test_the_error_on_objects_by_hand(smoke):
    """Decoded to black, an object's error is its own brightness, squared and summed."""
    scenes = two_objects()
    ground = pictures(np.full((2, 16, 16, 3), 51, np.uint8))  # the mean image is the ground
    metrics = black(DVAETask(smoke.dvae.config, ground, scenes)).evaluate()
    red, white = 1.0, 3.0
    on_objects = 4 * red + 6 * red + 6 * white + 8 * red
    assert metrics["val_mse_objects"] == pytest.approx(on_objects / 2, rel=1e-5)
    elsewhere = (256 - 16 + 256 - 8) * 3 * 0.2**2
    assert metrics["val_mse"] == pytest.approx((on_objects + elsewhere) / 2, rel=1e-5)
    red, white = 0.8**2 + 2 * 0.2**2, 3 * 0.8**2  # from the ground
    on_objects = 4 * red + 6 * red + 6 * white + 8 * red
    assert metrics["mean_image_mse_objects"] == pytest.approx(on_objects / 2, rel=1e-4)
    assert metrics["mean_image_mse"] == pytest.approx(on_objects / 2, rel=1e-4)


def test_the_colour_error_by_hand(smoke):
    """The mean over three objects of the distance of their mean colours from black."""
    scenes = two_objects()
    metrics = black(DVAETask(smoke.dvae.config, scenes, scenes)).evaluate()
    mixed = math.sqrt(1 + 0.5**2 + 0.5**2)
    assert metrics["colour_error"] == pytest.approx((1 + mixed + 1) / 3, rel=1e-5)


def test_scores_of_objects_are_those_of_the_decoded_tokens(smoke):
    """On rendered scenes, from the model taken apart; more images than are scored together."""
    config = replace(smoke.dvae.config, eval_images=9)
    task = dvae_task(config)
    task.model.load_state_dict(smoke.dvae.weights)
    task.model.eval()
    validation = config.data.load("validation")
    images = np.array(validation.images[:9]) / 255
    masks = np.array(validation.masks[:9])
    with torch.no_grad():
        tokens = task.model.encoder(task.validation).argmax(1)
        one_hot = nn.functional.one_hot(tokens, 16).movedim(-1, 1).float()
        decoded = task.model.decoder(one_hot).clamp(0, 1).movedim(1, -1).numpy()
    squares, distances = 0.0, []
    for image, picture, mask in zip(images, decoded, masks, strict=True):
        squares += ((image - picture)[mask > 0] ** 2).sum()
        for number in set(mask[mask > 0].tolist()):
            pixels = mask == number
            difference = image[pixels].mean(0) - picture[pixels].mean(0)
            distances.append(np.linalg.norm(difference))
    metrics = task.evaluate()
    assert len(distances) > 9
    assert metrics["val_mse_objects"] == pytest.approx(squares / 9, rel=1e-4)
    assert metrics["colour_error"] == pytest.approx(np.mean(distances), rel=1e-4)


def test_images_are_scored_in_parts(smoke):
    """129 images are more than a part: the objects of each part keep to their images."""
    scenes = two_objects()
    turns = np.arange(130) % 2
    many = pictures(scenes.images[turns], scenes.masks[turns])
    config = replace(smoke.dvae.config, eval_images=130)
    torch.manual_seed(0)
    task = DVAETask(config, scenes, many)
    metrics = task.evaluate()
    task.validation, task.masks = task.validation[:2], task.masks[:2]
    few = task.evaluate()
    for name in ("val_mse", "val_mse_objects", "mean_image_mse_objects", "colour_error"):
        assert metrics[name] == pytest.approx(few[name], rel=1e-5)


# ---- SLATE's task ----


def test_a_frozen_dvae_stays_as_it_was(smoke, slate_task):
    for run in (smoke.vanilla, smoke.IN):
        for name, value in smoke.dvae.weights.items():
            assert torch.equal(run.weights[f"dvae.{name}"], value), name
        fresh = slate_task(run.config).model.state_dict()
        parts = ("tf_dec", "slot_attn.slot_attention.gru")
        moved = [name for name in fresh if name.startswith(parts) and "norm" not in name]
        assert moved
        for name in moved:
            assert not torch.equal(fresh[name], run.weights[name]), name


@pytest.mark.parametrize("clip", [None, 1e-3])
def test_logged_gradient_norms(slate_task, smoke, tmp_path, clip):
    config = replace(smoke.vanilla.config.training, steps=1, clip=clip)
    by_hand = slate_task(smoke.vanilla.config)
    by_hand.model.train()
    indices = batch_indices(len(by_hand.images), 0, config.batch_size, 0)
    loss, _ = by_hand.loss(by_hand.batch(indices), 0)
    loss.backward()
    squares = {}
    for name, p in by_hand.model.named_parameters():
        if p.grad is not None:
            squares[name] = p.grad.double().square().sum().item()
    whole = sum(squares.values())
    cell = sum(v for name, v in squares.items() if name.startswith("slot_attn.slot_attention."))
    train(slate_task(smoke.vanilla.config), config, 0, tmp_path)
    row = pd.read_csv(tmp_path / "metrics.csv").iloc[0]
    assert row["grad_norm_all"] == pytest.approx(math.sqrt(whole), rel=1e-4)
    assert row["grad_norm_slot_attention"] == pytest.approx(math.sqrt(cell), rel=1e-4)
    assert 0 < cell < whole


@pytest.mark.parametrize("kind", ["slate", "joint", "dvae"])
def test_evaluation_leaves_random_states_alone(slate_task, smoke, kind):
    if kind == "dvae":
        task = dvae_task(smoke.dvae.config)
    else:
        frozen = smoke.dvae.config if kind == "slate" else None
        task = slate_task(replace(smoke.IN.config, dvae=frozen))
    task.model.eval()
    before, numpys = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = task.evaluate()
    assert torch.equal(before, torch.get_rng_state())
    assert (numpys == np.random.get_state()[1]).all()
    torch.manual_seed(99)
    assert first == task.evaluate(), "the same draws at every evaluation"
    assert not any(p.grad is not None for p in task.model.parameters())


@pytest.mark.parametrize("method", ["vanilla", "IN"])
def test_announcers_are_measured_if_asked_and_change_nothing_else(slate_task, smoke, method):
    config = getattr(smoke, method).config
    usual, task = slate_task(config).evaluate(), slate_task(replace(config, announcers=True))
    measured = task.evaluate()
    added = {name: measured.pop(name) for name in ("path_norm", "path_norm_max", "gradient_spread")}
    assert measured == usual
    assert 0 < added["path_norm"] <= added["path_norm_max"]
    assert added["gradient_spread"] > 0
    assert all(p.grad is None for p in task.model.parameters())


def test_joint_training(slate_task, smoke, tmp_path):
    config = replace(smoke.IN.config, dvae=None, tau_steps=4)
    joint = slate_task(config)
    before = {name: value.clone() for name, value in joint.model.dvae.state_dict().items()}
    outcome = train(joint, replace(config.training, steps=2, warmup_steps=10), 0, tmp_path)
    rows = pd.read_csv(tmp_path / "metrics.csv")
    assert outcome["status"] == "finished"
    assert rows["step"].tolist() == [1, 2]
    assert rows["tau"].tolist() == pytest.approx([1.0, cosine(1, 1.0, 0.1, 4)], rel=1e-5)
    assert rows["mse"].gt(0).all()
    assert rows["cross_entropy"].gt(0).all()
    assert 1 <= rows["codes_used"].iloc[-1] <= config.model.vocab_size
    assert rows["perplexity"].iloc[-1] >= 1
    after = joint.model.dvae.state_dict()
    for name, value in before.items():
        assert not torch.equal(value, after[name]), name
    # Adam's first steps are as long as the learning rate: 3e-4 for the dVAE, without warm-up
    moved = (after["encoder.7.weight"] - before["encoder.7.weight"]).abs().max().item()
    assert moved == pytest.approx(2 * 3e-4, rel=0.05)
