"""What a training run writes down: a row of metrics.csv for every interval of steps."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from paper_lib.system.files import whole
from paper_lib.training import parallel


class Interval:
    """The steps since the last row: what they logged and their gradient norms.

    Numbers stay on the device until a row is made, so that no step waits for them.
    """

    def __init__(self):
        self.logs: list[dict] = []
        self.norms: list[dict] = []

    def add(self, logs: dict, norms: dict) -> None:
        """Add a step's numbers."""
        self.logs.append(logs)
        self.norms.append(norms)

    def forget(self, steps: int) -> None:
        """Drop the last so many steps."""
        kept = len(self.logs) - steps
        self.logs, self.norms = self.logs[:kept], self.norms[:kept]

    def row(self) -> dict[str, float]:
        """Return means of what was logged, means and maxima of the norms, and start anew.

        Logs are averaged over the processes, each of which saw its own part of the batch; the norms
        are the same in all of them.
        """
        if not self.logs:
            return {}
        norms = _table(self.norms)
        row = _table(self.logs).mean().to_dict()
        row |= norms.mean().to_dict()
        row |= norms.max().add_suffix("_max").to_dict()
        self.logs, self.norms = [], []
        values = parallel.mean(torch.tensor(list(row.values()), dtype=torch.float64))
        return dict(zip(row, values.tolist()))


class LossWatch:
    """Looks for a loss that is not finite: a CPU's at every step, a GPU's when it is looked at.

    To look at a number on a GPU is to wait for it, so losses are kept there until a row is due.
    """

    def __init__(self):
        self.unseen: list[Tensor] = []
        self.last = math.nan  # the last loss that was looked at

    def add(self, loss: Tensor) -> None:
        self.unseen.append(loss.detach())

    def first_bad(self) -> tuple[int, float] | None:
        """Look at all losses; return how many steps ago the first one came that is not finite, and
        its value."""
        seen = parallel.mean(torch.stack(self.unseen)).tolist()
        self.unseen, self.last = [], seen[-1]
        for k, value in enumerate(seen):
            if not math.isfinite(value):
                return len(seen) - 1 - k, value
        return None


def write_metrics(rows: list[dict], folder: Path) -> None:
    """Write metrics.csv, whole or not at all."""
    with whole(folder / "metrics.csv") as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False, float_format="%.6g")


def _table(steps: list[dict[str, Tensor | float]]) -> pd.DataFrame:
    """Make a row of each step; a column leaves the device in one go."""
    columns = {}
    for name, first in steps[0].items():
        values = [step[name] for step in steps]
        columns[name] = torch.stack(values).tolist() if isinstance(first, Tensor) else values
    return pd.DataFrame(columns)
