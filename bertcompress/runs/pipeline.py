"""The methods of a recipe, applied one after the other: what a run has before it is judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from bertcompress.data.transfer import with_transfer
from bertcompress.deployment import Product, StageLayout, Trained
from bertcompress.engines.distillation.settings import control_words, learns_from_labels_alone
from bertcompress.engines.distillation.teachers import LiveTeacher
from bertcompress.errors import MissingExtra, ModelError, RecipeError, few
from bertcompress.method import Context, Method, Models, Need
from bertcompress.models.io import load
from bertcompress.models.masked_lm import load_masked_lm
from bertcompress.recipe import Recipe
from bertcompress.runs.checking import steps
from bertcompress.runs.contests import Contest, control_names, controls_of, trained_alike
from bertcompress.runs.other_stages import OtherResult, OtherStages, files_step
from bertcompress.runs.pipeline_result import PipelineResult
from bertcompress.runs.prepare import Prepared
from bertcompress.runs.results import StageResult
from bertcompress.runs.stage import Stages
from bertcompress.support.display import Display
from bertcompress.training import TrainSettings

__all__ = ["Pipeline"]

_OPPONENT = "baseline-"
"""Front of the name of a stage that makes files of the baseline."""
_NO_SPEED_UP = {"shape": "computes as much as before", "files": "keeps its shape"}
"""What is said of a method without a speed-up; of a training nobody expects any."""


class Pipeline:
    """Applies the methods of a recipe one after the other."""

    def __init__(self, recipe: Recipe, start: Prepared, stages: Stages, display: Display) -> None:
        self.recipe, self.start, self.stages = recipe, start, stages
        self.display, self.say = display, display.line
        self.data = start.data.without_validation()
        self.model_stages = stages
        """Those of the recipe's model, where a student reads texts otherwise."""
        self.first: Product | None = start.release()
        """Until a stage has it on disk."""
        self.rows: list[StageResult] = []
        first = "00-original" if start.finetuned else f"01-{recipe.methods[0].key}"
        self.notes: dict[str, list[str]] = {first: list(start.notes)}
        self.contests: dict[str, list[Contest]] = {}
        self.precision: str | None = None
        self.baseline: StageResult | None = None
        self.dense: StageResult | None = None
        self.teacher: tuple[LiveTeacher, str] | None = None

    def run(self) -> PipelineResult:
        """Return the finished stages."""
        if self.start.finetuned:
            assert self.first is not None
            self.rows.append(self.stages.original(self.first, self.start.source))
            self.first = None
        for number, method in enumerate(self._methods(), start=1):
            name = f"{number:02d}-{method.key}"
            if not method.trains_head and self.baseline is None:
                self._set_baseline(name)
            if method.replaces_model:
                self._go_on_with_student()
            self._compare_with_dense(name, method)
            self.rows.append(self._stage(name, self._settled(method)))
            self.first = None
            self._note(name, method)
        models = [row for row in self.rows if StageLayout(row.folder).model.is_dir()]
        others = self._others()
        return PipelineResult(
            recipe=self.recipe,
            folder=self.stages.folder,
            clock=self.stages.clock,
            start=self.start,
            rows=self.rows,
            baseline=self.baseline or self.before,
            shaped=models[-1],
            dense=self.dense,
            contests=self.contests,
            notes=self.notes,
            precision=self.precision,
            others=others,
        )

    def _others(self) -> list[OtherResult]:
        """Return the models beside the result, after all of its own steps.

        One that fails now costs the comparison, and not the run.
        """
        stages = self.model_stages
        make = OtherStages(stages, self.start.device, self.recipe.seed, self._settled, self.display)
        files, found = files_step(self.recipe.methods), []
        for number, other in enumerate(self.start.others, start=1):
            try:
                found.append(make.result(number, other, files))
            except (MissingExtra, ModelError) as error:
                note = f"no comparison with {other.name}: {error}"
                self.notes.setdefault(self.before.record.name, []).append(note)
                self.say(note)
        return found

    @property
    def before(self) -> StageResult:
        """The last stage that is no probe's: what the next method is given."""
        return next(row for row in reversed(self.rows) if not row.measures)

    def _methods(self) -> Sequence[Method]:
        kept = steps(self.recipe.methods, self.start.finetuned)
        for line in dict.fromkeys(line for method in kept for line in method.left_out()):
            self.say(line)
        skipped = self.recipe.methods[: len(self.recipe.methods) - len(kept)]
        if skipped:
            names = few([method.key for method in skipped])
            text = f"{names} skipped: the model is fine-tuned for this task already"
            self.notes.setdefault("00-original", []).append(text)
            self.say(text)
        return kept

    def _set_baseline(self, name: str) -> None:
        if not self.rows:
            raise RecipeError(
                f"methods: {name[3:]} comes before finetune, but the model has no head for the "
                "task yet; put finetune first"
            )
        self.baseline = self.before
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

    def _go_on_with_student(self) -> None:
        """Read the rows as the student does from here on."""
        assert self.start.student is not None
        data = self.start.student.data
        self.data = data.without_validation()
        self.stages = self.stages.reading(data)

    def _compare_with_dense(self, name: str, method: Method) -> None:
        """Make what speed is compared with: int8 of the uncompressed model, without training."""
        opponent = method.dense_opponent()
        same = type(opponent) is type(method)
        if opponent is None or self.baseline is None or (same and self.before is self.baseline):
            return  # the recipe's own step makes it
        try:
            self.dense = self._apply(f"{_OPPONENT}{opponent.key}", opponent, self.baseline)
        except (MissingExtra, ModelError) as error:
            # What the recipe itself asks for needs the runtime too.
            if same and isinstance(error, MissingExtra):
                raise
            note = f"no int8 of the uncompressed model to compare with: {error}"
            self.notes.setdefault(name, []).append(note)

    def _apply(self, name: str, method: Method, before: StageResult | None) -> StageResult:
        needs = method.requires
        data, stages = self.data, self.stages
        if name.startswith(_OPPONENT):  # made of the model before, which a student may have left
            data, stages = self.model_stages.data.without_validation(), self.model_stages
        teacher, teacher_source = self.teacher or (None, None)
        models, sources = Models(teacher), {"before": self._source(before)}
        transfer = self.start.transfer.get(method.transfer_text)
        if transfer is not None:
            data = with_transfer(data, transfer)
            if teacher is not None and teacher.data is not None:
                models = Models(teacher.reading(with_transfer(teacher.data, transfer)))
            sources["transfer"] = transfer.fingerprint
        if Need.TEACHER in needs:
            sources["teacher"] = teacher_source or "none"
        if method.augmentation is not None:
            read = partial(load_masked_lm, self.recipe.model, self.recipe.revision)
            models = replace(models, open_masked_lm=read)
            sources["original"] = self.start.source
        if Need.ORIGINAL in needs:
            models = replace(models, open_original=self.start.open_original)
            sources["original"] = self.start.source
        if Need.BASELINE in needs:
            assert self.baseline is not None
            folder = self.baseline.model_folder
            models = replace(models, open_baseline=partial(load, folder))
            sources["baseline"] = self._source(self.baseline)
        context = Context(
            data.task,
            data,
            models,
            self.start.device,
            self.recipe.seed,
            self.stages.folder,
        )
        started = before or self.first
        assert started is not None
        with self.display.working(name):
            return stages.apply(name, method, started, context, sources)

    def _source(self, result: StageResult | None) -> str:
        return self.stages.digest(result) if result else self.start.source

    def _settled(self, method: Method) -> Method:
        """Return the method with the precision that the run's first training found to be faster.

        A method and its control, or a teacher and its student, never differ in precision.
        """
        if self.precision is None or not _by_trying(method):
            return method
        return method.model_copy(update={"precision": self.precision})

    def _decide_precision(self, name: str, method: Method, result: StageResult) -> None:
        training = result.record.findings.training
        found = training.precision if training else None
        if self.precision or not _by_trying(method) or not found:
            return
        self.precision = found
        text = f"precision auto: {found}, by trying; for the whole run"
        self.notes.setdefault(name, []).append(text)
        self.say(f"{name}: {text}")

    def _stage(self, name: str, method: Method) -> StageResult:
        """Return what goes on after a method: its model, or a control's where that is better.

        The method comes first: its controls take its steps, its rate and its precision.
        """
        before = self.before if self.rows else None
        ours = self._apply(name, method, before)
        self._decide_precision(name, method, ours)
        controls = controls_of(method, self.start.data, self.recipe.measure.controls)
        training = ours.record.findings.training
        theirs = {
            words: self._apply(place, self._alike(control, method, training), before)
            for place, (words, control) in zip(control_names(name), controls.items(), strict=False)
        }
        if not theirs:
            return ours
        self.contests[name] = Contest.of(ours, theirs, self.stages, method.references)
        for contest in self.contests[name]:
            if contest.words:
                self.notes.setdefault(name, []).append(contest.words)
                self.say(f"{name}: {contest.words}")
        return next((each.winner for each in self.contests[name] if each.goes_on), ours)

    def _alike(self, control: Method, method: Method, training: Trained | None) -> Method:
        """Return a control that takes the steps of its method, whatever text that reads."""
        other = control.transfer_text != method.transfer_text
        other = other or control.augmentation != method.augmentation
        if self.data.task.head.searches:  # documents that no query asks for teach only by a teacher
            alone = [learns_from_labels_alone(each) for each in (control, method)]
            other = other or alone[0] != alone[1]
        return trained_alike(self._settled(control), training, other)

    def _note(self, name: str, method: Method) -> None:
        notes, record = self.notes.setdefault(name, []), self.rows[-1].record
        if words := _training_words(record.findings.training):
            self.say(f"{name}: {words}")
        notes += record.findings.notes
        ours = next((each.method.record for each in self.contests.get(name, ())), record)
        if method.augmentation is not None and ours is not record:
            notes += ours.findings.notes  # texts were made, though a control goes on without them
        notes += method.left_out()
        notes += [f"{setting}: {words}" for setting, words in control_words(method).items()]
        if (transfer := self.start.transfer.get(method.transfer_text)) is not None:
            notes.append(transfer.words)
        trained = record.findings.training
        if trained is not None and trained.taught and self.start.student:
            notes.append(f"taught by {self.recipe.teacher or self.recipe.model}")
        if not method.speeds_up and (kept := _NO_SPEED_UP.get(method.leaves)):
            notes.append(f"no speed-up here: the encoder {kept}")
        if method.speed_needs_timing and not self.recipe.measure.latency:
            notes.append("speed not measured: two thin matrices may be slower than one")
        if record.cost.reused:
            notes.append("reused from the stage store")


def _by_trying(method: object) -> bool:
    """Return whether the precision of a training is whichever is found to be faster."""
    return isinstance(method, TrainSettings) and method.precision == "auto"


def _training_words(trained: Trained | None) -> str:
    """Return in words how a stage was trained; empty where it was not."""
    if trained is None or not trained.ended:
        return ""
    ended = trained.ended
    why = {
        "stalled": "the selection score no longer rose",
        "max_epochs": f"max_epochs {ended['value']:g} was reached" if ended["value"] else "",
        "max_minutes": f"max_minutes {ended['value']:g} was reached" if ended["value"] else "",
        "fixed": "a fixed length",
    }[ended["reason"]]
    above = (trained.head_rate or 1) * (trained.learning_rate or 0)
    head = f" ({above:g} for the head)" if trained.head_rate not in (None, 1) else ""
    words = (
        f"{trained.steps} steps ({why}) at a peak rate of {trained.learning_rate:g}{head}, "
        f"in {trained.precision}"
    )
    collapsed = " and ".join(f"{each:g}" for each in trained.collapsed_at)
    again = f"; begun again, since at {collapsed} every row was answered alike"
    return words + (again if collapsed else "")
