"""The parameters of a notebook: what is refused, what overrides reach, what is kept apart."""

import ast
from dataclasses import replace

import nbformat
import pytest
import torch

from paper_lib.paper import figures, parameters, profiles
from paper_lib.paper.captions import caption
from paper_lib.runs import ROOT

SMOKE = parameters.check("smoke")


# ---- overrides ----


def test_overrides():
    changes = {
        "training.steps": 7,
        "training.lr": 0.5,
        "model.num_slots": 5,
        "dvae.training.lr": 0.25,
    }
    changed = parameters.check("smoke", overrides=changes)
    config = profiles.slate(changed, "vanilla", 3, model__num_iterations=2)
    assert config.training.steps == 7
    assert config.training.lr == 0.5
    assert config.model.num_slots == 5
    assert config.dvae.training.lr == 0.25
    assert config.model.num_iterations == 2
    assert config.model.variant == "vanilla"
    assert config.seed == 3
    plain = profiles.slate(SMOKE, "vanilla", 3)
    assert plain == replace(config, training=plain.training, model=plain.model, dvae=plain.dvae)


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
    for word in [repr(path), *named]:
        assert word in str(error.value)


def test_a_frozen_dvae_follows_the_data_of_its_run():
    changes = {"data.num_scenes": 61, "model.vocab_size": 20}
    config = profiles.slate(parameters.check("smoke", overrides=changes), "IN", 0)
    assert config.data.num_scenes == config.dvae.data.num_scenes == 61
    assert config.model.vocab_size == config.dvae.vocab_size == 20


# ---- the other parameters ----


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"profile": "huge"}, ["'huge'", *profiles.PROFILES]),
        ({"seeds": -1}, ["seeds", "-1"]),
        ({"seeds": [0, -2]}, ["seeds", "-2"]),
        ({"seeds": [1, 1]}, ["seeds", "different"]),
        ({"seeds": True}, ["seeds", "True"]),
        ({"seeds": [True]}, ["seeds", "True"]),
        ({"seeds": "0"}, ["seeds", "'0'"]),
        ({"seeds": ["0"]}, ["seeds", "'0'"]),
        ({"seeds": 1.0}, ["seeds", "1.0"]),
        ({"seeds": []}, ["seeds", "[]"]),
        ({"device": "gpu"}, ["'gpu'", "'cuda'"]),
        ({"device": None}, ["device", "'cpu'"]),
        ({"device": "meta"}, ["'meta'", "not available"]),
        ({"if_missing": "ask"}, ["'ask'", "'error'", "'train'"]),
        ({"if_missing": True}, ["True", "'train'"]),
        ({"overrides": {"seed": 1}}, ["seed", "one and the same"]),
        ({"overrides": {"model.variant": "IN"}}, ["model.variant", "one and the same"]),
    ],
)
def test_a_parameter_that_makes_no_sense_is_named(arguments, words):
    with pytest.raises(ValueError) as error:
        parameters.check(**arguments)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    "own, said",
    [
        ({"scenes": 0}, "scenes must be a whole number from 1 to 12; got 0"),
        ({"scenes": 13}, "scenes must be a whole number from 1 to 12; got 13"),
        ({"scenes": True}, "scenes must be a whole number from 1 to 12; got True"),
        ({"scenes": "2"}, "scenes must be a whole number from 1 to 12; got '2'"),
        ({"scenes": 2.0}, "scenes must be a whole number from 1 to 12; got 2.0"),
        ({"scenes": None}, "scenes must be a whole number from 1 to 12; got None"),
        ({"scene": 0}, "scene must be a whole number from 1 to 24; got 0"),
        ({"scene": 25}, "scene must be a whole number from 1 to 24; got 25"),
        ({"count": 1}, "count must be a whole number from 2 to 24; got 1"),
        ({"starts": 1}, "starts must be a whole number from 2 to 1000; got 1"),
        (
            {"items": 0},
            "items must be a whole number from 1 to 70000, or None for the profile's own; got 0",
        ),
        ({"door": "window"}, "door must be 'files' or 'generator'; got 'window'"),
        ({"door": None}, "door must be 'files' or 'generator'; got None"),
        ({"door": ["files"]}, "door must be 'files' or 'generator'; got ['files']"),
    ],
)
def test_a_parameter_of_a_notebook_s_own_that_makes_no_sense_is_named(own, said):
    with pytest.raises(ValueError) as error:
        parameters.check("smoke", **own)
    assert str(error.value) == said


def test_parameters_of_a_notebook_s_own_that_make_sense():
    right = {"scenes": 12, "scene": 24, "count": 2, "starts": 1000, "items": None, "door": "files"}
    assert set(right) == set(parameters.OWN)
    assert parameters.check("smoke", **right) == SMOKE
    assert parameters.check("smoke", items=70_000) == SMOKE


@pytest.mark.parametrize("name", figures.NOTEBOOKS)
def test_every_parameter_of_a_notebook_is_checked(name):
    """All that its parameters cell assigns is handed to `check`, under its own name."""
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    asked, handed = set(), set()
    for cell in notebook.cells:
        tagged = "parameters" in cell.metadata.get("tags", [])
        for node in ast.walk(ast.parse(cell.source)) if cell.cell_type == "code" else ():
            if tagged and isinstance(node, ast.Assign):
                asked |= {target.id for target in node.targets}
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "parameters.check":
                handed |= {argument.id for argument in node.args}
                handed |= {word.arg for word in node.keywords if word.arg == word.value.id}
    features = {"features"}  # `figures.regeneration` checks it
    assert asked - features == handed - {"custom"}
    assert asked >= {"profile", "seeds", "device", "if_missing", "overrides"}


def test_a_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="'cuda:0' is not available here"):
        parameters.check(device="cuda:0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert parameters.check(device="cuda").device == "cuda"


def test_seeds_and_defaults():
    assert parameters.check("cpu").seeds == (0, 1, 2)
    assert parameters.check("cpu", 4).seeds == (4,)
    assert parameters.check("cpu", [2, 0]).seeds == (2, 0)
    configs = figures.vanilla_and_implicit(parameters.check("cpu", [2, 0]))["IN"]
    assert [config.seed for config in configs] == [2, 0]
    with pytest.raises(ValueError, match="unknown notebook 'fig99'.*fig01_overview"):
        figures.runs_of("fig99", SMOKE)


def test_what_is_committed_is_not_trained_by_accident():
    assert parameters.check("cpu").if_missing == "error"
    assert parameters.check("smoke").if_missing == "train"
    assert parameters.check("cpu", if_missing="train").if_missing == "train"


# ---- figures of one's own ----


def test_what_somebody_else_s_parameters_make_is_kept_apart():
    """Other seeds and overrides must not overwrite the figures of the committed runs."""
    assert parameters.check("cpu").folder == "cpu"
    assert parameters.check("quick", seeds=[0]).folder == "quick"
    for custom in (
        parameters.check("cpu", seeds=[0]),
        parameters.check("cpu", seeds=[0, 1, 2]),
        parameters.check("cpu", overrides={"training.steps": 5}),
        parameters.check("cpu", custom=True),
    ):
        assert custom.folder == "cpu/custom"


def test_the_caption_of_somebody_else_s_parameters_says_what_is_so():
    plain = caption(parameters.check("cpu"))
    assert plain.startswith("Generated CLEVR-Mirror scenes")
    assert "Overridden" not in plain
    changes = {"data.door": "files", "training.steps": 5}
    files = caption(parameters.check("cpu", overrides=changes))
    assert files.startswith("CLEVR-Mirror scenes, the authors' files.")
    assert "training.steps = 5" in files
