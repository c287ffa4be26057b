"""How claims are judged: verdicts from intervals, and criteria that do not move."""

import math

import numpy as np
import pytest

from paper_lib.paper import claims
from paper_lib.paper.claims import Claim, judge_complexity, sentence

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    "values, side, verdict",
    [
        ([0.1, 0.2, 0.3], "below", "supported"),
        ([0.1, 0.2, 0.3], "above", "not supported"),
        ([1.1, 1.2, 1.3], "below", "not supported"),
        ([1.1, 1.2, 1.3], "above", "supported"),
        ([0.5, 1.0, 1.6], "below", "inconclusive"),
        ([0.5, 1.0, 1.6], "above", "inconclusive"),
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
    row = Claim("C0", "words", "statistic", **{side: 1.0}).judge(values)
    assert row["verdict"] == verdict
    assert row["seeds"] == np.isfinite(values).sum()
    assert row["holds if"] == {"below": "< 1", "above": "> 1"}[side]
    assert (row[""], row["the claim"], row["statistic"]) == ("C0", "words", "statistic")
    text = sentence(row)
    assert f"C0, words: {verdict} at this scale" in text
    assert f"over {row['seeds']} seed(s)" in text
    assert row["95% interval"] in text


@pytest.mark.parametrize(
    "values, agrees, words",
    [
        ([0.5], "yes", "the mean agrees with the claim"),
        ([2.0, 3.0], "no", "the mean does not agree with the claim"),
        ([], "", "the mean does not exist"),
    ],
)
def test_too_few_seeds_for_a_verdict(values, agrees, words):
    row = Claim("C0", "words", "statistic", below=1.0).judge(values)
    assert row["mean agrees"] == agrees
    assert f"Too few seeds for a verdict; {words}." in sentence(row)
    enough = Claim("C0", "words", "statistic", below=1.0).judge([0.5, 0.6, 0.7])
    assert "Too few seeds" not in sentence(enough)


def test_the_numbers_of_a_row():
    row = Claim("C0", "words", "statistic", below=0.25).judge([1.0, 1.0, 1.0, 1.0])
    assert (row["mean"], row["95% interval"], row["holds if"]) == ("1", "[1, 1]", "< 0.25")


@pytest.mark.parametrize("thresholds", [{}, {"above": 1.0, "below": 2.0}])
def test_a_claim_has_one_threshold(thresholds):
    with pytest.raises(ValueError, match="C0.*one threshold"):
        Claim("C0", "words", "statistic", **thresholds)


CRITERIA = {
    "C1_VANILLA_GROWS": "C1 above 1.25",
    "C1_IMPLICIT_STAYS": "C1 below 1.25",
    "C1_TRAINS_BETTER": "C1 below 0.8",
    "C4_CLOSE_TO_ZERO": "C4 below 0.1",
    "C4_STABLE": "C4 below 1.5",
    "C5_FAR_BELOW": "C5 below 0.8",
    "C5_ALIKE": "C5 below 1.1",
    "C6_IB_UNSTABLE": "C6 above 1.0",
    "C7_OBJECTS": "C7 below 0.8",
    "C7_MASKS": "C7 above 0.1",
    "C8_MSE": "C8 below 1.0",
    "C8_FRECHET": "C8 below 1.0",
    "C9_VANILLA_EXPLODES": "C9 above 2.0",
    "C9_IMPLICIT_DOES_NOT": "C9 below 2.0",
    "C9_DECAY_TAMES": "C9 below 0.9",
    "C9_DECAY_HURTS": "C9 above 1.0",
    "C10_EXPLODES": "C10 above 10.0",
    "C11_INSENSITIVE": "C11 below 1.2",
    "C11_HARDER": "C11 above 1.1",
    "C12_ONE_IS_WORSE": "C12 above 1.5",
    "C13_BETTER": "C13 above 0.05",
    "C13_ONE_IS_NOT_ENOUGH": "C13 above 0.05",
    "C13_SCALES": "C13 above -0.05",
    "C14_FOREGROUND_ARI": "C14 above -0.05",
    "C14_MEAN_IOU": "C14 above -0.05",
    "C15_SEVERAL": "C15 below 0.8",
    "C16_VANILLA_DROPS": "C16 above 1.2",
    "C16_IMPLICIT_DOES_NOT": "C16 below 1.1",
    "C17_LOWER": "C17 below 1.0",
    "B1_ALIKE": "B1 below 1.0",
}


def every_claim():
    return {name: claim for name, claim in vars(claims).items() if isinstance(claim, Claim)}


def test_the_criteria_do_not_move():
    found = {}
    for name, claim in every_claim().items():
        side, threshold = "above", claim.above
        if claim.above is None:
            side, threshold = "below", claim.below
        found[name] = f"{claim.number} {side} {threshold}"
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
        "t": "inf",
        "most": 11,
    }
    for name, claim in every_claim().items():
        row = claim.about(**names).judge([0.5])
        assert not any(bracket in sentence(row) for bracket in "{}"), name
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
    row = judge_complexity("method", "memory", value, flat)
    assert row["verdict"] == verdict and row[""] == "C2" and row["exponent"] == f"{value:.2f}"
    assert ("constant" if flat else "linear") in row["the claim"]
    assert row["holds if"] == ("< 0.1" if flat else "0.8 to 1.2")


def test_data_that_cannot_decide_a_claim():
    claim, values = Claim("C0", "words", "statistic", below=1.0), [0.1, 0.2, 0.3]
    decided, undecided = claim.judge(values), claim.judge(values, can_decide=False)
    assert decided["verdict"] == "supported"
    assert undecided == decided | {"verdict": "inconclusive"}
