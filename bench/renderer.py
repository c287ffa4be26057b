"""How fast and how clean the generators are here: `python -m bench.renderer` prints a table and writes results/bench/data.md.

Speed is measured through `load`, the start of its processes included, with one worker and with one for each core, in a temporary folder.
Noise is the standard deviation, over pixels and channels, of the difference between two renders of one scene that differ only in the
sampler's seed; values in [0, 1] after the conversion to 8 bits; pooled over scenes, and of the worst one.
"""

import os
import platform
import resource
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

from paper_lib.data.generators import clevr as clevr_mirror
from paper_lib.data.generators import clevr_renderer as render
from paper_lib.data.generators import shapestacks
from paper_lib.data.generators import shapestacks_renderer as render_stacks
from paper_lib.data.generators.clevr_scenes import sample_scene
from paper_lib.data.generators.generated import cores
from paper_lib.data.generators.shapestacks_scenes import sample_stack
from paper_lib.system.files import whole
from paper_lib.system.machine import processor

SIZE, IMAGES_PER_WORKER, SCENES = 64, 90, 40
GENERATORS = {
    "clevr_mirror": (
        clevr_mirror.load,
        render.DEFAULT_SAMPLES_PER_PIXEL,
        lambda i, seed: render.render(sample_scene(0, i), SIZE, seed=seed),
    ),
    "shapestacks": (
        shapestacks.load,
        render_stacks.DEFAULT_SAMPLES_PER_PIXEL,
        lambda i, seed: render_stacks.render_stack(sample_stack(0, i), SIZE, seed=seed),
    ),
}


def main() -> None:
    load_before = os.getloadavg()[0]
    rows = []
    for name, (load, samples, draw) in GENERATORS.items():
        pooled, worst = noise(draw)
        for workers in sorted({1, cores()}):
            images_per_second, cpu = speed(load, workers)
            rows.append(
                f"| {name} | {samples} | {workers} | {images_per_second:.1f} | {1000 * cpu:.0f} | {pooled:.4f} | {worst:.4f} |"
            )
    versions = ", ".join(f"{package} {version(package)}" for package in ("mitsuba", "numpy"))
    text = f"""# The generators at {SIZE}x{SIZE}

| data set | samples per pixel | workers | images/s | CPU ms per image | noise, pooled | noise, worst of {SCENES} scenes |
|---|---|---|---|---|---|---|
{os.linesep.join(rows)}

{IMAGES_PER_WORKER} images for each worker, the start of the processes included. Noise: standard deviation between two renders of one scene, values in [0, 1].

{processor()}, {cores()} cores, of which other processes kept {load_before:.1f} busy when this began; Python {platform.python_version()}, {versions}.
Written by `python -m bench.renderer`.
"""
    results = Path(
        os.environ.get("PAPER_RESULTS") or Path(__file__).resolve().parents[1] / "results"
    )
    with whole(results / "bench" / "data.md") as path:
        path.write_text(text)
    print(text)


def speed(load, workers: int) -> tuple[float, float]:
    """Images per second of wall time, and seconds of the workers' processor time for each image."""
    count = IMAGES_PER_WORKER * workers
    with tempfile.TemporaryDirectory() as root:
        start, cpu = time.perf_counter(), _cpu_of_children()
        load(Path(root), "train", SIZE, count, num_scenes=2 * count, workers=workers)
        return count / (time.perf_counter() - start), (_cpu_of_children() - cpu) / count


def noise(draw) -> tuple[float, float]:
    """Pooled over SCENES scenes, and of the worst; draw(index, seed) gives image and mask."""
    images = np.array([[draw(index, seed)[0] for seed in (0, 1)] for index in range(SCENES)]) / 255
    each = np.var(images[:, 0] - images[:, 1], axis=(1, 2, 3))
    return float(np.sqrt(each.mean())), float(np.sqrt(each.max()))


def _cpu_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
