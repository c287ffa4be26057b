"""Initial slots that are learned, a vector each: their gradient, and that they train as any."""

from dataclasses import replace

import pytest
import torch

from paper_lib import runs
from paper_lib.fixed_point import Iteration, Neumann, StraightThrough, Unrolled, jacobian
from paper_lib.models import SLATE, SLATEConfig, SlotEncoder
from paper_lib.paper import parameters, profiles
from paper_lib.training.loop import train
from paper_lib.training.slate import SLATETask
from paper_lib.training.slots import kept_cell, measure_cell, slot_noise

f64 = torch.float64
SMOKE = parameters.check("smoke", if_missing="train")
LEARNED = {"model__initial": "learned"}


def encoder(adjoint, initial="learned", n=3):
    torch.manual_seed(0)
    return SlotEncoder(6, 5, 7, 4, Iteration(n), adjoint, initial=initial).double()


def inputs():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 9, 6, generator=generator, dtype=f64)


def noise(slots=4, seed=2):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, slots, 5, generator=generator, dtype=f64)


def weights():
    """What the slots are weighted with in a loss, different for each of them."""
    return torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(3), dtype=f64)


def gradient(adjoint):
    module = encoder(adjoint)
    (module(inputs(), noise()).slots * weights()).sum().backward()
    return module, module.slot_queries.grad


# ---- the initial slots ----


def test_every_image_starts_at_the_queries_whatever_the_noise():
    module = encoder(Unrolled())
    start = module.initial_slots(noise())
    assert start.shape == (2, 4, 5)
    assert torch.equal(start[0], module.slot_queries) and torch.equal(start[1], start[0])
    one, two = module(inputs(), noise()), module(inputs(), noise(seed=9))
    assert torch.equal(one.slots, two.slots)
    assert torch.equal(module(inputs()).slots, one.slots)
    drawn = encoder(Unrolled(), initial="drawn")
    assert not torch.allclose(drawn(inputs(), noise(seed=9)).slots, drawn(inputs(), noise()).slots)


def test_the_queries_are_vectors_of_their_own_and_replace_mean_and_scale():
    names = {name for name, _ in encoder(Unrolled()).named_parameters()}
    drawn = {name for name, _ in encoder(Unrolled(), initial="drawn").named_parameters()}
    assert names - drawn == {"slot_queries"}
    assert drawn - names == {"slot_mu", "slot_log_sigma"}
    queries = encoder(Unrolled()).slot_queries.detach()
    assert queries.shape == (4, 5)
    assert queries.abs().max() <= (6 / 9) ** 0.5, "Xavier: 4 slots and 5 features"
    assert torch.pdist(queries).min() > 0.1


def test_refusals():
    with pytest.raises(ValueError, match="4 initial slots were learned, and 6 are asked for"):
        encoder(Unrolled())(inputs(), noise(slots=6))
    with pytest.raises(ValueError, match="'drawn' or 'learned', not 'given'"):
        encoder(Unrolled(), initial="given")
    with pytest.raises(ValueError, match="'drawn' or 'learned', not 'given'"):
        SLATEConfig(initial="given")


# ---- their gradient ----


def test_straight_through_by_its_formula():
    """dl/dz* J at the slots found, as if they were the queries; summed over the images."""
    module, found = gradient(StraightThrough())
    cell = module.cell(inputs())

    def step(z):
        return cell(z)[0]

    with torch.no_grad():
        z = module.slot_queries.expand(2, -1, -1)
        for _ in range(3):
            z = step(z)
    dense = jacobian(step, z)
    expected = torch.einsum("bi,bij->j", weights().flatten(1), dense).view(4, 5)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    # and as the authors write it
    queries = module.slot_queries.detach().requires_grad_()
    shifted = z + queries - queries.detach()
    (expected,) = torch.autograd.grad((step(shifted) * weights()).sum(), queries)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    assert found.abs().max() > 1e-3


def test_unrolled_by_finite_differences():
    module, found = gradient(Unrolled())
    start, direction = module.slot_queries.detach().clone(), torch.ones(4, 5, dtype=f64)

    def loss(t):
        with torch.no_grad():
            module.slot_queries.copy_(start + t * direction)
            return (module(inputs(), noise()).slots * weights()).sum().item()

    slope = (loss(1e-6) - loss(-1e-6)) / 2e-6
    assert (found * direction).sum().item() == pytest.approx(slope, rel=1e-6)


def test_the_other_weights_have_the_one_step_gradient():
    ours, _ = gradient(StraightThrough())
    theirs, none = gradient(Neumann())
    assert none is None, "no gradient reaches the queries"
    for (name, p), (_, q) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        if name != "slot_queries":
            torch.testing.assert_close(p.grad, q.grad)


# ---- training ----


def run_of(variant="IN", **changes):
    return profiles.slate(SMOKE, variant, 0, **LEARNED, **changes)


def initial_queries(config):
    torch.manual_seed(config.seed)
    return SLATE(config.model).slot_attn.slot_queries.detach()


@pytest.mark.parametrize(
    "variant, changes, moves",
    [
        ("vanilla", {}, True),
        ("IN", {"model__adjoint": StraightThrough()}, True),
        ("IN", {}, False),
    ],
)
def test_what_becomes_of_the_queries(smoke, elsewhere, variant, changes, moves):
    """Under the one-step gradient they stay where they began, bit for bit."""
    config = run_of(variant, **changes)
    run = runs.get(config, SMOKE)
    assert run.summary["status"] == "finished"
    trained = run.weights["slot_attn.slot_queries"]
    assert torch.equal(trained, initial_queries(config)) == (not moves)
    assert run.summary["final"]["spectral_norm"] > 0
    assert 0 < run.summary["final"]["residual_1"] < 10
    # a checkpoint round trip: the weights load, and so does the cell that is kept
    model = SLATE(config.model)
    model.load_state_dict(run.weights)
    assert torch.equal(model.slot_attn.slot_queries, trained)
    _, kept, slots = run.cell(Iteration(2), Neumann())
    assert kept.shape == (4, 16, 16) and slots.shape == (4, 3, 16)
    torch.testing.assert_close(slots, trained.expand(4, -1, -1), rtol=1e-3, atol=1e-3)


def test_a_run_that_is_stopped_goes_on_bit_for_bit(smoke, tmp_path):
    config = run_of(model__adjoint=StraightThrough())
    splits = {name: config.data.load(name) for name in ("train", "validation", "test")}
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()

    def build(seed=0):
        torch.manual_seed(seed)
        return SLATETask(config, **splits, dvae_weights=smoke.dvae.weights)

    whole = build()
    train(whole, config.training, 0, tmp_path / "whole")
    train(build(), replace(config.training, steps=4), 0, tmp_path / "parts")
    resumed = build(seed=5)  # weights and random state are the checkpoint's again
    train(resumed, config.training, 0, tmp_path / "parts")
    written = [(tmp_path / name / "metrics.csv").read_bytes() for name in ("whole", "parts")]
    assert written[0] == written[1]
    theirs = resumed.model.state_dict()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, theirs[name]), name


def test_the_cell_is_measured_from_the_queries():
    module = encoder(Neumann()).float()
    embedded, drawn = inputs().float(), slot_noise(module, 2, seed=0)
    found = measure_cell(module, embedded, drawn, residual_steps=3)
    cell = module.cell(embedded)
    with torch.no_grad():
        start = module.slot_queries.expand(2, -1, -1)
        first = cell(start)[0]
        expected = ((first - start).flatten(1).norm(dim=1) / first.flatten(1).norm(dim=1)).mean()
        at = jacobian(lambda z: cell(z)[0], module(embedded, drawn).slots)
    assert found["residual_1"] == pytest.approx(expected.item(), rel=1e-5)
    norms = torch.linalg.matrix_norm(at, 2)
    assert found["spectral_norm"] == pytest.approx(norms.mean().item(), rel=1e-3)
    assert kept_cell(module, embedded)["slots"].shape == (2, 4, 5)


# ---- identity ----


def test_drawn_slots_are_the_default_and_change_no_id():
    config = profiles.slate(SMOKE, "IN", 0)
    assert config.model.initial == "drawn"
    assert "initial" not in runs.identity(config)["model"]
    assert runs.run_id(config) == "slate-IN-seed0-ad28b308bf"
    assert runs.identity(run_of())["model"]["initial"] == "learned"
    assert runs.run_id(run_of()) != runs.run_id(config)
