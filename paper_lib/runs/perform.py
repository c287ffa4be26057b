"""Getting a run: load its results, or perform it first, going on where a killed process stopped."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from paper_lib.runs import checksums
from paper_lib.runs.identity import described, identity, run_id
from paper_lib.runs.provenance import provenance
from paper_lib.runs.store import MissingRun, RunResult, folder_of
from paper_lib.system.files import as_json, write_json
from paper_lib.system.threads import one_thread
from paper_lib.system.turns import turn
from paper_lib.training import parallel


class RunConfig(Protocol):
    """A kind of run. To the engine it is this and no more.

    Configs are frozen dataclasses, as `identity` reads their fields.

    kind    the first word of its ids
    method  the second, such as IN; or None
    seed    the number that names its random draws
    alone   whether it needs the machine to itself, as what is timed does
    """

    kind: str
    method: str | None
    seed: int
    alone: bool

    def needs(self) -> list[RunConfig]:
        """Return the runs that this one builds on."""

    def ensure_performable(self) -> None:
        """Raise ValueError, with the remedy, if it cannot be performed."""

    def perform(self, job: Job) -> dict:
        """Do the work, write into `job.folder`, and return the summary: at least status and final.

        It may be called again in a folder where a killed process left files.
        """


class Request(Protocol):
    """Where results are asked for, as a notebook's parameters say it.

    profile     the folder below results/
    device      what a run is performed on
    if_missing  what to do about a run without results: "error" or "train"
    """

    profile: str
    device: str
    if_missing: str


@dataclass(frozen=True)
class Job:
    """What a run is performed with: where its results go, on what, and the runs that it needs."""

    folder: Path
    device: str
    request: Request

    def result_of(self, config: RunConfig) -> RunResult:
        return get(config, self.request)


def get(config: RunConfig, request: Request) -> RunResult:
    """Load a run's results; with `if_missing="train"` the run is performed first, if need be.

    A second process that wants the same run says so, and waits for the first. Processes that
    torchrun started train it together: the first of them decides, locks and writes. Raises
    MissingRun with the remedy where nobody asked to train.
    """
    folder = folder_of(run_id(config), request.profile)

    def is_missing() -> bool:
        return not (folder / "summary.json").exists()

    if parallel.of_first(is_missing):
        if request.if_missing == "error":
            raise MissingRun(_remedy(folder, request.profile))
        config.ensure_performable()
        with _locked(folder):
            if parallel.of_first(is_missing):  # the process before us may have finished it
                _perform(config, Job(folder, request.device, request))
    elif request.if_missing == "train":
        parallel.of_first(lambda: _clear(folder))
    return RunResult.load(config, folder)


def get_all(groups: dict, request: Request) -> dict:
    """`get` every run of a figure: name -> results, in the order of the seeds.

    Groups may be grouped themselves.
    """
    found = {}
    for name, group in groups.items():
        if isinstance(group, dict):
            found[name] = get_all(group, request)
        else:
            found[name] = [get(config, request) for config in group]
    return found


def with_needs(configs: list[RunConfig]) -> list[RunConfig]:
    """Return configs, those that others build on first, each once."""
    ordered: dict[RunConfig, None] = {}
    for config in configs:
        ordered |= dict.fromkeys([*with_needs(config.needs()), config])
    return list(ordered)


def _perform(config: RunConfig, job: Job) -> None:
    description = {
        "id": job.folder.name,
        "identity": identity(config),
        **described(config),
    }
    parallel.of_first(lambda: write_json(job.folder / "config.json", description))
    with torch.random.fork_rng(range(torch.cuda.device_count())), _threads(job.device):
        # noted at the start: this is the code that runs, whatever is edited meanwhile
        source = provenance(config, job.device)
        summary = config.perform(job) | source
    parallel.of_first(lambda: _finish(job.folder, description, summary))


def _finish(folder: Path, description: dict, summary: dict) -> None:
    write_json(folder / "config.json", description)  # again, as somebody may have removed it
    checksums.write(folder, as_json(summary))
    write_json(folder / "summary.json", summary)
    _clear(folder)


def _clear(folder: Path) -> None:
    """Remove what a finished run needs no more, or one left that was killed at its very end."""
    # those with a point are files that a killed process was writing
    for left in (folder / "checkpoint.safetensors", *folder.glob(".*")):
        if left.is_file():
            left.unlink(missing_ok=True)


def _locked(folder: Path):
    """Return the lock of a run; under torchrun the first process holds it for all."""
    if not parallel.is_first():
        return nullcontext()  # the others wait for the first one's word
    folder.mkdir(parents=True, exist_ok=True)
    return turn(folder.parent / f".{folder.name}.lock", f"performing {folder.name}")


def _threads(device: str):
    """Have a run on a CPU use one thread, whatever the machine.

    So it takes the same sums in the same order, and as many runs go side by side as there are
    cores.
    """
    return one_thread() if torch.device(device).type == "cpu" else nullcontext()


def _remedy(folder: Path, profile: str) -> str:
    started = " (it was started and not finished)" if folder.exists() else ""
    return (
        f"run {folder.name} of profile {profile!r} has no results in {folder}{started}. Get it "
        f"with `python -m paper_lib.runs {profile} {folder.name}` if it is one of the profile's "
        'own, or set if_missing = "train" here.'
    )
