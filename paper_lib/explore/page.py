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
from paper_lib.models import SLATE
from paper_lib.paper import figures, parameters, results, styles, tables
from paper_lib.paper.captions import caption
from paper_lib.paper.parameters import Parameters
from paper_lib.paper.profiles import PROFILES
from paper_lib.runs import ROOT, get, get_all
from paper_lib.system.files import whole
from paper_lib.system.progress import bar

SCENES = 8  # of each data set


def page(given: Parameters, count: int = SCENES) -> str:
    """Return the page as HTML: scenes x models x applications x slots."""
    views, swaps = all_views(given, count)
    scored = get_all(figures.flagship(given), given)
    runs = {name: [get(run.config.slate, given) for run in group] for name, group in scored.items()}
    seeds = len(scored["IN"])
    text = Template((STATIC / "page.html").read_text())
    options = [f"<option>{name}</option>" for name in views]
    return text.substitute(
        css=(STATIC / "viewer.css").read_text(),
        js=(STATIC / "viewer.js").read_text().replace("</", "<\\/"),
        options="".join(options),
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
                    search, title = found[method][k], styles.name(method)
                    pictures = pictures_of(model, search, _wanted(search))
                    panels.append(panel(method, title, styles.colour(method), search, pictures))
                    progress.update()
                name = f"{data.name}, test scene {k + 1}"
                views[name] = view(images[k], masks[k], panels)
                pair = [k, (k + 1) % len(images)]
                swaps[name] = _swapped(models, found, images, masks, pair)
    return views, swaps


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
        swaps[styles.name(method)] = [image_url(picture) for picture in pictures]
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


def _numbers(scored: dict, runs: dict) -> pd.DataFrame:
    rows = []
    for method, group in scored.items():
        means = results.means(group, ["mse", "foreground_ari"])
        gradient = results.largest(runs[method], "grad_norm_slot_attention_max")
        rows.append(
            {
                "trained by": styles.name(method),
                "squared error of what comes back": tables.mean_and_range(means["mse"]),
                "FG-ARI of the masks": tables.mean_and_range(means["foreground_ari"]),
                "largest gradient in training": tables.mean_and_range(gradient),
            }
        )
    return pd.DataFrame(rows)


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
