"""Trained models by name, ready to use: `load("clevr_mirror-implicit")`.

A name is one of `offered`'s, or a run's id. Weights are read from safetensors files, which cannot
execute code.
"""

from __future__ import annotations

from paper_lib.models import SLATE
from paper_lib.paper import figures, parameters
from paper_lib.paper.parameters import Parameters
from paper_lib.paper.profiles import data_sets, slate
from paper_lib.runs import RunResult, folder_of, get, run_id
from paper_lib.training.slate import SLATERunConfig

METHODS = {"implicit": "IN", "vanilla": "vanilla"}


def offered(given: Parameters) -> dict[str, SLATERunConfig]:
    """Return the SLATEs that can be loaded by a plain name, such as clevr_mirror-implicit.

    They are the first seeds of the profile's largest scale: of CLEVR-Mirror, and of other data sets
    as far as there are weights. Where results are committed only some weights are.
    """
    models = {}
    for name, changes in data_sets(given, "flagship").items():
        for method, variant in METHODS.items():
            config = slate(given, variant, 0, scale="flagship", **changes)
            trains = name == "CLEVR-Mirror" and given.if_missing == "train"
            if trains or _has_weights(config, given):
                models[f"{config.data.name}-{method}"] = config
    return models


def load(name: str, profile: str = "cpu") -> SLATE:
    """Return a trained SLATE in eval mode.

    name   one of `offered`, such as "clevr_mirror-implicit", or a run's id, such as
           "slate-IN-seed0-551e7d7a56"

    Raises ValueError for a name that is neither, and MissingRun with the remedy for a run without
    weights.
    """
    given = parameters.check(profile)
    return model_of(get(config_of(name, given), given))


def config_of(name: str, given: Parameters) -> SLATERunConfig:
    """Return the config behind a name; see `load`."""
    models = offered(given)
    if name in models:
        return models[name]
    runs = {run_id(run): run for run in figures.all_runs(given) if run.kind == "slate"}
    if name in runs:
        return runs[name]
    raise ValueError(
        f"unknown model {name!r}: choose from {', '.join(models)}, or the id of a SLATE run "
        f"(`python -m paper_lib.runs {given.profile}` lists them)"
    )


def model_of(run: RunResult) -> SLATE:
    """Return the SLATE of a finished run, with its trained weights, in eval mode."""
    model = SLATE(run.config.model)
    model.load_state_dict(run.weights)
    return model.eval()


def _has_weights(config: SLATERunConfig, given: Parameters) -> bool:
    return (folder_of(run_id(config), given.profile) / "weights.safetensors").exists()
