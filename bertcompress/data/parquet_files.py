"""Parquet files, each by its own schema: classes are named there, and files may differ in order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bertcompress.data.tables import Table, needed, table_of
from bertcompress.data.text_column import BATCH, TextColumn, file_key, is_text_alone
from bertcompress.errors import DataError
from bertcompress.support.spooling import spooled_texts
from bertcompress.task import Task

__all__ = ["read_parquet"]


def read_parquet(path: Path, task: Task) -> Table:
    """Return the rows of a parquet file with its classes by name. Raises DataError."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Dataset

    try:
        file = pq.ParquetFile(path)
        names = list(file.schema_arrow.names)
        if is_text_alone(task) and _holds_texts(file.schema_arrow, task.text[0]):
            key = f"parquet {file_key(path, task)}"
            texts = TextColumn(spooled_texts(_texts(file, task.text[0]), key))
            return Table(str(path), {task.text[0]: texts}, tuple(names))
        plain = [column for column in needed(task) if column in names]
        # A path such as `review.text` is found once all is read.
        table = file.read(columns=plain if len(plain) == len(needed(task)) else None)
        rows = Dataset(_decoded(table))
    except (pa.ArrowException, OSError, ValueError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise DataError(f"{path}: not a readable parquet file: {first}") from None
    return table_of(rows, task, str(path))


def _holds_texts(schema: Any, column: str) -> bool:
    import pyarrow as pa

    kind = schema.field(column).type if schema.names.count(column) == 1 else None
    kind = kind.value_type if isinstance(kind, pa.DictionaryType) else kind
    return kind is not None and (pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _texts(file: Any, column: str) -> Iterator[Any]:
    """Yield a column of texts, an Arrow array at a time."""
    import pyarrow as pa

    for batch in file.iter_batches(BATCH, columns=[column]):
        cells = batch.column(0)
        yield cells.dictionary_decode() if isinstance(cells, pa.DictionaryArray) else cells


def _decoded(table: Any) -> Any:
    """Return a table of Arrow whose dictionary columns (categories) hold their values."""
    import pyarrow as pa

    for i, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            table = table.set_column(i, field.name, table.column(i).cast(field.type.value_type))
    return table
