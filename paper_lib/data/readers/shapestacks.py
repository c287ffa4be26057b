"""ShapeStacks from the authors' files: pictures and, where they were downloaded too, instance masks.

Source: Groth et al. 2018, "ShapeStacks: Learning Vision-Based Physical Intuition for Generalised Object Stacking", and the code beside it
(github.com/ogroth/shapestacks): shapestacks-meta, -rgb and -iseg.tar.gz, unpacked into one folder.

All variants (cylinders, cuboids and spheres; blocks) and all cameras are pooled, in the authors' split `default`, or else in `ccs_all` and
`blocks_all` together; their eval is our validation.

An instance mask is a .map file, which is a PNG under another name: gray, the number of the shape times 32 (`create_segmaps.py` there draws
numbers 0 to 7 on a scale of 0 to 8 as a gray picture of 256 levels). 0 is background, 1 to 6 the shapes; 7, "unassigned", becomes
background. A scenario's masks were rendered apart from its pictures, with other textures and lights in their names: the camera says
which belong together. `vseg` maps hold classes of stability, not instances, and are not read.
"""

import os
import re

import numpy as np
from PIL import Image

from paper_lib.data.readers import files
from paper_lib.data.readers.files import Fault, Part, Reader, Tree

LAYOUT = """\
Expected of shapestacks (shapestacks-meta, -rgb and -iseg.tar.gz, unpacked into one folder):
    splits/default/{train,eval,test}.txt        a line a scenario; or splits/ccs_all/ and splits/blocks_all/
    recordings/<scenario>/rgb-*-cam_<n>-mono-0.png
    recordings/<scenario>/iseg-*-cam_<n>-mono-0.map     may be left out, or be in iseg/<scenario>/: instance masks
"""
POOLED = (["default"], ["ccs_all", "blocks_all"])
FILES = {"train": "train.txt", "validation": "eval.txt", "test": "test.txt"}
PICTURE, MASK = (
    re.compile(rf"{kind}-.*cam_(\d+)-mono-0\.{suffix}")
    for kind, suffix in (("rgb", "png"), ("iseg", "map"))
)
STEP = 32  # gray levels between the numbers of two shapes
MOST_SHAPES = 6


def load(
    folder: str | os.PathLike,
    split: str,
    size: int,
    cache: str | os.PathLike,
    max_items: int | None = None,
    workers: int | None = None,
) -> dict:
    """See files.load. Masks where there are `iseg` maps; no properties."""
    return files.load(_part(folder, split), size, cache, max_items, workers)


def check(folder: str | os.PathLike) -> list[str]:
    """Every fault of a tree."""
    return files.check([_part(folder, split) for split in files.SPLITS])


def _part(folder: str | os.PathLike, split: str) -> Part:
    files.known_split(split)
    tree = Tree(folder)
    names = next(
        (names for names in POOLED if (tree.root / "splits" / names[0]).is_dir()), POOLED[0]
    )
    lists = [tree.file(f"splits/{name}/{FILES[split]}") for name in names]
    pictures, masks = [], {}
    for listing in filter(tree.sizes.__contains__, lists):
        scenarios = (tree.root / listing).read_text().split()
        if not scenarios:
            tree.faults.append(f"{listing}: is empty")
        for scenario in scenarios:
            pictures += tree.list(
                f"recordings/{scenario}", PICTURE, needed="recordings (rgb-*-cam_<n>-mono-0.png)"
            )
            for place in ("iseg", "recordings"):
                masks |= {
                    (scenario, _camera(path, MASK)): path
                    for path in tree.list(f"{place}/{scenario}", MASK, needed=None)
                }
    mask_of = {path: masks.get((path.split("/")[1], _camera(path, PICTURE))) for path in pictures}
    if masks:
        tree.faults += [_no_mask(path) for path, mask in mask_of.items() if mask is None]
    order = files.random_order(len(pictures))
    rows = [pictures[i] for i in order]
    return Part(
        "shapestacks",
        split,
        tree,
        rows,
        order,
        lists + [mask_of[path] for path in rows if mask_of[path]],
        lambda: (
            Reader(mask=lambda row: _read_mask(tree, rows[row], mask_of[rows[row]]))
            if masks
            else Reader()
        ),
        LAYOUT,
        licence="not stated by its authors",
        choice=f"the authors' {' and '.join(names)}; eval is validation",
    )


def _camera(path: str, pattern: re.Pattern) -> str:
    return pattern.fullmatch(path.rsplit("/", 1)[1])[1]


def _no_mask(picture: str) -> str:
    return f"{picture}: has no iseg-*.map, though others have"


def _read_mask(tree: Tree, picture: str, path: str | None) -> np.ndarray:
    """(height, width) uint8, 0 for background and k for shape k."""
    if path is None:
        raise Fault(_no_mask(picture))
    try:
        with Image.open(tree.root / path) as levels:
            gray = np.asarray(levels.convert("RGB"))[..., 0]
    except (OSError, SyntaxError, ValueError) as error:
        raise Fault(
            f"{path}: cannot be read as a .map, a PNG of 32 gray levels a shape ({error})"
        ) from None
    number = np.round(gray / STEP).astype(
        np.uint8
    )  # rounded: some versions of the library that drew them truncate, to one level less
    return np.where(number <= MOST_SHAPES, number, 0)
