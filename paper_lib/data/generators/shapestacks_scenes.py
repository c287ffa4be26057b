"""Random ShapeStacks scenes as plain numbers; nothing here knows how to draw them.

Source: Groth et al. 2018, "ShapeStacks: Learning Vision-Based Physical Intuition for Generalised Object Stacking", and the sizes, colours,
cameras and lights of its published worlds (github.com/ogroth/shapestacks). World units are the original's: the floor is z = 0, a square of
20 x 20 around the origin, and two walls along x = 10 and y = 10 meet at (10, 10).

A stack stands somewhere near the origin and holds boxes and upright cylinders, with a sphere at most on top. It is stable where, for each
object that carries others, the centre of mass of all that it carries lies above the area of contact; density is uniform. An unstable
stack violates this at one place (the original's vcom; its vpsf, round surfaces below the top, is left out, and so are cylinders that lie). The
picture shows the moment before it falls.
"""

from dataclasses import dataclass

import numpy as np

from paper_lib.data.generators.clevr_scenes import Camera

SHAPES = ("box", "cylinder", "sphere")
COLOURS = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "cyan": (0, 255, 255),
    "magenta": (255, 0, 255),
    "yellow": (255, 255, 0),
}
HALF_SIZES = (
    0.25,
    0.5,
)  # range of a box's half sides, of a radius, and of a cylinder's half height
HEIGHTS = (2, 6)  # objects in a stack, at fewest and at most: one for each colour
ROOM = 10.0  # half the side of the floor
FLOORS, WALLS = 6, 6  # kinds of texture
STACK_OFFSET = 2.0  # |x| and |y| of the top object's centre, at most
FIELD_OF_VIEW = 45.0
FRAME_MARGIN = 0.02  # between an object's bounding sphere and the image's border, as a share of the image's width
STABLE_SHARE = 0.5  # the centre of mass of a stable load lies in the middle of the top below: within this share of its half sizes
SUPPORT = 0.05  # by so much, at least, a load's centre of mass lies within its support, or outside it where the stack is unstable
VIOLATION = (0.05, 0.15)  # how far outside, along a side of a box's top or from a cylinder's rim
TRIES = 1000

# Where each camera stands; each looks the way whose heading, a multiple of 15 degrees, comes nearest to the origin's. So the original
# has it: the twelve at height 5 look 15 degrees down and the four at height 9 look 45 degrees down, at the middle of a stack.
_CORNERS = ((-1, -1), (-1, 1), (1, 1), (1, -1))
CAMERAS = tuple(
    (a * x, b * y, 5.0) for a, b in _CORNERS for x, y in ((7, 7), (9, 2), (2, 9))
) + tuple((a * 5, b * 5, 9.0) for a, b in _CORNERS)
LOOKING_DOWN = {5.0: 15.0, 9.0: 45.0}  # degrees

SKY = (0.75, 0.9, 1.1)  # its mean colour, linear; each room has its own shade

# Directions that the light comes from: above, and above each corner.
LIGHTS = ((0, 0, 20), (-9, -9, 20), (-9, 9, 20), (9, 9, 20), (9, -9, 20))


@dataclass(frozen=True)
class Solid:
    """One object: names from SHAPES and COLOURS; `half_size` (x, y, z) along its own axes; `position` the centre; `rotation` about z in degrees."""

    shape: str
    half_size: tuple[float, float, float]
    colour: str
    position: tuple[float, float, float]
    rotation: float

    @property
    def volume(self) -> float:
        return {"box": 8, "cylinder": 2 * np.pi, "sphere": 4 / 3 * np.pi}[self.shape] * float(
            np.prod(self.half_size)
        )

    def inside(self, x: float, y: float) -> float:
        """How far the point above (x, y) is from the edge of its top (or bottom) face: positive inside. A sphere has no face."""
        if self.shape == "sphere":
            raise ValueError("a sphere carries nothing")
        along = _turn((x - self.position[0], y - self.position[1]), -self.rotation)
        if self.shape == "cylinder":
            return self.half_size[0] - float(np.hypot(*along))
        return float(np.min(np.array(self.half_size[:2]) - np.abs(along)))

    def nearest(self, x: float, y: float) -> np.ndarray:
        """The point (2,) of its top face nearest to (x, y)."""
        along = _turn((x - self.position[0], y - self.position[1]), -self.rotation)
        if self.shape == "cylinder":
            along = along * min(1.0, self.half_size[0] / max(float(np.hypot(*along)), 1e-12))
        else:
            along = np.clip(along, -np.array(self.half_size[:2]), self.half_size[:2])
        return _turn(along, self.rotation) + self.position[:2]


@dataclass(frozen=True)
class Room:
    """What surrounds a stack: kinds of `floor` and `wall` texture, which of LIGHTS is the main `light`, its linear `tint` and the `sky`'s."""

    floor: int
    wall: int
    light: int
    tint: tuple[float, float, float]
    sky: tuple[float, float, float]


@dataclass(frozen=True)
class Stack:
    """`solids` from the floor up; `camera_number` from 1, as in the original."""

    solids: tuple[Solid, ...]
    stable: bool
    room: Room
    camera_number: int

    @property
    def camera(self) -> Camera:
        return camera(self.camera_number)


def camera(number: int) -> Camera:
    """The original's cam_<number>, 1 to 16."""
    x, y, height = CAMERAS[number - 1]
    heading = np.radians(15 * np.round(np.degrees(np.arctan2(-y, -x)) / 15))
    down = np.radians(LOOKING_DOWN[height])
    forward = (np.cos(down) * np.cos(heading), np.cos(down) * np.sin(heading), -np.sin(down))
    return Camera(
        (float(x), float(y), height),
        tuple(float(o + f) for o, f in zip((x, y, height), forward)),
        FIELD_OF_VIEW,
    )


def sample_stack(
    seed: int, index: int, min_objects: int = HEIGHTS[0], max_objects: int = HEIGHTS[1]
) -> Stack:
    """Stack `index` of the endless sequence that `seed` names; the same two numbers always give the same stack.

    The number of objects is uniform in [min_objects, max_objects], every second stack is stable on average, and camera, textures and main
    light are uniform. Colours differ within a stack. Stacks that the camera does not see whole are drawn again.

    Raises ValueError for counts outside HEIGHTS.
    """
    if not HEIGHTS[0] <= min_objects <= max_objects <= HEIGHTS[1]:
        raise ValueError(
            f"need {HEIGHTS[0]} <= min_objects <= max_objects <= {HEIGHTS[1]}, got {min_objects} and {max_objects}"
        )
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
            return Stack(solids, stable, room, number)
    raise RuntimeError(f"found no stack of {count} objects in {TRIES} tries")


def _pile(rng: np.random.Generator, count: int, stable: bool) -> tuple[Solid, ...]:
    """From the top down: each object is put below the centre of mass of what it carries, and at one place of an unstable stack beside it."""
    violated = (
        -1 if stable else int(rng.integers(count - 1))
    )  # this one, counted from the floor, can't carry its load
    colours = rng.permutation(list(COLOURS))
    centre, mass, solids, bottom = rng.uniform(-STACK_OFFSET, STACK_OFFSET, 2), 0.0, [], 0.0
    for k in reversed(range(count)):
        shape = SHAPES[rng.integers(3 if k == count - 1 else 2)]
        size, rotation = rng.uniform(*HALF_SIZES, 3), float(rng.uniform(0, 360))
        if shape == "cylinder":
            size[1] = size[0]
        if shape == "sphere":
            size[:] = size[0]
        place = (
            rng.uniform(-STABLE_SHARE, STABLE_SHARE, 2) * size[:2] if mass else np.zeros(2)
        )  # of the load, in the object's own axes
        if k == violated:
            side, sign = int(rng.integers(2)), rng.choice([-1, 1])
            place[side] = sign * (size[side] + rng.uniform(*VIOLATION))
        position = centre - _turn(place, rotation)
        new = Solid(
            shape,
            tuple(size.tolist()),
            str(colours[k]),
            (*position.tolist(), bottom - float(size[2])),
            rotation,
        )
        solids.insert(0, new)
        bottom -= 2 * float(size[2])
        centre = (mass * centre + new.volume * position) / (mass + new.volume)
        mass += new.volume
    return tuple(
        Solid(s.shape, s.half_size, s.colour, (*s.position[:2], s.position[2] - bottom), s.rotation)
        for s in solids
    )


def centre_of_mass(solids: tuple[Solid, ...]) -> np.ndarray:
    return np.average([s.position for s in solids], axis=0, weights=[s.volume for s in solids])


def support(solids: tuple[Solid, ...]) -> np.ndarray:
    """For each object but the top one, (n - 1,): how far within its area of contact the centre of mass of what it carries lies.

    Negative outside. The area is where its top and the bottom of the next one overlap; a sphere touches in the one point below its centre.
    """
    margins = []
    for k, (below, above) in enumerate(zip(solids, solids[1:])):
        x, y, _ = centre_of_mass(solids[k + 1 :])
        margins.append(
            below.inside(x, y)
            if above.shape == "sphere"
            else min(below.inside(x, y), above.inside(x, y))
        )
    return np.array(margins)


def violations(solids: tuple[Solid, ...]) -> int | None:
    """How many objects can't carry their load; None where a centre of mass is within SUPPORT of an edge, too close to see on which side."""
    margins = support(solids)
    return None if np.any(np.abs(margins) < SUPPORT) else int(np.sum(margins < 0))


def is_touching(solids: tuple[Solid, ...]) -> bool:
    """Whether each object rests on more than the very rim of the one below."""
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
    centres, depths = view.project(np.array([s.position for s in solids]))
    radii = (
        view.focal_length
        * np.array(
            [s.half_size[0] if s.shape == "sphere" else np.linalg.norm(s.half_size) for s in solids]
        )
        / depths
    )
    return bool(np.all(np.abs(centres - 0.5) + radii[:, None] <= 0.5 - FRAME_MARGIN))


def _turn(point, degrees: float) -> np.ndarray:
    """(x, y) turned about the origin, counter-clockwise."""
    x, y = point
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([c * x - s * y, s * x + c * y])


PROPERTY_COLUMNS = 17


def properties(stack: Stack, max_objects: int) -> np.ndarray:
    """The stack as a set of vectors, (max_objects, 17) float32.

    Columns: 0-2 the centre's x, y, z in world units; 3-5 half sizes along the object's own axes; 6-8 shape, 9-14 colour, each one-hot in
    the order of SHAPES, COLOURS; 15 one where the stack is stable (the same in all rows); 16 one where there is an object. Row k is the
    object that the mask calls k + 1, from the floor up; rows beyond the last object are zero.
    """
    rows = np.zeros((max_objects, PROPERTY_COLUMNS), dtype=np.float32)
    for row, solid in zip(rows, stack.solids, strict=False):
        row[:3], row[3:6] = solid.position, solid.half_size
        row[6 + SHAPES.index(solid.shape)] = 1
        row[9 + list(COLOURS).index(solid.colour)] = 1
        row[15] = stack.stable
        row[16] = 1
    return rows
