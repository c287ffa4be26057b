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

from paper_lib.paper import parameters
from paper_lib.paper.parameters import Parameters
from paper_lib.paper.profiles import REGENERATED_IMAGES, data_sets, slate
from paper_lib.paper.regeneration import RegenerationRunConfig
from paper_lib.runs import ROOT, RunConfig, folder_of, run_id, with_needs
from paper_lib.runs.provenance import commit
from paper_lib.system import following
from paper_lib.system.arguments import count

THREE, FOUR, FIVE = range(3), range(4), range(5)


def evidence(given: Parameters) -> dict[str, list[RunConfig]]:
    """Return the runs of the protocol by what they are for, the most valuable first."""
    stacks = data_sets(given, "flagship")["ShapeStacks"]
    no_decay, no_clip = {"training__decay_steps": None}, {"training__clip": None}
    no_warmup = {"training__warmup_steps": 0}
    flagship = _pair(given, "flagship", THREE)
    groups = {
        "flagship": [run for pair in zip(flagship, _regenerated(flagship)) for run in pair],
        "pair": _pair(given, "sweep", FIVE),
        "flagship, ShapeStacks": _pair(given, "flagship", THREE, **stacks),
        "pair without tricks": _pair(given, "sweep", THREE, **no_decay, **no_clip, **no_warmup),
        "solvers": _runs(given, "sweep", FOUR, ("IB", "BB", "BN")),
        "without clipping": _pair(given, "sweep", THREE, **no_clip),
        "without warm-up": _pair(given, "sweep", THREE, **no_warmup),
        "without decay": _pair(given, "sweep", THREE, **no_decay),
        "learning rate": _pair(given, "sweep", THREE, training__lr=3e-4),
        "flagship without clipping": _pair(given, "flagship", THREE, **no_clip),
    }
    for n in (1, 15, 3, 11, 5):
        changes = {"model__num_iterations": n}
        groups[f"{n} iterations"] = _pair(given, "sweep", THREE, **changes)
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


def _regenerated(runs: list) -> list[RunConfig]:
    """Return the scores of runs' test images, which need weights that are not committed."""
    return [RegenerationRunConfig(slate=run, images=REGENERATED_IMAGES["cpu"]) for run in runs]


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
