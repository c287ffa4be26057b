"""How each of the paper's claims is judged: the claim, our statistic, the threshold; written before the runs were made.

A statistic is computed for each seed. Over seeds it gets a mean and a 95% bootstrap interval, and the verdict follows from that interval alone:
"supported" if it lies wholly on the claim's side of the threshold, "not supported" if wholly on the other, else "inconclusive"; with fewer than
three seeds always "inconclusive". With three seeds that interval is simply their range: a verdict then says that all three agree, and no more. A small
scale is no reason for another threshold: the verdict is about this scale, and says so. A run that diverged counts up to where it diverged.

Two claims are not about seeds: C2 is judged on one measurement (see `judge_complexity`), and C3, one added line, is shown in its notebook.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

MIN_SEEDS = 3


@dataclass(frozen=True)
class Claim:
    """number: as in the README (C1 ...); words: the claim, in short; statistic: what we compute for each seed; the claim holds `below` or above `threshold`."""

    number: str
    words: str
    statistic: str
    threshold: float
    below: bool

    def about(self, **names: str) -> Claim:
        """The same claim with the names in its {braces} filled in."""
        return replace(
            self, words=self.words.format(**names), statistic=self.statistic.format(**names)
        )

    def judge(self, values, can_decide: bool = True) -> dict:
        """One row of a claims table from the statistic's values (one a seed; nan for a seed that has none, which decides nothing).

        can_decide: False where the data could not settle the claim whatever they show, such as a handful of photographs in COCO's place.
        """
        values = np.asarray(values, dtype=float)
        values = values[np.isfinite(values)]
        mean, low, high = bootstrap_mean(values)
        inside, outside = (
            (high < self.threshold, low >= self.threshold)
            if self.below
            else (low > self.threshold, high <= self.threshold)
        )
        verdict = "inconclusive"
        if can_decide and len(values) >= MIN_SEEDS:
            verdict = "supported" if inside else "not supported" if outside else "inconclusive"
        return {
            "": self.number,
            "the claim": self.words,
            "statistic": self.statistic,
            "holds if": f"{'<' if self.below else '>'} {self.threshold:g}",
            "mean": f"{mean:.3g}",
            "95% interval": f"[{low:.3g}, {high:.3g}]",
            "seeds": len(values),
            "mean agrees": "yes"
            if (mean < self.threshold if self.below else mean > self.threshold)
            else "no"
            if len(values)
            else "",
            "verdict": verdict,
        }


C1_VANILLA_GROWS = Claim(
    "C1",
    "the spectral norm of vanilla's Jacobian grows",
    "vanilla: spectral norm, last third of training / first third",
    1.25,
    below=False,
)
C1_IMPLICIT_STAYS = Claim(
    "C1", "implicit's does not", "implicit: spectral norm, last third of training / first third", 1.25, below=True
)  # fmt: skip
C1_TRAINS_BETTER = Claim(
    "C1", "implicit trains far better", "validation cross entropy, last tenth of training: implicit / vanilla", 0.8, below=True
)  # fmt: skip
C4_CLOSE_TO_ZERO = Claim(
    "C4",
    "the forward residual is close to zero",
    "implicit: relative residual of step {n}, last third of training",
    0.1,
    below=True,
)
C4_STABLE = Claim(
    "C4",
    "and stable",
    "implicit: relative residual of step {n}, last third of training / first third",
    1.5,
    below=True,
)
# judged twice: "without the tricks", as the small profiles train, and "with all tricks", as the paper does
C5_FAR_BELOW = Claim(
    "C5",
    "{tricks}, BB, IN and BN are far below vanilla",
    "validation cross entropy, last tenth of training: the worst of BB, IN, BN / vanilla",
    0.8,
    below=True,
)
C5_ALIKE = Claim(
    "C5",
    "{tricks}, BB, IN and BN follow the same curve",
    "validation cross entropy, last tenth of training: the worst of BB, IN, BN / the best",
    1.1,
    below=True,
)
C6_IB_UNSTABLE = Claim(
    "C6",
    "{tricks}, IB is less stable than the others",
    "largest rise of the validation cross entropy above its best so far (nats): IB - the worst of BB, IN, BN",
    1.0,
    below=False,
)
C7_OBJECTS = Claim(
    "C7",
    "implicit keeps objects that vanilla loses",
    "CLEVR-Mirror, test: squared error on objects, implicit / vanilla",
    0.8,
    below=True,
)
C7_MASKS = Claim(
    "C7",
    "vanilla's masks degenerate on ShapeStacks, implicit's do not",
    "ShapeStacks, test: FG-ARI, implicit - vanilla",
    0.1,
    below=False,
)
C8_MSE = Claim(
    "C8",
    "implicit's MSE is lower on {data}",
    "regenerated test images: MSE, implicit / vanilla",
    1.0,
    below=True,
)
C8_FRECHET = Claim(
    "C8",
    "implicit's Frechet distance is lower on {data}",
    "regenerated test images: Frechet distance, implicit / vanilla",
    1.0,
    below=True,
)
C9_VANILLA_EXPLODES = Claim(
    "C9",
    "without {trick} vanilla explodes",
    "vanilla: largest spectral norm in training, without {trick} / with all tricks",
    2.0,
    below=False,
)
C9_IMPLICIT_DOES_NOT = Claim(
    "C9",
    "without {trick} implicit does not",
    "implicit: largest spectral norm in training, without {trick} / with all tricks",
    2.0,
    below=True,
)
C9_DECAY_TAMES = Claim(
    "C9",
    "learning-rate decay tames {method}'s norm",
    "{method}: spectral norm, last third of training, with all tricks / without lr decay",
    0.9,
    below=True,
)
C9_DECAY_HURTS = Claim(
    "C9",
    "and hurts {method}'s optimisation",
    "{method}: validation cross entropy, last tenth, with all tricks / without lr decay",
    1.0,
    below=False,
)
C10_EXPLODES = Claim(
    "C10",
    "without {trick} vanilla's gradients explode",
    "largest gradient norm of slot attention in training: vanilla / implicit",
    10.0,
    below=False,
)
C11_INSENSITIVE = Claim(
    "C11",
    "implicit is insensitive to the number of iterations",
    "implicit: validation cross entropy at the end, worst number / best",
    1.2,
    below=True,
)
C11_HARDER = Claim(
    "C11",
    "vanilla is harder to train with more",
    "vanilla: validation cross entropy at the end, most iterations / fewest",
    1.1,
    below=False,
)
C12_ONE_IS_WORSE = Claim(
    "C12",
    "vanilla with one iteration reconstructs about 2x worse",
    "regenerated test MSE: vanilla with 1 iteration / implicit with {n}",
    1.5,
    below=False,
)
C13_BETTER = Claim(
    "C13",
    "implicit predicts properties better, at distance {t}",
    "test average precision at distance {t}: implicit - vanilla, both trained with {n} iterations",
    0.05,
    below=False,
)
C13_ONE_IS_NOT_ENOUGH = Claim(
    "C13",
    "one iteration does not mend vanilla",
    "test average precision at any distance: implicit with {n} iterations - vanilla with 1",
    0.05,
    below=False,
)
C13_SCALES = Claim(
    "C13",
    "implicit scales to more iterations",
    "test average precision at any distance: implicit with {most} iterations - with {n}",
    -0.05,
    below=False,
)
C14_FOREGROUND_ARI = Claim(
    "C14",
    "implicit keeps the quality of the masks, by FG-ARI",
    "test FG-ARI of the decoder's masks: implicit - vanilla",
    -0.05,
    below=False,
)
C14_MEAN_IOU = Claim(
    "C14", "and by mIoU", "test mIoU of the decoder's masks: implicit - vanilla", -0.05, below=False
)
C15_SEVERAL = Claim(
    "C15", "several decompositions are possible", "adjusted Rand index of implicit's masks with vanilla's, same scenes", 0.8, below=True
)  # fmt: skip
C16_VANILLA_DROPS = Claim(
    "C16",
    "without clipping vanilla drops in quality",
    "vanilla: regenerated test MSE, without clipping / with all tricks",
    1.2,
    below=False,
)
C16_IMPLICIT_DOES_NOT = Claim(
    "C16",
    "implicit does not",
    "implicit: regenerated test MSE, without clipping / with all tricks",
    1.1,
    below=True,
)
C17_LOWER = Claim(
    "C17",
    "implicit's validation loss is lower on {data}",
    "validation cross entropy, last tenth of training: implicit / vanilla",
    1.0,
    below=True,
)
# ours, not the paper's
B1_ALIKE = Claim(
    "B1",
    "{method} trains in bfloat16 as in float32",
    "validation cross entropy, last tenth of training: a bfloat16 seed's distance from float32's mean / range of float32's seeds",
    1.0,
    below=True,
)
# measured once, not over seeds: judged on the repeats' medians
C2_FLAT, C2_LINEAR = (
    0.1,
    (0.8, 1.2),
)  # exponent of n: flat below; linear between (the upper bound was added after the measurement)


def thirds(curve: pd.Series) -> float:
    """Mean over the last third of training divided by the mean over the first, of a curve indexed by step; nan if either is missing."""
    curve = curve.dropna()
    if curve.empty:
        return float("nan")
    end = curve.index[-1]
    return curve[curve.index > 2 * end / 3].mean() / curve[curve.index <= end / 3].mean()


def last(curve: pd.Series, part: float) -> float:
    """Mean over the last `part` of training of a curve indexed by step."""
    curve = curve.dropna()
    return curve[curve.index > (1 - part) * curve.index[-1]].mean() if len(curve) else float("nan")


def largest_rise(curve: pd.Series) -> float:
    """How far a curve indexed by step ever rises above its best value so far: 0 for one that only falls."""
    curve = curve.dropna()
    return float((curve - curve.cummin()).max()) if len(curve) else float("nan")


def bootstrap_mean(
    values: np.ndarray, draws: int = 10_000, level: float = 0.95
) -> tuple[float, float, float]:
    """Mean of the values and the percentile bootstrap interval of that mean; nan for no values. Deterministic."""
    if not len(values):
        return (float("nan"),) * 3
    resampled = np.random.default_rng(0).choice(values, (draws, len(values))).mean(1)
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return float(values.mean()), float(low), float(high)


def sentence(row: dict) -> str:
    """A row of `judge` in words."""
    few = {"yes": "agrees with the claim", "no": "does not agree with the claim"}.get(
        row["mean agrees"], "does not exist"
    )
    too_few = f" Too few seeds for a verdict; the mean {few}." if row["seeds"] < MIN_SEEDS else ""
    return (
        f"{row['']}, {row['the claim']}: {row['verdict']} at this scale. {row['statistic']}: {row['mean']}, 95% interval {row['95% interval']} "
        f"over {row['seeds']} seed(s); the claim holds if {row['holds if']}.{too_few}"
    )


def exponent(curve: pd.Series) -> float:
    """Exponent of a power law fitted to the upper half (by logarithm) of a curve indexed by n: 0 is flat, 1 is linear."""
    return log_log_slope(curve[curve.index >= np.sqrt(curve.index[0] * curve.index[-1])])


def log_log_slope(curve: pd.Series) -> float:
    """Return the least-squares slope of the curve's logarithm against that of its index."""
    slope, _ = np.polyfit(np.log(curve.index.to_numpy(float)), np.log(curve.to_numpy()), 1)
    return float(slope)


def judge_complexity(method: str, what: str, value: float, flat: bool) -> dict:
    """C2 for one method and quantity, from its measured exponent of n."""
    holds = value < C2_FLAT if flat else C2_LINEAR[0] < value < C2_LINEAR[1]
    return {
        "": "C2",
        "the claim": f"{method}: {what} is {'constant' if flat else 'linear'} in n",
        "exponent": f"{value:.2f}",
        "holds if": f"< {C2_FLAT}" if flat else f"{C2_LINEAR[0]} to {C2_LINEAR[1]}",
        "verdict": "supported" if holds else "not supported",
    }
