"""Checkpoints in safetensors: written whole, loaded without executing code, and holding all that a
bit-identical resumption needs."""

from __future__ import annotations

import errno
import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from paper_lib.system.files import whole
from paper_lib.system.reading import BrokenFile, reading

CHECKSUM = "sha256"  # of tensors and info, and kept in info
REMEDY = (
    "If it is committed, get it back with `git checkout`; or delete it, and with a checkpoint the "
    "run starts anew, with a finished run's folder it is made again"
)


def save_tensors(path: Path, tensors: dict[str, Tensor], info: dict | None = None) -> None:
    """Write tensors and, beside them, anything that JSON can hold, and a checksum of both."""
    on_cpu = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    info = json.loads(json.dumps(info or {}))  # as it will be read
    info[CHECKSUM] = _checksum(on_cpu, info)
    with whole(path) as temporary:
        try:
            save_file(on_cpu, temporary, {"info": json.dumps(info)})
        except SafetensorError as error:  # such as for a disk that is full
            raise OSError(errno.EIO, str(error), str(path)) from error


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict]:
    """Return what `save_tensors` wrote.

    Raises BrokenFile for a file that is not whole, or not what its checksum says; files from before
    there were checksums have none.
    """
    with reading(path, REMEDY):
        with safe_open(path, "pt") as archive:
            tensors = {name: archive.get_tensor(name) for name in archive.keys()}
            info = json.loads(archive.metadata()["info"])
        expected = info.pop(CHECKSUM, None)
        found = expected and _checksum(tensors, info)
    if found != expected:
        raise BrokenFile(path, "does not hold what its checksum says", REMEDY)
    return tensors, info


def _checksum(tensors: dict[str, Tensor], info: dict) -> str:
    """Return a SHA-256 of tensors on the CPU, their names, types and shapes, and of `info`."""
    digest = hashlib.sha256(json.dumps(info, sort_keys=True).encode())
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


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
    """Put everything back where `save_checkpoint` took it from, and return its `info`.

    Raises BrokenFile for a file that is not whole, or of another model.
    """
    tensors, info = load_tensors(path)
    with reading(path, REMEDY):
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
    with reading(path, REMEDY):
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
