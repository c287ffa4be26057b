"""Plain iteration: slot attention's own solver, and the only one that can be unrolled."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from paper_lib.fixed_point.protocols import Map, Result
from paper_lib.fixed_point.search import check_settings, flatten, relative_residual


@dataclass(frozen=True)
class Iteration:
    """Plain iteration z_{k+1} = f(z_k), the paper's forward computation.

    max_steps  applications of f.
    tol        a sample stops once its relative residual is at most `tol`; with 0 the solver always
               takes `max_steps` (and never waits for the device).
    """

    max_steps: int
    tol: float = 0.0

    def __post_init__(self):
        check_settings("Iteration", self.max_steps, self.tol)

    def solve(self, f: Map, z0: Tensor) -> Result:
        """Iterate f from z0 (batch, ...).

        The iterates carry gradients if gradients are enabled: `Unrolled` differentiates this loop.
        """
        z = z0
        residuals = []
        steps = torch.zeros(len(z0), dtype=torch.int64, device=z0.device)
        active = torch.ones(len(z0), dtype=torch.bool, device=z0.device)
        for _ in range(self.max_steps):
            fz = f(z)
            residual = relative_residual(z, fz)
            if self.tol == 0:
                z = fz
                steps = steps + 1
                residuals.append(residual)
                continue
            z = torch.where(_same_dims(active, z), fz, z)
            steps = steps + active
            if residuals:
                residual = torch.where(active, residual, residuals[-1])
            residuals.append(residual)
            active = active & (residual > self.tol)  # not a number is not larger: it stops as well
            if not active.any():
                break
        return Result(
            value=z,
            residuals=torch.stack(residuals),
            steps=steps,
            converged=residuals[-1] <= self.tol,
            failed=~flatten(z).isfinite().all(1),
        )


def _same_dims(mask: Tensor, z: Tensor) -> Tensor:
    """Return mask (batch,) as (batch, 1, ...), to broadcast against z (batch, ...)."""
    return mask.view(-1, *[1] * (z.dim() - 1))
