"""CLEVR-Mirror and CLEVR, rendered here.

CLEVR-Mirror is the data set of Singh et al. 2021, "Illiterate DALL-E Learns to Compose": CLEVR with
a mirror behind the scene. `clevr_scenes` says what is shown, `clevr_renderer` how it looks.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from paper_lib.data.clevr_format import (
    CROP,
    MAX_OBJECTS,
    MIN_OBJECTS,
    PICTURE_HEIGHT,
    PROPERTY_COLUMNS,
    properties,
)
from paper_lib.data.generators import recipe
from paper_lib.data.generators.clevr_renderer import DEFAULT_SAMPLES_PER_PIXEL, render
from paper_lib.data.generators.clevr_scenes import sample_scene
from paper_lib.data.generators.trace import DEFAULT_MITSUBA_VARIANT

# To be raised with every change that changes a picture, a mask, a property or a split.
GENERATOR_VERSION = "1"
NUM_SCENES = 10_000


@dataclass(frozen=True, kw_only=True)
class Settings(recipe.RenderedScenes):
    """The settings are all that the pictures depend on; see `load`."""

    data_set: ClassVar[str] = "clevr_mirror"
    version: ClassVar[str] = GENERATOR_VERSION
    property_columns: ClassVar[int] = PROPERTY_COLUMNS

    mirror: bool
    crop: bool = False

    @property
    def scenes_name(self) -> str:
        return self.data_set if self.mirror else "clevr_nomirror"

    def unusual(self) -> list[str]:
        return (["crop"] if self.crop else []) + super().unusual()

    def item(self, index: int) -> dict[str, np.ndarray]:
        scene = sample_scene(self.seed, index, self.min_objects, self.max_objects, self.view)
        if self.crop:
            top, _, side = CROP
            scene = replace(scene, camera=scene.camera.cropped(PICTURE_HEIGHT, top, side))
        image, mask = render(
            scene,
            self.size,
            self.samples_per_pixel,
            self.mirror,
            self.noise_seed(index),
            self.mitsuba_variant,
        )
        rows = properties(scene.objects, self.max_objects)
        return {"images": image, "masks": mask, "properties": rows}


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
    mirror: bool = True,
    view: str = "wide",
    crop: bool = False,
    mitsuba_variant: str = DEFAULT_MITSUBA_VARIANT,
    workers: int | None = None,
) -> dict:
    """Return the arrays of one split, rendered first where they are missing; see `recipe.load`.

    num_scenes       number of scenes, all three splits together
    seed             names the sequence of scenes
    view             "close" turns the camera to the objects and zooms in, with the mirror still in
                     sight; all objects are clear in it, so its scenes are other ones than "wide"'s
    crop             keep the part of the picture that Locatello et al. 2020 do: at its border
                     objects may be cut off
    mitsuba_variant  variant of the renderer, see `trace`

    Returns images, masks, properties (see `clevr_format.properties`), indices (which scene of the
    sequence each item is) and source. Raises ValueError for settings that make no sense, and for a
    folder that was rendered with other ones.
    """
    settings = Settings(
        num_scenes=num_scenes,
        size=size,
        samples_per_pixel=samples_per_pixel,
        min_objects=min_objects,
        max_objects=max_objects,
        seed=seed,
        mirror=mirror,
        view=view,
        crop=crop,
        mitsuba_variant=mitsuba_variant,
    )
    return recipe.load(root, settings, split, max_items, workers)
