"""A training step of SLATE: ours against the authors' code, with the same weights, and the share of the machine's matrix products that it reaches."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, bmm_flop

from bench import others
from bench.apart import Apart
from bench.report import Report
from bench.timing import alternate, compare
from paper_lib.models import SLATE, SLATEConfig
from paper_lib.system.machine import bfloat16_gain
from paper_lib.system.memory import keep_freed_memory
from paper_lib.training.optimisation import clip_gradients

SMALL = SLATEConfig(
    image_size=32, vocab_size=256, d_model=64, slot_size=64, mlp_hidden_size=64, num_slots=7
)
PAPER = SLATEConfig()
LARGE = replace(PAPER, image_size=96)
TINY = SLATEConfig(
    image_size=16,
    vocab_size=16,
    d_model=16,
    slot_size=16,
    mlp_hidden_size=16,
    num_slots=3,
    num_iterations=2,
    num_dec_blocks=1,
    num_heads=2,
)

AUTHORS = "authors' code, vanilla"


class Step:
    """One training step in its three parts, each of which can be timed; all of it when called. `loss()` gives the loss, with a new graph each time."""

    def __init__(self, loss, optimizer: torch.optim.Optimizer, clip: float | None):
        self.loss, self.optimizer, self.clip = loss, optimizer, clip

    def forward(self) -> None:
        self.value = self.loss()

    def backward(self) -> None:
        self.optimizer.zero_grad()
        self.value.backward()

    def update(self) -> None:
        if self.clip:
            clip_gradients(
                [p for group in self.optimizer.param_groups for p in group["params"]], self.clip
            )
        self.optimizer.step()

    def __call__(self) -> None:
        self.forward(), self.backward(), self.update()


def our_step(
    config: SLATEConfig,
    image: Tensor,
    frozen: bool = False,
    state: dict[str, Tensor] | None = None,
    bfloat16: bool = False,
) -> Step:
    """Ours on image (B, 3, H, W): jointly with the dVAE and clipped, as the `paper` profile trains; or on a frozen dVAE without a clip, as the others do.

    bfloat16: the loss under autocast, the weights and Adam in float32.
    """
    model = (
        (SLATE(config) if state is None else SLATE.from_official(state, config))
        .to(image.device)
        .train()
    )
    model.dvae.requires_grad_(not frozen)

    def joint() -> Tensor:
        out = model(image, tau=1.0)
        return out.cross_entropy + out.mse

    def on_frozen() -> Tensor:
        return model.autoencode(model.sample_tokens(image))[0].mean()

    def loss() -> Tensor:
        with torch.autocast(image.device.type, torch.bfloat16) if bfloat16 else nullcontext():
            return on_frozen() if frozen else joint()

    optimizer = torch.optim.Adam(
        [p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True
    )
    return Step(loss, optimizer, None if frozen else 1.0)


def authors_step(config: SLATEConfig, image: Tensor, state: dict[str, Tensor]) -> Step:
    """A step of the authors' train.py on image (B, 3, H, W)."""
    model = others.slate(config)
    model.load_state_dict(state)

    def loss() -> Tensor:
        _, cross_entropy, mse, _ = model(image, 1.0, False)
        return cross_entropy + mse

    return Step(loss, torch.optim.Adam(model.parameters(), lr=1e-4), clip=1.0)


def flops(build, image: Tensor) -> float:
    """Floating-point operations of the matrix products and convolutions of a step's forward and backward pass over image (B, 3, H, W).

    Counted for one image: all of them are by the image.
    """
    step = build(image[:1])
    in_place = {
        torch.ops.aten.baddbmm_: lambda _, a, b, **__: bmm_flop(a, b)
    }  # torch's counter does not know of it
    with FlopCounterMode(display=False, custom_mapping=in_place) as counter:
        step.forward(), step.backward()
    return len(image) * counter.get_total_flops()


def measure(
    config: SLATEConfig,
    batch: int,
    warmup: int,
    repeats: int,
    matrix: int,
    which: list[str],
    description: str,
) -> tuple[pd.DataFrame, str]:
    """A row for each contestant, and a sentence on the peak (a matrix product of this size) and on how the losses agree.

    which: ours, such as "vanilla, frozen dVAE" or "IN, bfloat16". The authors' code, where it is at hand, comes first, in a process of its own.
    """
    torch.manual_seed(0)
    image = torch.rand(batch, 3, config.image_size, config.image_size)
    theirs = others.slate(config)
    state = (theirs or SLATE(config)).state_dict()

    def ours(name: str):
        variant, *how = name.split(", ")
        return lambda image: our_step(
            replace(config, variant=variant), image, "frozen dVAE" in how, state, "bfloat16" in how
        )

    builders = {f"ours, {name}": ours(name) for name in which}
    agreement = ""
    if theirs:
        difference = others.loss_difference(
            theirs, SLATE.from_official(state, replace(config, variant="vanilla")), image[:4]
        )
        if not difference < 1e-4:
            raise RuntimeError(
                f"the authors' losses and ours differ by {difference:.1e}, relative: their times cannot be compared"
            )
        agreement = f" With the same weights, sample, tokens and slots, and no dropout, the authors' losses and ours differ by {difference:.0e}, relative."

    a, b = torch.rand(matrix, matrix), torch.rand(matrix, matrix)
    product = f"matrix product, {matrix}x{matrix}"
    counted = (
        {AUTHORS: flops(lambda image: authors_step(config, image, state), image)} if theirs else {}
    )
    counted |= {name: flops(build, image) for name, build in builders.items()} | {
        product: 2 * matrix**3
    }
    with Apart(authors_step, config, image, state) if theirs else nullcontext() as apart:
        contestants = (
            ({AUTHORS: apart} if theirs else {})
            | {name: build(image) for name, build in builders.items()}
            | {product: lambda: a @ b}
        )
        seconds = alternate(contestants, repeats, description, warmup)
    rates = pd.Series(
        {name: counted[name] / np.median(taken) / 1e9 for name, taken in seconds.items()}
    )
    peak = rates.pop(product)
    del seconds[product]
    table = compare(seconds, next(iter(seconds)))
    table["gflop"] = [counted[name] / 1e9 for name in seconds]
    table["gflop_per_s"] = list(rates)
    table["share_of_peak"] = list(rates / peak)
    return (
        table,
        f"The peak is a float32 matrix product of {matrix}x{matrix}, taking its turn among the contestants: {peak:.1f} GFLOP/s.{agreement}",
    )


def bench(quick: bool) -> Report:
    keep_freed_memory()  # as in training
    gain = bfloat16_gain()
    half = ["vanilla, bfloat16", "IN, bfloat16"] if gain > 1 else []
    every, large = (
        ["vanilla", "IN", "vanilla, frozen dVAE", "IN, frozen dVAE", *half],
        ["vanilla", "IN", *half],
    )
    cases = (
        [(TINY, 2, 1, 1, 64, every)]
        if quick
        else [
            (SMALL, 32, 2, 15, 1024, every),
            (PAPER, 50, 2, 3, 2048, large),
            (LARGE, 50, 2, 1, 2048, large[1::2]),
        ]
    )
    parts = [
        "Forward and backward pass and Adam, on random images; `ratio` is to the first contestant's median. Where the dVAE is not frozen it is trained as well "
        "and the gradient is clipped, as the authors do; on a frozen dVAE, as our small profiles train, neither. Logging is left out on both sides. "
        f"bfloat16 is autocast of the loss. This processor multiplies matrices in it at {gain:.2g} times float32's rate"
        f"{'' if half else ': **it is left out**'}. The authors' code runs in a process of its own, with the memory allocator as it comes; ours keeps the "
        "memory that a step frees for the next one, as in training. "
        "`gflop` counts matrix products and convolutions of a step, forward and backward.",
        others.which_slate(),
    ]
    for config, batch, warmup, repeats, matrix, which in cases:
        sizes = (
            f"{config.image_size}x{config.image_size}, d_model {config.d_model}, vocabulary {config.vocab_size}, {config.num_dec_blocks} layers, "
            f"{config.num_heads} heads, {config.num_slots} slots, {config.num_iterations} iterations, batch {batch}"
        )
        table, peak = measure(
            config,
            batch,
            warmup,
            repeats,
            matrix,
            which,
            f"training step, {config.image_size}x{config.image_size}",
        )
        timed = (
            f"Contestants take turns, each on one thread; median and quartiles (q25, q75) over {repeats} round{'s' if repeats > 1 else ''} after {warmup} that "
            f"warm{'s' if warmup == 1 else ''} up."
        )
        parts += [f"## {sizes}", table, f"{timed} {peak}"]
    return Report("A training step", parts)
