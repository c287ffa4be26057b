"""The benchmarks: they time what they say, beside whom they say, and write it whole.

What the times are is no test's business.
"""

import os
import subprocess
import sys
import tomllib
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import bench
from bench import __main__ as command
from bench import (
    generation,
    growth,
    others,
    slot_attention,
    solvers,
    spectral_norm,
    timing,
    training_step,
)
from bench.apart import Apart
from paper_lib.models import SLATE
from paper_lib.models.fast.causal_attention import causal_attention
from paper_lib.paper.statistics import log_log_slope


def tables(text: str) -> list[pd.DataFrame]:
    """The Markdown's tables, as text."""
    blocks, block = [], []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            block.append([cell.strip() for cell in line.strip("|").split("|")])
        elif block:
            blocks.append(pd.DataFrame(block[2:], columns=block[0]))
            block = []
    return blocks


@pytest.fixture(autouse=True)
def nobody_else(monkeypatch):
    """As on a machine without other people's code."""
    monkeypatch.delenv("SLATE_CODE", raising=False)
    for name in ("torchdeq", "slot_attention"):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.parametrize("name", command.BENCHMARKS)
def test_each_writes_its_report(name, tmp_path, capsys):
    command.main([name, "--quick", "--out", str(tmp_path)])
    assert capsys.readouterr().out.startswith(str(tmp_path / f"{name}.md"))
    text = (tmp_path / f"{name}.md").read_text()
    assert text.startswith("# ") and f"python -m bench {name}" in text
    assert f"torch {torch.__version__.split('+')[0]}" in text and "commit" in text
    found = tables(text)
    assert found and all(len(table) for table in found)
    positive = ["median_ms", "ms_per_step", "gflop", "IN_backward_growth"]
    for table in found:
        for column in table.columns.intersection(positive):
            assert (table[column].astype(float) > 0).all(), column
    files = [".md", ".pdf", ".png"] if name == "growth" else [".md"]
    assert sorted(path.suffix for path in tmp_path.iterdir()) == files


def test_it_starts_from_the_projects_root_and_is_no_part_of_the_package():
    root = Path(bench.__path__[0]).parent
    command_line = [sys.executable, "-m", "bench", "--help"]
    answer = subprocess.run(command_line, cwd=root, capture_output=True, text=True, check=True)
    assert "usage: python -m bench" in answer.stdout
    project = tomllib.loads((root / "pyproject.toml").read_text())
    assert project["tool"]["setuptools"]["packages"]["find"]["include"] == ["paper_lib*"]
    assert "bench" in project["project"]["optional-dependencies"]


def touch(path: Path):
    """What `Apart` runs leaves the process's number in a file, and fails the third time."""
    calls = []

    def call():
        calls.append(os.getpid())
        if len(calls) == 3:
            raise ArithmeticError("thrice")
        path.write_text(f"{os.getpid()} {len(calls)}")

    return call


def test_a_contestant_in_a_process_of_its_own(tmp_path):
    with Apart(touch, tmp_path / "calls") as contestant:
        contestant()
        first, _ = (tmp_path / "calls").read_text().split()
        contestant()
        second, calls = (tmp_path / "calls").read_text().split()
        assert first == second != str(os.getpid()) and calls == "2"
        with pytest.raises(RuntimeError, match="ArithmeticError: thrice"):
            contestant()
        with pytest.raises(RuntimeError, match="exit code 0"):
            contestant()
    assert not contestant.process.is_alive()


def test_every_module_is_in_the_list():
    paths = Path(bench.__path__[0]).glob("*.py")
    modules = {path.stem for path in paths if "def bench(" in path.read_text()}
    assert modules == set(command.BENCHMARKS)


def test_an_unknown_name(capsys):
    with pytest.raises(SystemExit):
        command.main(["speed"])
    assert "no benchmark speed" in capsys.readouterr().err


def test_contestants_take_turns_and_the_first_round_is_not_kept():
    turns = []
    contestants = {name: partial(turns.append, name) for name in ("a", "b")}
    seconds = timing.alternate(contestants, 3, "")
    assert turns == ["a", "b"] * 4
    assert {name: len(taken) for name, taken in seconds.items()} == {"a": 3, "b": 3}


def test_ratios_are_of_medians():
    seconds = {"slow": np.array([4.0, 2.0, 9.0]), "fast": np.array([1.0, 1.0, 100.0])}
    table = timing.compare(seconds, "slow").set_index("contestant")
    assert table.loc["fast", "ratio"] == 0.25 and table.loc["slow", "ratio"] == 1
    assert table.loc["slow", "median_ms"] == 4000
    assert table.loc["slow", "q25_ms"] == 3000 and table.loc["slow", "q75_ms"] == 6500


def test_what_is_missing_is_named_with_its_remedy(monkeypatch, tmp_path):
    module, missing = others.package("torchdeq")
    assert module is None and 'pip install -e ".[bench]"' in missing
    assert others.slate(training_step.TINY) is None and "SLATE_CODE" in others.which_slate()
    monkeypatch.setenv("SLATE_CODE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="slate.py, dvae.py.*singhgautam/slate"):
        others.slate(training_step.TINY)


def test_generation_without_a_cache_is_the_same_generation():
    torch.manual_seed(0)
    model = SLATE(training_step.TINY).eval()
    slots = torch.randn(2, training_step.TINY.num_slots, training_step.TINY.slot_size)
    expected = model.generate_tokens(slots)
    assert torch.equal(generation.generate_without_cache(model, slots), expected)


def test_operations_are_counted_by_the_image():
    build = partial(training_step.our_step, training_step.TINY)
    three, six = (training_step.flops(build, torch.rand(n, 3, 16, 16)) for n in (3, 6))
    assert six == 2 * three > 0


def test_products_in_place_are_counted():
    """Attention in one block has 16 queries with 16 keys of size 8, in 2 heads.

    The gradient of keys and of values is as many operations as each product.
    """
    q, k, v = (torch.rand(1, 2, 16, 8, requires_grad=True) for _ in range(3))

    def loss():
        return causal_attention(q, k, v, 0.1).sum()

    def attention(image):
        return training_step.Step(loss, torch.optim.Adam([q]), None)

    assert training_step.flops(attention, torch.rand(1, 1)) == 6 * (2 * 2 * 16 * 16 * 8)


@pytest.mark.parametrize("frozen", [False, True])
def test_a_step_trains_what_it_says(frozen):
    step = training_step.our_step(training_step.TINY, torch.rand(2, 3, 16, 16), frozen)
    parameters = [p for group in step.optimizer.param_groups for p in group["params"]]
    before = [p.clone() for p in parameters]
    step()
    assert any(not torch.equal(p, old) for p, old in zip(parameters, before))
    model = SLATE(training_step.TINY)
    dvae, every = (sum(p.numel() for p in part.parameters()) for part in (model.dvae, model))
    assert sum(p.numel() for p in parameters) == every - frozen * dvae


@pytest.mark.parametrize("gain", [0.02, 4.0])
def test_bfloat16_is_timed_where_the_processor_has_it(monkeypatch, gain):
    monkeypatch.setattr(training_step, "bfloat16_gain", lambda: gain)
    report = training_step.bench(quick=True)
    table = next(part for part in report.parts if isinstance(part, pd.DataFrame))
    assert table["contestant"].str.contains("bfloat16").any() == (gain > 1)
    assert ("**it is left out**" in report.parts[0]) == (gain < 1)
    assert f"at {gain:g} times float32's rate" in report.parts[0]


def test_bfloat16_is_autocast():
    torch.manual_seed(0)
    image, state = torch.rand(2, 3, 16, 16), SLATE(training_step.TINY).state_dict()
    losses = []
    for bfloat16 in (False, True):
        torch.manual_seed(1)
        step = training_step.our_step(training_step.TINY, image, True, state, bfloat16)
        losses.append(step.loss().item())
    # rounding changes some of the tokens that are drawn
    assert losses[0] != losses[1] == pytest.approx(losses[0], rel=0.1)


def test_solvers_are_measured_at_what_they_return():
    f, z0 = solvers.random_cell(2, 16, 3, 16)
    table = solvers.measure(f, z0, None, 1e-9, 5, 1, "").set_index("contestant")
    assert list(table.index) == ["plain iteration", "Broyden, ours", "Anderson, ours"]
    assert (table["evaluations"] == 6).all()
    assert (0 < table["residual_mean"]).all()
    assert (table["residual_mean"] <= table["residual_max"]).all()


def test_the_spectral_norm_is_that_of_the_dense_jacobian():
    table = spectral_norm.bench(quick=True).parts[1].set_index("contestant")
    assert table.loc["spectral_norm, tol 0.001", "relative_error"] < 1e-3
    assert table.loc[spectral_norm.EXACT, "relative_error"] == 0


def test_without_the_package_slot_attention_is_timed_alone():
    table, agreement = slot_attention.measure(None, 2, 16, 3, 16, 2, 1)
    assert set(table["contestant"]) == {"ours, vanilla", "ours, IN"} and agreement == ""


def test_exponents_are_slopes_of_logarithms():
    assert log_log_slope(pd.Series({1: 2.0, 2: 8.0, 4: 32.0})) == pytest.approx(2)


def test_growth_is_relative_to_the_smallest_value():
    axes = {"batch": (None, (4, 8)), "slots": ("num_slots", (3, 6))}
    seconds = {}
    for axis, (_, values) in axes.items():
        for value in values:
            seconds[axis, value, "vanilla"] = np.array([value, value, value])
            seconds[axis, value, "IN"] = np.array([2.0, 2.0, 2.0])
    times = growth._times(seconds, axes)
    assert times[["axis", "value", "method"]].to_numpy().tolist() == list(map(list, seconds))
    assert times["ratio"].tolist() == [1, 1, 2, 1] * 2
    assert growth._medians(times)["slots", "vanilla"].to_dict() == {3: 3000, 6: 6000}
