"""Data sets of pictures behind one door: `load("clevr_mirror", split="train", size=64)`.

Each data set can come from the authors' files, in the layout in which they are distributed, or from a generator that needs nothing but the installed
packages. What comes back is the same; models never see which. COCO has no generator: its stand-in is a data set of another name, `photos`. Nor has CLEVR
with masks, which is what Locatello et al. 2020 call CLEVR in object discovery; generated `clevr` has masks.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from paper_lib.data.generators import clevr as clevr_mirror
from paper_lib.data.generators import photos, shapestacks
from paper_lib.data.readers import clevr as clevr_files
from paper_lib.data.readers import clevr_with_masks as clevr_masks_files
from paper_lib.data.readers import coco as coco_files
from paper_lib.data.readers import shapestacks as shapestacks_files
from paper_lib.data.readers.files import find
from paper_lib.data.readers.files import layout as files_layout

SPLITS = ("train", "validation", "test")
DOORS = ("files", "generator")


@dataclass(frozen=True)
class Doors:
    """How a data set can be had. Loaders return the fields of a `Dataset`.

    generate    generator(root, split, size, max_items, **settings), or None
    version     of the generator's pictures
    read        reader(folder, split, size, cache, max_items, workers, **limits) of the authors' files, or None
    check       check(folder) of the authors' files: every fault of the tree, or None
    defaults    settings of the generator that make it this data set
    licence     of the pictures
    """

    generate: Callable | None = None
    version: str = ""
    read: Callable | None = None
    check: Callable | None = None
    defaults: dict = field(default_factory=dict)
    licence: str = ""


RENDERED = "rendered here: ours, under this repository's licence"
DATASETS = {
    "clevr_mirror": Doors(
        clevr_mirror.load,
        clevr_mirror.GENERATOR_VERSION,
        clevr_files.load_mirror,
        clevr_files.check_mirror,
        licence=RENDERED,
    ),
    "clevr": Doors(
        clevr_mirror.load,
        clevr_mirror.GENERATOR_VERSION,
        clevr_files.load_clevr,
        clevr_files.check_clevr,
        {"mirror": False},
        RENDERED,
    ),
    "clevr_with_masks": Doors(
        read=clevr_masks_files.load,
        check=clevr_masks_files.check,
        licence=clevr_masks_files.LICENCE,
    ),
    "shapestacks": Doors(
        shapestacks.load,
        shapestacks.GENERATOR_VERSION,
        shapestacks_files.load,
        shapestacks_files.check,
        licence=RENDERED,
    ),
    "coco": Doors(read=coco_files.load, check=coco_files.check),
    "photos": Doors(photos.load, photos.GENERATOR_VERSION, licence="of each photograph, below"),
}


@dataclass(frozen=True)
class Dataset:
    """One split. Arrays are read-only memory maps: nothing is read before it is indexed.

    images      (N, H, W, 3) uint8, sRGB
    indices     (N,) int, which item of the whole data set each one is
    source      dict: name, door ("generator" or "files"), version, split, settings
    masks       (N, H, W) unsigned integers, 0 for background and k for instance k, or None
    properties  (N, max_objects, columns) float32, row k - 1 for object k (scenes.properties says what CLEVR's columns are), or None
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
        item = {"image": self.images, "mask": self.masks, "properties": self.properties}
        return {name: value[i] for name, value in item.items() if value is not None}

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
    door: str | None = None,
    files: str | os.PathLike | None = None,
    root: str | os.PathLike | None = None,
    max_items: int | None = None,
    **settings,
) -> Dataset:
    """One split of a data set, made first where it is missing (with a progress bar; a killed call loses nothing).

    name       a key of DATASETS
    split      "train", "validation" (or "val") or "test"
    size       side of the square images, in pixels
    door       "files": the authors' files, resized and cropped; "generator"; None: the files if there is a setting that says where they are
    files      folder of the authors' files; else the environment variable PAPER_FILES, else data.toml (see files.find)
    root       folder of what is generated or cached; else the environment variable PAPER_DATA; else `data/` beside the package
    max_items  keep the first so many items of the split, and make no more than those
    settings   of the generator: num_scenes, seed, min_objects, max_objects, samples_per_pixel, workers ...; see its `load`. Of the authors' files
               `workers` and those that `settings(name, "files")` names: min_objects and max_objects, other scenes are left out; crop

    Raises ValueError for an unknown name, split, door or setting, FileNotFoundError for files that are not where they should be.
    """
    doors = _known("data set", name, DATASETS)
    split = {"val": "validation"}.get(split, split)
    _known("split", split, dict.fromkeys(SPLITS))
    root = Path(
        root or os.environ.get("PAPER_DATA") or Path(__file__).resolve().parents[2] / "data"
    )
    if which_door(name, door, files) == "files":
        takes = _keywords(doors.read) | ({"workers"} if settings.get("workers") else set())
        return Dataset(
            **doors.read(
                find(name, files),
                split,
                size,
                root,
                max_items,
                **{k: v for k, v in settings.items() if k in takes},
            )
        )
    return Dataset(**doors.generate(root, split, size, max_items, **{**doors.defaults, **settings}))


def which_door(name: str, door: str | None = None, folder: str | os.PathLike | None = None) -> str:
    """Through which door `load` takes a data set: "files" or "generator". ValueError or FileNotFoundError, with the remedy, if there is none."""
    doors = _known("data set", name, DATASETS)
    if door is not None:
        _known("door", door, dict.fromkeys(DOORS))
    stand_in = "; 'photos' is a small stand-in under its own name" if name == "coco" else ""
    if door == "generator" and doors.generate is None:
        raise ValueError(f"{name!r} has no generator{stand_in}")
    if door == "files" and doors.read is None:
        raise ValueError(
            f"{name!r} is generated from the installed packages: it has no authors' files"
        )
    if door != "generator" and doors.read and find(name, folder):
        return "files"
    if door == "files" or doors.generate is None:
        raise FileNotFoundError(
            f"nothing says where the files of {name!r} are{stand_in}: pass files=FOLDER, or set PAPER_FILES to a folder that holds {name}/, or write data.toml "
            f'with a table [files] and the line {name} = "FOLDER".\n{files_layout(name)}'
        )
    return "generator"


def settings(name: str, door: str = "generator") -> set[str]:
    """Names of the settings that a data set's generator takes, or the reader of its authors' files; none where it has no such door."""
    doors = _known("data set", name, DATASETS)
    return _keywords(doors.read if door == "files" else doors.generate)


def _keywords(function: Callable | None) -> set[str]:
    return (
        {
            p.name
            for p in inspect.signature(function).parameters.values()
            if p.kind is p.KEYWORD_ONLY
        }
        if function
        else set()
    )


def version(name: str) -> str:
    """Of the generator's pictures, without loading them: part of the identity of a run that used it."""
    return _known("data set", name, DATASETS).version


def _known(kind: str, value: str, known: dict):
    if value not in known:
        raise ValueError(f"unknown {kind} {value!r}; known: {', '.join(known)}")
    return known[value]
