"""Data sets that are made here: each is one folder of memory-mappable arrays, filled by several processes.

The folder of N items holds, for every array that the recipe names (images, and perhaps masks and properties),

    <array>.npy     (N, ...)       done.npy        (N,) bool: which rows are made
    settings.json   the recipe's settings, and its version

Rows are stored split by split, so that a split is a slice: row r holds item `order()[r]`. An item depends on its index and the settings,
never on the number of workers, or what was made before.
"""

import abc
import contextlib
import dataclasses
import importlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import ClassVar

import numpy as np
from filelock import FileLock, Timeout
from numpy.lib.format import open_memmap

from paper_lib.system.progress import bar

SPLIT_SEED = 0
FEW = 100  # items: most of the time that they take is the start of the processes


@dataclasses.dataclass(frozen=True)
class Recipe(abc.ABC):
    """All that the items of a data set depend on. A data set is a frozen dataclass that says the rest; its fields are the settings.

    A field that still has its default is left out of settings.json, so that a new one does not disown the folders made before it.
    """

    data_set: ClassVar[str]
    version: ClassVar[str]  # to be raised with every change that changes an array or a split

    @property
    @abc.abstractmethod
    def folder(self) -> str:
        """Its name: another one for other settings."""

    @property
    @abc.abstractmethod
    def count(self) -> int:
        """N, of all splits together."""

    @abc.abstractmethod
    def arrays(self) -> dict[str, tuple[tuple[int, ...], type]]:
        """Name of each array -> shape and dtype of one item."""

    @abc.abstractmethod
    def item(self, index: int) -> dict[str, np.ndarray]:
        """Item `index`: a value for each of `arrays()`."""

    def order(self) -> np.ndarray:
        """Which item each row holds, (N,) int: a fixed permutation, which makes the split random."""
        return np.random.default_rng(SPLIT_SEED).permutation(self.count)

    def rows(self) -> dict[str, range]:
        """70, 15 and 15 per cent of the rows."""
        train, validation = round(0.7 * self.count), round(0.85 * self.count)
        return {
            "train": range(train),
            "validation": range(train, validation),
            "test": range(validation, self.count),
        }

    def provenance(self) -> dict:
        """What else `source` should say."""
        return {}

    def settings(self) -> dict:
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        }


@dataclasses.dataclass(frozen=True)
class RenderedScenes(Recipe):
    """What the path-traced data sets share. `num_scenes` counts all splits; `seed` names the sequence of scenes."""

    num_scenes: int
    size: int
    samples_per_pixel: int
    min_objects: int
    max_objects: int
    seed: int

    property_columns: ClassVar[int]

    def __post_init__(self):
        if min(self.num_scenes, self.size, self.samples_per_pixel) < 1 or self.seed < 0:
            raise ValueError(
                f"num_scenes, size and samples_per_pixel must be at least 1 and seed at least 0, got {self}"
            )
        if not 1 <= self.min_objects <= self.max_objects <= 255:  # a mask is 8 bits
            raise ValueError(
                f"need 1 <= min_objects <= max_objects <= 255, got {self.min_objects} and {self.max_objects}"
            )

    @property
    def folder(self) -> str:
        """Such as clevr_mirror-32px-96spp-3to6-seed0-7858."""
        objects = f"{self.min_objects}to{self.max_objects}"
        return f"{self.data_set}-{self.size}px-{self.samples_per_pixel}spp-{objects}-seed{self.seed}-{self.num_scenes}"

    @property
    def count(self) -> int:
        return self.num_scenes

    def arrays(self) -> dict[str, tuple[tuple[int, ...], type]]:
        return {
            "images": ((self.size, self.size, 3), np.uint8),
            "masks": ((self.size, self.size), np.uint8),
            "properties": ((self.max_objects, self.property_columns), np.float32),
        }

    def noise_seed(self, index: int) -> int:
        """Of the renderer's sampler, 32 bits."""
        return int(np.random.SeedSequence([self.seed, index]).generate_state(1)[0])


def load(
    root: Path, recipe: Recipe, split: str, max_items: int | None = None, workers: int | None = None
) -> dict:
    """The arrays of one split, read-only memory maps, after making those of its first `max_items` items (all) that are missing.

    `workers` processes make them (one for each core). A data set of FEW items is made whole, so that its other splits need no processes of their own.
    Returns images, masks and properties (None where the recipe has none), indices (which item each one is) and source.
    Raises ValueError for a folder that was made with other settings.
    """
    rows = recipe.rows()[split]
    rows = range(
        rows.start, min(rows.stop, rows.start + max_items) if max_items is not None else rows.stop
    )
    folder = Path(root) / recipe.folder
    make(
        folder,
        recipe,
        range(recipe.count) if max_items is None and recipe.count <= FEW else rows,
        workers,
    )
    part = slice(rows.start, rows.stop)
    arrays = {
        name: np.load(folder / f"{name}.npy", mmap_mode="r")[part] for name in recipe.arrays()
    }
    source = {
        "name": recipe.data_set,
        "door": "generator",
        "version": recipe.version,
        "split": split,
        "settings": recipe.settings(),
        **recipe.provenance(),
    }
    return {
        "masks": None,
        "properties": None,
        **arrays,
        "indices": recipe.order()[part],
        "source": source,
    }


# Filling the folder. Everything here may be killed at any moment: the folder appears whole, under its name, by one rename, and a row
# counts only once done.npy says so, which is written after the row.


def make(folder: Path, recipe: Recipe, rows: range, workers: int | None = None) -> None:
    """Make those of `rows` that `folder` lacks. A second process that asks for the same folder meanwhile waits, then finds them there."""
    if folder.exists():
        _check(folder, recipe)
        if _missing(folder, rows) == 0:
            return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _held(FileLock(folder.with_name(folder.name + ".lock")), folder):
        if folder.exists():
            _check(folder, recipe)
        else:
            _create(folder, recipe)
        if _missing(folder, rows):
            _make_in_processes(folder, recipe, rows, workers or cores())


@contextlib.contextmanager
def _held(lock: FileLock, folder: Path):
    try:
        lock.acquire(blocking=False)
    except Timeout:
        print(f"Another process is filling {folder}; waiting for it.", file=sys.stderr, flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _check(folder: Path, recipe: Recipe) -> None:
    path = folder / "settings.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    asked = _description(recipe)
    different = [
        f"{key} is {found.get(key)!r}, not {asked.get(key)!r}"
        for key in asked | found
        if found.get(key) != asked.get(key)
    ]
    if different:
        raise ValueError(
            f"{path} describes another data set than the one asked for: {'; '.join(different)}. "
            f"Delete the folder {folder} to have it made again, or name another root."
        )


def _description(recipe: Recipe) -> dict:
    return {"version": recipe.version, **recipe.settings()}


def _create(folder: Path, recipe: Recipe) -> None:
    unfinished = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    for name, (shape, dtype) in {**recipe.arrays(), "done": ((), np.bool_)}.items():
        open_memmap(
            unfinished / f"{name}.npy", mode="w+", dtype=dtype, shape=(recipe.count, *shape)
        ).flush()
    (unfinished / "settings.json").write_text(json.dumps(_description(recipe), indent=2) + "\n")
    unfinished.rename(folder)


def _missing(folder: Path, rows: range) -> int:
    done = np.load(folder / "done.npy", mmap_mode="r")
    return len(rows) - int(done[rows.start : rows.stop].sum())


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _make_in_processes(folder: Path, recipe: Recipe, rows: range, workers: int) -> None:
    """Start `workers` fresh interpreters and watch done.npy.

    Not multiprocessing: its spawned children import the caller's main module again, which breaks scripts without a guard, scripts read
    from standard input and some notebooks.
    """
    missing = _missing(folder, rows)
    workers = min(workers, missing)
    here = str(Path(__file__).resolve().parents[3])
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")])),
    }
    kind = type(recipe)
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                "import sys; from paper_lib.data.generators.generated import work; work(*sys.argv[1:])",
            ]
            + [
                kind.__module__,
                kind.__qualname__,
                str(folder),
                str(rows.start),
                str(rows.stop),
                str(worker),
                str(workers),
            ],
            stdin=subprocess.PIPE,  # never written: it closes when this process dies, however it dies, and then the worker stops
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,  # Ctrl-C is for this process to handle
        )
        for worker in range(workers)
    ]
    try:
        with bar(len(rows), folder.name, "image", initial=len(rows) - missing) as progress:
            running = True
            while running:
                running = any(process.poll() is None for process in processes)
                progress.update(len(rows) - _missing(folder, rows) - progress.n)
                for process in processes:
                    if process.poll():
                        raise RuntimeError(
                            f"a process that fills {folder} failed:\n{process.stderr.read().decode()}"
                        )
                if running:
                    time.sleep(0.02)
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def work(
    module: str, kind: str, folder: str, start: str, stop: str, worker: str, workers: str
) -> None:
    """Body of one process: every `workers`-th row of [start, stop), from `worker` on, that is not done."""
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    settings = json.loads((Path(folder) / "settings.json").read_text())
    del settings["version"]
    recipe = getattr(importlib.import_module(module), kind)(**settings)
    arrays = {
        name: np.load(Path(folder) / f"{name}.npy", mmap_mode="r+")
        for name in (*recipe.arrays(), "done")
    }
    done, order = arrays.pop("done"), recipe.order()
    for row in range(int(start), int(stop))[int(worker) :: int(workers)]:
        if done[row]:
            continue
        item = recipe.item(int(order[row]))
        for name, array in arrays.items():
            array[row] = item[name]
        done[row] = True


def _exit_with_parent() -> None:
    os.read(
        sys.stdin.fileno(), 1
    )  # until the pipe closes; not sys.stdin.read, whose lock a daemon thread must not hold at exit
    os._exit(1)
