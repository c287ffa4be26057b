"""Several processes, a GPU each, that train one model on shares of every batch.

    torchrun --nproc-per-node 4 -m paper_lib.runs paper RUN_ID --device cuda

DistributedDataParallel averages the gradients; the first process alone evaluates and writes.
Without torchrun there is one process, and every function here is the identity. What processes agree
on beside gradients lies in the CPU's memory (gloo), so that no GPU waits for it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from paper_lib.system.following import follow

T = TypeVar("T")
TIMEOUT = timedelta(
    days=1
)  # the others wait while the first renders scenes, evaluates, or waits for a lock


def world_size() -> int:
    """Return how many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return which of them this one is, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_first() -> bool:
    return rank() == 0


@contextmanager
def processes(device: str) -> Iterator[str]:
    """Join the processes that torchrun started, and give the device of this one.

    Where torchrun started none, or only one, nothing is joined. Raises ValueError, with the remedy,
    for one GPU's name where each process takes its own, and for more processes than GPUs.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield device
        return
    if "TORCHELASTIC_RUN_ID" in os.environ:
        follow(os.getppid())  # torchrun's
    backend = "gloo"
    if device.startswith("cuda"):
        local, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if device != "cuda":
            raise ValueError(
                f"device {device!r} is a single GPU: under torchrun say 'cuda', of which each "
                "process takes its own"
            )
        if local >= count:
            raise ValueError(
                f"process {local} has no GPU of its own, this machine has {count}: start at "
                f"most as many, torchrun --nproc-per-node {count}"
            )
        device, backend = f"cuda:{local}", "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(device)
    dist.init_process_group(backend, timeout=TIMEOUT)
    _meet()
    yield device
    _meet()
    # not after an error: the others may be waiting for this process, and torchrun ends them
    dist.destroy_process_group()


def _meet() -> None:
    """Wait until all are here.

    A process that closed its connections while another still opens its own would end that one's
    start.
    """
    dist.all_reduce(torch.zeros(1))


def of_first(work: Callable[[], T]) -> T:
    """Call `work()` in the first process, and return its result in all; the others wait."""
    if world_size() == 1:
        return work()
    result = [work() if is_first() else None]
    dist.broadcast_object_list(result, src=0, device=torch.device("cpu"))
    return result[0]


def first_goes_first(work: Callable[[], T]) -> T:
    """Call `work()` in every process, in the others once the first is done.

    They find the files that it made.
    """
    result = work() if is_first() else None
    of_first(lambda: None)
    return result if is_first() else work()


def mean(values: Tensor) -> Tensor:
    """Return the mean over the processes, on the CPU, of a tensor that each has.

    It is not finite where one's is not.
    """
    values = values.cpu()
    if world_size() == 1:
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total / world_size()


def share(batch_size: int) -> slice:
    """Return which part of a batch of so many is this process's.

    The parts are equal, so that the mean of their gradients is the batch's. Raises ValueError for a
    batch that does not divide.
    """
    if batch_size % world_size():
        raise ValueError(
            f"a batch of {batch_size} does not divide among {world_size()} processes: set "
            f"training.batch_size to a multiple of {world_size()}, "
            f"or torchrun's --nproc-per-node to a divisor of {batch_size}"
        )
    part = batch_size // world_size()
    return slice(rank() * part, (rank() + 1) * part)


def seed_step(seed: int, step: int) -> None:
    """Seed a step's random numbers in each of several processes by (seed, step, rank).

    So they are others than their neighbours', and the same after a resumption; they are not those
    of another number of processes. One process alone goes on with the random state that it has.
    """
    if world_size() > 1:
        torch.manual_seed(int(np.random.SeedSequence((seed, step, rank())).generate_state(1)[0]))


def synchronised(loss: nn.Module) -> nn.Module:
    """Return the module, with gradients that are averaged over the processes."""
    if world_size() == 1:
        return loss
    # Under IN and BN nothing reaches the initial slots' mean and scale: looked for, they keep the
    # gradient None that they have in a single process.
    return DistributedDataParallel(loss, find_unused_parameters=True)
