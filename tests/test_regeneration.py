"""Table 3: images regenerated from a trained SLATE's slots, and their scores, against the model taken apart and against formulas."""

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from paper_lib import data, runs
from paper_lib.metrics import ignorant_scores
from paper_lib.models import SLATE
from paper_lib.models.dvae import DVAE
from paper_lib.paper import figures, parameters, regeneration
from paper_lib.paper.regeneration import RegenerationRunConfig, measure
from paper_lib.system import memory
from paper_lib.training import slate
from paper_lib.training.config import DataConfig
from paper_lib.training.slate import SLATETask, regenerate
from paper_lib.training.slots import slot_noise

SMOKE = parameters.check("smoke", if_missing="train")
MASKED = ["mse_foreground", "foreground_ari", "mean_iou", "largest_share"]


class Colours:
    """Features in place of a network's: the mean colour of each image. Keeps what it was shown."""

    name, dimension, column = "colours", 3, "distance of mean colours"

    def __init__(self):
        self.seen = []

    def __call__(self, images):
        assert images.dtype == np.uint8 and images.shape[1:] == (16, 16, 3)
        self.seen.append(images)
        return images.reshape(len(images), -1, 3).mean(1)


@pytest.fixture
def colours(monkeypatch):
    network = Colours()
    monkeypatch.setattr(
        regeneration.frechet, "features", lambda name, device: {"colours": network}[name]
    )
    return network


def scored(smoke, images=None, run=None):
    run = run or smoke.IN
    return measure(RegenerationRunConfig(run.config, images, "colours"), run.weights)


def model_and_images(run, count):
    """The trained model, and test images in [0, 1] with their masks."""
    model = SLATE(run.config.model).eval()
    model.load_state_dict(run.weights)
    test = run.config.data.load("test")
    count = count or len(test)
    images = torch.tensor(np.array(test.images[:count]) / 255, dtype=torch.float32).permute(
        0, 3, 1, 2
    )
    return model, images, np.array(test.masks[:count])


def by_hand(run, count=None, batch=64):
    """What the slots' reconstructions are, with the slots' noise of each batch drawn anew: pixels (n, 3, H, W) in float64, and masks (n, N, K)."""
    model, images, _ = model_and_images(run, count)
    recon, attn = [], []
    with torch.no_grad():
        for image in images.split(batch):
            noise = torch.randn(len(image), 3, 16, generator=torch.Generator().manual_seed(0))
            out = model.infer_slots(model.dvae.encoder(image).argmax(1).flatten(1), noise)
            tokens = model.generate_tokens(out.slots)
            one_hot = (
                (tokens[:, None] == torch.arange(16)[:, None]).float().view(len(image), 16, 4, 4)
            )
            recon.append(model.dvae.decoder(one_hot).clamp(0, 1).double())
            attn.append(out.attn)
    return images.double(), torch.cat(recon), torch.cat(attn).numpy()


# ---------------------------------------------------------------- errors


def test_errors_are_those_of_the_model_taken_apart(smoke, colours):
    table, final = scored(smoke)
    images, recon, _ = by_hand(smoke.IN)
    assert (
        len(table) == len(images) == final["images"] == len(smoke.IN.config.data.load("test")) > 4
    )
    assert table["image"].tolist() == list(range(len(images)))
    np.testing.assert_allclose(
        table["mse"],
        [((x - y) ** 2).sum() for x, y in zip(images.numpy(), recon.numpy())],
        rtol=1e-4,
    )
    assert table["mse"].nunique() == len(table)
    # and the floor, of the dVAE by itself
    dvae = DVAE(16)
    dvae.load_state_dict(smoke.dvae.weights)
    with torch.no_grad():
        best = dvae.encoder(images.float()).argmax(1)
        decoded = (
            dvae.decoder((best[:, None] == torch.arange(16)[:, None, None]).float())
            .clamp(0, 1)
            .double()
        )
    np.testing.assert_allclose(
        table["mse_dvae"], (images - decoded).square().sum((1, 2, 3)), rtol=1e-4
    )
    assert not np.allclose(table["mse"], table["mse_dvae"])


@pytest.mark.parametrize("which", ["vanilla", "IN"])
def test_the_first_images_score_what_the_training_run_says_at_its_end(smoke, colours, which):
    run = getattr(smoke, which)
    table, final = scored(smoke, 4, run)
    assert len(table) == 4 == final["images"] == run.summary["final"]["test_images"]
    assert table["mse"].mean() == pytest.approx(run.summary["final"]["test_mse"], rel=1e-4)
    assert table["mse_dvae"].mean() == pytest.approx(
        run.summary["final"]["test_mse_dvae"], rel=1e-4
    )
    for shown, kept in zip(colours.seen, ("image", "reconstruction", "dvae")):
        np.testing.assert_array_equal(shown, run.samples[kept])


def test_it_is_the_same_again(smoke, colours):
    (first, final), (second, again) = scored(smoke, 4), scored(smoke, 4)
    assert first.equals(second) and final == again


@pytest.mark.parametrize("batch", [4, 3, 1])
def test_images_score_the_same_however_many_are_regenerated_together(
    smoke, colours, monkeypatch, batch
):
    whole, _ = scored(smoke)
    monkeypatch.setattr(regeneration, "images_at_once", lambda model: batch)
    split, final = scored(smoke)
    assert (
        len(whole) > 4
        and split["image"].tolist() == whole["image"].tolist()
        and final["images"] == len(whole)
    )
    for column in ("mse", "mse_dvae", "foreground_ari"):
        np.testing.assert_allclose(split[column], whole[column], rtol=1e-4)


def test_as_many_together_as_a_quarter_of_the_memory_holds(smoke, monkeypatch):
    """16 tokens of a vocabulary of 16, one block of size 16: 512 numbers are kept, and decoding takes 3 * 256 and three times 64 places of 256 channels."""
    model = SLATE(smoke.IN.config.model)
    bytes_each = 4 * (512 + 3 * 256 + 3 * 64 * 256)
    for free, count in [
        (4 * 10 * bytes_each, 10),
        (4 * 10 * bytes_each - 1, 9),
        (0, 1),
        (10**12, 256),
    ]:
        monkeypatch.setattr(slate, "free_memory", lambda device, free=free: free)
        assert slate.images_at_once(model) == count
    monkeypatch.undo()
    assert memory.free_memory("cpu") > 2**20


def test_more_images_than_there_are(smoke, colours):
    table, final = scored(smoke, 10_000)
    assert len(table) == final["images"] == len(smoke.IN.config.data.load("test"))


# ---------------------------------------------------------------- masks


def test_masks(smoke, colours):
    table, _ = scored(smoke)
    assert table.columns.tolist() == ["image", "mse", "mse_dvae", *MASKED]
    images, recon, attn = by_hand(smoke.IN)
    masks = model_and_images(smoke.IN, None)[2]
    assert masks.any((1, 2)).all() and not masks.all((1, 2)).any()
    error = (images - recon).square().sum(1).numpy()
    for k, mask in enumerate(masks):
        row, foreground = table.loc[k], mask > 0
        winner = np.kron(
            attn[k].argmax(1).reshape(4, 4), np.ones((4, 4), int)
        )  # a token covers 4 x 4 pixels
        assert row["mse_foreground"] == pytest.approx(
            sum(error[k][y, x] for y, x in zip(*np.nonzero(mask))), rel=1e-4
        )
        assert row["largest_share"] == pytest.approx(
            max(np.bincount(winner[foreground])) / foreground.sum()
        )
        assert row["foreground_ari"] == pytest.approx(
            adjusted_rand_score(mask[foreground], winner[foreground]), abs=1e-9
        )
    assert (table["mse_foreground"] <= table["mse"] * (1 + 1e-5)).all() and table[
        "mse_foreground"
    ].gt(0).all()
    assert table["largest_share"].between(1 / 3 - 1e-9, 1).all(), (
        "of three slots one holds at least a third"
    )
    assert table["mean_iou"].between(0, 1).all()


def test_scores_of_masks_by_hand():
    masks = np.array([[[1, 1, 2], [0, 0, 2]], [[1, 1, 1], [0, 0, 0]]])
    found = np.array([[[0, 0, 2], [1, 1, 2]], [[1, 1, 0], [1, 1, 1]]])
    scores = regeneration._mask_scores(masks, found)
    assert scores["largest_share"].tolist() == pytest.approx([2 / 4, 2 / 3])
    assert scores["foreground_ari"].tolist() == pytest.approx([1, 0])
    assert scores["mean_iou"].tolist() == pytest.approx([1, 2 / 6])


def test_what_masks_score_that_know_nothing(smoke, colours):
    """One object everywhere: of four blocks, and of four names at random, the largest holds a quarter."""
    scores = ignorant_scores(np.ones((2, 32, 32), np.uint8), 4, regeneration._mask_scores)
    assert set(scores) == {f"{kind}_{name}" for kind in ("grid", "random") for name in MASKED[1:]}
    assert scores["grid_largest_share"] == scores["grid_mean_iou"] == 0.25 and scores[
        "random_largest_share"
    ] == pytest.approx(0.25, abs=0.05)
    # each object is one of the four blocks
    quarters = np.kron([[1, 2], [3, 4]], np.ones((8, 8), int))[None]
    scores = ignorant_scores(quarters, 4, regeneration._mask_scores)
    assert (
        scores["grid_foreground_ari"] == scores["grid_mean_iou"] == 1
        and scores["grid_largest_share"] == 0.25
    )
    assert abs(scores["random_foreground_ari"]) < 0.1 and scores["random_mean_iou"] < 0.3
    _, final = scored(smoke, 4)
    masks = model_and_images(smoke.IN, 4)[2]
    assert final == final | ignorant_scores(masks, 3, regeneration._mask_scores), (
        "as many as the model has slots"
    )


def test_pictures_without_masks_have_errors_alone(smoke, colours, monkeypatch):
    masked, _ = scored(smoke, 4)
    load = DataConfig.load
    monkeypatch.setattr(
        DataConfig, "load", lambda self, split: replace(load(self, split), masks=None)
    )
    table, final = scored(smoke, 4)
    assert table.columns.tolist() == ["image", "mse", "mse_dvae"] and table.equals(
        masked[table.columns]
    )
    assert set(final) == {
        "frechet",
        "frechet_dvae",
        "frechet_low",
        "frechet_high",
        "frechet_dimension",
        "images",
    }


# ---------------------------------------------------------------- the Frechet distance


def gaussians(a, b):
    """The distance by its formula; the trace of a matrix's square root is that of its eigenvalues' roots."""
    A, B = np.cov(a.T), np.cov(b.T)
    return (
        ((a.mean(0) - b.mean(0)) ** 2).sum()
        + np.trace(A + B)
        - 2 * np.sqrt(np.linalg.eigvals(A @ B).real.clip(0)).sum()
    )


def test_distances_are_of_the_slots_images_and_of_the_dvaes(smoke, colours):
    _, final = scored(smoke)
    images, recon, _ = by_hand(smoke.IN)
    real, ours = (np.round(x.numpy() * 255).mean((2, 3)) for x in (images, recon))
    assert final["frechet"] == pytest.approx(gaussians(real, ours), rel=1e-2)
    real, ours, floor = (x.reshape(len(x), -1, 3).mean(1) for x in colours.seen)
    assert final["frechet"] == pytest.approx(gaussians(real, ours), rel=1e-4)
    assert (
        final["frechet_dvae"] == pytest.approx(gaussians(real, floor), rel=1e-4)
        and final["frechet_dvae"] != final["frechet"]
    )
    assert 0 <= final["frechet_low"] < final["frechet_high"] and final["frechet_dimension"] == 3


def test_with_the_real_network(smoke):
    config = figures.regeneration(SMOKE)["CLEVR-Mirror", "IN"][0]
    assert config == RegenerationRunConfig(smoke.IN.config, 2, "efficientnet-lite0")
    table, final = measure(config, smoke.IN.weights)
    assert len(table) == 2 and final["frechet_dimension"] == 320
    assert (
        final["frechet"] > 0
        and final["frechet_dvae"] > 0
        and all(math.isfinite(value) for value in final.values())
    )


# ---------------------------------------------------------------- regenerating


def test_slot_noise(smoke):
    encoder = model_and_images(smoke.IN, 1)[0].slot_attn
    state = torch.get_rng_state()
    noise = slot_noise(encoder, 500, seed=3)
    assert (
        noise.shape == (500, 3, 16)
        and torch.equal(noise, slot_noise(encoder, 500, seed=3))
        and not torch.equal(noise, slot_noise(encoder, 500, seed=4))
    )
    assert noise.mean().item() == pytest.approx(
        0, abs=0.03
    ) and noise.std().item() == pytest.approx(1, abs=0.03)
    assert torch.equal(state, torch.get_rng_state())


def test_regenerate(smoke):
    model, images, _ = model_and_images(smoke.IN, 4)
    state = torch.get_rng_state()
    floor, recon, attn = regenerate(model, images)
    assert floor.shape == recon.shape == images.shape and attn.shape == (4, 16, 3)
    for picture in (floor, recon):
        assert picture.min() >= 0 and picture.max() <= 1 and not picture.requires_grad
    torch.testing.assert_close(attn.sum(-1), torch.ones(4, 16))
    again = regenerate(model, images)
    assert (
        torch.equal(recon, again[1])
        and torch.equal(attn, again[2])
        and torch.equal(state, torch.get_rng_state())
    )


# ---------------------------------------------------------------- as a run


@pytest.fixture
def copied(smoke, elsewhere):
    """Results of one test's own, with the dVAE's and the trained pair's in them."""
    shutil.copytree(smoke.IN.folder.parent, elsewhere / "results/smoke/runs")
    return elsewhere / "results/smoke/runs"


def broken_at(monkeypatch, step_of_nan):
    whole = SLATETask.loss

    def loss(self, image, step):
        value, logs = whole(self, image, step)
        return (value * math.nan if step == step_of_nan else value), logs

    monkeypatch.setattr(SLATETask, "loss", loss)


def test_getting_one_trains_its_slate_first(smoke, elsewhere, colours, monkeypatch):
    config = RegenerationRunConfig(smoke.IN.config, 4, "colours")
    run = runs.get(config, SMOKE)
    folder = elsewhere / "results/smoke/runs"
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {
        runs.run_id(c) for c in (config, config.slate, config.slate.dvae)
    }
    assert run.folder.name.startswith("regeneration-IN-seed0-")
    assert {path.name for path in run.folder.iterdir()} == {
        "config.json",
        "metrics.csv",
        "summary.json",
    }
    table, final = scored(smoke, 4)
    pd.testing.assert_frame_equal(run.metrics, table, check_dtype=False, rtol=1e-4)
    assert (
        run.summary["status"] == "finished"
        and run.summary["seed"] == 0
        and run.summary["final"] == pytest.approx(final, rel=1e-4)
    )
    written = json.loads((run.folder / "config.json").read_text())
    assert (
        written["images"] == 4
        and written["slate"]["model"]["variant"] == "IN"
        and written["identity"]["slate"]["kind"] == "slate"
    )
    monkeypatch.setattr(runs, "_perform", None)  # it is loaded from now on
    assert (
        runs.get(config, parameters.check("smoke", if_missing="error")).summary == run.summary
        and run.samples == {}
    )


def test_one_that_nobody_asked_to_make_is_missing(copied, smoke):
    config = RegenerationRunConfig(smoke.IN.config, 3)  # no notebook asks for this one
    with pytest.raises(runs.MissingRun) as error:
        runs.get(config, parameters.check("smoke", if_missing="error"))
    assert (
        f"python -m paper_lib.runs smoke {runs.run_id(config)}" in str(error.value)
        and not (copied / runs.run_id(config)).exists()
    )


def test_without_the_weights_it_says_how_to_get_them(copied, smoke, colours):
    config = RegenerationRunConfig(smoke.IN.config, 4, "colours")
    slate = copied / smoke.IN.folder.name
    (slate / "weights.safetensors").unlink()
    with pytest.raises(runs.MissingRun, match="not committed") as error:
        runs.get(config, SMOKE)
    assert (
        f"Delete {slate} and train it again" in str(error.value)
        and not (copied / runs.run_id(config) / "summary.json").exists()
    )
    shutil.rmtree(slate)
    assert runs.get(config, SMOKE).summary["status"] == "finished", "the remedy helps"


@pytest.mark.parametrize("step", [0, 5])
def test_of_a_run_that_diverged(copied, smoke, colours, monkeypatch, step):
    """At once: there is nothing to show. After an evaluation: its last whole weights are scored."""
    shutil.rmtree(copied / smoke.IN.folder.name)
    broken_at(monkeypatch, step)
    run = runs.get(RegenerationRunConfig(smoke.IN.config, 4, "colours"), SMOKE)
    assert run.summary["status"] == "diverged" and run.samples == {}
    if step:
        slate = runs.get(smoke.IN.config, SMOKE)
        assert (
            run.metrics["mse"].mean() == pytest.approx(slate.summary["final"]["test_mse"], rel=1e-4)
            and run.summary["final"]["images"] == 4
        )
    else:
        assert run.summary["final"] == {} and not colours.seen
        assert len(run.metrics) == 0 and {"image", "mse", "mse_dvae"} <= set(run.metrics), (
            "a table as any other, of no images"
        )


def test_identity(smoke, monkeypatch):
    config = RegenerationRunConfig(smoke.IN.config)
    changed = [
        replace(config, images=4),
        replace(config, features="inception"),
        replace(config, slate=replace(smoke.IN.config, seed=1)),
        RegenerationRunConfig(smoke.vanilla.config),
    ]
    ids = [runs.run_id(c) for c in (config, *changed)]
    assert (
        len(set(ids)) == 5
        and ids[3].startswith("regeneration-IN-seed1-")
        and ids[4].startswith("regeneration-vanilla-seed0-")
    )
    assert (changed[2].seed, changed[2].model) == (1, smoke.IN.config.model)
    assert RegenerationRunConfig() == RegenerationRunConfig(
        type(smoke.IN.config)(), None, "efficientnet-lite0"
    ), "a default is for ever: ids rest on it"
    monkeypatch.setitem(
        data.DATASETS, "clevr_mirror", replace(data.DATASETS["clevr_mirror"], version="another")
    )
    assert runs.run_id(config) != ids[0], "of other pictures it is another"
