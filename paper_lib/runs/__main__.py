"""The command line of the engine; see `paper_lib.runs`.

This is where the paper's runs are handed to the engine, which does not know them.
"""

from __future__ import annotations

import argparse
import json
import sys

from paper_lib.paper import figures, parameters
from paper_lib.paper.profiles import PROFILES
from paper_lib.runs import (
    MissingRun,
    RunResult,
    checksums,
    described,
    folder_of,
    get,
    results_root,
    run_id,
)
from paper_lib.runs.store import add_checksums
from paper_lib.system.reading import BrokenFile
from paper_lib.training import parallel


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m paper_lib.runs", description="Perform, show or list a profile's runs."
    )
    parser.add_argument("profile", choices=PROFILES)
    parser.add_argument(
        "run_ids", nargs="*", metavar="RUN_ID", help="perform these; without any, list all"
    )
    parser.add_argument("--show", action="store_true", help="print their configs instead")
    parser.add_argument(
        "--checksums", action="store_true", help="give finished runs that have none their checksums"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 ...")
    given = parser.parse_args(arguments)
    try:
        parameters.check(given.profile, device=given.device)
    except ValueError as error:
        parser.error(str(error))
    try:
        with parallel.processes(given.device) as device:
            return _main(parser, given, device)
    except (BrokenFile, MissingRun, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1


def _main(parser: argparse.ArgumentParser, given: argparse.Namespace, device: str) -> int:
    request = parameters.check(given.profile, device=device, if_missing="train")
    known = {run_id(config): config for config in figures.all_runs(request)}
    for name in given.run_ids:
        if name not in known:
            parser.error(
                f"profile {given.profile!r} has no run {name!r}; its runs are: {', '.join(known)}"
            )
    if given.checksums:
        return _add_checksums(given.profile)
    if given.show:
        for name in given.run_ids or known:
            print(json.dumps({"id": name, **described(known[name])}, indent=1))
        return 0
    if not given.run_ids and parallel.is_first():
        for name in known:
            print(f"{name:40}", _state(name, given.profile))
    for name in given.run_ids:
        result = get(known[name], request)
        if parallel.is_first():
            print(f"{name}: {result.summary['status']}", file=sys.stderr)
    return 0


def _add_checksums(profile: str) -> int:
    """Give every finished run of a profile, known or not, checksums where it has none.

    A file that cannot be read is named, and the others are gone on with. Returns 1 if there is one.
    """
    broken = 0
    for summary in sorted((results_root() / profile / "runs").glob("*/summary.json")):
        if not (summary.parent / checksums.NAME).exists():
            try:
                add_checksums(summary.parent)
                print(summary.parent.name)
            except BrokenFile as error:
                print(error, file=sys.stderr)
                broken = 1
    return broken


def _state(name: str, profile: str) -> str:
    folder = folder_of(name, profile)
    if not (folder / "summary.json").exists():
        return "missing"
    try:
        return RunResult.load(None, folder).summary["status"]
    except BrokenFile as error:
        return f"broken: {error}"


if __name__ == "__main__":
    sys.exit(main())
