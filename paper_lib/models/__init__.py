"""Models that refine slots by iteration: slot attention, and SLATE around it."""

from paper_lib.models.dvae import DVAE
from paper_lib.models.slate import SLATE, SLATEConfig, SLATEOutput, SlotOutput
from paper_lib.models.slot_attention import VARIANTS, SlotAttention, variant

__all__ = ["DVAE", "SLATE", "VARIANTS", "SLATEConfig", "SLATEOutput", "SlotAttention", "SlotOutput", "variant"]
