"""Processes that want the same files take turns."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def turn(lock: Path, work: str) -> Iterator[None]:
    """Hold a lock, a file, during the block; wait for it, and say so, while another process has it.

    work    what the other one is doing, such as "training x"

    The system frees the lock of a process that ends, even if it was killed: the file that is left
    locks nothing. Raises OSError where the file cannot be made.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(lock)
    try:
        held.acquire(blocking=False)
    except Timeout:
        print(f"Another process is {work}; waiting for it.", file=sys.stderr, flush=True)
        held.acquire()
    try:
        yield
    finally:
        held.release()
