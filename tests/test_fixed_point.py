"""Solvers, adjoints and Jacobians against dense linear algebra and hand-written backpropagation."""

import doctest
import gc
import importlib
import inspect
import math
import weakref
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.autograd.graph import saved_tensors_hooks

from paper_lib.fixed_point import (
    GMRES,
    Anderson,
    Broyden,
    Checkpointed,
    Implicit,
    Iteration,
    Neumann,
    Phantom,
    Result,
    Search,
    StraightThrough,
    Truncated,
    Unrolled,
    fixed_point,
    jacobian,
    jacobian_regularisation,
    one_step_gradient,
    spectral_norm,
    spectral_radius,
)

f64 = torch.float64
SOLVERS = [Iteration(300, tol=1e-11), Broyden(60, tol=1e-11), Anderson(60, tol=1e-11)]
# one more application of f, at the detached z
ONE_MORE = [Neumann(), Neumann(3), Neumann(2, 0.5), Implicit(Broyden(20)), Implicit(GMRES(20))]
BLACK_BOX = [*ONE_MORE, StraightThrough(), Phantom(3, damping=1.0)]  # with any solver
ADJOINTS = [Unrolled(), Checkpointed(), Truncated(2), *BLACK_BOX]


def applications(adjoint):
    """How often f is applied beside the solver's own steps."""
    if isinstance(adjoint, (Unrolled, Checkpointed, Truncated)):
        return 0
    return adjoint.steps if isinstance(adjoint, Phantom) else 1


def name(x):
    return type(x).__name__ if not isinstance(x, tuple) else str(x)


def affine(shape, norms=(0.3, 0.6, 0.9), dtype=f64, seed=0):
    """f(z) = A_i z + b_i, one problem a sample, with |A_i| = norms[i].

    Returns the map (of a choice of the samples), and the fixed points by a dense solve.
    """
    generator = torch.Generator().manual_seed(seed)
    batch, dim = len(norms), math.prod(shape)
    A = torch.randn(batch, dim, dim, generator=generator, dtype=f64)
    scale = torch.tensor(norms, dtype=f64) / torch.linalg.matrix_norm(A, 2)
    A = A * scale[:, None, None]
    b = torch.randn(batch, dim, generator=generator, dtype=f64)
    star = torch.linalg.solve(torch.eye(dim, dtype=f64) - A, b).view(batch, *shape)

    def f(z, rows=slice(None)):
        return (
            torch.einsum("bij,bj->bi", A[rows].to(dtype), z.reshape(len(z), dim))
            .add(b[rows].to(dtype))
            .view_as(z)
        )

    return f, star


class Tanh:
    """f(z) = tanh(z W^T + x U^T + c), with everything about it in closed form.

    The samples share W, U and c, and each has its input x. |W| = scale: below 1 it contracts.
    """

    def __init__(self, batch=3, dim=6, scale=0.9, dtype=f64):
        generator = torch.Generator().manual_seed(1)

        def draw(*shape):
            return torch.randn(shape, generator=generator, dtype=f64)

        W = draw(dim, dim)
        self.W = (W / torch.linalg.matrix_norm(W, 2) * scale).to(dtype)
        self.U = draw(dim, 4).to(dtype)
        self.c = draw(dim).to(dtype)
        self.x = draw(batch, 4).to(dtype)
        self.g = draw(batch, dim).to(dtype)  # an incoming gradient
        self.z0 = torch.zeros(batch, dim, dtype=dtype)
        self.leaves = [t.requires_grad_() for t in (self.W, self.U, self.c, self.x)]

    def __call__(self, z):
        return torch.tanh(z @ self.W.T + self.x @ self.U.T + self.c)

    def star(self):
        with torch.no_grad():
            z = self.z0
            for _ in range(1000):
                z = self(z)
            return z

    def J(self, z):
        with torch.no_grad():
            return (1 - self(z) ** 2)[:, :, None] * self.W

    def pull(self, u, z):
        """The row vectors u times df/d(W, U, c, x) at z."""
        with torch.no_grad():
            d = u * (1 - self(z) ** 2)
            return [d.T @ z, d.T @ self.x, d.sum(0), d @ self.U]

    def gradients(self, value):
        return torch.autograd.grad(value, self.leaves, self.g)


def rows_times(u, M):
    return torch.einsum("bi,bij->bj", u, M)


def close(a, b, tol):
    for ours, theirs in zip(a, b, strict=True):
        assert ours.shape == theirs.shape
        assert (ours - theirs).norm() <= tol * theirs.norm(), (
            f"{(ours - theirs).norm() / theirs.norm():.1e}"
        )


def residual(f, z):
    fz = f(z).detach().reshape(len(z), -1)
    return (fz - z.detach().reshape(len(z), -1)).norm(dim=1) / fz.norm(dim=1)


# ---------------------------------------------------------------- solvers


@pytest.mark.parametrize("solver", SOLVERS, ids=name)
@pytest.mark.parametrize("shape", [(7,), (2, 3), (2, 1, 3), (1,), ()])
def test_solvers_find_the_fixed_point(solver, shape):
    f, star = affine(shape)
    result = solver.solve(f, torch.zeros_like(star))
    assert result.converged.all() and not result.failed.any()
    close([result.value], [star], 1e-8)
    assert result.value.dtype == f64 and result.steps.dtype == torch.int64
    assert (residual(f, result.value) <= 1e-10).all()


@pytest.mark.parametrize(
    "solver", [Iteration(200, 1e-6), Broyden(40, 1e-6), Anderson(40, 1e-6)], ids=name
)
@pytest.mark.parametrize("dtype, tol", [(torch.float32, 1e-4), (torch.bfloat16, 0.03)], ids=str)
@pytest.mark.parametrize("adjoint", [Neumann(), Implicit(Broyden(30, 1e-5))], ids=name)
def test_solvers_in_low_precision(solver, dtype, tol, adjoint):
    f, star = affine((2, 4), norms=(0.3, 0.6, 0.8), dtype=dtype)
    z0 = torch.zeros(star.shape, dtype=dtype)
    for enabled in (True, False):
        with torch.set_grad_enabled(enabled):
            solution = fixed_point(f, z0, solver=solver, adjoint=adjoint)
        assert solution.value.dtype == dtype and solution.value.shape == star.shape
        close([solution.value.to(f64)], [star], tol)
    if dtype == torch.float32:
        assert solution.converged.all()


@pytest.mark.parametrize(
    "solver", [Iteration(100), Broyden(20, 1e-4), Anderson(20, 1e-4)], ids=name
)
@pytest.mark.parametrize(
    "adjoint",
    [Neumann(), *(Implicit(solver(20, 1e-4)) for solver in (Broyden, Anderson, GMRES))],
    ids=name,
)
def test_under_autocast(solver, adjoint):
    """The map answers in bfloat16, and the state stays in float32.

    Value and gradient are those of float64 to bfloat16's accuracy.
    """
    problem, exact = Tanh(scale=0.7, dtype=torch.float32), Tanh(scale=0.7)
    dtypes = []

    def f(z):
        out = F.linear(z, problem.W)
        dtypes.append(out.dtype)
        return torch.tanh(out + F.linear(problem.x, problem.U, problem.c))

    with torch.autocast("cpu", torch.bfloat16):
        value = fixed_point(f, problem.z0, solver=solver, adjoint=adjoint).value
    assert set(dtypes) == {torch.bfloat16} and value.dtype == torch.float32
    z = exact.star()
    close([value.double()], [z], 0.02)
    u = (
        exact.g
        if isinstance(adjoint, Neumann)
        else rows_times(exact.g, torch.linalg.inv(torch.eye(6, dtype=f64) - exact.J(z)))
    )
    close([g.double() for g in problem.gradients(value)], exact.pull(u, z), 0.06)


@pytest.mark.parametrize(
    "solver", [Iteration(60, tol=1e-5), Broyden(12, tol=1e-5), Anderson(12, tol=1e-5)], ids=name
)
def test_each_sample_is_its_own_problem(solver):
    f, star = affine((3, 2), norms=(0.01, 0.3, 0.6, 0.95))
    z0 = torch.randn(star.shape, dtype=f64, generator=torch.Generator().manual_seed(2))
    seen = []  # seen[k]: z after k steps
    together = solver.solve(lambda z: seen.append(z) or f(z), z0)
    assert len(set(together.steps.tolist())) > 1, "the samples should stop at different steps"
    assert len(together.residuals) == together.steps.max()
    for i in range(len(z0)):
        alone = solver.solve(lambda z, i=i: f(z, slice(i, i + 1)), z0[i : i + 1])
        n = int(alone.steps)
        assert together.steps[i] == n and together.converged[i] == alone.converged[0]
        torch.testing.assert_close(together.value[i], alone.value[0], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(
            together.residuals[:n, i], alone.residuals[:, 0], rtol=1e-6, atol=1e-12
        )
        assert (together.residuals[n:, i] == together.residuals[n - 1, i]).all(), (
            "a stopped sample repeats its last"
        )
        assert together.converged[i] == bool(together.residuals[-1, i] <= 1e-5)
        assert (together.residuals[: n - 1, i] > 1e-5).all(), (
            "and it stopped no later than it could"
        )
        assert all(torch.equal(z[i], seen[n][i]) for z in seen[n:]), "and stays where it is"


@pytest.mark.parametrize("solver", [Broyden(9, tol=1e-12), Anderson(9, tol=1e-12)], ids=name)
def test_residuals_are_those_of_the_iterates(solver):
    """Broyden and Anderson: row k is the residual at the k-th point after z0."""
    f, star = affine((5,))
    seen = []

    def spy(z):
        seen.append(z.clone())
        return f(z)

    result = solver.solve(spy, torch.ones_like(star))
    assert len(seen) == len(result.residuals) + 1 <= 10
    torch.testing.assert_close(
        result.residuals, torch.stack([residual(f, z) for z in seen[1:]]), rtol=1e-5, atol=1e-12
    )


@pytest.mark.parametrize("adjoint", ADJOINTS, ids=name)
def test_iteration_counts_and_residuals(adjoint):
    """n steps are n applications of f, and one or more for the gradient, except when unrolled.

    Row k is the residual at z_k.
    """
    f, star = affine((5,))
    z, residuals, calls = torch.ones_like(star), [], []
    for _ in range(6):
        residuals.append(residual(f, z))
        z = f(z)

    solution = fixed_point(
        lambda z: calls.append(1) or f(z),
        torch.ones_like(star),
        solver=Iteration(6),
        adjoint=adjoint,
    )
    assert len(calls) == 6 + applications(adjoint)
    torch.testing.assert_close(solution.residuals, torch.stack(residuals))
    assert (
        (solution.steps == 6).all() and not solution.converged.any() and not solution.failed.any()
    )
    for _ in range(applications(adjoint)):
        z = f(z)
    torch.testing.assert_close(solution.value, z)


@pytest.mark.parametrize("solver", [Broyden(12), Anderson(12, history=2)], ids=name)
def test_best_iterate_is_kept(solver):
    generator = torch.Generator().manual_seed(0)
    W = 4 * torch.randn(8, 6, 6, generator=generator, dtype=f64)
    f = lambda z: torch.einsum("bij,bj->bi", W, torch.sin(z)) + 1  # noqa: E731  far from a contraction: steps make things worse as often as not
    z0 = torch.randn(8, 6, generator=generator, dtype=f64)
    result = solver.solve(f, z0)
    lowest = torch.cat([residual(f, z0)[None], result.residuals]).amin(0)
    assert (lowest < result.residuals[-1]).any(), "some later step should be worse"
    torch.testing.assert_close(residual(f, result.value), lowest)


def test_best_iterate_may_be_the_first():
    z0 = torch.full((1, 1), 1.2, dtype=f64)
    for solver in (Broyden(1), Anderson(1)):
        result = solver.solve(
            lambda z: 3 - z**2, z0
        )  # 1.2 -> 1.56 -> 0.57: away from the fixed point 1.30
        assert (
            result.value == z0
            and result.steps == 1
            and result.residuals[0] > (0.36 / 1.56)
            and not result.converged
        )


@pytest.mark.parametrize(
    "solver", [Broyden(30, 1e-9), Anderson(30, 1e-9, ridge=0.0), Iteration(30, 1e-9)], ids=name
)
def test_failures_stay_with_their_sample(solver):
    """Samples: healthy; z + 1 (singular); log (nan at the second step); nan at once; healthy."""
    dim = 4
    good, star = affine((dim,), norms=(0.2, 0.4))

    def f(z):
        healthy = good(z[[0, 4]])
        return torch.stack([healthy[0], z[1] + 1, z[2].log(), z[3] * float("nan"), healthy[1]])

    z0 = torch.full((5, dim), 0.5, dtype=f64)
    result = solver.solve(f, z0)
    alone = solver.solve(good, z0[[0, 4]])
    singular = not isinstance(
        solver, Iteration
    )  # plain iteration solves no system that could be singular
    assert result.failed.tolist() == [False, singular, True, True, False]
    assert result.converged.tolist() == [True, False, False, False, True]
    torch.testing.assert_close(result.value[[0, 4]], alone.value, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(result.value[[0, 4]], star, rtol=1e-7, atol=1e-8)
    assert torch.equal(result.steps[[0, 4]], alone.steps)
    assert (result.steps[[2, 3]] <= 3).all()
    if singular:
        assert result.value[1:4].isfinite().all(), "the best iterate seen"


@pytest.mark.parametrize("solver", SOLVERS, ids=name)
def test_failure_is_reported_not_raised(solver):
    solution = fixed_point(
        lambda z: z * float("nan"), torch.ones(2, 3), solver=solver, adjoint=Neumann()
    )
    assert (
        solution.failed.all() and not solution.converged.any() and solution.residuals.isnan().all()
    )


@pytest.mark.parametrize("solver", SOLVERS, ids=name)
@pytest.mark.parametrize("adjoint", [Neumann(), Implicit(Broyden(20, 1e-10))], ids=name)
def test_start_at_the_fixed_point(solver, adjoint):
    """No step is needed, none harms, and the value carries gradients all the same."""
    problem = Tanh()
    z = problem.star()
    solution = fixed_point(problem, z, solver=solver, adjoint=adjoint)
    assert solution.converged.all() and not solution.failed.any()
    assert (
        solution.steps == (1 if isinstance(solver, Iteration) else 0)
    ).all() and solution.residuals.shape == (1, len(z))
    close([solution.value.detach()], [z], 1e-12)
    close(
        problem.gradients(solution.value),
        problem.pull(problem.g, z) if adjoint == Neumann() else implicit(problem, z),
        1e-6,
    )


@pytest.mark.parametrize("solver", SOLVERS, ids=name)
@pytest.mark.parametrize("dtype", [torch.float32, f64], ids=str)
def test_a_map_may_vanish(solver, dtype):
    """f(z0) = 0 makes the relative residual infinite, which is no failure: zero is the fixed point.

    Nor is a zero residual at zero.
    """
    for z0 in (torch.full((2, 3), 50.0, dtype=dtype), torch.zeros(2, 3, dtype=dtype)):
        result = solver.solve(lambda z: torch.relu(z - 100), z0)
        assert result.converged.all() and not result.failed.any() and not result.value.any()


def iterates(solver, f, z0):
    """The points at which the solver evaluates f, (evaluations, batch, dim)."""
    seen = []
    solver.solve(lambda z: seen.append(z.clone()) or f(z), z0)
    return torch.stack(seen)


def test_broyden_is_the_dense_update():
    """Its iterates against an inverse Jacobian that is written out as a matrix."""
    problem = Tanh(scale=2.0)
    f, z, B = lambda z: problem(z).detach(), problem.z0, -torch.eye(6, dtype=f64).expand(3, 6, 6)
    expected, g = [z], f(z) - z
    for _ in range(8):
        step = -(B @ g[..., None])
        z = z + step[..., 0]
        expected.append(z)
        delta_g, g = (f(z) - z - g)[..., None], f(z) - z
        v = B.mT @ step
        B = B + (step - B @ delta_g) @ v.mT / (v.mT @ delta_g)
    torch.testing.assert_close(
        iterates(Broyden(8, tol=0.0), f, problem.z0), torch.stack(expected), rtol=1e-6, atol=1e-8
    )


@pytest.mark.parametrize("history", [1, 2, 3, 20])
@pytest.mark.parametrize("mixing", [1.0, 0.5])
def test_anderson_mixes_the_last_iterates(history, mixing):
    """Its iterates against weights from the whole Gram matrix of the last g's, oldest first."""
    problem = Tanh(scale=2.0)
    f, ridge = lambda z: problem(z).detach(), 1e-3
    zs, gs = [problem.z0], [f(problem.z0) - problem.z0]
    for _ in range(8):
        z, G = (torch.stack(x[-history:], 1) for x in (zs, gs))
        gram = G @ G.mT
        size = gram.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
        w = torch.linalg.solve(
            gram / size + ridge * torch.eye(G.shape[1], dtype=f64),
            torch.ones(3, G.shape[1], 1, dtype=f64),
        )
        zs.append((w / w.sum(1, keepdim=True) * (z + mixing * G)).sum(1))
        gs.append(f(zs[-1]) - zs[-1])
    solver = Anderson(8, tol=0.0, history=history, ridge=ridge, mixing=mixing)
    torch.testing.assert_close(
        iterates(solver, f, problem.z0), torch.stack(zs), rtol=1e-6, atol=1e-8
    )


def test_a_step_may_be_finite_with_an_infinite_norm():
    result = Broyden(3).solve(torch.zeros_like, torch.full((2, 4), 3e38))
    assert (
        result.converged.all()
        and not result.failed.any()
        and not result.value.any()
        and (result.steps == 1).all()
    )


def test_an_update_that_overflows_fails_its_sample():
    """By the norm of the sample an update that is not a number is a failure, not a pause."""
    z0 = torch.linspace(-20, 20, 48).view(6, 8)
    result = Broyden(30, 1e-3).solve(lambda z: 50 * z**3 + z0, z0)
    assert result.failed.all() and (result.steps < 30).all() and result.value.isfinite().all()


@pytest.mark.parametrize("solver", SOLVERS, ids=name)
def test_samples_without_entries_are_at_their_fixed_point(solver):
    result = solver.solve(torch.zeros_like, torch.ones(2, 0))
    assert result.converged.all() and not result.failed.any() and result.value.shape == (2, 0)


# ---------------------------------------------------------------- one norm for the whole batch


def batch_residual(f, z):
    return ((f(z) - z).norm() / f(z).norm()).item()


BATCH_SOLVERS = [Broyden(40, 1e-6, norm="batch"), Anderson(40, 1e-6, norm="batch")]


@pytest.mark.parametrize("solver", BATCH_SOLVERS, ids=name)
def test_the_batch_stops_together_by_one_residual(solver):
    f, star = affine((3, 2), norms=(0.01, 0.3, 0.6, 0.95))
    seen = []
    result = solver.solve(lambda z: seen.append(z.clone()) or f(z), torch.ones_like(star))
    expected = torch.tensor([batch_residual(f, z) for z in seen[1:]], dtype=f64)
    torch.testing.assert_close(result.residuals, expected[:, None].expand(-1, 4))
    assert (expected[:-1] > 1e-6).all() and expected[-1] <= 1e-6, "it stops at the first below"
    assert (result.steps == len(expected)).all()
    assert result.converged.all() and not result.failed.any()
    assert torch.equal(result.value, seen[-1])
    alone = replace(solver, norm="sample").solve(f, torch.ones_like(star))
    assert len(set(alone.steps.tolist())) > 1, "each by itself would stop at another step"


@pytest.mark.parametrize("solver", BATCH_SOLVERS, ids=name)
def test_a_batch_of_one_is_a_sample(solver):
    f, star = affine((5,), norms=(0.9,))
    together = solver.solve(f, torch.ones_like(star))
    alone = replace(solver, norm="sample").solve(f, torch.ones_like(star))
    torch.testing.assert_close(vars(together), vars(alone))


@pytest.mark.parametrize("kind", [Broyden, Anderson])
def test_the_best_iterate_of_the_whole_batch_is_kept(kind):
    generator = torch.Generator().manual_seed(0)
    W = 4 * torch.randn(8, 6, 6, generator=generator, dtype=f64)
    z0 = torch.randn(8, 6, generator=generator, dtype=f64)
    seen = []

    def f(z):
        return torch.einsum("bij,bj->bi", W, torch.sin(z)) + 1

    result = kind(12, norm="batch").solve(lambda z: seen.append(z.clone()) or f(z), z0)
    residuals = [batch_residual(f, z) for z in seen]
    best = residuals.index(min(residuals))
    assert best < 12, "some later step should be worse"
    assert torch.equal(result.value, seen[best])
    assert (kind(12).solve(f, z0).value != result.value).any(), "each sample's own best is another"


def test_a_sample_at_its_fixed_point_waits_for_the_others():
    """Broyden's update is 0 / 0 for a sample that does not move, which must not stop the batch."""
    f, star = affine((4,), norms=(0.3, 0.8))

    def with_a_constant(z):
        return torch.cat([f(z[:2]), torch.ones_like(z[2:])])

    z0 = torch.ones(3, 4, dtype=f64)
    for solver in BATCH_SOLVERS:
        result = solver.solve(with_a_constant, z0)
        assert result.converged.all() and not result.failed.any()
        torch.testing.assert_close(result.value[:2], star, rtol=1e-4, atol=1e-5)
        assert (result.value[2] == 1).all()


@pytest.mark.parametrize(
    "solver",
    [Broyden(40, norm="batch"), Anderson(40, norm="batch", ridge=0.0)],
    ids=name,
)
@pytest.mark.parametrize("bad", [torch.log, lambda z: z + 1], ids=["not a number", "singular"])
def test_a_batch_fails_together(solver, bad):
    """One sample leaves its map's domain, or meets a singular system, and all stop there."""
    f, _ = affine((4,), norms=(0.9, 0.9))
    z0 = torch.full((3, 4), 0.5, dtype=f64)
    result = solver.solve(lambda z: torch.cat([f(z[:2]), bad(z[2:])]), z0)
    assert result.failed.all() and not result.converged.any()
    assert (result.steps == result.steps[0]).all() and result.steps[0] < solver.max_steps
    assert result.value.isfinite().all()


# ---------------------------------------------------------------- solvers and adjoints of one's own


@pytest.mark.parametrize("module", ["protocols", "search"])
def test_the_examples_of_the_documentation_run(module):
    outcome = doctest.testmod(importlib.import_module(f"paper_lib.fixed_point.{module}"))
    assert outcome.attempted and not outcome.failed


class Newton:
    """A solver that the library does not know: Newton's method with the dense Jacobian."""

    def solve(self, f, z0):
        search = Search(f, z0, tol=1e-10)
        for _ in range(10):
            z = search.z.view_as(z0)
            I_minus_J = torch.eye(z0[0].numel(), dtype=z0.dtype) - jacobian(f, z)
            if not search.take(torch.linalg.solve(I_minus_J, search.g)):
                break
        return search.result()


class Plain:
    """A solver that shares nothing with the library but the `Result`."""

    def solve(self, f, z0):
        z = z0
        for _ in range(400):
            z = f(z)
        counts = torch.full((len(z0),), 400)
        residuals = residual(f, z)[None]
        return Result(z, residuals, counts, residuals[0] < 1e-6, residuals[0].isnan())


class DenseSolve:
    """An adjoint that the library does not know: Eq. 1, with J from vector-Jacobian products."""

    def check(self, solver):
        if isinstance(solver, Anderson):
            raise ValueError("not with Anderson")

    def solve(self, vjp, g):
        dim = g.shape[1]
        units = torch.eye(dim, dtype=g.dtype)
        J = torch.stack([vjp(unit.expand_as(g)) for unit in units], 1)
        u = torch.linalg.solve(torch.eye(dim, dtype=g.dtype) - J.mT, g)
        return u, None


@pytest.mark.parametrize("solver", [Newton(), Plain(), Broyden(60, 1e-12)], ids=name)
@pytest.mark.parametrize("adjoint", [DenseSolve(), Implicit(Plain()), Neumann(400)], ids=name)
def test_any_object_with_their_methods_is_a_solver_or_an_adjoint(solver, adjoint):
    problem = Tanh()
    solution = fixed_point(problem, problem.z0, solver=solver, adjoint=adjoint)
    close([solution.value.detach()], [problem.star()], 1e-9)
    close(problem.gradients(solution.value), implicit(problem, problem.star()), 1e-8)
    assert (solution.backward is not None) == isinstance(adjoint, Implicit)


def test_an_adjoint_of_ones_own_may_refuse_a_solver():
    with pytest.raises(ValueError, match="not with Anderson"):
        fixed_point(torch.cos, torch.zeros(1, 1), solver=Anderson(5), adjoint=DenseSolve())


# ---------------------------------------------------------------- adjoints


def implicit(problem, z):
    """Eq. 1: the cotangent g (I - J)^-1, pulled back by one application."""
    return problem.pull(
        rows_times(problem.g, torch.linalg.inv(torch.eye(z.shape[1], dtype=f64) - problem.J(z))), z
    )


@pytest.mark.parametrize(
    "linear_solver",
    [
        Iteration(400),
        Iteration(400, 1e-12),
        Broyden(60, 1e-11),
        Anderson(60, 1e-11),
        GMRES(9, 1e-11),
    ],
    ids=str,
)
@pytest.mark.parametrize("solver", SOLVERS, ids=name)
def test_implicit_gradient_is_the_dense_solve(solver, linear_solver):
    problem = Tanh()
    solution = fixed_point(problem, problem.z0, solver=solver, adjoint=Implicit(linear_solver))
    assert solution.backward is None
    gradients = problem.gradients(solution.value)
    close(gradients, implicit(problem, problem.star()), 1e-6)
    assert solution.backward.converged.all() or linear_solver.tol == 0
    assert (
        solution.backward.value.shape == problem.z0.shape
        and (solution.backward.residuals[-1] < 1e-9).all()
    )


def test_implicit_gradient_by_finite_differences():
    problem = Tanh()
    for t in problem.leaves:
        t.requires_grad_(False)
    problem.x.requires_grad_()

    def value(x):
        problem.x = x
        return fixed_point(
            problem, problem.z0, solver=Iteration(400), adjoint=Implicit(Broyden(60, 1e-12))
        ).value

    assert torch.autograd.gradcheck(value, (problem.x,), eps=1e-6, atol=1e-6)


def test_neumann_of_one_term_is_the_added_line():
    """Bit for bit: iterate without gradients, then apply f once to the detached result."""
    problem = Tanh(dtype=torch.float32)
    solution = fixed_point(problem, problem.z0, solver=Iteration(7), adjoint=Neumann())
    with torch.no_grad():
        z = problem.z0
        for _ in range(7):
            z = problem(z)
    z = z.detach()
    z = problem(z)
    assert torch.equal(solution.value, z)
    for ours, theirs in zip(problem.gradients(solution.value), problem.gradients(z)):
        assert torch.equal(ours, theirs)


def test_the_added_line_stands_alone_in_its_function():
    """The source that is shown is the source that runs: one application, to the detached result."""
    *_, line, last = inspect.getsource(one_step_gradient).splitlines()
    assert line.strip() == "value = step(result.value.detach())" and last.strip() == "return value"
    problem = Tanh()
    with torch.no_grad():
        result = Iteration(7).solve(problem, problem.z0)
    value = one_step_gradient(problem, result)
    close(problem.gradients(value), problem.pull(problem.g, result.value), 1e-12)


@pytest.mark.parametrize("terms", [1, 2, 5])
@pytest.mark.parametrize("damping", [1.0, 0.6])
@pytest.mark.parametrize("solver", [Iteration(4), Broyden(4)], ids=name)
def test_neumann_is_the_truncated_series(terms, damping, solver):
    """u = a sum_{i < terms} g ((1 - a) I + a J)^i, J at the iterate found."""
    problem = Tanh()
    with torch.no_grad():
        z = solver.solve(problem, problem.z0).value
    M = (1 - damping) * torch.eye(6, dtype=f64) + damping * problem.J(z)
    u = damping * sum(rows_times(problem.g, torch.linalg.matrix_power(M, i)) for i in range(terms))
    value = fixed_point(problem, problem.z0, solver=solver, adjoint=Neumann(terms, damping)).value
    close(problem.gradients(value), problem.pull(u, z), 1e-12)


@pytest.mark.parametrize("damping", [1.0, 0.5])
def test_neumann_converges_to_the_implicit_gradient(damping):
    problem = Tanh()
    value = fixed_point(
        problem, problem.z0, solver=Iteration(400), adjoint=Neumann(400, damping)
    ).value
    close(problem.gradients(value), implicit(problem, problem.star()), 1e-9)


def test_damping_converges_where_the_plain_series_diverges():
    """J = -1.5 at the fixed point: sum J^i diverges, the damped series gives 1 / (1 - J) = 0.4."""
    b = torch.ones(1, 1, dtype=f64, requires_grad=True)
    value = fixed_point(
        lambda z: -1.5 * z + b,
        torch.zeros(1, 1, dtype=f64),
        solver=Broyden(5),
        adjoint=Neumann(60, damping=0.5),
    ).value
    (gradient,) = torch.autograd.grad(value.sum(), b)
    assert abs(gradient.item() - 0.4) < 1e-9 and abs(value.item() - 0.4) < 1e-9


def test_unrolled_is_plain_backpropagation():
    problem = Tanh(dtype=torch.float32)
    z0 = torch.randn(problem.z0.shape, generator=torch.Generator().manual_seed(3)).requires_grad_()
    leaves = [z0, *problem.leaves]
    solution = fixed_point(problem, z0, solver=Iteration(5), adjoint=Unrolled())
    z = z0
    for _ in range(5):
        z = problem(z)
    assert torch.equal(solution.value, z)
    for ours, theirs in zip(
        torch.autograd.grad(solution.value, leaves, problem.g),
        torch.autograd.grad(z, leaves, problem.g),
    ):
        assert torch.equal(ours, theirs)


def test_unrolled_with_tolerance_stops_each_sample_by_itself():
    problem = Tanh(scale=0.5)
    z0 = problem.z0.clone()
    z0[0] = problem.star()[0]
    z0.requires_grad_()
    solution = fixed_point(problem, z0, solver=Iteration(6, tol=1e-4), adjoint=Unrolled())
    assert solution.steps[0] == 1 < solution.steps[1]
    rows = []
    for i in range(3):
        z = z0
        for _ in range(solution.steps[i]):
            z = problem(z)
        rows.append(z[i])
    expected = torch.stack(rows)
    leaves = [z0, *problem.leaves]
    close(
        torch.autograd.grad(solution.value, leaves, problem.g),
        torch.autograd.grad(expected, leaves, problem.g),
        1e-12,
    )


@pytest.mark.parametrize("adjoint", [*ONE_MORE, Phantom()], ids=str)
@pytest.mark.parametrize("solver", [Iteration(3), Broyden(3), Anderson(3)], ids=name)
def test_nothing_flows_to_the_initial_guess(adjoint, solver):
    problem = Tanh()
    z0 = problem.z0.clone().requires_grad_()
    mu = z0 * 1.0  # a guess that is computed, as slot attention's is
    fixed_point(problem, mu, solver=solver, adjoint=adjoint).value.sum().backward()
    assert z0.grad is None and all(t.grad is not None for t in problem.leaves)


# ---------------------------------------------------------------- relatives of unrolling


def draw(*shape, seed=3):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=f64)


@pytest.mark.parametrize("tol", [0.0, 1e-4])
def test_checkpointed_is_unrolled_bit_for_bit(tol):
    """The same gradients, of value and aux, at twice the applications of f."""
    calls, gradients = [], []
    for adjoint in (Unrolled(), Checkpointed()):
        problem, z0 = Tanh(scale=0.5), draw(3, 6).requires_grad_()
        before = len(calls)
        solution = fixed_point(
            lambda z, problem=problem: (calls.append(1) or problem(z), z.sin()),
            z0,
            solver=Iteration(5, tol),
            adjoint=adjoint,
            has_aux=True,
        )
        assert len(calls) - before == 5
        outputs = [solution.value, solution.aux]
        cotangents = [problem.g, torch.ones_like(problem.g)]
        gradients.append(torch.autograd.grad(outputs, [z0, *problem.leaves], cotangents))
    assert len(calls) == 5 + 2 * 5
    assert all(torch.equal(a, b) for a, b in zip(*gradients))


def test_memory_of_checkpointed_is_the_iterates():
    """One tensor an iteration, of z0's size; plainly unrolled it is what an iteration computes."""
    iterates = 20 * torch.tensor([1, Tanh(dtype=torch.float32).z0.nbytes])
    assert torch.equal(saved(Checkpointed(), Iteration(20)), iterates)
    assert (saved(Unrolled(), Iteration(20)) > 3 * iterates).all()


@pytest.mark.parametrize("k", [1, 2, 4])
def test_truncated_is_backpropagation_through_the_last_iterations(k):
    problem, z = Tanh(), draw(3, 6)
    solution = fixed_point(
        problem, z.clone().requires_grad_(), solver=Iteration(6), adjoint=Truncated(k)
    )
    with torch.no_grad():
        for _ in range(6 - k):
            z = problem(z)
    for _ in range(k):
        z = problem(z)
    assert torch.equal(solution.value, z) and len(solution.residuals) == 6
    for ours, theirs in zip(problem.gradients(solution.value), problem.gradients(z)):
        assert torch.equal(ours, theirs)


def test_truncated_at_all_iterations_is_unrolled():
    gradients = []
    for adjoint in (Unrolled(), Truncated(4), Truncated(9)):
        problem, z0 = Tanh(), draw(3, 6).requires_grad_()
        value = fixed_point(problem, z0, solver=Iteration(4), adjoint=adjoint).value
        gradients.append(torch.autograd.grad(value, [z0, *problem.leaves], problem.g))
    for others in gradients[1:]:
        assert all(torch.equal(a, b) for a, b in zip(gradients[0], others))


def test_three_names_of_one_gradient():
    """Truncated to one iteration, detached at every step, and the one added line, bit for bit."""
    problem = Tanh()
    truncated = fixed_point(problem, problem.z0, solver=Iteration(7), adjoint=Truncated(1)).value
    one_more = fixed_point(problem, problem.z0, solver=Iteration(6), adjoint=Neumann()).value
    detached = fixed_point(
        lambda z: problem(z.detach()), problem.z0, solver=Iteration(7), adjoint=Unrolled()
    ).value
    assert torch.equal(truncated, one_more) and torch.equal(truncated, detached)
    expected = problem.gradients(one_more)
    for value in (truncated, detached):
        assert all(torch.equal(a, b) for a, b in zip(problem.gradients(value), expected))


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("damping", [1.0, 0.4])
@pytest.mark.parametrize("solver", [Iteration(3), Broyden(3)], ids=name)
def test_phantom_is_backpropagation_through_damped_iterations(steps, damping, solver):
    problem = Tanh()
    value = fixed_point(problem, problem.z0, solver=solver, adjoint=Phantom(steps, damping)).value
    with torch.no_grad():
        z = solver.solve(problem, problem.z0).value
    for _ in range(steps):
        z = (1 - damping) * z + damping * problem(z)
    close([value.detach()], [z.detach()], 1e-14)
    close(problem.gradients(value), problem.gradients(z), 1e-13)


@pytest.mark.parametrize("unrolled, series", [
    (Phantom(4, 0.3), Neumann(4, 0.3)),
    (Phantom(1, 1.0), Neumann()),
    (Truncated(5), Neumann(5)),
    (Unrolled(), Neumann(400)),
], ids=str)  # fmt: skip
def test_at_the_fixed_point_unrolling_is_the_series(unrolled, series):
    problem = Tanh()
    gradients = []
    for adjoint in (unrolled, series):
        z0 = problem.z0 if unrolled == Unrolled() else problem.star()
        value = fixed_point(problem, z0, solver=Iteration(400), adjoint=adjoint).value
        gradients.append(problem.gradients(value))
    close(*gradients, 1e-9)


@pytest.mark.parametrize("solver", [Iteration(3), Broyden(3), Anderson(3)], ids=name)
def test_straight_through_sends_the_one_step_gradient_to_the_initial_guess(solver):
    problem, z0 = Tanh(), draw(3, 6).requires_grad_()
    value = fixed_point(problem, z0, solver=solver, adjoint=StraightThrough()).value
    with torch.no_grad():
        z = solver.solve(problem, z0).value
    to_z0, *others = torch.autograd.grad(value, [z0, *problem.leaves], problem.g)
    close([to_z0], [rows_times(problem.g, problem.J(z))], 1e-12)
    one_step = fixed_point(problem, z0, solver=solver, adjoint=Neumann()).value
    assert torch.equal(value, one_step)
    assert all(torch.equal(a, b) for a, b in zip(others, problem.gradients(one_step)))


# ---------------------------------------------------------------- GMRES


def linear(batch=4, dim=7, scale=(0.5, 0.9, 2.0, 20.0), dtype=f64):
    """u = uJ + g, one problem a sample, far from a contraction as well: u -> uJ, g, and u."""
    J = draw(batch, dim, dim, seed=8)
    J = J * (torch.tensor(scale, dtype=f64) / torch.linalg.matrix_norm(J, 2))[:, None, None]
    g = draw(batch, dim, seed=9)
    u = torch.linalg.solve(torch.eye(dim, dtype=f64) - J.mT, g)
    return lambda u: rows_times(u, J.to(u.dtype)), g.to(dtype), u, J


@pytest.mark.parametrize("dtype, tol", [(f64, 1e-10), (torch.float32, 1e-5)], ids=str)
def test_gmres_is_the_dense_solve(dtype, tol):
    """In as many steps as there are dimensions, where the series would diverge."""
    product, g, u, _ = linear(dtype=dtype)
    result = GMRES(7, tol).solve_linear(product, g)
    assert result.converged.all() and not result.failed.any() and result.value.dtype == dtype
    close([result.value.double()], [u], 100 * tol)


def test_gmres_minimises_the_residual_over_the_krylov_space():
    """Its iterates against least squares on g, gJ, gJJ ..., and what it reports against them."""
    product, g, _, J = linear()
    krylov, power, expected = [], g, []
    for k in range(1, 6):
        krylov.append(power / power.norm(dim=1, keepdim=True))
        power = product(power)
        K = torch.stack(krylov, 2)
        A = torch.eye(7, dtype=f64) - J.mT
        u = (K @ torch.linalg.lstsq(A @ K, g[..., None]).solution)[..., 0]
        fu = product(u) + g
        expected.append((fu - u).norm(dim=1) / fu.norm(dim=1))
        result = GMRES(k, tol=0.0).solve_linear(product, g)
        assert (result.steps == k).all() and not result.converged.any()
        torch.testing.assert_close(result.residuals, torch.stack(expected), rtol=1e-8, atol=1e-10)
        close([result.value], [u], 1e-8)


@pytest.mark.parametrize("other", [Broyden, Anderson])
def test_no_other_solver_has_a_smaller_residual_in_as_many_steps(other):
    product, g, _, _ = linear(scale=(0.5, 0.7, 0.9, 0.95))

    def left(u):
        return (product(u) + g - u).norm(dim=1)

    for k in (1, 2, 4):
        gmres = left(GMRES(k, tol=0.0).solve_linear(product, g).value)
        found = other(k, tol=0.0).solve(lambda u: product(u) + g, torch.zeros_like(g)).value
        series, _ = Neumann(k).solve(product, g)
        assert (gmres <= left(found) * (1 + 1e-9)).all()
        assert (gmres <= left(series) * (1 + 1e-9)).all()


def test_gmres_solves_each_sample_by_itself():
    """As alone; a sample whose system is singular, or not a number, fails and harms no other."""
    product, g, u, _ = linear()

    def with_failures(v):
        bad = torch.stack([v[4], v[5] * float("nan"), 0 * v[6]])
        return torch.cat([product(v[:4]), bad])

    whole = torch.cat([g, draw(2, 7), torch.zeros(1, 7, dtype=f64)])
    result = GMRES(20, 1e-10).solve_linear(with_failures, whole)
    assert result.failed.tolist() == [False] * 4 + [True, True, False]
    assert result.converged.tolist() == [True] * 4 + [False, False, True]
    assert result.value.isfinite().all() and not result.value[6].any()
    assert result.steps[6] == 0 and (result.steps[:4] <= 7).all()
    alone = GMRES(20, 1e-10).solve_linear(product, g)
    torch.testing.assert_close(result.value[:4], alone.value)
    assert torch.equal(result.steps[:4], alone.steps)
    close([alone.value], [u], 1e-7)


@pytest.mark.parametrize("shape", [(2, 3), (1,), ()])
def test_gmres_of_any_shape(shape):
    g = draw(3, *shape)
    result = GMRES(5, 1e-12).solve_linear(lambda u: 0.5 * u, g)
    torch.testing.assert_close(result.value, 2 * g)
    assert (result.steps == 1).all() and result.converged.all()


def test_gmres_fails_where_no_direction_is_left_and_the_tolerance_is_not_reached():
    product, g, u, _ = linear(dtype=torch.float32)
    result = GMRES(50, tol=0.0).solve_linear(product, g)
    assert (result.failed | result.converged).all() and (result.steps <= 8).all()
    close([result.value.double()], [u], 1e-3)


# ---------------------------------------------------------------- any adjoint


@pytest.mark.parametrize("adjoint", ADJOINTS, ids=str)
def test_aux_is_of_the_last_application(adjoint):
    problem, calls = Tanh(), []

    def f(z):
        calls.append(z)
        return problem(z), (z @ problem.W).exp()

    solution = fixed_point(f, problem.z0, solver=Iteration(4), adjoint=adjoint, has_aux=True)
    z = calls[-1].detach()
    assert torch.equal(solution.aux, (z @ problem.W).exp()) and torch.equal(
        solution.value, problem(z)
    )
    if applications(adjoint) != 1:  # it depends on W through earlier applications, too
        return
    (gradient,) = torch.autograd.grad(solution.aux.sum(), problem.W, retain_graph=True)
    W = problem.W.detach().requires_grad_()
    torch.testing.assert_close(gradient, torch.autograd.grad((z @ W).exp().sum(), W)[0])
    # a loss of both value and aux: the sum of the two gradients
    both = torch.autograd.grad(
        [solution.value, solution.aux],
        problem.W,
        [problem.g, torch.ones_like(solution.aux)],
        retain_graph=True,
    )[0]
    torch.testing.assert_close(
        both, gradient + torch.autograd.grad(solution.value, problem.W, problem.g)[0]
    )


def test_aux_of_an_unrolled_iteration_carries_gradient():
    problem = Tanh()
    solution = fixed_point(
        lambda z: (problem(z), z.sin()),
        problem.z0,
        solver=Iteration(4),
        adjoint=Unrolled(),
        has_aux=True,
    )
    z = problem.z0
    for _ in range(3):
        z = problem(z)
    torch.testing.assert_close(
        torch.autograd.grad(solution.aux.sum(), problem.W),
        torch.autograd.grad(z.sin().sum(), problem.W),
    )


@pytest.mark.parametrize("adjoint", ADJOINTS, ids=str)
def test_value_without_gradients_is_the_value_in_training(adjoint):
    problem = Tanh(dtype=torch.float32)
    kwargs = {"solver": Iteration(4), "adjoint": adjoint}
    training = fixed_point(problem, problem.z0, **kwargs)
    with torch.no_grad():
        evaluation = fixed_point(problem, problem.z0, **kwargs)
        z = problem.z0
        for _ in range(4 + applications(adjoint)):
            z = problem(z)
    assert torch.equal(training.value, evaluation.value) and torch.equal(training.value, z)
    assert training.value.requires_grad and not evaluation.value.requires_grad


@pytest.mark.parametrize("adjoint", ADJOINTS, ids=str)
def test_a_frozen_map_needs_no_gradient(adjoint):
    f, star = affine((3,))
    solution = fixed_point(f, torch.zeros_like(star), solver=Iteration(100), adjoint=adjoint)
    close([solution.value.detach()], [star], 1e-3)
    assert (solution.value.requires_grad and solution.value.sum().backward() is not None) is False


@pytest.mark.parametrize("adjoint", ADJOINTS, ids=str)
def test_a_map_that_ignores_its_argument(adjoint):
    c = torch.randn(2, 3, dtype=f64, requires_grad=True)
    value = fixed_point(
        lambda z: c * 2, torch.zeros(2, 3, dtype=f64), solver=Iteration(2), adjoint=adjoint
    ).value
    value.sum().backward()
    scale = 1.0 if adjoint != Neumann(2, 0.5) else 0.75  # J = 0: a (1 + (1 - a))
    torch.testing.assert_close(c.grad, torch.full_like(c, 2 * scale))


@pytest.mark.parametrize("solver", [Broyden(12), Anderson(12, history=2)], ids=name)
@pytest.mark.parametrize("adjoint", [Neumann(), Implicit(Broyden(40, 1e-12))], ids=name)
def test_gradient_at_whichever_iterate_was_best(solver, adjoint):
    """The gradient is that of f at the iterate kept, also where later iterates were worse."""
    problem = Tanh(batch=6, scale=6.0)
    with torch.no_grad():
        result = solver.solve(problem, problem.z0)
    z = result.value
    assert (residual(problem, z) < result.residuals[-1]).any()
    value = fixed_point(problem, problem.z0, solver=solver, adjoint=adjoint).value
    close(
        problem.gradients(value),
        problem.pull(problem.g, z) if adjoint == Neumann() else implicit(problem, z),
        1e-7,
    )


@pytest.mark.parametrize("adjoint", ADJOINTS, ids=str)
def test_two_backward_passes(adjoint):
    problem = Tanh()
    solution = fixed_point(problem, problem.z0, solver=Iteration(4), adjoint=adjoint)
    first = torch.autograd.grad(solution.value, problem.leaves, problem.g, retain_graph=True)
    other = torch.autograd.grad(solution.value, problem.leaves, 3 * problem.g, retain_graph=True)
    again = torch.autograd.grad(solution.value, problem.leaves, problem.g)
    for a, b, c in zip(first, again, other):
        assert torch.equal(a, b)
        torch.testing.assert_close(3 * a, c, rtol=1e-3, atol=1e-4)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(solution.value, problem.leaves, problem.g)


@pytest.mark.parametrize("adjoint", [Implicit(Broyden(40, 1e-12)), Neumann(3)], ids=str)
@pytest.mark.parametrize(
    "loss", [torch.Tensor.sum, lambda z: z.square().sum()], ids=["linear", "square"]
)
def test_second_derivatives_are_refused(adjoint, loss):
    """With a linear loss the incoming gradient is a constant: u must not pass for one."""
    problem = Tanh()
    value = fixed_point(problem, problem.z0, solver=Iteration(200), adjoint=adjoint).value
    with pytest.raises(RuntimeError, match="second derivative"):
        (gradient,) = torch.autograd.grad(loss(value), problem.W, create_graph=True)
        gradient.sum().backward()


def test_second_derivatives_of_unrolled():
    problem = Tanh(batch=1, dim=2, scale=0.5)
    assert torch.autograd.gradgradcheck(
        lambda c: (
            fixed_point(
                lambda z: torch.tanh(z @ problem.W.detach().T + c),
                problem.z0,
                solver=Iteration(3),
                adjoint=Unrolled(),
            ).value
        ),
        (problem.c,),
    )


# ---------------------------------------------------------------- memory


def saved(adjoint, solver):
    """(number, bytes) of the tensors that a forward pass keeps for its backward pass."""
    problem, sizes = Tanh(dtype=torch.float32), []
    with saved_tensors_hooks(lambda t: sizes.append(t.nbytes) or t, lambda t: t):
        solution = fixed_point(problem, problem.z0, solver=solver, adjoint=adjoint)
    assert solution.value.requires_grad
    return torch.tensor([len(sizes), sum(sizes)])


@pytest.mark.parametrize("adjoint", BLACK_BOX, ids=str)
@pytest.mark.parametrize(
    "kind",
    [
        Iteration,
        lambda n: Iteration(n, tol=1e-12),
        lambda n: Broyden(n, 0.0),
        lambda n: Anderson(n, 0.0),
    ],
)
def test_memory_does_not_grow_with_iterations(adjoint, kind):
    one = saved(adjoint, kind(1))
    assert (one == saved(adjoint, kind(30))).all() and one[0] > 0


def test_memory_of_unrolled_grows_linearly():
    counts = [saved(Unrolled(), Iteration(n)) for n in (5, 10, 15)]
    assert (counts[1] - counts[0] == counts[2] - counts[1]).all() and (counts[1] > counts[0]).all()
    # Neumann keeps what one iteration keeps (Iteration(1) unrolled saves nothing for z0's gradient)
    assert (saved(Neumann(), Iteration(30)) <= saved(Unrolled(), Iteration(1))).all()


class Kept:
    def __init__(self, tensor):
        self.tensor = tensor.detach()  # an output's own graph would make a cycle here


@pytest.mark.parametrize("adjoint", ADJOINTS, ids=str)
@pytest.mark.parametrize("backward", [False, True])
def test_the_graph_is_freed_without_garbage_collection(adjoint, backward):
    problem, references = Tanh(), []

    def pack(tensor):
        kept = Kept(tensor)
        references.append(weakref.ref(kept))
        return kept

    gc.collect()
    gc.disable()
    try:
        with saved_tensors_hooks(pack, lambda kept: kept.tensor):
            solution = fixed_point(
                lambda z: (problem(z), z * problem.c),
                problem.z0,
                solver=Iteration(3),
                adjoint=adjoint,
                has_aux=True,
            )
        assert any(r() is not None for r in references)
        if backward:
            solution.value.backward(problem.g, retain_graph=True)
        del solution
        assert all(r() is None for r in references), "a reference cycle holds the graph"
    finally:
        gc.enable()


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize("solver", [Broyden(7), Anderson(7)], ids=name)
@pytest.mark.parametrize("adjoint", [Unrolled(), Checkpointed(), Truncated(2)], ids=name)
def test_black_box_solvers_cannot_be_unrolled(solver, adjoint):
    with pytest.raises(ValueError, match=f"{name(solver)} is a black box.*Neumann"):
        fixed_point(
            lambda z: pytest.fail("refused before any work"),
            torch.zeros(1, 1),
            solver=solver,
            adjoint=adjoint,
        )


def test_the_last_iterations_cannot_be_counted_where_samples_stop_before():
    with pytest.raises(ValueError, match="without"):
        fixed_point(
            torch.cos, torch.zeros(1, 1), solver=Iteration(9, tol=1e-3), adjoint=Truncated(2)
        )


@pytest.mark.parametrize(
    "build",
    [
        lambda: Iteration(0),
        lambda: Iteration(3, tol=-1.0),
        lambda: Broyden(0),
        lambda: Broyden(5, tol=-1),
        lambda: Broyden(5, tol=float("nan")),
        lambda: Broyden(5, norm="max"),
        lambda: Anderson(0),
        lambda: Anderson(5, history=0),
        lambda: Anderson(5, ridge=-1.0),
        lambda: Anderson(5, mixing=0.0),
        lambda: Anderson(5, norm=None),
        lambda: Neumann(0),
        lambda: Neumann(damping=0.0),
        lambda: Neumann(damping=2.0),
        lambda: Neumann(damping=float("nan")),
        lambda: Phantom(0),
        lambda: Phantom(damping=0.0),
        lambda: Truncated(0),
        lambda: GMRES(0),
        lambda: GMRES(5, tol=-1.0),
        lambda: jacobian_regularisation(torch.cos, torch.zeros(1, 1), draws=0),
    ],
)
def test_senseless_settings_are_refused(build):
    with pytest.raises(ValueError):
        build()


@pytest.mark.parametrize(
    "pair",
    [
        lambda: (Iteration, Neumann()),
        lambda: (Iteration(3), Neumann),
        lambda: (Iteration(3), Unrolled),
        lambda: (Iteration(3), GMRES(3)),
        lambda: (GMRES(3), Neumann()),
        lambda: (Iteration(3), Implicit(GMRES)),
        lambda: (Iteration(3), None),
        lambda: (7, Neumann()),
        lambda: (Iteration(3), Implicit(Broyden)),
        lambda: (Iteration(3), Iteration(3)),
        lambda: (Neumann, Neumann()),
    ],
)
def test_what_is_no_solver_or_no_adjoint_is_refused(pair):
    with pytest.raises(TypeError, match="expected an object"):
        solver, adjoint = pair()
        fixed_point(torch.tanh, torch.zeros(1, 1), solver=solver, adjoint=adjoint)


# ---------------------------------------------------------------- Jacobians


def cell(dim_of_sample=6, dtype=f64):
    generator = torch.Generator().manual_seed(4)
    A, B = (
        torch.randn(dim_of_sample, dim_of_sample, generator=generator, dtype=f64).to(dtype)
        for _ in range(2)
    )
    return lambda z: (
        torch.tanh(z.reshape(len(z), -1) @ A.T) @ B.T + z.reshape(len(z), -1).square()
    ).view_as(z)


def dense(f, z):
    n = z[0].numel()
    return torch.stack(
        [torch.autograd.functional.jacobian(lambda s: f(s[None])[0], s).reshape(n, n) for s in z]
    )


@pytest.mark.parametrize("shape", [(6,), (3, 2), (1, 2, 3), (1,), ()])
@pytest.mark.parametrize("grad", [True, False])
def test_jacobian_norm_and_radius(shape, grad):
    f = cell(math.prod(shape))
    z = torch.randn(4, *shape, dtype=f64, generator=torch.Generator().manual_seed(5))
    J = dense(f, z)
    with torch.set_grad_enabled(grad):
        torch.testing.assert_close(jacobian(f, z, chunk_size=4), J)
        norm = spectral_norm(f, z, tol=1e-10, max_steps=5000)
        torch.testing.assert_close(norm, torch.linalg.svdvals(J)[:, 0], rtol=1e-6, atol=0)
        torch.testing.assert_close(spectral_norm(f, z), norm, rtol=1e-3, atol=0)
        radius = spectral_radius(f, z)
        torch.testing.assert_close(radius, torch.linalg.eigvals(J).abs().amax(1), rtol=1e-8, atol=0)
        assert norm.shape == radius.shape == (4,) and (norm >= radius * (1 - 1e-6)).all()


def test_radius_of_a_leading_complex_pair():
    """Eigenvalues 1.5 exp(+-i) and 1.2 in a skewed basis.

    Neither power iteration nor the largest real eigenvalue would find 1.5.
    """
    basis = torch.randn(3, 3, dtype=f64, generator=torch.Generator().manual_seed(6))
    rotation = torch.block_diag(
        1.5 * torch.tensor([[math.cos(1), -math.sin(1)], [math.sin(1), math.cos(1)]], dtype=f64),
        torch.tensor([[1.2]], dtype=f64),
    )
    J = basis @ rotation @ torch.linalg.inv(basis)
    f = lambda z: z @ J.T  # noqa: E731
    torch.testing.assert_close(
        spectral_radius(f, torch.ones(2, 3, dtype=f64)), torch.full((2,), 1.5, dtype=f64)
    )
    torch.testing.assert_close(
        spectral_norm(f, torch.ones(2, 3, dtype=f64), tol=1e-12),
        torch.linalg.svdvals(J)[0].expand(2),
    )


def test_spectral_norm_of_extremes():
    z = torch.ones(2, 3)
    assert (
        not spectral_norm(lambda z: z * 0 + 1, z).any()
        and not spectral_radius(lambda z: z * 0 + 1, z).any()
    )
    for scale in (1e-12, 1e12):
        torch.testing.assert_close(
            spectral_norm(lambda z, scale=scale: scale * z, z),
            torch.full((2,), scale),
            rtol=1e-5,
            atol=0,
        )


def test_spectral_norm_leaves_the_random_state_alone():
    f, z = cell(dtype=torch.float32), torch.ones(2, 6)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = spectral_norm(f, z)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(1)
    assert torch.equal(first, spectral_norm(f, z)), "nor does it depend on it"


def test_jacobian_regularisation_estimates_the_frobenius_norm():
    f = cell(6)
    z = draw(3, 2, 3, seed=5)
    exact = dense(f, z).square().sum((1, 2)) / 6
    generator = torch.Generator().manual_seed(0)
    estimate = jacobian_regularisation(f, z, 4000, generator)
    torch.testing.assert_close(estimate, exact, rtol=0.05, atol=0)
    # the average over all of an orthogonal basis, scaled, would be exact: so is it in one dimension
    z = draw(3, 1, seed=5)
    e = torch.randn(3, 1, generator=torch.Generator().manual_seed(1), dtype=f64)
    one = jacobian_regularisation(torch.sin, z, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(one, (e * z.cos()).square()[:, 0])


def test_jacobian_regularisation_is_a_loss():
    """Its gradient is that of the same sum over the dense Jacobian; none goes to z."""
    problem = Tanh(batch=1)
    z = problem.star().requires_grad_()
    with torch.no_grad():
        quiet = jacobian_regularisation(problem, z, generator=torch.Generator().manual_seed(1))
    loss = jacobian_regularisation(problem, z, generator=torch.Generator().manual_seed(1))
    assert torch.equal(loss, quiet) and not quiet.requires_grad
    e = torch.randn(1, 6, generator=torch.Generator().manual_seed(1), dtype=f64)
    J = (1 - problem(z.detach()) ** 2)[:, :, None] * problem.W
    expected = rows_times(e, J).square().sum() / 6
    torch.testing.assert_close(loss.sum(), expected)
    ours, none = torch.autograd.grad(loss.sum(), [problem.W, z], allow_unused=True)
    torch.testing.assert_close(ours, torch.autograd.grad(expected, problem.W)[0])
    assert none is None


def test_not_a_number():
    f = lambda z: 4 * z.sqrt()  # noqa: E731
    z = torch.tensor([[1.0, 4.0], [-1.0, 4.0]], dtype=f64)
    for measure in (spectral_norm, spectral_radius):
        out = measure(f, z)
        torch.testing.assert_close(
            out, torch.tensor([2.0, float("nan")], dtype=f64), equal_nan=True
        )
        assert measure(f, -z.abs()).isnan().all()


def test_measures_of_a_map_with_parameters_leave_no_graph():
    problem = Tanh()
    for measure in (jacobian, spectral_norm, spectral_radius):
        assert not measure(problem, problem.z0).requires_grad
    torch.testing.assert_close(jacobian(problem, problem.star()), problem.J(problem.star()))
