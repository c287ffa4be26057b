"""How fast and how clean the generators are: `python -m bench.renderer` prints a table.

It also writes results/bench/data.md. Speed is measured through `load`, in a process of its own that
starts and ends with it, with one worker and with one for each core, in a temporary folder. Noise is
the standard deviation, over pixels and channels, of the difference between two renders of one scene
that differ only in the sampler's seed; values in [0, 1] after the conversion to 8 bits; pooled over
scenes, and of the worst one.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np

from bench.report import provenance
from paper_lib.data.generators import clevr_renderer, shapestacks_renderer
from paper_lib.data.generators.clevr_scenes import sample_scene
from paper_lib.data.generators.shapestacks_scenes import sample_stack
from paper_lib.runs import ROOT, results_root
from paper_lib.system.files import whole
from paper_lib.system.machine import cores

SIZE, IMAGES_PER_WORKER, SCENES = 64, 90, 40


def main() -> None:
    # name, samples per pixel, renderer of one image
    generators = [
        ("clevr_mirror", clevr_renderer.DEFAULT_SAMPLES_PER_PIXEL, _clevr),
        ("shapestacks", shapestacks_renderer.DEFAULT_SAMPLES_PER_PIXEL, _stack),
    ]
    rows = []
    for name, samples, draw in generators:
        pooled, worst = noise(draw)
        for workers in sorted({1, cores()}):
            rate, cpu = speed(name, workers)
            rows.append(
                f"| {name} | {samples} | {workers} | {rate:.1f} | {1000 * cpu:.0f} "
                f"| {pooled:.4f} | {worst:.4f} |"
            )
    columns = (
        "data set",
        "samples per pixel",
        "workers",
        "images/s",
        "CPU ms per image",
        "noise, pooled",
        f"noise, worst of {SCENES} scenes",
    )
    lines = [
        f"# The generators at {SIZE}x{SIZE}",
        "",
        f"| {' | '.join(columns)} |",
        "|---" * len(columns) + "|",
        *rows,
        "",
        f"{IMAGES_PER_WORKER} images for each worker, the start of the processes included. "
        "Noise: standard deviation between two renders of one scene, values in [0, 1].",
        "",
        provenance(("mitsuba",)),
        "Written by `python -m bench.renderer`.",
    ]
    text = "\n".join(lines) + "\n"
    with whole(results_root() / "bench" / "data.md") as path:
        path.write_text(text)
    print(text)


def _clevr(index: int, seed: int) -> np.ndarray:
    image, _ = clevr_renderer.render(sample_scene(0, index), SIZE, seed=seed)
    return image


def _stack(index: int, seed: int) -> np.ndarray:
    image, _ = shapestacks_renderer.render_stack(sample_stack(0, index), SIZE, seed=seed)
    return image


def speed(name: str, workers: int) -> tuple[float, float]:
    """Return images per second of wall time, and seconds of processor time for each image."""
    count = IMAGES_PER_WORKER * workers
    with tempfile.TemporaryDirectory() as root:
        settings = {"root": root, "max_items": count, "num_scenes": 2 * count, "workers": workers}
        call = f"from paper_lib.data import load; load({name!r}, 'train', {SIZE}, **{settings!r})"
        start = time.perf_counter()
        cpu = _cpu_of_children()
        subprocess.run([sys.executable, "-c", call], cwd=ROOT, check=True)
        seconds = time.perf_counter() - start
        return count / seconds, (_cpu_of_children() - cpu) / count


def noise(draw: Callable[[int, int], np.ndarray]) -> tuple[float, float]:
    """Return the noise pooled over SCENES scenes, and that of the worst.

    draw   (index of a scene, seed of the sampler) -> image
    """
    images = np.array([[draw(index, seed) for seed in (0, 1)] for index in range(SCENES)]) / 255
    each = np.var(images[:, 0] - images[:, 1], axis=(1, 2, 3))
    return float(np.sqrt(each.mean())), float(np.sqrt(each.max()))


def _cpu_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
