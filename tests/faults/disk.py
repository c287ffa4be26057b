"""A disk that is full: whatever is written there is whole, or an error that names it.

A limit on the size of a process's files stands in for a full disk, as nobody but root can make a
small one: the system refuses the bytes beyond it in the same way, in the middle of a write.
"""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from faults.fault import REFUSED, Fault
from paper_lib.data.cache import DONE, Cache, write_row
from paper_lib.system.files import whole, write_json
from paper_lib.training.checkpoint import save_tensors
from paper_lib.training.log import write_metrics

WRITERS: dict[str, Callable[[Path], None]] = {
    "config.json": lambda path: write_json(path, {"words": ["of a config"] * 20_000}),
    "metrics.csv": lambda path: write_metrics([{"step": k} for k in range(40_000)], path.parent),
    "samples.npz": lambda path: _save(path, np.random.default_rng(0).bytes(200_000)),
    "weights.safetensors": lambda path: save_tensors(path, {"w": torch.zeros(50_000)}),
}


def _save(path: Path, content: bytes) -> None:
    with whole(path) as temporary:
        np.savez_compressed(temporary, image=np.frombuffer(content, np.uint8))


def faults(folder: Path) -> Iterator[Fault]:
    """Yield a full disk for every writer, at several sizes, with and without an earlier file."""
    for name, write in WRITERS.items():
        for room in (0, 1, 4_096, 100_000):
            for earlier in (None, b"what was there"):

                def meet(name=name, write=write, room=room, earlier=earlier) -> str:
                    return _meet(folder / f"{room}-{bool(earlier)}" / name, write, room, earlier)

                yield Fault("full disk", f"{name}, {room} bytes", meet)
    for room in (0, 64, 4_096):
        yield Fault("full disk", f"a data set, {room} bytes", lambda r=room: _fill(folder, r))


def _meet(path: Path, write: Callable, room: int, earlier: bytes | None) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    if earlier:
        path.write_bytes(earlier)
    try:
        with limited(room):
            write(path)
    except OSError as error:
        assert str(path) in str(error), f"unnamed: {error}"
    else:
        raise AssertionError("there was no room for it")
    kept = {found.name: found.read_bytes() for found in path.parent.iterdir()}
    assert kept == ({name: earlier for name in [path.name]} if earlier else {}), "half a file"
    if earlier:
        path.unlink()
    return REFUSED


def _fill(folder: Path, room: int) -> str:
    """Rows that were written before the disk was full stay, and the others are missing."""
    cache = Cache(folder / f"rows-{room}", {})
    cache.folder.parent.mkdir(parents=True, exist_ok=True)
    cache.create(100, {"images": ((8, 8, 3), np.uint8), DONE: ((), np.bool_)})
    written = 0
    try:
        with limited(room):
            for row in range(100):
                write_row(cache.open_arrays(), row, {"images": np.full((8, 8, 3), row)})
                written += 1
    except OSError as error:
        assert str(cache.folder) in str(error), f"unnamed: {error}"
    else:
        raise AssertionError("there was no room for it")
    assert cache.missing(range(100)).tolist() == list(range(written, 100))
    found = cache.read(range(written))["images"]
    assert found[:, 0, 0, 0].tolist() == list(range(written))
    return REFUSED


@contextmanager
def limited(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond a size."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
