"""The Jacobian of a map at a point: dense, its spectral norm, its spectral radius, its size.

There is one Jacobian a sample, so f must act on the samples independently.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor
from torch.func import jvp, vjp, vmap

from paper_lib.fixed_point.protocols import Map

# torch's own forward-mode formulas still use torch.jit
warnings.filterwarnings("ignore", message=".*torch.jit.script.*", category=FutureWarning)


def jacobian(f: Map, z: Tensor, chunk_size: int = 64) -> Tensor:
    """Return the dense Jacobian of f at z (batch, ...), each sample's own: (batch, dim, dim).

    Row i is the gradient of output i. `chunk_size` rows are computed at a time, which bounds the
    memory.
    """
    z = z.detach()
    batch, dim = len(z), z[0].numel()
    _, pull = vjp(f, z)
    # Samples are independent, so one cotangent that asks every sample for output i gives row i of
    # every sample's Jacobian.
    units = torch.eye(dim, dtype=z.dtype, device=z.device)
    cotangents = units[:, None].expand(dim, batch, dim).reshape(dim, *z.shape)
    rows = vmap(lambda u: pull(u)[0], chunk_size=chunk_size)(cotangents)
    return rows.reshape(dim, batch, dim).transpose(0, 1).detach()


def spectral_norm(f: Map, z: Tensor, tol: float = 1e-3, max_steps: int = 100) -> Tensor:
    """Return the largest singular value of f's Jacobian at z (batch, ...): (batch,).

    The Jacobian is never formed. Golub-Kahan bidiagonalisation needs only J v (by jvp) and J^T u
    (by vjp), as power iteration on J^T J does, but its estimate is the best one in the whole Krylov
    space: it settles several times sooner and does not pause between close singular values.

    It stops once every sample's singular triplet has a residual ||J^T u - s v|| of at most `tol` s
    (the relative error of s is about the square of that), or after `max_steps`. The start is random
    but always the same, and leaves the global random state alone. The result is nan where the
    Jacobian is not finite.

    Source: Golub and Kahan (1965), with full reorthogonalisation.
    """
    z = z.detach()
    batch, dim = len(z), z[0].numel()
    generator = torch.Generator(device="cpu").manual_seed(0)
    v = torch.randn(z.shape, generator=generator, dtype=torch.float64).to(z).view(batch, dim)
    v = v / v.norm(dim=1, keepdim=True)
    _, pull = vjp(f, z)
    vs, us, alphas, betas = [v], [], [], []
    with torch.no_grad():
        for _ in range(min(max_steps, dim)):
            _, Jv = jvp(f, (z,), (vs[-1].view_as(z),))
            u, alpha = _orthogonal_unit(Jv.reshape(batch, dim), us)
            us.append(u)
            alphas.append(alpha)
            (Ju,) = pull(u.view_as(z))
            v, beta = _orthogonal_unit(Ju.reshape(batch, dim), vs)
            vs.append(v)
            betas.append(beta)
            B = _bidiagonal(alphas, betas[:-1])
            finite = B.isfinite().all(dim=(1, 2))
            left, sigma, _ = torch.linalg.svd(B.nan_to_num(0, 0, 0))
            residual = beta * left[:, -1, 0].abs()
            unsettled = finite & (residual > tol * sigma[:, 0])
            if not unsettled.any():
                break
    return sigma[:, 0].masked_fill(~finite, float("nan"))


def spectral_radius(f: Map, z: Tensor) -> Tensor:
    """Return the largest absolute eigenvalue of f's Jacobian at z (batch, ...): (batch,).

    It is dense and exact: power iteration does not settle where the leading eigenvalues are a
    complex pair, as they often are for slot attention. The result is nan where the Jacobian is not
    finite.
    """
    J = jacobian(f, z)
    finite = J.isfinite().all(dim=(1, 2))
    radius = torch.linalg.eigvals(J.nan_to_num(0, 0, 0)).abs().amax(1)
    return radius.masked_fill(~finite, float("nan"))


def jacobian_regularisation(
    f: Map, z: Tensor, draws: int = 1, generator: torch.Generator | None = None
) -> Tensor:
    """Return an estimate of ||J||_F^2 / dim, of f's Jacobian at z (batch, ...): (batch,).

    A loss adds its mean over the batch, times a small weight, at the fixed point:

        loss = loss + 0.1 * jacobian_regularisation(f, solution.value).mean()

    It is unbiased: the mean over `draws` normal vectors e of ||e J||^2 / dim, each at the cost of a
    backward pass. Its gradient goes to whatever f uses, and none to z. The vectors come from the
    generator, or from PyTorch's global one.

    Source: Hutchinson (1989); Bai et al., Stabilizing Equilibrium Models by Jacobian
    Regularization (2021).
    """
    if draws < 1:
        raise ValueError(f"jacobian_regularisation: draws must be at least 1, got {draws}")
    wanted = torch.is_grad_enabled()
    total = z.new_zeros(len(z))
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        fz = f(z)
        for _ in range(draws):
            e = torch.randn(z.shape, generator=generator, dtype=z.dtype, device=z.device)
            (eJ,) = torch.autograd.grad(
                fz, z, e, retain_graph=True, create_graph=wanted, materialize_grads=True
            )
            total = total + eJ.flatten(1).square().sum(1)
    return total / (draws * z[0].numel())


def _orthogonal_unit(x: Tensor, basis: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Make x (batch, dim) orthogonal to the basis and of length one; return it, and its length.

    Both are zero if nothing is left of x.
    """
    size = x.norm(dim=1)
    for _ in range(2):  # once leaves rounding errors as large as what is left
        for b in basis:
            x = x - b * (b * x).sum(1, keepdim=True)
    length = x.norm(dim=1)
    left = length > 10 * torch.finfo(x.dtype).eps * size
    length = torch.where(left | ~length.isfinite(), length, torch.zeros_like(length))
    divisor = torch.where(left, length, torch.ones_like(length))
    return x / divisor[:, None] * left[:, None], length


def _bidiagonal(diagonal: list[Tensor], above: list[Tensor]) -> Tensor:
    """Return the matrices (batch, k, k) with these k, and k - 1, columns (batch,) of entries."""
    B = torch.diag_embed(torch.stack(diagonal, 1))
    if above:
        B = B + torch.diag_embed(torch.stack(above, 1), 1)
    return B
