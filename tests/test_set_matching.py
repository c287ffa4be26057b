"""Sets of properties: average precision and the Hungarian Huber loss.

They are checked against the stored reference, a literal transcription, and by hand.
"""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from paper_lib.metrics.set_matching import (
    ATTRIBUTES,
    average_precision,
    hungarian_huber_loss,
    matched_attributes,
)

INF = math.inf
# The reference has 17 confidences of exactly 1. This is how the sort that made it ranked them;
# sorts differ between processors.
TIED = [119, 99, 109, 108, 78, 75, 68, 95, 27, 0, 8, 34, 40, 36, 59, 13, 61]


@pytest.fixture(scope="module")
def reference():
    with np.load(Path(__file__).parent / "reference" / "set_prediction_reference.npz") as archive:
        return dict(archive)


def scene(*colours, present=None):
    """One image (1, N, 19) of objects that differ in colour alone, all at the scene's centre."""
    objects = np.zeros((1, len(colours), 19), dtype=np.float32)
    objects[..., :3] = 0.5
    objects[..., [3, 5, 7]] = 1
    objects[0, range(len(colours)), 10 + np.array(colours)] = 1
    objects[..., -1] = 1 if present is None else present
    return objects


def literal_average_precision(predictions, targets, threshold):
    """Locatello et al.'s definition, a prediction at a time."""
    slots = predictions.shape[1]
    seen, correct = set(), []
    for detection in np.argsort(predictions[..., -1].ravel())[::-1]:
        image, prediction = detection // slots, predictions[detection // slots, detection % slots]
        nearest, best = INF, None
        for number, target in enumerate(targets[image]):
            same = all(
                prediction[a:b].argmax() == target[a:b].argmax()
                for a, b in [(3, 5), (5, 7), (7, 10), (10, 18)]
            )
            distance = np.linalg.norm((target[:3] - prediction[:3]) * 6)
            if target[18] and same and distance < nearest:
                nearest, best = distance, number
        correct.append(nearest < threshold and (image, best) not in seen)
        if correct[-1]:
            seen.add((image, best))
    found = np.cumsum(correct)
    precision, recall = found / (np.arange(len(found)) + 1), found / targets[..., 18].sum()
    return sum(
        (r - before) * max(precision[i:])
        for i, (before, r) in enumerate(itertools.pairwise([0, *recall]))
    )


@pytest.mark.parametrize("number", range(5))
def test_reference_average_precision(reference, number):
    predictions = reference["predictions"].astype(np.float64)
    confidence = predictions[..., -1].reshape(-1)
    assert set(np.flatnonzero(confidence == 1)) == set(TIED)
    predictions[..., -1].flat[TIED] = 1 + 1e-6 * np.arange(len(TIED), 0, -1)
    result = average_precision(predictions, reference["targets"], reference["thresholds"][number])
    assert result == pytest.approx(reference["average_precision"][number], rel=1e-4)


@pytest.mark.parametrize("threshold", [INF, 1, 0.5, 0.25, 0.125, 0])
def test_against_the_literal_definition(reference, threshold):
    """Once with the reference's ties as they are, once with attributes guessed in small scenes.

    In the small scenes objects are often found twice.
    """
    for predictions, targets in [(reference["predictions"], reference["targets"]), small_scenes()]:
        result = average_precision(predictions, targets, threshold)
        literal = literal_average_precision(predictions, targets, threshold)
        assert result == pytest.approx(literal, rel=1e-6)


def small_scenes():
    rng = np.random.default_rng(0)
    targets = np.concatenate(
        [scene(*rng.integers(2, size=6), present=rng.random(6) < 0.7) for _ in range(20)]
    )
    predictions = np.concatenate(
        [scene(*rng.integers(2, size=6), present=rng.random(6)) for _ in range(20)]
    )
    predictions[..., :3] += rng.normal(0, 0.05, (20, 6, 3))
    targets[..., :3] += rng.normal(0, 0.05, (20, 6, 3))
    return predictions, targets


@pytest.mark.parametrize(
    "predictions, targets, expected",
    [
        (scene(0, 1, 2, present=[0.9, 0.8, 0.7]), scene(0, 1, 2), 1),
        (scene(0, 1, 2, present=[0.9, 0.8, 0.7]), scene(2, 0, 1), 1),
        (scene(0, 1, 2, present=[0.9, 0.8, 0.7]), scene(3, 4, 5), 0),
        # the mistake comes last: precision 1 up to recall 2/3
        (scene(0, 1, 2, present=[0.9, 0.8, 0.7]), scene(0, 1, 3), 2 / 3),
        # first: precision 0, 1/2, 2/3, of which the best further on counts
        (scene(0, 1, 2, present=[0.7, 0.8, 0.9]), scene(0, 1, 3), 2 / 3 * 2 / 3),
        # between
        (scene(0, 1, 2, present=[0.9, 0.7, 0.8]), scene(0, 1, 3), (1 + 2 / 3) / 3),
        # an object found twice counts once
        (scene(0, 0, 1, present=[0.9, 0.8, 0.7]), scene(0, 1, 2), (1 + 2 / 3) / 3),
        # twins in one place: the nearest is always the first
        (scene(0, 0, 1, present=[0.9, 0.8, 0.7]), scene(0, 0, 1), 1 / 3 * 1 + 1 / 3 * 2 / 3),
        # padding is nothing to be found
        (scene(0, 1, 2, present=[0.9, 0.8, 0.1]), scene(0, 1, 2, present=[1, 1, 0]), 1),
        # and what is found there is wrong
        (scene(0, 1, 2, present=[0.9, 0.1, 0.8]), scene(0, 1, 2, present=[1, 1, 0]), 5 / 6),
        # ties that don't matter
        (scene(0, 1, 2), scene(0, 1, 2), 1),
        (scene(0, 1), scene(0, 1, present=[0, 0]), math.nan),
    ],
)
def test_average_precision_by_hand(predictions, targets, expected):
    assert average_precision(predictions, targets, INF) == pytest.approx(expected, nan_ok=True)


def test_a_tie_that_matters():
    assert average_precision(scene(0, 3), scene(0, 1), INF) in (0.5, 0.25)


def test_images_share_one_ranking():
    """The second image's confident mistake comes before all that is right in the first."""
    predictions = np.concatenate([scene(0, present=[0.5]), scene(1, present=[0.9])])
    targets = np.concatenate([scene(0), scene(0)])
    assert average_precision(predictions, targets, INF) == 0.5 * 0.5
    # an object of another image is no match
    assert average_precision(predictions, np.concatenate([scene(1), scene(0)]), INF) == 0


@pytest.mark.parametrize("group", [(3, 4), (5, 6), (7, 8), (7, 9), (10, 17)])
def test_every_attribute_must_be_right(group):
    predictions = scene(0)
    predictions[0, 0, list(group)] = 0.4, 0.6
    assert average_precision(predictions, scene(0), INF) == 0
    predictions[0, 0, list(group)] = 0.6, 0.4
    assert average_precision(predictions, scene(0), INF) == 1


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("threshold, expected", [(INF, 1), (0.76, 1), (0.75, 0), (0.7, 0), (0, 0)])
def test_distances_are_in_scene_units(axis, threshold, expected):
    """An eighth of the scene's 6 units, exact in binary: 0.75, which is not less than itself."""
    predictions = scene(0)
    predictions[0, 0, axis] += 0.125
    assert average_precision(predictions, scene(0), threshold) == expected


def test_the_nearest_object_is_found():
    targets, predictions = scene(0, 0), scene(0, 0, present=[0.9, 0.8])
    targets[0, 1, :3] = 0.9
    predictions[0, 0, :3], predictions[0, 1, :3] = 0.85, 0.55
    assert average_precision(predictions, targets, 1) == 1


def permuted(array, seed):
    rng = np.random.default_rng(seed)
    return np.stack([image[rng.permutation(len(image))] for image in array])


@pytest.mark.parametrize(
    "score",
    [
        lambda p, t: average_precision(p, t, 0.3),
        lambda p, t: hungarian_huber_loss(torch.tensor(p), torch.tensor(t)).item(),
    ],
)
def test_the_order_of_a_set_does_not_matter(score):
    predictions, targets = small_scenes()
    expected = score(predictions, targets)
    assert expected > 0.01
    same = pytest.approx(expected, rel=1e-6)
    assert score(permuted(predictions, 1), permuted(targets, 2)) == same
    assert score(predictions[::-1].copy(), targets[::-1].copy()) == same
    # nor are images mixed up
    assert score(predictions[::-1].copy(), targets) != pytest.approx(expected, rel=1e-2)


def test_reference_loss(reference):
    predictions, targets = (torch.tensor(reference[name]) for name in ("predictions", "targets"))
    loss = hungarian_huber_loss(predictions, targets)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(float(reference["hungarian_huber"]), rel=1e-4)


def test_loss_by_hand():
    """One image of two has errors of 0.6 and of 3, which Huber counts 0.6^2 / 2 and 3 - 1/2."""
    targets = torch.tensor(np.concatenate([scene(0, 1), scene(2, 3)]))
    predictions = targets.flip(1).clone()
    predictions[0, 0, 0] += 0.6
    predictions[0, 1, 18] += 3
    loss = hungarian_huber_loss(predictions, targets).item()
    assert loss == pytest.approx((0.18 + 2.5) / 19 / 2, rel=1e-6)
    assert hungarian_huber_loss(targets.flip(1), targets).item() == 0


def test_loss_is_the_least_over_all_matchings():
    predictions, targets = (
        torch.rand(5, 4, 19, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 4
        for seed in (0, 1)
    )
    error = (predictions[:, :, None] - targets[:, None]).abs()
    cost = torch.where(error <= 1, error**2 / 2, error - 0.5).mean(-1)
    orders = itertools.permutations(range(4))
    totals = torch.stack([cost[:, range(4), order].sum(1) for order in orders])
    least = totals.amin(0).mean().item()
    assert hungarian_huber_loss(predictions, targets).item() == pytest.approx(least, rel=1e-12)
    assert len(set(totals.argmin(0).tolist())) > 1, "images are matched differently"


def test_gradient():
    """It is that of the matched pairs: error / 19 / batch where Huber is quadratic."""
    targets = torch.tensor(np.concatenate([scene(0, 1), scene(2, 3)]))
    error = 0.1 * torch.randn(targets.shape, generator=torch.Generator().manual_seed(0))
    predictions = (targets.flip(1) + error).requires_grad_()
    hungarian_huber_loss(predictions, targets).backward()
    np.testing.assert_allclose(predictions.grad, error / 19 / 2, atol=1e-7)


@pytest.mark.parametrize("value", [math.nan, INF])
def test_a_diverged_prediction_shows(value):
    targets = torch.tensor(scene(0, 1))
    predictions = targets.clone()
    predictions[0, 0, 4] = value
    assert hungarian_huber_loss(predictions, targets).item() == pytest.approx(value, nan_ok=True)
    predictions[:] = value
    assert average_precision(predictions.numpy(), targets.numpy(), INF) == 0


@pytest.mark.parametrize("entry", [0, 4, 6, 9, 17, 18])
def test_one_nan_makes_a_prediction_wrong(entry):
    """Which entry is the largest is not known then, nor how confident it is."""
    predictions, targets = scene(0, 1, present=[0.9, 0.8]), scene(0, 1)
    predictions[0, 0, entry] = math.nan
    assert average_precision(predictions, targets, INF) <= 0.5
    assert average_precision(predictions[:, ::-1], targets, INF) <= 0.5
    found = matched_attributes(torch.tensor(predictions), torch.tensor(targets))
    for name, group in ATTRIBUTES.items():
        spoilt = group.start <= entry < group.stop
        assert found[f"{name}_accuracy"] == (0.5 if spoilt else 1)
    assert math.isnan(found["position_error"]) == (entry == 0)


def test_targets_must_be_known():
    with pytest.raises(ValueError, match="targets hold a nan"):
        average_precision(scene(0), scene(0, present=math.nan), INF)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_scores_of_every_float(dtype):
    """Powers of two, which all of them hold exactly."""
    targets = torch.tensor(scene(0, 1, 2), dtype=dtype)
    predictions = targets.flip(1).clone()
    predictions[..., -1] = torch.tensor([0.5, 0.25, 0.125])
    predictions[0, 0, 0] += 0.125  # of 6 units: 0.75
    assert average_precision(predictions, targets, 1) == 1
    assert average_precision(predictions, targets, 0.75) < 1
    loss = hungarian_huber_loss(predictions, targets)
    exact = (0.125**2 + 0.5**2 + 0.75**2 + 0.875**2) / 2 / 19
    assert loss.dtype == dtype and loss.item() == pytest.approx(exact, rel=0.01)
    found = matched_attributes(predictions, targets)
    assert found["position_error"] == pytest.approx(0.25, rel=0.01)


def test_attributes_of_matched_objects():
    """Two objects and an empty row: each is found, in another order.

    Of the second object the size is wrong, and it is 0.6 scene units off along y.
    """
    targets = torch.tensor(scene(0, 5, 0, present=[1, 1, 0]))
    targets[0, 1, 0], targets[0, 2] = 0.9, 0
    predictions = targets[:, [2, 1, 0]].clone()
    predictions[..., -1] = 0.3  # how confident a prediction is counts for nothing
    predictions[0, 0, 7:18] = 0.2  # nor does what the empty row says
    predictions[0, 1, 1] += 0.1
    predictions[0, 1, 3:5] = torch.tensor([0.4, 0.6])
    assert matched_attributes(predictions, targets) == pytest.approx(
        {
            "size_accuracy": 0.5,
            "material_accuracy": 1,
            "shape_accuracy": 1,
            "colour_accuracy": 1,
            "position_error": 0.3,
        }
    )
    nobody = matched_attributes(predictions, torch.zeros_like(targets))
    assert len(nobody) == 5 and all(math.isnan(value) for value in nobody.values())


@pytest.mark.parametrize(
    "score",
    [
        lambda p, t: average_precision(p, t, 1),
        lambda p, t: hungarian_huber_loss(torch.tensor(p), torch.tensor(t)),
        lambda p, t: matched_attributes(torch.tensor(p), torch.tensor(t)),
    ],
)
@pytest.mark.parametrize(
    "predictions, targets, message",
    [
        (
            (2, 3, 18),
            (2, 3, 19),
            r"predictions must have shape \(batch, objects, 19\).* not \(2, 3, 18\)",
        ),
        ((2, 3, 19), (3, 19), r"targets must have shape \(batch, objects, 19\).* not \(3, 19\)"),
        (
            (0, 3, 19),
            (0, 3, 19),
            r"predictions must have shape .* none of them 0, not \(0, 3, 19\)",
        ),
        ((2, 3, 19), (2, 4, 19), r"same shape, not \(2, 3, 19\) and \(2, 4, 19\)"),
        ((2, 3, 19), (1, 3, 19), r"same shape, not \(2, 3, 19\) and \(1, 3, 19\)"),
    ],
)
def test_refused_shapes(score, predictions, targets, message):
    with pytest.raises(ValueError, match=message):
        score(np.zeros(predictions, dtype=np.float32), np.zeros(targets, dtype=np.float32))


@pytest.mark.parametrize("threshold", [-1, math.nan])
def test_refused_thresholds(threshold):
    with pytest.raises(ValueError, match="threshold must be a distance"):
        average_precision(scene(0), scene(0), threshold)
