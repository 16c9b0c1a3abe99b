"""The best span of a row over all its windows, and how likely it is that there is no answer.

As the question answering pipeline of transformers 4 scores it, without its widening to whole words:
probabilities are those within a window, of the tokens of the context and of the one that stands for
"no answer"; the best span of each window stands, and the same text in two windows counts twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

__all__ = ["best_span", "joined_windows"]

Array = NDArray[Any]

_NEVER = -1e4
"""Logarithm of the probability of a span where a window holds no token of the context."""


def best_span(
    outputs: Array, starts: Array, no_answer: int, most_tokens: int
) -> tuple[float, int, int, float]:
    """Return the best span of a window: log probability, first and last token, log p of none.

    All pairs are looked at, not only those of the n best starts and ends.

    Args:
        outputs: Start and end logits of each token. Shape: (T, 2).
        starts: Where each token begins in the context; -1 outside of it. Shape: (T,).
        no_answer: Place of the token that stands for "no answer".
        most_tokens: Tokens of a span at most.
    """
    inside = np.flatnonzero(starts >= 0)
    inside = inside[inside != no_answer]
    considered = np.append(inside, no_answer)
    logits = outputs[considered].astype(float)
    scores = logits - np.logaddexp.reduce(logits, axis=0)
    nothing = float(scores[-1].sum())
    begin, end = scores[:-1].T
    if not len(begin):
        return _NEVER, no_answer, no_answer, nothing
    padded = np.append(end, np.full(most_tokens - 1, -np.inf))
    pairs = begin[:, None] + sliding_window_view(padded, most_tokens)
    first, further = divmod(int(pairs.argmax()), most_tokens)
    return float(pairs[first, further]), int(inside[first]), int(inside[first + further]), nothing


def joined_windows(
    spans: Sequence[tuple[float, int, int, float]], context: str
) -> tuple[int, int, float, float]:
    """Return a row's answer: first character, end (exclusive), log score, log p of no answer.

    `spans`: the best of each window, its places in characters of the context. "No answer" is as
    likely as in the window where it is least so.
    """
    found: dict[str, tuple[int, int, float]] = {}
    for score, start, end, _ in spans:
        text = context[start:end].lower()
        begin, stop, before = found.get(text, (start, end, -np.inf))
        found[text] = (begin, stop, float(np.logaddexp(before, score)))
    start, end, score = max(found.values(), key=lambda each: each[2])
    return start, end, score, min(nothing for *_, nothing in spans)
