"""Fixed points z = f(z) of differentiable maps: how they are found, and how gradients pass through.

A solver finds the fixed point, an adjoint differentiates it, and the two are chosen independently:

    solution = fixed_point(f, z0, solver=Broyden(max_steps=7), adjoint=Implicit(Broyden(7)))

The package works on plain tensors and knows nothing of slots. Read its files in this order:

    protocols.py   what a solver and an adjoint are
    iteration.py   the plainest solver
    adjoints.py    the gradients: Neumann series, implicit, unrolled and its relatives; with a table
    solve.py       `fixed_point`, which pairs a solver with an adjoint, and the paper's one line
    backward.py    how an adjoint enters PyTorch's backward pass
    search.py      what solvers share: norms, and the bookkeeping of a batch of searches
    broyden.py     Broyden's method
    anderson.py    Anderson acceleration
    gmres.py       GMRES, for the linear equation of the implicit gradient
    jacobian.py    the Jacobian of a map: dense, its spectral norm, its spectral radius, and an
                   estimate of its size that a loss can add
"""

from paper_lib.fixed_point.adjoints import (
    Checkpointed,
    Implicit,
    Neumann,
    Phantom,
    StraightThrough,
    Truncated,
    Unrolled,
)
from paper_lib.fixed_point.anderson import Anderson
from paper_lib.fixed_point.broyden import Broyden
from paper_lib.fixed_point.gmres import GMRES
from paper_lib.fixed_point.iteration import Iteration
from paper_lib.fixed_point.jacobian import (
    jacobian,
    jacobian_regularisation,
    spectral_norm,
    spectral_radius,
)
from paper_lib.fixed_point.protocols import (
    Adjoint,
    LinearSolver,
    Map,
    Result,
    Solver,
    Step,
    Unrolling,
)
from paper_lib.fixed_point.search import Search, check_settings, dot, flatten, relative_residual
from paper_lib.fixed_point.solve import Solution, check_pair, fixed_point, one_step_gradient

__all__ = [
    "GMRES",
    "Adjoint",
    "Anderson",
    "Broyden",
    "Checkpointed",
    "Implicit",
    "Iteration",
    "LinearSolver",
    "Map",
    "Neumann",
    "Phantom",
    "Result",
    "Search",
    "Solution",
    "Solver",
    "Step",
    "StraightThrough",
    "Truncated",
    "Unrolled",
    "Unrolling",
    "check_pair",
    "check_settings",
    "dot",
    "fixed_point",
    "flatten",
    "jacobian",
    "jacobian_regularisation",
    "one_step_gradient",
    "relative_residual",
    "spectral_norm",
    "spectral_radius",
]
