"""The runs and the criteria of our questions about other models."""

import pytest
from test_figures import differ, every_profile
from test_questions import CRITERIA, claims_of

from paper_lib.fixed_point import StraightThrough
from paper_lib.paper import cell_questions, claims, extensions, figures, parameters
from paper_lib.runs import run_id


def same_seeds(given, groups):
    return all([run.seed for run in group] == list(given.seeds) for group in groups)


@every_profile
def test_learned_queries_differ_in_initial_slots_and_gradient(profile):
    given = parameters.check(profile)
    groups = extensions.learned_queries(given)
    assert len(groups) == 6 and same_seeds(given, groups.values())
    usual = groups["drawn", "IN"][0]
    paths = {"vanilla": "model.variant", "straight-through": "model.adjoint"}
    for (initial, gradient), (run, *_) in groups.items():
        expected = {"model.initial"} if initial == "learned" else set()
        expected |= {paths[gradient]} if gradient in paths else set()
        assert differ(usual, run) == expected
        assert (run.model.adjoint == StraightThrough()) == (gradient == "straight-through")


@every_profile
def test_cells_differ_in_the_cell_and_the_variant(profile):
    given = parameters.check(profile)
    groups = extensions.other_cells(given)
    assert len(groups) == 6 and same_seeds(given, groups.values())
    usual = groups["softmax", "IN"][0]
    for (cell, method), (run, *_) in groups.items():
        expected = {"model.attention"} if cell != "softmax" else set()
        assert differ(usual, run) == expected | ({"model.variant"} if method != "IN" else set())
    shared = extensions.learned_queries(given)
    for method in ("vanilla", "IN"):
        assert groups["softmax", method] == shared["drawn", method]


@every_profile
def test_set_predictors_are_fig7s_and_idspn(profile):
    given = parameters.check(profile)
    groups = extensions.set_predictors(given)
    fig7 = figures.property_prediction(given)
    for method in ("vanilla", "IN"):
        assert groups["slots", method] == fig7[method, 3]
        kinds = {run.kind for run in groups["iDSPN", method]}
        assert kinds == {"idspn"} and same_seeds(given, [groups["iDSPN", method]])
    for vanilla, implicit in zip(groups["iDSPN", "vanilla"], groups["iDSPN", "IN"], strict=True):
        assert differ(vanilla, implicit) == {"model.variant"}


def test_the_protocol_at_the_cpu_scale():
    """That of the sweeps, with three seeds and a shorter training."""
    given = parameters.check("cpu")
    sweep = figures.pair_of_sweeps(given)["IN"][0]
    for groups in (extensions.learned_queries(given), extensions.other_cells(given)):
        for group in groups.values():
            assert [run.seed for run in group] == [0, 1, 2]
            for run in group:
                assert run.training.steps == 4_000
                assert (run.data, run.dvae) == (sweep.data, sweep.dvae)
                assert run.training.clip == 1.0 and run.training.warmup_steps == 500
    configs = list(figures.every_config(extensions.learned_queries(given)))
    configs += figures.every_config(extensions.cells_and_predictors(given))
    # softmax with drawn slots is in both
    assert len({run_id(config) for config in configs}) == len(configs) - 6
    shorter = parameters.check("cpu", overrides={"training.steps": 7})
    assert extensions.other_cells(shorter)["mesh", "IN"][0].training.steps == 7


def test_what_is_compared_cannot_be_overridden():
    given = parameters.check("smoke", overrides={"model.attention": "mesh"})
    with pytest.raises(ValueError, match="is what this figure compares"):
        extensions.other_cells(given)


def test_the_criteria_do_not_move():
    found = {claim.number: claim.criterion for claim in claims_of(cell_questions)}
    assert found == {
        "L1": "< 0.95",
        "L2": "< 0.95",
        "L3": "< 0.95",
        "L4": "> 1.05",
        "L5": "< 0.5",
        "O1": "< 0.95",
        "O2": "< 0.5",
        "O3": "> 1.25",
        "O4": "< 0.1",
        "O5": "< 0.95",
        "O6": "> 0.05",
    }
    assert not found.keys() & ({claim.number for claim in claims_of(claims)} | set(CRITERIA))
    for claim in claims_of(cell_questions):
        about = claim.about(cell="sinkhorn", initial="drawn", loss="loss", n="7")
        assert "{" not in about.words + about.statistic


@every_profile
def test_what_collapses_on_purpose_differs_in_the_dvae(profile):
    given = parameters.check(profile)
    groups = extensions.collapsed(given)
    if profile == "paper":  # the dVAE is trained jointly
        assert groups == {}
        return
    (broken,), (healthy,) = groups["collapsed dVAE"], groups["healthy dVAE"]
    assert {path.split(".")[0] for path in differ(broken, healthy)} == {"dvae"}
    dvae = broken.dvae
    assert (dvae.training.lr, dvae.tau_start, dvae.tau_final) == (3e-4, 1.0, 0.1)
    assert dvae.data == healthy.dvae.data and healthy.dvae == extensions.pair(given)["IN"][0].dvae
    assert healthy.seed == 0 and healthy.model.variant == "vanilla"


def test_what_collapses_on_purpose_takes_overrides():
    given = parameters.check("cpu", overrides={"training.steps": 7, "dvae.training.lr": 1e-3})
    (broken,) = extensions.collapsed(given)["collapsed dVAE"]
    assert broken.training.steps == 7 and broken.dvae.training.lr == 1e-3
