"""Search: vectors of queries and documents, judged by where the relevant documents rank.

A row is one text, a query or a document; of the training rows a query and one of its documents, or
two documents. Axes: N rows, F features, B in a batch, D dimensions of a vector, Q queries.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from bertcompress.errors import DataError
from bertcompress.heads.features import CHUNK, Columns, Encoded, TaskFields, text_columns
from bertcompress.heads.head import Array, Features
from bertcompress.heads.padding import collate_texts
from bertcompress.heads.reranker import ranking_metrics
from bertcompress.heads.vectors import SCALE, Vectors
from bertcompress.metrics import Metric
from bertcompress.metrics.ranking import (
    expected_discounted_gain,
    expected_reciprocal_rank,
    search_discounted_gains,
    search_reciprocal_ranks,
)

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

__all__ = ["QUERY", "Retrieval"]

QUERY = -1
"""Stands for a query among the numbers of documents, which count from 0."""
_NONE = -2
"""Fills the labels of a batch: the number of no document."""
_PROMPTS = ("query", "document")


class Retrieval(Vectors):
    """Queries among documents: a softmax over the documents of a batch, the relevant one first.

    The `label` of a row: `texts`, for each of its texts the number of the document or -1 for a
    query; `relevant`, the numbers of the query's documents; and `gains`, their grades. The `labels`
    of a feature: its number, then those of its relevant documents; padded, (B, 1 + R) int64.
    """

    key: ClassVar[str] = "retrieval"
    metrics: ClassVar[dict[str, Metric]] = ranking_metrics(
        search_discounted_gains, search_reciprocal_ranks, reads="vectors"
    )
    usual: ClassVar[tuple[str, ...]] = ("ndcg", "mrr")
    has_labels: ClassVar[bool] = True
    reads_unlabelled: ClassVar[bool] = False
    features_a_row: ClassVar[int] = 2
    texts_a_row: ClassVar[tuple[int, ...]] = (1,)
    searches: ClassVar[bool] = True

    def texts_misfit(self, task: TaskFields) -> str:
        """Return what is wrong with column and prompts of a task, or an empty string."""
        if len(task.text) != 1:
            return (
                f"text: a {self.key} task has 1 text column, of queries and documents alike, "
                f"{len(task.text)} given"
            )
        if task.prompts and len(task.prompts) != len(_PROMPTS):
            return "prompts: name two, that of queries and that of documents"
        return ""

    def columns(self, task: TaskFields) -> Columns:
        """Return the column of the texts and that of the grades."""
        return Columns(tuple(task.text), task.label, "float32", "own")

    def encode(
        self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, task: TaskFields
    ) -> Encoded:
        """Return each text as a feature, with the prompt of queries or of documents before it.

        Without prompts of the task those of `encode_query` and `encode_document`. Shape: F is N, or
        2 N of training rows.
        """
        labels = [
            [number, *(row["relevant"] if number == QUERY else ())]
            for row in rows["label"][:]
            for number in row["texts"]
        ]
        encoded = self._encoded(self.read(rows), rows, tokenizer, task, {"labels": labels})
        return replace(encoded, cut=min(encoded.cut, _full_rows(encoded)))

    def read(self, rows: Dataset) -> Iterator[Sequence[str]]:
        """Yield the texts of rows in chunks, those of a row behind each other, as tokenized."""
        columns, prompts = text_columns(rows), self.prompts or _PROMPTS
        for chunk in rows.select_columns([*columns, "label"]).iter(CHUNK):
            texts = [t for row in zip(*(chunk[c] for c in columns), strict=True) for t in row]
            numbers = [number for label in chunk["label"] for number in label["texts"]]
            sides = (self.pooling.read(texts, name) for name in prompts)
            yield [
                query if number == QUERY else document
                for query, document, number in zip(*sides, numbers, strict=True)
            ]

    def collate(
        self,
        features: Sequence[Mapping[str, Any]],
        tokenizer: PreTrainedTokenizerBase,
        pad_to_multiple_of: int | None = None,
    ) -> dict[str, Array]:
        """Return features as a padded batch. Shape: tokens (B, T); labels (B, 1 + R)."""
        plain = [{k: v for k, v in each.items() if k != "labels"} for each in features]
        batch = collate_texts(plain, tokenizer, pad_to_multiple_of)
        if "labels" in features[0]:
            width = max(len(each["labels"]) for each in features)
            filled = [[*each["labels"], *[_NONE] * width][:width] for each in features]
            batch["labels"] = np.asarray(filled, np.int64)
        return batch

    def served_texts(self, size: int) -> str:
        """Return `queries`, which come one by one, or `passages`, which are stored in batches."""
        return "queries" if size == 1 else "passages"

    def served(self, features: Dataset, size: int) -> Array:
        """Return the places of the queries, or of the documents. Shape: (n,)."""
        queries = np.array([labels[0] == QUERY for labels in features["labels"][:]], bool)
        return np.flatnonzero(queries == (size == 1))

    def teaches(self, rows: Dataset) -> bool:
        """Return whether one of the rows is a query and a relevant document."""
        return any(QUERY in label["texts"] for label in rows["label"][:])

    def labelled(self, features: Dataset) -> Dataset:
        """Return the features of training rows that are a query and a relevant document.

        Raises DataError where there are none.
        """
        first = [labels[0] == QUERY for labels in features["labels"][::2]]
        if not any(first):
            raise DataError(
                "training on labels: there are no training queries with relevant documents; "
                "distil from the original, or give training judgements"
            )
        return features.select(np.flatnonzero(np.repeat(first, 2)).tolist())

    def reference_feature(self) -> Any:
        """Return the type of a reference, which is a row's label; see the class."""
        from datasets import List, Value

        numbers = List(Value("int64"))
        return {"texts": numbers, "relevant": numbers, "gains": List(Value("float64"))}

    def label_feature(self, task: TaskFields) -> Any:
        """Return the type of a row's label; see the class."""
        return self.reference_feature()

    def references(self, rows: Dataset) -> Array:
        """Return the labels. Shape: (N,) of mappings."""
        labels = rows["label"][:]
        found = np.empty(len(labels), object)
        found[:] = labels
        return found

    def examples(self, references: Array) -> int:
        """Return the number of queries. Shape: (N,)."""
        return sum(QUERY in each["texts"] for each in references)

    def statistics(self, metric: Metric, answers: Array, references: Array) -> Array:
        """Return what each query adds, so that queries are resampled.

        A document of several rows is searched once. Shape: (N, D), or (N, 2, D) of training rows
        -> (Q, 2).
        """
        vectors = self.decided(metric, answers).reshape(-1, answers.shape[-1])
        numbers = np.array([number for each in references for number in each["texts"]])
        _, firsts = np.unique(numbers, return_index=True)
        kept = np.union1d(firsts, np.flatnonzero(numbers == QUERY))
        places = {int(numbers[at]): place for place, at in enumerate(kept)}
        owners = np.repeat(np.arange(len(references)), [len(each["texts"]) for each in references])
        known = np.full(len(kept), None, object)
        for place, at in enumerate(kept):
            if numbers[at] == QUERY:
                label = references[owners[at]]
                # What is not there has a place below 0: it should have been found all the same.
                rows = [places.get(number, -1 - number) for number in label["relevant"]]
                known[place] = dict(zip(rows, label["gains"], strict=True))
        found = metric.statistics(vectors[kept], known)
        return found[found[:, 1] > 0]

    def right(self, metric: Metric, references: Array) -> Array:
        """Return the references. Shape: (N,)."""
        return references

    def chance(self, labels: Array, metric: Metric) -> float:
        """Return the score of a random order, as expected over all orders. Shape: (N,)."""
        gain = metric.name == "ndcg"
        expected = expected_discounted_gain if gain else expected_reciprocal_rank
        searched = len({number for each in labels for number in each["texts"]} - {QUERY})
        # A document that is the query itself is not searched for it.
        kinds = Counter(tuple(sorted(each["gains"])) for each in labels if QUERY in each["texts"])
        scores = []
        for gains in kinds:
            relevant = [each for each in gains if each > 0]
            others = max(0, searched - len(gains))
            scores.append(expected(np.array([*relevant, *[0.0] * others])))
        return round(float(np.average(scores, weights=[*kinds.values()])), 4)

    def loss(self, outputs: Tensor, batch: Features) -> Tensor:
        """Return the mean over queries of -log softmax of the relevant document in the batch.

        Henderson et al. 2017, "Efficient Natural Language Response Suggestion", 1705.00652, section
        4.4; MultipleNegativesRankingLoss of sentence-transformers, with its scale of 20 and
        cosines. Other documents that are relevant for the query are no negatives. With `dimensions`
        the mean over vectors cut so. Without a query whose document is there: 0. Shape: (B, T, H),
        `labels` (B, 1 + R) -> ().
        """
        if batch["labels"].is_floating_point():  # the vectors of a teacher
            return self.losses(outputs, batch).mean()
        vectors = self._pooled(outputs, batch)
        sizes = self.dimensions or (vectors.shape[-1],)
        terms = [_of_queries(vectors[:, :size], batch["labels"])[1] for size in sizes]
        if not len(terms[0]):
            return vectors.sum() * 0.0
        means = [each.mean() for each in terms]
        return sum(means[1:], means[0]) / len(means)

    def losses(self, outputs: Tensor, batch: Features) -> Tensor:
        """Return the distance to vectors; of numbers that of each query, 0 for documents.

        Shape: (B, T, H), `labels` (B, D) floats or (B, 1 + R) -> (B,).
        """
        labels = batch["labels"]
        if labels.is_floating_point():
            return super().losses(outputs, batch)
        vectors = self._pooled(outputs, batch)
        queries, each = _of_queries(vectors, labels)
        return vectors.new_zeros(len(vectors)).index_add(0, queries, each)


def _full_rows(encoded: Encoded) -> int:
    """Return how many rows have a text as long as the longest: of two that are cut, one row."""
    lengths = np.diff(encoded.offsets)
    return len(np.unique(encoded.row_of_feature[lengths == lengths.max(initial=0)]))


def _of_queries(vectors: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the queries of a batch with a relevant document there, and the loss of each.

    Its document is the next one in the batch that is relevant. Shape: (B, D), (B, 1 + R) -> (Q,),
    (Q,).
    """
    import torch
    from torch.nn import functional

    numbers, relevant = labels[:, 0].to(vectors.device), labels[:, 1:].to(vectors.device)
    documents = torch.nonzero(numbers >= 0).squeeze(-1)
    hits = (relevant[:, :, None] == numbers[documents]).any(dim=1)  # (B, documents)
    queries = torch.nonzero((numbers == QUERY) & hits.any(dim=1)).squeeze(-1)
    if not len(queries):
        return queries, vectors.new_zeros(0)
    hits = hits[queries]
    apart = (documents - queries[:, None]) % len(labels)
    own = apart.masked_fill(~hits, len(labels)).argmin(dim=1)
    units = functional.normalize(vectors, dim=-1)
    scores = SCALE * units[queries] @ units[documents].T
    others = hits.scatter(1, own[:, None], False)
    scores = scores.masked_fill(others, float("-inf"))
    return queries, functional.cross_entropy(scores, own, reduction="none")
