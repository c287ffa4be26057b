"""What a GPU wants of the training loop: data that lie on it, steps that do not wait for it; and, where asked, the same sums in the same order."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from paper_lib.system.memory import free_memory

SHARE = 0.5  # of a GPU's free memory that a data set may take


class OnDevice:
    """uint8 images (N, H, W, 3) in a device's memory; indexed with a numpy array, like the memory map that they were."""

    def __init__(self, images: np.ndarray, device: str):
        self.images = torch.empty(images.shape, dtype=torch.uint8, device=device)
        for start in range(0, len(images), 4096):  # never all of them in the host's memory
            self.images[start : start + 4096] = torch.from_numpy(
                np.array(images[start : start + 4096])
            )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, indices: np.ndarray) -> Tensor:
        return self.images[to_device(torch.from_numpy(indices), self.images.device)]


def resident(images: np.ndarray, device: str) -> np.ndarray | OnDevice:
    """The images on a GPU, if they fit beside a model; where they are, if they do not, or on a CPU."""
    if torch.device(device).type != "cuda" or images.nbytes > SHARE * free_memory(device):
        return images
    return OnDevice(images, device)


def to_device(tensor: Tensor, device: str | torch.device) -> Tensor:
    """The tensor there. From the CPU to a GPU through pinned memory: a copy out of any other would wait until the GPU has done all that was asked of it."""
    if torch.device(device).type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def in_step(device: str) -> bool:
    """Whether a number can be looked at as soon as it is asked for: a CPU has it, a GPU may be steps behind."""
    return torch.device(device).type == "cpu"


@contextmanager
def deterministic(asked: bool, device: str) -> Iterator[None]:
    """Within it torch takes deterministic algorithms only, and refuses what has none; as before afterwards."""
    if not asked:
        yield
        return
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    if torch.device(device).type == "cuda":
        os.environ.setdefault(
            "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
        )  # cuBLAS reads it at its first product
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def check_compiler(device: str) -> None:
    """RuntimeError, with the remedy, where torch.compile does not work."""
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.zeros(2, device=device))
    except Exception as error:  # whatever a compiler may raise that is not there, or too old
        raise RuntimeError(
            f"training.compile: torch.compile does not work here ({type(error).__name__}). On a CPU it needs a C++ compiler and Python's headers, on a GPU "
            "Triton; or set training.compile to false"
        ) from error
