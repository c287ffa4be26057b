"""Path-traced pictures and instance masks of any world, with Mitsuba 3.

A world is Mitsuba's description of a scene as a dict, in which what belongs to object k has a name
that starts with "object_k_" (k from 1).

Clean pictures at few samples per pixel come from a multi-jittered sampler, a Gaussian
reconstruction filter, and worlds that leave specks no way to arise: lights that no path can hit by
chance (points and directions), and a constant sky that is found only by sampling the surface
(`sky`), which is exact for a matte surface under an open sky.
"""

import numpy as np

from paper_lib.data.generators.camera import Camera

DEFAULT_MITSUBA_VARIANT = "scalar_rgb"


def trace(
    world: dict,
    camera: Camera,
    size: int,
    samples_per_pixel: int,
    max_depth: int,
    seed: int,
    mitsuba_variant: str = DEFAULT_MITSUBA_VARIANT,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the image, uint8 (size, size, 3) in sRGB, and the mask, uint8 (size, size).

    The mask holds k where a pixel's centre shows object k directly, and 0 elsewhere. The same
    arguments give the same picture, whatever the number of threads.

    samples_per_pixel  the sampler rounds some numbers up to a grid (96 to 99)
    max_depth          counts the segments of a light path, with the one that ends in the camera
    seed               seed of the sampler, 32 bits
    mitsuba_variant    "scalar_rgb" runs on any CPU, without system libraries; "cuda_ad_rgb" needs
                       an NVIDIA GPU (not tested here) and draws other samples, so that its pictures
                       differ in their noise
    """
    mi = mitsuba(mitsuba_variant)
    # Unoptimised: the optimiser merges meshes of one material, so that objects can't be told apart.
    world = mi.load_dict(world, optimize=False)
    image = _to_srgb(_radiance(mi, world, camera, size, samples_per_pixel, max_depth, seed))
    owners = [_owner(shape.id()) for shape in world.shapes()]
    owner_of_index = np.array([0, *owners], dtype=np.uint8)  # index 0 is no hit
    return image, owner_of_index[_shape_index(mi, world, camera, size)]


def mitsuba(mitsuba_variant: str = DEFAULT_MITSUBA_VARIANT):
    """Return the module `mitsuba`, set to a variant."""
    # Imported here, so that reading data that is already there needs no renderer.
    import mitsuba as mi

    if mi.variant() != mitsuba_variant:
        mi.set_variant(mitsuba_variant)
        _be_quiet(mi)
    return mi


def _be_quiet(mi) -> None:
    import drjit

    drjit.set_thread_count(1)  # idle threads would only spin
    mi.set_log_level(mi.LogLevel.Error)


def _radiance(
    mi, world, camera: Camera, size: int, samples_per_pixel: int, max_depth: int, seed: int
) -> np.ndarray:
    """Return linear colours (size, size, 3)."""
    path = {
        "type": "path",
        "max_depth": max_depth,
        "rr_depth": max_depth + 1,
        # A single block is a single thread, so sums of floats come out in the same order each time.
        "block_size": 1 << (size - 1).bit_length(),
    }
    sampler = {"type": "multijitter", "sample_count": samples_per_pixel}
    sensor = mi.load_dict(_sensor(mi, camera, size, sampler, "gaussian"))
    return np.array(mi.render(world, sensor=sensor, integrator=mi.load_dict(path), seed=seed))


def _shape_index(mi, world, camera: Camera, size: int) -> np.ndarray:
    """Return which shape each pixel's centre shows, (size, size) int: k + 1 for shape k, or 0."""
    centre = {"type": "stratified", "sample_count": 1, "jitter": False}
    sensor = mi.load_dict(_sensor(mi, camera, size, centre, "box"))
    integrator = mi.load_dict({"type": "aov", "aovs": "shape:shape_index"})
    channels = np.array(mi.render(world, sensor=sensor, integrator=integrator, seed=0))
    return np.rint(channels[..., -1]).astype(int)


def _owner(shape_id: str) -> int:
    """Return which object a shape is part of, from its name; 0 for none."""
    return int(shape_id.split("_")[1]) if shape_id.startswith("object_") else 0


def _sensor(mi, camera: Camera, size: int, sampler: dict, reconstruction_filter: str) -> dict:
    look_at = mi.ScalarTransform4f().look_at(
        origin=list(camera.origin), target=list(camera.target), up=[0, 0, 1]
    )
    return {
        "type": "perspective",
        "fov": camera.field_of_view,
        "principal_point_offset_y": 0.5 - camera.principal_y,
        "to_world": look_at,
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
    """Return linear colours as 8 bits."""
    linear = np.clip(linear, 0, 1)
    curve = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.rint(255 * curve).astype(np.uint8)


# Parts of worlds.


def sky(radiance) -> dict:
    """Return a constant sky of a linear colour."""
    return {"type": "constant", "radiance": rgb(radiance), "sampling_weight": 0.0}


def rgb(value) -> dict:
    """Return a linear colour: three numbers, or one for all three."""
    return {"type": "rgb", "value": value}


def to_linear(srgb) -> list[float]:
    """Return a colour of 8 bits as linear numbers."""
    srgb = np.asarray(srgb) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    return linear.tolist()
