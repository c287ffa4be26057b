"""Time and memory of slot attention's forward and backward pass against the number of iterations (Table 1), measured."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import pandas as pd
import torch
from torch import Tensor

from paper_lib.models import SLATE, SLATEConfig, SlotAttention, variant
from paper_lib.system.memory import peak_memory  # noqa: F401
from paper_lib.system.progress import bar


@dataclass(frozen=True)
class ComplexityRun:
    """What is measured: slot attention alone, float32, at these sizes, for each variant and number of iterations; medians over `repeats`.

    training_step: a model whose training step on a frozen dVAE is timed as well, with `batch` images of random tokens (None: none is).
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

    kind = "complexity"


def measure(config: ComplexityRun, device: str = "cpu") -> pd.DataFrame:
    """One row for each variant and n: forward_s, backward_s, and step_s where asked for (medians over repeats, seconds) with their quartiles, and memory_bytes.

    memory_bytes is what the forward pass keeps for the backward pass: on a CPU the bytes of the saved tensors, weights and inputs aside; on a GPU the
    allocator's peak over a forward and backward pass, above what was allocated before.
    """
    c = config
    cases = [(name, n) for n in c.iterations for name in c.variants]
    samples: dict[tuple, list] = {case: [] for case in cases}
    memory: dict[tuple, int] = {}
    with bar(len(cases) * (c.repeats + 1), "complexity", "pass") as progress:
        for repeat in range(
            -1, c.repeats
        ):  # cases take turns, so that a slow moment of the machine touches all; the first round warms up
            for name, n in cases:
                module, inputs, slots = _build(c, name, n, device)
                step = [_step_seconds(c, name, n, device)] if c.training_step else []
                if repeat < 0:
                    memory[name, n] = _memory(module, inputs, slots)
                else:
                    samples[name, n].append([*_seconds(module, inputs, slots), *step])
                progress.update()
    rows = []
    for name, n in cases:
        times = pd.DataFrame(
            samples[name, n],
            columns=["forward_s", "backward_s", *(["step_s"] if c.training_step else [])],
        )
        quartiles = {
            f"{column}_q{q}": times[column].quantile(q / 100) for column in times for q in (25, 75)
        }
        rows.append(
            {
                "variant": name,
                "n": n,
                **times.median().to_dict(),
                **quartiles,
                "memory_bytes": memory[name, n],
            }
        )
    return pd.DataFrame(rows)


def saved_bytes(forward) -> int:
    """Bytes of the tensors that `forward()` saves for its backward pass, each storage once, without those of leaves (weights, inputs)."""
    storages: dict[int, int] = {}
    kept = []  # a freed storage's address could be taken by the next: keep all until they are counted

    def pack(tensor: Tensor) -> Tensor:
        if not (
            tensor if tensor._base is None else tensor._base
        ).is_leaf:  # a linear layer saves its weight as a view, transposed
            kept.append(tensor)
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward()
    return sum(storages.values())


def _build(c: ComplexityRun, name: str, n: int, device: str):
    torch.manual_seed(c.seed)
    module = SlotAttention(c.size, c.size, c.size, *variant(name, n)).to(device)
    return (
        module,
        torch.randn(c.batch, c.tokens, c.size, device=device),
        torch.randn(c.batch, c.slots, c.size, device=device),
    )


def _memory(module, inputs: Tensor, slots: Tensor) -> int:
    if inputs.device.type == "cpu":
        return saved_bytes(lambda: module(inputs, slots).value.sum())
    torch.cuda.reset_peak_memory_stats(inputs.device)
    before = torch.cuda.memory_allocated(inputs.device)
    module(inputs, slots).value.sum().backward()
    return torch.cuda.max_memory_allocated(inputs.device) - before


def _step_seconds(c: ComplexityRun, name: str, n: int, device: str) -> float:
    torch.manual_seed(c.seed)
    model = SLATE(replace(c.training_step, variant=name, num_iterations=n)).to(device)
    model.dvae.requires_grad_(False)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], fused=True)
    tokens = torch.randint(c.training_step.vocab_size, (c.batch, model.num_tokens), device=device)
    wait = torch.cuda.synchronize if tokens.device.type == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    model.autoencode(tokens)[0].mean().backward()
    optimizer.step()
    wait()
    return time.perf_counter() - start


def _seconds(module, inputs: Tensor, slots: Tensor) -> tuple[float, float]:
    wait = torch.cuda.synchronize if inputs.device.type == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    loss = module(inputs, slots).value.square().mean()
    wait()
    middle = time.perf_counter()
    loss.backward()
    wait()
    return middle - start, time.perf_counter() - middle
