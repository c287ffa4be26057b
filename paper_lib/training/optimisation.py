"""One optimisation step: learning rates, gradients, clipping, Adam."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from paper_lib.training.config import TrainingConfig
from paper_lib.training.schedules import HalveOnPlateau, exponential, linear_warmup
from paper_lib.training.task import Task


class Optimisation:
    """Adam over a task's groups of parameters, with the tricks that the paper ablates.

    optimizer   torch's Adam
    parameters  all that it trains
    plateau     the decay of the learning rates where validation stops improving
    """

    def __init__(self, task: Task, config: TrainingConfig):
        self.task, self.config = task, config
        groups = [{"params": group["params"], "lr": group["lr"]} for group in task.groups]
        # fused Adam is one kernel instead of a dozen passes over the weights; the same arithmetic
        self.optimizer = torch.optim.Adam(groups, fused=True)
        self.parameters = [p for group in task.groups for p in group["params"]]
        steps_an_epoch = max(1, len(task.images) // config.batch_size)
        epochs = config.lr_decay_epochs
        self.plateau = HalveOnPlateau(epochs and epochs * steps_an_epoch)

    def set_learning_rates(self, step: int) -> None:
        """Set every group's learning rate for the step that comes after `step` others."""
        config = self.config
        warmup = linear_warmup(step + 1, config.warmup_steps)
        for group, spec in zip(self.optimizer.param_groups, self.task.groups):
            lr = spec["lr"] * self.plateau.factor
            lr *= warmup if spec["warmup"] else 1.0
            group["lr"] = lr * exponential(step, config.decay_steps)

    def learning_rates(self) -> dict[str, float]:
        """Return every group's learning rate, by the name that it is logged under."""
        groups = zip(self.optimizer.param_groups, self.task.groups)
        return {spec["log"]: group["lr"] for group, spec in groups}

    def gradient_norms(self) -> dict[str, Tensor]:
        """Return the L2 norm of the watched parameters' gradients and of all, before clipping."""
        watched = self.task.watched | {"all": self.parameters}
        return {f"grad_norm_{name}": _norm(parameters) for name, parameters in watched.items()}

    def update(self) -> None:
        """Clip the gradients, where the config says so, and move the weights."""
        if self.config.clip:
            clip_gradients(self.parameters, self.config.clip)
        self.optimizer.step()

    def weights_are_finite(self) -> bool:
        return all(p.isfinite().all() for p in self.parameters)


def clip_gradients(parameters: list[nn.Parameter], largest: float) -> None:
    """Scale all gradients together so that no entry is larger than `largest`.

    This is the authors' clipping, by the infinity norm; torch's own kernel for that norm is slow on
    a CPU.
    """
    norm = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]).abs_().amax()
    nn.utils.clip_grads_with_norm_(parameters, largest, norm)


def _norm(parameters: list[nn.Parameter]) -> Tensor:
    return nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
