"""A training as a run: its data, its task, the loop, and what is kept of it."""

from __future__ import annotations

import math
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import pandas as pd
import torch

from paper_lib.models import pair_name
from paper_lib.system.files import whole
from paper_lib.system.memory import peak_memory
from paper_lib.training import parallel
from paper_lib.training.bfloat16 import is_emulated
from paper_lib.training.checkpoint import model_weights, save_tensors
from paper_lib.training.config import ARITHMETIC, is_number
from paper_lib.training.loop import train
from paper_lib.training.task import Task


class Job(Protocol):
    """What a run is given to be performed with; the engine's is `runs.perform.Job`.

    folder  where its results go
    device  what it runs on
    """

    folder: Path
    device: str

    def result_of(self, config) -> Any:
        """Return the result of a run that this one needs (see `runs.RunResult`)."""


class TrainingRun:
    """What the configs of all training runs share: how they are performed.

    A subclass is a frozen dataclass with the fields data, training, seed and a `kind`, and makes a
    task of its data.
    """

    kind: ClassVar[str]
    alone: ClassVar[bool] = False

    def __post_init__(self):
        """Raise ValueError, with the name, for a count of nothing, or a temperature or a learning
        rate that is none.

        Pictures that are kept for show may be none.
        """
        for f in fields(self):
            value = getattr(self, f.name)
            least = 0 if f.name in ("seed", "sample_images", "regenerate_images") else 1
            if f.type == "int" and not (type(value) is int and value >= least):
                raise ValueError(f"{f.name} must be a whole number from {least}, not {value!r}")
            above_zero = f.name.startswith(("tau", "lr"))
            if above_zero and f.type == "float" and not (is_number(value) and 0 < value < math.inf):
                raise ValueError(f"{f.name} must be a number above 0, not {value!r}")

    @property
    def method(self) -> str | None:
        """The solver and the adjoint of its model, in a word; None for a model without slots."""
        return pair_name(self.model)

    def needs(self) -> list:
        """Return the configs of the runs that this one builds on."""
        return []

    def ensure_performable(self) -> None:
        """Raise ValueError for numbers that this code no longer computes."""
        asked = self.training.arithmetic
        if asked != ARITHMETIC:
            raise ValueError(
                f"a run of arithmetic {asked} can be shown where its results are stored, but this "
                f"code computes arithmetic {ARITHMETIC}: override training.arithmetic with "
                f"{ARITHMETIC} for a run of your own"
            )

    def task(self, splits: dict, job: Job) -> Task:
        """Return the task; `splits` holds the data's train, validation and test."""
        raise NotImplementedError

    def perform(self, job: Job) -> dict:
        """Train, keep what is worth keeping, and return the summary."""
        splits = parallel.first_goes_first(self._load)
        torch.manual_seed(self.seed)
        task = self.task(splits, job)
        name = job.folder.name
        outcome = train(task, self.training, self.seed, job.folder, job.device, description=name)
        finished = outcome["status"] == "finished"
        final = parallel.of_first(lambda: keep(task, job.folder, finished))
        cost = {"peak_memory_bytes": peak_memory(job.device)}  # of the first process
        if parallel.world_size() > 1:
            cost["world_size"] = parallel.world_size()
        if is_emulated(self.training.precision, job.device):
            cost["bfloat16"] = "emulated: products in float32, rounded"
        return {**outcome, **cost, "final": final, "data": splits["train"].source}

    def _load(self) -> dict:
        return {split: self.data.load(split) for split in ("train", "validation", "test")}


def keep(task: Task, folder: Path, finished: bool) -> dict:
    """Keep a training's pictures, cell and weights; return its last metrics and its final ones.

    Where a run diverged they are those of the last checkpoint, whose weights were whole; a run that
    diverged before its first evaluation has none. Raises FileNotFoundError where a training that
    finished has no checkpoint any more.
    """
    checkpoint = folder / "checkpoint.safetensors"
    if finished and not checkpoint.exists():
        raise FileNotFoundError(
            f"{checkpoint} was written, and has vanished: get the run once more, and it starts anew"
        )
    if not checkpoint.exists():
        return {}
    task.model.load_state_dict(model_weights(checkpoint))
    task.model.eval()
    last = pd.read_csv(folder / "metrics.csv").ffill().iloc[-1].to_dict()
    final = last | task.final()
    with whole(folder / "samples.npz") as temporary:
        np.savez_compressed(temporary, **task.samples())
    if cell := task.cell():
        save_tensors(folder / "cell.safetensors", cell)
    save_tensors(folder / "weights.safetensors", task.model.state_dict())
    return final
