"""Table 3, measured: the test images of a trained SLATE regenerated from their slots, token by token, and scored, with the masks beside."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from paper_lib.metrics import foreground_ari, frechet, ignorant_scores, mean_iou, segments
from paper_lib.models import SLATE
from paper_lib.system.progress import bar
from paper_lib.training.dvae import to_uint8
from paper_lib.training.loop import to_float
from paper_lib.training.slate import SLATERun, images_at_once, regenerate


@dataclass(frozen=True)
class RegenerationRun:
    """Which SLATE is scored, on the first `images` test images (None: all), with which network's features (a name of `frechet.features`)."""

    slate: SLATERun = field(default_factory=SLATERun)
    images: int | None = None
    features: str = "efficientnet-lite0"

    kind = "regeneration"

    @property
    def seed(self) -> int:
        return self.slate.seed

    @property
    def model(self):
        return self.slate.model


@torch.no_grad()
def measure(
    config: RegenerationRun, weights: dict[str, Tensor], device: str = "cpu"
) -> tuple[pd.DataFrame, dict]:
    """One row for each test image, and the numbers that only a whole set has.

    Columns: mse, mse_dvae (squared error summed over pixels and channels, of the slots' reconstruction and of the dVAE's own, the floor); and where the data
    set has masks: mse_foreground (of the part on objects), foreground_ari, mean_iou, largest_share (the share of the foreground that one slot holds).
    The set's: frechet, frechet_dvae, frechet_low, frechet_high (95% bootstrap interval over images, of the slots' images), frechet_dimension; and what
    masks score that know nothing (grid_foreground_ari, random_mean_iou ...).
    """
    model = SLATE(config.model)
    model.load_state_dict(weights)
    model.to(device).eval()
    test = config.slate.data.load("test")
    count = len(test) if config.images is None else min(config.images, len(test))
    batch = images_at_once(model)
    rows, pictures, floors = [], [], []
    with bar(count, "regenerate", "image") as progress:
        for start in range(0, count, batch):
            chosen = slice(start, min(start + batch, count))
            image = to_float(test.images[chosen])
            floor, recon, attn = (x.cpu() for x in regenerate(model, image, start))
            error = (image - recon).square().sum(1)
            scores = {"mse": error.sum((1, 2)), "mse_dvae": (image - floor).square().sum((1, 2, 3))}
            if test.masks is not None:
                scores |= _segmentation(np.asarray(test.masks[chosen]), attn, error)
            rows.append(pd.DataFrame(scores))
            pictures.append(to_uint8(recon))
            floors.append(to_uint8(floor))
            progress.update(len(image))
    final = _frechet(
        frechet.features(config.features, device=device), test.images[:count], pictures, floors
    )
    if test.masks is not None:
        final |= ignorant_scores(
            np.asarray(test.masks[:count]), config.model.num_slots, _mask_scores
        )
    return pd.concat(rows, ignore_index=True).rename_axis("image").reset_index(), final


def _segmentation(masks: np.ndarray, attn: Tensor, error: Tensor) -> dict[str, np.ndarray]:
    """masks (B, H, W) of instances, attn (B, N, K), squared error (B, H, W) -> scores (B,)."""
    found = segments(attn.numpy(), masks.shape[-1])
    return {
        "mse_foreground": (error.numpy() * (masks > 0)).sum((1, 2)),
        **_mask_scores(masks, found),
    }


def _mask_scores(masks: np.ndarray, found: np.ndarray) -> dict[str, np.ndarray]:
    """True instances and segments, (B, H, W) -> scores (B,)."""
    foreground = masks > 0
    held = np.stack(
        [((found == slot) & foreground).sum((1, 2)) for slot in range(found.max() + 1)]
    ).max(0)
    with np.errstate(invalid="ignore"):  # nan for an image without foreground, as the other scores
        largest = held / foreground.sum((1, 2))
    return {
        "foreground_ari": foreground_ari(masks, found),
        "mean_iou": mean_iou(masks, found),
        "largest_share": largest,
    }


def _frechet(
    network: frechet.Network, images: np.ndarray, pictures: list, floors: list
) -> dict[str, float]:
    real, ours, floor = (
        network(np.ascontiguousarray(x))
        for x in (images, np.concatenate(pictures), np.concatenate(floors))
    )
    low, high = frechet.frechet_interval(real, ours)
    distances = {
        "frechet": frechet.frechet_distance(real, ours),
        "frechet_dvae": frechet.frechet_distance(real, floor),
    }
    return {
        **distances,
        "frechet_low": low,
        "frechet_high": high,
        "frechet_dimension": network.dimension,
        "images": len(images),
    }
