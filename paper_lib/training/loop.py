"""One plain training loop for every model: log, evaluate, checkpoint, resume; a loss that is not finite ends the run as `diverged`."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from paper_lib.files import whole
from paper_lib.progress import bar
from paper_lib.training.checkpoint import load_checkpoint, save_checkpoint
from paper_lib.training.config import TrainingConfig
from paper_lib.training.schedules import HalveOnPlateau, exponential, linear_warmup


class Task(Protocol):
    """What the loop needs to know of a model and its data. Tasks inherit from it for `batch`."""

    model: nn.Module
    groups: list[dict]  # optimiser groups: params, lr, warmup (whether the warm-up applies), log (the name its learning rate is logged under)
    images: np.ndarray  # (N, H, W, 3) uint8, training
    watched: dict[str, list[nn.Parameter]]  # gradient norms to log, by name
    monitor: str  # which metric of `evaluate` the learning-rate decay watches

    def batch(self, indices: np.ndarray) -> tuple[Tensor, ...]:
        """What `loss` is given of these training images: nothing but the images, (B, 3, H, W) in [0, 1], unless a task adds to them."""
        return (to_float(self.images[indices]),)

    def loss(self, batch: tuple[Tensor, ...], step: int) -> tuple[Tensor, dict[str, Tensor | float]]:
        """A `batch`, on the model's device -> loss to minimise, and what to log of it."""

    def evaluate(self) -> dict[str, float]:
        """Metrics on the validation split; must leave the global random state alone."""


def train(task: Task, config: TrainingConfig, seed: int, folder: Path, device: str = "cpu", description: str = "") -> dict:
    """Train from the folder's checkpoint, or from the start; metrics.csv and checkpoint.safetensors grow in `folder`.

    Returns status ("finished" or "diverged"), step (the last one taken) and seconds (over all resumptions).
    """
    model = task.model.to(device).train()
    # fused Adam is one kernel instead of a dozen passes over the weights; the same arithmetic
    optimizer = torch.optim.Adam([{"params": g["params"], "lr": g["lr"]} for g in task.groups], fused=True)
    parameters = [p for g in task.groups for p in g["params"]]
    epoch_steps = max(1, len(task.images) // config.batch_size)
    decay = HalveOnPlateau(config.lr_decay_epochs and config.lr_decay_epochs * epoch_steps)
    step, rows, seconds = 0, [], 0.0
    checkpoint = folder / "checkpoint.safetensors"
    if checkpoint.exists():
        info = load_checkpoint(checkpoint, model, optimizer)
        step, rows, seconds, decay.state = info["step"], info["rows"], info["seconds"], info["decay"]

    started = time.perf_counter()
    progress = bar(config.steps, description, "step", initial=step)
    interval = _Interval()
    status = "finished"
    while step < config.steps:
        batch = tuple(part.to(device) for part in task.batch(_indices(len(task.images), step, config.batch_size, seed)))
        warmup = linear_warmup(step + 1, config.warmup_steps)
        for group, spec in zip(optimizer.param_groups, task.groups):
            group["lr"] = spec["lr"] * decay.factor * (warmup if spec["warmup"] else 1.0) * exponential(step, config.decay_steps)

        loss, logs = task.loss(batch, step)
        if not math.isfinite(loss.item()):
            status = "diverged"
            break
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norms = {f"grad_norm_{name}": _norm(watched) for name, watched in (task.watched | {"all": parameters}).items()}
        if config.clip:
            nn.utils.clip_grad_norm_(parameters, config.clip, math.inf)
        optimizer.step()
        step += 1
        interval.add(logs, norms)

        progress.update()
        if step % config.log_every == 0 or step == config.steps:
            rows.append({"step": step, **interval.row(), **{spec["log"]: group["lr"] for group, spec in zip(optimizer.param_groups, task.groups)}})
        if step % config.eval_every == 0 or step == config.steps:
            if not all(p.isfinite().all() for p in parameters):  # a finite loss can have an infinite gradient: keep the last weights that were whole
                status = "diverged"
                break
            model.eval()
            metrics = task.evaluate()
            model.train()
            rows[-1] |= metrics
            decay.update(step, metrics[task.monitor])
            progress.set_postfix({task.monitor: f"{metrics[task.monitor]:.4g}"})
            info = {"step": step, "rows": rows, "decay": decay.state, "seconds": seconds + time.perf_counter() - started}
            save_checkpoint(checkpoint, model, optimizer, info)
            _write(rows, folder)
    if status == "diverged":
        rows.append({"step": step, **interval.row(), "loss": loss.item()})
        _write(rows, folder)
    progress.close()
    return {"status": status, "step": step, "seconds": seconds + time.perf_counter() - started}


def to_float(images: np.ndarray) -> Tensor:
    """uint8 images (B, H, W, 3) -> float32 (B, 3, H, W) in [0, 1]."""
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).contiguous().float() / 255


def _indices(count: int, step: int, batch_size: int, seed: int) -> np.ndarray:
    """Which of `count` images are this step's: a function of the step alone, so that a resumed run sees the same. Each epoch is a new shuffle, its rest
    dropped."""
    batch_size = min(batch_size, count)
    epoch, k = divmod(step, count // batch_size)
    order = np.random.default_rng((seed, epoch)).permutation(count)
    return np.sort(order[k * batch_size : (k + 1) * batch_size])


def _norm(parameters: list[nn.Parameter]) -> Tensor:
    return nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


class _Interval:
    """Sums up the steps since the last row: means of what the task logs, mean and largest gradient norms."""

    def __init__(self):
        self.logs, self.norms = [], []

    def add(self, logs: dict, norms: dict) -> None:
        self.logs.append({k: float(v) for k, v in logs.items()})
        self.norms.append({k: float(v) for k, v in norms.items()})

    def row(self) -> dict[str, float]:
        if not self.logs:
            return {}
        norms = pd.DataFrame(self.norms)
        row = pd.DataFrame(self.logs).mean().to_dict() | norms.mean().to_dict() | norms.max().add_suffix("_max").to_dict()
        self.__init__()
        return row


def _write(rows: list[dict], folder: Path) -> None:
    with whole(folder / "metrics.csv") as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False, float_format="%.6g")
