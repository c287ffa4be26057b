"""What a data set holds, in words and in one picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from paper_lib import data
from paper_lib.data import clevr_format
from paper_lib.data.generators import shapestacks_scenes
from paper_lib.system.files import whole

MOST = 2_000  # images that statistics are taken over

# Background and instances of a mask: distinct, and none of them black or white.
PALETTE = np.array(
    [
        (60, 60, 60),
        (230, 75, 53),
        (77, 187, 213),
        (0, 160, 135),
        (60, 84, 136),
        (243, 155, 127),
        (132, 145, 180),
        (145, 209, 194),
        (220, 0, 0),
        (126, 97, 72),
        (240, 200, 60),
        (160, 90, 200),
    ],
    dtype=np.uint8,
)

# What the one-hot columns of `properties` mean: data set -> property -> first column and names.
ONE_HOT = {
    "clevr_mirror": clevr_format.ONE_HOT,
    "clevr": clevr_format.ONE_HOT,
    "shapestacks": shapestacks_scenes.ONE_HOT,
}
WORD_ORDER = ("size", "colour", "material", "shape")  # large red metal cube


def card(name: str, sets: dict[str, data.Dataset]) -> str:
    """Return counts, sizes, statistics, source and licence of a data set's splits as text."""
    train = sets["train"]
    source = train.source
    mean, deviation = statistics(train.images)
    lines = {
        "data set": name,
        "door": source["door"] + (f" ({source['root']})" if "root" in source else ""),
        "version": source["version"],
        "licence": _licence(name, source),
        "settings": ", ".join(f"{k}={v}" for k, v in source["settings"].items()),
        "images": ", ".join(f"{split} {len(found):,}" for split, found in sets.items()),
        "size": f"{train.images.shape[1]}x{train.images.shape[2]}, 8 bits, sRGB",
        "mean (RGB)": " ".join(f"{v:.3f}" for v in mean),
        "standard deviation": " ".join(f"{v:.3f}" for v in deviation),
    }
    if train.masks is not None:
        counts = object_counts(train.masks[:MOST])
        lines["instances"] = f"{counts.min()} to {counts.max()} an image, mean {counts.mean():.1f}"
    said = {"name", "door", "version", "settings", "split", "root", "licence"}
    for key, value in source.items():
        if key not in said:
            lines[key.replace("_", " ")] = in_words(value)
    width = max(map(len, lines))
    return "\n".join(f"{key:{width}}  {value}" for key, value in lines.items())


def _licence(name: str, source: dict) -> str:
    if source["door"] == "generator":
        return data.DATASETS[name].licence
    return source.get("licence", "the authors'")


def statistics(images: np.ndarray, most: int = MOST) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation (3,) of the channels of uint8 images (N, H, W, 3).

    They are in [0, 1], over at most `most` of the images, evenly spaced.
    """
    sample = images[:: max(1, -(-len(images) // most))].reshape(-1, 3) / 255
    return sample.mean(0), sample.std(0)


def object_counts(masks: np.ndarray) -> np.ndarray:
    """Return how many instances each mask of (N, H, W) shows: (N,)."""
    return np.array([len(np.unique(mask[mask > 0])) for mask in masks])


def in_words(value) -> str:
    """Return a value of a source dict as text: lists by commas, dicts by semicolons."""
    if isinstance(value, dict):
        return "; ".join(f"{k}: {in_words(v)}" for k, v in value.items())
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def describe(name: str, properties: np.ndarray) -> list[str]:
    """Return properties (max_objects, columns) of one item in words, one text an object."""
    present = properties[properties[:, -1] == 1]
    return [" ".join(_words(ONE_HOT[name], row)) for row in present]


def _words(one_hot: dict, row: np.ndarray) -> list[str]:
    words = []
    for property_name in WORD_ORDER:
        if property_name in one_hot:
            first, names = one_hot[property_name]
            words.append(names[int(row[first : first + len(names)].argmax())])
    return words


def shares(name: str, properties: np.ndarray, property_name: str) -> dict[str, float]:
    """Return the share of all objects that have each value of a property, such as "colour".

    `properties` are those of a data set, (N, max_objects, columns).
    """
    first, names = ONE_HOT[name][property_name]
    present = properties[properties[..., -1] == 1]
    return dict(zip(names, present[:, first : first + len(names)].mean(0).tolist()))


def colour_mask(mask: np.ndarray) -> np.ndarray:
    """Return instance numbers (..., H, W) as uint8 colours (..., H, W, 3)."""
    instance_colours = len(PALETTE) - 1
    return PALETTE[np.where(mask > 0, 1 + (mask.astype(int) - 1) % instance_colours, 0)]


def contact_sheet(dataset: data.Dataset, path: Path, columns: int = 12, most: int = 48) -> None:
    """Write a PNG of the first images, each with its mask below where there are masks."""
    tiles = np.array(dataset.images[:most])
    if dataset.masks is not None:
        tiles = np.concatenate([tiles, colour_mask(np.array(dataset.masks[:most]))], axis=1)
    tiles = np.pad(tiles, ((0, -len(tiles) % columns), (1, 1), (1, 1), (0, 0)), constant_values=255)
    n, height, width, _ = tiles.shape
    rows = tiles.reshape(n // columns, columns, height, width, 3).swapaxes(1, 2)
    sheet = rows.reshape(n // columns * height, columns * width, 3)
    with whole(path) as temporary:
        Image.fromarray(sheet).save(temporary)
