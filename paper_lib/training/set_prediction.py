"""Training Locatello et al.'s set predictor to name every object's properties, and how often it is right."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from paper_lib.metrics import average_precision, hungarian_huber_loss, matched_attributes
from paper_lib.models import SetPredictionConfig, SetPredictor
from paper_lib.training.config import DataConfig, TrainingConfig
from paper_lib.training.dvae import to_uint8
from paper_lib.training.loop import Task, to_float
from paper_lib.training.slots import kept_cell, measure_cell, settings_at_test_time, slot_noise

THRESHOLDS = (math.inf, 1, 0.5, 0.25, 0.125)  # of the average precision, in scene units


@dataclass(frozen=True)
class SetPredictionRun:
    """A set predictor, its data and its training; the defaults are Locatello et al.'s. The model has a slot for every object that a scene may have.

    eval_images       validation images for the loss and the average precision
    jacobian_images   of those, how many the spectral norm and the residuals are averaged over
    residual_steps    steps of the iteration whose residuals are recorded
    test_images       test images that are scored at the end
    sample_images     of those, how many are kept with their predictions
    test_slots        other numbers of slots to score, as the model was trained otherwise; at least as many as the scenes have objects
    test_iterations   other numbers of iterations
    """

    model: SetPredictionConfig = field(default_factory=SetPredictionConfig)
    data: DataConfig = field(
        default_factory=lambda: DataConfig("clevr", size=128, num_scenes=100_000)
    )
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(
            150_000,
            512,
            1_000,
            clip=None,
            lr_decay_epochs=None,
            log_every=100,
            eval_every=2_500,
            decay_steps=50_000,
        )
    )
    seed: int = 0
    lr: float = 4e-4
    eval_images: int = 512
    jacobian_images: int = 32
    residual_steps: int = 21
    test_images: int = 15_000
    sample_images: int = 12
    test_slots: tuple[int, ...] = (12, 16)
    test_iterations: tuple[int, ...] = (1, 2, 5, 7, 11)

    kind = "set_prediction"


class SetPredictionTask(Task):
    """See `loop.Task`. The loss is `metrics.hungarian_huber_loss`, against a row for each object and zeros for the slots that are left."""

    monitor = "val_loss"

    def __init__(self, config: SetPredictionRun, train, validation, test):
        if config.model.image_size != config.data.size:
            raise ValueError(
                f"model.image_size must equal data.size, not {config.model.image_size} and {config.data.size}"
            )
        if train.properties is None:
            raise ValueError(
                f"{config.data.name!r} comes without the properties of its objects, which are what is predicted; use 'clevr' or 'clevr_mirror'"
            )
        objects, slots = (
            train.properties.shape[1],
            min((config.model.num_slots, *config.test_slots)),
        )
        if slots < objects:
            raise ValueError(
                f"model.num_slots and test_slots must be at least the data's largest number of objects, {objects}, not {slots}"
            )
        self.config = config
        self.model = SetPredictor(config.model)
        self.groups = [
            {"params": list(self.model.parameters()), "lr": config.lr, "warmup": True, "log": "lr"}
        ]
        self.watched = {"slot_attention": list(self.model.slot_attn.slot_attention.parameters())}
        self.images, self.properties = train.images, train.properties
        self.validation = to_float(validation.images[: config.eval_images])
        self.validation_targets = targets(
            validation.properties[: config.eval_images], config.model.num_slots
        )
        self.test = to_float(test.images[: config.test_images])
        self.test_properties = np.array(test.properties[: config.test_images])
        self.average = average_object(train.properties, config.model.num_slots)

    def batch(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W) in [0, 1] and targets (B, K, 19)."""
        return to_float(self.images[indices]), targets(
            self.properties[indices], self.config.model.num_slots
        )

    def loss(self, batch: tuple[Tensor, Tensor], step: int):
        image, target = batch
        loss = hungarian_huber_loss(self.model(image).predictions, target)
        return loss, {"loss": loss.detach()}

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """`scores` of validation images (the loss as val_loss), and of predicting the average object in every slot (average_object_...). Slots start from the
        same draws at every evaluation of every run."""
        c, true = self.config, self.validation_targets
        found = scores(self._predict(self.validation), true)
        average = scores(self.average.expand_as(true), true)
        image = self.validation[: c.jacobian_images].to(self._device)
        noise = slot_noise(self.model.slot_attn, len(image), seed=0)
        cell = measure_cell(
            self.model.slot_attn, self.model.encoder(image), noise, c.residual_steps
        )
        return {
            "val_loss": found.pop("loss"),
            **found,
            **{f"average_object_{name}": value for name, value in average.items()},
            **cell,
        }

    @torch.no_grad()
    def final(self) -> dict[str, float]:
        """`scores` of test images, as trained (test_ap_inf ...), with other numbers of slots (..._slots_12) and iterations (..._iterations_5), over the images
        with so many objects (..._objects_4); and of the average object (test_average_object_ap_inf ...)."""
        c, final = self.config, {"test_images": len(self.test)}

        def add(suffix: str, prediction: Tensor, target: Tensor, prefix: str = "test"):
            final.update(
                {
                    f"{prefix}_{name}{suffix}": value
                    for name, value in scores(prediction, target).items()
                }
            )

        settings = settings_at_test_time(c.test_slots, c.test_iterations)
        predictions = {
            suffix: self._predict(self.test, **setting) for suffix, setting in settings.items()
        }
        for suffix, prediction in predictions.items():
            add(suffix, prediction, targets(self.test_properties, prediction.shape[1]))
        prediction, target = predictions[""], targets(self.test_properties, c.model.num_slots)
        add("", self.average.expand_as(target), target, prefix="test_average_object")
        objects = target[..., -1].sum(1).int()
        for n in objects.unique().tolist():
            add(f"_objects_{n}", prediction[objects == n], target[objects == n])
            final[f"test_images_objects_{n}"] = int((objects == n).sum())
        return final

    @torch.no_grad()
    def samples(self) -> dict[str, np.ndarray]:
        """Test images, uint8 (n, H, W, 3); predictions and targets (n, K, 19); attn, float16 (n, N, K)."""
        image = self.test[: self.config.sample_images]
        out = self.model(
            image.to(self._device), slot_noise(self.model.slot_attn, len(image), seed=0)
        )
        return {
            "image": to_uint8(image),
            "predictions": out.predictions.cpu().numpy(),
            "targets": targets(
                self.test_properties[: len(image)], self.config.model.num_slots
            ).numpy(),
            "attn": out.attn.cpu().numpy().astype(np.float16),
        }

    @torch.no_grad()
    def cell(self) -> dict[str, Tensor]:
        """See `slots.kept_cell`, on four test images."""
        return kept_cell(self.model.slot_attn, self.model.encoder(self.test[:4].to(self._device)))

    def _predict(
        self, images: Tensor, num_slots: int | None = None, num_iterations: int | None = None
    ) -> Tensor:
        """images (B, 3, H, W) -> predictions (B, K, 19), on the CPU."""
        parts = []
        for k, image in enumerate(images.split(64)):
            noise = slot_noise(self.model.slot_attn, len(image), seed=k, num_slots=num_slots)
            parts.append(
                self.model(image.to(self._device), noise, num_iterations).predictions.cpu()
            )
        return torch.cat(parts)

    @property
    def _device(self):
        return self.model.slot_attn.slot_mu.device


def targets(properties: np.ndarray, num_slots: int) -> Tensor:
    """Properties (B, objects, 19) of at most num_slots objects -> (B, num_slots, 19), the rows that are left zero: no object."""
    return F.pad(torch.from_numpy(np.array(properties)), (0, 0, 0, num_slots - properties.shape[1]))


def average_object(properties: np.ndarray, num_slots: int) -> Tensor:
    """Properties (B, objects, 19) -> (19,): the mean over all objects that are present; for its confidence, the share of the slots that hold one."""
    present = properties[properties[..., -1] > 0.5]
    row = torch.from_numpy(present.mean(0))
    row[-1] = len(present) / (len(properties) * num_slots)
    return row


def scores(predictions: Tensor, true: Tensor) -> dict[str, float]:
    """predictions and targets (B, K, 19) -> loss; ap_inf, ap_1, ..., the average precision at `THRESHOLDS`; and `metrics.matched_attributes`."""
    arrays = predictions.numpy(), true.numpy()
    precision = {
        f"ap_{threshold:g}": average_precision(*arrays, threshold) for threshold in THRESHOLDS
    }
    return {
        "loss": hungarian_huber_loss(predictions, true).item(),
        **precision,
        **matched_attributes(predictions, true),
    }
