"""checksums.json: what the files of a finished run should hold, a SHA-256 of each.

It is written before summary.json, which makes a run finished, so that every finished run has one.
Results from before there were checksums are read without, until `add` gives them theirs.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from paper_lib.system.files import write_json
from paper_lib.system.reading import BrokenFile, digest, read_json

NAME = "checksums.json"
NOT_KEPT = ("weights.safetensors",)  # too large to be committed of every run

_verified: dict[Path, tuple] = {}  # file -> its digest, size and date when it was verified


def remedy(folder: Path) -> str:
    """Return how to have a run's results right again."""
    return (
        f"If they are committed, get them back with `git checkout -- '{folder}'`; or delete the "
        "folder, and the run is made again"
    )


def write(folder: Path, summary: str) -> None:
    """Write the checksums of a run's files, and of the summary that is to follow."""
    files = {path.name: digest(path) for path in _results(folder)}
    files["summary.json"] = hashlib.sha256(summary.encode()).hexdigest()
    write_json(folder / NAME, dict(sorted(files.items())))


def verify(path: Path) -> None:
    """Compare a file of a run with its checksum, if there is one; once in a process.

    Raises BrokenFile.
    """
    expected = _checksums(path.parent).get(path.name)
    if expected is None:
        return
    try:
        state = path.stat()
    except FileNotFoundError:
        raise BrokenFile(path, "is missing", remedy(path.parent)) from None
    seen = expected, state.st_size, state.st_mtime_ns, state.st_ino
    if _verified.get(path) == seen:
        return
    if digest(path) != expected:
        said = f"is not the file whose checksum is in {NAME}"
        raise BrokenFile(path, said, remedy(path.parent))
    _verified[path] = seen


def ensure_complete(folder: Path) -> None:
    """Raise BrokenFile if a file that has a checksum is missing."""
    for name in _checksums(folder):
        if name not in NOT_KEPT and not (folder / name).is_file():
            raise BrokenFile(folder / name, "is missing", remedy(folder))


def _results(folder: Path) -> list[Path]:
    """Return the files of a run that stay; those with a point are being written."""
    passing = (NAME, "checkpoint.safetensors")
    files = (path for path in folder.iterdir() if path.is_file() and path.name[0] != ".")
    return [path for path in files if path.name not in passing]


def _checksums(folder: Path) -> dict[str, str]:
    path = folder / NAME
    if not path.exists():
        return {}
    content = read_json(path, remedy(folder))
    for name, value in content.items():
        if Path(name).name != name or not isinstance(value, str):
            raise BrokenFile(path, f"has a strange entry {name!r}", remedy(folder))
    return content
