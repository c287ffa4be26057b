"""Places that are not as they should be: full, gone, not to be written to, oddly named, cut off.

What needs a disk, a network or rights of its own is tried in namespaces of the system, in which
this user may mount; where the system gives none, it is left out, and said.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np

from faults import kills
from faults.fault import HARMLESS, RESUMED, Fault
from paper_lib import runs

ODD = "für alle – 結果 $HOME 'x'"  # a folder's name, with what shells and URLs trip over
ROOM = (0.1, 0.5, 1.0, 1.5)  # of what a run comes to in the end; checkpoints need more
VANISHING = (("SLATE", "results/smoke/runs"), ("SLATE", "results"), ("rendering", "data"))

# In a namespace: a small disk, on which a work ends for want of room; then it has more.
FULL_DISK = """
set -e
mount -t tmpfs -o size="$1" none "$2"
export PAPER_RESULTS="$2"
cp -r "$3"/. "$2"
status=0
"$PYTHON" -c "$WORK" 2> "$4/said" || status=$?
find "$2" -name summary.json > "$4/there"
mount -o remount,size=1g "$2"
"$PYTHON" -c "$WORK"
cp -r "$2"/. "$4/results"
exit $status
"""
READ_ONLY = """
set -e
mount --bind "$1" "$1"
mount -o remount,ro,bind "$1"
! touch "$1/written" 2> /dev/null
cd "$1"
shift
exec "$@"
"""
# Jupyter's kernels are spoken to over the loopback device, which is down at first.
NO_NETWORK = """
set -e
"$PYTHON" -c "
import fcntl, socket, struct
with socket.socket() as s:
    fcntl.ioctl(s, 0x8914, struct.pack('16sh14x', b'lo', 1))  # SIOCSIFFLAGS, IFF_UP
"
cd "$1"
shift
exec "$@"
"""


def faults(folder: Path, rng: np.random.Generator, start: Callable) -> Iterator[Fault]:
    """Yield what may be wrong with a place.

    start   start(function, *arguments) starts a process in this environment, and returns it
    """
    yield from vanishing(folder / "gone", rng, start)
    if not namespaces():
        print("places: this system gives no namespaces; some are left out", file=sys.stderr)
        return
    yield from full(folder / "full", start)
    yield from checkouts(folder / "checkouts", start)


@cache
def namespaces() -> bool:
    """Return whether this user may mount, and unmount the network, in a namespace of its own."""
    try:
        return subprocess.run(["unshare", "-rmn", "true"], capture_output=True).returncode == 0
    except OSError:
        return False


# ---- folders that vanish ----


def vanishing(
    folder: Path,
    rng: np.random.Generator,
    start: Callable,
    cases: tuple[tuple[str, str], ...] = VANISHING,
    times: int = 4,
) -> Iterator[Fault]:
    """Yield folders that vanish, at so many moments each, while a work is done in them."""
    for work, below in cases:
        base, whole = (folder / f"{work}-{below}-{which}".replace("/", "-") for which in "bw")
        with kills.at(base):
            kills.prepare(work)
        shutil.copytree(base, whole)
        with kills.at(whole):
            began = time.monotonic()
            perform(work, start)
            seconds = time.monotonic() - began
            expected = kills.made(work)
        for number in range(times):
            delay = float(rng.uniform(0.2, 0.9)) * seconds

            def meet(
                number=number, work=work, below=below, base=base, delay=delay, expected=expected
            ):
                place = base.with_name(f"{base.name}{number}")
                shutil.copytree(base, place)
                with kills.at(place):
                    return _vanish(work, place / below, delay, expected, start)

            yield Fault("folder that vanishes", f"{below} after {delay:.2f} s of {work}", meet)


def perform(work: str, start: Callable) -> None:
    process = start(kills.perform, work)
    process.join(600)
    assert process.exitcode == 0, f"ended with {process.exitcode}"


def _vanish(work: str, gone: Path, delay: float, expected: dict, start: Callable) -> str:
    process = start(kills.perform, work)
    time.sleep(delay)
    was_at_work = process.exitcode is None and gone.exists()
    if was_at_work:
        gone.rename(gone.with_name("moved away"))
    process.join(600)
    assert process.exitcode in (0, 1), f"ended with {process.exitcode}"
    perform(work, start)  # whatever is left or was made meanwhile, it makes the rest
    kills.ensure_same(kills.made(work), expected)
    return RESUMED if was_at_work else HARMLESS


# ---- a disk that is full ----


def full(folder: Path, start: Callable, room: tuple[float, ...] = ROOM) -> Iterator[Fault]:
    """Yield disks on which a training has no room to end; once they have, it goes on."""
    work = "dVAE"
    base, whole = folder / "base", folder / "whole"
    with kills.at(base):
        kills.prepare(work)
    shutil.copytree(base, whole)
    with kills.at(whole):
        perform(work, start)
        expected = kills.made(work)
        size = sum(path.stat().st_size for path in (whole / "results").rglob("*") if path.is_file())
    for share in room:

        def meet(share=share) -> str:
            place = folder / f"{share:.0%}"
            (place / "mounted").mkdir(parents=True)
            (base / "results").mkdir(exist_ok=True)
            arguments = [int(share * size), place / "mounted", base / "results", place]
            with kills.at(place):
                os.environ["PAPER_DATA"] = str(base / "data")
                os.environ["PYTHONPATH"] = f"{runs.ROOT}{os.pathsep}{runs.ROOT / 'tests'}"
                done = _in_namespace("m", FULL_DISK, *arguments, work=work)
                assert done.returncode == 1, f"{done.returncode}: {done.stderr[-2_000:]}"
                said = (place / "said").read_text()
                assert str(place / "mounted") in said, f"an error that names no file: {said}"
                assert not (place / "there").read_text(), "it was done, or said so"
                kills.ensure_same(kills.made(work), expected)
            return RESUMED

        yield Fault("full disk: training", f"room for {share:.0%}", meet)


# ---- checkouts ----


def checkouts(folder: Path, start: Callable) -> Iterator[Fault]:
    """Yield checkouts, in each of which all is made that a notebook needs, and the notebook."""
    with kills.at(folder / "whole"):
        kills.prepare("batch")
        shutil.copytree(folder / "whole", folder / "base")
        perform("batch", start)
        expected = _without_commit(kills.made("batch"))
    odd = copied(folder / ODD)

    def meet(flags: str, script: str, checkout: Path, name: str) -> str:
        place = folder / name
        shutil.copytree(folder / "base", place)
        with kills.at(place):
            os.environ["PYTHONPATH"] = str(checkout)
            done = _in_namespace(flags, script, checkout, *kills.BATCH)
            assert done.returncode == 0, f"{done.returncode}: {done.stderr[-2_000:]}"
            kills.ensure_same(_without_commit(kills.made("batch")), expected)
        return HARMLESS

    names = {
        "with an odd name": ("m", 'cd "$1"\nshift\nexec "$@"\n'),
        "that is read-only": ("m", READ_ONLY),
        "without a network": ("n", NO_NETWORK),
    }
    for what, (flags, script) in names.items():
        yield Fault(
            f"checkout {what}",
            what,
            lambda f=flags, s=script, w=what: meet(f, s, odd, f"{ODD} {w}"),
        )


def copied(folder: Path) -> Path:
    """Return a copy of what the command that makes figures needs of this checkout."""
    for name in ("paper_lib", "notebooks", "profiles"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(runs.ROOT / name, folder / name, ignore=ignored)
    for name in ("Snakefile", "pyproject.toml"):
        shutil.copy(runs.ROOT / name, folder / name)
    return folder


def _without_commit(made: dict) -> dict:
    """What a copy makes says no commit."""
    for content in made.values():
        if isinstance(content, dict):
            content.pop("commit", None)
    return made


def _in_namespace(flags: str, script: str, *arguments, work: str = "") -> CompletedProcess:
    """Run a script of bash where it may mount ("m"), or where there is no network ("n")."""
    words = ["unshare", f"-r{flags}", "bash", "-c", script, "bash", *map(str, arguments)]
    code = f"from faults import kills; kills.perform({work!r})"
    environment = os.environ | {"PYTHON": sys.executable, "WORK": code}
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=900)
