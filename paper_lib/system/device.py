"""What a device is: a CUDA GPU or this machine's processor."""

from __future__ import annotations

import torch

from paper_lib.system.machine import processor


def is_cuda(device: str | torch.device) -> bool:
    """Return whether the device ("cpu", "cuda", "cuda:1" ...) is a CUDA GPU."""
    return torch.device(device).type == "cuda"


def synchronize(device: str | torch.device) -> None:
    """Wait until a GPU has done all that was asked of it. A CPU always has."""
    if is_cuda(device):
        torch.cuda.synchronize(device)


def device_name(device: str | torch.device) -> str:
    """Return the model name of the GPU, or of this machine's processor."""
    return torch.cuda.get_device_name(device) if is_cuda(device) else processor()
