"""`make figures`: Snakemake over a profile's runs and notebooks, then a list of what was made and what failed.

python -m paper_lib.paper.batch quick --jobs 2
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from paper_lib import runs
from paper_lib.paper import experiments, plots


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m paper_lib.paper.batch",
        description="Run what is missing of a profile, and execute its notebooks.",
    )
    parser.add_argument("profile", choices=experiments.PROFILES)
    parser.add_argument("--only", default="", help="notebooks, separated by commas; all by default")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args(arguments)
    notebooks = [name for name in given.only.split(",") if name] or list(experiments.NOTEBOOKS)
    try:
        setting = experiments.setting(given.profile, device=given.device)
        for name in notebooks:
            experiments.runs_of(name, setting)
    except ValueError as error:
        parser.error(str(error))

    command = [
        "snakemake",
        "--cores",
        str(given.jobs),
        "--keep-going",
        "--rerun-incomplete",
        "--rerun-triggers",
        "mtime",
        "--quiet",
        "rules",
        "host",
    ]
    command += [
        "--nolock"
    ]  # its lock outlives a killed process, and would refuse to go on; runs have locks of their own, which do not
    command += [
        "--config",
        f"profile={given.profile}",
        f"only={','.join(notebooks)}",
        f"device={given.device}",
    ]
    # snakemake, papermill and python of this environment, whether or not it is activated
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    with tempfile.TemporaryDirectory() as rows:
        environment = os.environ | {"PATH": path, "PAPER_ROWS": rows}
        status = subprocess.run(
            [sys.executable, "-m", *command], cwd=runs.ROOT, env=environment
        ).returncode

    figures, executed = (
        plots.figures_root() / given.profile,
        runs.results_root() / given.profile / "notebooks",
    )
    print()
    for name in notebooks:
        pictures = sorted(path.name for path in figures.glob(f"{name}*.png"))
        done = (executed / f"{name}.ipynb").exists()
        print(f"  {name:24} {', '.join(pictures) if done else 'FAILED' if status else 'missing'}")
    if status:
        print(
            "\nSomething failed; the messages are above. What is done stays done: run the same command again to go on."
        )
    print(f"\nFigures: {figures}\nExecuted notebooks: {executed}")
    return status


if __name__ == "__main__":
    sys.exit(main())
