"""What holds for every solver and adjoint, whatever the map: tried by Hypothesis on random maps.

A map is f(z) = tanh(scale A z + b), with a matrix A of spectral norm 1 that all samples share and a
b of each sample's own: a contraction where the scale is below 1.
"""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paper_lib.fixed_point import (
    GMRES,
    Anderson,
    Broyden,
    Checkpointed,
    Implicit,
    Iteration,
    Neumann,
    Phantom,
    StraightThrough,
    Truncated,
    Unrolled,
    fixed_point,
)
from paper_lib.fixed_point.search import relative_residual
from paper_lib.models import SlotAttention

SOLVERS = [
    Iteration(7),
    Iteration(200, tol=1e-9),
    Broyden(60, tol=1e-9),
    Anderson(60, tol=1e-9),
]
BLACK_BOXES = SOLVERS[2:]
each_solver = pytest.mark.parametrize("solver", SOLVERS, ids=repr)
some = settings(max_examples=20, deadline=None, database=None, derandomize=True)
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@dataclass(frozen=True)
class Problem:
    """A map and a batch of initial guesses (batch, dim)."""

    matrix: torch.Tensor
    b: torch.Tensor
    z0: torch.Tensor

    def f(self, z):
        return torch.tanh(z @ self.matrix.to(z.dtype).mT + self.b.to(z.dtype))

    def only(self, rows):
        return Problem(self.matrix, self.b[rows], self.z0[rows])


def without_fixed_point(z):
    """f(z) - z is |z| + 1. (z + 1 would have one in the sense of relative residuals, far away.)"""
    return z + z.abs() + 1


@st.composite
def problems(draw, largest_scale=0.9, smallest_batch=1):
    scale, batch = st.floats(0.0, largest_scale), st.integers(smallest_batch, 5)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    count, dim = draw(batch), draw(st.integers(1, 6))

    def noise(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    matrix = noise(dim, dim)
    matrix *= draw(scale) / torch.linalg.matrix_norm(matrix, 2)
    return Problem(matrix, noise(count, dim), noise(count, dim))


@each_solver
@some
@given(problem=problems(largest_scale=3.0), dtype=st.sampled_from(DTYPES))
def test_a_value_is_f_of_what_the_solver_found(solver, problem, dtype):
    z0 = problem.z0.to(dtype)
    found = solver.solve(problem.f, z0)
    solution = fixed_point(problem.f, z0, solver=solver, adjoint=Neumann())
    assert torch.equal(solution.value, problem.f(found.value))
    assert solution.value.dtype == found.value.dtype == dtype
    assert solution.value.shape == z0.shape
    batch = len(z0)
    assert found.steps.shape == found.converged.shape == found.failed.shape == (batch,)
    assert found.residuals.shape[1:] == (batch,)
    assert found.residuals.isfinite().all(), "tanh is bounded"
    assert torch.equal(z0, problem.z0.to(dtype)), "the guess stays as it is"


@each_solver
@some
@given(problem=problems())
def test_a_residual_is_the_residual(solver, problem):
    """Recomputed at the value: the black boxes keep the best that they saw."""
    found = solver.solve(problem.f, problem.z0)
    again = relative_residual(found.value, problem.f(found.value))
    if isinstance(solver, Iteration):
        z = problem.z0
        for k in range(solver.max_steps if solver.tol == 0 else 1):
            fz = problem.f(z)
            torch.testing.assert_close(found.residuals[k], relative_residual(z, fz))
            z = fz
    else:
        initial = relative_residual(problem.z0, problem.f(problem.z0))
        best = torch.cat([initial[None], found.residuals]).min(0).values
        torch.testing.assert_close(again, best, rtol=1e-4, atol=1e-14)
    assert torch.equal(found.converged, found.residuals[-1] <= solver.tol)
    if solver.tol:
        assert found.converged.all(), "a contraction has a fixed point, and it is found"
        assert again.max() <= 10 * solver.tol


@each_solver
@some
@given(problem=problems(smallest_batch=2), data=st.data())
def test_the_order_of_the_batch_changes_nothing(solver, problem, data):
    order = data.draw(st.permutations(range(len(problem.z0))))
    one, other = problem, problem.only(list(order))
    found, permuted = solver.solve(one.f, one.z0), solver.solve(other.f, other.z0)
    torch.testing.assert_close(found.value[list(order)], permuted.value, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.converged[list(order)], permuted.converged)


@each_solver
@some
@given(problem=problems(smallest_batch=2), bad=st.sampled_from(["nan", "inf", "far", "none"]))
def test_a_sample_is_not_moved_by_its_neighbours(solver, problem, bad):
    """Neighbours that are no numbers, that grow without bound, or that have no fixed point."""

    def f(z):
        good = problem.only(slice(0, 1)).f(z[:1])
        rest = {
            "nan": z[1:] * float("nan"),
            "inf": z[1:] + float("inf"),
            "far": 1e30 * (z[1:] + 1),
            "none": without_fixed_point(z[1:]),
        }[bad]
        return torch.cat([good, rest])

    alone = solver.solve(problem.only(slice(0, 1)).f, problem.z0[:1])
    found = solver.solve(f, problem.z0)
    torch.testing.assert_close(found.value[:1], alone.value, rtol=1e-9, atol=1e-9)
    assert found.converged[0] == alone.converged[0] and not found.failed[0]
    assert not found.converged[1:].any()
    if bad in ("nan", "inf"):
        assert found.failed[1:].all()
    if not isinstance(solver, Iteration):
        assert found.value.isfinite().all(), "the best that was seen is a number"


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_map_without_a_fixed_point_is_no_error(solver, dtype):
    found = fixed_point(
        without_fixed_point, torch.zeros(3, 2, dtype=dtype), solver=solver, adjoint=Neumann()
    )
    assert not found.converged.any()
    assert found.value.dtype == dtype


@each_solver
def test_a_guess_that_is_no_number_fails_alone(solver):
    z0 = torch.tensor([[0.5], [float("nan")], [float("inf")]], dtype=torch.float64)
    found = solver.solve(lambda z: 0.5 * z + 1, z0)
    assert found.failed.tolist() == [False, True, True]
    assert found.value[0].isfinite().all()
    assert not found.converged[1:].any()


@each_solver
def test_a_batch_of_nothing(solver):
    found = fixed_point(torch.cos, torch.zeros(0, 3), solver=solver, adjoint=Neumann())
    assert found.value.shape == (0, 3) and found.steps.shape == (0,)


# ---- a user's own map, solver and adjoint ----


class Own:
    """A solver or an adjoint that does as it is told."""

    def __init__(self, solve):
        self.solve = solve

    def check(self, solver):
        pass


@each_solver
@pytest.mark.parametrize(
    "f, error, words",
    [
        (lambda z: z.mean(0, keepdim=True), ValueError, r"f returned a value of shape \(1, 2\)"),
        (lambda z: z[:, :1], ValueError, r"of shape \(3, 1\), not \(3, 2\)"),
        (lambda z: z.mul_(0.5), ValueError, "f changes its argument in place"),
        (lambda z: None, TypeError, "f returned a NoneType, not a tensor"),
        (lambda z: (z, 1), TypeError, "f returned a tuple.*has_aux=True"),
    ],
)
def test_a_map_that_is_none(solver, f, error, words):
    """What has another shape would be broadcast, and found to have converged."""
    for adjoint in (Neumann(), Unrolled()):
        if solver in BLACK_BOXES and adjoint == Unrolled():
            continue
        with pytest.raises(error, match=words):
            fixed_point(f, torch.ones(3, 2), solver=solver, adjoint=adjoint)


@each_solver
@pytest.mark.parametrize(
    "z0, error, words",
    [
        ([1.0, 2.0], TypeError, "z0 must be a tensor of floats.*not list"),
        (torch.ones(3, 2, dtype=torch.long), TypeError, "z0 must be.*int64"),
        (torch.ones(3, 2, dtype=torch.complex64), TypeError, "z0 must be.*complex64"),
        (torch.tensor(1.0), ValueError, r"z0 must be \(batch, ...\)"),
    ],
)
def test_a_guess_that_is_none(solver, z0, error, words):
    with pytest.raises(error, match=words):
        fixed_point(torch.cos, z0, solver=solver, adjoint=Neumann())


@pytest.mark.parametrize(
    "solve, error, words",
    [
        (lambda f, z: None, TypeError, "returned a NoneType, not a Result"),
        (lambda f, z: f(z), TypeError, "returned a Tensor, not a Result"),
        (
            lambda f, z: Iteration(3).solve(lambda u: f(z)[:1], z[:1]),
            ValueError,
            r"shape \(1, 2\), not \(3, 2\)",
        ),
    ],
)
def test_a_solver_that_is_none(solve, error, words):
    with pytest.raises(error, match=f"solver .*Own.*{words}"):
        fixed_point(torch.cos, torch.ones(3, 2), solver=Own(solve), adjoint=Neumann())


@pytest.mark.parametrize(
    "solve, error, words",
    [
        (lambda vjp, g: g, TypeError, r"must return \(u, Result or None\)"),
        (lambda vjp, g: (g[:1], None), ValueError, r"shape \(1, 2\), not \(3, 2\)"),
        (lambda vjp, g: (None, None), TypeError, "returned a NoneType, not a tensor"),
    ],
)
def test_an_adjoint_that_is_none(solve, error, words):
    w = torch.tensor(0.5, requires_grad=True)
    solution = fixed_point(
        lambda z: torch.cos(w * z), torch.ones(3, 2), solver=Iteration(3), adjoint=Own(solve)
    )
    with pytest.raises(error, match=f"adjoint .*Own.*{words}"):
        solution.value.sum().backward()


@each_solver
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_map_that_stops_being_a_number(solver, value):
    """From its third call on: no error, and no claim of having converged."""
    calls = []

    def f(z):
        calls.append(1)
        return 0.5 * z + 1 if len(calls) < 3 else z * value

    found = fixed_point(f, torch.ones(3, 2), solver=solver, adjoint=Neumann())
    assert not found.converged.any() and found.failed.all()


# ---- adjoints ----


SEARCHED = Broyden(100, tol=1e-12)
LINEAR = [Iteration(400, tol=1e-12), *BLACK_BOXES, GMRES(6, tol=1e-12)]

# Every adjoint, with a solver of the forward search that it can be paired with. What is searched
# for, forward or backward, is searched for so far that no order of the sums can be seen in it.
EVERY = [
    (SEARCHED, Neumann()),
    (SEARCHED, Neumann(4, damping=0.5)),
    *((SEARCHED, Implicit(solver)) for solver in LINEAR),
    (Iteration(5), Unrolled()),
    (Iteration(200, tol=1e-9), Unrolled()),
    (Iteration(5), Checkpointed()),
    (Iteration(5), Truncated(3)),
    (SEARCHED, Phantom(4)),
    (Anderson(100, tol=1e-12), StraightThrough()),
]
each_pair = pytest.mark.parametrize("pair", EVERY, ids=repr)


def gradient(problem, adjoint, solver=SEARCHED, dtype=torch.float64):
    """The gradient of a weighted sum with respect to b, (batch, dim)."""
    b = problem.b.to(dtype, copy=True).requires_grad_()
    found = fixed_point(
        Problem(problem.matrix, b, None).f, problem.z0.to(dtype), solver=solver, adjoint=adjoint
    )
    weights = torch.linspace(1, 2, problem.b.shape[1], dtype=dtype).expand_as(b)
    (found.value * weights).sum().backward()
    return b.grad, found.value.detach(), weights


def dense(problem, value, weights, terms=None, damping=1.0):
    """The same by dense linear algebra: g (I - J)^-1 D, or so many terms of its series.

    With D the diagonal of tanh' at the value, df/db = D and J = D A. A damped map is z + damping
    (f(z) - z).
    """
    rows = []
    for z, g in zip(value, weights):
        slope = torch.diag(1 - z.square())
        jacobian = slope @ problem.matrix
        identity = torch.eye(len(z), dtype=torch.float64)
        if terms is None:
            series = torch.linalg.inv(identity - jacobian)
        else:
            damped = (1 - damping) * identity + damping * jacobian
            powers = [torch.linalg.matrix_power(damped, i) for i in range(terms)]
            series = damping * sum(powers)
        rows.append(g @ series @ slope)
    return torch.stack(rows)


@pytest.mark.parametrize("solver", LINEAR, ids=repr)
@some
@given(problem=problems())
def test_the_implicit_gradient_is_that_of_a_dense_solve(solver, problem):
    found, value, weights = gradient(problem, Implicit(solver))
    torch.testing.assert_close(found, dense(problem, value, weights), rtol=1e-6, atol=1e-7)


@some
@given(problem=problems(), terms=st.integers(1, 6), damping=st.floats(0.1, 1))
def test_neumanns_gradient_is_so_many_terms(problem, terms, damping):
    found, value, weights = gradient(problem, Neumann(terms, damping))
    expected = dense(problem, value, weights, terms, damping)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)


@some
@given(problem=problems(), terms=st.integers(1, 6), damping=st.floats(0.1, 1))
def test_what_is_unrolled_at_the_fixed_point_is_so_many_terms(problem, terms, damping):
    """The last iterations of a long one, damped iterations after a search, and one application."""
    long = Iteration(500)
    for solver, adjoint, series in [
        (long, Truncated(terms), (terms, 1)),
        (SEARCHED, Phantom(terms, damping), (terms, damping)),
        (SEARCHED, StraightThrough(), (1, 1)),
    ]:
        found, value, weights = gradient(problem, adjoint, solver)
        expected = dense(problem, value, weights, *series)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("adjoint", [Unrolled(), Checkpointed()], ids=repr)
@some
@given(problem=problems())
def test_unrolled_far_enough_the_gradient_is_the_implicit_one(adjoint, problem):
    found, value, weights = gradient(problem, adjoint, Iteration(500))
    torch.testing.assert_close(found, dense(problem, value, weights), rtol=1e-6, atol=1e-8)


@each_pair
@some
@given(problem=problems(smallest_batch=2), data=st.data())
def test_the_order_of_the_batch_changes_no_gradient(pair, problem, data):
    solver, adjoint = pair
    order = list(data.draw(st.permutations(range(len(problem.z0)))))
    found, value, _ = gradient(problem, adjoint, solver)
    permuted, permuted_value, _ = gradient(problem.only(order), adjoint, solver)
    torch.testing.assert_close(value[order], permuted_value, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found[order], permuted, rtol=1e-6, atol=1e-7)


@each_pair
@some
@given(problem=problems(smallest_batch=2))
def test_a_samples_gradient_is_not_moved_by_its_neighbours(pair, problem):
    """A batch of one has the gradient that its sample has among others."""
    solver, adjoint = pair
    found, _, _ = gradient(problem, adjoint, solver)
    alone, _, _ = gradient(problem.only(slice(0, 1)), adjoint, solver)
    torch.testing.assert_close(found[:1], alone, rtol=1e-6, atol=1e-7)


@each_pair
@some
@given(problem=problems(smallest_batch=2), value=st.sampled_from([float("nan"), float("inf")]))
def test_a_gradient_that_is_no_number_stays_with_its_sample(pair, problem, value):
    solver, adjoint = pair
    expected, _, _ = gradient(problem, adjoint, solver)
    problem.b[1:] = value * problem.matrix.new_ones(problem.b[1:].shape)
    if value == float("inf"):
        problem.z0[1:] = value  # tanh of an infinite b alone is 1
    found, _, _ = gradient(problem, adjoint, solver)
    torch.testing.assert_close(found[:1], expected[:1], rtol=1e-6, atol=1e-7)


@each_pair
@some
@given(problem=problems(), dtype=st.sampled_from(DTYPES))
def test_a_gradient_has_the_type_of_what_it_is_of(pair, problem, dtype):
    solver, adjoint = pair
    found, value, _ = gradient(problem, adjoint, solver, dtype)
    assert found.dtype == value.dtype == dtype and found.shape == problem.b.shape
    assert found.isfinite().all(), "a contraction's gradient is bounded"


@each_pair
def test_a_gradient_of_a_map_without_a_fixed_point_is_no_error(pair):
    """The map's derivative is known, all the same; what is said of the search says the rest."""
    solver, adjoint = pair
    b = torch.ones(3, 2, requires_grad=True)
    found = fixed_point(
        lambda z: without_fixed_point(z) * b, torch.zeros(3, 2), solver=solver, adjoint=adjoint
    )
    assert not found.converged.any()
    found.value.sum().backward()
    assert b.grad.shape == b.shape


# ---- slot attention ----

PAIRS = [
    (Iteration(3), Unrolled()),
    (Iteration(3), Neumann()),
    (Broyden(5), Implicit(Broyden(5))),
    (Anderson(5), Neumann()),
    (Broyden(5), Implicit(GMRES(5))),
    (Iteration(3), Checkpointed()),
    (Iteration(3), Truncated(2)),
    (Broyden(5), Phantom(2)),
    (Anderson(5), StraightThrough()),
]


@pytest.mark.parametrize("pair", PAIRS, ids=repr)
@pytest.mark.parametrize("batch, tokens, slots", [(1, 1, 1), (1, 5, 1), (1, 1, 3), (2, 4, 3)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_slot_attention_of_one_of_everything(pair, batch, tokens, slots, dtype):
    torch.manual_seed(0)
    attention = SlotAttention(4, 6, 8, *pair).to(dtype)
    out = attention(
        torch.randn(batch, tokens, 4, dtype=dtype), torch.randn(batch, slots, 6, dtype=dtype)
    )
    assert out.value.shape == (batch, slots, 6) and out.value.isfinite().all()
    assert out.aux.shape == (batch, tokens, slots)
    torch.testing.assert_close(
        out.aux.sum(-1).float(), torch.ones(batch, tokens), rtol=0.02, atol=0
    )
    out.value.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in attention.parameters() if p.grad is not None)


@pytest.mark.parametrize("pair", PAIRS, ids=repr)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_image_that_is_no_number_spoils_no_other(pair, value):
    torch.manual_seed(0)
    attention = SlotAttention(4, 6, 8, *pair).double()
    inputs, slots = torch.randn(3, 5, 4).double(), torch.randn(3, 2, 6).double()
    whole = attention(inputs, slots)
    inputs[1, 2, 3] = value
    spoilt = attention(inputs, slots)
    others = [0, 2]
    torch.testing.assert_close(spoilt.value[others], whole.value[others], rtol=1e-9, atol=1e-9)
    assert not spoilt.converged[1]


@pytest.mark.parametrize("pair", PAIRS, ids=repr)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_find_nothing_and_say_so(pair, value):
    torch.manual_seed(0)
    attention = SlotAttention(4, 6, 8, *pair).double()
    for parameter in attention.parameters():
        parameter.data.fill_(value)
    found = attention(torch.randn(3, 5, 4).double(), torch.randn(3, 2, 6).double())
    assert not found.converged.any() and found.failed.all()
    assert found.value.shape == (3, 2, 6)
