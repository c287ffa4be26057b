"""ShapeStacks, rendered here; stacks.py says what is shown, generated.py how the folder is laid out and filled.

The data set is that of Groth et al. 2018, "ShapeStacks: Learning Vision-Based Physical Intuition for Generalised Object Stacking".
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from paper_lib.data.generators import generated
from paper_lib.data.generators.shapestacks_renderer import DEFAULT_SAMPLES_PER_PIXEL, render_stack
from paper_lib.data.generators.shapestacks_scenes import (
    HEIGHTS,
    PROPERTY_COLUMNS,
    properties,
    sample_stack,
)
from paper_lib.data.generators.trace import DEFAULT_VARIANT

GENERATOR_VERSION = (
    "1"  # raise it with every change that changes a picture, a mask, a property or a split
)
NUM_SCENES = 10_000


@dataclass(frozen=True)
class Settings(generated.RenderedScenes):
    """All that the pictures depend on; see `load`."""

    data_set: ClassVar[str] = "shapestacks"
    version: ClassVar[str] = GENERATOR_VERSION
    property_columns: ClassVar[int] = PROPERTY_COLUMNS

    variant: str = DEFAULT_VARIANT

    def __post_init__(self):
        super().__post_init__()
        if not HEIGHTS[0] <= self.min_objects <= self.max_objects <= HEIGHTS[1]:
            raise ValueError(
                f"need {HEIGHTS[0]} <= min_objects <= max_objects <= {HEIGHTS[1]}, got {self.min_objects} and {self.max_objects}"
            )

    def item(self, index: int) -> dict[str, np.ndarray]:
        stack = sample_stack(self.seed, index, self.min_objects, self.max_objects)
        image, mask = render_stack(
            stack, self.size, self.samples_per_pixel, self.noise_seed(index), self.variant
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
    min_objects: int = HEIGHTS[0],
    max_objects: int = HEIGHTS[1],
    samples_per_pixel: int = DEFAULT_SAMPLES_PER_PIXEL,
    variant: str = DEFAULT_VARIANT,
    workers: int | None = None,
) -> dict:
    """The arrays of one split, read-only memory maps, after rendering those of its first `max_items` items (all) that are missing.

    Every item is a stack of its own, seen by one of the 16 cameras; so, unlike in the original, no two pictures show the same stack, and
    the split (a fixed random 70-15-15) is one of stacks and of pictures at once. Heights, cameras, stable and unstable stacks are pooled.
    `num_scenes` counts all three splits; `seed` names the sequence of stacks; `variant` is the renderer's (see trace.py); `workers`
    processes render (one for each core).

    Returns images; masks (object k from the floor up is k, background 0; an object may be hidden behind others); properties (N,
    max_objects, 17), see stacks.properties: position, half size, shape, colour, whether the stack is stable, whether there is an object;
    indices (which stack of the sequence each item is); and source.
    Raises ValueError for a folder that was rendered with other settings.
    """
    settings = Settings(
        num_scenes, size, samples_per_pixel, min_objects, max_objects, seed, variant
    )
    return generated.load(root, settings, split, max_items, workers)
