"""Models that refine slots by iteration: slot attention, SLATE around it, and the two models of Locatello et al. (2020)."""

from paper_lib.models.autoencoder import (
    AutoencoderConfig,
    AutoencoderOutput,
    SlotAttentionAutoEncoder,
)
from paper_lib.models.dvae import DVAE
from paper_lib.models.set_prediction import SetPredictionConfig, SetPredictionOutput, SetPredictor
from paper_lib.models.slate import SLATE, SLATEConfig, SLATEOutput
from paper_lib.models.slot_attention import VARIANTS, SlotAttention, variant
from paper_lib.models.slot_encoder import SlotEncoder, SlotOutput

__all__ = [
    "DVAE", "SLATE", "VARIANTS", "AutoencoderConfig", "AutoencoderOutput", "SLATEConfig", "SLATEOutput", "SetPredictionConfig", "SetPredictionOutput",
    "SetPredictor", "SlotAttention", "SlotAttentionAutoEncoder", "SlotEncoder", "SlotOutput", "variant",
]  # fmt: skip


def pair_name(config) -> str:
    """Return what people call the solver and the adjoint of a model's config, such as "IN"."""
    return config.variant
