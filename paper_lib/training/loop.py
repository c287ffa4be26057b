"""One plain training loop for every model: step, log, evaluate, checkpoint, resume.

A loss that is not finite ends a run as `diverged`, which is a result like any other.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from paper_lib.system.memory import keep_freed_memory
from paper_lib.system.progress import bar
from paper_lib.system.reading import BrokenFile
from paper_lib.training import parallel
from paper_lib.training.batches import batch_indices
from paper_lib.training.bfloat16 import bfloat16_products, is_emulated
from paper_lib.training.checkpoint import REMEDY, load_checkpoint, save_checkpoint
from paper_lib.training.config import TrainingConfig
from paper_lib.training.device import check_compiler, deterministic, in_step, resident, to_device
from paper_lib.training.log import Interval, LossWatch, write_metrics
from paper_lib.training.optimisation import Optimisation
from paper_lib.training.task import Task


def train(
    task: Task,
    config: TrainingConfig,
    seed: int,
    folder: Path,
    device: str = "cpu",
    description: str = "",
) -> dict:
    """Train from the folder's checkpoint, or from the start.

    metrics.csv and checkpoint.safetensors grow in `folder`; `description` stands on the progress
    bar. Several processes (see `parallel`) take a part of each batch; the first one evaluates and
    writes. On a GPU the loss is looked at once every `log_every` steps, so that no step waits for
    it; a run that diverged still ends at the first step whose loss was not finite.

    Returns status ("finished" or "diverged"), step (the last one taken) and seconds (over all
    resumptions). Raises ValueError for a batch that the processes cannot share equally,
    RuntimeError where `config.compile` asks for a compiler that is not there.
    """
    keep_freed_memory()
    with deterministic(config.deterministic, device):
        return _train(task, config, seed, folder, device, description)


def _train(
    task: Task, config: TrainingConfig, seed: int, folder: Path, device: str, description: str
) -> dict:
    model = task.model.to(device).train()
    task.images = resident(task.images, device)
    optimisation = Optimisation(task, config)
    loss_of = _loss_module(task, config, device)
    products = bfloat16_products(config.precision, device)
    share = parallel.share(min(config.batch_size, len(task.images)))

    checkpoint = folder / "checkpoint.safetensors"
    step, rows, seconds_before = 0, [], 0.0
    if checkpoint.exists():
        info = load_checkpoint(checkpoint, model, optimisation.optimizer)
        if info.get("run", folder.name) != folder.name:
            raise BrokenFile(checkpoint, f"is of another run, {info['run']!r}", REMEDY)
        step, rows, seconds_before = info["step"], info["rows"], info["seconds"]
        optimisation.plateau.state = info["decay"]
        if parallel.is_first():
            write_metrics(rows, folder)  # a process that was killed may have written later ones

    started = time.perf_counter()
    progress = _progress(config, device, description, step)
    interval, watch = Interval(), LossWatch()
    diverged_with = None  # the loss that was not finite

    while step < config.steps:
        row_is_due = (step + 1) % config.log_every == 0 or step + 1 == config.steps

        # the loss of this step's batch
        parallel.seed_step(seed, step)
        indices = batch_indices(len(task.images), step, config.batch_size, seed)[share]
        batch = tuple(to_device(part, device) for part in task.batch(indices))
        with products:
            loss, logs = loss_of(batch, step)
        watch.add(loss)
        if row_is_due or in_step(device):
            bad = watch.first_bad()
            if bad is not None:
                steps_since, diverged_with = bad
                step -= steps_since
                interval.forget(steps_since)
                break

        # its gradients, and the update
        optimisation.set_learning_rates(step)
        optimisation.optimizer.zero_grad(set_to_none=True)
        with products:
            loss.backward()
        norms = optimisation.gradient_norms()
        optimisation.update()
        step += 1
        interval.add(logs, norms)
        progress.update()

        # what is written down
        if row_is_due:
            rows.append({"step": step, **interval.row(), **optimisation.learning_rates()})
        if step % config.eval_every == 0 or step == config.steps:
            if not optimisation.weights_are_finite():
                # a finite loss can have an infinite gradient: the last checkpoint stays, with the
                # last weights that were whole
                diverged_with = watch.last
                break
            model.eval()
            metrics = parallel.of_first(task.evaluate)
            model.train()
            rows[-1] |= metrics
            optimisation.plateau.update(step, metrics[task.monitor])
            progress.set_postfix({task.monitor: f"{metrics[task.monitor]:.4g}"})
            if parallel.is_first():
                seconds = seconds_before + time.perf_counter() - started
                decay = optimisation.plateau.state
                info = {"step": step, "rows": rows, "decay": decay, "seconds": seconds}
                info["run"] = folder.name
                save_checkpoint(checkpoint, model, optimisation.optimizer, info)
                write_metrics(rows, folder)

    if diverged_with is not None:
        rows.append({"step": step, **interval.row(), "loss": diverged_with})
        if parallel.is_first():
            write_metrics(rows, folder)
    progress.close()
    return {
        "status": "finished" if diverged_with is None else "diverged",
        "step": step,
        "seconds": seconds_before + time.perf_counter() - started,
    }


class _Loss(nn.Module):
    """A task's loss as a module's forward pass, which torch.compile and parallel training take."""

    def __init__(self, task: Task, config: TrainingConfig, device: str):
        super().__init__()
        self.model, self.task = task.model, task
        self.device, self.half = torch.device(device).type, config.precision == "bfloat16"

    def forward(self, batch: tuple[Tensor, ...], step: int) -> tuple[Tensor, dict]:
        with torch.autocast(self.device, torch.bfloat16, self.half):
            return self.task.loss(batch, step)


def _loss_module(task: Task, config: TrainingConfig, device: str) -> nn.Module:
    loss = _Loss(task, config, device)
    if config.compile:
        check_compiler(device)
        loss.compile()
    return parallel.synchronised(loss)


def _progress(config: TrainingConfig, device: str, description: str, step: int) -> tqdm:
    if not parallel.is_first():
        return tqdm(disable=True)
    if is_emulated(config.precision, device):
        description += " (bfloat16 emulated)"
    return bar(config.steps, description, "step", initial=step)
