"""Figures and tables: methods look different, files are whole, and captions say the scale."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from paper_lib.models import VARIANTS
from paper_lib.paper import parameters, plots, profiles, styles, tables
from paper_lib.paper.claims import Claim

GIVEN = parameters.check("smoke")


def luminance(colour):
    """Relative luminance (Rec. 709) of a colour: what is left of it in grey."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def contrast(one, other):
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


# ---------------------------------------------------------------- styles


def test_methods_can_be_told_apart():
    looks = [styles.style(method) for method in VARIANTS]
    for choice in ("colour", "line", "marker"):
        assert len({getattr(look, choice) for look in looks}) == len(VARIANTS) == len(styles.STYLES)
    assert contrast(styles.colour("vanilla"), styles.colour("IN")) > 1.4, "in grey, too"


def test_a_new_row_of_table_2_needs_no_style_of_its_own(monkeypatch):
    monkeypatch.setattr(styles, "_without_own", [])
    rows = ["XN", "XX", "YN", "YY", "ZN"]
    for name in rows:
        monkeypatch.setitem(VARIANTS, name, VARIANTS["IN"])
    # whatever is drawn first, they come in Table 2's order, and other methods after them
    others = ["Damped-Neumann", "Damped-Implicit_Damped"]
    looks = {method: styles.style(method) for method in [*reversed(rows), *others, *VARIANTS]}
    assert styles._without_own == [*rows, *others]
    assert len(set(looks.values())) == len(VARIANTS) + len(others)
    for choice in ("colour", "line", "marker"):
        known = {getattr(look, choice) for look in styles.STYLES.values()}
        assert known.isdisjoint(getattr(looks[name], choice) for name in [*rows, *others])
    assert len({looks[name].colour for name in rows}) == len(rows)
    assert {method: styles.style(method) for method in looks} == looks, "each keeps its own"
    assert styles.name("XN") == "XN" and styles.name("IN") == "implicit (IN)"


@pytest.mark.parametrize("count", [1, 2, 3, 6, 10])
def test_shades_darken_in_their_order(count):
    found = [luminance(shade) for shade in styles.shades(count)]
    assert len(found) == count and found == sorted(found, reverse=True)
    steps = [(a + 0.05) / (b + 0.05) for a, b in zip(found, found[1:])]
    assert min(steps, default=2) > (1.2 if count <= 6 else 1), "six can be told apart in grey"


def test_tones_of_a_method_darken_and_end_in_its_colour():
    tones = styles.tones(["vanilla", "IN", "vanilla", "IN", "IN"])
    implicit = [luminance(tones[k]) for k in (1, 3, 4)]
    assert implicit == sorted(implicit, reverse=True) and len(set(implicit)) == 3
    assert np.allclose(tones[2], to_rgb(styles.colour("vanilla")), atol=0.02)
    assert np.allclose(tones[4], to_rgb(styles.colour("IN")), atol=0.02)


# ---------------------------------------------------------------- saving


@pytest.mark.parametrize("part", ["", "two"])
def test_a_figure_is_saved_whole_twice_and_the_same(elsewhere, part):
    stem = "fig00_test_two" if part else "fig00_test"
    contents = []
    for _ in range(2):
        fig, ax = plots.figure(1, 2)
        ax[0].plot([1, 2, 3], [3, 1, 2])
        plots.save(fig, "fig00_test", GIVEN, part=part)
        plt.close(fig)
        files = sorted((elsewhere / "figures/smoke").iterdir())
        # and no temporary file beside them
        assert [path.name for path in files] == [f"{stem}.pdf", f"{stem}.png"]
        contents.append([path.read_bytes() for path in files])
    assert contents[0] == contents[1]
    pdf, png = contents[0]
    assert pdf.startswith(b"%PDF") and pdf.rstrip().endswith(b"%%EOF")
    assert png.startswith(b"\x89PNG") and png.endswith(b"IEND\xaeB`\x82")
    width = plt.imread(elsewhere / "figures/smoke" / f"{stem}.png").shape[1]
    assert width == pytest.approx(plots.WIDTH * 200, abs=2)


def test_a_figure_that_fails_leaves_the_old_one(elsewhere, monkeypatch):
    fig, _ = plots.figure()
    plots.save(fig, "fig00_test", GIVEN)
    before = {path: path.read_bytes() for path in (elsewhere / "figures/smoke").iterdir()}

    def fails(path, **_):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(fig, "savefig", fails)
    with pytest.raises(OSError, match="disk full"):
        plots.save(fig, "fig00_test", GIVEN)
    assert {path: path.read_bytes() for path in (elsewhere / "figures/smoke").iterdir()} == before
    plt.close(fig)


@pytest.mark.parametrize("profile", profiles.PROFILES)
def test_a_figure_says_its_scale_and_data(elsewhere, profile):
    fig, _ = plots.figure()
    plots.save(fig, "fig00_test", parameters.check(profile))
    text = fig._supxlabel.get_text().replace("\n", " ")
    scale = profiles.SCALES["cpu flagship"] if profile == "cpu" else profiles.PROFILES[profile]
    assert "Generated CLEVR-Mirror" in text and scale in text
    plt.close(fig)


def test_a_caption_of_its_own_is_what_stands_under_a_figure(elsewhere):
    fig, _ = plots.figure()
    plots.save(fig, "fig00_test", GIVEN, caption="word " * 60)
    lines = fig._supxlabel.get_text().splitlines()
    assert len(lines) > 1 and max(map(len, lines)) <= plots.CAPTION_CHARACTERS
    assert " ".join(lines).split() == ["word"] * 60
    plt.close(fig)


@pytest.mark.parametrize("ratio, threshold", [(True, 1), (False, 0)])
def test_a_forest_has_a_row_a_claim_on_its_side_of_the_line(ratio, threshold):
    claim = Claim("C0", "words", "statistic", below=2.0, ratio=ratio)
    judged = [claim.judge(values) for values in ([1.0, 1.1, 1.2], [4.0], [1.0, 2.0, 4.0])]
    fig, ax = plots.figure()
    plots.forest(ax, ["a", "b", "c"], judged)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b", "c"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1], "from top to bottom"
    line, *drawn = ax.get_lines()
    assert line.get_xdata() == [threshold] * 2
    bars = [found for found in drawn if len(found.get_xdata()) == 2]
    dots = [found for found in drawn if len(found.get_xdata()) == 1]
    assert [bar.get_ydata()[0] for bar in bars] == [0, 2], "one seed has no interval"
    assert bars[0].get_xdata().min() > threshold and bars[0].get_color() == "#2e8b57"
    assert bars[1].get_xdata().min() < threshold < bars[1].get_xdata().max()
    assert dots[1].get_xdata()[0] < threshold and dots[1].get_markerfacecolor() == "white"
    plt.close(fig)


def test_a_table_is_saved_three_times(elsewhere):
    table = pd.DataFrame({"a": [1, 2], "b & c": ["x_1", "50%"]})
    assert tables.save_table(table, "tab00_test", GIVEN, part="part") is table
    stem = elsewhere / "results/smoke/tables/tab00_test_part"
    assert pd.read_csv(stem.with_suffix(".csv")).equals(table)
    assert "x_1" in stem.with_suffix(".md").read_text()
    latex = stem.with_suffix(".tex").read_text()
    assert r"b \& c" in latex and r"50\%" in latex


def test_judged_claims_are_saved_and_said(elsewhere):
    judged = Claim("C0", "words", "a number", below=1.0).judge([0.4, 0.5, 0.6])
    said = tables.save_claims([judged, judged], "fig00_test", GIVEN)
    assert said.count("C0, words: supported at this scale.") == 2 and said.count("\n\n") == 1
    stem = elsewhere / "results/smoke/tables/fig00_test_claims"
    assert pd.read_csv(stem.with_suffix(".csv"))["verdict"].tolist() == ["supported"] * 2


@pytest.mark.parametrize(
    "values, text",
    [([51.61], "51.6"), ([50.9, 52.8, 51.1], "51.6 [50.9, 52.8]"), ([2.0, 2.0], "2 [2, 2]")],
)
def test_mean_and_range(values, text):
    assert tables.mean_and_range(pd.Series(values)) == text


def test_what_a_row_says_nothing_about_stays_empty():
    table = tables.from_rows([{"a": 1, "b": "x"}, {"a": 2, "c": 0.5}])
    assert table.to_dict("list") == {"a": [1, 2], "b": ["x", ""], "c": ["", 0.5]}


# ---------------------------------------------------------------- what is drawn


def test_a_diverged_seed_ends_in_a_cross():
    fig, ax = plots.figure()
    values = pd.DataFrame({0: [1.0, 2.0, 3.0], 1: [1.0, 2.0, np.nan]}, index=[10, 20, 30])
    plots.band(ax, "vanilla", values)
    mean, *crosses = ax.lines
    assert mean.get_label() == "vanilla, 2 seeds" and mean.get_ydata().tolist() == [1, 2, 3]
    (cross,) = crosses
    assert (cross.get_xdata()[0], cross.get_ydata()[0]) == (20, 2)
    assert "seed 1: diverged" in cross.get_label()
    assert len(ax.collections) == 1
    plt.close(fig)


def test_a_caption_says_what_bands_are(tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "figures_root", lambda: tmp_path)
    for columns, said in ((1, False), (2, True)):
        fig, ax = plots.figure()
        plots.band(ax, "IN", pd.DataFrame(np.ones((2, columns))))
        plots.save(fig, "some", parameters.check("smoke"), caption="Where it is from.")
        assert ("bands their range. Where" in fig.get_supxlabel().replace("\n", " ")) == said
        plt.close(fig)


def test_one_seed_has_no_band():
    fig, ax = plots.figure()
    plots.band(ax, "IN", pd.DataFrame({3: [1.0, 2.0]}), label="here", color="#123456")
    (line,) = ax.lines
    assert line.get_label() == "here, 1 seed" and line.get_color() == "#123456"
    assert not ax.collections
    plt.close(fig)


@pytest.mark.parametrize(
    "values, cross",
    [
        ([3, 2, 1], None),
        ([3, 2, np.nan], (20, 2)),
        ([3, np.nan, np.nan], (10, 3)),
        ([3, np.nan, 1], None),  # not evaluated at every step: that is no end
        ([np.nan] * 3, None),  # it diverged before its first evaluation: there is no place for it
        ([], None),
    ],
)
def test_a_cross_marks_where_a_curve_ends_early(values, cross):
    fig, ax = plots.figure()
    curve = pd.Series(values, index=[10, 20, 30][: len(values)], dtype=float)
    plots.mark_divergence(ax, curve, "#123456", "its name")
    found = [(line.get_xdata()[0], line.get_ydata()[0]) for line in ax.lines]
    assert found == ([cross] if cross else [])
    for line in ax.lines:
        look = line.get_marker(), line.get_color(), line.get_label()
        assert look == ("x", "#123456", "its name")
    plt.close(fig)


def test_a_cross_needs_no_label():
    fig, ax = plots.figure()
    plots.mark_divergence(ax, pd.Series([1.0, np.nan], index=[1, 2]), "red")
    assert len(ax.lines) == 1 and not ax.get_legend_handles_labels()[1]
    plt.close(fig)


@pytest.mark.parametrize("low, high, scale", [(1, 2, "linear"), (1, 50, "log"), (1, 5_000, "log")])
def test_logarithmic_axes(low, high, scale):
    fig, ax = plots.figure()
    ax.set_yscale("log")
    ax.set_ylim(low, high)
    plots._plain_log_axis(ax)
    assert ax.get_yscale() == scale
    plt.close(fig)


def test_a_bound_is_drawn_below_one_and_shaded_from_there_on():
    fig, ax = plots.figure()
    ax.plot([0.5, 3.0], [1.0, 1.0])
    right = ax.get_xlim()[1]
    plots.bound(ax, lambda x: x / (1 - x), "bound")
    x, y = ax.lines[-1].get_data()
    assert 0 < x.min() and x.max() < 1 and y == pytest.approx(x / (1 - x))
    (shade,) = ax.patches
    assert shade.get_x() == 1 and shade.get_x() + shade.get_width() == right == ax.get_xlim()[1]
