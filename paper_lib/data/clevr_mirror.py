"""CLEVR-Mirror, rendered here: a whole data set in one folder of memory-mappable arrays.

The folder holds, for N scenes of at most M objects,

    images.npy      (N, H, W, 3) uint8      properties.npy  (N, M, 19) float32, see scenes.properties
    masks.npy       (N, H, W) uint8         done.npy        (N,) bool: which rows are rendered
    settings.json   what was asked for, and the generator's version

Rows are stored split by split, so that a split is a slice: row r shows scene `scene_order(N)[r]`. A scene depends on its index and the
settings, never on N, the number of workers, or what was rendered before.

The data set is that of Singh et al. 2021, "Illiterate DALL-E Learns to Compose": CLEVR with a mirror behind the scene.
"""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.lib.format import open_memmap
from tqdm.auto import tqdm

from .render import DEFAULT_SAMPLES_PER_PIXEL, render
from .scenes import properties, sample_scene

GENERATOR_VERSION = "1"  # raise it with every change that changes a picture, a mask, a property or a split
SPLIT_SEED = 0
NUM_SCENES = 10_000


@dataclass(frozen=True)
class Settings:
    """All that the pictures depend on; see `load`."""

    num_scenes: int
    size: int
    samples_per_pixel: int
    min_objects: int
    max_objects: int
    seed: int
    mirror: bool

    def __post_init__(self):
        if min(self.num_scenes, self.size, self.samples_per_pixel) < 1 or self.seed < 0:
            raise ValueError(f"num_scenes, size and samples_per_pixel must be at least 1 and seed at least 0, got {self}")
        if not 1 <= self.min_objects <= self.max_objects <= 255:  # a mask is 8 bits
            raise ValueError(f"need 1 <= min_objects <= max_objects <= 255, got {self.min_objects} and {self.max_objects}")

    @property
    def name(self) -> str:
        """Of the folder, such as clevr_mirror-32px-96spp-3to6-seed0-7858."""
        kind = "clevr_mirror" if self.mirror else "clevr_nomirror"
        objects = f"{self.min_objects}to{self.max_objects}"
        return f"{kind}-{self.size}px-{self.samples_per_pixel}spp-{objects}-seed{self.seed}-{self.num_scenes}"


def load(
    root: Path,
    split: str,
    size: int,
    max_items: int | None = None,
    *,
    num_scenes: int = NUM_SCENES,
    seed: int = 0,
    min_objects: int = 3,
    max_objects: int = 10,
    samples_per_pixel: int = DEFAULT_SAMPLES_PER_PIXEL,
    mirror: bool = True,
    workers: int | None = None,
) -> dict:
    """The arrays of one split, read-only memory maps, after rendering those of its first `max_items` items (all) that are missing.

    `num_scenes` counts all three splits; `seed` names the sequence of scenes; `workers` processes render (one for each core).
    Returns images, masks, properties, indices (which scene of the sequence each item is) and source.
    Raises ValueError for a folder that was rendered with other settings.
    """
    settings = Settings(num_scenes, size, samples_per_pixel, min_objects, max_objects, seed, mirror)
    rows = split_rows(num_scenes)[split]
    rows = range(rows.start, min(rows.stop, rows.start + max_items) if max_items is not None else rows.stop)
    folder = root / settings.name
    generate(folder, settings, rows, workers)
    part = slice(rows.start, rows.stop)
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r")[part] for name in ("images", "masks", "properties")}
    source = {"name": "clevr_mirror", "door": "generator", "version": GENERATOR_VERSION, "split": split, "settings": asdict(settings)}
    return {**arrays, "indices": scene_order(num_scenes)[part], "source": source}


def scene_order(num_scenes: int) -> np.ndarray:
    """A fixed permutation of the scenes' indices, (num_scenes,) int: the random split."""
    return np.random.default_rng(SPLIT_SEED).permutation(num_scenes)


def split_rows(num_scenes: int) -> dict[str, range]:
    """70, 15 and 15 per cent of the rows."""
    train, validation = round(0.7 * num_scenes), round(0.85 * num_scenes)
    return {"train": range(train), "validation": range(train, validation), "test": range(validation, num_scenes)}


# Rendering into the folder. Everything here may be killed at any moment: the folder appears whole, under its name, by one rename, and
# a row counts only once done.npy says so, which is written after the row.


def generate(folder: Path, settings: Settings, rows: range, workers: int | None = None) -> None:
    """Render those of `rows` that `folder` lacks. A second process that asks for the same folder meanwhile waits, then finds them there."""
    if folder.exists():
        _check(folder, settings)
        if _missing(folder, rows) == 0:
            return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(folder.name + ".lock")):
        if folder.exists():
            _check(folder, settings)
        else:
            _create(folder, settings)
        if _missing(folder, rows):
            _render_in_processes(folder, rows, workers or _cores())


def _check(folder: Path, settings: Settings) -> None:
    path = folder / "settings.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    asked = {"version": GENERATOR_VERSION, **asdict(settings)}
    different = [f"{key} is {found.get(key)!r}, not {value!r}" for key, value in asked.items() if found.get(key) != value]
    if different:
        raise ValueError(
            f"{path} describes another data set than the one asked for: {'; '.join(different)}. "
            f"Delete the folder {folder} to have it rendered again, or name another root."
        )


def _create(folder: Path, settings: Settings) -> None:
    unfinished = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    n, size = settings.num_scenes, settings.size
    arrays = {
        "images": ((n, size, size, 3), np.uint8),
        "masks": ((n, size, size), np.uint8),
        "properties": ((n, settings.max_objects, 19), np.float32),
        "done": ((n,), np.bool_),
    }
    for name, (shape, dtype) in arrays.items():
        open_memmap(unfinished / f"{name}.npy", mode="w+", dtype=dtype, shape=shape).flush()
    text = json.dumps({"version": GENERATOR_VERSION, **asdict(settings)}, indent=2)
    (unfinished / "settings.json").write_text(text + "\n")
    unfinished.rename(folder)


def _missing(folder: Path, rows: range) -> int:
    done = np.load(folder / "done.npy", mmap_mode="r")
    return len(rows) - int(done[rows.start : rows.stop].sum())


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _render_in_processes(folder: Path, rows: range, workers: int) -> None:
    """Start `workers` fresh interpreters and watch done.npy.

    Not multiprocessing: its spawned children import the caller's main module again, which breaks scripts without a guard, scripts read
    from standard input and some notebooks.
    """
    missing = _missing(folder, rows)
    workers = min(workers, missing)
    here = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", "import sys; from paper_lib.data.clevr_mirror import work; work(*sys.argv[1:])"]
            + [str(folder), str(rows.start), str(rows.stop), str(worker), str(workers)],
            stdin=subprocess.PIPE,  # never written: it closes when this process dies, however it dies, and then the worker stops
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,  # Ctrl-C is for this process to handle
        )
        for worker in range(workers)
    ]
    try:
        with tqdm(total=len(rows), initial=len(rows) - missing, desc=folder.name, unit="image") as progress:
            running = True
            while running:
                running = any(process.poll() is None for process in processes)
                progress.update(len(rows) - _missing(folder, rows) - progress.n)
                for process in processes:
                    if process.poll():
                        raise RuntimeError(f"a process that renders {folder} failed:\n{process.stderr.read().decode()}")
                time.sleep(0.1)
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def work(folder: str, start: str, stop: str, worker: str, workers: str) -> None:
    """Body of one rendering process: every `workers`-th row of [start, stop), from `worker` on, that is not done."""
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    settings = json.loads((Path(folder) / "settings.json").read_text())
    names = ("images", "masks", "properties", "done")
    images, masks, sets, done = (np.load(Path(folder) / f"{name}.npy", mmap_mode="r+") for name in names)
    order = scene_order(settings["num_scenes"])
    for row in range(int(start), int(stop))[int(worker) :: int(workers)]:
        if done[row]:
            continue
        index = int(order[row])
        scene = sample_scene(settings["seed"], index, settings["min_objects"], settings["max_objects"])
        noise = int(np.random.SeedSequence([settings["seed"], index]).generate_state(1)[0])
        images[row], masks[row] = render(scene, settings["size"], settings["samples_per_pixel"], settings["mirror"], noise)
        sets[row] = properties(scene, settings["max_objects"])
        done[row] = True


def _exit_with_parent() -> None:
    os.read(sys.stdin.fileno(), 1)  # until the pipe closes; not sys.stdin.read, whose lock a daemon thread must not hold at exit
    os._exit(1)
