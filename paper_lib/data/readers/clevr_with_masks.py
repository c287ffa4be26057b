"""CLEVR with masks from the authors' file: pictures and instance masks of 100,000 scenes.

Source: Kabra et al. 2019, "Multi-Object Datasets", https://github.com/google-deepmind/multi_object_datasets. The part that is cut out and the way it is
resized are those of Greff et al. 2019, "Multi-Object Representation Learning with Iterative Variational Inference", and Locatello et al. 2020: rows 29 to
220 and columns 64 to 255, pictures by bilinear interpolation, masks by the nearest pixel.

The file is one gzip stream of TFRecords, each a tf.train.Example, and can only be read from its start. So the three splits share one cache, which is in
the order of the file (scenes are independent, so that the first so many are a fair sample) and holds the scenes with min_objects to max_objects objects:

    <cache>/clevr_with_masks-files-<size>px-<objects>-<version>/
        images.npy   (100,000, size, size, 3) uint8          indices.npy  (100,000,) int, the number of each row's record
        masks.npy    (100,000, size, size) uint8             state.json   how many records are read, and how many rows they fill

The rows beyond those take no space. Without `max_items` the file is read to its end; with it, as far as is needed. Reading that was killed goes on after
the last rows that state.json counts, though it has to unpack what is before them.

Mask k is object k as the authors number them; an object that is out of the picture, or hidden, has no pixel. Properties are left out: the authors store
colour, shape, material and size as numbers and do not say which is which.
"""

import functools
import gzip
import itertools
import json
import math
import os
import shutil
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.lib.format import open_memmap
from PIL import Image

from paper_lib.data.generators.clevr_scenes import CLEVR_CROP, CLEVR_HEIGHT, CLEVR_WIDTH
from paper_lib.data.generators.generated import cores
from paper_lib.data.readers import files
from paper_lib.data.readers.files import Fault, Limits, Tree, TreeError
from paper_lib.system.files import write_json
from paper_lib.system.progress import bar

FILE = "clevr_with_masks_train.tfrecords"
LAYOUT = f"""\
Expected of clevr_with_masks (the authors' file as they distribute it, 10.5 GB, not unpacked):
    {FILE}
"""
LICENCE = "Apache 2.0, of the authors' repository"
CHOICE = "the first 70,000 records train, as in Locatello et al. 2020; the next 15,000 serve as validation, the last 15,000 as test"
SPLITS = {
    "train": (0, 70_000),
    "validation": (70_000, 85_000),
    "test": (85_000, 100_000),
}  # the first record, and the first beyond
ENTITIES = 11  # of a record; the first is the background
LONGEST = 2**24  # bytes of a record; the authors' have 3.2 million
SAVED = 1_000  # records between two states

BYTES, FLOATS = 1, 2  # which list a tf.train.Feature holds


def load(
    folder: str | os.PathLike,
    split: str,
    size: int,
    cache: str | os.PathLike,
    max_items: int | None = None,
    workers: int | None = None,
    *,
    min_objects: int | None = None,
    max_objects: int | None = None,
) -> dict:
    """See files.load. Masks, no properties; of the scenes with `min_objects` to `max_objects` objects (all)."""
    files.known_split(split)
    limits, tree = Limits(min_objects, max_objects), _tree(folder)
    if tree.faults:
        raise TreeError(tree.root, tree.faults, LAYOUT)
    version = files.hashed([FILE, tree.sizes[FILE]])
    place = Path(cache) / f"clevr_with_masks-files-{size}px{limits.folder}-{version}"
    if not _enough(place, split, max_items):
        place.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(
            place.with_name(place.name + ".lock")
        ):  # a second process waits, then finds the rows there
            if not _enough(place, split, max_items):
                _fill(place, tree, size, limits, split, max_items, workers)
    rows = _rows(place, split, max_items)
    if rows.start == rows.stop and max_items != 0:
        raise TreeError(tree.root, [f"{FILE}: has no scenes{limits} for a {split} split"], LAYOUT)
    source = {
        "name": "clevr_with_masks",
        "door": "files",
        "root": str(tree.root),
        "version": version,
        "split": split,
    }
    return {
        "images": np.load(place / "images.npy", mmap_mode="r")[rows],
        "masks": np.load(place / "masks.npy", mmap_mode="r")[rows],
        "properties": None,
        "indices": np.array(np.load(place / "indices.npy", mmap_mode="r")[rows]),
        "source": {
            **source,
            "settings": {"size": size, **limits.settings},
            "licence": LICENCE,
            "splits": CHOICE,
        },
    }


def check(folder: str | os.PathLike) -> list[str]:
    """Every fault of the file, or all before the one after which it cannot be read."""
    tree = _tree(folder)
    if tree.faults:
        return tree.faults
    with (
        closing(
            _outcomes(tree, 0, functools.partial(_read, size=1, limits=Limits()), None)
        ) as outcomes,
        _bar(0, "checking clevr_with_masks") as progress,
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


# The cache. All of this may be killed at any moment: the folder appears whole, under its name, by one rename, and rows count only once
# state.json says so, which is written after the rows.


def _state(place: Path) -> tuple[int, int]:
    """How many records are read, and how many rows they fill."""
    if not place.exists():
        return 0, 0
    state = json.loads((place / "state.json").read_text())
    return state["records"], state["rows"]


def _rows(place: Path, split: str, max_items: int | None) -> slice:
    """The rows of the first `max_items` scenes of a split, as far as they are there."""
    filled = np.load(place / "indices.npy", mmap_mode="r")[: _state(place)[1]]
    start, stop = np.searchsorted(filled, SPLITS[split]).tolist()
    return slice(start, stop if max_items is None else min(stop, start + max_items))


def _enough(place: Path, split: str, max_items: int | None) -> bool:
    if not place.exists():
        return False
    records, _ = _state(place)
    if max_items is None:
        return records == SPLITS["test"][1]
    rows = _rows(place, split, max_items)
    return records >= SPLITS[split][1] or rows.stop - rows.start == max_items


def _fill(
    place: Path,
    tree: Tree,
    size: int,
    limits: Limits,
    split: str,
    max_items: int | None,
    workers: int | None,
) -> None:
    if not place.exists():
        _create(place, size, limits)
    arrays = {path.stem: np.load(path, mmap_mode="r+") for path in place.glob("*.npy")}
    first, stop = SPLITS[split]
    state = _state(place)
    lacking = max_items and max_items - int((first <= arrays["indices"][: state[1]]).sum())
    read = functools.partial(_read, size=size, limits=limits)
    try:
        with (
            closing(_outcomes(tree, state[0], read, workers)) as outcomes,
            _bar(state[0], place.name) as progress,
        ):
            for number, outcome in enumerate(outcomes, start=state[0]):
                if isinstance(outcome, Fault):
                    raise TreeError(tree.root, [str(outcome)], LAYOUT)
                if outcome is not None:
                    for name, value in outcome.items():
                        arrays[name][state[1]] = value
                    arrays["indices"][state[1]] = number
                    if lacking and number >= first:
                        lacking -= 1
                state = number + 1, state[1] + (outcome is not None)
                progress.update()
                if state[0] % SAVED == 0:
                    _save(place, state)
                if max_items is not None and (lacking == 0 or state[0] == stop):
                    break
    finally:
        _save(place, state)


def _save(place: Path, state: tuple[int, int]) -> None:
    write_json(place / "state.json", dict(zip(("records", "rows"), state)))


def _create(place: Path, size: int, limits: Limits) -> None:
    unfinished = place.with_name(place.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    n = SPLITS["test"][1]
    for name, shape, dtype in (
        ("images", (n, size, size, 3), np.uint8),
        ("masks", (n, size, size), np.uint8),
        ("indices", (n,), np.int64),
    ):
        open_memmap(unfinished / f"{name}.npy", mode="w+", dtype=dtype, shape=shape).flush()
    settings = {
        "name": "clevr_with_masks",
        "size": size,
        **limits.settings,
        "reader": files.READER_VERSION,
    }
    write_json(unfinished / "settings.json", settings)
    _save(unfinished, (0, 0))
    unfinished.rename(place)


def _bar(done: int, description: str):
    return bar(SPLITS["test"][1], description, "scene", initial=done)


# The file


def _outcomes(
    tree: Tree, first: int, read: Callable, workers: int | None
) -> Iterator[dict | Fault | None]:
    """What `read` makes of every record from `first` on, in their order, or the Fault of it. Threads read while the next records are unpacked."""

    def outcome(number: int, record: memoryview | Fault) -> dict | Fault | None:
        try:
            return record if isinstance(record, Fault) else read(record, f"{FILE}: record {number}")
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
    """The records one after the other: each is its length (8 bytes), 4 bytes of checksum, the record and 4 bytes of checksum.

    The checksums are left to gzip, which has one of its own. Where the file is cut off or is another, the last that comes is a Fault.
    """
    number, expected = 0, SPLITS["test"][1]
    try:
        with gzip.open(tree.root / FILE) as stream:
            while head := stream.read(12):
                length = int.from_bytes(head[:8], "little")
                if len(head) < 12 or length > LONGEST:
                    yield Fault(f"{FILE}: record {number}: does not begin as a TFRecord does")
                    return
                record = stream.read(length + 4)
                if len(record) < length + 4:
                    yield Fault(
                        f"{FILE}: record {number}: is cut off, {len(record):,} of {length + 4:,} bytes are there"
                    )
                    return
                if number == expected:
                    yield Fault(
                        f"{FILE}: record {number}: is one too many, the authors' file holds {expected:,}"
                    )
                    return
                yield memoryview(record)[:-4]
                number += 1
    except (EOFError, OSError, zlib.error) as error:
        yield Fault(f"{FILE}: record {number}: cannot be unpacked ({error})")
        return
    if number < expected:
        yield Fault(f"{FILE}: record {number}: is missing, the authors' file holds {expected:,}")


def _read(
    record: memoryview, where: str, size: int, limits: Limits
) -> dict[str, np.ndarray] | None:
    """Picture and mask of a record, by the names of their files, or None where it has too many or too few objects."""
    try:
        features = _features(record)
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise Fault(f"{where}: is not a tf.train.Example ({error!r})") from None
    visibility = _floats(features, "visibility", ENTITIES, where)
    if not limits.keep(np.count_nonzero(visibility[1:])):
        return None
    top, left, side = CLEVR_CROP
    window = slice(top, top + side), slice(left, left + side)
    shape = CLEVR_HEIGHT, CLEVR_WIDTH
    image = _bytes(features, "image", math.prod(shape) * 3, where).reshape(*shape, 3)[window]
    masks = _bytes(features, "mask", ENTITIES * math.prod(shape), where).reshape(ENTITIES, *shape)[
        :, *window
    ]
    return {
        "images": shrink(image, size),
        "masks": files.shrink_mask(masks.argmax(0).astype(np.uint8), size),
    }


def shrink(image: np.ndarray, size: int) -> np.ndarray:
    """A square picture (side, side, 3) uint8 as (size, size, 3): bilinear interpolation, as in TensorFlow.

    Where it shrinks to less than half, interpolation would pass over pixels: there by Pillow's bilinear filter, which widens with the scale (so no aliasing).
    """
    side = len(image)
    if 2 * size < side:
        return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))
    places = np.clip((np.arange(size) + 0.5) * side / size - 0.5, 0, side - 1)
    before = places.astype(int)
    after, share = np.minimum(before + 1, side - 1), (places - before).astype(np.float32)[:, None]
    rows = image[before] * (1 - share[..., None]) + image[after] * share[..., None]
    return np.rint(rows[:, before] * (1 - share) + rows[:, after] * share).astype(np.uint8)


# tf.train.Example, as protocol buffers write it: a message is a sequence of fields, each a key (number and type), for most types a length, and a value.


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, the lowest first, and where it ends."""
    number = shift = 0
    while data[at] > 127:
        number |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
    return number | data[at] << shift, at + 1


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Number and value of each field of a message."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, at = _varint(data, at)
        elif kind in (1, 2, 5):
            length, at = _varint(data, at) if kind == 2 else ({1: 8, 5: 4}[kind], at)
            value, at = data[at : at + length], at + length
        else:
            raise ValueError(f"a field of type {kind}")
        if at > len(data):
            raise ValueError("a field that goes beyond the end")
        yield number, value


def _features(record: memoryview) -> dict[str, tuple[int, memoryview]]:
    """Name -> which list (BYTES, FLOATS) and the list itself."""
    entries = [
        dict(_fields(entry)) for _, features in _fields(record) for _, entry in _fields(features)
    ]
    return {bytes(entry[1]).decode(): next(_fields(entry[2])) for entry in entries if len(entry[2])}


def _bytes(features: dict, name: str, count: int, where: str) -> np.ndarray:
    """(count,) uint8. The authors store every number as a string of one byte: three bytes, of which the first two are the field's key and the length."""
    kind, strings = features.get(name, (None, b""))
    content = np.frombuffer(strings, np.uint8)
    if (
        kind != BYTES
        or len(content) != 3 * count
        or np.any(content[::3] != 0x0A)
        or np.any(content[1::3] != 1)
    ):
        raise Fault(f"{where}: holds no feature {name!r} of {count:,} strings of one byte")
    return content[2::3]


def _floats(features: dict, name: str, count: int, where: str) -> np.ndarray:
    """(count,) float32."""
    kind, numbers = features.get(name, (None, b""))
    try:
        content = b"".join(value for _, value in _fields(numbers)) if kind == FLOATS else b""
    except (IndexError, TypeError, ValueError):
        content = b""
    if len(content) != 4 * count:
        raise Fault(f"{where}: holds no feature {name!r} of {count:,} floats")
    return np.frombuffer(content, "<f4")
