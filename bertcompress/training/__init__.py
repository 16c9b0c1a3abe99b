"""`fit`: the one place that drives `transformers.Trainer`."""

from bertcompress.training.callback import ObjectiveCallback
from bertcompress.training.checkpoints import clear
from bertcompress.training.fitting import Fitted, fit, fit_batches, fit_stage
from bertcompress.training.label_loss import LabelLoss
from bertcompress.training.objective import BaseObjective, DelegatingObjective
from bertcompress.training.phases import Phase, fit_phases
from bertcompress.training.rows import epoch_batches
from bertcompress.training.settings import Rate, TrainSettings
from bertcompress.training.steps import forward, label_loss, time_precisions
from bertcompress.training.targets import standardised_logits, to_target_units
from bertcompress.training.through import fit_batches_through, fit_through

__all__ = [
    "BaseObjective",
    "DelegatingObjective",
    "Fitted",
    "LabelLoss",
    "ObjectiveCallback",
    "Phase",
    "Rate",
    "TrainSettings",
    "clear",
    "epoch_batches",
    "fit",
    "fit_batches",
    "fit_batches_through",
    "fit_phases",
    "fit_stage",
    "fit_through",
    "forward",
    "label_loss",
    "standardised_logits",
    "time_precisions",
    "to_target_units",
]
