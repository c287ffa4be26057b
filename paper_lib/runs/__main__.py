"""The command line of the engine; see `paper_lib.runs`.

This is where the paper's runs are handed to the engine, which does not know them.
"""

from __future__ import annotations

import argparse
import json
import sys

from paper_lib.paper import figures, parameters
from paper_lib.paper.profiles import PROFILES
from paper_lib.runs import described, folder_of, get, run_id
from paper_lib.training import parallel


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m paper_lib.runs", description="Perform, show or list a profile's runs."
    )
    parser.add_argument("profile", choices=PROFILES)
    parser.add_argument(
        "run_ids", nargs="*", metavar="RUN_ID", help="perform these; without any, list all"
    )
    parser.add_argument("--show", action="store_true", help="print their configs instead")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 ...")
    given = parser.parse_args(arguments)
    with parallel.processes(given.device) as device:
        _main(parser, given, device)


def _main(parser: argparse.ArgumentParser, given: argparse.Namespace, device: str) -> None:
    request = parameters.check(given.profile, device=device, if_missing="train")
    known = {run_id(config): config for config in figures.all_runs(request)}
    for name in given.run_ids:
        if name not in known:
            parser.error(
                f"profile {given.profile!r} has no run {name!r}; its runs are: {', '.join(known)}"
            )
    if given.show:
        for name in given.run_ids or known:
            print(json.dumps({"id": name, **described(known[name])}, indent=1))
        return
    if not given.run_ids and parallel.is_first():
        for name in known:
            print(f"{name:40}", _state(name, given.profile))
    for name in given.run_ids:
        result = get(known[name], request)
        if parallel.is_first():
            print(f"{name}: {result.summary['status']}", file=sys.stderr)


def _state(name: str, profile: str) -> str:
    folder = folder_of(name, profile)
    if not (folder / "summary.json").exists():
        return "missing"
    return json.loads((folder / "summary.json").read_text())["status"]


if __name__ == "__main__":
    main()
