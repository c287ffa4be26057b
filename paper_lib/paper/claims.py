"""How each of the paper's claims is judged: the claim, our statistic, the threshold.

When each was written, and before which runs, is in docs/log.md. A statistic is computed for each
seed. Over seeds it gets a mean and a 95% bootstrap interval, and the verdict follows from that
interval alone:

    supported        it lies wholly on the claim's side of the threshold
    not supported    it lies wholly on the other side
    inconclusive     neither, or there are fewer than three seeds

With three seeds that interval is simply their range: a verdict then says that all three agree, and
no more. A small scale is no reason for another threshold: the verdict is about this scale, and says
so. A run that diverged counts up to where it diverged.

Two claims are not about seeds: C2 is judged on one measurement (see `judge_complexity`), and C3,
one added line, is shown in its notebook.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from paper_lib.paper.statistics import bootstrap_mean

MIN_SEEDS = 3


@dataclass(frozen=True)
class Claim:
    """A claim and its criterion.

    number        as in the README: C1 ...
    words         the claim, in short
    statistic     what is computed for each seed
    above, below  the claim holds if the statistic lies above, or below, this threshold
    """

    number: str
    words: str
    statistic: str
    above: float | None = None
    below: float | None = None

    def __post_init__(self):
        if (self.above is None) == (self.below is None):
            raise ValueError(f"{self.number}: a claim has one threshold, either above or below")

    @property
    def criterion(self) -> str:
        """The threshold as text: > 2 or < 0.8."""
        return f"< {self.below:g}" if self.above is None else f"> {self.above:g}"

    def about(self, **names: str) -> Claim:
        """Return the same claim with the names in its {braces} filled in."""
        words = self.words.format(**names)
        return replace(self, words=words, statistic=self.statistic.format(**names))

    def judge(self, values, can_decide: bool = True) -> dict:
        """Return one row of a claims table.

        values      the statistic, one a seed; nan for a seed that has none, which decides nothing
        can_decide  False where the data could not settle the claim whatever they show, such as a
                    handful of photographs in COCO's place
        """
        values = np.asarray(values, dtype=float)
        values = values[np.isfinite(values)]
        mean, low, high = bootstrap_mean(values)
        verdict = "inconclusive"
        if can_decide and len(values) >= MIN_SEEDS:
            verdict = self._verdict(low, high)
        agrees = ""
        if len(values):
            agrees = "yes" if self._holds(mean) else "no"
        return {
            "": self.number,
            "the claim": self.words,
            "statistic": self.statistic,
            "holds if": self.criterion,
            "mean": f"{mean:.3g}",
            "95% interval": f"[{low:.3g}, {high:.3g}]",
            "seeds": len(values),
            "mean agrees": agrees,
            "verdict": verdict,
        }

    def _holds(self, value: float) -> bool:
        return value < self.below if self.above is None else value > self.above

    def _verdict(self, low: float, high: float) -> str:
        if self._holds(low) and self._holds(high):
            return "supported"
        if not self._holds(low) and not self._holds(high):
            return "not supported"
        return "inconclusive"


def sentence(row: dict) -> str:
    """Return a row of `Claim.judge` in words."""
    text = (
        f"{row['']}, {row['the claim']}: {row['verdict']} at this scale. {row['statistic']}: "
        f"{row['mean']}, 95% interval {row['95% interval']} over {row['seeds']} seed(s); the claim "
        f"holds if {row['holds if']}."
    )
    if row["seeds"] < MIN_SEEDS:
        what_the_mean_does = {
            "yes": "agrees with the claim",
            "no": "does not agree with the claim",
            "": "does not exist",
        }
        mean = what_the_mean_does[row["mean agrees"]]
        text += f" Too few seeds for a verdict; the mean {mean}."
    return text


# ---- the claims ----

C1_VANILLA_GROWS = Claim(
    number="C1",
    words="the spectral norm of vanilla's Jacobian grows",
    statistic="vanilla: spectral norm, last third of training / first third",
    above=1.25,
)
C1_IMPLICIT_STAYS = Claim(
    number="C1",
    words="implicit's does not",
    statistic="implicit: spectral norm, last third of training / first third",
    below=1.25,
)
C1_TRAINS_BETTER = Claim(
    number="C1",
    words="implicit trains far better",
    statistic="validation cross entropy, last tenth of training: implicit / vanilla",
    below=0.8,
)
C4_CLOSE_TO_ZERO = Claim(
    number="C4",
    words="the forward residual is close to zero",
    statistic="implicit: relative residual of step {n}, last third of training",
    below=0.1,
)
C4_STABLE = Claim(
    number="C4",
    words="and stable",
    statistic="implicit: relative residual of step {n}, last third of training / first third",
    below=1.5,
)
# C5 and C6 are judged twice: "without the tricks", as the small profiles train, and "with all
# tricks", as the paper does.
C5_FAR_BELOW = Claim(
    number="C5",
    words="{tricks}, BB, IN and BN are far below vanilla",
    statistic="validation cross entropy, last tenth of training: the worst of BB, IN, BN / vanilla",
    below=0.8,
)
C5_ALIKE = Claim(
    number="C5",
    words="{tricks}, BB, IN and BN follow the same curve",
    statistic="validation cross entropy, last tenth of training: the worst of BB, IN, BN / "
    "the best",
    below=1.1,
)
C6_IB_UNSTABLE = Claim(
    number="C6",
    words="{tricks}, IB is less stable than the others",
    statistic="largest rise of the validation cross entropy above its best so far (nats): IB - "
    "the worst of BB, IN, BN",
    above=1.0,
)
C7_OBJECTS = Claim(
    number="C7",
    words="implicit keeps objects that vanilla loses",
    statistic="CLEVR-Mirror, test: squared error on objects, implicit / vanilla",
    below=0.8,
)
C7_MASKS = Claim(
    number="C7",
    words="vanilla's masks degenerate on ShapeStacks, implicit's do not",
    statistic="ShapeStacks, test: FG-ARI, implicit - vanilla",
    above=0.1,
)
C8_MSE = Claim(
    number="C8",
    words="implicit's MSE is lower on {data}",
    statistic="regenerated test images: MSE, implicit / vanilla",
    below=1.0,
)
C8_FRECHET = Claim(
    number="C8",
    words="implicit's Frechet distance is lower on {data}",
    statistic="regenerated test images: Frechet distance, implicit / vanilla",
    below=1.0,
)
C9_VANILLA_EXPLODES = Claim(
    number="C9",
    words="without {trick} vanilla explodes",
    statistic="vanilla: largest spectral norm in training, without {trick} / with all tricks",
    above=2.0,
)
C9_IMPLICIT_DOES_NOT = Claim(
    number="C9",
    words="without {trick} implicit does not",
    statistic="implicit: largest spectral norm in training, without {trick} / with all tricks",
    below=2.0,
)
C9_DECAY_TAMES = Claim(
    number="C9",
    words="learning-rate decay tames {method}'s norm",
    statistic="{method}: spectral norm, last third of training, with all tricks / without lr decay",
    below=0.9,
)
C9_DECAY_HURTS = Claim(
    number="C9",
    words="and hurts {method}'s optimisation",
    statistic="{method}: validation cross entropy, last tenth, with all tricks / without lr decay",
    above=1.0,
)
C10_EXPLODES = Claim(
    number="C10",
    words="without {trick} vanilla's gradients explode",
    statistic="largest gradient norm of slot attention in training: vanilla / implicit",
    above=10.0,
)
C11_INSENSITIVE = Claim(
    number="C11",
    words="implicit is insensitive to the number of iterations",
    statistic="implicit: validation cross entropy at the end, worst number / best",
    below=1.2,
)
C11_HARDER = Claim(
    number="C11",
    words="vanilla is harder to train with more",
    statistic="vanilla: validation cross entropy at the end, most iterations / fewest",
    above=1.1,
)
C12_ONE_IS_WORSE = Claim(
    number="C12",
    words="vanilla with one iteration reconstructs about 2x worse",
    statistic="regenerated test MSE: vanilla with 1 iteration / implicit with {n}",
    above=1.5,
)
C13_BETTER = Claim(
    number="C13",
    words="implicit predicts properties better, at distance {t}",
    statistic="test average precision at distance {t}: implicit - vanilla, both trained with {n} "
    "iterations",
    above=0.05,
)
C13_ONE_IS_NOT_ENOUGH = Claim(
    number="C13",
    words="one iteration does not mend vanilla",
    statistic="test average precision at any distance: implicit with {n} iterations - "
    "vanilla with 1",
    above=0.05,
)
C13_SCALES = Claim(
    number="C13",
    words="implicit scales to more iterations",
    statistic="test average precision at any distance: implicit with {most} iterations - with {n}",
    above=-0.05,
)
C14_FOREGROUND_ARI = Claim(
    number="C14",
    words="implicit keeps the quality of the masks, by FG-ARI",
    statistic="test FG-ARI of the decoder's masks: implicit - vanilla",
    above=-0.05,
)
C14_MEAN_IOU = Claim(
    number="C14",
    words="and by mIoU",
    statistic="test mIoU of the decoder's masks: implicit - vanilla",
    above=-0.05,
)
C15_SEVERAL = Claim(
    number="C15",
    words="several decompositions are possible",
    statistic="adjusted Rand index of implicit's masks with vanilla's, same scenes",
    below=0.8,
)
C16_VANILLA_DROPS = Claim(
    number="C16",
    words="without clipping vanilla drops in quality",
    statistic="vanilla: regenerated test MSE, without clipping / with all tricks",
    above=1.2,
)
C16_IMPLICIT_DOES_NOT = Claim(
    number="C16",
    words="implicit does not",
    statistic="implicit: regenerated test MSE, without clipping / with all tricks",
    below=1.1,
)
C17_LOWER = Claim(
    number="C17",
    words="implicit's validation loss is lower on {data}",
    statistic="validation cross entropy, last tenth of training: implicit / vanilla",
    below=1.0,
)
# This one is ours, not the paper's.
B1_ALIKE = Claim(
    number="B1",
    words="{method} trains in bfloat16 as in float32",
    statistic="validation cross entropy, last tenth of training: a bfloat16 seed's distance from "
    "float32's mean / range of float32's seeds",
    below=1.0,
)

# ---- C2, which is measured once, not over seeds: judged on the repeats' medians ----

# The exponent of n: flat below the one, linear between the two. (The upper bound was added after
# the measurement.)
C2_FLAT = 0.1
C2_LINEAR = (0.8, 1.2)


def judge_complexity(method: str, what: str, exponent: float, flat: bool) -> dict:
    """Return C2's row of a claims table for one method and quantity.

    exponent  the measured exponent of n
    flat      whether the paper calls the quantity O(1), and not O(n)
    """
    low, high = C2_LINEAR
    if flat:
        growth, criterion, holds = "constant", f"< {C2_FLAT}", exponent < C2_FLAT
    else:
        growth, criterion, holds = "linear", f"{low} to {high}", low < exponent < high
    return {
        "": "C2",
        "the claim": f"{method}: {what} is {growth} in n",
        "exponent": f"{exponent:.2f}",
        "holds if": criterion,
        "verdict": "supported" if holds else "not supported",
    }
