"""Fixed points from many initial slots, up to a permutation, on maps where all are known."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from paper_lib.models import SLATEConfig
from paper_lib.paper import equilibria

f64 = torch.float64


def test_initial_slots_are_different_ones_of_those_kept():
    kept = torch.arange(4 * 3 * 2, dtype=f64).view(4, 3, 2)
    drawn = equilibria.initial_slots(kept, starts=50, num_slots=6, seed=1)
    assert drawn.shape == (50, 6, 2)
    pool = {tuple(slot.tolist()) for slot in kept.flatten(0, 1)}
    for slots in drawn:
        chosen = [tuple(slot.tolist()) for slot in slots]
        assert len(set(chosen)) == 6 and set(chosen) <= pool
    assert len({tuple(slots.flatten().tolist()) for slots in drawn}) == 50
    assert torch.equal(drawn, equilibria.initial_slots(kept, 50, 6, seed=1))
    with pytest.raises(ValueError, match="13 slots asked for, 12 are kept"):
        equilibria.initial_slots(kept, 1, 13)


def test_distance_is_that_of_the_best_matching():
    a = np.random.default_rng(0).normal(size=(5, 3))
    assert equilibria.distance(a, a[[3, 1, 4, 0, 2]]) == 0
    assert equilibria.distance(a, -a) > 0.1
    b = a.copy()
    b[2] += [0.3, 0.0, 0.4]
    length = ((a**2).sum() + (b**2).sum()) / 10
    expected = np.sqrt(0.25 / 5 / length)
    assert equilibria.distance(a, b[::-1]) == pytest.approx(expected)
    apart = equilibria.distances(np.stack([a, b, a[::-1]]))
    np.testing.assert_allclose(apart, [[0, expected, 0], [expected, 0, expected], [0, expected, 0]])


def test_basins_and_nearest_slots():
    a = np.random.default_rng(1).normal(size=(4, 3))
    b = a.copy()
    b[0] = b[1]
    slots = np.stack([a, b, a[::-1], a + 1e-6, b])
    assert equilibria.basins(equilibria.distances(slots)).tolist() == [3, 2]
    assert equilibria.basins(np.zeros((0, 0))).tolist() == []
    nearest = equilibria.nearest_slots(slots)
    assert (nearest[[1, 4]] == 0).all()
    pairs = [np.linalg.norm(a[i] - a[j]) for i in range(4) for j in range(i)]
    assert nearest[0] == pytest.approx(min(pairs) / np.sqrt((a**2).sum(1).mean()))


class Wells:
    """A cell whose slots fall, each by itself, to the nearer of -1 and 1 in every feature, and in
    the second scene turn for ever."""

    def cell(self, inputs):
        turns = bool(inputs[0, 0, 0] == 1)
        quarter = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=f64)

        def step(slots):
            falling = slots + 0.4 * (slots - slots**3)
            return (slots @ quarter if turns else falling), None

        return step


def run_of(kept):
    inputs = torch.zeros(2, 3, 2, dtype=f64)
    inputs[1] = 1
    return SimpleNamespace(
        has_cell=True,
        config=SimpleNamespace(seed=3, model=SLATEConfig()),
        cell=lambda solver, adjoint, dtype: (Wells(), inputs, kept),
    )


def test_fixed_points_of_a_map_where_all_are_known():
    """Kept slots in wells A (two of them), B and C: two at a time end as AA, AB, AC or BC."""
    kept = torch.tensor([[[0.9, 0.8], [0.5, 0.7]], [[-0.5, 0.7], [-0.4, -0.9]]], dtype=f64)
    scenes, agreement = equilibria.measure([run_of(kept)], 60, 200, (1, 5, 50))
    trained = scenes.query("slots == 1 and scene == 0").iloc[0]
    assert (scenes["seed"] == 3).all() and len(scenes) == 4
    assert trained["converge"] == 1 and trained["fixed points"] == 4
    drawn = equilibria.initial_slots(kept, 60, 2, seed=0)
    wells = [tuple(sorted(map(tuple, slots))) for slots in drawn.sign().tolist()]
    counts = [wells.count(well) for well in set(wells)]
    assert trained["largest basin"] == pytest.approx(max(counts) / 60)
    same = sum(a == b for a, b in wells) / 60
    assert trained["collapsed"] == pytest.approx(same) and same > 0
    # twice as many slots are all of them, wherever one starts
    doubled = scenes.query("slots == 2 and scene == 0").iloc[0]
    assert doubled["fixed points"] == doubled["largest basin"] == doubled["collapsed"] == 1
    assert doubled["nearest slots"] == pytest.approx(0, abs=1e-6)
    together = agreement.query("scene == 0 and slots == 2").set_index("iterations")["agreement"]
    assert together[50] == pytest.approx(1)

    turning = scenes.query("scene == 1")
    assert (turning["converge"] == 0).all() and turning["fixed points"].isna().all()
    residuals = agreement.query("scene == 1")["residual"]
    assert residuals.to_numpy() == pytest.approx(np.sqrt(2))


def test_a_trained_cell(smoke, tmp_path):
    scenes, agreement = equilibria.measure([smoke.IN], 4, 20, (1, 2))
    assert len(scenes) == 8 and len(agreement) == 16
    assert scenes["converge"].between(0, 1).all() and agreement["agreement"].notna().all()
    gone = replace(smoke.IN, folder=tmp_path)
    scenes, agreement = equilibria.measure([gone], 4, 20, (1, 2))
    assert scenes.empty and agreement.empty and "largest basin" in scenes
