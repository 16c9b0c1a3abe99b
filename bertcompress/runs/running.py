"""`run(recipe, out) -> Run`: measure, apply, measure, save, for each method; resumable."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import dropwhile
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from bertcompress.artefact import (
    EMBEDDED_HUB,
    Deployment,
    locate,
    save,
)
from bertcompress.engines.teachers import LiveTeacher
from bertcompress.errors import OutputError, RecipeError
from bertcompress.measure import Timing, environment
from bertcompress.method import Context, Method
from bertcompress.noise import quiet
from bertcompress.publish.card import write_card
from bertcompress.ranks import Ranks
from bertcompress.recipe import Recipe
from bertcompress.report import Report
from bertcompress.report.rows import Control, Stage
from bertcompress.runs.judging import Judge, Timed, headline, time_deployments
from bertcompress.runs.stages import Clock, Finished, Stages
from bertcompress.runs.starting import Say, Start, prepare
from bertcompress.store import StageStore, remove_leftovers, write_atomically

__all__ = ["Run", "run"]


@dataclass(frozen=True)
class Run:
    """The folder of a finished run."""

    folder: Path

    @property
    def report(self) -> Report:
        """What came out."""
        return Report.load(self.folder)

    @property
    def model(self) -> Path:
        """The compressed model, its tokenizer and its card."""
        return self.folder / "model"

    @property
    def onnx(self) -> Path:
        """fp32 and int8 files for ONNX Runtime; there if the recipe quantised."""
        return self.folder / "onnx"

    @property
    def openvino(self) -> Path:
        """The int8 file for OpenVINO; there if the recipe quantised and OpenVINO is installed."""
        return self.folder / "openvino"

    @property
    def recipe(self) -> Recipe:
        """What was run."""
        return Recipe.load(self.folder / "recipe.yaml")

    def push_to_hub(self, repository: str, *, private: bool = False) -> str:
        """Upload model, ONNX and OpenVINO files, report and card in one commit; return its URL."""
        from bertcompress.publish.hub import push

        return push(self.folder, repository, private=private)


def run(
    recipe: Recipe,
    out: str | Path,
    *,
    resume: bool = False,
    fresh: bool = False,
    data_dir: str | Path | None = None,
    store: StageStore | None = None,
    say: Say = lambda _: None,
) -> Run:
    """Do what a recipe says and leave the run folder `out`, whole or not at all.

    Args:
        recipe: What to do.
        out: Folder that must not exist yet.
        resume: Go on with an interrupted run of the same recipe to the same folder.
        fresh: Take nothing from the stage store, and drop an interrupted run.
        data_dir: Local copy of the data set, instead of the Hub id of the task.
        store: Stage store; by default the user's.
        say: Called with one line at a time about what is going on.

    Raises:
        InputError and its kin, before anything is written, for what cannot be run.
    """
    ranks, clock = Ranks(), Clock()
    folder = Path(out)
    partial = folder.with_name(f".{folder.name}.partial")
    if resume and _done_already(folder, recipe):
        say(f"{folder}: finished before")
        return Run(folder)
    if ranks.main:
        _claim(folder, partial, recipe, resume=resume, fresh=fresh)
    ranks.wait()
    try:
        with quiet():
            return _run(recipe, folder, partial, ranks, clock, (fresh, data_dir, store, say))
    except BaseException:
        # Nothing worth resuming was made: leave no trace.
        if ranks.main and not (partial / "stages").exists() and not (partial / "work").exists():
            shutil.rmtree(partial, ignore_errors=True)
        raise


def _run(
    recipe: Recipe,
    folder: Path,
    partial: Path,
    ranks: Ranks,
    clock: Clock,
    options: tuple[bool, str | Path | None, StageStore | None, Say],
) -> Run:
    fresh, data_dir, store, say = options
    with clock("loading"):
        start = prepare(recipe, data_dir, say)
    stages = Stages(partial, start.data, store or StageStore(), ranks, clock, fresh=fresh, say=say)
    done = _Chain(recipe, start, stages, say).go()
    if ranks.main:
        _finish(recipe, done, partial, folder, clock, say)
    ranks.wait()
    return Run(folder)


def _done_already(folder: Path, recipe: Recipe) -> bool:
    """Return whether what was interrupted was only the last step: saying that it is done."""
    there = folder / "recipe.yaml"
    return there.is_file() and there.read_text(encoding="utf-8") == recipe.to_yaml()


def _claim(folder: Path, partial: Path, recipe: Recipe, *, resume: bool, fresh: bool) -> None:
    """Make the folder of the unfinished run, or check that it is the one to go on with."""
    if folder.exists():
        raise OutputError(f"{folder}: exists already; choose another --out or remove it")
    if folder.parent.is_file():
        raise OutputError(f"{folder}: cannot be written: {folder.parent} is a file")
    wanted = recipe.to_yaml()
    if partial.exists():
        there = partial / "recipe.yaml"
        same = there.exists() and there.read_text(encoding="utf-8") == wanted
        if resume and not same:
            raise OutputError(
                f"{folder}: the interrupted run had another recipe ({there}); "
                "use that one, or --fresh to start over"
            )
        if not resume and not fresh:
            raise OutputError(
                f"{folder}: an interrupted run is there; --resume goes on with it, --fresh drops it"
            )
        if resume:
            remove_leftovers(partial)
            remove_leftovers(partial / "stages")
            return
        shutil.rmtree(partial)
    with write_atomically(partial) as temporary:
        temporary.mkdir(parents=True)
        (temporary / "recipe.yaml").write_text(wanted, encoding="utf-8")


@dataclass
class _Done:
    """All stages of a run, before they are judged."""

    start: Start
    rows: list[Finished]
    baseline: Finished
    shaped: Finished
    """The last stage that has a model of its own."""
    dense: Finished | None
    """int8 of the baseline, where that is another model than what is shipped."""
    controls: dict[str, Finished]
    notes: dict[str, list[str]]


class _Chain:
    """Applies the methods one after the other."""

    def __init__(self, recipe: Recipe, start: Start, stages: Stages, say: Say) -> None:
        self.recipe, self.start, self.stages, self.say = recipe, start, stages, say
        self.rows: list[Finished] = []
        self.notes: dict[str, list[str]] = {"00-original": list(start.notes)}
        self.controls: dict[str, Finished] = {}
        self.baseline: Finished | None = None
        self.teacher: tuple[LiveTeacher, str] | None = None

    def go(self) -> _Done:
        """Return the finished stages."""
        dense = None
        if self.start.finetuned:
            self.rows.append(self.stages.original(self.start.product, self.start.source))
        for number, method in enumerate(self._methods(), start=1):
            name = f"{number:02d}-{method.key}"
            if method.key != "finetune" and self.baseline is None:
                self._set_baseline(name)
            assert self.rows or method.key == "finetune"
            if method.kind == "precision" and self.rows[-1] is not self.baseline:
                assert self.baseline is not None
                dense = self._apply(f"baseline-{method.key}", method, self.baseline)
            self._control(name, method)
            self.say(f"{name}: {method.__doc__ or ''}".strip().splitlines()[0])
            self.rows.append(self._apply(name, method, self.rows[-1] if self.rows else None))
            self._note(name, method)
        baseline = self.baseline or self.rows[-1]
        models = [row for row in self.rows if (row.folder / "model").is_dir()]
        return _Done(self.start, self.rows, baseline, models[-1], dense, self.controls, self.notes)

    def _methods(self) -> Sequence[Method]:
        if not self.start.finetuned:
            return self.recipe.methods
        # Only at the front: after a cut it is recovery training, which this model needs as well.
        kept = list(dropwhile(lambda method: method.key == "finetune", self.recipe.methods))
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
            product.model, product.tokenizer, self.start.data, device=self.start.device
        )
        self.teacher = (teacher, source)

    def _apply(self, name: str, method: Method, before: Finished | None) -> Finished:
        teacher, teacher_source = self.teacher or (None, None)
        data = self.start.data
        context = Context(
            data.task,
            data.without_validation(),
            teacher,
            self.start.device,
            self.recipe.seed,
            self.stages.folder,
        )
        source = self.stages.digest(before) if before else self.start.source
        uses = teacher_source if method.uses_teacher else None
        return self.stages.apply(name, method, before or self.start.product, context, source, uses)

    def _control(self, name: str, method: Method) -> None:
        control = method.control() if self.recipe.measure.controls else None
        if control is None:
            return
        if self.start.data.task.problem == "unlabelled":
            return
        self.say(f"{name}: the same without its teacher, as the control")
        self.controls[name] = self._apply(f"{name}-control", control, self.rows[-1])

    def _note(self, name: str, method: Method) -> None:
        notes = self.notes.setdefault(name, [])
        if not method.speeds_up:
            notes.append("no speed-up here: the shape stays")
        if self.rows[-1].record.cost.reused:
            notes.append("reused from the stage store")


def _finish(
    recipe: Recipe, done: _Done, partial: Path, folder: Path, clock: Clock, say: Say
) -> None:
    """Write what is shipped, time it, judge it, and move the run into place."""
    final = done.rows[-1]
    with clock("saving"):
        product = done.shaped.product
        shutil.rmtree(partial / "model", ignore_errors=True)
        save(product.model, partial / "model", product.tokenizer)
        shipped = [(Deployment("torch", "fp32", partial / "model"), done.shaped)]
        shipped += [(d, final) for d in _placed(final, partial)]
        dense = [(d, done.dense) for d in _placed(done.dense, partial / "baseline")]
    timings: dict[Path, Timing] = {}
    baseline_torch = done.baseline.deployments[0]
    if recipe.measure.latency:
        say("timing the deployments, in turn")
        timed = [Timed(baseline_torch, done.baseline.product, "torch")]
        timed += [Timed(d, done.baseline.product, _mark(d)) for d, _ in dense]
        is_dense = done.shaped is done.baseline
        timed += [
            Timed(d, product, _mark(d) if is_dense else None)
            for d, _ in shipped
            if not (is_dense and d.runtime == "torch")
        ]
        with clock("timing"):
            timings = time_deployments(timed, done.start.data, recipe.measure)
    say("writing the report")
    with clock("reporting"):
        judge = Judge(done.start.data, done.baseline, partial)
        rows = _rows(done, judge, shipped, dense, timings)
        _write(recipe, done, rows, partial, clock)
    shutil.rmtree(partial / "work", ignore_errors=True)
    if folder.exists():
        raise OutputError(f"{folder}: appeared while this ran; the finished run is in {partial}")
    partial.rename(folder)


def _mark(deployment: Deployment) -> str | None:
    return "dense_int8" if deployment.precision == "int8" else None


def _placed(finished: Finished | None, target: Path) -> list[Deployment]:
    """Copy the files of a precision stage to where the run ships them, and return them."""
    if finished is None or (finished.folder / "model").is_dir():
        return []
    placed = []
    for each in finished.deployments:
        inside = each.path.relative_to(finished.folder)
        top = target / inside.parts[0]
        if not top.exists():
            with write_atomically(top) as copied:
                shutil.copytree(finished.folder / inside.parts[0], copied, copy_function=_link)
        placed.append(Deployment(each.runtime, each.precision, target / inside, each.simulated))
    return placed


def _link(source: str, target: str) -> None:
    """Give a file a second name where the disk can, instead of a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _rows(
    done: _Done,
    judge: Judge,
    shipped: list[tuple[Deployment, Finished]],
    dense: list[tuple[Deployment, Any]],
    timings: dict[Path, Timing],
) -> list[Stage]:
    rows = []
    for finished in done.rows:
        if finished is done.rows[-1]:
            deployments = shipped
        else:
            deployments = [(d, finished) for d in finished.deployments]
            if finished is done.baseline:
                deployments += dense
        name, control = finished.record.name, None
        if name in done.controls:
            other = done.controls[name]
            scores = judge.scores(other.deployments[0], other)
            control = Control(name="labels alone, no teacher", score=headline(scores))
        rows.append(judge.stage(finished, deployments, timings, control, done.notes.get(name, ())))
    return rows


def _write(recipe: Recipe, done: _Done, rows: list[Stage], partial: Path, clock: Clock) -> None:
    from bertcompress.report.plots import save_figures

    host = environment(recipe.measure.threads)
    report = Report.of(
        rows,
        recipe=recipe.model_dump(mode="json"),
        task=done.start.data.task.model_dump(mode="json"),
        environment=host,
    )
    report.save(partial)
    (partial / "report.md").write_text(report.to_markdown(), encoding="utf-8")
    (partial / "report.html").write_text(report.to_html(), encoding="utf-8")
    save_figures(report, partial / "figures")
    _write_card(report, recipe, partial)
    seconds = {**clock.seconds, "total": clock.total}
    facts = {**host, "seconds": {what: round(value, 3) for what, value in seconds.items()}}
    (partial / "environment.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def _write_card(report: Report, recipe: Recipe, partial: Path) -> None:
    base = locate(recipe.model, revision=recipe.revision) / "README.md"
    metadata = ModelCard.load(base).data.to_dict() if base.is_file() else {}
    known = {"license_id": metadata.get("license"), "base_model": EMBEDDED_HUB.get(recipe.model)}
    fields = {name: value for name, value in known.items() if value}
    write_card(report, recipe, partial / "model", **fields)
