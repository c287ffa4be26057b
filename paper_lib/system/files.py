"""Files that are written whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` to write to.

    It takes the place of `path` once the block ends without an error, and is removed otherwise.
    The folder is made if it does not exist.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content) -> None:
    """Write the content as JSON, one entry a line, whole or not at all."""
    with whole(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")
