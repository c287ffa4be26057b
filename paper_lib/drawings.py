"""Fig. 1a, drawn: the forward iteration, and the two ways back."""

from __future__ import annotations

from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from paper_lib.plots import COLOURS


def draw_iteration(ax) -> None:
    """z0 -> f -> z1 -> ... -> z*, with vanilla's backward path through every application and implicit's through the last alone."""
    ax.set_xlim(0, 10)
    ax.set_ylim(-1.55, 1.75)
    ax.axis("off")
    states = [(0.5, "$z_0$"), (3.0, "$z_1$"), (5.5, r"$\cdots$"), (8.0, "$z^*$"), (9.7, r"$\ell$")]
    for x, text in states:
        ax.text(x, 0, text, ha="center", va="center", fontsize=11)
    for left, right in ((0.5, 3.0), (3.0, 5.5), (5.5, 8.0)):
        _arrow(ax, (left + 0.35, 0), (left + 0.8, 0), "0.2")
        _arrow(ax, (right - 0.8, 0), (right - 0.35, 0), "0.2")
        middle = (left + right) / 2
        ax.add_patch(FancyBboxPatch((middle - 0.4, -0.3), 0.8, 0.6, boxstyle="round,pad=0.05", fc="0.93", ec="0.3", lw=0.8))
        ax.text(middle, 0, "$f_w$", ha="center", va="center", fontsize=9)
        _arrow(ax, (middle, 0.8), (middle, 0.38), "0.55")
    _arrow(ax, (8.35, 0), (9.4, 0), "0.2")
    ax.text(4.25, 1.0, "$x$: image tokens", ha="center", va="center", fontsize=7, color="0.4")
    for right, left in ((8.0, 5.5), (5.5, 3.0), (3.0, 0.5)):
        _arrow(ax, (right, -0.42), (left, -0.42), COLOURS["vanilla"], style="arc3,rad=-0.25", line="--")
    ax.text(3.0, -1.3, "vanilla: back through every application", ha="center", va="center", fontsize=7, color=COLOURS["vanilla"])
    _arrow(ax, (8.0, 0.42), (6.75, 0.38), COLOURS["IN"], style="arc3,rad=0.6", width=1.8)
    ax.text(7.6, 1.5, "implicit: one application,\nat the detached $z^*$", ha="center", va="center", fontsize=7, color=COLOURS["IN"])


def _arrow(ax, start, end, colour, style="arc3,rad=0", line="-", width=1.1) -> None:
    ax.add_patch(FancyArrowPatch(start, end, connectionstyle=style, arrowstyle="-|>", mutation_scale=8, color=colour, linestyle=line, lw=width))
