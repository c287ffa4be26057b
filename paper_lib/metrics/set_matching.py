"""Sets of predicted object properties against the true ones: average precision at a distance, and the loss under the best matching."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

NUM_PROPERTIES = 19  # 3 position, 2 size, 2 material, 3 shape, 8 colour, 1 present
ATTRIBUTES = {
    "size": slice(3, 5),
    "material": slice(5, 7),
    "shape": slice(7, 10),
    "colour": slice(10, 18),
}
SCENE_UNITS = 6.0  # positions in [0, 1] stand for [-3, 3]


def average_precision(predictions: np.ndarray, targets: np.ndarray, threshold: float) -> float:
    """Average precision, in [0, 1], of predictions (B, N, 19) against targets (B, N, 19), over all images together.

    A prediction is right if an object that is present has its size, material, shape and colour and lies less than `threshold` scene units
    away (inf: at any finite distance), and if no more confident prediction has already found that object, the nearest such one.
    Predictions are ranked by their last entry. Equal ones are left as numpy's default sort leaves them, as in the authors' code: with ties (saturated
    confidences) the score depends on the order of the slots, and slightly on the processor, for which numpy picks its sort.
    The precision at a recall is the best one at that recall or above. nan if no object is present.

    Raises ValueError for other shapes, and for a threshold that is negative or nan.

    Source: Locatello et al. (2020), "Object-Centric Learning with Slot Attention".
    """
    predictions, targets = np.asarray(predictions), np.asarray(targets)
    _check(predictions, targets)
    if not threshold >= 0:
        raise ValueError(
            f"threshold must be a distance in scene units, at least 0, not {threshold}"
        )
    present = targets[..., -1] > 0.5
    if not present.any():
        return float("nan")

    candidate = np.repeat(
        present[:, None], predictions.shape[1], axis=1
    )  # (B, predictions, targets)
    for group in ATTRIBUTES.values():
        candidate &= (
            predictions[..., group].argmax(-1)[:, :, None]
            == targets[..., group].argmax(-1)[:, None]
        )
    distance = SCENE_UNITS * np.linalg.norm(
        predictions[:, :, None, :3] - targets[:, None, :, :3], axis=-1
    )
    distance = np.where(candidate, distance, np.inf)
    found = (
        distance.argmin(-1) + targets.shape[1] * np.arange(len(targets))[:, None]
    ).ravel()  # one number an object of the batch
    hit = (distance.min(-1) < threshold).ravel()

    ranking = np.argsort(predictions[..., -1].ravel())[::-1]
    hits = ranking[hit[ranking]]
    correct = np.zeros(len(ranking), dtype=bool)
    correct[hits[np.unique(found[hits], return_index=True)[1]]] = True
    correct = correct[ranking]
    precision = correct.cumsum() / np.arange(1, len(correct) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(
        envelope[correct].sum() / present.sum()
    )  # each correct prediction raises the recall by one object


def hungarian_huber_loss(predictions: Tensor, targets: Tensor) -> Tensor:
    """Huber loss (delta 1) of predictions (B, N, 19) against targets (B, N, 19) under each image's cheapest one-to-one matching: a scalar.

    Averaged over the 19 properties, summed over the N matched pairs, averaged over the batch. Differentiable in the predictions, the matching held fixed.
    nan if a prediction is nan. Raises ValueError for other shapes.

    Source: Locatello et al. (2020), "Object-Centric Learning with Slot Attention"; Kuhn (1955) for the matching.
    """
    _check(predictions, targets)
    return _huber(predictions, _matched(predictions, targets)).sum(1).mean()


def matched_attributes(predictions: Tensor, targets: Tensor) -> dict[str, float]:
    """How well predictions (B, N, 19) know the objects that are present in targets (B, N, 19), each by the prediction that the loss matches to it.

    size_accuracy, material_accuracy, shape_accuracy, colour_accuracy: the share of objects for which the largest entry is the right one; position_error:
    the mean distance in scene units. What the predictions' last entry says counts for nothing. nan if no object is present.

    Raises ValueError for other shapes.
    """
    _check(predictions, targets)
    matched = _matched(predictions, targets)
    present = matched[..., -1] > 0.5
    found, true = predictions[present], matched[present]
    right = {
        f"{name}_accuracy": (found[:, group].argmax(-1) == true[:, group].argmax(-1))
        .double()
        .mean()
        .item()
        for name, group in ATTRIBUTES.items()
    }
    return right | {
        "position_error": SCENE_UNITS
        * (found[:, :3] - true[:, :3]).norm(dim=-1).double().mean().item()
    }


@torch.no_grad()
def _matched(predictions: Tensor, targets: Tensor) -> Tensor:
    """The target (B, N, 19) of each prediction, under each image's cheapest one-to-one matching."""
    from scipy.optimize import (
        linear_sum_assignment,
    )  # here, as it takes long to import, and most runs do without

    # predictions that diverged are matched somehow, so that the loss shows it, where scipy would stop the run
    cost = (
        _huber(predictions[:, :, None], targets[:, None]).double().nan_to_num(nan=1e30, posinf=1e30)
    )
    match = torch.as_tensor(
        np.stack([linear_sum_assignment(c)[1] for c in cost.cpu().numpy()]), device=targets.device
    )
    return targets.take_along_dim(match[..., None], dim=1)


def _huber(predictions: Tensor, targets: Tensor) -> Tensor:
    return F.huber_loss(*torch.broadcast_tensors(predictions, targets), reduction="none").mean(-1)


def _check(predictions, targets):
    for name, array in {"predictions": predictions, "targets": targets}.items():
        if array.ndim != 3 or array.shape[-1] != NUM_PROPERTIES or 0 in array.shape:
            raise ValueError(
                f"{name} must have shape (batch, objects, {NUM_PROPERTIES}), none of them 0, not {tuple(array.shape)}"
            )
    if predictions.shape != targets.shape:
        raise ValueError(
            f"predictions and targets must have the same shape, not {tuple(predictions.shape)} and {tuple(targets.shape)}"
        )
