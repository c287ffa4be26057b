"""What CLEVR's scenes and pictures are, rendered here or by its authors.

Source: Johnson et al. 2017, "CLEVR: A Diagnostic Dataset for Compositional Language and Elementary
Visual Reasoning", and the names, sizes and colours of its generator. World units are CLEVR's: the
ground is z = 0, and objects stand on it with their centres at x, y in [-3, 3].
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SHAPES = ("cube", "sphere", "cylinder")
MATERIALS = ("rubber", "metal")
SIZES = {"large": 0.7, "small": 0.35}  # radius of the circle around an object's footprint
COLOURS = {
    "gray": (87, 87, 87),
    "red": (173, 35, 35),
    "blue": (42, 75, 215),
    "green": (29, 105, 20),
    "brown": (129, 74, 25),
    "purple": (129, 38, 192),
    "cyan": (41, 208, 208),
    "yellow": (255, 238, 51),
}
POSITION_LIMIT = 3.0  # |x| and |y| of an object's centre, at most
MIN_OBJECTS, MAX_OBJECTS = 3, 10  # in a scene

# In object discovery Greff et al. (2019) and Locatello et al. (2020) keep a square of CLEVR's
# pictures, with this top, left and side.
PICTURE_HEIGHT, PICTURE_WIDTH = 240, 320
CROP = (29, 64, 192)

# Columns of `properties`: the first three are the position, then come these (property -> first
# column, and what each column stands for), and the last says whether there is an object.
ONE_HOT = {
    "size": (3, tuple(SIZES)),
    "material": (5, MATERIALS),
    "shape": (7, SHAPES),
    "colour": (10, tuple(COLOURS)),
}
PROPERTY_COLUMNS = 19


@dataclass(frozen=True)
class Object:
    """An object of a scene.

    shape, size, material, colour   names from SHAPES, SIZES, MATERIALS and COLOURS
    position                        its centre (x, y, z)
    rotation                        angle about z, in degrees
    """

    shape: str
    size: str
    material: str
    colour: str
    position: tuple[float, float, float]
    rotation: float

    @property
    def radius(self) -> float:
        """Return the radius of the circle around the footprint; a cube's corners lie on it."""
        return SIZES[self.size]

    @property
    def half_height(self) -> float:
        return half_height(self.shape, self.size)


def half_height(shape: str, size: str) -> float:
    """Return half the height of an object; a cube's half side is its size over root 2."""
    return SIZES[size] / 2**0.5 if shape == "cube" else SIZES[size]


def properties(objects: Sequence[Object], max_objects: int) -> np.ndarray:
    """Return the objects as a set of vectors, (max_objects, PROPERTY_COLUMNS) float32.

    As in Locatello et al. 2020, "Object-Centric Learning with Slot Attention": columns 0-2 hold
    the position, scaled from [-3, 3] to [0, 1]; 3-4 size, 5-6 material, 7-9 shape and 10-17 colour,
    each one-hot (see ONE_HOT); 18 is one. Rows beyond the last object are zero.

    Raises ValueError for a name that CLEVR does not know, and for a position that is none.
    """
    rows = np.zeros((max_objects, PROPERTY_COLUMNS), dtype=np.float32)
    for row, item in zip(rows, objects, strict=False):
        position = np.array(item.position, dtype=float)
        if position.shape != (3,) or not np.isfinite(position).all():
            raise ValueError(f"a position is three numbers, not {item.position}")
        row[:3] = (position + POSITION_LIMIT) / (2 * POSITION_LIMIT)
        for name, (first, values) in ONE_HOT.items():
            row[first + values.index(getattr(item, name))] = 1
        row[-1] = 1
    return rows
