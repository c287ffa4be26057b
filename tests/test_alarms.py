"""When a run fails and what gave the alarm, on curves made up by hand."""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pandas as pd

from paper_lib.paper import alarms

STEPS = np.arange(50, 1_001, 50)  # logged; evaluated every 100


@dataclass
class Run:
    config: SimpleNamespace
    metrics: pd.DataFrame


def run(seed, gradients=None, spread=None, residual=None):
    """A run of 1,000 steps, 200 of them warm-up; what is given is by step, 1 elsewhere."""
    table = pd.DataFrame({"step": STEPS, "grad_norm_slot_attention_max": 1.0})
    for step, value in (gradients or {}).items():
        table.loc[table["step"] == step, "grad_norm_slot_attention_max"] = value
    evaluated = table["step"] % 100 == 0
    table.loc[evaluated, "val_cross_entropy"] = 1.0
    for column, values in (("gradient_spread", spread), ("residual_7", residual)):
        table.loc[evaluated, column] = 1.0
        for step, value in (values or {}).items():
            table.loc[table["step"] == step, column] = value
    training = SimpleNamespace(warmup_steps=200, steps=1_000)
    model = SimpleNamespace(num_iterations=7)
    return Run(SimpleNamespace(seed=seed, training=training, model=model), table)


def test_a_run_fails_at_the_evaluation_after_the_first_gradient_above_the_threshold():
    group = [
        run(0, {450: 1_001, 600: 5_000}),
        run(1, {500: 1_001}),
        run(2, {450: 1_000}),  # not above
    ]
    failed = alarms.failures(group)
    assert failed[0] == failed[1] == 500
    assert np.isnan(failed[2])


def test_the_alarm_is_relative_to_the_end_of_the_warm_up():
    group = [
        run(0, spread={100: 50.0, 200: 2.0, 600: 6.1}),  # what was before does not count
        run(1, spread={200: 2.0, 600: 6.0}),  # not above three times
    ]
    raised = alarms.alarms(group, "gradient_spread")
    assert raised[0] == 600 and np.isnan(raised[1])


def test_the_residual_is_that_of_the_last_iteration():
    assert alarms.alarms([run(0, residual={700: 4.0})], "residual")[0] == 700


def test_leads_are_of_runs_that_fail_and_late_without_an_alarm():
    group = [
        run(0, {850: 2_000}, spread={600: 4.0}),
        run(1, {850: 2_000}),
        run(2, spread={600: 4.0}),
        run(3, {850: 2_000}, spread={1_000: 4.0}),
    ]
    assert alarms.leads(group, "gradient_spread").to_dict() == {0: 300, 1: -100, 3: -100}
    assert alarms.false_alarms(group, "gradient_spread").to_dict() == {0: 0, 1: 0, 2: 1, 3: 0}
