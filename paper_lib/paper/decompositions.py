"""How far two trained models cut the same scenes up alike, from different initial slots."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pandas as pd
import torch

from paper_lib.fixed_point import Iteration, Unrolled
from paper_lib.metrics import adjusted_rand_index
from paper_lib.runs import RunResult

NAN = float("nan")


def agreement(one: RunResult, other: RunResult) -> float:
    """Return the mean adjusted Rand index of two runs' masks of the same scenes.

    The two start from different draws of the initial slots, also where they are one and the same
    run: so that what is left between two runs and one is the runs. The mean is over the four scenes
    that are kept with each run's cell, and over all pairs of draws. nan where a run has no cell.
    """
    if not (one.has_cell and other.has_cell):
        return NAN
    ours, theirs = _decompositions(one), _decompositions(other)
    pairs = permutations(range(len(ours)), 2)
    return float(np.mean([adjusted_rand_index(ours[a], theirs[b]) for a, b in pairs]))


def several(vanilla: list[RunResult], implicit: list[RunResult]) -> pd.Series:
    """Return how much more a run agrees with itself than with the other method's of its seed.

    The mean of both runs' agreement with themselves, minus that of the two; indexed by seed.
    """
    found = {}
    by_seed = {run.config.seed: run for run in vanilla}
    for run in implicit:
        if other := by_seed.get(run.config.seed):
            alone = (agreement(run, run) + agreement(other, other)) / 2
            found[run.config.seed] = alone - agreement(run, other)
    return pd.Series(found, dtype=float)


@torch.no_grad()
def _decompositions(run: RunResult) -> np.ndarray:
    """Return the slot of each token: integers (draws, scenes, tokens).

    A cell is kept with the initial slots of four scenes. Every scene is given those of each scene
    in turn: four draws, from the trained distribution.
    """
    iterations = Iteration(run.config.model.num_iterations)
    attention, inputs, slots = run.cell(iterations, Unrolled())
    draws = [slots.roll(shift, dims=0) for shift in range(len(slots))]
    return np.stack([attention(inputs, draw).aux.argmax(-1).numpy() for draw in draws])
