"""Table 3: images regenerated from a trained SLATE's slots, and their scores, against the model
taken apart and against formulas."""

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import adjusted_rand_score
from torch.nn.functional import one_hot

from paper_lib import data, runs
from paper_lib.metrics import ignorant_scores, mask_scores
from paper_lib.models import DVAE, SLATE
from paper_lib.paper import figures, parameters, regeneration
from paper_lib.paper.regeneration import RegenerationRunConfig, measure
from paper_lib.runs import perform
from paper_lib.system import memory
from paper_lib.training import slate
from paper_lib.training.config import DataConfig
from paper_lib.training.slate import SLATETask, regenerate
from paper_lib.training.slots import slot_noise

SMOKE = parameters.check("smoke", if_missing="train")
LOADED_ONLY = parameters.check("smoke", if_missing="error")
MASKED = ["mse_foreground", "foreground_ari", "mean_iou", "largest_share"]


class Colours:
    """Features in place of a network's: the mean colour of each image. Keeps what it was shown."""

    name, dimension, column = "colours", 3, "distance of mean colours"

    def __init__(self):
        self.seen = []

    def __call__(self, images):
        assert images.dtype == np.uint8
        assert images.shape[1:] == (16, 16, 3)
        self.seen.append(images)
        return mean_colours(images)


def mean_colours(images):
    return images.reshape(len(images), -1, 3).mean(1)


@pytest.fixture
def colours(monkeypatch):
    network = Colours()

    def features(name, device):
        assert name == "colours"
        return network

    monkeypatch.setattr(regeneration.frechet, "features", features)
    return network


def scored(run, images=None):
    config = RegenerationRunConfig(slate=run.config, images=images, features="colours")
    return measure(config, run.weights)


def model_and_images(run, count=None):
    """The trained model, and test images (n, 3, H, W) in [0, 1] with their masks."""
    model = SLATE(run.config.model).eval()
    model.load_state_dict(run.weights)
    test = run.config.data.load("test")
    images = torch.tensor(np.array(test.images[:count]) / 255, dtype=torch.float32)
    return model, images.permute(0, 3, 1, 2), np.array(test.masks[:count])


def decoded(dvae, tokens):
    """What a dVAE makes of tokens (n, 4, 4): pixels (n, 3, 16, 16) in float64."""
    pictures = dvae.decoder(one_hot(tokens, 16).movedim(-1, 1).float())
    return pictures.clamp(0, 1).double()


@torch.no_grad()
def by_hand(run):
    """The test images and what the slots' reconstructions of them are, pixels (n, 3, H, W) in
    float64, and masks (n, N, K); with the slots' noise of each 64 images drawn anew."""
    model, images, _ = model_and_images(run)
    recon, attn = [], []
    for image in images.split(64):
        noise = torch.randn(len(image), 3, 16, generator=torch.Generator().manual_seed(0))
        out = model.infer_slots(model.dvae.encoder(image).argmax(1).flatten(1), noise)
        tokens = model.generate_tokens(out.slots)
        recon.append(decoded(model.dvae, tokens.view(-1, 4, 4)))
        attn.append(out.attn)
    return images.double(), torch.cat(recon), torch.cat(attn).numpy()


# ---- errors ----


def test_errors_are_those_of_the_model_taken_apart(smoke, colours):
    table, final = scored(smoke.IN)
    images, recon, _ = by_hand(smoke.IN)
    count = len(smoke.IN.config.data.load("test"))
    assert len(table) == len(images) == final["images"] == count > 4
    assert table["image"].tolist() == list(range(count))
    errors = [((x - y) ** 2).sum() for x, y in zip(images.numpy(), recon.numpy())]
    np.testing.assert_allclose(table["mse"], errors, rtol=1e-4)
    assert table["mse"].nunique() == count


def test_the_floor_is_that_of_the_dvae_by_itself(smoke, colours):
    table, _ = scored(smoke.IN)
    _, images, _ = model_and_images(smoke.IN)
    dvae = DVAE(16)
    dvae.load_state_dict(smoke.dvae.weights)
    with torch.no_grad():
        pictures = decoded(dvae, dvae.encoder(images).argmax(1))
    errors = (images.double() - pictures).square().sum((1, 2, 3))
    np.testing.assert_allclose(table["mse_dvae"], errors, rtol=1e-4)
    assert not np.allclose(table["mse"], table["mse_dvae"])


@pytest.mark.parametrize("which", ["vanilla", "IN"])
def test_the_first_images_score_what_the_training_run_says_at_its_end(smoke, colours, which):
    run = getattr(smoke, which)
    table, final = scored(run, 4)
    in_training = run.summary["final"]
    assert len(table) == final["images"] == in_training["test_images"] == 4
    assert table["mse"].mean() == pytest.approx(in_training["test_mse"], rel=1e-4)
    assert table["mse_dvae"].mean() == pytest.approx(in_training["test_mse_dvae"], rel=1e-4)
    for shown, kept in zip(colours.seen, ("image", "reconstruction", "dvae"), strict=True):
        np.testing.assert_array_equal(shown, run.samples[kept])


def test_it_is_the_same_again(smoke, colours):
    first, final = scored(smoke.IN, 4)
    second, again = scored(smoke.IN, 4)
    assert first.equals(second)
    assert final == again


@pytest.mark.parametrize("batch", [4, 3, 1])
def test_images_score_the_same_however_many_are_regenerated_together(
    smoke, colours, monkeypatch, batch
):
    whole, _ = scored(smoke.IN)
    monkeypatch.setattr(regeneration, "images_at_once", lambda model: batch)
    split, final = scored(smoke.IN)
    assert split["image"].tolist() == whole["image"].tolist()
    assert final["images"] == len(whole) > 4
    for column in ("mse", "mse_dvae", "foreground_ari"):
        np.testing.assert_allclose(split[column], whole[column], rtol=1e-4)


def test_as_many_together_as_a_quarter_of_the_memory_holds(smoke, monkeypatch):
    """16 tokens of a vocabulary of 16, one block of size 16: 512 numbers are kept, and decoding
    takes 3 * 256 and three times 64 places of 256 channels."""
    model = SLATE(smoke.IN.config.model)
    needed = 4 * (512 + 3 * 256 + 3 * 64 * 256)
    cases = [(4 * 10 * needed, 10), (4 * 10 * needed - 1, 9), (0, 1), (10**12, 256)]
    for free, count in cases:
        monkeypatch.setattr(slate, "free_memory", lambda device, free=free: free)
        assert slate.images_at_once(model) == count
    monkeypatch.undo()
    assert memory.free_memory("cpu") > 2**20


def test_more_images_than_there_are(smoke, colours):
    table, final = scored(smoke.IN, 10_000)
    assert len(table) == final["images"] == len(smoke.IN.config.data.load("test"))


# ---- masks ----


def test_masks(smoke, colours):
    """Each score from the picture of the masks: a token covers 4 x 4 pixels."""
    table, _ = scored(smoke.IN)
    assert table.columns.tolist() == ["image", "mse", "mse_dvae", *MASKED]
    images, recon, attn = by_hand(smoke.IN)
    _, _, masks = model_and_images(smoke.IN)
    assert masks.any((1, 2)).all()
    assert not masks.all((1, 2)).any()
    error = (images - recon).square().sum(1).numpy()
    for k, mask in enumerate(masks):
        row, foreground = table.loc[k], mask > 0
        winner = np.kron(attn[k].argmax(1).reshape(4, 4), np.ones((4, 4), int))
        assert row["mse_foreground"] == pytest.approx(error[k][foreground].sum(), rel=1e-4)
        largest = max(np.bincount(winner[foreground])) / foreground.sum()
        assert row["largest_share"] == pytest.approx(largest)
        ari = adjusted_rand_score(mask[foreground], winner[foreground])
        assert row["foreground_ari"] == pytest.approx(ari, abs=1e-9)


def test_scores_are_where_they_can_be(smoke, colours):
    table, _ = scored(smoke.IN)
    assert (table["mse_foreground"] <= table["mse"] * (1 + 1e-5)).all()
    assert table["mse_foreground"].gt(0).all()
    assert table["largest_share"].between(1 / 3 - 1e-9, 1).all(), "of three slots one holds a third"
    assert table["mean_iou"].between(0, 1).all()


def test_masks_that_know_nothing_have_as_many_segments_as_the_model_has_slots(smoke, colours):
    _, final = scored(smoke.IN, 4)
    _, _, masks = model_and_images(smoke.IN, 4)
    assert final == final | ignorant_scores(masks, 3, mask_scores)


def test_pictures_without_masks_have_errors_alone(smoke, colours, monkeypatch):
    masked, _ = scored(smoke.IN, 4)
    load = DataConfig.load
    monkeypatch.setattr(
        DataConfig, "load", lambda self, split: replace(load(self, split), masks=None)
    )
    table, final = scored(smoke.IN, 4)
    assert table.columns.tolist() == ["image", "mse", "mse_dvae"]
    assert table.equals(masked[table.columns])
    distances = {"frechet", "frechet_dvae", "frechet_low", "frechet_high", "frechet_dimension"}
    assert set(final) == distances | {"images"}


# ---- the Frechet distance ----


def gaussians(a, b):
    """The distance by its formula.

    The trace of a matrix's square root is that of its eigenvalues' roots.
    """
    A, B = np.cov(a.T), np.cov(b.T)
    roots = np.sqrt(np.linalg.eigvals(A @ B).real.clip(0))
    return ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(A + B) - 2 * roots.sum()


def test_distances_are_of_the_slots_images_and_of_the_dvaes(smoke, colours):
    _, final = scored(smoke.IN)
    real, ours, floor = (mean_colours(images) for images in colours.seen)
    assert final["frechet"] == pytest.approx(gaussians(real, ours), rel=1e-4)
    assert final["frechet_dvae"] == pytest.approx(gaussians(real, floor), rel=1e-4)
    assert final["frechet_dvae"] != final["frechet"]
    assert 0 <= final["frechet_low"] < final["frechet_high"]
    assert final["frechet_dimension"] == 3


def test_the_distance_is_that_of_the_model_taken_apart(smoke, colours):
    _, final = scored(smoke.IN)
    images, recon, _ = by_hand(smoke.IN)
    real, ours = (np.round(x.numpy() * 255).mean((2, 3)) for x in (images, recon))
    assert final["frechet"] == pytest.approx(gaussians(real, ours), rel=1e-2)


def test_with_the_real_network(smoke):
    config = figures.regeneration(SMOKE)["CLEVR-Mirror", "IN"][0]
    expected = {"slate": smoke.IN.config, "images": 2, "features": "efficientnet-lite0"}
    assert config == RegenerationRunConfig(**expected)
    table, final = measure(config, smoke.IN.weights)
    assert len(table) == 2
    assert final["frechet_dimension"] == 320
    assert final["frechet"] > 0
    assert final["frechet_dvae"] > 0
    assert all(math.isfinite(value) for value in final.values())


# ---- regenerating ----


def test_slot_noise(smoke):
    encoder = model_and_images(smoke.IN, 1)[0].slot_attn
    state = torch.get_rng_state()
    noise = slot_noise(encoder, 500, seed=3)
    assert noise.shape == (500, 3, 16)
    assert torch.equal(noise, slot_noise(encoder, 500, seed=3))
    assert not torch.equal(noise, slot_noise(encoder, 500, seed=4))
    assert noise.mean().item() == pytest.approx(0, abs=0.03)
    assert noise.std().item() == pytest.approx(1, abs=0.03)
    assert torch.equal(state, torch.get_rng_state())


def test_regenerate(smoke):
    model, images, _ = model_and_images(smoke.IN, 4)
    state = torch.get_rng_state()
    floor, recon, attn = regenerate(model, images)
    assert floor.shape == recon.shape == images.shape
    assert attn.shape == (4, 16, 3)
    for picture in (floor, recon):
        assert picture.min() >= 0
        assert picture.max() <= 1
        assert not picture.requires_grad
    torch.testing.assert_close(attn.sum(-1), torch.ones(4, 16))
    _, same_recon, same_attn = regenerate(model, images)
    assert torch.equal(recon, same_recon)
    assert torch.equal(attn, same_attn)
    assert torch.equal(state, torch.get_rng_state())


# ---- as a run ----


@pytest.fixture
def copied(smoke, elsewhere):
    """Results of one test's own, with the dVAE's and the trained pair's in them."""
    shutil.copytree(smoke.IN.folder.parent, elsewhere / "results/smoke/runs")
    return elsewhere / "results/smoke/runs"


def config_of(run, **changes):
    return RegenerationRunConfig(slate=run.config, **changes)


def broken_at(monkeypatch, step_of_nan):
    whole = SLATETask.loss

    def loss(self, batch, step):
        value, logs = whole(self, batch, step)
        return (value * math.nan if step == step_of_nan else value), logs

    monkeypatch.setattr(SLATETask, "loss", loss)


def test_getting_one_trains_its_slate_first(smoke, elsewhere, colours):
    config = config_of(smoke.IN, images=4, features="colours")
    run = runs.get(config, SMOKE)
    made = {path.name for path in run.folder.parent.iterdir() if path.is_dir()}
    assert made == {runs.run_id(c) for c in (config, config.slate, config.slate.dvae)}
    assert run.folder.name.startswith("regeneration-IN-seed0-")
    table, final = scored(smoke.IN, 4)
    pd.testing.assert_frame_equal(run.metrics, table, check_dtype=False, rtol=1e-4)
    assert run.summary["status"] == "finished"
    assert run.summary["seed"] == 0
    assert run.summary["final"] == pytest.approx(final, rel=1e-4)


def test_what_is_written_of_one(copied, smoke, colours, monkeypatch):
    config = config_of(smoke.IN, images=4, features="colours")
    run = runs.get(config, SMOKE)
    files = {path.name for path in run.folder.iterdir()}
    assert files == {"checksums.json", "config.json", "metrics.csv", "summary.json"}
    written = json.loads((run.folder / "config.json").read_text())
    assert written["images"] == 4
    assert written["slate"]["model"]["variant"] == "IN"
    assert written["identity"]["slate"]["kind"] == "slate"
    assert run.samples == {}
    monkeypatch.setattr(perform, "_perform", None)  # it is loaded from now on
    assert runs.get(config, LOADED_ONLY).summary == run.summary


def test_one_that_nobody_asked_to_make_is_missing(copied, smoke):
    config = config_of(smoke.IN, images=3)  # no notebook asks for this one
    with pytest.raises(runs.MissingRun) as error:
        runs.get(config, LOADED_ONLY)
    assert f"python -m paper_lib.runs smoke {runs.run_id(config)}" in str(error.value)
    assert not (copied / runs.run_id(config)).exists()


def test_without_the_weights_it_says_how_to_get_them(copied, smoke, colours, monkeypatch, tmp_path):
    config = config_of(smoke.IN, images=4, features="colours")
    trained = copied / smoke.IN.folder.name
    (trained / "weights.safetensors").unlink()
    with pytest.raises(runs.MissingRun, match="not committed") as error:
        runs.get(config, SMOKE)
    assert "another folder of results (PAPER_RESULTS)" in str(error.value)
    assert not (copied / runs.run_id(config) / "summary.json").exists()
    monkeypatch.setenv("PAPER_RESULTS", str(tmp_path / "others"))
    assert runs.get(config, SMOKE).summary["status"] == "finished", "the remedy helps"


def test_of_a_run_that_diverged_its_last_whole_weights_are_scored(
    copied, smoke, colours, monkeypatch
):
    shutil.rmtree(copied / smoke.IN.folder.name)
    broken_at(monkeypatch, 5)
    run = runs.get(config_of(smoke.IN, images=4, features="colours"), SMOKE)
    assert run.summary["status"] == "diverged"
    final = runs.get(smoke.IN.config, SMOKE).summary["final"]
    assert run.metrics["mse"].mean() == pytest.approx(final["test_mse"], rel=1e-4)
    assert run.summary["final"]["images"] == 4


def test_of_a_run_that_diverged_at_once_there_is_nothing_to_show(
    copied, smoke, colours, monkeypatch
):
    """But a table as any other, of no images."""
    shutil.rmtree(copied / smoke.IN.folder.name)
    broken_at(monkeypatch, 0)
    run = runs.get(config_of(smoke.IN, images=4, features="colours"), SMOKE)
    assert run.summary["status"] == "diverged"
    assert run.summary["final"] == run.samples == {}
    assert not colours.seen
    assert len(run.metrics) == 0
    assert {"image", "mse", "mse_dvae"} <= set(run.metrics)


def test_identity(smoke, monkeypatch):
    config = config_of(smoke.IN)
    seed_1 = replace(config, slate=replace(smoke.IN.config, seed=1))
    vanilla = config_of(smoke.vanilla)
    changed = [replace(config, images=4), replace(config, features="inception"), seed_1, vanilla]
    assert len({runs.run_id(c) for c in [config, *changed]}) == 5
    assert runs.run_id(seed_1).startswith("regeneration-IN-seed1-")
    assert runs.run_id(vanilla).startswith("regeneration-vanilla-seed0-")
    assert seed_1.seed == 1
    assert seed_1.model == smoke.IN.config.model
    before = runs.run_id(config)
    another = replace(data.DATASETS["clevr_mirror"], version="another")
    monkeypatch.setitem(data.DATASETS, "clevr_mirror", another)
    assert runs.run_id(config) != before, "of other pictures it is another"
