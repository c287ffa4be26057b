"""Learning rates and temperatures as functions of the step."""

import math


def linear_warmup(step: int, steps: int) -> float:
    """Return a factor that rises from 0 to 1 over the first `steps` steps; 1 without warm-up."""
    return min(1.0, step / steps) if steps else 1.0


def exponential(step: int, halving_steps: int | None) -> float:
    """Return a factor that halves over every `halving_steps` steps; 1 without."""
    return 0.5 ** (step / halving_steps) if halving_steps else 1.0


def cosine(step: int, start: float, final: float, steps: int) -> float:
    """Go from `start` to `final` along half a cosine over `steps` steps, and stay there."""
    progress = min(1.0, step / steps) if steps else 1.0
    return final + (start - final) * (1 + math.cos(math.pi * progress)) / 2


class HalveOnPlateau:
    """A factor that halves each time validation has not improved for `patience` steps.

    With `patience` None it is always 1. `state` is all that a resumption needs.
    """

    def __init__(self, patience: int | None):
        self.patience = patience
        self.state = {"factor": 1.0, "best": math.inf, "since": 0}

    def update(self, step: int, validation: float) -> None:
        """Take the validation loss that was measured after `step` steps into account."""
        s = self.state
        if validation < s["best"]:
            s.update(best=validation, since=step)
        elif self.patience and step - s["since"] >= self.patience:
            s.update(factor=s["factor"] / 2, since=step)

    @property
    def factor(self) -> float:
        return self.state["factor"]
