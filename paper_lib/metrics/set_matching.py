"""Sets of predicted object properties against the true ones.

The loss and the accuracies are those under the best matching; average precision is the score.
"""

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
    """Return the average precision, in [0, 1], over all images together.

    predictions   (B, N, 19), ranked by their last entry, the confidence
    targets       (B, N, 19), the last entry 1 for an object that is present and 0 otherwise
    threshold     a distance in scene units, inf for any finite one

    A prediction is right if an object that is present has its size, material, shape and colour and
    lies less than `threshold` away, and if no more confident prediction has already found that
    object, the nearest such one. The precision at a recall is the best one at that recall or above.
    It is nan if no object is present. A prediction that holds a nan finds nothing.

    Equal confidences are left as numpy's default sort leaves them, as in the authors' code: with
    ties (saturated confidences) the score depends on the order of the slots, and slightly on the
    processor, for which numpy picks its sort.

    Raises ValueError for other shapes, for targets that hold a nan, and for a threshold that is
    negative or nan.

    Source: Locatello et al. (2020), "Object-Centric Learning with Slot Attention".
    """
    predictions, targets = _array(predictions), _array(targets)
    _check(predictions, targets)
    if np.isnan(targets).any():
        raise ValueError("targets hold a nan: which objects there are must be known")
    if not threshold >= 0:
        raise ValueError(
            f"threshold must be a distance in scene units, at least 0, not {threshold}"
        )
    present = targets[..., -1] > 0.5
    if not present.any():
        return float("nan")

    nearest, distance = _nearest_candidate(predictions, targets, present)
    hit = (distance < threshold).ravel() & ~np.isnan(predictions).any(-1).ravel()
    # the object that each prediction found, a number over the whole batch
    found = (nearest + targets.shape[1] * np.arange(len(targets))[:, None]).ravel()

    ranking = np.argsort(predictions[..., -1].ravel())[::-1]
    hits = ranking[hit[ranking]]
    _, first = np.unique(found[hits], return_index=True)  # the most confident hit of each object
    correct = np.zeros(len(ranking), dtype=bool)
    correct[hits[first]] = True
    correct = correct[ranking]
    precision = correct.cumsum() / np.arange(1, len(correct) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    # each correct prediction raises the recall by one object
    return float(envelope[correct].sum() / present.sum())


def _nearest_candidate(
    predictions: np.ndarray, targets: np.ndarray, present: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return, for each prediction, the nearest target with all its attributes, and its distance.

    Both are (B, predictions). The distance is in scene units, and inf where there is no target.
    """
    candidate = np.repeat(present[:, None], predictions.shape[1], axis=1)
    for group in ATTRIBUTES.values():
        said = predictions[..., group].argmax(-1)
        true = targets[..., group].argmax(-1)
        candidate &= said[:, :, None] == true[:, None]  # (B, predictions, targets)
    offset = predictions[:, :, None, :3] - targets[:, None, :, :3]
    distance = SCENE_UNITS * np.linalg.norm(offset, axis=-1)
    distance = np.where(candidate, distance, np.inf)
    return distance.argmin(-1), distance.min(-1)


def hungarian_huber_loss(predictions: Tensor, targets: Tensor) -> Tensor:
    """Return the Huber loss (delta 1) under each image's cheapest one-to-one matching, a scalar.

    predictions and targets are (B, N, 19). The loss is averaged over the 19 properties, summed over
    the N matched pairs and averaged over the batch. It is differentiable in the predictions, with
    the matching held fixed, and nan if a prediction is nan. Raises ValueError for other shapes.

    Source: Locatello et al. (2020), "Object-Centric Learning with Slot Attention"; Kuhn (1955) for
    the matching.
    """
    _check(predictions, targets)
    return _huber(predictions, _matched(predictions, targets)).sum(1).mean()


def matched_attributes(predictions: Tensor, targets: Tensor) -> dict[str, float]:
    """Return how well each object is known by the prediction that the loss matches to it.

    predictions and targets are (B, N, 19); objects that are not present, and the predictions' last
    entries, count for nothing. size_accuracy, material_accuracy, shape_accuracy and
    colour_accuracy are the share of objects for which the largest entry is the right one, and all
    are numbers; position_error is the mean distance in scene units. All are nan if no object is
    present.

    Raises ValueError for other shapes.
    """
    _check(predictions, targets)
    matched = _matched(predictions, targets)
    present = matched[..., -1] > 0.5
    found, true = predictions[present], matched[present]
    result = {}
    for name, group in ATTRIBUTES.items():
        right = found[:, group].argmax(-1) == true[:, group].argmax(-1)
        right &= ~found[:, group].isnan().any(-1)
        result[f"{name}_accuracy"] = right.double().mean().item()
    distance = (found[:, :3] - true[:, :3]).norm(dim=-1)
    result["position_error"] = SCENE_UNITS * distance.double().mean().item()
    return result


@torch.no_grad()
def _matched(predictions: Tensor, targets: Tensor) -> Tensor:
    """Return the target (B, N, 19) of each prediction under each image's cheapest matching."""
    # imported here, as it takes long, and most runs do without
    from scipy.optimize import linear_sum_assignment

    cost = _huber(predictions[:, :, None], targets[:, None]).double()
    # predictions that diverged are matched somehow, so that the loss shows it, where scipy would
    # stop the run
    cost = cost.nan_to_num(nan=1e30, posinf=1e30).cpu().numpy()
    columns = np.stack([linear_sum_assignment(image)[1] for image in cost])
    match = torch.as_tensor(columns, device=targets.device)
    return targets.take_along_dim(match[..., None], dim=1)


def _huber(predictions: Tensor, targets: Tensor) -> Tensor:
    predictions, targets = torch.broadcast_tensors(predictions, targets)
    return F.huber_loss(predictions, targets, reduction="none").mean(-1)


def _array(values: np.ndarray | Tensor) -> np.ndarray:
    """Return an array as it is, and a tensor as one; numpy has no bfloat16."""
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = values.float() if values.dtype == torch.bfloat16 else values
    return np.asarray(values)


def _check(predictions, targets) -> None:
    for name, array in {"predictions": predictions, "targets": targets}.items():
        if array.ndim != 3 or array.shape[-1] != NUM_PROPERTIES or 0 in array.shape:
            raise ValueError(
                f"{name} must have shape (batch, objects, {NUM_PROPERTIES}), none of them 0, "
                f"not {tuple(array.shape)}"
            )
    if predictions.shape != targets.shape:
        raise ValueError(
            "predictions and targets must have the same shape, "
            f"not {tuple(predictions.shape)} and {tuple(targets.shape)}"
        )
