"""How claims are judged: verdicts from intervals, and the statistics of curves."""

import math

import numpy as np
import pandas as pd
import pytest

from paper_lib.paper import claims
from paper_lib.paper.claims import (
    Claim,
    bootstrap_mean,
    exponent,
    judge_complexity,
    largest_rise,
    last,
    sentence,
    thirds,
)

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
    assert row["seeds"] == np.isfinite(values).sum() and row["holds if"] == (
        "< 1" if below else "> 1"
    )
    assert (row[""], row["the claim"], row["statistic"]) == ("C0", "words", "statistic")
    text = sentence(row)
    assert (
        f"C0, words: {verdict} at this scale" in text
        and f"over {row['seeds']} seed(s)" in text
        and row["95% interval"] in text
    )


def test_the_numbers_of_a_row():
    row = Claim("C0", "words", "statistic", 0.25, True).judge([1.0, 1.0, 1.0, 1.0])
    assert (row["mean"], row["95% interval"], row["holds if"]) == ("1", "[1, 1]", "< 0.25")


def test_the_claims_thresholds():
    """Written before the runs: they don't move."""
    judged = [
        claims.C1_VANILLA_GROWS,
        claims.C1_IMPLICIT_STAYS,
        claims.C1_TRAINS_BETTER,
        claims.C4_CLOSE_TO_ZERO,
        claims.C4_STABLE,
    ]
    assert [(c.number, c.threshold, c.below) for c in judged] == [
        ("C1", 1.25, False), ("C1", 1.25, True), ("C1", 0.8, True), ("C4", 0.1, True), ("C4", 1.5, True)
    ]  # fmt: skip
    assert (claims.C2_FLAT, claims.C2_LINEAR) == (0.1, (0.8, 1.2)) and claims.MIN_SEEDS == 3


SWEPT = {
    "C5_FAR_BELOW": ("C5", 0.8, True),
    "C5_ALIKE": ("C5", 1.1, True),
    "C6_IB_UNSTABLE": ("C6", 1.0, False),
    "C7_OBJECTS": ("C7", 0.8, True),
    "C7_MASKS": ("C7", 0.1, False),
    "C8_MSE": ("C8", 1.0, True),
    "C8_FRECHET": ("C8", 1.0, True),
    "C9_VANILLA_EXPLODES": ("C9", 2.0, False),
    "C9_IMPLICIT_DOES_NOT": ("C9", 2.0, True),
    "C9_DECAY_TAMES": ("C9", 0.9, True),
    "C9_DECAY_HURTS": ("C9", 1.0, False),
    "C10_EXPLODES": ("C10", 10.0, False),
    "C11_INSENSITIVE": ("C11", 1.2, True),
    "C11_HARDER": ("C11", 1.1, False),
    "C12_ONE_IS_WORSE": ("C12", 1.5, False),
    "C13_BETTER": ("C13", 0.05, False),
    "C13_ONE_IS_NOT_ENOUGH": ("C13", 0.05, False),
    "C13_SCALES": ("C13", -0.05, False),
    "C14_FOREGROUND_ARI": ("C14", -0.05, False),
    "C14_MEAN_IOU": ("C14", -0.05, False),
    "C15_SEVERAL": ("C15", 0.8, True),
    "C16_VANILLA_DROPS": ("C16", 1.2, False),
    "C16_IMPLICIT_DOES_NOT": ("C16", 1.1, True),
    "C17_LOWER": ("C17", 1.0, True),
    "B1_ALIKE": ("B1", 1.0, True),
}


def every_claim():
    return {name: claim for name, claim in vars(claims).items() if isinstance(claim, Claim)}


def test_the_thresholds_of_the_sweeps_claims():
    """These neither, and there are no others."""
    found = {
        name: (c.number, c.threshold, c.below)
        for name, c in every_claim().items()
        if c.number not in ("C1", "C4")
    }
    assert found == SWEPT and len(every_claim()) == len(SWEPT) + 5


def test_names_are_filled_in():
    claim = Claim("C0", "{who} is lower on {data}", "loss of {who}", 0.5, True)
    about = claim.about(who="implicit", data="photos", more="unused")
    assert (
        about == Claim("C0", "implicit is lower on photos", "loss of implicit", 0.5, True)
        and claim.words == "{who} is lower on {data}"
    )
    with pytest.raises(KeyError, match="data"):
        claim.about(who="implicit")
    names = dict(
        tricks="with all tricks",
        data="photos",
        trick="clipping",
        method="vanilla",
        n=7,
        t="inf",
        most=11,
    )
    for name, claim in every_claim().items():
        row = claim.about(**names).judge([0.5])
        assert not any(bracket in sentence(row) for bracket in "{}"), name
        assert all(
            text and text != "with all tricks" for text in (row["the claim"], row["statistic"])
        )


def test_bootstrap():
    values = np.array([1.0, 2.0, 4.0, 9.0])
    state = np.random.get_state()[1].copy()
    mean, low, high = bootstrap_mean(values)
    assert (mean, low, high) == bootstrap_mean(values) and (np.random.get_state()[1] == state).all()
    assert mean == 4.0 and 1.0 <= low < mean < high <= 9.0
    assert bootstrap_mean(np.array([3.0])) == (3.0, 3.0, 3.0) and all(
        map(math.isnan, bootstrap_mean(np.array([])))
    )
    narrow = bootstrap_mean(values, level=0.5)
    assert low < narrow[1] < narrow[2] < high


def test_the_interval_is_as_wide_as_it_should_be():
    """Of many normal values it is the mean plus or minus 1.96 standard errors, and it covers the truth about as often as it says."""
    values = np.random.default_rng(1).normal(5, 2, 400)
    mean, low, high = bootstrap_mean(values)
    error = values.std() / 20
    assert low == pytest.approx(mean - 1.96 * error, abs=0.1 * error) and high == pytest.approx(
        mean + 1.96 * error, abs=0.1 * error
    )
    covered = [
        low <= 0 <= high
        for _, low, high in (
            bootstrap_mean(np.random.default_rng(k).normal(0, 1, 30), draws=1_000)
            for k in range(200)
        )
    ]
    assert 0.89 < np.mean(covered) < 0.98


def curve(function, steps=range(100, 3_001, 100)):
    return pd.Series([float(function(s)) for s in steps], index=pd.Index(steps, name="step"))


@pytest.mark.parametrize(
    "values, ratio",
    [
        (curve(lambda s: 7), 1),
        (curve(lambda s: 4 if s > 2_000 else 2), 2),
        (
            curve(lambda s: 2 if s <= 1_000 else 100 if s <= 2_000 else 3),
            1.5,
        ),  # the middle third doesn't count
        (curve(lambda s: s), 2_550 / 550),
        (curve(lambda s: 1 if s % 200 else NAN), 1),
    ],
)
def test_thirds(values, ratio):
    assert thirds(values) == pytest.approx(ratio)


def test_thirds_of_too_little():
    assert math.isnan(thirds(curve(lambda s: NAN))) and math.isnan(thirds(pd.Series(dtype=float)))
    assert math.isnan(thirds(curve(lambda s: 1, [100]))), (
        "a run that was evaluated once has no first third"
    )
    # a diverged run's thirds are of what it had
    assert thirds(curve(lambda s: NAN if s > 900 else 4 if s > 600 else 2)) == 2


@pytest.mark.parametrize("part, mean", [(0.1, 2_900), (1 / 3, 2_550), (1.0, 1_550), (1e-6, 3_000)])
def test_last(part, mean):
    assert last(curve(lambda s: s), part) == pytest.approx(mean)
    assert last(
        curve(lambda s: s if s <= 3_000 else NAN, range(100, 4_001, 100)), part
    ) == pytest.approx(mean), "counted from where the curve ends"
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
        (
            [5, NAN, 2, NAN, 3, NAN],
            1,
        ),  # only evaluated now and then; what comes after the end is not there
        ([4], 0),
    ],
)
def test_largest_rise(values, rise):
    series = pd.Series([float(v) for v in values], index=range(10, 10 * len(values) + 10, 10))
    assert largest_rise(series) == rise
    assert largest_rise(3 * series + 7) == 3 * rise


def test_largest_rise_of_nothing():
    assert math.isnan(largest_rise(pd.Series(dtype=float))) and math.isnan(
        largest_rise(curve(lambda s: NAN))
    )


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_exponent(power):
    n = [1, 2, 4, 8, 16, 32, 64]
    assert exponent(curve(lambda k: 3 * k**power, n)) == pytest.approx(power, abs=1e-9)
    # fixed costs, which rule at small n, are in the lower half
    assert exponent(curve(lambda k: 3 * k**power if k >= 8 else 999, n)) == pytest.approx(
        power, abs=1e-9
    )


@pytest.mark.parametrize("value, flat, verdict", [(0.05, True, "supported"), (0.15, True, "not supported"), (-0.2, True, "supported"),
                                                  (0.95, False, "supported"), (0.7, False, "not supported"), (NAN, True, "not supported")])  # fmt: skip
def test_complexity(value, flat, verdict):
    row = judge_complexity("method", "memory", value, flat)
    assert row["verdict"] == verdict and row[""] == "C2" and row["exponent"] == f"{value:.2f}"
    assert ("constant" if flat else "linear") in row["the claim"] and row["holds if"] == (
        "< 0.1" if flat else "0.8 to 1.2"
    )


def test_data_that_cannot_decide_a_claim():
    claim, values = Claim("C0", "words", "statistic", 1.0, True), [0.1, 0.2, 0.3]
    assert claim.judge(values)["verdict"] == "supported"
    assert claim.judge(values, can_decide=False) == claim.judge(values) | {
        "verdict": "inconclusive"
    }
