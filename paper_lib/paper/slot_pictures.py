"""Pictures of slots: a scene, what comes back from its slots, and what each slot holds, with borders in the paper's colours."""

from __future__ import annotations

import math

import numpy as np
import seaborn as sns

from paper_lib.data import clevr_format as scenes
from paper_lib.metrics.set_matching import ATTRIBUTES
from paper_lib.paper import plots

BLACK = "#000000"  # the paper's border of the ground truth; reconstructions and masks have their method's colour


def slot_tiles(image: np.ndarray, attn: np.ndarray) -> np.ndarray:
    """The image as each slot sees it, white where a slot holds nothing: (K, H, W, 3) uint8.

    image (H, W, 3) uint8; attn (N, K), masks on a square grid of N tokens.
    """
    side = math.isqrt(len(attn))
    scale = len(image) // side
    masks = (
        attn.astype(np.float32)
        .T.reshape(-1, side, side)
        .repeat(scale, 1)
        .repeat(scale, 2)[..., None]
    )
    return (masks * image + (1 - masks) * 255).round().astype(np.uint8)


def bordered(tiles: np.ndarray, colour: str) -> np.ndarray:
    """Tiles (n, H, W, 3) with a frame around each."""
    width = max(1, tiles.shape[1] // 32)
    framed = np.empty(
        (len(tiles), *(length + 2 * width for length in tiles.shape[1:3]), 3), np.uint8
    )
    framed[:] = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    framed[:, width:-width, width:-width] = tiles
    return framed


def draw_scene(axes, samples: dict[str, dict], index: int, titles: dict[str, str]) -> None:
    """One test scene, a row of pictures for each method: on the first the scene and the dVAE's picture of it, then the reconstruction and every slot.

    axes: one for each method; samples: method -> `Run.samples` (empty for a run that has none); titles: method -> the words on the left.
    """
    known = next(
        (pictures for pictures in samples.values() if pictures), None
    )  # the scene and the dVAE are the same for all
    given = (
        None
        if known is None
        else bordered(np.stack([known["image"][index], known["dvae"][index]]), BLACK)
    )
    for row, (ax, (method, pictures)) in enumerate(zip(axes, samples.items())):
        tiles = given if row == 0 else None
        if pictures:
            parts = np.stack(
                [
                    pictures["reconstruction"][index],
                    *slot_tiles(pictures["image"][index], pictures["attn"][index]),
                ]
            )
            made = bordered(parts, plots.COLOURS[method.split(",")[0]])
            tiles = np.concatenate([given if row == 0 else np.full_like(given, 255), made])
        plots.pictures(ax, tiles, titles[method], first=99)


def coloured(segments: np.ndarray) -> np.ndarray:
    """A colour for each number of a mask (H, W), grey for 0: (H, W, 3) uint8."""
    palette = np.array(
        [(0.85, 0.85, 0.85), *sns.color_palette("tab10", max(int(segments.max()), 1))]
    )
    return (255 * palette[segments]).round().astype(np.uint8)


def draw_decomposition(axes, samples: dict[str, dict], index: int, titles: dict[str, str]) -> None:
    """One test scene of an autoencoder, a row for each method: on the first the scene and its true masks, then the reconstruction, the largest mask at each
    pixel, and every slot's component under its mask. Arguments as `draw_scene`'s."""
    known = next((pictures for pictures in samples.values() if pictures), None)
    given = None
    if known is not None:
        true = [coloured(known["true_masks"][index])] if "true_masks" in known else []
        given = bordered(np.stack([known["image"][index], *true]), BLACK)
    for row, (ax, (method, pictures)) in enumerate(zip(axes, samples.items())):
        tiles = given if row == 0 else None
        if pictures:
            masks = pictures["masks"][index]
            alpha = masks[..., None] / 255
            held = (
                (alpha * pictures["components"][index] + (1 - alpha) * 255).round().astype(np.uint8)
            )
            made = np.stack(
                [pictures["reconstruction"][index], coloured(1 + masks.argmax(0)), *held]
            )
            tiles = np.concatenate(
                [
                    given if row == 0 else np.full_like(given, 255),
                    bordered(made, plots.COLOURS[method]),
                ]
            )
        plots.pictures(ax, tiles, titles[method], first=99)


def words(properties: np.ndarray) -> str:
    """A row of 19 properties, true or predicted, as two lines: small red metal / cylinder."""
    names = {
        "size": tuple(scenes.SIZES),
        "material": scenes.MATERIALS,
        "shape": scenes.SHAPES,
        "colour": tuple(scenes.COLOURS),
    }
    said = {
        name: names[name][int(properties[columns].argmax())] for name, columns in ATTRIBUTES.items()
    }
    return f"{said['size']} {said['colour']}\n{said['material']} {said['shape']}"


def draw_predictions(
    axes, pictures: dict, index: int, title: str, colour: str, confident: float = 0.5
) -> None:
    """One test scene of a set predictor: the scene with what is in it, then what each slot sees and says; slots that say nothing is there, paler.

    axes: one more than there are slots; pictures: `Run.samples`, or {} for a run that has none.
    """
    for ax in axes:
        ax.set_xticks([]), ax.set_yticks([])
        ax.spines[:].set_visible(False)
    axes[0].set_ylabel(title, rotation=0, ha="right", va="center")
    if not pictures:
        return
    image, predictions = pictures["image"][index], pictures["predictions"][index]
    axes[0].imshow(bordered(image[None], BLACK)[0], interpolation="nearest")
    for ax, tile, row in zip(axes[1:], slot_tiles(image, pictures["attn"][index]), predictions):
        sure = row[-1] >= confident
        ax.imshow(
            bordered(tile[None], colour)[0], interpolation="nearest", alpha=1 if sure else 0.35
        )
        ax.set_title(
            f"{words(row)}" if sure else "nothing",
            fontsize=5.5,
            fontweight="normal",
            pad=2,
            color="black" if sure else "0.6",
        )
