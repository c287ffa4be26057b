"""Pictures and masks: reading them, and making them square and small."""

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from paper_lib.data.readers.tree import Fault, Tree

Square = tuple[float, float, float]  # top, left and side, in pixels
FORMATS = ("PNG", "JPEG")  # Pillow knows formats, too, for which it starts other programs
MOST_PIXELS = 2**25  # of a picture; the authors' have at most 410,000


def read_picture(tree: Tree, path: str) -> Image.Image:
    """Return an upright RGB picture, whatever its mode and its EXIF orientation. Raises Fault."""
    try:
        with Image.open(tree.root / path, formats=FORMATS) as picture:
            ensure_modest(*picture.size)
            picture.load()
            upright = _turned_upright(picture)
            if upright.mode.startswith("I"):  # 16 bits, which Pillow's conversion would clip
                upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
            return upright.convert("RGB")
    except UnidentifiedImageError:
        raise Fault(f"{path}: cannot be read as a picture (of no known format)") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise Fault(f"{path}: cannot be read as a picture ({error})") from None


def ensure_modest(width: int, height: int) -> None:
    """Raise ValueError for a picture that would fill the memory: a few bytes can claim any size."""
    if not 0 < width * height <= MOST_PIXELS:
        raise ValueError(f"{width}x{height} pixels, where at most {MOST_PIXELS:,} are read")


def _turned_upright(picture: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(picture)
    except Exception:
        # A few photographs have EXIF so broken that it says nothing about the orientation.
        return picture


def centre_square(height: int, width: int) -> Square:
    """Return the largest square in the middle.

    Resizing it is the same as resizing all of the picture, then cropping.
    """
    side = min(height, width)
    return (height - side) / 2, (width - side) / 2, side


def shrink(picture: Image.Image, size: int, square: Square | None = None) -> np.ndarray:
    """Return a square (None: the largest in the middle) as (size, size, 3) uint8.

    Pillow's Lanczos filter widens with the scale, so there is no aliasing.
    """
    top, left, side = square or centre_square(picture.height, picture.width)
    box = (left, top, left + side, top + side)
    return np.asarray(picture.resize((size, size), Image.Resampling.LANCZOS, box=box))


def shrink_mask(mask: np.ndarray, size: int, square: Square | None = None) -> np.ndarray:
    """Return the same of a mask (height, width): each pixel takes the number at its centre."""
    top, left, side = square or centre_square(*mask.shape)
    centres = (np.arange(size) + 0.5) * side / size
    rows = np.floor(top + centres).astype(int)
    columns = np.floor(left + centres).astype(int)
    return mask[rows[:, None], columns]
