"""One split of the authors' files: listed, then read into a cache of small pictures.

A layout (`clevr`, `shapestacks`, `coco`) lists a split as a `Listing`, which opens no picture and
no annotation. `load` then reads the rows that the cache lacks, once; `check` reads everything and
reports every fault. (`clevr_with_masks`, whose pictures are all in one file, reads it itself.)

The cache is <name>-files-<size>px-<split>-<version>/, with -<objects> after the split where
`Limits` leave scenes out, and -crop where less than the largest square in the middle is kept. It
holds

    images.npy   (N, size, size, 3) uint8      properties.npy  (N, 10, 19) float32, CLEVR's alone
    masks.npy    (N, size, size), if any       done.npy, settings.json   see `cache`

`version` is a hash of the paths and sizes of all files that the split is read from: a changed tree
gets a cache of its own.
"""

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from paper_lib.data.cache import DONE, Cache, write_row
from paper_lib.data.clevr_format import MAX_OBJECTS, PROPERTY_COLUMNS
from paper_lib.data.parallel import in_threads
from paper_lib.data.readers.limits import Limits
from paper_lib.data.readers.pictures import (
    Square,
    centre_square,
    read_picture,
    shrink,
    shrink_mask,
)
from paper_lib.data.readers.tree import READER_VERSION, Fault, Tree, TreeError


@dataclass
class Annotations:
    """Annotations say what is known of the rows beside their pictures.

    mask        row -> (height, width) of the whole picture, 0 for background and k for object k
    mask_type   the type of those numbers
    properties  row -> (MAX_OBJECTS, PROPERTY_COLUMNS) float32
    faults      what is wrong with the annotations as a whole

    `mask` and `properties` raise Fault; they are None where there is no such thing.
    """

    mask: Callable[[int], np.ndarray] | None = None
    mask_type: type = np.uint8
    properties: Callable[[int], np.ndarray] | None = None
    faults: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Crop:
    """A crop keeps one square of pictures that are `height` pixels high and `width` wide."""

    square: Square
    height: int
    width: int


@dataclass
class Listing:
    """A listing names the files of one split of a tree, before any is read.

    pictures          path of each row's picture
    indices           (N,) int, each row's place among the sorted pictures that the split is part of
    annotation_files  paths of the other files
    read_annotations  reads as much of them as rows can't be read without
    layout            the tree that is expected
    choice            which of the authors' pictures the three splits are
    limits            the limits by which scenes have been left out
    crop              what is kept of the pictures; None: the largest square in the middle
    """

    name: str
    split: str
    tree: Tree
    pictures: list[str]
    indices: np.ndarray
    annotation_files: list[str]
    read_annotations: Callable[[], Annotations]
    layout: str
    licence: str
    choice: str
    limits: Limits = Limits()
    crop: Crop | None = None

    def square(self, height: int, width: int) -> Square:
        """Return what is kept of a picture. Raises ValueError for a size that `crop` is not of."""
        if self.crop is None:
            return centre_square(height, width)
        if (self.crop.height, self.crop.width) != (height, width):
            known = f"{self.crop.width}x{self.crop.height}"
            raise ValueError(f"is {width}x{height}; what to crop is known for {known} only")
        return self.crop.square

    @property
    def faults(self) -> list[str]:
        if self.pictures or self.tree.faults:
            return self.tree.faults
        return [f"{self.tree.root}: has too few pictures{self.limits} for a {self.split} split"]

    @functools.cached_property
    def version(self) -> str:
        return self.tree.version(self.pictures + self.annotation_files)

    def error(self, faults: list[str]) -> TreeError:
        return TreeError(self.tree.root, faults, self.layout)

    def annotations(self) -> Annotations:
        """Read the annotations. Raises TreeError where they have faults as a whole."""
        annotations = self.read_annotations()
        if annotations.faults:
            raise self.error(annotations.faults)
        return annotations


def load(
    listing: Listing,
    size: int,
    root: str | os.PathLike,
    max_items: int | None = None,
    workers: int | None = None,
) -> dict:
    """Return the arrays of a split's first `max_items` rows (all), read-only memory maps.

    The rows that the cache, in the folder `root`, lacks are read into it first, by `workers`
    threads (one for each core).

    Returns images, masks and properties (None where there are none), indices and source. Raises
    TreeError for files that are missing or cannot be read.
    """
    if listing.faults:
        raise listing.error(listing.faults)
    rows = range(len(listing.pictures))[:max_items]
    cache = _cache(listing, size, Path(root))
    _read_into(cache, listing, size, rows, workers)
    crop = {"crop": True} if listing.crop else {}
    source = {
        "name": listing.name,
        "door": "files",
        "root": str(listing.tree.root),
        "version": listing.version,
        "split": listing.split,
        "settings": {"size": size, **listing.limits.settings, **crop},
        "licence": listing.licence,
        "splits": listing.choice,
    }
    return {**cache.read(rows), "indices": listing.indices[: len(rows)], "source": source}


def _cache(listing: Listing, size: int, root: Path) -> Cache:
    name = f"{listing.name}-files-{size}px-{listing.split}{listing.limits.folder}"
    crop = "-crop" if listing.crop else ""
    settings = {
        "name": listing.name,
        "split": listing.split,
        "size": size,
        "version": listing.version,
        "reader": READER_VERSION,
        **listing.limits.settings,
    }
    return Cache(root / f"{name}{crop}-{listing.version}", settings)


def _read_into(cache: Cache, listing: Listing, size: int, rows: range, workers: int | None) -> None:
    def is_complete() -> bool:
        return cache.exists() and not len(cache.missing(rows))

    def fill() -> None:
        annotations = listing.annotations()
        if not cache.exists():
            cache.create(len(listing.pictures), _arrays(annotations, size))
        arrays = cache.open_arrays()

        def read(row: int) -> None:
            write_row(arrays, row, _read(listing, annotations, row, size))

        missing = cache.missing(rows)
        done = len(rows) - len(missing)
        try:
            in_threads(read, missing, workers, cache.folder.name, done)
        except Fault as fault:
            raise listing.error([str(fault)]) from None

    cache.complete(is_complete, fill)


def _arrays(annotations: Annotations, size: int) -> dict[str, tuple[tuple[int, ...], type]]:
    arrays = {"images": ((size, size, 3), np.uint8), DONE: ((), np.bool_)}
    if annotations.mask:
        arrays["masks"] = (size, size), annotations.mask_type
    if annotations.properties:
        arrays["properties"] = (MAX_OBJECTS, PROPERTY_COLUMNS), np.float32
    return arrays


def _read(listing: Listing, annotations: Annotations, row: int, size: int) -> dict[str, np.ndarray]:
    """Return one row: a value for each array. Raises Fault."""
    path = listing.pictures[row]
    picture = read_picture(listing.tree, path)
    try:
        square = listing.square(picture.height, picture.width)
    except ValueError as error:
        raise Fault(f"{path}: {error}") from None
    item = {"images": shrink(picture, size, square)}
    if annotations.mask:
        mask = annotations.mask(row)
        if mask.shape != (picture.height, picture.width):
            raise Fault(
                f"{path}: is {picture.width}x{picture.height}, "
                f"but its mask is {mask.shape[1]}x{mask.shape[0]}"
            )
        item["masks"] = shrink_mask(mask, size, square)
    if annotations.properties:
        item["properties"] = annotations.properties(row)
    return item


def check(listings: list[Listing], workers: int | None = None) -> list[str]:
    """Return every fault of a tree, after reading all of it."""
    faults = [fault for listing in listings for fault in listing.faults]
    for listing in listings:
        annotations = listing.read_annotations()
        faults += annotations.faults

        def fault(row: int, listing=listing, annotations=annotations) -> str | None:
            try:
                _read(listing, annotations, row, size=1)
            except Fault as error:
                return str(error)

        rows = range(len(listing.pictures))
        found = in_threads(fault, rows, workers, f"checking {listing.name} {listing.split}")
        faults += [fault for fault in found if fault]
    return list(dict.fromkeys(faults))
