"""What the `paper` profile's runs would take on an H100: an estimate, not a measurement.

It follows from operations that are counted here.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pandas as pd
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bench.report import Report
from bench.training_step import Step, flops, our_step
from paper_lib.models import SLATEConfig
from paper_lib.paper import parameters, profiles
from paper_lib.paper.complexity import saved_bytes

PEAKS = {  # FLOP/s of an H100 SXM, dense: NVIDIA's data sheet
    "bfloat16": 990e12,
    "TF32": 495e12,
    "float32": 67e12,
}
SHARE = 0.3  # of the peak
LAUNCH = 5e-6  # seconds for PyTorch to dispatch an operator and launch its kernel
METHODS = ("vanilla", "IN")


def bench(quick: bool) -> Report:
    profile = "smoke" if quick else "paper"
    run = profiles.slate(parameters.check(profile), "IN", 0)
    c, batch, steps = run.model, run.training.batch_size, run.training.steps
    times, memory = [], []
    for method in METHODS:
        config = replace(c, variant=method)
        times += _times(config, batch, steps)
        memory.append(
            {
                "method": method,
                "fused_GiB": activations(replace(config, dropout=0.0), batch) / 2**30,
                "explicit_GiB": activations(config, batch) / 2**30,
            }
        )
    sizes = (
        f"{c.image_size}x{c.image_size}, d_model {c.d_model}, vocabulary {c.vocab_size}, "
        f"{c.num_dec_blocks} layers, {c.num_heads} heads, {c.num_slots} slots, "
        f"{c.num_iterations} iterations, batch {batch}, {steps} steps"
    )
    peaks = ", ".join(f"{name} {peak / 1e12:.0f} TFLOP/s" for name, peak in PEAKS.items())
    return Report(
        f"A run of the `{profile}` profile on an H100: an estimate",
        [
            f"**Nothing here was measured on a GPU.** {sizes}, dVAE trained jointly.",
            pd.DataFrame(times),
            "`tflop_per_step`: matrix products and convolutions, forward and backward, counted on "
            f"shapes. Time at {SHARE:.0%} of the peak of an H100 SXM ({peaks}). `launches alone`: "
            "as many operators as both passes have, counted likewise, at "
            f"{1e6 * LAUNCH:.0f} microseconds each, which a step cannot beat unless it is compiled "
            "or captured as a graph. A step takes the longer of the two: with layers as narrow as "
            "these, expect the launches to decide, and the share of the peak to stay below the one "
            "assumed. Data, evaluations and checkpoints are left out. Runs are float32 unless "
            '`training.precision` is "bfloat16".',
            "## Memory of activations",
            pd.DataFrame(memory),
            f"What the forward pass keeps for the backward pass at batch {batch}, float32, from "
            "one and two images on a CPU. `explicit`: attention matrices and dropout masks are "
            "kept, as on a CPU. `fused`: attention as one operator that keeps neither, as on a "
            "GPU, and no dropout. Weights and Adam's moments come on top.",
        ],
    )


def _times(config: SLATEConfig, batch: int, steps: int) -> list[dict]:
    """Return a row for each bound on a step's time: the peaks, and the launches of kernels."""
    size = config.image_size
    image = torch.empty(batch, 3, size, size, device="meta")  # counting needs shapes alone
    work = flops(partial(our_step, config), image)
    launches = operators(our_step(config, image[:2]))
    seconds = {name: work / (SHARE * peak) for name, peak in PEAKS.items()}
    seconds["launches alone"] = launches * LAUNCH
    rows = []
    for bound, per_step in seconds.items():
        rows.append(
            {
                "method": config.variant,
                "bound": bound,
                "tflop_per_step": work / 1e12,
                "operators": launches,
                "ms_per_step": 1e3 * per_step,
                "hours": per_step * steps / 3600,
            }
        )
    return rows


def operators(step: Step) -> int:
    """Return the operators of a step's forward and backward pass; fused Adam adds a handful."""
    with _Operators() as counter:
        step.forward()
        step.backward()
    return counter.count


def activations(config: SLATEConfig, batch: int) -> float:
    """Return the bytes that the forward pass of a joint step keeps for the backward pass.

    They are those at this batch size, on a straight line through one and two images.
    """
    torch.manual_seed(0)
    image = torch.rand(2, 3, config.image_size, config.image_size)
    one, two = (saved_bytes(our_step(config, image[:n]).forward) for n in (1, 2))
    return one + (batch - 1) * (two - one)


class _Operators(TorchDispatchMode):
    """Counts the operators that compute something: those that return views do not."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        self.count += not function.is_view
        return function(*arguments, **(options or {}))
