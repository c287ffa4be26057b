"""Data sets that are made here, as recipes: what item i is, and where it is kept.

An item depends on its index and the recipe's settings alone, never on the number of processes that
make the items, or on what was made before. Rows of the folder are stored split by split, so that a
split is a slice: row r holds item `order()[r]`.
"""

import abc
import dataclasses
from pathlib import Path
from typing import ClassVar

import numpy as np

from paper_lib.data.cache import DONE, Cache, write_row
from paper_lib.data.generators.camera import check_view
from paper_lib.data.generators.trace import DEFAULT_MITSUBA_VARIANT
from paper_lib.data.parallel import in_processes
from paper_lib.data.splits import random_order, split_rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe(abc.ABC):
    """A recipe holds all that the items of a data set depend on: its fields are the settings.

    A field that still has its default is left out of settings.json, so that a new field does not
    disown the folders made before it.
    """

    data_set: ClassVar[str]
    version: ClassVar[str]  # to be raised with every change that changes an array or a split

    @property
    @abc.abstractmethod
    def folder(self) -> str:
        """Return the folder's name, another one for other settings."""

    @property
    @abc.abstractmethod
    def count(self) -> int:
        """Return the number of items, all splits together."""

    @abc.abstractmethod
    def arrays(self) -> dict[str, tuple[tuple[int, ...], type]]:
        """Return shape and type of one item in each array, by the array's name."""

    @abc.abstractmethod
    def item(self, index: int) -> dict[str, np.ndarray]:
        """Make item `index`: a value for each of `arrays()`."""

    def order(self) -> np.ndarray:
        """Return which item each row holds, (count,) int: a random order, so a random split."""
        return random_order(self.count)

    def rows(self) -> dict[str, range]:
        """Return the rows of each split."""
        return split_rows(self.count)

    def provenance(self) -> dict:
        """Return what `source` should say beside the settings."""
        return {}

    def settings(self) -> dict:
        """Return the fields, but for those that have their default."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if value != defaults[name]}


@dataclasses.dataclass(frozen=True, kw_only=True)
class RenderedScenes(Recipe):
    """The recipes of the path-traced data sets share these settings.

    num_scenes                number of scenes, all splits together
    size                      side of the pictures, in pixels
    samples_per_pixel         light paths through a pixel; more are slower and cleaner
    min_objects, max_objects  range of the number of objects in a scene
    seed                      names the sequence of scenes
    mitsuba_variant           variant of the renderer, see `trace`
    view                      "wide" or "close"
    """

    num_scenes: int
    size: int
    samples_per_pixel: int
    min_objects: int
    max_objects: int
    seed: int
    mitsuba_variant: str = DEFAULT_MITSUBA_VARIANT
    view: str = "wide"

    property_columns: ClassVar[int]

    def __post_init__(self):
        if min(self.num_scenes, self.size, self.samples_per_pixel) < 1 or self.seed < 0:
            raise ValueError(
                "num_scenes, size and samples_per_pixel must be at least 1 and seed at least 0, "
                f"got {self}"
            )
        if not 1 <= self.min_objects <= self.max_objects <= 255:  # a mask is 8 bits
            raise ValueError(
                "need 1 <= min_objects <= max_objects <= 255, "
                f"got {self.min_objects} and {self.max_objects}"
            )
        check_view(self.view)

    @property
    def folder(self) -> str:
        """Return the folder's name, such as clevr_mirror-32px-96spp-3to6-seed0-7858."""
        name = (
            f"{self.scenes_name}-{self.size}px-{self.samples_per_pixel}spp"
            f"-{self.min_objects}to{self.max_objects}-seed{self.seed}-{self.num_scenes}"
        )
        return "-".join([name, *self.unusual()])

    @property
    def scenes_name(self) -> str:
        """Return what the folder's name begins with."""
        return self.data_set

    def unusual(self) -> list[str]:
        """Return what the folder's name ends with, for settings that do not have their default."""
        view = [self.view] if self.view != "wide" else []
        is_default = self.mitsuba_variant == DEFAULT_MITSUBA_VARIANT
        return view + ([] if is_default else [self.mitsuba_variant])

    @property
    def count(self) -> int:
        return self.num_scenes

    def arrays(self) -> dict[str, tuple[tuple[int, ...], type]]:
        return {
            "images": ((self.size, self.size, 3), np.uint8),
            "masks": ((self.size, self.size), np.uint8),
            "properties": ((self.max_objects, self.property_columns), np.float32),
        }

    def noise_seed(self, index: int) -> int:
        """Return the seed, 32 bits, of the renderer's sampler for an item."""
        return int(np.random.SeedSequence([self.seed, index]).generate_state(1)[0])


def load(
    root: Path, recipe: Recipe, split: str, max_items: int | None = None, workers: int | None = None
) -> dict:
    """Return the arrays of one split, read-only memory maps.

    Those of its first `max_items` items (all) that are missing are made first, by `workers`
    processes (one for each core).

    Returns images; masks and properties, None where the recipe has none; indices, which item each
    one is; and source. Raises ValueError for a folder that was made with other settings.
    """
    rows = recipe.rows()[split]
    rows = rows if max_items is None else rows[:max_items]
    cache = Cache(Path(root) / recipe.folder, {"version": recipe.version, **recipe.settings()})

    def is_complete() -> bool:
        return cache.exists() and not len(cache.missing(rows))

    def fill() -> None:
        if not cache.exists():
            cache.create(recipe.count, {**recipe.arrays(), DONE: ((), np.bool_)})
        missing = cache.missing(rows)
        order = recipe.order()
        tasks = [(cache, recipe, int(row), int(order[row])) for row in missing]
        in_processes(_make, tasks, workers, recipe.folder, done=len(rows) - len(missing))

    cache.complete(is_complete, fill)
    source = {
        "name": recipe.data_set,
        "door": "generator",
        "version": recipe.version,
        "split": split,
        "settings": recipe.settings(),
        **recipe.provenance(),
    }
    indices = recipe.order()[rows.start : rows.stop]
    return {**cache.read(rows), "indices": indices, "source": source}


def _make(cache: Cache, recipe: Recipe, row: int, index: int) -> None:
    write_row(cache.open_arrays(), row, recipe.item(index))
