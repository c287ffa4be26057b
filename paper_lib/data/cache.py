"""A folder of memory-mappable arrays that is filled row by row, and may be killed at any moment.

    <array>.npy     one row for each item          done.npy    (N,) bool: which rows are filled
    settings.json   what the rows depend on

The folder appears whole, under its name, by one rename. A row counts only once done.npy says so,
which is written after the row. (A cache that is filled in the order of its rows may count them in
another way.) Processes that want the same folder take turns, by <folder>.lock beside it.
"""

import contextlib
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from numpy.lib.format import open_memmap

DONE = "done"


@dataclass(frozen=True)
class Cache:
    """A cache is one folder, which need not be there yet.

    folder    where it is, or will be
    settings  all that its rows depend on, for settings.json
    """

    folder: Path
    settings: dict

    def exists(self) -> bool:
        """Return whether the folder is there. Raises ValueError if other settings made it."""
        if not self.folder.exists():
            return False
        path = self.folder / "settings.json"
        found = json.loads(path.read_text()) if path.exists() else {}
        different = [
            f"{key} is {found.get(key)!r}, not {self.settings.get(key)!r}"
            for key in self.settings | found
            if found.get(key) != self.settings.get(key)
        ]
        if different:
            raise ValueError(
                f"{path} describes another data set than the one asked for: "
                f"{'; '.join(different)}. Delete the folder {self.folder} to have it made again, "
                "or name another root."
            )
        return True

    def complete(self, is_complete: Callable[[], bool], fill: Callable[[], None]) -> None:
        """Call `fill` with the lock held, unless `is_complete()`.

        A second process that wants the same says so and waits, and then finds all of it there.
        """
        if is_complete():
            return
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with self._locked():
            if not is_complete():
                fill()

    def create(self, count: int, arrays: dict[str, tuple[tuple[int, ...], type]]) -> None:
        """Make the folder, with `count` rows in each array.

        arrays  name of an array -> shape and type of one of its rows
        """
        unfinished = self.folder.with_name(self.folder.name + ".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        for name, (shape, dtype) in arrays.items():
            path = unfinished / f"{name}.npy"
            open_memmap(path, mode="w+", dtype=dtype, shape=(count, *shape)).flush()
        (unfinished / "settings.json").write_text(json.dumps(self.settings, indent=2) + "\n")
        unfinished.rename(self.folder)

    def missing(self, rows: range) -> np.ndarray:
        """Return those of `rows` that are not filled, in their order."""
        if not self.folder.exists():
            return np.arange(rows.start, rows.stop)
        done = np.load(self.folder / f"{DONE}.npy", mmap_mode="r")
        return rows.start + np.flatnonzero(~done[rows.start : rows.stop])

    def open_arrays(self) -> dict[str, np.memmap]:
        """Return all arrays by their names, to be written."""
        return {path.stem: np.load(path, mmap_mode="r+") for path in self.folder.glob("*.npy")}

    def read(self, rows: range) -> dict[str, np.memmap | None]:
        """Return images, masks and properties of `rows`, read-only; None for what is not there."""
        arrays = dict.fromkeys(("images", "masks", "properties"))
        for name in arrays:
            path = self.folder / f"{name}.npy"
            if path.exists():
                arrays[name] = np.load(path, mmap_mode="r")[rows.start : rows.stop]
        return arrays

    @contextlib.contextmanager
    def _locked(self):
        lock = FileLock(self.folder.with_name(self.folder.name + ".lock"))
        try:
            lock.acquire(blocking=False)
        except Timeout:
            message = f"Another process is filling {self.folder}; waiting for it."
            print(message, file=sys.stderr, flush=True)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()


def write_row(arrays: dict[str, np.memmap], row: int, item: dict[str, np.ndarray]) -> None:
    """Write `item`, a value for each array, into a row; where rows are marked, it is then done."""
    for name, value in item.items():
        arrays[name][row] = value
    if DONE in arrays:
        arrays[DONE][row] = True
