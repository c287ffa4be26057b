"""The authors' files, whatever their layout: where they are, what is wrong with them, and one cache of small pictures.

A layout (clevr_files, shapestacks_files, coco_files) lists a split as a `Part`, which opens no picture and no annotation. `load` then reads
the rows that its cache lacks, once, into a folder of memory-mappable arrays; `check` reads everything and reports every fault. (clevr_masks_files, whose
pictures are all in one file, has a `load` and a `check` of its own.)

A cache of N pictures is <cache>/<name>-files-<size>px-<split>-<version>/, with -<objects> after the split where `Limits` leave scenes out, and -crop where
less than the largest square in the middle is kept of the pictures, and in it

    images.npy      (N, H, W, 3) uint8                  properties.npy  (N, 10, 19) float32, see scenes.properties; CLEVR alone
    masks.npy       (N, H, W), where there are masks    done.npy        (N,) bool: which rows are filled
    settings.json   what the folder holds

and `version` a hash of the paths and sizes of all files that the split is read from: a changed tree gets a cache of its own.
"""

import functools
import hashlib
import importlib
import json
import os
import re
import shutil
import tomllib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.lib.format import open_memmap
from PIL import Image, ImageOps, UnidentifiedImageError

from paper_lib.data.generators.generated import cores
from paper_lib.system.progress import bar

READER_VERSION = "1"  # raise it with every change that changes a picture, a mask, a property, an order or a split
CONFIG = Path(__file__).resolve().parents[3] / "data.toml"
LAYOUTS = {  # name -> (module, its description of the tree)
    "clevr_mirror": ("clevr", "MIRROR_LAYOUT"),
    "clevr": ("clevr", "CLEVR_LAYOUT"),
    "clevr_with_masks": ("clevr_with_masks", "LAYOUT"),
    "shapestacks": ("shapestacks", "LAYOUT"),
    "coco": ("coco", "LAYOUT"),
}
SPLITS = ("train", "validation", "test")
ORDER_SEED = 0
HELD_OUT = 5_000  # pictures of a training set that serve as validation, where the authors' own validation set serves as test
MAX_OBJECTS = 10  # of a CLEVR scene
MOST_FAULTS = 20  # that an error shows; `check` shows all
QUEUE = 1_000  # rows that threads are given at once

PICTURE = re.compile(
    r"[^.].*\.(png|jpe?g)", re.IGNORECASE
)  # no hidden files: some archivers leave a ._name.png beside name.png


# Where the files are


def find(name: str, argument: str | os.PathLike | None = None) -> Path | None:
    """The folder that holds the authors' files of data set `name`, or None where no setting names one. The first of:

    1. `argument`, the data set's own folder
    2. the environment variable PAPER_FILES, a folder of data sets: PAPER_FILES/<name>, if that exists
    3. data.toml in the repository root, with a table `[files]` of lines such as coco = "/data/coco"; relative to the repository

    Raises ValueError where a setting names a folder that does not exist.
    """
    if argument is not None:
        return _existing(Path(argument).expanduser(), "the argument", name)
    if collection := os.environ.get("PAPER_FILES"):
        folder = (
            _existing(Path(collection).expanduser(), "the environment variable PAPER_FILES", name)
            / name
        )
        if folder.is_dir():
            return folder
    configured = _config().get(name)
    return (
        None
        if configured is None
        else _existing(
            CONFIG.parent / Path(configured).expanduser(), f"[files] {name} in {CONFIG}", name
        )
    )


def _existing(folder: Path, setting: str, name: str) -> Path:
    if not folder.is_dir():
        raise ValueError(f"{setting} names {folder}, which is not a folder.\n{layout(name)}")
    return folder


def layout(name: str) -> str:
    if name not in LAYOUTS:
        return ""
    module, layout = LAYOUTS[name]
    return getattr(importlib.import_module(f".{module}", __package__), layout)


def _config() -> dict[str, str]:
    if not CONFIG.exists():
        return {}
    try:
        table = tomllib.loads(CONFIG.read_text()).get("files", {})
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{CONFIG} is not TOML: {error}") from None
    if unknown := sorted(set(table) - set(LAYOUTS)):
        raise ValueError(f"{CONFIG}: [files] knows {', '.join(LAYOUTS)}, not {', '.join(unknown)}")
    return table


# What a tree holds


class Fault(Exception):
    """What is wrong with one file; the message begins with its path."""


class TreeError(ValueError):
    """The files are not as they should be: which, and the layout that was expected."""

    def __init__(self, root: Path, faults: list[str], layout: str):
        shown = [f"  - {fault}" for fault in faults[:MOST_FAULTS]]
        if len(faults) > MOST_FAULTS:
            shown.append(f"  - and {len(faults) - MOST_FAULTS:,} more, all of which `check` lists")
        super().__init__("\n".join([f"the files in {root} cannot be used:", *shown, layout]))
        self.faults = faults


class Tree:
    """Listing of the folder `root`. It notes what is missing in `faults`, and the size in bytes of all that it lists in `sizes`.

    Paths are strings, relative to `root`.
    """

    def __init__(self, root: str | os.PathLike):
        self.root, self.sizes, self.faults = Path(root), {}, []
        if not self.root.is_dir():
            self.faults.append(f"{self.root}: no such folder")

    def list(
        self, folder: str, pattern: re.Pattern = PICTURE, needed: str | None = "pictures"
    ) -> list[str]:
        """Files of `folder` whose names match, in natural order. That there are none is a fault, unless nothing is `needed`."""
        try:
            with os.scandir(self.root / folder) as entries:
                found = {
                    f"{folder}/{e.name}": e.stat().st_size
                    for e in entries
                    if pattern.fullmatch(e.name) and e.is_file()
                }
        except (FileNotFoundError, NotADirectoryError):
            found = None
        if not found and needed:
            self.faults.append(
                f"{folder}/: no such folder" if found is None else f"{folder}/: holds no {needed}"
            )
        self.sizes.update(found or {})
        return sorted(found or {}, key=natural)

    def file(self, path: str) -> str:
        """The same path; that there is no such file is a fault."""
        try:
            self.sizes[path] = (self.root / path).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            self.faults.append(f"{path}: no such file")
        return path

    def json(self, path: str):
        try:
            return json.loads((self.root / path).read_bytes())
        except (OSError, ValueError) as error:
            raise Fault(f"{path}: cannot be read as JSON ({error})") from None


def natural(path: str) -> list:
    """Sorting key: 2.png before 10.png."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", path)]


def hashed(content) -> str:
    """Version of the data whose files' paths and sizes are `content`."""
    return hashlib.sha256(json.dumps([READER_VERSION, content]).encode()).hexdigest()[:10]


@dataclass(frozen=True)
class Limits:
    """How many objects the scenes have that are kept; None for no limit."""

    min_objects: int | None = None
    max_objects: int | None = None

    def __post_init__(self):
        if None not in (self.min_objects, self.max_objects) and self.min_objects > self.max_objects:
            raise ValueError(
                f"need min_objects <= max_objects, got {self.min_objects} and {self.max_objects}"
            )

    def keep(self, counts):
        """Whether a scene with so many objects is kept: bool, or an array of bools for an array."""
        least, most = self._ends("0", "inf")
        return (counts >= float(least)) & (counts <= float(most))

    @property
    def settings(self) -> dict[str, int]:
        """Those that are given."""
        return {name: limit for name, limit in vars(self).items() if limit is not None}

    @property
    def folder(self) -> str:
        """What tells the folder of a cache from the folders of other limits."""
        return "-{}to{}objects".format(*self._ends("0", "any")) if self.settings else ""

    def __str__(self) -> str:
        return (
            " with {} to {} objects".format(*self._ends("0", "any number of"))
            if self.settings
            else ""
        )

    def _ends(self, least: str, most: str) -> list[str]:
        return [
            str(none if limit is None else limit)
            for limit, none in ((self.min_objects, least), (self.max_objects, most))
        ]


@dataclass
class Reader:
    """What the annotations say about the rows of a part.

    mask        row -> (height, width) of the whole picture, 0 for background and k for object k; or None
    mask_type   of those numbers
    properties  row -> (MAX_OBJECTS, 19) float32; or None
    faults      of the annotations as a whole

    `mask` and `properties` raise Fault.
    """

    mask: Callable[[int], np.ndarray] | None = None
    mask_type: type = np.uint8
    properties: Callable[[int], np.ndarray] | None = None
    faults: list[str] = field(default_factory=list)


@dataclass
class Part:
    """One split of a tree, listed but not read.

    pictures  path of each row's picture
    indices   (N,) int, the place of each row's picture among the sorted pictures that the split is drawn from
    others    paths of the annotations
    open      reads as much of the annotations as rows can't be read without
    choice    which of the authors' pictures the three splits are
    limits    that have left scenes out of all this
    crop      top, left and side of the square that is kept of pictures this high and wide, all in pixels; None: the largest in the middle, whatever their size
    """

    name: str
    split: str
    tree: Tree
    pictures: list[str]
    indices: np.ndarray
    others: list[str]
    open: Callable[[], Reader]
    layout: str
    licence: str
    choice: str
    limits: Limits = Limits()
    crop: tuple[int, int, int, int, int] | None = None

    def square(self, height: int, width: int) -> tuple[float, float, float]:
        """Top, left and side of what is kept of a picture of this size, in pixels. Raises ValueError for another size than it is to be cropped from."""
        if self.crop and self.crop[3:] != (height, width):
            raise ValueError(
                f"is {width}x{height}; what to crop is known for {self.crop[4]}x{self.crop[3]} only"
            )
        return self.crop[:3] if self.crop else centre_square(height, width)

    @property
    def faults(self) -> list[str]:
        empty = (
            []
            if self.pictures or self.tree.faults
            else [f"{self.tree.root}: has too few pictures{self.limits} for a {self.split} split"]
        )
        return self.tree.faults + empty

    @functools.cached_property
    def version(self) -> str:
        return hashed([[path, self.tree.sizes[path]] for path in self.pictures + self.others])


# Splits. Rows are in a random order, so that the first so many of a split are a fair sample of it.


def known_split(split: str) -> None:
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")


def random_order(count: int) -> np.ndarray:
    """A fixed permutation (count,) int."""
    return np.random.default_rng(ORDER_SEED).permutation(count)


def random_split(count: int, split: str) -> np.ndarray:
    """Indices of 70, 15 or 15 per cent of `count` pictures."""
    train, validation = round(0.7 * count), round(0.85 * count)
    rows = {
        "train": slice(train),
        "validation": slice(train, validation),
        "test": slice(validation, count),
    }
    return random_order(count)[rows[split]]


def hold_out(count: int, split: str) -> np.ndarray:
    """Indices of the `count` pictures of a training set: HELD_OUT of them for "validation" (or a fifth, if that is less), the rest for "train"."""
    validation = min(HELD_OUT, count // 5)
    order = random_order(count)
    return order[:validation] if split == "validation" else order[validation:]


# Pictures


def read_picture(tree: Tree, path: str) -> Image.Image:
    """Upright RGB picture, whatever its mode and its EXIF orientation."""
    try:
        with Image.open(tree.root / path) as picture:
            picture.load()
            try:
                upright = ImageOps.exif_transpose(picture)
            except Exception:  # EXIF so broken that it says nothing about the orientation; a few photographs have such
                upright = picture
            if upright.mode.startswith("I"):  # 16 bits, which Pillow's conversion would clip
                upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
            return upright.convert("RGB")
    except UnidentifiedImageError:
        raise Fault(f"{path}: cannot be read as a picture (of no known format)") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise Fault(f"{path}: cannot be read as a picture ({error})") from None


def centre_square(height: int, width: int) -> tuple[float, float, float]:
    """Top, left and side of the largest square in the middle, in pixels. Resizing it is the same as resizing all, then cropping."""
    side = min(height, width)
    return (height - side) / 2, (width - side) / 2, side


def shrink(picture: Image.Image, size: int, square=None) -> np.ndarray:
    """A square (top, left, side; None: the largest in the middle) as (size, size, 3) uint8, by Pillow's Lanczos filter, which widens with the scale: no
    aliasing."""
    top, left, side = square or centre_square(picture.height, picture.width)
    return np.asarray(
        picture.resize(
            (size, size), Image.Resampling.LANCZOS, box=(left, top, left + side, top + side)
        )
    )


def shrink_mask(mask: np.ndarray, size: int, square=None) -> np.ndarray:
    """The same of a mask (height, width): each pixel takes the number at its centre."""
    top, left, side = square or centre_square(*mask.shape)
    centres = (np.arange(size) + 0.5) * side / size
    return mask[np.floor(top + centres).astype(int)[:, None], np.floor(left + centres).astype(int)]


def _read(part: Part, reader: Reader, row: int, size: int) -> dict[str, np.ndarray]:
    """Arrays of one row, by the names of their files."""
    path = part.pictures[row]
    picture = read_picture(part.tree, path)
    try:
        square = part.square(picture.height, picture.width)
    except ValueError as error:
        raise Fault(f"{path}: {error}") from None
    arrays = {"images": shrink(picture, size, square)}
    if reader.mask:
        mask = reader.mask(row)
        if mask.shape != (picture.height, picture.width):
            raise Fault(
                f"{path}: is {picture.width}x{picture.height}, but its mask is {mask.shape[1]}x{mask.shape[0]}"
            )
        arrays["masks"] = shrink_mask(mask, size, square)
    if reader.properties:
        arrays["properties"] = reader.properties(row)
    return arrays


# Reading the tree


def load(
    part: Part,
    size: int,
    cache: str | os.PathLike,
    max_items: int | None = None,
    workers: int | None = None,
) -> dict:
    """The arrays of a part's first `max_items` rows (all), read-only memory maps, after reading into the cache those that it lacks.

    Returns images, masks and properties (None where there are none), indices and source. `workers` threads read (one for each core).
    Raises TreeError for files that are missing or cannot be read.
    """
    if part.faults:
        raise TreeError(part.tree.root, part.faults, part.layout)
    count = len(part.pictures) if max_items is None else min(max_items, len(part.pictures))
    folder = (
        Path(cache)
        / f"{part.name}-files-{size}px-{part.split}{part.limits.folder}{'-crop' if part.crop else ''}-{part.version}"
    )
    if not folder.exists() or len(_missing(folder, count)):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(
            folder.with_name(folder.name + ".lock")
        ):  # a second process waits, then finds the rows there
            _fill(folder, part, size, count, workers)
    arrays = {
        name: _open(folder / f"{name}.npy", count) for name in ("images", "masks", "properties")
    }
    source = {
        "name": part.name,
        "door": "files",
        "root": str(part.tree.root),
        "version": part.version,
        "split": part.split,
    }
    settings = {"size": size, **part.limits.settings, **({"crop": True} if part.crop else {})}
    return {
        **arrays,
        "indices": part.indices[:count],
        "source": {**source, "settings": settings, "licence": part.licence, "splits": part.choice},
    }


def check(parts: list[Part], workers: int | None = None) -> list[str]:
    """Every fault of a tree, after reading all of it."""
    faults = [fault for part in parts for fault in part.faults]
    for part in parts:
        reader = part.open()
        faults += reader.faults

        def fault(row: int, part=part, reader=reader) -> str | None:
            try:
                _read(part, reader, row, size=1)
            except Fault as error:
                return str(error)

        faults += filter(
            None,
            _in_threads(
                fault, range(len(part.pictures)), workers, f"checking {part.name} {part.split}"
            ),
        )
    return list(dict.fromkeys(faults))


def _in_threads(
    function: Callable, rows, workers: int | None, description: str, done: int = 0
) -> list:
    """[function(row) for row in rows]. Threads do: Pillow decodes and resizes without Python's lock."""
    pool = ThreadPoolExecutor(workers or cores())
    results = []
    try:
        with bar(done + len(rows), description, "image", initial=done) as progress:
            for start in range(0, len(rows), QUEUE):
                for result in pool.map(function, rows[start : start + QUEUE]):
                    results.append(result)
                    progress.update()
    finally:
        pool.shutdown(cancel_futures=True)
    return results


# The cache. All of this may be killed at any moment: the folder appears whole, under its name, by one rename, and a row counts only once
# done.npy says so, which is written after the row.


def _missing(folder: Path, count: int) -> np.ndarray:
    """Which of the first `count` rows the cache lacks."""
    return (
        np.flatnonzero(~np.load(folder / "done.npy", mmap_mode="r")[:count])
        if folder.exists()
        else np.arange(count)
    )


def _open(path: Path, count: int) -> np.ndarray | None:
    return np.load(path, mmap_mode="r")[:count] if path.exists() else None


def _fill(folder: Path, part: Part, size: int, count: int, workers: int | None) -> None:
    rows = _missing(folder, count)
    if folder.exists() and not len(rows):
        return
    reader = part.open()
    if reader.faults:
        raise TreeError(part.tree.root, reader.faults, part.layout)
    if not folder.exists():
        _create(folder, part, reader, size)
    arrays = {path.stem: np.load(path, mmap_mode="r+") for path in folder.glob("*.npy")}

    def fill(row: int) -> None:
        for name, value in _read(part, reader, row, size).items():
            arrays[name][row] = value
        arrays["done"][row] = True

    try:
        _in_threads(fill, rows, workers, folder.name, done=count - len(rows))
    except Fault as fault:
        raise TreeError(part.tree.root, [str(fault)], part.layout) from None


def _create(folder: Path, part: Part, reader: Reader, size: int) -> None:
    unfinished = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    n = len(part.pictures)
    arrays = {"images": ((n, size, size, 3), np.uint8), "done": ((n,), np.bool_)}
    if reader.mask:
        arrays["masks"] = (n, size, size), reader.mask_type
    if reader.properties:
        arrays["properties"] = (n, MAX_OBJECTS, 19), np.float32
    for name, (shape, dtype) in arrays.items():
        open_memmap(unfinished / f"{name}.npy", mode="w+", dtype=dtype, shape=shape).flush()
    settings = {
        "name": part.name,
        "split": part.split,
        "size": size,
        "version": part.version,
        "reader": READER_VERSION,
        **part.limits.settings,
    }
    (unfinished / "settings.json").write_text(json.dumps(settings, indent=1) + "\n")
    unfinished.rename(folder)
