"""Post-training int8 files for the runtimes that execute int8.

The fp32 model is exported to ONNX, then quantised once per runtime, since the artefact must match
the runtime: dynamic int8 with per-channel weights for ONNX Runtime (no calibration), static int8
through NNCF for OpenVINO (activation ranges from a few hundred training rows). Embeddings are
quantised too. Each file is scored on the selection split as it is served: where it loses more than
`max_drop`, or less but significantly, other settings are tried, then the modules that rounding
hurts most stay in fp32, and the report says which and why. Where no file can be made for one
runtime, the report says so and the others are made all the same. After Zafrir et al. 2019, "Q8BERT"
(1910.06188): its post-training baseline.

Costs seconds to a minute and no training. Four times smaller, and faster wherever the processor has
int8 instructions. Not for models that lose more than you allow: then train with quantisation.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import nn

from bertcompress.data import numpy_batches
from bertcompress.data.batches import Batches, array_batches
from bertcompress.deployment import Answered, Deployment, Findings, Layout, Product
from bertcompress.engines.quantization.accuracy_gate import AccuracyGate, Attempt, search
from bertcompress.engines.quantization.likeness import Likeness
from bertcompress.engines.quantization.sensitivity import sensitivities
from bertcompress.errors import MissingExtra, ModelError
from bertcompress.measure.scores import predict
from bertcompress.method import Context, Leaves, Method
from bertcompress.models.io import save
from bertcompress.runtimes import (
    REFERENCE,
    Batch,
    available_runtimes,
    missing_runtimes,
    open_predictor,
    require,
    runtime_named,
)
from bertcompress.runtimes.int8_field import Int8Runtime
from bertcompress.runtimes.onnx.graph import check_size, uses
from bertcompress.runtimes.table import exporter
from bertcompress.runtimes.torch import bf16_gain, scoring
from bertcompress.support.files import artefact_digest

__all__ = ["QuantizeInt8", "quantize_guarded", "quantize_int8"]

BF16_WORTH_IT = 1.05


class QuantizeInt8(Method):
    """Post-training int8 files for ONNX Runtime and OpenVINO."""

    key: ClassVar[str] = "quantize_int8"
    paper: ClassVar[str] = "Zafrir et al. 2019, arXiv:1910.06188"
    leaves: ClassVar[Leaves] = "files"
    tags: ClassVar[tuple[str, ...]] = ("int8",)
    speeds_up: ClassVar[bool] = True

    runtimes: tuple[Int8Runtime, ...] = Field(
        (), description="Runtimes to make files for; empty: all that are installed"
    )
    rows: int = Field(
        300, ge=1, le=2_048, description="Calibration rows for static int8, of the training set"
    )
    max_drop: float | None = Field(
        0.01,
        ge=0,
        le=1,
        description="Loss of the headline score on the selection split that is allowed; beyond it, "
        "and where a smaller loss is significant, other settings are tried and the worst modules "
        "stay in fp32; null: whatever it loses, tried once",
    )
    bf16: bool = Field(
        False, description="Also ship a bf16 model for torch, if it is measured to be faster here"
    )

    @property
    def rows_read(self) -> int:
        """`rows`."""
        return self.rows

    @property
    def makes_files_for(self) -> tuple[str, ...]:
        """`runtimes`."""
        return self.runtimes

    @property
    def tries_again(self) -> bool:
        """Whether a gate judges what is lost."""
        return self.max_drop is not None

    def check(self, model: nn.Module) -> None:
        """Raise before the hours of training: ModelError for a model that no file holds.

        MissingExtra for a runtime that is not installed.
        """
        check_size(model)
        found = available_runtimes()
        for runtime in self.runtimes:
            if runtime not in found:
                raise MissingExtra(runtime, str(runtime_named(runtime).extra))

    def dense_opponent(self) -> QuantizeInt8:
        """Return the same for the uncompressed model and every runtime; nothing is left in fp32.

        What ships is held against the best of any runtime, whichever it is for itself.
        """
        return self.model_copy(update={"max_drop": None, "runtimes": ()})

    def left_out(self) -> tuple[str, ...]:
        """Return a line for each runtime that is not installed, where none was named."""
        return () if self.runtimes else missing_runtimes(available_runtimes())

    def apply(self, product: Product, ctx: Context) -> Product:
        """Return the product with an fp32 ONNX file and one int8 file per runtime.

        A runtime for which none can be made gets a note; ModelError where that is all of them.
        """
        chosen = self.runtimes or tuple(available_runtimes())
        calibration = self._calibration(product, ctx)
        static = any(runtime_named(each).needs_rows for each in chosen)
        read = len(calibration) if static else 0
        halved, notes, gain = self._halved(product, ctx) if self.bf16 else ([], [], {})
        if self.max_drop is None:
            made, failed = _unguarded(product, ctx.workdir, chosen, calibration)
            findings = Findings(samples=read, notes=(*notes, *failed), free=gain)
            return Product(product.model, product.tokenizer, (*made, *halved), findings)
        with scoring(product.model) as predictor:
            config = product.model.config
            original = predict(predictor, ctx.data, "selection", product.tokenizer, config=config)
        guard = AccuracyGate(ctx.data, product.tokenizer, original, self.max_drop, config)
        answered: tuple[Answered, ...] = ()
        for half in list(halved):
            judged = _judged(functools.partial(_asked, guard, half))
            answered += judged.answered_by(half)
            if not judged.allowed:
                halved.remove(half)
                notes.append(f"no bf16 model: {judged.words}")
            elif not judged.passes:
                notes.append(f"bf16 model: {judged.words}")
        made, tried = quantize_guarded(product, ctx.workdir, chosen, calibration, guard)
        notes += [
            note
            for name, (every, best) in tried.items()
            for note in _notes(name, every[0], best, self.max_drop, len(ctx.data.selection))
        ]
        findings = Findings(
            samples=read,
            notes=(*notes, *_failures(tried)),
            tried={name: [each.facts for each in every] for name, (every, _) in tried.items()},
            free=gain,
        )
        for each in made:
            if each.runtime in tried and each.precision == "int8":
                answered += tried[each.runtime][1].answered_by(each)
        return Product(product.model, product.tokenizer, (*made, *halved), findings, answered)

    def _halved(
        self, product: Product, ctx: Context
    ) -> tuple[list[Deployment], list[str], dict[str, float]]:
        """Return a bf16 model, or a note that it would be slower on this processor; its gain."""
        gain = bf16_gain(product.model.cpu())
        known = {"bf16_gain": round(gain, 2)}
        if gain < BF16_WORTH_IT:
            return [], [f"no bf16 model: measured {gain:.2f}x as fast as fp32 here"], known
        half: Any = copy.deepcopy(product.model)
        half.to(torch.bfloat16)
        folder = Layout(ctx.workdir).bf16
        save(half, folder, product.tokenizer)
        return [Deployment(REFERENCE, "bf16", folder)], [], known

    def _calibration(self, product: Product, ctx: Context) -> list[Batch]:
        features = ctx.data.encoded(product.tokenizer, "calibration").first(self.rows)
        head = ctx.task.head
        # One feature per batch: padding would enter the ranges of the activations.
        return [batch for _, batch in numpy_batches(features, product.tokenizer, 1, False, head)]


def quantize_int8(
    product: Product,
    folder: str | Path,
    runtimes: Sequence[str],
    calibration: Batches,
) -> list[Deployment]:
    """Write the files of runtimes under a folder, and return what can be deployed from them.

    Raises ModelError where no file can be made for one of the runtimes.
    """
    made, failed = _unguarded(product, Path(folder), runtimes, [*array_batches(calibration)])
    if failed:
        raise ModelError("; ".join(failed))
    return made


def _unguarded(
    product: Product,
    folder: Path,
    runtimes: Sequence[str],
    calibration: Sequence[Batch],
) -> tuple[list[Deployment], list[str]]:
    """Return what could be made by the defaults, and a line for each runtime without a file."""
    made, failed = [exporter().export(product, folder)], []
    for runtime in runtimes:
        try:
            made.append(runtime_named(runtime).quantize(folder, calibration))
        except ModelError as error:
            _file(runtime, folder).unlink(missing_ok=True)
            failed.append(f"{runtime}: no int8 file: {error}")
    _check_any(runtimes, failed)
    return made, failed


def _check_any(runtimes: Sequence[str], failed: Sequence[str]) -> None:
    if failed and len(failed) == len(runtimes):
        raise ModelError("; ".join(failed))


def _file(runtime: str, folder: Path) -> Path:
    """Return where the int8 file of a runtime lies under a folder."""
    return folder / runtime_named(runtime).files["int8"].path


Tried = tuple[list[Attempt], Attempt]
"""Everything that was tried, and the best of it."""


def quantize_guarded(
    product: Product,
    folder: Path,
    runtimes: Sequence[str],
    calibration: Sequence[Batch],
    guard: AccuracyGate | Likeness,
) -> tuple[list[Deployment], dict[str, Tried]]:
    """Do what `quantize_int8` does, but let the guard choose settings and what stays in fp32.

    `calibration`: rows to calibrate or to smooth on, one text each, without padding. Returns the
    deployments, and what was tried for each runtime. A runtime for which every attempt failed has
    none (its best attempt has an `error`); ModelError where that is all of them.
    """
    made = [exporter().export(product, folder)]
    suspects = functools.cache(lambda: _suspects(product, guard))
    tried: dict[str, Tried] = {}
    for runtime in runtimes:
        deployment, tried[runtime] = _searched(
            product, folder, runtime, calibration, guard, suspects
        )
        made += [deployment] if deployment else []
    _check_any(runtimes, _failures(tried))
    return made, tried


def _failures(tried: Mapping[str, Tried]) -> list[str]:
    """Return a line for each runtime for which nothing could be made."""
    return [
        f"{runtime}: no int8 file: all {len(every)} attempts failed, the first by {best.words}"
        for runtime, (every, best) in tried.items()
        if best.error is not None
    ]


def _asked(
    guard: AccuracyGate | Likeness,
    made: Deployment,
    options: Mapping[str, Any] | None = None,
    kept: Sequence[str] = (),
) -> Attempt:
    """Return how a deployment does, opened as the stage opens it."""
    predictor = open_predictor(made.path, made.runtime, None, made.precision, device="auto")
    judged = guard.judge(predictor, options or {}, kept)
    return dataclasses.replace(judged, digest=artefact_digest(made.path))


def _judged(
    judge: Callable[[], Attempt], options: Mapping[str, Any] | None = None, kept: Sequence[str] = ()
) -> Attempt:
    """Return an attempt; one that cannot be made is as bad as can be, and no reason to stop."""
    try:
        return judge()
    except ModelError as error:
        return Attempt.failed(options or {}, kept, str(error).rpartition(": ")[2])


def _searched(
    product: Product,
    folder: Path,
    runtime: str,
    calibration: Sequence[Batch],
    guard: AccuracyGate | Likeness,
    suspects: Callable[[], list[str]],
) -> tuple[Deployment | None, Tried]:
    """Return the best int8 file for one runtime, if any can be made, and what was tried for it."""
    chosen, exported = runtime_named(runtime), folder / exporter().files["fp32"].path
    there: list[Deployment] = []  # what lies there is of the last attempt

    def make(options: Mapping[str, Any], kept: Sequence[str]) -> Deployment:
        nodes = _nodes(product, exported, kept)
        there[:] = [chosen.quantize(folder, calibration, exclude=nodes, **options)]
        return there[0]

    def attempt(options: Mapping[str, Any], kept: Sequence[str]) -> Attempt:
        def judge() -> Attempt:
            return _asked(guard, make(options, kept), options, kept)

        return _judged(judge, options, kept)

    every, best = search(attempt, chosen.quantize_settings(), suspects)
    if best.error is not None:
        _file(runtime, folder).unlink(missing_ok=True)
        return None, (every, best)
    if best is not every[-1]:
        make(best.options, best.kept)
    return there[0], (every, best)


def _suspects(product: Product, guard: AccuracyGate | Likeness) -> list[str]:
    rows = guard.rows()
    return list(sensitivities(product.model, rows, head=guard.head)) if rows else []


def _nodes(product: Product, file: Path, modules: Sequence[str]) -> list[str]:
    """Return the names of the nodes of an ONNX file that use the weights of modules."""
    if not modules:
        return []
    graph = require("onnx", "onnx").load(file).graph
    found = []
    for name in modules:
        module: Any = product.model.get_submodule(name)
        weight = module.weight.detach().float().cpu().numpy()
        names = [node.name for node, _, _ in uses(graph, weight)]
        if not names:
            raise ModelError(f"no node of the exported graph uses the weight of {name}")
        found += names
    return found


def _notes(runtime: str, first: Attempt, best: Attempt, limit: float, rows: int) -> list[str]:
    """Return what the report says of a search that went beyond the defaults, and of a near miss."""
    if best.error is not None:
        return []
    if first.passes:
        if first.drop <= limit:
            return []
        return [
            f"{runtime}: int8 by {first.words} on {rows} selection rows; {100 * limit:g} are "
            "allowed, but so few rows cannot tell this from noise, and the answers hardly moved"
        ]
    words = [f"{runtime}: int8 by {first.words}; {100 * limit:g} are allowed. Taken: {best.words}"]
    if best.kept:
        words.append(f"{runtime}: in fp32 stay {', '.join(best.kept)}")
    if not best.passes:
        left = "removes this loss" if best.allowed else "is within the limit"
        words.append(f"{runtime}: nothing that was tried {left}; try q8bert")
    return words
