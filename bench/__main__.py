"""`python -m bench [NAME ...] [--quick] [--out FOLDER]`: time what matters.

Each benchmark writes results/bench/<name>.md as soon as it is done.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from bench import (
    backward,
    generation,
    growth,
    h100,
    slot_attention,
    solvers,
    spectral_norm,
    training_step,
)
from bench.report import write
from paper_lib.runs import results_root

BENCHMARKS = {
    "training_step": training_step.bench,
    "generation": generation.bench,
    "backward": backward.bench,
    "solvers": solvers.bench,
    "spectral_norm": spectral_norm.bench,
    "slot_attention": slot_attention.bench,
    "growth": growth.bench,
    "h100": h100.bench,
}


def main(arguments: list[str] | None = None) -> None:
    known = ", ".join(BENCHMARKS)
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Time what matters, side by side with other people's code.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"these alone, of: {known}")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="the smallest sizes, once: shows that it runs, and no more; "
        "goes to results/bench/quick",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="another folder than results/bench"
    )
    given = parser.parse_args(arguments)
    unknown = sorted(set(given.names) - set(BENCHMARKS))
    if unknown:
        parser.error(f"there is no benchmark {', '.join(unknown)}; there are: {known}")
    out = given.out or results_root() / "bench" / ("quick" if given.quick else "")
    torch.set_num_threads(1)
    for name in given.names or BENCHMARKS:
        start = time.perf_counter()
        path = write(BENCHMARKS[name](given.quick), name, out)
        print(f"{path} ({time.perf_counter() - start:.0f} s)")


if __name__ == "__main__":
    main()
