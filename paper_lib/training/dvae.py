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
    min_codes                     a healthy dVAE uses so many codes on the validation images, and
    max_mse_fraction              its most likely tokens decode with an error of at most this
                                  fraction of the mean image's (a collapsed one shows one to three
                                  codes and exceeds 1)
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

    kind = "dvae"

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
        # written so that an error that is not a number fails, too
        if not final["val_mse"] <= self.max_mse_fraction * final["mean_image_mse"]:
            faults.append(
                f"MSE {final['val_mse']:.1f} exceeds {self.max_mse_fraction} of the mean image's "
                f"{final['mean_image_mse']:.1f}"
            )
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
        self.mean_image = to_float(train.images[:2000]).mean(0, keepdim=True)

    def loss(self, batch: tuple[Tensor], step: int):
        c, (image,) = self.config, batch
        tau = cosine(step, c.tau_start, c.tau_final, c.tau_steps)
        recon = self.model.decoder(gumbel_softmax(self.model.log_probs(image), tau))
        loss = (image - recon).square().sum() / len(image)
        return loss, {"mse": loss.detach(), "tau": tau}

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Score the decoded most likely tokens of validation images, and count the codes in use."""
        squared_error, tokens = 0.0, []
        for image in self.validation.split(128):
            image = image.to(self.device)
            one_hot, most_likely = hard_tokens(self.model, image)
            recon = self.model.decoder(one_hot).clamp(0, 1)
            squared_error += (image - recon).square().sum().item()
            tokens.append(most_likely)
        count = len(self.validation)
        mean_image_error = (self.validation - self.mean_image).square().sum().item()
        return {
            "val_mse": squared_error / count,
            "mean_image_mse": mean_image_error / count,
            **code_usage(torch.cat(tokens), self.config.vocab_size),
        }

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


def code_usage(tokens: Tensor, vocab_size: int) -> dict[str, float]:
    """Count the codes that occur among tokens, and take the perplexity of their distribution."""
    p = torch.bincount(tokens.flatten(), minlength=vocab_size).double() / tokens.numel()
    perplexity = torch.special.entr(p).sum().exp().item()
    return {"codes_used": int((p > 0).sum()), "perplexity": perplexity}
