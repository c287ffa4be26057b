"""What is measured of a pass's cost: memory and time."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from paper_lib.fixed_point import Neumann, Truncated
from paper_lib.models import SLATE, SLATEConfig, SlotAttention, variant
from paper_lib.paper import complexity
from paper_lib.paper.complexity import ComplexityRunConfig, measure, saved_bytes
from paper_lib.system.memory import peak_memory

SMALL = ComplexityRunConfig(batch=2, tokens=9, slots=3, size=8, iterations=(1, 2, 4), repeats=3)


def cases(table):
    """The rows of a table, in their order."""
    return list(zip(table["variant"], table["n"]))


def assert_quartiles_enclose_medians(table, column):
    assert (table[f"{column}_q25"] > 0).all()
    assert (table[f"{column}_q25"] <= table[column]).all()
    assert (table[column] <= table[f"{column}_q75"]).all()


# ---- memory ----


def kept(name, n, batch=2):
    """The bytes that slot attention of `SMALL`'s sizes keeps for its backward pass."""
    torch.manual_seed(0)
    module = SlotAttention(8, 8, 8, *variant(name, n))
    inputs, initial = torch.randn(batch, 9, 8), torch.randn(batch, 3, 8)
    return saved_bytes(lambda: module(inputs, initial).value.sum())


def test_memory_is_linear_for_vanilla():
    """To the byte: each iteration keeps the same."""
    step = kept("vanilla", 3) - kept("vanilla", 2)
    assert step > 0
    for n in (4, 8, 32):
        assert kept("vanilla", n) == kept("vanilla", 2) + (n - 2) * step


def test_memory_is_flat_for_implicit():
    """It never keeps more than one iteration's."""
    assert len({kept("IN", n) for n in (1, 2, 4, 8, 32)}) == 1
    assert kept("IN", 32) <= kept("vanilla", 2)
    assert kept("BN", 8) == kept("IN", 8)
    assert kept("IN", 4, batch=4) == 2 * kept("IN", 4)


def test_saved_bytes_of_known_passes():
    x, w = torch.randn(10, 4, requires_grad=True), nn.Parameter(torch.randn(4, 4))
    once = 10 * 4 * 4
    assert saved_bytes(lambda: x @ w) == 0, "weights and inputs are there anyway"
    assert saved_bytes(lambda: (x @ w).tanh()) == once
    assert saved_bytes(lambda: (x @ w).tanh().tanh()) == 2 * once
    with torch.no_grad():
        assert saved_bytes(lambda: (x @ w).tanh()) == 0


def test_views_of_one_storage_count_once():
    x, w = torch.randn(10, 4, requires_grad=True), nn.Parameter(torch.randn(4, 4))

    def shared():
        y = (x @ w).tanh()
        return y.view(4, 10) * y.reshape(40).view(4, 10).sin() + y.view(4, 10) ** 2

    assert saved_bytes(shared) == 2 * 10 * 4 * 4, "y and its sine"


def test_peak_memory():
    before = peak_memory()
    held = torch.ones(10_000_000 + before // 4)
    assert held.sum() > 0
    assert peak_memory() - before > 3e7
    assert before > 1e8


# ---- a table of cases ----


def test_measure():
    table = measure(SMALL)
    assert cases(table) == [(v, n) for n in (1, 2, 4) for v in ("vanilla", "IN")]
    for column in ("forward_s", "backward_s"):
        assert_quartiles_enclose_medians(table, column)
        assert (table[column] < 5).all()
    memory = table.pivot(index="n", columns="variant", values="memory_bytes")
    assert memory.loc[4, "vanilla"] == kept("vanilla", 4)
    assert memory["IN"].tolist() == [kept("IN", 1)] * 3


MODEL = SLATEConfig(
    image_size=8,
    vocab_size=8,
    d_model=8,
    slot_size=8,
    mlp_hidden_size=8,
    num_slots=2,
    num_dec_blocks=1,
    num_heads=2,
)
STEPS = ComplexityRunConfig(
    variants=("vanilla", "IN", "BB"),
    iterations=(2, 3),
    batch=2,
    tokens=4,
    slots=2,
    size=8,
    repeats=2,
    training_step=MODEL,
)
STEP_CASES = [(v, n) for n in STEPS.iterations for v in STEPS.variants]


@pytest.fixture
def built(monkeypatch):
    """The models that are built, with what their weights were at first as `before`."""
    models = []

    class Recorded(SLATE):
        def __init__(self, config):
            super().__init__(config)
            self.before = {name: p.detach().clone() for name, p in self.named_parameters()}
            models.append(self)

    monkeypatch.setattr(complexity, "SLATE", Recorded)
    return models


def test_a_training_step_is_timed_where_asked_for(built):
    """It is a whole model's, with each variant and number of iterations."""
    table = measure(STEPS)
    assert cases(table) == STEP_CASES
    assert_quartiles_enclose_medians(table, "step_s")
    timed = [(model.config.variant, model.config.num_iterations) for model in built]
    for case in STEP_CASES:
        assert timed.count(case) == STEPS.repeats + 1  # one warms up
    assert set(timed) == set(STEP_CASES)
    for model in built:
        usual = {"variant": MODEL.variant, "num_iterations": MODEL.num_iterations}
        assert replace(model.config, **usual) == MODEL


def test_a_training_step_moves_all_but_the_dvae(built):
    measure(STEPS)
    for model in built:
        after = dict(model.named_parameters())
        moved = {name for name in after if not torch.equal(after[name], model.before[name])}
        assert not [name for name in moved if name.startswith("dvae.")]
        assert {
            "out.weight",
            "slot_attn.slot_attention.project_q.weight",
            "slot_attn.mlp.0.weight",
            "dictionary.dictionary.weight",
        } <= moved


def test_no_training_step_is_timed_where_nobody_asks(built):
    config = replace(STEPS, variants=("IN",), iterations=(2,), repeats=1)
    plain = measure(replace(config, training_step=None))
    assert not built
    extra = set(measure(config).columns) - set(plain.columns)
    assert extra == {"step_s", "step_s_q25", "step_s_q75"}


def test_the_run_keeps_what_was_measured(smoke):
    config, table = smoke.complexity.config, smoke.complexity.metrics
    assert cases(table) == [(v, n) for n in config.iterations for v in config.variants]
    assert table["memory_bytes"].gt(0).all()
    assert table["backward_s"].gt(0).all()


def test_gradients_that_no_row_of_table_2_has():
    """They are measured beside the rows; what is kept for the backward pass grows with the
    applications that carry gradients."""
    adjoints = (Truncated(2), Truncated(4), Neumann(4))
    config = ComplexityRunConfig(
        iterations=(6,), batch=2, tokens=16, slots=3, size=16, repeats=1, adjoints=adjoints
    )
    table = measure(config).set_index("variant")
    assert list(table.index) == ["vanilla", "IN", *map(repr, adjoints)]
    memory = table["memory_bytes"]
    assert memory["IN"] == memory[repr(Neumann(4))] < memory[repr(Truncated(2))]
    assert memory[repr(Truncated(2))] < memory[repr(Truncated(4))] < memory["vanilla"]
