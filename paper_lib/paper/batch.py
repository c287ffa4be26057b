"""`make figures`: Snakemake over a profile's runs and notebooks, then a list of what was made and
what failed.

    python -m paper_lib.paper.batch quick --jobs 2
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from paper_lib.paper import figures, parameters, plots
from paper_lib.paper.execute import ensure_sound
from paper_lib.paper.profiles import PROFILES
from paper_lib.runs import ROOT, results_root
from paper_lib.system import following
from paper_lib.system.arguments import count
from paper_lib.system.reading import BrokenFile
from paper_lib.system.turns import turn


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

    for name in notebooks:
        try:
            ensure_sound(ROOT / "notebooks" / f"{name}.ipynb")
        except BrokenFile as error:
            print(error, file=sys.stderr)
            return 1
    with turn(results_root() / given.profile / "runs/.batch.lock", "making these figures"):
        _bring_to_the_present(given.profile)
        status = _snakemake(given.profile, notebooks, given.jobs, given.device)
    _say_what_is_there(given.profile, notebooks, status)
    return status


def _snakemake(profile: str, notebooks: list[str], jobs: int, device: str) -> int:
    command = following.command("snakemake", "--cores", str(jobs))
    command += ["--keep-going", "--rerun-incomplete", "--rerun-triggers", "mtime"]
    # its lock outlives a killed process, and would refuse to go on; ours does not
    command += ["--nolock"]
    command += ["--keep-incomplete"]  # files are whole or not there
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


def _bring_to_the_present(profile: str) -> None:
    """Date what was written while a clock was ahead of this one with now.

    A notebook that is executed now would stay older than such a file, and be executed every time.
    """
    now = time.time()
    results = results_root() / profile
    dated = [*results.glob("runs/*/summary.json"), *results.glob("notebooks/*.ipynb")]
    dated += [*(ROOT / "notebooks").glob("*.ipynb"), *(ROOT / "paper_lib").rglob("*.py")]
    for path in dated:
        if path.stat().st_mtime > now:
            with contextlib.suppress(PermissionError):  # in a checkout that is only to be read
                os.utime(path, (now, now))


def _say_what_is_there(profile: str, notebooks: list[str], status: int) -> None:
    pictures = plots.figures_root() / profile
    executed = results_root() / profile / "notebooks"
    print()
    for name in notebooks:
        replayed = figures.profile_shown(name, profile) != profile
        folder = pictures / "cpu" if replayed else pictures
        found = ", ".join(sorted(path.name for path in folder.glob(f"{name}*.png")))
        if replayed and found:
            found += "  (replayed from the committed results, in cpu/)"
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
