"""The paper's own setting: its numbers, and that every one of its models takes steps in training.

Locatello et al.'s models are those of their papers.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest
import torch

from paper_lib import runs
from paper_lib.fixed_point import Unrolled
from paper_lib.models import variant
from paper_lib.paper import figures, parameters
from paper_lib.training.config import DataConfig
from paper_lib.training.loop import train
from paper_lib.training.slate import SLATETask

PAPER = parameters.check("paper", if_missing="train")


def papers(kind):
    """The runs of one kind that the paper's own figures show, at the paper's scale."""
    shown = [name for name in figures.NOTEBOOKS if not name.startswith("ext")]
    found = [config for name in shown for config in figures.runs_of(name, PAPER)]
    return [config for config in figures.with_needs(found) if config.kind == kind]


def picked(config, names):
    return {name: getattr(config, name) for name in names}


def assert_has(config, expected):
    assert picked(config, expected) == expected


def test_every_kind_of_run_is_looked_at_here():
    kinds = {config.kind for config in figures.all_runs(PAPER)}
    assert kinds == {"slate", "complexity", "regeneration", "set_prediction", "autoencoder"}


def test_the_numbers_of_the_papers_slates():
    slates = papers("slate")
    assert {config.model.variant for config in slates} >= {"vanilla", "IN"}
    assert {config.seed for config in slates} == {0, 1, 2, 3}
    for config in slates:
        assert config.dvae is None, "trained jointly"
        assert_has(config, {"lr_dvae": 3e-4, "tau_start": 1.0, "tau_final": 0.1})
        assert config.tau_steps == 30_000
        assert_has(config.training, {"lr": 1e-4, "steps": 250_000, "batch_size": 50})
        assert_has(config.model, {"dropout": 0.1, "num_slots": 12, "num_slot_heads": 1})
        assert_has(config.model, {"vocab_size": 4096, "num_dec_blocks": 8, "num_heads": 8})
        assert_has(config.model, {"d_model": 192, "slot_size": 192, "mlp_hidden_size": 192})
        assert config.model.num_iterations in (1, 3, 5, 7, 11, 15)


def test_the_papers_slates_lack_one_trick_at_most():
    tricks = {"warmup_steps": 30_000, "clip": 1.0, "lr_decay_epochs": 4}
    off = {"warmup_steps": 0, "clip": None, "lr_decay_epochs": None}
    for config in papers("slate"):
        used = picked(config.training, tricks)
        removed = [name for name in tricks if used[name] != tricks[name]]
        assert len(removed) <= 1
        for name in removed:
            assert used[name] == off[name]
        assert config.training.decay_steps is None


def test_the_pictures_of_the_papers_slates():
    doors = {"clevr_mirror": "generator", "shapestacks": "generator", "coco": "files"}
    seen = set()
    for config in papers("slate"):
        pictures = config.data
        seen.add((pictures.name, pictures.size))
        assert config.model.image_size == pictures.size
        assert pictures.door == doors[pictures.name]
        assert pictures.mirror
        assert pictures.max_objects == (6 if pictures.name == "shapestacks" else 10)
    assert seen == {(name, size) for name in doors for size in (64, 96)}


def test_the_papers_runs_have_four_seeds():
    seeds = {}
    for config in papers("slate"):
        seeds.setdefault(replace(config, seed=0), []).append(config.seed)
    assert len(seeds) > 30
    for found in seeds.values():
        assert sorted(found) == [0, 1, 2, 3]


def test_what_is_measured_of_the_papers_runs():
    for measured in papers("complexity"):
        assert_has(measured, {"batch": 50, "tokens": 256, "slots": 12, "size": 192})
    slates = papers("slate")
    for scored in papers("regeneration"):
        assert scored.slate in slates
        assert scored.slate.data.size in (64, 96)
        assert scored.images is None
        assert scored.features == "inception"


def test_the_numbers_of_locatellos_set_predictors():
    sizes = {
        "image_size": 128,
        "channels": 64,
        "strides": (1, 2, 2, 1),
        "slot_size": 64,
        "mlp_hidden_size": 128,
        "num_slots": 10,
    }
    training = {
        "lr": 4e-4,
        "steps": 150_000,
        "batch_size": 512,
        "warmup_steps": 1_000,
        "decay_steps": 50_000,
        "clip": None,
        "lr_decay_epochs": None,
    }
    for config in papers("set_prediction"):
        assert_has(config.model, sizes)
        assert_has(config.training, training)
        assert_has(config.data, {"name": "clevr", "max_objects": 10})


def test_the_numbers_of_locatellos_autoencoders():
    sizes = {
        "image_size": 128,
        "channels": 64,
        "decoder_channels": 64,
        "slot_size": 64,
        "mlp_hidden_size": 128,
        "num_slots": 7,
        "num_iterations": 3,
        "broadcast_size": 8,
        "decoder_strides": (2, 2, 2, 2, 1),
        "init": "authors",
    }
    training = {
        "lr": 4e-4,
        "steps": 500_000,
        "batch_size": 64,
        "warmup_steps": 10_000,
        "decay_steps": 100_000,
        "clip": None,
        "lr_decay_epochs": None,
    }
    for config in papers("autoencoder"):
        assert_has(config.model, sizes)
        assert_has(config.training, training)
        assert_has(config.data, {"name": "clevr", "max_objects": 6, "crop": True})


# ---- they train ----


@dataclass
class Pictures:
    images: np.ndarray


def different_models():
    """The paper's SLATE runs, one of those that differ in nothing but seed and pictures."""
    different = {}
    for config in papers("slate"):
        pictures = replace(DataConfig(), size=config.data.size)  # these are noise below
        different[replace(config, seed=0, data=pictures)] = config
    return list(different.values())


def small(config):
    """A run that evaluates as little as may be."""
    few = {"eval_images": 2, "jacobian_images": 1, "residual_steps": 2}
    return replace(config, regenerate_images=1, sample_images=1, **few)


@pytest.mark.parametrize("config", different_models(), ids=runs.run_id)
def test_the_papers_setting_takes_two_steps(config, tmp_path):
    size, tokens = config.model.image_size, (config.model.image_size // 4) ** 2
    noise = np.random.default_rng(0).integers(0, 256, (4, size, size, 3), dtype=np.uint8)
    pictures = Pictures(noise)
    torch.manual_seed(0)
    task = SLATETask(small(config), pictures, pictures, pictures)
    assert task.model.num_tokens == tokens
    before = {name: p.detach().clone() for name, p in task.model.named_parameters()}
    training = replace(config.training, steps=2, batch_size=2, log_every=1, eval_every=2)
    outcome = train(task, training, config.seed, tmp_path)

    rows = pd.read_csv(tmp_path / "metrics.csv")
    assert outcome["status"] == "finished"
    assert len(rows) == 2
    assert rows["cross_entropy"].between(tokens, tokens * 2 * math.log(4096)).all()
    assert rows["mse"].gt(0).all()
    assert rows["spectral_norm"].iloc[-1] > 0
    warmup = [1 / 30_000, 2 / 30_000] if config.training.warmup_steps else [1, 1]
    assert rows["lr"].tolist() == pytest.approx([1e-4 * share for share in warmup], rel=1e-4)
    assert rows["tau"].iloc[0] == 1

    after = dict(task.model.named_parameters())
    unmoved = {name for name in before if torch.equal(after[name], before[name])}
    may_stay = {"slot_attn.slot_attention.norm_slots.bias"}  # it cancels in the softmax over slots
    # at these learning rates a step can be less than a norm's weight of one can show
    may_stay |= {name for name in before if "weight" in name and before[name].dim() == 1}
    _, adjoint = variant(config.model.variant, 1)
    if not isinstance(adjoint, Unrolled):  # nothing flows to the initial slots
        may_stay |= {"slot_attn.slot_mu", "slot_attn.slot_log_sigma"}
    assert unmoved <= may_stay


# ---- between the committed results and the paper's setting: the gpu profile ----

SHRUNK = {
    "data.size": 16,
    "data.num_scenes": 60,
    "data.samples_per_pixel": 4,
    "model.image_size": 16,
    "model.d_model": 16,
    "model.slot_size": 16,
    "model.mlp_hidden_size": 16,
    "model.vocab_size": 16,
    "training.steps": 4,
    "training.batch_size": 4,
    "training.log_every": 1,
    "training.eval_every": 2,
    "dvae.training.steps": 2,
    "dvae.training.eval_every": 2,
    "dvae.training.log_every": 1,
    "dvae.min_codes": 1,
    "dvae.max_mse_fraction": 1e3,
    "dvae.max_object_mse_fraction": 1e3,
    "dvae.max_colour_error": 1e3,
    "eval_images": 4,
    "jacobian_images": 2,
    "regenerate_images": 4,
    "sample_images": 4,
}


def test_the_numbers_of_the_gpu_profile():
    given = parameters.check("gpu")
    flagship = figures.flagship(parameters.check("cpu"))["IN"][0].slate
    pair = figures.vanilla_and_implicit(given)
    assert given.seeds == (0, 1, 2)
    for config in [*pair["vanilla"], *pair["IN"]]:
        assert (config.data, config.dvae) == (flagship.data, flagship.dvae)
        assert_has(config.model, {"image_size": 64, "d_model": 192, "slot_size": 192})
        assert_has(config.training, {"steps": 30_000, "precision": "bfloat16", "clip": 1.0})
        # the schedule is the flagship's, stretched
        for name in ("warmup_steps", "decay_steps"):
            share = getattr(config.training, name) / config.training.steps
            assert share == getattr(flagship.training, name) / flagship.training.steps
    assert given.if_missing == "train", "nothing of it is committed"


@pytest.mark.parametrize("method", ["vanilla", "IN"])
def test_the_gpu_setting_trains_in_slices(method, elsewhere, monkeypatch):
    """On the CPU, small: cut off after its first evaluation, it goes on as if it had not been."""
    given = parameters.check("gpu", overrides=SHRUNK)
    config = figures.vanilla_and_implicit(given)[method][0]
    loss = SLATETask.loss

    def cut_off(task, batch, step):
        if step == 3:
            raise KeyboardInterrupt
        return loss(task, batch, step)

    with monkeypatch.context() as patch:
        patch.setattr(SLATETask, "loss", cut_off)
        with pytest.raises(KeyboardInterrupt):
            runs.get(config, given)
    resumed = runs.get(config, given)
    assert resumed.summary["status"] == "finished"
    assert resumed.metrics["step"].tolist() == [1, 2, 3, 4]
    assert resumed.metrics["lr"].tolist() == pytest.approx(
        [3e-4 * step / 1_500 * 0.5 ** (step / 15_000) for step in (1, 2, 3, 4)], rel=1e-3
    )
    monkeypatch.setenv("PAPER_RESULTS", str(elsewhere / "uninterrupted"))
    whole = runs.get(config, given)
    assert whole.folder != resumed.folder
    pd.testing.assert_frame_equal(whole.metrics, resumed.metrics)
    assert whole.summary["final"] == resumed.summary["final"]
