"""CLEVR-Mirror and CLEVR from the authors' files: pictures and, from the scenes' JSON, properties.

Sources: Singh et al. 2021, "Illiterate DALL-E Learns to Compose" (CLEVR-Mirror); Johnson et al.
2017, "CLEVR: A Diagnostic Dataset for Compositional Language and Elementary Visual Reasoning"
(CLEVR, and the JSON of its scenes).

CLEVR-Mirror is one folder of pictures, split 70-15-15 at random by a fixed seed. CLEVR's own test
pictures come without scenes, so that their properties are unknown: its validation pictures serve as
test (as in Locatello et al. 2020), and 5,000 of its training pictures, fixed and random, as
validation. Neither holds masks.
"""

import functools
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from paper_lib.data.clevr_format import (
    CROP,
    MAX_OBJECTS,
    PICTURE_HEIGHT,
    PICTURE_WIDTH,
    Object,
    properties,
)
from paper_lib.data.readers import listing
from paper_lib.data.readers.limits import Limits
from paper_lib.data.readers.listing import Annotations, Crop, Listing
from paper_lib.data.readers.tree import Fault, Tree
from paper_lib.data.splits import SPLITS, check_split, hold_out, random_order, split_rows
from paper_lib.system.files import whole
from paper_lib.system.reading import BrokenFile, read_arrays

MIRROR_LAYOUT = """\
Expected of clevr_mirror:
    images/*.png           all pictures, of any names, in one folder
    scenes/*.json          may be left out: one JSON a picture, of the same name; or \
CLEVR_*_scenes.json with a list "scenes"
"""
CLEVR_LAYOUT = """\
Expected of clevr (CLEVR_v1.0.zip unpacks so, into CLEVR_v1.0/):
    images/train/CLEVR_train_000000.png ...     scenes/CLEVR_train_scenes.json
    images/val/CLEVR_val_000000.png ...         scenes/CLEVR_val_scenes.json
    images/test/                                not read: it has no scenes
"""
JSON = re.compile(r"[^.].*\.json")


def load_mirror(
    folder: str | os.PathLike,
    split: str,
    size: int,
    root: str | os.PathLike,
    max_items: int | None = None,
    workers: int | None = None,
) -> dict:
    """Return one split of CLEVR-Mirror, with properties where there are scenes.

    See `listing.load`.
    """
    return listing.load(_list_mirror(folder, split), size, root, max_items, workers)


def load_clevr(
    folder: str | os.PathLike,
    split: str,
    size: int,
    root: str | os.PathLike,
    max_items: int | None = None,
    workers: int | None = None,
    *,
    min_objects: int | None = None,
    max_objects: int | None = None,
    crop: bool = False,
) -> dict:
    """Return one split of CLEVR with properties; see `listing.load`.

    min_objects, max_objects  leave out the scenes that have fewer objects, or more
    crop                      keep `clevr_format.CROP` of the pictures
    """
    found, limits = _list_clevr(folder, split), Limits(min_objects, max_objects)
    if limits.settings and not found.faults:
        kept = limits.keep(_object_counts(found, Path(root)))
        if not kept.all():  # limits that leave nothing out are none
            found = _list_clevr(folder, split, limits, kept)
    if crop:
        found = replace(found, crop=Crop(CROP, PICTURE_HEIGHT, PICTURE_WIDTH))
    return listing.load(found, size, root, max_items, workers)


def check_mirror(folder: str | os.PathLike) -> list[str]:
    """Return every fault of a CLEVR-Mirror tree."""
    return listing.check([_list_mirror(folder, split) for split in SPLITS])


def check_clevr(folder: str | os.PathLike) -> list[str]:
    """Return every fault of a CLEVR tree."""
    return listing.check([_list_clevr(folder, split) for split in SPLITS])


# CLEVR-Mirror


def _list_mirror(folder: str | os.PathLike, split: str) -> Listing:
    check_split(split)
    tree = Tree(folder)
    pictures = tree.list_folder("images")
    rows = split_rows(len(pictures))[split]
    indices = random_order(len(pictures))[rows.start : rows.stop]
    chosen = [pictures[i] for i in indices]
    scenes = (
        tree.list_folder("scenes", JSON, needed="JSON") if (tree.root / "scenes").exists() else []
    )
    lists = [path for path in scenes if path.endswith("_scenes.json")]
    if lists:
        annotations = lists
        read = functools.partial(_read_lists, tree, lists, "images", pictures, chosen)
    elif scenes:
        _compare(tree, pictures, scenes)
        annotations = [_scene(path) for path in chosen if _scene(path) in tree.sizes]
        read = functools.partial(Annotations, properties=lambda row: _read_scene(tree, chosen[row]))
    else:
        annotations, read = [], Annotations
    return Listing(
        "clevr_mirror",
        split,
        tree,
        chosen,
        indices,
        annotations,
        read,
        MIRROR_LAYOUT,
        licence="not stated by its authors",
        choice="random 70-15-15",
    )


def _compare(tree: Tree, pictures: list[str], scenes: list[str]) -> None:
    """Note pictures without a JSON of their own, and JSON files without a picture, as faults."""
    described = {_scene(path) for path in pictures}
    tree.faults += [_no_scene(path) for path in pictures if _scene(path) not in tree.sizes]
    tree.faults += [
        f"{path}: describes a picture that images/ lacks"
        for path in scenes
        if path not in described
    ]


def _scene(picture: str) -> str:
    """Return the path of a picture's own JSON: images/7.png -> scenes/7.json"""
    return f"scenes/{os.path.splitext(os.path.basename(picture))[0]}.json"


def _no_scene(picture: str) -> str:
    return f"{picture}: has no scene, {_scene(picture)} is missing"


def _read_scene(tree: Tree, picture: str) -> np.ndarray:
    """Return properties from a picture's own JSON."""
    path = _scene(picture)
    if path not in tree.sizes:
        raise Fault(_no_scene(picture))
    return _properties(tree.json(path), path)


# CLEVR


def _list_clevr(
    folder: str | os.PathLike,
    split: str,
    limits: Limits | None = None,
    kept: np.ndarray | None = None,
) -> Listing:
    """List a split, or those of its rows that `kept` (N,) bool says, as `limits` chose them."""
    check_split(split)
    tree = Tree(folder)
    original = "val" if split == "test" else "train"
    pictures = tree.list_folder(f"images/{original}")
    scenes = tree.file(f"scenes/CLEVR_{original}_scenes.json")
    count = len(pictures)
    indices = random_order(count) if split == "test" else hold_out(count, split)
    indices = indices if kept is None else indices[kept]
    chosen = [pictures[i] for i in indices]
    return Listing(
        "clevr",
        split,
        tree,
        chosen,
        indices,
        [scenes],
        functools.partial(_read_lists, tree, [scenes], f"images/{original}", pictures, chosen),
        CLEVR_LAYOUT,
        licence="CC BY 4.0",
        choice=(
            "CLEVR's val serves as test; a fixed random part of its train (5,000, or a fifth if "
            "that is less) as validation"
        ),
        limits=limits or Limits(),
    )


def _object_counts(found: Listing, root: Path) -> np.ndarray:
    """Return how many objects each scene of a split has, (N,) int.

    They are counted once, and kept in the folder `root`. Raises TreeError.
    """
    # an .npz has checksums, an .npy has none
    path = root / f"{found.name}-files-{found.split}-{found.version}-objects.npz"
    if path.exists():
        remedy = "Delete it, and it is made again"
        counts = read_arrays(path, remedy).get("counts")
        if counts is None or counts.shape != (len(found.pictures),):
            raise BrokenFile(path, "does not hold a count for each scene", remedy)
        return counts
    annotations = found.annotations()
    try:
        rows = [annotations.properties(row) for row in range(len(found.pictures))]
    except Fault as fault:
        raise found.error([str(fault)]) from None
    counts = np.array([int(row[:, -1].sum()) for row in rows])
    with whole(path) as temporary:
        np.savez(temporary, counts=counts)
    return counts


# Scenes


def _read_lists(
    tree: Tree, paths: list[str], folder: str, pictures: list[str], chosen: list[str]
) -> Annotations:
    """Read scenes that JSON files list; each names its picture, in `folder`."""
    paths = [path for path in paths if path in tree.sizes]
    if not paths:  # that they are missing is noted already
        return Annotations()
    faults, scenes = [], {}  # picture -> where its scene stands, and the scene
    for path in paths:
        try:
            for scene in tree.json(path)["scenes"]:
                scenes[f"{folder}/{scene['image_filename']}"] = path, scene
        except Fault as fault:
            faults.append(str(fault))
        except (KeyError, TypeError) as error:
            faults.append(
                f'{path}: holds no list "scenes", each with an "image_filename" ({error!r})'
            )
    if not faults:
        listed = set(pictures)
        faults += [
            f"{path}: names {picture}, which is missing"
            for picture, (path, _) in scenes.items()
            if picture not in listed
        ]
        faults += [
            f"{picture}: has no scene in {', '.join(paths)}"
            for picture in pictures
            if picture not in scenes
        ]
    if faults:
        return Annotations(faults=faults)

    def properties_of(row: int) -> np.ndarray:
        path, scene = scenes[chosen[row]]
        return _properties(scene, f"{path}: {chosen[row]}")

    return Annotations(properties=properties_of)


def _properties(scene: dict, where: str) -> np.ndarray:
    """Return `clevr_format.properties` of a scene as CLEVR's JSON describes it. Raises Fault."""
    try:
        objects = [
            Object(
                item["shape"],
                item["size"],
                item["material"],
                item["color"],
                tuple(item["3d_coords"]),
                item.get("rotation", 0.0),
            )
            for item in scene["objects"]
        ]
        if len(objects) > MAX_OBJECTS:
            raise Fault(f"{where}: has {len(objects)} objects, more than CLEVR's {MAX_OBJECTS}")
        return properties(objects, MAX_OBJECTS)
    except (KeyError, TypeError, ValueError) as error:
        raise Fault(f"{where}: is not a CLEVR scene ({error!r})") from None
