"""Measure the barrier between two models along the straight line between their weights.

Frankle et al. 2019, "Linear Mode Connectivity and the Lottery Ticket Hypothesis" (1912.05671): the
weights of two models are mixed, `(1 - a) W1 + a W2`, and the mixtures are scored. Where no mixture
is much worse than the two ends (2 % of error in the paper) they lie in one basin: averaging them is
safe, and a step that was taken from there did not leave it. By default the two models are trainings
from the same start that differ in the order of rows and in dropout alone; `other` names a model to
connect the present one with instead.

Costs two trainings and one scoring of the selection rows for each point of the line. Not a way to
compress: the model is handed on as it is, no faster and no smaller.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from bertcompress.data.batches import Batches, tensor_batches
from bertcompress.deployment import Curve, Measurement, Product, Trained
from bertcompress.errors import ModelError, few
from bertcompress.heads.outputs import outputs_of
from bertcompress.heads.scoring import compute
from bertcompress.measure.scores import predict
from bertcompress.method import Context, Leaves, Method, Need
from bertcompress.models.io import config_of, load
from bertcompress.models.locate import locate
from bertcompress.runtimes.torch import scoring
from bertcompress.shapes import ShapeError
from bertcompress.training import LabelLoss, TrainSettings, fit_stage

__all__ = ["ModeConnectivity", "barrier", "mix", "mode_connectivity"]

STABLE = 0.02
"""Up to this barrier in error the paper calls two trainings stable."""


def barrier(errors: Sequence[float]) -> float:
    """Return how far the worst point of a line lies above the mean of its two ends.

    `errors`: lower is better, from one end to the other. Frankle et al. 2019, section 2.

    >>> barrier([0.25, 0.75, 0.25]), barrier([0.5, 0.5, 0.5])
    (0.5, 0.0)
    """
    return max(errors) - (errors[0] + errors[-1]) / 2


def mix(first: nn.Module, second: nn.Module, share: float, into: nn.Module) -> nn.Module:
    """Give `into`, in place, the weights `(1 - share) first + share second`, and return it.

    Parameters and buffers of numbers are mixed; what counts or indexes has to be equal. Raises
    ShapeError for models of different shapes.
    """
    weights, others = first.state_dict(), second.state_dict()
    target = into.state_dict()
    for name in sorted({*weights, *others}):
        if name not in weights or name not in others or weights[name].shape != others[name].shape:
            raise ShapeError(
                f"mode_connectivity: '{name}' is not of one shape in both models; only models of "
                "one shape have a straight line between them"
            )
        target[name].copy_(_mixed(name, weights[name], others[name], share))
    return into


def _mixed(name: str, one: Tensor, two: Tensor, share: float) -> Tensor:
    if one.is_floating_point():
        return torch.lerp(one, two.to(one.device), share)
    if not torch.equal(one.cpu(), two.cpu()):
        raise ShapeError(f"mode_connectivity: '{name}' counts, and differs between the models")
    return one


def mode_connectivity(
    first: nn.Module, second: nn.Module, batches: Batches, points: int = 11
) -> list[float]:
    """Return the mean loss of the labels at evenly spaced points from one model to the other.

    Batches hold `labels`; the models stay as they are. Shape: `points` values, both ends included.
    """
    shown, loss = tensor_batches(batches), LabelLoss()
    between = copy.deepcopy(first).eval()
    losses = []
    with torch.inference_mode():
        for share in line(points):
            mix(first, second, share, between)
            each = [float(loss(between, batch, _answer(between, batch), 0)) for batch in shown]
            rows = [len(batch["labels"]) for batch in shown]
            losses.append(sum(a * n for a, n in zip(each, rows, strict=True)) / sum(rows))
    return losses


def _answer(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return outputs_of(model(**{name: t for name, t in batch.items() if name != "labels"}))


def line(points: int) -> list[float]:
    """Return evenly spaced shares from 0 to 1, both included."""
    return [i / (points - 1) for i in range(points)]


class ModeConnectivity(Method, TrainSettings):
    """Measure the barrier between two models along the straight line between their weights."""

    key: ClassVar[str] = "mode_connectivity"
    paper: ClassVar[str] = "Frankle et al. 2019, arXiv:1912.05671"
    leaves: ClassVar[Leaves] = "measurement"
    tier: ClassVar[Literal["core", "useful", "research"]] = "useful"
    requires: ClassVar[frozenset[Need]] = frozenset({Need.HEAD, Need.LABELS, Need.ORIGINAL})

    start: Literal["original", "here"] = Field(
        "original", description="What both trainings start from: the model as it came, or this one"
    )
    other: str | None = Field(
        None, description="Model to connect this one with, instead of training two"
    )
    points: int = Field(11, ge=3, le=101, description="Models on the line, its ends included")
    rows: int = Field(256, ge=1, le=2_048, description="Training rows on which they are scored too")

    def files(self) -> tuple[Path, ...]:
        """Return the weights, config and tokenizer of the other model."""
        if self.other is None:
            return ()
        every = sorted(locate(self.other).iterdir())
        return tuple(file for file in every if file.suffix in (".safetensors", ".json", ".txt"))

    @property
    def rows_read(self) -> int:
        """`rows`."""
        return self.rows

    def check(self, model: nn.Module) -> None:
        """Raise ModelError for another model that answers with other classes, or is not there."""
        if self.other is not None:
            _check_classes(model.config, config_of(self.other), self.other)

    def apply(self, product: Product, ctx: Context) -> Measurement:
        """Return the barrier on the selection rows and on training rows, and its picture."""
        first, second, trained = self._ends(product, ctx)
        selection, training = self._errors(first, second, ctx)
        shares, metric = tuple(line(self.points)), ctx.task.headline
        ends = "two trainings" if trained else f"this model and {Path(self.other or '').name}"
        walls = {"selection": barrier(selection), "training": barrier(training)}
        return Measurement(
            title=f"Straight line between {ends}",
            words=_words(walls["selection"], metric),
            figures={
                **{f"barrier, {split} rows ({metric})": wall for split, wall in walls.items()},
                "error at the first end": selection[0],
                "error at the second end": selection[-1],
                "worst error on the line": max(selection),
            },
            curves=(
                Curve(name="selection rows", x=shares, y=tuple(selection)),
                Curve(name="training rows", x=shares, y=tuple(training)),
            ),
            x_label="share of the second model's weights",
            y_label=f"1 - {metric}",
            samples=self.points * (len(ctx.data.selection) + self._rows(ctx)),
            training=trained,
        )

    def _ends(self, product: Product, ctx: Context) -> tuple[Product, Product, Trained | None]:
        """Return the models at both ends, and how the second training went if there was one."""
        if self.other is not None:
            other = load(self.other)
            if other.tokenizer.get_vocab() != product.tokenizer.get_vocab():
                raise ModelError(
                    f"mode_connectivity: other '{self.other}': its tokens are others than those of "
                    "this model; a mixture would read neither"
                )
            return product, other, None
        settings: ModeConnectivity = self
        ends: list[Product] = []
        spent: list[Trained] = []
        for number in range(2):
            if self.start == "original":
                begun = ctx.models.original
            else:
                begun = Product(copy.deepcopy(product.model), product.tokenizer)
            phase = replace(ctx.phase(f"training-{number}"), seed=ctx.seed + number)
            ends.append(fit_stage(begun, phase, LabelLoss(ctx.task.head), settings))
            trained = ends[-1].findings.training
            assert trained is not None
            spent.append(trained)
            # What `auto` came to for the first holds for the second: they differ in order alone.
            settings = self.model_copy(update=trained.auto)
        return ends[0], ends[1], spent[1].after(spent[0])

    def _errors(
        self, first: Product, second: Product, ctx: Context
    ) -> tuple[list[float], list[float]]:
        """Return the error at each point, on the selection rows and on training rows."""
        head, metric = ctx.task.head, ctx.task.headline
        between = copy.deepcopy(first.model)
        shown = replace(ctx.data, calibration=ctx.data.calibration.select(range(self._rows(ctx))))
        found: dict[str, list[float]] = {"selection": [], "calibration": []}
        for share in line(self.points):
            mix(first.model, second.model, share, between)
            with scoring(between) as predictor:
                for split, errors in found.items():
                    logits = predict(
                        predictor, shown, split, first.tokenizer, config=first.model.config
                    )
                    value = compute(head, [metric], logits, shown.references(split))[metric]
                    errors.append(1 - value)
        return found["selection"], found["calibration"]

    def _rows(self, ctx: Context) -> int:
        return min(self.rows, len(ctx.data.calibration))


def _check_classes(ours: Any, theirs: Any, name: str) -> None:
    """Raise ModelError where two models answer with other classes, or in another order."""
    if ours.id2label != theirs.id2label:
        raise ModelError(
            f"mode_connectivity: other '{name}': its classes are {few(theirs.id2label.values())}, "
            f"those of this model {few(ours.id2label.values())}; a mixture would mean neither"
        )


def _words(wall: float, metric: str) -> tuple[str, ...]:
    found = f"The barrier on the selection rows is {wall:.4f} in 1 - {metric}"
    if wall < STABLE:
        return (f"{found}, below {STABLE:g}: both ends lie in one basin.",)
    return (f"{found}, not below {STABLE:g}: a ridge lies between both ends.",)
