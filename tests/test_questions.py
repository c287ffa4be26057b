"""The criteria of our own questions: they do not move, and they are no claims of the paper."""

from paper_lib.paper import claims, questions
from paper_lib.paper.claims import Claim

CRITERIA = {
    "G1": "< 0.5",
    "G2": "< 0.5",
    "G3": "> 1",
    "G4": "> 0.25",
    "G6": "> 1.25",
    "P1": "> 0.9",
    "P2": "< 0.5",
    "P3": "< 0.05",
    "P4": "> 0.2",
    "P5": "> 0.05",
    "P6": "> 0.9",
    "E1": "< 0.95",
    "E2": "> 0.97",
    "E3": "< 10",
    "A1": "> 0",
    "A2": "< 0.5",
    "M1": "< 0.95",
    "M2": "< 0.95",
}
ASKED_ABOUT = ("method", "gradient", "candidate", "setting")


def claims_of(module):
    return [claim for claim in vars(module).values() if isinstance(claim, Claim)]


def test_the_criteria_do_not_move():
    assert {claim.number: claim.criterion for claim in claims_of(questions)} == CRITERIA
    assert questions.G5_ANNOUNCES == 0.7
    assert (questions.FAILURE, questions.ALARM) == (1_000, 3)


def test_their_numbers_are_their_own():
    paper = {claim.number for claim in claims_of(claims)}
    assert not paper & set(CRITERIA)


def test_their_words_say_what_is_asked_about_and_nothing_else():
    for claim in claims_of(questions):
        about = claim.about(**dict.fromkeys(ASKED_ABOUT, "it"))
        assert "{" not in about.words + about.statistic
