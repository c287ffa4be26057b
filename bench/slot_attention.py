"""Our slot attention against the package `slot-attention`, with the same weights."""

from __future__ import annotations

import pandas as pd
import torch
from torch import Tensor, nn

from bench import others
from bench.report import Report, how_timed
from bench.timing import alternate, compare
from paper_lib.models import SlotAttention, variant

PACKAGE = "slot-attention, vanilla"


def copied(theirs: nn.Module, name: str, iterations: int) -> SlotAttention:
    """Ours with the package's weights; its projections' biases, which ours has not, are set to zero in both."""
    ours = SlotAttention(theirs.dim, theirs.dim, theirs.dim, *variant(name, iterations))
    for projection in (theirs.to_q, theirs.to_k, theirs.to_v):
        nn.init.zeros_(projection.bias)
    pairs = {
        "project_q": "to_q", "project_k": "to_k", "project_v": "to_v", "gru": "gru", "mlp": "mlp",
        "norm_inputs": "norm_input", "norm_slots": "norm_slots", "norm_mlp": "norm_pre_ff",
    }  # fmt: skip
    for mine, its in pairs.items():
        weights = theirs.get_submodule(its).state_dict()
        ours.get_submodule(mine).load_state_dict(
            {key: weights[key] for key in ours.get_submodule(mine).state_dict()}
        )
    return ours


def measure(
    package, batch: int, tokens: int, slots: int, size: int, iterations: int, repeats: int
) -> tuple[pd.DataFrame, str]:
    """A row for each contestant and part, and a sentence on how the slots agree."""
    torch.manual_seed(0)
    inputs = torch.randn(batch, tokens, size)
    mu, log_sigma = torch.zeros(1, 1, size), torch.zeros(1, 1, size)
    agreement = ""
    if package:
        theirs = package.SlotAttention(num_slots=slots, dim=size, iters=iterations, hidden_dim=size)
        modules = {
            PACKAGE: theirs,
            **{f"ours, {name}": copied(theirs, name, iterations) for name in ("vanilla", "IN")},
        }
        mu, log_sigma = theirs.slots_mu.detach(), theirs.slots_logsigma.detach()
    else:
        modules = {
            f"ours, {name}": SlotAttention(size, size, size, *variant(name, iterations))
            for name in ("vanilla", "IN")
        }

    def slots_of(name: str) -> Tensor:
        if name == PACKAGE:
            return modules[name](inputs)
        return modules[name](
            inputs, mu + log_sigma.exp() * torch.randn(batch, slots, size)
        ).value  # the package draws its initial slots itself

    if package:
        found = {}
        for name in (PACKAGE, "ours, vanilla"):
            torch.manual_seed(1)
            found[name] = slots_of(name).detach()
        difference = (found[PACKAGE] - found["ours, vanilla"]).abs().max() / found[
            PACKAGE
        ].abs().max()
        agreement = f" The slots of both differ by at most {difference:.0e} of the largest."
    kept: dict[str, Tensor] = {}
    contestants = {}
    for name in modules:
        contestants[name, "forward"] = lambda name=name: kept.update(
            {name: slots_of(name).square().mean()}
        )
        contestants[name, "backward"] = lambda name=name: kept.pop(name).backward()
    seconds = alternate(contestants, repeats, f"slot attention, size {size}")
    tables = []
    for part in ("forward", "backward"):
        table = compare({name: seconds[name, part] for name in modules}, next(iter(modules)))
        table.insert(1, "pass", part)
        tables.append(table)
    return pd.concat(tables, ignore_index=True), agreement


def bench(quick: bool) -> Report:
    package, missing = others.package("slot_attention")
    cases = [(2, 16, 3, 16, 2, 1)] if quick else [(32, 64, 7, 64, 7, 25), (50, 256, 12, 192, 7, 9)]
    parts = [
        "Vanilla against vanilla, and our IN, with the package's weights where it is at hand (its projections' biases, which ours has not, at zero). "
        "`ratio` is to the first contestant's median of the same pass.",
        *([missing] if missing else []),
    ]
    for batch, tokens, slots, size, iterations, repeats in cases:
        table, agreement = measure(package, batch, tokens, slots, size, iterations, repeats)
        parts += [
            f"## Batch {batch}, {tokens} inputs, {slots} slots, size {size}, {iterations} iterations",
            table,
            how_timed(repeats) + agreement,
        ]
    return Report("Slot attention alone", parts, ("slot-attention",) if package else ())
