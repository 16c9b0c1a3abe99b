"""How well a text answers a query: cross-encoders, which score pairs and are judged by the order.

A row is a query and a document with its grade, 0 to 1. Rows of one query are one ranking.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

import numpy as np

from bertcompress.errors import DataError
from bertcompress.heads.head import Array, Features, Served
from bertcompress.heads.multi_label import MultiLabel
from bertcompress.heads.numbers import Numbers
from bertcompress.metrics import Metric
from bertcompress.metrics.ranking import (
    DEPTH,
    expected_discounted_gain,
    expected_reciprocal_rank,
    group_discounted_gains,
    group_reciprocal_ranks,
)
from bertcompress.metrics.statistics import mean

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from torch import Tensor

__all__ = ["Reranker", "ranking_metrics"]

Statistics: TypeAlias = Callable[[Array, Array], Array]

_YES_OR_NO = MultiLabel()
"""One output is one yes or no: its losses and draws are those of a single label."""


def ranking_metrics(
    gains: Statistics, ranks: Statistics, reads: Literal["numbers", "vectors"]
) -> dict[str, Metric]:
    """Return nDCG and MRR by what each query adds to them, of the answers that a head reads."""
    words = {
        "ndcg": (f"nDCG of the first {DEPTH} documents of each query", gains),
        "mrr": (f"one over the rank of the first relevant document, of the first {DEPTH}", ranks),
    }
    return {
        name: Metric(name, summary, statistics, mean, reads=reads, of_all_rows=True)
        for name, (summary, statistics) in words.items()
    }


class Reranker(Numbers):
    """A score for a query and a document: binary cross entropy on grades. Labels: (B,) float32."""

    key: ClassVar[str] = "reranker"
    metrics: ClassVar[dict[str, Metric]] = ranking_metrics(
        group_discounted_gains, group_reciprocal_ranks, reads="numbers"
    )
    usual: ClassVar[tuple[str, ...]] = ("ndcg", "mrr")
    has_units: ClassVar[bool] = False
    judges_groups: ClassVar[bool] = True
    serves: ClassVar[Served | None] = "score"
    texts_a_row: ClassVar[tuple[int, ...]] = (2,)

    def check_rows(
        self, where: str, texts: Sequence[Sequence[str]], labels: Sequence[Any] | None
    ) -> None:
        """Raise DataError for grades that are not between 0 and 1, naming the first row."""
        for row, grade in enumerate(labels or (), start=1):
            if not 0 <= grade <= 1:
                raise DataError(
                    f"{where}: row {row} has the grade {grade:g}; a reranker learns grades between "
                    "0 (not relevant) and 1: divide by the highest"
                )

    def groups(self, texts: Sequence[Sequence[str]]) -> Sequence[str]:
        """Return the queries: their documents stay together when rows are split off."""
        return texts[0]

    def references(self, rows: Dataset) -> Array:
        """Return grade and number of the query of each row. Shape: (N, 2)."""
        _, queries = np.unique(np.asarray(rows["text"][:], dtype=object), return_inverse=True)
        return np.stack([np.asarray(rows["label"][:], float), queries.astype(float)], axis=1)

    def statistics(self, metric: Metric, answers: Array, references: Array) -> Array:
        """Return the metric of each query and 1, so that queries are resampled.

        Of documents with equal scores the less relevant goes first: a model that answers everything
        alike owes nothing to the order of the file. Shape: (N, 1), (N, 2) -> (Q, 2).
        """
        order = np.argsort(references[:, 0], kind="stable")
        scores = self.decided(metric, answers)
        found = metric.statistics(scores[order], references[order])
        return found[found[:, 1] > 0]

    def examples(self, references: Array) -> int:
        """Return the number of queries. Shape: (N, 2)."""
        return len(np.unique(references[:, 1]))

    def chance(self, labels: Array, metric: Metric) -> float:
        """Return the score of a random order, as expected over all orders. Shape: (N, 2)."""
        of_query = [labels[labels[:, 1] == query, 0] for query in np.unique(labels[:, 1])]
        gain = metric.name == "ndcg"
        expected = expected_discounted_gain if gain else expected_reciprocal_rank
        return round(float(np.mean([expected(grades) for grades in of_query])), 4)

    def loss(self, outputs: Tensor, batch: Features) -> Tensor:
        """Return the mean of `losses`. Shape: (B, 1), (B,) -> ()."""
        return self.losses(outputs, batch).mean()

    def losses(self, outputs: Tensor, batch: Features) -> Tensor:
        """Return the binary cross entropy of each row. Shape: (B, 1), (B,) -> (B,)."""
        return _YES_OR_NO.losses(outputs, {"labels": batch["labels"].reshape(-1, 1)})

    def drawn_losses(
        self, outputs: Tensor, reference: Tensor, batch: Features, generator: torch.Generator
    ) -> Tensor:
        """Return the loss against drawn yes or no. Shape: (B, 1) twice -> (B,)."""
        return _YES_OR_NO.drawn_losses(outputs, reference, batch, generator)

    def divergence(
        self, student: Tensor, teacher: Tensor, batch: Features, temperature: float
    ) -> Tensor:
        """Return T^2 times the mean KL divergence of each yes or no. Shape: (B, 1) twice -> ()."""
        return _YES_OR_NO.divergence(student, teacher, batch, temperature)

    def labels_of(self, outputs: Tensor, batch: Features) -> Tensor:
        """Return the probabilities that a model answers, as grades. Shape: (B, 1) -> (B,)."""
        return outputs.squeeze(-1).sigmoid()
