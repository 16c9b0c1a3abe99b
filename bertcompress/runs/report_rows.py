"""Results of stages become rows of the report: scores, sizes, shapes and timings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from bertcompress.data import TaskData
from bertcompress.deployment import Deployment, Product
from bertcompress.measure.footprint import count_parameters, macs, size_of
from bertcompress.measure.scores import BATCH, Score, compare, flips, score, task_batches
from bertcompress.measure.timing.candidates import Candidate, Timing, cut_words
from bertcompress.measure.timing.interleaved import time_candidates
from bertcompress.models.io import rung
from bertcompress.recipe import Measuring
from bertcompress.report.cells import percent
from bertcompress.report.rows import Control, DeploymentRow, LayerShape, Outcome, Part, Stage
from bertcompress.runs.contests import Contest
from bertcompress.runs.results import StageResult
from bertcompress.runtimes import Logits, runtime_named
from bertcompress.shapes import PARTS, Layer, anatomy, edited, kept_layers
from bertcompress.support.display import shown

__all__ = ["ReportRows", "file_row", "right_answers", "time_deployments"]


@dataclass(frozen=True)
class ReportRows:
    """Compares every deployment with the baseline's torch model on the validation split."""

    data: TaskData
    baseline: StageResult
    folder: Path
    """The run folder that paths are told relative to."""

    @property
    def reference_logits(self) -> Logits:
        """What the baseline answers. Shape: (N, K)."""
        return self.baseline.logits(self.baseline.deployments[0], "validation")

    def stage(
        self,
        finished: StageResult,
        deployments: Sequence[tuple[Deployment, StageResult]],
        timings: Mapping[Path, Timing],
        controls: Sequence[Control] = (),
        notes: Sequence[str] = (),
        source_mb: float | None = None,
    ) -> Stage:
        """Return a stage's row; each deployment comes with the stage that holds its answers."""
        model = finished.product.model
        counted = count_parameters(model)
        rows = [self.deployment(each, owner, timings.get(each.path)) for each, owner in deployments]
        return Stage(
            name=finished.record.name,
            method=finished.record.method,
            baseline=finished.record.name == self.baseline.record.name,
            source_mb=source_mb,
            params=counted.total,
            encoder_params=counted.encoder,
            macs=macs(model),
            cost=finished.record.cost,
            controls=tuple(controls),
            deployments=tuple(rows),
            edits=layer_shapes(finished.product),
            notes=(*notes, *filter(None, map(batch_note, rows))),
            facts=finished.record.findings.facts,
            measurement=finished.record.measurement,
        )

    def deployment(
        self, deployment: Deployment, owner: StageResult, timing: Timing | None
    ) -> DeploymentRow:
        """Return one deployment's row."""
        scores, logits = self.scores(deployment, owner), owner.logits(deployment, "validation")
        row = file_row(deployment, owner, self.folder, scores, timing).model_copy(
            update={"allowed": _allowed(deployment, owner), "parts": self._parts(logits)}
        )
        if row.headline is None or len(logits) < 2:  # one row has nothing to resample
            return row
        against = compare(
            self.data.task, logits, self.reference_logits, self._references("validation")
        )
        return row.model_copy(update=against.model_dump() | self._batched(deployment, owner))

    def _parts(self, logits: Logits) -> tuple[Part, ...]:
        """Return the scores of the parts of the validation split, if the head has any."""
        head = self.data.task.head
        if not head.parts_title:
            return ()
        found = head.parts(logits, self._references("validation"))
        return tuple(Part(name=n, value=value, n=count) for n, (value, count) in found.items())

    def _batched(self, deployment: Deployment, owner: StageResult) -> dict[str, float | None]:
        """Return how the answers in batches differ from those one by one, where they may."""
        batched = owner.batched_logits(deployment)
        if batched is None:
            return {}
        alone, task = owner.logits(deployment, "validation"), self.data.task
        rows = score(task, self.data, "validation", batched, self._references("validation"))
        return {
            "batch_flips": flips(batched, alone, task.head),
            "batch_score": next((each.value for each in rows if each.headline), None),
        }

    def control(self, contest: Contest) -> Control:
        """Return the row of a method's control, with what the method reached beside it."""
        ours = self._outcome(contest.method, contest.method_score)
        theirs = self._outcome(contest.control, contest.control_score)
        return Control(
            name=contest.name,
            goes_on=contest.goes_on,
            role=contest.role,
            method=Outcome(**ours),
            **theirs,
        )

    def _outcome(self, finished: StageResult, selection_score: float) -> dict[str, Any]:
        scores = self.scores(finished.deployments[0], finished)
        return {
            "score": next((each for each in scores if each.headline), None),
            "selection_score": selection_score,
            "ended": finished.record.findings.ended,
            "history": finished.record.findings.history,
        }

    def scores(self, deployment: Deployment, owner: StageResult) -> list[Score]:
        """Return the metrics on the validation split and on the further ones."""
        found = []
        for split in ("validation", *self.data.also):
            logits = owner.logits(deployment, split)
            references = self._references(split)
            rows = score(self.data.task, self.data, split, logits, references)
            # Only the main validation split has the score that decides.
            found += [r if split == "validation" else r.model_copy(update={"headline": False})
                      for r in rows]  # fmt: skip
        return found

    def _references(self, split: str) -> NDArray[Any]:
        return right_answers(self.data, self.baseline, split)


def right_answers(data: TaskData, baseline: StageResult, split: str) -> NDArray[Any]:
    """Return what is right for a split: its labels, without them what the baseline answers."""
    if not data.task.head.has_labels:
        return baseline.logits(baseline.deployments[0], split)
    return data.references(split)


def file_row(
    deployment: Deployment,
    owner: StageResult,
    folder: Path,
    scores: Sequence[Score],
    timing: Timing | None,
) -> DeploymentRow:
    """Return the row of one deployment, before it is compared with another.

    `folder`: the run folder that its path is told relative to.
    """
    size = size_of(deployment)
    return DeploymentRow(
        runtime=deployment.runtime,
        precision=deployment.precision,
        path=deployment.path.relative_to(folder).as_posix(),
        size_mb=size.size_mb,
        encoder_mb=size.encoder_mb,
        loads_in=loads_in(deployment, owner),
        simulated=deployment.simulated,
        scores=tuple(scores),
        memory_mb=timing.peak_memory_mb if timing else None,
        load_s=timing.load_s if timing else None,
        latency=tuple(timing.latency) if timing else (),
    )


def loads_in(deployment: Deployment, owner: StageResult) -> str:
    """Return what is needed to load a deployment, and where it runs alone if it does not travel."""
    words = runtime_named(deployment.runtime).loads_in or rung(owner.product.model)[1]
    if deployment.built_for is None:
        return words
    return f"{words}; only on the machine that it was built for ({deployment.built_for})"


def _allowed(deployment: Deployment, owner: StageResult) -> bool | None:
    """Return whether the gate of the stage let an int8 file pass; None where none judged it.

    The best of what was tried is within the limit as soon as any of it is.
    """
    tried = owner.record.findings.tried.get(deployment.runtime)
    if not tried or deployment.precision != "int8":
        return None
    return any(each["allowed"] for each in tried)


def batch_note(row: DeploymentRow) -> str | None:
    """Return in words how the answers change in batches; None where they do not."""
    alone = row.headline
    if row.batch_score is None or alone is None:
        return None
    if not row.batch_flips and row.batch_score == alone.value:
        return None
    changed = f"{percent(row.batch_flips)} of the answers change and " if row.batch_flips else ""
    return (
        f"{row.label} is scored one text at a time; in batches of {BATCH} of like length "
        f"{changed}{alone.metric} is {row.batch_score:.3f} instead of {alone.value:.3f}"
    )


def layer_shapes(product: Product) -> tuple[LayerShape, ...]:
    """Return what is left of each original layer; empty where all are as they were."""
    if not edited(product.model):
        return ()
    view = anatomy(product.model)
    config = view.config
    heads, width = int(config.num_attention_heads), view.family.width_of(config)
    total, kept = kept_layers(view)
    gone = {"heads_before": heads, "neurons_before": width, "heads": 0, "neurons": 0}
    left = {
        original: gone | {"heads": layer.heads, "neurons": layer.width, "ranks": _ranks(layer)}
        for original, layer in zip(kept, view.layers, strict=True)
    }
    for part in PARTS:
        for i, owner in enumerate(view.owners(part)):
            left[kept[i]][f"{part}_of"] = None if owner == i else kept[owner]
    every = tuple(LayerShape(layer=i, **left.get(i, gone)) for i in range(total))
    return every if any(each.cut or each.shared or each.ranks for each in every) else ()


def _ranks(layer: Layer) -> dict[str, int]:
    ranks = {name: linear.rank for name, linear in layer.linears.items()}
    return {name: rank for name, rank in ranks.items() if rank is not None}


def _turns(_: int, done: int, turns: int) -> None:
    """Say how far the timing is, where no bar shows it."""
    display = shown.get()
    if display is not None:
        display.meanwhile(f"{done} of {turns} turns timed")


def time_deployments(
    candidates: Sequence[Candidate],
    rows_of: Callable[[Candidate], TaskData],
    measuring: Measuring,
    say: Callable[[str], None] = lambda _: None,
) -> dict[Path, Timing]:
    """Return what was measured of each path, all in one interleaved run.

    `rows_of`: the task's rows as a candidate reads them.
    """
    batches: dict[tuple[int, int], Any] = {}
    timed = []
    for each in candidates:
        tokenizer, data = each.tokenizer, rows_of(each)
        key = (id(tokenizer), id(data))
        if measuring.task_lengths and tokenizer is not None and key not in batches:
            batches[key] = task_batches(data, "validation", tokenizer)
        own = batches.get(key)
        texts = {size: data.task.head.served_texts(size) for size in own or ()}
        timed.append(replace(each, task_batches=own, texts=texts, tokenizer=None))
    for words in cut_words(measuring.shapes, timed):
        say(words)
    count = len(measuring.shapes) + (2 if measuring.task_lengths else 0)
    timings = time_candidates(
        timed,
        measuring.shapes,
        threads=measuring.threads,
        seconds=measuring.seconds * count,
        progress=_turns,
    )
    return {Path(each.path): timing for each, timing in zip(timed, timings, strict=True)}
