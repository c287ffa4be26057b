"""The static page: the viewer with pictures that were made before. It needs no kernel, no server
and no network.

    python -m paper_lib.explore.page [--profile cpu] [--out docs/explore.html]
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from string import Template

import numpy as np
import pandas as pd

from paper_lib.explore import swap, trained
from paper_lib.explore.scenes import scenes
from paper_lib.explore.trajectory import Trajectory, applications_of, initial_noise, trajectory
from paper_lib.explore.views import STATIC, image_url, panel, pictures_of, view
from paper_lib.metrics import foreground_ari, segments
from paper_lib.models import SLATE
from paper_lib.paper import figures, parameters, results, styles
from paper_lib.paper.captions import caption
from paper_lib.paper.parameters import Parameters
from paper_lib.paper.profiles import PROFILES
from paper_lib.runs import ROOT, get, get_all
from paper_lib.system.files import whole
from paper_lib.system.progress import bar

SCENES = 8  # of each data set
NAMES = {method: words for words, method in trained.METHODS.items()}
TITLES = {"clevr_mirror": "CLEVR-Mirror", "shapestacks": "ShapeStacks"}


def page(given: Parameters, count: int = SCENES) -> str:
    """Return the page as HTML: scenes x models x applications x slots."""
    views, swaps = all_views(given, count)
    scored = get_all(figures.flagship(given), given)
    runs = {name: [get(run.config.slate, given) for run in group] for name, group in scored.items()}
    seeds = len(scored["IN"])
    text = Template((STATIC / "page.html").read_text())
    return text.substitute(
        css=(STATIC / "viewer.css").read_text(),
        js=(STATIC / "viewer.js").read_text().replace("</", "<\\/"),
        options=_options(views),
        count=count,
        sketch=_sketch(),
        implicit_colour=styles.colour("IN"),
        vanilla_colour=styles.colour("vanilla"),
        data=json.dumps(views).replace("</", "<\\/"),
        swaps=json.dumps(swaps).replace("</", "<\\/"),
        seeds=f"{seeds} seed" + ("s" if seeds > 1 else ""),
        table=_numbers(scored, runs).to_html(index=False, border=0),
        caption=caption(given, *results.configs(runs)),
    )


def all_views(given: Parameters, count: int) -> tuple[dict[str, dict], dict[str, dict]]:
    """Return the views of the page by the words in its menu, and by the same words what `_swapped`
    makes of a scene and the one after it."""
    configs = trained.slates(given)
    views, swaps = {}, {}
    with bar(count * len(configs), "explore", "scene") as progress:
        for data in dict.fromkeys(config.data for config in configs.values()):
            images, masks = (of_all[:count] for of_all in scenes(data, given))
            of_data = {c.method: get(c, given) for c in configs.values() if c.data == data}
            models = {method: trained.model_of(run) for method, run in of_data.items()}
            found = {method: _searches(model, images) for method, model in models.items()}
            for k in range(len(images)):
                panels = []
                for method, model in models.items():
                    search, title = found[method][k], NAMES[method]
                    pictures = pictures_of(model, search, _wanted(search))
                    made = panel(method, title, styles.colour(method), search, pictures)
                    panels.append(made | {"score": _score(masks[k], search)})
                    progress.update()
                name = f"{TITLES.get(data.name, data.name)} {k + 1}"
                views[name] = view(images[k], masks[k], panels)
                pair = [k, (k + 1) % len(images)]
                swaps[name] = _swapped(models, found, images, masks, pair)
    return views, swaps


def _score(mask: np.ndarray, found: Trajectory) -> float:
    """Return the FG-ARI of the masks at the end of a search; nan for a scene without objects."""
    held = segments(found.attn[-1:], len(mask))
    return float(foreground_ari(mask[None].astype(int), held)[0])


def _options(views: dict[str, dict]) -> str:
    """Return the menu of scenes, with every model's score.

    The page opens on the scene of the first data set that is the median by how far the first
    model's score is above the second's.
    """
    scores = {
        name: {panel["name"]: panel["score"] for panel in view["panels"]}
        for name, view in views.items()
    }
    first_set = next(iter(views)).rpartition(" ")[0]
    candidates = [name for name in views if name.startswith(first_set)]
    ahead = {name: _ahead(list(scores[name].values())) for name in candidates}
    opened = sorted(candidates, key=ahead.get)[len(candidates) // 2]
    options = []
    for name, of_models in scores.items():
        said = ", ".join(f"{model} {score:.2f}" for model, score in of_models.items())
        selected = " selected" if name == opened else ""
        options.append(f'<option value="{name}"{selected}>{name}: {said}</option>')
    return "".join(options)


def _ahead(scores: list[float]) -> float:
    """Return how far the first score is above the last; 0 where that is no number."""
    return float(np.nan_to_num(scores[0] - scores[-1]))


def _searches(model: SLATE, images: np.ndarray) -> list[Trajectory]:
    """Return the search for the slots of each image, as the model was trained to search."""
    solver, applications = model.slot_attn.slot_attention.solver, applications_of(model)
    slots = model.config.num_slots
    return [
        trajectory(model, image, initial_noise(model, 0, slots, k), solver, applications)
        for k, image in enumerate(images)
    ]


def _swapped(models: dict, found: dict, images, masks, pair: list[int]) -> dict:
    """Swap between two scenes the slots that hold their largest objects, in every model.

    Returns the scenes, and of each method what comes back from their slots, and after the swap.
    """
    swaps = {}
    for method, model in models.items():
        searches = [found[method][k] for k in pair]
        chosen = tuple(
            swap.slot_of_largest_object(masks[k], search.attn[-1].numpy())
            for k, search in zip(pair, searches)
        )
        pictures = swap.regenerated(model, searches, chosen)
        swaps[NAMES[method]] = [image_url(picture) for picture in pictures]
    return {"scenes": [image_url(images[k]) for k in pair], "methods": swaps}


def _wanted(found: Trajectory) -> list[tuple[int, list[bool]]]:
    """Return what is drawn: all slots after every application, and at the end every slot alone and
    all but every slot."""
    count, slots = found.slots.shape[:2]
    wanted = [(n, [True] * slots) for n in range(1, count + 1)]
    for k in range(slots):
        alone = [j == k for j in range(slots)]
        wanted += [(count, alone), (count, [not on for on in alone])]
    return wanted


def _sketch() -> str:
    """Return what is drawn of the two ways back from the loss: elements of an SVG of 620 x 176."""
    drawn = []
    for row, (method, name) in enumerate(NAMES.items()):
        y = 28 + 88 * row
        drawn.append(f'<text x="0" y="{y + 5}" fill="{styles.colour(method)}">{name}</text>')
        stations = ["start", "step 1", "step 2", "…", "last step", "loss"]
        for k, station in enumerate(stations):
            x = 70 + 94 * k
            box = f'x="{x}" y="{y - 16}" width="66" height="32" rx="4"'
            drawn.append(f'<rect {box} fill="#f4f4f4" stroke="#bbb"/>')
            drawn.append(f'<text x="{x + 33}" y="{y + 5}" text-anchor="middle">{station}</text>')
            if k == 0:
                continue
            drawn.append(_arrow(x - 26, x - 2, y, "#888", "grey"))
            if name == "vanilla" or k == len(stations) - 1:
                drawn.append(_arrow(x + 30, x - 60, y + 28, styles.colour(method), name))
    return "".join(drawn)


def _arrow(start: int, end: int, y: int, colour: str, marker: str) -> str:
    line = f'x1="{start}" x2="{end}" y1="{y}" y2="{y}" stroke="{colour}" stroke-width="2"'
    return f'<line {line} marker-end="url(#{marker})"/>'


def _numbers(scored: dict, runs: dict) -> pd.DataFrame:
    """Return what the training of each method came to: means over seeds, and their range."""
    rows = []
    for method, group in scored.items():
        means = results.means(group, ["mse", "foreground_ari"])
        gradient = results.largest(runs[method], "grad_norm_slot_attention_max")
        rows.append(
            {
                "trained by": NAMES[method],
                "FG-ARI of the masks (higher is better)": _said(means["foreground_ari"], 2),
                "squared error of the picture drawn from the slots": _said(means["mse"], 0),
                "largest gradient in training": _said(gradient, 0),
            }
        )
    return pd.DataFrame(rows)


def _said(values: pd.Series, digits: int) -> str:
    """Return text such as 7,264 (4,301 to 12,108): mean and range over seeds."""
    low, mean, high = (f"{v:,.{digits}f}" for v in (values.min(), values.mean(), values.max()))
    return f"{mean} ({low} to {high})" if len(values) > 1 else mean


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m paper_lib.explore.page", description=__doc__)
    parser.add_argument("--profile", choices=PROFILES, default="cpu")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "explore.html")
    chosen = parser.parse_args(arguments)
    try:
        content = page(parameters.check(chosen.profile))
        with whole(chosen.out) as temporary:
            temporary.write_text(content)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{chosen.out}: {len(content) / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
