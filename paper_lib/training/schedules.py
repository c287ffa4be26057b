"""Learning rates and temperatures as functions of the step."""

import math


def linear_warmup(step: int, steps: int) -> float:
    """Factor that rises from 0 to 1 over the first `steps` steps; 1 without warm-up."""
    return min(1.0, step / steps) if steps else 1.0


def exponential(step: int, halving_steps: int | None) -> float:
    """Factor that halves over `halving_steps` steps, and again over the next; 1 without."""
    return 0.5 ** (step / halving_steps) if halving_steps else 1.0


def cosine(step: int, start: float, final: float, steps: int) -> float:
    """From `start` to `final` along half a cosine over `steps` steps, then `final`."""
    progress = min(1.0, step / steps) if steps else 1.0
    return final + (start - final) * (1 + math.cos(math.pi * progress)) / 2


class HalveOnPlateau:
    """Factor that halves each time validation has not improved for `patience` steps. `patience` None: always 1."""

    def __init__(self, patience: int | None):
        self.patience = patience
        self.state = {"factor": 1.0, "best": math.inf, "since": 0}

    def update(self, step: int, validation: float) -> None:
        s = self.state
        if validation < s["best"]:
            s.update(best=validation, since=step)
        elif self.patience and step - s["since"] >= self.patience:
            s.update(factor=s["factor"] / 2, since=step)

    @property
    def factor(self) -> float:
        return self.state["factor"]
