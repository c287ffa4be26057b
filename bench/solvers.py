"""Our solvers against TorchDEQ's on the same slot attention cell, at the same tolerance and the same number of evaluations."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import torch
from torch import Tensor

from bench import others
from bench.report import Report, how_timed
from bench.timing import alternate, compare
from paper_lib import runs
from paper_lib.fixed_point import Anderson, Broyden, Iteration, Neumann, relative_residual
from paper_lib.models import SlotAttention
from paper_lib.paper import experiments

HISTORY = 6  # of Anderson's method: TorchDEQ's own


def random_cell(
    batch: int, tokens: int, slots: int, size: int
) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """An untrained cell on random inputs: the map slots -> slots, and initial slots (batch, slots, size)."""
    torch.manual_seed(0)
    module = SlotAttention(size, size, size, Iteration(1), Neumann())
    with torch.no_grad():
        cell = module.cell(torch.randn(batch, tokens, size))
    return lambda z: cell(z)[0], torch.randn(batch, slots, size)


def trained_cell() -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """The committed run's (IN, `cpu` profile, seed 0), on four test images. Raises `runs.MissingRun` where the results are not."""
    setting = experiments.setting("cpu", if_missing="error")
    module, inputs, slots = runs.get(experiments.slate(setting, "IN", 0), setting).cell(
        Iteration(1), Neumann()
    )
    with torch.no_grad():
        cell = module.cell(inputs)
    return lambda z: cell(z)[0], slots


def measure(
    f: Callable[[Tensor], Tensor],
    z0: Tensor,
    torchdeq,
    tol: float,
    steps: int,
    repeats: int,
    description: str,
) -> pd.DataFrame:
    """A row for each solver: its time, how often it evaluated f, and the relative residual at what it returned, mean and largest over the batch."""
    searches = {
        "plain iteration": lambda f: Iteration(steps + 1, tol).solve(f, z0).value,
        "Broyden, ours": lambda f: Broyden(steps, tol).solve(f, z0).value,
        "Anderson, ours": lambda f: Anderson(steps, tol, HISTORY).solve(f, z0).value,
    }
    if torchdeq:
        deq = dict(tol=tol, stop_mode="rel")
        searches |= {
            "Broyden, TorchDEQ": lambda f: torchdeq.solver.broyden_solver(
                f, z0, max_iter=steps, **deq
            )[0],
            # its max_iter counts evaluations
            "Anderson, TorchDEQ": lambda f: torchdeq.solver.anderson_solver(
                f, z0, max_iter=steps + 1, m=HISTORY, **deq
            )[0],
        }
    with torch.no_grad():
        seconds = alternate(
            {name: lambda search=search: search(f) for name, search in searches.items()},
            repeats,
            description,
        )
        table = pd.concat(
            [_method(seconds, method) for method in ("plain iteration", "Broyden", "Anderson")],
            ignore_index=True,
        )
        for row, name in enumerate(table["contestant"]):
            counted = _Counted(f)
            z = searches[name](counted)
            residual = relative_residual(z, f(z))
            table.loc[row, ["evaluations", "residual_mean", "residual_max"]] = [
                counted.calls,
                residual.mean().item(),
                residual.max().item(),
            ]
    return table.astype({"evaluations": int})


class _Counted:
    """A map that knows how often it was evaluated."""

    def __init__(self, f: Callable[[Tensor], Tensor]):
        self.f, self.calls = f, 0

    def __call__(self, z: Tensor) -> Tensor:
        self.calls += 1
        return self.f(z)


def _method(seconds: dict, method: str) -> pd.DataFrame:
    chosen = {name: taken for name, taken in seconds.items() if name.startswith(method)}
    return compare(chosen, list(chosen)[-1])  # TorchDEQ's, where it takes part


def bench(quick: bool) -> Report:
    torchdeq, missing = others.package("torchdeq")
    repeats = 1 if quick else 15
    random = random_cell(2, 16, 3, 16) if quick else random_cell(32, 64, 7, 64)
    cases = [("An untrained cell", random, 1e-3, 5 if quick else 20)]
    try:
        cases.append(
            ("A trained cell (IN, `cpu` profile, seed 0)", trained_cell(), 1e-5, 5 if quick else 40)
        )
    except runs.MissingRun:
        missing += " **The trained cell is left out**: its run's results are not here (`make figures PROFILE=cpu`)."
    parts = [
        "One search for a fixed point, without gradients. `ratio` is to TorchDEQ's median of the same method (1 where it has no rival). `evaluations` of the "
        "cell; the relative residual ||f(z) - z|| / ||f(z)|| is evaluated anew at what a solver returns, mean and largest over the batch.",
        "Same tolerance, same bound on evaluations. They are not the same algorithm to the last digit: ours stops each sample by itself and returns its best "
        f"iterate z, TorchDEQ stops once all have converged, and its Anderson returns f(z). Both Andersons mix {HISTORY} iterates; ours regularises by 1e-8 "
        "relative to the matrix, TorchDEQ by 1e-4 absolute, and starts with two plain steps.",
        *([missing.strip()] if missing else []),
    ]
    for title, (f, z0), tol, steps in cases:
        table = measure(f, z0, torchdeq, tol, steps, repeats, f"solvers, {title.split()[1]} cell")
        sizes = "{} samples, {} slots of size {}".format(*z0.shape)
        parts += [
            f"## {title}: {sizes}, tolerance {tol:g}, at most {steps} steps",
            table,
            how_timed(repeats),
        ]
    return Report("Solvers", parts, ("torchdeq",) if torchdeq else ())
