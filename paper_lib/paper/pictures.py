"""Pictures of slots: a scene, what comes back from its slots, and what each slot holds.

Around each picture stands a frame in the paper's colours: black for what is given, and for what a
method makes of it the method's own colour.
"""

from __future__ import annotations

import math

import numpy as np
import seaborn as sns

from paper_lib.data import clevr_format as scenes
from paper_lib.metrics.set_matching import ATTRIBUTES
from paper_lib.paper import styles

BLACK = "#000000"
WHITE = 255


# ---- what is drawn into axes ----


def draw_row(ax, images: np.ndarray | None, title: str, count: int | None = None) -> None:
    """Draw images side by side, without smoothing, with a title on the left.

    images   (n, H, W, 3) uint8; None, for a run that has no pictures, leaves the row empty
    count    draw the first so many; all unless given
    """
    _only_pictures(ax)
    ax.set_ylabel(title, rotation=0, ha="right", va="center")
    if images is None:
        return
    gap = ((0, 0), (0, 0), (0, 1), (0, 0))  # a white column after each
    padded = np.pad(images[:count], gap, constant_values=WHITE)
    n, height, width, _ = padded.shape
    strip = padded.transpose(1, 0, 2, 3).reshape(height, n * width, 3)
    ax.imshow(strip, interpolation="nearest")


def draw_scene(axes, samples: dict[str, dict], index: int, titles: dict[str, str]) -> None:
    """Draw one test scene of SLATE, a row for each method.

    On every row stand the scene and the dVAE's picture of it, what comes back from the slots, and
    the scene as each slot sees it.

    axes      one for each method
    samples   method -> `RunResult.samples`, {} for a run that has none; a method's name may be
              followed by a comma and more, as in "IN, seed 1"
    titles    method -> the words on the left
    """
    given = None
    known = _first_with_pictures(samples, index)  # the scene and the dVAE are the same for all
    if known:
        given = np.stack([known["image"][index], known["dvae"][index]])
    made = {}
    for method, pictures in samples.items():
        made[method] = None
        if pictures:
            slots = slot_tiles(pictures["image"][index], pictures["attn"][index])
            made[method] = np.stack([pictures["reconstruction"][index], *slots])
    slots = known["attn"].shape[-1] if known else 0
    headings = ["scene", "dVAE", "from slots", *_slot_names(slots)]
    _draw_rows(axes, given, made, titles, headings)


def draw_decomposition(axes, samples: dict[str, dict], index: int, titles: dict[str, str]) -> None:
    """Draw one test scene of an autoencoder, a row for each method.

    On every row stand the scene and its true masks, if they are known, the reconstruction, the slot
    with the largest mask at each pixel, and every slot's component under its mask. Arguments as
    `draw_scene`'s.
    """
    given = None
    headings = ["scene"]
    known = _first_with_pictures(samples, index)
    if known:
        given = known["image"][index][None]
        if "true_masks" in known:
            given = np.stack([given[0], coloured(known["true_masks"][index])])
            headings.append("true masks")
        headings += ["from slots", "masks", *_slot_names(known["masks"].shape[1])]
    made = {}
    for method, pictures in samples.items():
        made[method] = None
        if pictures:
            masks = pictures["masks"][index]  # (K, H, W) uint8
            alpha = masks[..., None] / 255
            held = alpha * pictures["components"][index] + (1 - alpha) * WHITE
            held = held.round().astype(np.uint8)
            largest = coloured(1 + masks.argmax(0))
            made[method] = np.stack([pictures["reconstruction"][index], largest, *held])
    _draw_rows(axes, given, made, titles, headings)


def draw_predictions(
    axes, pictures: dict, index: int, title: str, colour: str, confident: float = 0.5
) -> None:
    """Draw one test scene of a set predictor: the scene and, below it, its objects; then what each
    slot sees and says.

    axes        one more than there are slots
    pictures    `RunResult.samples`; {}, for a run that has none, leaves the axes empty
    confident   a slot that is less sure than this that there is an object is paler
    """
    for ax in axes:
        _only_pictures(ax)
    axes[0].set_ylabel(title, rotation=0, ha="right", va="center")
    if not pictures:
        return
    _ensure_kept(pictures, index)
    image = pictures["image"][index]
    axes[0].imshow(bordered(image[None], BLACK)[0], interpolation="nearest")
    true = [words(row).replace("\n", " ") for row in pictures["targets"][index] if row[-1] == 1]
    axes[0].set_xlabel("\n".join(true), fontsize=4.5, labelpad=2)
    tiles = bordered(slot_tiles(image, pictures["attn"][index]), colour)
    for ax, tile, row in zip(axes[1:], tiles, pictures["predictions"][index]):
        if row[-1] >= confident:
            text, alpha, text_colour = words(row), 1, "black"
        else:
            text, alpha, text_colour = "nothing", 0.35, "0.6"
        ax.imshow(tile, interpolation="nearest", alpha=alpha)
        ax.set_title(text, fontsize=5.5, fontweight="normal", pad=2, color=text_colour)


def with_large_objects(pictures: dict, count: int) -> list[int]:
    """Return which of a set predictor's test scenes to show: those with most large objects, which
    small pictures show best. {}, for a run that has no pictures, gives the first."""
    if not pictures:
        return list(range(count))
    targets = pictures["targets"]
    large = list(scenes.SIZES).index("large")
    column = range(targets.shape[-1])[ATTRIBUTES["size"]][large]
    share = (targets[..., column] * targets[..., -1]).sum(1) / targets[..., -1].sum(1)
    return [int(index) for index in np.argsort(-share, kind="stable")[:count]]


def evenly_ahead(scores: np.ndarray, others: np.ndarray, count: int) -> list[int]:
    """Return which test scenes to show so that all are represented: those that are spread evenly
    over the order of how far one model's score is ahead of another's, the furthest first.

    Without scores, which are () then, the first scenes are.
    """
    ahead = np.asarray(scores) - np.asarray(others)
    if not len(ahead):
        return list(range(count))
    order = np.argsort(-ahead, kind="stable")
    places = (np.arange(count) + 0.5) * len(ahead) / count
    return [int(index) for index in order[places.astype(int)]]


# ---- what the pictures are made of ----


def slot_tiles(image: np.ndarray, attn: np.ndarray) -> np.ndarray:
    """Return the image as each slot sees it, white where a slot holds nothing: (K, H, W, 3) uint8.

    image (H, W, 3) uint8; attn (N, K), masks on a square grid of N tokens.
    """
    side = math.isqrt(len(attn))
    scale = len(image) // side
    masks = attn.astype(np.float32).T.reshape(-1, side, side)
    masks = masks.repeat(scale, 1).repeat(scale, 2)[..., None]
    return (masks * image + (1 - masks) * WHITE).round().astype(np.uint8)


def bordered(tiles: np.ndarray, colour: str) -> np.ndarray:
    """Return tiles (n, H, W, 3) with a frame around each; `colour` is such as "#1f4e9c"."""
    width = max(1, tiles.shape[1] // 32)
    n, height, length, _ = tiles.shape
    framed = np.empty((n, height + 2 * width, length + 2 * width, 3), np.uint8)
    framed[:] = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    framed[:, width:-width, width:-width] = tiles
    return framed


def coloured(segments: np.ndarray) -> np.ndarray:
    """Return a colour for each number of a mask (H, W), grey for 0: (H, W, 3) uint8."""
    grey = (0.85, 0.85, 0.85)
    palette = np.array([grey, *sns.color_palette("tab10", max(int(segments.max()), 1))])
    return (255 * palette[segments]).round().astype(np.uint8)


def words(properties: np.ndarray) -> str:
    """Say what object a row of 19 properties is, true or predicted, on two lines.

    An example is "small red" above "metal cylinder".
    """
    names = {
        "size": tuple(scenes.SIZES),
        "material": scenes.MATERIALS,
        "shape": scenes.SHAPES,
        "colour": tuple(scenes.COLOURS),
    }
    said = {}
    for attribute, columns in ATTRIBUTES.items():
        said[attribute] = names[attribute][int(properties[columns].argmax())]
    return f"{said['size']} {said['colour']}\n{said['material']} {said['shape']}"


def _draw_rows(axes, given, made: dict, titles: dict[str, str], headings: list[str]) -> None:
    """Draw on each row what is given, and then what the method made.

    given     (n, H, W, 3), or None where no run has pictures
    made      method -> (m, H, W, 3), or None for a run that has no pictures
    headings  n + m words, above the first row
    """
    for ax, (method, own) in zip(axes, made.items()):
        tiles = None
        if own is not None:
            colour = styles.colour(method.split(",")[0])
            tiles = np.concatenate([bordered(given, BLACK), bordered(own, colour)])
        draw_row(ax, tiles, titles[method])
    drawn = [len(own) for own in made.values() if own is not None]
    if drawn and made and next(iter(made.values())) is not None:
        width = bordered(given, BLACK).shape[2] + 1  # with the white column between
        centres = width * (np.arange(len(given) + drawn[0]) + 0.5) - 1
        axes[0].set_xticks(centres, headings)
        axes[0].tick_params(top=False, labeltop=True, bottom=False, labelbottom=False, pad=1)
        axes[0].tick_params(labelsize=6, length=0)


def _slot_names(count: int) -> list[str]:
    return [f"slot {k}" for k in range(1, count + 1)]


def _first_with_pictures(samples: dict[str, dict], index: int) -> dict | None:
    known = next((pictures for pictures in samples.values() if pictures), None)
    if known:
        _ensure_kept(known, index)
    return known


def _ensure_kept(pictures: dict, index: int) -> None:
    """Raise ValueError where a run has pictures, but none of this scene."""
    kept = len(pictures["image"])
    if index >= kept:
        raise ValueError(
            f"scenes: a picture of scene {index + 1} is asked for, and the run keeps {kept}; ask "
            f"for at most {kept}, or have runs keep more (sample_images, data.num_scenes)"
        )


def _only_pictures(ax) -> None:
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)
