"""The diagnosis of slots, on masks and cells whose faults are known."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_equilibria import Wells

from paper_lib.explore import diagnose, masks, trained
from paper_lib.explore.diagnose import SIGNS, WORDS, diagnose_slots
from paper_lib.fixed_point import Iteration, Neumann, Unrolled
from paper_lib.models import SetPredictor, SlotAttentionAutoEncoder
from paper_lib.paper import extensions, locatello, parameters
from paper_lib.runs import get

f64 = torch.float64
ALIKE = np.full((1, 6, 3), 1 / 3)
APART = np.eye(3)[[0, 0, 1, 1, 2, 2]][None]  # each slot has two of six places
ONE = np.eye(3)[[0] * 6][None]  # the first slot has all of them


# ---------------------------------------------------------------- masks


def test_masks_that_are_alike_apart_and_one_slots():
    for measure, alike, apart, one in [
        (masks.overlap, 1, 0, 0),
        (masks.entropy, 1, 0, 0),
        (masks.idle_slots, 0, 0, 2 / 3),
        (masks.largest_slot, 1 / 3, 1 / 3, 1),
    ]:
        found = measure(np.concatenate([ALIKE, APART, ONE]))
        np.testing.assert_allclose(found, [alike, apart, one], atol=1e-12)


def test_overlap_is_the_iou_of_the_slots_places():
    attn = np.array([[[1.0, 0.0], [0.5, 0.5], [0.5, 0.5], [0.0, 1.0]]])
    assert masks.overlap(attn) == pytest.approx(1 / 3)  # they share 1 of 3
    assert np.isnan(masks.overlap(np.ones((2, 4, 1)))).all()
    assert np.isnan(masks.entropy(np.ones((2, 4, 1)))).all()


def test_the_share_of_the_image_in_the_masks_variance():
    place = np.repeat(APART, 4, axis=0)
    assert masks.share_of_image(place) == 0
    image = np.eye(3)[[0, 1, 2]][:, None].repeat(6, axis=1)  # a slot has all of its image
    assert masks.share_of_image(image) == pytest.approx(1)
    # half and half: two places, two images, a slot that has (1, 0) and (0, 0)
    attn = np.zeros((2, 2, 1))
    attn[0, 0] = 1
    total, over_images = 3 / 16, np.mean([1 / 4, 0])
    assert masks.share_of_image(attn) == pytest.approx(over_images / total)
    assert np.isnan(masks.share_of_image(ALIKE.repeat(2, axis=0)))


def test_agreement_does_not_ask_for_the_slots_order():
    assert masks.agreement(APART, APART[..., [2, 0, 1]]) == pytest.approx(1)
    assert masks.agreement(APART, ONE) == pytest.approx(1 / 9)  # 2 of 6 places of one slot in three


# ---------------------------------------------------------------- signs

HEALTHY = {
    "perplexity": 30.0,
    "dvae_error": 0.1,
    "initial_spread": 0.9,
    "overlap": 0.1,
    "share_of_image": 0.6,
    "idle_slots": 0.1,
    "largest_slot": 0.3,
    "converge": 0.9,
    "collapsed": 0.1,
    "gradient_growth": 2.0,
}


@pytest.mark.parametrize("sign", SIGNS, ids=lambda sign: sign.name)
def test_a_sign_is_seen_beyond_its_threshold_and_says_its_number(sign):
    assert not sign.is_in(HEALTHY) and sign.measure in WORDS
    limit = sign.above if np.isfinite(sign.above) else sign.below
    assert not sign.is_in(HEALTHY | {sign.measure: limit})
    beyond = HEALTHY | {sign.measure: limit * (1.5 if np.isfinite(sign.above) else 0.5)}
    diagnosis = diagnose.Diagnosis(beyond, np.zeros(3), ALIKE)
    assert diagnosis.found == [sign]
    words = str(diagnosis)
    assert words.startswith(f"{sign.name}: ") and "what helps" in words
    assert f"{limit:g}" in words and max(map(len, words.splitlines())) <= diagnose.LINE
    assert not sign.is_in(HEALTHY | {sign.measure: np.nan})


def test_where_nothing_is_wrong_the_numbers_stand_alone():
    words = str(diagnose.Diagnosis(HEALTHY, np.zeros(3), APART))
    assert words.startswith("nothing wrong is found\n\n")
    assert "30  perplexity of the dVAE's tokens" in words


# ---------------------------------------------------------------- models


@pytest.fixture(scope="module")
def slate(smoke):
    return trained.model_of(smoke.IN), smoke.IN.samples["image"]


def changed(model, change):
    model = copy.deepcopy(model)
    with torch.no_grad():
        change(model)
    return model


def names(diagnosis):
    return {sign.name for sign in diagnosis.found}


def test_slots_without_noise_have_identical_masks(slate):
    model, images = slate
    alike = changed(model, lambda m: m.slot_attn.slot_log_sigma.fill_(-torch.inf))
    found = diagnose_slots(alike, images)
    assert {"slots that start alike", "identical masks"} <= names(found)
    assert found.measured["overlap"] == pytest.approx(1)
    assert found.measured["initial_spread"] == 0
    np.testing.assert_allclose(found.masks, 1 / model.config.num_slots)
    assert "slots that start alike" not in names(diagnose_slots(model, images))


def test_a_model_that_sees_no_token_has_masks_of_the_place(slate):
    model, images = slate
    blind = changed(model, lambda m: m.dictionary.dictionary.weight.zero_())
    found = diagnose_slots(blind, images)
    assert "masks of the place alone" in names(found)
    assert found.measured["exchanged"] == pytest.approx(1)


def test_a_dvae_with_one_code_is_collapsed(slate):
    model, images = slate
    one_code = changed(model, lambda m: m.dvae.encoder[-1].bias[0].fill_(1e4))
    found = diagnose_slots(one_code, images)
    assert {"collapsed dVAE", "poor dVAE"} <= names(found)
    assert found.measured["perplexity"] == found.measured["codes_used"] == 1


def test_the_committed_collapse_is_found_and_what_helps_helped(committed):
    """Masks as users of SLATE report them, alike in every slot and every picture."""
    found = {}
    for name, (config,) in extensions.collapsed(committed).items():
        run = get(config, committed)
        found[name] = diagnose_slots(trained.model_of(run), run.samples["image"][:4], starts=2)
    collapse = {"collapsed dVAE", "poor dVAE", "identical masks", "masks of the place alone"}
    assert collapse <= names(found["collapsed dVAE"])
    assert not collapse & names(found["healthy dVAE"])
    measured = found["collapsed dVAE"].measured
    assert measured["overlap"] > 0.8 and measured["exchanged"] == pytest.approx(1)


def test_the_model_is_left_as_it_was(slate):
    model, images = slate
    before = {name: value.clone() for name, value in model.state_dict().items()}
    solver = model.slot_attn.slot_attention.solver
    diagnose_slots(model, images)
    for name, value in model.state_dict().items():
        assert value.dtype == before[name].dtype and torch.equal(value, before[name])
    assert model.slot_attn.slot_attention.solver is solver


def test_gradients_are_those_of_training(slate):
    model, images = slate
    found = diagnose_slots(model, images).measured
    model = copy.deepcopy(model).double()
    image = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    tokens = model.tokenize(image.double())
    attention = model.slot_attn.slot_attention
    noise = diagnose.slot_noise(model.slot_attn, 4, 0).double()[:1].expand(len(image), -1, -1)
    for name, adjoint in {"one_step": Neumann(), "unrolled": Unrolled()}.items():
        attention.solver, attention.adjoint = Iteration(model.config.num_iterations), adjoint
        model.zero_grad()
        model.autoencode(tokens, noise)[0].mean().backward()
        square = sum(p.grad.square().sum() for p in attention.parameters())
        # `autoencode` differentiates the embedding too, which the cell's weights do not notice
        assert found[f"gradient_{name}"] == pytest.approx(square.sqrt().item(), rel=1e-6)


def test_fixed_points_of_a_map_where_all_are_known():
    """Two slots fall each to the nearer of -1 and 1; in the second scene they turn for ever."""
    encoder = SimpleNamespace(
        slot_attention=Wells(), inputs=lambda inputs: inputs, initial_slots=lambda noise: noise
    )
    inputs = torch.zeros(2, 3, 2, dtype=f64)
    inputs[1] = 1
    noise = torch.tensor([[[0.9, 0.8], [0.5, 0.7]], [[-0.5, 0.7], [0.4, -0.9]]], dtype=f64)
    found, residuals = diagnose._iterated(encoder, inputs, noise, 200)
    assert found["converge"] == 0.5, "both starts in the first scene, none in the second"
    assert found["fixed points"] == 2 and found["collapsed"] == 0.5
    assert residuals.shape == (200,)
    assert residuals[-1] == pytest.approx(np.sqrt(2) / 2, abs=1e-6), "0 and the square root of 2"


def test_the_autoencoder_and_the_set_predictor(smoke, root):
    given = parameters.check("smoke", if_missing="train")
    for config, kind in [
        (locatello.autoencoder(given, "IN", 0), SlotAttentionAutoEncoder),
        (locatello.set_prediction(given, "vanilla", 0), SetPredictor),
    ]:
        run = get(config, given)
        model = kind(config.model)
        model.load_state_dict(run.weights)
        images = run.samples["image"]
        found = diagnose_slots(model, images, starts=2, max_steps=20)
        assert "perplexity" not in found.measured and 0 <= found.measured["overlap"] <= 1
        assert ("gradient_growth" in found.measured) == (kind is SlotAttentionAutoEncoder)
        pixels = config.data.size**2
        places = pixels if kind is SlotAttentionAutoEncoder else run.samples["attn"].shape[1]
        assert found.masks.shape == (len(images), places, config.model.num_slots)


def test_one_image_or_one_start_is_refused(slate):
    model, images = slate
    with pytest.raises(ValueError, match="not 1 and 4"):
        diagnose_slots(model, images[:1])
    with pytest.raises(ValueError, match="and 1"):
        diagnose_slots(model, images, starts=1)
