"""`fit`: the one place that drives `transformers.Trainer`."""

from bertcompress.training.callback import ObjectiveCallback
from bertcompress.training.checkpoints import clear
from bertcompress.training.fitting import Fitted, fit, fit_batches, fit_stage
from bertcompress.training.settings import Rate, TrainSettings
from bertcompress.training.steps import forward, label_loss, logits_of, time_precisions
from bertcompress.training.targets import standardised_logits, to_target_units

__all__ = [
    "Fitted",
    "ObjectiveCallback",
    "Rate",
    "TrainSettings",
    "clear",
    "fit",
    "fit_batches",
    "fit_stage",
    "forward",
    "label_loss",
    "logits_of",
    "standardised_logits",
    "time_precisions",
    "to_target_units",
]
