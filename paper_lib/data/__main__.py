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
from paper_lib.data.readers.location import find
from paper_lib.system.arguments import count

COMMANDS = {
    "render": "make what is missing of every split: render it, or read it from the authors' files",
    "check": "list every fault of the authors' files",
    "preview": "write a contact sheet with instance masks",
    "card": "print counts, split sizes, mean and standard deviation, source and licence",
}
SETTINGS = {
    "num_scenes": count,
    "num_crops": count,
    "seed": int,
    "min_objects": int,
    "max_objects": int,
    "samples_per_pixel": count,
    "view": str,
    "mitsuba_variant": str,
    "workers": count,
}
PREVIEWED = 48  # images


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return the exit status."""
    parser = _parser()
    given = parser.parse_args(arguments)
    try:
        return check(given) if given.command == "check" else show(given)
    except (ValueError, TypeError, FileNotFoundError) as error:
        print(f"{parser.prog} {given.command}: {error}", file=sys.stderr)
        return 1


def check(given: argparse.Namespace) -> int:
    """Print every fault of the authors' files; return 1 if there are any."""
    if data.DATASETS[given.name].check is None:
        raise ValueError(
            f"{given.name!r} is generated from the installed packages: "
            "it has no authors' files to check"
        )
    data.which_door(given.name, "files", given.files)  # says what to set where nothing is
    folder = find(given.name, given.files)
    faults = data.DATASETS[given.name].check(folder)
    print("\n".join(sorted(faults)) if faults else f"{folder}: no faults")
    return int(bool(faults))


def show(given: argparse.Namespace) -> int:
    """Load the splits, and print or draw what the command says of them."""
    if given.command == "preview":
        splits, max_items = (given.split,), given.max_items or PREVIEWED
    else:
        splits, max_items = data.SPLITS, given.max_items
    named = {name: getattr(given, name) for name in (*SETTINGS, "crop")}
    settings = {name: value for name, value in named.items() if value is not None}
    sets = {
        split: data.load(
            given.name,
            split,
            given.size,
            door=given.door,
            files=given.files,
            root=given.root,
            max_items=max_items,
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m paper_lib.data",
        description="Render, check, preview or describe a data set.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("name", choices=data.DATASETS)
        command.add_argument(
            "--files", metavar="FOLDER", help="the authors' files; else PAPER_FILES, else data.toml"
        )
        if name != "check":
            _add_settings(command)
        if name == "preview":
            command.add_argument("--split", choices=data.SPLITS, default="train")
            command.add_argument("--out", type=Path, help="PNG to write (default: NAME.png)")
    return parser


def _add_settings(command: argparse.ArgumentParser) -> None:
    command.add_argument("--size", type=count, default=64, help="pixels (default: 64)")
    command.add_argument("--door", choices=data.DOORS)
    command.add_argument(
        "--root", metavar="FOLDER", help="where it is kept; else PAPER_DATA, else data/"
    )
    command.add_argument("--max-items", type=count, help="of each split")
    for setting, type_ in SETTINGS.items():
        option = f"--{setting.replace('_', '-')}"
        command.add_argument(option, type=type_, help="see the generator's load")
    command.add_argument(
        "--crop",
        action="store_true",
        default=None,
        help="keep the part of CLEVR's pictures in which objects are discovered",
    )


if __name__ == "__main__":
    sys.exit(main())
