"""What the runs of a figure say, as tables."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from paper_lib.paper import results
from paper_lib.paper.statistics import thirds


def run(seed, metrics, status="finished", **final):
    return SimpleNamespace(
        config=SimpleNamespace(seed=seed),
        metrics=pd.DataFrame(metrics),
        summary={"status": status, "final": final},
    )


@pytest.fixture
def group():
    """Three seeds: one that finished, one that diverged on the way, one at once."""
    steps = list(range(10, 210, 10))
    evaluated = [float(step) if step % 20 == 0 else np.nan for step in steps]
    whole = run(4, {"step": steps, "lr": 1.0, "loss": evaluated}, loss=200.0, test=7)
    half = run(1, {"step": steps[:10], "lr": 2.0, "loss": evaluated[:10]}, "diverged", loss=100.0)
    return [whole, half, run(2, {"step": [10], "lr": [3.0]}, "diverged")]


def test_curves_have_a_column_a_seed_where_there_is_a_value(group):
    curves = results.curves(group, "loss")
    assert list(curves) == [4, 1, 2] and list(curves.index) == list(range(20, 220, 20))
    assert curves[4].tolist() == list(range(20, 220, 20))
    assert curves[1].dropna().tolist() == [20, 40, 60, 80, 100], "it ends where it diverged"
    assert curves[2].isna().all(), "it was never evaluated"
    pd.testing.assert_frame_equal(results.curves_of_groups({"a": group}, "loss")["a"], curves)


def test_statistics_of_each_seed(group):
    curves = results.curves(group, "loss")
    ratios = results.per_seed(curves, thirds)
    assert ratios[4] == pytest.approx(170 / 40) and ratios[1] == pytest.approx(90 / 20)
    assert np.isnan(ratios[2])
    assert results.last_tenth(curves).to_dict() == pytest.approx(
        {4: 200, 1: 100, 2: np.nan}, nan_ok=True
    )
    assert results.largest(group, "loss")[[4, 1]].tolist() == [200, 100]


def test_no_seed_was_ever_evaluated(group):
    curves = results.curves(group[2:], "loss")
    assert results.last_tenth(curves).isna().all() and len(results.last_tenth(curves)) == 1


def test_final_metrics(group):
    assert results.final(group, "loss")[[4, 1]].tolist() == [200, 100]
    assert results.final(group, "test")[4] == 7
    assert results.final(group, "test")[[1, 2]].isna().all()
    assert results.final(group, "no such metric").isna().all()


def test_means_over_rows(group):
    means = results.means(group, ["lr", "no such metric"])
    assert means["lr"].to_dict() == {4: 1, 1: 2, 2: 3}
    assert means["no such metric"].isna().all()


def test_statuses_are_said_once(group):
    assert results.statuses(group) == "diverged, finished"
    assert results.statuses(group[:1]) == "finished"


def test_configs_of_groups_within_groups(group):
    one, two, three = (run.config for run in group)
    nested = {"a": {"x": group[:1], "y": group[1:2]}, "b": {"z": group[2:]}}
    assert results.configs(nested) == [one, two, three]
    assert results.configs({"a": group}) == [one, two, three]
