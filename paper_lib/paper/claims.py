"""How each of the paper's claims is judged: the claim, our statistic, the threshold.

These are the criteria of docs/protocol.md; what had been seen when each was written is in
docs/log.md. `verdicts` computes the statistics of the runs.

A statistic is computed for each seed, of vanilla and implicit of the same seed where both are in
it. Over seeds it gets a mean and Student's 95% interval, on the logarithm for ratios, and the
verdict follows from that interval alone:

    supported        it lies wholly on the claim's side of the threshold
    not supported    it lies wholly on the other side
    inconclusive     neither, or there are fewer than three seeds

A small scale is no reason for another threshold: the verdict is about this scale, and says so. A
run that diverged counts up to where it diverged.

Two claims are not about seeds: C2 is judged on one measurement (see `judge_complexity`), and C3,
one added line, is shown in its notebook.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from paper_lib.paper.statistics import t_interval

MIN_SEEDS = 3
NAN = float("nan")
_FEW = {0: "no seed", 1: "one seed", 2: "two seeds"}  # too few for an interval


@dataclass(frozen=True)
class Judged:
    """What our runs say of a claim.

    number, words, statistic   the claim's
    criterion                  its threshold as text; "" if it has none
    mean, low, high            of the statistic, over seeds; nan where there is none
    seeds                      how many have the statistic; None for what is measured once
    verdict                    supported, not supported, inconclusive, or why it was not judged
    agrees                     whether the mean does what the claim says; None where there is no
                               mean, or where it could say nothing
    paper                      the same statistic of the paper's own numbers, where it prints them
    share                      of the paper's effect: the logarithm of our ratio divided by that of
                               the paper's, 0 for no effect and 1 for the paper's; nan where the two
                               cannot be compared
    margin                     how far mean, low and high lie on the claim's side of the threshold,
                               as logarithms for ratios; three nan without a threshold
    """

    number: str
    words: str
    statistic: str
    criterion: str = ""
    mean: float = NAN
    low: float = NAN
    high: float = NAN
    seeds: int | None = 0
    verdict: str = "inconclusive"
    agrees: bool | None = None
    paper: float = NAN
    share: float = NAN
    ratio: bool = False
    margin: tuple[float, float, float] = (NAN, NAN, NAN)

    @property
    def interval(self) -> str:
        """The 95% interval as text, or why there is none."""
        if self.seeds is None:
            return "one measurement"
        _, low, high = self.margin
        bounds = f"[{_bound(self.low, low)}, {_bound(self.high, high)}]"
        return _FEW.get(self.seeds, bounds)

    def row(self) -> dict:
        """Return one row of a claims table."""
        return {
            "": self.number,
            "the claim": self.words,
            "statistic": self.statistic,
            "holds if": self.criterion,
            "mean": _number(self.mean),
            "95% interval": self.interval,
            "seeds": "" if self.seeds is None else self.seeds,
            "mean agrees": {True: "yes", False: "no", None: ""}[self.agrees],
            "verdict": self.verdict,
            "the paper's": _number(self.paper),
        }

    def sentence(self) -> str:
        """Say it in words."""
        about = f"{self.number}, {self.words}: {self.verdict}"
        if math.isnan(self.mean):
            return f"{about}. {self.statistic}: there is none here.{self._of_the_paper()}"
        said = f"{about}{' at this scale' if self.criterion else ''}. {self.statistic}: "
        if self.seeds is None:
            said += f"{self.mean:.3g}"
        elif self.seeds in _FEW:
            said += f"{self.mean:.3g} ({_FEW[self.seeds]})"
        else:
            said += f"{self.mean:.3g}, 95% interval {self.interval} over {self.seeds} seeds"
        if self.criterion:
            said += f"; the claim holds if {self.criterion}"
        said += f".{self._of_the_paper()}"
        if self.seeds in _FEW and self.agrees is not None:
            agrees = "agrees" if self.agrees else "does not agree"
            said += f" Too few seeds for a verdict; the mean {agrees} with the claim."
        return said

    def _of_the_paper(self) -> str:
        return "" if math.isnan(self.paper) else f" The paper's own: {self.paper:.3g}."


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3g}"


def _bound(value: float, margin: float) -> str:
    """Return a bound of an interval as text: with more digits where it is close to the threshold,
    so that one can see on which side it lies."""
    return f"{value:.4g}" if abs(margin) < 0.01 else f"{value:.3g}"


@dataclass(frozen=True)
class Claim:
    """A claim and its criterion.

    number        as in the README: C1 ...
    words         the claim, in short
    statistic     what is computed for each seed
    above, below  the claim holds if the statistic lies above, or below, this threshold
    ratio         whether the statistic is a ratio, so that its interval is taken on the logarithm
    """

    number: str
    words: str
    statistic: str
    above: float | None = None
    below: float | None = None
    ratio: bool = False

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

    def judge(
        self,
        values,
        undecided: str = "",
        paper: float = NAN,
        comparable: bool = True,
    ) -> Judged:
        """Judge the claim by its statistic.

        values      the statistic, one a seed; nan for a seed that has none, which decides nothing
        undecided   why the runs could not settle the claim, whatever they show; "" if they could
        paper       the statistic of the paper's own numbers
        comparable  whether ours is the paper's quantity, so that the sizes of effects compare
        """
        values = np.asarray(values, dtype=float)
        values = values[np.isfinite(values)]
        mean, low, high = t_interval(values, self.ratio)
        verdict, agrees = "inconclusive", None
        if undecided:
            verdict += f": {undecided}"
        elif len(values):
            agrees = self._holds(mean)
            if len(values) >= MIN_SEEDS:
                verdict = self._verdict(low, high)
        share = math.log(mean) / math.log(paper) if self.ratio and comparable else NAN
        return Judged(
            number=self.number,
            words=self.words,
            statistic=self.statistic,
            criterion=self.criterion,
            mean=mean,
            low=low,
            high=high,
            seeds=len(values),
            verdict=verdict,
            agrees=agrees,
            paper=paper,
            share=share,
            ratio=self.ratio,
            margin=tuple(self._margin(value) for value in (mean, low, high)),
        )

    def without_data(self, why: str, paper: float = NAN) -> Judged:
        """Return what stands in the claim's place where there is nothing to judge it by."""
        return replace(self.judge([], paper=paper), verdict=why)

    def _holds(self, value: float) -> bool:
        return value < self.below if self.above is None else value > self.above

    def _margin(self, value: float) -> float:
        threshold, side = (self.above, 1) if self.below is None else (self.below, -1)
        return side * (math.log(value / threshold) if self.ratio else value - threshold)

    def _verdict(self, low: float, high: float) -> str:
        if self._holds(low) and self._holds(high):
            return "supported"
        if not self._holds(low) and not self._holds(high):
            return "not supported"
        return "inconclusive"


def shown(number: str, words: str, statistic: str, values, ratio: bool = False) -> Judged:
    """Return what is shown beside a claim and not judged: a statistic, one a seed."""
    values = np.asarray(values, dtype=float)
    values = values[np.isfinite(values)]
    mean, low, high = t_interval(values, ratio)
    return Judged(number, words, statistic, "", mean, low, high, len(values), "shown", ratio=ratio)


# ---- the claims ----

C1_VANILLA_GROWS = Claim(
    number="C1",
    words="the spectral norm of vanilla's Jacobian grows",
    statistic="vanilla: spectral norm, last third of training / first third",
    above=1.25,
    ratio=True,
)
C1_IMPLICIT_STAYS = Claim(
    number="C1",
    words="the spectral norm of implicit's Jacobian does not grow",
    statistic="implicit: spectral norm, last third of training / first third",
    below=1.25,
    ratio=True,
)
C1_TRAINS_BETTER = Claim(
    number="C1",
    words="implicit trains far better",
    statistic="validation cross entropy, last tenth of training: implicit / vanilla",
    below=0.8,
    ratio=True,
)
C4_CLOSE_TO_ZERO = Claim(
    number="C4",
    words="the forward residual is close to zero",
    statistic="implicit: relative residual of step {n}, last third of training",
    below=0.1,
)
C4_STABLE = Claim(
    number="C4",
    words="the forward residual is stable",
    statistic="implicit: relative residual of step {n}, last third of training / first third",
    below=1.5,
    ratio=True,
)
# C5 and C6 are judged twice: "without the tricks", as the small profiles train, and "with all
# tricks", as the paper does.
C5_FAR_BELOW = Claim(
    number="C5",
    words="{tricks}, BB, IN and BN are far below vanilla",
    statistic="validation cross entropy, last tenth of training: the worst of BB, IN, BN / vanilla",
    below=0.8,
    ratio=True,
)
C5_ALIKE = Claim(
    number="C5",
    words="{tricks}, BB, IN and BN follow the same curve",
    statistic="validation cross entropy, last tenth of training: the worst of BB, IN, BN / "
    "the best",
    below=1.1,
    ratio=True,
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
    ratio=True,
)
C7_VANILLA_DEGENERATES = Claim(
    number="C7",
    words="vanilla's masks degenerate on ShapeStacks",
    statistic="ShapeStacks, test: share of the foreground in the fullest slot, vanilla - implicit",
    above=0.1,
)
C7_IMPLICIT_DOES_NOT = Claim(
    number="C7",
    words="implicit's masks do not degenerate on ShapeStacks",
    statistic="ShapeStacks, test: FG-ARI, implicit - a grid's",
    above=0.0,
)
C8_MSE = Claim(
    number="C8",
    words="implicit's MSE is lower on {data}",
    statistic="regenerated test images: MSE, implicit / vanilla",
    below=1.0,
    ratio=True,
)
C8_FRECHET = Claim(
    number="C8",
    words="implicit's Frechet distance is lower on {data}",
    statistic="regenerated test images: Frechet distance, implicit / vanilla",
    below=1.0,
    ratio=True,
)
C9_VANILLA_EXPLODES = Claim(
    number="C9",
    words="without {trick} vanilla explodes",
    statistic="vanilla: largest spectral norm in training, without {trick} / with all tricks",
    above=2.0,
    ratio=True,
)
C9_IMPLICIT_DOES_NOT = Claim(
    number="C9",
    words="without {trick} implicit does not explode",
    statistic="implicit: largest spectral norm in training, without {trick} / with all tricks",
    below=2.0,
    ratio=True,
)
C9_DECAY_TAMES = Claim(
    number="C9",
    words="learning-rate decay tames {method}'s norm",
    statistic="{method}: spectral norm, last third of training, with all tricks / without lr decay",
    below=0.9,
    ratio=True,
)
C9_DECAY_HURTS = Claim(
    number="C9",
    words="learning-rate decay hurts {method}'s optimisation",
    statistic="{method}: validation cross entropy, last tenth, with all tricks / without lr decay",
    above=1.0,
    ratio=True,
)
C10_EXPLODES = Claim(
    number="C10",
    words="without clipping vanilla's gradients explode",
    statistic="vanilla: largest gradient norm of slot attention in training, without clipping / "
    "with all tricks",
    above=10.0,
    ratio=True,
)
C10_IMPLICIT_DOES_NOT = Claim(
    number="C10",
    words="without clipping implicit's gradients do not explode",
    statistic="implicit: largest gradient norm of slot attention in training, without clipping / "
    "with all tricks",
    below=10.0,
    ratio=True,
)
C11_HARDER = Claim(
    number="C11",
    words="vanilla gets harder to train with more iterations",
    statistic="growth of the validation cross entropy (last tenth, most iterations / fewest): "
    "vanilla's / implicit's",
    above=1.1,
    ratio=True,
)
C11_INSENSITIVE = Claim(
    number="C11",
    words="implicit is insensitive to the number of iterations",
    statistic="implicit: validation cross entropy, last tenth, worst number of iterations / best",
    below=1.2,
    ratio=True,
)
C12_ONE_IS_WORSE = Claim(
    number="C12",
    words="vanilla with one iteration reconstructs about 2x worse",
    statistic="regenerated test MSE: vanilla with 1 iteration / implicit with {n}",
    above=1.5,
    ratio=True,
)
C13_BETTER = Claim(
    number="C13",
    words="implicit predicts properties better, {where}",
    statistic="test average precision {where}: implicit - vanilla, both with {n} iterations",
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
    words="implicit keeps the quality of the masks, by mIoU",
    statistic="test mIoU of the decoder's masks: implicit - vanilla",
    above=-0.05,
)
C15_SEVERAL = Claim(
    number="C15",
    words="several decompositions are possible",
    statistic="adjusted Rand index of masks from two initial noises: of one run - of vanilla with "
    "implicit",
    above=0.1,
)
C16_VANILLA_DROPS = Claim(
    number="C16",
    words="without clipping vanilla drops in quality",
    statistic="vanilla: regenerated test MSE, without clipping / with all tricks",
    above=1.2,
    ratio=True,
)
C16_IMPLICIT_DOES_NOT = Claim(
    number="C16",
    words="without clipping implicit does not drop in quality",
    statistic="implicit: regenerated test MSE, without clipping / with all tricks",
    below=1.1,
    ratio=True,
)
C17_LOWER = Claim(
    number="C17",
    words="implicit's validation loss is lower on {data}",
    statistic="validation cross entropy, last tenth of training: implicit / vanilla",
    below=1.0,
    ratio=True,
)
# This one is ours, not the paper's.
B1_ALIKE = Claim(
    number="B1",
    words="{method} trains in bfloat16 as in float32",
    statistic="validation cross entropy, last tenth of training: a bfloat16 seed's distance from "
    "float32's mean / range of float32's seeds",
    below=1.0,
    ratio=True,
)

# ---- C2, which is measured once, not over seeds: judged on the repeats' medians ----

# The exponent of n: flat below the one, linear between the two. (The upper bound was added after
# the measurement.)
C2_FLAT = 0.1
C2_LINEAR = (0.8, 1.2)


def judge_complexity(method: str, what: str, exponent: float, flat: bool) -> Judged:
    """Judge C2 for one method and quantity.

    exponent  the measured exponent of n
    flat      whether the paper calls the quantity O(1), and not O(n)
    """
    low, high = C2_LINEAR
    if flat:
        growth, criterion, holds = "constant", f"< {C2_FLAT}", exponent < C2_FLAT
    else:
        growth, criterion, holds = "linear", f"{low} to {high}", low < exponent < high
    return Judged(
        number="C2",
        words=f"{method}: {what} is {growth} in n",
        statistic="fitted exponent of n",
        criterion=criterion,
        mean=round(exponent, 2),
        seeds=None,
        verdict="supported" if holds else "not supported",
        agrees=holds,
    )
