"""How claims are judged: verdicts from intervals, and the statistics of curves."""

import math

import numpy as np
import pandas as pd
import pytest

from paper_lib import claims
from paper_lib.claims import Claim, bootstrap_mean, exponent, judge_complexity, last, sentence, thirds

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    "values, below, verdict",
    [
        ([0.1, 0.2, 0.3], True, "supported"),
        ([0.1, 0.2, 0.3], False, "not supported"),
        ([1.1, 1.2, 1.3], True, "not supported"),
        ([1.1, 1.2, 1.3], False, "supported"),
        ([0.5, 1.0, 1.6], True, "inconclusive"),
        ([0.5, 1.0, 1.6], False, "inconclusive"),
        ([1.0, 1.0, 1.0], True, "not supported"),  # neither below nor above the threshold
        ([1.0, 1.0, 1.0], False, "not supported"),
        ([0.1, 0.2], True, "inconclusive"),  # fewer than three seeds decide nothing
        ([5.0], False, "inconclusive"),
        ([], True, "inconclusive"),
        ([0.1, 0.2, NAN], True, "inconclusive"),
        ([0.1, 0.2, INF], True, "inconclusive"),
        ([NAN, NAN, NAN], False, "inconclusive"),
        ([0.1, NAN, 0.2, 0.3], True, "supported"),
        ([0.1] * 9 + [20.0], True, "inconclusive"),  # one seed of ten far off
    ],
)
def test_verdicts(values, below, verdict):
    row = Claim("C0", "words", "statistic", 1.0, below).judge(values)
    assert row["verdict"] == verdict
    assert row["seeds"] == np.isfinite(values).sum() and row["holds if"] == ("< 1" if below else "> 1")
    assert (row[""], row["the claim"], row["statistic"]) == ("C0", "words", "statistic")
    text = sentence(row)
    assert f"C0, words: {verdict} at this scale" in text and f"over {row['seeds']} seed(s)" in text and row["95% interval"] in text


def test_the_numbers_of_a_row():
    row = Claim("C0", "words", "statistic", 0.25, True).judge([1.0, 1.0, 1.0, 1.0])
    assert (row["mean"], row["95% interval"], row["holds if"]) == ("1", "[1, 1]", "< 0.25")


def test_the_claims_thresholds():
    """Written before the runs: they don't move."""
    judged = [claims.C1_VANILLA_GROWS, claims.C1_IMPLICIT_STAYS, claims.C1_TRAINS_BETTER, claims.C4_CLOSE_TO_ZERO, claims.C4_STABLE]
    assert [(c.number, c.threshold, c.below) for c in judged] == [
        ("C1", 1.25, False), ("C1", 1.25, True), ("C1", 0.8, True), ("C4", 0.1, True), ("C4", 1.5, True)
    ]  # fmt: skip
    assert (claims.C2_FLAT, claims.C2_LINEAR) == (0.1, (0.8, 1.2)) and claims.MIN_SEEDS == 3


def test_bootstrap():
    values = np.array([1.0, 2.0, 4.0, 9.0])
    state = np.random.get_state()[1].copy()
    mean, low, high = bootstrap_mean(values)
    assert (mean, low, high) == bootstrap_mean(values) and (np.random.get_state()[1] == state).all()
    assert mean == 4.0 and 1.0 <= low < mean < high <= 9.0
    assert bootstrap_mean(np.array([3.0])) == (3.0, 3.0, 3.0) and all(map(math.isnan, bootstrap_mean(np.array([]))))
    narrow = bootstrap_mean(values, level=0.5)
    assert low < narrow[1] < narrow[2] < high


def test_the_interval_is_as_wide_as_it_should_be():
    """Of many normal values it is the mean plus or minus 1.96 standard errors, and it covers the truth about as often as it says."""
    values = np.random.default_rng(1).normal(5, 2, 400)
    mean, low, high = bootstrap_mean(values)
    error = values.std() / 20
    assert low == pytest.approx(mean - 1.96 * error, abs=0.1 * error) and high == pytest.approx(mean + 1.96 * error, abs=0.1 * error)
    covered = [low <= 0 <= high for _, low, high in (bootstrap_mean(np.random.default_rng(k).normal(0, 1, 30), draws=1_000) for k in range(200))]
    assert 0.89 < np.mean(covered) < 0.98


def curve(function, steps=range(100, 3_001, 100)):
    return pd.Series([float(function(s)) for s in steps], index=pd.Index(steps, name="step"))


@pytest.mark.parametrize(
    "values, ratio",
    [
        (curve(lambda s: 7), 1),
        (curve(lambda s: 4 if s > 2_000 else 2), 2),
        (curve(lambda s: 2 if s <= 1_000 else 100 if s <= 2_000 else 3), 1.5),  # the middle third doesn't count
        (curve(lambda s: s), 2_550 / 550),
        (curve(lambda s: 1 if s % 200 else NAN), 1),
    ],
)
def test_thirds(values, ratio):
    assert thirds(values) == pytest.approx(ratio)


def test_thirds_of_too_little():
    assert math.isnan(thirds(curve(lambda s: NAN))) and math.isnan(thirds(pd.Series(dtype=float)))
    assert math.isnan(thirds(curve(lambda s: 1, [100]))), "a run that was evaluated once has no first third"
    # a diverged run's thirds are of what it had
    assert thirds(curve(lambda s: NAN if s > 900 else 4 if s > 600 else 2)) == 2


@pytest.mark.parametrize("part, mean", [(0.1, 2_900), (1 / 3, 2_550), (1.0, 1_550), (1e-6, 3_000)])
def test_last(part, mean):
    assert last(curve(lambda s: s), part) == pytest.approx(mean)
    assert last(curve(lambda s: s if s <= 3_000 else NAN, range(100, 4_001, 100)), part) == pytest.approx(mean), "counted from where the curve ends"
    assert math.isnan(last(curve(lambda s: NAN), part))


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_exponent(power):
    n = [1, 2, 4, 8, 16, 32, 64]
    assert exponent(curve(lambda k: 3 * k**power, n)) == pytest.approx(power, abs=1e-9)
    # fixed costs, which rule at small n, are in the lower half
    assert exponent(curve(lambda k: 3 * k**power if k >= 8 else 999, n)) == pytest.approx(power, abs=1e-9)


@pytest.mark.parametrize("value, flat, verdict", [(0.05, True, "supported"), (0.15, True, "not supported"), (-0.2, True, "supported"),
                                                  (0.95, False, "supported"), (0.7, False, "not supported"), (NAN, True, "not supported")])  # fmt: skip
def test_complexity(value, flat, verdict):
    row = judge_complexity("method", "memory", value, flat)
    assert row["verdict"] == verdict and row[""] == "C2" and row["exponent"] == f"{value:.2f}"
    assert ("constant" if flat else "linear") in row["the claim"] and row["holds if"] == ("< 0.1" if flat else "0.8 to 1.2")
