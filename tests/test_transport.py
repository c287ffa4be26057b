"""Slot attention by optimal transport: the plans against dense solves, the cell as any other."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from paper_lib import runs
from paper_lib.fixed_point import (
    GMRES,
    Broyden,
    Checkpointed,
    Implicit,
    Iteration,
    Neumann,
    Phantom,
    StraightThrough,
    Truncated,
    Unrolled,
    jacobian,
    spectral_norm,
)
from paper_lib.models import (
    SLATE,
    VARIANTS,
    SlotAttention,
    SlotEncoder,
    TransportSlotAttention,
    variant,
)
from paper_lib.models import transport as ot
from paper_lib.paper import parameters, profiles
from paper_lib.training.slots import measure_cell, slot_noise

f64 = torch.float64
SMOKE = parameters.check("smoke", if_missing="train")
MESH = {"sinkhorn": 0, "mesh": 4}
both = pytest.mark.parametrize("attention", list(MESH))


def problem(batch=2, k=4, n=7, seed=0):
    """Costs (B, K, N), and logarithms of marginals that have the same mass, k."""
    generator = torch.Generator().manual_seed(seed)
    cost = 2 * torch.rand(batch, k, n, generator=generator, dtype=f64)
    rows = torch.randn(batch, k, generator=generator, dtype=f64).log_softmax(1) + np.log(k)
    columns = torch.randn(batch, n, generator=generator, dtype=f64).log_softmax(1) + np.log(k)
    return cost, rows, columns


def module(attention, solver=None, adjoint=None):
    torch.manual_seed(0)
    solver, adjoint = solver or Iteration(3), adjoint or Unrolled()
    built = TransportSlotAttention(10, 12, 20, solver, adjoint, MESH[attention])
    with torch.no_grad():  # biases and norms start at zero and one
        for p in built.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return built.double()


def slot_inputs(batch=2, n=7, k=4):
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(batch, n, 10, generator=generator, dtype=f64)
    return inputs, torch.randn(batch, k, 12, generator=generator, dtype=f64)


# ---- Sinkhorn ----


def test_marginals():
    """Those of the slots at once, those of the inputs in the limit."""
    cost, rows, columns = problem()
    for steps in (1, 5, 300):
        plan = ot.sinkhorn(cost, rows, columns, steps=steps).exp()
        torch.testing.assert_close(plan.sum(2), rows.exp(), rtol=1e-12, atol=1e-14)
        off = (plan.sum(1) - columns.exp()).abs().max().item()
        assert off > 1e-3 if steps == 1 else off < (1e-1 if steps == 5 else 1e-12)


def test_the_plan_is_the_optimum_of_the_transport_problem():
    """Of the dual, by a general solver: max <u, rows> + <v, columns> - sum exp(u + v - cost)."""
    cost, rows, columns = problem()
    plans = ot.sinkhorn(cost, rows, columns, steps=500).exp().numpy()
    for b in range(2):
        c, r, s = cost[b].numpy(), rows[b].exp().numpy(), columns[b].exp().numpy()

        def negative_dual(x, c=c, r=r, s=s):
            u, v = x[:4], x[4:]
            plan = np.exp(u[:, None] + v - c)
            gradient = np.concatenate([plan.sum(1) - r, plan.sum(0) - s])
            return plan.sum() - u @ r - v @ s, gradient

        options = {"maxiter": 10_000, "ftol": 1e-15, "gtol": 1e-10}
        best = minimize(negative_dual, np.zeros(11), jac=True, method="L-BFGS-B", options=options).x
        expected = np.exp(best[:4, None] + best[4:] - c)
        np.testing.assert_allclose(plans[b], expected, rtol=1e-5)


def test_its_steps_are_those_of_scaling_a_matrix():
    """Sinkhorn and Knopp: columns and rows of exp(-cost) scaled in turn."""
    cost, rows, columns = problem()
    matrix = (-cost).exp()
    for _ in range(ot.SINKHORN_STEPS):
        matrix = matrix * (columns.exp() / matrix.sum(1))[:, None]
        matrix = matrix * (rows.exp() / matrix.sum(2))[:, :, None]
    torch.testing.assert_close(ot.sinkhorn(cost, rows, columns).exp(), matrix, rtol=1e-12, atol=0)


def test_it_goes_on_where_it_stopped_and_does_not_overflow():
    cost, rows, columns = problem()
    _, u = ot.entropy_gradient(cost, rows, columns, steps=3)
    torch.testing.assert_close(
        ot.sinkhorn(cost, rows, columns, u, steps=2), ot.sinkhorn(cost, rows, columns, steps=5)
    )
    assert ot.sinkhorn((1e4 * cost).float(), rows.float(), columns.float()).isfinite().all()


# ---- MESH ----


def entropy(cost, rows, columns, u=None):
    log_plan = ot.sinkhorn(cost, rows, columns, u)
    return -(log_plan.exp() * log_plan).sum((1, 2))


@pytest.mark.parametrize("warm", [False, True])
def test_the_gradient_of_the_entropy_is_autograds(warm):
    cost, rows, columns = problem()
    u = torch.randn(2, 4, dtype=f64) if warm else None
    ours, after = ot.entropy_gradient(cost, rows, columns, u)
    cost.requires_grad_()
    (expected,) = torch.autograd.grad(entropy(cost, rows, columns, u).sum(), cost)
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)
    continued = ot.sinkhorn(cost, rows, columns, after, steps=1)
    torch.testing.assert_close(continued, ot.sinkhorn(cost, rows, columns, u, steps=6))


def test_each_step_lowers_the_entropy_and_the_marginals_stay():
    cost, rows, columns = problem()
    before = entropy(cost, rows, columns)
    for steps in (1, 2, 4):
        cheaper, u = ot.minimise_entropy(cost, rows, columns, steps=steps)
        after = entropy(cheaper, rows, columns, u)
        assert (after < before).all()
        moved = (cheaper - cost).flatten(1).norm(dim=1)
        assert (moved <= steps * ot.MESH_RATE + 1e-9).all()
        before = after
    plan = ot.sinkhorn(cheaper, rows, columns, u).exp()
    torch.testing.assert_close(plan.sum(2), rows.exp(), rtol=1e-12, atol=1e-14)


# ---- the cell ----


def cell_by_loops(m, inputs, slots, mesh_steps):
    """One step, an image at a time, with plans from the matrix that is scaled."""
    new, masks = [], []
    for x, z in zip(inputs, slots):
        x, q = m.norm_inputs(x), m.norm_slots(z)
        keys, values, queries = m.project_k(x), m.project_v(x), m.project_q(q)
        given = len(z) * m.input_mass(x)[:, 0].softmax(0)
        taken = len(z) * m.slot_mass(q)[:, 0].softmax(0)
        cost = torch.stack([(keys - query).norm(dim=1) for query in queries])
        matrix = (-cost).exp()
        if mesh_steps:
            logs = taken.log()[None], given.log()[None]
            less, u = ot.minimise_entropy(cost[None], *logs, steps=mesh_steps)
            matrix = (u[0][:, None] - less[0]).exp()
        for _ in range(5):
            matrix = matrix * given / matrix.sum(0)
            matrix = matrix * (taken / matrix.sum(1))[:, None]
        z = torch.nn.GRUCell.forward(m.gru, matrix @ values, z)
        new.append(z + m.mlp(m.norm_mlp(z)))
        masks.append((matrix / matrix.sum(0)).T)
    return torch.stack(new), torch.stack(masks)


@both
def test_a_step_of_the_cell(attention):
    m, (inputs, slots) = module(attention), slot_inputs()
    expected = cell_by_loops(m, inputs, slots, MESH[attention])
    for ours, theirs in zip(m.cell(inputs)(slots), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)


@both
def test_masks_sum_to_one_over_slots(attention):
    masks = module(attention)(*slot_inputs()).aux
    assert masks.shape == (2, 7, 4) and (masks >= 0).all()
    torch.testing.assert_close(masks.sum(-1), torch.ones(2, 7, dtype=f64))


@both
@pytest.mark.parametrize("choice", sorted(VARIANTS))
def test_slots_are_a_set(attention, choice):
    """Permuted initial slots give permuted slots and masks; permuted inputs change no slot.

    Black-box solvers choose their steps by tests that rounding can turn, so they take few.
    """
    m, (inputs, slots) = module(attention, *variant(choice, 2)), slot_inputs()
    order = torch.tensor([2, 0, 3, 1])
    one, two, flipped = m(inputs, slots), m(inputs, slots[:, order]), m(inputs.flip(1), slots)
    torch.testing.assert_close(one.value[:, order], two.value, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(one.aux[:, :, order], two.aux, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(one.value, flipped.value, rtol=1e-6, atol=1e-7)


@both
def test_the_gradient_by_finite_differences(attention):
    """Of the map itself, with respect to slots and inputs, MESH's own steps included."""
    m, (inputs, slots) = module(attention), slot_inputs(1, 5, 3)
    weights = torch.randn(1, 3, 12, generator=torch.Generator().manual_seed(5), dtype=f64)

    def f(slots, inputs):
        return (m.cell(inputs)(slots)[0] * weights).sum()

    leaves = slots.requires_grad_(), inputs.requires_grad_()
    assert torch.autograd.gradcheck(f, leaves, eps=1e-6, atol=1e-5, rtol=1e-4)


@both
def test_the_jacobian_of_forward_and_backward_derivatives(attention):
    """The spectral norm takes both, and the dense Jacobian vectorises: they agree."""
    m, (inputs, slots) = module(attention), slot_inputs(2, 5, 3)
    cell = m.cell(inputs)
    dense = jacobian(lambda z: cell(z)[0], slots)
    norms = spectral_norm(lambda z: cell(z)[0], slots, tol=1e-6)
    torch.testing.assert_close(norms, torch.linalg.matrix_norm(dense, 2), rtol=1e-6, atol=0)


@both
@pytest.mark.parametrize(
    "adjoint",
    [
        Unrolled(),
        Checkpointed(),
        Truncated(2),
        Phantom(2, 0.5),
        StraightThrough(),
        Neumann(),
        Neumann(3),
        Implicit(GMRES(40, 1e-12)),
    ],
)
def test_every_adjoint_differentiates_the_cell(attention, adjoint):
    """As it does the map, by its formula with the dense Jacobian."""
    m, (inputs, slots) = module(attention, Iteration(3), adjoint), slot_inputs(2, 5, 3)
    generator = torch.Generator().manual_seed(5)
    g = torch.randn(2, 3, 12, generator=generator, dtype=f64)
    (m(inputs, slots).value * g).sum().backward()
    found = m.project_q.weight.grad
    assert found.isfinite().all() and found.abs().max() > 1e-6

    cell = m.cell(inputs)

    def f(z):
        return cell(z)[0]

    z = slots
    if isinstance(adjoint, (Unrolled, Checkpointed, Truncated)):
        for k in range(3):
            z = f(z.detach() if isinstance(adjoint, Truncated) and k == 1 else z)
        value, u = z, g
    else:
        with torch.no_grad():
            for _ in range(3):
                z = f(z)
        value = f(z)
        if isinstance(adjoint, Phantom):
            for _ in range(2):
                z = 0.5 * z + 0.5 * f(z)
            value = z
        J, g = jacobian(f, z.detach()), g.flatten(1)
        u = {
            Neumann(): lambda: g,
            Neumann(3): lambda: g + _times(g, J) + _times(_times(g, J), J),
            Implicit(GMRES(40, 1e-12)): lambda: torch.linalg.solve(
                (torch.eye(36, dtype=f64) - J).mT, g
            ),
        }.get(adjoint, lambda: g)().view(2, 3, 12)
    (expected,) = torch.autograd.grad((value * u).sum(), m.project_q.weight)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


def _times(u, J):
    return torch.einsum("bi,bij->bj", u, J)


@both
def test_a_black_box_solver_searches_its_fixed_point(attention):
    m, (inputs, slots) = module(attention, Broyden(60, tol=1e-9), Neumann()), slot_inputs()
    solution = m(inputs, slots)
    start = m(inputs, slots, Iteration(1)).residuals[0]
    assert (solution.residuals.amin(0) < start).all() and not solution.failed.all()


# ---- which cell a config asks for ----


def test_the_cell_that_is_named():
    sizes = (6, 8, 8, Iteration(2), Neumann())
    assert type(ot.slot_attention("softmax", *sizes)) is SlotAttention
    assert ot.slot_attention("sinkhorn", *sizes).mesh_steps == 0
    assert ot.slot_attention("mesh", *sizes).mesh_steps == 4
    with pytest.raises(ValueError, match="one of softmax, sinkhorn, mesh, not 'ot'"):
        ot.slot_attention("ot", *sizes)
    with pytest.raises(ValueError, match="mesh attention has one head, not 2"):
        profiles.slate(SMOKE, "IN", 0, model__attention="mesh", model__num_slot_heads=2)


def test_softmax_is_the_default_and_changes_no_id():
    config = profiles.slate(SMOKE, "vanilla", 0)
    assert config.model.attention == "softmax"
    assert "attention" not in runs.identity(config)["model"]
    assert runs.run_id(config) == "slate-vanilla-seed0-754ac4e185"
    others = [profiles.slate(SMOKE, "vanilla", 0, model__attention=name) for name in MESH]
    assert len({runs.run_id(config) for config in [config, *others]}) == 3


@both
@pytest.mark.parametrize("choice", ["vanilla", "IN"])
def test_it_trains_and_is_kept(smoke, elsewhere, attention, choice):
    config = profiles.slate(SMOKE, choice, 0, model__attention=attention)
    run = runs.get(config, SMOKE)
    assert run.summary["status"] == "finished"
    final = run.summary["final"]
    assert final["spectral_norm"] > 0 and final["residual_7"] < 10
    torch.manual_seed(0)
    before = SLATE(config.model).state_dict()
    for name, value in run.weights.items():
        own = name.startswith("slot_attn.slot_attention.")
        assert not (own and torch.equal(value, before[name])), f"{name} has moved"
    attention_, inputs, slots = run.cell(Iteration(7), Unrolled())
    assert type(attention_) is TransportSlotAttention
    assert attention_.mesh_steps == MESH[attention]
    model = SLATE(config.model)
    model.load_state_dict(run.weights)
    with torch.no_grad():
        ours, theirs = attention_(inputs, slots), model.slot_attn.slot_attention(inputs, slots)
    # the kept cell is in half precision
    torch.testing.assert_close(ours.residuals[0], theirs.residuals[0], rtol=2e-2, atol=2e-2)


@both
def test_the_cell_is_measured(attention):
    torch.manual_seed(0)
    encoder = SlotEncoder(6, 8, 8, 3, Iteration(3), Neumann(), attention=attention)
    embedded = torch.randn(2, 9, 6)
    found = measure_cell(encoder, embedded, slot_noise(encoder, 2, seed=0), 3)
    assert found["spectral_norm"] > 0 and found["residual_3"] > 0
