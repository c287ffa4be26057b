"""Random ShapeStacks scenes as plain numbers; nothing here knows how to draw them.

Source: Groth et al. 2018, "ShapeStacks: Learning Vision-Based Physical Intuition for Generalised
Object Stacking", and the sizes, colours, cameras and lights of its published worlds
(github.com/ogroth/shapestacks). World units are the original's: the floor is z = 0, a square of
20 x 20 around the origin, and two walls along x = 10 and y = 10 meet at (10, 10).

A stack stands somewhere near the origin and holds boxes and upright cylinders, with a sphere at
most on top. It is stable where, for each object that carries others, the centre of mass of all that
it carries lies above the area of contact; density is uniform. An unstable stack violates this at
one place (the original's vcom; its vpsf, round surfaces below the top, is left out, and so are
cylinders that lie). The picture shows the moment before it falls.
"""

import itertools
from dataclasses import dataclass, replace

import numpy as np

from paper_lib.data.generators.camera import Camera, check_view

SHAPES = ("box", "cylinder", "sphere")
COLOURS = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "cyan": (0, 255, 255),
    "magenta": (255, 0, 255),
    "yellow": (255, 255, 0),
}
HALF_SIZES = (0.25, 0.5)  # range of a box's half sides, a radius, and a cylinder's half height
MIN_OBJECTS, MAX_OBJECTS = 2, 6  # in a stack: at most one for each colour
ROOM = 10.0  # half the side of the floor
FLOORS, WALLS = 6, 6  # kinds of texture
STACK_OFFSET = 2.0  # |x| and |y| of the top object's centre, at most
FIELD_OF_VIEW = 45.0
FRAME_MARGIN = 0.02  # from a bounding sphere to the border, as a share of the image's width
CLOSE_SHARE = 0.9  # of the picture's height or width, which a stack fills in the close view
AIMING_STEPS = 4  # each leaves a small part of what the camera misses the stack's middle by

# The centre of mass of a stable load lies within this share of the half sizes of what carries it,
# and by SUPPORT, at least, within its area of contact. That of an unstable one lies by VIOLATION
# outside of a side of a box's top, or of a cylinder's rim.
STABLE_SHARE = 0.5
SUPPORT = 0.05
VIOLATION = (0.05, 0.15)
TRIES = 1000

# Where each camera stands; each looks the way whose heading, a multiple of 15 degrees, comes
# nearest to the origin's. So the original has it: the twelve at height 5 look 15 degrees down and
# the four at height 9 look 45 degrees down, at the middle of a stack.
_CORNERS = ((-1, -1), (-1, 1), (1, 1), (1, -1))
_LOW = tuple((a * x, b * y, 5.0) for a, b in _CORNERS for x, y in ((7, 7), (9, 2), (2, 9)))
_HIGH = tuple((a * 5, b * 5, 9.0) for a, b in _CORNERS)
CAMERAS = _LOW + _HIGH
LOOKING_DOWN = {5.0: 15.0, 9.0: 45.0}  # height -> degrees

SKY = (0.75, 0.9, 1.1)  # its mean colour, linear; each room has its own shade

# Directions that the light comes from: above, and above each corner.
LIGHTS = ((0, 0, 20), (-9, -9, 20), (-9, 9, 20), (9, 9, 20), (9, -9, 20))

# Columns of `properties`: property -> first column, and what each column stands for.
ONE_HOT = {"shape": (6, SHAPES), "colour": (9, tuple(COLOURS))}
PROPERTY_COLUMNS = 17


@dataclass(frozen=True)
class Solid:
    """An object of a stack.

    shape, colour  names from SHAPES and COLOURS
    half_size      (x, y, z) along its own axes
    position       its centre
    rotation       angle about z, in degrees
    """

    shape: str
    half_size: tuple[float, float, float]
    colour: str
    position: tuple[float, float, float]
    rotation: float

    @property
    def volume(self) -> float:
        unit = {"box": 8, "cylinder": 2 * np.pi, "sphere": 4 / 3 * np.pi}[self.shape]
        return unit * float(np.prod(self.half_size))

    def inside(self, x: float, y: float) -> float:
        """Return how far the point above (x, y) is from the edge of the top (or bottom) face.

        Positive inside. Raises ValueError for a sphere, which has no face.
        """
        if self.shape == "sphere":
            raise ValueError("a sphere carries nothing")
        along = _turn((x - self.position[0], y - self.position[1]), -self.rotation)
        if self.shape == "cylinder":
            return self.half_size[0] - float(np.hypot(*along))
        return float(np.min(np.array(self.half_size[:2]) - np.abs(along)))

    def nearest(self, x: float, y: float) -> np.ndarray:
        """Return the point (2,) of the top face that is nearest to (x, y)."""
        along = _turn((x - self.position[0], y - self.position[1]), -self.rotation)
        if self.shape == "cylinder":
            along = along * min(1.0, self.half_size[0] / max(float(np.hypot(*along)), 1e-12))
        else:
            along = np.clip(along, -np.array(self.half_size[:2]), self.half_size[:2])
        return _turn(along, self.rotation) + self.position[:2]

    def outline(self) -> np.ndarray:
        """Return points (n, 3) whose convex hull is the solid, or nearly so where it is round."""
        if self.shape == "box":
            unit = np.array(list(itertools.product((-1, 1), repeat=3)))
        else:
            heights = np.array([-1, 1]) if self.shape == "cylinder" else np.linspace(-1, 1, 17)
            radii = np.ones(2) if self.shape == "cylinder" else np.sqrt(1 - heights**2)
            angles = np.linspace(0, 2 * np.pi, 32, endpoint=False)
            x, y = np.outer(radii, np.cos(angles)), np.outer(radii, np.sin(angles))
            z = np.broadcast_to(heights[:, None], x.shape)
            unit = np.stack([x, y, z], axis=-1).reshape(-1, 3)
        points = unit * self.half_size
        points[:, :2] = _turn(points[:, :2].T, self.rotation).T
        return points + self.position


@dataclass(frozen=True)
class Room:
    """A room surrounds a stack.

    floor, wall  kinds of texture
    light        which of LIGHTS is the main one
    tint, sky    linear colours of the light and of the sky
    """

    floor: int
    wall: int
    light: int
    tint: tuple[float, float, float]
    sky: tuple[float, float, float]


@dataclass(frozen=True)
class Stack:
    """A stack stands in its room.

    solids         its objects, from the floor up
    stable         whether it stands
    camera_number  which of the original's 16 cameras sees it, from 1
    view           "wide", as the original's camera does, or "close"
    """

    solids: tuple[Solid, ...]
    stable: bool
    room: Room
    camera_number: int
    view: str = "wide"

    @property
    def camera(self) -> Camera:
        wide = camera(self.camera_number)
        return wide if self.view == "wide" else _close(wide, self.solids)


def camera(number: int) -> Camera:
    """Return the original's cam_<number>, 1 to 16."""
    x, y, height = CAMERAS[number - 1]
    heading = np.radians(15 * np.round(np.degrees(np.arctan2(-y, -x)) / 15))
    down = np.radians(LOOKING_DOWN[height])
    forward = (np.cos(down) * np.cos(heading), np.cos(down) * np.sin(heading), -np.sin(down))
    origin = (float(x), float(y), height)
    target = tuple(float(o + f) for o, f in zip((x, y, height), forward))
    return Camera(origin, target, FIELD_OF_VIEW)


def _close(wide: Camera, solids: tuple[Solid, ...]) -> Camera:
    """Return the camera, turned to the stack and zoomed in until the stack fills CLOSE_SHARE."""
    points = np.concatenate([solid.outline() for solid in solids])
    target = (points.min(axis=0) + points.max(axis=0)) / 2
    for _ in range(AIMING_STEPS):  # to the middle of what is seen
        aimed = replace(wide, target=tuple(target.tolist()))
        seen, _ = aimed.project(points)
        x, y = (seen.min(axis=0) + seen.max(axis=0)) / 2 - 0.5
        right, down, _ = aimed.axes
        distance = np.linalg.norm(target - wide.origin)
        target = target + (x * right + y * down) * distance / aimed.focal_length
    aimed = replace(wide, target=tuple(target.tolist()))
    seen, _ = aimed.project(points)
    half_width = np.abs(seen - 0.5).max() / CLOSE_SHARE / aimed.focal_length
    return replace(aimed, field_of_view=float(2 * np.degrees(np.arctan(half_width))))


def check_counts(min_objects: int, max_objects: int) -> None:
    """Raise ValueError for numbers of objects that stacks don't have."""
    if not MIN_OBJECTS <= min_objects <= max_objects <= MAX_OBJECTS:
        raise ValueError(
            f"need {MIN_OBJECTS} <= min_objects <= max_objects <= {MAX_OBJECTS}, "
            f"got {min_objects} and {max_objects}"
        )


def sample_stack(
    seed: int,
    index: int,
    min_objects: int = MIN_OBJECTS,
    max_objects: int = MAX_OBJECTS,
    view: str = "wide",
) -> Stack:
    """Return stack `index` of the endless sequence that `seed` names.

    The same arguments always give the same stack, and both views show it. The number of objects is
    uniform in [min_objects, max_objects], every second stack is stable on average, and camera,
    textures and main light are uniform. Colours differ within a stack. Stacks that the original's
    camera does not see whole are drawn again.

    Raises ValueError for impossible counts and for an unknown view.
    """
    check_counts(min_objects, max_objects)
    check_view(view)
    rng = np.random.default_rng([seed, index])
    count, stable = int(rng.integers(min_objects, max_objects + 1)), bool(rng.integers(2))
    number = int(rng.integers(len(CAMERAS))) + 1
    room = Room(
        floor=int(rng.integers(FLOORS)),
        wall=int(rng.integers(WALLS)),
        light=int(rng.integers(len(LIGHTS))),
        tint=tuple(rng.uniform(0.85, 1.0, 3).tolist()),
        sky=tuple((rng.uniform(0.7, 1.1) * rng.uniform(0.9, 1.1, 3) * SKY).tolist()),
    )
    for _ in range(TRIES):
        solids = _pile(rng, count, stable)
        if (
            is_touching(solids)
            and violations(solids) == (0 if stable else 1)
            and _in_frame(solids, camera(number))
        ):
            return Stack(solids, stable, room, number, view)
    raise RuntimeError(f"found no stack of {count} objects in {TRIES} tries")


def _pile(rng: np.random.Generator, count: int, stable: bool) -> tuple[Solid, ...]:
    """Pile objects up, from the top down.

    Each object is put below the centre of mass of what it carries, and at one place of an unstable
    stack beside it.
    """
    # Counted from the floor, this one can't carry its load.
    violated = -1 if stable else int(rng.integers(count - 1))
    colours = rng.permutation(list(COLOURS))
    centre, mass = rng.uniform(-STACK_OFFSET, STACK_OFFSET, 2), 0.0
    solids, bottom = [], 0.0
    for k in reversed(range(count)):
        shape = SHAPES[rng.integers(3 if k == count - 1 else 2)]
        size, rotation = rng.uniform(*HALF_SIZES, 3), float(rng.uniform(0, 360))
        if shape == "cylinder":
            size[1] = size[0]
        if shape == "sphere":
            size[:] = size[0]
        place = np.zeros(2)  # of the load, in the object's own axes
        if mass:
            place = rng.uniform(-STABLE_SHARE, STABLE_SHARE, 2) * size[:2]
        if k == violated:
            side, sign = int(rng.integers(2)), rng.choice([-1, 1])
            place[side] = sign * (size[side] + rng.uniform(*VIOLATION))
        position = centre - _turn(place, rotation)
        z = bottom - float(size[2])
        new = Solid(shape, tuple(size.tolist()), str(colours[k]), (*position.tolist(), z), rotation)
        solids.insert(0, new)
        bottom -= 2 * float(size[2])
        centre = (mass * centre + new.volume * position) / (mass + new.volume)
        mass += new.volume
    return tuple(_raised(solid, -bottom) for solid in solids)


def _raised(solid: Solid, height: float) -> Solid:
    x, y, z = solid.position
    return replace(solid, position=(x, y, z + height))


def centre_of_mass(solids: tuple[Solid, ...]) -> np.ndarray:
    return np.average([s.position for s in solids], axis=0, weights=[s.volume for s in solids])


def support(solids: tuple[Solid, ...]) -> np.ndarray:
    """Return how far within its area of contact the centre of mass of each load lies, (n - 1,).

    There is one value for each object but the top one, negative outside. The area is where its top
    and the bottom of the next one overlap; a sphere touches in the one point below its centre.
    """
    margins = []
    for k, (below, above) in enumerate(zip(solids, solids[1:])):
        x, y, _ = centre_of_mass(solids[k + 1 :])
        margin = below.inside(x, y)
        if above.shape != "sphere":
            margin = min(margin, above.inside(x, y))
        margins.append(margin)
    return np.array(margins)


def violations(solids: tuple[Solid, ...]) -> int | None:
    """Return how many objects can't carry their load.

    None where a centre of mass is within SUPPORT of an edge, too close to see on which side.
    """
    margins = support(solids)
    return None if np.any(np.abs(margins) < SUPPORT) else int(np.sum(margins < 0))


def is_touching(solids: tuple[Solid, ...]) -> bool:
    """Return whether each object rests on more than the very rim of the one below."""
    for below, above in zip(solids, solids[1:]):
        x, y, _ = above.position
        if above.shape == "sphere":
            touching = below.inside(x, y) > 0
        else:
            touching = above.inside(*below.nearest(x, y)) >= SUPPORT
        if not touching:
            return False
    return True


def _in_frame(solids: tuple[Solid, ...], view: Camera) -> bool:
    """Return whether the bounding spheres of all objects lie inside the picture."""
    centres, depths = view.project(np.array([s.position for s in solids]))
    spheres = [
        s.half_size[0] if s.shape == "sphere" else np.linalg.norm(s.half_size) for s in solids
    ]
    radii = view.focal_length * np.array(spheres) / depths
    return bool(np.all(np.abs(centres - 0.5) + radii[:, None] <= 0.5 - FRAME_MARGIN))


def _turn(point, degrees: float) -> np.ndarray:
    """Return (x, y), numbers or arrays, turned about the origin, counter-clockwise."""
    x, y = point
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([c * x - s * y, s * x + c * y])


def properties(stack: Stack, max_objects: int) -> np.ndarray:
    """Return the stack as a set of vectors, (max_objects, PROPERTY_COLUMNS) float32.

    Columns 0-2 hold the centre's x, y, z in world units; 3-5 half sizes along the object's own
    axes; 6-8 shape and 9-14 colour, each one-hot (see ONE_HOT); 15 is one where the stack is stable
    (the same in all rows); 16 is one. Row k is the object that the mask calls k + 1, from the floor
    up; rows beyond the last object are zero.
    """
    rows = np.zeros((max_objects, PROPERTY_COLUMNS), dtype=np.float32)
    for row, solid in zip(rows, stack.solids, strict=False):
        row[:3], row[3:6] = solid.position, solid.half_size
        for name, (first, values) in ONE_HOT.items():
            row[first + values.index(getattr(solid, name))] = 1
        row[15] = stack.stable
        row[16] = 1
    return rows
