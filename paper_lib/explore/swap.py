"""Swap a slot between two scenes, and see what becomes of both."""

from __future__ import annotations

from collections.abc import Iterable

import ipywidgets as w
import numpy as np
import torch

from paper_lib.explore.views import generate, image_url
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
            changing.observe(lambda change: self.show(), "value")
        explorer.slots.observe(self._offer_slots, "value")
        self.show()
        row = w.Layout(flex_flow="row wrap", align_items="center")
        self.widget = w.VBox(
            [
                w.HBox([self.model, *self.scenes], layout=row),
                w.HBox([*self.slots, self.button], layout=row),
                self.result,
            ]
        )

    def show(self) -> None:
        """Search in both scenes, regenerate each from its slots, and with one slot swapped."""
        name = self.model.value
        found = [self.explorer.search(name, scene.value) for scene in self.scenes]
        own = torch.stack([search.slots[-1] for search in found])
        a, b = (slot.value for slot in self.slots)
        swapped = own.clone()
        swapped[0, a], swapped[1, b] = own[1, b], own[0, a]
        pictures = generate(self.explorer.models[name], torch.cat([own, swapped]))
        rows = []
        for i, letter in enumerate("AB"):
            image, _ = self.explorer.image(self.scenes[i].value)
            tiles = slot_tiles(image, found[i].attn[-1].numpy())
            shown = {f"scene {letter}": image, "from its slots": pictures[i]}
            shown["with the other's slot"] = pictures[i + 2]
            given_away = (a, b)[i]
            for k, tile in enumerate(tiles):
                shown[f"slot {k + 1}" + (" (swapped)" if k == given_away else "")] = tile
            rows.append(_row(shown.items()))
        self.result.value = "".join(rows)

    def _offer_slots(self, change) -> None:
        for choice in self.slots:
            choice.options = [(f"slot {k + 1}", k) for k in range(change["new"])]
        self.show()


def _row(shown: Iterable[tuple[str, np.ndarray]]) -> str:
    figures = [
        f'<figure style="margin:0 6px 6px 0;display:inline-block;text-align:center">'
        f'<img src="{image_url(image)}" alt="{words}" width="96" height="96" '
        f'style="image-rendering:pixelated"><figcaption style="font-size:12px">{words}'
        "</figcaption></figure>"
        for words, image in shown
    ]
    return f'<div style="display:flex;flex-wrap:wrap">{"".join(figures)}</div>'
