"""Data sets of pictures behind one interface: `load("clevr_mirror", split="train", size=64)`.

Each data set can come from the authors' files, in the layout in which they are distributed, or
from a generator that needs nothing but the installed packages. What comes back is the same; models
never see which. COCO has no generator: its stand-in is a data set of another name, `photos`. Nor
has CLEVR with masks, which is what Locatello et al. 2020 call CLEVR in object discovery; generated
`clevr` has masks.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from paper_lib.data import generators, readers
from paper_lib.data.readers.location import LAYOUTS, find
from paper_lib.data.splits import SPLITS, check_split

__all__ = ["DATASETS", "DOORS", "SPLITS", "Dataset", "load", "settings", "version", "which_door"]

DOORS = ("files", "generator")


@dataclass(frozen=True)
class Doors:
    """The two doors lead to one data set. Loaders return the fields of a `Dataset`.

    generate  generator(root, split, size, max_items, **settings); None where there is none
    version   the version of the generator's pictures
    defaults  settings of the generator that make it this data set
    licence   the licence of the generator's pictures
    read      reader(folder, split, size, root, max_items, workers, **settings) of the authors'
              files; None where there are none
    check     check(folder) of the authors' files returns every fault
    """

    generate: Callable | None = None
    version: str = ""
    defaults: dict = field(default_factory=dict)
    licence: str = ""
    read: Callable | None = None
    check: Callable | None = None


RENDERED = "rendered here: ours, under this repository's licence"
DATASETS = {
    "clevr_mirror": Doors(
        generate=generators.clevr.load,
        version=generators.clevr.GENERATOR_VERSION,
        licence=RENDERED,
        read=readers.clevr.load_mirror,
        check=readers.clevr.check_mirror,
    ),
    "clevr": Doors(
        generate=generators.clevr.load,
        version=generators.clevr.GENERATOR_VERSION,
        defaults={"mirror": False},
        licence=RENDERED,
        read=readers.clevr.load_clevr,
        check=readers.clevr.check_clevr,
    ),
    "clevr_with_masks": Doors(
        read=readers.clevr_with_masks.load,
        check=readers.clevr_with_masks.check,
    ),
    "shapestacks": Doors(
        generate=generators.shapestacks.load,
        version=generators.shapestacks.GENERATOR_VERSION,
        licence=RENDERED,
        read=readers.shapestacks.load,
        check=readers.shapestacks.check,
    ),
    "coco": Doors(
        read=readers.coco.load,
        check=readers.coco.check,
    ),
    "photos": Doors(
        generate=generators.photos.load,
        version=generators.photos.GENERATOR_VERSION,
        licence="of each photograph, below",
    ),
}


@dataclass(frozen=True)
class Dataset:
    """A dataset is one split. Its arrays are memory maps: nothing is read before it is indexed.

    images      (N, H, W, 3) uint8, sRGB
    indices     (N,) int, which item of the whole data set each one is
    source      dict: name, door ("generator" or "files"), version, split, settings
    masks       (N, H, W) unsigned integers, 0 for background and k for instance k, or None
    properties  (N, max_objects, columns) float32, row k - 1 for object k, or None; CLEVR's columns
                are those of `clevr_format.properties`
    """

    images: np.ndarray
    indices: np.ndarray
    source: dict
    masks: np.ndarray | None = None
    properties: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        """Return image, and mask and properties where the data set has them."""
        arrays = {"image": self.images, "mask": self.masks, "properties": self.properties}
        return {name: array[i] for name, array in arrays.items() if array is not None}

    def tensor(self, indices=None):
        """Return images as a uint8 torch tensor (N, 3, H, W) in memory.

        All of them, or those that a slice or a sequence of ints selects.
        """
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
    """Return one split of a data set.

    What is missing of it is made first, with a progress bar; a killed call loses nothing.

    name       a key of DATASETS
    split      "train", "validation" (or "val") or "test"
    size       side of the square images, in pixels
    door       "files": the authors' files, resized and cropped; "generator"; None: the files if
               there is a setting that says where they are
    files      folder of the authors' files; else the environment variable PAPER_FILES, else
               data.toml (see `readers.location.find`)
    root       folder of what is generated or cached; else the environment variable PAPER_DATA; else
               `data/` beside the package
    max_items  keep the first so many items of the split, and make no more than those
    settings   what the generator's `load` takes: num_scenes, seed, min_objects, max_objects, view,
               samples_per_pixel, workers ...; the authors' files take `workers` and what
               `settings(name, "files")` names, and leave others unused

    Raises ValueError for an unknown name, split, door or value of a setting, TypeError for an
    unknown setting of the generator, FileNotFoundError for files that are not where they should be.
    """
    doors = _data_set(name)
    split = {"val": "validation"}.get(split, split)
    check_split(split)
    root = Path(root or os.environ.get("PAPER_DATA") or _default_root())
    if which_door(name, door, files) == "generator":
        made = doors.generate(root, split, size, max_items, **{**doors.defaults, **settings})
        return Dataset(**made)
    takes = _keywords(doors.read) | ({"workers"} if settings.get("workers") else set())
    given = {setting: value for setting, value in settings.items() if setting in takes}
    return Dataset(**doors.read(find(name, files), split, size, root, max_items, **given))


def which_door(name: str, door: str | None = None, folder: str | os.PathLike | None = None) -> str:
    """Return through which door `load` takes a data set: "files" or "generator".

    Raises ValueError or FileNotFoundError, with the remedy, if there is none.
    """
    doors = _data_set(name)
    if door is not None:
        _check_known("door", door, DOORS)
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
            f"nothing says where the files of {name!r} are{stand_in}: pass files=FOLDER, or set "
            f"PAPER_FILES to a folder that holds {name}/, or write data.toml with a table [files] "
            f'and the line {name} = "FOLDER".\n{LAYOUTS[name]}'
        )
    return "generator"


def settings(name: str, door: str = "generator") -> set[str]:
    """Return the names of the settings that a data set's generator or reader takes.

    There are none where it has no such door.
    """
    doors = _data_set(name)
    return _keywords(doors.read if door == "files" else doors.generate)


def version(name: str) -> str:
    """Return the version of the generator's pictures, without loading them.

    It is part of the identity of a run that used them.
    """
    return _data_set(name).version


def _data_set(name: str) -> Doors:
    _check_known("data set", name, DATASETS)
    return DATASETS[name]


def _check_known(kind: str, value: str, known: Iterable[str]) -> None:
    if value not in known:
        raise ValueError(f"unknown {kind} {value!r}; known: {', '.join(known)}")


def _default_root() -> Path:
    return Path(__file__).resolve().parents[2] / "data"


def _keywords(function: Callable | None) -> set[str]:
    """Return the names of a function's keyword-only parameters."""
    if function is None:
        return set()
    parameters = inspect.signature(function).parameters.values()
    return {parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}
