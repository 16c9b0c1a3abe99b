"""`fit`: the one place that drives `transformers.Trainer`."""

from bertcompress.training.callback import ObjectiveCallback
from bertcompress.training.checkpoints import clear
from bertcompress.training.fitting import Fitted, fit, fit_batches, fit_stage
from bertcompress.training.settings import Rate, TrainSettings
from bertcompress.training.steps import forward, label_loss, logits_of, time_precisions

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
    "time_precisions",
]
