"""Fixed points of differentiable maps: solvers, gradients, Jacobians. Pure tensors; knows nothing of slots."""

from paper_lib.fixed_point.adjoints import (
    Implicit,
    Neumann,
    Solution,
    Unrolled,
    check_pair,
    fixed_point,
)
from paper_lib.fixed_point.jacobian import jacobian, spectral_norm, spectral_radius
from paper_lib.fixed_point.solvers import Anderson, Broyden, Iteration, Result, relative_residual

__all__ = [
    "Anderson", "Broyden", "Implicit", "Iteration", "Neumann", "Result", "Solution", "Unrolled",
    "check_pair", "fixed_point", "jacobian", "relative_residual", "spectral_norm", "spectral_radius",
]  # fmt: skip
