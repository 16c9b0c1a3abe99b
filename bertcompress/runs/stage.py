"""One stage of a run: found in the run's own folder or in the store, or computed; always whole.

A stage folder holds `model/` (the working form) or the files of its deployments, the validation
logits of each, and `stage.json`. What goes on to the next stage is read back from it, so that what
is saved is what is used.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import importlib.metadata
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bertcompress.data import TaskData
from bertcompress.deployment import (
    Deployment,
    Findings,
    Layout,
    Measurement,
    Product,
    StageLayout,
    Trained,
)
from bertcompress.errors import MissingExtra, ModelError, OutputError
from bertcompress.measure.scores import BATCH, Cost, predict
from bertcompress.method import Context, Method
from bertcompress.models.io import load, precision_of, save
from bertcompress.runs.code_digest import code_digest
from bertcompress.runs.results import (
    BATCHED,
    OpenModels,
    StageRecord,
    StageResult,
    logits_name,
    read_record_of,
)
from bertcompress.runs.store import StageStore, stage_key
from bertcompress.runtimes import REFERENCE, Logits, depends_on_company, open_predictor
from bertcompress.runtimes.hardware import forget_peak_memory, host_kind, peak_memory_mb
from bertcompress.runtimes.table import runtime_packages
from bertcompress.runtimes.torch import scoring
from bertcompress.shapes import edited, imitates
from bertcompress.support.distributed import Ranks
from bertcompress.support.files import artefact_digest, file_digest, write_atomically
from bertcompress.training import TrainSettings
from bertcompress.training.loggers import Reporting, reporting

__all__ = ["Clock", "Stages", "known_answers"]

FORMAT = 4
"""Raised when what a stage folder holds, or what it depends on, changes."""

_VERSIONS = ("bertcompress", "torch", "transformers")


class Clock:
    """Adds up wall-clock seconds by what they were spent on."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.started = time.perf_counter()

    @contextlib.contextmanager
    def __call__(self, what: str) -> Iterator[None]:
        """Count the time of the context under this name."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[what] = self.seconds.get(what, 0.0) + time.perf_counter() - start

    @property
    def total(self) -> float:
        """Seconds since the clock was made."""
        return time.perf_counter() - self.started


@dataclass
class Stages:
    """Runs stages into a folder, with the store behind it."""

    folder: Path
    data: TaskData
    store: StageStore | None
    ranks: Ranks
    clock: Clock
    fresh: bool = False
    """Ignore what the store has; new stages are still put into it."""
    say: Callable[[str], None] = lambda _: None
    check: Callable[[], None] = lambda: None
    """Called before a stage is made and before it is written: raises where it must not be."""
    reports: Reporting = field(default_factory=lambda: Reporting((), "", Path()))
    """Where trainings report to; its run's name is the front of theirs."""
    models: OpenModels = field(default_factory=OpenModels)
    _digests: dict[Path, str] = field(default_factory=dict)

    def reading(self, data: TaskData) -> Stages:
        """Return the same for a model that reads the rows otherwise."""
        return dataclasses.replace(self, data=data)

    def original(self, product: Product, source: str, name: str = "00-original") -> StageResult:
        """Write a model as it came as a stage, and return it."""
        key = stage_key(
            {
                "source": source,
                "data": self.data.fingerprint,
                "versions": _versions(_VERSIONS),
                "format": FORMAT,
            }
        )
        self._obtain(name, "original", key, lambda _: product, "loading")
        return self._result(name, product)

    def apply(
        self,
        name: str,
        method: Method,
        before: StageResult | Product,
        context: Context,
        sources: Mapping[str, str | None],
    ) -> StageResult:
        """Return the stage after a method. `sources`: digests of all that it may look at."""
        makes_files = method.leaves == "files"
        packages = runtime_packages() if makes_files else ()
        key = stage_key(
            {
                "sources": dict(sources),
                "method": [method.key, method.model_dump(mode="json")],
                "data": self.data.fingerprint,
                "seed": context.seed,
                "versions": _versions((*_VERSIONS, *packages)),
                "code": code_digest(type(method).__module__, _edited(before), makes_files),
                "files": file_digest(method.files()),
                # `auto` settings are resolved by trying, so by the machine that they were tried on.
                "host": [context.device.type, self.ranks.count, host_kind()],
                "format": FORMAT,
            }
        )

        def compute(workdir: Path) -> Product | Measurement:
            to = dataclasses.replace(self.reports, run=f"{self.reports.run}/{name}")
            with reporting(to):
                return method.apply(_private(before), dataclasses.replace(context, workdir=workdir))

        trains = isinstance(method, TrainSettings)
        activity = "compressing" if trains or method.leaves != "files" else "exporting"
        self._obtain(name, method.key, key, compute, activity, together=trains)
        return self._result(name, before)

    def digest(self, result: StageResult) -> str:
        """Return the digest of a stage's model folder."""
        folder = result.model_folder
        if folder not in self._digests:
            with self.clock("saving"):
                self._digests[folder] = file_digest([folder])
        return self._digests[folder]

    def _obtain(
        self,
        name: str,
        method: str,
        key: str,
        compute: Callable[[Path], Product | Measurement],
        activity: str,
        together: bool = False,
    ) -> None:
        """Have the stage's folder written, unless it is there or in the store."""
        self.check()
        run = Layout(self.folder)
        folder = run.stage(name).folder
        if not self.ranks.agree(self.ranks.main and self._present(folder, key)):
            # Named by the key: checkpoints of another stage are never gone on with.
            workdir = run.work / f"{name}-{key[:12]}"
            workdir.mkdir(parents=True, exist_ok=True)
            refused: Exception | None = None
            try:
                if together or self.ranks.main:
                    start = time.perf_counter()
                    forget_peak_memory()
                    with self.clock(activity):
                        product = compute(workdir)
                    if self.ranks.main:
                        cost = _cost(product.findings, time.perf_counter() - start)
                        self.check()
                        self._write(folder, name, method, key, product, cost, workdir)
            except (MissingExtra, ModelError) as error:
                if together:
                    raise
                refused = error
                shutil.rmtree(workdir, ignore_errors=True)
            # The other processes are told, or they would wait for what never comes.
            if words := self.ranks.agree(refused and str(refused)):
                raise refused or ModelError(words)
            self.ranks.wait()
            if self.ranks.main:
                shutil.rmtree(workdir, ignore_errors=True)

    def _present(self, folder: Path, key: str) -> bool:
        """Return whether the stage is in the run's folder, taken from the store if it is there."""
        record = read_record_of(folder)
        if record is not None and record.key == key:
            self.say(f"{folder.name}: done before the run was interrupted")
            return True
        if folder.exists():
            shutil.rmtree(folder)
        stored = self.store.get(key) if self.store and not self.fresh else None
        record = read_record_of(stored) if stored else None
        if stored is None or record is None:
            return False
        with self.clock("saving"), write_atomically(folder) as partial:
            shutil.copytree(stored, partial)
            reused = record.cost.model_copy(update={"reused": True})
            renamed = record.model_copy(update={"cost": reused, "name": folder.name})
            StageLayout(partial).record.write_text(renamed.model_dump_json(indent=2), "utf-8")
        self.say(f"{folder.name}: taken from the stage store")
        return True

    def _write(
        self,
        folder: Path,
        name: str,
        method: str,
        key: str,
        product: Product | Measurement,
        cost: Cost,
        workdir: Path,
    ) -> None:
        with write_atomically(folder) as partial:
            partial.mkdir(parents=True)
            inside = StageLayout(partial)
            made = [] if isinstance(product, Measurement) else self._made(product, partial, workdir)
            record = StageRecord(
                key=key,
                name=name,
                method=method,
                findings=product.findings,
                measurement=product if isinstance(product, Measurement) else None,
                cost=cost,
                files=tuple(
                    dataclasses.replace(each, path=each.path.relative_to(partial)) for each in made
                ),
            )
            inside.record.write_text(record.model_dump_json(indent=2), "utf-8")
        if self.store:
            # A full or read-only store is no reason to lose a run.
            with self.clock("saving"), contextlib.suppress(OutputError, OSError):
                self.store.put(key, folder, {"name": name, "task": self.data.task.name})

    def _made(self, product: Product, partial: Path, workdir: Path) -> list[Deployment]:
        """Write the model and the answers of a stage; return its deployments."""
        with self.clock("saving"):
            made = [_moved(each, workdir, partial) for each in product.deployments]
            precision = precision_of(product.model)
            # Files are all that a change of precision leaves, unless the model holds it itself.
            if not made or precision != "fp32":
                self._settle(product)
                model = StageLayout(partial).model
                save(product.model.cpu(), model, product.tokenizer, convert=False)
                made.insert(0, Deployment(REFERENCE, precision, model, imitates(product.model)))
        with self.clock("evaluating"):
            self._answer(partial, made, product)
        return made

    def _settle(self, product: Product) -> None:
        """Write into the model's config what its head chooses on the selection split."""
        head = self.data.task.head
        if head.unsettled:
            with scoring(product.model) as predictor:
                answers = predict(predictor, self.data, "selection", product.tokenizer)
            chosen = head.settings_of(answers, self.data.references("selection"))
            for name, value in chosen.items():
                setattr(product.model.config, name, value)

    def _answer(self, folder: Path, deployments: list[Deployment], product: Product) -> None:
        answers: dict[str, Logits] = {}
        config = product.model.config
        for each in deployments:
            predictor = open_predictor(each.path, each.runtime, None, each.precision, device="auto")
            known = known_answers(product, each)
            for split in ("validation", "selection", *self.data.also):
                logits = known.get(split)
                if logits is None:
                    logits = predict(predictor, self.data, split, product.tokenizer, config=config)
                answers[logits_name(each, split)] = logits
            if depends_on_company(predictor):
                batched = predict(
                    predictor, self.data, "validation", product.tokenizer, BATCH, config
                )
                answers[logits_name(each, BATCHED)] = batched
        np.savez(StageLayout(folder).answers, **answers)  # type: ignore[arg-type]

    def _result(self, name: str, before: StageResult | Product) -> StageResult:
        inside = Layout(self.folder).stage(name)
        folder, own = inside.folder, inside.model
        record = read_record_of(folder)
        assert record is not None, folder
        if not own.is_dir():  # files of the model before it
            assert isinstance(before, StageResult), name
            own = before.model_folder
        return StageResult(record, folder, own, self.models)


def known_answers(product: Product, deployment: Deployment) -> dict[str, Logits]:
    """Return what a gate was answered by these very files, by split: they are not asked again."""
    digest = artefact_digest(deployment.path) if product.answered else ""
    return {each.split: each.logits for each in product.answered if each.is_of(deployment, digest)}


def _edited(before: StageResult | Product) -> bool:
    return before.edited if isinstance(before, StageResult) else edited(before.model)


def _private(before: StageResult | Product) -> Product:
    """Return a copy of a stage's model that a method may change."""
    if isinstance(before, StageResult):
        before.models.close()
        return load(before.model_folder)
    return Product(copy.deepcopy(before.model), before.tokenizer)


def _cost(findings: Findings, seconds: float) -> Cost:
    training = findings.training or Trained()
    return Cost(
        # What earlier attempts spent on a training that was interrupted was spent too.
        seconds=seconds + training.earlier_seconds,
        steps=training.steps,
        samples=findings.samples if training.samples is None else training.samples,
        peak_memory_mb=peak_memory_mb(),
    )


def _moved(deployment: Deployment, workdir: Path, target: Path) -> Deployment:
    """Move the top folder that holds a deployment's file out of the work folder."""
    inside = deployment.path.relative_to(workdir)
    top = inside.parts[0]
    if (workdir / top).exists():
        shutil.move(workdir / top, target / top)
    return dataclasses.replace(deployment, path=target / inside)


def _versions(packages: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found
