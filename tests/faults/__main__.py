"""Try every fault, count what came of it, and write docs/reliability.md.

    PYTHONPATH=tests python -m faults --cases 1000 --kills 3        make faults

The status is 1 if a fault was not survived; the message says which, and how to find it again.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from faults import disk, hostile, inputs, kills, places, races, rot
from faults.fault import Tally
from faults.report import report
from paper_lib import runs
from paper_lib.data.readers import clevr_with_masks
from paper_lib.paper import profiles
from paper_lib.system.arguments import count
from paper_lib.system.files import whole

KINDS = ("rot", "hostile", "disk", "places", "input", "races", "kills")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m faults", description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=count, default=1_000, help="of senseless input, each kind")
    parser.add_argument("--kills", type=count, default=3, help="of each kind of work")
    parser.add_argument("--seed", type=int, default=0, help="names the faults: 0, 1, ...")
    parser.add_argument(
        "--only", choices=KINDS, action="append", help="these kinds; all by default"
    )
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    clevr_with_masks.RECORDS = 12  # of the small file that is read here
    kinds, tally, started = given.only or KINDS, Tally(), time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder, rng = Path(name), np.random.default_rng(given.seed)
        for kind in kinds:
            _try(kind, tally, folder / kind, rng, given)
            print(f"{kind}: {tally.total()} tried so far", file=sys.stderr)
    for failure in tally.failures:
        print(f"\nNOT SURVIVED: {failure}", file=sys.stderr)
    print(f"{tally.total():,} faults tried, {tally.total() - len(tally.failures):,} survived")
    if set(kinds) == set(KINDS):
        path = runs.ROOT / "docs" / "reliability.md"
        with whole(path) as temporary:
            temporary.write_text(report(tally, given.seed, time.monotonic() - started))
        print(path)
    return 1 if tally.failures else 0


def _try(kind: str, tally: Tally, folder: Path, rng: np.random.Generator, given) -> None:
    folder.mkdir()
    with kills.at(folder):
        if kind == "rot":
            dvae, vanilla, implicit = _trained()
            files = rot.run_files(dvae, implicit) + rot.run_files(implicit, vanilla)
            for number, make in enumerate(rot.MAKERS):
                files += make(folder / f"files-{number}")
            tally.meet(rot.faults(files, rng))
        elif kind == "hostile":
            tally.meet(hostile.run_faults(_trained()[-1], folder / "run"))
            for number, make in enumerate(hostile.MAKERS):
                tally.meet(make(folder / f"files-{number}"))
        elif kind == "disk":
            tally.meet(disk.faults(folder / "full"))
        elif kind == "places":
            tally.meet(places.faults(folder / places.ODD, rng, kills.starter()))
        elif kind == "input":
            for which in ("parameters", "commands"):
                _input(which, tally, given)
        elif kind == "races":
            tally.meet(races.faults(folder / "races", kills.starter()))
        else:
            start = kills.starter()
            tally.meet(kills.faults(list(kills.WORKS), given.kills, rng, folder / "works", start))


def _input(which: str, tally: Tally, given) -> None:
    row = {"parameters": "notebooks' parameters", "commands": "command lines"}[which]
    try:
        tried = inputs.run(given.cases, which, given.seed)
        tally.counts[row] = Counter({"answered": tried})
    except Exception as error:
        tally.counts[row] = Counter({"not survived": 1})
        tally.failures.append(f"{row}: {error!r}")


def _trained() -> tuple[runs.RunResult, ...]:
    """Return the smoke profile's dVAE, vanilla and implicit run."""
    with contextlib.redirect_stderr(open(os.devnull, "w")):
        configs = [profiles.slate(kills.SMOKE, method, 0) for method in ("vanilla", "IN")]
        return tuple(runs.get(config, kills.SMOKE) for config in (configs[0].dvae, *configs))


if __name__ == "__main__":
    sys.exit(main())
