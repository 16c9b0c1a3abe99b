"""`load_retrieval`: a corpus, queries and judgements as the splits of a task.

The reported split is its queries and the whole corpus. Of the training queries some are set apart,
to choose by, with a part of the corpus; the others, each with its relevant documents, and all other
documents are trained on. No query of the one is in the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bertcompress.data.collection import Collection, Judged, read_collection
from bertcompress.data.task_data import TaskData, fingerprint_of
from bertcompress.errors import DataError
from bertcompress.heads.retrieval import QUERY
from bertcompress.task import Task

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["load_retrieval"]

SELECTION_SHARE = 0.1
SELECTION_QUERIES = (200, 1_000)
"""So many at least, but of few queries a fifth, and so many at most."""
SELECTION_DOCUMENTS = 1_000
"""What is searched to choose by, if the relevant documents leave room for as many others."""
CALIBRATION_ROWS = 2_048
# The same rows whatever the seed of a run, as everywhere.
_LIMIT_SEED = 0
_SPLIT_SEED = 0
_FIFTH = 5
_ITSELF = -1.0
"""Gain of a document that is not searched for a query."""


def load_retrieval(
    task: Task, data_dir: str | Path | None = None, seed: int = 0, limit: int | None = None
) -> TaskData:
    """Return the splits of a retrieval task.

    `limit`: at most so many training queries, reported queries, and documents that no training
    query asks for; the corpus that is searched stays whole. Raises DataError.
    """
    found = read_collection(task, data_dir)
    notes = list(found.notes)
    training, reported = _divided(found, notes)
    judged = [reported, *found.also.values()]
    training = _unseen(found, training, judged, notes)
    training, *some = (_limited(each, limit) for each in (training, *judged))
    chosen = training
    if found.training is not None:
        chosen = _selected(found, training, np.random.default_rng([seed, 0]))
    taught = {query: known for query, known in training.items() if query not in chosen}
    rows = _Rows(found, found.task.resolved(found.task.problem))
    train = rows.training(taught, limit)
    searched = _searched(found, chosen, seed)
    selection = rows.search(chosen, searched)
    splits = [rows.search(each, [*found.documents]) for each in some]
    notes += _said(found, len(chosen), len(searched))
    shown = np.random.default_rng([seed, 1]).permutation(len(train))[:CALIBRATION_ROWS]
    data = TaskData(
        task=_with_chance(rows.task, splits[0]),
        train=train,
        selection=selection,
        validation=splits[0],
        also=dict(zip(found.also, splits[1:], strict=True)),
        calibration=train.select(shown),
        labels=(),
        fingerprint="",
        notes=tuple(notes),
        said=(
            f"{len(some[0]):,} queries of '{found.task.validation}' search "
            f"{len(found.documents):,} documents; {len(taught):,} queries are trained on",
        ),
    )
    return replace(data, fingerprint=fingerprint_of(data))


def _divided(found: Collection, notes: list[str]) -> tuple[Judged, Judged]:
    """Return the judgements to train and choose by, and those to report on.

    Where only one split has judgements a fifth of its queries goes to the side that has none.
    """
    training, reported, rng = found.training, found.reported, np.random.default_rng(_SPLIT_SEED)
    if training is not None and reported is not None:
        return training, reported
    whole = training if training is not None else reported
    assert whole is not None
    if len(whole) < 2:
        raise DataError(
            f"{found.task.name}: one query alone has judgements; choosing needs another"
        )
    order = rng.permutation(len(whole))[: max(1, len(whole) // _FIFTH)]
    queries = [*whole]
    fifth = {queries[i]: whole[queries[i]] for i in np.sort(order).tolist()}
    rest = {query: known for query, known in whole.items() if query not in fifth}
    if training is None:
        notes.append(
            f"no training judgements: {len(fifth):,} of {len(whole):,} queries of "
            f"'{found.task.validation}' are set apart to choose by, always the same; scores are of "
            "the others"
        )
        return fifth, rest
    notes.append(
        f"no split to judge on: {len(fifth):,} of {len(whole):,} queries of '{found.task.train}' "
        "are split off, always the same"
    )
    return rest, fifth


def _same(text: str) -> str:
    """Return a text as queries are compared: without case and white space around its words."""
    return " ".join(text.casefold().split())


def _unseen(
    found: Collection, training: Judged, judged: Iterable[Judged], notes: list[str]
) -> Judged:
    """Return the training queries that are not among the reported ones, by id or by text."""
    ids = {query for each in judged for query in each}
    texts = {_same(found.queries[query]) for query in ids}
    kept = {
        query: known
        for query, known in training.items()
        if query not in ids and _same(found.queries[query]) not in texts
    }
    if not kept:
        raise DataError(
            f"{found.task.name}: every query of '{found.task.train}' is in "
            f"'{found.task.validation}' too; a score on it would say nothing about new queries"
        )
    if gone := len(training) - len(kept):
        notes.append(
            f"{gone:,} of {len(training):,} training queries are reported on too, by id or text, "
            "and are left out of training"
        )
    return kept


def _limited(judged: Judged, limit: int | None) -> Judged:
    queries = _drawn([*judged], limit)
    return {query: judged[query] for query in queries}


def _drawn(names: Sequence[str], limit: int | None) -> list[str]:
    """Return at most so many names, in order."""
    if limit is None or len(names) <= limit:
        return [*names]
    order = np.random.default_rng(_LIMIT_SEED).permutation(len(names))[:limit]
    return [names[i] for i in np.sort(order).tolist()]


def _selected(found: Collection, judged: Judged, rng: np.random.Generator) -> Judged:
    """Return the queries to choose by, those of one text together, and never all of them."""
    least, most = SELECTION_QUERIES
    count = max(round(SELECTION_SHARE * len(judged)), min(least, len(judged) // _FIFTH), 1)
    texts = [*dict.fromkeys(_same(found.queries[query]) for query in judged)]
    if len(texts) < 2:
        raise DataError(
            f"{found.task.name}: '{found.task.train}' has one query; selection needs another"
        )
    order = rng.permutation(len(texts))[: min(count, most, len(texts) - 1)]
    chosen = {texts[i] for i in order.tolist()}
    return {
        query: known for query, known in judged.items() if _same(found.queries[query]) in chosen
    }


def _searched(found: Collection, judged: Judged, seed: int) -> list[str]:
    """Return the documents to choose by: the relevant ones first, then others at random.

    The others come by length, so that batches in this order hold little padding.
    """
    relevant = [*dict.fromkeys(name for known in judged.values() for name in known)]
    wanted = {*relevant}
    others = [name for name in found.documents if name not in wanted]
    count = max(SELECTION_DOCUMENTS - len(relevant), len(relevant))
    order = np.random.default_rng([seed, 2]).permutation(len(others))[:count]
    drawn = sorted((others[i] for i in order.tolist()), key=lambda n: len(found.documents[n]))
    return [*relevant, *drawn]


def _said(found: Collection, queries: int, documents: int) -> list[str]:
    """Return lines on what is chosen by and trained on, for the report."""
    every = len(found.documents)
    fewer = (
        f"; among {documents:,} documents, their relevant ones and others at random: scores are "
        f"higher there than among all {every:,}"
    )
    return [
        f"chosen by {queries:,} queries that are neither trained nor reported on"
        + (fewer if documents < every else ""),
        "all documents may be trained on, without the reported queries and judgements: they are "
        "what is searched",
    ]


def _with_chance(task: Task, reported: Dataset) -> Task:
    if task.chance is not None:
        return task
    metric = task.head.metrics[task.headline]
    return task.model_copy(
        update={"chance": task.head.chance(task.head.references(reported), metric)}
    )


class _Rows:
    """Makes the rows of splits; their ids count on from one split to the next."""

    def __init__(self, found: Collection, task: Task) -> None:
        self.found = found
        self.task = task
        self.numbers = {name: i for i, name in enumerate(found.documents)}
        self.made = 0

    def training(self, judged: Judged, limit: int | None) -> Dataset:
        """Return each query with each of its relevant documents, then other documents by twos.

        `limit`: of the other documents.
        """
        texts, labels = [], []
        for query, known in judged.items():
            label = self._query(query, known)
            for document in known:
                texts.append((self.found.queries[query], self.found.documents[document]))
                labels.append({**label, "texts": [QUERY, self.numbers[document]]})
        for pair in self._by_twos(judged, limit):
            texts.append((self.found.documents[pair[0]], self.found.documents[pair[1]]))
            numbers = [self.numbers[name] for name in pair]
            labels.append({"texts": numbers, "relevant": [], "gains": []})
        first, second = map(list, zip(*texts, strict=True))
        return self._dataset({"text": first, "text_pair": second}, labels)

    def _by_twos(self, judged: Judged, limit: int | None) -> list[tuple[str, str]]:
        """Return the documents of no query in twos of like length; of an odd number one twice."""
        paired = {name for known in judged.values() for name in known}
        others = _drawn([name for name in self.found.documents if name not in paired], limit)
        others.sort(key=lambda name: len(self.found.documents[name]))
        others += others[:1] if len(others) % 2 else []
        return [*zip(others[::2], others[1::2], strict=True)]

    def search(self, judged: Judged, documents: Sequence[str]) -> Dataset:
        """Return queries and the documents that they search.

        A query stands before its first relevant document, where that stands nowhere else: both are
        in one batch then.
        """
        behind: dict[str, list[str]] = {}
        for query, known in judged.items():
            behind.setdefault(next(iter(known)), []).append(query)
        texts, labels = [], []
        for document in documents:
            for query in behind.get(document, ()):
                texts.append(self.found.queries[query])
                labels.append({"texts": [QUERY], **self._query(query, judged[query])})
            texts.append(self.found.documents[document])
            numbers = [self.numbers[document]]
            labels.append({"texts": numbers, "relevant": [], "gains": []})
        return self._dataset({"text": texts}, labels)

    def _query(self, query: str, known: Mapping[str, float]) -> dict[str, Any]:
        """Return the relevant documents of a query as numbers, and their grades.

        A document with id and text of the query itself is not searched, as in BEIR.
        """
        numbers, gains = [self.numbers[name] for name in known], [*known.values()]
        itself = _same(self.found.documents.get(query, ""))
        if query not in known and itself and itself.endswith(_same(self.found.queries[query])):
            numbers, gains = [*numbers, self.numbers[query]], [*gains, _ITSELF]
        return {"relevant": numbers, "gains": gains}

    def _dataset(
        self, columns: Mapping[str, Sequence[str]], labels: Sequence[Mapping[str, Any]]
    ) -> Dataset:
        from datasets import Dataset, Features, Value

        ids = list(range(self.made, self.made + len(labels)))
        self.made += len(labels)
        features = {"row_id": Value("int64"), **dict.fromkeys(columns, Value("string"))}
        features["label"] = self.task.head.label_feature(self.task)
        rows = {"row_id": ids, **columns, "label": [*labels]}
        return Dataset.from_dict(rows, features=Features(features))
