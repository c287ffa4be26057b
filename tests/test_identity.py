"""What a run is: which configs are the same run, and that results that exist are still found."""

import json
import re
from dataclasses import dataclass, fields, is_dataclass, make_dataclass, replace

import pytest

from paper_lib import data, runs
from paper_lib.fixed_point import (
    GMRES,
    Anderson,
    Broyden,
    Checkpointed,
    Implicit,
    Iteration,
    Neumann,
    Phantom,
    StraightThrough,
    Truncated,
    Unrolled,
)
from paper_lib.models import SLATEConfig
from paper_lib.paper import figures, locatello, overrides, parameters, profiles
from paper_lib.paper.complexity import ComplexityRunConfig
from paper_lib.paper.regeneration import RegenerationRunConfig
from paper_lib.training.config import ARITHMETIC, DataConfig, TrainingConfig
from paper_lib.training.dvae import DVAERunConfig
from paper_lib.training.slate import SLATERunConfig

SMOKE = parameters.check("smoke")
CPU = parameters.check("cpu")


# ---- ids are for ever ----

# A changed default, profile, or way to hash would leave results behind that nobody finds: these are
# in the repository, or in people's folders.
GOLDEN = {
    "smoke": {
        "dvae": "dvae-seed0-0226959536",
        "vanilla": "slate-vanilla-seed0-754ac4e185",
        "IN": "slate-IN-seed0-ad28b308bf",
        "complexity": "complexity-seed0-85bfeb9972",
        "vanilla without clipping": "slate-vanilla-seed0-7381185bfc",
        "vanilla with one iteration": "slate-vanilla-seed0-d612a1c1ca",
        "IN on ShapeStacks": "slate-IN-seed0-2da6191986",
        "IN on photos, regenerated": "regeneration-IN-seed0-7105d341c6",
        "every pair's cost": "complexity-seed0-6c6393a9ac",
        "autoencoder": "autoencoder-IN-seed0-7864d7b35e",
        "set prediction": "set_prediction-IN-seed0-9d5270a46b",
    },
    "cpu": {
        "dvae": "dvae-seed0-60d74f1906",
        "vanilla": "slate-vanilla-seed0-980447fcc7",
        "IN": "slate-IN-seed0-160bf54cb3",
        "vanilla with one iteration": "slate-vanilla-seed0-3580e0659d",
        "IN on ShapeStacks": "slate-IN-seed0-52fd61c14a",
        "BB": "slate-BB-seed0-08eff88df5",
        "autoencoder": "autoencoder-IN-seed0-af73bfb046",
        "set prediction": "set_prediction-IN-seed0-11abfaa5aa",
    },
}


@pytest.mark.parametrize("profile", GOLDEN)
def test_run_ids_are_what_they_were(profile):
    given = parameters.check(profile)
    pair = figures.pair(given, None)
    found = {
        "dvae": profiles.slate(given, "IN", 0).dvae,
        "vanilla": pair["vanilla"][0],
        "IN": pair["IN"][0],
        "complexity": profiles.complexity(given),
        "vanilla without clipping": figures.tricks(given)["vanilla", "clipping"][0],
        "vanilla with one iteration": figures.iterations(given)["vanilla", 1][0],
        "IN on ShapeStacks": figures.generalisation(given)["ShapeStacks", "IN"][0],
        "IN on photos, regenerated": RegenerationRunConfig(
            slate=profiles.slate(given, "IN", 0, data__name="photos"),
            images=profiles.REGENERATED_IMAGES[profile],
        ),
        "every pair's cost": figures.solver_cost(given),
        "BB": next(iter(figures.solvers(given).values()))["BB"][0],
        "autoencoder": figures.segmentation(given)["IN"][0],
        "set prediction": figures.property_prediction(given)["IN", 3][0],
    }
    for name, run_id in GOLDEN[profile].items():
        assert runs.run_id(found[name]) == run_id, name


def committed():
    """The configs that are committed with results, by folder."""
    folders = sorted((runs.ROOT / "results/cpu/runs").glob("*/config.json"))
    return {path.parent.name: json.loads(path.read_text()) for path in folders}


def test_every_committed_run_is_one_that_the_profile_asks_for():
    asked = {runs.run_id(config): config for config in figures.all_runs(CPU)}
    assert len(committed()) > 50
    for folder, written in committed().items():
        assert written["id"] == folder
        assert folder in asked, "its profile has changed: nobody finds these results any more"
        assert written["identity"] == as_json(runs.identity(asked[folder]))


def as_json(content):
    return json.loads(json.dumps(content))


def every_run():
    """Every run of every profile, each once."""
    found = {}
    for profile in profiles.PROFILES:
        found |= dict.fromkeys(figures.all_runs(parameters.check(profile)))
    return list(found)


def test_different_runs_have_different_ids():
    configs = every_run()
    ids = [runs.run_id(config) for config in configs]
    assert len(set(ids)) == len(configs) > 20
    for run_id in ids:
        assert re.fullmatch(r"[a-z_]+(-\w+)*-seed\d+-[0-9a-f]{10}", run_id)


def test_an_id_is_the_same_in_another_process(process, tmp_path):
    child = process(write_ids, tmp_path / "ids")
    child.join(60)
    assert (tmp_path / "ids").read_text().split() == [runs.run_id(config) for config in every_run()]


def write_ids(path):
    path.write_text("\n".join(runs.run_id(config) for config in every_run()))


# ---- what is part of the identity ----


def with_extra_field(config, name, default):
    """The same config, of a class that has got one more field with a default."""
    cls = type(config)
    extra = [(name, type(default), default)]
    extended = make_dataclass(cls.__name__, extra, bases=(cls,), frozen=True)
    return extended(**{f.name: getattr(config, f.name) for f in fields(cls)})


@pytest.mark.parametrize("inner", [None, "model", "data", "training", "dvae"])
def test_a_new_field_with_a_default_changes_no_id(inner):
    config = profiles.slate(SMOKE, "IN", 1)
    if inner is None:
        extended = with_extra_field(config, "novelty", 3)
        changed = replace(extended, novelty=4)
    else:
        longer = with_extra_field(getattr(config, inner), "novelty", 3)
        extended = replace(config, **{inner: longer})
        changed = replace(config, **{inner: replace(longer, novelty=4)})
    assert runs.run_id(extended) == runs.run_id(config)
    assert runs.run_id(changed) != runs.run_id(config)


OTHER_VALUES = {
    "variant": "vanilla",
    "solver": Broyden(9),
    "adjoint": Neumann(2),
    "door": "files",
    "view": "close",
    "precision": "bfloat16",
    "log_every": 1,  # divides eval_every
    "arithmetic": 1,
    "name": "shapestacks",
    "init": "authors",
    "initial": "learned",
    "attention": "mesh",
    "momentum": 0.5,
    "dropout": 0.2,
    "training_step": SLATEConfig(),
    "crowded": DataConfig(),
}


def other_value(name, value):
    """Another value of a field, that makes sense."""
    if name in OTHER_VALUES and value != OTHER_VALUES[name]:
        return OTHER_VALUES[name]
    if name == "log_every":
        return 2
    if name == "adjoints":
        return (Truncated(2), Neumann(3))
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value * 2 + 6
    if isinstance(value, tuple):
        return value[1:] if value else (9,)
    assert value is None, name
    return 9


def other_values(config, path=""):
    """A change of every field of a config, and of the configs in it, by dotted name."""
    changes = {}
    for f in fields(config):
        value = getattr(config, f.name)
        if is_dataclass(value):
            changes |= other_values(value, f"{path}{f.name}.")
        else:
            changes[path + f.name] = other_value(f.name, value)
    return changes


@pytest.mark.parametrize(
    "name", ["dvae", "IN", "complexity", "autoencoder", "set prediction", "iDSPN"]
)
def test_every_field_is_part_of_the_identity(name):
    config = {
        "dvae": profiles.slate(SMOKE, "IN", 0).dvae,
        "IN": profiles.slate(SMOKE, "IN", 0),
        "complexity": profiles.complexity(SMOKE),
        "autoencoder": locatello.autoencoder(SMOKE, "IN", 0),
        "set prediction": locatello.set_prediction(SMOKE, "IN", 0),
        "iDSPN": locatello.idspn(SMOKE, "IN", 0),
    }[name]
    ids = {"as it is": runs.run_id(config)}
    for path, value in other_values(config).items():
        ids[path] = runs.run_id(overrides.override(config, {path: value}))
    assert len(ids) > 6
    assert len(set(ids.values())) == len(ids)


def test_a_learning_rate_is_named_beside_the_training():
    """There it was when the first runs were made; the default of its kind of run is left out."""
    config = profiles.slate(SMOKE, "IN", 0)
    assert runs.identity(config)["lr"] == 1e-3
    assert "lr" not in runs.identity(config)["training"]
    assert runs.identity(config)["dvae"]["lr"] == 3e-3
    usual = overrides.override(config, {"training.lr": 1e-4})
    assert "lr" not in runs.identity(usual)
    usual = overrides.override(config, {"dvae.training.lr": 3e-4})
    assert "lr" not in runs.identity(usual)["dvae"]
    assert runs.described(config)["training"]["lr"] == 1e-3


def test_the_version_of_the_data_is_part_of_the_identity(monkeypatch):
    configs = [profiles.slate(SMOKE, "IN", 0).dvae, profiles.slate(SMOKE, "IN", 0)]
    before = {runs.run_id(config) for config in configs}
    measured = runs.run_id(profiles.complexity(SMOKE))
    another = replace(data.DATASETS["clevr_mirror"], version="another")
    monkeypatch.setitem(data.DATASETS, "clevr_mirror", another)
    assert not before & {runs.run_id(config) for config in configs}
    assert measured == runs.run_id(profiles.complexity(SMOKE)), "which looks at no pictures"


# ---- solvers and adjoints of a config's own ----

OWN_RULES = [
    ({"model.solver": Broyden(30, tol=1e-6)}, "Broyden-Neumann"),
    ({"model.solver": Broyden(31, tol=1e-6)}, "Broyden-Neumann"),
    ({"model.solver": Anderson(30)}, "Anderson-Neumann"),
    ({"model.solver": Iteration(9)}, "Iteration-Neumann"),
    ({"model.adjoint": Neumann(3)}, "Iteration-Neumann"),
    ({"model.adjoint": Neumann(3, damping=0.5)}, "Iteration-Neumann"),
    ({"model.adjoint": Unrolled()}, "Iteration-Unrolled"),
    ({"model.adjoint": Implicit(Anderson(5))}, "Iteration-Implicit_Anderson"),
    ({"model.adjoint": Implicit(Broyden(5))}, "Iteration-Implicit_Broyden"),
    ({"model.adjoint": Implicit(Broyden(6))}, "Iteration-Implicit_Broyden"),
    ({"model.adjoint": Implicit(GMRES(6))}, "Iteration-Implicit_GMRES"),
    ({"model.adjoint": Truncated(1)}, "Iteration-Truncated"),
    ({"model.adjoint": Truncated(2)}, "Iteration-Truncated"),
    ({"model.adjoint": Phantom(5, damping=0.5)}, "Iteration-Phantom"),
    ({"model.adjoint": StraightThrough()}, "Iteration-StraightThrough"),
    ({"model.adjoint": Checkpointed()}, "Iteration-Checkpointed"),
]


def test_a_solver_and_an_adjoint_are_part_of_the_identity():
    plain = profiles.slate(SMOKE, "IN", 0)
    ids = {runs.run_id(plain)}
    for changes, name in OWN_RULES:
        config = overrides.override(plain, changes)
        ids.add(runs.run_id(config))
        assert runs.run_id(config).startswith(f"slate-{name}-seed0-")
        (path, rule), *_ = changes.items()
        (field,) = set(path.split(".")) - {"model"}
        written = runs.identity(config)["model"][field]
        assert written["type"] == type(rule).__name__
        assert as_json(written) == written == runs.described(config)["model"][field]
    assert len(ids) == len(OWN_RULES) + 1


def test_the_identity_says_all_settings_of_a_solver():
    adjoint = Implicit(Broyden(5, tol=1e-3))
    config = overrides.override(profiles.slate(SMOKE, "BB", 0), {"model.adjoint": adjoint})
    settings = {f.name: getattr(adjoint.solver, f.name) for f in fields(Broyden)}
    assert {"max_steps", "tol"} <= set(settings)
    expected = {"type": "Implicit", "solver": {"type": "Broyden", **settings}}
    assert runs.identity(config)["model"]["adjoint"] == expected


@pytest.mark.parametrize(
    "objects, words",
    [
        (
            {"model.solver": Broyden(30, tol=1e-6)},
            {"model.solver": {"type": "Broyden", "max_steps": 30, "tol": 1e-6}},
        ),
        (
            {"model.adjoint": Implicit(GMRES(5))},
            {"model.adjoint": {"type": "Implicit", "solver": {"type": "GMRES", "max_steps": 5}}},
        ),
        (
            {"model.adjoint": Truncated(2)},
            {"model.adjoint": {"type": "Truncated", "k": 2}},
        ),
        (
            {"model.adjoint": Neumann(3, damping=0.5)},
            {"model.adjoint": {"type": "Neumann", "terms": 3, "damping": 0.5}},
        ),
        (
            {"model.solver": Broyden(4), "model.adjoint": Implicit(Anderson(5))},
            {
                "model.solver": {"type": "Broyden", "max_steps": 4},
                "model.adjoint": {
                    "type": "Implicit",
                    "solver": {"type": "Anderson", "max_steps": 5},
                },
            },
        ),
    ],
)
def test_solvers_and_adjoints_can_be_said_in_words(objects, words):
    """In the parameters of a notebook, which are YAML on a command line."""
    said = profiles.slate(parameters.check("smoke", overrides=words), "IN", 0)
    given = profiles.slate(parameters.check("smoke", overrides=objects), "IN", 0)
    assert said == given
    assert runs.run_id(said) == runs.run_id(given)


def test_a_pair_that_makes_sense_only_together_can_be_given():
    """Vanilla's adjoint refuses Broyden, and comes with another."""
    config = profiles.slate(SMOKE, "vanilla", 0)
    changes = {"model.solver": Broyden(4), "model.adjoint": Neumann()}
    for order in (changes, dict(reversed(changes.items()))):
        changed = overrides.override(config, order)
        assert (changed.model.solver, changed.model.adjoint) == (Broyden(4), Neumann())
    with pytest.raises(ValueError, match="Unrolled"):
        overrides.override(config, {"model.solver": Broyden(4)})


@pytest.mark.parametrize(
    "rule, words",
    [
        ({"type": "Newton"}, ["model.solver", "Broyden", "Newton"]),
        ({"max_steps": 3}, ["model.solver", "needs a type"]),
        ({"type": "Broyden", "steps": 3}, ["model.solver", "steps"]),
        ({"type": "Broyden"}, ["model.solver", "max_steps"]),
    ],
)
def test_a_solver_that_does_not_exist_is_named(rule, words):
    with pytest.raises(ValueError) as error:
        overrides.override(profiles.slate(SMOKE, "IN", 0), {"model.solver": rule})
    for word in words:
        assert word in str(error.value)


class Untold:
    """A solver that does not say what it is made of."""

    def __init__(self, max_steps):
        self.max_steps = max_steps

    def solve(self, f, z0):
        return Iteration(self.max_steps).solve(f, z0)


@dataclass(frozen=True)
class Told(Untold):
    max_steps: int


def test_a_solver_that_is_no_dataclass_makes_no_run():
    """Two of them could not be told apart, and one would be shown for the other."""
    for rule in ({"model.solver": Untold(3)}, {"model.adjoint": Implicit(Untold(3))}):
        config = overrides.override(profiles.slate(SMOKE, "IN", 0), rule)
        for naming in (runs.identity, runs.run_id, runs.described):
            with pytest.raises(TypeError, match="Untold is no dataclass"):
                naming(config)
    config = overrides.override(profiles.slate(SMOKE, "IN", 0), {"model.solver": Told(3)})
    assert runs.identity(config)["model"]["solver"] == {"type": "Told", "max_steps": 3}


# ---- arithmetic ----


def arithmetics(config):
    """Which arithmetic a run and the runs that it builds on are computed with."""
    trained = [c for c in [config, *config.needs()] if hasattr(c, "training")]
    return [c.training.arithmetic for c in trained]


def test_arithmetic_is_part_of_the_identity():
    config = profiles.slate(CPU, "IN", 0)
    assert config.training.arithmetic == 1
    assert "arithmetic" not in runs.identity(config)["training"]
    now = overrides.override(config, {"training.arithmetic": ARITHMETIC})
    assert runs.identity(now)["training"]["arithmetic"] == ARITHMETIC
    assert runs.run_id(now) != runs.run_id(config)


@pytest.mark.parametrize("profile", ["smoke", "quick", "paper"])
def test_what_is_not_committed_is_made_with_this_codes_arithmetic(profile):
    for config in figures.all_runs(parameters.check(profile)):
        assert set(arithmetics(config)) <= {ARITHMETIC}


def test_committed_results_keep_theirs_and_overrides_are_computed_anew():
    for config in figures.every_config(figures.pair(CPU, scale=None)):
        assert set(arithmetics(config)) == {1}
    longer = parameters.check("cpu", overrides={"training.steps": 5})
    for config in figures.every_config(figures.pair(longer, scale=None)):
        assert config.training.arithmetic == ARITHMETIC


@pytest.mark.parametrize(
    "override, expected",
    [
        ({"training.steps": 5}, [ARITHMETIC, 1]),  # on the committed dVAE
        ({"model.num_slots": 5}, [ARITHMETIC, 1]),
        ({"data.seed": 5}, [ARITHMETIC, ARITHMETIC]),
        ({"model.vocab_size": 64}, [ARITHMETIC, ARITHMETIC]),
        ({"dvae.training.steps": 5}, [ARITHMETIC, ARITHMETIC]),
        ({"training.arithmetic": ARITHMETIC}, [ARITHMETIC, 1]),
    ],
)
def test_a_dvae_is_trained_anew_where_the_overrides_reach_it(override, expected):
    given = parameters.check("cpu", overrides=override)
    assert arithmetics(profiles.slate(given, "IN", 0)) == expected


# ---- defaults ----


def values(config):
    return {f.name: getattr(config, f.name) for f in fields(config)}


def test_defaults_that_run_ids_rest_on():
    """What is equal to a default is not in a run's hash: a default is for ever."""
    assert values(TrainingConfig()) == {
        "lr": 1e-4,
        "steps": 250_000,
        "batch_size": 50,
        "warmup_steps": 30_000,
        "clip": 1.0,
        "lr_decay_epochs": 4,
        "decay_steps": None,
        "log_every": 25,
        "eval_every": 100,
        "precision": "float32",
        "compile": False,
        "deterministic": False,
        "arithmetic": 1,
    }
    assert values(DataConfig()) == {
        "name": "clevr_mirror",
        "size": 64,
        "num_scenes": 10_000,
        "seed": 0,
        "min_objects": 3,
        "max_objects": 10,
        "samples_per_pixel": 16,
        "mirror": True,
        "crop": False,
        "door": "generator",
        "view": "wide",
    }
    assert values(SLATERunConfig().model) == {
        "image_size": 64,
        "vocab_size": 1024,
        "d_model": 192,
        "slot_size": 192,
        "mlp_hidden_size": 192,
        "num_slots": 12,
        "num_iterations": 7,
        "num_slot_heads": 1,
        "num_dec_blocks": 4,
        "num_heads": 4,
        "dropout": 0.1,
        "variant": "IN",
        "solver": None,
        "adjoint": None,
        "initial": "drawn",
        "attention": "softmax",
    }
    assert values(SLATERunConfig()) == {
        "model": SLATERunConfig().model,
        "data": DataConfig(),
        "training": TrainingConfig(),
        "dvae": None,
        "seed": 0,
        "lr_dvae": 3e-4,
        "tau_start": 1.0,
        "tau_final": 0.1,
        "tau_steps": 30_000,
        "eval_images": 512,
        "jacobian_images": 32,
        "residual_steps": 21,
        "regenerate_images": 256,
        "sample_images": 12,
        "announcers": False,
    }
    assert values(DVAERunConfig()) == {
        "data": DataConfig(),
        "training": TrainingConfig(lr=3e-4),
        "seed": 0,
        "vocab_size": 1024,
        "tau_start": 1.0,
        "tau_final": 0.1,
        "tau_steps": 30_000,
        "eval_images": 512,
        "sample_images": 12,
        "min_codes": 16,
        "max_mse_fraction": 0.5,
        "max_object_mse_fraction": None,
        "max_colour_error": None,
    }
    assert values(ComplexityRunConfig()) == {
        "variants": ("vanilla", "IN"),
        "iterations": (1, 2, 4, 8, 16, 32, 64),
        "batch": 50,
        "tokens": 256,
        "slots": 7,
        "size": 192,
        "repeats": 15,
        "seed": 0,
        "training_step": None,
        "adjoints": (),
    }
    assert values(RegenerationRunConfig()) == {
        "slate": SLATERunConfig(),
        "images": None,
        "features": "efficientnet-lite0",
    }


def test_adjoints_in_a_tuple_are_told_apart():
    """Also by what they are: all have numbers alike."""
    one = ComplexityRunConfig(adjoints=(Truncated(2), Neumann(2)))
    others = [
        replace(one, adjoints=(Truncated(2), Neumann(3))),
        replace(one, adjoints=(Neumann(2), Truncated(2))),
        replace(one, adjoints=(Truncated(2),)),
        replace(one, adjoints=()),
    ]
    assert len({runs.run_id(config) for config in (one, *others)}) == 5
    written = as_json(runs.described(one))
    assert [part["type"] for part in written["adjoints"]] == ["Truncated", "Neumann"]
