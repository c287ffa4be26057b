"""Broyden's method: a solver that learns the inverse Jacobian of f(z) - z as it goes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from paper_lib.fixed_point.protocols import Map, Result
from paper_lib.fixed_point.search import Norm, Search, check_settings, dot


@dataclass(frozen=True)
class Broyden:
    """Broyden's good method on g(z) = f(z) - z, as the authors' DEQ code has it: no line search.

    The inverse Jacobian B starts at -I. Each step adds one rank-one term to it, separately for
    every sample: B = -I + sum_i u_i v_i^T. The best iterate is kept.

    max_steps  updates of z; f is evaluated max_steps + 1 times. The history takes
               2 * max_steps * dim numbers a sample, from the start.
    tol        relative residual at which a sample stops.
    norm       "sample": each sample stops, and keeps its best iterate, by its own residual.
               "batch": the whole batch does so by one residual, which is DEQ's rule (see `Search`).
               As in DEQ, a sample that stands still then waits for the others. Unlike in DEQ, the
               initial guess counts as an iterate, and no search is given up early.

    Source: Broyden (1965); Bai et al., Deep Equilibrium Models (2019); Table 2 of the paper (B).
    """

    max_steps: int
    tol: float = 1e-6
    norm: Norm = "sample"

    def __post_init__(self):
        check_settings("Broyden", self.max_steps, self.tol, self.norm)

    def solve(self, f: Map, z0: Tensor) -> Result:
        """Search for z = f(z) from z0 (batch, ...)."""
        search = Search(f, z0, self.tol, self.norm)
        g = search.g
        us = g.new_empty(self.max_steps - 1, *g.shape)  # the last step needs no update
        vs = torch.empty_like(us)
        step = g  # -B g with B = -I
        for k in range(self.max_steps):
            if not search.take(step) or k + 1 == self.max_steps:
                break
            delta_g, g = search.g - g, search.g
            v = _matvec(vs[:k], us[:k], step)  # v^T = step^T B
            Bg = _matvec(us[:k], vs[:k], g)
            # u = (step - B delta_g) / (v . delta_g), where B delta_g = B g + step, since the step
            # was -B times the g before. v . delta_g = 0, a singular system, makes u and so the next
            # step not finite, and the sample fails there.
            u = -Bg / dot(v, delta_g)[:, None]
            if self.norm == "batch":
                u = u.masked_fill(u.isnan(), 0.0)  # 0 / 0: the sample did not move
            us[k], vs[k] = u, v
            step = -Bg - u * dot(v, g)[:, None]  # by the updated B
        return search.result()


def _matvec(us: Tensor, vs: Tensor, x: Tensor) -> Tensor:
    """Return B x with B = -I + sum_i u_i v_i^T: (k, batch, dim), (k, batch, dim), (batch, dim).

    With us and vs exchanged it is B^T x.
    """
    return (us * dot(vs, x)[..., None]).sum(0) - x
