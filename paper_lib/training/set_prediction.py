"""Training Locatello et al.'s set predictor to name every object's properties, and how often it is
right."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paper_lib.fixed_point import Iteration
from paper_lib.metrics import average_precision, hungarian_huber_loss, matched_attributes
from paper_lib.models import SetPredictionConfig, SetPredictor, SlotEncoder
from paper_lib.training.config import DataConfig, TrainingConfig
from paper_lib.training.run import Job, TrainingRun
from paper_lib.training.slots import at_test_time, kept_cell, measure_cell, slot_noise
from paper_lib.training.task import Task, to_float, to_uint8

THRESHOLDS = (math.inf, 1, 0.5, 0.25, 0.125)  # of the average precision, in scene units


def _locatello_data() -> DataConfig:
    return DataConfig(name="clevr", size=128, num_scenes=100_000)


def _locatello_training() -> TrainingConfig:
    return TrainingConfig(
        lr=4e-4,
        steps=150_000,
        batch_size=512,
        warmup_steps=1_000,
        clip=None,
        lr_decay_epochs=None,
        decay_steps=50_000,
        log_every=100,
        eval_every=2_500,
    )


@dataclass(frozen=True, kw_only=True)
class SetPredictionRunConfig(TrainingRun):
    """A set predictor, its data and its training; the defaults are Locatello et al.'s.

    The model has a slot for every object that a scene may have.

    eval_images       validation images for the loss and the average precision
    jacobian_images   of those, how many the spectral norm and the residuals are averaged over
    residual_steps    steps of the iteration whose residuals are recorded
    test_images       test images that are scored at the end
    sample_images     of those, how many are kept with their predictions
    test_slots        other numbers of slots to score, as the model was trained otherwise; at least
                      as many as the scenes have objects
    test_iterations   other numbers of iterations
    """

    model: SetPredictionConfig = field(default_factory=SetPredictionConfig)
    data: DataConfig = field(default_factory=_locatello_data)
    training: TrainingConfig = field(default_factory=_locatello_training)
    seed: int = 0
    eval_images: int = 512
    jacobian_images: int = 32
    residual_steps: int = 21
    test_images: int = 15_000
    sample_images: int = 12
    test_slots: tuple[int, ...] = (12, 16)
    test_iterations: tuple[int, ...] = (1, 2, 5, 7, 11)

    kind = "set_prediction"

    def task(self, splits: dict, job: Job) -> SetPredictionTask:
        return SetPredictionTask(self, **splits)


class SetPredictionTask(Task):
    """The loss is `metrics.hungarian_huber_loss`, against a row for each object and zeros for the
    slots that are left."""

    monitor = "val_loss"

    def __init__(self, config: SetPredictionRunConfig, train, validation, test):
        _check(config, train)
        self.config = config
        self.model = self.build()
        parameters = list(self.model.parameters())
        lr = config.training.lr
        self.groups = [{"params": parameters, "lr": lr, "warmup": True, "log": "lr"}]
        self.watched = self.watch()
        self.images, self.properties = train.images, train.properties
        slots = config.model.num_slots
        self.validation = to_float(validation.images[: config.eval_images])
        self.validation_targets = targets(validation.properties[: config.eval_images], slots)
        self.test = to_float(test.images[: config.test_images])
        self.test_properties = np.array(test.properties[: config.test_images])
        self.average = average_object(train.properties, slots)

    def build(self) -> nn.Module:
        """Return the model, which takes images, noise and a solver to a `SetPredictionOutput`."""
        return SetPredictor(self.config.model)

    @property
    def refiner(self) -> SlotEncoder | nn.Module:
        """The part of the model that searches a fixed point."""
        return self.model.slot_attn

    def watch(self) -> dict[str, list[nn.Parameter]]:
        """Return the parameters whose gradient norms are logged: those of the map that iterates."""
        return {"slot_attention": list(self.refiner.slot_attention.parameters())}

    def batch(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return images (B, 3, H, W) in [0, 1] and targets (B, K, 19)."""
        target = targets(self.properties[indices], self.config.model.num_slots)
        return to_float(self.images[indices]), target

    def loss(self, batch: tuple[Tensor, Tensor], step: int):
        image, target = batch
        loss = hungarian_huber_loss(self.model(image).predictions, target)
        return loss, {"loss": loss.detach()}

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Score validation images, and measure the cell.

        Returns their `scores` (the loss as val_loss), and those of predicting the average object in
        every slot (average_object_...). Slots start from the same draws at every evaluation of
        every run.
        """
        c, true = self.config, self.validation_targets
        found = scores(self._predict(self.validation), true)
        average = scores(self.average.expand_as(true), true)
        image = self.validation[: c.jacobian_images].to(self.device)
        noise = slot_noise(self.refiner, len(image), seed=0)
        embedded = self.model.encoder(image)
        return {
            "val_loss": found.pop("loss"),
            **found,
            **{f"average_object_{name}": value for name, value in average.items()},
            **measure_cell(self.refiner, embedded, noise, c.residual_steps),
        }

    @torch.no_grad()
    def final(self) -> dict[str, float]:
        """Score test images in several ways.

        They are scored as trained (test_ap_inf ...), with other numbers of slots (..._slots_12) and
        iterations (..._iterations_5), and by how many objects they show (..._objects_4); and the
        average object is (test_average_object_ap_inf ...).
        """
        c = self.config
        settings = at_test_time(self.refiner, c.test_slots, c.test_iterations)
        final = {"test_images": len(self.test)}
        for suffix, setting in settings.items():
            prediction = self._predict(self.test, **setting)
            target = targets(self.test_properties, prediction.shape[1])
            final |= _named(scores(prediction, target), "test_", suffix)

        prediction = self._predict(self.test)
        target = targets(self.test_properties, c.model.num_slots)
        average = self.average.expand_as(target)
        final |= _named(scores(average, target), "test_average_object_")
        objects = target[..., -1].sum(1).int()
        for n in objects.unique().tolist():
            shown = objects == n
            final |= _named(scores(prediction[shown], target[shown]), "test_", f"_objects_{n}")
            final[f"test_images_objects_{n}"] = int(shown.sum())
        return final

    @torch.no_grad()
    def samples(self) -> dict[str, np.ndarray]:
        """Return test images, uint8 (n, H, W, 3); predictions and targets (n, K, 19); and masks,
        float16 (n, N, K), as attn, where the model has any."""
        image = self.test[: self.config.sample_images]
        noise = slot_noise(self.refiner, len(image), seed=0)
        out = self.model(image.to(self.device), noise)
        properties = self.test_properties[: len(image)]
        kept = {
            "image": to_uint8(image),
            "predictions": out.predictions.cpu().numpy(),
            "targets": targets(properties, self.config.model.num_slots).numpy(),
        }
        if out.attn is not None:
            kept["attn"] = out.attn.cpu().numpy().astype(np.float16)
        return kept

    @torch.no_grad()
    def cell(self) -> dict[str, Tensor]:
        image = self.test[:4].to(self.device)
        return kept_cell(self.refiner, self.model.encoder(image))

    def _predict(
        self, images: Tensor, num_slots: int | None = None, solver: Iteration | None = None
    ) -> Tensor:
        """Predict the objects of images (B, 3, H, W): (B, K, 19), on the CPU."""
        parts = []
        for k, image in enumerate(images.split(64)):
            noise = slot_noise(self.refiner, len(image), seed=k, num_slots=num_slots)
            out = self.model(image.to(self.device), noise, solver)
            parts.append(out.predictions.cpu())
        return torch.cat(parts)


def _check(config: SetPredictionRunConfig, train) -> None:
    """Raise ValueError for a model that does not fit its data."""
    model, data = config.model, config.data
    if model.image_size != data.size:
        raise ValueError(
            f"model.image_size must equal data.size, not {model.image_size} and {data.size}"
        )
    if train.properties is None:
        raise ValueError(
            f"{data.name!r} comes without the properties of its objects, which are what is "
            "predicted; use 'clevr' or 'clevr_mirror'"
        )
    objects = train.properties.shape[1]
    slots = min(model.num_slots, *config.test_slots) if config.test_slots else model.num_slots
    if slots < objects:
        raise ValueError(
            "model.num_slots and test_slots must be at least the data's largest number of objects, "
            f"{objects}, not {slots}"
        )


def targets(properties: np.ndarray, num_slots: int) -> Tensor:
    """Pad properties (B, objects, 19) to (B, num_slots, 19); a row of zeros is no object."""
    rows = torch.from_numpy(np.array(properties))
    return F.pad(rows, (0, 0, 0, num_slots - properties.shape[1]))


def average_object(properties: np.ndarray, num_slots: int) -> Tensor:
    """Average the objects of properties (B, objects, 19) that are present: (19,).

    Its confidence is the share of the slots that hold an object.
    """
    present = properties[properties[..., -1] > 0.5]
    row = torch.from_numpy(present.mean(0))
    row[-1] = len(present) / (len(properties) * num_slots)
    return row


def scores(predictions: Tensor, true: Tensor) -> dict[str, float]:
    """Score predictions against targets, both (B, K, 19).

    Returns loss; ap_inf, ap_1, ..., the average precision at `THRESHOLDS`; and what
    `metrics.matched_attributes` returns.
    """
    result = {"loss": hungarian_huber_loss(predictions, true).item()}
    for threshold in THRESHOLDS:
        ap = average_precision(predictions.numpy(), true.numpy(), threshold)
        result[f"ap_{threshold:g}"] = ap
    return result | matched_attributes(predictions, true)


def _named(values: dict, prefix: str, suffix: str = "") -> dict:
    return {f"{prefix}{name}{suffix}": value for name, value in values.items()}
