"""How fast and how clean the generators are here.

`python -m bench.renderer` prints a table and writes results/bench/data.md.

Speed is measured through `load`, in a process of its own that starts and ends with it, with one
worker and with one for each core, in a temporary folder. Noise is the standard deviation, over
pixels and channels, of the difference between two renders of one scene that differ only in the
sampler's seed; values in [0, 1] after the conversion to 8 bits; pooled over scenes, and of the
worst one.
"""

import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

from paper_lib.data.generators import clevr_renderer, shapestacks_renderer
from paper_lib.data.generators.clevr_scenes import sample_scene
from paper_lib.data.generators.shapestacks_scenes import sample_stack
from paper_lib.data.parallel import cores
from paper_lib.system.files import whole
from paper_lib.system.machine import processor

ROOT = Path(__file__).resolve().parents[1]
SIZE, IMAGES_PER_WORKER, SCENES = 64, 90, 40
SAMPLES_PER_PIXEL = {
    "clevr_mirror": clevr_renderer.DEFAULT_SAMPLES_PER_PIXEL,
    "shapestacks": shapestacks_renderer.DEFAULT_SAMPLES_PER_PIXEL,
}


def main() -> None:
    """Measure, print the table and write it."""
    load_before = os.getloadavg()[0]
    rows = []
    for name, samples in SAMPLES_PER_PIXEL.items():
        pooled, worst = noise(name)
        for workers in sorted({1, cores()}):
            images_per_second, cpu = speed(name, workers)
            rows.append(
                f"| {name} | {samples} | {workers} | {images_per_second:.1f} | {1000 * cpu:.0f} "
                f"| {pooled:.4f} | {worst:.4f} |"
            )
    versions = ", ".join(f"{package} {version(package)}" for package in ("mitsuba", "numpy"))
    columns = [
        "data set",
        "samples per pixel",
        "workers",
        "images/s",
        "CPU ms per image",
        "noise, pooled",
        f"noise, worst of {SCENES} scenes",
    ]
    text = f"""# The generators at {SIZE}x{SIZE}

| {" | ".join(columns)} |
|{"---|" * len(columns)}
{os.linesep.join(rows)}

{IMAGES_PER_WORKER} images for each worker, the start of the processes included. Noise: standard \
deviation between two renders of one scene, values in [0, 1].

{processor()}, {cores()} cores, of which other processes kept {load_before:.1f} busy when this \
began; Python {platform.python_version()}, {versions}.
Written by `python -m bench.renderer`.
"""
    results = Path(os.environ.get("PAPER_RESULTS") or ROOT / "results")
    with whole(results / "bench" / "data.md") as path:
        path.write_text(text)
    print(text)


def speed(name: str, workers: int) -> tuple[float, float]:
    """Return images per second of wall time, and seconds of processor time for each image."""
    count = IMAGES_PER_WORKER * workers
    with tempfile.TemporaryDirectory() as root:
        settings = {"root": root, "max_items": count, "num_scenes": 2 * count, "workers": workers}
        call = f"from paper_lib.data import load; load({name!r}, 'train', {SIZE}, **{settings!r})"
        start, cpu = time.perf_counter(), _cpu_of_children()
        subprocess.run([sys.executable, "-c", call], cwd=ROOT, check=True)
        return count / (time.perf_counter() - start), (_cpu_of_children() - cpu) / count


def noise(name: str) -> tuple[float, float]:
    """Return the noise pooled over SCENES scenes, and that of the worst."""
    images = [[_draw(name, index, seed) for seed in (0, 1)] for index in range(SCENES)]
    images = np.array(images) / 255
    each = np.var(images[:, 0] - images[:, 1], axis=(1, 2, 3))
    return float(np.sqrt(each.mean())), float(np.sqrt(each.max()))


def _draw(name: str, index: int, seed: int) -> np.ndarray:
    if name == "clevr_mirror":
        image, _ = clevr_renderer.render(sample_scene(0, index), SIZE, seed=seed)
    else:
        image, _ = shapestacks_renderer.render_stack(sample_stack(0, index), SIZE, seed=seed)
    return image


def _cpu_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
