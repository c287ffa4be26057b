"""Files that are written whole or not at all."""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(path: Path):
    """A temporary path beside `path` to write to; it takes `path`'s place once the block ends without an error."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content) -> None:
    with whole(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")
