"""Senseless input: every notebook's parameters and every command line, made up by Hypothesis.

What comes of it is a right result, or an error that names the parameter or its value; never an
error from the depths, and never an exit status that says otherwise.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from unittest.mock import patch

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from paper_lib import data, runs
from paper_lib.data import __main__ as data_command
from paper_lib.explore import page
from paper_lib.models import IDSPN, SLATE, SetPredictor, SlotAttentionAutoEncoder
from paper_lib.paper import batch, evidence, execute, figures, parameters, profiles, verify
from paper_lib.runs import __main__ as runs_command

SMOKE = parameters.check("smoke")
COMPLETE = profiles.slate(SMOKE, "IN", 0)
MODELS = {
    "slate": SLATE,
    "autoencoder": SlotAttentionAutoEncoder,
    "set_prediction": SetPredictor,
    "idspn": IDSPN,
}


def paths(config, prefix: str = "") -> list[str]:
    """Return the dotted names of all fields of a config."""
    found = []
    for f in fields(config):
        value, path = getattr(config, f.name), prefix + f.name
        found += [path, *(paths(value, f"{path}.") if is_dataclass(value) else [])]
    return found


def leaves(config, prefix: str = "") -> dict[str, object]:
    """Return the dotted names of the fields that hold no config, with their values."""
    found = {}
    for f in fields(config):
        value, path = getattr(config, f.name), prefix + f.name
        found |= leaves(value, f"{path}.") if is_dataclass(value) else {path: value}
    return found


# ---- strategies ----

words = st.text(max_size=12) | st.sampled_from(["smoke", "cpu", "../..", "~", "$(touch x)", "\0"])
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-3, 40)
    | st.sampled_from([0, 1, 2**31, 2**63, -(10**30)])
    | st.floats()
    | words
)
rules = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["Iteration", "Broyden", "Anderson", "Neumann", "fixed_point"])
        | words,
        "max_steps": scalars,
        "terms": scalars,
        "tol": scalars,
        "solver": scalars,
    },
)
values = scalars | st.lists(scalars, max_size=3) | rules
names = st.sampled_from(paths(COMPLETE)) | words | st.lists(words, max_size=3).map(".".join)
TYPED = {  # values of the type that is asked for, most of them senseless
    bool: st.booleans(),
    int: st.integers(-2, 40),
    float: st.floats() | st.floats(0, 2),
    str: words | st.sampled_from(["close", "files", "IN", "BB", "photos", "bfloat16"]),
    type(None): st.none() | st.integers(-1, 9),
}


@st.composite
def typed(draw) -> dict:
    """Overrides of fields that there are, by values of their types."""
    every = leaves(COMPLETE)
    chosen = draw(st.lists(st.sampled_from(list(every)), min_size=1, max_size=3, unique=True))
    return {path: draw(TYPED[type(every[path])]) for path in chosen}


right = {
    "profile": st.sampled_from(["smoke", "quick", "cpu", "paper"]),
    "seeds": st.none() | st.integers(0, 9) | st.lists(st.integers(0, 9), min_size=1, unique=True),
    "device": st.sampled_from(["cpu", "cpu:0"]),
    "if_missing": st.sampled_from([None, "error", "train"]),
    "overrides": st.dictionaries(names, values, max_size=3) | typed() | typed() | typed(),
}
wrong = {
    "profile": scalars,
    "seeds": values,
    "device": st.sampled_from(["cuda", "cuda:9", "meta", "mps"]) | values,
    "if_missing": values,
    "overrides": values,
}


OWN = ("scenes", "scene", "count", "starts", "items", "door", "features")
own = st.fixed_dictionaries({}, optional=dict.fromkeys(OWN, values | st.integers(1, 12)))


@st.composite
def notebook_parameters(draw) -> dict:
    """Parameters of which one is senseless, or those that few notebooks have, or the overrides."""
    broken = draw(st.sampled_from([*wrong, "own", "own", "overrides", "overrides", "overrides"]))
    chosen = {name: draw(strategy) for name, strategy in right.items() if draw(st.booleans())}
    if broken == "own":
        return chosen | draw(own)
    made = wrong[broken] if broken != "overrides" or not draw(st.integers(0, 5)) else right[broken]
    return chosen | {broken: draw(made)}


# ---- notebooks' parameters ----


def check_parameters(notebook: str, arguments: dict) -> None:
    """Ask for a notebook's runs, and build the first model."""
    try:
        features = arguments.get("features")
        request = parameters.check(**{k: v for k, v in arguments.items() if k != "features"})
        figures.regeneration(request, features)
        found = figures.runs_of(notebook, request)
        for config in found:
            assert re.fullmatch(r"[\w-]+", runs.run_id(config)), "an id is a folder's name"
            runs.described(config)
        _build(found)
    except ValueError as error:
        _ensure_clear(str(error), arguments)


def _build(found: list) -> None:
    for config in found:
        kind = MODELS.get(config.kind)
        sizes = [v for v in vars(getattr(config, "model", None) or config).values()]
        small = all(v <= 256 for v in sizes if isinstance(v, int))
        if kind and small:
            with torch.random.fork_rng(), torch.device("meta"):
                kind(config.model)
            return


def _ensure_clear(said: str, arguments: dict) -> None:
    """An error names one of the parameters, or of the overrides, or repeats its value."""
    named = set()
    for name, value in arguments.items():
        named |= {name, repr(value)}
        for path, one in value.items() if isinstance(value, dict) else ():
            named |= {repr(path), str(path).rpartition(".")[2], repr(one)} - {""}
    assert any(name in said for name in named), f"an error that names nothing: {said!r}"


# ---- command lines ----

numbers = st.sampled_from(["0", "1", "2", "-1", "1e3", "nan", "", "١", "9" * 30])
texts = words | numbers
OPTIONS = {
    runs_command.main: ["--show", "--device", "--checksums"],
    batch.main: ["--only", "--jobs", "--device"],
    evidence.main: ["--jobs", "--list"],
    verify.main: ["--steps", "--jobs", "--group"],
    execute.main: ["--device", "fig02_one_line", "out.ipynb"],
    page.main: ["--profile", "--out"],
    data_command.main: ["--size", "--num-scenes", "--max-items", "--door", "--split", "--seed"]
    + ["--min-objects", "--max-objects", "--samples-per-pixel", "--workers", "--view", "--files"]
    + ["--mitsuba-variant", "--num-crops", "--crop", "--out", "--root"],
}
FIRST = {
    runs_command.main: ["smoke", "cpu"],
    batch.main: ["smoke", "paper"],
    execute.main: ["smoke", "quick"],
    data_command.main: ["render", "check", "preview", "card"],
}
HELPFUL = [*data.DATASETS, "cpu", "cuda", "smoke", "fig01_overview", "flagship", "generator"]


@st.composite
def command_lines(draw) -> tuple[Callable, list[str]]:
    """A command and its arguments: often almost right."""
    command = draw(st.sampled_from(list(OPTIONS)))
    arguments = [draw(st.sampled_from(FIRST[command]) | texts)] if command in FIRST else []
    if command is data_command.main:
        arguments.append(draw(st.sampled_from(list(data.DATASETS)) | texts))
    for _ in range(draw(st.integers(0, 4))):
        arguments.append(draw(st.sampled_from(OPTIONS[command]) | texts))
        arguments.append(draw(texts | st.sampled_from(HELPFUL)))
    return command, arguments


class Performed(Exception):
    """The command was about to do its work."""


def check_command(command: Callable, arguments: list[str]) -> None:
    """Call a command up to where its work begins: the status is 0, or 1 or 2 with a message."""

    def perform(*_, **__):
        raise Performed

    out, err = io.StringIO(), io.StringIO()
    with contextlib.ExitStack() as stack:
        for place in (
            "paper_lib.runs.perform._perform",
            "paper_lib.paper.batch._snakemake",
            "paper_lib.paper.execute.execute",
            "paper_lib.explore.page.page",
            "paper_lib.paper.evidence._perform",
            "paper_lib.paper.verify.ProcessPoolExecutor",
            "paper_lib.data.cache.Cache.complete",
            "paper_lib.data.card.whole",
        ):
            stack.enter_context(patch(place, perform))
        stack.enter_context(patch("paper_lib.paper.evidence.commit", lambda: "0" * 40))
        stack.enter_context(patch.dict(os.environ))  # a replay has its own
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        try:
            status = command(arguments)
        except SystemExit as end:
            status = end.code
        except Performed:
            return
    assert status in (0, 1, 2, None), f"status {status!r}"
    if status:
        assert err.getvalue().strip() or out.getvalue().strip(), "a failure without a word"
        assert "Traceback" not in err.getvalue()


# ---- running them ----


def run(cases: int, which: str, first: int = 0) -> int:
    """Try so many cases of "parameters" or "commands"; raise at the smallest that fails.

    Returns how many were tried.
    """
    tried = []
    configured = settings(
        max_examples=cases,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )

    if which == "parameters":

        @seed(first)
        @configured
        @given(st.sampled_from(list(figures.NOTEBOOKS)), notebook_parameters())
        def case(notebook, arguments):
            tried.append(1)
            check_parameters(notebook, arguments)

    else:

        @seed(first)
        @configured
        @given(command_lines())
        def case(line):
            tried.append(1)
            check_command(*line)

    case()
    return len(tried)
