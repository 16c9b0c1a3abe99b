"""What a run is going to do, and how long that takes at least and at most.

Times are of steps that were timed here on the model as it came; what is smaller later only takes
less. A training that ends by itself is counted as long as it may last.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bertcompress.engines.distillation.settings import control_words, learns_from_labels_alone
from bertcompress.engines.static_vectors import WHOLE
from bertcompress.measure.footprint import count_parameters, macs
from bertcompress.method import Method, Need
from bertcompress.recipe import Recipe
from bertcompress.runs.checking import steps
from bertcompress.runs.contests import control_names, controls_of
from bertcompress.runs.opponents import compared_with_static
from bertcompress.runs.other_stages import files_step, stage_name
from bertcompress.runs.prepare import Prepared
from bertcompress.runtimes import available_runtimes
from bertcompress.support.display import Display, Work, span
from bertcompress.training import TrainSettings
from bertcompress.training.pacing import Pace, fewest_steps, time_steps

__all__ = ["TIMING", "announce", "outlook"]

TIMING = "timing"
"""The name of the work after the last stage."""

_WRAPPED = 2.5
"""A method that trains and changes shape or precision computes more in each step: at most so many
times what the plain model does."""
_ATTEMPTS = 8
"""Ways to round that are tried for one runtime where the first loses too much."""
_EXPORTED_S = (0.1, 1.0)
"""Seconds for a million parameters in which a file is exported, rounded and opened: not timed."""
_OPENED_S = (1.0, 12.0)
"""Seconds in which a file that is timed is opened in its own process and has its first pass."""
_SHORT = 0.25
"""What a text of one token takes of a row of the task, at most."""
_EVALUATED = 32
"""Rows of a batch where nothing is trained."""


def announce(recipe: Recipe, start: Prepared, display: Display) -> None:
    """Say what the stages are and how long the whole takes, and let the display count on it."""
    if display.silent:
        return
    methods = steps(recipe.methods, start.finetuned)
    trained: list[Any] = [m for m in methods if issubclass(type(m), TrainSettings)]
    size = trained[0].batch_size if trained else _EVALUATED
    product = start.product
    pace = time_steps(product.model, start.data, product.tokenizer, size, start.device)
    works = outlook(recipe, start, pace)
    display.plan(works)
    display.line(f"{len(methods)} stage{'s' if len(methods) != 1 else ''}:")
    for work in works:
        display.line(f"  {_words(work)}")
    low, high = (sum(getattr(w, name) for w in works) for name in ("low_s", "high_s"))
    what, each = ("training step", pace.step_s) if trained else ("batch", pace.forward_s)
    timed = f"{1000 * size * each:,.0f} ms for a {what} of {size} rows"
    display.line(
        f"the whole: {span(low, high, any(w.open_ended for w in works))}, by {timed}, timed here; "
        "what the store holds already takes no time"
    )


def _words(work: Work) -> str:
    if work.follows:
        return f"{work.title}: as many steps"
    ends = ", until the score on the selection split no longer rises" if work.open_ended else ""
    most = "at most " if work.open_ended else ""
    training = f"{most}{work.steps:,} steps{ends}; " if work.steps else ""
    return f"{work.title}: {training}{span(work.low_s, work.high_s, work.open_ended)}"


def outlook(recipe: Recipe, start: Prepared, pace: Pace) -> list[Work]:
    """Return the work of a run in order: stages, controls, the baseline's int8, timing."""
    methods = steps(recipe.methods, start.finetuned)
    planner = _Planner(recipe, start, pace)
    works: list[Work] = []
    compared = False
    for number, method in enumerate(methods, 1):
        title = ", ".join(
            (f"stage {number} of {len(methods)}: {method.key}", *control_words(method))
        )
        name = f"{number:02d}-{method.key}"
        plain = method.dense_opponent()
        if plain is not None and (compared or type(plain) is not type(method)):
            words = f"stage {number} of {len(methods)}: int8 of the uncompressed model, to compare"
            works.append(planner.work(f"baseline-{plain.key}", words, plain))
        works.append(planner.work(name, title, method))
        own = works[-1]
        controls = controls_of(method, start.data, recipe.measure.controls)
        for place, (what, control) in zip(control_names(name), controls.items(), strict=False):
            made = planner.work(place, f"{title}, its control ({what})", control)
            if made.steps:  # it takes as many as the method turns out to
                made = replace(made, low_s=min(made.low_s, own.low_s), follows=name)
            works.append(made)
        planner.shrink(method)
        compared = compared or not (method.trains_head or method.leaves == "measurement")
    works += _others(recipe, start, pace, methods)
    return [*works, planner.timing()]


def _others(recipe: Recipe, start: Prepared, pace: Pace, methods: Sequence[Method]) -> list[Work]:
    """Return the work of the models beside the result."""
    works: list[Work] = []
    files = files_step(methods)
    for number, other in enumerate(start.others, 1):
        planner = _Planner(recipe, start, pace.times(other.work))
        title, key = f"beside the result, {other.name}", "original"
        if other.finetune is not None:
            title, key = f"{title}: {other.finetune.key}", other.finetune.key
        works.append(planner.work(stage_name(number, key), title, other.finetune))
        if files is not None:
            words = f"beside the result, {other.name}: its int8"
            works.append(planner.work(stage_name(number, files.key), words, files))
    return works


@dataclass
class _Planner:
    """Counts what is trained, scored and timed."""

    recipe: Recipe
    start: Prepared
    pace: Pace
    kept: float = 1.0
    """Share of the work that a forward pass has at least, after the methods so far."""

    def shrink(self, method: Method) -> None:
        """Take in that a method leaves less to compute, or goes on with another model."""
        if method.replaces_model and self.start.student:
            work = self.start.student.work
            self.kept *= min(1.0, work)
            self.pace = self.pace.times(max(1.0, work))
        if method.leaves == "shape" and method.share_left is not None:
            self.kept *= method.share_left

    def work(self, name: str, title: str, method: Any) -> Work:
        """Return the work of one stage. `method`: None for a model that is only answered."""
        data = self.start.data
        judged = len(data.validation) + sum(map(len, data.also.values()))
        low, high = judged * self.pace.forward_s * self.kept, judged * self.pace.forward_s
        if method is None:  # a model as it came
            return Work(name, title, low, high)
        sample = min(method.rows_read, len(data.calibration))
        low, high = low + sample * self.pace.forward_s, high + 2 * sample * self.pace.step_s
        if method.leaves == "files":
            more = self._rounding(method, judged)
            low, high = low + more[0], high + more[1]
        if not isinstance(method, TrainSettings) or method.epochs == 0:
            return Work(name, title, low, high)
        few, most, seconds = self._training(method)
        open_ended = few < most
        low, high = low + seconds[0], high + seconds[1]
        return Work(name, title, low, high, most, open_ended)

    def _training(self, method: Any) -> tuple[int, int, tuple[float, float]]:
        """Return fewest and most steps of a training, and the seconds of both."""
        transfer, head = self.start.transfer.get(method.transfer_text), self.start.data.task.head
        more = len(transfer.rows) * head.features_a_row if transfer else 0
        more += self._augmented(method) * head.features_a_row
        batches = math.ceil((self._trained_on(method) + more) / method.batch_size)
        epoch = math.ceil(batches / method.gradient_accumulation)
        most = method.steps(batches)
        few = fewest_steps(method, epoch, most)
        in_step = method.batch_size * method.gradient_accumulation * method.passes_per_step
        taught = Need.TEACHER in method.requires and not learns_from_labels_alone(method)
        teacher = self._teacher() if taught else 0.0
        usual = self.pace.step_s * in_step
        longest = usual * (1.0 if method.leaves == "weights" else _WRAPPED) + teacher * in_step
        judged = len(self.start.data.selection) * self.pace.forward_s
        high = most * longest + judged * max(4, most / max(epoch, 1))
        if method.max_minutes is not None:
            high = min(high, 60 * method.max_minutes)
        return few, most, (few * usual * self.kept, high + self._replacing(method))

    def _augmented(self, method: Method) -> int:
        """Return how many texts a method makes of the training rows, those left out included."""
        asked = method.augmentation
        return len(self.start.data.train) * asked.copies if asked else 0

    def _replacing(self, method: Method) -> float:
        """Return the seconds at most in which words of the training rows get their candidates.

        That is where each word that some copy replaces is masked in a text of its own.
        """
        asked = method.augmentation
        if asked is None:
            return 0.0
        features = self.start.data.encode(self.start.product.tokenizer, "train")
        share = 1 - (1 - asked.probability) ** asked.copies
        return float(np.sum(features["length"][:])) * share * self.pace.forward_s

    def _trained_on(self, method: Method) -> int:
        """Return what one pass of a training goes over: rows, or the texts of pairs."""
        data, head = self.start.data, self.start.data.task.head
        if head.features_a_row == 1:
            return len(data.train)
        features = data.encode(self.start.product.tokenizer, "train")
        alone = method.needs_labels or learns_from_labels_alone(method)
        return len(head.labelled(features) if alone else features)

    def _teacher(self) -> float:
        """Return the seconds in which a teacher answers for one row."""
        if self.start.teacher is None:
            return self.pace.forward_s
        ratio = macs(self.start.teacher[0].model) / macs(self.start.product.model)
        return self.pace.forward_s * max(1.0, ratio)

    def _rounding(self, method: Method, judged: int) -> tuple[float, float]:
        """Return the seconds in which int8 files are made and scored, one row at a time."""
        once = (judged + len(self.start.data.selection)) * self.pace.alone_s
        files = len(method.makes_files_for or available_runtimes())
        attempts = _ATTEMPTS if method.tries_again else 1
        size = count_parameters(self.start.product.model).total / 1e6
        low, high = (files * size * each for each in _EXPORTED_S)
        return low + files * once * self.kept / 4, high + files * attempts * once

    def timing(self) -> Work:
        """Return the work after the last stage."""
        measure = self.recipe.measure
        beside = self._beside()
        if not measure.latency:
            return Work(TIMING, "report", 1.0, 5.0 + beside)
        seconds = measure.seconds * (len(measure.shapes) + 2 * measure.task_lengths)
        # Of the model before and after: in torch, and in fp32 and int8 of each runtime.
        files = 2 * (1 + 2 * len(available_runtimes()))
        files += len(self.start.others) * len(available_runtimes())
        low, high = (files * each for each in _OPENED_S)
        high += 2 * seconds + 5.0 + beside
        return Work(TIMING, "timing and report", seconds + low, high)

    def _beside(self) -> float:
        """Return the seconds at most in which each token of an embedder is a text of its own."""
        if not compared_with_static(self.recipe, self.start.data):
            return 0.0
        tokens = min(len(self.start.product.tokenizer), WHOLE)
        return tokens * self.pace.forward_s * _SHORT
