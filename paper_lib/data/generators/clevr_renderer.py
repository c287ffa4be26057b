"""Pictures of CLEVR scenes, with or without the mirror: materials, and where the light comes from.

Clean pictures at few samples per pixel (see `trace`) come, beside the sampling, from two choices:

- Each lamp is a disc of point lights: soft shadows, and nothing that a path by way of the mirror
  can hit (bright specks otherwise).
- Metal is half a perfect mirror and half a rough one: sharp reflections and soft highlights,
  without the specks that the light which a shiny surface focuses on the ground would make.

How clean they are: the standard deviation, over pixels and channels, of the difference between two
renders of one scene that differ only in the sampler's seed; values in [0, 1] after the conversion
to 8 bits.

    size, objects    samples per pixel    over 100 scenes    the worst of them
    64x64, 3 to 10    9                   0.0200             0.0287
                     12, the default      0.0167             0.0239
                     16                   0.0137             0.0177
                     25                   0.0102             0.0128
    32x32, 3 to 6    36                   0.0083             0.0099
                     96                   0.0048             0.0054

`python -m bench.renderer` measures it again, and the time.
"""

import numpy as np

from paper_lib.data.clevr_format import COLOURS, Object
from paper_lib.data.generators.clevr_scenes import Light, Scene
from paper_lib.data.generators.trace import (
    DEFAULT_MITSUBA_VARIANT,
    mitsuba,
    rgb,
    sky,
    to_linear,
    trace,
)

DEFAULT_SAMPLES_PER_PIXEL = 12

# The mirror stands upright on the ground at y = MIRROR_Y and faces the camera.
MIRROR_Y, MIRROR_WIDTH, MIRROR_HEIGHT = 4.6, 9.0, 4.2
MIRROR_REFLECTANCE, GROUND_REFLECTANCE, SKY_RADIANCE = 0.9, 0.4, 0.14
METAL_ROUGHNESS, METAL_SHARPNESS = 0.3, 0.5
LAMP_RADIUS, POINTS_PER_LAMP = 0.7, 16
# Camera, mirror, ground, object, lamp: shadows and one bounce of indirect light, both seen in the
# mirror.
MAX_DEPTH = 4


def render(
    scene: Scene,
    size: int,
    samples_per_pixel: int = DEFAULT_SAMPLES_PER_PIXEL,
    mirror: bool = True,
    seed: int = 0,
    mitsuba_variant: str = DEFAULT_MITSUBA_VARIANT,
) -> tuple[np.ndarray, np.ndarray]:
    """Return one scene's image, uint8 (size, size, 3) in sRGB, and mask, uint8 (size, size).

    The mask holds k where a pixel's centre shows `scene.objects[k - 1]` directly, and 0 elsewhere:
    ground, mirror, and what the mirror shows. `seed` and `mitsuba_variant` are as in `trace`.
    """
    return trace(
        _world(mitsuba(mitsuba_variant), scene, mirror),
        scene.camera,
        size,
        samples_per_pixel,
        MAX_DEPTH,
        seed,
        mitsuba_variant,
    )


# Mitsuba's descriptions, from the whole to the parts.


def _world(mi, scene: Scene, mirror: bool) -> dict:
    move = mi.ScalarTransform4f
    world = {
        "type": "scene",
        "sky": sky(SKY_RADIANCE),
        "ground": {
            "type": "rectangle",
            "to_world": move().scale([60, 60, 1]),
            "bsdf": {"type": "diffuse", "reflectance": rgb(GROUND_REFLECTANCE)},
        },
    }
    if mirror:
        world["mirror"] = _mirror(move)
    for number, light in enumerate(scene.lights):
        world |= _lamp(light, f"light_{number}")
    for number, item in enumerate(scene.objects, start=1):
        for part, shape in _parts(move, item).items():
            world[f"object_{number}_{part}"] = {**shape, "bsdf": _material(item)}
    return world


def _mirror(move) -> dict:
    upright = move().translate([0, MIRROR_Y, MIRROR_HEIGHT / 2]).rotate([1, 0, 0], 90)
    return {
        "type": "rectangle",
        "to_world": upright.scale([MIRROR_WIDTH / 2, MIRROR_HEIGHT / 2, 1]),
        "bsdf": {
            "type": "conductor",
            "material": "none",
            "specular_reflectance": rgb(MIRROR_REFLECTANCE),
        },
    }


def _lamp(light: Light, name: str) -> dict[str, dict]:
    squared_distance = float(np.sum(np.square(light.position)))
    return {
        f"{name}_{point}": {
            "type": "point",
            "position": position.tolist(),
            "intensity": rgb(light.intensity / POINTS_PER_LAMP),
            # Lamps are sampled as often as they are bright at the origin.
            "sampling_weight": light.intensity / squared_distance,
        }
        for point, position in enumerate(_lamp_points(light))
    }


def _lamp_points(light: Light) -> np.ndarray:
    """Return points (POINTS_PER_LAMP, 3), spread evenly over a disc that faces the origin."""
    position = np.array(light.position)
    axis = position / np.linalg.norm(position)
    right = np.cross(axis, (0.0, 0.0, 1.0))
    right /= np.linalg.norm(right)
    k = np.arange(POINTS_PER_LAMP)
    # A sunflower's spiral.
    radius, angle = LAMP_RADIUS * np.sqrt((k + 0.5) / POINTS_PER_LAMP), k * np.pi * (3 - np.sqrt(5))
    across = np.outer(radius * np.cos(angle), right)
    along = np.outer(radius * np.sin(angle), np.cross(axis, right))
    return position + across + along


def _parts(move, item: Object) -> dict[str, dict]:
    x, y, z = item.position
    top = z + item.half_height
    if item.shape == "cube":
        turned = move().translate([x, y, z]).rotate([0, 0, 1], item.rotation)
        return {"cube": {"type": "cube", "to_world": turned.scale([item.half_height] * 3)}}
    if item.shape == "sphere":
        return {"sphere": {"type": "sphere", "center": [x, y, z], "radius": item.radius}}
    lid = move().translate([x, y, top]).scale([item.radius, item.radius, 1])
    return {
        "side": {"type": "cylinder", "p0": [x, y, 0], "p1": [x, y, top], "radius": item.radius},
        "lid": {"type": "disk", "to_world": lid},
    }


def _material(item: Object) -> dict:
    colour = rgb(to_linear(COLOURS[item.colour]))
    if item.material == "rubber":
        return {"type": "plastic", "diffuse_reflectance": colour}
    return {
        "type": "blendbsdf",
        "weight": METAL_SHARPNESS,
        "rough": {
            "type": "roughconductor",
            "material": "none",
            "alpha": METAL_ROUGHNESS,
            "specular_reflectance": colour,
        },
        "sharp": {"type": "conductor", "material": "none", "specular_reflectance": colour},
    }
