"""Time and memory of slot attention's forward and backward pass against the number of iterations
(Table 1), measured."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import pandas as pd
import torch
from torch import Tensor

from paper_lib.fixed_point import Adjoint
from paper_lib.models import SLATE, SLATEConfig, SlotAttention, variant
from paper_lib.system.device import synchronize
from paper_lib.system.files import whole
from paper_lib.system.progress import bar
from paper_lib.training import parallel


@dataclass(frozen=True)
class ComplexityRunConfig:
    """What is measured: slot attention alone, in float32, for each variant and number of
    iterations; medians over `repeats`.

    variants, iterations   rows of Table 2, and numbers of iterations n
    adjoints               gradients that no row of Table 2 has, each after plain iteration; such a
                           case's name in the table is the adjoint's repr
    batch, tokens, slots   images, inputs an image, slots an image
    size                   features of inputs, slots and the MLP
    repeats                how often each case is timed
    training_step          a model whose training step on a frozen dVAE is timed as well, with
                           `batch` images of random tokens; None: none is
    """

    variants: tuple[str, ...] = ("vanilla", "IN")
    iterations: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    batch: int = 50
    tokens: int = 256
    slots: int = 7
    size: int = 192
    repeats: int = 15
    seed: int = 0
    training_step: SLATEConfig | None = None
    adjoints: tuple[Adjoint, ...] = ()

    kind = "complexity"
    method = None
    alone = True

    def needs(self) -> list:
        return []

    def ensure_performable(self) -> None:
        """Nothing stands in its way."""

    def perform(self, job) -> dict:
        """Measure, and write the table as the run's metrics."""
        path = job.folder / "metrics.csv"
        parallel.of_first(lambda: _write(measure(self, job.device), path))
        return {"status": "finished", "final": {}}


def measure(config: ComplexityRunConfig, device: str = "cpu") -> pd.DataFrame:
    """Measure every case: one row for each variant and n.

    Columns are forward_s and backward_s, and step_s where it is asked for, medians over the repeats
    in seconds, with their quartiles (forward_s_q25 ...); and memory_bytes, what the forward pass
    keeps for the backward pass. On a CPU these are the bytes of the saved tensors, weights and
    inputs aside; on a GPU the allocator's peak over a forward and a backward pass, above what was
    allocated before.
    """
    pairs = _changes(config)
    cases = [(name, n) for n in config.iterations for name in pairs]
    seconds: dict[tuple, list[dict]] = {case: [] for case in cases}
    memory: dict[tuple, int] = {}
    with bar(len(cases) * (config.repeats + 1), "complexity", "pass") as progress:
        # cases take turns, so that a slow moment of the machine touches all; the first round warms
        # up
        for repeat in range(-1, config.repeats):
            for name, n in cases:
                module, inputs, slots = _build(config, pairs[name], n, device)
                taken = {}
                if config.training_step:
                    taken["step_s"] = _step_seconds(config, pairs[name], n, device)
                if repeat < 0:
                    memory[name, n] = _memory(module, inputs, slots)
                else:
                    seconds[name, n].append(_seconds(module, inputs, slots) | taken)
                progress.update()
    rows = []
    for name, n in cases:
        times = pd.DataFrame(seconds[name, n])
        row = {"variant": name, "n": n, **times.median().to_dict()}
        for column in times:
            row[f"{column}_q25"] = times[column].quantile(0.25)
            row[f"{column}_q75"] = times[column].quantile(0.75)
        rows.append({**row, "memory_bytes": memory[name, n]})
    return pd.DataFrame(rows)


def saved_bytes(forward: Callable[[], object]) -> int:
    """Return the bytes of the tensors that `forward()` saves for its backward pass.

    Each storage counts once; those of leaves (weights, inputs) do not count.
    """
    storages: dict[int, int] = {}
    kept = []  # a freed storage's address could be taken by the next: keep them till the end

    def pack(tensor: Tensor) -> Tensor:
        # a linear layer saves its weight as a view, transposed
        owner = tensor if tensor._base is None else tensor._base
        if not owner.is_leaf:
            kept.append(tensor)
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward()
    return sum(storages.values())


def _changes(config: ComplexityRunConfig) -> dict[str, dict]:
    """Return what each case's model config has: name -> variant, and adjoint if it has its own."""
    of_table_2 = {name: {"variant": name} for name in config.variants}
    return of_table_2 | {repr(a): {"variant": "IN", "adjoint": a} for a in config.adjoints}


def _build(c: ComplexityRunConfig, pair: dict, n: int, device: str):
    torch.manual_seed(c.seed)
    solver, adjoint = variant(pair["variant"], n)
    module = SlotAttention(c.size, c.size, c.size, solver, pair.get("adjoint", adjoint)).to(device)
    inputs = torch.randn(c.batch, c.tokens, c.size, device=device)
    return module, inputs, torch.randn(c.batch, c.slots, c.size, device=device)


def _memory(module: SlotAttention, inputs: Tensor, slots: Tensor) -> int:
    if not inputs.is_cuda:
        return saved_bytes(lambda: module(inputs, slots).value.sum())
    torch.cuda.reset_peak_memory_stats(inputs.device)
    before = torch.cuda.memory_allocated(inputs.device)
    module(inputs, slots).value.sum().backward()
    return torch.cuda.max_memory_allocated(inputs.device) - before


def _step_seconds(c: ComplexityRunConfig, pair: dict, n: int, device: str) -> float:
    torch.manual_seed(c.seed)
    model = SLATE(replace(c.training_step, **pair, num_iterations=n)).to(device)
    model.dvae.requires_grad_(False)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, fused=True)
    shape = c.batch, model.num_tokens
    tokens = torch.randint(c.training_step.vocab_size, shape, device=device)
    start = _now(tokens)
    model.autoencode(tokens)[0].mean().backward()
    optimizer.step()
    return _now(tokens) - start


def _seconds(module: SlotAttention, inputs: Tensor, slots: Tensor) -> dict[str, float]:
    start = _now(inputs)
    loss = module(inputs, slots).value.square().mean()
    middle = _now(inputs)
    loss.backward()
    return {"forward_s": middle - start, "backward_s": _now(inputs) - middle}


def _now(tensor: Tensor) -> float:
    """Return the time, once the tensor's device has done all that was asked of it."""
    synchronize(tensor.device)
    return time.perf_counter()


def _write(table: pd.DataFrame, path) -> None:
    with whole(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g")
