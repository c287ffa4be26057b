"""Fig. 1a, drawn: the forward iteration, and the two ways back."""

from __future__ import annotations

from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from paper_lib.paper.plots import COLOURS


def draw_iteration(ax) -> None:
    """z0 -> f -> z1 -> ... -> z*, with vanilla's backward path through every application and implicit's through one at z* alone."""
    ax.set_xlim(0, 10)
    ax.set_ylim(-2.6, 2.6)
    ax.axis("off")
    places = [0.4, 3.0, 5.6, 8.2]
    for x, text in zip([*places, 9.7], ["$z_0$", "$z_1$", r"$\cdots$", "$z^*$", r"$\ell$"]):
        ax.text(x, 0, text, ha="center", va="center", fontsize=9)
    for left, right in zip(places, places[1:]):
        middle = (left + right) / 2
        _arrow(ax, (left + 0.35, 0), (middle - 0.4, 0), "0.2")
        _arrow(ax, (middle + 0.4, 0), (right - 0.35, 0), "0.2")
        ax.add_patch(
            FancyBboxPatch(
                (middle - 0.34, -0.34),
                0.68,
                0.68,
                boxstyle="round,pad=0.05",
                fc="0.93",
                ec="0.3",
                lw=0.8,
            )
        )
        ax.text(middle, 0, "$f_w$", ha="center", va="center", fontsize=7.5)
        _arrow(ax, (middle, 1.1), (middle, 0.42), "0.55")
        _arrow(
            ax, (right, -0.45), (left, -0.45), COLOURS["vanilla"], style="arc3,rad=-0.3", line="--"
        )
    _arrow(ax, (8.6, 0), (9.45, 0), "0.2")
    ax.text(4.3, 1.4, "$x$: image tokens", ha="center", va="center", fontsize=6.5, color="0.4")
    ax.text(
        4.3,
        -1.75,
        "vanilla: back through every application",
        ha="center",
        va="center",
        fontsize=6.5,
        color=COLOURS["vanilla"],
    )
    _arrow(ax, (8.2, 0.42), (7.1, 0.42), COLOURS["IN"], style="arc3,rad=0.7", width=1.8)
    ax.text(
        7.4,
        2.2,
        "implicit: back through one,\nat the detached $z^*$",
        ha="center",
        va="center",
        fontsize=6.5,
        color=COLOURS["IN"],
    )


def _arrow(ax, start, end, colour, style="arc3,rad=0", line="-", width=1.1) -> None:
    ax.add_patch(
        FancyArrowPatch(
            start,
            end,
            connectionstyle=style,
            arrowstyle="-|>",
            mutation_scale=6,
            color=colour,
            linestyle=line,
            lw=width,
        )
    )
