"""Races: several processes that want the same results at once, locks that are left, odd clocks.

Whatever happens, no file is torn, no work is done twice, and nobody waits for the dead.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

from faults import kills
from faults.fault import HARMLESS, Fault
from paper_lib import runs
from paper_lib.runs import perform
from paper_lib.system.turns import turn

BATCH_LOCK = "smoke/runs/.batch.lock"
PATIENCE = 20  # seconds after which somebody waits for the dead
DAY = 86_400


WORKS = ("rendering", "dVAE", "SLATE")


def faults(
    folder: Path, start: Callable, works: tuple[str, ...] = WORKS, batches: bool = True
) -> Iterator[Fault]:
    """Yield every race; without `batches` those that take seconds.

    start   start(function, *arguments) starts a process in this environment, and returns it
    """

    def fault(kind: str, what: str, meet: Callable) -> Fault:
        def at_its_place() -> str:
            with kills.at(folder / what.replace(" ", "-")):
                meet()
            return HARMLESS

        return Fault(kind, what, at_its_place)

    for work in works:
        yield fault("race: one work", f"three at {work}", lambda work=work: _three(work, start))
    for flock in (True, False):
        for garbage in (b"", b"1\n", b"\xff" * 100):
            what = f"{'flock' if flock else 'no flock'} and {garbage[:2]!r} in the file"
            yield fault(
                "stale lock", what, lambda f=flock, g=garbage: _holder_is_killed(start, f, g)
            )
    if batches:
        yield fault("race: batches", "two at once", _two_batches)
        yield fault("race: batches", "one that finds a run finished meanwhile", _meanwhile)
        yield fault("clock", "results of tomorrow", _of_tomorrow)


# ---- one work ----


def _three(work: str, start: Callable) -> None:
    kills.prepare(work)
    log = Path(os.environ["PAPER_RESULTS"]).parent / "performed"
    processes = [start(_counted, work, str(log)) for _ in range(3)]
    for process in processes:
        process.join(300)
        assert process.exitcode == 0
    if work in kills.CONFIGS:
        assert log.read_text() == "performed\n", "the work was done more than once"
    assert kills.made(work)
    _ensure_as_alone(work, start)


def _counted(work: str, log: str) -> None:
    def noted(*arguments):
        with open(log, "a") as file:
            file.write("performed\n")
        return original(*arguments)

    original = perform._perform
    with patch("paper_lib.runs.perform._perform", noted):
        kills.perform(work)


def _ensure_as_alone(work: str, start: Callable) -> None:
    together = kills.made(work)
    with kills.at(Path(os.environ["PAPER_RESULTS"]).parent / "alone"):
        kills.prepare(work)
        alone = start(kills.perform, work)
        alone.join(300)
        assert alone.exitcode == 0
        assert kills.made(work) == together


# ---- locks ----


def _holder_is_killed(start: Callable, flock: bool, garbage: bytes) -> None:
    """Its file stays, and the next one goes on; where the system has no flock, too."""
    lock = Path(os.environ["PAPER_RESULTS"]) / "a.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    if flock:
        lock.write_bytes(garbage)
    held = lock.with_name("held")
    holder = start(_hold, str(lock), str(held), flock)
    _wait_for(held.exists, holder)
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    held.unlink()
    following = start(_hold, str(lock), str(held), flock)
    _wait_for(held.exists, following)
    following.kill()


def _hold(lock: str, held: str, flock: bool) -> None:
    def none(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    if not flock:
        patch("fcntl.flock", none).start()
        patch("fcntl.lockf", none).start()
    with turn(Path(lock), "holding"):
        Path(held).touch()
        time.sleep(PATIENCE)


def _wait_for(condition: Callable[[], bool], process) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition() and process.exitcode is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert condition(), f"it waits, or has ended with {process.exitcode}"


# ---- batches ----


def start_batch() -> subprocess.Popen:
    """Start the command that makes one notebook and its runs."""
    nowhere = subprocess.DEVNULL
    return subprocess.Popen(kills.BATCH, cwd=runs.ROOT, stdout=nowhere, stderr=nowhere)


def _state() -> dict[str, int]:
    """Return the dates of all results, figures and tables but locks."""
    root = Path(os.environ["PAPER_RESULTS"]).parent
    files = [path for path in root.rglob("*") if path.is_file() and path.name[0] != "."]
    return {str(path): path.stat().st_mtime_ns for path in files if path.suffix != ".lock"}


def _two_batches() -> None:
    """The second one waits, and finds nothing to do."""
    both = [start_batch(), start_batch()]
    while all(batch.poll() is None for batch in both):
        time.sleep(0.05)
    first = _state()
    assert [batch.wait(300) for batch in both] == [0, 0]
    assert _state() == first
    assert kills.made("batch")


def _meanwhile() -> None:
    """Snakemake has planned to make a run that somebody else finishes first: it is left alone."""
    dvae, run = (runs.folder_of(runs.run_id(c), "smoke") for c in kills.configs_of_notebook())
    finished = Path(os.environ["PAPER_RESULTS"]).parent / "finished"
    with kills.at(finished):
        for config in kills.configs_of_notebook():
            runs.get(config, kills.SMOKE)
        places = [runs.folder_of(folder.name, "smoke") for folder in (dvae, run)]
    with turn(dvae.parent / f".{dvae.name}.lock", "holding the first run back"):
        batch = start_batch()
        while not dvae.exists():  # the batch's job makes the folder, and waits
            assert batch.poll() is None
            time.sleep(0.05)
        for folder, place in zip((dvae, run), places):
            shutil.copytree(place, folder, dirs_exist_ok=True)
        # Snakemake may date them anew, but nobody writes them again
        before = {path: path.stat().st_ino for path in (*dvae.iterdir(), *run.iterdir())}
    assert batch.wait(300) == 0
    after = {path: path.stat().st_ino for path in before}
    assert after == before, f"made again: {[p.name for p in before if after[p] != before[p]]}"


def _of_tomorrow() -> None:
    """A clock that jumps back leaves files of the future: once more at most, then nothing to do."""
    assert start_batch().wait(300) == 0
    made = kills.made("batch")
    for path in _state():
        os.utime(path, (time.time() + DAY, time.time() + DAY))
    assert start_batch().wait(300) == 0
    once = _state()
    assert start_batch().wait(300) == 0
    assert _state() == once, "it does not come to rest"
    assert kills.made("batch") == made
