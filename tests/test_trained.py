"""Models that come with their weights: of every kind, what their runs recorded, with a card."""

import numpy as np
import pytest
import torch

from paper_lib.explore import cards, trained
from paper_lib.models import SLATE, SetPredictor, SlotAttentionAutoEncoder
from paper_lib.paper import figures, parameters
from paper_lib.runs import ROOT, get
from paper_lib.training.slots import slot_noise
from paper_lib.training.task import to_float

KINDS = {"slate": SLATE, "autoencoder": SlotAttentionAutoEncoder, "set_prediction": SetPredictor}


@pytest.fixture(scope="module")
def every_kind(smoke):
    """The smoke profile's models of every kind, trained: name -> config."""
    given = smoke.given
    for config in [
        *figures.every_config(figures.segmentation(given)),
        *figures.every_config(figures.property_prediction(given)),
    ]:
        get(config, given)
    return trained.offered(given)


def pictured(model, samples):
    """What a model makes of its run's test images, as the run kept it: name -> array."""
    image = to_float(samples["image"])
    if isinstance(model, SLATE):
        noise = slot_noise(model.slot_attn, 64, seed=0)[: len(image)]
        return {"attn": model.infer_slots(model.tokenize(image), noise).attn}
    out = model(image, slot_noise(model.slot_attn, len(image), seed=0))
    if isinstance(model, SetPredictor):
        return {"attn": out.attn, "predictions": out.predictions}
    return {"attn": out.attn, "masks": 255 * out.masks}


@torch.no_grad()
def ensure_pictured(given):
    for name, config in trained.offered(given).items():
        samples = get(config, given).samples
        model = trained.load(name, given.profile)
        assert type(model) is KINDS[config.kind] and not model.training
        for part, found in pictured(model, samples).items():
            tolerance = 0.6 if part == "masks" else 2e-3  # kept as whole numbers; as float16
            np.testing.assert_allclose(found, samples[part], atol=tolerance, err_msg=name)


def test_every_committed_model_makes_what_its_run_kept(committed):
    assert {"clevr_mirror-implicit", "clevr_mirror-vanilla"} <= set(trained.offered(committed))
    ensure_pictured(committed)


def test_a_model_of_every_kind_is_offered_as_soon_as_there_are_weights(smoke, every_kind):
    assert set(every_kind) == {
        f"{words}-{method}"
        for words in ("clevr_mirror", "clevr-autoencoder", "clevr-set_prediction")
        for method in ("implicit", "vanilla")
    }
    assert set(trained.slates(smoke.given)) == {"clevr_mirror-implicit", "clevr_mirror-vanilla"}
    ensure_pictured(smoke.given)


def test_a_model_meets_the_score_that_its_run_recorded(smoke, every_kind):
    """Of the committed models `python -m paper_lib.explore.trained` says so."""
    watched = set()
    for config in every_kind.values():
        metric, recorded, found = trained.scored_again(get(config, smoke.given), smoke.given)
        assert found == pytest.approx(recorded, rel=1e-4)
        watched.add(metric)
    assert watched == {"val_cross_entropy", "val_mse", "val_loss"}


def test_a_score_that_is_not_met_is_an_error(smoke, every_kind, monkeypatch, capsys):
    monkeypatch.setattr(parameters, "check", lambda profile: smoke.given)
    assert trained.main() == 0
    monkeypatch.setattr(trained, "CLOSE", -1)
    assert trained.main() == 1
    assert "clevr-autoencoder-vanilla" in capsys.readouterr().out


def test_a_card_for_every_kind_of_model(smoke, every_kind):
    text = cards.page(smoke.given)
    for name, config in every_kind.items():
        run = get(config, smoke.given)
        card = cards.card(name, config, smoke.given)
        assert card in text and card.startswith(f"## `{name}`\n")
        for said in (run.folder.name, f"{config.training.steps} steps", "16x16", config.data.name):
            assert said in card
        watched = next(iter(cards.METRICS[config.kind]))
        assert f"{run.summary['final'][watched]:.4g} |" in card
    assert "FG-ARI of the masks on test images" in cards.card(
        "clevr_mirror-implicit", every_kind["clevr_mirror-implicit"], smoke.given
    ), "of the images regenerated"


def test_the_stored_cards_are_todays(committed):
    """Else: `python -m paper_lib.explore.cards`."""
    assert (ROOT / "docs/models.md").read_text() == cards.page(committed)
