"""Processes that end with the one that started them, however it ends.

    python -m paper_lib.system.following PARENT MODULE [ARGUMENT ...]

is `python -m MODULE [ARGUMENT ...]` for as long as the process PARENT, which started it, is there.
Nobody tells a process that its parent was killed: it would go on, and compete with whoever does the
same work again.
"""

from __future__ import annotations

import os
import runpy
import sys
import threading
import time

PAUSE = 0.5  # seconds between two looks


def follow(parent: int) -> None:
    """Have this process end, as if killed, within a second of its parent."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PAUSE)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def command(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module for as long as this process is there."""
    words = [sys.executable, "-m", "paper_lib.system.following", str(os.getpid())]
    return [*words, module, *arguments]


if __name__ == "__main__":
    parent, module, *arguments = sys.argv[1:]
    follow(int(parent))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
