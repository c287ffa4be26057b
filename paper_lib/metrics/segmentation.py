"""How well predicted segments fit the true instance masks: adjusted Rand index and mean IoU, one number an image; segments from attention, and baselines."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from torch import Tensor


def adjusted_rand_index(true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Adjusted Rand index over all pixels, the background counting as one more object: (B,), 1 for the same partition, 0 on average by chance.

    true: integer instance masks, (B, H, W) or (B, N). predicted: integer segments of the same shape. Names of segments don't matter.
    An image whose true mask is one region scores 1 if it is predicted as one segment and 0 otherwise, however little is cut off.

    Raises ValueError for shapes that differ or are neither (B, H, W) nor (B, N), and for masks that are not integers.

    Source: Hubert and Arabie (1985).
    """
    return np.array([_adjusted_rand_score(t, p) for t, p in _images(true, predicted)])


def foreground_ari(true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """FG-ARI, the adjusted Rand index over the pixels with true > 0 only: (B,), nan for an image without foreground.

    Arguments and errors as for `adjusted_rand_index`, with 0 the background in `true` (in `predicted` 0 is a segment like any other).
    An image with one object scores 1 if all its foreground lies in one segment and 0 otherwise, so predicting a single segment everywhere scores 1
    there; with two objects or more that scores 0. What a segment covers of the background costs nothing: `mean_iou` sees that.

    Source: Hubert and Arabie (1985); Greff et al. (2019), "Multi-Object Representation Learning with Iterative Variational Inference", for the foreground.
    """
    return np.array(
        [
            _adjusted_rand_score(t[t > 0], p[t > 0]) if (t > 0).any() else np.nan
            for t, p in _images(true, predicted)
        ]
    )


def mean_iou(true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Mean over the true objects of their IoU with the segments they are matched to: (B,), in [0, 1], nan for an image without objects.

    The matching is one to one and maximises the sum of the IoUs; an object left without a segment counts 0. IoUs are over all pixels of the image,
    so a segment that spills into the background is punished for it. The background itself (0 in `true`) is no object.
    Arguments and errors as for `foreground_ari`.

    Source: Kuhn (1955) for the matching.
    """
    return np.array([_mean_iou(t, p) for t, p in _images(true, predicted)])


def segments(attn: np.ndarray | Tensor, size: int) -> np.ndarray:
    """The slot that attends most to each pixel: integers (B, size, size) from attention masks (B, N, K) over a square grid of N tokens in row order.

    Nearest-neighbour upsampling: a token covers size / sqrt(N) pixels each way. Of slots that attend equally the first wins.
    Raises ValueError if `attn` has another shape, N is no square, or size is no multiple of sqrt(N).
    """
    if attn.ndim != 3 or 0 in attn.shape:
        raise ValueError(
            f"attn must have shape (batch, tokens, slots), none of them 0, not {tuple(attn.shape)}"
        )
    batch, tokens, _ = attn.shape
    side = math.isqrt(tokens)
    if side * side != tokens:
        raise ValueError(
            f"attn must lie on a square grid, but its number of tokens, {tokens}, is no square"
        )
    if size < side or size % side:
        raise ValueError(f"size must be a multiple of the grid's side, {side}, not {size}")
    winners = attn.argmax(-1)
    if isinstance(winners, Tensor):
        winners = winners.cpu().numpy()
    return (
        winners.reshape(batch, side, side).repeat(size // side, axis=1).repeat(size // side, axis=2)
    )


def random_segments(shape: tuple[int, int, int], slots: int, seed: int) -> np.ndarray:
    """A baseline that knows nothing: each pixel in one of `slots` segments at random. Integers of `shape` (B, H, W); the same for the same seed.

    Raises ValueError for another shape or no slots.
    """
    _check_baseline(shape, slots)
    return np.random.default_rng(seed).integers(slots, size=shape)


def grid_segments(shape: tuple[int, int, int], slots: int) -> np.ndarray:
    """A baseline that knows only that objects are compact: every image cut into `slots` blocks of near equal area. Integers of `shape` (B, H, W).

    About sqrt(slots) rows. Where they can't all hold equally many blocks, the first ones hold one more and are taller for it (7: rows of 3, 2, 2):
    strips, the only true grid of a prime number, would be a weaker baseline. Raises ValueError for another shape, no slots, or more blocks than fit.
    """
    _check_baseline(shape, slots)
    batch, height, width = shape
    rows = round(math.sqrt(slots))
    blocks = slots // rows + (np.arange(rows) < slots % rows)  # of each row
    row = np.repeat(np.arange(rows), blocks)[
        np.arange(height) * slots // height
    ]  # of each line of pixels
    column = np.arange(width) * blocks[row][:, None] // width
    grid = (blocks.cumsum() - blocks)[row][:, None] + column
    if len(np.unique(grid)) < slots:
        raise ValueError(f"{slots} blocks don't fit into {height} x {width} pixels")
    return np.tile(grid, (batch, 1, 1))


def ignorant_scores(
    true: np.ndarray, slots: int, scores: Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]]
) -> dict[str, float]:
    """What segments score that know nothing of the image: grid_<name> and random_<name>, means over the images that have objects.

    true: instance masks (B, H, W); scores(true, found): name -> (B,).
    """
    guesses = {
        "grid": grid_segments(true.shape, slots),
        "random": random_segments(true.shape, slots, seed=0),
    }
    return {
        f"{kind}_{name}": float(np.nanmean(values))
        for kind, found in guesses.items()
        for name, values in scores(true, found).items()
    }


def _adjusted_rand_score(true: np.ndarray, predicted: np.ndarray) -> float:
    from sklearn.metrics import (
        adjusted_rand_score,
    )  # here, as it takes long to import, and most runs and figures do without

    return adjusted_rand_score(true, predicted)


def _mean_iou(true: np.ndarray, predicted: np.ndarray) -> float:
    from scipy.optimize import linear_sum_assignment  # here, likewise

    objects, segment_names = np.unique(true[true > 0]), np.unique(predicted)
    if not len(objects):
        return np.nan
    t, p = (
        true == objects[:, None],
        predicted == segment_names[:, None],
    )  # (objects, pixels), (segments, pixels)
    intersection = t.astype(float) @ p.T.astype(float)
    iou = intersection / (t.sum(1)[:, None] + p.sum(1) - intersection)
    return iou[linear_sum_assignment(iou, maximize=True)].sum() / len(objects)


def _images(true: np.ndarray, predicted: np.ndarray):
    """Pairs of flat masks, an image at a time."""
    true, predicted = np.asarray(true), np.asarray(predicted)
    if true.shape != predicted.shape:
        raise ValueError(
            f"true and predicted must have the same shape, not {true.shape} and {predicted.shape}"
        )
    if true.ndim not in (2, 3) or 0 in true.shape[1:]:
        raise ValueError(
            f"masks must have shape (batch, height, width) or (batch, pixels) with pixels in them, not {true.shape}"
        )
    for name, mask in {"true": true, "predicted": predicted}.items():
        if not np.issubdtype(mask.dtype, np.integer):
            raise ValueError(
                f"{name} must hold integers, one for each object or segment, not {mask.dtype}"
            )
    flat = len(true), math.prod(true.shape[1:])
    return zip(true.reshape(flat), predicted.reshape(flat))


def _check_baseline(shape: tuple[int, int, int], slots: int) -> None:
    if len(shape) != 3 or slots < 1:
        raise ValueError(
            f"needs a shape (batch, height, width) and at least one slot, not {shape} and {slots}"
        )
