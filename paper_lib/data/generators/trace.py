"""Path-traced pictures and instance masks of any world, with Mitsuba 3.

A world is Mitsuba's description of a scene as a dict, in which what belongs to object k has a name that starts with "object_k_" (k from 1).

Clean pictures at few samples per pixel come from a multi-jittered sampler, a Gaussian reconstruction filter, and worlds that leave specks
no way to arise: lights that no path can hit by chance (points and directions), and a constant sky that is found only by sampling the
surface (`sky`), which is exact for a matte surface under an open sky.
"""

import numpy as np

from paper_lib.data.generators.clevr_scenes import Camera

DEFAULT_VARIANT = "scalar_rgb"


def trace(
    world: dict,
    camera: Camera,
    size: int,
    samples_per_pixel: int,
    max_depth: int,
    seed: int,
    variant: str = DEFAULT_VARIANT,
) -> tuple[np.ndarray, np.ndarray]:
    """Image uint8 (size, size, 3) in sRGB and mask uint8 (size, size).

    The mask holds k where a pixel's centre shows object k directly, and 0 elsewhere.

    `max_depth` counts the segments of a light path, the one that ends in the camera included. `seed` (32 bits) is the sampler's; the same
    arguments give the same picture, whatever the number of threads. Some numbers of samples are rounded up to a grid by the sampler (96 to
    99). `variant` is Mitsuba's: "scalar_rgb" runs on any CPU, without system libraries; "cuda_ad_rgb" needs an NVIDIA GPU (not tested here)
    and draws other samples, so its pictures differ in their noise.
    """
    mi = mitsuba(variant)
    # Unoptimised, because the optimiser merges meshes of one material, and then objects can't be told apart.
    world = mi.load_dict(world, optimize=False)

    # A single block is a single thread, so sums of floats come out in the same order every time.
    path = {
        "type": "path",
        "max_depth": max_depth,
        "rr_depth": max_depth + 1,
        "block_size": 1 << (size - 1).bit_length(),
    }
    sampler = {"type": "multijitter", "sample_count": samples_per_pixel}
    sensor = mi.load_dict(_sensor(mi, camera, size, sampler, "gaussian"))
    radiance = np.array(mi.render(world, sensor=sensor, integrator=mi.load_dict(path), seed=seed))

    centre = {"type": "stratified", "sample_count": 1, "jitter": False}
    sensor = mi.load_dict(_sensor(mi, camera, size, centre, "box"))
    shape_index = mi.load_dict({"type": "aov", "aovs": "shape:shape_index"})
    index = np.array(mi.render(world, sensor=sensor, integrator=shape_index, seed=0))[..., -1]
    owner = np.array(
        [0, *(_owner(shape.id()) for shape in world.shapes())], dtype=np.uint8
    )  # 0 is no hit
    return _to_srgb(radiance), owner[np.rint(index).astype(int)]


def mitsuba(variant: str = DEFAULT_VARIANT):
    """The module, set to `variant`."""
    # Imported here, so that reading data that is already there needs no renderer.
    import mitsuba as mi

    if mi.variant() != variant:
        mi.set_variant(variant)
        _be_quiet(mi)
    return mi


def _be_quiet(mi) -> None:
    import drjit

    drjit.set_thread_count(1)  # idle threads would only spin
    mi.set_log_level(mi.LogLevel.Error)


def _owner(shape_id: str) -> int:
    """Which object a shape is part of, from its name; 0 for none."""
    return int(shape_id.split("_")[1]) if shape_id.startswith("object_") else 0


def _sensor(mi, camera: Camera, size: int, sampler: dict, reconstruction_filter: str) -> dict:
    return {
        "type": "perspective",
        "fov": camera.field_of_view,
        "principal_point_offset_y": 0.5 - camera.principal_y,
        "to_world": mi.ScalarTransform4f().look_at(
            origin=list(camera.origin), target=list(camera.target), up=[0, 0, 1]
        ),
        "sampler": sampler,
        "film": {
            "type": "hdrfilm",
            "width": size,
            "height": size,
            "pixel_format": "rgb",
            "component_format": "float32",
            "rfilter": {"type": reconstruction_filter},
        },
    }


def _to_srgb(linear: np.ndarray) -> np.ndarray:
    linear = np.clip(linear, 0, 1)
    curve = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.rint(255 * curve).astype(np.uint8)


# Parts of worlds.


def sky(radiance) -> dict:
    return {"type": "constant", "radiance": rgb(radiance), "sampling_weight": 0.0}


def rgb(value) -> dict:
    """A linear colour: three numbers, or one for all three."""
    return {"type": "rgb", "value": value}


def to_linear(srgb) -> list[float]:
    """From 8 bits."""
    srgb = np.asarray(srgb) / 255
    return [
        float(v) for v in np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    ]
