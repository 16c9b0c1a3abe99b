"""What is wrong with the user's own files of rows, told before torch is there."""

from __future__ import annotations

from pathlib import Path

from bertcompress.data.beir_parts import find_parts
from bertcompress.data.labels import LabelReader
from bertcompress.data.splitting import chosen_splits
from bertcompress.data.tables import check_columns
from bertcompress.support.formats import FORMATS
from bertcompress.task import Task

__all__ = ["check_local"]

LARGEST = 50_000_000
"""Bytes of all files. More would be read for longer than torch takes to import; the run reads them
once and tells the same."""


def check_local(task: Task) -> None:
    """Raise DataError or TaskError for files, columns and labels of a task's own local files.

    Nothing is checked of a data set that is elsewhere.
    """
    if task.in_memory is not None or task.dataset not in FORMATS:
        return
    if not task.is_open and task.head.searches:
        find_parts(task, None)  # refuses: files of rows hold no corpus
    paths = [
        Path(path)
        for entry in task.files.values()
        for path in ((entry,) if isinstance(entry, str) else entry)
    ]
    if sum(path.stat().st_size for path in paths if path.is_file()) > LARGEST:
        return
    found = chosen_splits(task, None, None)
    for name, table in found.tables.items():
        check_columns(found.task, name, table)
    LabelReader.of(found.task, found.tables)
