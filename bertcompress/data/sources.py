"""Where raw rows come from: the Hub, a folder, files, memory, or the embedded task."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertcompress.errors import DataError, unknown
from bertcompress.task import FORMATS, Task

if TYPE_CHECKING:
    from collections.abc import Iterator

    from datasets import Dataset

__all__ = ["read_splits"]

_EMBEDDED = "embedded:"
_LOCAL_GLUE = "BERTCOMPRESS_GLUE"
_LOCAL = "BERTCOMPRESS_DATA_DIR"


def read_splits(task: Task, data_dir: str | Path | None = None) -> dict[str, Dataset]:
    """Return the raw training, validation and further splits of a task, by their names in the task.

    `data_dir` (or `BERTCOMPRESS_DATA_DIR`, or `BERTCOMPRESS_GLUE` for GLUE) stands in for a Hub id.
    Raises DataError.
    """
    splits = _read(task, task.config, data_dir)
    wanted = [task.validation, *task.also.values()]
    if task.train_config in (None, task.config):
        wanted.append(task.train)
        found: dict[str, Dataset] = {}
    else:
        other = _read(task, task.train_config, data_dir)
        found = {task.train: _split(task, other, task.train)}
    return {**{name: _split(task, splits, name) for name in wanted}, **found}


def _split(task: Task, splits: Mapping[str, Dataset], name: str) -> Dataset:
    if name not in splits:
        raise DataError(unknown(task.name, "split", name, splits))
    return splits[name]


def _read(task: Task, config: str | None, data_dir: str | Path | None) -> Mapping[str, Any]:
    memory: Mapping[str, Any] | None = task.in_memory
    if memory is not None:
        return memory
    if task.dataset == "in-memory":
        raise DataError(
            f"{task.name}: its data set was in memory and is gone; make it by Task.from_dataset"
        )
    if task.dataset.startswith(_EMBEDDED):
        return _embedded(task)
    if task.dataset in FORMATS:
        return {split: _files(task, paths) for split, paths in task.files.items()}
    return _dataset(task, config, data_dir)


def _embedded(task: Task) -> Mapping[str, Dataset]:
    from bertcompress.data.embedded import acceptability

    made = {"acceptability": acceptability}
    name = task.dataset.removeprefix(_EMBEDDED)
    if name not in made:
        raise DataError(unknown(task.name, "embedded data set", name, made))
    splits: Mapping[str, Dataset] = made[name]()
    return splits


def _files(task: Task, paths: str | tuple[str, ...]) -> Dataset:
    from datasets import concatenate_datasets

    readers = {"csv": _csv, "json": _json, "parquet": _parquet}
    parts = []
    for path in map(Path, (paths,) if isinstance(paths, str) else paths):
        if not path.is_file():
            raise DataError(
                f"{path}: {'is a folder, not a file' if path.is_dir() else 'no such file'}"
            )
        if path.stat().st_size == 0:
            raise DataError(f"{path}: the file is empty")
        parts.append(readers[task.dataset](path, task))
    if not parts:
        raise DataError(f"{task.name}: files: a split without a file")
    try:
        return concatenate_datasets(parts)
    except ValueError as error:
        raise DataError(
            f"{paths[0]}, {paths[-1]}: their columns differ: {_first_line(error)}"
        ) from None


def _csv(path: Path, task: Task) -> Dataset:
    import pandas as pd
    from datasets import Dataset

    _decoded(path)
    # "NA" and "null" are texts; only an empty cell, or NaN among labels, is missing.
    missing = {task.label: ["", "nan", "NaN"]} if task.label else {}
    try:
        frame = pd.read_csv(
            path,
            sep="\t" if path.suffix.lower() == ".tsv" else ",",
            encoding="utf-8-sig",
            keep_default_na=False,
            na_values={**{column: [""] for column in task.text}, **missing},
            dtype=dict.fromkeys(task.text, "object"),
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError, ValueError) as error:
        raise DataError(f"{path}: not a readable table: {_first_line(error)}") from None
    columns = {str(name): _plain(frame[name]) for name in frame.columns}
    return Dataset.from_dict(columns)


def _plain(column: Any) -> list[Any]:
    """Return the cells as Python values, None for a missing one unless the column is of numbers."""
    if column.dtype.kind in "iufb":
        return list(column.tolist())
    return [value if isinstance(value, str) else None for value in column.tolist()]


def _json(path: Path, task: Task) -> Dataset:
    from datasets import Dataset

    text = _decoded(path)
    try:
        if text.lstrip().startswith("["):
            rows, lines = json.loads(text), []
        else:
            lines = [(n, line) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
            rows = []
            for number, line in lines:
                rows.append(_json_line(path, number, line))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not JSON: {error.msg}") from None
    for position, row in enumerate(rows):
        if not isinstance(row, dict):
            at = f":{lines[position][0]}" if lines else f" row {position + 1}"
            raise DataError(
                f"{path}{at}: expected an object with columns, found {type(row).__name__}"
            )
    names = list(dict.fromkeys(name for row in rows for name in row))
    if names:
        for name in (*task.text, *([task.label] if task.label else [])):
            if name not in names:
                raise DataError(unknown(str(path), "column", name, names))
    columns = {name: [row.get(name) for row in rows] for name in names}
    for name, values in columns.items():
        _check_kinds(path, name, values)
    return Dataset.from_dict(columns)


def _check_kinds(path: Path, name: str, values: list[Any]) -> None:
    import pyarrow as pa

    try:
        pa.array(values)
    except (pa.ArrowException, OverflowError) as error:
        kinds = ", ".join(sorted({type(v).__name__ for v in values if v is not None}))
        raise DataError(
            f"{path}: column '{name}' mixes kinds of values ({kinds}): {_first_line(error)}"
        ) from None


def _json_line(path: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{number}: not JSON: {error.msg} (column {error.colno})") from None


def _parquet(path: Path, task: Task) -> Dataset:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Dataset

    try:
        return Dataset(pq.read_table(path))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable parquet file: {_first_line(error)}") from None


def _decoded(path: Path) -> str:
    raw = path.read_bytes()
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise DataError(
            f"{path}:{line}: not UTF-8 (byte 0x{raw[error.start]:02x} at position {error.start}); "
            f"convert it, for example: iconv -f latin1 -t utf-8 {path.name}"
        ) from None


def _dataset(task: Task, config: str | None, data_dir: str | Path | None) -> Mapping[str, Dataset]:
    """Return the splits of a folder or of a data set on the Hub."""
    from datasets import Dataset, load_dataset, load_from_disk

    folder = Path(task.dataset).expanduser()
    local = folder if folder.is_dir() else _stand_in(task, data_dir)
    with _explained(task, config, local):
        if local is None:
            splits = load_dataset(task.dataset, config, revision=task.revision)
        elif any((local / name).is_file() for name in ("dataset_dict.json", "state.json")):
            splits = load_from_disk(str(local))
        else:
            splits = load_dataset(str(local), config)
    return {task.train: splits} if isinstance(splits, Dataset) else splits


def _stand_in(task: Task, data_dir: str | Path | None) -> Path | None:
    """Return the local folder to read instead of the Hub, or None."""
    glue = task.dataset.rpartition("/")[2] == "glue"
    given = data_dir or (os.environ.get(_LOCAL_GLUE) if glue else None) or os.environ.get(_LOCAL)
    if given is None:
        return None
    folder = Path(given).expanduser()
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder (given as the local copy of {task.dataset})")
    return folder


@contextmanager
def _explained(task: Task, config: str | None, local: Path | None) -> Iterator[None]:
    """Turn what `datasets` raises into one DataError."""
    from datasets.exceptions import DatasetNotFoundError, DatasetsError

    where = f"{local or task.dataset}" + (f" ({config})" if config else "")
    try:
        yield
    except DatasetNotFoundError as error:
        raise DataError(
            f"{where}: no such data set: neither a folder here nor on the Hub, or it is private "
            f"({_first_line(error)})"
        ) from None
    except ConnectionError:
        raise DataError(
            f"{where}: the Hub cannot be reached and the data set is not in the cache; offline, "
            f"give a local copy by --data-dir FOLDER or {_LOCAL}"
        ) from None
    except (ValueError, RuntimeError, OSError, DatasetsError) as error:
        raise DataError(
            f"{where}: cannot be read: {_first_line(error.__cause__ or error)}"
        ) from None


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
