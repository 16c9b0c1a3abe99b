"""`TextColumn`: a column of texts as Arrow has it, which may be a file that is mapped.

The texts of a task without labels may be more than memory holds. They are read by batches, and what
is taken of them is a view where that is possible.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from bertcompress.support.spooling import spooled_texts
from bertcompress.task import Task

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

__all__ = ["BATCH", "TextColumn", "file_key", "is_text_alone", "rows_kept"]

BATCH = 10_000
"""Texts that are Python's at a time."""
_LONG_RUN = 100
"""Rows that follow each other, on average, from which views are better than a list of places."""


class TextColumn(Sequence[str]):
    """Texts that are read from Arrow when they are asked for; a missing one reads as ''."""

    def __init__(self, cells: pa.ChunkedArray) -> None:
        self.cells = cells

    @classmethod
    def of(cls, texts: Sequence[str]) -> TextColumn:
        """Return texts as such a column."""
        if isinstance(texts, cls):
            return texts
        starts = range(0, len(texts), BATCH)
        return cls(spooled_texts([*texts[start : start + BATCH]] for start in starts))

    @classmethod
    def of_rows(cls, rows: Dataset, column: str) -> TextColumn | None:
        """Return the column of a data set, without a copy; None: it does not hold texts."""
        import pyarrow as pa

        kind = rows.data.schema.field(column).type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            return None
        if rows._indices is None:
            return cls(rows.data.column(column))
        some = rows.select_columns([column])
        return cls(spooled_texts(batch[column] for batch in some.iter(BATCH)))

    @classmethod
    def joined(cls, parts: Sequence[Sequence[str]]) -> TextColumn:
        """Return the texts of several columns, one behind the other."""
        import pyarrow as pa

        cells = [cls.of(part).cells for part in parts]
        kind = pa.string() if all(pa.types.is_string(c.type) for c in cells) else pa.large_string()
        alike = (each if each.type == kind else each.cast(kind) for each in cells)
        return cls(pa.chunked_array([chunk for each in alike for chunk in each.chunks], kind))

    def __len__(self) -> int:
        return len(self.cells)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        if not isinstance(place, slice):
            return self.cells[int(place)].as_py() or ""
        start, stop, step = place.indices(len(self))
        texts = self.cells.slice(start, max(0, stop - start)).to_pylist()
        return [text or "" for text in texts[::step]]

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), BATCH):
            yield from self[start : start + BATCH]

    def take(self, positions: Sequence[int] | NDArray[Any]) -> TextColumn:
        """Return some of the texts, in the order asked: views of the longer stretches."""
        import pyarrow as pa

        places = np.asarray(positions, np.int64)
        runs = _runs(places)
        if runs is None:
            return TextColumn(spooled_texts(self._gathered(places)))
        chunks = [each for start, count in runs for each in self.cells.slice(start, count).chunks]
        return TextColumn(pa.chunked_array(chunks, self.cells.type))

    def _gathered(self, places: NDArray[np.int64]) -> Iterator[pa.Array]:
        """Yield the texts at some places. A chunk at a time: all together may be too long."""
        import pyarrow as pa

        if not len(places):
            return
        ends = np.cumsum([len(chunk) for chunk in self.cells.chunks])
        owners = np.searchsorted(ends, places, side="right")
        cuts = np.flatnonzero(np.diff(owners)) + 1
        for some, (owner, *_) in zip(np.split(places, cuts), np.split(owners, cuts), strict=True):
            chunk = self.cells.chunk(int(owner))
            first = int(ends[owner]) - len(chunk)
            for start in range(0, len(some), BATCH):
                yield chunk.take(pa.array(some[start : start + BATCH] - first))

    def rows(self, first_id: int) -> Dataset:
        """Return `row_id`, counted from there, and `text` as a data set; nothing is copied."""
        import pyarrow as pa

        ids = pa.array(np.arange(first_id, first_id + len(self), dtype=np.int64))
        return _data_set(pa.table([ids, self.cells], ["row_id", "text"]))


def is_text_alone(task: Task) -> bool:
    """Return whether a task reads nothing but one column of texts."""
    return task.label is None and len(task.text) == 1 and len(task.columns.names) == 1


def file_key(path: Path, task: Task) -> str:
    """Return what tells the texts of a file from all others, and from those it had before."""
    state = path.stat()
    return f"1 {path.resolve()} {state.st_size} {state.st_mtime_ns} {task.text[0]}"


def rows_kept(rows: Dataset, places: NDArray[np.int64]) -> Dataset:
    """Return some rows: views of the longer stretches, which are read faster than by their places.

    Places take memory too, and hundreds of bytes each while they are read.
    """
    import pyarrow as pa

    runs = None if rows._indices is not None else _runs(places)
    if runs is None:
        return rows.select(places)
    table = rows.data.table
    return _data_set(pa.concat_tables([table.slice(start, count) for start, count in runs]), rows)


def _data_set(table: pa.Table, like: Dataset | None = None) -> Dataset:
    from datasets import Dataset
    from datasets.fingerprint import generate_random_fingerprint

    # Its own fingerprint would be computed from a copy of the whole table.
    fingerprint = generate_random_fingerprint()
    return Dataset(table, info=None if like is None else like.info, fingerprint=fingerprint)


def _runs(places: NDArray[np.int64]) -> list[tuple[int, int]] | None:
    """Return first place and length of each stretch of places; None where they are short."""
    if not len(places):
        return None
    firsts = np.concatenate([[0], np.flatnonzero(np.diff(places) != 1) + 1])
    if len(places) < _LONG_RUN * len(firsts):
        return None
    lengths = np.diff([*firsts, len(places)])
    return list(zip(places[firsts].tolist(), lengths.tolist(), strict=True))
