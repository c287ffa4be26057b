"""The page for practitioners: its numbers are those of the tables, and its recipe runs where the
package that it wraps is installed."""

from importlib.util import find_spec

import pandas as pd
import pytest
import torch
from test_docs import examples

from paper_lib.fixed_point import Iteration, Unrolled, fixed_point
from paper_lib.runs import ROOT

AFTER, AT = "implicit (IN), pair: error", "implicit (IN), pair: at z*"
PAIR = "implicit (IN), pair"
QUOTED = {
    "ext01_gradient_fidelity": [
        ("one step (Neumann, 1 term)", AFTER),
        ("Neumann, 4 terms", AFTER),
        ("Neumann, 8 terms", AFTER),
        ("phantom, 5 steps", AFTER),
        ("implicit, GMRES", AFTER),
        ("implicit, GMRES", AT),
        ("implicit, GMRES, 8 steps", AT),
        ("Neumann, 8 terms", AT),
    ],
    "ext02_estimators": [
        (gradient, "cross entropy")
        for gradient in (
            "unrolled",
            "one step",
            "truncated to 2",
            "phantom, 5 steps",
            "Neumann, 2 terms",
            "Neumann, 4 terms",
            "Neumann, 8 terms",
            "straight-through",
            "implicit, Anderson",
            "implicit, GMRES",
        )
    ]
    + [("phantom, 5 steps", "largest gradient"), ("truncated to 2", "largest gradient")]
    + [("implicit, GMRES", "step, ms"), ("one step", "step, ms")],
    "ext05_fixed_points": [
        (PAIR, "converge"),
        (PAIR, "agreement, 7"),
        (PAIR, "agreement, 50"),
        (f"{PAIR}, 2x slots", "converge"),
    ],
}


@pytest.mark.parametrize("table", QUOTED)
def test_its_numbers_are_those_of_the_tables(table):
    page = (ROOT / "docs/practice.md").read_text()
    values = pd.read_csv(ROOT / f"results/cpu/tables/{table}.csv", index_col=0)
    for row, column in QUOTED[table]:
        mean, *_ = str(values.loc[row, column]).split()  # a range may follow
        assert f"{float(mean):g}" in page, (row, column)
    if table == "ext05_fixed_points":
        for cells in ("vanilla, pair", PAIR, "vanilla, flagship", "implicit (IN), flagship"):
            assert f"{100 * values.loc[cells, 'collapsed']:.2g}%" in page


def test_what_it_says_of_tuning_is_what_the_tables_hold():
    tables = ROOT / "results/cpu/tables"
    rows = pd.read_csv(tables / "ext04_when_it_matters.csv", index_col=0)["implicit / vanilla"]
    ratios = rows.str.split(" ").str[0].astype(float)
    close = ["learning rate 3e-4", "1 iteration", "3 iterations"]
    assert ratios[close].round(2).tolist() == [0.93, 0.93, 0.94]
    assert ratios.drop(close).max() < 0.9 and round(ratios["12 slots"], 2) == 0.67
    claims = pd.read_csv(tables / "ext04_when_it_matters_claims.csv", index_col=0)
    page = (ROOT / "docs/practice.md").read_text()
    assert f"its cross entropy is {claims.loc['M2', 'mean']} of unrolling's" in page


def test_what_it_says_of_training_is_what_the_table_holds():
    path = ROOT / "results/cpu/tables/ext01_gradient_fidelity_along.csv"
    rows = pd.read_csv(path).query("cells == 'implicit (IN)'").set_index("steps")
    errors = rows["one step (Neumann, 1 term)"].str.split(" ").str[0].astype(float)
    page = " ".join((ROOT / "docs/practice.md").read_text().split())
    first, last = f"{errors.iloc[0]:.2f}", f"{errors.iloc[-1]:.2f}"
    assert f"from {first} after 500 steps to {last} after 4,000" in page


def test_what_it_says_of_learned_slots_is_what_the_table_holds():
    path = ROOT / "results/cpu/tables/ext06_learned_queries.csv"
    rows = pd.read_csv(path).set_index(["initial slots", "gradient"])
    page = (ROOT / "docs/practice.md").read_text()
    (line,) = [line for line in page.splitlines() if "the initial slots are learned" in line]
    for column in ("cross entropy", "largest gradient"):
        means = rows[column].str.split(" ").str[0].astype(float)
        for at in (("drawn", "vanilla"), ("learned", "vanilla"), ("learned", "straight-through")):
            if column == "cross entropy" or at[1] == "vanilla":
                assert f"{means[at]:,g}" in line, (at, column)


def test_what_it_says_of_alarms_is_what_the_table_counts():
    """Before how many of vanilla's failures each candidate tells, and how often it is wrong."""
    table = pd.read_csv(ROOT / "results/cpu/tables/ext03_why_vanilla_fails.csv", dtype=str)
    steps = table.apply(lambda c: pd.to_numeric(c.str.replace(",", ""), errors="coerce"))
    vanilla = table["method"] == "vanilla"
    columns = {name.split(": ")[-1]: steps[name] for name in table if name.startswith("alarm")}
    early = {name: (c < steps["fails at"])[vanilla].sum() for name, c in columns.items()}
    false = {name: c[~vanilla].notna().sum() for name, c in columns.items()}
    assert steps["fails at"].notna().equals(vanilla) and vanilla.sum() == 3
    spread, at_z, path, residual = (
        "the spread of gradients over batches",
        "the norm of J at z*",
        "the norm of d z_n / d z_0",
        "the residual of the last step",
    )
    assert early == {at_z: 0, path: 2, spread: 2, residual: 0}
    assert false == {at_z: 0, path: 3, spread: 0, residual: 0}


@pytest.mark.skipif(find_spec("slot_attention") is None, reason="pip install -e '.[bench]'")
def test_the_recipe_is_the_packages_module():
    """Unrolled, the same slots and the same gradients; as it stands, one step's."""
    torch.manual_seed(0)
    recipe = {}
    exec(compile(examples("practice.md"), "practice.md", "exec"), recipe)
    module, inputs = recipe["module"], recipe["inputs"]
    parts = dict(module.named_parameters())
    assert all(p.grad is not None for name, p in parts.items() if not name.startswith("slots_"))
    # the initial slots are drawn, and one step sends nothing to them
    assert parts["slots_mu"].grad is None and recipe["solution"].steps.tolist() == [7, 7]

    gradients, values = [], []
    for ours in (False, True):
        torch.manual_seed(1)
        module.iters = 3
        if ours:
            noise = torch.randn(2, module.num_slots, module.dim)
            slots = module.slots_mu + module.slots_logsigma.exp() * noise
            step = recipe["refinement"](module, inputs)
            value = fixed_point(step, slots, solver=Iteration(3), adjoint=Unrolled()).value
        else:
            value = module(inputs)
        values.append(value)
        gradients.append(torch.autograd.grad(value.square().mean(), list(parts.values())))
    torch.testing.assert_close(*values, rtol=1e-4, atol=1e-5)
    for name, theirs, mine in zip(parts, *gradients):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-6, msg=name)
