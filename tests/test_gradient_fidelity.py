"""Gradients by each estimator against the exact implicit one, and what a trained cell says."""

import inspect
import math
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from torch import nn

from paper_lib.fixed_point import (
    GMRES,
    Broyden,
    Implicit,
    Iteration,
    Neumann,
    Unrolled,
    fixed_point,
    one_step_gradient,
    solve,
)
from paper_lib.models import SLATEConfig, SlotAttention
from paper_lib.paper import gradient_fidelity as fidelity


def contraction(solver, adjoint, size=6):
    """Slot attention that converges: a cell with small weights forgets its slots quickly."""
    torch.manual_seed(1)
    module = SlotAttention(size, size, size, solver, adjoint).double()
    with torch.no_grad():
        for p in module.parameters():
            p.mul_(0.3)
        module.mlp[2].weight.mul_(0.3)
    generator = torch.Generator().manual_seed(2)
    inputs, slots, cotangent = (
        torch.randn(3, n, size, generator=generator, dtype=torch.float64) for n in (7, 3, 3)
    )
    return module, inputs, slots, cotangent


def gradient_of(solver, adjoint):
    return fidelity.cell_gradient(*contraction(solver, adjoint))


# ---------------------------------------------------------------- the exact gradient


def test_the_exact_gradient_is_that_of_very_many_unrolled_iterations():
    exact = fidelity.exact_implicit_gradient(*contraction(Iteration(2), Neumann()))
    assert exact.residual.shape == exact.spectral_radius.shape == exact.condition.shape == (3,)
    assert exact.residual.max() <= 1e-12
    assert 0.1 < exact.spectral_radius.max() < 0.9 and exact.condition.min() >= 1
    unrolled = gradient_of(Iteration(400), Unrolled())
    assert unrolled.norm() > 1
    torch.testing.assert_close(exact.gradient, unrolled, rtol=1e-6, atol=1e-9)


def test_the_exact_gradient_is_that_of_the_fixed_point_by_finite_differences():
    module, inputs, slots, cotangent = contraction(Iteration(2), Neumann())
    exact = fidelity.exact_implicit_gradient(module, inputs, slots, cotangent)
    torch.manual_seed(3)
    direction = torch.randn_like(exact.gradient)

    def objective(h):
        moved = contraction(Iteration(400), Neumann())[0]
        weights = nn.utils.parameters_to_vector(moved.parameters()) + h * direction
        nn.utils.vector_to_parameters(weights, moved.parameters())
        with torch.no_grad():
            return (moved(inputs, slots).value * cotangent).sum()

    h = 1e-6
    slope = (objective(h) - objective(-h)) / (2 * h)
    torch.testing.assert_close(slope, exact.gradient @ direction, rtol=1e-6, atol=1e-6)


def test_where_the_iteration_does_not_converge_the_residual_says_so():
    exact = fidelity.exact_implicit_gradient(*contraction(Iteration(1), Neumann()), steps=2)
    assert exact.residual.max() > fidelity.CONVERGED


def test_estimators_order_as_they_should_on_a_contraction():
    exact = fidelity.exact_implicit_gradient(*contraction(Iteration(1), Neumann())).gradient
    errors = []
    for terms in (1, 2, 4, 8, 64):
        gradient = gradient_of(Iteration(200), Neumann(terms))
        errors.append(((gradient - exact).norm() / exact.norm()).item())
    assert errors == sorted(errors, reverse=True) and len(set(errors)) == 5
    assert errors[0] > 0.3 and errors[-1] < 1e-6
    broyden = gradient_of(Iteration(200), Implicit(Broyden(60, tol=1e-12)))
    torch.testing.assert_close(broyden, exact, rtol=1e-6, atol=1e-8)


def test_cosine_and_norm_ratio():
    a, across = torch.tensor([3.0, 4.0]), torch.tensor([4.0, -3.0])
    assert fidelity.cosine_and_norm_ratio(2 * a, a) == pytest.approx((1, 2))
    assert fidelity.cosine_and_norm_ratio(-a, 2 * a) == pytest.approx((-1, 0.5))
    assert fidelity.cosine_and_norm_ratio(across, a) == pytest.approx((0, 1), abs=1e-6)


# ---------------------------------------------------------------- the one added line


@pytest.mark.parametrize("n", [1, 3, 7])
def test_the_line_by_hand_is_one_term_of_neumann_bit_for_bit(n):
    by_hand = fidelity.one_added_line(*contraction(Iteration(n), Unrolled()))
    assert by_hand.norm() > 0.1
    assert torch.equal(by_hand, gradient_of(Iteration(n), Neumann(terms=1)))
    assert not torch.equal(by_hand, gradient_of(Iteration(n), Neumann(terms=2)))
    assert not torch.equal(by_hand, gradient_of(Iteration(n), Unrolled()))


def test_the_line_that_figure_2_shows_applies_the_cell_to_the_detached_slots():
    *_, line, returned = inspect.getsource(one_step_gradient).splitlines()
    assert line.strip() == "value = step(result.value.detach())"
    assert returned.strip() == "return value"


def test_the_line_that_figure_2_shows_is_the_one_that_runs(monkeypatch):
    """With another in its place the gradient of one term of Neumann is another, and the gradients
    of all other adjoints are not."""
    adjoints = (Neumann(terms=1), Neumann(terms=2), Implicit(Broyden(3)), Unrolled())
    before = [gradient_of(Iteration(3), adjoint) for adjoint in adjoints]

    def another(step, result):
        return step(2 * result.value.detach())

    monkeypatch.setattr(solve, "one_step_gradient", another)
    after = [gradient_of(Iteration(3), adjoint) for adjoint in adjoints]
    same = [torch.equal(a, b) for a, b in zip(before, after)]
    assert same == [False, True, True, True]
    assert not torch.allclose(before[0], after[0])


# ---------------------------------------------------------------- a trained cell


def test_compare_on_a_trained_cell(smoke, monkeypatch):
    n = smoke.IN.config.model.num_iterations
    estimators = {
        "line": None,
        "IN": (Iteration(n), Neumann()),
        "2 terms": (Iteration(n), Neumann(terms=2)),
        "vanilla": (Iteration(n), Unrolled()),
    }
    table, check = fidelity.compare(smoke.IN, estimators)
    assert isinstance(table, pd.DataFrame) and len(table) == 4 * 4 and check["scenes"] == 4
    assert table.query("estimator in ['line', 'IN']")["difference"].eq(0).all()
    assert table.query("estimator == 'vanilla'")["difference"].gt(0).all()
    assert table["cosine"].notna().sum() == 4 * check["scenes that converge"]

    soon_over = partial(fidelity.exact_implicit_gradient, steps=2)
    monkeypatch.setattr(fidelity, "exact_implicit_gradient", soon_over)
    table, check = fidelity.compare(smoke.IN, estimators)
    assert check["scenes that converge"] == 0
    assert table["cosine"].isna().all() and table["norm ratio"].isna().all()
    assert table["difference"].notna().all()


def test_the_gradient_of_a_trained_cell_is_the_lines(smoke, monkeypatch):
    assert fidelity.difference_from_the_line(smoke.IN) == 0
    twice = fidelity.cell_gradient
    monkeypatch.setattr(fidelity, "cell_gradient", lambda *given: 2 * twice(*given))
    assert fidelity.difference_from_the_line(smoke.IN) == pytest.approx(1)


# ---------------------------------------------------------------- measured on every scene


def of_contraction(n=7):
    """The contraction as a run, whose three samples are its scenes."""
    return SimpleNamespace(
        has_cell=True,
        config=SimpleNamespace(seed=5, model=SLATEConfig(variant="IN", num_iterations=n)),
        cell=lambda solver, adjoint, dtype: contraction(solver, adjoint)[:3],
    )


def test_measured_errors_are_those_of_the_gradients():
    pairs = {
        "one step": (Iteration(7), Neumann()),
        "exact": (Iteration(200), Implicit(GMRES(18, 1e-13))),
    }
    scenes, gradients = fidelity.measure([of_contraction()], pairs)
    assert len(scenes) == 3 and scenes["converges"].all() and (scenes["seed"] == 5).all()
    assert len(gradients) == 2 * 2 * 3
    assert (gradients.query("estimator == 'exact'")["error"] < 1e-7).all()
    module, inputs, slots, _ = contraction(Iteration(7), Neumann())
    cotangent = torch.randn(
        (1, 3, 6), generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    for i in range(3):
        one = slice(i, i + 1)
        arguments = (inputs[one], slots[one], cotangent)
        exact = fidelity.exact_implicit_gradient(module, *arguments).gradient
        gradient = fidelity.cell_gradient(module, *arguments)
        error = ((gradient - exact).norm() / exact.norm()).item()
        at = "estimator == 'one step' and scene == @i and `from` == 'initial slots'"
        assert gradients.query(at)["error"].item() == pytest.approx(error)


def test_one_step_errs_within_its_bounds():
    """||c - u|| <= rho / (1 - rho) ||c|| (Bolte et al.), and <= rho ||u||, where rho = |J|; the
    error is that of the gradient with respect to a constant that is added to the map."""
    module, inputs, slots, cotangent = contraction(Iteration(400), Neumann())
    exact = fidelity.exact_implicit_gradient(module, inputs, slots, cotangent)
    assert (exact.spectral_radius <= exact.spectral_norm).all()
    contracts = exact.spectral_norm < 1
    assert contracts.sum() == 2
    bound = fidelity.bolte_bound(exact.spectral_norm)
    assert (exact.one_step_error <= bound)[contracts].all()
    added = torch.zeros_like(slots, requires_grad=True)
    cell = module.cell(inputs)
    gradients = []
    for adjoint in (Neumann(), Unrolled()):
        value = fixed_point(
            lambda z: cell(z)[0] + added, slots, solver=Iteration(400), adjoint=adjoint
        ).value
        gradients.append(torch.autograd.grad(value, added, cotangent, retain_graph=True)[0])
    one, u = (g.flatten(1) for g in gradients)
    error = (u - one).norm(dim=1)
    torch.testing.assert_close(error / one.norm(dim=1), exact.one_step_error, rtol=1e-6, atol=0)
    assert (error <= exact.spectral_norm * u.norm(dim=1)).all()


def test_where_no_fixed_point_is_reached_nothing_is_measured(monkeypatch):
    soon_over = partial(fidelity.exact_implicit_gradient, steps=2)
    monkeypatch.setattr(fidelity, "exact_implicit_gradient", soon_over)
    scenes, gradients = fidelity.measure([of_contraction()], {"one": (Iteration(7), Neumann())})
    assert not scenes["converges"].any() and scenes["residual"].notna().all()
    assert scenes["spectral norm"].isna().all() and gradients.empty


def test_a_run_that_left_no_cell_is_not_measured(smoke, tmp_path):
    scenes, gradients = fidelity.measure([replace(smoke.IN, folder=tmp_path)], {})
    assert scenes.empty and gradients.empty and "one-step error" in scenes


SOLVED = ["spectral radius", "gain of (I - J)^-1"]  # what decides whether Eq. 2 can be solved


def with_model(run, **changes):
    """The same trained cell, as a run of another pair of solver and adjoint would have left it."""
    return replace(run, config=replace(run.config, model=replace(run.config.model, **changes)))


def test_solver_statistics_of_plain_iteration(smoke):
    n = smoke.IN.config.model.num_iterations
    for run in (smoke.vanilla, smoke.IN):
        found = fidelity.solver_statistics(run)
        # neither gradient is solved for
        assert list(found) == ["forward steps", "forward residual", *SOLVED]
        assert found["forward steps"] == str(n)
        smallest = fidelity.residuals(run, n).amin(0).mean().item()
        assert float(found["forward residual"]) == pytest.approx(smallest, rel=0.1)


@pytest.mark.parametrize(
    "name, solved", [("IB", True), ("BB", True), ("AA", True), ("BN", False), ("AN", False)]
)
def test_solver_statistics_of_the_others(smoke, name, solved):
    n = smoke.IN.config.model.num_iterations
    found = fidelity.solver_statistics(with_model(smoke.IN, variant=name))
    names = []
    for half in ("forward", "backward") if solved else ("forward",):
        names += [f"{half} steps", f"{half} residual"]
        assert 1 <= int(found[f"{half} steps"]) <= n
        assert 0 <= float(found[f"{half} residual"]) < 2
    assert list(found) == names + SOLVED


def test_a_run_with_a_solver_of_its_own_is_judged_by_that_solver(smoke):
    found = fidelity.solver_statistics(with_model(smoke.IN, solver=Iteration(5)))
    assert found["forward steps"] == "5"


@pytest.mark.parametrize("name", ["BB", "AA", "IB"])
def test_on_a_contraction_both_halves_are_solved(name):
    run = SimpleNamespace(
        has_cell=True,
        config=SimpleNamespace(model=SLATEConfig(variant=name, num_iterations=60)),
        cell=lambda solver, adjoint, dtype: contraction(solver, adjoint)[:3],
    )
    found = fidelity.solver_statistics(run)
    assert float(found["forward residual"]) < 1e-5 and float(found["backward residual"]) < 1e-5
    # they stop when they are there; iteration does not
    assert 1 < int(found["backward steps"]) < 60
    assert (int(found["forward steps"]) < 60) == (name != "IB")

    # at the fixed point, column by column of the Jacobian, by differences
    module, inputs, slots, _ = contraction(Iteration(400), Neumann())
    columns = []
    with torch.no_grad():
        cell, star = module.cell(inputs), module(inputs, slots).value
        for move in 1e-6 * torch.eye(star[0].numel(), dtype=star.dtype):
            move = move.view(star.shape[1:])
            difference = cell(star + move)[0] - cell(star - move)[0]
            columns.append(difference.flatten(1) / 2e-6)
    J = torch.stack(columns, dim=2)
    radius = torch.linalg.eigvals(J).abs().amax(1)
    inverse = torch.linalg.inv(torch.eye(J.shape[1], dtype=J.dtype) - J)
    gain = torch.linalg.matrix_norm(inverse, 2)
    expected = [radius.median().item(), gain.median().item()]
    assert [float(found[what]) for what in SOLVED] == pytest.approx(expected, abs=0.01)


def test_a_run_that_left_no_cell_has_no_statistics(smoke, tmp_path):
    gone = replace(smoke.IN, folder=tmp_path)
    assert fidelity.solver_statistics(gone) == {}
    assert fidelity.residuals(gone, 5).isnan().all()
    assert math.isnan(fidelity.difference_from_the_line(gone))
