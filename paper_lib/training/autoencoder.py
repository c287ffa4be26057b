"""Training Locatello et al.'s autoencoder to reconstruct images, and what its masks are worth."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from paper_lib.fixed_point import Iteration
from paper_lib.metrics import ignorant_scores, mask_scores, segments
from paper_lib.models import AutoencoderConfig, SlotAttentionAutoEncoder
from paper_lib.training.config import DataConfig, TrainingConfig
from paper_lib.training.run import Job, TrainingRun
from paper_lib.training.slots import at_test_time, kept_cell, measure_cell, slot_noise
from paper_lib.training.task import Task, to_float, to_uint8


def _locatello_data() -> DataConfig:
    return DataConfig(name="clevr", size=128, num_scenes=100_000, max_objects=6, crop=True)


def _locatello_training() -> TrainingConfig:
    return TrainingConfig(
        lr=4e-4,
        steps=500_000,
        batch_size=64,
        warmup_steps=10_000,
        clip=None,
        lr_decay_epochs=None,
        decay_steps=100_000,
        log_every=100,
        eval_every=5_000,
    )


@dataclass(frozen=True, kw_only=True)
class AutoencoderRunConfig(TrainingRun):
    """A slot attention autoencoder, its data and its training; the defaults are Locatello et al.'s.

    eval_images       validation images for the error and the masks
    jacobian_images   of those, how many the spectral norm and the residuals are averaged over
    residual_steps    steps of the iteration whose residuals are recorded
    test_images       test images that are scored at the end
    sample_images     of those, how many are kept as pictures
    test_slots        other numbers of slots to score, as the model was trained otherwise
    test_iterations   other numbers of iterations
    crowded           test scenes with more objects than those it is trained on, scored with a slot
                      more than they have objects at most; or None
    """

    model: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    data: DataConfig = field(default_factory=_locatello_data)
    training: TrainingConfig = field(default_factory=_locatello_training)
    seed: int = 0
    eval_images: int = 320
    jacobian_images: int = 32
    residual_steps: int = 21
    test_images: int = 320
    sample_images: int = 12
    test_slots: tuple[int, ...] = (9, 11)
    test_iterations: tuple[int, ...] = (1, 2, 5, 7, 11)
    crowded: DataConfig | None = None

    kind = "autoencoder"

    def task(self, splits: dict, job: Job) -> AutoencoderTask:
        return AutoencoderTask(self, **splits)


class AutoencoderTask(Task):
    """The loss is the squared error, a mean over images, pixels and channels (in [0, 1]: a quarter
    of Locatello et al.'s, in [-1, 1])."""

    monitor = "val_mse"

    def __init__(self, config: AutoencoderRunConfig, train, validation, test):
        if config.model.image_size != config.data.size:
            raise ValueError(
                "model.image_size must equal data.size, not "
                f"{config.model.image_size} and {config.data.size}"
            )
        self.config = config
        self.model = SlotAttentionAutoEncoder(config.model)
        parameters = list(self.model.parameters())
        lr = config.training.lr
        self.groups = [{"params": parameters, "lr": lr, "warmup": True, "log": "lr"}]
        self.watched = {"slot_attention": list(self.model.slot_attn.slot_attention.parameters())}
        self.images = train.images
        self.validation, self.validation_masks = _first(validation, config.eval_images)
        self.test, self.test_masks = _first(test, config.test_images)

    def loss(self, batch: tuple[Tensor], step: int):
        (image,) = batch
        mse = F.mse_loss(self.model(image).reconstruction, image)
        return mse, {"mse": mse.detach()}

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Score validation images, and measure the cell.

        Slots start from the same draws at every evaluation of every run. The decoder's masks are
        scored and, as attn_..., slot attention's, each pixel going to its largest; there are no
        such scores where the data has no true masks.
        """
        c = self.config
        scores = self._scores(self.validation, self.validation_masks).mean().to_dict()
        image = self.validation[: c.jacobian_images].to(self.device)
        noise = slot_noise(self.model.slot_attn, len(image), seed=0)
        embedded = self.model.encoder(image)
        cell = measure_cell(self.model.slot_attn, embedded, noise, c.residual_steps)
        return {"val_mse": scores.pop("mse"), **scores, **cell}

    @torch.no_grad()
    def final(self) -> dict[str, float]:
        """Score test images in several ways.

        They are scored as trained (test_mse ...), with other numbers of slots (..._slots_9) and
        iterations (..._iterations_5), and by how many objects they show (..._objects_4). Crowded
        scenes are scored (crowded_mse_objects_7 ...), and so are masks that know nothing of the
        image (grid_mean_iou, random_foreground_ari ...).
        """
        c = self.config
        settings = at_test_time(self.model.slot_attn, c.test_slots, c.test_iterations)
        final = {"test_images": len(self.test)}
        for suffix, setting in settings.items():
            rows = self._scores(self.test, self.test_masks, **setting)
            final |= rows.mean().add_prefix("test_").add_suffix(suffix).to_dict()
            if self.test_masks is not None and not setting:
                final |= _by_objects(rows, self.test_masks, "test_")
        if c.crowded is not None:
            images, masks = _first(c.crowded.load("test"), c.test_images)
            if masks is not None:
                rows = self._scores(images, masks, num_slots=c.crowded.max_objects + 1)
                final |= _by_objects(rows, masks, "crowded_")
        if self.test_masks is not None:
            final |= ignorant_scores(self.test_masks, c.model.num_slots, mask_scores)
        return {name: float(value) for name, value in final.items()}

    @torch.no_grad()
    def samples(self) -> dict[str, np.ndarray]:
        """Return test images and what the model makes of them.

        image, reconstruction  uint8 (n, H, W, 3)
        components             uint8 (n, K, H, W, 3), each slot's picture
        masks                  uint8 (n, K, H, W), 255 where a slot has the pixel to itself
        attn                   float16 (n, N, K), slot attention's masks
        true_masks             (n, H, W), where there are any
        """
        image = self.test[: self.config.sample_images]
        noise = slot_noise(self.model.slot_attn, len(image), seed=0)
        out = self.model(image.to(self.device), noise)
        kept = {
            "image": to_uint8(image),
            "reconstruction": to_uint8(out.reconstruction),
            "components": np.stack([to_uint8(pictures) for pictures in out.components]),
            "masks": (out.masks * 255).round().byte().cpu().numpy(),
            "attn": out.attn.cpu().numpy().astype(np.float16),
        }
        if self.test_masks is not None:
            kept["true_masks"] = self.test_masks[: len(image)]
        return kept

    @torch.no_grad()
    def cell(self) -> dict[str, Tensor]:
        image = self.test[:4].to(self.device)
        return kept_cell(self.model.slot_attn, self.model.encoder(image))

    def _scores(
        self,
        images: Tensor,
        masks: np.ndarray | None,
        num_slots: int | None = None,
        solver: Iteration | None = None,
    ) -> pd.DataFrame:
        """Score every image, a row each: mse, what `mask_scores` scores of the decoder's masks and,
        as attn_..., of slot attention's; nan where an image has no objects."""
        rows = []
        for k, image in enumerate(images.split(64)):
            noise = slot_noise(self.model.slot_attn, len(image), seed=k, num_slots=num_slots)
            out = self.model(image.to(self.device), noise, solver)
            error = (out.reconstruction.cpu() - image).square()
            scores = {"mse": error.mean((1, 2, 3)).double()}
            if masks is not None:
                true = masks[64 * k : 64 * k + len(image)]
                scores |= mask_scores(true, out.masks.argmax(1).cpu().numpy())
                attn = mask_scores(true, segments(out.attn, image.shape[-1]))
                scores |= {f"attn_{name}": values for name, values in attn.items()}
            rows.append(pd.DataFrame(scores))
        return pd.concat(rows, ignore_index=True)


def _first(dataset, count: int) -> tuple[Tensor, np.ndarray | None]:
    """Return the first images, (B, 3, H, W) in [0, 1], and their instance masks (B, H, W)."""
    masks = None if dataset.masks is None else np.array(dataset.masks[:count])
    return to_float(dataset.images[:count]), masks


def _by_objects(rows: pd.DataFrame, masks: np.ndarray, prefix: str) -> dict[str, float]:
    """Average the rows, one an image, over the images that show the same number of objects."""
    objects = [len(np.unique(mask[mask > 0])) for mask in masks]
    scores = {}
    for n, group in rows.groupby(objects):
        scores |= group.mean().add_prefix(prefix).add_suffix(f"_objects_{n}").to_dict()
        scores[f"{prefix}images_objects_{n}"] = len(group)
    return scores
