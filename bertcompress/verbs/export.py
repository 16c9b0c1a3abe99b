"""`export`: ONNX files of a model that exists, each answering as the model does."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

from bertcompress.deployment import (
    KNOWN_ANSWERS_FILE,
    SERVE_FILE,
    Deployment,
    Layout,
    Product,
)
from bertcompress.errors import ModelError, Notice, OutputError
from bertcompress.heads import HEADS
from bertcompress.heads.pooling import Pooling
from bertcompress.heads.stock import has_head, head_words
from bertcompress.measure.known_answers import record
from bertcompress.models.io import is_bare, load, max_tokens, precision_of
from bertcompress.models.locate import locate
from bertcompress.models.recognising import left_out_layers
from bertcompress.models.sentence import drop_sentence_files, settled_pooling
from bertcompress.publish.serving import write_serving
from bertcompress.runtimes import MODEL_FILE, Q4_FILE, QUANTIZED_FILE
from bertcompress.runtimes.hardware import environment
from bertcompress.runtimes.onnx.pooling import pool_file
from bertcompress.runtimes.table import exporter
from bertcompress.support.display import logged
from bertcompress.verbs.places import Say

__all__ = ["export"]

_OF_AN_EXPORT = (MODEL_FILE, QUANTIZED_FILE, Q4_FILE)


def export(
    model: str | Path,
    out: str | Path,
    *,
    pooled: bool = False,
    revision: str | None = None,
    say: Say = logged,
) -> list[Deployment]:
    """Write `onnx/` with fp32 and dynamic int8 files under `out`, and return them.

    Beside those of a classifier lies `serve.py`, which answers texts without this package.

    The int8 file has to answer as fp32 does, to random tokens: where it does not with the default
    settings, others are tried, then modules stay in fp32, and `say` is told what was taken. Static
    int8 for OpenVINO, and a score, need rows: that is the method `quantize_int8` of a recipe.

    `pooled`: the files of a sentence embedder answer with its vectors, pooled and normalised inside
    the graph, as output `sentence_embedding`; otherwise with hidden states, which
    sentence-transformers pools itself.

    Raises:
        ModelError where nothing that is tried answers as fp32 does; the fp32 file is there then,
        and no int8 file.
    """
    from bertcompress.runtimes.onnx.integers import export_qdq

    product = load(model, revision=revision)
    out, source = Path(out).expanduser(), locate(str(model), revision=revision)
    if Layout(out).onnx.resolve() == source.resolve():
        raise OutputError(f"{source}: the files would come into the model; choose another --out")
    if pooled:
        _settle(product, str(model), revision)
    if gone := left_out_layers(source):
        warnings.warn(
            f"{model}: of this sentence-transformers model the encoder alone is exported; trained "
            f"layers behind it are not in the file: {', '.join(gone)}",
            Notice,
            stacklevel=2,
        )
    _clear(Layout(out).onnx)
    if precision_of(product.model) != "fp32":  # its integers, not new ones
        adopted = exporter().adopt_integers(export_qdq(product, Layout(out).onnx), out)
        made = [adopted] if adopted else []
    else:
        made = _alike(product, out, say)
    pooling = Pooling.of(product.model.config) if is_bare(type(product.model)) else None
    if pooled and pooling is not None:
        for each in made:
            pool_file(each.path, pooling)
            drop_sentence_files(each.path.parent)
    problem = _served(type(product.model))
    if problem or pooling or has_head(type(product.model), HEADS["single_label"]):
        _serve(made, product, problem, str(model), say)
    return made


def _serve(
    made: Sequence[Deployment], product: Product, problem: str | None, name: str, say: Say
) -> None:
    """Write what the files are, and code that answers with the last of them, beside it."""
    record(made, product, environment())
    longest = max_tokens(product.model, product.tokenizer)
    config, best = product.model.config, made[-1]
    parts = (best.path, best.runtime, config, product.tokenizer, longest)
    write_serving(*parts, problem=problem)
    unsettled = HEADS[problem].unsettled if problem else ""
    if problem and unsettled and not HEADS[problem].settings_in(config):
        say(f"{name}: its config {unsettled}")


def _clear(folder: Path) -> None:
    """Remove what an earlier export left: beside other files it would pass for this model's."""
    for name in (*_OF_AN_EXPORT, SERVE_FILE, KNOWN_ANSWERS_FILE):
        (folder / name).unlink(missing_ok=True)
    drop_sentence_files(folder)


def _served(cls: type) -> str | None:
    """Return what a model class answers, where its name tells and there is a way to serve it."""
    texts = HEADS["single_label"].auto_class
    other = {k: each for k, each in HEADS.items() if each.auto_class not in (None, texts)}
    return next((k for k, each in other.items() if each.serves and has_head(cls, each)), None)


def _settle(product: Product, name: str, revision: str | None) -> None:
    """Decide how a model's vectors are pooled, in place; ModelError for what has a head."""
    if not is_bare(type(product.model)):
        raise ModelError(
            f"model '{name}': {head_words(type(product.model))}; only an encoder without a head is "
            "pooled"
        )
    folder = locate(name, revision=revision)
    _, line = settled_pooling(product.model.config, folder, name)
    if line:
        warnings.warn(line, Notice, stacklevel=3)


def _alike(product: Product, out: Path, say: Say) -> list[Deployment]:
    """Write fp32 and an int8 file that answers alike; raises ModelError where none does."""
    from bertcompress.engines.quantization.likeness import likeness
    from bertcompress.methods.quantization.int8 import quantize_guarded

    same = likeness(product)
    runtime = exporter().name
    made, tried = quantize_guarded(product, out, (runtime,), same.batches, same)
    every, best = tried[runtime]
    if not every[0].passes:
        say(f"int8 by {every[0].words}; {len(every)} ways were tried")
    if best.passes:
        if best is not every[0]:
            say(f"taken: {best.words}" + "".join(f", {name}" for name in best.kept))
        return made
    made[-1].path.unlink(missing_ok=True)
    raise ModelError(
        f"{made[-1].path}: not written: int8 answers otherwise than fp32 at best ({best.words}); "
        f"{made[0].path} is there. A recipe with quantize_int8 tries on rows of your task; q8bert "
        "trains for int8"
    )
