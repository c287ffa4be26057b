"""Other people's code, where it is at hand.

The authors' SLATE is what the environment variable SLATE_CODE names; packages are those that the
extra `bench` installs.
"""

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
    "**The authors' code is left out**: it is not part of this repository. Clone "
    "github.com/singhgautam/slate, name its folder in the environment variable `SLATE_CODE`, and "
    "run this again."
)


def slate_folder() -> Path | None:
    """Return the folder of the authors' code, or None where nobody says where it is.

    Raises FileNotFoundError where the code is not in the folder that is named.
    """
    if not os.environ.get("SLATE_CODE"):
        return None
    folder = Path(os.environ["SLATE_CODE"])
    missing = [name for name in FILES if not (folder / name).exists()]
    if missing:
        raise FileNotFoundError(
            f"SLATE_CODE names {folder}, which has no {', '.join(missing)}: "
            "it should name a clone of github.com/singhgautam/slate"
        )
    return folder


def which_slate() -> str:
    """Return a line for the report: which version of the authors' code, or how to get it."""
    folder = slate_folder()
    if folder is None:
        return WITHOUT_SLATE
    code = b"".join((folder / name).read_bytes() for name in FILES)
    digest = hashlib.sha256(code).hexdigest()[:10]
    return (
        "The authors' code is github.com/singhgautam/slate; "
        f"SHA-256 of {', '.join(FILES)} one after the other: {digest}."
    )


def slate(config: SLATEConfig) -> nn.Module | None:
    """Return the authors' SLATE at these sizes, or None without their code.

    It has one gradient, vanilla's, whatever `config.variant` says.
    """
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
    """Return the larger of the relative differences between the two models' two losses.

    Both are computed without dropout, from the relaxed sample, the tokens and the slots that the
    authors' code drew for image (B, 3, H, W).
    """
    drawn: dict[str, Tensor] = {}

    def keep_sample(_, args) -> None:
        drawn["sample"] = args[0]

    def keep_tokens(_, args) -> None:
        drawn["tokens"] = args[0].argmax(-1)[:, 1:] - 1  # they are one-hot, after a start token

    def keep_slots(_, args) -> None:
        drawn["slots"] = args[1]

    hooks = [
        theirs.dvae.decoder.register_forward_pre_hook(keep_sample),
        theirs.dictionary.register_forward_pre_hook(keep_tokens),
        theirs.slot_attn.slot_attention.register_forward_pre_hook(keep_slots),
    ]
    modes = theirs.training, ours.training
    theirs.eval()
    ours.eval()
    with torch.no_grad():
        _, cross_entropy, mse, _ = theirs(image, 1.0, False)
        noise = (drawn["slots"] - ours.slot_attn.slot_mu) / ours.slot_attn.slot_log_sigma.exp()
        our_cross_entropy = ours.autoencode(drawn["tokens"], noise)[0].mean()
        our_mse = (image - ours.dvae.decoder(drawn["sample"])).square().sum() / len(image)
    theirs.train(modes[0])
    ours.train(modes[1])
    for hook in hooks:
        hook.remove()
    differences = (
        abs(our_cross_entropy - cross_entropy) / cross_entropy,
        abs(our_mse - mse) / mse,
    )
    return max(difference.item() for difference in differences)


def package(module: str) -> tuple[ModuleType | None, str]:
    """Return an optional package and an empty string.

    Where it is not installed, return None and a paragraph that says what is missing.
    """
    try:
        return import_module(module), ""
    except ImportError as error:
        return None, (
            f"**{module} is left out** (`import {module}` says: {error}). "
            'Install it with the extra: `pip install -e ".[bench]"`, and run this again.'
        )
