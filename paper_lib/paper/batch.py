"""`make figures`: Snakemake over a profile's runs and notebooks, then a list of what was made and
what failed.

    python -m paper_lib.paper.batch quick --jobs 2
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from paper_lib.paper import figures, parameters, plots
from paper_lib.paper.profiles import PROFILES
from paper_lib.runs import ROOT, results_root
from paper_lib.system.arguments import count


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m paper_lib.paper.batch",
        description="Perform the runs that a profile lacks, and execute its notebooks.",
    )
    parser.add_argument("profile", choices=PROFILES)
    parser.add_argument("--only", default="", help="notebooks, separated by commas; all by default")
    parser.add_argument("--jobs", type=count, default=2, help="how many at a time")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 ...")
    given = parser.parse_args(arguments)
    notebooks = [name for name in given.only.split(",") if name] or list(figures.NOTEBOOKS)
    try:
        checked = parameters.check(given.profile, device=given.device)
        for name in notebooks:
            figures.runs_of(name, checked)
    except ValueError as error:
        parser.error(str(error))

    status = _snakemake(given.profile, notebooks, given.jobs, given.device)
    _say_what_is_there(given.profile, notebooks, status)
    return status


def _snakemake(profile: str, notebooks: list[str], jobs: int, device: str) -> int:
    command = [sys.executable, "-m", "snakemake", "--cores", str(jobs)]
    command += ["--keep-going", "--rerun-incomplete", "--rerun-triggers", "mtime"]
    # its lock outlives a killed process, and would refuse to go on; runs have locks of their own,
    # which do not
    command += ["--nolock"]
    if not os.access(ROOT, os.W_OK):  # it keeps notes where it works
        results_root().mkdir(parents=True, exist_ok=True)
        command += ["--snakefile", str(ROOT / "Snakefile"), "--directory", str(results_root())]
    command += ["--quiet", "rules", "host"]
    command += ["--config", f"profile={profile}", f"only={','.join(notebooks)}"]
    command += [f"device={device}"]
    # papermill and python of this environment, whether or not it is activated
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    with tempfile.TemporaryDirectory() as rows:
        environment = os.environ | {"PATH": path, "PAPER_ROWS": rows}
        return subprocess.run(command, cwd=ROOT, env=environment).returncode


def _say_what_is_there(profile: str, notebooks: list[str], status: int) -> None:
    pictures = plots.figures_root() / profile
    executed = results_root() / profile / "notebooks"
    print()
    for name in notebooks:
        found = ", ".join(sorted(path.name for path in pictures.glob(f"{name}*.png")))
        if not (executed / f"{name}.ipynb").exists():
            found = "FAILED" if status else "missing"
        print(f"  {name:24} {found}")
    if status:
        print(
            "\nSomething failed; the messages are above. What is done stays done: run the same "
            "command again to go on."
        )
    print(f"\nFigures: {pictures}\nExecuted notebooks: {executed}")


if __name__ == "__main__":
    sys.exit(main())
