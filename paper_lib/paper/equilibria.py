"""Which fixed points a trained slot attention cell has on a scene, from many initial slots.

The cell treats slots alike, so fixed points are compared up to a permutation of their slots.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from scipy.optimize import linear_sum_assignment
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from paper_lib.fixed_point import Iteration, Neumann
from paper_lib.runs import RunResult

CONVERGED = 1e-8  # relative residual at which slots count as a fixed point
SAME = 1e-3  # distance, relative to the slots' length, below which two are the same


def initial_slots(kept: Tensor, starts: int, num_slots: int, seed: int = 0) -> Tensor:
    """Draw initial slots (starts, num_slots, D) for one scene.

    kept    (4, K, D), the initial slots that are kept with a trained cell

    In SLATE all slots of all scenes are drawn from one distribution. So these are the kept ones,
    drawn anew, different ones for each start. Raises ValueError for more slots than are kept.
    """
    pool = kept.flatten(0, 1)
    if num_slots > len(pool):
        raise ValueError(f"{num_slots} slots asked for, {len(pool)} are kept")
    generator = torch.Generator().manual_seed(seed)
    chosen = [torch.randperm(len(pool), generator=generator)[:num_slots] for _ in range(starts)]
    return pool[torch.stack(chosen)]


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Return how far two sets of slots (K, D) are apart under the best matching of their slots.

    It is the root of the mean square distance of matched slots, relative to the root of the mean
    square length of a's and b's.
    """
    square = ((a[:, None] - b[None]) ** 2).sum(2)
    rows, columns = linear_sum_assignment(square)
    length = ((a**2).sum(1).mean() + (b**2).sum(1).mean()) / 2
    return float(np.sqrt(square[rows, columns].mean() / length))


def distances(slots: np.ndarray) -> np.ndarray:
    """Return the `distance` of any two of (M, K, D): (M, M)."""
    found = np.zeros((len(slots), len(slots)))
    for i in range(len(slots)):
        for j in range(i):
            found[i, j] = found[j, i] = distance(slots[i], slots[j])
    return found


def basins(apart: np.ndarray) -> np.ndarray:
    """Return the sizes of the basins, the largest first, of fixed points (M, M) that far apart."""
    if not len(apart):
        return np.zeros(0, dtype=int)
    _, labels = connected_components(apart < SAME)
    return np.sort(np.bincount(labels))[::-1]


def nearest_slots(slots: np.ndarray) -> np.ndarray:
    """Return the distance of the two nearest slots of each of (M, K, D): (M,).

    It is relative to the root of the mean square length of the slots.
    """
    square = ((slots[:, :, None] - slots[:, None]) ** 2).sum(3)
    np.einsum("mkk->mk", square)[:] = np.inf
    return np.sqrt(square.min((1, 2)) / (slots**2).sum(2).mean(1))


def measure(
    runs: list[RunResult], starts: int, max_steps: int, checkpoints: tuple[int, ...]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Iterate runs' trained cells from many initial slots, in float64, scene by scene.

    starts        how many initial slots a scene
    max_steps     iterations after which slots that still move have no fixed point
    checkpoints   numbers of iterations at which slots from different starts are compared

    Returns two tables, for runs that left a cell, with as many slots as in training and with twice
    as many.

    scenes    a row for each run, scene and number of slots ("slots"): the share of starts that
              "converge", how many "fixed points" they reach, the share of the "largest basin" among
              those that converge, the share of fixed points in which two slots are the same
              ("collapsed", each start counts), and the median distance of the two "nearest slots".
              nan where no start converges.
    agreement a row for each run, scene, number of slots and of "iterations": one minus the mean
              `distance` of the slots from different starts ("agreement"), and the mean relative
              "residual".
    """
    of_scenes, of_iterations = [], []
    for run in runs:
        if not run.has_cell:
            continue
        attention, inputs, kept = run.cell(Iteration(1), Neumann(), torch.float64)
        trained = kept.shape[1]
        for scene in range(len(inputs)):
            for slots in (trained, 2 * trained):
                step = refinement(attention, inputs[scene : scene + 1], starts)
                z = initial_slots(kept, starts, slots, seed=scene)
                at = {"seed": run.config.seed, "scene": scene, "slots": slots / trained}
                done = 0
                for n in sorted(checkpoints):
                    with torch.no_grad():
                        result = Iteration(n - done).solve(step, z)
                    z, done = result.value, n
                    agreement = 1 - _mean_off_diagonal(distances(z.numpy()))
                    residual = result.residuals[-1].mean().item()
                    row = {"iterations": n, "agreement": agreement, "residual": residual}
                    of_iterations.append({**at, **row})
                with torch.no_grad():
                    result = Iteration(max_steps - done, CONVERGED).solve(step, z)
                of_scenes.append({**at, **fixed_points(result.value, result.converged)})
    keys = ["seed", "scene", "slots"]
    scenes = pd.DataFrame(of_scenes, columns=[*keys, *_FOUND])
    agreement = [*keys, "iterations", "agreement", "residual"]
    return scenes, pd.DataFrame(of_iterations, columns=agreement)


_FOUND = ("converge", "fixed points", "largest basin", "collapsed", "nearest slots")


def fixed_points(slots: Tensor, converged: Tensor) -> dict[str, float]:
    """Say what fixed points there are among slots (M, K, D), of which (M,) have converged.

    Returns what `measure` has in a row of its table of scenes; the share that "converge" alone
    where none does.
    """
    found = slots[converged].numpy()
    share = converged.double().mean().item()
    if not len(found):
        return {"converge": share}
    sizes = basins(distances(found))
    nearest = nearest_slots(found)
    values = (
        share,
        len(sizes),
        sizes[0] / sizes.sum(),
        (nearest < SAME).mean(),
        np.median(nearest),
    )
    return dict(zip(_FOUND, map(float, values)))


def _mean_off_diagonal(matrix: np.ndarray) -> float:
    return float(matrix[~np.eye(len(matrix), dtype=bool)].mean())


def refinement(attention, inputs: Tensor, batch: int):
    """Return the map (batch, K, D) -> (batch, K, D) of one scene (1, N, D)."""
    with torch.no_grad():
        cell = attention.cell(inputs.expand(batch, -1, -1))

    def step(slots: Tensor) -> Tensor:
        return cell(slots)[0]

    return step
