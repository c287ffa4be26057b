"""CLEVR with masks from the authors' file, written here in small; and limits on the objects."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from test_data_files import clevr_tree, scene, spoil, write
from test_tfrecord import encoded, framed, put

from paper_lib import data
from paper_lib.data.readers import clevr, clevr_with_masks
from paper_lib.data.readers.tree import Tree, TreeError
from paper_lib.data.splits import split_rows
from paper_lib.training.config import DataConfig

SIZE = 16
COUNTS = (3, 8, 6, 10, 4, 7, 5, 6, 9, 3, 7, 6)  # objects of each record
SPLITS = {"train": (0, 8), "validation": (8, 10), "test": (10, 12)}
FILE = clevr_with_masks.FILE


def picture(seed):
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((320, 240), Image.Resampling.BICUBIC))


def numbers(count):
    """(240, 320): object k is a square in the k-th of 11 columns; the last is out of the crop."""
    mask = np.zeros((240, 320), np.uint8)
    for k in range(1, count):
        mask[100:120, 64 + 16 * k : 76 + 16 * k] = k
    mask[5:20, 100:120] = count
    return mask


def features(i):
    """What the authors' file holds of record i, in small."""
    mask, there = numbers(COUNTS[i]), np.arange(11) <= COUNTS[i]
    is_shown = (mask == np.arange(11)[:, None, None]) & there[:, None, None]
    return {
        "image": picture(i),
        "mask": np.uint8(255) * is_shown,
        "visibility": there.astype(np.float32),
        "x": np.zeros(11, np.float32),
        "color": there.astype(np.uint8),
    }


def record(i):
    return framed(encoded(features(i)))


@pytest.fixture(scope="module")
def frames():
    return [record(i) for i in range(len(COUNTS))]


def put_tree(root, frames, cut=None):
    root.mkdir(parents=True, exist_ok=True)
    put(root / FILE, frames, cut)
    return root


@pytest.fixture(scope="module")
def whole(frames, tmp_path_factory):
    return put_tree(tmp_path_factory.mktemp("given") / "clevr_with_masks", frames)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(clevr_with_masks, "RECORDS", len(COUNTS))


@pytest.fixture
def reads(monkeypatch):
    """Records that were read."""
    found, read = [], clevr_with_masks._read

    def noted(record, name, **given):
        found.append(int(name.split()[-1]))
        return read(record, name, **given)

    monkeypatch.setattr(clevr_with_masks, "_read", noted)
    return found


def load(root, split, cache, size=SIZE, **given):
    return clevr_with_masks.load(root, split, size, cache, workers=2, **given)


def folders(cache):
    return [path for path in cache.iterdir() if path.is_dir()]


def test_splits_follow_the_file_and_share_one_reading(whole, tmp_path, reads):
    parts = {split: load(whole, split, tmp_path / "cache") for split in SPLITS}
    assert sorted(reads) == list(range(12))
    for split, part in parts.items():
        assert part["indices"].tolist() == list(range(*SPLITS[split]))
        assert part["properties"] is None
        for name, shape in (("images", (SIZE, SIZE, 3)), ("masks", (SIZE, SIZE))):
            array = part[name]
            assert array.shape == (len(part["indices"]), *shape) and array.dtype == np.uint8
            assert isinstance(array, np.memmap) and not array.flags.writeable
        source = part["source"]
        assert source["split"] == split and source["settings"] == {"size": SIZE}
        assert "Apache 2.0" in source["licence"]
        assert json.dumps(source)
    with pytest.raises(ValueError, match="'val'.*train, validation, test"):
        load(whole, "val", tmp_path)


def test_the_authors_file_is_split_after_70000_and_85000_records(monkeypatch):
    monkeypatch.undo()
    rows = split_rows(clevr_with_masks.RECORDS)
    assert [(part.start, part.stop) for part in rows.values()] == [
        (0, 70_000),
        (70_000, 85_000),
        (85_000, 100_000),
    ]


def test_the_authors_crop_and_interpolation(whole, tmp_path):
    part = load(whole, "test", tmp_path / "cache", size=128, max_items=1)
    first, _ = SPLITS["test"]
    square = picture(first)[29:221, 64:256].astype(float)
    # Two thirds of the size: the centres are at 0.25 and 1.75 of every three pixels.
    for row, column in ((0, 0), (127, 127), (3, 90), (64, 17)):
        y, x = 1.5 * row + 0.25, 1.5 * column + 0.25
        i, j = int(y), int(x)
        weights = np.outer([1 - y + i, y - i], [1 - x + j, x - j])[..., None]
        expected = (square[i : i + 2, j : j + 2] * weights).sum((0, 1))
        assert np.abs(expected - part["images"][0, row, column]).max() <= 0.51
    places = np.floor(1.5 * (np.arange(128) + 0.5)).astype(int)
    expected = numbers(COUNTS[first])[29:221, 64:256][np.ix_(places, places)]
    np.testing.assert_array_equal(part["masks"][0], expected)
    seen = list(range(COUNTS[first]))  # the background, and all but the last, which is cut away
    assert np.unique(part["masks"][0]).tolist() == seen


def test_shrinking_far_is_antialiased_and_enlarging_keeps_the_corners():
    fine = np.uint8(np.indices((192, 192)).sum(0) % 2 * 255)[..., None].repeat(3, 2)
    small = clevr_with_masks.shrink(fine, 32)[1:-1, 1:-1]
    assert np.abs(small.astype(int) - 127).max() <= 2
    image = picture(0)[:192, :192]
    np.testing.assert_array_equal(clevr_with_masks.shrink(image, 192), image)
    corners = [0, 0, -1, -1], [0, -1, 0, -1]
    large = clevr_with_masks.shrink(image, 384)
    np.testing.assert_array_equal(large[corners], image[corners])


def test_only_as_much_is_read_as_is_asked_for(whole, tmp_path, reads, monkeypatch):
    monkeypatch.setattr(clevr_with_masks, "cores", lambda: 1)
    first = clevr_with_masks.load(whole, "train", SIZE, tmp_path / "cache", 2)
    assert first["indices"].tolist() == [0, 1] and len(reads) <= 7, "two, and those that waited"
    reads.clear()
    again = load(whole, "train", tmp_path / "cache", max_items=2)
    assert not reads
    np.testing.assert_array_equal(again["images"], first["images"])
    everything = load(whole, "train", tmp_path / "cache")
    assert sorted(reads) == list(range(2, 12))
    np.testing.assert_array_equal(everything["images"][:2], first["images"])
    fresh = load(whole, "train", tmp_path / "another cache")
    np.testing.assert_array_equal(everything["images"], fresh["images"])
    np.testing.assert_array_equal(everything["masks"], fresh["masks"])


def test_a_killed_reading_goes_on_where_it_was(whole, tmp_path, monkeypatch):
    read = clevr_with_masks._read

    def killed(record, name, **given):
        if name.endswith(" 4"):
            raise KeyboardInterrupt
        return read(record, name, **given)

    monkeypatch.setattr(clevr_with_masks, "_read", killed)
    with pytest.raises(KeyboardInterrupt):
        load(whole, "train", tmp_path / "cache")
    monkeypatch.setattr(clevr_with_masks, "_read", read)
    (folder,) = folders(tmp_path / "cache")
    state = json.loads((folder / "state.json").read_text())
    assert (state["records"], state["rows"]) == (4, 4)
    # Spoilt here, to see that finished rows are left alone.
    spoil(folder, 0, images=77)
    resumed = load(whole, "train", tmp_path / "cache")
    assert np.all(resumed["images"][0] == 77) and resumed["indices"].tolist() == list(range(8))


def test_cached_rows_do_not_need_the_files_content(whole, tmp_path):
    copy = shutil.copytree(whole, tmp_path / "copy")
    before = load(copy, "train", tmp_path / "cache")
    (copy / FILE).write_bytes(b"\0" * (copy / FILE).stat().st_size)
    after = load(copy, "train", tmp_path / "cache")
    np.testing.assert_array_equal(after["images"], before["images"])


@pytest.mark.parametrize(
    "limits", [{"max_objects": 6}, {"min_objects": 7}, {"min_objects": 3, "max_objects": 6}]
)
def test_limits_on_the_number_of_objects(whole, tmp_path, limits):
    cache, least, most = tmp_path / "cache", limits.get("min_objects", 0), limits.get("max_objects")
    for split, (start, stop) in SPLITS.items():
        everything = load(whole, split, cache)
        kept = [i for i in range(start, stop) if least <= COUNTS[i] <= (most or 10)]
        part = load(whole, split, cache, **limits)
        assert part["indices"].tolist() == kept
        assert part["source"]["settings"] == {"size": SIZE, **limits}
        for name in ("images", "masks"):
            expected = everything[name][np.array(kept) - start]
            np.testing.assert_array_equal(part[name], expected)
    assert len(folders(cache)) == 2, "limits have a folder of their own"


def test_limits_that_leave_nothing_are_refused(whole, tmp_path):
    part = load(whole, "test", tmp_path, max_items=1, max_objects=6)
    assert part["indices"].tolist() == [11]
    words = "no scenes with 10 to any number of objects for a test split"
    with pytest.raises(TreeError, match=words):
        load(whole, "test", tmp_path, min_objects=10)
    with pytest.raises(ValueError, match="min_objects <= max_objects"):
        load(whole, "test", tmp_path, min_objects=5, max_objects=4)


# Faults


def test_a_healthy_file_has_no_faults(whole):
    assert clevr_with_masks.check(whole) == []


def refused(root, cache, *said):
    with pytest.raises(TreeError) as caught:
        load(root, "train", cache)
    for words in (*said, str(root), FILE, "Expected of clevr_with_masks"):
        assert words in str(caught.value)


def test_faults_of_records_are_listed_in_one_go(frames, tmp_path):
    without_mask = {name: content for name, content in features(1).items() if name != "mask"}
    broken = {
        1: encoded(without_mask),
        3: encoded({**features(3), "image": picture(3)[1:]}),
        4: encoded({**features(4), "visibility": np.ones(11, np.uint8)}),
        5: b"\xff" * 1000,
        7: encoded({**features(7), "image": picture(7).tobytes()}),
    }
    said = {
        1: "'mask' of 844,800 strings",
        3: "'image' of 230,400 strings",
        4: "'visibility' of 11 floats",
        5: "tf.train.Example",
        7: "'image' of 230,400 strings",
    }
    changed = [framed(broken[i]) if i in broken else frames[i] for i in range(12)]
    root = put_tree(tmp_path / "tree", changed)
    faults = clevr_with_masks.check(root)
    assert len(faults) == len(broken)
    for fault, (i, words) in zip(faults, said.items()):
        assert fault.startswith(f"{FILE}: record {i}: ") and words in fault
    refused(root, tmp_path / "cache", "record 1", "no feature 'mask'")
    before_the_fault = load(root, "train", tmp_path / "cache", max_items=1)
    assert before_the_fault["indices"].tolist() == [0]


@pytest.mark.parametrize(
    "change, words",
    [
        ("cut", "cannot be unpacked"),
        ("cut before it was packed", "record 11: is cut off"),
        ("cut in a head", "record 11: does not begin as a TFRecord does"),
        ("too short", "record 11: is missing, the authors' file holds 12"),
        ("too long", "record 12: is one too many"),
        ("not packed", "record 0: cannot be unpacked (Not a gzipped file"),
        ("another", "record 0: does not begin as a TFRecord does"),
    ],
)
def test_a_file_that_is_cut_off_or_another(frames, tmp_path, change, words):
    changed = {
        "cut before it was packed": [*frames[:-1], frames[-1][:-100]],
        "cut in a head": [*frames[:-1], frames[-1][:7]],
        "too short": frames[:-1],
        "too long": [*frames, frames[0]],
        "another": [b"some text that is no record at all"],
    }
    root = put_tree(
        tmp_path / "tree", changed.get(change, frames), cut=-2_000 if change == "cut" else None
    )
    if change == "not packed":
        (root / FILE).write_bytes(frames[0])
    (fault,) = clevr_with_masks.check(root)
    assert fault.startswith(f"{FILE}: record ") and words in fault
    refused(root, tmp_path / "cache", words)


def test_a_missing_file_is_an_error_with_the_layout(tmp_path):
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", tmp_path / "cache", "no such file")
    assert clevr_with_masks.check(tmp_path / "empty") == [f"{FILE}: no such file"]
    assert "no such folder" in clevr_with_masks.check(tmp_path / "nothing")[0]
    assert not (tmp_path / "cache").exists()


# Through the door


def test_the_data_set_behind_the_door(whole, tmp_path, monkeypatch):
    monkeypatch.setenv("PAPER_DATA", str(tmp_path / "root"))
    monkeypatch.setenv("PAPER_FILES", str(whole.parent))
    found = data.load("clevr_with_masks", "test", SIZE, max_objects=6, workers=1)
    assert found.indices.tolist() == [11]
    assert set(found[0]) == {"image", "mask"} and found[0]["mask"].shape == (SIZE, SIZE)
    assert data.settings("clevr_with_masks") == set()
    assert data.settings("clevr_with_masks", "files") == {"min_objects", "max_objects"}
    assert data.settings("coco", "files") == data.settings("photos", "files") == set()
    config = DataConfig(name="clevr_with_masks", size=SIZE, max_objects=6, door="files")
    part = config.load("validation")
    assert part.indices.tolist() == [9]
    assert part.source["settings"] == {"size": SIZE, "min_objects": 3, "max_objects": 6}
    with pytest.raises(ValueError, match="has no generator"):
        DataConfig(name="clevr_with_masks", size=SIZE).load("test")


def test_limits_on_clevr(tmp_path, monkeypatch):
    cache, counts = tmp_path / "cache", [3, 7, 6, 10, 4, 8, 5, 6, 9, 3]
    monkeypatch.setenv("PAPER_DATA", str(cache))
    monkeypatch.setenv("PAPER_FILES", str(tmp_path / "given"))
    root = clevr_tree(tmp_path / "given" / "clevr")
    names = [f"CLEVR_train_{i:06}.png" for i in range(10)]
    scenes = [{"image_filename": name, **scene(i, counts[i])} for i, name in enumerate(names)]
    write(root / "scenes/CLEVR_train_scenes.json", {"scenes": scenes})
    everything = clevr.load_clevr(root, "train", SIZE, cache)
    is_kept = np.array(counts)[everything["indices"]] <= 6
    config = DataConfig(name="clevr", size=SIZE, max_objects=6, door="files")
    part = config.load("train")
    assert 0 < is_kept.sum() < 8 and config.version == "files"
    np.testing.assert_array_equal(part.indices, everything["indices"][is_kept])
    np.testing.assert_array_equal(part.images, everything["images"][is_kept])
    assert (part.properties[..., -1].sum(1) <= 6).all()
    assert part.source["settings"] == {"size": SIZE, "min_objects": 3, "max_objects": 6}
    monkeypatch.setattr(Tree, "json", None)  # the scenes are counted once
    np.testing.assert_array_equal(config.load("train").indices, part.indices)
    all_of_them = DataConfig(name="clevr", size=SIZE, door="files").load("train")
    assert all_of_them.source == everything["source"], "limits that leave nothing out are none"
    words = "too few pictures with 11 to any number of objects for a train split"
    with pytest.raises(TreeError, match=words):
        clevr.load_clevr(root, "train", SIZE, cache, min_objects=11)
