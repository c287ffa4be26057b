"""A training step of SLATE: ours against the authors' code, with the same weights.

The report also says what share of the machine's rate of matrix products a step reaches.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
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
    """One training step. It runs when called, or in three parts that can be timed by themselves.

    loss   a function that returns the loss, with a new graph each time
    clip   the gradient's largest norm, or None
    """

    def __init__(
        self, loss: Callable[[], Tensor], optimizer: torch.optim.Optimizer, clip: float | None
    ):
        self.loss = loss
        self.optimizer = optimizer
        self.clip = clip

    def forward(self) -> None:
        self.value = self.loss()

    def backward(self) -> None:
        self.optimizer.zero_grad()
        self.value.backward()

    def update(self) -> None:
        if self.clip:
            groups = self.optimizer.param_groups
            clip_gradients([p for group in groups for p in group["params"]], self.clip)
        self.optimizer.step()

    def __call__(self) -> None:
        self.forward()
        self.backward()
        self.update()


def our_step(
    config: SLATEConfig,
    image: Tensor,
    frozen: bool = False,
    state: dict[str, Tensor] | None = None,
    bfloat16: bool = False,
) -> Step:
    """Return our step on image (B, 3, H, W).

    frozen     False: jointly with the dVAE and clipped, as the `paper` profile trains;
               True: on a frozen dVAE and without a clip, as the others do
    state      the weights, under the authors' names; None draws them
    bfloat16   the loss is computed under autocast, with the weights and Adam in float32
    """
    model = SLATE(config) if state is None else SLATE.from_official(state, config)
    model.to(image.device).train()
    model.dvae.requires_grad_(not frozen)

    def joint() -> Tensor:
        out = model(image, tau=1.0)
        return out.cross_entropy + out.mse

    def on_frozen() -> Tensor:
        return model.autoencode(model.sample_tokens(image))[0].mean()

    def loss() -> Tensor:
        with torch.autocast(image.device.type, torch.bfloat16) if bfloat16 else nullcontext():
            return on_frozen() if frozen else joint()

    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=1e-4, fused=True)
    return Step(loss, optimizer, clip=None if frozen else 1.0)


def authors_step(config: SLATEConfig, image: Tensor, state: dict[str, Tensor]) -> Step:
    """Return a step of the authors' train.py on image (B, 3, H, W)."""
    model = others.slate(config)
    model.load_state_dict(state)

    def loss() -> Tensor:
        _, cross_entropy, mse, _ = model(image, 1.0, False)
        return cross_entropy + mse

    return Step(loss, torch.optim.Adam(model.parameters(), lr=1e-4), clip=1.0)


def flops(build: Callable[[Tensor], Step], image: Tensor) -> float:
    """Return the floating-point operations of build(image), forward and backward pass.

    They are those of matrix products and convolutions, counted for one image of (B, 3, H, W) and
    multiplied: all of them are by the image.
    """
    step = build(image[:1])

    def in_place(_, a, b, **__):  # torch's counter does not know of this product
        return bmm_flop(a, b)

    mapping = {torch.ops.aten.baddbmm_: in_place}
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        step.forward()
        step.backward()
    return len(image) * counter.get_total_flops()


@dataclass(frozen=True)
class Case:
    """What is timed at one size, and how often.

    warmup    rounds that are not kept
    repeats   rounds that are
    matrix    side of the square matrices whose product sets the peak
    ours      our contestants, such as "vanilla", "vanilla, frozen dVAE" or "IN, bfloat16"
    """

    config: SLATEConfig
    batch: int
    warmup: int
    repeats: int
    matrix: int
    ours: list[str]


def measure(case: Case) -> tuple[pd.DataFrame, str]:
    """Return a row for each contestant, and a sentence on the peak and on how the losses agree.

    The authors' code, where it is at hand, comes first, in a process of its own.
    """
    config, size = case.config, case.config.image_size
    torch.manual_seed(0)
    image = torch.rand(case.batch, 3, size, size)
    theirs = others.slate(config)
    state = (theirs or SLATE(config)).state_dict()
    agreement = _agreement(theirs, config, image[:4]) if theirs else ""
    a = torch.rand(case.matrix, case.matrix)
    b = torch.rand(case.matrix, case.matrix)
    product = f"matrix product, {case.matrix}x{case.matrix}"

    contestants: dict[str, Callable[[], object]] = {}
    operations: dict[str, float] = {}
    with ExitStack() as processes:
        if theirs:
            apart = processes.enter_context(Apart(authors_step, config, image, state))
            contestants[AUTHORS] = apart
            operations[AUTHORS] = flops(partial(authors_step, config, state=state), image)
        for name in case.ours:
            build = _our_builder(name, config, state)
            contestants[f"ours, {name}"] = build(image)
            operations[f"ours, {name}"] = flops(build, image)
        contestants[product] = partial(torch.matmul, a, b)
        operations[product] = 2 * case.matrix**3
        seconds = alternate(contestants, case.repeats, f"training step, {size}x{size}", case.warmup)

    gflop = pd.Series(operations) / 1e9
    rates = gflop / pd.Series({name: np.median(taken) for name, taken in seconds.items()})
    peak = rates.pop(product)
    del seconds[product]
    table = compare(seconds, next(iter(seconds)))
    table["gflop"] = gflop[rates.index].to_list()
    table["gflop_per_s"] = rates.to_list()
    table["share_of_peak"] = (rates / peak).to_list()
    sentence = (
        f"The peak is a float32 matrix product of {case.matrix}x{case.matrix}, taking its turn "
        f"among the contestants: {peak:.1f} GFLOP/s.{agreement}"
    )
    return table, sentence


def _our_builder(
    name: str, config: SLATEConfig, state: dict[str, Tensor]
) -> Callable[[Tensor], Step]:
    """Return the function that builds the contestant `name` ("IN, frozen dVAE") for an image."""
    variant, *how = name.split(", ")
    return partial(
        our_step,
        replace(config, variant=variant),
        frozen="frozen dVAE" in how,
        state=state,
        bfloat16="bfloat16" in how,
    )


def _agreement(theirs: nn.Module, config: SLATEConfig, image: Tensor) -> str:
    """Return the sentence that says how well the losses agree. RuntimeError if they do not."""
    ours = SLATE.from_official(theirs.state_dict(), replace(config, variant="vanilla"))
    difference = others.loss_difference(theirs, ours, image)
    if not difference < 1e-4:
        raise RuntimeError(
            f"the authors' losses and ours differ by {difference:.1e}, relative: "
            "their times cannot be compared"
        )
    return (
        " With the same weights, sample, tokens and slots, and no dropout, the authors' losses "
        f"and ours differ by {difference:.0e}, relative."
    )


def bench(quick: bool) -> Report:
    keep_freed_memory()  # as in training
    gain = bfloat16_gain()
    half = ["vanilla, bfloat16", "IN, bfloat16"] if gain > 1 else []
    large = ["vanilla", "IN", *half]
    every = ["vanilla", "IN", "vanilla, frozen dVAE", "IN, frozen dVAE", *half]
    if quick:
        cases = [Case(TINY, 2, warmup=1, repeats=1, matrix=64, ours=every)]
    else:
        cases = [
            Case(SMALL, 32, warmup=2, repeats=15, matrix=1024, ours=every),
            Case(PAPER, 50, warmup=2, repeats=3, matrix=2048, ours=large),
            Case(LARGE, 50, warmup=2, repeats=1, matrix=2048, ours=large[1::2]),  # IN alone
        ]
    parts: list[str | pd.DataFrame] = [_introduction(gain), others.which_slate()]
    for case in cases:
        table, peak = measure(case)
        parts += [f"## {_sizes(case)}", table, f"{_how_timed(case)} {peak}"]
    return Report("A training step", parts)


def _introduction(gain: float) -> str:
    left_out = "" if gain > 1 else ": **it is left out**"
    return (
        "Forward and backward pass and Adam, on random images; `ratio` is to the first "
        "contestant's median. Where the dVAE is not frozen it is trained as well and the gradient "
        "is clipped, as the authors do; on a frozen dVAE, as our small profiles train, neither. "
        "Logging is left out on both sides. bfloat16 is autocast of the loss. This processor "
        f"multiplies matrices in it at {gain:.2g} times float32's rate{left_out}. The authors' "
        "code runs in a process of its own, with the memory allocator as it comes; ours keeps the "
        "memory that a step frees for the next one, as in training. `gflop` counts matrix "
        "products and convolutions of a step, forward and backward."
    )


def _sizes(case: Case) -> str:
    c = case.config
    return (
        f"{c.image_size}x{c.image_size}, d_model {c.d_model}, vocabulary {c.vocab_size}, "
        f"{c.num_dec_blocks} layers, {c.num_heads} heads, {c.num_slots} slots, "
        f"{c.num_iterations} iterations, batch {case.batch}"
    )


def _how_timed(case: Case) -> str:
    rounds = f"{case.repeats} round{'s' if case.repeats > 1 else ''}"
    warm_up = f"{case.warmup} that warm{'s' if case.warmup == 1 else ''} up"
    return (
        "Contestants take turns, each on one thread; "
        f"median and quartiles (q25, q75) over {rounds} after {warm_up}."
    )
