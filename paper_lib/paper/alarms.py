"""When a run fails, and what gave the alarm before: the statistics of ext03.

What counts as a failure and as an alarm is in `questions`, written before the runs.
"""

from __future__ import annotations

import pandas as pd

from paper_lib.paper import results
from paper_lib.paper.questions import ALARM, FAILURE

# What may announce a failure: the column of the metrics, and what it is called.
CANDIDATES = {
    "spectral_norm": "the norm of J at z*",
    "path_norm": "the norm of d z_n / d z_0",
    "gradient_spread": "the spread of gradients over batches",
    "residual": "the residual of the last step",
}
NAN = float("nan")


def failures(group: results.Runs) -> pd.Series:
    """Return the evaluation at which each run has failed, indexed by seed; nan for none.

    It is the first one before which, and after the one before, a gradient norm of slot attention
    above `questions.FAILURE` was logged.
    """
    norms = results.curves(group, "grad_norm_slot_attention_max")
    evaluated = results.curves(group, "val_cross_entropy").index
    steps = {}
    for seed in norms:
        above = norms.index[norms[seed] > FAILURE]
        later = evaluated[evaluated >= above[0]] if len(above) else []
        steps[seed] = float(later[0]) if len(later) else NAN
    return pd.Series(steps, dtype=float)


def alarms(group: results.Runs, column: str) -> pd.Series:
    """Return the evaluation at which a candidate gives the alarm in each run; nan for none.

    It is the first after the warm-up at which it is more than `questions.ALARM` times what it was
    at the end of the warm-up. "residual" is that of the last iteration in training.
    """
    config = group[0].config
    if column == "residual":
        column = f"residual_{config.model.num_iterations}"
    curves = results.curves(group, column).loc[max(config.training.warmup_steps, 1) :]
    steps = {}
    for seed in curves:
        raised = curves.index[curves[seed] > ALARM * curves[seed].iloc[0]]
        steps[seed] = float(raised[0]) if len(raised) else NAN
    return pd.Series(steps, dtype=float)


def leads(group: results.Runs, column: str) -> pd.Series:
    """Return the steps from the alarm to the failure, for the runs that fail, indexed by seed.

    Without an alarm the end of training stands for it, so that what never tells is late.
    """
    failed = failures(group)
    end = group[0].config.training.steps
    return (failed - alarms(group, column).fillna(end)).dropna()


def false_alarms(group: results.Runs, column: str) -> pd.Series:
    """Return 1 for a run with an alarm that does not fail, and 0 for the others, by seed."""
    return (alarms(group, column).notna() & failures(group).isna()).astype(float)
