"""Progress bars that can share a terminal: several runs side by side each take a row of their own."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from filelock import FileLock, Timeout
from tqdm.auto import tqdm

_row: FileLock | None = None  # held until this process ends


def bar(total: int, description: str, unit: str, initial: int = 0) -> tqdm:
    """A tqdm bar with the time left; where nobody watches (a log file), a line now and then."""
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
    """The first row that no other process of this batch holds; `batch.py` names the folder of locks in PAPER_ROWS."""
    global _row
    if "PAPER_ROWS" not in os.environ:
        return 0
    for position in range(64):
        if _row is None:
            lock = FileLock(Path(os.environ["PAPER_ROWS"]) / f"{position}.lock")
            try:
                lock.acquire(blocking=False)
            except Timeout:
                continue
            _row = lock
        return int(Path(_row.lock_file).stem)
    return 0
