"""COCO-2017 from the authors' files: photographs and instance masks.

Source: Lin et al. 2014, "Microsoft COCO: Common Objects in Context", with the splits and annotations of 2017, as the authors' zips unpack or
as FiftyOne's `load_zoo_dataset("coco-2017")` stores them.

The annotations of COCO's own test pictures are not public. So val2017 serves as test, and 5,000 pictures of train2017, fixed and random, as
validation; all three have masks.

A mask numbers a picture's instances from the largest, 1, to the smallest, and paints them in this order, so that the small ones stay visible
where instances overlap. Crowd regions (`iscrowd`) are no instances and stay background.
"""

import os
from collections import defaultdict

import numpy as np
from pycocotools import mask as rle

from paper_lib.data.readers import files
from paper_lib.data.readers.files import Fault, Part, Reader, Tree

LAYOUT = """\
Expected of coco (train2017.zip, val2017.zip and annotations_trainval2017.zip, unpacked into one folder):
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
    cache: str | os.PathLike,
    max_items: int | None = None,
    workers: int | None = None,
) -> dict:
    """See files.load. Masks, no properties."""
    return files.load(_part(folder, split), size, cache, max_items, workers)


def check(folder: str | os.PathLike) -> list[str]:
    """Every fault of a tree."""
    return files.check([_part(folder, split) for split in files.SPLITS])


def _part(folder: str | os.PathLike, split: str) -> Part:
    files.known_split(split)
    tree = Tree(folder)
    layout = next(
        (
            layout
            for layout in (ZIPS, FIFTYONE)
            if any((tree.root / path).exists() for paths in layout.values() for path in paths)
        ),
        ZIPS,
    )
    place, labels = layout["val" if split == "test" else "train"]
    pictures, labels = tree.list(place), tree.file(labels)
    indices = (
        files.random_order(len(pictures))
        if split == "test"
        else files.hold_out(len(pictures), split)
    )
    rows = [pictures[i] for i in indices]
    return Part(
        "coco",
        split,
        tree,
        rows,
        indices,
        [labels],
        lambda: _read_labels(tree, labels, place, pictures, rows),
        LAYOUT,
        licence="annotations CC BY 4.0; each photograph under the Flickr licence that the annotations name",
        choice="val2017 serves as test; a fixed random part of train2017 (5,000, or a fifth if that is less) as validation",
    )


def _read_labels(
    tree: Tree, labels: str, place: str, pictures: list[str], rows: list[str]
) -> Reader:
    if labels not in tree.sizes:  # that it is missing is noted already
        return Reader()
    try:
        content = tree.json(labels)
        entries = {f"{place}/{image['file_name']}": image for image in content["images"]}
        paths = {image["id"]: path for path, image in entries.items()}
        instances, strays = defaultdict(list), []
        for annotation in content["annotations"]:
            if annotation["image_id"] not in paths:
                strays.append(
                    f"{labels}: annotation {annotation.get('id')} is of image {annotation['image_id']}, which it does not list"
                )
            elif not annotation.get("iscrowd"):
                instances[paths[annotation["image_id"]]].append(annotation)
    except Fault as fault:
        return Reader(faults=[str(fault)])
    except (KeyError, TypeError) as error:
        return Reader(faults=[f"{labels}: is not a file of COCO instances ({error!r})"])
    listed = set(pictures)
    faults = strays + [
        f"{labels}: names {path}, which is missing" for path in entries if path not in listed
    ]
    faults += [f"{path}: is not in {labels}" for path in pictures if path not in entries]
    if faults:
        return Reader(faults=faults)
    mask_type = np.uint8 if max(map(len, instances.values()), default=0) <= 255 else np.uint16
    wanted = {
        path: (entries[path], instances.get(path, ())) for path in rows
    }  # all that is kept in memory

    def of_row(row: int) -> np.ndarray:
        return _mask(*wanted[rows[row]], mask_type, f"{labels}: {rows[row]}")

    return Reader(mask=of_row, mask_type=mask_type, faults=faults)


def _mask(image: dict, instances: list[dict], mask_type: type, where: str) -> np.ndarray:
    """(height, width): 0 for background, 1 for the largest instance, and so on."""
    try:
        height, width = image["height"], image["width"]
        shapes = [_encode(instance["segmentation"], height, width) for instance in instances]
        mask = np.zeros((height, width), mask_type)
        for number, i in enumerate(
            np.argsort([-int(rle.area(shape)) for shape in shapes], kind="stable"), start=1
        ):
            mask[rle.decode(shapes[i]) == 1] = number
        return mask
    except Exception as error:  # pycocotools raises plain ones
        raise Fault(f"{where}: has a segmentation that cannot be drawn ({error!r})") from None


def _encode(segmentation: list | dict, height: int, width: int) -> dict:
    """Run lengths of polygons [[x, y, x, y, ...], ...] or of run lengths, compressed or not."""
    if isinstance(segmentation, list):
        return rle.merge(rle.frPyObjects(segmentation, height, width))
    return (
        rle.frPyObjects(segmentation, height, width)
        if isinstance(segmentation["counts"], list)
        else segmentation
    )
