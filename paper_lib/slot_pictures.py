"""Pictures of slots: a scene, what comes back from its slots, and what each slot holds, with borders in the paper's colours."""

from __future__ import annotations

import math

import numpy as np

from paper_lib import plots

BLACK = "#000000"  # the paper's border of the ground truth; reconstructions and masks have their method's colour


def slot_tiles(image: np.ndarray, attn: np.ndarray) -> np.ndarray:
    """The image as each slot sees it, white where a slot holds nothing: (K, H, W, 3) uint8.

    image (H, W, 3) uint8; attn (N, K), masks on a square grid of N tokens.
    """
    side = math.isqrt(len(attn))
    scale = len(image) // side
    masks = attn.astype(np.float32).T.reshape(-1, side, side).repeat(scale, 1).repeat(scale, 2)[..., None]
    return (masks * image + (1 - masks) * 255).round().astype(np.uint8)


def bordered(tiles: np.ndarray, colour: str) -> np.ndarray:
    """Tiles (n, H, W, 3) with a frame around each."""
    width = max(1, tiles.shape[1] // 32)
    framed = np.empty((len(tiles), *(length + 2 * width for length in tiles.shape[1:3]), 3), np.uint8)
    framed[:] = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    framed[:, width:-width, width:-width] = tiles
    return framed


def draw_scene(axes, samples: dict[str, dict], index: int, titles: dict[str, str]) -> None:
    """One test scene, a row of pictures for each method: on the first the scene and the dVAE's picture of it, then the reconstruction and every slot.

    axes: one for each method; samples: method -> `Run.samples` (empty for a run that has none); titles: method -> the words on the left.
    """
    known = next((pictures for pictures in samples.values() if pictures), None)  # the scene and the dVAE are the same for all
    given = None if known is None else bordered(np.stack([known["image"][index], known["dvae"][index]]), BLACK)
    for row, (ax, (method, pictures)) in enumerate(zip(axes, samples.items())):
        tiles = given if row == 0 else None
        if pictures:
            parts = np.stack([pictures["reconstruction"][index], *slot_tiles(pictures["image"][index], pictures["attn"][index])])
            made = bordered(parts, plots.COLOURS[method.split(",")[0]])
            tiles = np.concatenate([given if row == 0 else np.full_like(given, 255), made])
        plots.pictures(ax, tiles, titles[method], first=99)
