"""What a training run is told about its data and its optimisation."""

from __future__ import annotations

from dataclasses import dataclass

from paper_lib import data


@dataclass(frozen=True)
class DataConfig:
    """Which pictures: the arguments of `paper_lib.data.load`. `door` "files" takes the authors' files, and leaves the generator's settings below unused,
    but for those that their reader takes as well (`data.settings(name, "files")`)."""

    name: str = "clevr_mirror"
    size: int = 64
    num_scenes: int = 10_000
    seed: int = 0
    min_objects: int = 3
    max_objects: int = 10
    samples_per_pixel: int = 16
    mirror: bool = True
    crop: bool = False
    door: str = "generator"

    def load(self, split: str) -> data.Dataset:
        takes = data.settings(self.name, self.door)
        named = vars(self) | {"num_crops": self.num_scenes}  # photographs are cropped, not rendered
        named |= data.DATASETS[self.name].defaults  # CLEVR has no mirror, whatever `mirror` says
        settings = {name: value for name, value in named.items() if name in takes}
        return data.load(self.name, split, self.size, door=self.door, **settings)

    @property
    def version(self) -> str:
        """Of the generator's pictures. Of the authors' files a run's summary records the version that it saw."""
        return data.version(self.name) if self.door == "generator" else "files"


@dataclass(frozen=True)
class TrainingConfig:
    """How long, and with which of the optimisation tricks that the paper ablates; None or 0 removes a trick.

    steps, batch_size
    warmup_steps     linear learning-rate warm-up (of all but the dVAE)
    clip             largest infinity norm of the gradient, over all parameters
    lr_decay_epochs  halve the learning rates once validation has not improved for so many epochs
    decay_steps      multiply the learning rates by 0.5^(step / decay_steps), as Locatello et al. do
    log_every        steps between rows of metrics.csv
    eval_every       steps between evaluations and checkpoints; a multiple of log_every
    precision        "bfloat16" takes the loss under autocast, emulated where a processor has no such products (see `bfloat16`); weights, and evaluation,
                     stay "float32"
    compile          the loss with torch.compile
    deterministic    deterministic algorithms only, an error where there is none

    batch_size is that of a step, whatever the number of processes that share it (see `training.parallel`).
    """

    steps: int = 250_000
    batch_size: int = 50
    warmup_steps: int = 30_000
    clip: float | None = 1.0
    lr_decay_epochs: int | None = 4
    log_every: int = 25
    eval_every: int = 100
    decay_steps: int | None = None
    precision: str = "float32"
    compile: bool = False
    deterministic: bool = False

    def __post_init__(self):
        if (
            min(self.steps, self.batch_size, self.log_every, self.eval_every) < 1
            or self.eval_every % self.log_every
        ):
            raise ValueError(
                f"steps, batch_size, log_every and eval_every must be at least 1, and eval_every a multiple of log_every: {self}"
            )
        if self.precision not in ("float32", "bfloat16"):
            raise ValueError(f"precision must be 'float32' or 'bfloat16', not {self.precision!r}")
        for name in ("compile", "deterministic"):
            if type(getattr(self, name)) is not bool:
                raise ValueError(f"{name} must be true or false, not {getattr(self, name)!r}")
