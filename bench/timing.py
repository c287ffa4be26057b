"""Contestants that take turns, and what their times say of each other."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable

import numpy as np
import pandas as pd

from paper_lib.system.progress import bar

Seconds = dict[Hashable, np.ndarray]  # contestant -> (rounds,) seconds


def alternate(
    contestants: dict[Hashable, Callable[[], object]],
    repeats: int,
    description: str,
    warmup: int = 1,
) -> Seconds:
    """Time each contestant `repeats` times, and return its seconds (repeats,).

    In every round each contestant has one turn, in their order, so that a slow moment of the
    machine touches all. The first `warmup` rounds are not kept. `description` labels the progress
    bar.
    """
    samples: dict[Hashable, list[float]] = {name: [] for name in contestants}
    with bar((warmup + repeats) * len(contestants), description, "pass") as progress:
        for repeat in range(-warmup, repeats):
            for name, run in contestants.items():
                start = time.perf_counter()
                run()
                if repeat >= 0:
                    samples[name].append(time.perf_counter() - start)
                progress.update()
    return {name: np.array(taken) for name, taken in samples.items()}


def compare(seconds: Seconds, base: Hashable) -> pd.DataFrame:
    """Return a row for each contestant.

    It has the median and the quartiles in milliseconds, and the median's ratio to that of `base`.
    """
    rows = []
    for name, taken in seconds.items():
        q25, median, q75 = 1e3 * np.quantile(taken, [0.25, 0.5, 0.75])
        rows.append(
            {
                "contestant": name,
                "median_ms": median,
                "q25_ms": q25,
                "q75_ms": q75,
                "ratio": median / (1e3 * np.median(seconds[base])),
            }
        )
    return pd.DataFrame(rows)
