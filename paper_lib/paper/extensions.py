"""Which runs the notebooks beyond the paper train, as data: a function a question.

SLATEs are at the scale of the sweeps, and share runs with these. As in `figures`, a group is a dict
from what is compared to the configs of its runs, one a seed.
"""

from __future__ import annotations

from dataclasses import replace

from paper_lib.fixed_point import (
    GMRES,
    Anderson,
    Implicit,
    Neumann,
    Phantom,
    StraightThrough,
    Truncated,
)
from paper_lib.paper.complexity import ComplexityRunConfig
from paper_lib.paper.locatello import idspn, set_prediction
from paper_lib.paper.parameters import Parameters
from paper_lib.paper.profiles import complexity, regenerated, slate
from paper_lib.paper.regeneration import RegenerationRunConfig
from paper_lib.training.set_prediction import SetPredictionRunConfig
from paper_lib.training.slate import SLATERunConfig

METHODS = ("vanilla", "IN")
SCALE = "short"


def pair(given: Parameters, **changes) -> dict[str, list[SLATERunConfig]]:
    """Return vanilla and implicit with changes: method -> runs."""
    groups = {}
    for method in METHODS:
        groups[method] = [
            slate(given, method, seed, scale=SCALE, **changes) for seed in given.seeds
        ]
    return groups


# Steps after which ext01 looks at cells, before the last; elsewhere there is the last alone.
EARLY = {"smoke": (2,), "cpu": (500, 1_000, 2_000)}


def along(given: Parameters) -> dict[tuple[int, str], list[SLATERunConfig]]:
    """Return the runs that end at different steps of one and the same training, for their cells:
    (steps, method) -> runs. With steps that are overridden there is their end alone."""
    groups = {}
    for steps in () if "training.steps" in given.overrides else EARLY.get(given.profile, ()):
        for method, runs in pair(given, training__steps=steps).items():
            groups[steps, method] = runs
    for method, runs in pair(given).items():
        groups[runs[0].training.steps, method] = runs
    return groups


def adjoints(n: int) -> dict[str, object]:
    """Return the gradients that ext02 trains with beside unrolling and one step, by name.

    What is solved for may take n steps, as many as the iteration. Three that practitioners use are
    left out, as they are two of the others: checkpointing has the gradients of unrolling; cutting
    off before the last iteration, and detaching at every one, are one step.
    """
    return {
        "truncated to 2": Truncated(2),
        "truncated to 4": Truncated(4),
        "Neumann, 2 terms": Neumann(2),
        "Neumann, 4 terms": Neumann(4),
        "Neumann, 8 terms": Neumann(8),
        "Neumann, 8 terms, damped": Neumann(8, damping=0.5),
        "phantom, 5 steps": Phantom(5, damping=0.5),
        "straight-through": StraightThrough(),
        "implicit, Anderson": Implicit(Anderson(n)),
        "implicit, GMRES": Implicit(GMRES(n)),
    }


def estimators(given: Parameters) -> dict[str, list[SLATERunConfig]]:
    """Return the runs of ext02: the gradient that is trained with -> runs. All of them iterate."""
    usual = pair(given)
    groups = {"unrolled": usual["vanilla"], "one step": usual["IN"]}
    n = usual["IN"][0].model.num_iterations
    for name, adjoint in adjoints(n).items():
        groups[name] = [
            slate(given, "IN", seed, scale=SCALE, model__adjoint=adjoint) for seed in given.seeds
        ]
    return groups


def estimators_scored(given: Parameters) -> dict[str, list[RegenerationRunConfig]]:
    """Return ext02's test images, regenerated from their slots and scored with the masks beside:
    the gradient that is trained with -> runs."""
    trained = estimators(given)
    return {name: regenerated(given, group) for name, group in trained.items()}


def estimators_cost(given: Parameters) -> ComplexityRunConfig:
    """Return what ext02's gradients cost, at the number of iterations that the runs train with:
    time and memory of slot attention, and of a training step."""
    model = pair(given)["IN"][0].model
    n = model.num_iterations
    return replace(
        complexity(given),
        variants=METHODS,
        adjoints=tuple(adjoints(n).values()),
        iterations=(n,),
        training_step=model,
    )


def announcers(given: Parameters) -> dict[str, list[SLATERunConfig]]:
    """Return the runs of ext03: method -> runs that measure what may announce their failure."""
    often = {} if given.profile == "smoke" else {"training__eval_every": 100}
    return pair(given, announcers=True, **often)


def settings(given: Parameters) -> dict[str, dict]:
    """Return the settings of ext04, as changes for `slate`: what differs from the usual -> changes.

    The usual is all tricks, a learning rate of 1e-3, 7 iterations and 7 slots (of the cpu profile).
    """
    if given.profile == "smoke":
        return {"as usual": {}, "learning rate 3e-3": {"training__lr": 3e-3}}
    return {
        "as usual": {},
        "learning rate 3e-4": {"training__lr": 3e-4},
        "learning rate 3e-3": {"training__lr": 3e-3},
        "no clipping": {"training__clip": None},
        "1 iteration": {"model__num_iterations": 1},
        "3 iterations": {"model__num_iterations": 3},
        "15 iterations": {"model__num_iterations": 15},
        "4 slots": {"model__num_slots": 4},
        "12 slots": {"model__num_slots": 12},
    }


def when_it_matters(given: Parameters) -> dict[tuple[str, str], list[SLATERunConfig]]:
    """Return the runs of ext04: (what differs from the usual, method) -> runs."""
    groups = {}
    for name, changes in settings(given).items():
        for method, runs in pair(given, **changes).items():
            groups[name, method] = runs
    return groups


# ---- a collapse, on purpose ----

# A dVAE at SLATE's own learning rate and temperatures, trained for so short a time that it uses a
# few codes; the check that would refuse it is off.
COLLAPSING_DVAE = {
    "dvae__training__lr": 3e-4,
    "dvae__tau_start": 1.0,
    "dvae__tau_final": 0.1,
    "dvae__min_codes": 1,
    "dvae__max_mse_fraction": 1e3,
    "dvae__max_object_mse_fraction": None,
    "dvae__max_colour_error": None,
}
BRIEF_DVAE = {
    "dvae__training__steps": 1_000,
    "dvae__tau_steps": 1_000,
    "dvae__training__eval_every": 500,
}
BRIEF = {"training__steps": 500, "training__warmup_steps": 25, "training__eval_every": 250}


def collapsed(given: Parameters) -> dict[str, list[SLATERunConfig]]:
    """Return the runs that diagnose_slots trains: the dVAE under the slots -> runs.

    Both are vanilla, a minute or two of one core each, and differ in their dVAE: one has collapsed,
    the other is the sweeps'. There are none where a run trains its dVAE jointly.
    """
    if slate(given, "vanilla", 0, scale=SCALE).dvae is None:
        return {}
    brief = {} if given.profile == "smoke" else BRIEF
    brief_dvae = {} if given.profile == "smoke" else BRIEF_DVAE
    groups = {}
    for name, dvae in {"collapsed": COLLAPSING_DVAE | brief_dvae, "healthy": {}}.items():
        changes = {
            path: value
            for path, value in (brief | dvae).items()
            if path.replace("__", ".") not in given.overrides
        }
        groups[f"{name} dVAE"] = [slate(given, "vanilla", 0, scale=SCALE, **changes)]
    return groups


# ---- other initial slots, other cells ----

# A gradient is a row of Table 2, or an adjoint in the place of implicit's.
GRADIENTS = {
    "vanilla": ("vanilla", {}),
    "IN": ("IN", {}),
    "straight-through": ("IN", {"model__adjoint": StraightThrough()}),
}
INITIALS = ("drawn", "learned")
CELLS = ("softmax", "sinkhorn", "mesh")


def learned_queries(given: Parameters) -> dict[tuple[str, str], list[SLATERunConfig]]:
    """Return SLATEs whose initial slots are drawn or learned: (initial, gradient) -> runs."""
    groups = {}
    for initial in INITIALS:
        for gradient in GRADIENTS:
            groups[initial, gradient] = _trained(given, gradient, model__initial=initial)
    return groups


def other_cells(given: Parameters) -> dict[tuple[str, str], list[SLATERunConfig]]:
    """Return SLATEs whose slots compete in one way or another: (cell, gradient) -> runs.

    Those with softmax are `learned_queries`' with drawn slots.
    """
    groups = {}
    for cell in CELLS:
        for method in METHODS:
            groups[cell, method] = _trained(given, method, model__attention=cell)
    return groups


def set_predictors(given: Parameters) -> dict[tuple[str, str], list[SetPredictionRunConfig]]:
    """Return both set predictors on Fig. 7's task: ("slots" or "iDSPN", gradient) -> runs.

    Those with slots are Fig. 7's with three iterations, of the seeds that it has.
    """
    groups = {}
    for method in METHODS:
        groups["slots", method] = [
            set_prediction(given, method, seed, model__num_iterations=3) for seed in given.seeds
        ]
    for method in METHODS:
        groups["iDSPN", method] = [idspn(given, method, seed) for seed in given.seeds]
    return groups


def cells_and_predictors(given: Parameters) -> dict[str, dict]:
    """Return what the notebook of other cells shows: "SLATE", "set prediction" -> groups."""
    return {"SLATE": other_cells(given), "set prediction": set_predictors(given)}


def _trained(given: Parameters, gradient: str, **changes) -> list[SLATERunConfig]:
    variant, own = GRADIENTS[gradient]
    return [slate(given, variant, seed, scale=SCALE, **own, **changes) for seed in given.seeds]
