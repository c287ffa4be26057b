"""The claims, judged by the runs: for every notebook, the statistics that its claims ask for.

    verdicts.of("fig01_overview", given)    the claims of a notebook, judged
    verdicts.every(given)                   those of all notebooks

The criteria are in `claims`, the runs in `figures`, the paper's own numbers in `published`. Every
function takes what its notebook shows, name of a group -> runs, and pairs the methods by seed.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from paper_lib import runs
from paper_lib.paper import claims, decompositions, figures, published, results, styles
from paper_lib.paper import gradient_fidelity as fidelity
from paper_lib.paper.claims import Judged
from paper_lib.paper.statistics import exponent, largest_rise, last, thirds

NEEDS_FILES = "needs the authors' files"
COCO = "COCO-2017"


def of(notebook: str, given) -> list[Judged]:
    """Return a notebook's claims as its runs judge them."""
    found = runs.get_all(figures.NOTEBOOKS[notebook](given), given)
    return JUDGES[notebook](found, given)


def every(given) -> dict[str, list[Judged]]:
    """Return all claims as the runs judge them: notebook -> claims."""
    return {notebook: of(notebook, given) for notebook in JUDGES}


# ---- SLATE ----


def overview(found: dict, given) -> list[Judged]:
    """Return the verdicts on C1."""
    norm = results.curves_of_groups(found, "spectral_norm")
    loss = late_losses(found)
    return [
        claims.C1_VANILLA_GROWS.judge(results.per_seed(norm["vanilla"], thirds)),
        claims.C1_IMPLICIT_STAYS.judge(results.per_seed(norm["IN"], thirds)),
        claims.C1_TRAINS_BETTER.judge(loss["IN"] / loss["vanilla"], paper=published.CROSS_ENTROPY),
    ]


def flagship(scored: dict, given) -> list[Judged]:
    """Return what is shown of the flagship beside the paper's claims: whether slots hold objects.

    The claims are judged in the notebooks of the paper's figures.
    """
    means = scores_of_images(scored)
    hold = []
    for method, group in scored.items():
        above = means[method]["foreground_ari"] - results.final(group, "grid_foreground_ari")
        name = styles.name(method)
        statistic = f"{name}, test: FG-ARI - a grid's; at least 0.15 asked for"
        hold.append(claims.shown("C7", f"{name}'s slots hold objects", statistic, above))
    return hold


def complexity(found: dict, given) -> list[Judged]:
    """Return the verdicts on C2."""
    (run,) = found["complexity"]
    by_variant = run.metrics.set_index("n").groupby("variant")
    judged = []
    for what, column in (("backward", "backward_s"), ("memory", "memory_bytes")):
        for method in ("vanilla", "IN"):
            power = exponent(by_variant.get_group(method)[column])
            flat = method == "IN"  # the paper's Table 1: O(1) for implicit, O(n) for vanilla
            judged.append(claims.judge_complexity(styles.name(method), what, power, flat))
    return judged


def one_line(found: dict, given) -> list[Judged]:
    """Return what C3 is shown by: the line written out gives the library's gradient."""
    differences = [fidelity.difference_from_the_line(run) for run in found["IN"]]
    statistic = "gradient of implicit (IN), relative difference from the line written out"
    return [claims.shown("C3", "one added line", statistic, differences)]


def residuals(found: dict, given) -> list[Judged]:
    """Return the verdicts on C4, and vanilla's residual beside them."""
    n = found["IN"][0].config.model.num_iterations
    curves = results.curves_of_groups(found, f"residual_{n}")
    late = {m: results.per_seed(curves[m], last, part=1 / 3) for m in ("vanilla", "IN")}
    return [
        claims.C4_CLOSE_TO_ZERO.about(n=n).judge(late["IN"]),
        claims.C4_STABLE.about(n=n).judge(results.per_seed(curves["IN"], thirds)),
        claims.shown(
            "C4",
            "vanilla's residual, for comparison",
            f"vanilla: relative residual of step {n}, last third of training",
            late["vanilla"],
        ),
    ]


def solvers(found: dict, given) -> list[Judged]:
    """Return the verdicts on C5 and C6, for each way to train."""
    three = ["BB", "IN", "BN"]
    judged = []
    for how in figures.solvers(given):
        loss = results.curves_of_groups(found[how], "val_cross_entropy")
        # a row for each seed, a column for each method
        end = pd.DataFrame({m: results.last_tenth(curves) for m, curves in loss.items()})
        rise = pd.DataFrame(
            {m: results.per_seed(curves, largest_rise) for m, curves in loss.items()}
        )
        worst = end[three].max(axis=1, skipna=False)
        best = end[three].min(axis=1, skipna=False)
        far_below = claims.C5_FAR_BELOW.about(tricks=how)
        judged += [
            far_below.judge(worst / end["vanilla"], paper=published.CROSS_ENTROPY),
            claims.C5_ALIKE.about(tricks=how).judge(worst / best),
            claims.C6_IB_UNSTABLE.about(tricks=how).judge(
                rise["IB"] - rise[three].max(axis=1, skipna=False)
            ),
        ]
    return judged


def qualitative(scored: dict, given) -> list[Judged]:
    """Return the verdicts on C7."""
    means = scores_of_images(scored)
    clevr = {method: means["CLEVR-Mirror", method] for method in figures.METHODS}
    stacks = {method: means["ShapeStacks", method] for method in figures.METHODS}
    grid = results.final(scored["ShapeStacks", "IN"], "grid_foreground_ari")
    objects = clevr["IN"]["mse_foreground"] / clevr["vanilla"]["mse_foreground"]
    share = stacks["vanilla"]["largest_share"] - stacks["IN"]["largest_share"]
    return [
        claims.C7_OBJECTS.judge(objects),
        claims.C7_VANILLA_DEGENERATES.judge(share),
        claims.C7_IMPLICIT_DOES_NOT.judge(stacks["IN"]["foreground_ari"] - grid),
    ]


def regeneration(scored: dict, given) -> list[Judged]:
    """Return the verdicts on C8: MSE and Frechet distance, on each data set."""
    means = scores_of_images(scored)
    judged = []
    for name in names_of(scored):
        pair = [scored[name, method] for method in figures.METHODS]
        mse, distance = claims.C8_MSE.about(data=name), claims.C8_FRECHET.about(data=name)
        vanilla, implicit = (results.final(group, "frechet") for group in pair)
        judged += [
            mse.judge(
                means[name, "IN"]["mse"] / means[name, "vanilla"]["mse"],
                paper=published.mse_ratio(name),
            ),
            distance.judge(
                implicit / vanilla,
                undecided=_too_few_images(pair[0] + pair[1]),
                paper=published.fid_ratio(name),
                comparable=pair[0][0].config.features == "inception",
            ),
        ]
    if COCO not in names_of(scored):
        mse, distance = claims.C8_MSE.about(data=COCO), claims.C8_FRECHET.about(data=COCO)
        judged += [
            mse.without_data(NEEDS_FILES, paper=published.mse_ratio(COCO)),
            distance.without_data(NEEDS_FILES, paper=published.fid_ratio(COCO)),
        ]
    return judged


def validation_losses(found: dict, given) -> list[Judged]:
    """Return the verdicts on C17: every data set, at every size."""
    loss = late_losses(found)
    judged = []
    for name, size in dict.fromkeys((name, size) for name, _, size in found):
        claim = claims.C17_LOWER.about(data=f"{name}, {size}x{size}")
        ratio = loss[name, "IN", size] / loss[name, "vanilla", size]
        judged.append(claim.judge(ratio, paper=published.cross_entropy_ratio(name)))
    if COCO not in names_of(found):
        judged.append(claims.C17_LOWER.about(data=COCO).without_data(NEEDS_FILES))
    return judged


def tricks(found: dict, given) -> list[Judged]:
    """Return the verdicts on C9."""
    norm = results.curves_of_groups(found, "spectral_norm")
    loss = late_losses(found)
    judged = []
    for trick in ("clipping", "warm-up"):
        explosions = (("vanilla", claims.C9_VANILLA_EXPLODES), ("IN", claims.C9_IMPLICIT_DOES_NOT))
        for method, claim in explosions:
            rise = norm[method, trick].max() / norm[method, "nothing"].max()
            judged.append(claim.about(trick=trick).judge(rise))
    for method in figures.METHODS:
        with_decay, without = (method, "nothing"), (method, "lr decay")
        late_norm = {
            key: results.per_seed(norm[key], last, part=1 / 3) for key in (with_decay, without)
        }
        # where the learning rate was never halved the runs with decay are those without
        acted = (halvings(found[with_decay]) > 0).all()
        undecided = "" if acted else "the learning rate was never halved"
        tames = claims.C9_DECAY_TAMES.about(method=styles.name(method))
        hurts = claims.C9_DECAY_HURTS.about(method=styles.name(method))
        judged += [
            tames.judge(late_norm[with_decay] / late_norm[without], undecided),
            hurts.judge(loss[with_decay] / loss[without], undecided),
        ]
    return judged


def gradient_norms(found: dict, given) -> list[Judged]:
    """Return the verdicts on C10, and beside them what the usual runs of a small profile show."""
    largest = {}
    for removed, pair in found.items():
        for method, group in pair.items():
            largest[method, removed] = results.largest(group, "grad_norm_slot_attention_max")
    judged = []
    for method, claim in (
        ("vanilla", claims.C10_EXPLODES),
        ("IN", claims.C10_IMPLICIT_DOES_NOT),
    ):
        judged.append(claim.judge(largest[method, "clipping"] / largest[method, "nothing"]))
    if "any trick" in found:
        words = "without any trick vanilla's are larger than implicit's"
        statistic = "largest gradient norm of slot attention in training: vanilla / implicit"
        times = largest["vanilla", "any trick"] / largest["IN", "any trick"]
        judged.append(claims.shown("C10", words, statistic, times, ratio=True))
    return judged


def iterations(found: dict, given) -> list[Judged]:
    """Return the verdicts on C11, of curves up to where the shortest ends."""
    final = losses_by_iterations(found)
    vanilla, implicit = (final[method].dropna(axis=1) for method in figures.METHODS)
    growth = {"vanilla": vanilla.iloc[-1] / vanilla.iloc[0]}
    growth["IN"] = implicit.iloc[-1] / implicit.iloc[0]
    return [
        claims.C11_HARDER.judge(growth["vanilla"] / growth["IN"]),
        claims.C11_INSENSITIVE.judge(implicit.max() / implicit.min()),
    ]


def one_iteration(found: dict, given) -> list[Judged]:
    """Return the verdict on C12."""
    mse = {key: results.final(group, "test_mse") for key, group in found.items()}
    claim = claims.C12_ONE_IS_WORSE.about(n=found["IN"][0].config.model.num_iterations)
    times = mse["vanilla, n = 1"] / mse["IN"]
    return [claim.judge(times, paper=published.ONE_ITERATION_MSE)]


def several_decompositions(found: dict, given) -> list[Judged]:
    """Return the verdict on C15."""
    return [claims.C15_SEVERAL.judge(decompositions.several(found["vanilla"], found["IN"]))]


def no_clipping(found: dict, given) -> list[Judged]:
    """Return the verdicts on C16."""
    mse = {key: results.final(group, "test_mse") for key, group in found.items()}
    vanilla, implicit = (mse[m, "clipping"] / mse[m, "nothing"] for m in ("vanilla", "IN"))
    return [
        claims.C16_VANILLA_DROPS.judge(vanilla),
        claims.C16_IMPLICIT_DOES_NOT.judge(implicit),
    ]


def precisions(found: dict, given) -> list[Judged]:
    """Return the verdicts on B1."""
    end = late_losses(found)
    judged = []
    for method in figures.METHODS:
        float32, bfloat16 = end[method, "float32"], end[method, "bfloat16"]
        distance = (bfloat16 - float32.mean()).abs() / (float32.max() - float32.min())
        judged.append(claims.B1_ALIKE.about(method=styles.name(method)).judge(distance))
    return judged


# ---- Locatello et al.'s models ----


def property_prediction(found: dict, given) -> list[Judged]:
    """Return the verdicts on C13."""
    ap = {key: results.final(group, "test_ap_inf") for key, group in found.items()}
    within_half = {key: results.final(group, "test_ap_0.5") for key, group in found.items()}
    most = max(n for _, n in found)
    better = claims.C13_BETTER
    scales = claims.C13_SCALES.about(most=str(most), n="3")
    return [
        better.about(where="at any distance", n="3").judge(ap["IN", 3] - ap["vanilla", 3]),
        better.about(where="within 0.5", n="3").judge(
            within_half["IN", 3] - within_half["vanilla", 3]
        ),
        claims.C13_ONE_IS_NOT_ENOUGH.about(n="3").judge(ap["IN", 3] - ap["vanilla", 1]),
        scales.judge(ap["IN", most] - ap["IN", 3]),
    ]


def segmentation(found: dict, given) -> list[Judged]:
    """Return the verdicts on C14.

    There must be a quality to keep: where vanilla's masks are no better than a grid's, nothing is
    decided.
    """
    kept = (
        (claims.C14_FOREGROUND_ARI, "foreground_ari"),
        (claims.C14_MEAN_IOU, "mean_iou"),
    )
    judged = []
    for claim, metric in kept:
        vanilla = results.final(found["vanilla"], f"test_{metric}")
        implicit = results.final(found["IN"], f"test_{metric}")
        finds_objects = (vanilla > results.final(found["vanilla"], f"grid_{metric}")).all()
        undecided = "" if finds_objects else "vanilla's masks are no better than a grid's"
        judged.append(claim.judge(implicit - vanilla, undecided))
    return judged


# ---- what several of them, and the notebooks, ask of runs ----


def late_losses(found: dict) -> dict[object, pd.Series]:
    """Return the mean validation cross entropy over the last tenth of training: group -> seeds."""
    curves = results.curves_of_groups(found, "val_cross_entropy")
    return {key: results.last_tenth(values) for key, values in curves.items()}


def scores_of_images(scored: dict) -> dict[object, pd.DataFrame]:
    """Return the mean scores of regenerated test images: group -> a row for each seed."""
    columns = ("mse", "mse_dvae", "mse_foreground", "foreground_ari", "mean_iou", "largest_share")
    return {key: results.means(group, columns) for key, group in scored.items()}


def names_of(groups: dict) -> list[str]:
    """Return the data sets of groups whose names begin with one, each once."""
    return list(dict.fromkeys(key[0] for key in groups))


def halvings(group: list) -> pd.Series:
    """Return how often the learning rate was halved over training, indexed by seed."""
    rates = results.curves(group, "lr").ffill()
    return np.log2(group[0].config.training.lr / rates.iloc[-1])


def losses_by_iterations(found: dict) -> dict[str, pd.DataFrame]:
    """Return the late cross entropy of Fig. 6b's runs, all up to where the shortest ends.

    method -> a row for each number of iterations, a column for each seed.
    """
    shortest = min(config.training.steps for config in results.configs(found))
    final = {}
    for method in figures.METHODS:
        rows = {}
        for n in sorted({n for _, n in found}):
            curves = results.curves(found[method, n], "val_cross_entropy").loc[:shortest]
            rows[n] = results.last_tenth(curves)
        final[method] = pd.DataFrame(rows).T
    return final


def _too_few_images(group: list) -> str:
    """Say why the Frechet distances of these runs cannot be trusted; "" if they can."""
    features = results.final(group, "frechet_dimension")
    enough = (results.final(group, "images") > features).all()
    return "" if enough else "no more images than features"


# ---- which notebook judges which ----

JUDGES = {
    "fig01_overview": overview,
    "flagship": flagship,
    "pair_32px": overview,
    "tab01_complexity": complexity,
    "fig02_one_line": one_line,
    "fig03a_residuals": residuals,
    "fig03b_solvers": solvers,
    "fig04_qualitative": qualitative,
    "tab03_fid_mse": regeneration,
    "sec53_validation_loss": validation_losses,
    "fig05_optimization_tricks": tricks,
    "fig06a_gradient_norms": gradient_norms,
    "fig06b_iterations": iterations,
    "fig06c_one_iteration": one_iteration,
    "fig07_property_prediction": property_prediction,
    "fig08_segmentation_masks": segmentation,
    "fig09_10_decompositions": several_decompositions,
    "fig12_13_no_clipping": no_clipping,
    "bfloat16": precisions,
}
