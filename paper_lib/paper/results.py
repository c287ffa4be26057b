"""What a figure's runs say, as tables.

A figure compares groups, such as methods; the runs of a group differ in their seed alone. Tables
have a row or a column for each seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pandas as pd

from paper_lib.paper.statistics import last
from paper_lib.runs import RunResult

Runs = list[RunResult]
NAN = float("nan")


def curves(runs: Runs, column: str) -> pd.DataFrame:
    """Return a metric over training: index step, one column a seed, where it was logged.

    The curve of a run that diverged ends where it did. It is empty if that was before the first
    evaluation.
    """
    columns = {}
    for run in runs:
        metrics = run.metrics.set_index("step")
        if column in metrics:
            columns[run.config.seed] = metrics[column].dropna()
        else:
            columns[run.config.seed] = pd.Series(dtype=float)
    return pd.concat(columns, axis=1)


def curves_of_groups(groups: dict, column: str) -> dict:
    """Return `curves` of every group: name of the group -> curves."""
    return {name: curves(runs, column) for name, runs in groups.items()}


def per_seed(curves: pd.DataFrame, statistic: Callable, **kwargs) -> pd.Series:
    """Return a statistic of each seed's curve, such as `statistics.thirds`, indexed by seed."""
    return pd.Series({seed: statistic(curves[seed], **kwargs) for seed in curves}, dtype=float)


def last_tenth(curves: pd.DataFrame) -> pd.Series:
    """Return the mean over the last tenth of training, indexed by seed."""
    return per_seed(curves, last, part=0.1)


def largest(runs: Runs, column: str) -> pd.Series:
    """Return the largest value of a metric in all of training, indexed by seed."""
    return curves(runs, column).max()


def final(runs: Runs, metric: str) -> pd.Series:
    """Return a metric at the end of training, indexed by seed; nan for a run that has none."""
    values = {run.config.seed: run.summary["final"].get(metric, NAN) for run in runs}
    return pd.Series(values, dtype=float)


def means(runs: Runs, columns: Iterable[str]) -> pd.DataFrame:
    """Return the means of metrics over their rows, such as test images: a row for each seed."""
    by_seed = pd.DataFrame({run.config.seed: run.metrics.mean() for run in runs}).T
    return by_seed.reindex(columns=list(columns))


def statuses(runs: Runs) -> str:
    """Return the statuses of the runs, each once: finished, or diverged, finished."""
    return ", ".join(sorted({run.summary["status"] for run in runs}))


def configs(groups: dict) -> list:
    """Return the configs of all runs of a figure, whose groups may be grouped themselves."""
    found = []
    for group in groups.values():
        found += configs(group) if isinstance(group, dict) else [run.config for run in group]
    return found
