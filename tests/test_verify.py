"""What `make verify` takes for the same curve, and that it passes nothing that it did not see."""

import pandas as pd
import pytest

from paper_lib.paper import verify

STORED = {
    0: pd.Series([100.0, 50.0, 40.0], index=[100, 200, 300]),
    1: pd.Series([110.0, 60.0, 44.0], index=[100, 200, 300]),
}


def within(values, steps=300):
    again = pd.Series(values, index=[100, 200, 300][: len(values)], dtype=float)
    return verify.compare(again, STORED, steps)["within"].tolist()


def test_a_curve_between_the_seeds_is_as_stored():
    assert within([105, 55, 42]) == [True, True, True]


@pytest.mark.parametrize(
    "value, inside", [(94.8, True), (94.7, False), (115.2, True), (115.3, False)]
)
def test_the_range_is_widened_by_a_twentieth_of_the_mean(value, inside):
    """The seeds reach from 100 to 110, their mean is 105."""
    assert within([value, 55, 42])[0] is inside


def test_an_evaluation_that_is_missing_is_none_that_agrees():
    assert within([105]) == [True, False, False]
    assert within([105, float("nan"), 42]) == [True, False, True]
    assert within([]) == [False, False, False]


def test_later_evaluations_are_not_asked_for():
    assert within([105, 55], steps=200) == [True, True]


@pytest.mark.parametrize(
    "arguments, words", [(["--group", "no such"], "flagship"), (["--steps", "10"], "at least 250")]
)
def test_what_cannot_be_compared_is_refused(arguments, words, capsys):
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PAPER_RESULTS")  # the committed runs
        with pytest.raises(SystemExit):
            verify.main(arguments)
    assert words in capsys.readouterr().err
