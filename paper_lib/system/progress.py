"""Progress bars that can share a terminal: of several processes each has a row of its own."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from filelock import FileLock, Timeout
from tqdm.auto import tqdm

ROWS = 64

_row: FileLock | None = None  # held until this process ends


def bar(total: int, description: str, unit: str, initial: int = 0) -> tqdm:
    """Return a tqdm bar that tells the time left.

    Where nobody watches (a log file) it writes a line now and then.
    """
    watched = sys.stderr.isatty() or "ipykernel" in sys.modules
    return tqdm(
        total=total,
        initial=initial,
        desc=description,
        unit=unit,
        position=_position(),
        dynamic_ncols=True,
        mininterval=0.5 if watched else 20,
    )


def _position() -> int:
    """Take the first row that no other process of this batch holds, and return its number.

    Whoever starts the batch names a folder for its locks in the environment variable PAPER_ROWS.
    Without one, or with more processes than rows, it is row 0.
    """
    global _row
    if "PAPER_ROWS" not in os.environ:
        return 0
    if _row is None:
        _row = _first_free_row(Path(os.environ["PAPER_ROWS"]))
    return 0 if _row is None else int(Path(_row.lock_file).stem)


def _first_free_row(folder: Path) -> FileLock | None:
    for position in range(ROWS):
        lock = FileLock(folder / f"{position}.lock")
        try:
            lock.acquire(blocking=False)
        except Timeout:
            continue
        return lock
    return None
