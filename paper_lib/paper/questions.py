"""The criteria of the notebooks that go beyond the paper: questions of our own, judged as claims.

Two of them, ext01 and ext05, look at the trained cells of runs that other figures show; ext05
trains nothing, and ext01 the first steps of some again, to see cells before the end. What had been
seen of those cells before the criteria were written: Figure 2 had shown implicit's, under one, two
and eight terms of the series, Broyden and unrolling (cosine and length of the gradient, medians
over seeds), and Figure 3a the residuals of both methods' iteration. The others train. The log has
the commits.
"""

from __future__ import annotations

from paper_lib.paper.claims import Claim

# ---- ext01: how near each gradient comes to the exact one ----
# The relative error of a gradient g is ||g - exact|| / ||exact||, with respect to a cell's weights;
# a seed's value is the median over its scenes that have a fixed point. n is the number of
# iterations in training.

G1_ONE_STEP = Claim(
    number="G1",
    words="{method}: one step is near the exact gradient",
    statistic="relative error of the one-step gradient after n iterations, median over scenes",
    below=0.5,
)
G2_GMRES = Claim(
    number="G2",
    words="{method}: for as many products with J, GMRES is nearer than the series",
    statistic="relative error of the gradient at the fixed point: GMRES of 8 steps / the series "
    "of 8 terms, median over scenes",
    below=0.5,
    ratio=True,
)
G3_UNROLLED = Claim(
    number="G3",
    words="{method}: unrolling is further away than one step",
    statistic="relative error after n iterations: unrolled / one step, median over scenes",
    above=1.0,
    ratio=True,
)
G4_EXISTS = Claim(
    number="G4",
    words="vanilla's cells reach a fixed point less often than implicit's",
    statistic="share of scenes whose iteration converges: implicit - vanilla",
    above=0.25,
)
# What announces the error of one step at the fixed point: of residual after n iterations, spectral
# radius of J, its norm, and condition of I - J, the one whose rank correlation with that error
# (Spearman's, over all scenes of all cells that have a fixed point) is largest; it is called an
# announcement if that correlation is above this.
G5_ANNOUNCES = 0.7

# Along training: of the runs whose cells are kept at several steps (`extensions.along`).
G6_ALONG = Claim(
    number="G6",
    words="{method}: one step moves away from the exact gradient as training goes on",
    statistic="relative error of the one-step gradient after n iterations, median over scenes: "
    "after the last step / after the first at which cells are kept",
    above=1.25,
    ratio=True,
)

# ---- ext05: which fixed points there are ----
# From many initial slots of one scene; a seed's value is the mean over its scenes.

P1_CONVERGES = Claim(
    number="P1",
    words="{method}: iteration converges from most initial slots",
    statistic="share of initial slots from which it reaches a fixed point",
    above=0.9,
)
P2_SEVERAL = Claim(
    number="P2",
    words="{method}: it depends on the initial slots which fixed point is reached",
    statistic="share of the largest basin among the initial slots that reach one",
    below=0.5,
)
P3_NO_COLLAPSE = Claim(
    number="P3",
    words="{method}: slots do not collapse",
    statistic="share of the fixed points reached in which two slots are the same",
    below=0.05,
)
P4_LESS_OFTEN = Claim(
    number="P4",
    words="vanilla's iteration converges from fewer initial slots than implicit's",
    statistic="share of initial slots from which a fixed point is reached: implicit - vanilla",
    above=0.2,
)
P5_ITERATIONS = Claim(
    number="P5",
    words="{method}: more iterations bring different initial slots together",
    statistic="agreement of the slots from different initial slots, 50 iterations - n iterations",
    above=0.05,
)
P6_MORE_SLOTS = Claim(
    number="P6",
    words="{method}: with more slots than in training iteration still converges",
    statistic="share of initial slots from which it reaches a fixed point, twice as many slots",
    above=0.9,
)

# ---- ext02: training with each gradient ----
# Late is the last tenth of training. Unrolling and one step are vanilla and implicit.

E1_BEATS_UNROLLING = Claim(
    number="E1",
    words="{gradient} trains better than unrolling",
    statistic="late validation cross entropy: {gradient} / unrolled",
    below=0.95,
    ratio=True,
)
E2_NO_BETTER = Claim(
    number="E2",
    words="{gradient} trains no better than one step",
    statistic="late validation cross entropy: {gradient} / one step",
    above=0.97,
    ratio=True,
)
E3_STAYS_SMALL = Claim(
    number="E3",
    words="{gradient}: gradients stay as small as one step's",
    statistic="largest gradient norm of slot attention in training: {gradient} / one step",
    below=10.0,
    ratio=True,
)

# ---- ext03: what announces that vanilla fails ----
# A run fails at the first evaluation since which, or since the one before, a gradient norm of slot
# attention above this was logged. What may announce it gives the alarm at the first evaluation
# after the warm-up at which it is so many times what it was at the end of the warm-up.
FAILURE = 1_000.0
ALARM = 3.0

A1_IN_TIME = Claim(
    number="A1",
    words="{candidate} announces that vanilla fails",
    statistic="steps from the alarm to the failure, vanilla; without an alarm, to the end of "
    "training instead",
    above=0.0,
)
A2_NO_FALSE_ALARM = Claim(
    number="A2",
    words="{candidate} gives no false alarm under implicit",
    statistic="1 for an implicit run with an alarm that does not fail, else 0",
    below=0.5,
)

# ---- ext04: when the difference matters ----

M1_STILL = Claim(
    number="M1",
    words="implicit trains better: {setting}",
    statistic="late validation cross entropy, implicit / vanilla",
    below=0.95,
    ratio=True,
)
M2_TUNED = Claim(
    number="M2",
    words="tuning the learning rate does not close the gap",
    statistic="late validation cross entropy, each method at its own best learning rate of three "
    "(the lowest mean over seeds): implicit / vanilla",
    below=0.95,
    ratio=True,
)
