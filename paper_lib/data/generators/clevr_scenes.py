"""Random CLEVR scenes as plain numbers; nothing here knows how to draw them.

They are those of Johnson et al. 2017 (see `clevr_format`): the camera looks along +y, at objects
that stand on the ground. A mirror, where there is one, stands behind them (see `clevr_renderer`).
"""

from dataclasses import dataclass

import numpy as np

from paper_lib.data.clevr_format import (
    COLOURS,
    MATERIALS,
    MAX_OBJECTS,
    MIN_OBJECTS,
    POSITION_LIMIT,
    SHAPES,
    SIZES,
    Object,
    half_height,
)
from paper_lib.data.generators.camera import Camera, check_view

MIN_GAP = 0.25  # on the ground, between the circles around two objects
MIN_VISIBLE = 0.5  # share of an object's disc in the image that no nearer object covers
FRAME_MARGIN = 0.02  # between a disc and the image's border, as a share of the image's width
PLACEMENT_TRIES = 100  # for one object, before the whole arrangement is drawn again
ARRANGEMENT_TRIES = 200

# What cameras see is the largest square in the middle of CLEVR's pictures.
CAMERA_ORIGIN = (0.0, -9.2, 5.6)
CAMERA_TARGET = {"wide": (0.0, 0.2, 0.3), "close": (0.0, 1.4, 0.3)}
FIELD_OF_VIEW = {"wide": 38.0, "close": 26.0}
CAMERA_JITTER, LIGHT_JITTER = 0.25, 1.0
LIGHTS = {  # position, radiant intensity
    "key": ((4.5, -4.5, 6.5), 130.0),
    "fill": ((-5.5, -4.0, 4.0), 20.0),
    "back": ((-1.5, 2.5, 6.5), 25.0),
}


@dataclass(frozen=True)
class Light:
    """A small light at `position`, of a radiant `intensity` that is the same in all colours."""

    position: tuple[float, float, float]
    intensity: float


@dataclass(frozen=True)
class Scene:
    objects: tuple[Object, ...]
    camera: Camera
    lights: tuple[Light, ...]


def sample_scene(
    seed: int,
    index: int,
    min_objects: int = MIN_OBJECTS,
    max_objects: int = MAX_OBJECTS,
    view: str = "wide",
) -> Scene:
    """Return scene `index` of the endless sequence that `seed` names.

    The same arguments always give the same scene. The number of objects is uniform in
    [min_objects, max_objects]; all other properties are uniform and independent, except that
    positions are drawn again until objects keep MIN_GAP apart and `is_clear` in the view's camera.

    Raises ValueError for an empty range of counts and for an unknown view, RuntimeError where so
    many objects find no room.
    """
    if not 1 <= min_objects <= max_objects:
        raise ValueError(
            f"need 1 <= min_objects <= max_objects, got {min_objects} and {max_objects}"
        )
    check_view(view)
    rng = np.random.default_rng([seed, index])
    camera = Camera(
        origin=tuple(rng.uniform(-CAMERA_JITTER, CAMERA_JITTER, 3) + CAMERA_ORIGIN),
        target=CAMERA_TARGET[view],
        field_of_view=FIELD_OF_VIEW[view],
    )
    lights = tuple(
        Light(tuple(rng.uniform(-LIGHT_JITTER, LIGHT_JITTER, 3) + position), intensity)
        for position, intensity in LIGHTS.values()
    )
    count = int(rng.integers(min_objects, max_objects + 1))
    for _ in range(ARRANGEMENT_TRIES):
        objects = _arrange(rng, count, camera)
        if objects is not None:
            return Scene(objects, camera, lights)
    raise RuntimeError(
        f"found no room for {count} objects in {ARRANGEMENT_TRIES} arrangements; "
        "ask for a smaller max_objects"
    )


def _arrange(rng: np.random.Generator, count: int, camera: Camera) -> tuple[Object, ...] | None:
    """Place objects one by one; return None where one found no place among the others."""
    objects: tuple[Object, ...] = ()
    for _ in range(count):
        shape, size, material, colour = (
            names[rng.integers(len(names))]
            for names in (SHAPES, tuple(SIZES), MATERIALS, tuple(COLOURS))
        )
        rotation = float(rng.uniform(0, 360))
        for _ in range(PLACEMENT_TRIES):
            x, y = rng.uniform(-POSITION_LIMIT, POSITION_LIMIT, 2)
            position = (float(x), float(y), half_height(shape, size))
            new = Object(shape, size, material, colour, position, rotation)
            is_apart = all(_gap(new, old) >= MIN_GAP for old in objects)
            if is_apart and is_clear((*objects, new), camera):
                objects = (*objects, new)
                break
        else:
            return None
    return objects


def _gap(a: Object, b: Object) -> float:
    distance = np.hypot(a.position[0] - b.position[0], a.position[1] - b.position[1])
    return distance - a.radius - b.radius


def is_clear(objects: tuple[Object, ...], camera: Camera, grid: int = 64) -> bool:
    """Return whether the camera sees every object well: none cut off by the frame, none hidden.

    Each object stands for the disc that a sphere of its `radius` around its centre makes in the
    image. Every disc must lie inside the frame by FRAME_MARGIN, and at least MIN_VISIBLE of its
    pixels (of a grid x grid image) must not be covered by a nearer disc. This is decided in the
    image plane, so that a scene never depends on the resolution it is rendered at.
    """
    centres, depths = camera.project(np.array([o.position for o in objects]))
    radii = camera.focal_length * np.array([o.radius for o in objects]) / depths
    if np.any(np.abs(centres - 0.5) + radii[:, None] > 0.5 - FRAME_MARGIN):
        return False
    nearest_first = np.argsort(depths)
    apart = np.hypot(*(centres[:, None] - centres).T) > radii[:, None] + radii + 1e-9
    for place, k in enumerate(nearest_first):
        before = [j for j in nearest_first[:place] if not apart[j, k]]
        if before:
            window = _pixels(centres[k], radii[k], grid)
            disc = _disc(centres[k], radii[k], window)
            covered = np.any([_disc(centres[j], radii[j], window) for j in before], axis=0)
            if np.sum(disc & ~covered) < MIN_VISIBLE * np.sum(disc):
                return False
    return True


def _pixels(centre: np.ndarray, radius: float, grid: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the x and the y of the pixels around a disc; no others can be part of it."""
    first = np.floor((centre - radius) * grid).astype(int)
    last = np.ceil((centre + radius) * grid).astype(int)
    x, y = ((np.arange(a, b) + 0.5) / grid for a, b in zip(first, last))
    return x, y


def _disc(centre: np.ndarray, radius: float, pixels: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Return which pixels are in a disc, (y, x) bool."""
    x, y = pixels
    return np.hypot(x[None, :] - centre[0], y[:, None] - centre[1]) < radius
