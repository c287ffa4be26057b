"""What a folder of the authors' files holds, and what is wrong with it."""

import hashlib
import json
import os
import re
from pathlib import Path

# To be raised with every change that changes a picture, a mask, a property, an order or a split.
READER_VERSION = "1"
MOST_FAULTS = 20  # that an error shows; `check` shows all

# No hidden files: some archivers leave a ._name.png beside name.png.
PICTURE = re.compile(r"[^.].*\.(png|jpe?g)", re.IGNORECASE)


class Fault(Exception):
    """Something is wrong with one file; the message begins with its path."""


class TreeError(ValueError):
    """The files are not as they should be; the message says which, and what was expected."""

    def __init__(self, root: Path, faults: list[str], layout: str):
        shown = [f"  - {fault}" for fault in faults[:MOST_FAULTS]]
        if len(faults) > MOST_FAULTS:
            shown.append(f"  - and {len(faults) - MOST_FAULTS:,} more, all of which `check` lists")
        head, remedy = f"the files in {root} cannot be used:", "Fetch or unpack them again."
        super().__init__("\n".join([head, *shown, remedy, layout]))
        self.faults = faults


class Tree:
    """A tree lists what the folder `root` holds. Paths are strings, relative to it.

    sizes   path -> size in bytes, of all that was listed
    faults  what is missing
    """

    def __init__(self, root: str | os.PathLike):
        self.root, self.sizes, self.faults = Path(root), {}, []
        if not self.root.is_dir():
            self.faults.append(f"{self.root}: no such folder")

    def list_folder(
        self,
        folder: str,
        pattern: re.Pattern = PICTURE,
        needed: str | None = "pictures",
        named_by: str = "",
    ) -> list[str]:
        """Return the files of `folder` whose names match, in natural order.

        That there are none is a fault, which says what is `needed`, unless that is None, and which
        file names the folder.
        """
        try:
            with os.scandir(self.root / folder) as entries:
                found = {
                    f"{folder}/{entry.name}": entry.stat().st_size
                    for entry in entries
                    if pattern.fullmatch(entry.name) and entry.is_file()
                }
        except (FileNotFoundError, NotADirectoryError):
            found = None
        if not found and needed:
            said = "no such folder" if found is None else f"holds no {needed}"
            self.faults.append(f"{folder}/: {said}" + (named_by and f" ({named_by} names it)"))
        self.sizes.update(found or {})
        return sorted(found or {}, key=natural)

    def file(self, path: str) -> str:
        """Return `path`; that there is no such file is a fault."""
        try:
            self.sizes[path] = (self.root / path).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            self.faults.append(f"{path}: no such file")
        return path

    def json(self, path: str):
        """Return the content of a JSON file. Raises Fault."""
        try:
            return json.loads((self.root / path).read_bytes())
        except (OSError, RecursionError, ValueError) as error:
            raise Fault(f"{path}: cannot be read as JSON ({error})") from None

    def version(self, paths: list[str]) -> str:
        """Return a hash of the paths and sizes of these files: other files, another version."""
        return version_of([[path, self.sizes[path]] for path in paths])


def version_of(content) -> str:
    """Return a hash of what a data set is read from, and by which version of the readers."""
    return hashlib.sha256(json.dumps([READER_VERSION, content]).encode()).hexdigest()[:10]


def natural(path: str) -> list:
    """Return a key by which 2.png is sorted before 10.png."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", path)]
