"""COCO-2017 from the authors' files: photographs and instance masks.

Source: Lin et al. 2014, "Microsoft COCO: Common Objects in Context", with the splits and
annotations of 2017, as the authors' zips unpack or as FiftyOne's `load_zoo_dataset("coco-2017")`
stores them.

The annotations of COCO's own test pictures are not public. So val2017 serves as test, and 5,000
pictures of train2017, fixed and random, as validation; all three have masks.

A mask numbers a picture's instances from the largest, 1, to the smallest, and paints them in this
order, so that the small ones stay visible where instances overlap. Crowd regions (`iscrowd`) are no
instances and stay background.
"""

import functools
import os
from collections import defaultdict

import numpy as np
from pycocotools import mask as rle

from paper_lib.data.readers import listing
from paper_lib.data.readers.listing import Annotations, Listing
from paper_lib.data.readers.pictures import ensure_modest
from paper_lib.data.readers.tree import Fault, Tree
from paper_lib.data.splits import SPLITS, check_split, hold_out, random_order

LAYOUT = """\
Expected of coco (train2017.zip, val2017.zip and annotations_trainval2017.zip, unpacked into one \
folder):
    train2017/000000000009.jpg ...      annotations/instances_train2017.json
    val2017/000000000139.jpg ...        annotations/instances_val2017.json
or, as FiftyOne stores it:
    train/data/000000000009.jpg ...         train/labels.json
    validation/data/000000000139.jpg ...    validation/labels.json
COCO's own test pictures have no labels and are not read.
"""
# the authors' split -> pictures, annotations
ZIPS = {
    "train": ("train2017", "annotations/instances_train2017.json"),
    "val": ("val2017", "annotations/instances_val2017.json"),
}
FIFTYONE = {
    "train": ("train/data", "train/labels.json"),
    "val": ("validation/data", "validation/labels.json"),
}


def load(
    folder: str | os.PathLike,
    split: str,
    size: int,
    root: str | os.PathLike,
    max_items: int | None = None,
    workers: int | None = None,
) -> dict:
    """Return one split, with masks and without properties; see `listing.load`."""
    return listing.load(_list(folder, split), size, root, max_items, workers)


def check(folder: str | os.PathLike) -> list[str]:
    """Return every fault of a tree."""
    return listing.check([_list(folder, split) for split in SPLITS])


def _list(folder: str | os.PathLike, split: str) -> Listing:
    check_split(split)
    tree = Tree(folder)
    place, labels = _layout(tree)["val" if split == "test" else "train"]
    pictures, labels = tree.list_folder(place), tree.file(labels)
    count = len(pictures)
    indices = random_order(count) if split == "test" else hold_out(count, split)
    chosen = [pictures[i] for i in indices]
    return Listing(
        "coco",
        split,
        tree,
        chosen,
        indices,
        [labels],
        functools.partial(_read_labels, tree, labels, place, pictures, chosen),
        LAYOUT,
        licence=(
            "annotations CC BY 4.0; each photograph under the Flickr licence that the annotations "
            "name"
        ),
        choice=(
            "val2017 serves as test; a fixed random part of train2017 (5,000, or a fifth if that "
            "is less) as validation"
        ),
    )


def _layout(tree: Tree) -> dict[str, tuple[str, str]]:
    """Return which of the two layouts the tree has any part of, or else that of the zips."""
    for layout in (ZIPS, FIFTYONE):
        if any((tree.root / path).exists() for paths in layout.values() for path in paths):
            return layout
    return ZIPS


def _read_labels(
    tree: Tree, labels: str, place: str, pictures: list[str], chosen: list[str]
) -> Annotations:
    """Read the instances of the chosen pictures, which are in the folder `place`."""
    if labels not in tree.sizes:  # that it is missing is noted already
        return Annotations()
    try:
        content = tree.json(labels)
        entries = {f"{place}/{image['file_name']}": image for image in content["images"]}
        paths = {image["id"]: path for path, image in entries.items()}
        instances, strays = defaultdict(list), []
        for annotation in content["annotations"]:
            if annotation["image_id"] not in paths:
                strays.append(
                    f"{labels}: annotation {annotation.get('id')} is of image "
                    f"{annotation['image_id']}, which it does not list"
                )
            elif not annotation.get("iscrowd"):
                instances[paths[annotation["image_id"]]].append(annotation)
    except Fault as fault:
        return Annotations(faults=[str(fault)])
    except (KeyError, TypeError) as error:
        return Annotations(faults=[f"{labels}: is not a file of COCO instances ({error!r})"])
    listed = set(pictures)
    faults = [
        *strays,
        *(f"{labels}: names {path}, which is missing" for path in entries if path not in listed),
        *(f"{path}: is not in {labels}" for path in pictures if path not in entries),
    ]
    if faults:
        return Annotations(faults=faults)
    mask_type = np.uint8 if max(map(len, instances.values()), default=0) <= 255 else np.uint16
    # All that is kept in memory.
    wanted = {path: (entries[path], instances.get(path, ())) for path in chosen}

    def mask_of(row: int) -> np.ndarray:
        return _mask(*wanted[chosen[row]], mask_type, f"{labels}: {chosen[row]}")

    return Annotations(mask=mask_of, mask_type=mask_type)


def _mask(image: dict, instances: list[dict], mask_type: type, where: str) -> np.ndarray:
    """Return a mask (height, width): 0 for background, 1 for the largest instance, and so on."""
    try:
        height, width = image["height"], image["width"]
        ensure_modest(width, height)
        shapes = [_encode(instance["segmentation"], height, width) for instance in instances]
        largest_first = np.argsort([-int(rle.area(shape)) for shape in shapes], kind="stable")
        mask = np.zeros((height, width), mask_type)
        for number, i in enumerate(largest_first, start=1):
            mask[rle.decode(shapes[i]) == 1] = number
        return mask
    except Exception as error:  # pycocotools raises plain ones
        raise Fault(f"{where}: has a segmentation that cannot be drawn ({error!r})") from None


def _encode(segmentation: list | dict, height: int, width: int) -> dict:
    """Return the compressed run lengths of a segmentation.

    It is a list of polygons [[x, y, x, y, ...], ...], or run lengths, compressed or not. Raises
    ValueError for what would take pycocotools far beyond the picture, and with it the memory.
    """
    if isinstance(segmentation, list):
        for polygon in segmentation:
            # (a comparison with NaN is False)
            if not np.abs(np.asarray(polygon, float)).max() <= 4 * max(height, width):
                raise ValueError("a polygon far outside of the picture")
        return rle.merge(rle.frPyObjects(segmentation, height, width))
    if list(segmentation["size"]) != [height, width]:
        raise ValueError(f"run lengths of another size, {segmentation['size']}")
    if isinstance(segmentation["counts"], list):
        return rle.frPyObjects(segmentation, height, width)
    return segmentation
