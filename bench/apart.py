"""A contestant in a process of its own."""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable
from contextlib import suppress

import torch


class Apart:
    """Calls in another process what `build(*args)` returns there.

    That process has the memory allocator as it comes, while this one may have been told to keep
    what it frees. `build` is a function of a module, and it travels there with its arguments. The
    process ends with the `with` block.

    Raises RuntimeError with the other process's traceback.
    """

    def __init__(self, build: Callable[..., Callable[[], object]], *args):
        context = multiprocessing.get_context("spawn")  # a fork would inherit the allocator's state
        self.connection, other = context.Pipe()
        serve_args = (other, torch.get_num_threads(), build, args)
        self.process = context.Process(target=_serve, args=serve_args, daemon=True)
        self.process.start()
        other.close()  # so that the end of the process is the end of the connection
        self._wait()

    def __call__(self) -> None:
        with suppress(ConnectionError):  # if the process has ended, its missing answer will tell
            self.connection.send("call")
        self._wait()

    def _wait(self) -> None:
        """Wait until the other process has done what it was asked to do."""
        try:
            problem = self.connection.recv()
        except (EOFError, ConnectionError):
            self.process.join()
            raise RuntimeError(
                "a contestant's process ended by itself, with exit code "
                f"{self.process.exitcode}: was there memory enough?"
            ) from None
        if problem:
            raise RuntimeError(f"in a contestant's process:\n{problem}")

    def __enter__(self) -> Apart:
        return self

    def __exit__(self, *_) -> None:
        self.process.terminate()
        self.process.join()


def _serve(connection, threads: int, build: Callable, args: tuple) -> None:
    """Answer each question with None once it is done, or with a traceback, and then end."""
    torch.set_num_threads(threads)
    try:
        call = build(*args)
        connection.send(None)
        while connection.recv():
            call()
            connection.send(None)
    except EOFError:  # nobody asks any more
        pass
    except Exception:
        connection.send(traceback.format_exc())
