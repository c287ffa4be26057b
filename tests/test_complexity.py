"""What is measured of a pass's cost: memory and time."""

from dataclasses import replace

import torch
from torch import nn

from paper_lib.models import SLATE, SLATEConfig, SlotAttention, variant
from paper_lib.paper import complexity
from paper_lib.paper.complexity import ComplexityRunConfig, measure, saved_bytes
from paper_lib.system.memory import peak_memory

# ---------------------------------------------------------------- memory and time


def kept(name, n, batch=2, tokens=9, slots=3, size=8):
    torch.manual_seed(0)
    module = SlotAttention(size, size, size, *variant(name, n))
    inputs, initial = torch.randn(batch, tokens, size), torch.randn(batch, slots, size)
    return saved_bytes(lambda: module(inputs, initial).value.sum())


def test_memory_is_linear_for_vanilla_and_flat_for_implicit():
    """Each iteration of vanilla keeps as many bytes, and implicit never keeps more than one's."""
    vanilla = {n: kept("vanilla", n) for n in (2, 3, 4, 8, 32)}
    step = vanilla[3] - vanilla[2]
    assert step > 0 and all(size == vanilla[2] + (n - 2) * step for n, size in vanilla.items())
    assert len({kept("IN", n) for n in (1, 2, 4, 8, 32)}) == 1
    assert kept("IN", 32) <= vanilla[2] and kept("IN", 4, batch=4) == 2 * kept("IN", 4)
    assert kept("BN", 8) == kept("IN", 8)


def test_saved_bytes_of_known_passes():
    x, w = torch.randn(10, 4, requires_grad=True), nn.Parameter(torch.randn(4, 4))
    assert saved_bytes(lambda: x @ w) == 0, "weights and inputs are there anyway"
    assert saved_bytes(lambda: (x @ w).tanh()) == 10 * 4 * 4
    assert saved_bytes(lambda: (x @ w).tanh().tanh()) == 2 * 10 * 4 * 4

    def shared():
        y = (x @ w).tanh()
        return y.view(4, 10) * y.reshape(40).view(4, 10).sin() + y.view(4, 10) ** 2

    once = 10 * 4 * 4
    assert saved_bytes(shared) == 2 * once, "y and its sine: views of one storage count once"
    with torch.no_grad():
        assert saved_bytes(lambda: (x @ w).tanh()) == 0


def test_measure():
    config = ComplexityRunConfig(
        batch=2, tokens=9, slots=3, size=8, iterations=(1, 2, 4), repeats=3
    )
    table = measure(config)
    assert table[["variant", "n"]].to_numpy().tolist() == [
        [v, n] for n in (1, 2, 4) for v in ("vanilla", "IN")
    ]
    for column in ("forward_s", "backward_s"):
        assert (table[f"{column}_q25"] > 0).all()
        assert (
            (table[f"{column}_q25"] <= table[column]).all()
            and (table[column] <= table[f"{column}_q75"]).all()
            and (table[column] < 5).all()
        )
    memory = table.pivot(index="n", columns="variant", values="memory_bytes")
    assert (
        memory.loc[4, "vanilla"] == kept("vanilla", 4)
        and memory["IN"].tolist() == [kept("IN", 1)] * 3
    )


def test_a_training_step_is_timed_where_asked_for(monkeypatch):
    """It is a whole model's, with each variant and number of iterations, and leaves the dVAE as it
    is."""
    built = []

    class Recorded(SLATE):
        def __init__(self, config):
            super().__init__(config)
            self.before = {name: p.detach().clone() for name, p in self.named_parameters()}
            built.append(self)

    monkeypatch.setattr(complexity, "SLATE", Recorded)
    model = SLATEConfig(
        image_size=8,
        vocab_size=8,
        d_model=8,
        slot_size=8,
        mlp_hidden_size=8,
        num_slots=2,
        num_dec_blocks=1,
        num_heads=2,
    )
    config = ComplexityRunConfig(
        ("vanilla", "IN", "BB"),
        (2, 3),
        batch=2,
        tokens=4,
        slots=2,
        size=8,
        repeats=2,
        training_step=model,
    )
    table = measure(config)
    assert table[["variant", "n"]].to_numpy().tolist() == [
        [v, n] for n in (2, 3) for v in ("vanilla", "IN", "BB")
    ]
    assert (
        (table["step_s_q25"] > 0).all()
        and (table["step_s_q25"] <= table["step_s"]).all()
        and (table["step_s"] <= table["step_s_q75"]).all()
    )
    timed = [(m.config.variant, m.config.num_iterations) for m in built]
    assert {case: timed.count(case) for case in timed} == {
        (v, n): config.repeats + 1 for n in (2, 3) for v in ("vanilla", "IN", "BB")
    }
    for m in built:
        assert (
            replace(m.config, variant=model.variant, num_iterations=model.num_iterations) == model
        )
        moved = {name for name, p in m.named_parameters() if not torch.equal(p, m.before[name])}
        assert not [name for name in moved if name.startswith("dvae.")]
        assert {
            "out.weight",
            "slot_attn.slot_attention.project_q.weight",
            "slot_attn.mlp.0.weight",
            "dictionary.dictionary.weight",
        } <= moved
    without = measure(
        replace(config, variants=("IN",), iterations=(2,), repeats=1, training_step=None)
    )
    assert set(table.columns) - set(without.columns) == {
        "step_s",
        "step_s_q25",
        "step_s_q75",
    } and len(built) == len(timed)


def test_the_run_keeps_what_was_measured(smoke):
    config, table = smoke.complexity.config, smoke.complexity.metrics
    assert table[["variant", "n"]].to_numpy().tolist() == [
        [v, n] for n in config.iterations for v in config.variants
    ]
    assert table["memory_bytes"].gt(0).all() and table["backward_s"].gt(0).all()


def test_peak_memory():
    before = peak_memory()
    held = torch.ones(10_000_000 + before // 4)
    assert held.sum() > 0 and peak_memory() - before > 3e7 and before > 1e8
