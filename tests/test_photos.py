"""The photographs that stand in for COCO."""

import numpy as np
import pytest
from PIL import Image

from paper_lib.data.generators import photos
from paper_lib.data.splits import SPLITS


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    return {split: photos.load(root, split, 32, num_crops=60, workers=2) for split in SPLITS}


def test_no_photograph_is_in_two_splits(parts):
    shown = {
        split: {photos.photograph(int(index)).name for index in part["indices"]}
        for split, part in parts.items()
    }
    for split, part in parts.items():
        assert shown[split] == set(part["source"]["photographs"][split])
    count = parts["train"]["source"]["number_of_photographs"]
    assert sum(len(names) for names in shown.values()) == len(set.union(*shown.values())) == count
    assert len({(p.package, p.path) for p in photos.PHOTOGRAPHS}) == len(photos.PHOTOGRAPHS)


def test_every_crop_is_in_one_split(parts):
    assert sorted(np.concatenate([part["indices"] for part in parts.values()])) == list(range(60))
    assert [len(part["images"]) for part in parts.values()] == [44, 8, 8]
    for part in parts.values():
        assert part["images"].shape[1:] == (32, 32, 3) and part["images"].dtype == np.uint8
        assert part["masks"] is None and part["properties"] is None
        assert set(part["source"]["licences"]) == {p.name for p in photos.PHOTOGRAPHS}


def test_a_crop_depends_on_seed_and_index_alone(parts, tmp_path):
    more = photos.load(tmp_path, "train", 32, 20, num_crops=90, workers=1)
    np.testing.assert_array_equal(more["images"], parts["train"]["images"][:20])
    for image, index in zip(more["images"], more["indices"]):
        np.testing.assert_array_equal(image, photos.crop(0, int(index), 32))
    assert len({image.tobytes() for image in more["images"]}) == 20
    assert not np.array_equal(photos.crop(1, 0, 32), photos.crop(0, 0, 32))


def test_a_crop_shows_the_same_at_every_size():
    for index in range(14):
        small, large = photos.crop(0, index, 24), Image.fromarray(photos.crop(0, index, 96))
        reduced = np.asarray(large.resize((24, 24), Image.Resampling.BICUBIC))
        assert np.abs(small.astype(float) - reduced).mean() < 6


def test_crops_lie_inside_the_photograph():
    for index in range(28):
        image = photos.crop(0, index, 32)
        for border in (image[0], image[-1], image[:, 0], image[:, -1]):
            assert np.any(border)  # no black margin
        assert image.std() > 5


def test_too_few_crops_are_refused(tmp_path):
    with pytest.raises(ValueError, match="num_crops"):
        photos.load(tmp_path, "train", 16, num_crops=6)
    assert not list(tmp_path.iterdir())
