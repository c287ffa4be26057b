"""Trained models by name, ready to use: `load("clevr_mirror-implicit")`.

A name is one of `offered`'s, or a run's id. Weights are read from safetensors files, which cannot
execute code.

    python -m paper_lib.explore.trained      score every model again, beside what its run recorded
"""

from __future__ import annotations

import sys

from paper_lib.models import SLATE, SetPredictor, SlotAttentionAutoEncoder
from paper_lib.paper import figures, parameters
from paper_lib.paper.parameters import Parameters
from paper_lib.paper.profiles import data_sets, slate
from paper_lib.runs import RunResult, folder_of, get, run_id
from paper_lib.runs.perform import Job
from paper_lib.training.run import TrainingRun
from paper_lib.training.slate import SLATERunConfig

METHODS = {"implicit": "IN", "vanilla": "vanilla"}
KINDS = {"slate": SLATE, "autoencoder": SlotAttentionAutoEncoder, "set_prediction": SetPredictor}
PREDICTORS_ITERATIONS = 3  # Locatello et al.'s; Fig. 7 has both methods at it
CLOSE = 1e-3  # relative distance at which a score is met; another processor rounds otherwise


def slates(given: Parameters) -> dict[str, SLATERunConfig]:
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


def offered(given: Parameters) -> dict[str, TrainingRun]:
    """Return every model that can be loaded by a plain name: `slates`, and those of Locatello et
    al.'s models of which there are weights, such as clevr-autoencoder-implicit and
    clevr-set_prediction-vanilla."""
    masks, properties = figures.segmentation(given), figures.property_prediction(given)
    firsts = [(method, masks[variant][0]) for method, variant in METHODS.items()]
    firsts += [
        (method, properties[variant, PREDICTORS_ITERATIONS][0])
        for method, variant in METHODS.items()
    ]
    models = dict(slates(given))
    for method, config in firsts:
        if _has_weights(config, given):
            models[f"{config.data.name}-{config.kind}-{method}"] = config
    return models


def load(name: str, profile: str = "cpu") -> SLATE | SlotAttentionAutoEncoder | SetPredictor:
    """Return a trained model in eval mode.

    name   one of `offered`, such as "clevr_mirror-implicit", or a run's id, such as
           "slate-IN-seed0-551e7d7a56"

    Raises ValueError for a name that is neither, and MissingRun with the remedy for a run without
    weights.
    """
    given = parameters.check(profile)
    return model_of(get(config_of(name, given), given))


def config_of(name: str, given: Parameters) -> TrainingRun:
    """Return the config behind a name; see `load`."""
    models = offered(given)
    if name in models:
        return models[name]
    runs = {run_id(run): run for run in figures.all_runs(given) if run.kind in KINDS}
    if name in runs:
        return runs[name]
    raise ValueError(
        f"unknown model {name!r}: choose from {', '.join(models)}, or the id of a run with slots "
        f"(`python -m paper_lib.runs {given.profile}` lists them)"
    )


def model_of(run: RunResult) -> SLATE | SlotAttentionAutoEncoder | SetPredictor:
    """Return the model of a finished run, with its trained weights, in eval mode."""
    model = KINDS[run.config.kind](run.config.model)
    model.load_state_dict(run.weights)
    return model.eval()


def scored_again(run: RunResult, given: Parameters) -> tuple[str, float, float]:
    """Load a run's weights and score them on its validation images, as its last evaluation did.

    Images that are missing are made first. Returns the metric that training watched, what the run
    recorded of it, and what it is now.
    """
    config = run.config
    some = {"train": 64, "validation": config.eval_images, "test": 1}
    splits = {split: config.data.load(split, count) for split, count in some.items()}
    task = config.task(splits, Job(run.folder, "cpu", given))
    task.model.load_state_dict(run.weights)
    task.model.eval()
    return task.monitor, run.summary["final"][task.monitor], task.evaluate()[task.monitor]


def main() -> int:
    """Print what each offered model of the committed results scores, beside what was recorded."""
    given = parameters.check("cpu")
    missed = 0
    for name, config in offered(given).items():
        metric, recorded, found = scored_again(get(config, given), given)
        off = abs(found / recorded - 1)
        missed += not off <= CLOSE
        print(f"{name:32} {metric}: {found:.5g}, recorded {recorded:.5g} ({off:.2%} off)")
    return int(missed > 0)


def _has_weights(config: TrainingRun, given: Parameters) -> bool:
    return (folder_of(run_id(config), given.profile) / "weights.safetensors").exists()


if __name__ == "__main__":
    sys.exit(main())
