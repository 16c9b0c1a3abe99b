"""The kinds of problem: one file each, and the table of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bertcompress.errors import TaskError, unknown
from bertcompress.heads.agreement import Agreement
from bertcompress.heads.classes import Classes
from bertcompress.heads.head import Head
from bertcompress.heads.multi_label import MultiLabel
from bertcompress.heads.numbers import Numbers
from bertcompress.heads.pooling import Pooling
from bertcompress.heads.reranker import Reranker
from bertcompress.heads.retrieval import Retrieval
from bertcompress.heads.spans import Spans
from bertcompress.heads.tokens import Tokens
from bertcompress.heads.vectors import Similarity, Vectors
from bertcompress.metrics import METRICS, Metric

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "HEADS",
    "Head",
    "all_metrics",
    "has_labels",
    "head_named",
    "head_of_config",
    "head_of_labels",
    "head_of_model",
    "least_kept",
]

HEADS: dict[str, Head] = {
    "single_label": Classes(),
    "multi_label": MultiLabel(),
    "regression": Numbers(),
    "unlabelled": Agreement(),
    "tokens": Tokens(),
    "spans": Spans(),
    "vectors": Vectors(),
    "similarity": Similarity(),
    "reranker": Reranker(),
    "retrieval": Retrieval(),
}
"""`problem` of a task to its head."""


def head_named(problem: str, where: str = "task") -> Head:
    """Return the head of a problem. Raises TaskError with the nearest."""
    if problem not in HEADS:
        raise TaskError(unknown(where, "problem", problem, HEADS))
    return HEADS[problem]


def has_labels(task: Mapping[str, Any]) -> bool:
    """Return whether the task of a stored report has labels."""
    head = HEADS.get(str(task.get("problem")))
    return head is None or head.has_labels


def least_kept(task: Mapping[str, Any]) -> Mapping[str, float]:
    """Return `Head.least_kept` of the task of a stored report; empty with labels."""
    head = HEADS.get(str(task.get("problem")))
    return {} if head is None or head.has_labels else head.least_kept


def all_metrics() -> Mapping[str, Metric]:
    """Return the metrics of all heads by name: those of the table first, in its order.

    Where heads have metrics of one name, the first head's.
    """
    found: dict[str, Metric] = {}
    for head in HEADS.values():
        found = {**head.metrics, **found}
    return {name: found[name] for name in dict.fromkeys((*METRICS, *found)) if name in found}


def head_of_config(config: Any) -> Head:
    """Return what a model answers, by its config: vectors of an embedder, classes or a number."""
    if Pooling.of(config) is not None:
        return HEADS[Vectors.key].of_model(config)
    return HEADS["unlabelled"].of_model(config)


def head_of_model(model: Any) -> Head:
    """Return what a model answers, by its class, and where that answers for texts its config."""
    name, texts = type(model).__name__, Classes.auto_class
    for head in HEADS.values():
        if head.auto_class not in (None, texts) and name.endswith(str(head.auto_class)):
            return head
    return head_of_config(model.config)


def head_of_labels(labels: Tensor) -> Head:
    """Return the head that labels of a batch are for: whole numbers, bits, or one fraction a row.

    Shape: (B,), (B, K) for bits, or (B, T) whole numbers for a tag at each token.
    """
    if not labels.is_floating_point():
        return HEADS["tokens" if labels.ndim == 2 else "single_label"]
    return HEADS["multi_label" if labels.ndim == 2 else "regression"]
