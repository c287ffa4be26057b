"""The ShapeStacks generator: geometry, stability, pictures and masks, each checked by a way of its own."""

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial import ConvexHull

from paper_lib.data.generators import shapestacks, textures
from paper_lib.data.generators.shapestacks_renderer import render_stack
from paper_lib.data.generators.shapestacks_scenes import (
    CAMERAS,
    COLOURS,
    camera,
    properties,
    sample_stack,
)

TINY = {"size": 16, "samples_per_pixel": 4}
REFERENCE = Path(__file__).parent / "reference" / "generators.npz"


@pytest.fixture(scope="module")
def many():
    return [sample_stack(3, index) for index in range(150)]


@pytest.fixture(scope="module")
def rendered(many):
    return [(stack, *render_stack(stack, 64, seed=1)) for stack in many[:24]]


def own_axes(solid, x, y):
    """World x, y -> along the solid's own axes, from its centre."""
    x, y, angle = x - solid.position[0], y - solid.position[1], np.deg2rad(solid.rotation)
    return np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x


def covers(solid, x, y):
    """Whether points of the plane lie within the solid's outline from above."""
    u, v = own_axes(solid, x, y)
    if solid.shape == "box":
        return (np.abs(u) <= solid.half_size[0]) & (np.abs(v) <= solid.half_size[1])
    return np.hypot(u, v) <= solid.half_size[0]


def mass(solid):
    a, b, c = solid.half_size
    return {
        "box": 2 * a * 2 * b * 2 * c,
        "cylinder": np.pi * a * a * 2 * c,
        "sphere": np.pi * 4 / 3 * a**3,
    }[solid.shape]


# Stacks


def test_a_stack_is_named_by_seed_and_index(many):
    assert sample_stack(3, 7) == many[7]
    assert len({str(stack) for stack in [*many, sample_stack(4, 7)]}) == 151


def test_everything_occurs(many):
    assert {len(stack.solids) for stack in many} == {2, 3, 4, 5, 6}
    assert {stack.camera_number for stack in many} == set(range(1, 17))
    assert (
        {stack.room.floor for stack in many} == {stack.room.wall for stack in many} == set(range(6))
    )
    assert {stack.room.light for stack in many} == set(range(5))
    assert {solid.shape for stack in many for solid in stack.solids} == {
        "box",
        "cylinder",
        "sphere",
    }
    assert 0.4 < np.mean([stack.stable for stack in many]) < 0.6
    assert {len(sample_stack(0, index, 3, 4).solids) for index in range(12)} == {3, 4}


def test_sizes_and_colours_are_the_originals(many):
    for stack in many:
        assert len({solid.colour for solid in stack.solids}) == len(stack.solids)
        for solid in stack.solids:
            assert min(solid.half_size) >= 0.25 and max(solid.half_size) <= 0.5
            if solid.shape != "box":
                assert solid.half_size[0] == solid.half_size[1]
            if solid.shape == "sphere":
                assert len(set(solid.half_size)) == 1 and solid is stack.solids[-1]
    assert all(sorted(rgb) in ([0, 0, 255], [0, 255, 255]) for rgb in COLOURS.values())


def test_each_object_rests_on_the_one_below(many):
    for stack in many:
        assert stack.solids[0].position[2] == pytest.approx(stack.solids[0].half_size[2])
        assert max(np.abs(stack.solids[0].position[:2])) < 4
        for below, above in zip(stack.solids, stack.solids[1:]):
            assert above.position[2] - above.half_size[2] == pytest.approx(
                below.position[2] + below.half_size[2]
            )
            if above.shape == "sphere":
                assert covers(below, *above.position[:2])
            else:
                assert len(contact(below, above)) > 3


def contact(below, above):
    """Points (n, 2) where the two touch: a grid over the lower top, as far as the upper bottom covers it."""
    x, y = (
        v.ravel()
        for v in np.meshgrid(*(np.linspace(c - 0.72, c + 0.72, 241) for c in below.position[:2]))
    )
    inside = covers(below, x, y) & covers(above, x, y)
    return np.stack([x[inside], y[inside]], axis=1)


def test_stable_stacks_stand_and_the_others_fall_at_one_place(many):
    for stack in many[:80]:
        holds = []
        for k, (below, above) in enumerate(zip(stack.solids, stack.solids[1:])):
            load = stack.solids[k + 1 :]
            centre = sum(mass(s) * np.array(s.position[:2]) for s in load) / sum(
                mass(s) for s in load
            )
            if above.shape == "sphere":  # touches in one point, right below its centre
                np.testing.assert_allclose(centre, above.position[:2])
                holds.append(bool(covers(below, *centre)))
            else:
                sides = ConvexHull(
                    contact(below, above)
                ).equations  # of the area that may carry: normal and offset, negative inside
                holds.append(bool(np.all(sides @ [*centre, 1] <= 0)))
        assert stack.stable == all(holds)
        assert sum(not hold for hold in holds) == (0 if stack.stable else 1)


def test_impossible_counts_are_refused(tmp_path):
    for counts in ((5, 4), (1, 6), (2, 7)):
        with pytest.raises(ValueError, match="min_objects"):
            sample_stack(0, 0, *counts)
        with pytest.raises(ValueError, match="min_objects"):
            shapestacks.load(tmp_path, "train", 16, min_objects=counts[0], max_objects=counts[1])
    assert not list(tmp_path.iterdir())


def test_cameras_look_at_the_stack_from_the_originals_places():
    assert len(set(CAMERAS)) == 16
    for number, (x, y, height) in enumerate(CAMERAS, start=1):
        assert ((abs(x), abs(y)) in ((7, 7), (9, 2), (2, 9)) and height == 5) or (
            (abs(x), abs(y)) == (5, 5) and height == 9
        )
        forward = np.subtract(camera(number).target, camera(number).origin)
        assert np.linalg.norm(forward) == pytest.approx(1)
        assert np.degrees(np.arcsin(-forward[2])) == pytest.approx(15 if height == 5 else 45)
        middle, depth = camera(number).project((0, 0, 2))
        np.testing.assert_allclose(middle, 0.5, atol=0.07)
        assert depth > 0


def test_properties_say_what_the_stack_holds(many):
    names = ["box", "cylinder", "sphere", "red", "green", "blue", "cyan", "magenta", "yellow"]
    for stack in many[:20]:
        rows = properties(stack, 6)
        assert rows.shape == (6, 17) and rows.dtype == np.float32
        for row, solid in zip(rows, stack.solids, strict=False):
            np.testing.assert_allclose(row[:6], [*solid.position, *solid.half_size], rtol=1e-6)
            assert {name for name, on in zip(names, row[6:15], strict=True) if on} == {
                solid.shape,
                solid.colour,
            }
            assert row[15] == stack.stable and row[16] == 1
        assert not rows[len(stack.solids) :].any()


# Pictures and masks


def cast(stack, size):
    """The mask again, by intersecting the ray through each pixel's centre with each solid: (size, size)."""
    eye = np.array(CAMERAS[stack.camera_number - 1])
    forward = np.subtract(stack.camera.target, eye)
    right = np.cross(forward, [0, 0, 1]) / np.linalg.norm(np.cross(forward, [0, 0, 1]))
    step = np.tan(np.deg2rad(45 / 2)) * (2 * (np.arange(size) + 0.5) / size - 1)
    rays = forward + step[None, :, None] * right - step[:, None, None] * np.cross(right, forward)
    nearest, mask = np.full((size, size), np.inf), np.zeros((size, size), int)
    for k, solid in enumerate(stack.solids, start=1):
        start = np.array([*own_axes(solid, *eye[:2]), eye[2] - solid.position[2]])
        along = np.stack(
            [
                *own_axes(
                    solid, rays[..., 0] + solid.position[0], rays[..., 1] + solid.position[1]
                ),
                rays[..., 2],
            ],
            axis=-1,
        )
        radius, _, half_height = solid.half_size
        with np.errstate(divide="ignore", invalid="ignore"):
            slabs = np.sort(
                np.stack(
                    [
                        (-np.array(solid.half_size) - start) / along,
                        (np.array(solid.half_size) - start) / along,
                    ]
                ),
                axis=0,
            )
            n = 3 if solid.shape == "sphere" else 2
            a, b, c = (
                np.sum(along[..., :n] ** 2, -1),
                along[..., :n] @ start[:n],
                start[:n] @ start[:n] - radius**2,
            )
            root = np.sqrt(b**2 - a * c)  # nan where the ray misses
        if solid.shape == "box":
            enter, leave = slabs[0].max(-1), slabs[1].min(-1)
        elif solid.shape == "cylinder":
            enter, leave = (
                np.maximum((-b - root) / a, slabs[0, ..., 2]),
                np.minimum((-b + root) / a, slabs[1, ..., 2]),
            )
        else:
            enter, leave = (-b - root) / a, (-b + root) / a
        hit = (enter <= leave) & (enter < nearest)
        nearest[hit], mask[hit] = enter[hit], k
    return mask


def test_masks_agree_with_rays_cast_at_the_geometry(rendered):
    for stack, _, mask in rendered:
        assert np.mean(cast(stack, 64) != mask) < 0.001
        assert not np.any([mask[0], mask[-1], mask[:, 0], mask[:, -1]])  # the stack is seen whole


def test_colours_show(rendered):
    palette = np.array(list(COLOURS.values())) / 255
    right = total = 0
    for stack, image, mask in rendered:
        for k, solid in enumerate(stack.solids, start=1):
            if np.sum(mask == k) >= 12:
                linear = np.median((image[mask == k] / 255) ** 2.2, axis=0)
                nearest = np.argmin(np.sum((palette - linear / linear.max()) ** 2, axis=1))
                right, total = right + (list(COLOURS)[nearest] == solid.colour), total + 1
    assert total >= 40
    assert right >= 0.95 * total


def test_noise_is_small(rendered):
    differences = [
        np.var(image / 255 - render_stack(stack, 64, seed=2)[0] / 255)
        for stack, image, _ in rendered
    ]
    assert 0 < np.sqrt(np.mean(differences)) <= 0.02


def test_rooms_differ(many):
    backgrounds = [
        np.median(render_stack(stack, 16, 4)[0].reshape(-1, 3), axis=0) for stack in many[:20]
    ]
    assert np.std(backgrounds, axis=0).min() > 10


def test_textures_repeat_without_a_seam():
    for draw in {*textures.FLOORS, *textures.WALLS}:
        picture = textures.picture(draw).astype(int)
        assert picture.shape == (256, 256, 3)
        inside = np.abs(np.diff(picture, axis=1)).mean(axis=(0, 2)).max()
        assert np.abs(picture[:, 0] - picture[:, -1]).mean() <= inside + 1


def test_pictures_are_those_of_this_version():
    """Whoever changes them on purpose raises GENERATOR_VERSION and writes the reference anew. Another processor may round differently."""
    reference = np.load(REFERENCE)
    for number, index in enumerate((0, 2, 18, 25)):
        image, mask = render_stack(sample_stack(0, index), 32, 9, seed=index)
        assert np.mean(image == reference["shapestacks/images"][number]) > 0.98
        assert np.mean(mask == reference["shapestacks/masks"][number]) > 0.98


# The data set


def test_items_depend_on_neither_workers_nor_number_of_scenes(tmp_path):
    one = shapestacks.load(tmp_path, "train", num_scenes=10, workers=1, **TINY)
    two = shapestacks.load(tmp_path, "train", num_scenes=16, workers=2, **TINY)
    common = sorted(set(one["indices"].tolist()) & set(two["indices"].tolist()))
    assert len(common) >= 3
    for index in common:
        i, j = (int(np.flatnonzero(part["indices"] == index)[0]) for part in (one, two))
        for name in ("images", "masks", "properties"):
            np.testing.assert_array_equal(one[name][i], two[name][j])
        np.testing.assert_array_equal(one["properties"][i], properties(sample_stack(0, index), 6))
    assert (
        two["source"]["name"] == "shapestacks"
        and two["source"]["version"] == shapestacks.GENERATOR_VERSION
    )
    assert (tmp_path / "shapestacks-16px-4spp-2to6-seed0-16" / "done.npy").exists()
