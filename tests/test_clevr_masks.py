"""CLEVR with masks from the authors' file, which is written here in small; and the limits on the number of objects."""

import gzip
import json
import shutil
import struct

import numpy as np
import pytest
from PIL import Image
from test_data_files import clevr_tree, scene, write

from paper_lib import data
from paper_lib.data.readers import clevr as clevr_files
from paper_lib.data.readers import clevr_with_masks as clevr_masks_files
from paper_lib.data.readers import files
from paper_lib.training.config import DataConfig

SIZE = 16
COUNTS = (3, 8, 6, 10, 4, 7, 5, 6, 9, 3, 7, 6)  # objects of each record
SPLITS = {"train": (0, 6), "validation": (6, 9), "test": (9, 12)}


# An encoder of TFRecords of tf.train.Example


def varint(number):
    low, rest = number & 127, number >> 7
    return bytes([low | 128]) + varint(rest) if rest else bytes([low])


def message(number, content):
    return varint(number << 3 | 2) + varint(len(content)) + content


def strings(content):
    """A feature of one-byte strings, as the authors store uint8 arrays."""
    content = content.reshape(-1, 1)
    return message(
        1, np.hstack([np.full_like(content, 10), np.full_like(content, 1), content]).tobytes()
    )


def floats(content):
    return message(2, message(1, np.asarray(content, "<f4").tobytes()))


def example(features):
    return message(
        1,
        b"".join(
            message(1, message(1, name.encode()) + message(2, feature))
            for name, feature in features.items()
        ),
    )


def framed(record):
    return struct.pack("<Q", len(record)) + b"head" + record + b"tail"


def picture(seed):
    return np.asarray(
        Image.fromarray(
            np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        ).resize((320, 240), Image.Resampling.BICUBIC)
    )


def numbers(count):
    """(240, 320): object k is a square in the k-th of 11 columns; the last lies outside of the crop."""
    mask = np.zeros((240, 320), np.uint8)
    for k in range(1, count):
        mask[100:120, 64 + 16 * k : 76 + 16 * k] = k
    mask[5:20, 100:120] = count
    return mask


def features(i):
    mask = numbers(COUNTS[i])
    there = np.arange(11) <= COUNTS[i]
    masks = np.where(
        (mask == np.arange(11)[:, None, None]) & there[:, None, None], np.uint8(255), np.uint8(0)
    )
    return {
        "image": strings(picture(i)),
        "mask": strings(masks),
        "visibility": floats(there),
        "x": floats(np.zeros(11)),
        "color": strings(np.uint8(there)),
    }


@pytest.fixture(scope="module")
def records():
    return [framed(example(features(i))) for i in range(len(COUNTS))]


def put(root, records, cut=None):
    root.mkdir(parents=True, exist_ok=True)
    content = gzip.compress(b"".join(records), 1)
    (root / clevr_masks_files.FILE).write_bytes(content[:cut])
    return root


@pytest.fixture(scope="module")
def whole(records, tmp_path_factory):
    return put(tmp_path_factory.mktemp("given") / "clevr_with_masks", records)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(clevr_masks_files, "SPLITS", SPLITS)


@pytest.fixture
def reads(monkeypatch):
    """Records that were read."""
    found, read = [], clevr_masks_files._read
    monkeypatch.setattr(
        clevr_masks_files,
        "_read",
        lambda record, where, **given: (
            found.append(int(where.split()[-1])) or read(record, where, **given)
        ),
    )
    return found


def load(root, split, cache, size=SIZE, **given):
    return clevr_masks_files.load(root, split, size, cache, workers=2, **given)


def test_splits_follow_the_file_and_share_one_reading(whole, tmp_path, reads):
    parts = {split: load(whole, split, tmp_path / "cache") for split in SPLITS}
    assert sorted(reads) == list(range(12))
    for split, part in parts.items():
        assert (
            part["indices"].tolist() == list(range(*SPLITS[split])) and part["properties"] is None
        )
        for name, shape in (("images", (SIZE, SIZE, 3)), ("masks", (SIZE, SIZE))):
            array = part[name]
            assert array.shape == (len(part["indices"]), *shape) and array.dtype == np.uint8
            assert isinstance(array, np.memmap) and not array.flags.writeable
        assert (
            part["source"]["split"] == split
            and part["source"]["settings"] == {"size": SIZE}
            and "Apache 2.0" in part["source"]["licence"]
        )
        assert json.dumps(part["source"])
    with pytest.raises(ValueError, match="'val'.*train, validation, test"):
        load(whole, "val", tmp_path)


def test_the_authors_crop_and_interpolation(whole, tmp_path):
    part = load(whole, "test", tmp_path / "cache", size=128, max_items=1)
    square = picture(9)[29:221, 64:256].astype(float)
    for row, column in (
        (0, 0),
        (127, 127),
        (3, 90),
        (64, 17),
    ):  # two thirds of the size: the centres are at 0.25 and 1.75 of every three pixels
        y, x = 1.5 * row + 0.25, 1.5 * column + 0.25
        i, j = int(y), int(x)
        corners = square[i : i + 2, j : j + 2]
        weights = np.outer([1 - y + i, y - i], [1 - x + j, x - j])
        assert (
            np.abs(
                (corners * weights[..., None]).sum((0, 1)) - part["images"][0, row, column]
            ).max()
            <= 0.51
        )
    places = np.floor(1.5 * (np.arange(128) + 0.5)).astype(int)
    np.testing.assert_array_equal(
        part["masks"][0], numbers(3)[29:221, 64:256][np.ix_(places, places)]
    )
    assert np.unique(part["masks"][0]).tolist() == [0, 1, 2], "object 3 is out of the picture"


def test_shrinking_far_is_antialiased_and_enlarging_keeps_the_corners():
    fine = np.uint8(np.indices((192, 192)).sum(0) % 2 * 255)[..., None].repeat(3, 2)
    assert np.abs(clevr_masks_files.shrink(fine, 32)[1:-1, 1:-1].astype(int) - 127).max() <= 2
    image = picture(0)[:192, :192]
    np.testing.assert_array_equal(clevr_masks_files.shrink(image, 192), image)
    np.testing.assert_array_equal(
        clevr_masks_files.shrink(image, 384)[[0, 0, -1, -1], [0, -1, 0, -1]],
        image[[0, 0, -1, -1], [0, -1, 0, -1]],
    )


def test_only_as_much_is_read_as_is_asked_for(whole, tmp_path, reads, monkeypatch):
    monkeypatch.setattr(clevr_masks_files, "cores", lambda: 1)
    first = clevr_masks_files.load(whole, "train", SIZE, tmp_path / "cache", 2)
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
    read = clevr_masks_files._read

    def killed(record, where, **given):
        if where.endswith(" 4"):
            raise KeyboardInterrupt
        return read(record, where, **given)

    monkeypatch.setattr(clevr_masks_files, "_read", killed)
    with pytest.raises(KeyboardInterrupt):
        load(whole, "train", tmp_path / "cache")
    monkeypatch.setattr(clevr_masks_files, "_read", read)
    (folder,) = (path for path in (tmp_path / "cache").iterdir() if path.is_dir())
    assert json.loads((folder / "state.json").read_text()) == {"records": 4, "rows": 4}
    np.load(folder / "images.npy", mmap_mode="r+")[0] = (
        77  # to see that finished rows are left alone
    )
    resumed = load(whole, "train", tmp_path / "cache")
    assert np.all(resumed["images"][0] == 77) and resumed["indices"].tolist() == list(range(6))
    shutil.copytree(folder, tmp_path / "moved")  # cached rows do not need the file's content
    assert (tmp_path / "moved/masks.npy").exists()


def test_limits_on_the_number_of_objects(whole, tmp_path):
    cache = tmp_path / "cache"
    for split, (start, stop) in SPLITS.items():
        everything = load(whole, split, cache)
        for limits in (
            {"max_objects": 6},
            {"min_objects": 7},
            {"min_objects": 3, "max_objects": 6},
        ):
            kept = [
                i
                for i in range(start, stop)
                if limits.get("min_objects", 0) <= COUNTS[i] <= limits.get("max_objects", 10)
            ]
            part = load(whole, split, cache, **limits)
            assert part["indices"].tolist() == kept and part["source"]["settings"] == {
                "size": SIZE,
                **limits,
            }
            np.testing.assert_array_equal(
                part["images"], everything["images"][np.array(kept) - start]
            )
            np.testing.assert_array_equal(
                part["masks"], everything["masks"][np.array(kept) - start]
            )
    assert len([path for path in cache.iterdir() if path.is_dir()]) == 4, (
        "each limits have a folder"
    )
    assert load(whole, "test", tmp_path / "other", max_items=1, max_objects=6)[
        "indices"
    ].tolist() == [9]
    with pytest.raises(
        files.TreeError, match="no scenes with 10 to any number of objects for a test split"
    ):
        load(whole, "test", cache, min_objects=10)
    with pytest.raises(ValueError, match="min_objects <= max_objects"):
        load(whole, "test", cache, min_objects=5, max_objects=4)


def test_a_healthy_file_has_no_faults(whole):
    assert clevr_masks_files.check(whole) == []


def refused(root, cache, *said):
    with pytest.raises(files.TreeError) as caught:
        load(root, "train", cache)
    for words in (*said, str(root), clevr_masks_files.FILE, "Expected of clevr_with_masks"):
        assert words in str(caught.value)


def test_faults_of_records_are_listed_in_one_go(records, tmp_path):
    broken = list(records)
    broken[1] = framed(
        example({name: feature for name, feature in features(1).items() if name != "mask"})
    )
    broken[3] = framed(example({**features(3), "image": strings(picture(3)[1:])}))
    broken[4] = framed(example({**features(4), "visibility": strings(np.ones(11, np.uint8))}))
    broken[5] = framed(b"\xff" * 1000)
    broken[7] = framed(
        example({**features(7), "image": message(1, message(1, picture(7).tobytes()))})
    )
    root = put(tmp_path / "tree", broken)
    faults = clevr_masks_files.check(root)
    name = clevr_masks_files.FILE
    assert [fault.split(": holds")[0].split(": is")[0] for fault in faults] == [
        f"{name}: record {i}" for i in (1, 3, 4, 5, 7)
    ]
    for fault, words in zip(
        faults,
        (
            "'mask' of 844,800 strings",
            "'image' of 230,400 strings",
            "'visibility' of 11 floats",
            "tf.train.Example",
            "'image'",
        ),
    ):
        assert words in fault
    refused(root, tmp_path / "cache", "record 1", "no feature 'mask'")
    assert load(root, "train", tmp_path / "cache", max_items=1)["indices"].tolist() == [0], (
        "what is before the fault can be had"
    )


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
def test_a_file_that_is_cut_off_or_another(records, tmp_path, change, words):
    root = tmp_path / "tree"
    if change == "cut":
        put(root, records, cut=-2_000)
    elif change == "not packed":
        put(root, [])
        (root / clevr_masks_files.FILE).write_bytes(records[0])
    else:
        changed = {
            "cut before it was packed": [*records[:-1], records[-1][:-100]],
            "cut in a head": [*records[:-1], records[-1][:7]],
            "too short": records[:-1],
            "too long": [*records, records[0]],
            "another": [b"some text that is no record at all"],
        }
        put(root, changed[change])
    faults = clevr_masks_files.check(root)
    assert (
        len(faults) == 1
        and words in faults[0]
        and faults[0].startswith(f"{clevr_masks_files.FILE}: record ")
    )
    refused(root, tmp_path / "cache", words)


def test_a_missing_file_is_an_error_with_the_layout(tmp_path):
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", tmp_path / "cache", "no such file")
    assert clevr_masks_files.check(tmp_path / "empty") == [
        f"{clevr_masks_files.FILE}: no such file"
    ]
    assert "no such folder" in clevr_masks_files.check(tmp_path / "nothing")[0]
    assert not (tmp_path / "cache").exists()


# Through the door


def test_the_data_set_behind_the_door(whole, tmp_path, monkeypatch):
    monkeypatch.setenv("PAPER_DATA", str(tmp_path / "root"))
    monkeypatch.setenv("PAPER_FILES", str(whole.parent))
    found = data.load("clevr_with_masks", "test", SIZE, max_objects=6, workers=1)
    assert (
        found.indices.tolist() == [9, 11]
        and set(found[0]) == {"image", "mask"}
        and found[0]["mask"].shape == (SIZE, SIZE)
    )
    assert data.settings("clevr_with_masks") == set() and data.settings(
        "clevr_with_masks", "files"
    ) == {"min_objects", "max_objects"}
    assert data.settings("coco", "files") == data.settings("photos", "files") == set()
    config = DataConfig("clevr_with_masks", size=SIZE, max_objects=6, door="files")
    assert config.load("validation").indices.tolist() == [6, 7]
    assert config.load("validation").source["settings"] == {
        "size": SIZE,
        "min_objects": 3,
        "max_objects": 6,
    }
    with pytest.raises(ValueError, match="has no generator"):
        DataConfig("clevr_with_masks", size=SIZE).load("test")


def test_limits_on_clevr(tmp_path, monkeypatch):
    monkeypatch.setenv("PAPER_DATA", str(tmp_path / "cache"))
    monkeypatch.setenv("PAPER_FILES", str(tmp_path / "given"))
    tree, counts = clevr_tree(tmp_path / "given" / "clevr"), [3, 7, 6, 10, 4, 8, 5, 6, 9, 3]
    names = [f"CLEVR_train_{i:06}.png" for i in range(10)]
    write(
        tree / "scenes/CLEVR_train_scenes.json",
        {
            "scenes": [
                {"image_filename": name, **scene(i, counts[i])} for i, name in enumerate(names)
            ]
        },
    )
    everything = clevr_files.load_clevr(tree, "train", SIZE, tmp_path / "cache")
    kept = [i for i in everything["indices"] if counts[i] <= 6]
    config = DataConfig("clevr", size=SIZE, max_objects=6, door="files")
    part = config.load("train")
    assert (
        part.indices.tolist() == kept
        and 0 < len(kept) < 8
        and (part.properties[..., -1].sum(1) <= 6).all()
    )
    np.testing.assert_array_equal(
        part.images, everything["images"][[counts[i] <= 6 for i in everything["indices"]]]
    )
    assert (
        part.source["settings"] == {"size": SIZE, "min_objects": 3, "max_objects": 6}
        and config.version == "files"
    )
    monkeypatch.setattr(files.Tree, "json", None)  # the scenes are counted once
    assert config.load("train").indices.tolist() == kept
    all_of_them = DataConfig("clevr", size=SIZE, door="files").load("train")
    assert all_of_them.source == everything["source"], (
        "limits that leave nothing out share the cache"
    )
    with pytest.raises(
        files.TreeError, match="too few pictures with 11 to any number of objects for a train split"
    ):
        clevr_files.load_clevr(tree, "train", SIZE, tmp_path / "cache", min_objects=11)
