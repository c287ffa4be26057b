"""A folder of memory-mappable arrays that is filled row by row, and may be killed at any moment.

    <array>.npy     one row for each item          done.npy    (N,) bool: which rows are filled
    settings.json   what the rows depend on        checks.npy  (N,) uint32: a checksum of each row

The folder appears whole, under its name, by one rename. A row counts only once done.npy says so,
which is written after the row. (A cache that is filled in the order of its rows may count them in
another way.) Processes that want the same folder take turns, by <folder>.lock beside it.

Rows are compared with their checksums when they are handed out, once in a process, where all of
them together have at most `MOST_VERIFIED` bytes: to read a large data set whole takes long, and
nothing of it is read otherwise before it is indexed. Folders from before there were checksums are
read without.
"""

import json
import os
import shutil
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap

from paper_lib.system.files import naming
from paper_lib.system.reading import BrokenFile, read_json, reading
from paper_lib.system.turns import turn

DONE = "done"
CHECKS = "checks"
MOST_VERIFIED = 2**29  # bytes, half a second's work

_verified: dict[tuple, tuple] = {}  # folder and rows -> sizes and dates of the files, when verified


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
        found = read_json(path, self.remedy) if path.exists() else {}
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

    @property
    def remedy(self) -> str:
        """How to have the folder right again."""
        return f"Delete the folder {self.folder}, and it is made again"

    def complete(self, is_complete: Callable[[], bool], fill: Callable[[], None]) -> None:
        """Call `fill` with the lock held, unless `is_complete()`.

        A second process that wants the same says so and waits, and then finds all of it there.
        """
        if is_complete():
            return
        lock = self.folder.with_name(self.folder.name + ".lock")
        with turn(lock, f"filling {self.folder}"):
            if not is_complete():
                fill()

    def create(self, count: int, arrays: dict[str, tuple[tuple[int, ...], type]]) -> None:
        """Make the folder, with `count` rows in each array.

        arrays  name of an array -> shape and type of one of its rows
        """
        unfinished = self.folder.with_name(self.folder.name + ".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        for name, (shape, dtype) in {**arrays, CHECKS: ((), np.uint32)}.items():
            path = unfinished / f"{name}.npy"
            open_memmap(path, mode="w+", dtype=dtype, shape=(count, *shape)).flush()
        (unfinished / "settings.json").write_text(json.dumps(self.settings, indent=2) + "\n")
        unfinished.rename(self.folder)

    def missing(self, rows: range) -> np.ndarray:
        """Return those of `rows` that are not filled, in their order."""
        if not self.folder.exists():
            return np.arange(rows.start, rows.stop)
        # in memory: to map a hole of a file takes room on some disks, and ends the process if full
        done = self.open_array(DONE, mapped=False)
        if done.dtype != np.bool_:
            raise BrokenFile(self.folder / f"{DONE}.npy", f"is of type {done.dtype}", self.remedy)
        return rows.start + np.flatnonzero(~done[rows.start : rows.stop])

    def open_array(self, name: str, mapped: bool = True) -> np.ndarray:
        """Return an array, read-only if it is `mapped`. Raises BrokenFile."""
        path = self.folder / f"{name}.npy"
        with reading(path, self.remedy):
            return np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)

    def open_arrays(self) -> dict[str, np.memmap]:
        """Return all arrays by their names, read-only. Raises BrokenFile."""
        names = sorted(path.stem for path in self.folder.glob("*.npy"))
        arrays = {name: self.open_array(name) for name in names}
        lengths = {name: len(array) for name, array in arrays.items()}
        if len(set(lengths.values())) > 1:
            raise BrokenFile(
                self.folder, f"holds arrays of several lengths, {lengths}", self.remedy
            )
        return arrays

    def read(self, rows: range) -> dict[str, np.memmap | None]:
        """Return images, masks and properties of `rows`, read-only; None for what is not there.

        Raises BrokenFile for a row that is not what was written.
        """
        arrays = self.open_arrays()
        if "images" not in arrays:
            raise BrokenFile(self.folder / "images.npy", "is missing", self.remedy)
        self._verify(arrays, rows)
        names = ("images", "masks", "properties")
        return {
            name: arrays[name][rows.start : rows.stop] if name in arrays else None for name in names
        }

    def _verify(self, arrays: dict[str, np.memmap], rows: range) -> None:
        states = [os.stat(array.filename) for array in arrays.values()]
        seen = tuple((state.st_size, state.st_mtime_ns, state.st_ino) for state in states)
        size = sum(array[rows.start : rows.stop].nbytes for array in arrays.values())
        key = self.folder, rows
        if CHECKS not in arrays or size > MOST_VERIFIED or _verified.get(key) == seen:
            return
        checks = arrays[CHECKS]
        for row in rows:
            item = {name: array[row] for name, array in arrays.items()}
            if item.get(DONE, True) and _check(item) != checks[row]:
                raise BrokenFile(
                    self.folder, f"holds a row {row} that is not what was written", self.remedy
                )
        _verified[key] = seen


def write_row(arrays: dict[str, np.memmap], row: int, item: dict[str, np.ndarray]) -> None:
    """Write `item`, a value for each array, into a row; where rows are marked, it is then done."""
    typed = {
        name: np.broadcast_to(value, arrays[name].shape[1:]).astype(arrays[name].dtype)
        for name, value in item.items()
    }
    for name, value in typed.items():
        _write(arrays[name], row, value)
    if CHECKS in arrays:
        _write(arrays[CHECKS], row, np.uint32(_check(typed)))
    if DONE in arrays:
        _write(arrays[DONE], row, np.True_)


def _write(array: np.memmap, row: int, value: np.ndarray | np.generic) -> None:
    """Write a row through the file: a full disk is then an error, and through the map a signal."""
    path = Path(array.filename)
    with naming(path), open(path, "r+b") as file:
        file.seek(array.offset + row * value.nbytes)
        file.write(value.tobytes())


def _check(item: dict[str, np.ndarray]) -> int:
    """Return a CRC-32 of a row's values, their names, types and shapes."""
    check = 0
    for name, value in sorted(item.items()):
        if name not in (DONE, CHECKS):
            value = np.asarray(value)
            described = f"{name} {value.dtype.str} {value.shape}".encode()
            check = zlib.crc32(np.ascontiguousarray(value), zlib.crc32(described, check))
    return check
