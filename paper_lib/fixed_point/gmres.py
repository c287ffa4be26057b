"""GMRES: a solver for the linear equation of the implicit gradient."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.linalg import vector_norm

from paper_lib.fixed_point.protocols import Map, Result
from paper_lib.fixed_point.search import Search, check_settings, dot, flatten


@dataclass(frozen=True)
class GMRES:
    """The generalised minimal residual method for u (I - J) = g, sample by sample.

    Step k has the u of span(g, gJ, ..., gJ^(k-1)) that makes ||g - u (I - J)|| smallest: neither k
    terms of `Neumann` nor k steps of `Broyden` or `Anderson` can make it smaller. So the last u is
    the best, and is kept. There are no restarts.

    max_steps  products with J, at most. The basis takes (max_steps + 1) * dim numbers a sample.
    tol        relative residual at which a sample stops: ||uJ + g - u|| / ||uJ + g||, as elsewhere.

    It solves nothing but linear equations: it is for `Implicit`, and cannot search forward.

    Source: Saad and Schultz (1986); Arnoldi's process with every vector made orthogonal twice.
    """

    max_steps: int
    tol: float = 1e-6

    def __post_init__(self):
        check_settings("GMRES", self.max_steps, self.tol)

    def solve_linear(self, product: Map, g: Tensor) -> Result:
        """Solve u - uJ = g (batch, ...) from u = 0; product: u -> uJ."""
        b = flatten(g)
        residual = b  # g - u (I - J), which is u J + g - u, at the u of the latest step

        def known(u: Tensor) -> Tensor:
            """u J + g, which the basis says without another product."""
            return u + residual

        search = Search(known, torch.zeros_like(b), self.tol)
        batch, dim = b.shape
        size = vector_norm(b, dim=1)
        basis = b.new_zeros(batch, self.max_steps + 1, dim)
        basis[:, 0] = b / size.clamp_min(torch.finfo(b.dtype).tiny)[:, None]
        # the Hessenberg matrix: basis[:k] (I - J) = H^T basis[:k + 1]
        H = b.new_zeros(batch, self.max_steps + 1, self.max_steps)
        for k in range(self.max_steps):
            v = basis[:, k]
            w = v - flatten(product(v.to(g.dtype).view_as(g)))
            H[:, : k + 2, k], basis[:, k + 1], exhausted = _orthogonal_unit(w, basis[:, : k + 1])
            # the coefficients that minimise the residual: least squares by QR
            target = b.new_zeros(batch, k + 2)
            target[:, 0] = size
            Q, R = torch.linalg.qr(H[:, : k + 2, : k + 1])
            y = torch.linalg.solve_triangular(R, (Q.mT * target[:, None]).sum(2, True), upper=True)
            u = (y * basis[:, : k + 1]).sum(1)
            left = target - (H[:, : k + 2, : k + 1] * y.mT).sum(2)
            residual = (left[..., None] * basis[:, : k + 2]).sum(1)
            if not search.take(u - search.z):
                break
            # no direction is left, and it has not converged: the tolerance is below rounding
            search.fail(exhausted)
        return replace(search.result(), value=search.z.to(g.dtype).view_as(g))


def _orthogonal_unit(w: Tensor, basis: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Make w (batch, dim) orthogonal to a basis (batch, k, dim), and of length one.

    Returns its coefficients (batch, k + 1), the last of them its length; the unit vector; and where
    there is none, because w lies in the span: (batch,) bool.
    """
    size = vector_norm(w, dim=1)
    coefficients = torch.zeros_like(basis[..., 0])
    for _ in range(2):  # once leaves rounding errors as large as what is left
        part = dot(basis, w[:, None])
        w = w - (part[..., None] * basis).sum(1)
        coefficients = coefficients + part
    length = vector_norm(w, dim=1)
    exhausted = length <= 10 * torch.finfo(w.dtype).eps * size
    length = length.masked_fill(exhausted, 0.0)
    unit = torch.where(exhausted[:, None], 0.0, w / length[:, None])
    return torch.cat([coefficients, length[:, None]], 1), unit, exhausted
