"""Where the parts of a search come from: corpus, queries and judgements, in the form of BEIR.

They are configurations of a data set (`corpus`, `queries`, and one of judgements, which may be a
data set of its own), the files of a
BEIR folder (`corpus.jsonl`, `queries.jsonl`, `qrels/*.tsv`), or splits in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from bertcompress.data.json_files import read_json
from bertcompress.data.sources import explained, local_folder
from bertcompress.data.tables import Table, table_of
from bertcompress.data.text_files import read_csv
from bertcompress.errors import DataError, few, unknown
from bertcompress.heads.agreement import Agreement
from bertcompress.support.formats import FORMATS
from bertcompress.task import Task

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = [
    "CORPUS",
    "DOCUMENT",
    "ID",
    "QUERIES",
    "QUERY",
    "TITLE",
    "Parts",
    "Reader",
    "find_parts",
]

CORPUS, QUERIES = "corpus", "queries"
ID, TITLE = "_id", "title"
QUERY, DOCUMENT = "query-id", "corpus-id"
"""Columns of the judgements; their grades are in the task's `label`."""
_JUDGED = ("qrels", "default")
"""Configurations of judgements where the task names none."""

Reader: TypeAlias = Callable[[tuple[str, ...]], Table]
"""Reads these columns; the table knows the names of all."""


@dataclass(frozen=True)
class Parts:
    """The parts of a search, each read when it is asked for."""

    corpus: Reader
    queries: Reader
    judgements: Mapping[str, Reader]
    """Split to its reader."""


def find_parts(task: Task, data_dir: str | Path | None) -> Parts:
    """Return the parts of a task's data set; nothing is read of them yet. Raises DataError."""
    if task.in_memory is not None:
        return _of_splits(task, task.in_memory)
    if task.dataset in (*FORMATS, "in-memory") or task.dataset.startswith("embedded:"):
        raise DataError(
            f"{task.name}: dataset: a search needs a corpus, queries and judgements, which "
            f"'{task.dataset}' has not; name a folder with corpus.jsonl, queries.jsonl and "
            "qrels/*.tsv, or a data set with such configurations"
        )
    folder = local_folder(task, data_dir)
    if folder is not None and (files := _files(folder)):
        return _of_files(task, folder, files)
    return _of_configurations(task, folder)


def _reading(task: Task, columns: tuple[str, ...]) -> Task:
    """Return a task that needs just these columns, for what reads tables."""
    fields = {"problem": Agreement.key, "text": columns, "label": None, "labels": None}
    return task.model_copy(update=fields)


def _of_data(task: Task, where: str, data: Any) -> Reader:
    return lambda columns: table_of(data, _reading(task, columns), where)


def _of_splits(task: Task, splits: Mapping[str, Any]) -> Parts:
    readers = {str(name): _of_data(task, f"{task.name}: {name}", splits[name]) for name in splits}
    if lacking := [name for name in (CORPUS, QUERIES) if name not in readers]:
        raise DataError(
            f"{task.name}: a search needs '{lacking[0]}' beside its judgements; there are "
            f"{few(readers)}"
        )
    judged = {name: each for name, each in readers.items() if name not in (CORPUS, QUERIES)}
    return Parts(readers[CORPUS], readers[QUERIES], judged)


def _files(folder: Path) -> dict[str, Path]:
    """Return the files of a BEIR folder by their part; nothing where it is none."""
    found = {
        name: path
        for name in (CORPUS, QUERIES)
        for path in (folder / f"{name}.jsonl", folder / f"{name}.jsonl.gz")
        if path.is_file()
    }
    return found if CORPUS in found else {}


def _of_files(task: Task, folder: Path, files: Mapping[str, Path]) -> Parts:
    judged = {
        path.name.partition(".")[0]: path for path in sorted((folder / "qrels").glob("*.tsv"))
    }
    elsewhere = task.qrels and not judged
    if QUERIES not in files or not (judged or elsewhere):
        lacking = "no file qrels/*.tsv" if QUERIES in files else "no file queries.jsonl"
        raise DataError(f"{folder}: {lacking} beside corpus.jsonl, as BEIR has it")
    rows = {name: _of_file(task, files[name], read_json) for name in (CORPUS, QUERIES)}
    if elsewhere:
        return Parts(rows[CORPUS], rows[QUERIES], _elsewhere(task))
    tables = {name: _of_file(task, path, read_csv) for name, path in judged.items()}
    return Parts(rows[CORPUS], rows[QUERIES], tables)


def _of_file(task: Task, path: Path, read: Callable[[Path, Task], Table]) -> Reader:
    return lambda columns: read(path, _reading(task, columns))


def _of_configurations(task: Task, folder: Path | None) -> Parts:
    names = _configurations(task, folder)
    judged = task.config or next((name for name in _JUDGED if name in names), None)
    for name in (CORPUS, QUERIES, *([] if task.qrels else [judged])):
        if name is None or name not in names:
            raise DataError(
                f"{folder or task.dataset}: a search needs the configurations 'corpus', 'queries' "
                f"and one of judgements ('{judged or few(_JUDGED)}'); there are {few(names)}; "
                "or a folder of corpus.jsonl, queries.jsonl and qrels/*.tsv. On the Hub "
                "mteb/NAME has all three; for BeIR/NAME say `qrels: BeIR/NAME-qrels`"
            )
    load = partial(_loaded, task, folder)
    splits = _elsewhere(task) if task.qrels else _readers(task, load(str(judged)))
    return Parts(_only(task, CORPUS, load(CORPUS)), _only(task, QUERIES, load(QUERIES)), splits)


def _readers(task: Task, splits: Mapping[str, Dataset]) -> dict[str, Reader]:
    return {str(n): _of_data(task, f"{task.name}: {n}", part) for n, part in splits.items()}


def _elsewhere(task: Task) -> dict[str, Reader]:
    """Return the judgements of a data set or a folder of their own. Raises DataError."""
    from datasets import Dataset, load_dataset

    place = Path(str(task.qrels)).expanduser()
    folder = place if place.is_dir() else None
    source = task.model_copy(update={"dataset": task.qrels})
    with explained(source, task.config, folder):
        splits: Any = load_dataset(str(folder or task.qrels), task.config)
    return _readers(task, {task.validation: splits} if isinstance(splits, Dataset) else splits)


def _configurations(task: Task, folder: Path | None) -> tuple[str, ...]:
    """Return the names of configurations; those of MTEB where the Hub cannot be asked for them.

    Offline, `datasets` knows but one of a data set in its cache.
    """
    from datasets import get_dataset_config_names

    names: tuple[str, ...] = ()
    with suppress(ConnectionError, ValueError, RuntimeError, OSError):
        names = tuple(get_dataset_config_names(str(folder or task.dataset), task.revision))
    usual = (CORPUS, QUERIES, (None if task.qrels else task.config) or "default")
    return names if folder is not None or CORPUS in names else usual


def _loaded(task: Task, folder: Path | None, config: str) -> Mapping[str, Dataset]:
    from datasets import load_dataset

    with explained(task, config, folder):
        revision = None if folder is not None else task.revision
        splits: Mapping[str, Dataset] = load_dataset(
            str(folder or task.dataset), config, revision=revision
        )
    return splits


def _only(task: Task, name: str, splits: Mapping[str, Dataset]) -> Reader:
    """Return the reader of a configuration's split, of its own name or the only one."""
    if name not in splits and len(splits) != 1:
        raise DataError(unknown(f"{task.name}: configuration '{name}'", "split", name, splits))
    part = splits[name] if name in splits else next(iter(splits.values()))
    return _of_data(task, f"{task.name}: {name}", part)
