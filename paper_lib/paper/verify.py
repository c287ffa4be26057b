"""`make verify`: the first steps of some committed runs, trained again here, against their curves.

    python -m paper_lib.paper.verify --steps 1000 --jobs 2

A run that is trained again on the machine that made it gives the same numbers; elsewhere products
are summed in another order, and curves drift apart as those of other seeds do. So the validation
cross entropy is compared at every evaluation: it must lie within the range of the stored seeds,
widened by a twentieth of their mean on either side.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pandas as pd

from paper_lib.paper import parameters
from paper_lib.paper.evidence import evidence
from paper_lib.runs import RunResult, folder_of, get, run_id
from paper_lib.system.arguments import count
from paper_lib.system.following import follow
from paper_lib.training.run import TrainingRun

MARGIN = 0.05
METRIC = "val_cross_entropy"


def compare(again: pd.Series, stored: dict[int, pd.Series], steps: int) -> pd.DataFrame:
    """Compare a curve with those of the stored seeds, all indexed by step, up to a step.

    Returns a row for each evaluation of the stored seeds: again, low and high (the range that it
    should lie in), and whether it does; a value that is missing does not.
    """
    table = pd.concat(stored, axis=1).dropna()
    table = table[table.index <= steps]
    mean = table.mean(axis=1)
    rows = pd.DataFrame(
        {
            "again": again.reindex(table.index),
            "low": table.min(axis=1) - MARGIN * mean,
            "high": table.max(axis=1) + MARGIN * mean,
        }
    )
    return rows.assign(within=rows["again"].between(rows["low"], rows["high"]))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m paper_lib.paper.verify",
        description="Train the first steps of committed runs again, and compare.",
    )
    parser.add_argument("--steps", type=count, default=1_000, help="how far")
    parser.add_argument("--jobs", type=count, default=2, help="how many at a time")
    parser.add_argument("--group", default="flagship", help="of docs/protocol.md")
    given = parser.parse_args(arguments)
    groups = evidence(parameters.check("cpu"))
    if given.group not in groups:
        parser.error(f"no group {given.group!r}; there are {', '.join(groups)}")
    trained = [c for c in groups[given.group] if isinstance(c, TrainingRun)]
    configs = [c for c in trained if _is_stored(c)]
    if not configs:
        parser.error(f"no run of {given.group!r} is stored: nothing to compare with")
    if given.steps < configs[0].training.eval_every:
        parser.error(f"at least {configs[0].training.eval_every} steps, up to an evaluation")
    first = [config for config in configs if config.seed == configs[0].seed]
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(given.jobs, initializer=follow, initargs=(os.getpid(),)) as pool,
    ):
        jobs = [
            pool.submit(_train, config, given.steps, folder, folder_of(run_id(config.dvae), "cpu"))
            for config in first
        ]
        curves = [job.result() for job in jobs]
    faults = 0
    for config, curve in zip(first, curves):
        same = [c for c in configs if replace(c, seed=config.seed) == config]
        stored = {c.seed: _curve(RunResult.load(c, folder_of(run_id(c), "cpu"))) for c in same}
        table = compare(curve, stored, given.steps)
        faults += int((~table["within"]).sum())
        print(f"\n{run_id(config)}, against {len(stored)} stored seeds")
        print(table.to_string(float_format=lambda value: f"{value:.1f}"))
    verdict = "as stored" if not faults else f"{faults} evaluations outside the stored range"
    print(f"\n{len(first)} runs, the first {given.steps:,} steps of each: {verdict}")
    return 1 if faults else 0


def _train(config, steps: int, folder: str, dvae: Path) -> pd.Series:
    """Train a shortened run in a folder of its own, on the stored dVAE, and return its curve."""
    os.environ["PAPER_RESULTS"] = folder
    copy = folder_of(dvae.name, "cpu")
    copy.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        copy.symlink_to(dvae.resolve())
    training = replace(config.training, steps=steps)
    short = replace(config, training=training, regenerate_images=1, sample_images=1)
    return _curve(get(short, parameters.check("cpu", if_missing="train")))


def _curve(result: RunResult) -> pd.Series:
    metrics = result.metrics.set_index("step")
    return metrics[METRIC].dropna() if METRIC in metrics else pd.Series(dtype=float)


def _is_stored(config) -> bool:
    return (folder_of(run_id(config), "cpu") / "summary.json").exists()


if __name__ == "__main__":
    sys.exit(main())
