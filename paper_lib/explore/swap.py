"""Swap a slot between two scenes, and see what becomes of both."""

from __future__ import annotations

import math
from collections.abc import Iterable

import ipywidgets as w
import numpy as np
import torch

from paper_lib.explore.trajectory import Trajectory
from paper_lib.explore.views import generate, image_url
from paper_lib.models import SLATE
from paper_lib.paper.pictures import slot_tiles


class Swap:
    """The part of the page with two scenes: one slot of each changes places.

    explorer   the `Explorer`, whose models, scenes and searches are used
    """

    def __init__(self, explorer):
        self.explorer = explorer
        self.model = w.Dropdown(options=list(explorer.models), description="model")
        count = explorer.scene.max
        self.scenes = [
            w.IntSlider(1, 1, count, description="scene A", continuous_update=False),
            w.IntSlider(2, 1, count, description="scene B", continuous_update=False),
        ]
        slots = [(f"slot {k + 1}", k) for k in range(explorer.slots.value)]
        self.slots = [
            w.Dropdown(options=slots, value=0, description="of A"),
            w.Dropdown(options=slots, value=0, description="of B"),
        ]
        self.button = w.Button(description="swap and regenerate", button_style="primary")
        self.result = w.HTML()
        self.button.on_click(lambda button: self.show())
        for changing in (self.model, *self.scenes):
            changing.observe(lambda change: self.choose(), "value")
        explorer.slots.observe(self._offer_slots, "value")
        self.choose()
        row = w.Layout(flex_flow="row wrap", align_items="center")
        self.widget = w.VBox(
            [
                w.HBox([self.model, *self.scenes], layout=row),
                w.HBox([*self.slots, self.button], layout=row),
                self.result,
            ]
        )

    def choose(self) -> None:
        """Choose of each scene the slot that holds its largest object, and show the two swapped."""
        for scene, slot in zip(self.scenes, self.slots):
            _, mask = self.explorer.image(scene.value)
            found = self.explorer.search(self.model.value, scene.value)
            slot.value = slot_of_largest_object(mask, found.attn[-1].numpy())
        self.show()

    def show(self) -> None:
        """Search in both scenes, regenerate each from its slots, and with one slot swapped."""
        name = self.model.value
        found = [self.explorer.search(name, scene.value) for scene in self.scenes]
        chosen = tuple(slot.value for slot in self.slots)
        pictures = regenerated(self.explorer.models[name], found, chosen)
        rows = []
        for i, letter in enumerate("AB"):
            image, _ = self.explorer.image(self.scenes[i].value)
            tiles = slot_tiles(image, found[i].attn[-1].numpy())
            shown = {f"scene {letter}": image, "from its slots": pictures[i]}
            shown["with the other's slot"] = pictures[i + 2]
            for k, tile in enumerate(tiles):
                shown[f"slot {k + 1}" + (" (swapped)" if k == chosen[i] else "")] = tile
            rows.append(_row(shown.items()))
        self.result.value = "".join(rows)

    def _offer_slots(self, change) -> None:
        for choice in self.slots:
            choice.options = [(f"slot {k + 1}", k) for k in range(change["new"])]
        self.choose()


def regenerated(model: SLATE, found: list[Trajectory], chosen: tuple[int, int]) -> np.ndarray:
    """Regenerate two scenes from the slots that were found, and with a chosen one swapped.

    Returns pictures (4, H, W, 3) uint8: both from their own slots, then both with the other's.
    """
    own = torch.stack([search.slots[-1] for search in found])
    a, b = chosen
    swapped = own.clone()
    swapped[0, a], swapped[1, b] = own[1, b], own[0, a]
    return generate(model, torch.cat([own, swapped]))


def slot_of_largest_object(mask: np.ndarray, attn: np.ndarray) -> int:
    """Return the slot that holds most of the object with most pixels; 0 where there is no object.

    mask (H, W), 0 for the background and k for object k; attn (N, K) on a square grid of N tokens.
    """
    pixels = np.bincount(mask.ravel())[1:]
    if not pixels.any():
        return 0
    side = math.isqrt(len(attn))
    scale = len(mask) // side
    of_object = mask == 1 + pixels.argmax()
    share = of_object.reshape(side, scale, side, scale).mean((1, 3)).ravel()  # of every token
    return int((share @ attn).argmax())


def _row(shown: Iterable[tuple[str, np.ndarray]]) -> str:
    figures = [
        f'<figure style="margin:0 6px 6px 0;display:inline-block;text-align:center">'
        f'<img src="{image_url(image)}" alt="{words}" width="96" height="96" '
        f'style="image-rendering:pixelated"><figcaption style="font-size:12px">{words}'
        "</figcaption></figure>"
        for words, image in shown
    ]
    return f'<div style="display:flex;flex-wrap:wrap">{"".join(figures)}</div>'
