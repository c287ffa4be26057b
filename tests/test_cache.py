"""The folder of arrays that every data set is kept in."""

import json

import numpy as np
import pytest
from test_data_files import mirror_tree

from paper_lib import data
from paper_lib.data.cache import DONE, Cache, write_row
from paper_lib.data.generators import recipe
from paper_lib.data.readers import clevr_with_masks, listing

ARRAYS = {"images": ((2, 2, 3), np.uint8), "masks": ((2, 2), np.uint16), DONE: ((), np.bool_)}
SETTINGS = {"version": "1", "size": 2}


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "root" / "name", SETTINGS)


def fill(cache, *rows):
    for row in rows:
        item = {"images": np.full((2, 2, 3), row), "masks": np.full((2, 2), 300 + row)}
        write_row(cache.open_arrays(), row, item)


def create(cache):
    cache.folder.parent.mkdir(exist_ok=True)
    cache.create(5, ARRAYS)


def test_rows_that_are_written_are_not_missing(cache):
    assert not cache.exists() and cache.missing(range(1, 4)).tolist() == [1, 2, 3]
    create(cache)
    fill(cache, 1, 4)
    assert cache.exists() and cache.missing(range(5)).tolist() == [0, 2, 3]
    assert cache.missing(range(1, 3)).tolist() == [2]
    found = cache.read(range(1, 5))
    assert found["properties"] is None and not found["images"].flags.writeable
    assert found["masks"][:, 0, 0].tolist() == [301, 0, 0, 304]
    assert np.load(cache.folder / "images.npy")[:, 0, 0, 0].tolist() == [0, 1, 0, 0, 4]


def test_a_row_counts_only_once_all_of_it_is_written(cache):
    create(cache)
    item = {"images": np.zeros((2, 2, 3)), "masks": np.zeros((3, 3))}
    with pytest.raises(ValueError):
        write_row(cache.open_arrays(), 0, item)
    assert cache.missing(range(1)).tolist() == [0]


def test_the_folder_appears_whole(cache, monkeypatch):
    opened, names = np.lib.format.open_memmap, []

    def killed(path, **given):
        if len(names) == 2:
            raise KeyboardInterrupt
        names.append(path.name)
        return opened(path, **given)

    cache.folder.parent.mkdir()
    monkeypatch.setattr("paper_lib.data.cache.open_memmap", killed)
    with pytest.raises(KeyboardInterrupt):
        cache.create(5, ARRAYS)
    assert names and not cache.exists()
    monkeypatch.undo()
    cache.create(5, ARRAYS)
    assert [path.name for path in cache.folder.parent.iterdir()] == ["name"]
    assert json.loads((cache.folder / "settings.json").read_text()) == SETTINGS


def test_a_folder_of_other_settings_is_refused(cache):
    create(cache)
    for settings, words in (
        ({**SETTINGS, "size": 3}, "size is 2, not 3"),
        ({"version": "1"}, "size is 2, not None"),
        ({**SETTINGS, "crop": True}, "crop is None, not True"),
    ):
        with pytest.raises(ValueError, match=f"another data set.*{words}.*Delete the folder"):
            Cache(cache.folder, settings).exists()


def test_what_is_complete_is_not_filled_and_not_locked(cache):
    filled = []
    cache.complete(lambda: True, lambda: filled.append(1))
    assert not filled and not cache.folder.parent.exists()
    cache.complete(lambda: bool(filled), lambda: filled.append(1))
    cache.complete(lambda: bool(filled), lambda: filled.append(1))
    assert filled == [1]


# Folders that earlier versions of this library made stay valid: each is written here by hand.


@pytest.fixture
def nothing_is_made(monkeypatch):
    def made(*_, **__):
        raise AssertionError("this should have been found in the folder")

    for module, name in (
        (recipe, "in_processes"),
        (listing, "in_threads"),
        (clevr_with_masks, "_fill"),
    ):
        monkeypatch.setattr(module, name, made)


def put(folder, settings, **arrays):
    folder.mkdir(parents=True)
    (folder / "settings.json").write_text(settings)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)


def random(*shape):
    return np.random.default_rng(len(shape)).integers(0, 256, shape, dtype=np.uint8)


def test_a_generators_folder_stays_valid(tmp_path, nothing_is_made):
    images, masks = random(20, 16, 16, 3), random(20, 16, 16)
    properties = random(20, 10, 19).astype(np.float32)
    put(
        tmp_path / "clevr_mirror-16px-4spp-3to10-seed0-20",
        '{\n  "version": "1",\n  "num_scenes": 20,\n  "size": 16,\n  "samples_per_pixel": 4,\n'
        '  "min_objects": 3,\n  "max_objects": 10,\n  "seed": 0,\n  "mirror": true\n}\n',
        images=images,
        masks=masks,
        properties=properties,
        done=np.arange(20) < 17,
    )
    settings = dict(root=tmp_path, num_scenes=20, samples_per_pixel=4)
    validation = data.load("clevr_mirror", "validation", 16, **settings)
    np.testing.assert_array_equal(validation.images, images[14:17])
    np.testing.assert_array_equal(validation.masks, masks[14:17])
    np.testing.assert_array_equal(validation.properties, properties[14:17])
    order = np.random.default_rng(0).permutation(20)
    np.testing.assert_array_equal(validation.indices, order[14:17])
    with pytest.raises(AssertionError, match="should have been found"):
        data.load("clevr_mirror", "test", 16, **settings)


def test_a_readers_folder_stays_valid(tmp_path, nothing_is_made):
    tree, images = mirror_tree(tmp_path / "tree", described=None), random(3, 16, 16, 3)
    put(
        tmp_path / "root/clevr_mirror-files-16px-test-a84782a873",
        '{\n "name": "clevr_mirror",\n "split": "test",\n "size": 16,\n'
        ' "version": "a84782a873",\n "reader": "1"\n}\n',
        images=images,
        done=np.ones(3, bool),
    )
    for path in (tree / "images").iterdir():
        path.write_bytes(bytes(100))  # the version is a hash of names and sizes
    test = data.load("clevr_mirror", "test", 16, files=tree, root=tmp_path / "root")
    assert test.source["version"] == "a84782a873"
    np.testing.assert_array_equal(test.images, images)
    assert test.masks is None and test.properties is None


def test_the_folder_of_clevr_with_masks_stays_valid(tmp_path, nothing_is_made, monkeypatch):
    monkeypatch.setattr(clevr_with_masks, "RECORDS", 12)
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / clevr_with_masks.FILE).write_bytes(bytes(1000))  # the version is a hash of the size
    images, masks, read = random(12, 16, 16, 3), random(12, 16, 16), [0, 2, 4, 6, 7, 9, 11]
    put(
        tmp_path / "root/clevr_with_masks-files-16px-0to6objects-3b7035ee00",
        '{\n "name": "clevr_with_masks",\n "size": 16,\n "max_objects": 6,\n "reader": "1"\n}\n',
        images=images,
        masks=masks,
        indices=np.array(read + [0] * 5),
    )
    folder = tmp_path / "root/clevr_with_masks-files-16px-0to6objects-3b7035ee00"
    (folder / "state.json").write_text('{\n "records": 12,\n "rows": 7\n}\n')
    settings = dict(files=tree, root=tmp_path / "root", max_objects=6)
    validation = data.load("clevr_with_masks", "validation", 16, **settings)
    assert validation.indices.tolist() == [9]
    np.testing.assert_array_equal(validation.images, images[5:6])
    np.testing.assert_array_equal(validation.masks, masks[5:6])
