"""How well predicted segments fit the true instance masks, one number an image.

The scores come first; then segments from attention masks; then baselines that know nothing of the
image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
from torch import Tensor

# The scores


def mask_scores(true: np.ndarray, predicted: np.ndarray) -> dict[str, np.ndarray]:
    """Return the scores of masks that tables show: foreground_ari, mean_iou and largest_share.

    Each is (B,), what the function of that name returns, and nan for an image without objects.
    Arguments and errors are those of `foreground_ari`.
    """
    return {
        "foreground_ari": foreground_ari(true, predicted),
        "mean_iou": mean_iou(true, predicted),
        "largest_share": largest_share(true, predicted),
    }


def foreground_ari(true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Return FG-ARI (B,), the adjusted Rand index over the pixels with true > 0 only.

    true        instance masks, integers (B, H, W) or (B, N), with 0 the background
    predicted   segments, integers of the same shape; 0 is a segment like any other

    Names of segments don't matter. It is 1 for the same partition, 0 on average by chance, and nan
    for an image without foreground. An image with one object scores 1 if all its foreground lies in
    one segment and 0 otherwise, so predicting a single segment everywhere scores 1 there; with two
    objects or more that scores 0. What a segment covers of the background costs nothing: `mean_iou`
    sees that.

    Raises ValueError for shapes that differ or are neither (B, H, W) nor (B, N), and for masks that
    are not integers.

    Source: Hubert and Arabie (1985); Greff et al. (2019), "Multi-Object Representation Learning
    with Iterative Variational Inference", for the foreground.
    """
    return np.array([_foreground_ari(t, p) for t, p in _images(true, predicted)])


def adjusted_rand_index(true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Return the adjusted Rand index (B,) over all pixels, the background as one more object.

    An image whose true mask is one region scores 1 if it is predicted as one segment and 0
    otherwise, however little is cut off. Arguments and errors are those of `foreground_ari`.

    Source: Hubert and Arabie (1985).
    """
    return np.array([_adjusted_rand_score(t, p) for t, p in _images(true, predicted)])


def mean_iou(true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Return the mean over the true objects of their IoU with the segments matched to them, (B,).

    The matching is one to one and maximises the sum of the IoUs; an object left without a segment
    counts 0. IoUs are over all pixels of the image, so a segment that spills into the background is
    punished for it. The background itself (0 in `true`) is no object. The mean lies in [0, 1] and
    is nan for an image without objects. Arguments and errors are those of `foreground_ari`.

    Source: Kuhn (1955) for the matching.
    """
    return np.array([_mean_iou(t, p) for t, p in _images(true, predicted)])


def largest_share(true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Return the share of each image's foreground that one segment holds, the one with most, (B,).

    It is nan for an image without foreground. Where it is near 1 a single slot has taken all
    objects. Arguments and errors are those of `foreground_ari`.
    """
    return np.array([_largest_share(t, p) for t, p in _images(true, predicted)])


def _foreground_ari(true: np.ndarray, predicted: np.ndarray) -> float:
    foreground = true > 0
    if not foreground.any():
        return np.nan
    return _adjusted_rand_score(true[foreground], predicted[foreground])


def _adjusted_rand_score(true: np.ndarray, predicted: np.ndarray) -> float:
    # imported here, as it takes long, and most runs and figures do without
    from sklearn.metrics import adjusted_rand_score

    return adjusted_rand_score(true, predicted)


def _mean_iou(true: np.ndarray, predicted: np.ndarray) -> float:
    from scipy.optimize import linear_sum_assignment  # here, likewise

    objects = np.unique(true[true > 0])
    if not len(objects):
        return np.nan
    in_object = true == objects[:, None]  # (objects, pixels)
    in_segment = predicted == np.unique(predicted)[:, None]  # (segments, pixels)
    intersection = in_object.astype(float) @ in_segment.T.astype(float)
    union = in_object.sum(1)[:, None] + in_segment.sum(1) - intersection
    iou = intersection / union
    return iou[linear_sum_assignment(iou, maximize=True)].sum() / len(objects)


def _largest_share(true: np.ndarray, predicted: np.ndarray) -> float:
    foreground = predicted[true > 0]
    if not len(foreground):
        return np.nan
    _, pixels = np.unique(foreground, return_counts=True)
    return pixels.max() / len(foreground)


def _images(true: np.ndarray, predicted: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Check the masks, and return pairs of flat ones, an image at a time."""
    true, predicted = np.asarray(true), np.asarray(predicted)
    if true.shape != predicted.shape:
        raise ValueError(
            f"true and predicted must have the same shape, not {true.shape} and {predicted.shape}"
        )
    if true.ndim not in (2, 3) or 0 in true.shape[1:]:
        raise ValueError(
            "masks must have shape (batch, height, width) or (batch, pixels) with pixels in them, "
            f"not {true.shape}"
        )
    for name, mask in {"true": true, "predicted": predicted}.items():
        if not np.issubdtype(mask.dtype, np.integer):
            raise ValueError(
                f"{name} must hold integers, one for each object or segment, not {mask.dtype}"
            )
    flat = len(true), math.prod(true.shape[1:])
    return zip(true.reshape(flat), predicted.reshape(flat))


# Segments from attention


def segments(attn: np.ndarray | Tensor, size: int) -> np.ndarray:
    """Return the slot that attends most to each pixel, integers (B, size, size).

    attn (B, N, K) are attention masks over a square grid of N tokens in row order, which nearest
    neighbours upsample: a token covers size / sqrt(N) pixels each way. Of slots that attend equally
    the first wins.

    Raises ValueError if `attn` has another shape, N is no square, or size is no multiple of
    sqrt(N).
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
    grid = winners.reshape(batch, side, side)
    return grid.repeat(size // side, axis=1).repeat(size // side, axis=2)


# Baselines


def random_segments(shape: tuple[int, int, int], slots: int, seed: int) -> np.ndarray:
    """Return segments that know nothing: each pixel lies in one of `slots` at random.

    They are integers of `shape` (B, H, W), the same for the same seed. Raises ValueError for
    another shape or no slots.
    """
    _check_baseline(shape, slots)
    return np.random.default_rng(seed).integers(slots, size=shape)


def grid_segments(shape: tuple[int, int, int], slots: int) -> np.ndarray:
    """Return segments that know only that objects are compact: every image in `slots` blocks.

    They are integers of `shape` (B, H, W). The blocks have near equal area and lie in about
    sqrt(slots) rows. Where the rows can't all hold equally many blocks, the first ones hold one
    more and are taller for it (7: rows of 3, 2, 2): strips, the only true grid of a prime number,
    would be a weaker baseline.

    Raises ValueError for another shape, no slots, or more blocks than fit.
    """
    _check_baseline(shape, slots)
    batch, height, width = shape
    rows = round(math.sqrt(slots))
    blocks = slots // rows + (np.arange(rows) < slots % rows)  # (rows,): how many each row holds
    first = blocks.cumsum() - blocks  # (rows,): the number of each row's first block
    row_of_block = np.repeat(np.arange(rows), blocks)
    row = row_of_block[np.arange(height) * slots // height]  # (height,): of each line of pixels
    column = np.arange(width) * blocks[row][:, None] // width  # (height, width)
    grid = first[row][:, None] + column
    if len(np.unique(grid)) < slots:
        raise ValueError(f"{slots} blocks don't fit into {height} x {width} pixels")
    return np.tile(grid, (batch, 1, 1))


def ignorant_scores(
    true: np.ndarray, slots: int, scores: Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]]
) -> dict[str, float]:
    """Return what the baselines score, as grid_<name> and random_<name>.

    Each is a mean over the images that have objects.

    true     instance masks (B, H, W)
    scores   maps true masks and predicted segments to name -> (B,), such as `mask_scores`
    """
    baselines = {
        "grid": grid_segments(true.shape, slots),
        "random": random_segments(true.shape, slots, seed=0),
    }
    means = {}
    for baseline, predicted in baselines.items():
        for name, values in scores(true, predicted).items():
            means[f"{baseline}_{name}"] = float(np.nanmean(values))
    return means


def _check_baseline(shape: tuple[int, int, int], slots: int) -> None:
    if len(shape) != 3 or slots < 1:
        raise ValueError(
            f"needs a shape (batch, height, width) and at least one slot, not {shape} and {slots}"
        )
