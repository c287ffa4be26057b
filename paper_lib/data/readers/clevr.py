"""CLEVR-Mirror and CLEVR from the authors' files: pictures and, from the scenes' JSON, properties.

Sources: Singh et al. 2021, "Illiterate DALL-E Learns to Compose" (CLEVR-Mirror); Johnson et al. 2017, "CLEVR: A Diagnostic Dataset for
Compositional Language and Elementary Visual Reasoning" (CLEVR, and the JSON of its scenes).

CLEVR-Mirror is one folder of pictures, split 70-15-15 at random by a fixed seed. CLEVR's own test pictures come without scenes, so that
their properties are unknown: its validation pictures serve as test (as in Locatello et al. 2020), and 5,000 of its training pictures, fixed
and random, as validation. Neither holds masks.
"""

import functools
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from paper_lib.data.generators.clevr_scenes import (
    CLEVR_CROP,
    CLEVR_HEIGHT,
    CLEVR_WIDTH,
    Object,
    Scene,
    properties,
)
from paper_lib.data.readers import files
from paper_lib.data.readers.files import MAX_OBJECTS, Fault, Limits, Part, Reader, Tree, TreeError
from paper_lib.system.files import whole

MIRROR_LAYOUT = """\
Expected of clevr_mirror:
    images/*.png           all pictures, of any names, in one folder
    scenes/*.json          may be left out: one JSON a picture, of the same name; or CLEVR_*_scenes.json with a list "scenes"
"""
CLEVR_LAYOUT = """\
Expected of clevr (CLEVR_v1.0.zip unpacks so, into CLEVR_v1.0/):
    images/train/CLEVR_train_000000.png ...     scenes/CLEVR_train_scenes.json
    images/val/CLEVR_val_000000.png ...         scenes/CLEVR_val_scenes.json
    images/test/                                not read: it has no scenes
"""
LAYOUT = MIRROR_LAYOUT + CLEVR_LAYOUT
JSON = re.compile(r"[^.].*\.json")


def load_mirror(
    folder: str | os.PathLike,
    split: str,
    size: int,
    cache: str | os.PathLike,
    max_items: int | None = None,
    workers: int | None = None,
) -> dict:
    """CLEVR-Mirror; see files.load. Properties where there are scenes."""
    return files.load(_mirror(folder, split), size, cache, max_items, workers)


def load_clevr(
    folder: str | os.PathLike,
    split: str,
    size: int,
    cache: str | os.PathLike,
    max_items: int | None = None,
    workers: int | None = None,
    *,
    min_objects: int | None = None,
    max_objects: int | None = None,
    crop: bool = False,
) -> dict:
    """CLEVR with properties; see files.load. Of the scenes with `min_objects` to `max_objects` objects (all); `crop` keeps CLEVR_CROP of their pictures."""
    part, limits = _clevr(folder, split), Limits(min_objects, max_objects)
    if limits.settings and not part.faults:
        kept = limits.keep(_object_counts(part, cache))
        if not kept.all():  # limits that leave nothing out are none
            part = _clevr(folder, split, limits, kept)
    if crop:
        part = replace(part, crop=(*CLEVR_CROP, CLEVR_HEIGHT, CLEVR_WIDTH))
    return files.load(part, size, cache, max_items, workers)


def check_mirror(folder: str | os.PathLike) -> list[str]:
    """Every fault of a CLEVR-Mirror tree."""
    return files.check([_mirror(folder, split) for split in files.SPLITS])


def check_clevr(folder: str | os.PathLike) -> list[str]:
    """Every fault of a CLEVR tree."""
    return files.check([_clevr(folder, split) for split in files.SPLITS])


def check(folder: str | os.PathLike) -> list[str]:
    """Every fault of a tree, of CLEVR if its pictures are in folders by split, else of CLEVR-Mirror."""
    images = Tree(folder).root / "images"
    return (
        check_clevr(folder)
        if any((images / part).is_dir() for part in ("train", "val"))
        else check_mirror(folder)
    )


def _mirror(folder: str | os.PathLike, split: str) -> Part:
    files.known_split(split)
    tree = Tree(folder)
    pictures = tree.list("images")
    indices = files.random_split(len(pictures), split)
    rows = [pictures[i] for i in indices]
    scenes = tree.list("scenes", JSON, needed="JSON") if (tree.root / "scenes").exists() else []
    lists = [path for path in scenes if path.endswith("_scenes.json")]
    if lists:
        others, reader = lists, lambda: _read_lists(tree, lists, "images", pictures, rows)
    elif scenes:
        described = {_scene(path) for path in pictures}
        tree.faults += [_no_scene(path) for path in pictures if _scene(path) not in tree.sizes]
        tree.faults += [
            f"{path}: describes a picture that images/ lacks"
            for path in scenes
            if path not in described
        ]
        others = [_scene(path) for path in rows if _scene(path) in tree.sizes]
        reader = functools.partial(Reader, properties=lambda row: _read_scene(tree, rows[row]))
    else:
        others, reader = [], Reader
    return Part(
        "clevr_mirror",
        split,
        tree,
        rows,
        indices,
        others,
        reader,
        MIRROR_LAYOUT,
        licence="not stated by its authors",
        choice="random 70-15-15",
    )


def _scene(picture: str) -> str:
    """images/7.png -> scenes/7.json"""
    return f"scenes/{os.path.splitext(os.path.basename(picture))[0]}.json"


def _no_scene(picture: str) -> str:
    return f"{picture}: has no scene, {_scene(picture)} is missing"


def _read_scene(tree: Tree, picture: str) -> np.ndarray:
    """Properties, from a JSON of the picture's own."""
    path = _scene(picture)
    if path not in tree.sizes:
        raise Fault(_no_scene(picture))
    return _properties(tree.json(path), path)


def _clevr(
    folder: str | os.PathLike, split: str, limits: Limits = Limits(), kept: np.ndarray | None = None
) -> Part:  # noqa: B008
    """All of a split, or of its rows those that the bools `kept` (N,) say; `limits` is what they were chosen by."""
    files.known_split(split)
    tree = Tree(folder)
    original = "val" if split == "test" else "train"
    pictures = tree.list(f"images/{original}")
    scenes = tree.file(f"scenes/CLEVR_{original}_scenes.json")
    indices = (
        files.random_order(len(pictures))
        if split == "test"
        else files.hold_out(len(pictures), split)
    )
    indices = indices if kept is None else indices[kept]
    rows = [pictures[i] for i in indices]
    return Part(
        "clevr",
        split,
        tree,
        rows,
        indices,
        [scenes],
        lambda: _read_lists(tree, [scenes], f"images/{original}", pictures, rows),
        CLEVR_LAYOUT,
        licence="CC BY 4.0",
        choice="CLEVR's val serves as test; a fixed random part of its train (5,000, or a fifth if that is less) as validation",
        limits=limits,
    )


def _object_counts(part: Part, cache: str | os.PathLike) -> np.ndarray:
    """(N,) int, how many objects each scene of a split has: from the cache, or else from the scenes."""
    path = Path(cache) / f"{part.name}-files-{part.split}-{part.version}-objects.npy"
    if path.exists():
        return np.load(path)
    reader = part.open()
    if reader.faults:
        raise TreeError(part.tree.root, reader.faults, part.layout)
    try:
        counts = np.array(
            [int(reader.properties(row)[:, -1].sum()) for row in range(len(part.pictures))]
        )
    except Fault as fault:
        raise TreeError(part.tree.root, [str(fault)], part.layout) from None
    with whole(path) as temporary:
        np.save(temporary, counts)
    return counts


def _read_lists(
    tree: Tree, paths: list[str], folder: str, pictures: list[str], rows: list[str]
) -> Reader:
    """Scenes that JSON files list; each names its picture, in `folder`."""
    paths = [path for path in paths if path in tree.sizes]
    if not paths:  # that they are missing is noted already
        return Reader()
    faults, scenes = [], {}
    for path in paths:
        try:
            scenes |= {
                f"{folder}/{scene['image_filename']}": (path, scene)
                for scene in tree.json(path)["scenes"]
            }
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

    def of_row(row: int) -> np.ndarray:
        path, scene = scenes[rows[row]]
        return _properties(scene, f"{path}: {rows[row]}")

    return Reader(faults=faults) if faults else Reader(properties=of_row)


def _properties(scene: dict, where: str) -> np.ndarray:
    """(MAX_OBJECTS, 19) float32, see scenes.properties, of a scene as CLEVR's JSON describes it."""
    try:
        objects = tuple(
            Object(
                o["shape"],
                o["size"],
                o["material"],
                o["color"],
                tuple(o["3d_coords"]),
                o.get("rotation", 0.0),
            )
            for o in scene["objects"]
        )
        if len(objects) > MAX_OBJECTS:
            raise Fault(f"{where}: has {len(objects)} objects, more than CLEVR's {MAX_OBJECTS}")
        return properties(Scene(objects, camera=None, lights=()), MAX_OBJECTS)
    except (KeyError, TypeError, ValueError) as error:
        raise Fault(f"{where}: is not a CLEVR scene ({error!r})") from None
