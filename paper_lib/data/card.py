"""What a data set holds, in words and in one picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from paper_lib import data
from paper_lib.data.generators import clevr_scenes as scenes
from paper_lib.data.generators import shapestacks_scenes as stacks
from paper_lib.system.files import whole

# Background and instances of a mask: distinct, and none of them black or white
PALETTE = np.array([(60, 60, 60), (230, 75, 53), (77, 187, 213), (0, 160, 135), (60, 84, 136), (243, 155, 127), (132, 145, 180), (145, 209, 194),
                    (220, 0, 0), (126, 97, 72), (240, 200, 60), (160, 90, 200)], dtype=np.uint8)  # fmt: skip


def statistics(images: np.ndarray, most: int = 2_000) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (3,) of the channels of uint8 images (N, H, W, 3), in [0, 1], over at most `most` of them, evenly spaced."""
    sample = images[:: max(1, -(-len(images) // most))].reshape(-1, 3) / 255
    return sample.mean(0), sample.std(0)


def object_counts(masks: np.ndarray) -> np.ndarray:
    """How many instances each mask of (N, H, W) shows: (N,)."""
    return np.array([len(np.unique(mask[mask > 0])) for mask in masks])


def card(name: str, sets: dict) -> str:
    """Text: split -> Dataset in, counts, sizes, statistics, source and licence out."""
    train = sets["train"]
    mean, deviation = statistics(train.images)
    source = train.source
    lines = {
        "data set": name,
        "door": source["door"] + (f" ({source['root']})" if "root" in source else ""),
        "version": source["version"],
        "licence": data.DATASETS[name].licence
        if source["door"] == "generator"
        else source.get("licence", "the authors'"),
        "settings": ", ".join(f"{k}={v}" for k, v in source["settings"].items()),
        "images": ", ".join(f"{split} {len(found):,}" for split, found in sets.items()),
        "size": f"{train.images.shape[1]}x{train.images.shape[2]}, 8 bits, sRGB",
        "mean (RGB)": " ".join(f"{v:.3f}" for v in mean),
        "standard deviation": " ".join(f"{v:.3f}" for v in deviation),
    }
    if train.masks is not None:
        counts = object_counts(train.masks[:2_000])
        lines["instances"] = f"{counts.min()} to {counts.max()} an image, mean {counts.mean():.1f}"
    extra = {
        k: v
        for k, v in source.items()
        if k not in ("name", "door", "version", "settings", "split", "root", "licence")
    }
    lines |= {key.replace("_", " "): in_words(value) for key, value in extra.items()}
    width = max(map(len, lines))
    return "\n".join(f"{key:{width}}  {value}" for key, value in lines.items())


def in_words(value) -> str:
    """A value of a source dict as text: lists by commas, dicts by semicolons."""
    if isinstance(value, dict):
        return "; ".join(f"{k}: {in_words(v)}" for k, v in value.items())
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def colour_mask(mask: np.ndarray) -> np.ndarray:
    """(..., H, W) instance numbers -> (..., H, W, 3) uint8 colours."""
    return PALETTE[np.where(mask > 0, 1 + (mask.astype(int) - 1) % (len(PALETTE) - 1), 0)]


def contact_sheet(dataset, path: Path, columns: int = 12, most: int = 48) -> None:
    """A PNG of the first images, each with its mask below where there are masks."""
    images = np.array(dataset.images[:most])
    tiles = (
        images
        if dataset.masks is None
        else np.concatenate([images, colour_mask(np.array(dataset.masks[:most]))], 1)
    )
    tiles = np.pad(tiles, ((0, -len(tiles) % columns), (1, 1), (1, 1), (0, 0)), constant_values=255)
    n, height, width, _ = tiles.shape
    sheet = (
        tiles.reshape(n // columns, columns, height, width, 3)
        .swapaxes(1, 2)
        .reshape(n // columns * height, columns * width, 3)
    )
    with whole(path) as temporary:
        Image.fromarray(sheet).save(temporary)


# What the one-hot columns of `properties` mean: data set -> property -> first column and names. See scenes.properties and stacks.properties.
_CLEVR = {
    "size": (3, tuple(scenes.SIZES)),
    "colour": (10, tuple(scenes.COLOURS)),
    "material": (5, scenes.MATERIALS),
    "shape": (7, scenes.SHAPES),
}
COLUMNS = {
    "clevr_mirror": _CLEVR,
    "clevr": _CLEVR,
    "shapestacks": {"colour": (9, tuple(stacks.COLOURS)), "shape": (6, stacks.SHAPES)},
}


def describe(name: str, properties: np.ndarray) -> list[str]:
    """Properties (max_objects, columns) of one item in words, such as "large red metal cube"; one text an object."""
    present = properties[properties[:, -1] == 1]
    return [
        " ".join(
            names[int(row[first : first + len(names)].argmax())]
            for first, names in COLUMNS[name].values()
        )
        for row in present
    ]


def shares(name: str, properties: np.ndarray, property_name: str) -> dict[str, float]:
    """Share of all objects in properties (N, max_objects, columns) that have each value of a property, such as "colour"."""
    first, names = COLUMNS[name][property_name]
    present = properties[properties[..., -1] == 1]
    return dict(zip(names, present[:, first : first + len(names)].mean(0).tolist()))
