"""Statistics of curves and of seeds, against hand-made curves and against theory."""

import math

import numpy as np
import pandas as pd
import pytest

from paper_lib.paper.statistics import (
    bootstrap_mean,
    exponent,
    largest_rise,
    last,
    log_log_slope,
    t_interval,
    thirds,
)

NAN = math.nan


def curve(function, steps=range(100, 3_001, 100)):
    return pd.Series([float(function(s)) for s in steps], index=pd.Index(steps, name="step"))


@pytest.mark.parametrize(
    "values, ratio",
    [
        (curve(lambda s: 7), 1),
        (curve(lambda s: 4 if s > 2_000 else 2), 2),
        (curve(lambda s: (2, 100, 3)[(s - 1) // 1_000]), 1.5),  # the middle third doesn't count
        (curve(lambda s: s), 2_550 / 550),
        (curve(lambda s: 1 if s % 200 else NAN), 1),
    ],
)
def test_thirds(values, ratio):
    assert thirds(values) == pytest.approx(ratio)


def test_thirds_of_too_little():
    assert math.isnan(thirds(curve(lambda s: NAN))) and math.isnan(thirds(pd.Series(dtype=float)))
    # a run that was evaluated once has no first third
    assert math.isnan(thirds(curve(lambda s: 1, [100])))
    # a diverged run's thirds are of what it had
    assert thirds(curve(lambda s: NAN if s > 900 else 4 if s > 600 else 2)) == 2


@pytest.mark.parametrize("part, mean", [(0.1, 2_900), (1 / 3, 2_550), (1.0, 1_550), (1e-6, 3_000)])
def test_last(part, mean):
    assert last(curve(lambda s: s), part) == pytest.approx(mean)
    # counted from where the curve ends
    diverged = curve(lambda s: s if s <= 3_000 else NAN, range(100, 4_001, 100))
    assert last(diverged, part) == pytest.approx(mean)
    assert math.isnan(last(curve(lambda s: NAN), part))


@pytest.mark.parametrize(
    "values, rise",
    [
        ([9, 7, 4, 1], 0),
        ([5, 5, 5], 0),
        ([1, 2, 4], 3),
        ([9, 4, 6, 1, 2], 2),  # the first rise; the second is smaller
        ([9, 4, 6, 1, 2, 5], 4),
        ([6, 3, 5, 4, 7, 6.5], 4),  # above the best so far, however many small steps it takes
        ([5, NAN, 2, NAN, 3, NAN], 1),  # only evaluated now and then
        ([4], 0),
    ],
)
def test_largest_rise(values, rise):
    series = pd.Series([float(v) for v in values], index=range(10, 10 * len(values) + 10, 10))
    assert largest_rise(series) == rise
    assert largest_rise(3 * series + 7) == 3 * rise


def test_largest_rise_of_nothing():
    assert math.isnan(largest_rise(pd.Series(dtype=float)))
    assert math.isnan(largest_rise(curve(lambda s: NAN)))


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_exponent(power):
    n = [1, 2, 4, 8, 16, 32, 64]
    pure = curve(lambda k: 3 * k**power, n)
    assert exponent(pure) == log_log_slope(pure[pure.index >= 8]) == pytest.approx(power, abs=1e-9)
    assert log_log_slope(pure) == pytest.approx(power, abs=1e-9)
    # fixed costs, which rule at small n, are in the lower half
    with_costs = curve(lambda k: 3 * k**power if k >= 8 else 999, n)
    assert exponent(with_costs) == pytest.approx(power, abs=1e-9)


def test_the_interval_of_a_mean_is_students():
    # a table of the t distribution says 4.303 for two degrees of freedom, 12.706 for one
    mean, low, high = t_interval([1.0, 2.0, 3.0])
    assert mean == 2 and low == pytest.approx(2 - 4.303 / math.sqrt(3), abs=1e-3)
    assert high == pytest.approx(4 - low)
    assert t_interval([1.0, 3.0])[2] == pytest.approx(2 + 12.706, abs=1e-3)
    assert t_interval([4.0, 4.0, 4.0]) == (4, 4, 4)
    narrow = t_interval([1.0, 2.0, 3.0], level=0.5)
    assert low < narrow[1] < narrow[2] < high


def test_the_interval_of_a_ratio_is_on_the_logarithm():
    values = np.array([0.5, 1.0, 4.0])
    mean, low, high = t_interval(values, ratio=True)
    assert mean == pytest.approx(2 ** (1 / 3)), "the geometric mean"
    assert np.log([mean, low, high]) == pytest.approx(t_interval(np.log(values)))
    inverse = t_interval(1 / values, ratio=True)
    assert inverse == pytest.approx((1 / mean, 1 / high, 1 / low))
    with pytest.raises(ValueError, match="above 0, not -1"):
        t_interval([1.0, -1.0], ratio=True)


@pytest.mark.parametrize("ratio", [False, True])
def test_too_few_values_have_no_interval(ratio):
    assert all(math.isnan(value) for value in t_interval([], ratio))
    mean, low, high = t_interval([3.0], ratio)
    assert mean == pytest.approx(3) and math.isnan(low) and math.isnan(high)


@pytest.mark.parametrize("ratio", [False, True])
def test_students_interval_covers_the_truth_as_often_as_it_says(ratio):
    """Also with three values, where the bootstrap's, little more than their range, does not."""
    draws = np.random.default_rng(0).normal(0, 1, (2_000, 3))
    covered = [0, 0]
    for values in draws:
        _, low, high = t_interval(np.exp(values) if ratio else values, ratio)
        covered[0] += low <= (1 if ratio else 0) <= high
        covered[1] += values.min() <= 0 <= values.max()
    assert 0.935 < covered[0] / len(draws) < 0.965
    assert covered[1] / len(draws) < 0.8


def test_bootstrap():
    values = np.array([1.0, 2.0, 4.0, 9.0])
    state = np.random.get_state()[1].copy()
    mean, low, high = bootstrap_mean(values)
    assert (mean, low, high) == bootstrap_mean(values)
    assert (np.random.get_state()[1] == state).all(), "numpy's own draws are left alone"
    assert mean == 4.0 and 1.0 <= low < mean < high <= 9.0
    assert bootstrap_mean(np.array([3.0])) == (3.0, 3.0, 3.0)
    assert all(math.isnan(value) for value in bootstrap_mean(np.array([])))
    narrow = bootstrap_mean(values, level=0.5)
    assert low < narrow[1] < narrow[2] < high


def test_the_interval_of_many_normal_values_is_1_96_standard_errors_wide():
    values = np.random.default_rng(1).normal(5, 2, 400)
    mean, low, high = bootstrap_mean(values)
    error = values.std() / 20
    assert low == pytest.approx(mean - 1.96 * error, abs=0.1 * error)
    assert high == pytest.approx(mean + 1.96 * error, abs=0.1 * error)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    covered = 0
    for k in range(200):
        values = np.random.default_rng(k).normal(0, 1, 30)
        _, low, high = bootstrap_mean(values, draws=1_000)
        covered += low <= 0 <= high
    assert 0.89 < covered / 200 < 0.98
