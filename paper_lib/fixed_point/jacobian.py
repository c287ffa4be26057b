"""The Jacobian of a map at a point: dense, its spectral norm, its spectral radius. One Jacobian a sample; f must act on samples independently."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor
from torch.func import jvp, vjp, vmap

# torch's own forward-mode formulas still use torch.jit
warnings.filterwarnings("ignore", message=".*torch.jit.script.*", category=FutureWarning)


def jacobian(f, z: Tensor, chunk_size: int = 64) -> Tensor:
    """Dense Jacobian of f at z (batch, ...), each sample's own: (batch, dim, dim), row i the gradient of output i.

    `chunk_size` rows are computed at a time, which bounds the memory.
    """
    z = z.detach()
    batch, dim = len(z), z[0].numel()
    _, pull = vjp(f, z)
    # samples are independent, so one cotangent that asks every sample for output i gives row i of every sample's Jacobian
    units = (
        torch.eye(dim, dtype=z.dtype, device=z.device)[:, None]
        .expand(dim, batch, dim)
        .reshape(dim, *z.shape)
    )
    rows = vmap(lambda u: pull(u)[0], chunk_size=chunk_size)(units)
    return rows.reshape(dim, batch, dim).transpose(0, 1).detach()


def spectral_norm(f, z: Tensor, tol: float = 1e-3, max_steps: int = 100, seed: int = 0) -> Tensor:
    """Largest singular value of f's Jacobian at z (batch, ...): (batch,), without forming the Jacobian.

    Golub-Kahan bidiagonalisation: J v by jvp and J^T u by vjp, as in power iteration on J^T J, but the estimate is the best one in the whole Krylov
    space, which settles several times sooner and does not pause between close singular values. Stops once every sample's singular triplet has a residual
    ||J^T u - s v|| of at most `tol` s (the error of s is about the square of that, relative), or after `max_steps`.
    The start is random but fixed by `seed`, and leaves the global random state alone. nan where the Jacobian is not finite.

    Source: Golub and Kahan (1965), with full reorthogonalisation.
    """
    z = z.detach()
    dim = z[0].numel()
    generator = torch.Generator(device="cpu").manual_seed(seed)
    v = torch.randn(z.shape, generator=generator, dtype=torch.float64).to(z).view(len(z), dim)
    v = v / v.norm(dim=1, keepdim=True)
    _, pull = vjp(f, z)
    vs, us, alphas, betas = [v], [], [], []
    with torch.no_grad():
        for k in range(min(max_steps, dim)):
            u = jvp(f, (z,), (vs[-1].view_as(z),))[1].reshape(len(z), dim)
            u, alpha = _orthogonal_unit(u, us)
            v = pull(u.view_as(z))[0].reshape(len(z), dim)
            v, beta = _orthogonal_unit(v, vs)
            us.append(u), vs.append(v), alphas.append(alpha), betas.append(beta)
            B = (
                torch.diag_embed(torch.stack(alphas, 1))
                + torch.diag_embed(torch.stack(betas[:-1], 1), 1)
                if k
                else alpha[:, None, None]
            )
            finite = B.isfinite().all(dim=(1, 2))
            left, sigma, _ = torch.linalg.svd(B.nan_to_num(0, 0, 0))
            residual = beta * left[:, -1, 0].abs()
            if not (finite & (residual > tol * sigma[:, 0])).any():
                break
    return sigma[:, 0].masked_fill(~finite, float("nan"))


def spectral_radius(f, z: Tensor) -> Tensor:
    """Largest absolute eigenvalue of f's Jacobian at z (batch, ...): (batch,).

    Dense and exact: power iteration does not settle where the leading eigenvalues are a complex pair, as they often are for slot attention.
    """
    J = jacobian(f, z)
    finite = J.isfinite().all(dim=(1, 2))
    radius = torch.linalg.eigvals(J.nan_to_num(0, 0, 0)).abs().amax(1)
    return radius.masked_fill(~finite, float("nan"))


def _orthogonal_unit(x: Tensor, basis: list[Tensor]) -> tuple[Tensor, Tensor]:
    """x (batch, dim) made orthogonal to the basis and of length one, and the length it had; zero if nothing is left of it."""
    size = x.norm(dim=1)
    for _ in range(2):  # once leaves rounding errors as large as what is left
        for b in basis:
            x = x - b * (b * x).sum(1, keepdim=True)
    length = x.norm(dim=1)
    left = length > 10 * torch.finfo(x.dtype).eps * size
    length = torch.where(left | ~length.isfinite(), length, torch.zeros_like(length))
    return x / torch.where(left, length, torch.ones_like(length))[:, None] * left[:, None], length
