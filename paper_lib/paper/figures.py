"""Which runs each figure and table shows, as data: a function a figure, a list of notebooks.

A figure is a dict from what it compares, such as a method, to the configs of its runs, one a seed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from paper_lib.metrics import frechet
from paper_lib.paper import extensions
from paper_lib.paper.complexity import ComplexityRunConfig
from paper_lib.paper.evidence import evidence, whole_batch
from paper_lib.paper.locatello import PREDICTORS, autoencoder, set_prediction
from paper_lib.paper.parameters import Parameters
from paper_lib.paper.profiles import (
    COMMITTED,
    ITERATIONS_STEPS,
    PAIR_SEEDS,
    complexity,
    data_sets,
    has_tricks,
    regenerated,
    slate,
    with_tricks,
)
from paper_lib.paper.regeneration import RegenerationRunConfig
from paper_lib.runs import with_needs
from paper_lib.training.autoencoder import AutoencoderRunConfig
from paper_lib.training.set_prediction import SetPredictionRunConfig
from paper_lib.training.slate import SLATERunConfig

METHODS = ("vanilla", "IN")
PAPERS_VARIANTS = ("vanilla", "IB", "BB", "IN", "BN")  # the rows of Table 2
ALL_VARIANTS = (*PAPERS_VARIANTS, "AA", "AN")  # and ours


# Which scale of a profile that has several (see profiles.py) the figures show; None: its own.
PAIR_SCALE = "flagship"  # Figures 1, 2, 3a, 4, 9, 10, Table 3, Sec. 5.3; or None
SOLVERS_SCALE = "short"  # Fig. 3b and Table 2; or None
SWEEP_SCALE = "short"  # Figures 5, 6, 12, 13; or None


# The numbers of iterations in Fig. 6b, where they are fewer than the paper profile's.
ITERATIONS = {"smoke": (1, 7), "quick": (1, 7), "cpu": (1, 3, 7, 15)}


def pair(given: Parameters, scale: str | None) -> dict[str, list[SLATERunConfig]]:
    """Return vanilla and implicit at a scale: method -> runs."""
    more = scale == "sweep" and not given.custom
    seeds = PAIR_SEEDS.get(given.profile, given.seeds) if more else given.seeds
    groups = {}
    for method in METHODS:
        groups[method] = [slate(given, method, seed, scale=scale) for seed in seeds]
    return groups


def vanilla_and_implicit(given: Parameters) -> dict[str, list[SLATERunConfig]]:
    """Return the pair that most figures compare: method -> runs."""
    return pair(given, PAIR_SCALE)


def pair_of_sweeps(given: Parameters) -> dict[str, list[SLATERunConfig]]:
    """Return the pair at the protocol's scale for sweeps, whatever figures show: method -> runs."""
    return pair(given, "sweep")


def swept_pair(given: Parameters) -> dict[str, list[SLATERunConfig]]:
    """Return the pair that sweeps compare others with: method -> runs."""
    return pair(given, SWEEP_SCALE)


def flagship(given: Parameters) -> dict[str, list[RegenerationRunConfig]]:
    """Return the pair at the profile's largest scale, and its test images regenerated from their
    slots: method -> runs."""
    trained = pair(given, "flagship")
    return {method: regenerated(given, group) for method, group in trained.items()}


def solvers(given: Parameters) -> dict[str, dict[str, list[SLATERunConfig]]]:
    """Return the runs of Fig. 3b: how runs are trained -> variant -> runs.

    The variants are Table 2's five pairs. The paper trains with all the optimisation tricks. The
    small profiles do so beside training without, as elsewhere in them, and have Anderson's solver,
    ours, in both places and forward alone. The committed results have Broyden stopped by the whole
    batch's residual too, as the authors' code does.
    """
    usual, seeds = pair(given, SOLVERS_SCALE), given.seeds
    committed = given.profile in COMMITTED and SOLVERS_SCALE
    plain = {}
    for name in PAPERS_VARIANTS if committed else ALL_VARIANTS:
        runs = [slate(given, name, seed, scale=SOLVERS_SCALE) for seed in seeds]
        plain[name] = usual.get(name) or runs
    if committed:
        by_batch = dict.fromkeys(PAPERS_VARIANTS) | plain | whole_batch(given, SOLVERS_SCALE, seeds)
        return {"with all tricks": plain, "with all tricks, stopped by batch": by_batch}
    if has_tricks(given, SOLVERS_SCALE):
        return {"with all tricks": plain}
    tricked = {}
    for name in PAPERS_VARIANTS:
        tricked[name] = [with_tricks(given, name, seed, SOLVERS_SCALE) for seed in seeds]
    return {"without the tricks": plain, "with all tricks": tricked}


def solver_cost(given: Parameters) -> ComplexityRunConfig:
    """Table 2's cost: time and memory of slot attention and of a training step under every pair, at
    the number of iterations that the runs train with."""
    model = slate(given, "IN", 0, scale=SOLVERS_SCALE).model
    variants = next(iter(solvers(given).values()))
    return replace(
        complexity(given),
        variants=tuple(variants),
        iterations=(model.num_iterations,),
        training_step=model,
    )


def tricks(given: Parameters) -> dict[tuple[str, str], list[SLATERunConfig]]:
    """Return the runs of Fig. 5: (method, what is removed of the optimisation tricks) -> runs."""
    removals = {
        "nothing": {},
        "lr decay": {"training__lr_decay_epochs": None, "training__decay_steps": None},
        "clipping": {"training__clip": None},
        "warm-up": {"training__warmup_steps": 0},
    }
    groups = {}
    for removed, changes in removals.items():
        for method in METHODS:
            groups[method, removed] = [
                with_tricks(given, method, seed, SWEEP_SCALE, **changes) for seed in given.seeds
            ]
    return groups


def no_clipping(given: Parameters) -> dict[tuple[str, str], list[SLATERunConfig]]:
    """Return the runs of Figures 12 and 13: (method, what is removed of the tricks) -> runs."""
    swept = tricks(given)
    groups = {}
    for method in ("IN", "vanilla"):
        for removed in ("nothing", "clipping"):
            groups[method, removed] = swept[method, removed]
    return groups


def gradient_norms(given: Parameters) -> dict[str, dict[str, list[SLATERunConfig]]]:
    """Return the runs of Fig. 6a: what is left out -> method -> runs.

    The paper leaves out clipping; the small profiles' usual runs leave out every trick.
    """
    swept = tricks(given)
    groups = {}
    for removed in ("nothing", "clipping"):
        groups[removed] = {method: swept[method, removed] for method in METHODS}
    if not has_tricks(given, SWEEP_SCALE):
        groups["any trick"] = swept_pair(given)
    return groups


def iterations(given: Parameters) -> dict[tuple[str, int], list[SLATERunConfig]]:
    """Return the runs of Fig. 6b: (method, number of iterations) -> runs.

    Those that other figures show as well are as long as these need them.
    """
    usual = swept_pair(given)
    counts = ITERATIONS.get(given.profile, (1, 3, 5, 7, 11, 15))
    groups = {}
    for method in METHODS:
        for n in counts:
            if n == usual["IN"][0].model.num_iterations:
                groups[method, n] = usual[method]
                continue
            shared = (method, n) == ("vanilla", 1)  # with Fig. 6c
            steps = None if shared or SWEEP_SCALE else ITERATIONS_STEPS.get(given.profile)
            groups[method, n] = [
                slate(given, method, seed, steps, SWEEP_SCALE, model__num_iterations=n)
                for seed in given.seeds
            ]
    return groups


def one_iteration(given: Parameters) -> dict[str, list[SLATERunConfig]]:
    """Fig. 6c: vanilla with one iteration, beside the pair."""
    vanilla = iterations(given)["vanilla", 1]
    return {"vanilla, n = 1": vanilla, **swept_pair(given)}


def precisions(given: Parameters) -> dict[tuple[str, str], list[SLATERunConfig]]:
    """Return what is beyond the paper, the pair in both precisions: (method, precision) -> runs."""
    groups = {}
    for method in METHODS:
        for precision in ("float32", "bfloat16"):
            groups[method, precision] = [
                slate(given, method, seed, training__precision=precision) for seed in given.seeds
            ]
    return groups


def generalisation(
    given: Parameters, size: int | None = None
) -> dict[tuple[str, str], list[SLATERunConfig]]:
    """Return the runs of Sec. 5.3, Table 3 and Fig. 4: (data set, method) -> runs; at the paper's
    scale at `size` 64 or 96."""
    larger = {}
    if size and size != resolutions(given)[0]:
        larger = {"data__size": size, "model__image_size": size}
    groups = {}
    for name, changes in data_sets(given, PAIR_SCALE).items():
        for method in METHODS:
            groups[name, method] = [
                slate(given, method, seed, scale=PAIR_SCALE, **changes, **larger)
                for seed in given.seeds
            ]
    return groups


def resolutions(given: Parameters) -> tuple[int, ...]:
    """Return the image sizes of Sec. 5.3: two at the paper's scale, the last of them that of
    Table 3; one elsewhere."""
    size = slate(given, "IN", given.seeds[0], scale=PAIR_SCALE).data.size
    return (size, 96) if given.profile == "paper" and size < 96 else (size,)


def validation_losses(given: Parameters) -> dict[tuple[str, str, int], list[SLATERunConfig]]:
    """Return the runs of Sec. 5.3: (data set, method, image size) -> runs."""
    groups = {}
    for size in resolutions(given):
        for key, runs in generalisation(given, size).items():
            groups[*key, size] = runs
    return groups


def regeneration(
    given: Parameters, features: str | None = None
) -> dict[tuple[str, str], list[RegenerationRunConfig]]:
    """Return the runs of Table 3: (data set, method) -> the test images of every run, regenerated
    from their slots and scored; `features` as in `RegenerationRunConfig`. Raises ValueError for
    features that no network makes."""
    if features is not None and features not in list(frechet.NETWORKS):
        raise ValueError(
            f"unknown features {features!r}: choose from {', '.join(frechet.NETWORKS)}"
        )
    trained = generalisation(given, resolutions(given)[-1])
    return {key: regenerated(given, group, features) for key, group in trained.items()}


def segmentation(given: Parameters) -> dict[str, list[AutoencoderRunConfig]]:
    """Return the runs of Fig. 8: method -> runs."""
    return {
        method: [autoencoder(given, method, seed) for seed in given.seeds] for method in METHODS
    }


def property_prediction(given: Parameters) -> dict[tuple[str, int], list[SetPredictionRunConfig]]:
    """Return the runs of Fig. 7: (method, number of iterations in training) -> runs."""
    groups = {}
    for method, n in PREDICTORS:
        groups[method, n] = [
            set_prediction(given, method, seed, model__num_iterations=n) for seed in given.seeds
        ]
    return groups


def trained_cells(given: Parameters) -> dict[str, dict[str, list[SLATERunConfig]]]:
    """Return the runs whose trained cells our own questions look at: scale -> method -> runs."""
    scored = flagship(given)
    large = {method: [run.slate for run in group] for method, group in scored.items()}
    return {"pair": pair(given, None), "flagship": large}


# ---- which notebook shows which ----


def _complexity(given: Parameters) -> dict:
    return {"complexity": [complexity(given)]}


def _implicit(given: Parameters) -> dict:
    return {"IN": vanilla_and_implicit(given)["IN"]}


def _solvers_and_cost(given: Parameters) -> dict:
    return {**solvers(given), "cost": {"cost": [solver_cost(given)]}}


def _cells_along_training(given: Parameters) -> dict:
    return {"along": extensions.along(given), **trained_cells(given)}


def _estimators_and_cost(given: Parameters) -> dict:
    return {
        "trained": extensions.estimators(given),
        "scored": extensions.estimators_scored(given),
        "cost": {"cost": [extensions.estimators_cost(given)]},
    }


def _none(given: Parameters) -> dict:
    return {}


def _all_that_is_judged(given: Parameters) -> dict:
    return {name: NOTEBOOKS[name](given) for name in NOTEBOOKS if name not in ("claims", *UNJUDGED)}


def _explored(given: Parameters) -> dict:
    return {name: [slate(given, name, 0, scale="flagship")] for name in METHODS}


def _diagnosed(given: Parameters) -> dict:
    return {**_explored(given), **extensions.collapsed(given)}


NOTEBOOKS = {
    "fig01_overview": vanilla_and_implicit,
    "flagship": flagship,
    "pair_32px": pair_of_sweeps,
    "tab01_complexity": _complexity,
    "fig02_one_line": _implicit,
    "fig03a_residuals": vanilla_and_implicit,
    "fig03b_solvers": _solvers_and_cost,
    "fig04_qualitative": regeneration,
    "tab03_fid_mse": regeneration,
    "sec53_validation_loss": validation_losses,
    "fig05_optimization_tricks": tricks,
    "fig06a_gradient_norms": gradient_norms,
    "fig06b_iterations": iterations,
    "fig06c_one_iteration": one_iteration,
    "fig07_property_prediction": property_prediction,
    "fig08_segmentation_masks": segmentation,
    "fig09_10_decompositions": vanilla_and_implicit,
    "fig12_13_no_clipping": no_clipping,
    "bfloat16": precisions,
    "ext01_gradient_fidelity": _cells_along_training,
    "ext02_estimators": _estimators_and_cost,
    "ext03_why_vanilla_fails": extensions.announcers,
    "ext04_when_it_matters": extensions.when_it_matters,
    "ext05_fixed_points": trained_cells,
    "ext06_learned_queries": extensions.learned_queries,
    "data_gallery": _none,
    "explore_slots": _explored,
    "diagnose_slots": _diagnosed,
    "claims": _all_that_is_judged,
}
# What `make figures` shows of the committed results, in the place of runs that would take too long
# for a first look.
REPLAYED = {
    "quick": (
        "fig03b_solvers",
        "fig05_optimization_tricks",
        "fig06a_gradient_norms",
        "fig06b_iterations",
        "fig06c_one_iteration",
        "fig07_property_prediction",
        "fig08_segmentation_masks",
        "fig12_13_no_clipping",
        "bfloat16",
        "ext02_estimators",
        "ext03_why_vanilla_fails",
        "ext04_when_it_matters",
        "ext06_learned_queries",
        "claims",
    )
}
# They show, or ask questions of our own: no claim of the paper's is judged by them.
UNJUDGED = (
    "data_gallery",
    "explore_slots",
    "diagnose_slots",
    "ext01_gradient_fidelity",
    "ext02_estimators",
    "ext03_why_vanilla_fails",
    "ext04_when_it_matters",
    "ext05_fixed_points",
    "ext06_learned_queries",
)


def profile_shown(notebook: str, profile: str) -> str:
    """Return the profile whose runs `make figures` shows in a notebook: cpu where it replays."""
    return "cpu" if notebook in REPLAYED.get(profile, ()) else profile


def runs_of(notebook: str, given: Parameters) -> list:
    """Return every run that a notebook shows, those that others build on first, each once."""
    if notebook not in NOTEBOOKS:
        raise ValueError(f"unknown notebook {notebook!r}: choose from {', '.join(NOTEBOOKS)}")
    return with_needs(list(every_config(NOTEBOOKS[notebook](given))))


def all_runs(given: Parameters) -> list:
    """Return every run of a profile, those that others build on first, each once.

    With the committed results these are also the runs of the protocol that no figure shows yet.
    """
    shown = [run for notebook in NOTEBOOKS for run in runs_of(notebook, given)]
    return with_needs([*shown, *every_config(evidence(given) if given.profile == "cpu" else {})])


def every_config(groups: dict) -> Iterable:
    """Walk the configs of a figure, whose groups may be grouped themselves."""
    for group in groups.values():
        if isinstance(group, dict):
            yield from every_config(group)
        else:
            yield from group
