"""ShapeStacks from the authors' files: pictures and, where they are there too, instance masks.

Source: Groth et al. 2018, "ShapeStacks: Learning Vision-Based Physical Intuition for Generalised
Object Stacking", and the code beside it (github.com/ogroth/shapestacks): shapestacks-meta, -rgb and
-iseg.tar.gz, unpacked into one folder.

All variants (cylinders, cuboids and spheres; blocks) and all cameras are pooled, in the authors'
split `default`, or else in `ccs_all` and `blocks_all` together; their eval is our validation.

An instance mask is a .map file, which is a PNG under another name: gray, the number of the shape
times 32 (`create_segmaps.py` there draws numbers 0 to 7 on a scale of 0 to 8 as a gray picture of
256 levels). 0 is background, 1 to 6 the shapes; 7, "unassigned", becomes background. A scenario's
masks were rendered apart from its pictures, with other textures and lights in their names: the
camera says which belong together. `vseg` maps hold classes of stability, not instances, and are not
read.
"""

import os
import re

import numpy as np
from PIL import Image

from paper_lib.data.readers import listing
from paper_lib.data.readers.listing import Annotations, Listing
from paper_lib.data.readers.pictures import FORMATS, ensure_modest
from paper_lib.data.readers.tree import Fault, Tree
from paper_lib.data.splits import SPLITS, check_split, random_order

LAYOUT = """\
Expected of shapestacks (shapestacks-meta, -rgb and -iseg.tar.gz, unpacked into one folder):
    splits/default/{train,eval,test}.txt        a line a scenario; or splits/ccs_all/ and \
splits/blocks_all/
    recordings/<scenario>/rgb-*-cam_<n>-mono-0.png
    recordings/<scenario>/iseg-*-cam_<n>-mono-0.map     may be left out, or be in \
iseg/<scenario>/: instance masks
"""
POOLED = (["default"], ["ccs_all", "blocks_all"])
FILES = {"train": "train.txt", "validation": "eval.txt", "test": "test.txt"}
PICTURE = re.compile(r"rgb-.*cam_(\d+)-mono-0\.png")
MASK = re.compile(r"iseg-.*cam_(\d+)-mono-0\.map")
SCENARIO = re.compile(r"[\w=-][\w=.-]*")  # no path that leads elsewhere
STEP = 32  # gray levels between the numbers of two shapes
MOST_SHAPES = 6


def load(
    folder: str | os.PathLike,
    split: str,
    size: int,
    root: str | os.PathLike,
    max_items: int | None = None,
    workers: int | None = None,
) -> dict:
    """Return one split, with masks where there are `iseg` maps; see `listing.load`."""
    return listing.load(_list(folder, split), size, root, max_items, workers)


def check(folder: str | os.PathLike) -> list[str]:
    """Return every fault of a tree."""
    return listing.check([_list(folder, split) for split in SPLITS])


def _list(folder: str | os.PathLike, split: str) -> Listing:
    check_split(split)
    tree = Tree(folder)
    names = _pooled(tree)
    lists = [tree.file(f"splits/{name}/{FILES[split]}") for name in names]
    pictures, masks = [], {}
    for scenario, path in _scenarios(tree, lists):
        needed = "recordings (rgb-*-cam_<n>-mono-0.png)"
        pictures += tree.list_folder(f"recordings/{scenario}", PICTURE, needed, path)
        for place in ("iseg", "recordings"):
            for path in tree.list_folder(f"{place}/{scenario}", MASK, needed=None):
                masks[scenario, _camera(path, MASK)] = path
    mask_of = {path: masks.get((path.split("/")[1], _camera(path, PICTURE))) for path in pictures}
    if masks:
        tree.faults += [_no_mask(path) for path, mask in mask_of.items() if mask is None]
    order = random_order(len(pictures))
    chosen = [pictures[i] for i in order]

    def read_mask(row: int) -> np.ndarray:
        return _read_mask(tree, chosen[row], mask_of[chosen[row]])

    return Listing(
        "shapestacks",
        split,
        tree,
        chosen,
        order,
        lists + [mask_of[path] for path in chosen if mask_of[path]],
        lambda: Annotations(mask=read_mask if masks else None),
        LAYOUT,
        licence="not stated by its authors",
        choice=f"the authors' {' and '.join(names)}; eval is validation",
    )


def _pooled(tree: Tree) -> list[str]:
    """Return the names of the authors' splits that the tree has."""
    for names in POOLED:
        if (tree.root / "splits" / names[0]).is_dir():
            return names
    return POOLED[0]


def _scenarios(tree: Tree, lists: list[str]) -> list[tuple[str, str]]:
    """Return the scenarios of those lists that are there, each with its list.

    That a list is empty, or no list of names of folders, is a fault.
    """
    scenarios = []
    for path in lists:
        if path in tree.sizes:
            listed = (tree.root / path).read_bytes().decode(errors="replace").split()
            strange = [name for name in listed if not SCENARIO.fullmatch(name)]
            if not listed:
                tree.faults.append(f"{path}: is empty")
            elif strange:
                tree.faults.append(f"{path}: lists {strange[0][:100]!r}, which is no scenario")
            else:
                scenarios += [(name, path) for name in listed]
    return scenarios


def _camera(path: str, pattern: re.Pattern) -> str:
    return pattern.fullmatch(path.rsplit("/", 1)[1])[1]


def _no_mask(picture: str) -> str:
    return f"{picture}: has no iseg-*.map, though others have"


def _read_mask(tree: Tree, picture: str, path: str | None) -> np.ndarray:
    """Return a mask (height, width) uint8, 0 for background and k for shape k. Raises Fault."""
    if path is None:
        raise Fault(_no_mask(picture))
    try:
        with Image.open(tree.root / path, formats=FORMATS) as levels:
            ensure_modest(*levels.size)
            gray = np.asarray(levels.convert("RGB"))[..., 0]
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise Fault(
            f"{path}: cannot be read as a .map, a PNG of 32 gray levels a shape ({error})"
        ) from None
    # Rounded: some versions of the library that drew them truncate, to one level less.
    number = np.round(gray / STEP).astype(np.uint8)
    return np.where(number <= MOST_SHAPES, number, 0)
