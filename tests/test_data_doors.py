"""One interface for every data set, whichever door it comes through; and the command line over it."""

import numpy as np
import pytest
from PIL import Image

from paper_lib import data
from paper_lib.data.__main__ import main
from paper_lib.training.config import DataConfig

SMALL = {
    "clevr_mirror": {"num_scenes": 20, "samples_per_pixel": 1},
    "shapestacks": {"num_scenes": 20, "samples_per_pixel": 1},
    "photos": {"num_crops": 20},
}


@pytest.fixture
def tree(tmp_path):
    """CLEVR-Mirror as its authors' files lie: 20 pictures, each of one gray."""
    folder = tmp_path / "given" / "clevr_mirror" / "images"
    folder.mkdir(parents=True)
    for k in range(20):
        Image.new("RGB", (24, 20), (10 * k, 10 * k, 10 * k)).save(folder / f"CLEVR_{k:06d}.png")
    return folder.parent


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("PAPER_DATA", str(tmp_path / "root"))
    monkeypatch.delenv("PAPER_FILES", raising=False)
    return tmp_path / "root"


@pytest.mark.parametrize("name", SMALL)
def test_generated_sets_have_one_shape(name, root):
    sets = {split: data.load(name, split, 16, max_items=2, **SMALL[name]) for split in data.SPLITS}
    for split, found in sets.items():
        assert (
            found.images.shape == (2, 16, 16, 3)
            and found.images.dtype == np.uint8
            and not found.images.flags.writeable
        )
        assert (
            found.source["door"] == "generator"
            and found.source["version"] == data.version(name)
            and found.source["split"] == split
        )
        assert set(found[0]) == {"image"} | ({"mask", "properties"} if name != "photos" else set())
        assert found.tensor([1]).shape == (1, 3, 16, 16)
    assert not set(sets["train"].indices) & set(sets["test"].indices)


def test_the_files_are_taken_where_a_setting_names_them(tree, root, monkeypatch):
    generated = data.load("clevr_mirror", "test", 16, max_items=1, **SMALL["clevr_mirror"])
    by_argument = data.load("clevr_mirror", "test", 16, files=tree)
    monkeypatch.setenv("PAPER_FILES", str(tree.parent))
    by_environment = data.load("clevr_mirror", "test", 16)
    assert (
        generated.source["door"] == "generator"
        and by_argument.source["door"] == by_environment.source["door"] == "files"
    )
    assert len(by_argument) == 3 and np.array_equal(by_argument.images, by_environment.images)
    assert [len(np.unique(image)) for image in by_argument.images] == [1, 1, 1], "each of one gray"
    forced = data.load(
        "clevr_mirror", "test", 16, door="generator", max_items=1, **SMALL["clevr_mirror"]
    )
    assert np.array_equal(forced.images, generated.images)


@pytest.mark.parametrize(
    "name, door, error, words",
    [
        ("mnist", None, ValueError, "known: clevr_mirror"),
        ("clevr_mirror", "window", ValueError, "known: files, generator"),
        ("coco", None, FileNotFoundError, "'photos' is a small stand-in"),
        ("coco", "generator", ValueError, "has no generator"),
        ("photos", "files", ValueError, "no authors' files"),
        ("shapestacks", "files", FileNotFoundError, "recordings"),
    ],
)
def test_a_door_that_is_not_there(name, door, error, words, root):
    with pytest.raises(error, match=words):
        data.load(name, "train", 16, door=door)


def test_a_config_passes_on_what_its_data_set_takes(root, tree, monkeypatch):
    assert DataConfig("photos", size=16, num_scenes=21, seed=3).load("test").source["settings"] == {
        "num_crops": 21,
        "size": 16,
        "seed": 3,
    }
    stacks = DataConfig(
        "shapestacks", size=8, num_scenes=7, min_objects=2, max_objects=3, samples_per_pixel=1
    )
    assert stacks.load("test").source["settings"]["max_objects"] == 3
    monkeypatch.setenv("PAPER_FILES", str(tree.parent))
    assert (
        DataConfig(size=8, num_scenes=7, samples_per_pixel=1).load("test").source["door"]
        == "generator"
    ), "unless the config says otherwise"
    assert DataConfig(size=8, door="files").load("test").source["door"] == "files"
    assert DataConfig(door="files").version == "files" != DataConfig().version


def test_command_line(root, tree, tmp_path, capsys):
    small = ["--size", "16", "--num-scenes", "20", "--samples-per-pixel", "1", "--max-items", "3"]
    assert main(["render", "clevr_mirror", *small]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "train: 3 images",
        "validation: 3 images",
        "test: 3 images",
    ]
    assert main(["card", "clevr_mirror", *small]) == 0
    card = capsys.readouterr().out
    assert all(
        word in card
        for word in (
            "generator",
            "num_scenes=20",
            "train 3, validation 3, test 3",
            "standard deviation",
            "licence",
            "instances",
        )
    )
    assert main(["preview", "clevr_mirror", *small, "--out", str(tmp_path / "sheet.png")]) == 0
    assert Image.open(tmp_path / "sheet.png").size == (12 * 18, 34), (
        "twelve columns, each image above its mask"
    )
    capsys.readouterr()
    assert (
        main(["check", "clevr_mirror", "--files", str(tree)]) == 0
        and "no faults" in capsys.readouterr().out
    )
    (tree / "images" / "CLEVR_000003.png").write_bytes(b"no picture")
    (tree / "images" / "CLEVR_000004.png").write_bytes(b"")
    assert main(["check", "clevr_mirror", "--files", str(tree)]) == 1
    faults = capsys.readouterr().out.splitlines()
    assert len(faults) == 2 and "CLEVR_000003.png" in faults[0] and "CLEVR_000004.png" in faults[1]
    assert main(["check", "photos"]) == 1 and "no authors' files" in capsys.readouterr().err
    assert (
        main(["render", "photos", "--size", "16", "--samples-per-pixel", "3"]) == 1
        and "samples_per_pixel" in capsys.readouterr().err
    )
