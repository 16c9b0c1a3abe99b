"""What each row adds to metrics of vectors and of rankings: neighbours, nDCG and MRR.

A row's share depends on the rows beside it, so it is told of all rows at once. Axes: N rows, D
dimensions of a vector, S statistics.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "DEPTH",
    "NEIGHBOURS",
    "cosine_rows",
    "expected_discounted_gain",
    "expected_reciprocal_rank",
    "group_discounted_gains",
    "group_reciprocal_ranks",
    "nearest",
    "neighbour_rows",
    "ranked",
    "search_discounted_gains",
    "search_reciprocal_ranks",
]

Array = NDArray[Any]

DEPTH = 10
"""How far down a ranking is read."""
NEIGHBOURS = 10
_BLOCK = 4_000_000
"""Similarities of one block, at most (8 bytes each)."""
_TIE = 1e-12
"""Cosines that differ by less are equal: it is what they are rounded by."""


def _counted(values: Array, counts: Array) -> Array:
    """Return values beside how much each counts. Shape: (N,) twice -> (N, 2)."""
    return np.stack([values * counts, counts], axis=1).astype(float)


def _unit(vectors: Array) -> Array:
    plain = np.asarray(vectors, dtype=np.float64).reshape(len(vectors), -1)
    return np.asarray(plain / np.maximum(np.linalg.norm(plain, axis=1, keepdims=True), 1e-12))


def cosine_rows(vectors: Array, original: Array) -> Array:
    """Return the cosine of each row with the original's vector, and 1. Shape: (N, D) -> (N, 2).

    Of vectors with other dimensions than the original's, the correlation of a row's cosines with
    the others, since the vectors themselves have nothing in common.
    """
    ours, theirs = _unit(vectors), _unit(original)
    if ours.shape[1] != theirs.shape[1]:
        parts = [_profiles(ours, theirs, block) for block in _steps(len(ours), len(ours))]
        return _counted(np.concatenate(parts), np.ones(len(ours)))
    return _counted((ours * theirs).sum(axis=1), np.ones(len(ours)))


def _profiles(ours: Array, theirs: Array, rows: slice) -> Array:
    """Return the correlation of the cosines of some rows with all rows. Shape: -> (rows,)."""
    mine, wanted = (side[rows] @ side.T for side in (ours, theirs))
    mine, wanted = (each - each.mean(axis=1, keepdims=True) for each in (mine, wanted))
    return np.asarray((_unit(mine) * _unit(wanted)).sum(axis=1))


def _steps(rows: int, others: int) -> Iterator[slice]:
    """Yield blocks of rows whose similarities with all others fit into memory."""
    step = max(1, _BLOCK // max(1, others))
    for start in range(0, rows, step):
        yield slice(start, start + step)


def neighbour_rows(vectors: Array, original: Array) -> Array:
    """Return the share of the 10 nearest rows that are so in the original too, and 1.

    Of fewer than 11 rows all others are neighbours, and the share says nothing. Shape: (N, D)
    twice, D may differ -> (N, 2).
    """
    ours, theirs = nearest(vectors), nearest(original)
    if not ours.shape[1]:
        return _counted(np.ones(len(ours)), np.ones(len(ours)))
    shared = (ours[:, :, None] == theirs[:, None, :]).any(axis=2).mean(axis=1)
    return _counted(shared, np.ones(len(ours)))


def nearest(vectors: Array, count: int = NEIGHBOURS) -> NDArray[np.int64]:
    """Return the rows nearest to each row by cosine, itself left out. Shape: (N, D) -> (N, count).

    Of rows as near the first in order goes first.
    """
    units = _unit(vectors)
    found = []
    for start, similar in _blocks(units, units):
        similar[np.arange(len(similar)), start + np.arange(len(similar))] = -np.inf
        found.append(ranked(similar, min(count, len(units) - 1)))
    return np.concatenate(found)


def _blocks(first: Array, second: Array) -> Iterator[tuple[int, Array]]:
    for rows in _steps(len(first), len(second)):
        yield rows.start, first[rows] @ second.T


def ranked(scores: Array, count: int) -> NDArray[np.int64]:
    """Return the places of the highest scores, highest first. Shape: (R, M) -> (R, count).

    Of equal scores the first goes first.
    """
    count = min(count, scores.shape[1])
    if not count:
        return np.zeros((len(scores), 0), np.int64)
    places = np.argpartition(-scores, count - 1, axis=1)[:, :count]
    least = np.take_along_axis(scores, places, axis=1).min(axis=1, keepdims=True)
    crowded = np.flatnonzero((scores >= least).sum(axis=1) > count)
    for row in crowded:
        places[row] = np.argsort(-scores[row], kind="stable")[:count]
    places.sort(axis=1)
    order = np.argsort(-np.take_along_axis(scores, places, axis=1), axis=1, kind="stable")
    return np.take_along_axis(places, order, axis=1).astype(np.int64)


def discounted_gain(gains: Sequence[float], best: Sequence[float]) -> float:
    """Return nDCG@10: gains in the order found over the same of the best order, 0 without any.

    A gain counts over log2(1 + rank), as in trec_eval and BEIR (Järvelin & Kekäläinen 2002).
    """
    ideal = _discounted(sorted(best, reverse=True)[:DEPTH])
    return _discounted(gains[:DEPTH]) / ideal if ideal > 0 else 0.0


def _discounted(gains: Sequence[float]) -> float:
    ranks = np.arange(2, len(gains) + 2)
    return float((np.asarray(gains, float) / np.log2(ranks)).sum())


def reciprocal_rank(gains: Sequence[float], best: Sequence[float]) -> float:
    """Return one over the rank of the first of the ten that is relevant, 0 where none is."""
    hits = [rank for rank, gain in enumerate(gains[:DEPTH], start=1) if gain > 0]
    return 1.0 / hits[0] if hits else 0.0


def search_discounted_gains(vectors: Array, relevant: Array) -> Array:
    """Return nDCG@10 of each query among the documents, and 1; (0, 0) for a document.

    `relevant`: for a query the rows of its documents with their gains, None for a document. A
    document with a gain below 0 is not searched for this query. Of documents with equal cosines the
    less relevant goes first: vectors that are all alike owe nothing to the order of the corpus.
    Shape: (N, D), (N,) of objects -> (N, 2).
    """
    return _searched(vectors, relevant, discounted_gain)


def search_reciprocal_ranks(vectors: Array, relevant: Array) -> Array:
    """Return MRR@10 of each query in the same form. Shape: (N, D), (N,) of objects -> (N, 2)."""
    return _searched(vectors, relevant, reciprocal_rank)


def _searched(vectors: Array, relevant: Array, judge: Any) -> Array:
    is_query = np.array([isinstance(each, Mapping) for each in relevant])
    queries, documents = np.flatnonzero(is_query), np.flatnonzero(~is_query)
    column = np.full(len(vectors), -1)
    column[documents] = np.arange(len(documents))
    units, values = _unit(vectors), np.zeros(len(vectors))
    for start, scores in _blocks(units[queries], units[documents]):
        mine = queries[start : start + len(scores)]
        for row, query in enumerate(mine):
            _lower(scores[row], relevant[query], column)
        for query, places in zip(mine, documents[ranked(scores, DEPTH)], strict=True):
            known: Mapping[int, float] = relevant[query]
            gains = [max(0.0, known.get(int(place), 0.0)) for place in places]
            values[query] = judge(gains, [gain for gain in known.values() if gain > 0])
    return _counted(values, is_query)


def _lower(scores: Array, known: Mapping[int, float], column: Array) -> None:
    """Put documents behind others of equal score by their gains, in place; out below 0.

    `column`: place of each row among the documents. Shape: scores (documents,), column (N,).
    """
    rows, gains = np.array([*known], int), np.array([*known.values()], float)
    there = (rows >= 0) & (column[rows] >= 0)
    less = _TIE * gains / max(1.0, gains.max(initial=1.0))
    scores[column[rows[there]]] -= np.where(gains < 0, np.inf, less)[there]


def expected_discounted_gain(gains: Array) -> float:
    """Return nDCG@10 of a random order: each rank holds the mean gain. Shape: (documents,)."""
    discounts = 1 / np.log2(np.arange(2, min(len(gains), DEPTH) + 2))
    ideal = float((np.sort(gains)[::-1][:DEPTH] * discounts).sum())
    return float(gains.mean() * discounts.sum() / ideal) if ideal else 0.0


def expected_reciprocal_rank(gains: Array) -> float:
    """Return MRR@10 of a random order, by the chance that the first relevant has each rank.

    Shape: (documents,).
    """
    documents, relevant = len(gains), int((gains > 0).sum())
    if not relevant:
        return 0.0
    orders = math.comb(documents, relevant)
    ranks = range(1, min(DEPTH, documents - relevant + 1) + 1)
    return sum(math.comb(documents - r, relevant - 1) / orders / r for r in ranks)


def group_discounted_gains(scores: Array, references: Array) -> Array:
    """Return nDCG@10 of each group in its first row, and 1; (0, 0) in the others.

    `references`: gain and number of the group of each row. A group without a gain counts as 0, as
    in sentence-transformers. Shape: (N,), (N, 2) -> (N, 2).
    """
    return _grouped(scores, references, discounted_gain)


def group_reciprocal_ranks(scores: Array, references: Array) -> Array:
    """Return MRR@10 of each group in the same form. Shape: (N,), (N, 2) -> (N, 2)."""
    return _grouped(scores, references, reciprocal_rank)


def _grouped(scores: Array, references: Array, judge: Any) -> Array:
    gains, groups = references[:, 0], references[:, 1]
    order = np.lexsort((np.arange(len(groups)), -np.asarray(scores, float).ravel(), groups))
    _, starts = np.unique(groups[order], return_index=True)
    values, counts = np.zeros(len(groups)), np.zeros(len(groups))
    for members in np.split(order, starts[1:]):
        first = members.min()
        values[first] = judge(gains[members].tolist(), gains[members].tolist())
        counts[first] = 1.0
    return _counted(values, counts)
