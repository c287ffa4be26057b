"""Random CLEVR scenes as plain numbers; nothing here knows how to draw them.

Source: Johnson et al. 2017, "CLEVR: A Diagnostic Dataset for Compositional Language and Elementary Visual Reasoning",
and the names, sizes and colours of its generator. World units are CLEVR's: the ground is z = 0, objects stand on it with their
centres at x, y in [-3, 3], and the camera looks along +y. A mirror, where there is one, stands behind the objects (see render.py).
"""

import functools
from dataclasses import dataclass, replace

import numpy as np

SHAPES = ("cube", "sphere", "cylinder")
MATERIALS = ("rubber", "metal")
SIZES = {"large": 0.7, "small": 0.35}
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
MIN_GAP = 0.25  # on the ground, between the circles around two objects
MIN_VISIBLE = 0.5  # share of an object's disc in the image that no nearer object covers
FRAME_MARGIN = (
    0.02  # between an object's disc and the image's border, as a share of the image's width
)
PLACEMENT_TRIES = 100  # for one object, before the whole arrangement is drawn again
ARRANGEMENT_TRIES = 200

CAMERA_ORIGIN = (0.0, -9.2, 5.6)
CAMERA_TARGET = {"wide": (0.0, 0.2, 0.3), "close": (0.0, 1.4, 0.3)}
FIELD_OF_VIEW = {"wide": 38.0, "close": 26.0}
CAMERA_JITTER, LIGHT_JITTER = 0.25, 1.0
# CLEVR's pictures have 240 rows and 320 columns; cameras here see what the largest square in their middle shows. In object discovery Greff et al. (2019) and
# Locatello et al. (2020) keep less of them: a square with this top, left and side.
CLEVR_HEIGHT, CLEVR_WIDTH, CLEVR_CROP = 240, 320, (29, 64, 192)
LIGHTS = {  # position, radiant intensity
    "key": ((4.5, -4.5, 6.5), 130.0),
    "fill": ((-5.5, -4.0, 4.0), 20.0),
    "back": ((-1.5, 2.5, 6.5), 25.0),
}


@dataclass(frozen=True)
class Object:
    """One object: names from SHAPES, SIZES, MATERIALS, COLOURS; `position` the centre (x, y, z); `rotation` about z in degrees."""

    shape: str
    size: str
    material: str
    colour: str
    position: tuple[float, float, float]
    rotation: float

    @property
    def radius(self) -> float:
        """Of the circle around the object's footprint. A cube's half side is this over root 2, so its corners lie on the circle."""
        return SIZES[self.size]

    @property
    def half_height(self) -> float:
        return half_height(self.shape, self.size)


@dataclass(frozen=True)
class Camera:
    """A pinhole camera for square images: `origin` and `target` in world units, `field_of_view` in degrees, +z up. `target` is
    seen in the middle of the image's width, at `principal_y` of its height, down from 0 to 1."""

    origin: tuple[float, float, float]
    target: tuple[float, float, float]
    field_of_view: float
    principal_y: float = 0.5

    def cropped(self) -> "Camera":
        """That of the picture which CLEVR_CROP, in the middle of the width, leaves of this one's."""
        top, _, side = CLEVR_CROP
        narrower = 2 * np.degrees(
            np.arctan(np.tan(np.radians(self.field_of_view) / 2) * side / CLEVR_HEIGHT)
        )
        return replace(
            self,
            field_of_view=float(narrower),
            principal_y=(self.principal_y * CLEVR_HEIGHT - top) / side,
        )

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """World points (..., 3) -> image points (..., 2), right and down from (0, 0) to (1, 1), and depth (...) along the view."""
        x, y, depth = np.moveaxis((np.asarray(points) - self.origin) @ self.axes.T, -1, 0)
        return (0.5, self.principal_y) + np.stack([x, y], axis=-1) / depth[
            ..., None
        ] * self.focal_length, depth

    @functools.cached_property
    def axes(self) -> np.ndarray:
        """Unit vectors (3, 3): right, down and forward."""
        forward = np.array(self.target) - np.array(self.origin)
        forward /= np.linalg.norm(forward)
        right = np.cross(forward, (0.0, 0.0, 1.0))
        right /= np.linalg.norm(right)
        return np.stack([right, -np.cross(right, forward), forward])

    @property
    def focal_length(self) -> float:
        """In image widths."""
        return 0.5 / np.tan(np.radians(self.field_of_view) / 2)


@dataclass(frozen=True)
class Light:
    """A small light at `position` (world units) with radiant `intensity` (the same in red, green and blue)."""

    position: tuple[float, float, float]
    intensity: float


@dataclass(frozen=True)
class Scene:
    objects: tuple[Object, ...]
    camera: Camera
    lights: tuple[Light, ...]


def half_height(shape: str, size: str) -> float:
    return SIZES[size] / 2**0.5 if shape == "cube" else SIZES[size]


def sample_scene(
    seed: int, index: int, min_objects: int = 3, max_objects: int = 10, view: str = "wide"
) -> Scene:
    """Scene `index` of the endless sequence that `seed` names; the same two numbers always give the same scene.

    The number of objects is uniform in [min_objects, max_objects]; all other properties are uniform and independent, except that
    positions are drawn again until objects keep MIN_GAP apart and `is_clear` says that all can be seen.

    Raises ValueError for an empty range of counts, RuntimeError where so many objects find no room.
    """
    if not 1 <= min_objects <= max_objects:
        raise ValueError(
            f"need 1 <= min_objects <= max_objects, got {min_objects} and {max_objects}"
        )
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
        f"found no room for {count} objects in {ARRANGEMENT_TRIES} arrangements; ask for a smaller max_objects"
    )


def _arrange(rng: np.random.Generator, count: int, camera: Camera) -> tuple[Object, ...] | None:
    """Place objects one by one; None where one found no place among the others."""
    objects: tuple[Object, ...] = ()
    for _ in range(count):
        shape, size, material, colour = (
            names[rng.integers(len(names))]
            for names in (SHAPES, tuple(SIZES), MATERIALS, tuple(COLOURS))
        )
        rotation = float(rng.uniform(0, 360))
        for _ in range(PLACEMENT_TRIES):
            x, y = rng.uniform(-POSITION_LIMIT, POSITION_LIMIT, 2)
            new = Object(
                shape,
                size,
                material,
                colour,
                (float(x), float(y), half_height(shape, size)),
                rotation,
            )
            if all(_gap(new, old) >= MIN_GAP for old in objects) and is_clear(
                (*objects, new), camera
            ):
                objects = (*objects, new)
                break
        else:
            return None
    return objects


def _gap(a: Object, b: Object) -> float:
    return (
        np.hypot(a.position[0] - b.position[0], a.position[1] - b.position[1]) - a.radius - b.radius
    )


def is_clear(objects: tuple[Object, ...], camera: Camera, grid: int = 64) -> bool:
    """Whether the camera sees every object well: none cut off by the frame, none hidden.

    Each object stands for the disc that a sphere of its `radius` around its centre makes in the image. Every disc must lie inside the
    frame by FRAME_MARGIN, and at least MIN_VISIBLE of its pixels (of a grid x grid image) must not be covered by a nearer disc.
    Decided in the image plane, so a scene never depends on the resolution it is rendered at.
    """
    centres, depths = camera.project(np.array([o.position for o in objects]))
    radii = camera.focal_length * np.array([o.radius for o in objects]) / depths
    if np.any(np.abs(centres - 0.5) + radii[:, None] > 0.5 - FRAME_MARGIN):
        return False
    order = np.argsort(depths)
    apart = np.hypot(*(centres[:, None] - centres).T) > radii[:, None] + radii + 1e-9
    for place, k in enumerate(order):
        before = [j for j in order[:place] if not apart[j, k]]
        if before:
            window = _pixels(centres[k], radii[k], grid)
            disc = _disc(centres[k], radii[k], window)
            covered = np.any([_disc(centres[j], radii[j], window) for j in before], axis=0)
            if np.sum(disc & ~covered) < MIN_VISIBLE * np.sum(disc):
                return False
    return True


def _pixels(centre: np.ndarray, radius: float, grid: int) -> tuple[np.ndarray, np.ndarray]:
    """The x and the y of the pixels around a disc inside the frame; those further away can't be part of it."""
    first, last = (
        np.floor((centre - radius) * grid).astype(int),
        np.ceil((centre + radius) * grid).astype(int),
    )
    x, y = ((np.arange(a, b) + 0.5) / grid for a, b in zip(first, last))
    return x, y


def _disc(centre: np.ndarray, radius: float, pixels: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    x, y = pixels
    return np.hypot(x[None, :] - centre[0], y[:, None] - centre[1]) < radius


def properties(scene: Scene, max_objects: int) -> np.ndarray:
    """The scene as a set of vectors, (max_objects, 19) float32, as in Locatello et al. 2020, "Object-Centric Learning with Slot Attention".

    Columns: 0-2 position x, y, z, scaled from [-3, 3] to [0, 1]; 3-4 size, 5-6 material, 7-9 shape, 10-17 colour, each one-hot in the
    order of SIZES, MATERIALS, SHAPES, COLOURS; 18 one where there is an object. Row k is the object that the mask calls k + 1;
    rows beyond the last object are zero.
    """
    rows = np.zeros((max_objects, 19), dtype=np.float32)
    for row, item in zip(rows, scene.objects, strict=False):
        row[:3] = (np.array(item.position) + POSITION_LIMIT) / (2 * POSITION_LIMIT)
        row[3 + list(SIZES).index(item.size)] = 1
        row[5 + MATERIALS.index(item.material)] = 1
        row[7 + SHAPES.index(item.shape)] = 1
        row[10 + list(COLOURS).index(item.colour)] = 1
        row[18] = 1
    return rows
