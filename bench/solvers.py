"""Our solvers against TorchDEQ's, on the same slot attention cell.

All have the same tolerance and the same number of evaluations.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import ModuleType

import pandas as pd
import torch
from torch import Tensor

from bench import others
from bench.report import Report, how_timed
from bench.timing import Seconds, alternate, compare
from paper_lib import runs
from paper_lib.fixed_point import Anderson, Broyden, Iteration, Neumann, relative_residual
from paper_lib.models import SlotAttention
from paper_lib.paper import parameters, profiles

Map = Callable[[Tensor], Tensor]

HISTORY = 6  # of Anderson's method: TorchDEQ's own


def bench(quick: bool) -> Report:
    torchdeq, missing = others.package("torchdeq")
    repeats = 1 if quick else 15
    untrained = random_cell(2, 16, 3, 16) if quick else random_cell(32, 64, 7, 64)
    cases = [("untrained", "An untrained cell", untrained, 1e-3, 5 if quick else 20)]
    try:
        title = "A trained cell (IN, `cpu` profile, seed 0)"
        cases.append(("trained", title, trained_cell(), 1e-5, 5 if quick else 40))
    except runs.MissingRun:
        missing += (
            " **The trained cell is left out**: its run's results are not here "
            "(`make figures PROFILE=cpu`)."
        )
    parts: list[str | pd.DataFrame] = [
        "One search for a fixed point, without gradients. `ratio` is to TorchDEQ's median of the "
        "same method (1 where it has no rival). `evaluations` of the cell; the relative residual "
        "||f(z) - z|| / ||f(z)|| is evaluated anew at what a solver returns, mean and largest over "
        "the batch.",
        "Same tolerance, same bound on evaluations. They are not the same algorithm to the last "
        "digit: ours stops each sample by itself and returns its best iterate z, TorchDEQ stops "
        f"once all have converged, and its Anderson returns f(z). Both Andersons mix {HISTORY} "
        "iterates; ours regularises by 1e-8 relative to the matrix, TorchDEQ by 1e-4 absolute, and "
        "starts with two plain steps.",
    ]
    if missing:
        parts.append(missing.strip())
    for name, title, (f, z0), tol, steps in cases:
        samples, slots, size = z0.shape
        parts += [
            f"## {title}: {samples} samples, {slots} slots of size {size}, tolerance {tol:g}, "
            f"at most {steps} steps",
            measure(f, z0, torchdeq, tol, steps, repeats, f"solvers, {name} cell"),
            how_timed(repeats),
        ]
    return Report("Solvers", parts, ("torchdeq",) if torchdeq else ())


def random_cell(batch: int, tokens: int, slots: int, size: int) -> tuple[Map, Tensor]:
    """Return an untrained cell on random inputs, a map slots -> slots, and initial slots.

    The slots are (batch, slots, size).
    """
    torch.manual_seed(0)
    module = SlotAttention(size, size, size, Iteration(1), Neumann())
    return _cell(module, torch.randn(batch, tokens, size)), torch.randn(batch, slots, size)


def trained_cell() -> tuple[Map, Tensor]:
    """Return the cell of the committed run (IN, `cpu` profile, seed 0) on four test images.

    With it come its initial slots. Raises `runs.MissingRun` where the results are not.
    """
    setting = parameters.check("cpu", if_missing="error")
    run = runs.get(profiles.slate(setting, "IN", 0), setting)
    module, inputs, slots = run.cell(Iteration(1), Neumann())
    return _cell(module, inputs), slots


def _cell(module: SlotAttention, inputs: Tensor) -> Map:
    with torch.no_grad():
        cell = module.cell(inputs)

    def slots_to_slots(z: Tensor) -> Tensor:
        slots, _ = cell(z)
        return slots

    return slots_to_slots


def measure(
    f: Map,
    z0: Tensor,
    torchdeq: ModuleType | None,
    tol: float,
    steps: int,
    repeats: int,
    description: str,
) -> pd.DataFrame:
    """Return a row for each solver.

    It has the time, how often the solver evaluated f, and the relative residual at what it
    returned, mean and largest over the batch.
    """
    searches = _searches(z0, torchdeq, tol, steps)
    contestants = {name: partial(search, f) for name, search in searches.items()}
    with torch.no_grad():
        seconds = alternate(contestants, repeats, description)
        methods = ("plain iteration", "Broyden", "Anderson")
        table = pd.concat([_of_method(seconds, m) for m in methods], ignore_index=True)
        evaluations, residuals = [], []
        for name in table["contestant"]:
            counted = _Counted(f)
            z = searches[name](counted)
            evaluations.append(counted.calls)
            residuals.append(relative_residual(z, f(z)))
    return table.assign(
        evaluations=evaluations,
        residual_mean=[residual.mean().item() for residual in residuals],
        residual_max=[residual.max().item() for residual in residuals],
    )


def _searches(
    z0: Tensor, torchdeq: ModuleType | None, tol: float, steps: int
) -> dict[str, Callable[[Map], Tensor]]:
    """Return the contestants: each maps f to the point that it finds from z0."""

    def ours(solver) -> Callable[[Map], Tensor]:
        def search(f: Map) -> Tensor:
            return solver.solve(f, z0).value

        return search

    def theirs(solve, **options) -> Callable[[Map], Tensor]:
        def search(f: Map) -> Tensor:
            return solve(f, z0, tol=tol, stop_mode="rel", **options)[0]

        return search

    searches = {
        "plain iteration": ours(Iteration(steps + 1, tol)),
        "Broyden, ours": ours(Broyden(steps, tol)),
        "Anderson, ours": ours(Anderson(steps, tol, HISTORY)),
    }
    if torchdeq:
        broyden, anderson = torchdeq.solver.broyden_solver, torchdeq.solver.anderson_solver
        searches["Broyden, TorchDEQ"] = theirs(broyden, max_iter=steps)
        # its Anderson counts evaluations
        searches["Anderson, TorchDEQ"] = theirs(anderson, max_iter=steps + 1, m=HISTORY)
    return searches


def _of_method(seconds: Seconds, method: str) -> pd.DataFrame:
    chosen = {name: taken for name, taken in seconds.items() if name.startswith(method)}
    return compare(chosen, list(chosen)[-1])  # TorchDEQ's, where it takes part


class _Counted:
    """A map that counts how often it is evaluated."""

    def __init__(self, f: Map):
        self.f = f
        self.calls = 0

    def __call__(self, z: Tensor) -> Tensor:
        self.calls += 1
        return self.f(z)
