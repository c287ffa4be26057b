"""Statistics of curves, which are pandas Series indexed by training step or by n; and of seeds."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats


def thirds(curve: pd.Series) -> float:
    """Return the mean over the last third of training divided by the mean over the first.

    The curve is indexed by step; nan if either third has no value.
    """
    curve = curve.dropna()
    if curve.empty:
        return float("nan")
    end = curve.index[-1]
    return curve[curve.index > 2 * end / 3].mean() / curve[curve.index <= end / 3].mean()


def last(curve: pd.Series, part: float) -> float:
    """Return the mean over the last `part` of training; nan for a curve without values.

    A curve that ends early, as a diverged run's does, is taken up to where it ends.
    """
    curve = curve.dropna()
    if curve.empty:
        return float("nan")
    return curve[curve.index > (1 - part) * curve.index[-1]].mean()


def largest_rise(curve: pd.Series) -> float:
    """Return how far the curve ever rises above its best value so far: 0 if it only falls."""
    curve = curve.dropna()
    if curve.empty:
        return float("nan")
    return float((curve - curve.cummin()).max())


def exponent(curve: pd.Series) -> float:
    """Return the exponent of a power law fitted to a curve indexed by n: 0 is flat, 1 is linear.

    The fit is to the upper half (by logarithm), where fixed costs no longer rule.
    """
    middle = np.sqrt(curve.index[0] * curve.index[-1])
    return log_log_slope(curve[curve.index >= middle])


def log_log_slope(curve: pd.Series) -> float:
    """Return the least-squares slope of the curve's logarithm against that of its index."""
    slope, _ = np.polyfit(np.log(curve.index.to_numpy(float)), np.log(curve.to_numpy()), 1)
    return float(slope)


def t_interval(
    values: np.ndarray, ratio: bool = False, level: float = 0.95
) -> tuple[float, float, float]:
    """Return the mean of independent values and Student's t interval of that mean.

    ratio   whether the values are ratios, above 0: mean and interval are then those of their
            logarithms, exponentiated (so the mean is the geometric one, and the interval of the
            inverse ratios is the inverse interval)

    One value has a mean and no interval, no value has neither: nan. Raises ValueError for a ratio
    that is not above 0.
    """
    values = np.asarray(values, dtype=float)
    if len(values) == 0:
        return float("nan"), float("nan"), float("nan")
    if ratio:
        if values.min() <= 0:
            raise ValueError(f"a ratio is above 0, not {values.min()}")
        return tuple(float(np.exp(value)) for value in t_interval(np.log(values), level=level))
    mean = float(values.mean())
    if len(values) == 1:
        return mean, float("nan"), float("nan")
    half = float(stats.sem(values) * stats.t.ppf((1 + level) / 2, len(values) - 1))
    return mean, mean - half, mean + half


def bootstrap_mean(
    values: np.ndarray, draws: int = 10_000, level: float = 0.95
) -> tuple[float, float, float]:
    """Return the mean of many values, such as images' errors, and its percentile bootstrap
    interval.

    Of a few values, such as seeds, that is little more than their range: see `t_interval`. It is
    the same for the same values, and nan three times for no values.
    """
    if len(values) == 0:
        return float("nan"), float("nan"), float("nan")
    resampled = np.random.default_rng(0).choice(values, (draws, len(values))).mean(1)
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return float(values.mean()), float(low), float(high)
