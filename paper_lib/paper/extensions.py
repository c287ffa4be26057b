"""Which runs the notebooks show that ask about other models: dicts as in `figures`.

Learned initial slots, other cells in SLATE, and another set predictor, each under the gradients
that the paper compares. The scale is that of the protocol's sweeps; a training is shorter.
"""

from __future__ import annotations

from paper_lib.fixed_point import StraightThrough
from paper_lib.paper.locatello import idspn, set_prediction
from paper_lib.paper.parameters import Parameters
from paper_lib.paper.profiles import slate
from paper_lib.training.set_prediction import SetPredictionRunConfig
from paper_lib.training.slate import SLATERunConfig

# Training steps of a SLATE here where they are not the profile's own.
STEPS = {"cpu": 4_000}

# A gradient is a row of Table 2, or an adjoint in the place of implicit's.
GRADIENTS = {
    "vanilla": ("vanilla", {}),
    "IN": ("IN", {}),
    "straight-through": ("IN", {"model__adjoint": StraightThrough()}),
}
INITIALS = ("drawn", "learned")
CELLS = ("softmax", "sinkhorn", "mesh")
METHODS = ("vanilla", "IN")


def learned_queries(given: Parameters) -> dict[tuple[str, str], list[SLATERunConfig]]:
    """Return SLATEs whose initial slots are drawn or learned: (initial, gradient) -> runs."""
    groups = {}
    for initial in INITIALS:
        for gradient in GRADIENTS:
            groups[initial, gradient] = _slates(given, gradient, model__initial=initial)
    return groups


def other_cells(given: Parameters) -> dict[tuple[str, str], list[SLATERunConfig]]:
    """Return SLATEs whose slots compete in one way or another: (cell, gradient) -> runs.

    Those with softmax are `learned_queries`' with drawn slots.
    """
    groups = {}
    for cell in CELLS:
        for method in METHODS:
            groups[cell, method] = _slates(given, method, model__attention=cell)
    return groups


def set_predictors(given: Parameters) -> dict[tuple[str, str], list[SetPredictionRunConfig]]:
    """Return both set predictors on Fig. 7's task: ("slots" or "iDSPN", gradient) -> runs.

    Those with slots are Fig. 7's with three iterations, of the seeds that it has.
    """
    groups = {}
    for method in METHODS:
        groups["slots", method] = [
            set_prediction(given, method, seed, model__num_iterations=3)
            for seed in given.swept_seeds
        ]
    for method in METHODS:
        groups["iDSPN", method] = [idspn(given, method, seed) for seed in given.seeds]
    return groups


def _slates(given: Parameters, gradient: str, **changes) -> list[SLATERunConfig]:
    variant, own = GRADIENTS[gradient]
    steps = STEPS.get(given.profile)
    return [slate(given, variant, seed, steps, "sweep", **own, **changes) for seed in given.seeds]


def cells_and_predictors(given: Parameters) -> dict[str, dict]:
    """Return what the notebook of other cells shows: "SLATE", "set prediction" -> groups."""
    return {"SLATE": other_cells(given), "set prediction": set_predictors(given)}
