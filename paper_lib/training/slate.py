"""Training SLATE: on a frozen dVAE, or jointly with its own, as the authors do."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from paper_lib.models import SLATE, SLATEConfig
from paper_lib.system.memory import free_memory
from paper_lib.training.announcers import gradient_spread, path_norm
from paper_lib.training.config import DataConfig, TrainingConfig
from paper_lib.training.dvae import DVAERunConfig, code_usage
from paper_lib.training.run import Job, TrainingRun
from paper_lib.training.schedules import cosine
from paper_lib.training.slots import kept_cell, measure_cell, slot_noise
from paper_lib.training.task import Task, to_float, to_uint8


@dataclass(frozen=True, kw_only=True)
class SLATERunConfig(TrainingRun):
    """A SLATE, its data and its training.

    dvae                  the run whose dVAE is taken and frozen; None trains one jointly, as the
                          authors do, with the next four
    lr_dvae               learning rate of a jointly trained dVAE
    tau_start, tau_final  temperature of the relaxed sample that it decodes, along a cosine over
    tau_steps             so many steps
    eval_images           validation images for the cross entropy
    jacobian_images       of those, how many the spectral norm and the residuals are averaged over
    residual_steps        steps of the iteration whose residuals are recorded
    regenerate_images     test images that are regenerated token by token at the end
    sample_images         of those, how many are kept as pictures
    announcers            whether to measure at every evaluation what may announce that training
                          fails (see `announcers`): path_norm and gradient_spread
    """

    model: SLATEConfig = field(default_factory=SLATEConfig)
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    dvae: DVAERunConfig | None = None
    seed: int = 0
    lr_dvae: float = 3e-4
    tau_start: float = 1.0
    tau_final: float = 0.1
    tau_steps: int = 30_000
    eval_images: int = 512
    jacobian_images: int = 32
    residual_steps: int = 21
    regenerate_images: int = 256
    sample_images: int = 12
    announcers: bool = False

    kind = "slate"

    def needs(self) -> list:
        return [] if self.dvae is None else [self.dvae]

    def task(self, splits: dict, job: Job) -> SLATETask:
        """Return the task. Raises RuntimeError for a frozen dVAE that fails its check."""
        weights = None
        if self.dvae is not None:
            result = job.result_of(self.dvae)
            if faults := self.dvae.faults(result.summary["final"]):
                raise RuntimeError(
                    f"dVAE {result.folder.name} fails its check, and nothing that is built on it "
                    f"would mean anything: {'; '.join(faults)}."
                )
            weights = result.weights
        return SLATETask(self, **splits, dvae_weights=weights)


class SLATETask(Task):
    """The loss is the cross entropy of the tokens, plus the error of a jointly trained dVAE."""

    monitor = "val_cross_entropy"

    def __init__(
        self,
        config: SLATERunConfig,
        train,
        validation,
        test,
        dvae_weights: dict[str, Tensor] | None = None,
    ):
        _check(config)
        self.config = config
        self.model = SLATE(config.model)
        others = [p for name, p in self.model.named_parameters() if not name.startswith("dvae.")]
        lr = config.training.lr
        self.groups = [{"params": others, "lr": lr, "warmup": True, "log": "lr"}]
        if config.dvae is None:
            dvae = list(self.model.dvae.parameters())
            group = {"params": dvae, "lr": config.lr_dvae, "warmup": False, "log": "lr_dvae"}
            self.groups.append(group)
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
            tokens = self.model.sample_tokens(image)
            cross_entropy = self.model.autoencode(tokens)[0].mean()
            return cross_entropy, {"cross_entropy": cross_entropy.detach()}
        tau = cosine(step, c.tau_start, c.tau_final, c.tau_steps)
        out = self.model(image, tau)
        logs = {"cross_entropy": out.cross_entropy.detach(), "mse": out.mse.detach(), "tau": tau}
        return out.cross_entropy + out.mse, logs

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Score validation images, and measure the cell.

        Tokens are drawn from the dVAE's posterior, as in training, and slots from their prior: the
        same draws at every evaluation of every run.
        """
        c, total, tokens = self.config, 0.0, []
        for k, image in enumerate(self.validation.split(64)):
            drawn, noise = self._draw(image, seed=k)
            total += self.model.autoencode(drawn, noise)[0].sum().item()
            tokens.append(drawn)
        usage = {}
        if c.dvae is None:
            usage = code_usage(torch.cat(tokens), c.model.vocab_size)
        drawn, noise = self._draw(self.validation[: c.jacobian_images], seed=0)
        cell = measure_cell(self.model.slot_attn, self._embed(drawn), noise, c.residual_steps)
        if c.announcers:
            cell |= self._announcers(drawn, noise)
        return {"val_cross_entropy": total / len(self.validation), **usage, **cell}

    def _announcers(self, tokens: Tensor, noise: Tensor) -> dict[str, float]:
        """Measure what may announce a failure; the gradients are of 16 batches of validation images
        with respect to slot attention's weights, without dropout."""
        steps = self.config.model.num_iterations
        norms = path_norm(self.model.slot_attn, self._embed(tokens), noise, steps)
        size = max(1, len(self.validation) // 16)
        with torch.enable_grad():
            losses = (
                self.model.autoencode(*self._draw(image, seed=k))[0].mean()
                for k, image in enumerate(self.validation.split(size))
            )
            spread = gradient_spread(losses, self.watched["slot_attention"])
        return {
            "path_norm": norms.mean().item(),
            "path_norm_max": norms.max().item(),
            "gradient_spread": spread,
        }

    @torch.no_grad()
    def samples(self) -> dict[str, np.ndarray]:
        """Return test images, their reconstructions by the dVAE alone and from the slots, uint8
        (n, H, W, 3), and masks, float16 (n, tokens, slots)."""
        image = self.test[: self.config.sample_images]
        floor, recon, attn = regenerate(self.model, image)
        return {
            "image": to_uint8(image),
            "dvae": to_uint8(floor),
            "reconstruction": to_uint8(recon),
            "attn": attn.cpu().numpy().astype(np.float16),
        }

    @torch.no_grad()
    def cell(self) -> dict[str, Tensor]:
        tokens = self.model.tokenize(self.test[:4].to(self.device))
        return kept_cell(self.model.slot_attn, self._embed(tokens))

    @torch.no_grad()
    def final(self) -> dict[str, float]:
        """Score test images that are regenerated from their slots, token by token: their squared
        error, beside the floor that the dVAE sets."""
        ours = floor = 0.0
        batch = images_at_once(self.model)
        for first, image in zip(range(0, len(self.test), batch), self.test.split(batch)):
            decoded, recon, _ = regenerate(self.model, image, first)
            image = image.to(recon.device)
            ours += (image - recon).square().sum().item()
            floor += (image - decoded).square().sum().item()
        count = len(self.test)
        return {"test_mse": ours / count, "test_mse_dvae": floor / count, "test_images": count}

    def _draw(self, image: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator(self.device).manual_seed(seed)
        tokens = self.model.sample_tokens(image.to(self.device), generator)
        return tokens, slot_noise(self.model.slot_attn, len(image), seed)

    def _embed(self, tokens: Tensor) -> Tensor:
        """Turn tokens (B, N) into what slot attention's encoder is given: without the start
        token."""
        return self.model.embed(tokens)[:, 1:]


def _check(config: SLATERunConfig) -> None:
    """Raise ValueError for a model that does not fit its data or its dVAE."""
    model, data, dvae = config.model, config.data, config.dvae
    if model.image_size != data.size:
        raise ValueError(
            f"model.image_size must equal data.size, not {model.image_size} and {data.size}"
        )
    if dvae and (dvae.vocab_size, dvae.data) != (model.vocab_size, data):
        raise ValueError(
            "a frozen dVAE's vocab_size and data must be the model's and the run's own"
        )


def images_at_once(model: SLATE) -> int:
    """Return how many images to regenerate together: the more, the less each of them takes.

    They are what a quarter of the free memory holds, one at least and 256 at most.
    """
    c, tokens = model.config, model.num_tokens
    keys_and_values = 2 * c.num_dec_blocks * tokens * c.d_model
    # one-hot tokens, as integers of twice the size first; the widest layer with its copies
    decoded = 3 * tokens * c.vocab_size + 3 * 4 * tokens * 256
    bytes_an_image = 4 * (keys_and_values + decoded)
    memory = free_memory(model.out.weight.device) // 4
    return max(1, min(256, memory // bytes_an_image))


@torch.no_grad()
def regenerate(model: SLATE, image: Tensor, first: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Regenerate images (B, 3, H, W) from their slots.

    Returns what the dVAE makes of their most likely tokens, and of the tokens that are generated
    from the slots one by one, both (B, 3, H, W); and the masks (B, tokens, slots). Slots start from
    64 draws that images take in turn, `first` being the first image's place in its data set: the
    same every time, and however many images are regenerated together.
    """
    tokens = model.tokenize(image.to(model.out.weight.device))
    turns = torch.arange(first, first + len(image)) % 64
    out = model.infer_slots(tokens, slot_noise(model.slot_attn, 64, seed=0)[turns])
    floor = model.decode_tokens(tokens)
    return floor, model.decode_tokens(model.generate_tokens(out.slots)), out.attn
