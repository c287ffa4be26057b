"""Files that are written whole or not at all."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` to write to.

    It takes the place of `path` once the block ends without an error, and is removed otherwise.
    The folder is made if it does not exist. Whoever writes the file, it has the rights that the
    umask gives a new one. Raises OSError, with the path, where it cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # two machines that share a disk may have processes of one number
    name = f".{path.stem}.{os.getpid()}-{secrets.token_hex(3)}{path.suffix}"
    temporary = path.with_name(name)
    try:
        with naming(path):
            temporary.touch()
            rights = temporary.stat().st_mode & 0o777
            yield temporary
            temporary.chmod(rights)  # safetensors gives its files to their owner alone
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Have an OSError that names no file, such as that of a full disk, name this one."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            raise OSError(error.errno, error.strerror or str(error), str(path)) from error
        raise


def as_json(content) -> str:
    """Return the content as JSON text, one entry a line."""
    return json.dumps(content, indent=1) + "\n"


def write_json(path: Path, content) -> None:
    """Write the content as JSON, whole or not at all."""
    with whole(path) as temporary:
        temporary.write_text(as_json(content))
