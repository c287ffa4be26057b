"""The Jacobian of a map at a point: dense, its spectral norm, its spectral radius. One Jacobian a sample; f must act on samples independently."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import jvp, vjp, vmap


def jacobian(f, z: Tensor, chunk_size: int = 64) -> Tensor:
    """Dense Jacobian of f at z (batch, ...), each sample's own: (batch, dim, dim), row i the gradient of output i.

    `chunk_size` rows are computed at a time, which bounds the memory.
    """
    z = z.detach()
    batch, dim = len(z), z[0].numel()
    _, pull = vjp(f, z)
    # samples are independent, so one cotangent that asks every sample for output i gives row i of every sample's Jacobian
    units = torch.eye(dim, dtype=z.dtype, device=z.device)[:, None].expand(dim, batch, dim).reshape(dim, *z.shape)
    rows = vmap(lambda u: pull(u)[0], chunk_size=chunk_size)(units)
    return rows.flatten(2).transpose(0, 1).detach()


def spectral_norm(f, z: Tensor, tol: float = 1e-6, max_steps: int = 500, seed: int = 0) -> Tensor:
    """Largest singular value of f's Jacobian at z (batch, ...): (batch,), by power iteration on J^T J (jvp, then vjp).

    Stops once no sample's estimate moves by more than `tol`, relative, in ten steps, or after `max_steps`; the estimate is a lower bound that rises to the norm.
    The start is random but fixed by `seed`, and does not touch the global random state. nan where f is not finite.
    """
    z = z.detach()
    generator = torch.Generator(device="cpu").manual_seed(seed)
    direction = torch.randn(z.shape, generator=generator, dtype=torch.float64).to(z)
    _, pull = vjp(f, z)
    sigma = torch.zeros(len(z), dtype=z.dtype, device=z.device)
    with torch.no_grad():
        for k in range(max_steps):
            direction = _unit(direction)
            _, pushed = jvp(f, (z,), (direction,))
            new = pushed.flatten(1).norm(dim=1)
            if k % 10 == 0:
                if k and not ((new - sigma).abs() > tol * new).any():
                    return new
                sigma = new
            (direction,) = pull(pushed)
    return new


def spectral_radius(f, z: Tensor) -> Tensor:
    """Largest absolute eigenvalue of f's Jacobian at z (batch, ...): (batch,).

    Dense and exact: power iteration does not settle where the leading eigenvalues are a complex pair, as they often are for slot attention.
    """
    J = jacobian(f, z)
    finite = J.isfinite().all(dim=(1, 2))
    radius = torch.linalg.eigvals(J.nan_to_num(0, 0, 0)).abs().amax(1)
    return radius.masked_fill(~finite, float("nan"))


def _unit(x: Tensor) -> Tensor:
    norm = x.flatten(1).norm(dim=1).clamp_min(torch.finfo(x.dtype).tiny)
    return x / norm.view(-1, *[1] * (x.dim() - 1))
