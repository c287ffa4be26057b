"""What a training run is told about its data and its optimisation."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from paper_lib import data

ARITHMETIC = 2
"""Which numbers this code computes: raise it whenever the same config would train to others.

It is part of what a run is (`TrainingConfig.arithmetic`), as the version of its data is: results of
an earlier arithmetic can be shown, and cannot be trained again.
"""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which pictures a run sees: the arguments of `paper_lib.data.load`.

    `door` "files" takes the authors' files, and leaves the settings of the generator unused, except
    those that the reader takes as well (`data.settings(name, "files")`).
    """

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
    view: str = "wide"

    def __post_init__(self):
        """Raise ValueError for a data set, a door or a count that there is none of."""
        data.settings(self.name)
        if self.door not in data.DOORS:
            raise ValueError(f"unknown door {self.door!r}; known: {', '.join(data.DOORS)}")
        for name in ("size", "num_scenes", "samples_per_pixel", "min_objects", "max_objects"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"data.{name} must be a whole number from 1, not {value!r}")

    def load(self, split: str, max_items: int | None = None) -> data.Dataset:
        """Return one split, or its first `max_items` pictures, after making what is missing."""
        named = dict(vars(self))
        named["num_crops"] = self.num_scenes  # photographs are cropped, not rendered
        named |= data.DATASETS[self.name].defaults  # CLEVR has no mirror, whatever `mirror` says
        takes = data.settings(self.name, self.door)
        settings = {name: value for name, value in named.items() if name in takes}
        return data.load(
            self.name, split, self.size, door=self.door, max_items=max_items, **settings
        )

    @property
    def version(self) -> str:
        """The version of the generator's pictures.

        Of the authors' files a run's summary records the version that it saw.
        """
        return data.version(self.name) if self.door == "generator" else "files"


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How long a run trains, how fast, and with which of the tricks that the paper ablates.

    steps            optimisation steps
    batch_size       images a step, whatever the number of processes that share them
    lr               learning rate of all but a jointly trained dVAE
    warmup_steps     the learning rate (of all but the dVAE) rises linearly over these; 0: at once
    clip             largest infinity norm of the gradient, over all parameters; None: no clipping
    lr_decay_epochs  the learning rates are halved once validation has not improved for so many
                     epochs; None: never
    decay_steps      the learning rates are multiplied by 0.5^(step / decay_steps), as Locatello et
                     al. do; None: they are not
    log_every        steps between rows of metrics.csv
    eval_every       steps between evaluations and checkpoints; a multiple of log_every
    precision        "bfloat16" takes the loss under autocast, emulated where a processor has no
                     such products (see `bfloat16`); weights and evaluation stay "float32"
    compile          whether torch.compile compiles the loss
    deterministic    whether torch may use deterministic algorithms only
    arithmetic       which numbers: see `ARITHMETIC`

    Raises ValueError for values that make no sense.
    """

    # The identity of a run names the learning rate beside this config: see `runs.identity`.
    lr: float = field(default=1e-4, metadata={"identified": "beside"})
    steps: int = 250_000
    batch_size: int = 50
    warmup_steps: int = 30_000
    clip: float | None = 1.0
    lr_decay_epochs: int | None = 4
    decay_steps: int | None = None
    log_every: int = 25
    eval_every: int = 100
    precision: str = "float32"
    compile: bool = False
    deterministic: bool = False
    arithmetic: int = 1

    def __post_init__(self):
        for name in ("lr", "clip"):
            value = getattr(self, name)
            if not (name == "clip" and value is None) and not (
                is_number(value) and 0 < value < math.inf
            ):
                raise ValueError(f"{name} must be a number above 0, not {value!r}")
        for name in ("warmup_steps", "lr_decay_epochs", "decay_steps"):
            value, least = getattr(self, name), 0 if name == "warmup_steps" else 1
            if not (name != "warmup_steps" and value is None):
                if type(value) is not int or value < least:
                    raise ValueError(f"{name} must be a whole number from {least}, not {value!r}")
        counts = (self.steps, self.batch_size, self.log_every, self.eval_every)
        whole = all(type(count) is int for count in counts)
        if not whole or min(counts) < 1 or self.eval_every % self.log_every:
            raise ValueError(
                "steps, batch_size, log_every and eval_every must be at least 1, and eval_every a "
                f"multiple of log_every: {self}"
            )
        if self.precision not in ("float32", "bfloat16"):
            raise ValueError(f"precision must be 'float32' or 'bfloat16', not {self.precision!r}")
        for name in ("compile", "deterministic"):
            if type(getattr(self, name)) is not bool:
                raise ValueError(f"{name} must be true or false, not {getattr(self, name)!r}")
        if not 1 <= self.arithmetic <= ARITHMETIC:
            raise ValueError(
                f"arithmetic must be 1 to {ARITHMETIC}, this code's, not {self.arithmetic}"
            )


def is_number(value) -> bool:
    """Return whether a value is a number; YAML reads 3e-4, without a point, as words."""
    return isinstance(value, int | float) and not isinstance(value, bool)
