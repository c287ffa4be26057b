"""The static page: the viewer with pictures that were made before. It needs no kernel, no server
and no network.

    python -m paper_lib.explore.page [--profile cpu] [--out docs/explore.html]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from string import Template

import pandas as pd

from paper_lib.explore import trained
from paper_lib.explore.scenes import scenes
from paper_lib.explore.trajectory import Trajectory, applications_of, initial_noise, trajectory
from paper_lib.explore.views import STATIC, panel, pictures_of, view
from paper_lib.paper import figures, parameters, results, styles, tables
from paper_lib.paper.captions import caption
from paper_lib.paper.parameters import Parameters
from paper_lib.runs import ROOT, get, get_all
from paper_lib.system.files import whole
from paper_lib.system.progress import bar

SCENES = 8  # of each data set


def page(given: Parameters, count: int = SCENES) -> str:
    """Return the page as HTML: scenes x models x applications x slots."""
    views = all_views(given, count)
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
        seeds=f"{seeds} seed" + ("s" if seeds > 1 else ""),
        table=_numbers(scored, runs).to_html(index=False, border=0),
        caption=caption(given, *results.configs(runs)),
    )


def all_views(given: Parameters, count: int) -> dict[str, dict]:
    """Return the views of the page by the words in its menu."""
    configs = trained.slates(given)
    views = {}
    with bar(count * len(configs), "explore", "scene") as progress:
        for data in dict.fromkeys(config.data for config in configs.values()):
            images, masks = scenes(data, given)
            of_data = {name: c for name, c in configs.items() if c.data == data}
            models = {name: trained.model_of(get(c, given)) for name, c in of_data.items()}
            for k in range(min(count, len(images))):
                panels = []
                for name, model in models.items():
                    noise = initial_noise(model, 0, model.config.num_slots, k)
                    solver = model.slot_attn.slot_attention.solver
                    found = trajectory(model, images[k], noise, solver, applications_of(model))
                    variant = of_data[name].method
                    pictures = pictures_of(model, found, _wanted(found))
                    title, colour = styles.name(variant), styles.colour(variant)
                    panels.append(panel(variant, title, colour, found, pictures))
                    progress.update()
                views[f"{data.name}, test scene {k + 1}"] = view(images[k], masks[k], panels)
    return views


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


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m paper_lib.explore.page", description=__doc__)
    parser.add_argument("--profile", default="cpu")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "explore.html")
    chosen = parser.parse_args(arguments)
    content = page(parameters.check(chosen.profile))
    with whole(chosen.out) as temporary:
        temporary.write_text(content)
    print(f"{chosen.out}: {len(content) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
