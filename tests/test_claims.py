"""How claims are judged: verdicts from intervals, and criteria that do not move."""

import math

import numpy as np
import pytest

from paper_lib.paper import claims
from paper_lib.paper.claims import Claim, judge_complexity

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    "values, side, verdict",
    [
        ([0.1, 0.2, 0.3], "below", "supported"),
        ([0.1, 0.2, 0.3], "above", "not supported"),
        ([1.8, 1.9, 2.0], "below", "not supported"),
        ([1.8, 1.9, 2.0], "above", "supported"),
        ([0.5, 1.0, 1.6], "below", "inconclusive"),
        ([0.5, 1.0, 1.6], "above", "inconclusive"),
        ([0.3, 0.6, 0.9], "below", "inconclusive"),  # all three agree: their interval does not
        ([1.0, 1.0, 1.0], "below", "not supported"),  # neither below nor above the threshold
        ([1.0, 1.0, 1.0], "above", "not supported"),
        ([0.1, 0.2], "below", "inconclusive"),  # fewer than three seeds decide nothing
        ([5.0], "above", "inconclusive"),
        ([], "below", "inconclusive"),
        ([0.1, 0.2, NAN], "below", "inconclusive"),
        ([0.1, 0.2, INF], "below", "inconclusive"),
        ([NAN, NAN, NAN], "above", "inconclusive"),
        ([0.1, NAN, 0.2, 0.3], "below", "supported"),
        ([0.1] * 9 + [20.0], "below", "inconclusive"),  # one seed of ten far off
    ],
)
def test_verdicts(values, side, verdict):
    judged = Claim("C0", "words", "statistic", **{side: 1.0}).judge(values)
    row, text = judged.row(), judged.sentence()
    assert row["verdict"] == judged.verdict == verdict
    assert row["seeds"] == np.isfinite(values).sum()
    assert row["holds if"] == {"below": "< 1", "above": "> 1"}[side]
    assert (row[""], row["the claim"], row["statistic"]) == ("C0", "words", "statistic")
    assert f"C0, words: {verdict}" in text
    if row["seeds"] >= 3:
        assert f"{row['95% interval']} over {row['seeds']} seeds" in text


def test_a_ratio_s_interval_is_on_the_logarithm():
    """The same values, as a ratio and as a difference."""
    values = [0.02, 0.1, 0.9]
    ratio = Claim("C0", "words", "statistic", below=1.0, ratio=True).judge(values)
    plain = Claim("C0", "words", "statistic", below=1.0).judge(values)
    assert ratio.mean == pytest.approx(np.prod(values) ** (1 / 3)) and ratio.low > 0 > plain.low
    assert ratio.high > plain.high


@pytest.mark.parametrize(
    "values, interval, agrees, words",
    [
        ([0.5], "one seed", "yes", "the mean agrees with the claim"),
        ([2.0, 3.0], "two seeds", "no", "the mean does not agree with the claim"),
        ([], "no seed", "", None),
    ],
)
def test_too_few_seeds_for_a_verdict(values, interval, agrees, words):
    judged = Claim("C0", "words", "statistic", below=1.0).judge(values)
    assert (judged.row()["95% interval"], judged.row()["mean agrees"]) == (interval, agrees)
    if words:
        assert f"({interval}); the claim holds if < 1." in judged.sentence()
        assert f"Too few seeds for a verdict; {words}." in judged.sentence()
    enough = Claim("C0", "words", "statistic", below=1.0).judge([0.5, 0.6, 0.7])
    assert "Too few seeds" not in enough.sentence()


def test_the_numbers_of_a_row():
    row = Claim("C0", "words", "statistic", below=0.25).judge([1.0, 1.0, 1.0, 1.0]).row()
    assert (row["mean"], row["95% interval"], row["holds if"]) == ("1", "[1, 1]", "< 0.25")


def test_a_bound_next_to_the_threshold_is_seen_on_its_side():
    claim = Claim("C0", "words", "statistic", below=0.8)
    judged = claim.judge([0.79966, 0.79967, 0.79968])
    assert judged.verdict == "supported" and judged.interval == "[0.7996, 0.7997]"


@pytest.mark.parametrize(
    "side, values, margin",
    [("below", [0.4] * 3, -math.log(0.5)), ("above", [0.4] * 3, math.log(0.5))],
)
def test_the_margin_is_how_far_a_claim_holds(side, values, margin):
    ratio = Claim("C0", "words", "statistic", **{side: 0.8}, ratio=True).judge(values)
    assert ratio.margin == pytest.approx((margin,) * 3)
    plain = Claim("C0", "words", "statistic", **{side: 0.8}).judge(values)
    assert plain.margin == pytest.approx((0.4 if side == "below" else -0.4,) * 3)


def test_the_share_of_the_papers_effect():
    claim = Claim("C0", "words", "statistic", below=1.0, ratio=True)
    assert claim.judge([0.1] * 3, paper=0.01).share == pytest.approx(0.5)
    assert claim.judge([0.01] * 3, paper=0.01).share == pytest.approx(1)
    assert claim.judge([10.0] * 3, paper=0.01).share == pytest.approx(-0.5), "the opposite"
    assert math.isnan(claim.judge([0.1] * 3).share)
    other = claim.judge([0.1] * 3, paper=0.01, comparable=False)
    assert math.isnan(other.share) and other.row()["the paper's"] == "0.01"
    assert "The paper's own: 0.01." in other.sentence()


def test_where_there_are_no_data_the_papers_number_stands_alone():
    claim = Claim("C0", "words", "statistic", below=1.0, ratio=True)
    row = claim.without_data("needs the files", paper=0.3).row()
    assert (row["verdict"], row["the paper's"], row["mean"]) == ("needs the files", "0.3", "")
    assert row["mean agrees"] == ""


def test_what_is_shown_is_not_judged():
    row = claims.shown("C0", "words", "statistic", [1.0, 2.0, 3.0, NAN]).row()
    assert (row["verdict"], row["holds if"], row["mean agrees"]) == ("shown", "", "")
    assert (row["mean"], row["seeds"]) == ("2", 3)


@pytest.mark.parametrize("thresholds", [{}, {"above": 1.0, "below": 2.0}])
def test_a_claim_has_one_threshold(thresholds):
    with pytest.raises(ValueError, match="C0.*one threshold"):
        Claim("C0", "words", "statistic", **thresholds)


CRITERIA = {
    "C1_VANILLA_GROWS": "C1 above 1.25 ratio",
    "C1_IMPLICIT_STAYS": "C1 below 1.25 ratio",
    "C1_TRAINS_BETTER": "C1 below 0.8 ratio",
    "C4_CLOSE_TO_ZERO": "C4 below 0.1",
    "C4_STABLE": "C4 below 1.5 ratio",
    "C5_FAR_BELOW": "C5 below 0.8 ratio",
    "C5_ALIKE": "C5 below 1.1 ratio",
    "C6_IB_UNSTABLE": "C6 above 1.0",
    "C7_OBJECTS": "C7 below 0.8 ratio",
    "C7_VANILLA_DEGENERATES": "C7 above 0.1",
    "C7_IMPLICIT_DOES_NOT": "C7 above 0.0",
    "C8_MSE": "C8 below 1.0 ratio",
    "C8_FRECHET": "C8 below 1.0 ratio",
    "C9_VANILLA_EXPLODES": "C9 above 2.0 ratio",
    "C9_IMPLICIT_DOES_NOT": "C9 below 2.0 ratio",
    "C9_DECAY_TAMES": "C9 below 0.9 ratio",
    "C9_DECAY_HURTS": "C9 above 1.0 ratio",
    "C10_EXPLODES": "C10 above 10.0 ratio",
    "C10_IMPLICIT_DOES_NOT": "C10 below 10.0 ratio",
    "C11_INSENSITIVE": "C11 below 1.2 ratio",
    "C11_HARDER": "C11 above 1.1 ratio",
    "C12_ONE_IS_WORSE": "C12 above 1.5 ratio",
    "C13_BETTER": "C13 above 0.05",
    "C13_ONE_IS_NOT_ENOUGH": "C13 above 0.05",
    "C13_SCALES": "C13 above -0.05",
    "C14_FOREGROUND_ARI": "C14 above -0.05",
    "C14_MEAN_IOU": "C14 above -0.05",
    "C15_SEVERAL": "C15 above 0.1",
    "C16_VANILLA_DROPS": "C16 above 1.2 ratio",
    "C16_IMPLICIT_DOES_NOT": "C16 below 1.1 ratio",
    "C17_LOWER": "C17 below 1.0 ratio",
    "B1_ALIKE": "B1 below 1.0 ratio",
}


def every_claim():
    return {name: claim for name, claim in vars(claims).items() if isinstance(claim, Claim)}


def test_the_criteria_do_not_move():
    found = {}
    for name, claim in every_claim().items():
        side, threshold = "above", claim.above
        if claim.above is None:
            side, threshold = "below", claim.below
        kind = " ratio" if claim.ratio else ""
        found[name] = f"{claim.number} {side} {threshold}{kind}"
    assert found == CRITERIA
    assert (claims.C2_FLAT, claims.C2_LINEAR) == (0.1, (0.8, 1.2))
    assert claims.MIN_SEEDS == 3


def test_names_are_filled_in():
    claim = Claim("C0", "{who} is lower on {data}", "loss of {who}", below=0.5)
    about = claim.about(who="implicit", data="photos", more="unused")
    assert about == Claim("C0", "implicit is lower on photos", "loss of implicit", below=0.5)
    assert claim.words == "{who} is lower on {data}"
    with pytest.raises(KeyError, match="data"):
        claim.about(who="implicit")


def test_every_claim_has_its_words_once_its_names_are_filled_in():
    names = {
        "tricks": "with all tricks",
        "data": "photos",
        "trick": "clipping",
        "method": "vanilla",
        "n": 7,
        "where": "within 0.5",
        "most": 11,
    }
    for name, claim in every_claim().items():
        judged = claim.about(**names).judge([0.5])
        row = judged.row()
        assert not any(bracket in judged.sentence() for bracket in "{}"), name
        for text in (row["the claim"], row["statistic"]):
            assert text and text != "with all tricks", name


@pytest.mark.parametrize(
    "value, flat, verdict",
    [
        (0.05, True, "supported"),
        (0.15, True, "not supported"),
        (-0.2, True, "supported"),
        (0.95, False, "supported"),
        (0.7, False, "not supported"),
        (1.3, False, "not supported"),
        (NAN, True, "not supported"),
    ],
)
def test_complexity(value, flat, verdict):
    judged = judge_complexity("method", "memory", value, flat)
    row = judged.row()
    assert row["verdict"] == verdict and row[""] == "C2"
    assert row["mean"] == ("" if math.isnan(value) else f"{value:g}")
    assert (row["95% interval"], row["seeds"]) == ("one measurement", "")
    assert "Too few seeds" not in judged.sentence()
    assert ("constant" if flat else "linear") in row["the claim"]
    assert row["holds if"] == ("< 0.1" if flat else "0.8 to 1.2")


def test_runs_that_cannot_decide_a_claim():
    claim, values = Claim("C0", "words", "statistic", below=1.0), [0.1, 0.2, 0.3]
    decided, undecided = claim.judge(values), claim.judge(values, undecided="too few images")
    assert decided.verdict == "supported" and decided.agrees
    assert undecided.verdict == "inconclusive: too few images" and undecided.agrees is None
    assert undecided.interval == decided.interval
    assert "agree" not in claim.judge([0.1], undecided="too few images").sentence()
