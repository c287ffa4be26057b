"""The statistics that claims are judged by: on runs made by hand, and that the README, the stored
table and the committed runs say the same."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from paper_lib import runs
from paper_lib.fixed_point import Iteration, Unrolled
from paper_lib.models import SlotAttention
from paper_lib.paper import claims_table, decompositions, figures, parameters, published, verdicts

CPU = parameters.check("cpu")
STEPS = list(range(100, 1_001, 100))


def run(seed=0, summary=None, rows=None, n=7, **curves):
    """A run whose metrics are these curves over training, or these rows."""
    metrics = pd.DataFrame({"step": STEPS} | curves) if rows is None else pd.DataFrame(rows)
    config = SimpleNamespace(
        seed=seed,
        training=SimpleNamespace(steps=STEPS[-1], lr=1.0),
        model=SimpleNamespace(num_iterations=n),
        features="efficientnet-lite0",
    )
    summary = {"status": "finished", "final": summary or {}}
    return SimpleNamespace(config=config, metrics=metrics, summary=summary)


def three(**arguments):
    """Three seeds of a run."""
    return [run(seed, **arguments) for seed in range(3)]


def means(judged):
    return [claim.mean for claim in judged]


def test_methods_are_paired_by_seed():
    """Seeds lie far apart, methods do not; a seed that one of them lacks is left out."""
    levels = {0: 100.0, 1: 10.0, 2: 1.0, 3: 7.0}
    found = {}
    for method, factor, seeds in (("vanilla", 1, (3, 2, 1, 0)), ("IN", 0.5, (0, 1, 2))):
        found[method] = [
            run(seed, spectral_norm=1.0, val_cross_entropy=factor * levels[seed]) for seed in seeds
        ]
    grows, stays, better = verdicts.overview(found, CPU)
    assert better.mean == better.low == better.high == pytest.approx(0.5)
    assert better.seeds == 3 and better.verdict == "supported"
    assert better.share == pytest.approx(np.log(0.5) / np.log(0.1))
    assert (grows.mean, stays.mean) == (1, 1)
    assert (grows.verdict, stays.verdict) == ("not supported", "supported")


def test_the_residuals_of_both_methods_are_shown():
    found = {
        "vanilla": three(residual_7=0.3),
        "IN": three(residual_7=0.05),
    }
    judged = verdicts.residuals(found, CPU)
    assert means(judged) == pytest.approx([0.05, 1, 0.3])
    assert [claim.verdict for claim in judged] == ["supported", "supported", "shown"]


def scored(final, **scores):
    """Three seeds of a run that scored two test images."""
    return three(rows={name: [value] * 2 for name, value in scores.items()}, summary=final)


def test_masks_are_judged_by_the_fullest_slot_and_beside_a_grid():
    grid = {"grid_foreground_ari": 0.5}
    found = {}
    for data in ("CLEVR-Mirror", "ShapeStacks"):
        for method, share, ari, error in (("vanilla", 0.9, 0.4, 4.0), ("IN", 0.6, 0.7, 3.0)):
            columns = {"largest_share": share, "foreground_ari": ari, "mse_foreground": error}
            found[data, method] = scored(grid, **columns)
    judged = verdicts.qualitative(found, CPU)
    assert means(judged) == pytest.approx([0.75, 0.3, 0.2])
    assert [claim.verdict for claim in judged] == ["supported"] * 3


def test_regenerated_images_beside_the_papers_and_coco_without_files():
    found = {}
    for data in ("CLEVR-Mirror", "ShapeStacks"):
        for method, error in (("vanilla", 4.0), ("IN", 1.0)):
            final = {"frechet": error, "images": 10, "frechet_dimension": 20}
            found[data, method] = scored(final, mse=error)
    judged = verdicts.regeneration(found, CPU)
    assert means(judged)[:4] == pytest.approx([0.25] * 4)
    assert judged[0].paper == pytest.approx(10.66 / 67.04)
    assert judged[0].share == pytest.approx(np.log(0.25) / np.log(10.66 / 67.04))
    assert judged[1].verdict == "inconclusive: no more images than features"
    assert np.isnan(judged[1].share), "another network's distance is not FID"
    for claim in judged[4:]:
        assert claim.verdict == verdicts.NEEDS_FILES and "COCO" in claim.words
        assert 0.8 < claim.paper < 1


def gradients(largest):
    return three(grad_norm_slot_attention_max=largest)


def test_gradients_are_judged_by_what_clipping_does_to_each_method():
    found = {
        "nothing": {"vanilla": gradients(20.0), "IN": gradients(1.0)},
        "clipping": {"vanilla": gradients(400.0), "IN": gradients(2.0)},
        "any trick": {"vanilla": gradients(3.0), "IN": gradients(1.5)},
    }
    judged = verdicts.gradient_norms(found, CPU)
    assert means(judged) == pytest.approx([20, 2, 2])
    assert [claim.verdict for claim in judged] == ["supported", "supported", "shown"]
    del found["any trick"]
    assert len(verdicts.gradient_norms(found, CPU)) == 2


def test_growth_with_the_iterations_is_vanillas_beside_implicits():
    """Both get harder, vanilla by no more than implicit: the claim must be able to fail."""
    found = {}
    for method, losses in (
        ("vanilla", {1: 10.0, 3: 9.0, 7: 13.0}),
        ("IN", {1: 5.0, 3: 4.0, 7: 6.5}),
    ):
        for n, loss in losses.items():
            found[method, n] = three(val_cross_entropy=loss)
    harder, insensitive = verdicts.iterations(found, CPU)
    assert harder.mean == pytest.approx(1) and harder.verdict == "not supported"
    assert insensitive.mean == pytest.approx(6.5 / 4) and insensitive.verdict == "not supported"


@pytest.mark.parametrize("rates, acted", [([1.0] * 10, False), ([1.0] * 5 + [0.25] * 5, True)])
def test_decay_that_never_acts_decides_nothing(rates, acted):
    found = {}
    for method in figures.METHODS:
        for removed in ("nothing", "lr decay", "clipping", "warm-up"):
            curves = {"spectral_norm": 1.0, "val_cross_entropy": 1.0, "lr": rates}
            found[method, removed] = three(**curves)
    decay = [claim for claim in verdicts.tricks(found, CPU) if "decay" in claim.words]
    assert len(decay) == 4
    for claim in decay:
        assert claim.verdict.endswith("never halved") != acted
    assert verdicts.halvings(found["IN", "nothing"]).tolist() == [2.0 if acted else 0.0] * 3


# ---- several decompositions ----


class Cell:
    """A run with a slot attention whose masks depend on its weights and on the initial slots."""

    has_cell = True

    def __init__(self, weights, seed=0):
        self.weights = weights
        self.config = SimpleNamespace(seed=seed, model=SimpleNamespace(num_iterations=3))

    def cell(self, solver, adjoint):
        torch.manual_seed(self.weights)
        attention = SlotAttention(8, 8, 16, solver, adjoint, 1)
        with torch.no_grad():
            for parameter in attention.parameters():
                parameter.mul_(3)
        torch.manual_seed(0)
        return attention, torch.randn(4, 36, 8), torch.randn(4, 3, 8)


class Fixed(Cell):
    """A run whose masks are given, and that finds them from any initial slots."""

    def __init__(self, masks, seed=0):
        super().__init__(0, seed)
        self.masks = torch.eye(3)[torch.as_tensor(masks)].expand(4, -1, -1)

    def cell(self, solver, adjoint):
        return lambda inputs, slots: SimpleNamespace(aux=self.masks), None, torch.zeros(4, 3, 8)


def test_agreement_is_one_for_the_same_decomposition_whatever_the_slots_are_called():
    one, renamed = Fixed([0, 0, 1, 1, 2, 2]), Fixed([2, 2, 0, 0, 1, 1])
    other = Fixed([0, 1, 0, 1, 2, 2])
    assert decompositions.agreement(one, one) == decompositions.agreement(one, renamed) == 1
    assert decompositions.agreement(one, other) == decompositions.agreement(other, one) < 1


def test_a_run_is_compared_with_itself_from_other_initial_slots():
    """Of a random cell these are not the same masks: the baseline is no trivial one."""
    run = Cell(1)
    assert 0 < decompositions.agreement(run, run) < 1
    assert decompositions.agreement(run, run) > decompositions.agreement(run, Cell(2))


def test_several_decompositions_is_what_runs_differ_by_beyond_their_noise():
    same, other = [0, 0, 1, 1, 2, 2], [0, 1, 0, 1, 2, 2]
    vanilla = [Fixed(same, seed=0), Fixed(same, seed=1)]
    implicit = [Fixed(same, seed=1), Fixed(other, seed=0), Fixed(other, seed=5)]
    found = decompositions.several(vanilla, implicit)
    expected = 1 - decompositions.agreement(vanilla[0], implicit[1])
    assert found.to_dict() == pytest.approx({1: 0, 0: expected})
    lost = SimpleNamespace(has_cell=False, config=SimpleNamespace(seed=0))
    assert decompositions.several([lost], implicit).isna().all()


def test_every_scene_starts_from_the_slots_of_each():
    attention, inputs, slots = Cell(1).cell(Iteration(3), Unrolled())
    cut = decompositions._decompositions(Cell(1))
    for scene in range(4):
        for other in range(4):
            alone = attention(inputs[[scene]], slots[[other]]).aux.argmax(-1)[0].numpy()
            assert any((cut[draw, scene] == alone).all() for draw in range(4))


# ---- what is judged where ----


def test_every_notebook_is_judged_or_says_that_it_is_not():
    assert set(verdicts.JUDGES) == set(figures.NOTEBOOKS) - {"claims", *figures.UNJUDGED}
    assert set(figures.NOTEBOOKS["claims"](CPU)) == set(verdicts.JUDGES)


# ---- the committed runs, the stored table and the README ----


@pytest.fixture
def committed(monkeypatch):
    """The project's own results, in place of the tests'."""
    for name in ("PAPER_RESULTS", "PAPER_TABLES"):
        monkeypatch.delenv(name)


def test_the_readme_says_what_the_stored_table_says(committed):
    readme = (runs.ROOT / "README.md").read_text()
    part = claims_table.readme_part(claims_table.load(CPU))
    words = "run python -m paper_lib.paper.claims_table"
    assert claims_table.replaced(readme, part) == readme, words
    assert readme.count(f"\n{part}\n") == 1


def test_the_stored_table_says_what_the_committed_runs_say(committed, tmp_path):
    found = claims_table.table(verdicts.every(CPU), CPU)
    found.to_csv(tmp_path / "claims.csv", index=False)
    stored = runs.ROOT / "results/cpu/tables/claims.csv"
    assert (tmp_path / "claims.csv").read_text() == stored.read_text(), "run `make stored`"


def test_every_claim_of_the_paper_is_in_the_table_once_at_least(committed):
    stored = claims_table.load(CPU)
    assert list(dict.fromkeys(stored[""])) == [*published.WORDS, "B1"]
    assert list(published.WORDS) == [f"C{k}" for k in range(1, 18)]
    for number, words in published.WORDS.items():
        assert set(stored[stored[""] == number]["the paper's words"]) == {words}
    flagship = stored["shown in"] == "flagship"
    assert stored[flagship]["runs"].str.endswith("second protocol").all()


def test_a_readme_without_the_marks_is_refused():
    with pytest.raises(ValueError, match="once each"):
        claims_table.replaced("no marks", "part")
    marked = f"before {claims_table.BEGIN} old {claims_table.END} after"
    new = claims_table.replaced(marked, "new")
    assert "old" not in new and "\nnew\n" in new
    assert new.startswith("before ") and new.endswith(" after")


@pytest.mark.parametrize(
    "changes, words",
    [
        ({}, "**supported**"),
        ({"verdict": "not supported"}, "**not supported**"),
        ({"verdict": "inconclusive"}, "inconclusive"),
        ({"verdict": "inconclusive: why", "95% interval": "one seed"}, "inconclusive: why"),
        (
            {"verdict": "inconclusive", "95% interval": "two seeds", "mean agrees": "no"},
            "inconclusive: two seeds, does not agree",
        ),
        ({"verdict": "needs files", "95% interval": "no seed"}, "needs files"),
    ],
)
def test_verdicts_in_words(changes, words):
    row = {"verdict": "supported", "95% interval": "[1, 2]", "mean agrees": "yes"} | changes
    assert claims_table.verdict_in_words(row) == words
