"""How long the rows of a task are in tokens, and how many of them are cut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bertcompress.data.rows import text_rows
from bertcompress.heads.features import Encoded
from bertcompress.task import Task

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

__all__ = ["MEASURED", "Lengths", "cut_note", "sampled"]

MEASURED = 20_000
"""Larger splits are measured on a sample and on their longest texts."""
_SAMPLE = 10_000
_LONGEST = 1_000


@dataclass(frozen=True)
class Lengths:
    """Of one split: its rows, how many of them are cut, and the tokens of the longest, uncut."""

    rows: int
    cut: int
    longest: int
    estimated: bool = False

    @classmethod
    def of(cls, encoded: Encoded) -> Lengths:
        """Return what an encoded split says."""
        return cls(encoded.rows, encoded.cut, encoded.longest)


def sampled(rows: Dataset, tokenizer: PreTrainedTokenizerBase, task: Task) -> Lengths:
    """Return the lengths of a large split, its share of cut rows from evenly spaced ones."""
    even = np.linspace(0, len(rows) - 1, _SAMPLE).astype(np.int64)
    sizes = (sum(len(text.encode()) for text in texts) for texts in text_rows(rows))
    size = np.fromiter(sizes, np.int64, len(rows))
    largest = np.sort(np.argpartition(-size, _LONGEST)[:_LONGEST])
    sample, long = (
        task.head.encode(rows.select(some), tokenizer, task) for some in (even, largest)
    )
    cut = max(long.cut, round(sample.cut / _SAMPLE * len(rows)))
    return Lengths(len(rows), cut, max(sample.longest, long.longest), estimated=True)


def cut_note(at: int, bound: int, lengths: Mapping[str, Lengths]) -> tuple[str, ...]:
    """Return a line on how many rows are cut at so many tokens, in each split; none if none is.

    `bound`: the most tokens that the model takes.
    """
    cut, total = (sum(getattr(e, n) for e in lengths.values()) for n in ("cut", "rows"))
    if not cut:
        return ()
    shares = ", ".join(f"{n} {_percent(e.cut, e.rows)}" for n, e in lengths.items())
    about = "about " if any(each.estimated for each in lengths.values()) else ""
    most = ", the most that the model takes," if at == bound else ""
    return (
        f"max_length {at}{most} cuts {about}{_percent(cut, total)} of the rows ({cut:,} of "
        f"{total:,}: {shares}); the longest has {max(e.longest for e in lengths.values()):,} "
        "tokens",
    )


def _percent(part: int, whole: int) -> str:
    share = part / max(1, whole)
    return f"{share:.2%}" if 0 < share < 0.01 else f"{share:.1%}"
