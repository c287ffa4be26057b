"""Rotten files: every kind of file that the project reads is cut off, changed, emptied, exchanged
or removed, and read.

Whoever reads must find what was written, or refuse with the file's name and the remedy.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import test_clevr_masks
import test_data_files as trees
import torch
from toy import PLAIN, Toy

from faults.fault import HARMLESS, REFUSED, UNSEEN, Fault
from paper_lib import runs
from paper_lib.data.generators import recipe
from paper_lib.data.readers import clevr, clevr_with_masks, location
from paper_lib.explore import scenes
from paper_lib.fixed_point import Iteration, Unrolled
from paper_lib.paper import execute, parameters
from paper_lib.runs import RunResult
from paper_lib.system.reading import BrokenFile, read_json
from paper_lib.training.config import DataConfig, TrainingConfig
from paper_lib.training.loop import train

CUTS, FLIPS = 20, 20  # of each file
REMEDY = re.compile(
    "git checkout|made again|Delete|Train it|run is made|Fetch or unpack|Mend or delete|Expected of"
)


@dataclass(frozen=True)
class File:
    """A file and how it is read.

    read    returns everything that is read of it, and of what belongs to it
    others  files of other runs or data sets, with which it is exchanged
    proof   "checksum" tells any change; "format", of the authors' files, that a file is whole;
            "nothing" tells whether words that somebody wrote are all
    """

    kind: str
    path: Path
    read: Callable[[], object]
    others: tuple[Path, ...] = ()
    proof: str = "checksum"


def faults(files: list[File], rng: np.random.Generator, cuts=CUTS, flips=FLIPS) -> Iterator[Fault]:
    """Yield the faults of files that are whole now, and will be again."""
    for file in files:
        expected = fingerprint(file.read())
        for what, content in damages(file, rng, cuts, flips):

            def meet(file=file, content=content, expected=expected, what=what) -> str:
                return _meet(file, content, expected, certain="flipped" not in what)

            yield Fault(file.kind, f"{file.path.name} {what}", meet)


def damages(file: File, rng, cuts: int, flips: int) -> Iterator[tuple[str, bytes | None]]:
    """Yield what is done to a file, in words, and its content then; None where it is removed."""
    content = file.path.read_bytes()
    yield "emptied", b""
    yield "filled with garbage", rng.bytes(len(content))
    yield "filled with zeros", bytes(len(content))
    yield "replaced by words", b"<html>404 Not Found</html>\n"
    yield "removed", None
    for at in np.unique(np.linspace(1, len(content) - 1, cuts).astype(int)):
        yield f"cut off after {at} of {len(content)} bytes", content[:at]
    for bit in rng.integers(0, 8 * len(content), flips):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        yield f"with bit {bit} flipped", bytes(changed)
    for other in file.others:
        if other.read_bytes() != content:
            yield f"exchanged with {other.parent.name}/{other.name}", other.read_bytes()


def _meet(file: File, content: bytes | None, expected: str, certain: bool) -> str:
    with replaced(file.path, content):
        try:
            found = fingerprint(file.read())
        except (BrokenFile, ValueError, FileNotFoundError) as error:
            said = str(error)
            names = file.path.name, file.path.stem, str(file.path.parent), file.path.parent.name
            assert any(name in said for name in names), f"unnamed: {said}"
            assert REMEDY.search(said), f"no remedy: {said}"
            return REFUSED
    if found == expected:
        return HARMLESS
    may_be_unseen = {"checksum": False, "format": not certain, "nothing": True}
    assert may_be_unseen[file.proof], "another value, without a word"
    return UNSEEN


@contextmanager
def replaced(path: Path, content: bytes | None) -> Iterator[None]:
    """Exchange a file's content; the file that was there stays as it is, for who has it open."""
    kept = path.with_name(f".{path.name}.kept")
    was_there = path.exists()
    if was_there:
        path.rename(kept)
    try:
        if content is not None:
            path.write_bytes(content)
        yield
    finally:
        path.unlink(missing_ok=True)
        if was_there:
            kept.rename(path)


def fingerprint(value) -> str:
    """Return a hash of whatever is read: numbers, arrays, tables, and dicts and lists of them."""
    digest = hashlib.sha256()
    _update(digest, value)
    return digest.hexdigest()


def _update(digest, value) -> None:
    if isinstance(value, dict):
        for key in sorted(value, key=str):
            digest.update(str(key).encode())
            _update(digest, value[key])
    elif isinstance(value, list | tuple):
        for part in value:
            _update(digest, part)
    elif isinstance(value, pd.DataFrame):
        digest.update(value.to_csv().encode())
    elif isinstance(value, torch.Tensor):
        _update(digest, value.detach().numpy())
    elif isinstance(value, np.ndarray):
        digest.update(f"{value.dtype} {value.shape}".encode() + value.tobytes())
    else:
        digest.update(repr(value).encode())


# ---- what the project writes ----


def run_files(run: RunResult, other: RunResult) -> list[File]:
    """Return the files of a trained run, beside those of another one."""

    def read() -> tuple:
        found = RunResult.load(run.config, run.folder)
        parts = [found.summary, found.metrics, found.samples, found.weights]
        if run.has_cell:
            attention, inputs, slots = found.cell(Iteration(3), Unrolled())
            parts += [attention.state_dict(), inputs, slots]
        return tuple(parts)

    names = sorted(path.name for path in run.folder.iterdir())
    return [
        File(f"a run's {name}", run.folder / name, read, (other.folder / name,)) for name in names
    ]


def checkpoint_files(folder: Path) -> list[File]:
    """Return the checkpoints of a training that was stopped, and of another one."""
    paths = []
    for name in ("run", "other"):
        (folder / name).mkdir(parents=True)
        torch.manual_seed(len(paths))
        train(Toy(), TrainingConfig(**PLAIN | {"steps": 4}), 0, folder / name)
        paths.append(folder / name / "checkpoint.safetensors")

    def read() -> tuple:
        """Go on for two steps, as a run that was stopped does."""
        target = folder / "resumed" / "run"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        if not paths[0].exists():
            raise FileNotFoundError(f"{paths[0]}: the run is made again")
        shutil.copy(paths[0], target)
        task = Toy()
        try:
            outcome = train(task, TrainingConfig(**PLAIN), 0, target)
        except BrokenFile as error:
            raise BrokenFile(paths[0], *error.args[1:]) from error
        outcome.pop("seconds")
        return outcome, task.model.state_dict(), (target / "metrics.csv").read_bytes()

    return [File("checkpoint", paths[0], read, (paths[1],))]


@dataclass(frozen=True, kw_only=True)
class Noise(recipe.Recipe):
    """Pictures, masks and properties of noise: a data set that is made at once."""

    data_set = "noise"
    version = "1"
    seed: int

    @property
    def folder(self) -> str:
        return f"noise-seed{self.seed}"

    @property
    def count(self) -> int:
        return 20

    def arrays(self) -> dict:
        return {
            "images": ((8, 8, 3), np.uint8),
            "masks": ((8, 8), np.uint8),
            "properties": ((2, 3), np.float32),
        }

    def item(self, index: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng([self.seed, index])
        shapes = {name: (shape, dtype) for name, (shape, dtype) in self.arrays().items()}
        return {
            n: rng.integers(0, 255, shape).astype(dtype) for n, (shape, dtype) in shapes.items()
        }


def cache_files(root: Path) -> list[File]:
    """Return the files of a data set that was made here."""
    made, other = Noise(seed=0), Noise(seed=1)

    def read() -> list:
        found = [recipe.load(root, made, split, workers=1) for split in ("train", "test")]
        return [{**part, "source": None} for part in found]

    for each in (made, other):
        recipe.load(root, each, "train", workers=1)
        recipe.load(root, each, "test", workers=1)
    paths = sorted((root / made.folder).iterdir())
    return [
        File(f"data: {path.name}", path, read, (root / other.folder / path.name,)) for path in paths
    ]


# ---- what others write ----

LAYOUTS = {  # data set -> a picture, and the files that say what pictures show
    "clevr_mirror": ("images/CLEVR_new_3.png", "scenes/CLEVR_new_3.json"),
    "clevr": ("images/train/CLEVR_train_000001.png", "scenes/CLEVR_train_scenes.json"),
    "shapestacks": ("recordings/*h=2*train/rgb-*cam_1-*.png", "splits/default/train.txt"),
    "shapestacks masks": ("recordings/*h=2*train/iseg-*cam_1-*.map",),
    "coco": ("train2017/000000000007.jpg", "annotations/instances_train2017.json"),
}


def layout_files(root: Path) -> list[File]:
    """Return a picture and a description in each of the authors' layouts, to be read anew."""
    files = []
    for name, patterns in LAYOUTS.items():
        make, load, _ = trees.TREES[name.split()[0]]
        folder = make(root / name.replace(" ", "-"))

        def read(folder=folder, load=load) -> list:
            shutil.rmtree(root / "cache", ignore_errors=True)
            splits = ("train", "validation")
            parts = [load(folder, split, 8, root / "cache", workers=1) for split in splits]
            return [{**part, "source": None} for part in parts]

        for pattern in patterns:
            (path,) = folder.glob(pattern)
            # a list may be shorter, and a folder may hold fewer pictures, without a word
            proof = "nothing" if name == "shapestacks" else "format"
            files.append(File(f"the authors' {name}", path, read, proof=proof))
    return files


def tfrecord_files(root: Path) -> list[File]:
    """Return the one file of CLEVR with masks, in small; its gzip stream has a checksum.

    It is stored, not deflated, so that a flipped bit is one pixel's and no more.
    """
    folder = root / "tree"
    folder.mkdir(parents=True)
    records = b"".join(test_clevr_masks.record(i) for i in range(12))
    (folder / clevr_with_masks.FILE).write_bytes(gzip.compress(records, 0))

    def read() -> dict:
        """Twice, as a second call must not pass over what the first one saw."""
        cache = root / "cache"
        shutil.rmtree(cache, ignore_errors=True)
        try:
            return _read_masks(folder, cache)
        except ValueError:
            return _read_masks(folder, cache)

    return [File("the authors' clevr_with_masks", folder / clevr_with_masks.FILE, read)]


def _read_masks(folder: Path, cache: Path) -> dict:
    found = clevr_with_masks.load(folder, "train", 8, cache, workers=1)
    return {**found, "source": None}


def state_files(root: Path) -> list[File]:
    """Return what was read of CLEVR with masks, and how far."""
    folder = test_clevr_masks.put_tree(
        root / "tree", [test_clevr_masks.record(i) for i in range(12)]
    )
    cache = root / "cache"

    def read() -> dict:
        return _read_masks(folder, cache)

    read()
    (made,) = (path for path in cache.iterdir() if path.is_dir())
    names = ("state.json", "indices.npy", "images.npy")
    return [File(f"data: {name}", made / name, read) for name in names]


def scene_files(root: Path) -> list[File]:
    """Return the test scenes that are kept for readers, beside another set's."""

    class Kept(DataConfig):
        def load(self, split: str):
            rng = np.random.default_rng(self.size)
            shape = (30, self.size, self.size)
            images = rng.integers(0, 255, (*shape, 3), dtype=np.uint8)
            return SimpleNamespace(images=images, masks=rng.integers(0, 5, shape))

    given = parameters.check("smoke")

    def read(size: int = 8) -> tuple:
        kept, os.environ["PAPER_RESULTS"] = os.environ["PAPER_RESULTS"], str(root)
        try:
            return scenes.scenes(Kept(name="clevr", size=size), given)
        finally:
            os.environ["PAPER_RESULTS"] = kept

    read()
    read(16)
    path, other = sorted((root / "smoke/scenes").iterdir(), reverse=True)
    return [File("scenes to look at", path, read, (other,))]


def notebook_files(root: Path) -> list[File]:
    """Return a notebook, beside another one, as papermill is given it."""
    paths = []
    for name in ("fig02_one_line", "fig01_overview"):
        paths.append(root / name / f"{name}.ipynb")
        paths[-1].parent.mkdir(parents=True)
        shutil.copy(runs.ROOT / "notebooks" / paths[-1].name, paths[-1])

    def read() -> dict:
        execute.ensure_sound(paths[0])
        return read_json(paths[0], "git checkout")

    # its words and its code may be anything that is valid
    return [File("notebook", paths[0], read, (paths[1],), proof="nothing")]


def count_files(root: Path) -> list[File]:
    """Return how many objects CLEVR's scenes have, counted once, for limits of their number."""
    folder, cache = trees.clevr_tree(root / "tree"), root / "cache"

    def read() -> dict:
        return {**clevr.load_clevr(folder, "train", 8, cache, max_objects=9), "source": None}

    read()
    (path,) = cache.glob("*-objects.npz")
    return [File("data: objects.npz", path, read)]


def config_files(root: Path) -> list[File]:
    """Return data.toml."""
    for name in ("coco", "clevr"):
        (root / name).mkdir(parents=True)
    path = root / "data.toml"
    path.write_text(f'# where the files are\n[files]\ncoco = "{root / "coco"}"\n')

    def read() -> list:
        kept, location.CONFIG = location.CONFIG, path
        try:
            return [location.find(name) for name in location.LAYOUTS]
        finally:
            location.CONFIG = kept

    return [File("data.toml", path, read, proof="nothing")]


MAKERS = (
    checkpoint_files,
    cache_files,
    layout_files,
    tfrecord_files,
    state_files,
    count_files,
    config_files,
    scene_files,
    notebook_files,
)
