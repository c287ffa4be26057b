"""Table 3, measured: the test images of a trained SLATE regenerated from their slots, token by
token, and scored, with the masks beside."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from paper_lib.metrics import frechet, ignorant_scores, mask_scores, segments
from paper_lib.models import SLATE
from paper_lib.system.files import whole
from paper_lib.system.progress import bar
from paper_lib.training import parallel
from paper_lib.training.slate import SLATERunConfig, images_at_once, regenerate
from paper_lib.training.task import to_float, to_uint8


@dataclass(frozen=True)
class RegenerationRunConfig:
    """Which SLATE is scored, on how many of its test images, with which features.

    images    the first so many test images; None: all
    features  the network that Frechet distances are taken in, a name of `frechet.features`
    """

    slate: SLATERunConfig = field(default_factory=SLATERunConfig)
    images: int | None = None
    features: str = "efficientnet-lite0"

    kind = "regeneration"
    alone = False

    @property
    def seed(self) -> int:
        return self.slate.seed

    @property
    def method(self) -> str:
        return self.slate.method

    @property
    def model(self):
        return self.slate.model

    def needs(self) -> list:
        return [self.slate]

    def ensure_performable(self) -> None:
        """Nothing stands in its way."""

    def perform(self, job) -> dict:
        """Score the test images, and write a row for each as the run's metrics.

        A run that diverged before its first evaluation has nothing to show.
        """
        trained = job.result_of(self.slate)

        def work() -> dict:
            scores, final = pd.DataFrame(columns=["image", "mse", "mse_dvae"]), {}
            if trained.summary["final"]:
                scores, final = measure(self, trained.weights, job.device)
            with whole(job.folder / "metrics.csv") as temporary:
                scores.to_csv(temporary, index=False, float_format="%.5g")
            return final

        return {"status": trained.summary["status"], "final": parallel.of_first(work)}


@torch.no_grad()
def measure(
    config: RegenerationRunConfig, weights: dict[str, Tensor], device: str = "cpu"
) -> tuple[pd.DataFrame, dict]:
    """Return one row for each test image, and the numbers that only a whole set has.

    Columns are mse and mse_dvae, squared errors summed over pixels and channels, of the slots'
    reconstruction and of the dVAE's own, which is the floor; and where the data set has masks
    mse_foreground, of the part on objects, and what `mask_scores` scores.
    The set's numbers are frechet and frechet_dvae; frechet_low and frechet_high, the 95% bootstrap
    interval over images, of the slots' images; frechet_dimension; and what masks score that know
    nothing (grid_foreground_ari, random_mean_iou ...).
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
            scores = {
                "mse": error.sum((1, 2)),
                "mse_dvae": (image - floor).square().sum((1, 2, 3)),
            }
            if test.masks is not None:
                scores |= _on_objects(np.asarray(test.masks[chosen]), attn, error)
            rows.append(pd.DataFrame(scores))
            pictures.append(to_uint8(recon))
            floors.append(to_uint8(floor))
            progress.update(len(image))
    network = frechet.features(config.features, device=device)
    final = _frechet(network, test.images[:count], pictures, floors)
    if test.masks is not None:
        masks = np.asarray(test.masks[:count])
        final |= ignorant_scores(masks, config.model.num_slots, mask_scores)
    table = pd.concat(rows, ignore_index=True)
    return table.rename_axis("image").reset_index(), final


def _on_objects(masks: np.ndarray, attn: Tensor, error: Tensor) -> dict[str, np.ndarray]:
    """Score masks (B, H, W) of instances, attn (B, N, K) and a squared error (B, H, W): (B,)."""
    found = segments(attn.numpy(), masks.shape[-1])
    foreground = (error.numpy() * (masks > 0)).sum((1, 2))
    return {"mse_foreground": foreground, **mask_scores(masks, found)}


def _frechet(
    network: frechet.Network, images: np.ndarray, pictures: list, floors: list
) -> dict[str, float]:
    real = network(np.ascontiguousarray(images))
    ours = network(np.concatenate(pictures))
    floor = network(np.concatenate(floors))
    low, high = frechet.frechet_interval(real, ours)
    return {
        "frechet": frechet.frechet_distance(real, ours),
        "frechet_dvae": frechet.frechet_distance(real, floor),
        "frechet_low": low,
        "frechet_high": high,
        "frechet_dimension": network.dimension,
        "images": len(images),
    }
