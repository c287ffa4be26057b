"""The profiles: how large every run is at each scale, every number with its name.

smoke   every code path in seconds, for tests
quick   the pair from scratch on two cores, for a first look; the rest is replayed
cpu     the results that are committed
gpu     between that and the paper's, for a GPU: minutes a run
paper   the paper's own setting, for a GPU

The cpu profile has four scales of SLATE. Its own is that of the first results; "flagship", "sweep"
and "short" are those of docs/protocol.md, which replace it figure by figure as their runs are made.
"""

from __future__ import annotations

from paper_lib.models import SLATEConfig
from paper_lib.paper.complexity import ComplexityRunConfig
from paper_lib.paper.overrides import dotted, override
from paper_lib.paper.regeneration import RegenerationRunConfig
from paper_lib.training.config import ARITHMETIC, DataConfig, TrainingConfig
from paper_lib.training.dvae import DVAERunConfig
from paper_lib.training.slate import SLATERunConfig

# What each profile is, as captions and the README say it.
PROFILES = {
    "smoke": "a few steps at 16x16, to test that the code runs; shows nothing else",
    "quick": "32x32, at most 4 objects seen from close by, on a frozen dVAE, one seed: a first "
    "look, which decides nothing",
    "cpu": "32x32 on a frozen dVAE, not the paper's 64x64 or 96x96 and 250,000 steps",
    "gpu": "64x64, at most 4 objects seen from close by, on a frozen dVAE, in bfloat16; not the "
    "paper's smaller and more numerous objects, 12 slots, 8 layers and 250,000 steps",
    "paper": "the paper's, dVAE trained jointly",
}
# Of the scales that replace the cpu profile's own: see docs/protocol.md.
SCALES = {
    "cpu flagship": "64x64, at most 4 objects seen from close by, on a frozen dVAE, in bfloat16; "
    "not the paper's smaller and more numerous objects and 250,000 steps",
    "cpu sweep": "32x32, at most 4 objects seen from close by, on a frozen dVAE; not the paper's "
    "64x64 and 250,000 steps",
}
SCALES["cpu short"] = SCALES["cpu sweep"]
COMMITTED = ("cpu",)  # profiles whose results are in the repository

# Seeds of the pair that most figures compare, and of every other run.
SEEDS = {
    "smoke": (0,),
    "quick": (0,),
    "cpu": (0, 1, 2),
    "gpu": (0, 1, 2),
    "paper": (0, 1, 2, 3),
}
# Those of the pair that is trained longest, where they are others.
PAIR_SEEDS = {"cpu": (0, 1, 2, 3, 4)}


# ---- the optimisation tricks ----

NO_TRICKS = {"warmup_steps": 0, "clip": None, "lr_decay_epochs": None}
# The paper's. Small: the same share of training for the warm-up, and the nearest to it that whole
# evaluations allow for the decay. By docs/protocol.md: a twentieth of training for the warm-up, and
# a decay by steps.
TRICKS = {
    "smoke": {"warmup_steps": 2, "clip": 1.0, "lr_decay_epochs": 1},
    "quick": {"warmup_steps": 12, "clip": 1.0, "lr_decay_epochs": 1},
    "cpu": {"warmup_steps": 360, "clip": 1.0, "lr_decay_epochs": 1},
    "cpu flagship": {
        "warmup_steps": 400,
        "clip": 1.0,
        "lr_decay_epochs": None,
        "decay_steps": 4_000,
    },
    "cpu sweep": {
        "warmup_steps": 500,
        "clip": 1.0,
        "lr_decay_epochs": None,
        "decay_steps": 5_000,
    },
    "gpu": {"warmup_steps": 1_500, "clip": 1.0, "lr_decay_epochs": None, "decay_steps": 15_000},
    "paper": {"warmup_steps": 30_000, "clip": 1.0, "lr_decay_epochs": 4},
}
TRICKS["cpu short"] = TRICKS["cpu sweep"]  # the first steps of the same schedule
# Training steps of a sweep where they are not the profile's own.
TRICKS_STEPS = {"quick": 100}  # Figures 5 and 6a
ITERATIONS_STEPS = {"quick": 100, "cpu": 1_500}  # Fig. 6b


# ---- SLATE, on CLEVR-Mirror ----

_CLEVR_MIRROR = {
    "smoke": DataConfig(size=16, num_scenes=60, min_objects=3, max_objects=4, samples_per_pixel=4),
    "quick": DataConfig(
        size=32,
        num_scenes=6_000,
        min_objects=3,
        max_objects=4,
        samples_per_pixel=16,
        view="close",
    ),
    "cpu": DataConfig(
        size=32, num_scenes=7_858, min_objects=3, max_objects=6, samples_per_pixel=36
    ),
    "cpu flagship": DataConfig(
        size=64,
        num_scenes=16_000,
        min_objects=3,
        max_objects=4,
        samples_per_pixel=16,
        view="close",
    ),
    "cpu sweep": DataConfig(
        size=32,
        num_scenes=16_000,
        min_objects=3,
        max_objects=4,
        samples_per_pixel=36,
        view="close",
    ),
    "paper": DataConfig(size=64, num_scenes=100_000),
}
_CLEVR_MIRROR["gpu"] = _CLEVR_MIRROR["cpu flagship"]

# The dVAE that all runs of a profile share, frozen. At the paper's learning rate and temperatures a
# dVAE this small collapses to a few codes; at these it does not.
_DVAE = {
    "smoke": DVAERunConfig(
        data=_CLEVR_MIRROR["smoke"],
        vocab_size=16,
        tau_start=2.0,
        tau_final=0.5,
        tau_steps=6,
        training=TrainingConfig(
            lr=3e-3, steps=6, batch_size=4, log_every=3, eval_every=3, **NO_TRICKS
        ),
        eval_images=8,
        sample_images=4,
        min_codes=1,
        max_mse_fraction=1e3,
    ),
    "quick": DVAERunConfig(
        data=_CLEVR_MIRROR["quick"],
        vocab_size=128,
        tau_start=2.0,
        tau_final=0.5,
        tau_steps=2_500,
        training=TrainingConfig(lr=3e-3, steps=2_500, batch_size=16, eval_every=250, **NO_TRICKS),
    ),
    "cpu": DVAERunConfig(
        data=_CLEVR_MIRROR["cpu"],
        vocab_size=128,
        tau_start=2.0,
        tau_final=0.5,
        tau_steps=6_000,
        training=TrainingConfig(lr=3e-3, steps=6_000, batch_size=16, eval_every=200, **NO_TRICKS),
    ),
    "cpu flagship": DVAERunConfig(
        data=_CLEVR_MIRROR["cpu flagship"],
        vocab_size=256,
        tau_start=2.0,
        tau_final=0.5,
        tau_steps=4_000,
        training=TrainingConfig(
            lr=3e-3,
            steps=4_000,
            batch_size=16,
            eval_every=200,
            arithmetic=2,
            **NO_TRICKS,
        ),
        min_codes=64,
        max_object_mse_fraction=0.3,
        max_colour_error=0.1,
    ),
    "cpu sweep": DVAERunConfig(
        data=_CLEVR_MIRROR["cpu sweep"],
        vocab_size=128,
        tau_start=2.0,
        tau_final=0.5,
        tau_steps=6_000,
        training=TrainingConfig(
            lr=3e-3,
            steps=6_000,
            batch_size=16,
            eval_every=200,
            arithmetic=2,
            **NO_TRICKS,
        ),
        min_codes=32,
        max_object_mse_fraction=0.3,
        max_colour_error=0.1,
    ),
    "paper": None,  # each run trains its own, as the authors do
}
_DVAE["gpu"] = _DVAE["cpu flagship"]

_SMALL_SLATE = {
    "d_model": 64,
    "slot_size": 64,
    "mlp_hidden_size": 64,
    "num_slots": 7,
    "num_dec_blocks": 4,
    "num_heads": 4,
}
_SLATE = {
    "smoke": SLATERunConfig(
        model=SLATEConfig(
            image_size=16,
            vocab_size=16,
            d_model=16,
            slot_size=16,
            mlp_hidden_size=16,
            num_slots=3,
            num_dec_blocks=1,
            num_heads=2,
        ),
        data=_CLEVR_MIRROR["smoke"],
        training=TrainingConfig(
            lr=1e-3, steps=6, batch_size=4, log_every=1, eval_every=2, **NO_TRICKS
        ),
        dvae=_DVAE["smoke"],
        eval_images=8,
        jacobian_images=2,
        regenerate_images=4,
        sample_images=4,
    ),
    "quick": SLATERunConfig(
        model=SLATEConfig(image_size=32, vocab_size=128, **_SMALL_SLATE),
        data=_CLEVR_MIRROR["quick"],
        training=TrainingConfig(lr=1e-3, steps=2_500, batch_size=32, eval_every=125, **NO_TRICKS),
        dvae=_DVAE["quick"],
        eval_images=128,
        jacobian_images=16,
        regenerate_images=64,
        sample_images=8,
    ),
    "cpu": SLATERunConfig(
        model=SLATEConfig(image_size=32, vocab_size=128, **_SMALL_SLATE),
        data=_CLEVR_MIRROR["cpu"],
        training=TrainingConfig(lr=1e-3, steps=3_000, batch_size=32, eval_every=100, **NO_TRICKS),
        dvae=_DVAE["cpu"],
    ),
    "cpu flagship": SLATERunConfig(
        model=SLATEConfig(image_size=64, vocab_size=256, **_SMALL_SLATE),
        data=_CLEVR_MIRROR["cpu flagship"],
        training=TrainingConfig(
            lr=1e-3,
            steps=8_000,
            batch_size=32,
            **TRICKS["cpu flagship"],
            eval_every=250,
            precision="bfloat16",
            arithmetic=2,
        ),
        dvae=_DVAE["cpu flagship"],
    ),
    "cpu sweep": SLATERunConfig(
        model=SLATEConfig(image_size=32, vocab_size=128, **_SMALL_SLATE),
        data=_CLEVR_MIRROR["cpu sweep"],
        training=TrainingConfig(
            lr=1e-3,
            steps=10_000,
            batch_size=32,
            **TRICKS["cpu sweep"],
            eval_every=250,
            arithmetic=2,
        ),
        dvae=_DVAE["cpu sweep"],
    ),
    "gpu": SLATERunConfig(
        model=SLATEConfig(image_size=64, vocab_size=256, num_slots=7),
        data=_CLEVR_MIRROR["gpu"],
        # A run that is cut off goes on from its last evaluation.
        training=TrainingConfig(
            lr=3e-4,
            steps=30_000,
            batch_size=32,
            **TRICKS["gpu"],
            eval_every=500,
            precision="bfloat16",
        ),
        dvae=_DVAE["gpu"],
    ),
    "paper": SLATERunConfig(
        model=SLATEConfig(image_size=64, vocab_size=4096, num_dec_blocks=8, num_heads=8),
        data=_CLEVR_MIRROR["paper"],
        # An epoch of 70,000 scenes is 1,400 steps: validation, and with it the decay of the
        # learning rate, is looked at once an epoch.
        training=TrainingConfig(lr=1e-4, log_every=100, eval_every=1_400),
    ),
}


_SLATE["cpu short"] = override(_SLATE["cpu sweep"], {"training.steps": 4_000})


def slate(
    given,
    variant: str,
    seed: int,
    steps: int | None = None,
    scale: str | None = None,
    **changes,
) -> SLATERunConfig:
    """Return a SLATE on CLEVR-Mirror, or on the `data` among the changes.

    `scale` is "flagship", "sweep" or "short" where the profile has such scales; elsewhere it
    changes nothing.
    `changes`, and the overrides of the notebook's parameters `given`, are by dotted name, with __
    for the dot in `changes`: model__num_iterations=1. `steps` is the profile's unless given, and
    yields to an override; `changes` do not. Raises ValueError for an override of what a figure
    compares.
    """
    config = _slate(given, scale)
    if config.dvae:  # its data and vocabulary are the model's
        config = override(config, _of_dvae(dotted(changes)))
        if overrides := _of_dvae(given.overrides):
            config = override(config, overrides | {"dvae.training.arithmetic": ARITHMETIC})
    if steps:
        config = override(config, {"training.steps": steps})
    return changed(config, given, variant, seed, changes)


def _slate(given, scale: str | None = None) -> SLATERunConfig:
    """Return a profile's SLATE; where nothing is committed it is what this code computes."""
    config = _SLATE.get(f"{given.profile} {scale}", _SLATE[given.profile])
    if config.dvae and given.profile not in COMMITTED:
        config = override(config, {"dvae.training.arithmetic": ARITHMETIC})
    return config


def _of_dvae(changes: dict) -> dict:
    """Return those of a SLATE's changes that its frozen dVAE follows, as changes of that dVAE."""
    followed = {}
    for path, value in changes.items():
        if path.startswith("data.") or path == "model.vocab_size":
            followed[f"dvae.{path.removeprefix('model.')}"] = value
        elif path.startswith("dvae."):
            followed[path] = value
    return followed


def scale_of(given, config: SLATERunConfig) -> str:
    """Return the words for the scale of a SLATE run, for captions."""
    for name, words in SCALES.items():
        of = _SLATE[name]
        sizes = config.model.image_size, config.data.view
        if given.profile == name.split()[0] and sizes == (of.model.image_size, of.data.view):
            return words
    return PROFILES[given.profile]


def with_tricks(
    given, variant: str, seed: int, scale: str | None = None, **changes
) -> SLATERunConfig:
    """Return a SLATE that is trained with all the optimisation tricks, but for the `changes`."""
    used = TRICKS.get(f"{given.profile} {scale}", TRICKS[given.profile])
    tricks = {f"training__{name}": value for name, value in used.items()}
    steps = TRICKS_STEPS.get(given.profile)
    return slate(given, variant, seed, steps=steps, scale=scale, **(tricks | changes))


def regenerated(
    given, trained: list[SLATERunConfig], features: str | None = None
) -> list[RegenerationRunConfig]:
    """Return the test images of trained models, regenerated from their slots and scored, with
    Frechet distances in FID's features at the paper's scale unless others are asked for."""
    usual = "inception" if given.profile == "paper" else "efficientnet-lite0"
    images, network = REGENERATED_IMAGES[given.profile], features or usual
    return [RegenerationRunConfig(slate=run, images=images, features=network) for run in trained]


def has_tricks(given, scale: str | None = None) -> bool:
    """Return whether a profile's usual runs are trained with all the tricks, before overrides."""
    return _slate(given, scale).training.clip is not None


def data_sets(given, scale: str | None = None) -> dict[str, dict]:
    """Return the data sets of Sec. 5.3 by the name that figures show, as changes for `slate`.

    COCO is among them at the paper's scale and where the authors' files are asked for: there is
    nothing to generate it with.
    """
    stacks = {
        "data__name": "shapestacks",
        "data__min_objects": 2,
        "data__max_objects": min(6, _slate(given, scale).data.max_objects),
    }
    sets = {"CLEVR-Mirror": {"data__name": "clevr_mirror"}, "ShapeStacks": stacks}
    if given.profile == "paper" or given.overrides.get("data.door") == "files":
        return sets | {"COCO-2017": {"data__name": "coco", "data__door": "files"}}
    return sets


# Test images that Table 3 regenerates (None: all): more than the stand-in for Inception has
# features, and about two minutes of one core.
REGENERATED_IMAGES = {"smoke": 2, "quick": 64, "cpu": 512, "gpu": None, "paper": None}


# ---- what is measured without training ----

_COMPLEXITY = {
    "smoke": ComplexityRunConfig(batch=2, tokens=16, size=16, iterations=(1, 2, 4), repeats=2),
    "quick": ComplexityRunConfig(batch=8, tokens=64, size=64, repeats=5),
    "cpu": ComplexityRunConfig(batch=32, tokens=64, size=64, repeats=15),
    "gpu": ComplexityRunConfig(batch=32, tokens=256, size=192, repeats=15),
    "paper": ComplexityRunConfig(batch=50, tokens=256, slots=12, size=192, repeats=15),
}


def complexity(given) -> ComplexityRunConfig:
    """Return the measurement of time and memory of slot attention against the iterations."""
    return _COMPLEXITY[given.profile]


# The scenes of each data set of which the gallery shows statistics.
GALLERY_ITEMS = {"smoke": 4, "quick": 100, "cpu": 100, "gpu": 100, "paper": 2_000}


def changed(config, given, variant: str, seed: int, changes: dict):
    """Return a run of one variant and seed, with a figure's changes and the overrides.

    Raises ValueError for an override of what a figure compares.
    """
    changes = dotted(changes)
    shared = set(changes) & set(given.overrides)
    compared = {name for name in shared if changes[name] != given.overrides[name]}
    if compared:
        raise ValueError(
            f"overrides: {' and '.join(sorted(compared))} is what this figure compares, and would "
            "make its runs one and the same"
        )
    named = {"model.variant": variant, "seed": seed}
    if given.overrides or given.profile not in COMMITTED:  # it is this code that computes the run
        named["training.arithmetic"] = ARITHMETIC
    return override(config, named | changes | given.overrides)
