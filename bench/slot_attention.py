"""Our slot attention against the package `slot-attention`, with the same weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import ModuleType

import pandas as pd
import torch
from torch import Tensor, nn

from bench import others
from bench.report import Report, how_timed
from bench.timing import alternate, compare
from paper_lib.models import SlotAttention, variant

PACKAGE = "slot-attention, vanilla"
VARIANTS = ("vanilla", "IN")
MODULES = {  # our name -> the package's
    "project_q": "to_q",
    "project_k": "to_k",
    "project_v": "to_v",
    "gru": "gru",
    "mlp": "mlp",
    "norm_inputs": "norm_input",
    "norm_slots": "norm_slots",
    "norm_mlp": "norm_pre_ff",
}


def bench(quick: bool) -> Report:
    package, missing = others.package("slot_attention")
    # samples, inputs, slots, size, iterations, rounds
    cases = [(2, 16, 3, 16, 2, 1)] if quick else [(32, 64, 7, 64, 7, 25), (50, 256, 12, 192, 7, 9)]
    parts: list[str | pd.DataFrame] = [
        "Vanilla against vanilla, and our IN, with the package's weights where it is at hand (its "
        "projections' biases, which ours has not, at zero). `ratio` is to the first contestant's "
        "median of the same pass."
    ]
    if missing:
        parts.append(missing)
    for batch, tokens, slots, size, iterations, repeats in cases:
        table, agreement = measure(package, batch, tokens, slots, size, iterations, repeats)
        parts += [
            f"## Batch {batch}, {tokens} inputs, {slots} slots, size {size}, "
            f"{iterations} iterations",
            table,
            how_timed(repeats) + agreement,
        ]
    return Report("Slot attention alone", parts, ("slot-attention",) if package else ())


def measure(
    package: ModuleType | None,
    batch: int,
    tokens: int,
    slots: int,
    size: int,
    iterations: int,
    repeats: int,
) -> tuple[pd.DataFrame, str]:
    """Return a row for each contestant and pass, and a sentence on how the slots agree."""
    torch.manual_seed(0)
    inputs = torch.randn(batch, tokens, size)
    infer: dict[str, Callable[[], Tensor]] = {}  # contestant -> what computes slots
    if package:
        theirs = package.SlotAttention(num_slots=slots, dim=size, iters=iterations, hidden_dim=size)
        infer[PACKAGE] = partial(theirs, inputs)  # it draws its initial slots itself
        mu, sigma = theirs.slots_mu.detach(), theirs.slots_logsigma.detach().exp()
    else:
        mu, sigma = torch.zeros(1, 1, size), torch.ones(1, 1, size)

    def ours(module: SlotAttention) -> Tensor:
        return module(inputs, mu + sigma * torch.randn(batch, slots, size)).value

    for name in VARIANTS:
        if package:
            module = copied(theirs, name, iterations)
        else:
            module = SlotAttention(size, size, size, *variant(name, iterations))
        infer[f"ours, {name}"] = partial(ours, module)

    agreement = _agreement(infer[PACKAGE], infer["ours, vanilla"]) if package else ""
    contestants = {}
    for name, slots_of in infer.items():
        passes = _Passes(slots_of)
        contestants[name, "forward"] = passes.forward
        contestants[name, "backward"] = passes.backward
    seconds = alternate(contestants, repeats, f"slot attention, size {size}")
    tables = []
    for part in ("forward", "backward"):
        table = compare({name: seconds[name, part] for name in infer}, next(iter(infer)))
        table.insert(1, "pass", part)
        tables.append(table)
    return pd.concat(tables, ignore_index=True), agreement


def copied(theirs: nn.Module, name: str, iterations: int) -> SlotAttention:
    """Return ours with the package's weights.

    The package's projections have biases, which ours has not: they are set to zero in both.
    """
    for projection in (theirs.to_q, theirs.to_k, theirs.to_v):
        nn.init.zeros_(projection.bias)
    ours = SlotAttention(theirs.dim, theirs.dim, theirs.dim, *variant(name, iterations))
    for our_name, their_name in MODULES.items():
        module = ours.get_submodule(our_name)
        weights = theirs.get_submodule(their_name).state_dict()
        module.load_state_dict({key: weights[key] for key in module.state_dict()})
    return ours


def _agreement(theirs: Callable[[], Tensor], ours: Callable[[], Tensor]) -> str:
    torch.manual_seed(1)
    expected = theirs().detach()
    torch.manual_seed(1)
    found = ours().detach()
    difference = (expected - found).abs().max() / expected.abs().max()
    return f" The slots of both differ by at most {difference:.0e} of the largest."


class _Passes:
    """The forward and the backward pass of one contestant, each timed by itself."""

    def __init__(self, infer_slots: Callable[[], Tensor]):
        self.infer_slots = infer_slots

    def forward(self) -> None:
        self.loss = self.infer_slots().square().mean()

    def backward(self) -> None:
        self.loss.backward()
        del self.loss  # as a training loop does not keep it either
