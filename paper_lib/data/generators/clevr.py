"""CLEVR-Mirror, rendered here; generated.py says how the folder is laid out and filled.

The data set is that of Singh et al. 2021, "Illiterate DALL-E Learns to Compose": CLEVR with a mirror behind the scene.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from paper_lib.data.generators import generated
from paper_lib.data.generators.clevr_renderer import DEFAULT_SAMPLES_PER_PIXEL, render
from paper_lib.data.generators.clevr_scenes import properties, sample_scene
from paper_lib.data.generators.trace import DEFAULT_VARIANT

GENERATOR_VERSION = (
    "1"  # raise it with every change that changes a picture, a mask, a property or a split
)
NUM_SCENES = 10_000


@dataclass(frozen=True)
class Settings(generated.RenderedScenes):
    """All that the pictures depend on; see `load`."""

    data_set: ClassVar[str] = "clevr_mirror"
    version: ClassVar[str] = GENERATOR_VERSION
    property_columns: ClassVar[int] = 19  # see scenes.properties

    mirror: bool
    variant: str = DEFAULT_VARIANT
    crop: bool = False
    view: str = "wide"

    @property
    def folder(self) -> str:
        name = (
            super().folder
            if self.mirror
            else super().folder.replace(self.data_set, "clevr_nomirror", 1)
        )
        name += "-crop" if self.crop else ""
        name += "-close" if self.view == "close" else ""
        return name if self.variant == DEFAULT_VARIANT else f"{name}-{self.variant}"

    def item(self, index: int) -> dict[str, np.ndarray]:
        scene = sample_scene(self.seed, index, self.min_objects, self.max_objects, self.view)
        scene = replace(scene, camera=scene.camera.cropped()) if self.crop else scene
        image, mask = render(
            scene,
            self.size,
            self.samples_per_pixel,
            self.mirror,
            self.noise_seed(index),
            self.variant,
        )
        return {"images": image, "masks": mask, "properties": properties(scene, self.max_objects)}


def load(
    root: Path,
    split: str,
    size: int,
    max_items: int | None = None,
    *,
    num_scenes: int = NUM_SCENES,
    seed: int = 0,
    min_objects: int = 3,
    max_objects: int = 10,
    samples_per_pixel: int = DEFAULT_SAMPLES_PER_PIXEL,
    mirror: bool = True,
    variant: str = DEFAULT_VARIANT,
    crop: bool = False,
    view: str = "wide",
    workers: int | None = None,
) -> dict:
    """The arrays of one split, read-only memory maps, after rendering those of its first `max_items` items (all) that are missing.

    `num_scenes` counts all three splits; `seed` names the sequence of scenes; `variant` is the renderer's (see trace.py); `crop`
    keeps the part of the picture that Locatello et al. do (`scenes.Camera.cropped`): at its border objects may be cut off; `workers` processes
    render (one for each core).
    Returns images, masks, properties, indices (which scene of the sequence each item is) and source.
    Raises ValueError for a folder that was rendered with other settings.
    """
    settings = Settings(
        num_scenes,
        size,
        samples_per_pixel,
        min_objects,
        max_objects,
        seed,
        mirror,
        variant,
        crop,
        view,
    )
    return generated.load(root, settings, split, max_items, workers)
