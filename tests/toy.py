"""A task whose gradient is known, for tests of the training loop."""

import math

import numpy as np
import torch
from torch import nn

from paper_lib.training.task import Task

# A training without tricks; tests change what they are about.
PLAIN = {
    "steps": 6,
    "batch_size": 2,
    "warmup_steps": 0,
    "clip": None,
    "lr_decay_epochs": None,
    "log_every": 1,
    "eval_every": 2,
}


class Toy(Task):
    """Two groups of parameters; the loss is linear in them, so that the gradient of step k is
    (k + 1) times `gradient`.

    validation  what the evaluations find, one after the other; then 1
    broken      the step whose loss is not a number
    """

    monitor = "val"
    gradient = {"a": torch.tensor([3.0, -4.0]), "b": torch.tensor([0.5, 12.0, 0.0])}

    def __init__(self, validation=(), broken=None):
        ones = {name: nn.Parameter(torch.ones(len(g))) for name, g in self.gradient.items()}
        self.model = nn.ParameterDict(ones)
        self.groups = [
            {"params": [self.model["a"]], "lr": 0.1, "warmup": True, "log": "lr"},
            {"params": [self.model["b"]], "lr": 0.2, "warmup": False, "log": "lr_b"},
        ]
        self.watched = {"a": [self.model["a"]]}
        self.images = np.zeros((8, 2, 2, 3), np.uint8)
        self.validation, self.broken = list(validation), broken

    def loss(self, batch, step):
        loss = (step + 1) * sum((self.model[name] * g).sum() for name, g in self.gradient.items())
        logs = {"loss": loss.detach(), "twice": 2.0 * step}
        return loss * (math.nan if step == self.broken else 1), logs

    def evaluate(self):
        assert not self.model.training
        return {"val": self.validation.pop(0) if self.validation else 1.0}
