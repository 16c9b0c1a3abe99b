"""Parquet files, each by its own schema: classes are named there, and files may differ in order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bertcompress.data.tables import Table, needed, table_of
from bertcompress.errors import DataError
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
        plain = [column for column in needed(task) if column in names]
        # A path such as `review.text` is found once all is read.
        table = file.read(columns=plain if len(plain) == len(needed(task)) else None)
        rows = Dataset(_decoded(table))
    except (pa.ArrowException, OSError, ValueError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise DataError(f"{path}: not a readable parquet file: {first}") from None
    return table_of(rows, task, str(path))


def _decoded(table: Any) -> Any:
    """Return a table of Arrow whose dictionary columns (categories) hold their values."""
    import pyarrow as pa

    for i, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            table = table.set_column(i, field.name, table.column(i).cast(field.type.value_type))
    return table
