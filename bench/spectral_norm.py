"""The spectral norm without the Jacobian, against the singular values of the dense one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pandas as pd
import torch
from torch import Tensor

from bench.report import Report, how_timed
from bench.solvers import Map, random_cell
from bench.timing import alternate, compare
from paper_lib.fixed_point import jacobian, spectral_norm

EXACT = "dense Jacobian, SVD"


def bench(quick: bool) -> Report:
    # samples, inputs, slots, size, rounds
    cases = [(2, 16, 3, 16, 1)] if quick else [(8, 64, 7, 64, 9), (1, 256, 12, 192, 3)]
    tables = []
    for batch, tokens, slots, size, repeats in cases:
        f, z = random_cell(batch, tokens, slots, size)
        table = measure(f, z, repeats)
        table.insert(0, "Jacobians", f"{batch} of {slots * size}x{slots * size}")
        table["rounds"] = repeats
        tables.append(table)
    return Report(
        "The spectral norm of the cell's Jacobian",
        [
            "An untrained cell on random inputs, at random slots. `ratio` is to the dense one's "
            "median; `relative_error` is the largest over the samples. 1e-3 is the tolerance that "
            "training runs log with.",
            pd.concat(tables, ignore_index=True),
            how_timed("so many `rounds`"),
        ],
    )


def measure(f: Map, z: Tensor, repeats: int) -> pd.DataFrame:
    """Return a row for each method: its time, and its largest error over the samples of z."""
    methods: dict[str, Callable[[Map, Tensor], Tensor]] = {EXACT: _exact}
    for tol in (1e-2, 1e-3):
        methods[f"spectral_norm, tol {tol:g}"] = partial(spectral_norm, tol=tol)
    norms: dict[str, Tensor] = {}

    def compute(name: str) -> None:
        norms[name] = methods[name](f, z)

    _, slots, size = z.shape
    contestants = {name: partial(compute, name) for name in methods}
    table = compare(alternate(contestants, repeats, f"spectral norm, {slots}x{size}"), EXACT)
    exact = norms[EXACT]
    errors = [((norms[name] - exact).abs() / exact).max().item() for name in methods]
    return table.assign(relative_error=errors)


def _exact(f: Map, z: Tensor) -> Tensor:
    return torch.linalg.svdvals(jacobian(f, z))[:, 0]
