"""`paper_lib.data.load`, and the CLEVR-Mirror generator behind it."""

import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import nbformat
import numpy as np
import papermill
import pytest
from filelock import FileLock
from test_data_files import spoil

from bench import renderer as benchmark
from paper_lib import data
from paper_lib.data.clevr_format import COLOURS, CROP, PICTURE_HEIGHT, Object, properties
from paper_lib.data.generators import clevr
from paper_lib.data.generators.camera import Camera
from paper_lib.data.generators.clevr_renderer import MIRROR_HEIGHT, MIRROR_WIDTH, MIRROR_Y, render
from paper_lib.data.generators.clevr_scenes import LIGHTS, Light, Scene, sample_scene

TINY = {"size": 16, "samples_per_pixel": 4}
SETTINGS = {
    "num_scenes": 20,
    "min_objects": 3,
    "max_objects": 10,
    "seed": 0,
    "mirror": True,
    **TINY,
}
SIDES = {"large": 0.7, "small": 0.35}
CAMERA = Camera((0.0, -9.2, 5.6), (0.0, 0.2, 0.3), 38.0)
KEY = Light((4.5, -4.5, 6.5), 130.0)


def project(camera, points):
    """Pinhole projection, right and down from (0, 0) to (1, 1).

    Written out again, from the camera's description alone.
    """
    eye, centre = np.array(camera.origin), np.array(camera.target)
    view = (centre - eye) / np.linalg.norm(centre - eye)
    across = np.cross(view, [0, 0, 1]) / np.linalg.norm(np.cross(view, [0, 0, 1]))
    up = np.cross(across, view)
    offset = np.atleast_2d(points) - eye
    half_width = np.tan(np.deg2rad(camera.field_of_view / 2)) * (offset @ view)
    return 0.5 + 0.5 * np.stack([offset @ across, -(offset @ up)], axis=1) / half_width[:, None]


def pixel(camera, point, size):
    column, row = np.floor(project(camera, point)[0] * size).astype(int)
    return row, column


def digest(scenes):
    """A hash of what scenes hold, to six digits."""
    rows = [np.ravel(properties(scene.objects, 10)).tolist() for scene in scenes]
    text = "\n".join(str([round(value, 6) for value in row]) for row in rows)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def by_scene(dataset):
    return {int(index): dataset[i] for i, index in enumerate(dataset.indices)}


def assert_same(a, b):
    for name in ("image", "mask", "properties"):
        np.testing.assert_array_equal(a[name], b[name])


# Scenes


@pytest.fixture(scope="module")
def many():
    return [sample_scene(3, index) for index in range(60)]


def test_a_scene_is_named_by_seed_and_index(many):
    assert sample_scene(3, 7) == many[7]
    assert len({str(scene) for scene in [*many, sample_scene(4, 7)]}) == 61


def test_every_property_and_every_count_occurs(many):
    objects = [item for scene in many for item in scene.objects]
    assert {len(scene.objects) for scene in many} == set(range(3, 11))
    assert {item.shape for item in objects} == {"cube", "sphere", "cylinder"}
    assert {item.size for item in objects} == {"large", "small"}
    assert {item.material for item in objects} == {"rubber", "metal"}
    assert " ".join(sorted({item.colour for item in objects})) == (
        "blue brown cyan gray green purple red yellow"
    )
    assert {len(sample_scene(0, index, 4, 5).objects) for index in range(12)} == {4, 5}


def test_objects_stand_on_the_ground_in_bounds_and_apart(many):
    for scene in many:
        for item in scene.objects:
            side = SIDES[item.size]
            assert max(abs(item.position[0]), abs(item.position[1])) <= 3
            half_height = side / 2**0.5 if item.shape == "cube" else side
            assert item.position[2] == pytest.approx(half_height)
        for i, a in enumerate(scene.objects):
            for b in scene.objects[:i]:
                # Footprints lie inside circles whose radius is the object's size.
                distance = np.hypot(*np.subtract(a.position, b.position)[:2])
                assert distance > SIDES[a.size] + SIDES[b.size]


def test_camera_and_lights_are_jittered(many):
    assert np.ptp([scene.camera.origin for scene in many], axis=0).min() > 0.3
    assert np.ptp([[light.position for light in scene.lights] for scene in many], axis=0).min() > 1


def test_properties_say_what_the_scene_holds(many):
    for scene in many[:20]:
        rows = properties(scene.objects, max_objects=10)
        assert rows.shape == (10, 19) and rows.dtype == np.float32
        for row, item in zip(rows, scene.objects, strict=False):
            np.testing.assert_allclose(row[:3] * 6 - 3, item.position, atol=1e-6)
            names = ["large", "small", "rubber", "metal", "cube", "sphere", "cylinder"]
            names += ["gray", "red", "blue", "green", "brown", "purple", "cyan", "yellow"]
            said = {name for name, on in zip(names, row[3:18], strict=True) if on}
            assert said == {item.size, item.material, item.shape, item.colour}
            assert set(row[3:18]) == {0, 1} and row[18] == 1
        assert not rows[len(scene.objects) :].any()


def test_impossible_counts_are_refused(tmp_path):
    with pytest.raises(ValueError, match="min_objects"):
        sample_scene(0, 0, min_objects=5, max_objects=4)
    with pytest.raises(ValueError, match="min_objects"):
        data.load("clevr_mirror", root=tmp_path, min_objects=5, max_objects=4)
    assert not list(tmp_path.iterdir())


# Pictures and masks


@pytest.fixture(scope="module")
def rendered(many):
    return [(scene, *render(scene, 64, seed=1)) for scene in many[:16]]


def test_masks_agree_with_the_geometry(rendered):
    direct = total = 0
    for scene, _, mask in rendered:
        offsets = [np.subtract(item.position, scene.camera.origin) for item in scene.objects]
        distance = np.linalg.norm(offsets, axis=1)
        for k, item in enumerate(scene.objects, start=1):
            found = mask[pixel(scene.camera, item.position, 64)]
            # Itself, or what stands before it.
            assert found > 0 and distance[found - 1] <= distance[k - 1]
            direct, total = direct + (found == k), total + 1
    assert direct > 0.9 * total


def test_the_crop_is_that_part_of_the_picture(many):
    """Rows 29 to 221 and columns 64 to 256 of 240x320; all of it is columns 40 to 280."""
    top, _, side = CROP
    for scene in many[:2]:
        whole, mask = render(scene, 240, samples_per_pixel=1, seed=1)
        nearer = dataclasses.replace(scene, camera=scene.camera.cropped(PICTURE_HEIGHT, top, side))
        part, cropped = render(nearer, 192, samples_per_pixel=1, seed=1)
        np.testing.assert_array_equal(cropped, mask[29:221, 24:216])
        blocks = [
            picture.astype(float).reshape(12, 16, 12, 16, 3).mean((1, 3)).ravel()
            for picture in (part, whole[29:221, 24:216])
        ]
        assert np.corrcoef(*blocks)[0, 1] > 0.995  # but for the noise


def test_masks_have_the_right_area():
    """A sphere alone covers the disc that its angular radius makes."""
    for size, radius in SIDES.items():
        ball = Object("sphere", size, "metal", "red", (0.0, 0.2, radius), 0.0)
        _, mask = render(Scene((ball,), CAMERA, (KEY,)), 128, samples_per_pixel=1)
        distance = np.linalg.norm(np.subtract(ball.position, CAMERA.origin))
        pixels_per_unit = 64 / np.tan(np.deg2rad(19)) / np.sqrt(distance**2 - radius**2)
        assert np.sum(mask == 1) == pytest.approx(np.pi * (radius * pixels_per_unit) ** 2, rel=0.03)


def test_no_object_is_hidden(rendered):
    for scene, _, mask in rendered:
        counts = np.bincount(mask.ravel(), minlength=len(scene.objects) + 1)
        assert len(counts) == len(scene.objects) + 1
        assert counts[1:].min() >= 8


def test_colours_of_matte_objects_show(rendered):
    right = total = 0
    palette = np.array(list(COLOURS.values())) / 255
    for scene, image, mask in rendered:
        for k, item in enumerate(scene.objects, start=1):
            if item.material == "rubber" and np.sum(mask == k) >= 40:
                linear = np.median((image[mask == k] / 255) ** 2.2, axis=0)
                hues = palette**2.2 / np.sum(palette**2.2, axis=1, keepdims=True)
                nearest = np.argmin(np.sum((hues - linear / linear.sum()) ** 2, axis=1))
                right, total = right + (list(COLOURS)[nearest] == item.colour), total + 1
    assert total >= 15
    assert right >= 0.9 * total


def test_noise_is_small(rendered):
    differences = [
        np.var(image / 255 - render(scene, 64, seed=2)[0] / 255) for scene, image, _ in rendered
    ]
    assert 0 < np.sqrt(np.mean(differences)) <= 0.02


def test_pictures_are_those_of_this_version():
    """Committed results depend on them. Whoever changes them raises GENERATOR_VERSION.

    Another processor may round differently.
    """
    reference = np.load(Path(__file__).parent / "reference" / "generators.npz")
    for number, (index, mirror) in enumerate([(0, True), (1, True), (2, False), (3, True)]):
        image, mask = render(sample_scene(0, index, 3, 6), 32, 9, mirror=mirror, seed=index)
        assert np.mean(image == reference["clevr_mirror/images"][number]) > 0.98
        assert np.mean(mask == reference["clevr_mirror/masks"][number]) > 0.98


def test_scenes_are_those_of_this_version():
    assert digest(sample_scene(1, index) for index in range(40)) == "58c2bfce6a6b7d3e"


def test_shadows_fall_where_the_key_light_does_not_reach():
    ball = Object("sphere", "large", "rubber", "gray", (0.0, 0.0, 0.7), 0.0)
    empty, _ = render(Scene((), CAMERA, (KEY,)), 64, mirror=False)
    image, _ = render(Scene((ball,), CAMERA, (KEY,)), 64, mirror=False)
    # The ray through its centre, at z = 0.
    shadow = 0.7 * np.subtract(ball.position, KEY.position) / (6.5 - 0.7) + ball.position
    at = pixel(CAMERA, shadow, 64)
    assert image[at].mean() < 0.6 * empty[at].mean()


def mirror_corners():
    sides = -MIRROR_WIDTH / 2, MIRROR_WIDTH / 2
    return [(x, MIRROR_Y, z) for x in sides for z in (0, MIRROR_HEIGHT)]


def test_the_mirror_shows_the_objects():
    lights = tuple(Light(position, intensity) for position, intensity in LIGHTS.values())
    ball = Object("sphere", "large", "rubber", "red", (0.5, 1.5, 0.7), 0.0)
    scene, empty = Scene((ball,), CAMERA, lights), Scene((), CAMERA, lights)
    with_ball, mask = render(scene, 64)
    without_ball, _ = render(empty, 64)
    without_mirror, _ = render(scene, 64, mirror=False)

    at = pixel(CAMERA, (0.5, 2 * MIRROR_Y - 1.5, 0.7), 64)  # the ball's mirror image
    assert mask[at] == 0
    red = with_ball[at].astype(int)
    assert red[0] > 2 * red[1] and red[0] > 2 * red[2]
    for other in (without_ball, without_mirror):
        assert np.ptp(other[at].astype(int)) < 20  # gray

    bottom = project(CAMERA, mirror_corners())[:, 1].max() * 64
    change = np.abs(with_ball.astype(int) - without_mirror).mean(axis=2)
    assert change[: int(bottom) - 1].mean() > 5 * change[int(bottom) + 2 :].mean()


def test_a_removed_object_changes_only_itself_in_the_mask(many):
    scene = next(scene for scene in many if len(scene.objects) == 3)
    _, mask = render(scene, 64, samples_per_pixel=1)
    without = dataclasses.replace(scene, objects=scene.objects[:2])
    _, fewer = render(without, 64, samples_per_pixel=1)
    assert np.all(fewer[mask < 3] == mask[mask < 3])
    assert 3 in mask and 3 not in fewer


# The close view


@pytest.fixture(scope="module")
def close():
    return [sample_scene(3, index, 3, 6, view="close") for index in range(40)]


def test_the_close_view_sees_every_object_well_and_larger(close):
    shares = []
    for index, scene in enumerate(close[:16]):
        for item in scene.objects:
            offset = np.subtract(item.position, scene.camera.origin)
            half_width = np.tan(np.deg2rad(13)) * np.linalg.norm(offset)
            reach = SIDES[item.size] / half_width / 2
            seen = project(scene.camera, item.position)[0]
            assert reach < seen.min() and seen.max() < 1 - reach
        _, mask = render(scene, 64, samples_per_pixel=1)
        counts = np.bincount(mask.ravel(), minlength=len(scene.objects) + 1)
        assert counts[1:].min() >= 16
        _, wide = render(sample_scene(3, index, 3, 6), 64, samples_per_pixel=1)
        shares.append([np.mean(mask > 0), np.mean(wide > 0)])
    of_close, of_wide = np.mean(shares, axis=0)
    assert of_close > 1.5 * of_wide


def test_the_mirror_stays_in_sight_of_the_close_view(close):
    for scene in close[:4]:
        image, _ = render(scene, 64, samples_per_pixel=4)
        without, _ = render(scene, 64, samples_per_pixel=4, mirror=False)
        across, bottom = project(scene.camera, mirror_corners())[[0, 2]].T
        assert 0.05 < bottom.max() and across[0] < 0.1 and across[1] > 0.9
        change = np.abs(image.astype(int) - without).mean(axis=2)
        rows = int(bottom.max() * 64)
        assert change[:rows].mean() > 3 * change[rows + 3 :].mean()


def test_close_scenes_are_those_of_this_version(close):
    assert digest(close) == "383c6442209f3f73"
    assert sample_scene(3, 5, 3, 6, view="close") == close[5] != sample_scene(3, 5, 3, 6)
    assert close[0].camera.field_of_view == 26 and close[0].camera.target == (0.0, 1.4, 0.3)


def test_a_close_data_set_has_a_folder_of_its_own(tmp_path):
    arguments = dict(root=tmp_path, num_scenes=10, max_items=1, **TINY)
    wide, close, again = (
        data.load("clevr_mirror", view=view, **arguments) for view in ("wide", "close", "close")
    )
    assert "view" not in wide.source["settings"] and close.source["settings"]["view"] == "close"
    folder = tmp_path / "clevr_mirror-16px-4spp-3to10-seed0-10-close"
    assert json.loads((folder / "settings.json").read_text())["view"] == "close"
    np.testing.assert_array_equal(close.images, again.images)
    assert not np.array_equal(close.images, wide.images)
    scene = sample_scene(0, int(close.indices[0]), view="close")
    np.testing.assert_array_equal(close.properties[0], properties(scene.objects, 10))


@pytest.mark.parametrize("name", ["clevr_mirror", "clevr", "shapestacks"])
def test_an_unknown_view_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match="unknown view 'near'; known: wide, close"):
        data.load(name, root=tmp_path, view="near")
    assert not list(tmp_path.iterdir())


# The data set


def test_pictures_depend_on_neither_workers_nor_number_of_scenes(tmp_path):
    one = by_scene(data.load("clevr_mirror", root=tmp_path, num_scenes=12, workers=1, **TINY))
    three = by_scene(data.load("clevr_mirror", root=tmp_path, num_scenes=20, workers=3, **TINY))
    common = one.keys() & three.keys()
    assert len(common) >= 4
    for index in common:
        assert_same(one[index], three[index])
    assert len({item["image"].tobytes() for item in three.values()}) == 14


def test_splits_are_disjoint_and_70_15_15(tmp_path):
    parts = [
        data.load("clevr_mirror", split, root=tmp_path, num_scenes=20, max_items=1, **TINY)
        for split in data.SPLITS
    ]
    assert [part.source["split"] for part in parts] == ["train", "validation", "test"]
    assert all(len(part) == 1 for part in parts)
    settings = clevr.Settings(**SETTINGS)
    rows, order = settings.rows(), settings.order()
    assert [len(rows[split]) for split in data.SPLITS] == [14, 3, 3]
    assert sorted(order[row] for split in data.SPLITS for row in rows[split]) == list(range(20))
    assert [int(part.indices[0]) for part in parts] == [order[0], order[14], order[17]]
    assert not np.array_equal(order, np.arange(20))
    for part in parts:  # each holds the scene that it says
        scene = sample_scene(0, int(part.indices[0]))
        np.testing.assert_array_equal(part.properties[0], properties(scene.objects, 10))
    assert np.load(tmp_path / "clevr_mirror-16px-4spp-3to10-seed0-20" / "done.npy").sum() == 3


def test_a_dataset_reads_lazily_and_by_item(tmp_path):
    dataset = data.load("clevr_mirror", "val", root=tmp_path, num_scenes=20, seed=5, **TINY)
    assert isinstance(dataset.images, np.memmap) and isinstance(dataset.masks, np.memmap)
    assert len(dataset) == 3
    assert dataset.images.shape == (3, 16, 16, 3) and dataset.images.dtype == np.uint8
    assert dataset[1]["mask"].shape == (16, 16) and dataset[1]["properties"].shape == (10, 19)
    assert dataset.tensor().shape == (3, 3, 16, 16)
    image = dataset.tensor([2])[0].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(image, dataset[2]["image"])
    assert dataset.source["door"] == "generator" and dataset.source["settings"]["seed"] == 5
    assert dataset.source["version"] == data.version("clevr_mirror")
    with pytest.raises(ValueError):
        dataset.images[0] = 0


def test_no_items_may_be_asked_for(tmp_path):
    arguments = dict(root=tmp_path, num_scenes=10, max_items=0, **TINY)
    assert len(data.load("clevr_mirror", **arguments)) == 0
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    assert not np.load(folder / "done.npy").any()


def test_the_root_may_come_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("PAPER_DATA", str(tmp_path / "elsewhere"))
    data.load("clevr_mirror", num_scenes=10, max_items=1, **TINY)
    folder = tmp_path / "elsewhere" / "clevr_mirror-16px-4spp-3to10-seed0-10"
    assert (folder / "images.npy").exists()


def test_unknown_names_are_refused_with_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match="'clever'.*clevr_mirror"):
        data.load("clever", root=tmp_path)
    with pytest.raises(ValueError, match="'dev'.*train, validation, test"):
        data.load("clevr_mirror", "dev", root=tmp_path)
    with pytest.raises(ValueError, match="clevr_mirror"):
        data.version("clever")


def test_a_folder_of_other_settings_is_refused(tmp_path):
    arguments = dict(root=tmp_path, num_scenes=10, max_items=1, **TINY)
    data.load("clevr_mirror", **arguments)
    path = tmp_path / "clevr_mirror-16px-4spp-3to10-seed0-10" / "settings.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": "0"}))
    words = "settings.json describes another.*version is '0'.*Delete the folder"
    with pytest.raises(ValueError, match=words):
        data.load("clevr_mirror", **arguments)


def test_settings_that_are_not_the_default_are_in_the_folders_name():
    """Folders made before there was a choice stay valid: a default is in neither."""
    usual = clevr.Settings(**SETTINGS)
    assert usual.folder == "clevr_mirror-16px-4spp-3to10-seed0-20"
    assert not {"mitsuba_variant", "crop", "view"} & set(usual.settings())
    for change, folder in (
        ({"mitsuba_variant": "cuda_ad_rgb"}, usual.folder + "-cuda_ad_rgb"),
        ({"crop": True}, usual.folder + "-crop"),
        ({"view": "close"}, usual.folder + "-close"),
        ({"mirror": False}, "clevr_nomirror-16px-4spp-3to10-seed0-20"),
    ):
        other = clevr.Settings(**{**SETTINGS, **change})
        assert other.folder == folder and change.items() <= other.settings().items()


# The processes that render


def script(root, **settings):
    """Load a training split, without a guard: what `__main__` is not to be imported twice."""
    call = f"load('clevr_mirror', root={str(root)!r}, **{settings!r})"
    return f"from paper_lib.data import load\nprint('beginning')\ndataset = {call}\n"


def run(root, **settings):
    """Start a process with the script, in a session of its own, marked by the folder `root`."""
    # a shell has its background jobs ignore interrupts, and with them these tests, if it runs them
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    return subprocess.Popen(
        [sys.executable, "-c", heard + script(root, **settings)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "MARK": str(root)},
        text=True,
        start_new_session=True,
    )


def marked_processes(root):
    """Processes that inherited the mark, the one that `run` started among them."""
    mark, found = f"MARK={root}\0".encode(), []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            content, state = (folder / "environ").read_bytes(), (folder / "stat").read_text()
        except OSError:
            continue
        if mark in content and state.rsplit(")")[-1].split()[0] != "Z":
            found.append(int(folder.name))
    return found


def wait_until(condition, seconds=60):
    deadline = time.time() + seconds
    while not condition():
        assert time.time() < deadline
        time.sleep(0.02)


LONG = {"num_scenes": 40, "size": 32, "samples_per_pixel": 64, "workers": 2}


@pytest.fixture
def rendering(tmp_path):
    """A process that has begun to render, and the file that says which rows are done."""
    root = tmp_path / "rendering"
    process = run(root, **LONG)
    done_file = root / "clevr_mirror-32px-64spp-3to10-seed0-40" / "done.npy"
    wait_until(lambda: done_file.exists() and np.load(done_file).sum() >= 3)
    assert process.poll() is None and len(marked_processes(root)) >= 3
    yield process, done_file
    process.kill()
    process.communicate()


@pytest.mark.parametrize("how", ["file", "standard input", "notebook"])
def test_any_script_may_render_in_processes(how, tmp_path):
    """Without a guard, too: nothing runs it a second time."""
    text = script(tmp_path / "data", num_scenes=10, workers=2, **TINY) + "print(len(dataset))"
    if how == "notebook":
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text)])
        notebook.metadata.kernelspec = {"name": "python3", "display_name": "", "language": "python"}
        nbformat.write(notebook, tmp_path / "script.ipynb")
        made = papermill.execute_notebook(
            tmp_path / "script.ipynb",
            tmp_path / "out.ipynb",
            cwd=os.getcwd(),
            progress_bar=False,
            log_output=False,
        )
        outputs = made.cells[-1].outputs
        said = "".join(output.text for output in outputs if output.get("name") == "stdout")
    else:
        path = tmp_path / "script.py"
        path.write_text(text)
        with path.open() as file:
            command = [sys.executable, "-"] if how == "standard input" else [sys.executable, path]
            environment = {**os.environ, "PYTHONPATH": os.getcwd()}
            said = subprocess.run(
                command, stdin=file, capture_output=True, text=True, env=environment, check=True
            ).stdout
    assert said.split() == ["beginning", "7"]


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc")
def test_a_killed_process_loses_nothing_and_leaves_no_process(rendering):
    process, done_file = rendering
    root = done_file.parents[1]
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_until(lambda: not marked_processes(root), seconds=10)
    done = np.load(done_file)
    assert 3 <= done.sum() < 28

    # Spoilt here, to see that finished pictures are not rendered again.
    spoilt = int(np.flatnonzero(done)[1])
    spoil(done_file.parent, spoilt, images=77)
    resumed = data.load("clevr_mirror", root=root, **LONG)
    uninterrupted = data.load("clevr_mirror", root=root / "whole", **LONG)
    assert np.all(resumed.images[spoilt] == 77)
    for i in range(len(resumed)):
        if i != spoilt:
            assert_same(resumed[i], uninterrupted[i])


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("to", ["the whole group", "the process"])
def test_an_interrupt_ends_the_rendering_cleanly(rendering, to):
    """Ctrl-C in a terminal goes to the whole group; a notebook's interrupt to the process."""
    process, done_file = rendering
    root = done_file.parents[1]
    (os.killpg if to == "the whole group" else os.kill)(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == -signal.SIGINT
    assert said.count("Traceback") == 1 and said.rstrip().endswith("KeyboardInterrupt")
    wait_until(lambda: not marked_processes(root), seconds=10)
    assert 3 <= np.load(done_file).sum() < 28
    assert len(data.load("clevr_mirror", root=root, **LONG)) == 28


def test_a_worker_that_fails_says_why(tmp_path):
    with pytest.raises(Exception, match="no_such_variant"):
        data.load(
            "clevr_mirror",
            root=tmp_path,
            num_scenes=10,
            workers=2,
            mitsuba_variant="no_such_variant",
            **TINY,
        )


def test_two_processes_that_want_the_same_share_the_work(tmp_path):
    processes = [run(tmp_path, num_scenes=30, workers=1, **TINY) for _ in range(2)]
    outputs = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    # There is one progress bar: the other process found all done.
    assert sum("image/s" in output for output in outputs) == 1


def test_who_waits_for_another_process_says_so(tmp_path, capfd):
    lock = FileLock(tmp_path / "clevr_mirror-16px-4spp-3to10-seed0-10.lock")
    lock.acquire()
    arguments = dict(root=tmp_path, num_scenes=10, max_items=1, **TINY)
    thread = threading.Thread(target=data.load, args=("clevr_mirror",), kwargs=arguments)
    thread.start()
    said = ""
    while thread.is_alive() and "waiting" not in said:
        said += capfd.readouterr().err
        time.sleep(0.01)
    lock.release()
    thread.join()
    assert said.count("\n") == 1 and "clevr_mirror-16px-4spp-3to10-seed0-10" in said


# The benchmark


def test_the_benchmark_writes_its_table(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PAPER_RESULTS", str(tmp_path))
    for name, value in {"SIZE": 16, "IMAGES_PER_WORKER": 2, "SCENES": 2}.items():
        monkeypatch.setattr(benchmark, name, value)
    benchmark.main()
    text = (tmp_path / "bench" / "data.md").read_text()
    assert text.strip() == capsys.readouterr().out.strip()
    rows = [line for line in text.splitlines()[4:] if line.startswith("|")]
    assert {row.split(" | ")[0] for row in rows} == {"| clevr_mirror", "| shapestacks"}
