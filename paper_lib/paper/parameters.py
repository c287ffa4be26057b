"""The parameters of a notebook, checked."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from paper_lib.data import DOORS
from paper_lib.paper.profiles import COMMITTED, PAIR_SEEDS, PROFILES, SEEDS

KEPT_SCENES = 24  # test scenes that are at hand without their data set

# The parameters that some notebooks have beside those of all: from the least to the most, or words.
OWN = {
    "scenes": range(1, 12 + 1),  # of which runs keep pictures, unless told otherwise
    "scene": range(1, KEPT_SCENES + 1),
    "count": range(2, KEPT_SCENES + 1),  # what is said of two pictures compares them
    "starts": range(2, 1_000 + 1),  # each is compared with each
    "items": range(1, 70_000 + 1),  # the training split of CLEVR-Mirror
    "door": DOORS,
}
OPTIONAL = ("items",)  # may be None, which takes the profile's own


@dataclass(frozen=True)
class Parameters:
    """What a notebook's parameters ask for; see `check`.

    seeds        those of every run, but of the pair that is trained longest; see `figures.pair`
    custom       whether figures and tables are kept apart from the profile's own
    """

    profile: str
    seeds: tuple[int, ...]
    device: str
    if_missing: str
    overrides: dict
    custom: bool = False

    @property
    def folder(self) -> str:
        """Where figures and tables go, below figures/ and results/."""
        return f"{self.profile}/custom" if self.custom else self.profile


def check(
    profile: str = "cpu",
    seeds: int | list[int] | None = None,
    device: str = "cpu",
    if_missing: str | None = None,
    overrides: dict | None = None,
    custom: bool = False,
    **own,
) -> Parameters:
    """Check a notebook's parameters. Raises ValueError with the remedy where they make no sense.

    profile     smoke, quick, cpu, gpu or paper: see `profiles.PROFILES`
    seeds       a seed or a list of seeds; None takes the profile's own: at the cpu scale three, and
                five for the pair that is trained longest
    device      "cpu", "cuda", "cuda:1", ...
    if_missing  what to do about a run without results: "error" says how to get it, "train" trains
                it; None: "error" for profiles whose results are committed, "train" for the others
    overrides   changes to every run by dotted name, such as {"training.steps": 500,
                "model.num_slots": 5}; a frozen dVAE follows data.* and model.vocab_size
    custom      keep figures and tables apart from the profile's own, as is done with overrides and
                with other seeds than the profile's
    own         by name, the parameters that this notebook has and others do not; they are checked
                against `OWN`, and are otherwise the notebook's affair
    """
    if not isinstance(profile, str) or profile not in PROFILES:
        raise ValueError(f"unknown profile {profile!r}: choose from {', '.join(PROFILES)}")
    chosen_seeds = SEEDS[profile] if seeds is None else _seeds(seeds)
    # the same for every run is not what a profile does that has more for one pair
    other_seeds = seeds is not None and (chosen_seeds != SEEDS[profile] or profile in PAIR_SEEDS)
    _check_device(device)
    if if_missing is None:
        if_missing = "error" if profile in COMMITTED else "train"
    if not isinstance(if_missing, str) or if_missing not in ("error", "train"):
        raise ValueError(f"if_missing must be 'error', 'train' or None, got {if_missing!r}")
    overrides = {} if overrides is None else overrides
    if not isinstance(overrides, dict) or not all(isinstance(name, str) for name in overrides):
        raise ValueError(
            'overrides must be dotted names and values, such as {"training.steps": 500}; got '
            f"{overrides!r}"
        )
    overrides = dict(overrides)
    if fixed := {"seed", "model.variant"} & set(overrides):
        raise ValueError(
            f"overrides: {' and '.join(sorted(fixed))} would make the runs that a figure compares "
            "one and the same; use the seeds parameter"
        )
    for name, value in own.items():
        _check_own(name, value)
    return Parameters(
        profile=profile,
        seeds=chosen_seeds,
        device=device,
        if_missing=if_missing,
        overrides=overrides,
        custom=custom or bool(overrides) or other_seeds,
    )


def _seeds(seeds) -> tuple[int, ...]:
    given = (seeds,) if type(seeds) is int else seeds
    if isinstance(given, list | tuple) and given:
        if all(type(seed) is int and 0 <= seed < 2**32 for seed in given):
            if len(set(given)) == len(given):
                return tuple(given)
    raise ValueError(
        "seeds must be a non-negative integer below 2^32 or a list of different ones, such as "
        f"[0, 1, 2]; got {seeds!r}"
    )


def _check_own(name: str, value) -> None:
    allowed = OWN[name]
    if value is None and name in OPTIONAL:
        return
    if isinstance(allowed, range):
        right = type(value) is int and value in allowed
        asked = f"a whole number from {allowed[0]} to {allowed[-1]}"
    else:
        right = isinstance(value, str) and value in allowed
        asked = " or ".join(map(repr, allowed))
    if not right:
        asked += ", or None for the profile's own" if name in OPTIONAL else ""
        raise ValueError(f"{name} must be {asked}; got {value!r}")


def _check_device(device) -> None:
    try:
        if not isinstance(device, str):
            raise TypeError("a device is named by a word")
        kind = torch.device(device).type
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"unknown device {device!r}: use 'cpu', 'cuda' or 'cuda:<index>'"
        ) from error
    if kind == "cpu" or kind == "cuda" and torch.cuda.is_available():
        return
    raise ValueError(
        f"device {device!r} is not available here: use 'cpu', or a machine with a GPU and a CUDA "
        "build of torch"
    )
