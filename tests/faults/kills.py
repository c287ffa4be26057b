"""Kills: SIGKILL at a random moment, then the same command again.

Killed is the process that does the work; of the command that makes all figures, once the command
and once its Snakemake alone; and a short training whenever it puts a file into its place. What
comes of it must be bit for bit what an undisturbed process makes, and no process may be left of the
killed one.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np

from faults.fault import HARMLESS, RESUMED, Fault
from paper_lib import data, runs
from paper_lib.paper import execute, figures, locatello, parameters, profiles
from paper_lib.paper.regeneration import RegenerationRunConfig

SMOKE = parameters.check("smoke", if_missing="train")
TIMES = ("seconds", "peak_memory_bytes")  # of a summary: how long it took decides nothing
MARK = "PAPER_FAULTS_MARK"  # an environment variable, by which a process's children are known
NOTEBOOK = "fig02_one_line"
BATCH = [sys.executable, "-m", "paper_lib.paper.batch", "smoke", "--only", NOTEBOOK, "--jobs", "2"]


def _longer(config, steps: int):
    training = replace(config.training, steps=steps, eval_every=4, log_every=1)
    return replace(config, training=training)


CONFIGS = {
    "dVAE": lambda: _longer(profiles.slate(SMOKE, "IN", 0).dvae, 80),
    "SLATE": lambda: _longer(profiles.slate(SMOKE, "IN", 0), 40),
    "autoencoder": lambda: _longer(locatello.autoencoder(SMOKE, "IN", 0), 40),
    "set prediction": lambda: _longer(locatello.set_prediction(SMOKE, "IN", 0), 40),
    "writing of results": lambda: _longer(profiles.slate(SMOKE, "IN", 0), 8),
    "regeneration": lambda: RegenerationRunConfig(
        slate=profiles.slate(SMOKE, "IN", 0), images=8, features="efficientnet-lite0"
    ),
}
SLOW = ("batch", "Snakemake")  # the same work; what is killed differs
WRITING = "writing of results"
WORKS = ("rendering", *CONFIGS, "papermill", *SLOW)


def prepare(work: str) -> None:
    """Do all that a work needs, and which is not to be killed."""
    if work in CONFIGS:
        config = CONFIGS[work]()
        for needed in config.needs():
            runs.get(needed, SMOKE)
        if hasattr(config, "data"):
            for split in data.SPLITS:
                config.data.load(split)
            if getattr(config, "crowded", None):
                config.crowded.load("test")
    if work == "papermill":
        for config in configs_of_notebook():
            runs.get(config, SMOKE)
    if work in SLOW:
        for split in data.SPLITS:
            profiles.slate(SMOKE, "IN", 0).data.load(split)


def configs_of_notebook() -> list:
    """Return the runs that the notebook needs: a dVAE, and the run that it shows."""
    return runs.with_needs(figures.runs_of(NOTEBOOK, SMOKE))


def perform(work: str) -> None:
    """Do a work, or go on with it."""
    if work == "rendering":
        data.load("clevr_mirror", size=24, num_scenes=80, samples_per_pixel=16, workers=2)
    elif work == "papermill":
        os.chdir(runs.ROOT)
        out = runs.results_root() / f"smoke/notebooks/{NOTEBOOK}.ipynb"
        sys.exit(execute.main(["smoke", NOTEBOOK, str(out)]))
    elif work in SLOW:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        os.chdir(runs.ROOT)
        os.execv(sys.executable, BATCH)  # this process is the batch from now on
    else:
        runs.get(CONFIGS[work](), SMOKE)


def made(work: str) -> dict[str, bytes | dict]:
    """Return what a work has made: file -> content; of a summary without the times."""
    if work == "rendering":
        folders = [p for p in Path(os.environ["PAPER_DATA"]).glob("*24px*") if p.is_dir()]
    elif work == "papermill":
        folders = [_tables()]
    elif work in SLOW:
        every = configs_of_notebook()
        folders = [_tables(), *(runs.folder_of(runs.run_id(c), "smoke") for c in every)]
    else:
        folders = [runs.folder_of(runs.run_id(CONFIGS[work]()), "smoke")]
    found: dict[str, bytes | dict] = {}
    for folder in folders:
        for path in folder.iterdir():
            name = f"{folder.name}/{path.name}"
            if path.name == "summary.json":
                summary = json.loads(path.read_text())
                found[name] = {k: v for k, v in summary.items() if k not in TIMES}
            elif path.name != runs.checksums.NAME:
                found[name] = path.read_bytes()
    return found


def _tables() -> Path:
    return Path(os.environ["PAPER_TABLES"]) / "smoke/tables"


def faults(
    works: list[str], kills: int, rng: np.random.Generator, folder: Path, start: Callable
) -> Iterator[Fault]:
    """Yield so many kills of each work, an eighth of it of the slow ones.

    start   start(function, *arguments) starts a process in this environment, and returns it
    """
    for work in works:
        base, whole = folder / work.replace(" ", "-"), folder / f"{work}-whole".replace(" ", "-")
        with at(base):
            prepare(work)
        shutil.copytree(base, whole)
        with at(whole):
            seconds = _until_the_end(start(perform, work))
            expected = made(work)
        if work == WRITING:
            yield from _kills_while_writing(kills, rng, base, whole, expected, start)
            continue
        for number in range(-(-kills // 8) if work in SLOW else kills):
            delay = float(rng.uniform(0.05, 0.95)) * seconds

            def meet(work=work, base=base, delay=delay, number=number, expected=expected) -> str:
                place = folder / f"{base.name}-{number}"
                shutil.copytree(base, place)
                with at(place):
                    return _meet(work, delay, expected, start)

            yield Fault(f"kill: {work}", f"after {delay:.2f} of {seconds:.2f} seconds", meet)


def _until_the_end(process) -> float:
    started = time.monotonic()
    process.join(600)
    assert process.exitcode == 0, f"an undisturbed process ended with {process.exitcode}"
    return time.monotonic() - started


def _meet(work: str, delay: float, expected: dict, start: Callable) -> str:
    mark = uuid.uuid4().hex
    process = start(_marked, mark, work)
    time.sleep(delay)
    if work == "Snakemake":
        was_killed = _kill_snakemake(process, mark)
    else:
        process.kill()
        process.join()
        was_killed = process.exitcode == -signal.SIGKILL
    ensure_none_left(mark)
    process.join()
    _ensure_it_goes_on(work, expected, start)
    return RESUMED if was_killed else HARMLESS


def _ensure_it_goes_on(work: str, expected: dict, start: Callable) -> None:
    _until_the_end(start(perform, work))
    ensure_same(made(work), expected)


def ensure_same(found: dict, expected: dict) -> None:
    """Raise AssertionError, with a name, if a file is missing, too many, or another."""
    assert set(found) == set(expected), set(found) ^ set(expected)
    for name, content in expected.items():
        assert found[name] == content, f"{name} is not that of an undisturbed process"


# ---- kills at every file that is written ----

MOMENTS = ("half written", "written and not in its place", "in its place")


def _kills_while_writing(
    kills: int, rng, base: Path, whole: Path, expected: dict, start: Callable
) -> Iterator[Fault]:
    """Yield kills at different files of a training, each half written, whole, or in its place."""
    again = whole.with_name(f"{whole.name}-again")
    shutil.copytree(base, again)
    with at(again):
        log = again / "files"
        _until_the_end(start(_dying, WRITING, str(log), None, ""))
        files = log.read_text().split()
    every = [(number, moment) for number in range(len(files)) for moment in MOMENTS]
    for index in rng.choice(len(every), min(kills, len(every)), replace=False):
        number, moment = every[index]

        def meet(number=number, moment=moment, index=index) -> str:
            place = base.with_name(f"{base.name}-{index}")
            shutil.copytree(base, place)
            with at(place):
                process = start(_dying, WRITING, str(place / "files"), number, moment)
                process.join()
                assert process.exitcode == -signal.SIGKILL
                _ensure_it_goes_on(WRITING, expected, start)
            return RESUMED

        yield Fault(f"kill: {WRITING}", f"{files[number]}, file {number}, {moment}", meet)


def _dying(work: str, log: str, last: int | None, moment: str) -> None:
    """Do a work, note the files that are put into their places, and die at one of them."""
    put, done = os.replace, []

    def replace_or_die(temporary, path):
        dies = len(done) == last
        done.append(path)
        with open(log, "a") as file:
            file.write(f"{Path(path).name}\n")
        if dies and moment == MOMENTS[0]:
            os.truncate(temporary, os.path.getsize(temporary) // 2)
        if not dies or moment == MOMENTS[2]:
            put(temporary, path)
        if dies:
            os.kill(os.getpid(), signal.SIGKILL)

    with patch("paper_lib.system.files.os.replace", replace_or_die):
        perform(work)


def _marked(mark: str, work: str) -> None:
    os.environ[MARK] = mark
    perform(work)


def _kill_snakemake(batch, mark: str) -> bool:
    """Kill the Snakemake of a marked batch as soon as it is there; return whether it was."""
    while batch.is_alive():
        for number, command in _marked_processes(mark).items():
            if " snakemake " in command:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
                    return True
        time.sleep(0.1)
    return False


def ensure_none_left(mark: str, seconds: float = 15) -> None:
    """Raise AssertionError if a process with a mark does not end within so many seconds."""
    deadline = time.monotonic() + seconds
    while (left := _marked_processes(mark)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not left, f"left of the killed process: {left}"


def _marked_processes(mark: str) -> dict[int, str]:
    """Return the command lines of the processes that have inherited a mark, by their numbers."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark.encode() in (folder / "environ").read_bytes():
                if command := (folder / "cmdline").read_bytes():  # a zombie has none
                    found[int(folder.name)] = command.replace(b"\0", b" ").decode()[:200]
    return found


@contextlib.contextmanager
def at(folder: Path) -> Iterator[None]:
    """Have results, figures and data in a folder."""
    places = {
        "PAPER_RESULTS": folder / "results",
        "PAPER_TABLES": folder / "results",
        "PAPER_FIGURES": folder / "figures",
        "PAPER_DATA": folder / "data",
    }
    folder.mkdir(parents=True, exist_ok=True)
    before = dict(os.environ)
    os.environ.update({name: str(path) for name, path in places.items()})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


# ---- processes ----


def starter() -> Callable:
    """Return a start(function, *arguments) whose processes have all libraries imported already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["faults.kills"])

    def start(function: Callable, *arguments):
        process = context.Process(target=_in_process, args=(dict(os.environ), function, arguments))
        process.start()
        return process

    return start


def _in_process(variables: dict, function: Callable, arguments: tuple) -> None:
    import torch

    os.environ.update(variables)
    torch.set_num_threads(1)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)  # progress bars
    function(*arguments)
