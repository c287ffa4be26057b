"""Pictures of ShapeStacks scenes: what the room and the objects are made of, and where the light comes from.

The original (MuJoCo) is lit by parallel light from above and from above the corners, without any light between surfaces. Here one of these
lights is the main one, the others and the sky fill its shadows in, and surfaces light each other once.

How clean, measured as in render.py: 64x64, 2 to 6 objects: 0.0156 over 100 stacks, and at most 0.0262 for one of them, at 9 samples per
pixel, the default; 0.0102 and 0.0182 at 16 (50 stacks).
"""

import functools

import numpy as np

from paper_lib.data.generators import textures
from paper_lib.data.generators.shapestacks_scenes import COLOURS, LIGHTS, ROOM, Room, Solid, Stack
from paper_lib.data.generators.trace import DEFAULT_VARIANT, mitsuba, rgb, sky, to_linear, trace

DEFAULT_SAMPLES_PER_PIXEL = 9

WALL_HEIGHT = 9.0  # as far up as any camera sees; higher walls would put the stacks in their shadow
MAIN_IRRADIANCE, FILL_IRRADIANCE, SKY_RADIANCE = 3.0, 0.35, 0.3
FLOOR_REPEATS, WALL_REPEATS = 3.0, 3.0  # of a texture, along 20 units
MAX_DEPTH = 3  # camera, surface, surface, light


def render_stack(
    stack: Stack,
    size: int,
    samples_per_pixel: int = DEFAULT_SAMPLES_PER_PIXEL,
    seed: int = 0,
    variant: str = DEFAULT_VARIANT,
) -> tuple[np.ndarray, np.ndarray]:
    """Image uint8 (size, size, 3) in sRGB and mask uint8 (size, size) of one stack; `seed` and `variant` as in `trace`.

    The mask holds k where a pixel's centre shows `stack.solids[k - 1]`, and 0 elsewhere.
    """
    return trace(
        _world(mitsuba(variant), stack, variant),
        stack.camera,
        size,
        samples_per_pixel,
        MAX_DEPTH,
        seed,
        variant,
    )


# Mitsuba's descriptions, from the whole to the parts.


def _world(mi, stack: Stack, variant: str) -> dict:
    world = {
        "type": "scene",
        "sky": sky([SKY_RADIANCE * v for v in stack.room.sky]),
        **_lights(stack.room),
        **_room(mi, stack.room, variant),
    }
    for number, solid in enumerate(stack.solids, start=1):
        for part, shape in _parts(mi, solid).items():
            bsdf = {"type": "plastic", "diffuse_reflectance": rgb(to_linear(COLOURS[solid.colour]))}
            world[f"object_{number}_{part}"] = {**shape, "bsdf": bsdf}
    return world


def _lights(room: Room) -> dict:
    lights = {}
    for number, (x, y, z) in enumerate(LIGHTS):
        irradiance = MAIN_IRRADIANCE if number == room.light else FILL_IRRADIANCE
        colour = rgb([irradiance * v for v in room.tint])
        lights[f"light_{number}"] = {
            "type": "directional",
            "direction": [-x, -y, -z],
            "irradiance": colour,
            "sampling_weight": irradiance,
        }
    return lights


def _room(mi, room: Room, variant: str) -> dict:
    move = mi.ScalarTransform4f
    middle, half = WALL_HEIGHT / 2, [ROOM, WALL_HEIGHT / 2, 1]
    places = {
        "floor": move().scale([ROOM, ROOM, 1]),
        "wall_1": move().translate([0, ROOM, middle]).rotate([1, 0, 0], 90).scale(half),
        "wall_2": move()
        .translate([ROOM, 0, middle])
        .rotate([0, 0, 1], -90)
        .rotate([1, 0, 0], 90)
        .scale(half),
    }
    floor, wall = _surface("floor", room.floor, variant), _surface("wall", room.wall, variant)
    return {
        name: {"type": "rectangle", "to_world": place, "bsdf": floor if name == "floor" else wall}
        for name, place in places.items()
    }


@functools.cache
def _surface(kind: str, number: int, variant: str):
    """Made once in a process: scenes share it."""
    mi = mitsuba(variant)
    if kind == "floor":
        draw, repeats = textures.FLOORS[number], [FLOOR_REPEATS, FLOOR_REPEATS, 1]
    else:
        draw, repeats = (
            textures.WALLS[number],
            [WALL_REPEATS, WALL_REPEATS * WALL_HEIGHT / (2 * ROOM), 1],
        )
    bitmap = {
        "type": "bitmap",
        "bitmap": mi.Bitmap(textures.picture(draw)),
        "to_uv": mi.ScalarTransform4f().scale(repeats),
    }
    return mi.load_dict({"type": "diffuse", "reflectance": bitmap})


def _parts(mi, solid: Solid) -> dict[str, dict]:
    move = mi.ScalarTransform4f
    x, y, z = solid.position
    if solid.shape == "box":
        return {
            "box": {
                "type": "cube",
                "to_world": move()
                .translate([x, y, z])
                .rotate([0, 0, 1], solid.rotation)
                .scale(list(solid.half_size)),
            }
        }
    radius, _, half_height = solid.half_size
    if solid.shape == "sphere":
        return {"sphere": {"type": "sphere", "center": [x, y, z], "radius": radius}}
    bottom, top = z - half_height, z + half_height
    return {
        "side": {"type": "cylinder", "p0": [x, y, bottom], "p1": [x, y, top], "radius": radius},
        "lid": {
            "type": "disk",
            "to_world": move().translate([x, y, top]).scale([radius, radius, 1]),
        },
        "base": {
            "type": "disk",
            "to_world": move()
            .translate([x, y, bottom])
            .rotate([1, 0, 0], 180)
            .scale([radius, radius, 1]),
        },
    }
