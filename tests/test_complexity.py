"""What is measured of a pass's cost, and gradients against the exact implicit one."""

import subprocess
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from torch import nn

from paper_lib.fixed_point import Broyden, Implicit, Iteration, Neumann, Unrolled, adjoints
from paper_lib.models import SLATE, SLATEConfig, SlotAttention, variant
from paper_lib.paper import complexity
from paper_lib.paper import gradient_fidelity as fidelity
from paper_lib.paper.complexity import ComplexityRunConfig, measure, saved_bytes
from paper_lib.system.memory import peak_memory

# ---------------------------------------------------------------- memory and time


def kept(name, n, batch=2, tokens=9, slots=3, size=8):
    torch.manual_seed(0)
    module = SlotAttention(size, size, size, *variant(name, n))
    inputs, initial = torch.randn(batch, tokens, size), torch.randn(batch, slots, size)
    return saved_bytes(lambda: module(inputs, initial).value.sum())


def test_memory_is_linear_for_vanilla_and_flat_for_implicit():
    """To the byte: each iteration of vanilla keeps the same, and implicit never keeps more than one."""
    vanilla = {n: kept("vanilla", n) for n in (2, 3, 4, 8, 32)}
    step = vanilla[3] - vanilla[2]
    assert step > 0 and all(size == vanilla[2] + (n - 2) * step for n, size in vanilla.items())
    assert len({kept("IN", n) for n in (1, 2, 4, 8, 32)}) == 1
    assert kept("IN", 32) <= vanilla[2] and kept("IN", 4, batch=4) == 2 * kept("IN", 4)
    assert kept("BN", 8) == kept("IN", 8)


def test_saved_bytes_of_known_passes():
    x, w = torch.randn(10, 4, requires_grad=True), nn.Parameter(torch.randn(4, 4))
    assert saved_bytes(lambda: x @ w) == 0, "weights and inputs are there anyway"
    assert saved_bytes(lambda: (x @ w).tanh()) == 10 * 4 * 4
    assert saved_bytes(lambda: (x @ w).tanh().tanh()) == 2 * 10 * 4 * 4

    def shared():
        y = (x @ w).tanh()
        return y.view(4, 10) * y.reshape(40).view(4, 10).sin() + y.view(4, 10) ** 2

    once = 10 * 4 * 4
    assert saved_bytes(shared) == 2 * once, "y and its sine: views of one storage count once"
    with torch.no_grad():
        assert saved_bytes(lambda: (x @ w).tanh()) == 0


def test_measure():
    config = ComplexityRunConfig(
        batch=2, tokens=9, slots=3, size=8, iterations=(1, 2, 4), repeats=3
    )
    table = measure(config)
    assert table[["variant", "n"]].to_numpy().tolist() == [
        [v, n] for n in (1, 2, 4) for v in ("vanilla", "IN")
    ]
    for column in ("forward_s", "backward_s"):
        assert (table[f"{column}_q25"] > 0).all()
        assert (
            (table[f"{column}_q25"] <= table[column]).all()
            and (table[column] <= table[f"{column}_q75"]).all()
            and (table[column] < 5).all()
        )
    memory = table.pivot(index="n", columns="variant", values="memory_bytes")
    assert (
        memory.loc[4, "vanilla"] == kept("vanilla", 4)
        and memory["IN"].tolist() == [kept("IN", 1)] * 3
    )


def test_a_training_step_is_timed_where_asked_for(monkeypatch):
    """Of a whole model, with each variant and number of iterations, on a dVAE that stays what it is."""
    built = []

    class Recorded(SLATE):
        def __init__(self, config):
            super().__init__(config)
            self.before = {name: p.detach().clone() for name, p in self.named_parameters()}
            built.append(self)

    monkeypatch.setattr(complexity, "SLATE", Recorded)
    model = SLATEConfig(
        image_size=8,
        vocab_size=8,
        d_model=8,
        slot_size=8,
        mlp_hidden_size=8,
        num_slots=2,
        num_dec_blocks=1,
        num_heads=2,
    )
    config = ComplexityRunConfig(
        ("vanilla", "IN", "BB"),
        (2, 3),
        batch=2,
        tokens=4,
        slots=2,
        size=8,
        repeats=2,
        training_step=model,
    )
    table = measure(config)
    assert table[["variant", "n"]].to_numpy().tolist() == [
        [v, n] for n in (2, 3) for v in ("vanilla", "IN", "BB")
    ]
    assert (
        (table["step_s_q25"] > 0).all()
        and (table["step_s_q25"] <= table["step_s"]).all()
        and (table["step_s"] <= table["step_s_q75"]).all()
    )
    timed = [(m.config.variant, m.config.num_iterations) for m in built]
    assert {case: timed.count(case) for case in timed} == {
        (v, n): config.repeats + 1 for n in (2, 3) for v in ("vanilla", "IN", "BB")
    }
    for m in built:
        assert (
            replace(m.config, variant=model.variant, num_iterations=model.num_iterations) == model
        )
        moved = {name for name, p in m.named_parameters() if not torch.equal(p, m.before[name])}
        assert not [name for name in moved if name.startswith("dvae.")]
        assert {
            "out.weight",
            "slot_attn.slot_attention.project_q.weight",
            "slot_attn.mlp.0.weight",
            "dictionary.dictionary.weight",
        } <= moved
    without = measure(
        replace(config, variants=("IN",), iterations=(2,), repeats=1, training_step=None)
    )
    assert set(table.columns) - set(without.columns) == {
        "step_s",
        "step_s_q25",
        "step_s_q75",
    } and len(built) == len(timed)


def test_the_run_keeps_what_was_measured(smoke):
    config, table = smoke.complexity.config, smoke.complexity.metrics
    assert table[["variant", "n"]].to_numpy().tolist() == [
        [v, n] for n in config.iterations for v in config.variants
    ]
    assert table["memory_bytes"].gt(0).all() and table["backward_s"].gt(0).all()


def test_peak_memory():
    before = peak_memory()
    held = torch.ones(10_000_000 + before // 4)
    assert held.sum() > 0 and peak_memory() - before > 3e7 and before > 1e8


# ---------------------------------------------------------------- gradients


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


def test_the_exact_gradient_is_that_of_very_many_unrolled_iterations():
    module, inputs, slots, cotangent = contraction(Iteration(2), Neumann())
    exact = fidelity.exact_implicit_gradient(module, inputs, slots, cotangent)
    assert exact.residual.shape == exact.spectral_radius.shape == exact.condition.shape == (3,)
    assert (
        exact.residual.max() <= 1e-12
        and 0.1 < exact.spectral_radius.max() < 0.9
        and exact.condition.min() >= 1
    )
    unrolled = fidelity.cell_gradient(*contraction(Iteration(400), Unrolled()))
    assert unrolled.norm() > 1
    torch.testing.assert_close(exact.gradient, unrolled, rtol=1e-6, atol=1e-9)
    # and, by finite differences of the fixed point, what it says it is
    torch.manual_seed(3)
    direction = torch.randn_like(exact.gradient)

    def objective(h):
        moved = contraction(Iteration(400), Neumann())[0]
        nn.utils.vector_to_parameters(
            nn.utils.parameters_to_vector(moved.parameters()) + h * direction, moved.parameters()
        )
        with torch.no_grad():
            return (moved(inputs, slots).value * cotangent).sum()

    h = 1e-6
    torch.testing.assert_close(
        (objective(h) - objective(-h)) / (2 * h), exact.gradient @ direction, rtol=1e-6, atol=1e-6
    )


def test_estimators_order_as_they_should_on_a_contraction():
    exact = fidelity.exact_implicit_gradient(*contraction(Iteration(1), Neumann())).gradient
    errors = {}
    for terms in (1, 2, 4, 8, 64):
        gradient = fidelity.cell_gradient(*contraction(Iteration(200), Neumann(terms)))
        errors[terms] = ((gradient - exact).norm() / exact.norm()).item()
    assert (
        errors[1] > errors[2] > errors[4] > errors[8] > errors[64]
        and errors[1] > 0.3
        and errors[64] < 1e-6
    )
    broyden = fidelity.cell_gradient(*contraction(Iteration(200), Implicit(Broyden(60, tol=1e-12))))
    torch.testing.assert_close(broyden, exact, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("n", [1, 3, 7])
def test_the_line_by_hand_is_one_term_of_neumann_bit_for_bit(n):
    by_hand = fidelity.one_added_line(*contraction(Iteration(n), Unrolled()))
    assert (
        torch.equal(by_hand, fidelity.cell_gradient(*contraction(Iteration(n), Neumann(terms=1))))
        and by_hand.norm() > 0.1
    )
    assert not torch.equal(
        by_hand, fidelity.cell_gradient(*contraction(Iteration(n), Neumann(terms=2)))
    )
    assert not torch.equal(by_hand, fidelity.cell_gradient(*contraction(Iteration(n), Unrolled())))


def test_where_the_iteration_does_not_converge_the_residual_says_so():
    module, inputs, slots, cotangent = contraction(Iteration(1), Neumann())
    exact = fidelity.exact_implicit_gradient(module, inputs, slots, cotangent, steps=2)
    assert exact.residual.max() > fidelity.CONVERGED


def test_cosine_and_norm_ratio():
    a = torch.tensor([3.0, 4.0])
    assert fidelity.cosine_and_norm_ratio(2 * a, a) == pytest.approx(
        (1, 2)
    ) and fidelity.cosine_and_norm_ratio(-a, 2 * a) == pytest.approx((-1, 0.5))
    assert fidelity.cosine_and_norm_ratio(torch.tensor([4.0, -3.0]), a) == pytest.approx(
        (0, 1), abs=1e-6
    )


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
    assert (
        table.query("estimator in ['line', 'IN']")["difference"].eq(0).all()
        and table.query("estimator == 'vanilla'")["difference"].gt(0).all()
    )
    assert table["cosine"].notna().sum() == 4 * check["scenes that converge"]
    monkeypatch.setattr(
        fidelity, "exact_implicit_gradient", partial(fidelity.exact_implicit_gradient, steps=2)
    )
    table, check = fidelity.compare(smoke.IN, estimators)
    assert (
        check["scenes that converge"] == 0
        and table["cosine"].isna().all()
        and table["norm ratio"].isna().all()
        and table["difference"].notna().all()
    )


SOLVED = ["spectral radius", "gain of (I - J)^-1"]  # what decides whether Eq. 2 can be solved


def under(run, name):
    """The same trained cell, as a run of another variant would have left it."""
    return replace(run, config=replace(run.config, model=replace(run.config.model, variant=name)))


def test_solver_statistics_of_plain_iteration(smoke):
    n = smoke.IN.config.model.num_iterations
    for run in (smoke.vanilla, smoke.IN):
        found = fidelity.solver_statistics(run)
        assert list(found) == ["forward steps", "forward residual", *SOLVED], (
            "neither gradient is solved for"
        )
        assert found["forward steps"] == str(n)
        assert float(found["forward residual"]) == pytest.approx(
            fidelity.residuals(run, n).amin(0).mean().item(), rel=0.1
        )


@pytest.mark.parametrize(
    "name, solved", [("IB", True), ("BB", True), ("AA", True), ("BN", False), ("AN", False)]
)
def test_solver_statistics_of_the_others(smoke, name, solved):
    n = smoke.IN.config.model.num_iterations
    found = fidelity.solver_statistics(under(smoke.IN, name))
    halves = ("forward", "backward")[: 1 + solved]
    assert (
        list(found)
        == [f"{half} {what}" for half in halves for what in ("steps", "residual")] + SOLVED
    )
    for half in halves:
        assert 1 <= int(found[f"{half} steps"]) <= n and 0 <= float(found[f"{half} residual"]) < 2


@pytest.mark.parametrize("name", ["BB", "AA", "IB"])
def test_on_a_contraction_both_halves_are_solved(name, tmp_path):
    (tmp_path / "cell.safetensors").touch()
    model = SLATEConfig(variant=name, num_iterations=60)
    run = SimpleNamespace(
        folder=tmp_path,
        config=SimpleNamespace(model=model),
        cell=lambda solver, adjoint, dtype: contraction(solver, adjoint)[:3],
    )
    found = fidelity.solver_statistics(run)
    assert float(found["forward residual"]) < 1e-5 and float(found["backward residual"]) < 1e-5
    assert 1 < int(found["backward steps"]) < 60 and (int(found["forward steps"]) < 60) == (
        name != "IB"
    ), "which stop when they are there; iteration does not"
    # at the fixed point, column by column of the Jacobian, by differences
    module, inputs, slots, _ = contraction(Iteration(400), Neumann())
    with torch.no_grad():
        cell, star = module.cell(inputs), module(inputs, slots).value
        moves = 1e-6 * torch.eye(star[0].numel(), dtype=star.dtype).view(-1, *star.shape[1:])
        J = torch.stack(
            [(cell(star + move)[0] - cell(star - move)[0]).flatten(1) / 2e-6 for move in moves],
            dim=2,
        )
    radius = torch.linalg.eigvals(J).abs().amax(1)
    gain = torch.linalg.matrix_norm(torch.linalg.inv(torch.eye(J.shape[1], dtype=J.dtype) - J), 2)
    assert [float(found[what]) for what in SOLVED] == pytest.approx(
        [radius.median().item(), gain.median().item()], abs=0.01
    )


def test_a_run_that_left_no_cell_has_no_statistics(smoke, tmp_path):
    gone = replace(smoke.IN, folder=tmp_path)
    assert fidelity.solver_statistics(gone) == {} and fidelity.residuals(gone, 5).isnan().all()


def test_the_line_is_the_real_one():
    line, number = fidelity.the_line()
    with open(adjoints.__file__) as file:
        assert file.readlines()[number - 1].strip() == line
    code = line.split("#")[0]
    assert ".detach()" in code and "step(" in code and "=" in code
    found = subprocess.run(
        ["grep", "-n", "the one added line", adjoints.__file__], capture_output=True, text=True
    ).stdout
    assert f"{number}:" in found


def test_without_that_line_the_gradient_is_another(monkeypatch):
    """The line that is shown is the line that runs: change the source there, and the gradient of IN is vanilla's no more, nor its own."""
    line, number = fidelity.the_line()
    with open(adjoints.__file__) as file:
        lines = file.readlines()
    before = fidelity.cell_gradient(*contraction(Iteration(3), Neumann()))
    lines[number - 1] = lines[number - 1].replace(
        "step(result.value.detach())", "step(2 * result.value.detach())"
    )
    namespace = {"__name__": adjoints.__name__, "__file__": adjoints.__file__}
    exec(compile("".join(lines), adjoints.__file__, "exec"), namespace)
    module, inputs, slots, cotangent = contraction(Iteration(3), Neumann())
    solution = namespace["fixed_point"](
        module.cell(inputs),
        slots,
        solver=Iteration(3),
        adjoint=namespace["Neumann"](),
        has_aux=True,
    )
    (solution.value * cotangent).sum().backward()
    assert not torch.allclose(fidelity._flat_grad(module), before)
