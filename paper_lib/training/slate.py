"""Training SLATE: on a frozen dVAE, or jointly with its own, as the authors do."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from paper_lib.models import SLATE, SLATEConfig
from paper_lib.system.memory import free_memory
from paper_lib.training.config import DataConfig, TrainingConfig
from paper_lib.training.dvae import DVAERun, code_usage, to_uint8
from paper_lib.training.loop import Task, to_float
from paper_lib.training.schedules import cosine
from paper_lib.training.slots import kept_cell, measure_cell, slot_noise


@dataclass(frozen=True)
class SLATERun:
    """A SLATE, its data and its training. `dvae`: the run whose dVAE is taken and frozen; None trains one jointly, as the authors do.

    lr, lr_dvae              learning rates of the model, and of a jointly trained dVAE
    tau_start, _final, _steps  cosine temperature of the relaxed sample that a jointly trained dVAE decodes
    eval_images              validation images for the cross entropy
    jacobian_images          of those, how many the spectral norm and the residuals are averaged over
    residual_steps           steps of the iteration whose residuals are recorded
    regenerate_images        test images that are regenerated token by token at the end
    sample_images            of those, how many are kept as pictures
    """

    model: SLATEConfig = field(default_factory=SLATEConfig)
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    dvae: DVAERun | None = None
    seed: int = 0
    lr: float = 1e-4
    lr_dvae: float = 3e-4
    tau_start: float = 1.0
    tau_final: float = 0.1
    tau_steps: int = 30_000
    eval_images: int = 512
    jacobian_images: int = 32
    residual_steps: int = 21
    regenerate_images: int = 256
    sample_images: int = 12

    kind = "slate"


class SLATETask(Task):
    """See `loop.Task`."""

    monitor = "val_cross_entropy"

    def __init__(
        self,
        config: SLATERun,
        train,
        validation,
        test,
        dvae_weights: dict[str, Tensor] | None = None,
    ):
        frozen, data, model = config.dvae, config.data, config.model
        if model.image_size != data.size or (
            frozen and (frozen.vocab_size, frozen.data) != (model.vocab_size, data)
        ):
            raise ValueError(
                "model.image_size must equal data.size, and a frozen dVAE's vocab_size and data must be the model's and the run's own"
            )
        self.config = config
        self.model = SLATE(config.model)
        dvae = list(self.model.dvae.parameters())
        others = [p for name, p in self.model.named_parameters() if not name.startswith("dvae.")]
        self.groups = [{"params": others, "lr": config.lr, "warmup": True, "log": "lr"}]
        if config.dvae is None:
            self.groups.append(
                {"params": dvae, "lr": config.lr_dvae, "warmup": False, "log": "lr_dvae"}
            )
        else:
            self.model.dvae.load_state_dict(dvae_weights)
            self.model.dvae.requires_grad_(False)
        self.watched = {"slot_attention": list(self.model.slot_attn.slot_attention.parameters())}
        self.images = train.images
        self.validation = to_float(validation.images[: config.eval_images])
        self.test = to_float(test.images[: config.regenerate_images])

    def loss(self, batch: tuple[Tensor], step: int):
        c, (image,) = self.config, batch
        if c.dvae is not None:
            cross_entropy = self.model.autoencode(self.model.sample_tokens(image))[0].mean()
            return cross_entropy, {"cross_entropy": cross_entropy.detach()}
        tau = cosine(step, c.tau_start, c.tau_final, c.tau_steps)
        out = self.model(image, tau)
        return out.cross_entropy + out.mse, {
            "cross_entropy": out.cross_entropy.detach(),
            "mse": out.mse.detach(),
            "tau": tau,
        }

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Tokens are drawn from the dVAE's posterior, as in training, and slots from their prior: the same draws at every evaluation of every run."""
        c, total, tokens = self.config, 0.0, []
        for k, image in enumerate(self.validation.split(64)):
            drawn, noise = self._draw(image, seed=k)
            total += self.model.autoencode(drawn, noise)[0].sum().item()
            tokens.append(drawn)
        usage = {} if c.dvae is not None else code_usage(torch.cat(tokens), c.model.vocab_size)
        drawn, noise = self._draw(self.validation[: c.jacobian_images], seed=0)
        cell = measure_cell(self.model.slot_attn, self._embed(drawn), noise, c.residual_steps)
        return {"val_cross_entropy": total / len(self.validation), **usage, **cell}

    @torch.no_grad()
    def samples(self) -> dict[str, np.ndarray]:
        """Test images, their reconstructions by the dVAE alone and from the slots, uint8 (n, H, W, 3); masks float16 (n, tokens, slots)."""
        keep = self.config.sample_images
        floor, recon, attn = regenerate(self.model, self.test[:keep])
        return {
            "image": to_uint8(self.test[:keep]),
            "dvae": to_uint8(floor),
            "reconstruction": to_uint8(recon),
            "attn": attn.cpu().numpy().astype(np.float16),
        }

    @torch.no_grad()
    def cell(self) -> dict[str, Tensor]:
        """See `slots.kept_cell`, on four test images."""
        return kept_cell(
            self.model.slot_attn, self._embed(self.model.tokenize(self.test[:4].to(self._device)))
        )

    @torch.no_grad()
    def final(self) -> dict[str, float]:
        """Regenerated from the slots token by token: squared error on test images, beside the floor that the dVAE sets."""
        ours = floor = 0.0
        batch = images_at_once(self.model)
        for first, image in zip(range(0, len(self.test), batch), self.test.split(batch)):
            decoded, recon, _ = regenerate(self.model, image, first)
            ours += (image.to(recon.device) - recon).square().sum().item()
            floor += (image.to(recon.device) - decoded).square().sum().item()
        return {
            "test_mse": ours / len(self.test),
            "test_mse_dvae": floor / len(self.test),
            "test_images": len(self.test),
        }

    def _draw(self, image: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator(self._device).manual_seed(seed)
        return self.model.sample_tokens(image.to(self._device), generator), slot_noise(
            self.model.slot_attn, len(image), seed
        )

    def _embed(self, tokens: Tensor) -> Tensor:
        """Tokens (B, N) -> what slot attention's encoder is given, without the start token."""
        return self.model.embed(tokens)[:, 1:]

    @property
    def _device(self):
        return self.model.out.weight.device


def images_at_once(model: SLATE) -> int:
    """How many images to regenerate together: what a quarter of the free memory holds, one at least and 256 at most. The more, the less each of them takes."""
    c, tokens = model.config, model.num_tokens
    cached = 2 * c.num_dec_blocks * tokens * c.d_model  # keys and values
    decoded = (
        3 * tokens * c.vocab_size + 3 * 4 * tokens * 256
    )  # one-hot tokens, in integers of twice the size first; the widest layer with its copies
    return max(1, min(256, free_memory(model.out.weight.device) // 4 // (4 * (cached + decoded))))


@torch.no_grad()
def regenerate(model: SLATE, image: Tensor, first: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """image (B, 3, H, W) -> what the dVAE makes of its most likely tokens, and of those that are generated from the slots, one by one, both (B, 3, H, W);
    the masks (B, tokens, slots). Slots start from 64 draws that images take in turn, `first` being the first image's place in its data set: the same
    every time, and however many images are regenerated together."""
    tokens = model.tokenize(image.to(model.out.weight.device))
    noise = slot_noise(model.slot_attn, 64, seed=0)[torch.arange(first, first + len(image)) % 64]
    out = model.infer_slots(tokens, noise)
    return (
        model.decode_tokens(tokens),
        model.decode_tokens(model.generate_tokens(out.slots)),
        out.attn,
    )
