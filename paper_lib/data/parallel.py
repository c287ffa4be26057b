"""Items made side by side, in threads or in processes, with a progress bar."""

import contextlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from joblib import Parallel, delayed

from paper_lib.system.following import follow
from paper_lib.system.machine import cores
from paper_lib.system.progress import bar

QUEUE = 1_000  # tasks that threads are given at once
KEPT = 10  # seconds that processes wait for the next call


def in_threads(
    function: Callable,
    tasks: Sequence,
    workers: int | None,
    description: str,
    done: int = 0,
) -> list:
    """Return [function(task) for task in tasks].

    Threads are enough where Pillow does the work: it decodes and resizes without Python's lock.
    `workers` is their number (one for each core); the bar starts at `done`.
    """
    pool = ThreadPoolExecutor(workers or cores())
    results = []
    try:
        with bar(done + len(tasks), description, "image", initial=done) as progress:
            for start in range(0, len(tasks), QUEUE):
                for result in pool.map(function, tasks[start : start + QUEUE]):
                    results.append(result)
                    progress.update()
    finally:
        pool.shutdown(cancel_futures=True)
    return results


def in_processes(
    function: Callable,
    tasks: Sequence[tuple],
    workers: int | None,
    description: str,
    done: int = 0,
) -> None:
    """Call function(*task) for each task, in `workers` processes (one for each core).

    One worker alone is this process. More are joblib's, which suit any script and notebook
    (multiprocessing would run a script again, and fails where it has no guard) and are kept for the
    next call for a few seconds. They end with this process, however it ends.
    """
    pool = Parallel(
        max(1, min(workers or cores(), len(tasks))),
        backend="loky",
        return_as="generator_unordered",
        idle_worker_timeout=KEPT,
        initializer=_follow,
        initargs=(os.getpid(),),
    )
    results = pool(delayed(function)(*task) for task in tasks)
    with (
        bar(done + len(tasks), description, "image", initial=done) as progress,
        contextlib.closing(results),  # an interrupt stops the processes at once
    ):
        for _ in results:
            progress.update()


def _follow(parent: int) -> None:
    """Have this worker end with its parent, and leave Ctrl-C to it.

    joblib's own workers would go on without a parent that is killed.
    """
    os.setsid()  # a terminal's Ctrl-C goes to one session
    follow(parent)
