"""A contestant in a process of its own."""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable

import torch


class Apart:
    """Calls what `build(*args)` returns in another process, which has the memory allocator as it comes: ours is told to keep what it frees, for all of ours.

    `build` is a function of a module, its arguments travel there. Raises RuntimeError with the other process's traceback. Ends with the `with` block.
    """

    def __init__(self, build: Callable[..., Callable[[], object]], *args):
        context = multiprocessing.get_context("spawn")  # a fork would inherit the allocator's state
        self.connection, other = context.Pipe()
        self.process = context.Process(
            target=_serve, args=(other, torch.get_num_threads(), build, args), daemon=True
        )
        self.process.start()
        other.close()  # so that the end of the process is the end of the connection
        self._answer()

    def __call__(self) -> None:
        self._answer("call")

    def _answer(self, question: str | None = None) -> None:
        try:
            if question:
                self.connection.send(question)
            problem = self.connection.recv()
        except (EOFError, ConnectionError):
            self.process.join()
            raise RuntimeError(
                f"a contestant's process ended by itself, with exit code {self.process.exitcode}: was there memory enough?"
            ) from None
        if problem:
            raise RuntimeError(f"in a contestant's process:\n{problem}")

    def __enter__(self) -> Apart:
        return self

    def __exit__(self, *_) -> None:
        self.process.terminate()
        self.process.join()


def _serve(connection, threads: int, build: Callable, args: tuple) -> None:
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
