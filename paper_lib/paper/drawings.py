"""Fig. 1a, drawn: the forward iteration, and the two ways back."""

from __future__ import annotations

from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from paper_lib.paper.styles import colour

# Where they stand, on an x axis from 0 to 10.
ITERATES = {"$z_0$": 0.4, "$z_1$": 3.0, r"$\cdots$": 5.6, "$z^*$": 8.2}
LOSS = {r"$\ell$": 9.7}


def draw_iteration(ax) -> None:
    """Draw z0 -> f -> z1 -> ... -> z* -> loss, and the two backward passes.

    Vanilla's goes back through every application, implicit's through one at z* alone.
    """
    ax.set_xlim(0, 10)
    ax.set_ylim(-2.6, 2.6)
    ax.axis("off")
    for text, x in (ITERATES | LOSS).items():
        _text(ax, x, 0, text, size=9)
    places = list(ITERATES.values())
    for left, right in zip(places, places[1:]):
        _draw_application(ax, left, right)
    _arrow(ax, (8.6, 0), (9.45, 0), "0.2")
    _text(ax, 4.3, 1.4, "$x$: image tokens", colour="0.4")
    vanilla = "vanilla: back through every application"
    _text(ax, 4.3, -1.75, vanilla, colour=colour("vanilla"))
    _arrow(ax, (8.2, 0.42), (7.1, 0.42), colour("IN"), bend=0.7, width=1.8)
    implicit = "implicit: back through one,\nat the detached $z^*$"
    _text(ax, 7.4, 2.2, implicit, colour=colour("IN"))


def _draw_application(ax, left: float, right: float) -> None:
    """Draw one application of the cell between two iterates, and vanilla's way back under it."""
    middle = (left + right) / 2
    _arrow(ax, (left + 0.35, 0), (middle - 0.4, 0), "0.2")
    _arrow(ax, (middle + 0.4, 0), (right - 0.35, 0), "0.2")
    box = FancyBboxPatch(
        (middle - 0.34, -0.34), 0.68, 0.68, boxstyle="round,pad=0.05", fc="0.93", ec="0.3", lw=0.8
    )
    ax.add_patch(box)
    _text(ax, middle, 0, "$f_w$", size=7.5)
    _arrow(ax, (middle, 1.1), (middle, 0.42), "0.55")  # the image tokens enter
    _arrow(ax, (right, -0.45), (left, -0.45), colour("vanilla"), bend=-0.3, line="--")


def _text(ax, x: float, y: float, text: str, size: float = 6.5, colour: str | None = None) -> None:
    ax.text(x, y, text, ha="center", va="center", fontsize=size, color=colour)


def _arrow(ax, start, end, colour, bend: float = 0, line: str = "-", width: float = 1.1) -> None:
    arrow = FancyArrowPatch(
        start,
        end,
        connectionstyle=f"arc3,rad={bend}",
        arrowstyle="-|>",
        mutation_scale=6,
        color=colour,
        linestyle=line,
        lw=width,
    )
    ax.add_patch(arrow)
