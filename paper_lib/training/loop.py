"""One plain training loop for every model: log, evaluate, checkpoint, resume; a loss that is not finite ends the run as `diverged`."""

from __future__ import annotations

import math
import time
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from paper_lib.system.files import whole
from paper_lib.system.memory import keep_freed_memory
from paper_lib.system.progress import bar
from paper_lib.training import parallel
from paper_lib.training.bfloat16 import bfloat16_products, is_emulated
from paper_lib.training.checkpoint import load_checkpoint, save_checkpoint
from paper_lib.training.config import TrainingConfig
from paper_lib.training.device import (
    OnDevice,
    check_compiler,
    deterministic,
    in_step,
    resident,
    to_device,
)
from paper_lib.training.schedules import HalveOnPlateau, exponential, linear_warmup


class Task(Protocol):
    """What the loop needs to know of a model and its data. Tasks inherit from it for `batch`."""

    model: nn.Module
    groups: list[
        dict
    ]  # optimiser groups: params, lr, warmup (whether the warm-up applies), log (the name its learning rate is logged under)
    images: np.ndarray | OnDevice  # (N, H, W, 3) uint8, training; `train` puts them on a GPU
    watched: dict[str, list[nn.Parameter]]  # gradient norms to log, by name
    monitor: str  # which metric of `evaluate` the learning-rate decay watches

    def batch(self, indices: np.ndarray) -> tuple[Tensor, ...]:
        """What `loss` is given of these training images: nothing but the images, (B, 3, H, W) in [0, 1], unless a task adds to them."""
        return (to_float(self.images[indices]),)

    def loss(
        self, batch: tuple[Tensor, ...], step: int
    ) -> tuple[Tensor, dict[str, Tensor | float]]:
        """A `batch`, on the model's device -> loss to minimise, and what to log of it."""

    def evaluate(self) -> dict[str, float]:
        """Metrics on the validation split; must leave the global random state alone."""


def train(
    task: Task,
    config: TrainingConfig,
    seed: int,
    folder: Path,
    device: str = "cpu",
    description: str = "",
) -> dict:
    """Train from the folder's checkpoint, or from the start; metrics.csv and checkpoint.safetensors grow in `folder`.

    Several processes (see `parallel`) take a part of each batch; the first evaluates and writes. On a GPU the loss is looked at once every `log_every`
    steps, so that no step waits for it; a run that diverged still ends at the first step whose loss was not finite.

    Returns status ("finished" or "diverged"), step (the last one taken) and seconds (over all resumptions). Raises ValueError for a batch that the processes
    cannot share equally, RuntimeError where `config.compile` asks for a compiler that is not there.
    """
    keep_freed_memory()
    with deterministic(config.deterministic, device):
        return _train(task, config, seed, folder, device, description)


def _train(
    task: Task, config: TrainingConfig, seed: int, folder: Path, device: str, description: str
) -> dict:
    model = task.model.to(device).train()
    # fused Adam is one kernel instead of a dozen passes over the weights; the same arithmetic
    optimizer = torch.optim.Adam(
        [{"params": g["params"], "lr": g["lr"]} for g in task.groups], fused=True
    )
    parameters = [p for g in task.groups for p in g["params"]]
    task.images = resident(task.images, device)
    share = parallel.share(min(config.batch_size, len(task.images)))
    epoch_steps = max(1, len(task.images) // config.batch_size)
    decay = HalveOnPlateau(config.lr_decay_epochs and config.lr_decay_epochs * epoch_steps)
    step, rows, seconds = 0, [], 0.0
    checkpoint = folder / "checkpoint.safetensors"
    if checkpoint.exists():
        info = load_checkpoint(checkpoint, model, optimizer)
        step, rows, seconds, decay.state = (
            info["step"],
            info["rows"],
            info["seconds"],
            info["decay"],
        )
    products = bfloat16_products(config.precision, device)
    loss_of = _Loss(task, config, device)
    if config.compile:
        check_compiler(device)
        loss_of.compile()
    loss_of = parallel.synchronised(loss_of)

    started = time.perf_counter()
    description += " (bfloat16 emulated)" if is_emulated(config.precision, device) else ""
    progress = (
        bar(config.steps, description, "step", initial=step)
        if parallel.is_first()
        else tqdm(disable=True)
    )
    interval = _Interval()
    losses: list[Tensor] = []  # that nobody has looked at yet
    status = "finished"
    while step < config.steps:
        parallel.seed_step(seed, step)
        batch = tuple(
            to_device(part, device)
            for part in task.batch(_indices(len(task.images), step, config.batch_size, seed)[share])
        )
        warmup = linear_warmup(step + 1, config.warmup_steps)
        for group, spec in zip(optimizer.param_groups, task.groups):
            group["lr"] = (
                spec["lr"]
                * decay.factor
                * (warmup if spec["warmup"] else 1.0)
                * exponential(step, config.decay_steps)
            )

        with products:
            loss, logs = loss_of(batch, step)
        losses.append(loss.detach())
        logged = (step + 1) % config.log_every == 0 or step + 1 == config.steps
        if logged or in_step(device):
            seen, losses = parallel.mean(torch.stack(losses)).tolist(), []
            finite = next((k for k, value in enumerate(seen) if not math.isfinite(value)), None)
            value = seen[-1 if finite is None else finite]
            if finite is not None:
                status = "diverged"
                late = len(seen) - 1 - finite  # steps that were taken since
                step -= late
                interval.drop(late)
                break
        optimizer.zero_grad(set_to_none=True)
        with products:
            loss.backward()
        norms = {
            f"grad_norm_{name}": _norm(watched)
            for name, watched in (task.watched | {"all": parameters}).items()
        }
        if config.clip:
            clip_gradients(parameters, config.clip)
        optimizer.step()
        step += 1
        interval.add(logs, norms)

        progress.update()
        if logged:
            rows.append(
                {
                    "step": step,
                    **interval.row(),
                    **{
                        spec["log"]: group["lr"]
                        for group, spec in zip(optimizer.param_groups, task.groups)
                    },
                }
            )
        if step % config.eval_every == 0 or step == config.steps:
            if not all(
                p.isfinite().all() for p in parameters
            ):  # a finite loss can have an infinite gradient: keep the last weights that were whole
                status = "diverged"
                break
            model.eval()
            metrics = parallel.of_first(task.evaluate)
            model.train()
            rows[-1] |= metrics
            decay.update(step, metrics[task.monitor])
            progress.set_postfix({task.monitor: f"{metrics[task.monitor]:.4g}"})
            if parallel.is_first():
                info = {
                    "step": step,
                    "rows": rows,
                    "decay": decay.state,
                    "seconds": seconds + time.perf_counter() - started,
                }
                save_checkpoint(checkpoint, model, optimizer, info)
                _write(rows, folder)
    if status == "diverged":
        rows.append({"step": step, **interval.row(), "loss": value})
        if parallel.is_first():
            _write(rows, folder)
    progress.close()
    return {"status": status, "step": step, "seconds": seconds + time.perf_counter() - started}


class _Loss(nn.Module):
    """A task's loss as a module's forward pass, which is what torch.compile and DistributedDataParallel take."""

    def __init__(self, task: Task, config: TrainingConfig, device: str):
        super().__init__()
        self.model, self.task = task.model, task
        self.device, self.half = torch.device(device).type, config.precision == "bfloat16"

    def forward(
        self, batch: tuple[Tensor, ...], step: int
    ) -> tuple[Tensor, dict[str, Tensor | float]]:
        with torch.autocast(self.device, torch.bfloat16, self.half):
            return self.task.loss(batch, step)


def to_float(images: np.ndarray | Tensor) -> Tensor:
    """uint8 images (B, H, W, 3) -> float32 (B, 3, H, W) in [0, 1], where they are."""
    images = images if isinstance(images, Tensor) else torch.from_numpy(np.array(images))
    return images.permute(0, 3, 1, 2).contiguous().float() / 255


def _indices(count: int, step: int, batch_size: int, seed: int) -> np.ndarray:
    """Which of `count` images are this step's: a function of the step alone, so that a resumed run sees the same. Each epoch is a new shuffle, its rest
    dropped."""
    batch_size = min(batch_size, count)
    epoch, k = divmod(step, count // batch_size)
    return np.sort(_order(count, epoch, seed)[k * batch_size : (k + 1) * batch_size])


@lru_cache(1)
def _order(count: int, epoch: int, seed: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(count)


def clip_gradients(parameters: list[nn.Parameter], largest: float) -> None:
    """Scale all gradients so that no entry's size is above `largest`: the authors' clipping, by the infinity norm, whose own kernel is slow on a CPU."""
    norm = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]).abs_().amax()
    nn.utils.clip_grads_with_norm_(parameters, largest, norm)


def _norm(parameters: list[nn.Parameter]) -> Tensor:
    return nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


class _Interval:
    """Sums up the steps since the last row: means of what the task logs, mean and largest gradient norms. Numbers stay on the device until a row is made."""

    def __init__(self):
        self.logs, self.norms = [], []

    def add(self, logs: dict, norms: dict) -> None:
        self.logs.append(logs)
        self.norms.append(norms)

    def drop(self, steps: int) -> None:
        """Forget the last so many steps."""
        kept = len(self.logs) - steps
        self.logs, self.norms = self.logs[:kept], self.norms[:kept]

    def row(self) -> dict[str, float]:
        """Means over the processes, whose logs are of their own part of the batch; the norms are the same in all."""
        if not self.logs:
            return {}
        norms = _numbers(self.norms)
        row = (
            _numbers(self.logs).mean().to_dict()
            | norms.mean().to_dict()
            | norms.max().add_suffix("_max").to_dict()
        )
        self.__init__()
        return dict(
            zip(row, parallel.mean(torch.tensor(list(row.values()), dtype=torch.float64)).tolist())
        )


def _numbers(steps: list[dict[str, Tensor | float]]) -> pd.DataFrame:
    """A row a step; a column leaves the device at once."""
    columns = {name: [values[name] for values in steps] for name in steps[0]}
    return pd.DataFrame(
        {
            name: torch.stack(column).tolist() if isinstance(column[0], Tensor) else column
            for name, column in columns.items()
        }
    )


def _write(rows: list[dict], folder: Path) -> None:
    with whole(folder / "metrics.csv") as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False, float_format="%.6g")
