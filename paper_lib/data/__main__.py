"""Render, check, preview or describe a data set.

python -m paper_lib.data render clevr_mirror --size 64 --num-scenes 1000
python -m paper_lib.data check shapestacks --files /data/shapestacks
python -m paper_lib.data preview photos --out photos.png
python -m paper_lib.data card clevr_mirror --size 64 --num-scenes 1000
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from paper_lib import data
from paper_lib.data.card import card, contact_sheet

SETTINGS = (
    "num_scenes",
    "num_crops",
    "seed",
    "min_objects",
    "max_objects",
    "samples_per_pixel",
    "variant",
    "workers",
)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m paper_lib.data",
        description="Render, check, preview or describe a data set.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in {
        "render": "make what is missing of every split: render it, or read it from the authors' files",
        "check": "list every fault of the authors' files",
        "preview": "write a contact sheet with instance masks",
        "card": "print counts, split sizes, mean and standard deviation, source and licence",
    }.items():
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("name", choices=data.DATASETS)
        command.add_argument(
            "--files", metavar="FOLDER", help="the authors' files; else PAPER_FILES, else data.toml"
        )
        if name == "check":
            continue
        command.add_argument("--size", type=int, default=64, help="pixels (default: 64)")
        command.add_argument("--door", choices=data.DOORS)
        command.add_argument(
            "--root", metavar="FOLDER", help="where it is kept; else PAPER_DATA, else data/"
        )
        command.add_argument("--max-items", type=int, help="of each split")
        for setting in SETTINGS:
            command.add_argument(
                f"--{setting.replace('_', '-')}",
                type=str if setting == "variant" else int,
                help="see the generator's load",
            )
        command.add_argument(
            "--crop",
            action="store_true",
            default=None,
            help="keep the part of CLEVR's pictures in which objects are discovered",
        )
        if name == "preview":
            command.add_argument("--split", choices=data.SPLITS, default="train")
            command.add_argument("--out", type=Path, help="PNG to write (default: NAME.png)")
    given = parser.parse_args(arguments)
    try:
        return run(given)
    except (ValueError, TypeError, FileNotFoundError) as error:
        print(f"{parser.prog} {given.command}: {error}", file=sys.stderr)
        return 1


def run(given: argparse.Namespace) -> int:
    if given.command == "check":
        if data.DATASETS[given.name].check is None:
            raise ValueError(
                f"{given.name!r} is generated from the installed packages: it has no authors' files to check"
            )
        data.which_door(given.name, "files", given.files)  # says what to set where nothing is
        folder = data.find(given.name, given.files)
        faults = data.DATASETS[given.name].check(folder)
        print("\n".join(sorted(faults)) if faults else f"{folder}: no faults")
        return int(bool(faults))

    settings = {
        name: getattr(given, name)
        for name in (*SETTINGS, "crop")
        if getattr(given, name) is not None
    }
    splits = (given.split,) if given.command == "preview" else data.SPLITS
    if given.command == "preview" and given.max_items is None:
        given.max_items = 48
    sets = {
        split: data.load(
            given.name,
            split,
            given.size,
            door=given.door,
            files=given.files,
            root=given.root,
            max_items=given.max_items,
            **settings,
        )
        for split in splits
    }
    if given.command == "render":
        print("\n".join(f"{split}: {len(found):,} images" for split, found in sets.items()))
    elif given.command == "card":
        print(card(given.name, sets))
    else:
        out = given.out or Path(f"{given.name}.png")
        contact_sheet(sets[given.split], out)
        print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
