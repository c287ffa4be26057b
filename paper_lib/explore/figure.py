"""The search for slots as a figure, for paper."""

from __future__ import annotations

import numpy as np

from paper_lib.explore.trajectory import applications_of, initial_noise, trajectory
from paper_lib.metrics import segments
from paper_lib.models import SLATE
from paper_lib.paper.pictures import BLACK, bordered, coloured, draw_row
from paper_lib.paper.styles import colour, name


def draw_search(ax, model: SLATE, image: np.ndarray, index: int, method: str) -> None:
    """Draw test scene `index`, and which slot holds what of it after every application of the cell.

    image (H, W, 3) uint8. The initial slots are those that committed results have for that scene.
    """
    attention = model.slot_attn.slot_attention
    noise = initial_noise(model, 0, model.config.num_slots, index)
    found = trajectory(model, image, noise, attention.solver, applications_of(model))
    held = [coloured(1 + winners) for winners in segments(found.attn, len(image))]
    mixed = (0.5 * np.stack(held) + 0.5 * image).astype(np.uint8)
    tiles = [bordered(image[None], BLACK), bordered(mixed, colour(method))]
    draw_row(ax, np.concatenate(tiles), name(method))
