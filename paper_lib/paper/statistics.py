"""Statistics of curves, which are pandas Series indexed by training step or by n; and of seeds."""

from __future__ import annotations

import numpy as np
import pandas as pd


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


def bootstrap_mean(
    values: np.ndarray, draws: int = 10_000, level: float = 0.95
) -> tuple[float, float, float]:
    """Return the mean of the values and the percentile bootstrap interval of that mean.

    It is the same for the same values, and nan three times for no values.
    """
    if len(values) == 0:
        return float("nan"), float("nan"), float("nan")
    resampled = np.random.default_rng(0).choice(values, (draws, len(values))).mean(1)
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return float(values.mean()), float(low), float(high)
