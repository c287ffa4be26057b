"""One interface for every data set, whichever door it comes through; and the command line."""

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
        assert found.images.shape == (2, 16, 16, 3) and found.images.dtype == np.uint8
        assert not found.images.flags.writeable
        assert found.source["door"] == "generator" and found.source["split"] == split
        assert found.source["version"] == data.version(name)
        assert set(found[0]) == {"image"} | ({"mask", "properties"} if name != "photos" else set())
        assert found.tensor([1]).shape == (1, 3, 16, 16)
    assert not set(sets["train"].indices) & set(sets["test"].indices)


def test_the_files_are_taken_where_a_setting_names_them(tree, root, monkeypatch):
    generated = data.load("clevr_mirror", "test", 16, max_items=1, **SMALL["clevr_mirror"])
    by_argument = data.load("clevr_mirror", "test", 16, files=tree)
    monkeypatch.setenv("PAPER_FILES", str(tree.parent))
    by_environment = data.load("clevr_mirror", "test", 16)
    assert generated.source["door"] == "generator"
    assert by_argument.source["door"] == by_environment.source["door"] == "files"
    assert len(by_argument) == 3 and np.array_equal(by_argument.images, by_environment.images)
    assert [len(np.unique(image)) for image in by_argument.images] == [1, 1, 1], "each of one gray"
    small = SMALL["clevr_mirror"]
    forced = data.load("clevr_mirror", "test", 16, door="generator", max_items=1, **small)
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
    photos = DataConfig(name="photos", size=16, num_scenes=21, seed=3).load("test")
    assert photos.source["settings"] == {"num_crops": 21, "size": 16, "seed": 3}
    small = {"size": 8, "num_scenes": 7, "samples_per_pixel": 1}
    stacks = DataConfig(name="shapestacks", min_objects=2, max_objects=3, **small).load("test")
    assert stacks.source["settings"]["max_objects"] == 3
    monkeypatch.setenv("PAPER_FILES", str(tree.parent))
    assert DataConfig(**small).load("test").source["door"] == "generator", "unless it says so"
    assert DataConfig(size=8, door="files").load("test").source["door"] == "files"
    assert DataConfig(door="files").version == "files" != DataConfig().version


SMALL_OPTIONS = ("--size", "16", "--num-scenes", "20", "--samples-per-pixel", "1")


def said(capsys, *arguments):
    """Exit status of a command, and what it said: its output, or else its error."""
    status = main(list(map(str, arguments)))
    captured = capsys.readouterr()
    return status, captured.out or captured.err


def test_render_card_and_preview(root, tmp_path, capsys):
    small = (*SMALL_OPTIONS, "--max-items", "3")
    status, text = said(capsys, "render", "clevr_mirror", *small)
    assert status == 0
    assert text.splitlines() == ["train: 3 images", "validation: 3 images", "test: 3 images"]
    status, card = said(capsys, "card", "clevr_mirror", *small)
    counts = "train 3, validation 3, test 3"
    words = ("generator", "num_scenes=20", counts, "standard deviation", "licence", "instances")
    assert status == 0 and all(word in card for word in words)
    sheet = tmp_path / "sheet.png"
    assert said(capsys, "preview", "clevr_mirror", *small, "--out", sheet)[0] == 0
    assert Image.open(sheet).size == (12 * 18, 34), "twelve columns, each image above its mask"
    status, card = said(capsys, "card", "shapestacks", *small, "--view", "close")
    assert status == 0 and "view=close" in card


def test_check(root, tree, capsys):
    status, text = said(capsys, "check", "clevr_mirror", "--files", tree)
    assert status == 0 and "no faults" in text
    (tree / "images" / "CLEVR_000003.png").write_bytes(b"no picture")
    (tree / "images" / "CLEVR_000004.png").write_bytes(b"")
    status, text = said(capsys, "check", "clevr_mirror", "--files", tree)
    faults = text.splitlines()
    assert status == 1 and len(faults) == 2
    assert "CLEVR_000003.png" in faults[0] and "CLEVR_000004.png" in faults[1]


def test_mistakes_on_the_command_line(root, capsys):
    status, text = said(capsys, "check", "photos")
    assert status == 1 and "no authors' files" in text
    status, text = said(capsys, "render", "photos", "--size", 16, "--samples-per-pixel", 3)
    assert status == 1 and "samples_per_pixel" in text
    status, text = said(capsys, "render", "shapestacks", *SMALL_OPTIONS, "--view", "near")
    assert status == 1 and "known: wide, close" in text
