"""What slots' masks say of themselves, without the true objects.

Masks are attn (B, N, K): of B images, for N places, the shares of K slots, which sum to one over
the slots. Everything is in float64.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment

IDLE = 0.1  # of an equal share of the picture; a slot that holds less is idle


def overlap(attn: np.ndarray) -> np.ndarray:
    """Return the mean over pairs of an image's slots of their masks' soft IoU, (B,).

    It is 0 if no place is shared, and 1 if all slots have the same mask. nan for a single slot.
    """
    pairs = _off_diagonal(np.stack([soft_iou(masks, masks) for masks in attn]))
    return pairs.mean(1) if pairs.size else np.full(len(attn), np.nan)


def entropy(attn: np.ndarray) -> np.ndarray:
    """Return the mean over places of the entropy of the slots' shares, (B,), between 0 (every place
    has one slot) and 1 (all slots share it alike). nan for a single slot."""
    shares = np.clip(attn, np.finfo(float).tiny, 1)
    with np.errstate(invalid="ignore"):
        return -(attn * np.log(shares)).sum(2).mean(1) / np.log(attn.shape[2])


def idle_slots(attn: np.ndarray) -> np.ndarray:
    """Return the share of an image's slots that hold next to nothing of it, (B,): see `IDLE`."""
    return (attn.mean(1) < IDLE / attn.shape[2]).mean(1)


def largest_slot(attn: np.ndarray) -> np.ndarray:
    """Return the share of the picture that the slot with most holds, (B,)."""
    return attn.mean(1).max(1)


def share_of_image(attn: np.ndarray) -> float:
    """Return the share of the masks' variance that the image makes, from 0 to 1.

    The rest is made by the place: over images and places, a slot's variance is that of the mean
    masks over places plus the mean over places of the variance over images. All images have to
    start from the same initial slots, else the slots' order would count as the image's. nan for
    masks that do not vary.
    """
    total = attn.var((0, 1)).mean()
    return float(attn.var(0).mean() / total) if total > 1e-12 else np.nan


def agreement(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the mean soft IoU of masks a and b (B, N, K), (B,), under the best matching of slots.

    It is 1 for the same masks in any order.
    """
    found = []
    for one, other in zip(a, b):
        iou = soft_iou(one, other)
        found.append(iou[linear_sum_assignment(iou, maximize=True)].mean())
    return np.array(found)


def soft_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the IoU of any two columns of masks (N, K) and (N, L), (K, L): the sum of the smaller
    shares over that of the larger ones."""
    smaller = np.minimum(a[:, :, None], b[:, None]).sum(0)
    return smaller / np.maximum(a.sum(0)[:, None] + b.sum(0) - smaller, np.finfo(float).tiny)


def _off_diagonal(matrices: np.ndarray) -> np.ndarray:
    """(B, K, K) -> (B, K (K - 1))."""
    return matrices[:, ~np.eye(matrices.shape[1], dtype=bool)]
