"""The spectral norm without the Jacobian, against the singular values of the dense one: time and error."""

from __future__ import annotations

import pandas as pd
import torch

from bench.report import Report, how_timed
from bench.solvers import random_cell
from bench.timing import alternate, compare
from paper_lib.fixed_point import jacobian, spectral_norm

EXACT = "dense Jacobian, SVD"


def bench(quick: bool) -> Report:
    cases = (
        [(2, 16, 3, 16, 1)] if quick else [(8, 64, 7, 64, 9), (1, 256, 12, 192, 3)]
    )  # samples, inputs, slots, size, rounds
    tables = []
    for batch, tokens, slots, size, repeats in cases:
        f, z = random_cell(batch, tokens, slots, size)
        norms = {}
        contestants = {
            EXACT: lambda f=f, z=z, norms=norms: norms.update(
                {EXACT: torch.linalg.svdvals(jacobian(f, z))[:, 0]}
            ),
            **{
                f"spectral_norm, tol {tol:g}": lambda f=f, z=z, norms=norms, tol=tol: norms.update(
                    {f"spectral_norm, tol {tol:g}": spectral_norm(f, z, tol)}
                )
                for tol in (1e-2, 1e-3)
            },
        }
        table = compare(alternate(contestants, repeats, f"spectral norm, {slots}x{size}"), EXACT)
        table["relative_error"] = [
            ((norms[name] - norms[EXACT]).abs() / norms[EXACT]).max().item() for name in contestants
        ]
        table.insert(0, "Jacobians", f"{batch} of {slots * size}x{slots * size}")
        table["rounds"] = repeats
        tables.append(table)
    return Report(
        "The spectral norm of the cell's Jacobian",
        [
            "An untrained cell on random inputs, at random slots. `ratio` is to the dense one's median; `relative_error` is the largest over the samples. "
            "1e-3 is the tolerance that training runs log with.",
            pd.concat(tables, ignore_index=True),
            how_timed("so many `rounds`"),
        ],
    )
