"""The criteria of the notebooks on other models: questions of our own, judged as claims.

They were written before any run that they judge. What was known then: of softmax slot attention
with drawn slots at this scale, trained for 10,000 steps, implicit's cross entropy is 0.72 of
vanilla's over four seeds, and vanilla's gradients are a thousand times larger (`pair_32px`); and
Fig. 7's set predictors, one seed each. Of learned slots, of other cells and of iDSPN nothing had
been trained but for a few dozen steps of tests.

A difference in a loss counts from a twentieth on. *Late* is the last tenth of training, the largest
gradient is that of what iterates, over all of training.
"""

from __future__ import annotations

from paper_lib.paper.claims import Claim

# ---- ext06: initial slots that are learned ----

L1_STRAIGHT_THROUGH = Claim(
    number="L1",
    words="{initial} initial slots need the straight-through estimate",
    statistic="{initial} slots, late validation cross entropy: straight-through / one step",
    below=0.95,
    ratio=True,
)
L2_LEARNED = Claim(
    number="L2",
    words="with it learned slots train better than drawn ones",
    statistic="late validation cross entropy: learned, straight-through / drawn, one step",
    below=0.95,
    ratio=True,
)
L3_HELPS = Claim(
    number="L3",
    words="learned slots train better with it than by unrolling",
    statistic="learned slots, late validation cross entropy: straight-through / vanilla",
    below=0.95,
    ratio=True,
)
L4_UNTRAINED = Claim(
    number="L4",
    words="slots that start at vectors which nothing trains are worse than drawn ones",
    statistic="one step, late validation cross entropy: learned / drawn",
    above=1.05,
    ratio=True,
)
L5_GRADIENT = Claim(
    number="L5",
    words="learned slots: the straight-through gradient stays smaller than the unrolled one",
    statistic="learned slots, largest gradient: straight-through / vanilla",
    below=0.5,
    ratio=True,
)

# ---- ext07: other cells ----

O1_HELPS = Claim(
    number="O1",
    words="{cell}: the implicit gradient trains this cell better, too",
    statistic="{cell}, late validation {loss}: implicit / vanilla",
    below=0.95,
    ratio=True,
)
O2_GRADIENT = Claim(
    number="O2",
    words="{cell}: the implicit gradient stays smaller",
    statistic="{cell}, largest gradient: implicit / vanilla",
    below=0.5,
    ratio=True,
)
O3_VANILLA_GROWS = Claim(
    number="O3",
    words="{cell}: the spectral norm of vanilla's Jacobian grows",
    statistic="{cell}, vanilla: spectral norm, last third of training / first third",
    above=1.25,
    ratio=True,
)
O4_RESTS = Claim(
    number="O4",
    words="{cell}: under implicit the iteration comes to rest",
    statistic="{cell}, implicit: relative residual of step {n}, last tenth of training",
    below=0.1,
)
O5_CELL = Claim(
    number="O5",
    words="{cell} trains better than softmax",
    statistic="implicit, late validation cross entropy: {cell} / softmax",
    below=0.95,
    ratio=True,
)
O6_SETS = Claim(
    number="O6",
    words="iDSPN: the implicit gradient predicts properties better",
    statistic="test AP at any distance: implicit - vanilla",
    above=0.05,
)
