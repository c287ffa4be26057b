"""CLEVR with masks from the authors' file: pictures and instance masks of 100,000 scenes.

Source: Kabra et al. 2019, "Multi-Object Datasets",
https://github.com/google-deepmind/multi_object_datasets. The part that is cut out and the way it is
resized are those of Greff et al. 2019, "Multi-Object Representation Learning with Iterative
Variational Inference", and Locatello et al. 2020: rows 29 to 220 and columns 64 to 255, pictures by
bilinear interpolation, masks by the nearest pixel.

The file is one gzip stream of records, and can only be read from its start. So the three splits
share one cache, which is in the order of the file (scenes are independent, so that the first so
many are a fair sample) and holds the scenes with min_objects to max_objects objects:

    <root>/clevr_with_masks-files-<size>px-<objects>-<version>/
        images.npy   (100,000, size, size, 3) uint8
        masks.npy    (100,000, size, size) uint8
        indices.npy  (100,000,) int, the number of each row's record
        state.json   how many records are read, and how many rows they fill

The rows beyond those take no space. Without `max_items` the file is read to its end; with it, as
far as is needed. Reading that was killed goes on after the last rows that state.json counts, though
it has to unpack what is before them.

Mask k is object k as the authors number them; an object that is out of the picture, or hidden, has
no pixel. Properties are left out: the authors store colour, shape, material and size as numbers and
do not say which is which.
"""

import itertools
import os
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from paper_lib.data.cache import Cache, write_row
from paper_lib.data.clevr_format import CROP, PICTURE_HEIGHT, PICTURE_WIDTH
from paper_lib.data.readers import tfrecord
from paper_lib.data.readers.limits import Limits
from paper_lib.data.readers.pictures import shrink_mask
from paper_lib.data.readers.tree import READER_VERSION, Fault, Tree, TreeError, version_of
from paper_lib.data.splits import check_split, split_rows
from paper_lib.system.files import write_json
from paper_lib.system.machine import cores
from paper_lib.system.progress import bar
from paper_lib.system.reading import BrokenFile, read_json, reading

FILE = "clevr_with_masks_train.tfrecords"
LAYOUT = f"""\
Expected of clevr_with_masks (the authors' file as they distribute it, 10.5 GB, not unpacked):
    {FILE}
"""
LICENCE = "Apache 2.0, of the authors' repository"
CHOICE = (
    "the first 70,000 records train, as in Locatello et al. 2020; the next 15,000 serve as "
    "validation, the last 15,000 as test"
)
RECORDS = 100_000
ENTITIES = 11  # of a record; the first is the background
SAVED = 1_000  # records between two states


def load(
    folder: str | os.PathLike,
    split: str,
    size: int,
    root: str | os.PathLike,
    max_items: int | None = None,
    workers: int | None = None,
    *,
    min_objects: int | None = None,
    max_objects: int | None = None,
) -> dict:
    """Return one split's scenes with `min_objects` to `max_objects` objects; see `listing.load`."""
    check_split(split)
    limits, tree = Limits(min_objects, max_objects), _tree(folder)
    if tree.faults:
        raise _error(tree, tree.faults)
    version = version_of([FILE, tree.sizes[FILE]])
    cache = Cache(
        Path(root) / f"clevr_with_masks-files-{size}px{limits.folder}-{version}",
        {
            "name": "clevr_with_masks",
            "size": size,
            **limits.settings,
            "reader": READER_VERSION,
        },
    )
    cache.complete(
        partial(_is_complete, cache, split, max_items),
        partial(_fill, cache, tree, size, limits, split, max_items, workers),
    )
    rows = _rows(cache, split, max_items)
    if not rows and max_items != 0:
        raise _error(tree, [f"{FILE}: has no scenes{limits} for a {split} split"])
    source = {
        "name": "clevr_with_masks",
        "door": "files",
        "root": str(tree.root),
        "version": version,
        "split": split,
        "settings": {"size": size, **limits.settings},
        "licence": LICENCE,
        "splits": CHOICE,
    }
    cache.read(range(len(_indices(cache))))  # which rows are a split's depends on all indices
    indices = np.array(_indices(cache)[rows.start : rows.stop])
    return {**cache.read(rows), "indices": indices, "source": source}


def check(folder: str | os.PathLike) -> list[str]:
    """Return every fault of the file, or all before the one after which it cannot be read."""
    tree = _tree(folder)
    if tree.faults:
        return tree.faults
    read = partial(_read, size=1, limits=Limits())
    with (
        closing(_outcomes(tree, 0, read, None)) as outcomes,
        bar(RECORDS, "checking clevr_with_masks", "scene") as progress,
    ):
        faults = []
        for outcome in outcomes:
            if isinstance(outcome, Fault):
                faults.append(str(outcome))
            progress.update()
    return faults


def _tree(folder: str | os.PathLike) -> Tree:
    tree = Tree(folder)
    tree.file(FILE)
    return tree


def _error(tree: Tree, faults: list[str]) -> TreeError:
    return TreeError(tree.root, faults, LAYOUT)


# The cache. Rows count only once state.json says so, which is written after them.


class Rotten(Fault):
    """The file cannot be unpacked: what came before may be wrong, too."""


@dataclass(frozen=True)
class State:
    """The state says how many records are read, and how many rows of the cache they fill."""

    records: int = 0
    rows: int = 0

    @property
    def check(self) -> int:
        """A checksum, by which a changed digit is told."""
        return zlib.crc32(f"{self.records} {self.rows}".encode())

    @classmethod
    def of(cls, cache: Cache) -> "State":
        path = cache.folder / "state.json"
        if not path.exists():
            return cls()
        with reading(path, cache.remedy):
            content = read_json(path, cache.remedy)
            check = content.pop("check", None)  # folders from before there were checksums have none
            state = cls(**content)
            if not 0 <= state.rows <= state.records <= RECORDS or check not in (None, state.check):
                raise ValueError(f"{state.rows} rows of {state.records} records")
        return state

    def save(self, cache: Cache) -> None:
        write_json(cache.folder / "state.json", {**vars(self), "check": self.check})


def _indices(cache: Cache) -> np.ndarray:
    """Return the record of each row that is filled."""
    found, state = cache.open_array("indices"), State.of(cache)
    filled = found[: state.rows]
    if len(filled) and not (np.all(np.diff(filled) > 0) and 0 <= filled[0] <= filled[-1] < RECORDS):
        raise BrokenFile(cache.folder / "indices.npy", "is not in order", cache.remedy)
    return filled


def _rows(cache: Cache, split: str, max_items: int | None) -> range:
    """Return the rows of the first `max_items` scenes of a split, as far as they are there."""
    wanted = split_rows(RECORDS)[split]
    start, stop = np.searchsorted(_indices(cache), (wanted.start, wanted.stop)).tolist()
    return range(start, stop)[:max_items]


def _is_complete(cache: Cache, split: str, max_items: int | None) -> bool:
    if not cache.exists():
        return False
    records = State.of(cache).records
    if max_items is None:
        return records == RECORDS
    is_read = records >= split_rows(RECORDS)[split].stop
    return is_read or len(_rows(cache, split, max_items)) == max_items


def _fill(
    cache: Cache,
    tree: Tree,
    size: int,
    limits: Limits,
    split: str,
    max_items: int | None,
    workers: int | None,
) -> None:
    """Read on from the last state, to the end of the file or until the split has `max_items`."""
    if not cache.exists():
        _create(cache, size)
    arrays, state = cache.open_arrays(), State.of(cache)
    wanted = split_rows(RECORDS)[split]
    found = len(_rows(cache, split, max_items))
    read = partial(_read, size=size, limits=limits)
    try:
        with (
            closing(_outcomes(tree, state.records, read, workers)) as outcomes,
            bar(RECORDS, cache.folder.name, "scene", initial=state.records) as progress,
        ):
            for number, outcome in enumerate(outcomes, start=state.records):
                if isinstance(outcome, Fault):
                    if isinstance(outcome, Rotten):
                        state = State()
                    raise _error(tree, [str(outcome)])
                if outcome is not None:
                    write_row(arrays, state.rows, {**outcome, "indices": number})
                    found += number in wanted
                state = State(number + 1, state.rows + (outcome is not None))
                progress.update()
                if state.records % SAVED == 0:
                    state.save(cache)
                has_read_split = found == max_items or state.records == wanted.stop
                if max_items is not None and has_read_split:
                    break
    finally:
        state.save(cache)


def _create(cache: Cache, size: int) -> None:
    arrays = {
        "images": ((size, size, 3), np.uint8),
        "masks": ((size, size), np.uint8),
        "indices": ((), np.int64),
    }
    cache.create(RECORDS, arrays)


# The records


def _outcomes(
    tree: Tree, first: int, read: Callable, workers: int | None
) -> Iterator[dict | Fault | None]:
    """Yield what `read` makes of every record from `first` on, in their order, or its Fault.

    Threads read while the next records are unpacked.
    """

    def outcome(number: int, record: memoryview | Fault) -> dict | Fault | None:
        try:
            return record if isinstance(record, Fault) else read(record, _name(number))
        except Fault as fault:
            return fault

    workers = workers or cores()
    with ThreadPoolExecutor(workers) as pool:
        waiting = deque()
        for number, record in itertools.islice(enumerate(_records(tree)), first, None):
            waiting.append(pool.submit(outcome, number, record))
            if len(waiting) > 4 * workers:
                yield waiting.popleft().result()
        for last in waiting:
            yield last.result()


def _records(tree: Tree) -> Iterator[memoryview | Fault]:
    """Yield the records; where the file is cut off or is another, the last is a Fault."""
    number = 0
    try:
        for record in tfrecord.records(tree.root / FILE):
            if number == RECORDS:
                message = f"is one too many, the authors' file holds {RECORDS:,}"
                yield Fault(f"{_name(number)}: {message}")
                return
            yield record
            number += 1
    except tfrecord.BadFile as error:
        yield Rotten(f"{_name(number)}: {error}")
        return
    if number < RECORDS:
        yield Fault(f"{_name(number)}: is missing, the authors' file holds {RECORDS:,}")


def _name(number: int) -> str:
    return f"{FILE}: record {number}"


def _read(record: memoryview, name: str, size: int, limits: Limits) -> dict[str, np.ndarray] | None:
    """Return picture and mask of a record, or None where it has too many or too few objects."""
    pixels = PICTURE_HEIGHT * PICTURE_WIDTH
    try:
        features = tfrecord.features(record)
        visibility = tfrecord.floats(features, "visibility", ENTITIES)
        if not limits.keep(np.count_nonzero(visibility[1:])):
            return None
        image = tfrecord.one_byte_strings(features, "image", pixels * 3)
        masks = tfrecord.one_byte_strings(features, "mask", ENTITIES * pixels)
    except ValueError as error:
        raise Fault(f"{name}: {error}") from None
    top, left, side = CROP
    rows, columns = slice(top, top + side), slice(left, left + side)
    image = image.reshape(PICTURE_HEIGHT, PICTURE_WIDTH, 3)[rows, columns]
    masks = masks.reshape(ENTITIES, PICTURE_HEIGHT, PICTURE_WIDTH)[:, rows, columns]
    owner = masks.argmax(axis=0).astype(np.uint8)
    return {"images": shrink(image, size), "masks": shrink_mask(owner, size)}


def shrink(image: np.ndarray, size: int) -> np.ndarray:
    """Return a square picture (side, side, 3) uint8 as (size, size, 3).

    By bilinear interpolation, as in TensorFlow. Where it shrinks to less than half, that would pass
    over pixels: there by Pillow's bilinear filter, which widens with the scale (so no aliasing).
    """
    side = len(image)
    if 2 * size < side:
        return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))
    places = np.clip((np.arange(size) + 0.5) * side / size - 0.5, 0, side - 1)
    before = places.astype(int)
    after, share = np.minimum(before + 1, side - 1), (places - before).astype(np.float32)[:, None]
    rows = image[before] * (1 - share[..., None]) + image[after] * share[..., None]
    return np.rint(rows[:, before] * (1 - share) + rows[:, after] * share).astype(np.uint8)
