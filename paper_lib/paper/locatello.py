"""How large the runs of Locatello et al.'s two models are, on CLEVR without a mirror; and those of
Zhang et al.'s iDSPN, on the same scenes as their set predictor."""

from __future__ import annotations

from dataclasses import replace

from paper_lib.models import AutoencoderConfig, IDSPNConfig, SetPredictionConfig
from paper_lib.paper.profiles import PROFILES, changed
from paper_lib.training.autoencoder import AutoencoderRunConfig
from paper_lib.training.config import DataConfig, TrainingConfig
from paper_lib.training.idspn import IDSPNRunConfig
from paper_lib.training.set_prediction import SetPredictionRunConfig

# What each profile is, as captions say it.
LOCATELLO_SCALES = {
    "smoke": PROFILES["smoke"],
    "quick": "32x32, smaller networks, to show that everything works; shows no more",
    "cpu": "32x32, 3 or 4 objects, 5 slots and smaller networks, not the paper's 128x128, 3 to 10 "
    "objects and 150,000 or 500,000 steps",
    "paper": "the paper's",
}
LOCATELLO_SCALES["gpu"] = LOCATELLO_SCALES["cpu"]  # these models need no GPU at that scale

_CLEVR = {
    "smoke": DataConfig(
        name="clevr", size=16, num_scenes=60, min_objects=2, max_objects=3, samples_per_pixel=4
    ),
    "quick": DataConfig(
        name="clevr", size=32, num_scenes=1_400, min_objects=3, max_objects=4, samples_per_pixel=25
    ),
    "cpu": DataConfig(
        name="clevr",
        size=32,
        num_scenes=16_720,
        min_objects=3,
        max_objects=4,
        samples_per_pixel=36,
    ),
    "paper": DataConfig(name="clevr", size=128, num_scenes=100_000, min_objects=3, max_objects=10),
}
# Test scenes with more objects than the autoencoder is trained on.
_CROWDED = {
    "smoke": {"num_scenes": 60, "min_objects": 4, "max_objects": 4},
    "quick": {"num_scenes": 430, "min_objects": 5, "max_objects": 6},
    "cpu": {"num_scenes": 2_140, "min_objects": 5, "max_objects": 6},
    "paper": {"num_scenes": 2_140, "min_objects": 7, "max_objects": 10},
}
_CROWDED["gpu"] = _CROWDED["cpu"]

_SMALL_AUTOENCODER = AutoencoderConfig(
    image_size=32,
    channels=32,
    strides=(1, 2, 1, 1),
    slot_size=32,
    mlp_hidden_size=64,
    num_slots=5,
    decoder_channels=32,
    decoder_strides=(2, 2),
    init="apart",
)
# Their schedule, with the same share of the training for the warm-up; the decay is slower (to a
# sixth, not a thirtieth), as training is short.
_AUTOENCODER = {
    "smoke": AutoencoderRunConfig(
        model=AutoencoderConfig(
            image_size=16,
            channels=8,
            strides=(1, 2),
            slot_size=8,
            mlp_hidden_size=16,
            num_slots=4,
            decoder_channels=8,
            decoder_strides=(2,),
            init="apart",
        ),
        data=replace(_CLEVR["smoke"], crop=True),
        training=TrainingConfig(
            lr=4e-4,
            steps=6,
            batch_size=4,
            warmup_steps=2,
            clip=None,
            lr_decay_epochs=None,
            decay_steps=6,
            log_every=1,
            eval_every=2,
        ),
        eval_images=8,
        jacobian_images=2,
        test_images=8,
        sample_images=4,
        test_slots=(5,),
        test_iterations=(1, 5),
    ),
    "quick": AutoencoderRunConfig(
        model=_SMALL_AUTOENCODER,
        data=replace(_CLEVR["quick"], crop=True),
        training=TrainingConfig(
            lr=1e-3,
            steps=400,
            batch_size=16,
            warmup_steps=8,
            clip=None,
            lr_decay_epochs=None,
            decay_steps=200,
            eval_every=100,
        ),
        eval_images=64,
        jacobian_images=16,
        test_images=64,
        test_slots=(7,),
        test_iterations=(1, 7),
    ),
    "cpu": AutoencoderRunConfig(
        model=_SMALL_AUTOENCODER,
        data=replace(_CLEVR["cpu"], crop=True),
        training=TrainingConfig(
            lr=1e-3,
            steps=10_000,
            batch_size=16,
            warmup_steps=200,
            clip=None,
            lr_decay_epochs=None,
            decay_steps=4_000,
            log_every=100,
            eval_every=500,
            arithmetic=2,
        ),
        test_slots=(6, 7),
    ),
    "paper": AutoencoderRunConfig(data=replace(_CLEVR["paper"], max_objects=6, crop=True)),
}
_AUTOENCODER["gpu"] = _AUTOENCODER["cpu"]

_SMALL_PREDICTOR = SetPredictionConfig(image_size=32, channels=32, num_slots=5)
_SET_PREDICTION = {
    "smoke": SetPredictionRunConfig(
        model=SetPredictionConfig(
            image_size=16,
            channels=8,
            strides=(1, 2),
            slot_size=8,
            mlp_hidden_size=16,
            num_slots=3,
            classifier_hidden_size=8,
        ),
        data=_CLEVR["smoke"],
        training=TrainingConfig(
            lr=4e-4,
            steps=6,
            batch_size=4,
            warmup_steps=2,
            clip=None,
            lr_decay_epochs=None,
            decay_steps=6,
            log_every=1,
            eval_every=2,
        ),
        eval_images=8,
        jacobian_images=2,
        test_images=8,
        sample_images=4,
        test_slots=(4,),
        test_iterations=(1, 5),
    ),
    "quick": SetPredictionRunConfig(
        model=_SMALL_PREDICTOR,
        data=_CLEVR["quick"],
        training=TrainingConfig(
            lr=4e-4,
            steps=200,
            batch_size=64,
            warmup_steps=20,
            clip=None,
            lr_decay_epochs=None,
            decay_steps=100,
            eval_every=50,
        ),
        eval_images=128,
        jacobian_images=16,
        test_images=128,
        test_slots=(7,),
        test_iterations=(1, 7),
    ),
    "cpu": SetPredictionRunConfig(
        model=_SMALL_PREDICTOR,
        data=_CLEVR["cpu"],
        training=TrainingConfig(
            lr=4e-4,
            steps=8_000,
            batch_size=64,
            warmup_steps=500,
            clip=None,
            lr_decay_epochs=None,
            decay_steps=8_000,
            log_every=100,
            eval_every=500,
            arithmetic=2,
        ),
        test_slots=(6, 7),
    ),
    "paper": SetPredictionRunConfig(data=_CLEVR["paper"]),
}
_SET_PREDICTION["gpu"] = _SET_PREDICTION["cpu"]


# On the slot predictor's scenes, for as many steps of as many images; the learning rate is theirs.
_SMALL_IDSPN = IDSPNConfig(
    image_size=32,
    channels=32,
    strides=(1, 2, 2, 1),
    hidden_size=128,
    code_size=128,
    num_slots=5,
    num_iterations=20,
)
_IDSPN = {
    "smoke": IDSPNRunConfig(
        model=IDSPNConfig(
            image_size=16,
            channels=8,
            strides=(1, 2),
            hidden_size=16,
            code_size=12,
            num_slots=3,
            num_iterations=4,
        ),
        data=_CLEVR["smoke"],
        training=replace(_SET_PREDICTION["smoke"].training, lr=1e-3),
        eval_images=8,
        jacobian_images=2,
        test_images=8,
        sample_images=4,
        test_iterations=(2, 8),
    ),
    "quick": IDSPNRunConfig(
        model=_SMALL_IDSPN,
        data=_CLEVR["quick"],
        training=replace(_SET_PREDICTION["quick"].training, lr=1e-3),
        eval_images=128,
        jacobian_images=16,
        test_images=128,
        test_iterations=(10, 40),
    ),
    "cpu": IDSPNRunConfig(
        model=_SMALL_IDSPN,
        data=_CLEVR["cpu"],
        training=replace(_SET_PREDICTION["cpu"].training, lr=1e-3),
        test_iterations=(10, 40),
    ),
    "paper": IDSPNRunConfig(data=_CLEVR["paper"]),
}
_IDSPN["gpu"] = _IDSPN["cpu"]


# The rows of Fig. 7: the method, and the number of iterations in training.
PREDICTORS = (("vanilla", 1), ("vanilla", 3), ("IN", 3), ("IN", 7), ("IN", 11))


def autoencoder(given, variant: str, seed: int, **changes) -> AutoencoderRunConfig:
    """Return Locatello et al.'s autoencoder; `changes` as in `slate`."""
    config = changed(_AUTOENCODER[given.profile], given, variant, seed, changes)
    return replace(config, crowded=replace(config.data, **_CROWDED[given.profile]))


def set_prediction(given, variant: str, seed: int, **changes) -> SetPredictionRunConfig:
    """Return Locatello et al.'s set predictor; `changes` as in `slate`."""
    return changed(_SET_PREDICTION[given.profile], given, variant, seed, changes)


def idspn(given, variant: str, seed: int, **changes) -> IDSPNRunConfig:
    """Return Zhang et al.'s iDSPN, on the set predictor's task; `changes` as in `slate`."""
    return changed(_IDSPN[given.profile], given, variant, seed, changes)
