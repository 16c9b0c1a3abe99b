"""What stands beside the result of a run without being a step of it: here static word vectors.

A table look-up for each token is the cheapest that can be made of an embedder, so that what
compressing gains is what is gained over that. It is made of the model before the first cut, of the
tokens of the tokenizer that ships where those are the model's, and answers the rows that are
reported.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

from bertcompress.data import TaskData
from bertcompress.deployment import Deployment, Layout, Product
from bertcompress.engines.static_vectors import StaticVectors, static_vectors
from bertcompress.errors import ModelError
from bertcompress.heads.pooling import Pooling
from bertcompress.measure.footprint import disk_bytes
from bertcompress.measure.scores import BATCH, predict, score
from bertcompress.models.static import write_static
from bertcompress.recipe import Recipe
from bertcompress.report.rows import Opponent
from bertcompress.runs.other_rows import margin_over, metric_across_spaces
from bertcompress.runs.pipeline_result import PipelineResult
from bertcompress.runs.report_rows import right_answers
from bertcompress.runs.results import StageResult

__all__ = ["compared_with_static", "opponents", "token_counts"]

NAME = "static word vectors"


def compared_with_static(recipe: Recipe, data: TaskData) -> bool:
    """Return whether a run makes static word vectors: of embedders, where controls are wanted."""
    return data.task.head.auto_class is None and recipe.measure.controls


def opponents(
    done: PipelineResult, product: Product, shipped: Sequence[tuple[Deployment, StageResult]]
) -> tuple[Opponent, ...]:
    """Return the rows of what stands beside a result, and write its files into the run's folder.

    `product`: what ships; `shipped`: its deployments and the stages that hold their answers.
    """
    data = done.start.data
    if not compared_with_static(done.recipe, data):
        return ()
    original = done.baseline.product
    pooling = Pooling.of(original.model.config) or Pooling()
    tokenizer = _tokenizer(product, original)
    found = static_vectors(original, tokenizer, token_counts(data, tokenizer), pooling)
    folder = Layout(done.folder).static
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed at this point
    try:
        size = disk_bytes(write_static(folder, found.table, tokenizer, pooling))
    except ModelError as error:  # of a comparison, which must not cost the run
        note = f"no static word vectors to compare with: {error}"
        done.notes.setdefault(done.final.record.name, []).append(note)
        return ()
    return (_row(done, found, tokenizer, shipped, size),)


def _tokenizer(product: Product, original: Product) -> PreTrainedTokenizerBase:
    """Return the tokenizer that ships, or the original's where that one has tokens of its own.

    The original has no vector for them: a student of another vocabulary would be held against a
    table that is mostly empty.
    """
    foreign = product.tokenizer.get_vocab().keys() - original.tokenizer.get_vocab().keys()
    return original.tokenizer if foreign else product.tokenizer


def token_counts(data: TaskData, tokenizer: PreTrainedTokenizerBase) -> Counter[int]:
    """Return how often each token of a tokenizer comes up in the training texts."""
    rows = data.encoded(tokenizer, "train").dataset.with_format("numpy")
    counts: Counter[int] = Counter()
    for batch in rows.iter(10_000):
        ids, seen = np.unique(np.concatenate(batch["input_ids"]), return_counts=True)
        counts.update(dict(zip(ids.tolist(), seen.tolist(), strict=True)))
    return counts


def _row(
    done: PipelineResult,
    found: StaticVectors,
    tokenizer: PreTrainedTokenizerBase,
    shipped: Sequence[tuple[Deployment, StageResult]],
    size: int,
) -> Opponent:
    data, head = done.start.data, done.start.data.task.head
    references = right_answers(data, done.baseline, "validation")
    answers = predict(found, data, "validation", tokenizer, BATCH)
    metric = metric_across_spaces(data.task) or data.task.headline
    return Opponent(
        name=NAME,
        path=Layout().static.as_posix(),
        size_mb=size / 1e6,
        dimensions=found.table.shape[1],
        tokens=int(found.table.any(axis=1).sum()),
        scores=tuple(score(data.task, data, "validation", answers, references)),
        metric=metric,
        margins=tuple(
            margin_over(
                head,
                metric,
                owner.logits(each, "validation"),
                answers,
                references,
                each.path.relative_to(done.folder).as_posix(),
            )
            for each, owner in shipped
        ),
    )
