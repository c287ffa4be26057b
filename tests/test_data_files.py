"""The authors' files: small trees in every layout, made here, and what is read from them."""

import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle

from paper_lib.data import splits
from paper_lib.data.cache import Cache, write_row
from paper_lib.data.clevr_format import COLOURS
from paper_lib.data.readers import clevr, coco, listing, location, shapestacks
from paper_lib.data.readers.pictures import read_picture, shrink, shrink_mask
from paper_lib.data.readers.tree import Fault, Tree, TreeError
from paper_lib.data.splits import SPLITS

# pycocotools' own
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
SIZE = 16


def pixels(seed, height=32, width=48):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def picture(path, content=0, **options):
    """Write an image, an array, or random pixels of a seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = pixels(content) if isinstance(content, int) else content
    content = content if isinstance(content, Image.Image) else Image.fromarray(content)
    content.save(path, **options)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def scene(seed, count=4):
    rng = np.random.default_rng(seed)
    return {
        "objects": [
            {
                "shape": str(rng.choice(["cube", "sphere", "cylinder"])),
                "size": str(rng.choice(["large", "small"])),
                "material": str(rng.choice(["rubber", "metal"])),
                "color": str(rng.choice(list(COLOURS))),
                "3d_coords": rng.uniform(-3, 3, 3).tolist(),
                "rotation": 12.5,
                "pixel_coords": [1, 2, 3],
            }
            for _ in range(count)
        ]
    }


def mirror_tree(root, count=20, described="each"):
    for i in range(count):
        picture(root / f"images/CLEVR_new_{i}.png", i)
    if described == "each":
        for i in range(count):
            write(root / f"scenes/CLEVR_new_{i}.json", scene(i))
    if described == "list":
        listed = [{"image_filename": f"CLEVR_new_{i}.png", **scene(i)} for i in range(count)]
        write(root / "scenes/CLEVR_new_scenes.json", {"info": {}, "scenes": listed})
    return root


def clevr_tree(root, train=10, val=4):
    for part, count in (("train", train), ("val", val)):
        names = [f"CLEVR_{part}_{i:06}.png" for i in range(count)]
        for i, name in enumerate(names):
            picture(root / "images" / part / name, 100 * val + i if part == "val" else i)
        scenes = [{"image_filename": name, **scene(i)} for i, name in enumerate(names)]
        write(root / f"scenes/CLEVR_{part}_scenes.json", {"scenes": scenes})
    picture(root / "images/test/CLEVR_test_000000.png")
    return root


def gray_map(path, numbers):
    """As the authors' code writes a .map: an RGBA PNG of 32 gray levels a number."""
    gray = np.uint8(32 * numbers)
    picture(path, np.dstack([gray, gray, gray, np.full_like(gray, 255)]), format="PNG")


def numbers(seed, side=32):
    coarse = np.random.default_rng(seed).integers(0, 7, (side // 8, side // 8))
    return coarse.repeat(8, 0).repeat(8, 1)


def shapestacks_tree(root, pooled=("default",), place="recordings", cameras=(1, 2, 16)):
    seed = 0
    for name in pooled:
        for split, count in (("train", 3), ("eval", 2), ("test", 1)):
            variant = f"env_{name[:3]}-easy-h="
            scenarios = [f"{variant}{2 + i}-vcom=0-vpsf=0-v={split}" for i in range(count)]
            listed = "".join(f"{scenario}\n" for scenario in scenarios)
            write(root / f"splits/{name}/{split}.txt", listed)
            for scenario in scenarios:
                folder = root / "recordings" / scenario
                for camera in cameras:
                    seed += 1
                    end = f"cam_{camera}-mono-0"
                    rgb = folder / f"rgb-w=5-f=2-l=1-c=unique-{end}.png"
                    picture(rgb, pixels(seed, 32, 32))
                    picture(folder / f"vseg-w=0-f=0-l=0-c=original-{end}.png", 1)
                    if place:
                        iseg = f"iseg-w=0-f=0-l=0-c=original-{end}.map"
                        gray_map(root / place / scenario / iseg, numbers(seed))
    return root


def box(x, y, width, height):
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


def lengths(mask):
    """Uncompressed run lengths, as COCO writes crowds."""
    flat = np.concatenate([[0], mask.flatten(order="F")])
    ends = np.flatnonzero(np.diff(np.append(flat, 2)))
    return {"counts": np.diff(np.concatenate([[0], ends])).tolist(), "size": list(mask.shape)}


def coco_labels(names, first):
    """A small square over a large one, given in this order, and a crowd, in each 48x32 picture."""
    crowd = np.zeros((32, 48), np.uint8)
    crowd[:8] = 1
    images = [
        {"id": first + i, "file_name": name, "width": 48, "height": 32}
        for i, name in enumerate(names)
    ]
    shapes = [(box(20, 12, 4, 4), 0), (box(16, 8, 16, 16), 0), (lengths(crowd), 1)]
    annotations = []
    for image in images[:-1]:  # the last picture shows nothing of interest
        for k, (shape, iscrowd) in enumerate(shapes):
            annotation = {"id": 10 * image["id"] + k, "image_id": image["id"], "category_id": 1}
            annotations.append({**annotation, "iscrowd": iscrowd, "segmentation": shape})
    categories = [{"id": 1, "name": "person"}]
    return {"images": images, "annotations": annotations, "categories": categories}


COCO_PATHS = {  # layout -> part -> folder of pictures, annotations
    "zips": {
        "train": ("train2017", "annotations/instances_train2017.json"),
        "val": ("val2017", "annotations/instances_val2017.json"),
    },
    "fiftyone": {
        "train": ("train/data", "train/labels.json"),
        "val": ("validation/data", "validation/labels.json"),
    },
}


def coco_tree(root, layout="zips", train=10, val=4):
    for part, count, first in (("train", train, 0), ("val", val, 1000)):
        place, labels = COCO_PATHS[layout][part]
        names = [f"{first + 7 * i:012}.jpg" for i in range(count)]
        for i, name in enumerate(names):
            picture(root / place / name, 50 * (part == "val") + i, quality=95)
        write(root / labels, coco_labels(names, first))
    return root


TREES = {
    "clevr_mirror": (mirror_tree, clevr.load_mirror, clevr.check_mirror),
    "clevr": (clevr_tree, clevr.load_clevr, clevr.check_clevr),
    "shapestacks": (shapestacks_tree, shapestacks.load, shapestacks.check),
    "coco": (coco_tree, coco.load, coco.check),
}
ALL = pytest.mark.parametrize("name", TREES)


def spoil(folder, row, **values):
    """Write other values into a row of a cache, as if they had been read."""
    arrays = Cache(folder, {}).open_arrays()
    others = set(arrays) - {"done", "checks"}
    write_row(arrays, row, {name: np.array(arrays[name][row]) for name in others} | values)


@pytest.fixture
def reads(monkeypatch):
    """Paths of the pictures that were read."""
    found = []

    def noted(tree, path):
        found.append(path)
        return read_picture(tree, path)

    monkeypatch.setattr(listing, "read_picture", noted)
    return found


def refused(load, root, cache, *said, split="train"):
    """The error that `load` raises; it says all of `said`, and the expected layout."""
    with pytest.raises(TreeError) as caught:
        load(root, split, SIZE, cache)
    message = str(caught.value)
    for words in (*said, str(root), "Expected of "):
        assert words in message
    return message


# What every layout has in common


@ALL
def test_a_split_is_read_lazily_and_only_once(name, tmp_path, reads, monkeypatch):
    make, load, check = TREES[name]
    root, cache = make(tmp_path / "tree"), tmp_path / "cache"
    first = load(root, "train", SIZE, cache, max_items=2)
    assert len(reads) == 2 and first["images"].shape == (2, SIZE, SIZE, 3)
    everything = load(root, "train", SIZE, cache)
    n = len(everything["images"])
    assert n > 2 and len(reads) == n == len(set(reads))
    np.testing.assert_array_equal(everything["images"][:2], first["images"])
    np.testing.assert_array_equal(everything["indices"][:2], first["indices"])
    monkeypatch.setattr(Tree, "json", None)
    again = load(root, "train", SIZE, cache)  # nothing is opened: neither pictures nor annotations
    assert len(reads) == n
    for array in (again["images"], again["masks"], again["properties"]):
        if array is not None:
            assert isinstance(array, np.memmap) and len(array) == n and not array.flags.writeable
    (folder,) = (path.name for path in cache.iterdir() if path.is_dir())
    assert folder == f"{name}-files-{SIZE}px-train-{again['source']['version']}"


@ALL
def test_what_is_returned_says_where_it_comes_from(name, tmp_path):
    make, load, check = TREES[name]
    here, there = make(tmp_path / "here"), make(tmp_path / "there")
    source, other = (
        load(root, "test", SIZE, tmp_path / "cache", workers=1)["source"] for root in (here, there)
    )
    # The same files in another place are the same data.
    assert source == {**other, "root": str(here)}
    assert source["name"] == name and source["door"] == "files" and source["split"] == "test"
    assert source["settings"] == {"size": SIZE} and source["licence"] and source["splits"]
    assert json.dumps(source)


@ALL
def test_splits_are_disjoint_and_the_same_every_time(name, tmp_path, reads):
    make, load, check = TREES[name]
    root = make(tmp_path / "tree")
    rows = {}
    for split in SPLITS:
        reads.clear()
        load(root, split, SIZE, tmp_path / "cache", workers=1)
        rows[split] = list(reads)
    together = sum(rows.values(), [])
    assert len(set(together)) == len(together)
    reads.clear()
    load(root, "train", SIZE, tmp_path / "another cache", workers=1)
    assert reads == rows["train"] != sorted(rows["train"])


@ALL
def test_cached_rows_do_not_need_their_files(name, tmp_path, reads):
    make, load, check = TREES[name]
    root = make(tmp_path / "tree")
    before = load(root, "train", SIZE, tmp_path / "cache")
    for path in reads:
        size = (root / path).stat().st_size
        (root / path).write_bytes(b"\0" * size)  # as large, so that the tree's listing is the same
    after = load(root, "train", SIZE, tmp_path / "cache")
    np.testing.assert_array_equal(after["images"], before["images"])
    shutil.rmtree(root)
    assert np.array(before["images"]).any()


@ALL
def test_a_changed_tree_and_another_size_get_another_cache(name, tmp_path, reads):
    make, load, check = TREES[name]
    root, cache = make(tmp_path / "tree"), tmp_path / "cache"
    old = load(root, "train", SIZE, cache)
    path = root / reads[0]
    if name == "shapestacks":  # its masks have the pictures' size
        picture(path, pixels(1, 32, 32) // 64)
    else:
        Image.open(path).resize((60, 60)).save(path)
    version = load(root, "validation", SIZE, cache)["source"]["version"]
    reads.clear()
    if name == "coco":  # its annotation gives the picture's size
        refused(load, root, cache, "is 60x60, but its mask is 48x32")
    else:
        new = load(root, "train", SIZE, cache)
        assert new["source"]["version"] not in (old["source"]["version"], version)
        assert len(reads) == len(new["images"])
    other = load(root, "validation", SIZE + 8, cache)
    assert other["images"].shape[1:] == (SIZE + 8, SIZE + 8, 3)
    assert other["source"]["version"] == version


@ALL
def test_a_killed_reading_goes_on_where_it_was(name, tmp_path, reads, monkeypatch):
    make, load, check = TREES[name]
    root, cache = make(tmp_path / "tree"), tmp_path / "cache"
    whole, read = load(root, "train", SIZE, tmp_path / "whole"), listing._read
    reads.clear()

    def killed(part, reader, row, size):
        if row == 3:
            raise KeyboardInterrupt
        return read(part, reader, row, size)

    monkeypatch.setattr(listing, "_read", killed)
    with pytest.raises(KeyboardInterrupt):
        load(root, "train", SIZE, cache, workers=1)
    (folder,) = (path for path in cache.iterdir() if path.is_dir())
    done = np.load(folder / "done.npy")
    assert done[:3].all() and not done[3]
    # Spoilt here, to see that finished rows are left alone.
    spoil(folder, 0, images=77)
    monkeypatch.setattr(listing, "_read", read)
    before = len(reads)
    resumed = load(root, "train", SIZE, cache)
    assert len(reads) - before == len(whole["images"]) - done.sum()
    assert np.all(resumed["images"][0] == 77)
    np.testing.assert_array_equal(resumed["images"][1:], whole["images"][1:])


def test_a_folder_that_was_not_finished_is_made_again(tmp_path, monkeypatch):
    root, cache = mirror_tree(tmp_path / "tree"), tmp_path / "cache"
    rename = Path.rename
    monkeypatch.setattr(Path, "rename", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        clevr.load_mirror(root, "test", SIZE, cache)
    monkeypatch.setattr(Path, "rename", rename)
    assert len(clevr.load_mirror(root, "test", SIZE, cache)["images"]) == 3
    assert not list(cache.glob("*.unfinished"))


def test_two_that_want_the_same_read_it_once(tmp_path, reads, monkeypatch):
    root, cache, read = mirror_tree(tmp_path / "tree"), tmp_path / "cache", listing._read
    monkeypatch.setattr(listing, "_read", lambda *arguments: time.sleep(0.02) or read(*arguments))
    with ThreadPoolExecutor(3) as pool:
        parts = list(pool.map(lambda _: clevr.load_mirror(root, "train", SIZE, cache), range(3)))
    assert len(reads) == len(set(reads)) == 14
    for part in parts:
        np.testing.assert_array_equal(part["images"], parts[0]["images"])


@pytest.mark.parametrize(
    "name, path",
    [
        ("clevr_mirror", "scenes/CLEVR_new_*.json"),
        ("clevr", "scenes/CLEVR_train_scenes.json"),
        ("shapestacks", "recordings/*=train/*.map"),
        ("coco", "annotations/instances_train2017.json"),
    ],
)
def test_changed_annotations_get_another_cache(name, path, tmp_path):
    make, load, check = TREES[name]
    root = make(tmp_path / "tree")
    old = load(root, "train", SIZE, tmp_path / "cache")["source"]["version"]
    for file in root.glob(path):
        file.write_bytes(file.read_bytes() + b"\n")
    assert load(root, "train", SIZE, tmp_path / "cache")["source"]["version"] != old


@ALL
def test_a_healthy_tree_has_no_faults(name, tmp_path):
    make, load, check = TREES[name]
    assert check(make(tmp_path / "tree")) == []


@ALL
def test_a_missing_folder_is_an_error_with_the_layout(name, tmp_path):
    make, load, check = TREES[name]
    refused(load, tmp_path / "nothing", tmp_path / "cache", "no such folder")
    assert str(tmp_path / "nothing") in check(tmp_path / "nothing")[0]
    assert not (tmp_path / "cache").exists()


@ALL
def test_a_truncated_picture_is_an_error_that_names_it(name, tmp_path, reads):
    make, load, check = TREES[name]
    root, cache = make(tmp_path / "tree"), tmp_path / "cache"
    load(root, "train", SIZE, tmp_path / "whole")
    broken = reads[0]
    truncate(root / broken)
    message = refused(load, root, cache, f"{broken}: cannot be read as a picture")
    assert location.LAYOUTS[name] in message
    assert [fault.split(":")[0] for fault in check(root)] == [broken]


@ALL
def test_unknown_splits_are_refused(name, tmp_path):
    make, load, check = TREES[name]
    with pytest.raises(ValueError, match="'val'.*train, validation, test"):
        load(tmp_path, "val", SIZE, tmp_path)


# Pictures


def shown(tmp_path, content, name="a.png", size=SIZE, **options):
    picture(tmp_path / name, content, **options)
    return shrink(read_picture(Tree(tmp_path), name), size)


@pytest.mark.parametrize("shape", [(20, 40), (40, 20), (37, 53), (16, 16), (10, 300), (15, 9)])
def test_the_centre_square_is_what_is_kept(tmp_path, shape):
    height, width = shape
    side = min(shape)
    content = np.zeros((height, width, 3), np.uint8)
    content[..., 2] = 255
    top, left = (height - side) // 2, (width - side) // 2
    content[top : top + side, left : left + side] = 200, 30, 10
    small = shown(tmp_path, content)
    assert small.shape == (SIZE, SIZE, 3) and small.dtype == np.uint8
    # The filter reaches beyond the square, as where all is resized before the crop.
    reach = int(max(3, 3.5 * SIZE / side))
    inner = small[reach:-reach, reach:-reach].astype(int)
    assert np.abs(inner - [200, 30, 10]).max() <= 3


def test_cropping_first_is_the_same_as_resizing_first(tmp_path):
    content = pixels(0, 64, 96)
    whole = np.asarray(Image.fromarray(content).resize((24, 16), Image.Resampling.LANCZOS))
    np.testing.assert_array_equal(shown(tmp_path, content), whole[:, 4:20])


def test_resizing_is_antialiased(tmp_path):
    fine = np.indices((128, 128)).sum(0) % 2 * 255
    small = shown(tmp_path, np.uint8(fine)[..., None].repeat(3, 2))
    # Every second pixel would be all black or all white.
    assert np.abs(small[1:-1, 1:-1].astype(int) - 127).max() <= 2


def test_masks_lie_exactly_over_the_pictures(tmp_path):
    mask = np.zeros((60, 96), np.uint8)
    mask[12:36, 30:54] = 1
    mask[40:56, 0:40] = 2
    small = shrink_mask(mask, 15)  # 4 pixels a side become one; 18 are cut off left and right
    expected = np.zeros((15, 15), np.uint8)
    expected[3:9, 3:9] = 1
    expected[10:14, 0:5] = 2
    clear = np.arange(15) != 5  # column 5 is half object 2
    np.testing.assert_array_equal(small[:, clear], expected[:, clear])
    light = shown(tmp_path, np.uint8(255 * (mask > 0))[..., None].repeat(3, 2), size=15)[..., 0]
    np.testing.assert_array_equal(light[:, clear] > 127, small[:, clear] > 0)
    odd = np.random.default_rng(0).integers(0, 300, (37, 53)).astype(np.uint16)
    wide = Image.fromarray(odd.astype(np.int32))
    nearest = wide.resize((SIZE, SIZE), Image.Resampling.NEAREST, box=(8, 0, 45, 37))
    np.testing.assert_array_equal(shrink_mask(odd, SIZE), np.asarray(nearest))
    assert shrink_mask(odd, SIZE).dtype == np.uint16


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "I;16", "CMYK"])
def test_other_modes_become_rgb(tmp_path, mode):
    colour = np.full((20, 30, 3), (255, 255, 255) if mode == "1" else (180, 180, 180), np.uint8)
    image = Image.fromarray(colour)
    if mode == "I;16":
        image = Image.fromarray(np.full((20, 30), 180 * 256, np.uint16))
    else:
        image = image.quantize() if mode == "P" else image.convert(mode)
    assert image.mode == mode
    small = shown(tmp_path, image, name="a.jpg" if mode == "CMYK" else "a.png")
    assert small.shape == (SIZE, SIZE, 3)
    assert np.abs(small.astype(int) - colour[0, 0]).max() <= 3


def test_exif_orientation_is_applied(tmp_path):
    content = np.zeros((32, 64, 3), np.uint8)
    content[:, :32] = 255  # light on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise: light at the top
    small = shown(tmp_path, content, "a.jpg", exif=exif, quality=95)
    assert small[:6].min() > 200 and small[-6:].max() < 50
    small = shown(tmp_path, content, "b.jpg", exif=b"Exif\0\0broken", quality=95)  # says nothing
    assert small[:, :6].min() > 200 and small[:, -6:].max() < 50


# CLEVR-Mirror


def test_mirror_is_split_70_15_15(tmp_path):
    root = mirror_tree(tmp_path / "tree", 20, described=None)
    parts = {split: clevr.load_mirror(root, split, SIZE, tmp_path / "cache") for split in SPLITS}
    assert [len(parts[split]["images"]) for split in SPLITS] == [14, 3, 3]
    assert sorted(np.concatenate([part["indices"] for part in parts.values()])) == list(range(20))
    for part in parts.values():
        assert part["masks"] is None and part["properties"] is None
        for image, index in zip(part["images"], part["indices"]):  # natural order: 2 is before 10
            expected = shrink(Image.fromarray(pixels(int(index))), SIZE)
            np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize("described", ["each", "list"])
def test_properties_come_from_the_scenes(tmp_path, described):
    part = clevr.load_mirror(
        mirror_tree(tmp_path / "tree", 20, described), "train", SIZE, tmp_path / "cache"
    )
    assert part["properties"].shape == (14, 10, 19) and part["properties"].dtype == np.float32
    for rows, index in zip(part["properties"], part["indices"]):
        objects = scene(int(index))["objects"]
        assert rows[:, 18].tolist() == [1] * len(objects) + [0] * (10 - len(objects))
        assert not rows[len(objects) :].any()
        for row, item in zip(rows, objects):
            np.testing.assert_allclose(6 * row[:3] - 3, item["3d_coords"], atol=1e-5)
            names = ["large", "small", "rubber", "metal", "cube", "sphere", "cylinder", *COLOURS]
            said = {name for name, on in zip(names, row[3:18], strict=True) if on}
            assert said == {item["size"], item["material"], item["shape"], item["color"]}


def test_mirror_faults_are_listed_in_one_go(tmp_path):
    root = mirror_tree(tmp_path / "tree")
    truncate(root / "images/CLEVR_new_3.png")
    (root / "images/CLEVR_new_4.png").write_bytes(b"")
    (root / "images/CLEVR_new_5.png").unlink()
    (root / "scenes/CLEVR_new_6.json").unlink()
    truncate(root / "scenes/CLEVR_new_7.json")
    mauve = {**scene(0)["objects"][0], "color": "mauve"}
    write(root / "scenes/CLEVR_new_8.json", {"objects": [mauve]})
    write(root / "scenes/CLEVR_new_9.json", scene(9, count=11))
    faults = clevr.check_mirror(root)
    expected = {
        "images/CLEVR_new_3.png": "cannot be read as a picture",
        "images/CLEVR_new_4.png": "cannot be read as a picture",
        "scenes/CLEVR_new_5.json": "describes a picture that images/ lacks",
        "images/CLEVR_new_6.png": "has no scene",
        "scenes/CLEVR_new_7.json": "cannot be read as JSON",
        "scenes/CLEVR_new_8.json": "is not a CLEVR scene",
        "scenes/CLEVR_new_9.json": "has 11 objects",
    }
    assert sorted(fault.split(":")[0] for fault in faults) == sorted(expected)
    for fault in faults:
        assert expected[fault.split(":")[0]] in fault
    said = "scenes/CLEVR_new_5.json", "images/CLEVR_new_6.png"
    refused(clevr.load_mirror, root, tmp_path / "cache", *said)


@pytest.mark.parametrize("count, split", [(0, "train"), (1, "validation"), (2, "test")])
def test_an_empty_split_is_an_error(tmp_path, count, split):
    root = mirror_tree(tmp_path / "tree", count, described=None)
    (root / "images").mkdir(exist_ok=True, parents=True)
    said = "images/: holds no pictures" if count == 0 else f"too few pictures for a {split} split"
    refused(clevr.load_mirror, root, tmp_path / "cache", said, split=split)
    assert any(said in fault for fault in clevr.check_mirror(root))


def test_hidden_files_are_no_pictures(tmp_path):
    root = mirror_tree(tmp_path / "tree", described=None)
    (root / "images/._CLEVR_new_0.png").write_bytes(b"resource fork")
    (root / "images/notes.txt").write_text("notes")
    assert clevr.check_mirror(root) == []


# CLEVR


def test_clevr_val_serves_as_test_and_part_of_train_as_validation(tmp_path, monkeypatch):
    root = clevr_tree(tmp_path / "tree")
    parts = {split: clevr.load_clevr(root, split, SIZE, tmp_path / "cache") for split in SPLITS}
    assert [len(parts[split]["images"]) for split in SPLITS] == [8, 2, 4]
    assert sorted([*parts["train"]["indices"], *parts["validation"]["indices"]]) == list(range(10))
    assert sorted(parts["test"]["indices"]) == list(range(4))
    for part in parts.values():
        for rows, index in zip(part["properties"], part["indices"]):
            position = scene(int(index))["objects"][0]["3d_coords"]
            np.testing.assert_allclose(6 * rows[0, :3] - 3, position, atol=1e-5)
        assert "val serves as test" in part["source"]["splits"]
    monkeypatch.setattr(splits, "HELD_OUT", 1)
    assert len(clevr.load_clevr(root, "validation", SIZE, tmp_path / "cache")["images"]) == 1


def test_clevr_is_cropped_as_for_object_discovery(tmp_path):
    """Rows 29 to 221 and columns 64 to 256 of 240x320."""
    root, content = clevr_tree(tmp_path / "tree"), np.zeros((240, 320, 3), np.uint8)
    with pytest.raises(TreeError, match="48x32.*known for 320x240 only"):
        clevr.load_clevr(root, "test", SIZE, tmp_path / "cache", crop=True)
    content[29:221, 64:256] = 200, 30, 10
    for path in (root / "images/val").iterdir():
        picture(path, content)
    whole, part = (
        clevr.load_clevr(root, "test", SIZE, tmp_path / "cache", crop=crop)
        for crop in (False, True)
    )
    # At the border the filter reaches beyond the square.
    assert np.abs(part["images"][:, 3:-3, 3:-3].astype(int) - [200, 30, 10]).max() <= 3
    assert (whole["images"][:, 0] < 20).all() and (part["images"][:, 0, :, 0] > 150).all()
    assert part["source"]["settings"] == {"size": SIZE, "crop": True}
    assert "crop" not in whole["source"]["settings"]
    np.testing.assert_array_equal(part["indices"], whole["indices"])


def test_at_full_size_5000_are_held_out():
    train, validation = (splits.hold_out(118_287, split) for split in ("train", "validation"))
    assert len(validation) == 5_000 and len(np.union1d(train, validation)) == 118_287


def test_clevr_faults_are_listed_in_one_go(tmp_path):
    root = clevr_tree(tmp_path / "tree")
    content = json.loads((root / "scenes/CLEVR_train_scenes.json").read_text())
    content["scenes"][0]["image_filename"] = "CLEVR_train_000099.png"
    write(root / "scenes/CLEVR_train_scenes.json", content)
    truncate(root / "images/train/CLEVR_train_000001.png")
    (root / "scenes/CLEVR_val_scenes.json").unlink()
    truncate(root / "images/val/CLEVR_val_000002.png")
    faults = clevr.check_clevr(root)
    assert len(faults) == 5
    lacking = "images/train/CLEVR_train_000099.png, which is missing"
    for words in (
        f"scenes/CLEVR_train_scenes.json: names {lacking}",
        "images/train/CLEVR_train_000000.png: has no scene",
        "images/train/CLEVR_train_000001.png: cannot be read",
        "scenes/CLEVR_val_scenes.json: no such file",
        "images/val/CLEVR_val_000002.png: cannot be read",
    ):
        assert sum(words in fault for fault in faults) == 1
    cache, missing = tmp_path / "cache", "CLEVR_val_scenes.json: no such file"
    refused(clevr.load_clevr, root, cache, "CLEVR_train_000099.png")
    refused(clevr.load_clevr, root, cache, missing, split="test")
    write(root / "scenes/CLEVR_val_scenes.json", {"questions": []})
    no_list = 'CLEVR_val_scenes.json: holds no list "scenes"'
    refused(clevr.load_clevr, root, cache, no_list, split="test")


# ShapeStacks


@pytest.mark.parametrize("pooled", [("default",), ("ccs_all", "blocks_all")])
def test_all_variants_and_cameras_are_pooled_in_the_authors_splits(tmp_path, pooled, reads):
    root = shapestacks_tree(tmp_path / "tree", pooled)
    for split, file, scenarios in zip(SPLITS, ("train", "eval", "test"), (3, 2, 1)):
        reads.clear()
        part = shapestacks.load(root, split, SIZE, tmp_path / "cache")
        assert len(part["images"]) == 3 * scenarios * len(pooled)
        lists = [(root / f"splits/{name}/{file}.txt").read_text() for name in pooled]
        assert {path.split("/")[1] for path in reads} == set("".join(lists).split())
        assert " and ".join(pooled) in part["source"]["splits"]


def test_default_is_preferred(tmp_path):
    root = shapestacks_tree(shapestacks_tree(tmp_path / "tree"), ("ccs_all", "blocks_all"))
    assert len(shapestacks.load(root, "test", SIZE, tmp_path / "cache")["images"]) == 3


@pytest.mark.parametrize("place", ["recordings", "iseg"])
def test_a_map_belongs_to_the_camera_and_not_to_the_textures(tmp_path, place):
    root = shapestacks_tree(tmp_path / "tree", place=place)
    part = shapestacks.load(root, "train", SIZE, tmp_path / "cache")
    assert part["masks"].dtype == np.uint8 and part["properties"] is None
    for image, mask, index in zip(part["images"], part["masks"], part["indices"]):
        seed = int(index) + 1  # pictures were made in their natural order
        expected = shrink(Image.fromarray(pixels(seed, 32, 32)), SIZE)
        np.testing.assert_array_equal(image, expected)
        np.testing.assert_array_equal(mask, numbers(seed)[1::2, 1::2])


def test_maps_hold_32_levels_a_shape_and_7_is_background(tmp_path):
    gray = np.uint8([[0, 32, 64, 96], [128, 160, 192, 224], [31, 63, 95, 191], [0, 0, 0, 255]])
    picture(tmp_path / "a.map", gray, format="PNG")
    mask = shapestacks._read_mask(Tree(tmp_path), "a.png", "a.map")
    np.testing.assert_array_equal(mask, [[0, 1, 2, 3], [4, 5, 6, 0], [1, 2, 3, 6], [0, 0, 0, 0]])


def test_without_maps_there_are_no_masks(tmp_path):
    root = shapestacks_tree(tmp_path / "tree", place=None)
    part = shapestacks.load(root, "train", SIZE, tmp_path / "cache")
    assert part["masks"] is None  # vseg is no instance mask
    assert shapestacks.check(root) == []


def test_shapestacks_faults_are_listed_in_one_go(tmp_path):
    root = shapestacks_tree(tmp_path / "tree")
    by_split = {split: sorted(root.glob(f"recordings/*={split}")) for split in ("train", "eval")}
    gone, empty, faulty = by_split["train"]
    shutil.rmtree(gone)
    for path in empty.glob("rgb-*"):
        path.unlink()
    lone, broken = sorted(faulty.glob("iseg-*"))[:2]
    lone.unlink()
    truncate(broken)
    truncate(next(by_split["eval"][0].glob("rgb-*")))
    (root / "splits/default/test.txt").write_text("\n")
    faults = shapestacks.check(root)
    assert len(faults) == 6
    for words in (
        f"recordings/{gone.name}/: no such folder",
        f"recordings/{empty.name}/: holds no recordings",
        "cam_1-mono-0.png: has no iseg-*.map",
        f"recordings/{faulty.name}/{broken.name}: cannot be read as a .map",
        f"recordings/{by_split['eval'][0].name}/rgb",
        "splits/default/test.txt: is empty",
    ):
        assert sum(words in fault for fault in faults) == 1, words
    load, cache = shapestacks.load, tmp_path / "cache"
    refused(load, root, cache, f"recordings/{gone.name}/: no such folder", "no recordings")
    refused(load, root, cache, "splits/default/test.txt: is empty", split="test")
    shutil.rmtree(root / "splits")
    refused(load, root, cache, "splits/default/train.txt: no such file")


# COCO


@pytest.mark.parametrize("layout", ["zips", "fiftyone"])
def test_coco_val_serves_as_test_and_part_of_train_as_validation(tmp_path, layout, reads):
    root = coco_tree(tmp_path / "tree", layout)
    counts, indices = [], {}
    for split in SPLITS:
        reads.clear()
        part = coco.load(root, split, SIZE, tmp_path / "cache")
        counts.append(len(part["images"]))
        indices[split] = part["indices"]
        assert all(("val" in path.split("/")[0]) == (split == "test") for path in reads)
        assert "val2017 serves as test" in part["source"]["splits"]
        assert part["properties"] is None
        assert part["masks"].any() and part["masks"].dtype == np.uint8
    assert counts == [8, 2, 4]
    assert sorted([*indices["train"], *indices["validation"]]) == list(range(10))


def test_both_coco_layouts_give_the_same(tmp_path):
    one, two = (
        coco.load(coco_tree(tmp_path / layout, layout), "train", SIZE, tmp_path / "cache")
        for layout in ("zips", "fiftyone")
    )
    for name in ("images", "masks", "indices"):
        np.testing.assert_array_equal(one[name], two[name])


def test_coco_masks_paint_small_instances_last_and_leave_crowds_out(tmp_path):
    part = coco.load(coco_tree(tmp_path / "tree"), "train", SIZE, tmp_path / "cache")
    expected = np.zeros((SIZE, SIZE), np.uint8)  # half the size, and 8 pixels cut off at the left
    expected[4:12, 4:12] = 1
    expected[6:8, 6:8] = 2
    for mask, index in zip(part["masks"], part["indices"]):
        np.testing.assert_array_equal(mask, expected if index < 9 else 0 * expected)


def test_coco_segmentations_of_every_kind(tmp_path):
    ellipse = np.uint8(np.hypot(*(np.indices((32, 48)).T - [16, 20]).T) < 7)
    packed = rle.encode(np.asfortranarray(ellipse))
    image = {"height": 32, "width": 48}
    for segmentation in (lengths(ellipse), packed, {**packed, "counts": packed["counts"].decode()}):
        mask = coco._mask(image, [{"segmentation": segmentation}], np.uint8, "here")
        np.testing.assert_array_equal(mask, ellipse)
    two_pieces = {"segmentation": box(0, 0, 4, 4) + box(10, 10, 6, 6)}
    assert coco._mask(image, [two_pieces], np.uint8, "here").sum() == 16 + 36
    with pytest.raises(Fault, match="here: has a segmentation that cannot be drawn"):
        coco._mask(image, [{"segmentation": []}], np.uint8, "here")


def test_more_than_255_instances_need_16_bits(tmp_path):
    root = coco_tree(tmp_path / "tree", train=5, val=1)
    content = json.loads((root / "annotations/instances_train2017.json").read_text())
    places = [(x, y) for x in range(8, 40) for y in range(10)][:300]
    content["annotations"] = [
        {
            "id": 1000 * image["id"] + k,
            "image_id": image["id"],
            "iscrowd": 0,
            "segmentation": box(x, y, 1, 1),
        }
        for image in content["images"]
        for k, (x, y) in enumerate(places)
    ]
    write(root / "annotations/instances_train2017.json", content)
    masks = coco.load(root, "validation", 32, tmp_path / "cache")["masks"]
    assert masks.dtype == np.uint16 and len(np.unique(masks)) == 301


@pytest.mark.parametrize("layout", ["zips", "fiftyone"])
def test_coco_faults_are_listed_in_one_go(tmp_path, layout):
    root = coco_tree(tmp_path / "tree", layout)
    (train, labels), (val, others) = COCO_PATHS[layout]["train"], COCO_PATHS[layout]["val"]
    missing, broken = sorted((root / train).iterdir())[:2]
    missing.unlink()
    truncate(broken)
    picture(root / train / "stray.jpg")
    content = json.loads((root / labels).read_text())
    content["annotations"].append({"id": 5, "image_id": 31337, "segmentation": box(0, 0, 4, 4)})
    write(root / labels, content)
    truncate(root / others)
    truncate(root / val / sorted(path.name for path in (root / val).iterdir())[2])
    faults = coco.check(root)
    assert len(faults) == 6
    for words in (
        f"{labels}: names {train}/{missing.name}, which is missing",
        f"{train}/{broken.name}: cannot be read as a picture",
        f"{train}/stray.jpg: is not in {labels}",
        f"{labels}: annotation 5 is of image 31337",
        f"{others}: cannot be read as JSON",
        f"{val}/000000001014.jpg: cannot be read as a picture",
    ):
        assert sum(words in fault for fault in faults) == 1, words
    cache = tmp_path / "cache"
    refused(coco.load, root, cache, f"{labels}: names {train}/{missing.name}")
    refused(coco.load, root, cache, f"{others}: cannot be read as JSON", split="test")
    write(root / others, {"info": {}})
    refused(coco.load, root, cache, f"{others}: is not a file of COCO instances", split="test")
    shutil.rmtree(root / val)
    refused(coco.load, root, cache, f"{val}/: no such folder", split="test")


def test_test_alone_can_be_loaded_from_half_a_tree(tmp_path):
    root = coco_tree(tmp_path / "tree")
    shutil.rmtree(root / "train2017")
    assert len(coco.load(root, "test", SIZE, tmp_path / "cache")["images"]) == 4


def test_an_error_shows_some_faults_and_check_all(tmp_path):
    root = coco_tree(tmp_path / "tree", train=40)
    for path in (root / "train2017").iterdir():
        if path.name > f"{7 * 4:012}.jpg":
            path.unlink()
    said = "and 15 more, all of which `check` lists"
    message = refused(coco.load, root, tmp_path / "cache", said)
    assert message.count("which is missing") == 20
    assert len(coco.check(root)) == 35


# Finding the files


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setattr(location, "CONFIG", tmp_path / "repository/data.toml")
    monkeypatch.delenv("PAPER_FILES", raising=False)
    (tmp_path / "repository").mkdir()
    return location.CONFIG


def test_argument_then_environment_then_config(tmp_path, monkeypatch, config):
    for name in ("argument", "environment/coco", "repository/config"):
        (tmp_path / name).mkdir(parents=True)
    assert location.find("coco") is None
    config.write_text('[files]\ncoco = "config"\n')
    assert location.find("coco") == tmp_path / "repository/config"  # relative to the repository
    assert location.find("clevr") is None
    monkeypatch.setenv("PAPER_FILES", str(tmp_path / "environment"))
    assert location.find("coco") == tmp_path / "environment/coco"
    assert location.find("clevr") is None  # the folder of data sets need not hold them all
    assert location.find("coco", tmp_path / "argument") == tmp_path / "argument"
    shutil.rmtree(tmp_path / "environment/coco")
    assert location.find("coco") == tmp_path / "repository/config"


@ALL
def test_a_setting_that_names_no_folder_is_an_error(name, tmp_path, monkeypatch, config):
    def said(setting, argument=None):
        with pytest.raises(ValueError) as caught:
            location.find(name, argument)
        for words in (setting, str(tmp_path / "nowhere"), f"Expected of {name}"):
            assert words in str(caught.value)

    said("the argument", tmp_path / "nowhere")
    config.write_text(f'[files]\n{name} = "{tmp_path / "nowhere"}"\n')
    said(f"[files] {name} in {config}")
    monkeypatch.setenv("PAPER_FILES", str(tmp_path / "nowhere"))
    said("PAPER_FILES")


def test_mistakes_in_the_config_are_errors(config):
    config.write_text('[files]\nclever = "somewhere"\n')
    known = "clevr_mirror, clevr, clevr_with_masks, shapestacks, coco"
    with pytest.raises(ValueError, match=f"knows {known}, not clever"):
        location.find("coco")
    config.write_text("[files\n")
    with pytest.raises(ValueError, match="data.toml is not TOML"):
        location.find("coco")
