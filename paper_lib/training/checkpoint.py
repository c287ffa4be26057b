"""Checkpoints in safetensors: written whole, loaded without executing code, and holding all that a
bit-identical resumption needs."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from paper_lib.system.files import whole


def save_tensors(path: Path, tensors: dict[str, Tensor], info: dict | None = None) -> None:
    """Write tensors and, beside them, anything that JSON can hold."""
    on_cpu = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with whole(path) as temporary:
        save_file(on_cpu, temporary, {"info": json.dumps(info or {})})


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict]:
    """Return what `save_tensors` wrote.

    Raises safetensors.SafetensorError for a file that is not whole.
    """
    with safe_open(path, "pt") as archive:
        tensors = {name: archive.get_tensor(name) for name in archive.keys()}
        return tensors, json.loads(archive.metadata()["info"])


def save_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, info: dict
) -> None:
    """Write the model, the optimiser and every random state.

    `info` holds the rest: the step, the metrics so far, the state of the schedules.
    """
    tensors = {f"model/{name}": value for name, value in model.state_dict().items()}
    state = optimizer.state_dict()
    for index, entry in state["state"].items():
        tensors |= {f"optimizer/{index}/{name}": value for name, value in entry.items()}
    tensors["rng/cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        for index, value in enumerate(torch.cuda.get_rng_state_all()):
            tensors[f"rng/cuda/{index}"] = value
    save_tensors(path, tensors, info | {"param_groups": state["param_groups"]})


def load_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict:
    """Put everything back where `save_checkpoint` took it from, and return its `info`."""
    tensors, info = load_tensors(path)
    model.load_state_dict(_under("model/", tensors))
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in _under("optimizer/", tensors).items():
        index, name = key.split("/")
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": info.pop("param_groups")})
    # a fused optimiser reads weights and moments as they lie in memory, so they must lie alike
    for parameter, entry in optimizer.state.items():
        for name, value in entry.items():
            if value.shape == parameter.shape:
                entry[name] = torch.empty_like(parameter).copy_(value)
    torch.set_rng_state(tensors["rng/cpu"])
    cuda = _under("rng/cuda/", tensors)
    if cuda and torch.cuda.device_count() == len(cuda):
        torch.cuda.set_rng_state_all([cuda[str(index)] for index in range(len(cuda))])
    return info


def model_weights(path: Path) -> dict[str, Tensor]:
    """Return the model's weights alone, out of a checkpoint."""
    return _under("model/", load_tensors(path)[0])


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
