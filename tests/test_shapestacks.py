"""The ShapeStacks generator: geometry, stability, pictures, masks, each checked in its own way."""

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial import ConvexHull

from paper_lib import data
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
    assert {stack.room.floor for stack in many} == set(range(6))
    assert {stack.room.wall for stack in many} == set(range(6))
    assert {stack.room.light for stack in many} == set(range(5))
    shapes = {solid.shape for stack in many for solid in stack.solids}
    assert shapes == {"box", "cylinder", "sphere"}
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
            bottom, top = (
                above.position[2] - above.half_size[2],
                below.position[2] + below.half_size[2],
            )
            assert bottom == pytest.approx(top)
            if above.shape == "sphere":
                assert covers(below, *above.position[:2])
            else:
                assert len(contact(below, above)) > 3


def contact(below, above):
    """Points (n, 2) where the two touch: a grid over the lower top, where the upper covers it."""
    along = [np.linspace(centre - 0.72, centre + 0.72, 241) for centre in below.position[:2]]
    x, y = (values.ravel() for values in np.meshgrid(*along))
    inside = covers(below, x, y) & covers(above, x, y)
    return np.stack([x[inside], y[inside]], axis=1)


def test_stable_stacks_stand_and_the_others_fall_at_one_place(many):
    for stack in many[:80]:
        holds = []
        for k, (below, above) in enumerate(zip(stack.solids, stack.solids[1:])):
            load = stack.solids[k + 1 :]
            masses = [mass(solid) for solid in load]
            centre = np.average([solid.position[:2] for solid in load], axis=0, weights=masses)
            if above.shape == "sphere":  # touches in one point, right below its centre
                np.testing.assert_allclose(centre, above.position[:2])
                holds.append(bool(covers(below, *centre)))
            else:
                # Of the area that may carry: normal and offset, negative inside.
                sides = ConvexHull(contact(below, above)).equations
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
        places = {5: ((7, 7), (9, 2), (2, 9)), 9: ((5, 5),)}[height]
        assert (abs(x), abs(y)) in places
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
            said = {name for name, on in zip(names, row[6:15], strict=True) if on}
            assert said == {solid.shape, solid.colour}
            assert row[15] == stack.stable and row[16] == 1
        assert not rows[len(stack.solids) :].any()


# Pictures and masks


def cast(stack, size):
    """The mask again, (size, size): which solid the ray through each pixel's centre meets first."""
    eye = np.array(CAMERAS[stack.camera_number - 1])
    forward = np.subtract(stack.camera.target, eye)
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, [0, 0, 1]) / np.linalg.norm(np.cross(forward, [0, 0, 1]))
    half_width = np.tan(np.deg2rad(stack.camera.field_of_view / 2))
    step = half_width * (2 * (np.arange(size) + 0.5) / size - 1)
    rays = forward + step[None, :, None] * right - step[:, None, None] * np.cross(right, forward)
    nearest, mask = np.full((size, size), np.inf), np.zeros((size, size), int)
    for k, solid in enumerate(stack.solids, start=1):
        start = np.array([*own_axes(solid, *eye[:2]), eye[2] - solid.position[2]])
        x, y = rays[..., 0] + solid.position[0], rays[..., 1] + solid.position[1]
        along = np.stack([*own_axes(solid, x, y), rays[..., 2]], axis=-1)
        half_size = np.array(solid.half_size)
        with np.errstate(divide="ignore", invalid="ignore"):
            faces = np.stack([(-half_size - start) / along, (half_size - start) / along])
            near, far = np.sort(faces, axis=0)  # of the faces along each axis
            n = 3 if solid.shape == "sphere" else 2
            a = np.sum(along[..., :n] ** 2, -1)
            b = along[..., :n] @ start[:n]
            c = start[:n] @ start[:n] - half_size[0] ** 2
            root = np.sqrt(b**2 - a * c)  # nan where the ray misses
            enter, leave = (-b - root) / a, (-b + root) / a
        if solid.shape == "box":
            enter, leave = near.max(-1), far.min(-1)
        elif solid.shape == "cylinder":
            enter, leave = np.maximum(enter, near[..., 2]), np.minimum(leave, far[..., 2])
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
    again = [render_stack(stack, 64, seed=2)[0] for stack, _, _ in rendered]
    differences = [np.var(a / 255 - b / 255) for a, (_, b, _) in zip(again, rendered)]
    assert 0 < np.sqrt(np.mean(differences)) <= 0.02


def test_rooms_differ(many):
    images = [render_stack(stack, 16, 4)[0] for stack in many[:20]]
    backgrounds = [np.median(image.reshape(-1, 3), axis=0) for image in images]
    assert np.std(backgrounds, axis=0).min() > 10


def test_textures_repeat_without_a_seam():
    for draw in {*textures.FLOORS, *textures.WALLS}:
        picture = textures.picture(draw).astype(int)
        assert picture.shape == (256, 256, 3)
        inside = np.abs(np.diff(picture, axis=1)).mean(axis=(0, 2)).max()
        assert np.abs(picture[:, 0] - picture[:, -1]).mean() <= inside + 1


def test_pictures_are_those_of_this_version():
    """Whoever changes them on purpose raises GENERATOR_VERSION and writes the reference anew.

    Another processor may round differently.
    """
    reference = np.load(REFERENCE)
    for number, index in enumerate((0, 2, 18, 25)):
        image, mask = render_stack(sample_stack(0, index), 32, 9, seed=index)
        assert np.mean(image == reference["shapestacks/images"][number]) > 0.98
        assert np.mean(mask == reference["shapestacks/masks"][number]) > 0.98


# The close view


@pytest.fixture(scope="module")
def close():
    """Two stacks of each of the 16 cameras."""
    stacks = [sample_stack(5, index, view="close") for index in range(120)]
    of_cameras = [[s for s in stacks if s.camera_number == number] for number in range(1, 17)]
    return [stack for stacks in of_cameras for stack in stacks[:2]]


@pytest.fixture(scope="module")
def rendered_close(close):
    return [(stack, *render_stack(stack, 64, samples_per_pixel=4)) for stack in close]


def test_the_close_view_shows_the_same_stack_from_the_same_place():
    for index in range(20):
        close, wide = sample_stack(5, index, view="close"), sample_stack(5, index)
        assert close.solids == wide.solids and close.room == wide.room
        assert close.camera.origin == wide.camera.origin
        assert close.camera.field_of_view < 40
        assert close == sample_stack(5, index, view="close") != wide


def test_the_close_view_shows_the_stack_whole_and_large_to_every_camera(rendered_close):
    assert {stack.camera_number for stack, _, _ in rendered_close} == set(range(1, 17))
    shares = []
    for stack, _, mask in rendered_close:
        assert np.mean(cast(stack, 64) != mask) < 0.004
        rows, columns = np.nonzero(mask)
        border = min(rows.min(), columns.min(), 63 - rows.max(), 63 - columns.max())
        extent = 1 + max(np.ptp(rows), np.ptp(columns))
        assert border >= 2 and 55 <= extent <= 60
        assert abs(rows.min() - (63 - rows.max())) <= 1, "in the middle"
        assert abs(columns.min() - (63 - columns.max())) <= 1
        assert set(np.unique(mask)) - {0} <= set(range(1, 1 + len(stack.solids)))
        shares.append(np.mean(mask > 0))
    assert 0.2 < np.mean(shares) < 0.5 and min(shares) > 0.1


def test_close_pictures_are_deterministic(rendered_close):
    for stack, image, mask in rendered_close[:4]:
        again, mask_again = render_stack(stack, 64, samples_per_pixel=4)
        np.testing.assert_array_equal(again, image)
        np.testing.assert_array_equal(mask_again, mask)


def test_a_close_data_set_has_a_folder_of_its_own(tmp_path):
    arguments = dict(root=tmp_path, num_scenes=10, max_items=1, **TINY)
    wide, close = (data.load("shapestacks", view=view, **arguments) for view in ("wide", "close"))
    assert "view" not in wide.source["settings"] and close.source["settings"]["view"] == "close"
    assert (tmp_path / "shapestacks-16px-4spp-2to6-seed0-10-close" / "done.npy").exists()
    np.testing.assert_array_equal(close.properties, wide.properties)
    assert np.mean(close.masks > 0) > 2 * np.mean(wide.masks > 0)


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
    source = two["source"]
    assert source["name"] == "shapestacks" and source["version"] == shapestacks.GENERATOR_VERSION
    assert (tmp_path / "shapestacks-16px-4spp-2to6-seed0-16" / "done.npy").exists()
