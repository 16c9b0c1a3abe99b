"""The methods of a recipe, applied one after the other: what a run has before it is judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bertcompress.deployment import Product
from bertcompress.engines.distillation.teachers import LiveTeacher
from bertcompress.errors import MissingExtra, ModelError, RecipeError
from bertcompress.method import Context, Method
from bertcompress.methods.quantization.int8 import QuantizeInt8
from bertcompress.recipe import Recipe
from bertcompress.runs.checking import steps
from bertcompress.runs.contests import Contest, trained_alike
from bertcompress.runs.prepare import Start
from bertcompress.runs.results import StageResult
from bertcompress.runs.stage import Stages
from bertcompress.support.display import Display

__all__ = ["Chain", "Done"]


@dataclass
class Done:
    """All stages of a run, before they are judged."""

    start: Start
    rows: list[StageResult]
    baseline: StageResult
    shaped: StageResult
    """The last stage that has a model of its own."""
    dense: StageResult | None
    """int8 of the baseline, where that is another model than what is shipped."""
    contests: dict[str, Contest]
    """Stage name to method and control, where a method has one."""
    notes: dict[str, list[str]]
    precision: str | None = None
    """What `precision: auto` came to, once for the whole run."""


class Chain:
    """Applies the methods one after the other."""

    def __init__(self, recipe: Recipe, start: Start, stages: Stages, display: Display) -> None:
        self.recipe, self.start, self.stages = recipe, start, stages
        self.display, self.say = display, display.line
        self.data = start.data.without_validation()
        self.first: Product | None = start.release()
        """Until a stage has it on disk."""
        self.rows: list[StageResult] = []
        first = "00-original" if start.finetuned else f"01-{recipe.methods[0].key}"
        self.notes: dict[str, list[str]] = {first: list(start.notes)}
        self.contests: dict[str, Contest] = {}
        self.precision: str | None = None
        self.baseline: StageResult | None = None
        self.teacher: tuple[LiveTeacher, str] | None = None

    def go(self) -> Done:
        """Return the finished stages."""
        dense = None
        if self.start.finetuned:
            assert self.first is not None
            self.rows.append(self.stages.original(self.first, self.start.source))
            self.first = None
        for number, method in enumerate(self._methods(), start=1):
            name = f"{number:02d}-{method.key}"
            if method.key != "finetune" and self.baseline is None:
                self._set_baseline(name)
            assert self.rows or method.key == "finetune"
            simple = method if isinstance(method, QuantizeInt8) else None
            if method.kind == "precision" and not (simple and self.rows[-1] is self.baseline):
                # What speed is compared with: int8 of the uncompressed model, without training.
                assert self.baseline is not None
                # As it comes, at full speed: nothing of an opponent is left in fp32.
                plain = (simple or QuantizeInt8()).model_copy(update={"max_drop": None})
                try:
                    dense = self._apply(f"baseline-{plain.key}", plain, self.baseline)
                except (MissingExtra, ModelError) as error:
                    # What the recipe itself asks for needs the runtime too.
                    if simple and isinstance(error, MissingExtra):
                        raise
                    note = f"no int8 of the uncompressed model to compare with: {error}"
                    self.notes.setdefault(name, []).append(note)
            self.rows.append(self._stage(name, self._settled(method)))
            self.first = None
            self._note(name, method)
        baseline = self.baseline or self.rows[-1]
        models = [row for row in self.rows if (row.folder / "model").is_dir()]
        return Done(
            self.start,
            self.rows,
            baseline,
            models[-1],
            dense,
            self.contests,
            self.notes,
            self.precision,
        )

    def _methods(self) -> Sequence[Method]:
        kept = steps(self.recipe.methods, self.start.finetuned)
        for line in dict.fromkeys(line for method in kept for line in method.left_out()):
            self.say(line)
        if len(kept) < len(self.recipe.methods):
            text = "finetune skipped: the model is fine-tuned for this task already"
            self.notes.setdefault("00-original", []).append(text)
            self.say(text)
        return kept

    def _set_baseline(self, name: str) -> None:
        if not self.rows:
            raise RecipeError(
                f"methods: {name[3:]} comes before finetune, but the model has no head for the "
                "task yet; put finetune first"
            )
        self.baseline = self.rows[-1]
        product, source = self.start.teacher or (
            self.baseline.product,
            self.stages.digest(self.baseline),
        )
        teacher = LiveTeacher(
            product.model,
            product.tokenizer,
            (self.start.teacher_data or self.start.data).without_validation(),
            device=self.start.device,
        )
        self.teacher = (teacher, source)

    def _apply(self, name: str, method: Method, before: StageResult | None) -> StageResult:
        teacher, teacher_source = self.teacher or (None, None)
        context = Context(
            self.data.task,
            self.data,
            teacher,
            self.start.device,
            self.recipe.seed,
            self.stages.folder,
        )
        source = self.stages.digest(before) if before else self.start.source
        uses = teacher_source if method.uses_teacher else None
        started = before or self.first
        assert started is not None
        with self.display.working(name):
            return self.stages.apply(name, method, started, context, source, uses)

    def _settled(self, method: Method) -> Method:
        """Return the method with the precision that the run's first training found to be faster.

        A method and its control, or a teacher and its student, never differ in precision.
        """
        if self.precision is None or getattr(method, "precision", None) != "auto":
            return method
        return method.model_copy(update={"precision": self.precision})

    def _decide_precision(self, name: str, method: Method, done: StageResult) -> None:
        found = done.record.facts.get("precision")
        if self.precision or getattr(method, "precision", None) != "auto" or not found:
            return
        self.precision = str(found)
        text = f"precision auto: {found}, by trying; for the whole run"
        self.notes.setdefault(name, []).append(text)
        self.say(f"{name}: {text}")

    def _stage(self, name: str, method: Method) -> StageResult:
        """Return what goes on after a method: its model, or its control's where that is better.

        The method comes first: its control takes its steps, its rate and its precision.
        """
        before = self.rows[-1] if self.rows else None
        ours = self._apply(name, method, before)
        self._decide_precision(name, method, ours)
        wanted = self.recipe.measure.controls and self.start.data.task.head.has_labels
        control = method.control() if wanted else None
        if control is None:
            return ours
        as_long = trained_alike(self._settled(control), ours.record.facts)
        theirs = self._apply(f"{name}-control", as_long, before)
        contest = Contest.of(ours, theirs, self.stages)
        self.contests[name] = contest
        if contest.words:
            self.notes.setdefault(name, []).append(contest.words)
            self.say(f"{name}: {contest.words}")
        return contest.winner

    def _note(self, name: str, method: Method) -> None:
        notes = self.notes.setdefault(name, [])
        if words := _training_words(self.rows[-1].record.facts):
            self.say(f"{name}: {words}")
        notes += self.rows[-1].record.facts.get("notes", ())
        notes += method.left_out()
        if not method.speeds_up and method.kind != "train":  # of a training nobody expects any
            kept = "computes as much as before" if method.kind == "shape" else "keeps its shape"
            notes.append(f"no speed-up here: the encoder {kept}")
        if method.pays_when_measured and not self.recipe.measure.latency:
            notes.append("speed not measured: two thin matrices may be slower than one")
        if self.rows[-1].record.cost.reused:
            notes.append("reused from the stage store")


def _training_words(facts: Mapping[str, Any]) -> str:
    """Return in words how a stage was trained; empty where it was not."""
    ended = facts.get("ended")
    if not ended:
        return ""
    why = {
        "stalled": "the selection score no longer rose",
        "max_epochs": f"max_epochs {ended['value']:g} was reached" if ended["value"] else "",
        "max_minutes": f"max_minutes {ended['value']:g} was reached" if ended["value"] else "",
        "fixed": "a fixed length",
    }[ended["reason"]]
    rate, precision = facts["learning_rate"], facts["precision"]
    words = f"{facts['steps']} steps ({why}) at a peak rate of {rate:g}, in {precision}"
    collapsed = " and ".join(f"{each:g}" for each in facts.get("collapsed_at", ()))
    again = f"; begun again, since at {collapsed} every row was answered alike"
    return words + (again if collapsed else "")
