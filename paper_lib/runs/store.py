"""Where a run's results live, and what they are.

They are in results/<profile>/runs/<run id>/: config.json, metrics.csv and summary.json, and of a
training samples.npz, weights.safetensors and cell.safetensors (the slot attention of a model that
has one). While a run trains, there is checkpoint.safetensors instead of these three.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from paper_lib.models import SlotAttention
from paper_lib.training.checkpoint import load_tensors
from paper_lib.training.slots import load_cell

ROOT = Path(__file__).resolve().parents[2]


def results_root() -> Path:
    """Return results/ in the project, or what the environment variable PAPER_RESULTS names."""
    return Path(os.environ.get("PAPER_RESULTS", ROOT / "results"))


def folder_of(run_id: str, profile: str) -> Path:
    """Return the folder of a run's results, whether or not there are any."""
    return results_root() / profile / "runs" / run_id


class MissingRun(FileNotFoundError):
    """A run has no results, and nobody asked to train it."""


@dataclass(frozen=True)
class RunResult:
    """A finished run.

    config   what was run
    folder   where its results are
    summary  status ("finished" or "diverged"), final metrics, cost, provenance
    """

    config: object
    folder: Path
    summary: dict

    @classmethod
    def load(cls, config, folder: Path) -> RunResult:
        return cls(config, folder, json.loads((folder / "summary.json").read_text()))

    @property
    def metrics(self) -> pd.DataFrame:
        """The metrics over training: one row every `log_every` steps."""
        return pd.read_csv(self.folder / "metrics.csv")

    @property
    def samples(self) -> dict[str, np.ndarray]:
        """The run's pictures, by name; none for a run that diverged before its first evaluation."""
        if not (self.folder / "samples.npz").exists():
            return {}
        with np.load(self.folder / "samples.npz", allow_pickle=False) as archive:
            return dict(archive)

    @property
    def has_cell(self) -> bool:
        """Whether a trained slot attention was kept; a run that diverged at once has none."""
        return (self.folder / "cell.safetensors").exists()

    def cell(
        self, solver, adjoint, dtype: torch.dtype = torch.float32
    ) -> tuple[SlotAttention, Tensor, Tensor]:
        """Load the trained slot attention under any solver and adjoint.

        Returns it with inputs (4, N, D) and initial slots (4, K, D) of four test images.
        """
        path = self.folder / "cell.safetensors"
        return load_cell(path, self.config.model, solver, adjoint, dtype)

    @property
    def weights(self) -> dict[str, Tensor]:
        """The trained weights.

        They are committed of some runs only; elsewhere the run has to be trained here.
        """
        path = self.folder / "weights.safetensors"
        if not path.exists():
            raise MissingRun(
                f"{path} is not there: weights of this run are not committed. Train it in another "
                "folder of results (PAPER_RESULTS) to get them."
            )
        return load_tensors(path)[0]
