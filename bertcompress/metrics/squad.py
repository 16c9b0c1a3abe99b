"""Exact match and F1 of answers as texts, by the official formulas of SQuAD.

Version 1.1 (Rajpurkar et al. 2016, 1606.05250) and version 2.0 (Rajpurkar et al. 2018, 1806.03822)
differ where there is nothing to compare: in 2.0 a question may have no answer, which is right to be
given as an empty text, and a correct answer of which nothing is left by `normalised` counts as
none.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["exact_match", "f1_of_tokens", "normalised", "scores"]

_ARTICLES = re.compile(r"\b(a|an|the)\b", re.UNICODE)
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(text: str) -> str:
    """Return a text in lower case without punctuation, articles and runs of white space."""
    plain = text.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", plain).split())


def exact_match(answer: str, gold: str) -> float:
    """Return 1 where both texts are equal once normalised, else 0."""
    return float(normalised(answer) == normalised(gold))


def f1_of_tokens(answer: str, gold: str, unanswerable: bool = False) -> float:
    """Return F1 of the words of an answer, as bags, 0 to 1.

    `unanswerable`: by version 2.0, where two texts without words are equal; in 1.1 they share none.
    """
    ours, theirs = normalised(answer).split(), normalised(gold).split()
    if unanswerable and not (ours and theirs):
        return float(ours == theirs)
    same = sum((Counter(ours) & Counter(theirs)).values())
    if same == 0:
        return 0.0
    precision, recall = same / len(ours), same / len(theirs)
    return 2 * precision * recall / (precision + recall)


def scores(
    answers: Sequence[str], golds: Sequence[Sequence[str]], unanswerable: bool = False
) -> NDArray[Any]:
    """Return exact match, F1 and whether there is an answer, for each row: the best of its golds.

    Args:
        answers: A text for each row; an empty one says that there is no answer.
        golds: The correct texts of each row; none where there is no answer.
        unanswerable: Whether the rows are scored by version 2.0.

    Shape: (N, 3).
    """
    rows = [_best(answer, each, unanswerable) for answer, each in zip(answers, golds, strict=True)]
    return np.asarray(rows, dtype=float).reshape(-1, 3)


def _best(answer: str, golds: Sequence[str], unanswerable: bool) -> tuple[float, float, float]:
    kept = [gold for gold in golds if normalised(gold)] if unanswerable else list(golds)
    compared = kept or [""]
    return (
        max(exact_match(answer, gold) for gold in compared),
        max(f1_of_tokens(answer, gold, unanswerable) for gold in compared),
        float(bool(golds)),
    )
