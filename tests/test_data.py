"""The data door and the CLEVR-Mirror generator behind it."""

import dataclasses
import hashlib
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from bench import renderer as benchmark
from paper_lib import data
from paper_lib.data.generators import clevr as clevr_mirror
from paper_lib.data.generators import clevr_scenes as scenes
from paper_lib.data.generators.clevr_renderer import MIRROR_HEIGHT, MIRROR_WIDTH, MIRROR_Y, render
from paper_lib.data.generators.clevr_scenes import Camera, Light, Object, Scene, sample_scene

TINY = {"size": 16, "samples_per_pixel": 4}
SIDES = {"large": 0.7, "small": 0.35}
CAMERA = Camera((0.0, -9.2, 5.6), (0.0, 0.2, 0.3), 38.0)
KEY = Light((4.5, -4.5, 6.5), 130.0)


def project(camera, points):
    """Pinhole projection, right and down from (0, 0) to (1, 1); written out again, from the camera's description alone."""
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


def run(root, **settings):
    """A process that loads a training split from a script on standard input, without a __main__ guard."""
    script = f"from paper_lib.data import load\nload('clevr_mirror', root={str(root)!r}, **{settings!r})\n"
    with tempfile.TemporaryFile("w+") as file:
        file.write(script)
        file.seek(0)
        return subprocess.Popen(
            [sys.executable, "-"], stdin=file, stderr=subprocess.PIPE, text=True
        )


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
    assert {item.colour for item in objects} == {
        "gray",
        "red",
        "blue",
        "green",
        "brown",
        "purple",
        "cyan",
        "yellow",
    }
    assert {len(sample_scene(0, index, 4, 5).objects) for index in range(12)} == {4, 5}


def test_objects_stand_on_the_ground_in_bounds_and_apart(many):
    for scene in many:
        for item in scene.objects:
            side = SIDES[item.size]
            assert max(abs(item.position[0]), abs(item.position[1])) <= 3
            assert item.position[2] == pytest.approx(
                side / 2**0.5 if item.shape == "cube" else side
            )
        for i, a in enumerate(scene.objects):
            for b in scene.objects[
                :i
            ]:  # footprints lie inside circles whose radius is the object's size
                assert (
                    np.hypot(*np.subtract(a.position, b.position)[:2])
                    > SIDES[a.size] + SIDES[b.size]
                )


def test_camera_and_lights_are_jittered(many):
    assert np.ptp([scene.camera.origin for scene in many], axis=0).min() > 0.3
    assert np.ptp([[light.position for light in scene.lights] for scene in many], axis=0).min() > 1


def test_properties_say_what_the_scene_holds(many):
    for scene in many[:20]:
        rows = scenes.properties(scene, max_objects=10)
        assert rows.shape == (10, 19) and rows.dtype == np.float32
        for row, item in zip(rows, scene.objects, strict=False):
            np.testing.assert_allclose(row[:3] * 6 - 3, item.position, atol=1e-6)
            names = ["large", "small", "rubber", "metal", "cube", "sphere", "cylinder"]
            names += ["gray", "red", "blue", "green", "brown", "purple", "cyan", "yellow"]
            assert {name for name, on in zip(names, row[3:18], strict=True) if on} == {
                item.size,
                item.material,
                item.shape,
                item.colour,
            }
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
        distance = [
            np.linalg.norm(np.subtract(item.position, scene.camera.origin))
            for item in scene.objects
        ]
        for k, item in enumerate(scene.objects, start=1):
            found = mask[pixel(scene.camera, item.position, 64)]
            assert (
                found > 0 and distance[found - 1] <= distance[k - 1]
            )  # itself, or what stands before it
            direct, total = direct + (found == k), total + 1
    assert direct > 0.9 * total


def test_the_crop_is_that_part_of_the_picture(many):
    """Rows 29 to 221 and columns 64 to 256 of 240x320, of which the whole picture shows columns 40 to 280."""
    for scene in many[:2]:
        whole, mask = render(scene, 240, samples_per_pixel=1, seed=1)
        part, cropped = render(
            dataclasses.replace(scene, camera=scene.camera.cropped()),
            192,
            samples_per_pixel=1,
            seed=1,
        )
        np.testing.assert_array_equal(cropped, mask[29:221, 24:216])
        blocks = [
            x.reshape(12, 16, 12, 16, 3).mean((1, 3))
            for x in (part.astype(float), whole[29:221, 24:216].astype(float))
        ]
        assert np.corrcoef(blocks[0].ravel(), blocks[1].ravel())[0, 1] > 0.995  # but for the noise


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
    palette = np.array(list(scenes.COLOURS.values())) / 255
    for scene, image, mask in rendered:
        for k, item in enumerate(scene.objects, start=1):
            if item.material == "rubber" and np.sum(mask == k) >= 40:
                linear = np.median((image[mask == k] / 255) ** 2.2, axis=0)
                hues = palette**2.2 / np.sum(palette**2.2, axis=1, keepdims=True)
                nearest = np.argmin(np.sum((hues - linear / linear.sum()) ** 2, axis=1))
                right, total = right + (list(scenes.COLOURS)[nearest] == item.colour), total + 1
    assert total >= 15
    assert right >= 0.9 * total


def test_noise_is_small(rendered):
    differences = [
        np.var(image / 255 - render(scene, 64, seed=2)[0] / 255) for scene, image, _ in rendered
    ]
    assert 0 < np.sqrt(np.mean(differences)) <= 0.02


def test_pictures_are_those_of_this_version():
    """Committed results depend on them. Whoever changes them raises GENERATOR_VERSION. Another processor may round differently."""
    reference = np.load(Path(__file__).parent / "reference" / "generators.npz")
    for number, (index, mirror) in enumerate([(0, True), (1, True), (2, False), (3, True)]):
        image, mask = render(sample_scene(0, index, 3, 6), 32, 9, mirror=mirror, seed=index)
        assert np.mean(image == reference["clevr_mirror/images"][number]) > 0.98
        assert np.mean(mask == reference["clevr_mirror/masks"][number]) > 0.98


def test_scenes_are_those_of_this_version():
    text = "\n".join(
        str([round(v, 6) for v in np.ravel(scenes.properties(sample_scene(1, index), 10)).tolist()])
        for index in range(40)
    )
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "58c2bfce6a6b7d3e"


def test_shadows_fall_where_the_key_light_does_not_reach():
    ball = Object("sphere", "large", "rubber", "gray", (0.0, 0.0, 0.7), 0.0)
    empty, _ = render(Scene((), CAMERA, (KEY,)), 64, mirror=False)
    image, _ = render(Scene((ball,), CAMERA, (KEY,)), 64, mirror=False)
    shadow = (
        0.7 * np.subtract(ball.position, KEY.position) / (6.5 - 0.7) + ball.position
    )  # the ray through its centre, at z = 0
    at = pixel(CAMERA, shadow, 64)
    assert image[at].mean() < 0.6 * empty[at].mean()


def test_the_mirror_shows_the_objects():
    lights = tuple(Light(position, intensity) for position, intensity in scenes.LIGHTS.values())
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

    corners = [
        (x, MIRROR_Y, z) for x in (-MIRROR_WIDTH / 2, MIRROR_WIDTH / 2) for z in (0, MIRROR_HEIGHT)
    ]
    bottom = project(CAMERA, corners)[:, 1].max() * 64
    change = np.abs(with_ball.astype(int) - without_mirror).mean(axis=2)
    assert change[: int(bottom) - 1].mean() > 5 * change[int(bottom) + 2 :].mean()


def test_a_removed_object_changes_only_itself_in_the_mask(many):
    scene = next(scene for scene in many if len(scene.objects) == 3)
    _, mask = render(scene, 64, samples_per_pixel=1)
    _, fewer = render(
        dataclasses.replace(scene, objects=scene.objects[:2]), 64, samples_per_pixel=1
    )
    assert np.all(fewer[mask < 3] == mask[mask < 3])
    assert 3 in mask and 3 not in fewer


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
    settings = clevr_mirror.Settings(20, 16, 4, 3, 10, 0, True)
    rows, order = settings.rows(), settings.order()
    assert [len(rows[split]) for split in data.SPLITS] == [14, 3, 3]
    assert sorted(order[row] for split in data.SPLITS for row in rows[split]) == list(range(20))
    assert [int(part.indices[0]) for part in parts] == [order[0], order[14], order[17]]
    assert not np.array_equal(order, np.arange(20))
    for part in parts:  # each holds the scene that it says
        scene = sample_scene(0, int(part.indices[0]))
        np.testing.assert_array_equal(part.properties[0], scenes.properties(scene, 10))
    assert np.load(tmp_path / "clevr_mirror-16px-4spp-3to10-seed0-20" / "done.npy").sum() == 3


def test_a_dataset_reads_lazily_and_by_item(tmp_path):
    dataset = data.load("clevr_mirror", "val", root=tmp_path, num_scenes=20, seed=5, **TINY)
    assert isinstance(dataset.images, np.memmap) and isinstance(dataset.masks, np.memmap)
    assert (
        len(dataset) == 3
        and dataset.images.shape == (3, 16, 16, 3)
        and dataset.images.dtype == np.uint8
    )
    assert dataset[1]["mask"].shape == (16, 16) and dataset[1]["properties"].shape == (10, 19)
    assert dataset.tensor().shape == (3, 3, 16, 16)
    np.testing.assert_array_equal(
        dataset.tensor([2])[0].permute(1, 2, 0).numpy(), dataset[2]["image"]
    )
    assert dataset.source["door"] == "generator" and dataset.source["settings"]["seed"] == 5
    assert dataset.source["version"] == data.version("clevr_mirror")
    with pytest.raises(ValueError):
        dataset.images[0] = 0


def test_the_root_may_come_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("PAPER_DATA", str(tmp_path / "elsewhere"))
    data.load("clevr_mirror", num_scenes=10, max_items=1, **TINY)
    assert (
        tmp_path / "elsewhere" / "clevr_mirror-16px-4spp-3to10-seed0-10" / "images.npy"
    ).exists()


def test_unknown_names_are_refused_with_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match="'clever'.*clevr_mirror"):
        data.load("clever", root=tmp_path)
    with pytest.raises(ValueError, match="'dev'.*train, validation, test"):
        data.load("clevr_mirror", "dev", root=tmp_path)
    with pytest.raises(ValueError, match="clevr_mirror"):
        data.version("clever")


def test_a_killed_process_loses_nothing(tmp_path):
    settings = {"num_scenes": 40, "size": 32, "samples_per_pixel": 64, "workers": 1}
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = run(killed, **settings)
    done_file = killed / "clevr_mirror-32px-64spp-3to10-seed0-40" / "done.npy"
    deadline = time.time() + 60
    while not (done_file.exists() and np.load(done_file).sum() >= 3):
        assert process.poll() is None and time.time() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(1)  # its worker notices, and stops
    done = np.load(done_file)
    assert 3 <= done.sum() < 28
    time.sleep(0.5)
    np.testing.assert_array_equal(np.load(done_file), done)

    marked = int(
        np.flatnonzero(done)[1]
    )  # spoilt here, to see that finished pictures are not rendered again
    np.load(done_file.with_name("images.npy"), mmap_mode="r+")[marked] = 77
    resumed = data.load("clevr_mirror", root=killed, **{**settings, "workers": 2})
    uninterrupted = data.load("clevr_mirror", root=whole, **{**settings, "workers": 2})
    assert np.all(resumed.images[marked] == 77)
    for i in range(len(resumed)):
        if i != marked:
            assert_same(resumed[i], uninterrupted[i])


def test_two_processes_that_want_the_same_share_the_work(tmp_path):
    processes = [run(tmp_path, num_scenes=30, workers=1, **TINY) for _ in range(2)]
    outputs = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert (
        sum("image/s" in output for output in outputs) == 1
    )  # one progress bar: the other found all done


def test_who_waits_for_another_process_says_so(tmp_path, capfd):
    lock = FileLock(tmp_path / "clevr_mirror-16px-4spp-3to10-seed0-10.lock")
    lock.acquire()
    thread = threading.Thread(
        target=data.load,
        args=("clevr_mirror",),
        kwargs=dict(root=tmp_path, num_scenes=10, max_items=1, **TINY),
    )
    thread.start()
    said = ""
    while thread.is_alive() and "waiting" not in said:
        said += capfd.readouterr().err
        time.sleep(0.01)
    lock.release()
    thread.join()
    assert said.count("\n") == 1 and "clevr_mirror-16px-4spp-3to10-seed0-10" in said


def test_a_folder_of_other_settings_is_refused(tmp_path):
    arguments = dict(root=tmp_path, num_scenes=10, max_items=1, **TINY)
    data.load("clevr_mirror", **arguments)
    path = tmp_path / "clevr_mirror-16px-4spp-3to10-seed0-10" / "settings.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": "0"}))
    with pytest.raises(
        ValueError, match="settings.json describes another.*version is '0'.*Delete the folder"
    ):
        data.load("clevr_mirror", **arguments)


def test_another_variant_of_the_renderer_and_the_crop_have_folders_of_their_own():
    usual = clevr_mirror.Settings(20, 16, 4, 3, 10, 0, True)
    gpu = clevr_mirror.Settings(20, 16, 4, 3, 10, 0, True, "cuda_ad_rgb")
    crop = clevr_mirror.Settings(20, 16, 4, 3, 10, 0, True, crop=True)
    assert (gpu.folder, crop.folder) == (usual.folder + "-cuda_ad_rgb", usual.folder + "-crop")
    assert (
        not {"variant", "crop"} & set(usual.settings())
        and gpu.settings()["variant"] == "cuda_ad_rgb"
    )  # folders made before there was a choice stay valid


def test_a_worker_that_fails_says_why(tmp_path):
    arguments = dict(root=tmp_path, num_scenes=10, **TINY)
    data.load("clevr_mirror", max_items=1, **arguments)
    (tmp_path / "clevr_mirror-16px-4spp-3to10-seed0-10" / "masks.npy").unlink()
    with pytest.raises(RuntimeError, match="FileNotFoundError.*masks.npy"):
        data.load("clevr_mirror", **arguments)


def test_the_benchmark_writes_its_table(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PAPER_RESULTS", str(tmp_path))
    for name, value in {"SIZE": 16, "IMAGES_PER_WORKER": 2, "SCENES": 2}.items():
        monkeypatch.setattr(benchmark, name, value)
    benchmark.main()
    text = (tmp_path / "bench" / "data.md").read_text()
    assert text.strip() == capsys.readouterr().out.strip()
    assert {line.split(" | ")[0] for line in text.splitlines()[4:] if line.startswith("|")} == {
        "| clevr_mirror",
        "| shapestacks",
    }
