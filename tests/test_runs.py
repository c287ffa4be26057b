"""What a run is (its identity), and getting one: loaded, trained, refused; overrides, settings, and the paper's own numbers."""

import json
import math
import os
import re
import shutil
import subprocess
from dataclasses import dataclass, fields, make_dataclass, replace

import numpy as np
import pandas as pd
import pytest
import torch

from paper_lib import data, runs
from paper_lib.data import Dataset
from paper_lib.fixed_point import Broyden, Implicit, Iteration, Neumann, Unrolled
from paper_lib.models import SLATEConfig, variant
from paper_lib.paper import figures, overrides, parameters, profiles
from paper_lib.paper.complexity import ComplexityRunConfig
from paper_lib.paper.regeneration import RegenerationRunConfig
from paper_lib.training.config import DataConfig, TrainingConfig
from paper_lib.training.dvae import DVAERunConfig
from paper_lib.training.loop import train
from paper_lib.training.slate import SLATERunConfig, SLATETask
from paper_lib.training.slots import slot_noise

SMOKE = parameters.check("smoke", if_missing="train")
PAPER = parameters.check("paper", if_missing="train")


# ---------------------------------------------------------------- identity

# A changed default, profile, or way to hash would leave results behind that nobody finds: these are in the repository, or in people's folders.
GOLDEN = {
    "smoke": [
        "dvae-seed0-a3bc9f7371",
        "slate-vanilla-seed0-1c561cf032",
        "slate-IN-seed0-02d648fac7",
        "complexity-seed0-85bfeb9972",
    ],
    "cpu": ["dvae-seed0-60d74f1906", "slate-vanilla-seed0-980447fcc7", "slate-IN-seed0-160bf54cb3"],
}


@pytest.mark.parametrize("profile", GOLDEN)
def test_run_ids_are_what_they_were(profile):
    setting = parameters.check(profile)
    pair = figures.vanilla_and_implicit(setting)
    configs = [
        profiles.dvae(setting),
        pair["vanilla"][0],
        pair["IN"][0],
        profiles.complexity(setting),
    ]
    assert [runs.run_id(config) for config in configs][: len(GOLDEN[profile])] == GOLDEN[profile]


GOLDEN_SWEEPS = {
    "smoke": {
        "vanilla without clipping": "slate-vanilla-seed0-6ce61c42d4",
        "vanilla with one iteration": "slate-vanilla-seed0-26c5de1420",
        "IN on ShapeStacks": "slate-IN-seed0-f3bd1fe8c0",
        "IN on photos, regenerated": "regeneration-IN-seed0-e1f6ad961b",
        "every pair's cost": "complexity-seed0-6c6393a9ac",
    },
    "cpu": {
        "vanilla with one iteration": "slate-vanilla-seed0-4c2c701b1d",
        "IN on ShapeStacks": "slate-IN-seed0-dbe82d6497",
        "BB": "slate-BB-seed0-0403c16ccc",
    },
}


@pytest.mark.parametrize("profile", GOLDEN_SWEEPS)
def test_so_are_those_of_the_sweeps(profile):
    setting = parameters.check(profile)
    found = {
        "vanilla without clipping": figures.tricks(setting)["vanilla", "clipping"][0],
        "vanilla with one iteration": figures.iterations(setting)["vanilla", 1][0],
        "IN on ShapeStacks": figures.generalisation(setting)["ShapeStacks", "IN"][0],
        "IN on photos, regenerated": figures.regeneration(setting)["photos", "IN"][0],
        "every pair's cost": figures.solver_cost(setting),
        "BB": figures.solvers(setting)["without the tricks"]["BB"][0],
    }
    assert {name: runs.run_id(found[name]) for name in GOLDEN_SWEEPS[profile]} == GOLDEN_SWEEPS[
        profile
    ]


def every_run():
    names = [(notebook, profile) for notebook in figures.NOTEBOOKS for profile in profiles.PROFILES]
    return {
        config: None
        for notebook, profile in names
        for config in figures.runs_of(notebook, parameters.check(profile))
    }


def test_different_runs_have_different_ids():
    configs = list(every_run())
    assert len({runs.run_id(config) for config in configs}) == len(configs) > 20
    for config in configs:
        assert re.fullmatch(r"[a-z_]+(-\w+)?-seed\d+-[0-9a-f]{10}", runs.run_id(config))
        json.dumps(runs.identity(config))


def with_extra_field(config, name, default):
    """The same config, of a class that has got one more field with a default; and so for the configs within."""
    cls = type(config)
    new = make_dataclass(cls.__name__, [(name, type(default), default)], bases=(cls,), frozen=True)
    return new(**{f.name: getattr(config, f.name) for f in fields(cls)})


@pytest.mark.parametrize("inner", [None, "model", "data", "training", "dvae"])
def test_a_new_field_with_a_default_changes_no_id(inner):
    config = profiles.slate(SMOKE, "IN", 1)
    if inner is None:
        extended = with_extra_field(config, "novelty", 3)
        changed = replace(extended, novelty=4)
    else:
        extended = replace(
            config, **{inner: with_extra_field(getattr(config, inner), "novelty", 3)}
        )
        changed = replace(config, **{inner: replace(getattr(extended, inner), novelty=4)})
    assert runs.run_id(extended) == runs.run_id(config) != runs.run_id(changed)


@pytest.mark.parametrize("name", ["dvae", "IN", "complexity"])
def test_every_field_is_part_of_the_identity(name):
    config = {
        "dvae": profiles.dvae(SMOKE),
        "IN": profiles.slate(SMOKE, "IN", 0),
        "complexity": profiles.complexity(SMOKE),
    }[name]

    def changes(config, path=""):
        for f in fields(config):
            value = getattr(config, f.name)
            if hasattr(value, "__dataclass_fields__"):
                yield from changes(value, f"{path}{f.name}.")
            elif isinstance(value, bool):
                yield path + f.name, not value
            elif f.name == "log_every":
                yield path + f.name, 1 if value > 1 else 2  # which divides eval_every
            elif isinstance(value, int | float):
                yield path + f.name, value * 2 + 6
            elif isinstance(value, tuple):
                yield path + f.name, value[1:]
            elif value is None:
                yield path + f.name, 9
            else:
                yield (
                    path + f.name,
                    {"variant": "vanilla", "name": None, "door": "files", "precision": "bfloat16"}[
                        f.name
                    ],
                )

    todo = {path: value for path, value in changes(config) if value is not None}
    ids = {
        path: runs.run_id(overrides.override(config, {path: value})) for path, value in todo.items()
    }
    assert len(ids) > 5 and len({*ids.values(), runs.run_id(config)}) == len(ids) + 1


def test_the_version_of_the_data_is_part_of_the_identity(monkeypatch):
    configs = [profiles.dvae(SMOKE), profiles.slate(SMOKE, "IN", 0)]
    before, measured = (
        [runs.run_id(config) for config in configs],
        runs.run_id(profiles.complexity(SMOKE)),
    )
    monkeypatch.setitem(
        data.DATASETS, "clevr_mirror", replace(data.DATASETS["clevr_mirror"], version="another")
    )
    assert not set(before) & {runs.run_id(config) for config in configs}
    assert measured == runs.run_id(profiles.complexity(SMOKE)), "which looks at no pictures"


def test_an_id_is_the_same_in_another_process(process, tmp_path):
    child = process(write_ids, tmp_path / "ids")
    child.join(60)
    assert (tmp_path / "ids").read_text().split() == [runs.run_id(config) for config in every_run()]


def write_ids(path):
    path.write_text("\n".join(runs.run_id(config) for config in every_run()))


# ---------------------------------------------------------------- overrides and settings


def test_overrides():
    changed = parameters.check(
        "smoke", overrides={"training.steps": 7, "lr": 0.5, "model.num_slots": 5, "dvae.lr": 0.25}
    )
    config = profiles.slate(changed, "vanilla", 3, model__num_iterations=2)
    assert (config.training.steps, config.lr, config.model.num_slots, config.dvae.lr) == (
        7,
        0.5,
        5,
        0.25,
    )
    assert (config.model.num_iterations, config.model.variant, config.seed) == (2, "vanilla", 3)
    plain = profiles.slate(SMOKE, "vanilla", 3)
    assert (
        replace(config, training=plain.training, lr=plain.lr, model=plain.model, dvae=plain.dvae)
        == plain
    )


@pytest.mark.parametrize(
    "path, named",
    [
        ("training.step", ["TrainingConfig", "'step'", "steps", "batch_size"]),
        ("modell.num_slots", ["SLATERunConfig", "'modell'", "model", "training"]),
        ("model.num_slots.more", ["int", "'more'", "none"]),
        ("", ["SLATERunConfig", "model"]),
    ],
)
def test_an_override_that_does_not_exist_is_named(path, named):
    with pytest.raises(ValueError) as error:
        profiles.slate(parameters.check("smoke", overrides={path: 1}), "IN", 0)
    assert repr(path) in str(error.value) and all(word in str(error.value) for word in named)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (dict(profile="huge"), ["'huge'", *profiles.PROFILES]),
        (dict(seeds=-1), ["seeds", "-1"]),
        (dict(seeds=[0, -2]), ["seeds", "-2"]),
        (dict(seeds=[1, 1]), ["seeds", "different"]),
        (dict(seeds=True), ["seeds", "True"]),
        (dict(seeds=[True]), ["seeds", "True"]),
        (dict(seeds="0"), ["seeds", "'0'"]),
        (dict(seeds=["0"]), ["seeds", "'0'"]),
        (dict(seeds=1.0), ["seeds", "1.0"]),
        (dict(seeds=[]), ["seeds", "[]"]),
        (dict(device="gpu"), ["'gpu'", "'cuda'"]),
        (dict(device=None), ["device", "'cpu'"]),
        (dict(device="meta"), ["'meta'", "not available"]),
        (dict(if_missing="ask"), ["'ask'", "'error'", "'train'"]),
        (dict(if_missing=True), ["True", "'train'"]),
    ],
)
def test_a_parameter_that_makes_no_sense_is_named(arguments, words):
    with pytest.raises(ValueError) as error:
        parameters.check(**arguments)
    assert all(word in str(error.value) for word in words)


def test_a_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="'cuda:0' is not available here"):
        parameters.check(device="cuda:0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert parameters.check(device="cuda").device == "cuda"


def test_seeds_and_defaults():
    assert (
        parameters.check("cpu").seeds == (0, 1, 2)
        and parameters.check("cpu", 4).seeds == (4,)
        and parameters.check("cpu", [2, 0]).seeds == (2, 0)
    )
    assert parameters.check("cpu").if_missing == "error", (
        "what is committed is not trained by accident"
    )
    assert [
        config.seed
        for config in figures.vanilla_and_implicit(parameters.check("cpu", [2, 0]))["IN"]
    ] == [2, 0]
    with pytest.raises(ValueError, match="unknown notebook 'fig99'.*fig01_overview"):
        figures.runs_of("fig99", SMOKE)


@pytest.mark.parametrize(
    "wrong",
    [
        {"model.image_size": 32},
        {"model.vocab_size": 32},
        {"data.num_scenes": 40},
        {"data.size": 32},
    ],
)
def test_a_model_that_does_not_fit_its_dvae_or_data_is_refused(smoke, elsewhere, wrong):
    config = overrides.override(smoke.IN.config, wrong)
    pictures = Dataset(images=np.zeros((4, 16, 16, 3), np.uint8), indices=np.arange(4), source={})
    with pytest.raises(ValueError, match="must"):
        SLATETask(config, pictures, pictures, pictures, smoke.dvae.weights)


# ---------------------------------------------------------------- getting a run


def test_a_missing_run_names_itself_and_the_remedy(elsewhere, monkeypatch):
    monkeypatch.setattr(runs, "_perform", None)
    for profile in ("smoke", "cpu"):
        setting = parameters.check(profile, if_missing="error")
        for config in (
            profiles.dvae(setting),
            profiles.slate(setting, "IN", 0),
            profiles.complexity(setting),
        ):
            with pytest.raises(runs.MissingRun) as error:
                runs.get(config, setting)
            text = str(error.value)
            assert (
                runs.run_id(config) in text
                and f"python -m paper_lib.runs {profile} {runs.run_id(config)}" in text
                and 'if_missing = "train"' in text
            )
            assert "not finished" not in text and isinstance(error.value, FileNotFoundError)
    assert not (elsewhere / "results").exists(), "asking leaves nothing behind"
    (runs.results_root() / "cpu/runs" / runs.run_id(config)).mkdir(parents=True)
    with pytest.raises(runs.MissingRun, match="started and not finished"):
        runs.get(config, setting)


def test_a_run_is_loaded_once_it_is_there(smoke, monkeypatch):
    monkeypatch.setattr(runs, "_perform", None)
    for setting in (SMOKE, parameters.check("smoke", if_missing="error")):
        again = runs.get(smoke.IN.config, setting)
        assert again.folder == smoke.IN.folder and again.summary == smoke.IN.summary
    config = json.loads((smoke.IN.folder / "config.json").read_text())
    assert config["id"] == smoke.IN.folder.name == runs.run_id(smoke.IN.config)
    assert (
        config["model"]["variant"] == "IN"
        and config["dvae"]["vocab_size"] == 16
        and config["identity"]["kind"] == "slate"
    )
    names = {"config.json", "metrics.csv", "summary.json"}
    trained = names | {"samples.npz", "weights.safetensors"}
    for run, expected in (
        (smoke.complexity, names),
        (smoke.dvae, trained),
        (smoke.IN, trained | {"cell.safetensors"}),
    ):
        assert {path.name for path in run.folder.iterdir()} == expected


def test_summary(smoke):
    for run in (smoke.dvae, smoke.vanilla, smoke.IN, smoke.complexity):
        s = run.summary
        assert (
            s["status"] == "finished"
            and s["seed"] == 0
            and s["threads"] == 1
            and s["device"].strip()
        )
        assert s["versions"]["torch"] == torch.__version__.split("+")[0] and {
            "python",
            "numpy",
            "mitsuba",
        } <= set(s["versions"])
        assert re.fullmatch(r"[0-9a-f]{40}\+?|unknown", s["commit"])
    for run in (smoke.dvae, smoke.vanilla, smoke.IN):
        s = run.summary
        assert 0 < s["seconds"] < 600 and 1e8 < s["peak_memory_bytes"] < 1e11
        assert s["step"] == 6 == s["final"]["step"] == run.metrics["step"].iloc[-1]
        assert (
            s["data"]["door"] == "generator"
            and s["data"]["version"] == data.version("clevr_mirror")
            and s["data"]["settings"]["num_scenes"] == 60
        )
        assert (
            run.samples["image"].shape == (4, 16, 16, 3) and run.samples["image"].dtype == np.uint8
        )
    assert {"val_mse", "mean_image_mse", "codes_used", "perplexity"} <= set(
        smoke.dvae.summary["final"]
    )
    assert {
        "val_cross_entropy",
        "spectral_norm",
        "residual_7",
        "test_mse",
        "test_mse_dvae",
        "test_images",
    } <= set(smoke.IN.summary["final"])
    assert smoke.IN.summary["final"]["test_images"] == 4
    assert all(
        math.isfinite(value)
        for run in (smoke.dvae, smoke.vanilla, smoke.IN)
        for value in run.summary["final"].values()
    )


def test_no_git_is_no_reason_to_fail(monkeypatch):
    def missing(*_, **__):
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", missing)
    assert runs._commit() == "unknown"


def test_getting_a_run_leaves_the_callers_random_state_and_threads_alone(smoke, elsewhere):
    torch.set_num_threads(2)
    try:
        torch.manual_seed(1234)
        before = torch.get_rng_state()
        run = runs.get(smoke.dvae.config, SMOKE)
        assert torch.get_num_threads() == 2 and torch.equal(before, torch.get_rng_state())
    finally:
        torch.set_num_threads(1)
    assert run.metrics.equals(smoke.dvae.metrics), "and is not touched by them"
    for name, value in run.weights.items():
        assert torch.equal(value, smoke.dvae.weights[name])


def test_deleting_a_folder_runs_that_run_again_alone(smoke, elsewhere):
    shutil.copytree(smoke.IN.folder.parents[2], elsewhere / "results")
    folder = elsewhere / "results/smoke/runs"
    files = {path: path.stat().st_mtime_ns for path in folder.glob("*/*")}
    gone = folder / smoke.vanilla.folder.name
    shutil.rmtree(gone)
    for config in (
        smoke.dvae.config,
        smoke.vanilla.config,
        smoke.IN.config,
        smoke.complexity.config,
    ):
        runs.get(config, SMOKE)
    changed = {path.parent for path, time in files.items() if path.stat().st_mtime_ns != time}
    assert changed == {gone}
    for name in ("metrics.csv", "weights.safetensors", "config.json"):
        assert (gone / name).read_bytes() == (smoke.vanilla.folder / name).read_bytes()


def get_and_log(config, log, barrier):
    perform = runs._perform

    def logged(config, *others):
        with open(log, "a") as file:
            file.write(f"{os.getpid()} {config.kind}\n")
        return perform(config, *others)

    runs._perform = logged
    while not barrier.exists():
        pass
    runs.get(config, SMOKE)


def test_two_processes_that_want_a_run_train_it_once(smoke, process, elsewhere):
    log, barrier = elsewhere / "log", elsewhere / "go"
    children = [
        process(get_and_log, config, log, barrier)
        for config in (smoke.IN.config, smoke.IN.config, smoke.dvae.config)
    ]
    barrier.touch()
    for child in children:
        child.join(120)
        assert child.exitcode == 0
    assert sorted(line.split()[1] for line in log.read_text().splitlines()) == ["dvae", "slate"]
    run = runs.get(smoke.IN.config, parameters.check("smoke", if_missing="error"))
    assert run.metrics.equals(smoke.IN.metrics)


def test_the_command_line(smoke, capsys, monkeypatch):
    monkeypatch.setattr(runs, "_perform", None)
    runs.main(["smoke"])
    listed = dict(line.split() for line in capsys.readouterr().out.splitlines())
    everything = {
        runs.run_id(c) for notebook in figures.NOTEBOOKS for c in figures.runs_of(notebook, SMOKE)
    }
    assert set(listed) == everything and set(listed.values()) <= {"finished", "missing"}
    assert {
        listed[run.folder.name] for run in (smoke.dvae, smoke.vanilla, smoke.IN, smoke.complexity)
    } == {"finished"}
    runs.main(["cpu"])
    assert {line.split()[1] for line in capsys.readouterr().out.splitlines()} == {"missing"}
    runs.main(["smoke", smoke.IN.folder.name])
    with pytest.raises(SystemExit):
        runs.main(["smoke", "slate-XX-seed0-0000000000"])
    error = capsys.readouterr().err
    assert "slate-XX-seed0-0000000000" in error and smoke.IN.folder.name in error


# ---------------------------------------------------------------- what a run is good for


@pytest.mark.parametrize("which", ["vanilla", "IN"])
def test_the_kept_cell_is_the_models(smoke, which):
    run = getattr(smoke, which)
    task = SLATETask(
        run.config,
        *[run.config.data.load(name) for name in ("train", "validation", "test")],
        dvae_weights=smoke.dvae.weights,
    )
    task.model.load_state_dict(run.weights)
    task.model.eval()
    n = run.config.model.num_iterations
    attention, inputs, slots = run.cell(
        Iteration(n), Unrolled() if which == "vanilla" else Neumann()
    )
    assert (
        inputs.shape == (4, 16, 16)
        and slots.shape == (4, 3, 16)
        and inputs.dtype == slots.dtype == torch.float32
    )
    with torch.no_grad():
        noise = slot_noise(task.model.slot_attn, 4, seed=0)
        out = task.model.infer_slots(task.model.tokenize(task.test[:4]), noise)
        ours = attention(inputs, slots)
        torch.testing.assert_close(
            slots, task.model.slot_attn.initial_slots(noise), rtol=1e-3, atol=1e-3
        )
        torch.testing.assert_close(ours.value, out.slots, rtol=2e-2, atol=2e-2)
        torch.testing.assert_close(ours.aux, out.attn, rtol=2e-2, atol=2e-2)
        assert (out.slots - slots).abs().max() > 0.2, "or the initial slots would do as well"
    doubled, inputs, _ = run.cell(Broyden(3), Implicit(Broyden(3)), torch.float64)
    assert (
        inputs.dtype == torch.float64 == doubled.project_q.weight.dtype
        and doubled.solver == Broyden(3)
    )


def test_weights_that_are_not_committed(smoke, elsewhere):
    shutil.copytree(smoke.IN.folder, elsewhere / smoke.IN.folder.name)
    (elsewhere / smoke.IN.folder.name / "weights.safetensors").unlink()
    run = replace(smoke.IN, folder=elsewhere / smoke.IN.folder.name)
    with pytest.raises(runs.MissingRun, match="not committed"):
        _ = run.weights
    assert len(run.metrics) == 6


# ---------------------------------------------------------------- the paper's own setting


def paper_runs():
    return list(
        dict.fromkeys(
            config for notebook in figures.NOTEBOOKS for config in figures.runs_of(notebook, PAPER)
        )
    )


def test_the_papers_numbers():
    slates = [config for config in paper_runs() if config.kind == "slate"]
    assert {config.model.variant for config in slates} >= {"vanilla", "IN"} and {
        config.seed for config in slates
    } == {0, 1, 2, 3}
    for config in slates:
        c, m, t = config, config.model, config.training
        assert c.dvae is None, "trained jointly"
        assert (c.lr, c.lr_dvae, c.tau_start, c.tau_final, c.tau_steps) == (
            1e-4,
            3e-4,
            1.0,
            0.1,
            30_000,
        )
        assert (t.steps, t.batch_size) == (250_000, 50)
        removed = [
            now
            for now, usual in zip((t.warmup_steps, t.clip, t.lr_decay_epochs), (30_000, 1.0, 4))
            if now != usual
        ]
        assert removed in ([], [0], [None]), "one trick at a time"
        assert (m.dropout, m.num_slots, m.num_slot_heads) == (0.1, 12, 1) and m.num_iterations in (
            1,
            3,
            5,
            7,
            11,
            15,
        )
        assert (m.vocab_size, m.num_dec_blocks, m.num_heads) == (4096, 8, 8)
        assert m.d_model == m.slot_size == m.mlp_hidden_size == 192
        assert m.image_size == c.data.size and (c.data.name, c.data.size, c.data.door) in {
            (name, size, door)
            for name, door in (
                ("clevr_mirror", "generator"),
                ("shapestacks", "generator"),
                ("coco", "files"),
            )
            for size in (64, 96)
        }
        assert c.data.mirror and c.data.max_objects == (6 if c.data.name == "shapestacks" else 10)
    for measured in [config for config in paper_runs() if config.kind == "complexity"]:
        assert (measured.batch, measured.tokens, measured.slots, measured.size) == (
            50,
            256,
            12,
            192,
        )
    for scored in [config for config in paper_runs() if config.kind == "regeneration"]:
        assert (
            scored.slate in slates
            and scored.slate.data.size == 96
            and scored.images is None
            and scored.features == "inception"
        )
    schedule = dict(clip=None, lr_decay_epochs=None)
    for predictor in [config for config in paper_runs() if config.kind == "set_prediction"]:
        m, t = predictor.model, predictor.training
        assert (
            m.image_size,
            m.channels,
            m.strides,
            m.slot_size,
            m.mlp_hidden_size,
            m.num_slots,
        ) == (128, 64, (1, 2, 2, 1), 64, 128, 10)
        assert (t.steps, t.batch_size, t.warmup_steps, t.decay_steps, predictor.lr) == (
            150_000,
            512,
            1_000,
            50_000,
            4e-4,
        )
        assert (
            {name: getattr(t, name) for name in schedule} == schedule
            and predictor.data.max_objects == 10
            and predictor.data.name == "clevr"
        )
    for autoencoder in [config for config in paper_runs() if config.kind == "autoencoder"]:
        m, t = autoencoder.model, autoencoder.training
        assert (
            m.image_size,
            m.channels,
            m.decoder_channels,
            m.slot_size,
            m.mlp_hidden_size,
            m.num_slots,
        ) == (128, 64, 64, 64, 128, 7)
        assert (m.num_iterations, m.broadcast_size, m.decoder_strides, m.init) == (
            3,
            8,
            (2, 2, 2, 2, 1),
            "authors",
        )
        assert (autoencoder.data.max_objects, autoencoder.data.crop) == (6, True)
        assert (t.steps, t.batch_size, t.warmup_steps, t.decay_steps, autoencoder.lr) == (
            500_000,
            64,
            10_000,
            100_000,
            4e-4,
        )
        assert {name: getattr(t, name) for name in schedule} == schedule
    kinds = {"slate", "complexity", "regeneration", "set_prediction", "autoencoder"}
    assert {config.kind for config in paper_runs()} == kinds, (
        "say here what the numbers of a new kind are"
    )


def test_defaults_that_run_ids_rest_on():
    """What is equal to a default is not in a run's hash: a default is for ever."""
    assert TrainingConfig() == TrainingConfig(250_000, 50, 30_000, 1.0, 4, 25, 100)
    assert DataConfig() == DataConfig("clevr_mirror", 64, 10_000, 0, 3, 10, 16, True)
    assert SLATEConfig() == SLATEConfig(64, 1024, 192, 192, 192, 12, 7, 1, 4, 4, 0.1, "IN")
    assert SLATERunConfig() == SLATERunConfig(
        SLATEConfig(),
        DataConfig(),
        TrainingConfig(),
        None,
        0,
        1e-4,
        3e-4,
        1.0,
        0.1,
        30_000,
        512,
        32,
        21,
        256,
        12,
    )
    assert DVAERunConfig() == DVAERunConfig(
        DataConfig(), TrainingConfig(), 0, 1024, 3e-4, 1.0, 0.1, 30_000, 512, 12, 16, 0.5
    )
    assert ComplexityRunConfig() == ComplexityRunConfig(
        ("vanilla", "IN"), (1, 2, 4, 8, 16, 32, 64), 50, 256, 7, 192, 15, 0, None
    )
    assert RegenerationRunConfig() == RegenerationRunConfig(
        SLATERunConfig(), None, "efficientnet-lite0"
    )


@dataclass
class Pictures:
    images: np.ndarray


def different_models():
    """The paper's SLATE runs, one of those that differ in nothing but seed and pictures (these are noise below)."""
    slates = [config for config in paper_runs() if config.kind == "slate"]
    return list(
        {
            replace(config, seed=0, data=replace(DataConfig(), size=config.data.size)): config
            for config in slates
        }
    )


def test_the_papers_runs_have_four_seeds():
    seeds = {}
    for config in paper_runs():
        if config.kind == "slate":
            seeds.setdefault(replace(config, seed=0), []).append(config.seed)
    assert len(seeds) > 30 and all(sorted(found) == [0, 1, 2, 3] for found in seeds.values())


@pytest.mark.parametrize("config", different_models(), ids=runs.run_id)
def test_the_papers_setting_takes_two_steps(config, tmp_path):
    size = config.model.image_size
    pictures = Pictures(
        np.random.default_rng(0).integers(0, 256, (4, size, size, 3), dtype=np.uint8)
    )
    small = replace(
        config,
        eval_images=2,
        jacobian_images=1,
        residual_steps=2,
        regenerate_images=1,
        sample_images=1,
    )
    torch.manual_seed(0)
    task = SLATETask(small, pictures, pictures, pictures)
    tokens = (size // 4) ** 2
    assert task.model.num_tokens == tokens
    before = {name: p.detach().clone() for name, p in task.model.named_parameters()}
    outcome = train(
        task,
        replace(config.training, steps=2, batch_size=2, log_every=1, eval_every=2),
        config.seed,
        tmp_path,
    )
    rows = pd.read_csv(tmp_path / "metrics.csv")
    assert outcome["status"] == "finished" and len(rows) == 2
    assert (
        rows["cross_entropy"].between(tokens, tokens * 2 * math.log(4096)).all()
        and rows["mse"].gt(0).all()
        and rows["spectral_norm"].iloc[-1] > 0
    )
    warmup = [1 / 30_000, 2 / 30_000] if config.training.warmup_steps else [1, 1]
    assert (
        rows["lr"].tolist() == pytest.approx([1e-4 * share for share in warmup], rel=1e-4)
        and rows["tau"].iloc[0] == 1
    )
    moved = {name for name, p in task.model.named_parameters() if not torch.equal(p, before[name])}
    cut = not isinstance(
        variant(config.model.variant, 1)[1], Unrolled
    )  # nothing flows to the initial slots
    untouched = {"slot_attn.slot_mu", "slot_attn.slot_log_sigma"} if cut else set()
    assert set(before) - moved - {"slot_attn.slot_attention.norm_slots.bias"} <= untouched | {
        name for name in before if "weight" in name and before[name].dim() == 1
    }


def test_what_somebody_else_s_parameters_make_is_kept_apart():
    """Other seeds and overrides must not overwrite the figures of the committed runs, and their captions must not say what is not so."""
    plain = parameters.check("cpu")
    assert (
        plain.folder == "cpu"
        and plain.caption.startswith("Generated CLEVR-Mirror scenes")
        and "Overridden" not in plain.caption
    )
    assert parameters.check("quick", seeds=[0]).folder == "quick"
    for custom in (
        parameters.check("cpu", seeds=[0]),
        parameters.check("cpu", seeds=[0, 1, 2]),
        parameters.check("cpu", overrides={"training.steps": 5}),
        parameters.check("cpu", custom=True),
    ):
        assert custom.folder == "cpu/custom"
    files = parameters.check("cpu", overrides={"data.door": "files", "training.steps": 5})
    assert (
        files.caption.startswith("CLEVR-Mirror scenes, the authors' files.")
        and "training.steps = 5" in files.caption
    )


def test_a_frozen_dvae_follows_the_data_of_its_run():
    setting = parameters.check("smoke", overrides={"data.num_scenes": 61, "model.vocab_size": 20})
    config = profiles.slate(setting, "IN", 0)
    assert (
        config.data.num_scenes == config.dvae.data.num_scenes == 61
        and config.model.vocab_size == config.dvae.vocab_size == 20
    )
