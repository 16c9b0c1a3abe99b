"""Several trainings that make one stage, one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from bertcompress.deployment import Product, Trained
from bertcompress.training.selection import agreed
from bertcompress.training.settings import TrainSettings

__all__ = ["Phase", "fit_phases"]

_Settings = TypeVar("_Settings", bound=TrainSettings)

_NOTHING_LEFT = 1e-6


@dataclass(frozen=True)
class Phase(Generic[_Settings]):
    """One of the trainings of a stage."""

    settings: _Settings
    train: Callable[[_Settings], Product]
    """Trains by these settings as they are by then, and returns the trained product."""
    length: str = "epochs"
    """The setting of the method that `settings.epochs` is."""


def fit_phases(phases: Iterable[Phase[Any]]) -> Product:
    """Return what the last of several trainings made; its findings count what all of them cost.

    Each takes what `auto` came to in those before it, and has what they left of `max_minutes`. How
    each of them ended is kept. At least one phase.
    """
    spent: Trained | None = None
    product: Product | None = None
    auto: dict[str, Any] = {}
    minutes = 0.0
    for phase in phases:
        start = time.perf_counter()
        product = phase.train(_going_on(phase.settings, auto, minutes))
        assert product.findings.training is not None
        trained = _in_words_of(phase, product.findings.training)
        # The clocks of several processes differ.
        minutes += agreed(time.perf_counter() - start + trained.earlier_seconds) / 60
        auto |= trained.auto
        spent = trained if spent is None else trained.after(spent)
    assert product is not None, "a stage of no training"
    findings = product.findings.model_copy(update={"training": spent})
    return replace(product, findings=findings)


def _going_on(settings: _Settings, auto: dict[str, Any], minutes: float) -> _Settings:
    """Return the settings of a training after others, which took so many minutes."""
    cap = settings.max_minutes
    left = {} if cap is None else {"max_minutes": max(cap - minutes, _NOTHING_LEFT)}
    return settings.model_copy(update={**auto, **left})


def _in_words_of(phase: Phase[Any], trained: Trained) -> Trained:
    """Return how a training went, in the settings of the method that it is a phase of."""
    ended = dict(trained.ended or {})
    if ended.get("setting") == "epochs":
        ended["setting"] = phase.length
    elif ended.get("setting") == "max_minutes":
        ended["value"] = phase.settings.max_minutes
    return trained.model_copy(update={"ended": ended or None})
