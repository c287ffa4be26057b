"""Fixed points z = f(z) of differentiable maps: how they are found, and how gradients pass through.

A solver finds the fixed point, an adjoint differentiates it, and the two are chosen independently:

    solution = fixed_point(f, z0, solver=Broyden(max_steps=7), adjoint=Implicit(Broyden(7)))

The package works on plain tensors and knows nothing of slots. Read its files in this order:

    protocols.py   what a solver and an adjoint are
    iteration.py   the plainest solver
    adjoints.py    three gradients: unrolled, Neumann series, implicit
    solve.py       `fixed_point`, which pairs a solver with an adjoint, and the paper's one line
    backward.py    how an adjoint enters PyTorch's backward pass
    search.py      what solvers share: norms, and the bookkeeping of a batch of searches
    broyden.py     Broyden's method
    anderson.py    Anderson acceleration
    jacobian.py    the Jacobian of a map: dense, its spectral norm, its spectral radius
"""

from paper_lib.fixed_point.adjoints import Implicit, Neumann, Unrolled
from paper_lib.fixed_point.anderson import Anderson
from paper_lib.fixed_point.broyden import Broyden
from paper_lib.fixed_point.iteration import Iteration
from paper_lib.fixed_point.jacobian import jacobian, spectral_norm, spectral_radius
from paper_lib.fixed_point.protocols import Adjoint, Map, Result, Solver
from paper_lib.fixed_point.search import Search, check_settings, dot, flatten, relative_residual
from paper_lib.fixed_point.solve import Solution, check_pair, fixed_point, one_step_gradient

__all__ = [
    "Adjoint",
    "Anderson",
    "Broyden",
    "Implicit",
    "Iteration",
    "Map",
    "Neumann",
    "Result",
    "Search",
    "Solution",
    "Solver",
    "Unrolled",
    "check_pair",
    "check_settings",
    "dot",
    "fixed_point",
    "flatten",
    "jacobian",
    "one_step_gradient",
    "relative_residual",
    "spectral_norm",
    "spectral_radius",
]
