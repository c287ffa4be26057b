"""The test scenes that a reader looks at, with their true masks, at hand without rendering."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageOps

from paper_lib.paper.parameters import KEPT_SCENES, Parameters
from paper_lib.runs import results_root
from paper_lib.system.files import whole
from paper_lib.system.reading import BrokenFile, read_arrays
from paper_lib.training.config import DataConfig


def scenes(data: DataConfig, given: Parameters, least: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Return the first test scenes: images (n, H, W, 3) and true masks (n, H, W), both uint8.

    A mask is 0 for the background and k for the k-th object. The scenes are kept in
    results/<profile>/scenes; where they are not, they are taken from the data set, which may have
    to be rendered first. Raises ValueError where they are fewer than `least`, and BrokenFile.
    """
    name = f"{data.name}-{data.size}px-{data.view}.npz"
    path = results_root() / given.profile / "scenes" / name
    if not path.exists():
        test = data.load("test")
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as temporary, open(temporary, "wb") as file:
            images = np.asarray(test.images[:KEPT_SCENES])
            masks = np.asarray(test.masks[:KEPT_SCENES]).astype(np.uint8)
            np.savez_compressed(file, image=images, mask=masks, data=path.stem)
    remedy = f"If it is committed, `git checkout -- {path}`; or delete it, and it is made again"
    kept = read_arrays(path, remedy)
    if str(kept.get("data")) != path.stem or not {"image", "mask"} <= kept.keys():
        raise BrokenFile(path, f"does not hold scenes of {path.stem}", remedy)
    images, masks = kept["image"], kept["mask"]
    if len(images) < least:
        raise ValueError(
            f"{least} test scenes are asked for, and there are {len(images)} of {data.name}: "
            f"choose scene or count up to {len(images)}, or raise data.num_scenes"
        )
    return images, masks


def own_image(content: bytes, size: int) -> np.ndarray:
    """Return a picture of the reader's own, from the bytes of a file, as a scene (size, size, 3).

    It is turned as its camera says, and its largest square in the middle is scaled. Raises
    ValueError for what is no picture.
    """
    try:
        with Image.open(io.BytesIO(content)) as picture:
            picture.draft("RGB", (4 * size, 4 * size))  # a huge photograph is read small
            picture = ImageOps.exif_transpose(picture)
            width, height = picture.size
            side = min(width, height)
            left, top = (width - side) // 2, (height - side) // 2
            square = picture.convert("RGB").crop((left, top, left + side, top + side))
            square = square.resize((size, size), Image.Resampling.LANCZOS)
    except Exception as error:  # on a broken file every decoder raises what it likes
        raise ValueError(f"this file is not a picture that can be read: {error}") from error
    return np.asarray(square)
