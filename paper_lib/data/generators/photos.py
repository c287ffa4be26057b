"""Crops of real photographs, where COCO is not at hand.

The photographs are those that scikit-image and scikit-learn ship inside their packages: only a
handful, so that whatever a model does with them shows that it runs, and nothing about natural
images. They are not COCO, and never to be called so.
"""

import functools
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from paper_lib.data.generators import recipe
from paper_lib.data.splits import SPLITS

# To be raised with every change that changes a crop or a split.
GENERATOR_VERSION = "1"
NUM_CROPS = 10_000
SCALES = (0.4, 1.0)  # side of a crop, as a share of the photograph's shorter side


@dataclass(frozen=True)
class Photograph:
    """A photograph is a file inside an installed package, and shown in one split."""

    name: str
    split: str
    package: str
    path: str
    licence: str


PHOTOGRAPHS = (
    Photograph("astronaut", "train", "skimage", "data/astronaut.png", "public domain (NASA)"),
    Photograph("chelsea", "train", "skimage", "data/chelsea.png", "CC0 (Stefan van der Walt)"),
    Photograph(
        "china",
        "train",
        "sklearn",
        "datasets/images/china.jpg",
        "CC BY 2.0 (danielbuechele, flickr.com/photos/danielbuechele/6061409035)",
    ),
    Photograph(
        "coffee",
        "train",
        "skimage",
        "data/coffee.png",
        "CC0 (Rachel Michetti; courtesy of Pikolo Espresso Bar)",
    ),
    Photograph("rocket", "train", "skimage", "data/rocket.jpg", "public domain (SpaceX)"),
    Photograph(
        "motorcycle",
        "validation",
        "skimage",
        "data/motorcycle_left.png",
        "Middlebury stereo benchmark 2014 (Scharstein et al.), terms not stated",
    ),
    Photograph(
        "flower",
        "test",
        "sklearn",
        "datasets/images/flower.jpg",
        "CC BY 2.0 (vultilion, flickr.com/photos/vultilion/6056698931)",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Settings(recipe.Recipe):
    """The settings are all that the crops depend on; see `load`."""

    data_set: ClassVar[str] = "photos"
    version: ClassVar[str] = GENERATOR_VERSION

    num_crops: int
    size: int
    seed: int

    def __post_init__(self):
        if self.size < 1 or self.seed < 0 or self.num_crops < len(PHOTOGRAPHS):
            raise ValueError(
                "size must be at least 1, seed at least 0, and num_crops at least "
                f"{len(PHOTOGRAPHS)} (one of each photograph), got {self}"
            )

    @property
    def folder(self) -> str:
        return f"{self.data_set}-{self.size}px-seed{self.seed}-{self.num_crops}"

    @property
    def count(self) -> int:
        return self.num_crops

    def arrays(self) -> dict[str, tuple[tuple[int, ...], type]]:
        return {"images": ((self.size, self.size, 3), np.uint8)}

    def item(self, index: int) -> dict[str, np.ndarray]:
        return {"images": crop(self.seed, index, self.size)}

    def order(self) -> np.ndarray:
        """Return the crops split by split, and by index within each."""
        return np.argsort(self._splits(), kind="stable")

    def rows(self) -> dict[str, range]:
        counts = np.bincount(self._splits()).tolist()
        ends = np.cumsum(counts).tolist()
        return {split: range(end - count, end) for split, end, count in zip(SPLITS, ends, counts)}

    def _splits(self) -> np.ndarray:
        """Return the place of each crop's split in SPLITS, (num_crops,)."""
        return np.array([SPLITS.index(photograph(index).split) for index in range(self.num_crops)])

    def provenance(self) -> dict:
        names = {split: [p.name for p in PHOTOGRAPHS if p.split == split] for split in SPLITS}
        return {
            "photographs": names,
            "number_of_photographs": len(PHOTOGRAPHS),
            "licences": {p.name: p.licence for p in PHOTOGRAPHS},
        }


def photograph(index: int) -> Photograph:
    """Return the photograph that crop `index` shows: all of them in turn."""
    return PHOTOGRAPHS[index % len(PHOTOGRAPHS)]


def crop(seed: int, index: int, size: int) -> np.ndarray:
    """Return crop `index` of the endless sequence that `seed` names, (size, size, 3) uint8.

    It is a square at a uniformly random place, its side log-uniform in SCALES, mirrored half of the
    time and resized without aliasing: the same part of a photograph at any size.
    """
    picture = _read(photograph(index))
    rng = np.random.default_rng([seed, index])
    side = min(picture.size) * float(np.exp(rng.uniform(*np.log(SCALES))))
    left, top = (float(rng.uniform(0, length - side)) for length in picture.size)
    box = (left, top, left + side, top + side)
    pixels = np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC, box=box))
    return pixels[:, ::-1] if rng.integers(2) else pixels


@functools.cache
def _read(source: Photograph) -> Image.Image:
    # By path: the packages' own readers may want to download, and their import takes seconds.
    return Image.open(Path(find_spec(source.package).origin).parent / source.path).convert("RGB")


def load(
    root: Path,
    split: str,
    size: int,
    max_items: int | None = None,
    *,
    num_crops: int = NUM_CROPS,
    seed: int = 0,
    workers: int | None = None,
) -> dict:
    """Return the crops of one split, made first where they are missing; see `recipe.load`.

    num_crops  number of crops, all three splits together; each gets the share of its photographs
               (5, 1 and 1 of 7), and no two splits show the same photograph
    seed       names the sequence of crops

    Returns images; None for masks and properties; indices (which crop of the sequence each item
    is); and source, with the photographs of each split, their number and their licences. Raises
    ValueError for settings that make no sense, and for a folder that was made with other ones.
    """
    settings = Settings(num_crops=num_crops, size=size, seed=seed)
    return recipe.load(root, settings, split, max_items, workers)
