"""The gradients that TorchDEQ has as well, against TorchDEQ's, where it is installed.

It has the unrolled phantom gradient, with one step as a case of it, the implicit gradient by its
solvers of fixed points, and Jacobian regularisation. It has no Neumann form, no truncation, no
straight-through estimate, no checkpointing and no GMRES.
"""

from importlib.util import find_spec

import pytest
import torch
from test_fixed_point import Tanh, close

from paper_lib.fixed_point import (
    Broyden,
    Implicit,
    Iteration,
    Neumann,
    Phantom,
    fixed_point,
    jacobian_regularisation,
)

pytestmark = pytest.mark.skipif(find_spec("torchdeq") is None, reason="pip install -e '.[bench]'")


def theirs(problem, **options):
    """The gradients of TorchDEQ's module."""
    import torchdeq

    module = torchdeq.get_deq(
        f_solver="fixed_point_iter", f_max_iter=400, f_tol=1e-13, b_tol=1e-11, **options
    )
    values, _ = module(lambda z: problem(z), problem.z0)
    return problem.gradients(values[-1])


@pytest.mark.parametrize(
    "adjoint, options",
    [
        (Phantom(4, damping=0.3), {"grad": 4, "tau": 0.3}),
        (Neumann(), {"grad": 1, "tau": 1.0}),
        (Implicit(Broyden(60, 1e-11)), {"ift": True, "b_solver": "broyden", "b_max_iter": 60}),
    ],
    ids=str,
)
def test_gradients_are_torchdeqs(adjoint, options):
    problem = Tanh()
    value = fixed_point(problem, problem.z0, solver=Iteration(400), adjoint=adjoint).value
    close(problem.gradients(value), theirs(problem, **options), 1e-7)


def test_jacobian_regularisation_is_torchdeqs():
    from torchdeq.loss import jac_reg

    problem = Tanh(dtype=torch.float32)  # in which it draws
    z = problem.star().requires_grad_()
    torch.manual_seed(0)
    expected = jac_reg(problem(z), z, vecs=3)
    torch.manual_seed(0)
    ours = jacobian_regularisation(problem, z, draws=3).mean()
    torch.testing.assert_close(ours, expected)
