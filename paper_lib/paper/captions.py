"""The line under a figure: where its pictures come from, how long was trained, at which scale."""

from __future__ import annotations

import os

from paper_lib.paper import figures
from paper_lib.paper.locatello import LOCATELLO_SCALES
from paper_lib.paper.parameters import Parameters
from paper_lib.paper.profiles import scale_of

_SOURCES = {
    ("clevr_mirror", "generator"): "Generated CLEVR-Mirror scenes, not the authors' files.",
    ("clevr", "generator"): "Generated CLEVR scenes, not the authors' files.",
    ("shapestacks", "generator"): "Generated ShapeStacks scenes, not the authors' files.",
    ("photos", "generator"): "Crops of 7 photographs (5 to train on, 1 to validate, 1 to test), "
    "in place of COCO.",
    ("clevr_mirror", "files"): "CLEVR-Mirror scenes, the authors' files.",
    ("clevr", "files"): "CLEVR scenes, the authors' files.",
    ("clevr_with_masks", "files"): "CLEVR with masks, the authors' file.",
    ("shapestacks", "files"): "ShapeStacks scenes, the authors' files.",
    ("coco", "files"): "COCO-2017, the authors' files.",
}


def caption(given: Parameters, *configs) -> str:
    """Return the caption of a figure that shows these runs: on one data set or several, of SLATE or
    of Locatello et al.'s models. Without configs it is that of the pair that most figures compare.
    """
    configs = configs or figures.vanilla_and_implicit(given)["IN"]
    sources = []
    for config in configs:
        name, door = config.data.name, config.data.door
        whose = "generated" if door == "generator" else "the authors' files"
        sources.append(_SOURCES.get((name, door), f"{name}, {whose}."))
    steps = sorted({config.training.steps for config in configs})
    if configs[0].kind == "slate":
        scales = [scale_of(given, config) for config in configs]
    else:
        scales = [LOCATELLO_SCALES[given.profile]]
    text = " ".join(dict.fromkeys(sources))
    if os.environ.get("PAPER_REPLAYED"):
        text = f"Replayed from the committed results, not made here. {text}"
    text += f" {' or '.join(f'{n:,}' for n in steps)} training steps."
    text += f" Scale ({given.profile}): {'; and '.join(dict.fromkeys(scales))}."
    if given.overrides:
        changes = ", ".join(f"{name} = {value}" for name, value in given.overrides.items())
        text += f" Overridden: {changes}."
    return text
