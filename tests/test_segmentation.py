"""Segments against instance masks: the scores, segments from attention, and the baselines.

Scores are worked by hand, compared with scikit-learn's on flattened foregrounds, and tried on what
they must not depend on.
"""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from paper_lib.metrics.segmentation import (
    adjusted_rand_index,
    foreground_ari,
    grid_segments,
    ignorant_scores,
    largest_share,
    mask_scores,
    mean_iou,
    random_segments,
    segments,
)

SCORES = [adjusted_rand_index, foreground_ari, mean_iou, largest_share]
NAN = math.nan


@pytest.fixture
def masks():
    """Four images of 12 x 12 with three objects each, and segments.

    The segments are right for about two pixels of three.
    """
    rng = np.random.default_rng(0)
    true = np.zeros((4, 12, 12), dtype=np.uint8)
    for image in true:
        for number, (y, x) in enumerate([(0, 0), (0, 6), (6, 3)], start=1):
            image[y : y + rng.integers(3, 6), x : x + rng.integers(3, 6)] = number
    predicted = np.where(rng.random(true.shape) < 0.65, true, rng.integers(5, size=true.shape))
    return true, predicted


@pytest.mark.parametrize(
    "true, predicted, ari, fg_ari, iou, share",
    [
        # perfect, under other names
        ([0, 0, 1, 1, 2, 2], [5, 5, 0, 0, 3, 3], 1, 1, 1, 2 / 4),
        # one segment: 2/6 for one object, nothing for the other
        ([0, 0, 1, 1, 2, 2], [0, 0, 0, 0, 0, 0], 0, 0, 1 / 6, 1),
        # 15 pairs of pixels: 3 together in truth, 3 in the prediction, 0 in both; chance agrees on
        # 3 * 3 / 15, the most possible is 3; foreground: 2, 1, 0 of 6
        (
            [0, 0, 1, 1, 2, 2],
            [0, 1, 2, 0, 1, 2],
            (0 - 0.6) / (3 - 0.6),
            (0 - 1 / 3) / (1.5 - 1 / 3),
            1 / 3,
            2 / 4,
        ),
        # all 6: together 3 in truth, 1 + 3 in the prediction, 2 in both (0-0 and 1-1);
        # foreground: 2, 3, 1 of 6
        (
            [0, 0, 1, 1, 2, 2],
            [0, 0, 1, 1, 1, 3],
            (2 - 12 / 15) / (3.5 - 12 / 15),
            (1 - 1) / (2.5 - 1),
            (2 / 3 + 1 / 2) / 2,
            3 / 4,
        ),
        # the background shares the first object's segment: only the IoU and the full index see it
        (
            [0, 0, 1, 1, 2, 2],
            [1, 1, 1, 1, 2, 2],
            (3 - 21 / 15) / (5 - 21 / 15),
            1,
            (2 / 4 + 1) / 2,
            2 / 4,
        ),
        # a greedy matching would give the first object 3/7 and leave 0 for the second;
        # pairs of 21: 11 together in each, 5 in both
        (
            [1, 1, 1, 1, 1, 2, 2],
            [0, 0, 0, 1, 1, 0, 0],
            (5 - 121 / 21) / (11 - 121 / 21),
            (5 - 121 / 21) / (11 - 121 / 21),
            (2 / 5 + 2 / 5) / 2,
            5 / 7,
        ),
        # tie: either segment may go to the object
        ([0, 0, 1, 1], [0, 1, 0, 1], -0.5, 0, 1 / 3, 1 / 2),
        # one object, nothing else
        ([3, 3, 3, 3], [0, 0, 0, 0], 1, 1, 1, 1),
        # any cut of a single object costs all of the index
        ([3, 3, 3, 3], [0, 0, 0, 1], 0, 0, 3 / 4, 3 / 4),
        # one object, one segment: FG-ARI does not see the background
        ([0, 0, 1, 1], [0, 0, 0, 0], 0, 1, 2 / 4, 1),
        # no objects
        ([0, 0, 0, 0], [0, 1, 0, 1], 0, NAN, NAN, NAN),
        ([0, 0, 0, 0], [2, 2, 2, 2], 1, NAN, NAN, NAN),
        ([1], [7], 1, 1, 1, 1),
    ],
)
def test_by_hand(true, predicted, ari, fg_ari, iou, share):
    for score, expected in zip(SCORES, (ari, fg_ari, iou, share)):
        result = score(np.array([true]), np.array([predicted]))
        assert result.shape == (1,)
        assert result[0] == pytest.approx(expected, abs=1e-12, nan_ok=True), score.__name__


def test_iou_of_rectangles():
    """A segment that is moved by (1, 2) from a 4 x 4 object spills into the background.

    Nothing covers a second object.
    """
    true, predicted = np.zeros((1, 10, 10), dtype=int), np.zeros((1, 10, 10), dtype=int)
    true[0, 1:5, 1:5], predicted[0, 2:6, 3:7] = 1, 1
    assert mean_iou(true, predicted) == pytest.approx(6 / (16 + 16 - 6))
    true[0, 8:, 8:] = 2
    # the segment of the background goes to the second object: 4 pixels of 84
    assert mean_iou(true, predicted) == pytest.approx((6 / 26 + 4 / 84) / 2)


def test_mask_scores_by_hand():
    true = np.array([[[1, 1, 2], [0, 0, 2]], [[1, 1, 1], [0, 0, 0]], [[0, 0, 0], [0, 0, 0]]])
    predicted = np.array([[[0, 0, 2], [1, 1, 2]], [[1, 1, 0], [1, 1, 1]], [[0, 1, 2], [0, 1, 2]]])
    scores = mask_scores(true, predicted)
    assert scores.keys() == {"foreground_ari", "mean_iou", "largest_share"}
    np.testing.assert_allclose(scores["largest_share"], [2 / 4, 2 / 3, NAN])
    np.testing.assert_allclose(scores["foreground_ari"], [1, 0, NAN], atol=1e-12)
    np.testing.assert_allclose(scores["mean_iou"], [1, 2 / 6, NAN])


def test_against_scikit_learn(masks):
    true, predicted = masks
    foreground = [
        adjusted_rand_score(t[t > 0].tolist(), p[t > 0].tolist()) for t, p in zip(true, predicted)
    ]
    np.testing.assert_allclose(foreground_ari(true, predicted), foreground, rtol=1e-12)
    np.testing.assert_allclose(
        adjusted_rand_index(true, predicted),
        [adjusted_rand_score(t.ravel(), p.ravel()) for t, p in zip(true, predicted)],
        rtol=1e-12,
    )
    assert (0.1 < np.array(foreground)).all() and (np.array(foreground) < 0.9).all()


@pytest.mark.parametrize("score", SCORES)
def test_what_a_score_depends_on(masks, score):
    true, predicted = masks
    expected = score(true, predicted)
    assert expected.shape == (4,) and len(np.unique(expected)) == 4
    np.testing.assert_allclose(
        score(true.reshape(4, -1), predicted.reshape(4, -1)), expected, rtol=1e-12
    )
    order = np.random.default_rng(1).permutation(144)
    np.testing.assert_allclose(
        score(true.reshape(4, -1)[:, order], predicted.reshape(4, -1)[:, order]),
        expected,
        rtol=1e-12,
    )
    np.testing.assert_allclose(score(true[::-1], predicted[::-1]), expected[::-1], rtol=1e-12)
    np.testing.assert_allclose(
        score(np.array([0, 3, 9, 1])[true], np.array([4, 0, 3, 1, 2])[predicted]),
        expected,
        rtol=1e-12,
    )


@pytest.mark.parametrize("score", SCORES)
def test_only_the_foreground_counts_for_the_foreground(masks, score):
    true, predicted = masks
    scrambled = np.where(true > 0, predicted, np.random.default_rng(1).integers(5, size=true.shape))
    same = np.isclose(score(true, scrambled), score(true, predicted))
    assert same.all() if score in (foreground_ari, largest_share) else not same.any()


def test_an_image_without_objects_leaves_the_others_alone(masks):
    true, predicted = masks
    empty = true.copy()
    empty[2] = 0
    for score in (foreground_ari, mean_iou, largest_share):
        expected = score(true, predicted)
        expected[2] = NAN
        np.testing.assert_array_equal(score(empty, predicted), expected)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize(
    "true, predicted, message",
    [
        (
            np.zeros((2, 4, 4), int),
            np.zeros((2, 16), int),
            r"same shape, not \(2, 4, 4\) and \(2, 16\)",
        ),
        (np.zeros(4, int), np.zeros(4, int), r"masks must have shape .* not \(4,\)"),
        (np.zeros((2, 0), int), np.zeros((2, 0), int), r"masks must have shape .* not \(2, 0\)"),
        (np.zeros((1, 4)), np.zeros((1, 4), int), "true must hold integers.* not float64"),
        (
            np.zeros((1, 4), int),
            np.zeros((1, 4), np.float32),
            "predicted must hold integers.* not float32",
        ),
    ],
)
def test_refused_masks(score, true, predicted, message):
    with pytest.raises(ValueError, match=message):
        score(true, predicted)


@pytest.mark.parametrize("tensor", [np.array, torch.tensor])
def test_segments(tensor):
    """Four tokens, three slots; the last token is tied, and the first slot wins it."""
    attn = [[[0.7, 0.2, 0.1], [0.1, 0.2, 0.7], [0.1, 0.6, 0.3], [0.2, 0.4, 0.4]]]
    result = segments(tensor(attn), 4)
    assert isinstance(result, np.ndarray) and np.issubdtype(result.dtype, np.integer)
    np.testing.assert_array_equal(
        result, [[[0, 0, 2, 2], [0, 0, 2, 2], [1, 1, 1, 1], [1, 1, 1, 1]]]
    )
    np.testing.assert_array_equal(segments(tensor(attn), 2), [[[0, 2], [1, 1]]])


def test_segments_of_a_graph_and_of_a_batch():
    attn = torch.rand(3, 16, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    result = segments(attn, 8)
    assert result.shape == (3, 8, 8)
    for b, y, x in np.ndindex(3, 8, 8):
        assert result[b, y, x] == attn[b, (y // 2) * 4 + x // 2].argmax()


@pytest.mark.parametrize(
    "shape, size, message",
    [
        ((1, 15, 3), 16, "number of tokens, 15, is no square"),
        ((1, 16, 3), 10, "size must be a multiple of the grid's side, 4, not 10"),
        ((1, 16, 3), 2, "size must be a multiple of the grid's side, 4, not 2"),
        ((1, 16, 3), 0, "size must be a multiple of the grid's side, 4, not 0"),
        ((16, 3), 4, r"attn must have shape .* not \(16, 3\)"),
        ((1, 0, 3), 4, r"attn must have shape .* not \(1, 0, 3\)"),
    ],
)
@pytest.mark.parametrize("zeros", [np.zeros, torch.zeros])
def test_refused_attention(zeros, shape, size, message):
    with pytest.raises(ValueError, match=message):
        segments(zeros(shape), size)


def test_random_segments():
    state = np.random.get_state()[1].copy()
    result = random_segments((3, 32, 32), 5, seed=0)
    assert result.shape == (3, 32, 32) and np.issubdtype(result.dtype, np.integer)
    np.testing.assert_allclose(np.bincount(result.ravel(), minlength=5), 3 * 1024 / 5, rtol=0.1)
    np.testing.assert_array_equal(result, random_segments((3, 32, 32), 5, seed=0))
    assert (result != random_segments((3, 32, 32), 5, seed=1)).any()
    assert (result[0] != result[1]).any()
    assert (np.random.get_state()[1] == state).all()
    # by chance the adjusted index is zero
    assert np.abs(foreground_ari(grid_segments((3, 32, 32), 4) + 1, result)).max() < 0.02


def test_grid_segments_by_hand():
    np.testing.assert_array_equal(grid_segments((2, 2, 4), 4), [[[0, 0, 1, 1], [2, 2, 3, 3]]] * 2)
    np.testing.assert_array_equal(
        grid_segments((1, 5, 6), 5), [[[0, 0, 1, 1, 2, 2]] * 3 + [[3, 3, 3, 4, 4, 4]] * 2]
    )


@pytest.mark.parametrize("slots", range(1, 13))
@pytest.mark.parametrize("size", [32, 64])
def test_grid_segments(slots, size):
    """Every block a full rectangle, about as large as the others, and no strip."""
    blocks = grid_segments((2, size, size), slots)
    assert blocks.shape == (2, size, size) and (blocks[0] == blocks[1]).all()
    assert sorted(np.unique(blocks)) == list(range(slots))
    for number in range(slots):
        ys, xs = np.nonzero(blocks[0] == number)
        height, width = np.ptp(ys) + 1, np.ptp(xs) + 1
        assert len(ys) == height * width and len(ys) == pytest.approx(size**2 / slots, rel=0.2)
        assert max(height, width) <= 2.1 * min(height, width) or slots == 3  # rows of 2 and 1


def test_what_masks_score_that_know_nothing():
    """One object is everywhere: of four blocks or of four random names one holds a quarter."""
    scores = ignorant_scores(np.ones((2, 32, 32), np.uint8), 4, mask_scores)
    names = ("foreground_ari", "mean_iou", "largest_share")
    assert set(scores) == {f"{kind}_{name}" for kind in ("grid", "random") for name in names}
    assert scores["grid_largest_share"] == scores["grid_mean_iou"] == 0.25
    assert scores["random_largest_share"] == pytest.approx(0.25, abs=0.05)
    # each object is one of the four blocks; the image without objects does not count
    quarters = np.kron([[1, 2], [3, 4]], np.ones((8, 8), int))
    scores = ignorant_scores(np.stack([quarters, 0 * quarters]), 4, mask_scores)
    assert scores["grid_foreground_ari"] == scores["grid_mean_iou"] == 1
    assert scores["grid_largest_share"] == 0.25
    assert abs(scores["random_foreground_ari"]) < 0.1 and scores["random_mean_iou"] < 0.3


@pytest.mark.parametrize(
    "baseline, message",
    [
        (lambda: grid_segments((1, 2, 2), 5), "5 blocks don't fit into 2 x 2 pixels"),
        (lambda: grid_segments((4, 4), 5), "needs a shape"),
        (lambda: grid_segments((1, 4, 4), 0), "at least one slot"),
        (lambda: random_segments((4, 4), 5, seed=0), "needs a shape"),
        (lambda: random_segments((1, 4, 4), 0, seed=0), "at least one slot"),
    ],
)
def test_refused_baselines(baseline, message):
    with pytest.raises(ValueError, match=message):
        baseline()


@pytest.mark.parametrize("score", SCORES)
def test_scores_of_one_of_everything(score):
    """One pixel, one object, one segment fit; without an image there is no score."""
    pixel = np.ones((1, 1, 1), int)
    assert score(pixel, 0 * pixel).tolist() == [1]
    assert score(pixel[:0], pixel[:0]).shape == (0,)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64])
def test_an_image_without_objects_does_not_change_its_neighbours(score, dtype):
    rng = np.random.default_rng(0)
    true, predicted = (rng.integers(0, 4, (3, 6, 6)).astype(dtype) for _ in range(2))
    whole = score(true, predicted)
    true[1] = 0
    spoilt = score(true, predicted)
    assert (spoilt[[0, 2]] == whole[[0, 2]]).all()
    assert np.isnan(spoilt[1]) or score is adjusted_rand_index
