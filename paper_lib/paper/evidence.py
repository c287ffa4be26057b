"""The runs of docs/protocol.md, in the order of their worth, performed a few at a time.

    python -m paper_lib.paper.evidence --list         what there is, and what is missing
    python -m paper_lib.paper.evidence --jobs 2       perform what is missing, for hours

It may be killed at any moment: a run goes on from its checkpoint.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from paper_lib.fixed_point import Broyden, Implicit
from paper_lib.paper import extensions, parameters
from paper_lib.paper.locatello import PREDICTORS, autoencoder, set_prediction
from paper_lib.paper.parameters import Parameters
from paper_lib.paper.profiles import data_sets, regenerated, slate
from paper_lib.runs import ROOT, RunConfig, folder_of, run_id, with_needs
from paper_lib.runs.provenance import commit
from paper_lib.system import following
from paper_lib.system.arguments import count
from paper_lib.training.slate import SLATERunConfig

THREE, FIVE = range(3), range(5)


def evidence(given: Parameters) -> dict[str, list[RunConfig]]:
    """Return the runs of the protocol by what they are for, the most valuable first."""
    stacks = data_sets(given, "flagship")["ShapeStacks"]
    no_decay, no_clip = {"training__decay_steps": None}, {"training__clip": None}
    no_warmup = {"training__warmup_steps": 0}
    groups = {
        "flagship": _scored(given, _pair(given, "flagship", THREE)),
        "pair": _pair(given, "sweep", FIVE),
        "flagship, ShapeStacks": _scored(given, _pair(given, "flagship", THREE, **stacks)),
        "short": _pair(given, "short", THREE),
        "without clipping": _pair(given, "short", THREE, **no_clip),
        "without warm-up": _pair(given, "short", THREE, **no_warmup),
        "without decay": _pair(given, "short", THREE, **no_decay),
    }
    for n in (1, 15, 3, 11, 5):
        groups[f"{n} iterations"] = _pair(given, "short", THREE, model__num_iterations=n)
    groups |= {
        "solvers": _runs(given, "short", THREE, ("IB", "BB", "BN")),
        "solvers, whole batch": _by_seed(whole_batch(given, "short", THREE)),
        "property prediction": predictors(given, THREE),
        "segmentation": autoencoders(given, THREE),
        "learning rate": _pair(given, "short", THREE, training__lr=3e-4),
        "without any trick": _pair(given, "short", THREE, **no_decay, **no_clip, **no_warmup),
        "flagship without clipping": _pair(given, "flagship", THREE, **no_clip),
    }
    return groups | ours(given)


def ours(given: Parameters) -> dict[str, list[RunConfig]]:
    """Return the runs of the notebooks beyond the paper that train, by notebook."""
    of = {
        "ext01": extensions.along(given),
        "ext02": extensions.estimators(given),
        "ext02, scored": extensions.estimators_scored(given),
        "ext03": extensions.announcers(given),
        "ext04": extensions.when_it_matters(given),
        "ext06": extensions.learned_queries(given),
        "ext07": extensions.other_cells(given) | extensions.set_predictors(given),
    }
    return {name: [run for runs in groups.values() for run in runs] for name, groups in of.items()}


def predictors(given: Parameters, seeds) -> list[RunConfig]:
    """Return Fig. 7's runs."""
    return [
        set_prediction(given, method, seed, model__num_iterations=n)
        for seed in seeds
        for method, n in PREDICTORS
    ]


def autoencoders(given: Parameters, seeds) -> list[RunConfig]:
    """Return Fig. 8's runs."""
    return [autoencoder(given, method, seed) for seed in seeds for method in ("vanilla", "IN")]


def whole_batch(given: Parameters, scale: str, seeds) -> dict[str, list[SLATERunConfig]]:
    """Return IB, BB and BN whose Broyden stops by the whole batch's residual, as the authors':
    variant -> runs."""
    groups = {}
    for variant in ("IB", "BB", "BN"):
        n = slate(given, variant, seeds[0], scale=scale).model.num_iterations
        broyden = Broyden(n, norm="batch")
        halves = {
            "IB": {"model__adjoint": Implicit(broyden)},
            "BB": {"model__solver": broyden, "model__adjoint": Implicit(broyden)},
            "BN": {"model__solver": broyden},
        }[variant]
        groups[variant] = [slate(given, variant, seed, scale=scale, **halves) for seed in seeds]
    return groups


def _pair(given: Parameters, scale: str, seeds, **changes) -> list[RunConfig]:
    return _runs(given, scale, seeds, ("vanilla", "IN"), **changes)


def _runs(given: Parameters, scale: str, seeds, variants, **changes) -> list[RunConfig]:
    """Return runs of every variant and seed, all variants of a seed before the next seed."""
    return [
        slate(given, variant, seed, scale=scale, **changes)
        for seed in seeds
        for variant in variants
    ]


def _by_seed(groups: dict) -> list[RunConfig]:
    """Return the runs of all groups, those of a seed before the next seed's."""
    return [run for runs in zip(*groups.values()) for run in runs]


def _scored(given: Parameters, trained: list) -> list[RunConfig]:
    """Return runs, each followed by the scores of its regenerated test images.

    Scores need weights, most of which are not committed, so they are made where the run is.
    """
    return [run for pair in zip(trained, regenerated(given, trained)) for run in pair]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m paper_lib.paper.evidence",
        description="Perform the runs of docs/protocol.md that are missing.",
    )
    parser.add_argument("--jobs", type=count, default=2, help="how many at a time")
    parser.add_argument("--list", action="store_true", help="say what there is instead")
    given = parser.parse_args(arguments)
    groups = evidence(parameters.check("cpu"))
    if given.list:
        for name, configs in groups.items():
            made = [_is_made(config) for config in configs]
            print(f"{name:28} {sum(made)} of {len(made)}")
        return 0
    if commit().endswith("+"):
        parser.error("paper_lib has changes that are not committed: a run must name its code")
    every = with_needs([config for configs in groups.values() for config in configs])
    missing = [config for config in every if not _is_made(config)]
    with ThreadPoolExecutor(given.jobs) as pool:
        failed = sum(pool.map(_perform, missing))
    print(f"{len(missing) - failed} runs made, {failed} failed", file=sys.stderr)
    return 1 if failed else 0


def _is_made(config: RunConfig) -> bool:
    return (folder_of(run_id(config), "cpu") / "summary.json").exists()


def _perform(config: RunConfig) -> bool:
    """Perform a run in a process of its own; return whether it failed."""
    command = following.command("paper_lib.runs", "cpu", run_id(config))
    return subprocess.run(command, cwd=ROOT).returncode != 0


if __name__ == "__main__":
    sys.exit(main())
