"""Solver and adjoint: Table 2's pairs, and pairs of one's own, in every model's config."""

import re
from dataclasses import replace

import pytest
import torch

from paper_lib.fixed_point import (
    Anderson,
    Broyden,
    Implicit,
    Iteration,
    Neumann,
    Result,
    Unrolled,
    relative_residual,
)
from paper_lib.models import (
    SLATE,
    VARIANTS,
    AutoencoderConfig,
    SetPredictionConfig,
    SetPredictor,
    SLATEConfig,
    SlotAttention,
    SlotAttentionAutoEncoder,
    pair_name,
    solver_and_adjoint,
    variant,
)

SMALL_SLATE = SLATEConfig(
    image_size=16,
    vocab_size=11,
    d_model=16,
    slot_size=12,
    mlp_hidden_size=20,
    num_slots=3,
    num_dec_blocks=1,
    dropout=0.0,
)
SMALL_PICTURES = dict(image_size=16, channels=6, strides=(2, 2), slot_size=12, num_slots=3)
SMALL_AUTOENCODER = AutoencoderConfig(
    broadcast_size=4, decoder_channels=6, decoder_strides=(2, 2), **SMALL_PICTURES
)
SMALL_PREDICTOR = SetPredictionConfig(**SMALL_PICTURES)


class Twice:
    """A solver that is no dataclass and has nothing but `solve`: it applies f twice."""

    def solve(self, f, z0):
        z, fz = f(z0), f(f(z0))
        residual = relative_residual(z, fz)
        never = torch.zeros(len(z0), dtype=torch.bool)
        return Result(fz, residual[None], torch.full((len(z0),), 2), never, never)


def infer(model, noise, solver=None):
    """Slots of the same images, whatever the model is."""
    generator = torch.Generator().manual_seed(1)
    if isinstance(model, SLATE):
        tokens = torch.randint(11, (2, 16), generator=generator)
        return model.slot_attn(model.embed(tokens)[:, 1:], noise, solver)
    return model(torch.rand(2, 3, 16, 16, generator=generator), noise, solver)


def test_the_table_of_variants():
    assert {name: VARIANTS[name](7) for name in ("vanilla", "IB", "BB", "IN", "BN")} == {
        "vanilla": (Iteration(7), Unrolled()),
        "IB": (Iteration(7), Implicit(Broyden(7))),
        "BB": (Broyden(7), Implicit(Broyden(7))),
        "IN": (Iteration(7), Neumann(1)),
        "BN": (Broyden(7), Neumann(1)),
    }


@pytest.mark.parametrize("config", [SLATEConfig, AutoencoderConfig, SetPredictionConfig])
def test_a_variant_is_a_shorthand_for_a_pair(config):
    """Without a solver and an adjoint of its own a config means its variant's; each half alone can
    be replaced."""
    solver, adjoint = Broyden(30, tol=1e-4), Implicit(Anderson(7))
    for name in VARIANTS:
        plain = config(variant=name, num_iterations=5)
        assert solver_and_adjoint(plain) == variant(name, 5) and pair_name(plain) == name
    for given, pair, name in [
        (dict(solver=solver), (solver, Neumann()), "Broyden-Neumann"),
        (dict(adjoint=adjoint), (Iteration(5), adjoint), "Iteration-Implicit_Anderson"),
        (dict(solver=solver, adjoint=adjoint), (solver, adjoint), "Broyden-Implicit_Anderson"),
        (dict(solver=Twice()), None, "Twice-Neumann"),
    ]:
        own = config(variant="IN", num_iterations=5, **given)
        assert pair is None or solver_and_adjoint(own) == pair
        assert pair_name(own) == name and re.fullmatch("[A-Za-z0-9_-]+", name)


@pytest.mark.parametrize("config", [SLATEConfig, AutoencoderConfig, SetPredictionConfig])
def test_a_config_refuses_what_makes_no_sense(config):
    with pytest.raises(ValueError, match="'XX'") as error:
        config(variant="XX")
    assert all(name in str(error.value) for name in VARIANTS)
    with pytest.raises(ValueError, match="black box"):
        config(variant="vanilla", solver=Broyden(7))
    with pytest.raises(ValueError, match="black box"):
        config(variant="BN", adjoint=Unrolled())
    with pytest.raises(TypeError, match="expected an object"):
        config(solver=Broyden)
    with pytest.raises(ValueError, match="num_iterations"):
        config(num_iterations=0)


@pytest.mark.parametrize("solver", [Broyden(3), Anderson(3)])
def test_unrolling_a_black_box_is_refused_at_construction(solver):
    with pytest.raises(ValueError, match="black box"):
        SlotAttention(10, 12, 20, solver, Unrolled())


@pytest.mark.parametrize(
    "model, config",
    [
        (SLATE, SMALL_SLATE),
        (SlotAttentionAutoEncoder, SMALL_AUTOENCODER),
        (SetPredictor, SMALL_PREDICTOR),
    ],
)
def test_a_model_uses_the_pair_that_it_is_given(model, config):
    """In its config or at test time; a plain class with a `solve` method is a solver like any."""

    def built(**changes):
        torch.manual_seed(0)
        return model(replace(config, **changes)).eval()

    noise = torch.randn(2, 3, 12, generator=torch.Generator().manual_seed(2))
    twice, two = built(solver=Twice()), built(num_iterations=2)
    out, expected = infer(twice, noise), infer(two, noise)
    torch.testing.assert_close(out.slots, expected.slots)
    torch.testing.assert_close(out.attn, expected.attn)
    assert out.solution.steps.tolist() == [2, 2]
    at_test_time = infer(built(num_iterations=5), noise, Twice())
    torch.testing.assert_close(at_test_time.slots, expected.slots)
    # the gradient is the adjoint's, whatever the solver
    gradients = []
    for module, result in [(twice, out), (two, expected)]:
        result.slots.square().sum().backward()
        gradients.append(module.slot_attn.slot_attention.project_q.weight.grad)
    torch.testing.assert_close(*gradients)
    assert gradients[0].abs().max() > 0
    implicit = built(num_iterations=2, adjoint=Implicit(Iteration(3)))
    infer(implicit, noise).slots.square().sum().backward()
    gradient = implicit.slot_attn.slot_attention.project_q.weight.grad
    assert not torch.allclose(gradient, gradients[0], rtol=1e-2)


def test_another_solver_at_test_time_must_go_with_the_adjoint():
    module = SlotAttention(10, 12, 20, Iteration(3), Unrolled())
    inputs, slots = torch.randn(2, 7, 10), torch.randn(2, 4, 12)
    longer = SlotAttention(10, 12, 20, Iteration(6), Unrolled())
    longer.load_state_dict(module.state_dict())
    at_test_time = module(inputs, slots, Iteration(6))
    torch.testing.assert_close(at_test_time.value, longer(inputs, slots).value)
    with pytest.raises(ValueError, match="black box"):
        module(inputs, slots, Broyden(6))
