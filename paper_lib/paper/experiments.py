"""Every run of every figure, as data: one config per run, per profile; and which runs each notebook shows."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace

import torch

from paper_lib.models import AutoencoderConfig, SetPredictionConfig, SLATEConfig
from paper_lib.paper.complexity import ComplexityRun
from paper_lib.paper.regeneration import RegenerationRun
from paper_lib.training.autoencoder import AutoencoderRun
from paper_lib.training.config import DataConfig, TrainingConfig
from paper_lib.training.dvae import DVAERun
from paper_lib.training.set_prediction import SetPredictionRun
from paper_lib.training.slate import SLATERun

# What each profile is, for captions and the README. smoke: every code path, for tests; quick: everything from scratch on two cores; cpu: the results
# that are committed; paper: the paper's own setting, for a GPU.
PROFILES = {
    "smoke": "a few steps at 16x16, to test that the code runs; shows nothing else",
    "quick": "32x32 on a frozen dVAE, to show that everything works; shows no more",
    "cpu": "32x32 on a frozen dVAE, not the paper's 64x64 or 96x96 and 250,000 steps",
    "paper": "the paper's, dVAE trained jointly",
}
# the same of Locatello et al.'s models, which have no dVAE
LOCATELLO_SCALES = PROFILES | {
    "quick": "32x32, smaller networks, to show that everything works; shows no more",
    "cpu": "32x32, 3 or 4 objects, 5 slots and smaller networks, not the paper's 128x128, 3 to 10 objects and 150,000 or 500,000 steps",
    "paper": "the paper's",
}
COMMITTED = ("cpu",)  # profiles whose results are in the repository
DEFAULT_SEEDS = {"smoke": (0,), "quick": (0,), "cpu": (0, 1, 2), "paper": (0, 1, 2, 3)}
SWEPT_SEEDS = DEFAULT_SEEDS | {"cpu": (0,)}  # of every run but the pair that most figures compare


@dataclass(frozen=True)
class Setting:
    """What a notebook's parameters ask for, checked; see `setting`."""

    profile: str
    seeds: tuple[int, ...]  # of the pair that most figures compare, `vanilla_and_implicit`
    swept_seeds: tuple[int, ...]  # of every other run
    device: str
    if_missing: str
    overrides: dict
    custom: bool = False

    @property
    def folder(self) -> str:
        """Where figures and tables go, below figures/ and results/: the profile's own, or apart from it where somebody's parameters made others."""
        return f"{self.profile}/custom" if self.custom else self.profile

    @property
    def caption(self) -> str:
        """The line under a figure that says how small its scale is, where its pictures come from, and what was overridden."""
        return self.caption_of(slate(self, "IN", self.seeds[0]))

    def caption_of(self, *configs) -> str:
        """The same for a figure of other runs: on other data sets, or on several; or of another model."""
        sources = dict.fromkeys(
            _SOURCES.get((c.data.name, c.data.door), f"{c.data.name}, the authors' files.")
            for c in configs
        )
        steps = " or ".join(f"{n:,}" for n in sorted({c.training.steps for c in configs}))
        scales = PROFILES if configs[0].kind == "slate" else LOCATELLO_SCALES
        overridden = (
            f" Overridden: {', '.join(f'{k} = {v}' for k, v in self.overrides.items())}."
            if self.overrides
            else ""
        )
        return f"{' '.join(sources)} {steps} training steps. Scale ({self.profile}): {scales[self.profile]}.{overridden}"


_SOURCES = {
    ("clevr_mirror", "generator"): "Generated CLEVR-Mirror scenes, not the authors' files.",
    ("clevr", "generator"): "Generated CLEVR scenes, not the authors' files.",
    ("shapestacks", "generator"): "Generated ShapeStacks scenes, not the authors' files.",
    (
        "photos",
        "generator",
    ): "Crops of 7 photographs (5 to train on, 1 to validate, 1 to test), in place of COCO: inconclusive by construction.",
    ("clevr_mirror", "files"): "CLEVR-Mirror scenes, the authors' files.",
    ("clevr", "files"): "CLEVR scenes, the authors' files.",
    ("clevr_with_masks", "files"): "CLEVR with masks, the authors' file.",
    ("shapestacks", "files"): "ShapeStacks scenes, the authors' files.",
    ("coco", "files"): "COCO-2017, the authors' files.",
}


def setting(profile: str = "cpu", seeds=None, device: str = "cpu", if_missing: str | None = None, overrides: dict | None = None,
            custom: bool = False) -> Setting:  # fmt: skip
    """A notebook's parameters, checked. Raises ValueError with the remedy for one that makes no sense.

    profile     smoke, quick, cpu or paper
    seeds       a seed or a list of seeds; None takes the profile's own: at the cpu scale three for the pair that most figures compare, one for the rest
    device      "cpu", "cuda", "cuda:1", ...
    if_missing  what to do about a run without results: "error" says how to get it, "train" trains it; None: "error" for profiles whose results are
                committed, "train" for the others
    overrides   changes to every run by dotted name, such as {"training.steps": 500, "model.num_slots": 5}; a frozen dVAE follows data.* and
                model.vocab_size
    custom      keep the figures and tables apart from the profile's own, as with overrides and with other seeds than the profile's
    """
    if profile not in PROFILES:
        raise ValueError(f"unknown profile {profile!r}: choose from {', '.join(PROFILES)}")
    swept_seeds = seeds
    if seeds is None:
        seeds, swept_seeds = DEFAULT_SEEDS[profile], SWEPT_SEEDS[profile]
    seeds, swept_seeds = ((s,) if isinstance(s, int) else s for s in (seeds, swept_seeds))
    if (
        not isinstance(seeds, (list, tuple))
        or not seeds
        or any(type(s) is not int or s < 0 for s in seeds)
        or len(set(seeds)) < len(seeds)
    ):
        raise ValueError(
            f"seeds must be a non-negative integer or a list of different ones, such as [0, 1, 2]; got {seeds!r}"
        )
    try:
        available = torch.device(device).type in (
            "cpu",
            *(["cuda"] if torch.cuda.is_available() else []),
        )
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"unknown device {device!r}: use 'cpu', 'cuda' or 'cuda:<index>'"
        ) from error
    if not available:
        raise ValueError(
            f"device {device!r} is not available here: use 'cpu', or a machine with a GPU and a CUDA build of torch"
        )
    if if_missing is None:
        if_missing = "error" if profile in COMMITTED else "train"
    if if_missing not in ("error", "train"):
        raise ValueError(f"if_missing must be 'error', 'train' or None, got {if_missing!r}")
    overrides = dict(overrides or {})
    if fixed := {"seed", "model.variant"} & set(overrides):
        raise ValueError(
            f"overrides: {' and '.join(sorted(fixed))} would make the runs that a figure compares one and the same; use the seeds parameter"
        )
    custom = (
        custom
        or bool(overrides)
        or (tuple(seeds), tuple(swept_seeds)) != (DEFAULT_SEEDS[profile], SWEPT_SEEDS[profile])
    )
    return Setting(profile, tuple(seeds), tuple(swept_seeds), device, if_missing, overrides, custom)


# ---- the profiles' sizes ----

_DATA = {
    "smoke": DataConfig(size=16, num_scenes=60, min_objects=3, max_objects=4, samples_per_pixel=4),
    "quick": DataConfig(
        size=32, num_scenes=1_400, min_objects=3, max_objects=6, samples_per_pixel=25
    ),
    "cpu": DataConfig(
        size=32, num_scenes=7_858, min_objects=3, max_objects=6, samples_per_pixel=36
    ),
    "paper": DataConfig(size=64, num_scenes=100_000),
}
_NO_TRICKS = dict(warmup_steps=0, clip=None, lr_decay_epochs=None)
# the optimisation tricks of the paper; small: the same share of training for the warm-up, and the nearest to it that whole evaluations allow for the decay
_TRICKS = {
    "smoke": dict(warmup_steps=2, clip=1.0, lr_decay_epochs=1),
    "quick": dict(warmup_steps=12, clip=1.0, lr_decay_epochs=1),
    "cpu": dict(warmup_steps=360, clip=1.0, lr_decay_epochs=1),
    "paper": dict(warmup_steps=30_000, clip=1.0, lr_decay_epochs=4),
}
# training steps of the sweeps where they are not the profile's own: of the tricks (Figures 5 and 6a), of the number of iterations (Fig. 6b)
_TRICKS_STEPS = {"quick": 100}
_ITERATIONS_STEPS = {"quick": 100, "cpu": 1_500}


STAND_INS = ("photos",)  # data sets too small to decide a claim about what they stand in for


def data_sets(setting: Setting) -> dict[str, dict]:
    """The three data sets of Sec. 5.3 by the name that figures show, as changes for `slate`. Photographs stand in for COCO, under their own name, except at
    the paper's scale and where the authors' files are asked for."""
    stacks = dict(
        data__name="shapestacks",
        data__min_objects=2,
        data__max_objects=min(6, _DATA[setting.profile].max_objects),
    )
    files = setting.profile == "paper" or setting.overrides.get("data.door") == "files"
    third = (
        {"COCO-2017": dict(data__name="coco", data__door="files")}
        if files
        else {"photos": dict(data__name="photos")}
    )
    return {"CLEVR-Mirror": {}, "ShapeStacks": stacks, **third}


def dvae(setting: Setting) -> DVAERun | None:
    """The dVAE that all runs of a profile share, frozen; None where each trains its own, as the authors do."""
    # at the paper's lr 3e-4 and temperature schedule a dVAE this small collapses to a few codes; at these it does not
    small = dict(data=_DATA[setting.profile], lr=3e-3, tau_start=2.0, tau_final=0.5)
    return {
        "smoke": DVAERun(**small, vocab_size=16, tau_steps=6, eval_images=8, sample_images=4, min_codes=1, max_mse_fraction=1e3,
                         training=TrainingConfig(steps=6, batch_size=4, log_every=3, eval_every=3, **_NO_TRICKS)),
        "quick": DVAERun(**small, vocab_size=64, tau_steps=1_600, min_codes=8,
                         training=TrainingConfig(steps=2_000, batch_size=16, eval_every=200, **_NO_TRICKS)),
        "cpu": DVAERun(**small, vocab_size=128, tau_steps=6_000,
                       training=TrainingConfig(steps=6_000, batch_size=16, eval_every=200, **_NO_TRICKS)),
        "paper": None,
    }[setting.profile]  # fmt: skip


def slate(
    setting: Setting, variant: str, seed: int, steps: int | None = None, **changes
) -> SLATERun:
    """SLATE on CLEVR-Mirror, or on the `data` among `changes`.

    `changes` and the setting's overrides by dotted name, with __ for the dot in `changes`: model__num_iterations=1. `steps` is the profile's unless given,
    and yields to an override, `changes` do not: ValueError for an override of what a figure compares.
    """
    data, frozen = _DATA[setting.profile], dvae(setting)
    small = dict(
        d_model=64, slot_size=64, mlp_hidden_size=64, num_slots=7, num_dec_blocks=4, num_heads=4
    )
    config = {
        "smoke": lambda: SLATERun(
            SLATEConfig(image_size=16, vocab_size=16, d_model=16, slot_size=16, mlp_hidden_size=16, num_slots=3, num_dec_blocks=1, num_heads=2),
            data, TrainingConfig(steps=6, batch_size=4, log_every=1, eval_every=2, **_NO_TRICKS), frozen, lr=1e-3,
            eval_images=8, jacobian_images=2, regenerate_images=4, sample_images=4),
        "quick": lambda: SLATERun(
            SLATEConfig(image_size=32, vocab_size=64, **small), data, TrainingConfig(steps=200, batch_size=32, eval_every=50, **_NO_TRICKS), frozen,
            lr=1e-3, eval_images=128, jacobian_images=16, regenerate_images=64, sample_images=8),
        "cpu": lambda: SLATERun(
            SLATEConfig(image_size=32, vocab_size=128, **small), data, TrainingConfig(steps=3_000, batch_size=32, eval_every=100, **_NO_TRICKS), frozen,
            lr=1e-3),
        # an epoch of 70,000 scenes is 1,400 steps: validation, and with it the learning-rate decay, is looked at once an epoch
        "paper": lambda: SLATERun(
            SLATEConfig(image_size=64, vocab_size=4096, num_dec_blocks=8, num_heads=8), data, TrainingConfig(log_every=100, eval_every=1_400)),
    }[setting.profile]()  # fmt: skip
    if frozen:  # its data and vocabulary are the model's
        shared = {
            path: value
            for path, value in (_dotted(changes) | setting.overrides).items()
            if path.split(".")[0] == "data" or path == "model.vocab_size"
        }
        config = override(
            config, {f"dvae.{path.removeprefix('model.')}": value for path, value in shared.items()}
        )
    if steps:
        config = override(config, {"training.steps": steps})
    return _changed(config, setting, variant, seed, changes)


def _dotted(changes: dict) -> dict:
    return {name.replace("__", "."): value for name, value in changes.items()}


def _changed(config, setting: Setting, variant: str, seed: int, changes: dict):
    """A run of one variant and seed, with a figure's changes and the setting's overrides, which may not be at odds."""
    changes = _dotted(changes)
    if compared := {
        name
        for name in set(changes) & set(setting.overrides)
        if changes[name] != setting.overrides[name]
    }:
        raise ValueError(
            f"overrides: {' and '.join(sorted(compared))} is what this figure compares, and would make its runs one and the same"
        )
    return override(config, {"model.variant": variant, "seed": seed} | changes | setting.overrides)


def complexity(setting: Setting) -> ComplexityRun:
    """Time and memory of slot attention against the number of iterations, at the profile's sizes."""
    return {
        "smoke": ComplexityRun(batch=2, tokens=16, size=16, iterations=(1, 2, 4), repeats=2),
        "quick": ComplexityRun(batch=8, tokens=64, size=64, repeats=5),
        "cpu": ComplexityRun(batch=32, tokens=64, size=64, repeats=15),
        "paper": ComplexityRun(batch=50, tokens=256, slots=12, size=192, repeats=15),
    }[setting.profile]


# ---- which runs a notebook shows ----


def vanilla_and_implicit(setting: Setting) -> dict[str, list[SLATERun]]:
    """The pair that most figures compare: method -> one run a seed."""
    return {
        name: [slate(setting, name, seed) for seed in setting.seeds] for name in ("vanilla", "IN")
    }


def solvers(setting: Setting) -> dict[str, dict[str, list[SLATERun]]]:
    """Table 2's five pairs, and Anderson's solver, ours, in both places and forward alone: how they are trained -> variant -> one run a seed.

    The paper trains with all the optimisation tricks. The small profiles do so for the paper's pairs, beside training without, as elsewhere in them.
    """
    plain = vanilla_and_implicit(setting) | {
        name: [slate(setting, name, seed) for seed in setting.swept_seeds]
        for name in ("IB", "BB", "BN", "AA", "AN")
    }
    plain = {name: plain[name] for name in ("vanilla", "IB", "BB", "IN", "BN", "AA", "AN")}
    if setting.profile == "paper":
        return {"with all tricks": plain}
    tricked = {
        name: [_with_tricks(setting, name, seed) for seed in setting.swept_seeds]
        for name in ("vanilla", "IB", "BB", "IN", "BN")
    }
    return {"without the tricks": plain, "with all tricks": tricked}


def solver_cost(setting: Setting) -> ComplexityRun:
    """Time and memory of slot attention and of a training step under every pair, at the number of iterations that the runs train with."""
    model = slate(setting, "IN", 0).model
    return replace(
        complexity(setting),
        variants=tuple(next(iter(solvers(setting).values()))),
        iterations=(model.num_iterations,),
        training_step=model,
    )


def tricks(setting: Setting) -> dict[tuple[str, str], list[SLATERun]]:
    """Fig. 5: all the optimisation tricks, and all but one, for both methods: (method, what is removed) -> one run a seed."""
    removed = {
        "nothing": {},
        "lr decay": {"training__lr_decay_epochs": None},
        "clipping": {"training__clip": None},
        "warm-up": {"training__warmup_steps": 0},
    }
    return {
        (method, what): [
            _with_tricks(setting, method, seed, **changes) for seed in setting.swept_seeds
        ]
        for what, changes in removed.items()
        for method in ("vanilla", "IN")
    }


def _with_tricks(setting: Setting, variant: str, seed: int, **changes) -> SLATERun:
    used = {f"training__{name}": value for name, value in _TRICKS[setting.profile].items()}
    return slate(setting, variant, seed, steps=_TRICKS_STEPS.get(setting.profile), **used | changes)


def gradient_norms(setting: Setting) -> dict[str, dict[str, list[SLATERun]]]:
    """Fig. 6a: what is left out -> method -> one run a seed. The paper leaves out clipping; the small profiles' usual runs leave out every trick."""
    clipping = {method: tricks(setting)[method, "clipping"] for method in ("vanilla", "IN")}
    return {"clipping": clipping} | (
        {} if setting.profile == "paper" else {"any trick": vanilla_and_implicit(setting)}
    )


def iterations(setting: Setting) -> dict[tuple[str, int], list[SLATERun]]:
    """Fig. 6b: (method, number of iterations) -> one run a seed. Those that other figures show as well are as long as these need them."""
    pair = vanilla_and_implicit(setting)
    usual = pair["IN"][0].model.num_iterations
    counts = (1, 3, 5, 7, 11, 15) if setting.profile in ("cpu", "paper") else (1, 7)
    groups = {}
    for method in pair:
        for n in counts:
            steps = (
                None if (method, n) == ("vanilla", 1) else _ITERATIONS_STEPS.get(setting.profile)
            )
            sweep = (
                [
                    slate(setting, method, seed, steps, model__num_iterations=n)
                    for seed in setting.swept_seeds
                ]
                if n != usual
                else pair[method]
            )
            groups[method, n] = sweep
    return groups


def one_iteration(setting: Setting) -> dict[str, list[SLATERun]]:
    """Fig. 6c: vanilla with one iteration, beside the pair."""
    return {"vanilla, n = 1": iterations(setting)["vanilla", 1], **vanilla_and_implicit(setting)}


def precisions(setting: Setting) -> dict[tuple[str, str], list[SLATERun]]:
    """Beyond the paper: the pair, and the same trained in bfloat16: (method, precision) -> one run a seed."""
    half = {
        method: [
            slate(setting, method, seed, training__precision="bfloat16") for seed in setting.seeds
        ]
        for method in ("vanilla", "IN")
    }
    both = {"float32": vanilla_and_implicit(setting), "bfloat16": half}
    return {(method, precision): both[precision][method] for method in half for precision in both}


def generalisation(
    setting: Setting, size: int | None = None
) -> dict[tuple[str, str], list[SLATERun]]:
    """Sec. 5.3, Table 3 and Fig. 4: (data set, method) -> one run a seed; at the paper's scale at `size` 64 or 96."""
    larger = (
        dict(data__size=size, model__image_size=size)
        if size and size != resolutions(setting)[0]
        else {}
    )
    return {
        (name, method): [
            slate(setting, method, seed, **changes, **larger)
            for seed in (setting.swept_seeds if changes else setting.seeds)
        ]
        for name, changes in data_sets(setting).items()
        for method in ("vanilla", "IN")
    }


def resolutions(setting: Setting) -> tuple[int, ...]:
    """Image sizes of Sec. 5.3: two at the paper's scale, the last of them that of Table 3; one elsewhere."""
    size = slate(setting, "IN", setting.seeds[0]).data.size
    return (size, 96) if setting.profile == "paper" and size < 96 else (size,)


def regeneration(
    setting: Setting, features: str | None = None
) -> dict[tuple[str, str], list[RegenerationRun]]:
    """Table 3: (data set, method) -> the test images of every run, regenerated from their slots and scored; `features` as in `RegenerationRun`."""
    images = {"smoke": 2, "quick": 64, "cpu": 512}.get(
        setting.profile
    )  # more than the stand-in has features, and about two minutes of one core
    features = features or ("inception" if setting.profile == "paper" else "efficientnet-lite0")
    runs = generalisation(setting, resolutions(setting)[-1])
    return {
        key: [RegenerationRun(run, images, features) for run in group]
        for key, group in runs.items()
    }


# ---- Locatello et al.'s two models, on CLEVR without a mirror ----

_CLEVR = {
    "smoke": DataConfig(
        "clevr", 16, num_scenes=60, min_objects=2, max_objects=3, samples_per_pixel=4
    ),
    "quick": DataConfig(
        "clevr", 32, num_scenes=1_400, min_objects=3, max_objects=4, samples_per_pixel=25
    ),
    "cpu": DataConfig(
        "clevr", 32, num_scenes=16_720, min_objects=3, max_objects=4, samples_per_pixel=36
    ),
    "paper": DataConfig("clevr", 128, num_scenes=100_000, min_objects=3, max_objects=10),
}
_CROWDED = {  # test scenes with more objects than the autoencoder is trained on
    "smoke": dict(num_scenes=60, min_objects=4, max_objects=4),
    "quick": dict(num_scenes=430, min_objects=5, max_objects=6),
    "cpu": dict(num_scenes=2_140, min_objects=5, max_objects=6),
    "paper": dict(num_scenes=2_140, min_objects=7, max_objects=10),
}


def autoencoder(setting: Setting, variant: str, seed: int, **changes) -> AutoencoderRun:
    """Locatello et al.'s autoencoder; `changes` as in `slate`."""
    data = replace(_CLEVR[setting.profile], crop=True)
    # their schedule: the warm-up a shorter share of the training, the decay slower (to a sixth, not a thirtieth), as training is short
    config = {
        "smoke": lambda: AutoencoderRun(
            AutoencoderConfig(16, 8, (1, 2), slot_size=8, mlp_hidden_size=16, num_slots=4, decoder_channels=8, decoder_strides=(2,), init="apart"), data,
            TrainingConfig(6, 4, 2, clip=None, lr_decay_epochs=None, log_every=1, eval_every=2, decay_steps=6),
            eval_images=8, jacobian_images=2, test_images=8, sample_images=4, test_slots=(5,), test_iterations=(1, 5)),
        "quick": lambda: AutoencoderRun(
            _SMALL_AUTOENCODER, data, TrainingConfig(400, 16, 8, clip=None, lr_decay_epochs=None, eval_every=100, decay_steps=200),
            lr=1e-3, eval_images=64, jacobian_images=16, test_images=64, test_slots=(7,), test_iterations=(1, 7)),
        "cpu": lambda: AutoencoderRun(
            _SMALL_AUTOENCODER, data, TrainingConfig(10_000, 16, 200, clip=None, lr_decay_epochs=None, log_every=100, eval_every=500, decay_steps=4_000),
            lr=1e-3, test_slots=(6, 7)),
        "paper": lambda: AutoencoderRun(data=replace(data, max_objects=6)),
    }[setting.profile]()  # fmt: skip
    config = _changed(config, setting, variant, seed, changes)
    return replace(config, crowded=replace(config.data, **_CROWDED[setting.profile]))


_SMALL_AUTOENCODER = AutoencoderConfig(
    32,
    32,
    (1, 2, 1, 1),
    slot_size=32,
    mlp_hidden_size=64,
    num_slots=5,
    decoder_channels=32,
    decoder_strides=(2, 2),
    init="apart",
)
_SMALL_PREDICTOR = SetPredictionConfig(32, channels=32, num_slots=5)


def set_prediction(setting: Setting, variant: str, seed: int, **changes) -> SetPredictionRun:
    """Locatello et al.'s set predictor; `changes` as in `slate`."""
    data = _CLEVR[setting.profile]
    config = {
        "smoke": lambda: SetPredictionRun(
            SetPredictionConfig(16, channels=8, strides=(1, 2), slot_size=8, mlp_hidden_size=16, num_slots=3, classifier_hidden_size=8), data,
            TrainingConfig(6, 4, 2, clip=None, lr_decay_epochs=None, log_every=1, eval_every=2, decay_steps=6),
            eval_images=8, jacobian_images=2, test_images=8, sample_images=4, test_slots=(4,), test_iterations=(1, 5)),
        "quick": lambda: SetPredictionRun(
            _SMALL_PREDICTOR, data, TrainingConfig(200, 64, 20, clip=None, lr_decay_epochs=None, eval_every=50, decay_steps=100),
            eval_images=128, jacobian_images=16, test_images=128, test_slots=(7,), test_iterations=(1, 7)),
        "cpu": lambda: SetPredictionRun(
            _SMALL_PREDICTOR, data, TrainingConfig(8_000, 64, 500, clip=None, lr_decay_epochs=None, log_every=100, eval_every=500, decay_steps=8_000),
            test_slots=(6, 7)),
        "paper": lambda: SetPredictionRun(data=data),
    }[setting.profile]()  # fmt: skip
    return _changed(config, setting, variant, seed, changes)


def segmentation(setting: Setting) -> dict[str, list[AutoencoderRun]]:
    """Fig. 8: method -> one run a seed."""
    return {
        method: [autoencoder(setting, method, seed) for seed in setting.swept_seeds]
        for method in ("vanilla", "IN")
    }


def property_prediction(setting: Setting) -> dict[tuple[str, int], list[SetPredictionRun]]:
    """Fig. 7: (method, number of iterations in training) -> one run a seed."""
    counts = [("vanilla", 1), ("vanilla", 3), ("IN", 3), ("IN", 7), ("IN", 11)]
    return {
        (method, n): [
            set_prediction(setting, method, seed, model__num_iterations=n)
            for seed in setting.swept_seeds
        ]
        for method, n in counts
    }


def _flat(groups: dict[str, dict]) -> dict:
    return {(how, name): group for how, named in groups.items() for name, group in named.items()}


def _sec53(setting: Setting) -> dict:
    return {
        (*key, size): group
        for size in resolutions(setting)
        for key, group in generalisation(setting, size).items()
    }


NOTEBOOKS = {
    "fig01_overview": vanilla_and_implicit,
    "tab01_complexity": lambda setting: {"complexity": [complexity(setting)]},
    "fig02_one_line": lambda setting: {"IN": vanilla_and_implicit(setting)["IN"]},
    "fig03a_residuals": vanilla_and_implicit,
    "fig03b_solvers": lambda setting: {**_flat(solvers(setting)), "cost": [solver_cost(setting)]},
    "fig04_qualitative": regeneration,
    "tab03_fid_mse": regeneration,
    "sec53_validation_loss": _sec53,
    "fig05_optimization_tricks": tricks,
    "fig06a_gradient_norms": lambda setting: _flat(gradient_norms(setting)),
    "fig06b_iterations": iterations,
    "fig06c_one_iteration": one_iteration,
    "fig07_property_prediction": property_prediction,
    "fig08_segmentation_masks": segmentation,
    "fig09_10_decompositions": vanilla_and_implicit,
    "fig12_13_no_clipping": tricks,
    "bfloat16": precisions,
    "data_gallery": lambda setting: {},
}
GALLERY_ITEMS = {"smoke": 4, "quick": 100, "cpu": 100, "paper": 2_000}


def runs_of(notebook: str, setting: Setting) -> list:
    """Every run that a notebook shows, those that others build on first, each once."""
    if notebook not in NOTEBOOKS:
        raise ValueError(f"unknown notebook {notebook!r}: choose from {', '.join(NOTEBOOKS)}")
    configs: dict = {}
    for group in NOTEBOOKS[notebook](setting).values():
        for config in group:
            configs |= dict.fromkeys([*needs(config), config])
    return list(configs)


def needs(config) -> list:
    """The runs that a run builds on, in the order in which they are made: a frozen dVAE's, a regeneration's SLATE."""
    first = [getattr(config, name, None) for name in ("dvae", "slate")]
    return [c for run in first if run is not None for c in (*needs(run), run)]


def override(config, changes: dict):
    """A copy of a config with the fields named by dotted path changed. ValueError for a name that does not exist."""
    for path, value in changes.items():
        config = _set(config, path.split("."), value, path)
    return config


def _set(config, names: list[str], value, path: str):
    known = [f.name for f in fields(config)] if is_dataclass(config) else []
    if names[0] not in known:
        raise ValueError(
            f"override {path!r}: {type(config).__name__} has no field {names[0]!r}; it has {', '.join(known) or 'none'}"
        )
    inner = value if len(names) == 1 else _set(getattr(config, names[0]), names[1:], value, path)
    return replace(config, **{names[0]: inner})
