"""What a GPU wants of the training loop: data that lie on it, and steps that do not wait for it;
and, where it is asked for, the same sums in the same order."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from paper_lib.system.device import is_cuda
from paper_lib.system.memory import free_memory

SHARE = 0.5  # a data set may take this share of a GPU's free memory
ROWS = 4096  # so many images are copied to a GPU at a time


class OnDevice:
    """uint8 images (N, H, W, 3) in a device's memory.

    They are indexed with a numpy array, like the memory map that they were.
    """

    def __init__(self, images: np.ndarray, device: str):
        self.images = torch.empty(images.shape, dtype=torch.uint8, device=device)
        for start in range(0, len(images), ROWS):  # never all of them in the host's memory
            part = np.array(images[start : start + ROWS])
            self.images[start : start + ROWS] = torch.from_numpy(part)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, indices: np.ndarray) -> Tensor:
        return self.images[to_device(torch.from_numpy(indices), self.images.device)]


def resident(images: np.ndarray, device: str) -> np.ndarray | OnDevice:
    """Put images on a GPU, if they fit beside a model; elsewhere leave them where they are."""
    if not is_cuda(device) or images.nbytes > SHARE * free_memory(device):
        return images
    return OnDevice(images, device)


def to_device(tensor: Tensor, device: str | torch.device) -> Tensor:
    """Return the tensor on the device.

    From the CPU to a GPU it goes through pinned memory: a copy out of any other would wait until
    the GPU has done all that was asked of it.
    """
    if not is_cuda(device) or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def in_step(device: str) -> bool:
    """Return whether a number is there as soon as it is asked for: a GPU may be steps behind."""
    return torch.device(device).type == "cpu"


@contextmanager
def deterministic(asked: bool, device: str) -> Iterator[None]:
    """Have torch take deterministic algorithms only, where that is asked for, and refuse what has
    none; afterwards all is as it was."""
    if not asked:
        yield
        return
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    if is_cuda(device):
        # cuBLAS reads it at its first product
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def check_compiler(device: str) -> None:
    """Raise RuntimeError, with the remedy, where torch.compile does not work."""
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.zeros(2, device=device))
    except Exception as error:  # whatever a compiler may raise that is not there, or too old
        raise RuntimeError(
            f"training.compile: torch.compile does not work here ({type(error).__name__}). On a "
            "CPU it needs a C++ compiler and Python's headers, on a GPU Triton; or set "
            "training.compile to false"
        ) from error
