"""Files that are read as they were written, or refused with their path and the remedy."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

MOST_TEXT = 2**26  # bytes of a JSON or CSV file of our own; the largest has some 100,000
MOST_ARRAYS = 2**30  # bytes of an archive of arrays, such as a run's pictures, once unpacked


class BrokenFile(ValueError):
    """A file is not what was written there: cut off, changed, another's, or of another kind.

    path    the file
    what    what is wrong with it
    remedy  a sentence: how to have it right again
    """

    def __init__(self, path: Path, what: str, remedy: str):
        super().__init__(path, what, remedy)  # so that it can be pickled

    def __str__(self) -> str:
        path, what, remedy = self.args
        return f"{path} {what}. {remedy}"


@contextmanager
def reading(path: Path, remedy: str) -> Iterator[None]:
    """Have whatever a library raises about the content of a file name the file and the remedy.

    Raises BrokenFile; a file that this user may not read is a PermissionError as ever.
    """
    try:
        yield
    except (PermissionError, BrokenFile):
        raise
    except FileNotFoundError as error:
        raise BrokenFile(path, "is missing", remedy) from error
    except Exception as error:  # each library has its own errors, and for some bytes other ones
        said = str(error).splitlines() or [""]
        reason = f"{type(error).__name__}: {said[0][:200]}".removesuffix(": ")
        raise BrokenFile(path, f"cannot be read ({reason})", remedy) from error


def read_json(path: Path, remedy: str) -> dict:
    """Return the content of a JSON file that holds one object. Raises BrokenFile."""
    with reading(path, remedy):
        content = json.loads(read_text(path, remedy))
    if not isinstance(content, dict):
        raise BrokenFile(path, f"holds a {type(content).__name__}, not an object", remedy)
    return content


def read_text(path: Path, remedy: str) -> str:
    """Return the text of a file of a reasonable size. Raises BrokenFile."""
    with reading(path, remedy):
        if path.stat().st_size > MOST_TEXT:
            raise BrokenFile(path, f"is larger than {MOST_TEXT:,} bytes", remedy)
        return path.read_text(encoding="utf-8")


def read_arrays(path: Path, remedy: str) -> dict[str, np.ndarray]:
    """Return the arrays of an npz archive by their names. Raises BrokenFile."""
    with reading(path, remedy):
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > MOST_ARRAYS:
            raise ValueError(f"{size:,} bytes, more than {MOST_ARRAYS:,}, once unpacked")
        with np.load(path, allow_pickle=False) as archive:
            return dict(archive)


def digest(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
