"""Data sets of pictures behind one door: `load("clevr_mirror", split="train", size=64)`."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import clevr_mirror

# name -> loader(root, split, size, max_items, **settings), which returns the fields of a Dataset, and the version of what it returns
LOADERS = {"clevr_mirror": (clevr_mirror.load, clevr_mirror.GENERATOR_VERSION)}
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Dataset:
    """One split. Arrays are read-only memory maps: nothing is read before it is indexed.

    images      (N, H, W, 3) uint8, sRGB
    indices     (N,) int, which item of the whole data set each one is
    source      dict: name, door ("generator" or "files"), version, split, settings
    masks       (N, H, W) uint8, 0 for background and k for object k, or None
    properties  (N, max_objects, 19) float32, row k - 1 for object k (scenes.properties says what the columns are), or None
    """

    images: np.ndarray
    indices: np.ndarray
    source: dict
    masks: np.ndarray | None = None
    properties: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        """image, and mask and properties where the data set has them."""
        arrays = {"image": self.images, "mask": self.masks, "properties": self.properties}
        return {name: array[i] for name, array in arrays.items() if array is not None}

    def tensor(self, indices=None):
        """Images as a uint8 torch tensor (N, 3, H, W) in memory: all, or those that a slice or a sequence of ints selects."""
        import torch

        images = np.array(self.images if indices is None else self.images[indices])
        return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def load(
    name: str,
    split: str = "train",
    size: int = 64,
    *,
    max_items: int | None = None,
    root: str | os.PathLike | None = None,
    **settings,
) -> Dataset:
    """One split of a data set, rendered first where it is missing (with a progress bar; a killed call loses nothing).

    name       a key of LOADERS
    split      "train", "validation" (or "val") or "test": a fixed random 70-15-15 split
    size       side of the square images, in pixels
    max_items  keep the first so many items of the split, and render no more than those
    root       folder of all data; else the environment variable PAPER_DATA; else `data/` beside the package
    settings   of that data set. "clevr_mirror": num_scenes=10_000 (all splits together), seed=0, min_objects=3, max_objects=10,
               samples_per_pixel=16, mirror=True, and workers=None (processes that render; one for each core)

    Raises ValueError for an unknown name or split, and for a folder whose settings.json does not match.
    """
    _known("data set", name, LOADERS)
    split = {"val": "validation"}.get(split, split)
    _known("split", split, SPLITS)
    root = root or os.environ.get("PAPER_DATA") or Path(__file__).resolve().parents[2] / "data"
    return Dataset(**LOADERS[name][0](Path(root), split, size, max_items, **settings))


def version(name: str) -> str:
    """Of the data set's pictures, without loading them: part of the identity of a run that used it."""
    _known("data set", name, LOADERS)
    return LOADERS[name][1]


def _known(kind: str, value: str, known) -> None:
    if value not in known:
        raise ValueError(f"unknown {kind} {value!r}; known: {', '.join(known)}")
