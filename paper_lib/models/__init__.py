"""Models that refine slots by iteration: slot attention, SLATE, and two of Locatello et al.

In the order of reading:

    variants.py        Table 2: the solver and the adjoint that a model's config asks for
    slot_attention.py  the cell, and its fixed point
    transport.py       other cells, in which slots compete by optimal transport
    slot_encoder.py    initial slots and inputs around it, which all three models share
    slate.py           SLATE, on top of dvae.py (images to tokens and back) and transformer.py
                       (tokens from slots)
    autoencoder.py     object discovery of Locatello et al. (2020), on top of conv_encoder.py
    set_prediction.py  set prediction of Locatello et al. (2020), on top of conv_encoder.py
    idspn.py           set prediction of Zhang et al. (2022): another map whose fixed point is found
    layers.py          torch's layers with the authors' initialisation
    fast/              what makes all of this fast on a CPU. The models are complete without it
"""

from paper_lib.models.autoencoder import (
    AutoencoderConfig,
    AutoencoderOutput,
    SlotAttentionAutoEncoder,
)
from paper_lib.models.dvae import DVAE
from paper_lib.models.idspn import IDSPN, IDSPNConfig
from paper_lib.models.set_prediction import SetPredictionConfig, SetPredictionOutput, SetPredictor
from paper_lib.models.slate import SLATE, SLATEConfig, SLATEOutput
from paper_lib.models.slot_attention import SlotAttention
from paper_lib.models.slot_encoder import SlotEncoder, SlotOutput
from paper_lib.models.transport import TransportSlotAttention
from paper_lib.models.variants import VARIANTS, pair_name, solver_and_adjoint, variant

__all__ = [
    "DVAE",
    "IDSPN",
    "SLATE",
    "VARIANTS",
    "AutoencoderConfig",
    "AutoencoderOutput",
    "IDSPNConfig",
    "SLATEConfig",
    "SLATEOutput",
    "SetPredictionConfig",
    "SetPredictionOutput",
    "SetPredictor",
    "SlotAttention",
    "SlotAttentionAutoEncoder",
    "SlotEncoder",
    "SlotOutput",
    "TransportSlotAttention",
    "pair_name",
    "solver_and_adjoint",
    "variant",
]
