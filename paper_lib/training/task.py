"""What the training loop and the engine ask of a model and its data."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from paper_lib.training.device import OnDevice


class Task:
    """A model, its data, and what is measured of it. Every kind of model has a subclass.

    model    the module that is trained
    groups   groups of the optimiser: dicts of params; lr; warmup, whether the warm-up applies; and
             log, the name under which the group's learning rate is logged
    images   (N, H, W, 3) uint8, the training images; the loop puts them on a GPU if they fit
    watched  parameters by name, whose gradient norms are logged
    monitor  the metric of `evaluate` that the learning-rate decay watches
    """

    model: nn.Module
    groups: list[dict]
    images: np.ndarray | OnDevice
    watched: dict[str, list[nn.Parameter]]
    monitor: str

    def batch(self, indices: np.ndarray) -> tuple[Tensor, ...]:
        """Return what `loss` is given of these training images: (B, 3, H, W) in [0, 1] alone,
        unless a task adds to them."""
        return (to_float(self.images[indices]),)

    def loss(self, batch: tuple[Tensor, ...], step: int) -> tuple[Tensor, dict]:
        """Return the loss to minimise of a batch on the model's device, and what to log of it."""
        raise NotImplementedError

    def evaluate(self) -> dict[str, float]:
        """Return metrics on the validation split; the global random state is left alone."""
        raise NotImplementedError

    def samples(self) -> dict[str, np.ndarray]:
        """Return pictures to keep, by name."""
        raise NotImplementedError

    def final(self) -> dict[str, float]:
        """Return metrics on the test split, once, at the end; a task may have none."""
        return {}

    def cell(self) -> dict[str, Tensor]:
        """Return the trained cell to keep (see `slots.kept_cell`); a task may have none."""
        return {}

    @property
    def device(self) -> torch.device:
        """The device that the model is on."""
        return next(self.model.parameters()).device


def to_float(images: np.ndarray | Tensor) -> Tensor:
    """Turn uint8 images (B, H, W, 3) into float32 (B, 3, H, W) in [0, 1], where they are."""
    images = images if isinstance(images, Tensor) else torch.from_numpy(np.array(images))
    return images.permute(0, 3, 1, 2).contiguous().float() / 255


def to_uint8(images: Tensor) -> np.ndarray:
    """Turn images (B, 3, H, W) in [0, 1] into uint8 (B, H, W, 3), on the CPU."""
    return (images.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
