"""Checkpoints in safetensors: written whole, loaded without executing code, and holding all that a bit-identical resumption needs."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from paper_lib.system.files import whole


def save_tensors(path: Path, tensors: dict[str, Tensor], info: dict | None = None) -> None:
    """Tensors, and anything that JSON can hold beside them."""
    with whole(path) as temporary:
        save_file(
            {k: v.detach().cpu().contiguous() for k, v in tensors.items()},
            temporary,
            {"info": json.dumps(info or {})},
        )


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict]:
    """What `save_tensors` wrote. Raises safetensors.SafetensorError for a file that is not whole."""
    with safe_open(path, "pt") as archive:
        return {k: archive.get_tensor(k) for k in archive.keys()}, json.loads(
            archive.metadata()["info"]
        )


def save_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, info: dict
) -> None:
    """The model, the optimiser and every random state; `info` holds the rest: step, metrics so far, schedules."""
    tensors = {f"model/{k}": v for k, v in model.state_dict().items()}
    state = optimizer.state_dict()
    tensors |= {
        f"optimizer/{i}/{k}": v for i, entry in state["state"].items() for k, v in entry.items()
    }
    tensors["rng/cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors |= {f"rng/cuda/{i}": v for i, v in enumerate(torch.cuda.get_rng_state_all())}
    save_tensors(path, tensors, info | {"param_groups": state["param_groups"]})


def load_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict:
    """Puts everything back where `save_checkpoint` took it from, and returns its `info`."""
    tensors, info = load_tensors(path)
    model.load_state_dict(_under("model/", tensors))
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in _under("optimizer/", tensors).items():
        index, name = key.split("/")
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": info.pop("param_groups")})
    for (
        parameter,
        entry,
    ) in optimizer.state.items():  # a fused optimiser reads both as they lie in memory
        entry |= {
            name: torch.empty_like(parameter).copy_(value)
            for name, value in entry.items()
            if value.shape == parameter.shape
        }
    torch.set_rng_state(tensors["rng/cpu"])
    cuda = _under("rng/cuda/", tensors)
    if cuda and torch.cuda.device_count() == len(cuda):
        torch.cuda.set_rng_state_all([cuda[str(i)] for i in range(len(cuda))])
    return info


def model_weights(path: Path) -> dict[str, Tensor]:
    """The model's weights alone, out of a checkpoint."""
    return _under("model/", load_tensors(path)[0])


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
