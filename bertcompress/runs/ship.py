"""The end of a run: what is shipped is written, timed and judged; the folder moves into place."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from bertcompress.data import TaskData
from bertcompress.deployment import Deployment, Layout, Product, StageLayout
from bertcompress.errors import OutputError
from bertcompress.measure.known_answers import record
from bertcompress.measure.timing.candidates import (
    Baseline,
    Candidate,
    Latency,
    Timing,
    machine_load,
)
from bertcompress.measure.timing.claims import speed_claim
from bertcompress.methods import method_class
from bertcompress.models.io import max_tokens, precision_of, save
from bertcompress.models.locate import EMBEDDED_HUB, locate
from bertcompress.publish.card import inherited, write_card
from bertcompress.publish.manifest import write_manifest
from bertcompress.publish.serving import write_serving
from bertcompress.recipe import Recipe
from bertcompress.report import Report
from bertcompress.runs.opponents import opponents
from bertcompress.runs.pipeline_result import PipelineResult
from bertcompress.runs.prepare import Say
from bertcompress.runs.report_rows import time_deployments
from bertcompress.runs.results import StageResult
from bertcompress.runs.stage import Clock
from bertcompress.runtimes import REFERENCE, runtime_named
from bertcompress.runtimes.hardware import environment
from bertcompress.shapes import imitates
from bertcompress.support.files import copy_linked

__all__ = ["finish"]


def finish(
    done: PipelineResult, folder: Path, say: Say, check: Callable[[], None] = lambda: None
) -> None:
    """Write what is shipped, time it, judge it, and move the run into place if `check` lets it."""
    final, recipe, clock, place = done.final, done.recipe, done.clock, done.folder
    run = Layout(place)
    with clock("saving"):
        product = done.shaped.product
        shutil.rmtree(run.model, ignore_errors=True)
        save(product.model, run.model, product.tokenizer)
        held = precision_of(product.model)
        main = Deployment(REFERENCE, held, run.model, imitates(product.model))
        shipped = [(main, done.shaped)]
        shipped += [(d, final) for d in _placed(final, place)]
        dense = [(d, done.dense) for d in _placed(done.dense, run.baseline) if done.dense]
        beside = opponents(done, product, shipped)
    timings: dict[Path, Timing] = {}
    if recipe.measure.latency:
        say("timing the deployments, in turn")
        timed = _timed(done, product, shipped, dense)
        doubtful = _doubtful(done, place)
        known = {each.path for each in timed}
        for pair in doubtful.values():
            timed += [each for each in pair if each.path not in known]
            known |= {each.path for each in pair}
        with clock("timing"):
            timed += others_timed(done, timed, say)
            timings = time_deployments(timed, partial(_rows_of, done), recipe.measure, say)
        for name, pair in doubtful.items():
            before, after = (timings[Path(each.path)] for each in pair)
            done.notes[name].append(paid(before.latency, after.latency))
    say("writing the report")
    with clock("reporting"):
        load = machine_load(list(timings.values())) if timings else {}
        host = environment(recipe.measure.threads) | load | {"date": f"{date.today()}"}
        record([d for d, _ in shipped], product, host, _one_text_ms(timings))
        rows = done.stage_rows(place, shipped, dense, timings)
        beside += done.other_rows(shipped, timings)
        _write(done.report_of(rows, host, beside), done, place, clock, host)
    check()
    shutil.rmtree(run.work, ignore_errors=True)
    tops = {d.path.relative_to(place).parts[0] for d, _ in shipped}
    write_manifest(place, sorted({*tops, Layout().model.name, Layout().figures.name}))
    if folder.exists():
        raise OutputError(f"{folder}: appeared while this ran; the finished run is in {place}")
    place.rename(folder)


def _timed(
    done: PipelineResult,
    product: Product,
    shipped: Sequence[tuple[Deployment, StageResult]],
    dense: Sequence[tuple[Deployment, Any]],
) -> list[Candidate]:
    """Return the baseline, its int8 files and what ships (of `product`), to be timed."""
    before = done.baseline.product
    timed = [Candidate.of(done.baseline.deployments[0], before, "torch")]
    timed += [Candidate.of(d, before, _mark(d)) for d, _ in dense]
    is_dense = done.shaped is done.baseline
    return timed + [
        Candidate.of(d, product, _mark(d) if is_dense else None)
        for d, _ in shipped
        if not (is_dense and d.runtime == REFERENCE)
    ]


def others_timed(done: PipelineResult, timed: Sequence[Candidate], say: Say) -> list[Candidate]:
    """Return the models beside the result, to be timed with it.

    One that takes only shorter texts than are timed is left out: all would be timed on those.
    """
    asked = max((length for _, length in done.recipe.measure.shapes), default=0)
    longest = min([asked, *(each.longest for each in timed if each.longest)])
    found = []
    for other in done.others:
        made = [Candidate.of(each, other.product) for each in other.timed]
        if made[0].longest and made[0].longest < longest:
            say(
                f"{other.model.name} takes texts of at most {made[0].longest} tokens: it is not "
                f"timed, since {longest} are"
            )
            continue
        found += made
    return found


def _rows_of(done: PipelineResult, candidate: Candidate) -> TaskData:
    """Return the rows as a candidate reads them: the baseline, what ships, or another model."""
    for other in done.others:
        if any(Path(candidate.path).is_relative_to(each.folder) for each in other.stages):
            return other.model.data
    before = (done.baseline.folder, Layout(done.folder).baseline)
    of_baseline = any(Path(candidate.path).is_relative_to(folder) for folder in before)
    return done.start.data if of_baseline else done.start.shipped


def _one_text_ms(timings: Mapping[Path, Timing]) -> dict[Path, float]:
    """Return the median of one text of 128 tokens, of what was timed so."""
    return {
        path: row.p50_ms
        for path, timing in timings.items()
        for row in timing.latency
        if (row.batch, row.length) == (1, 128)
    }


def _doubtful(done: PipelineResult, partial: Path) -> dict[str, tuple[Candidate, Candidate]]:
    """Return the stages whose speed only timing tells, each with the one before it."""

    def working_form(row: StageResult) -> Candidate:
        shipped = row is done.shaped and row is not done.baseline
        path = Layout(partial).model if shipped else row.deployments[0].path
        return Candidate.of(Deployment(REFERENCE, "fp32", path), row.product)

    return {
        after.record.name: (working_form(before), working_form(after))
        for before, after in pairwise(row for row in done.rows if not row.measures)
        if method_class(after.record.method).speed_needs_timing
    }


def paid(before: Sequence[Latency], after: Sequence[Latency]) -> str:
    """Return in words how much faster a stage is than the one before it, and where it is not."""
    parts, slower, unknown = [], [], []
    for old, new in zip(before, after, strict=True):
        claim = speed_claim(old, new)
        length = "the task's lengths" if new.length == "task" else f"length {new.length}"
        place = f"at batch {new.batch} and {length}"
        parts.append(f"{claim.words} {place}")
        if not claim.stands:
            unknown.append(place)
        elif not claim.faster:
            slower.append(place)
    words = f"measured in torch fp32 against the stage before: {', '.join(parts)}"
    words += f"; it does not pay {', '.join(slower)}" if slower else ""
    return words + (f"; it is not shown to pay {', '.join(unknown)}" if unknown else "")


def _mark(deployment: Deployment) -> Baseline | None:
    return "dense_int8" if deployment.precision == "int8" else None


def _placed(finished: StageResult | None, target: Path) -> list[Deployment]:
    """Copy the files of a precision stage to where the run ships them, and return them."""
    if finished is None:
        return []
    placed: list[Deployment] = []
    tops: set[Path] = set()
    for each in finished.deployments:
        if (
            each.path == StageLayout(finished.folder).model
        ):  # written anew, as a stock class where one holds it
            continue
        inside = each.path.relative_to(finished.folder)
        top = target / inside.parts[0]
        if top not in tops:
            tops.add(top)
            shutil.rmtree(top, ignore_errors=True)  # of a run that was killed at this point
            copy_linked(finished.folder / inside.parts[0], top)
        placed.append(dataclasses.replace(each, path=target / inside))
    return placed


def _write(
    report: Report, done: PipelineResult, partial: Path, clock: Clock, host: dict[str, Any]
) -> None:
    from bertcompress.report.plots import save_figures

    report.save(partial)
    run = Layout(partial)
    run.report_markdown.write_text(report.to_markdown(), encoding="utf-8")
    run.report_page.write_text(report.to_html(), encoding="utf-8")
    save_figures(report, run.figures)
    _write_serving(report, done, partial)
    _write_card(report, done.recipe, partial)
    seconds = {**clock.seconds, "total": clock.total}
    facts = {**host, "seconds": {what: round(value, 3) for what, value in seconds.items()}}
    run.environment.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def _write_serving(report: Report, done: PipelineResult, partial: Path) -> None:
    """Write `serve.py` into each folder of ONNX files that ships."""
    product, data = done.shaped.product, done.start.shipped
    # What is served meets longer texts than those that it was judged on: they are cut where the
    # task asks for it, and never those of an embedder.
    cut = None if data.task.head.auto_class is None else data.asked_length
    longest = cut or max_tokens(product.model, product.tokenizer)
    for row in report.last.deployments:
        if not runtime_named(row.runtime).opens_folders:
            write_serving(
                partial / row.path,
                row.runtime,
                product.model.config,
                product.tokenizer,
                longest,
                problem=data.task.problem,
                texts=len(data.task.text),
                allowed=row.allowed,
            )


def _write_card(report: Report, recipe: Recipe, partial: Path) -> None:
    named = [each.checkpoint for each in recipe.methods if each.checkpoint]
    name, revision = named[-1] if named else (recipe.model, recipe.revision)
    known = inherited(locate(name, revision=revision) / "README.md")
    if name in EMBEDDED_HUB:
        known["base_model"] = EMBEDDED_HUB[name]
    write_card(report, recipe, Layout(partial).model, **known)
