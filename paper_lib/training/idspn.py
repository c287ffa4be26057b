"""Training an iDSPN on the set predictor's task: the same data, loss and scores."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn

from paper_lib.models import IDSPN, IDSPNConfig
from paper_lib.training.config import TrainingConfig
from paper_lib.training.run import Job
from paper_lib.training.set_prediction import SetPredictionRunConfig, SetPredictionTask


def _authors_training() -> TrainingConfig:
    """Theirs, without the drop of the learning rate after 90 of the 100 epochs."""
    return TrainingConfig(
        lr=1e-3,
        steps=54_000,
        batch_size=128,
        warmup_steps=0,
        clip=None,
        lr_decay_epochs=None,
        log_every=100,
        eval_every=1_000,
    )


@dataclass(frozen=True, kw_only=True)
class IDSPNRunConfig(SetPredictionRunConfig):
    """An iDSPN, its data and its training; the defaults are the authors'.

    Its sets have as many elements as in training at test time, too, so there are no `test_slots`.
    The others are as `SetPredictionRunConfig`.
    """

    model: IDSPNConfig = field(default_factory=IDSPNConfig)
    training: TrainingConfig = field(default_factory=_authors_training)
    test_slots: tuple[int, ...] = ()
    test_iterations: tuple[int, ...] = (10, 20, 80)

    kind = "idspn"

    def task(self, splits: dict, job: Job) -> IDSPNTask:
        return IDSPNTask(self, **splits)


class IDSPNTask(SetPredictionTask):
    """The set predictor's task for a model whose sets are found by descent."""

    def build(self) -> IDSPN:
        return IDSPN(self.config.model)

    @property
    def refiner(self) -> nn.Module:
        return self.model.descent

    def watch(self) -> dict[str, list[nn.Parameter]]:
        return {"set_encoder": list(self.refiner.set_encoder.parameters())}

    def cell(self) -> dict[str, Tensor]:
        """Return none: what is kept is slot attention's."""
        return {}
