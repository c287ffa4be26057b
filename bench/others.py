"""Other people's code, where it is at hand: the authors' SLATE in the folder SLATE_CODE, and packages that are installed with the extra `bench`."""

from __future__ import annotations

import hashlib
import os
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace

import torch
from torch import Tensor, nn

from paper_lib.models import SLATE, SLATEConfig

FILES = ("slate.py", "dvae.py", "slot_attn.py", "transformer.py", "utils.py")
WITHOUT_SLATE = (
    "**The authors' code is left out**: it is not part of this repository. Clone github.com/singhgautam/slate, name its folder in the environment variable "
    "`SLATE_CODE`, and run this again."
)


def slate_folder() -> Path | None:
    """The authors' code, or None where nobody says where it is. FileNotFoundError where it is not in the folder that is named."""
    if not os.environ.get("SLATE_CODE"):
        return None
    folder = Path(os.environ["SLATE_CODE"])
    if missing := [name for name in FILES if not (folder / name).exists()]:
        raise FileNotFoundError(
            f"SLATE_CODE names {folder}, which has no {', '.join(missing)}: it should name a clone of github.com/singhgautam/slate"
        )
    return folder


def which_slate() -> str:
    """A line for the report: which version of the authors' code, or how to get it."""
    folder = slate_folder()
    if folder is None:
        return WITHOUT_SLATE
    digest = hashlib.sha256(b"".join((folder / name).read_bytes() for name in FILES)).hexdigest()[
        :10
    ]
    return f"The authors' code is github.com/singhgautam/slate; SHA-256 of {', '.join(FILES)} one after the other: {digest}."


def slate(config: SLATEConfig) -> nn.Module | None:
    """The authors' SLATE at these sizes, or None without their code. It has one gradient, vanilla's, whatever `config.variant` says."""
    folder = slate_folder()
    if folder is None:
        return None
    sys.path.insert(0, str(folder))  # their modules import each other by bare name
    try:
        module = import_module("slate")
    finally:
        sys.path.remove(str(folder))
    return module.SLATE(SimpleNamespace(**vars(config), img_channels=3, pos_channels=4))


def loss_difference(theirs: nn.Module, ours: SLATE, image: Tensor) -> float:
    """The larger of the two losses' relative differences, without dropout, where both see the relaxed sample, tokens and slots that the authors' code drew."""
    drawn = {}
    hooks = [
        theirs.dvae.decoder.register_forward_pre_hook(lambda _, args: drawn.update(sample=args[0])),
        theirs.dictionary.register_forward_pre_hook(
            lambda _, args: drawn.update(tokens=args[0].argmax(-1)[:, 1:] - 1)
        ),
        theirs.slot_attn.slot_attention.register_forward_pre_hook(
            lambda _, args: drawn.update(slots=args[1])
        ),
    ]
    modes = theirs.training, ours.training
    theirs.eval(), ours.eval()
    with torch.no_grad():
        _, cross_entropy, mse, _ = theirs(image, 1.0, False)
        noise = (drawn["slots"] - ours.slot_attn.slot_mu) / ours.slot_attn.slot_log_sigma.exp()
        our_cross_entropy = ours.autoencode(drawn["tokens"], noise)[0].mean()
        our_mse = (image - ours.dvae.decoder(drawn["sample"])).square().sum() / len(image)
    theirs.train(modes[0]), ours.train(modes[1])
    for hook in hooks:
        hook.remove()
    return max(
        (abs(our_cross_entropy - cross_entropy) / cross_entropy).item(),
        (abs(our_mse - mse) / mse).item(),
    )


def package(module: str) -> tuple[ModuleType | None, str]:
    """An optional package and an empty string; or None, and a paragraph that says what is missing."""
    try:
        return import_module(module), ""
    except ImportError as error:
        why = f"`import {module}` says: {error}"
        return (
            None,
            f'**{module} is left out** ({why}). Install it with the extra: `pip install -e ".[bench]"`, and run this again.',
        )
