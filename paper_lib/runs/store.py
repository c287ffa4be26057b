"""Where a run's results live, and what they are.

They are in results/<profile>/runs/<run id>/: config.json, metrics.csv, summary.json and
checksums.json (see `checksums`), and of a training samples.npz, weights.safetensors and
cell.safetensors (the slot attention of a model that has one). While a run trains, there is
checkpoint.safetensors instead of these three. What is committed of a run lacks the weights, but of
a few, and the pictures and the cell where no figure shows them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from paper_lib.models import SlotAttention
from paper_lib.runs import checksums
from paper_lib.system.reading import BrokenFile, read_arrays, read_json, read_text, reading
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
        """Load a finished run. Raises BrokenFile where a file is missing, or is another's."""
        checksums.ensure_complete(folder)
        result = cls(config, folder, {})
        described = read_json(result._file("config.json"), checksums.remedy(folder))
        if described.get("id") != folder.name:
            said = f"is of another run, {described.get('id')!r}"
            raise BrokenFile(folder / "config.json", said, checksums.remedy(folder))
        summary = read_json(result._file("summary.json"), checksums.remedy(folder))
        if "status" not in summary or "final" not in summary:
            said = "lacks a status or final metrics"
            raise BrokenFile(folder / "summary.json", said, checksums.remedy(folder))
        return cls(config, folder, summary)

    @property
    def metrics(self) -> pd.DataFrame:
        """The metrics over training: one row every `log_every` steps. Raises BrokenFile."""
        path, remedy = self._file("metrics.csv"), checksums.remedy(self.folder)
        if not read_text(path, remedy).endswith("\n"):
            raise BrokenFile(path, "is cut off within a line", remedy)
        with reading(path, remedy):
            table = pd.read_csv(path)
        last = self.summary.get("step")
        if last is not None and (len(table) == 0 or table.get("step", table).iloc[-1] != last):
            raise BrokenFile(path, f"does not end with step {last}, as the run did", remedy)
        return table

    @property
    def samples(self) -> dict[str, np.ndarray]:
        """The run's pictures, by name; none for a run that diverged before its first evaluation.

        Raises BrokenFile.
        """
        path = self._file("samples.npz")
        if not path.exists():
            return {}
        return read_arrays(path, checksums.remedy(self.folder))

    @property
    def has_cell(self) -> bool:
        """Whether a trained slot attention was kept; a run that diverged at once has none."""
        return (self.folder / "cell.safetensors").exists()

    def cell(
        self, solver, adjoint, dtype: torch.dtype = torch.float32
    ) -> tuple[SlotAttention, Tensor, Tensor]:
        """Load the trained slot attention under any solver and adjoint. Raises BrokenFile.

        Returns it with inputs (4, N, D) and initial slots (4, K, D) of four test images. Of runs
        whose cell no figure looks at, none is committed: MissingRun.
        """
        path = self._file("cell.safetensors")
        if not self.has_cell:
            raise MissingRun(
                f"{path} is not there: the run diverged at once, or its cell is not committed. "
                "Train it in another folder of results (PAPER_RESULTS) to get it."
            )
        return load_cell(path, self.config.model, solver, adjoint, dtype)

    @property
    def weights(self) -> dict[str, Tensor]:
        """The trained weights. Raises BrokenFile.

        They are committed of some runs only; elsewhere the run has to be trained here.
        """
        path = self.folder / "weights.safetensors"
        if not path.exists():
            raise MissingRun(
                f"{path} is not there: weights of this run are not committed. Train it in another "
                "folder of results (PAPER_RESULTS) to get them."
            )
        return load_tensors(self._file(path.name))[0]

    def _file(self, name: str) -> Path:
        """Return the path of a file that is what its checksum says. Raises BrokenFile."""
        checksums.verify(self.folder / name)
        return self.folder / name


def add_checksums(folder: Path) -> None:
    """Give a finished run from before there were checksums its own.

    Raises BrokenFile if a file cannot be read, as a checksum would only make it look right.
    """
    result = RunResult.load(None, folder)
    _ = result.metrics, result.samples
    for path in folder.glob("*.safetensors"):
        load_tensors(path)
    checksums.write(folder, read_text(folder / "summary.json", checksums.remedy(folder)))
