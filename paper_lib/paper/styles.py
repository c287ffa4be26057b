"""How each method looks in every figure: its colour, line, marker and name."""

from __future__ import annotations

from dataclasses import dataclass

import seaborn as sns

from paper_lib.models import VARIANTS


@dataclass(frozen=True)
class Style:
    """How matplotlib draws a method: a colour, a line style and a marker of its own."""

    colour: str
    line: str | tuple
    marker: str


# The paper's colours: vanilla is red, implicit is blue. Lightness, line style and marker differ
# too, so that the curves can be told apart in grey.
STYLES = {
    "vanilla": Style("#d62728", "--", "s"),
    "IN": Style("#1f4e9c", "-", "o"),
    "BN": Style("#56a0d3", "-.", "^"),
    "BB": Style("#2e8b57", (0, (5, 1)), "v"),
    "IB": Style("#c58b1a", ":", "D"),
    "AN": Style("#8a5fbf", (0, (3, 1, 1, 1)), "P"),
    "AA": Style("#6b6b6b", (0, (1, 1)), "X"),
}
NAMES = {"vanilla": "vanilla", "IN": "implicit (IN)"}

# Any other method takes the next of these. They are of different lengths, so that the combination
# stays distinct when one of them starts again.
_SPARE_COLOURS = ("#e377c2", "#17becf", "#8c564b", "#bcbd22", "#0b6e4f")
_SPARE_LINES = ((0, (7, 2)), (0, (4, 1, 1, 1, 1, 1)), (0, (2, 2)), (0, (8, 1, 1, 1)))
_SPARE_MARKERS = ("<", ">", "p", "h", "*", "d", "8")
_without_own: list[str] = []  # methods that are not in STYLES, in the order in which they were met


def style(method: str) -> Style:
    """Return a method's style: its entry in `STYLES`, or a distinct one that it keeps.

    Rows of Table 2 without an entry come in Table 2's order, so that each looks the same in every
    figure; other methods follow as they are met.
    """
    if method in STYLES:
        return STYLES[method]
    for candidate in (*VARIANTS, method):
        if candidate not in STYLES and candidate not in _without_own:
            _without_own.append(candidate)
    index = _without_own.index(method)
    return Style(
        colour=_SPARE_COLOURS[index % len(_SPARE_COLOURS)],
        line=_SPARE_LINES[index % len(_SPARE_LINES)],
        marker=_SPARE_MARKERS[index % len(_SPARE_MARKERS)],
    )


def colour(method: str) -> str:
    """Return a method's colour."""
    return style(method).colour


def name(method: str) -> str:
    """Return a method's name as legends and tables have it."""
    return NAMES.get(method, method)


def shades(count: int) -> list:
    """Return so many colours from light to dark, for an ordered parameter."""
    return sns.color_palette("viridis_r", count)


def tones(methods: list[str]) -> list:
    """Return a colour for each entry of a list in which methods come more than once.

    A method's entries have its colour from light to dark, for an ordered parameter within it.
    """
    ladders = {}
    for method in methods:
        shades_of_method = sns.light_palette(colour(method), methods.count(method) + 1)
        ladders[method] = iter(shades_of_method[1:])  # the first is nearly white
    return [next(ladders[method]) for method in methods]
