"""ShapeStacks, rendered here.

The data set is that of Groth et al. 2018, "ShapeStacks: Learning Vision-Based Physical Intuition
for Generalised Object Stacking". `shapestacks_scenes` says what is shown, `shapestacks_renderer`
how it looks.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from paper_lib.data.generators import recipe
from paper_lib.data.generators.shapestacks_renderer import DEFAULT_SAMPLES_PER_PIXEL, render_stack
from paper_lib.data.generators.shapestacks_scenes import (
    MAX_OBJECTS,
    MIN_OBJECTS,
    PROPERTY_COLUMNS,
    check_counts,
    properties,
    sample_stack,
)
from paper_lib.data.generators.trace import DEFAULT_MITSUBA_VARIANT

# To be raised with every change that changes a picture, a mask, a property or a split.
GENERATOR_VERSION = "1"
NUM_SCENES = 10_000


@dataclass(frozen=True, kw_only=True)
class Settings(recipe.RenderedScenes):
    """The settings are all that the pictures depend on; see `load`."""

    data_set: ClassVar[str] = "shapestacks"
    version: ClassVar[str] = GENERATOR_VERSION
    property_columns: ClassVar[int] = PROPERTY_COLUMNS

    def __post_init__(self):
        super().__post_init__()
        check_counts(self.min_objects, self.max_objects)

    def item(self, index: int) -> dict[str, np.ndarray]:
        stack = sample_stack(self.seed, index, self.min_objects, self.max_objects, self.view)
        image, mask = render_stack(
            stack, self.size, self.samples_per_pixel, self.noise_seed(index), self.mitsuba_variant
        )
        return {"images": image, "masks": mask, "properties": properties(stack, self.max_objects)}


def load(
    root: Path,
    split: str,
    size: int,
    max_items: int | None = None,
    *,
    num_scenes: int = NUM_SCENES,
    seed: int = 0,
    min_objects: int = MIN_OBJECTS,
    max_objects: int = MAX_OBJECTS,
    samples_per_pixel: int = DEFAULT_SAMPLES_PER_PIXEL,
    view: str = "wide",
    mitsuba_variant: str = DEFAULT_MITSUBA_VARIANT,
    workers: int | None = None,
) -> dict:
    """Return the arrays of one split, rendered first where they are missing; see `recipe.load`.

    Every item is a stack of its own, seen by one of the 16 cameras; so, unlike in the original, no
    two pictures show the same stack, and the split (a fixed random 70-15-15) is one of stacks and
    of pictures at once. Heights, cameras, stable and unstable stacks are pooled.

    num_scenes       number of scenes, all three splits together
    seed             names the sequence of stacks
    view             "close" turns the camera to the stack and zooms in until the stack fills most
                     of the picture's height or width; the stacks are those of "wide"
    mitsuba_variant  variant of the renderer, see `trace`

    Returns images; masks (object k from the floor up is k, background 0; an object may be hidden
    behind others); properties (see `shapestacks_scenes.properties`); indices (which stack of the
    sequence each item is); and source. Raises ValueError for settings that make no sense, and for a
    folder that was rendered with other ones.
    """
    settings = Settings(
        num_scenes=num_scenes,
        size=size,
        samples_per_pixel=samples_per_pixel,
        min_objects=min_objects,
        max_objects=max_objects,
        seed=seed,
        view=view,
        mitsuba_variant=mitsuba_variant,
    )
    return recipe.load(root, settings, split, max_items, workers)
