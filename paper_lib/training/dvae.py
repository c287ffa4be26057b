"""Training a dVAE by itself, to be frozen under every variant and seed that shares it; and the
check that says whether it is fit for that.

Without a clip over all parameters the dVAE's training does not depend on the slots at all: SLATE
blocks the gradient between them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from paper_lib.models.dvae import DVAE, gumbel_softmax
from paper_lib.training.config import DataConfig, TrainingConfig
from paper_lib.training.run import Job, TrainingRun
from paper_lib.training.schedules import cosine
from paper_lib.training.task import Task, to_float, to_uint8


@dataclass(frozen=True, kw_only=True)
class DVAERunConfig(TrainingRun):
    """A dVAE, its data, its training, and the check that it has to pass.

    vocab_size                    codes of the vocabulary
    tau_start, tau_final          temperature of the relaxed sample, at the start and in the end,
    tau_steps                     along a cosine over so many steps
    eval_images, sample_images    validation images that are scored, and kept as pictures

    A healthy dVAE, on the validation images,

    min_codes                     uses at least so many codes (a collapsed one: one to three),
    max_mse_fraction              decodes its most likely tokens with an error of at most this
                                  fraction of the mean image's (a collapsed one exceeds 1),
    max_object_mse_fraction       and so on the pixels of objects alone,
    max_colour_error              where objects have, on average, at most this distance between
                                  their mean colour and that of their decoded pixels (RGB in
                                  [0, 1]); None: it is not looked at, as without masks
    """

    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(lr=3e-4))
    seed: int = 0
    vocab_size: int = 1024
    tau_start: float = 1.0
    tau_final: float = 0.1
    tau_steps: int = 30_000
    eval_images: int = 512
    sample_images: int = 12
    min_codes: int = 16
    max_mse_fraction: float = 0.5
    max_object_mse_fraction: float | None = None
    max_colour_error: float | None = None

    kind = "dvae"
    method = None  # there are no slots to find

    def task(self, splits: dict, job: Job) -> DVAETask:
        return DVAETask(self, splits["train"], splits["validation"])

    def faults(self, final: dict) -> list[str]:
        """Say why a dVAE with these final metrics should not be built on; [] if it is healthy."""
        if "codes_used" not in final:
            return ["its training diverged before the first evaluation"]
        faults = []
        if final["codes_used"] < self.min_codes:
            faults.append(
                f"{final['codes_used']:.0f} of {self.vocab_size} codes in use, fewer than "
                f"{self.min_codes}"
            )
        limits = [("MSE", "val_mse", self.max_mse_fraction, "mean_image_mse")]
        if self.max_object_mse_fraction is not None:
            objects = "val_mse_objects", self.max_object_mse_fraction, "mean_image_mse_objects"
            limits.append(("MSE on objects", *objects))
        for what, name, fraction, of in limits:
            # written so that an error that is not a number fails, too
            if not final[name] <= fraction * final[of]:
                faults.append(
                    f"{what} {final[name]:.1f} exceeds {fraction} of the mean image's "
                    f"{final[of]:.1f}"
                )
        if self.max_colour_error is not None:
            error = final["colour_error"]
            if not error <= self.max_colour_error:
                faults.append(f"colour error {error:.3f} exceeds {self.max_colour_error}")
        return faults


class DVAETask(Task):
    """The loss is SLATE's: squared error summed over pixels and channels, mean over images."""

    monitor = "val_mse"

    def __init__(self, config: DVAERunConfig, train, validation):
        self.config = config
        self.model = DVAE(config.vocab_size)
        parameters = list(self.model.parameters())
        lr = config.training.lr
        self.groups = [{"params": parameters, "lr": lr, "warmup": False, "log": "lr"}]
        self.watched = {}
        self.images = train.images
        self.validation = to_float(validation.images[: config.eval_images])
        self.masks = None
        if validation.masks is not None:
            self.masks = torch.from_numpy(np.array(validation.masks[: config.eval_images]))
        self.mean_image = to_float(train.images[:2000]).mean(0, keepdim=True)

    def loss(self, batch: tuple[Tensor], step: int):
        c, (image,) = self.config, batch
        tau = cosine(step, c.tau_start, c.tau_final, c.tau_steps)
        recon = self.model.decoder(gumbel_softmax(self.model.log_probs(image), tau))
        loss = (image - recon).square().sum() / len(image)
        return loss, {"mse": loss.detach(), "tau": tau}

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Score the decoded most likely tokens of validation images, and count the codes in use.

        val_mse and mean_image_mse are squared errors summed over pixels and channels; with masks
        val_mse_objects and mean_image_mse_objects are their parts on objects, and colour_error is
        as in the config's `max_colour_error`.
        """
        errors, tokens, colour_errors = [], [], []
        for k, image in enumerate(self.validation.split(128)):
            one_hot, most_likely = hard_tokens(self.model, image.to(self.device))
            recon = self.model.decoder(one_hot).clamp(0, 1).cpu()
            tokens.append(most_likely.cpu())
            errors.append((image - recon).square().sum(1))
            if self.masks is not None:
                masks = self.masks[128 * k : 128 * k + len(image)]
                colour_errors.append(_colour_errors(image, recon, masks))
        error = torch.cat(errors)
        mean_image_error = (self.validation - self.mean_image).square().sum(1)
        metrics = {"val_mse": _per_image(error), "mean_image_mse": _per_image(mean_image_error)}
        if self.masks is not None:
            on_objects = self.masks > 0
            metrics["val_mse_objects"] = _per_image(error * on_objects)
            metrics["mean_image_mse_objects"] = _per_image(mean_image_error * on_objects)
            metrics["colour_error"] = torch.cat(colour_errors).mean().item()
        return metrics | code_usage(torch.cat(tokens), self.config.vocab_size)

    @torch.no_grad()
    def samples(self) -> dict[str, np.ndarray]:
        """Return the first validation images and their reconstructions through the most likely
        tokens, uint8 (n, H, W, 3)."""
        image = self.validation[: self.config.sample_images]
        one_hot, _ = hard_tokens(self.model, image.to(self.device))
        return {"image": to_uint8(image), "reconstruction": to_uint8(self.model.decoder(one_hot))}


def hard_tokens(dvae: DVAE, image: Tensor) -> tuple[Tensor, Tensor]:
    """Return the most likely tokens of an image (B, 3, H, W), one-hot (B, vocab, h, w) and as
    indices (B, h, w)."""
    logits = dvae.encoder(image)
    tokens = logits.argmax(1)
    return torch.zeros_like(logits).scatter_(1, tokens[:, None], 1.0), tokens


def _per_image(error: Tensor) -> float:
    """Return a squared error (B, H, W) summed over pixels, mean over images."""
    return error.double().sum().item() / len(error)


def _colour_errors(image: Tensor, recon: Tensor, masks: Tensor) -> Tensor:
    """Return the distance between the mean colours of each object's pixels in images and their
    reconstructions, both (B, 3, H, W); masks (B, H, W) hold the objects' numbers."""
    distances = [torch.zeros(0)]
    for number in range(1, int(masks.max()) + 1):
        pixels = (masks == number)[:, None].float()
        count = pixels.sum((2, 3))
        difference = ((image - recon) * pixels).sum((2, 3)) / count.clamp_min(1)
        distances.append(difference.norm(dim=1)[count[:, 0] > 0])
    return torch.cat(distances)


def code_usage(tokens: Tensor, vocab_size: int) -> dict[str, float]:
    """Count the codes that occur among tokens, and take the perplexity of their distribution."""
    p = torch.bincount(tokens.flatten(), minlength=vocab_size).double() / tokens.numel()
    perplexity = torch.special.entr(p).sum().exp().item()
    return {"codes_used": int((p > 0).sum()), "perplexity": perplexity}
