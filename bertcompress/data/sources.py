"""Where raw rows come from: the Hub, a folder, files, memory, or the embedded task."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertcompress.data.conll_files import read_conll
from bertcompress.data.json_files import read_json
from bertcompress.data.line_files import read_lines
from bertcompress.data.parquet_files import read_parquet
from bertcompress.data.tables import Table, by_name, joined, table_of
from bertcompress.data.text_column import is_text_alone
from bertcompress.data.text_files import read_csv
from bertcompress.errors import DataError, TaskError, unknown
from bertcompress.support.formats import FORMATS, are_lines, check_format, format_of
from bertcompress.task import Task

if TYPE_CHECKING:
    from collections.abc import Iterator

    from datasets import Dataset

__all__ = ["Splits", "explained", "find_splits", "local_folder"]

Splits = Mapping[str, Callable[[], Table]]
"""Each split that there is, read when it is asked for."""

_EMBEDDED = "embedded:"
_LOCAL_GLUE = "BERTCOMPRESS_GLUE"
_LOCAL = "BERTCOMPRESS_DATA_DIR"
_READERS = {
    "csv": read_csv,
    "json": read_json,
    "parquet": read_parquet,
    "conll": read_conll,
    "text": read_lines,
}


def find_splits(
    task: Task, config: str | None, data_dir: str | Path | None = None, limit: int | None = None
) -> Splits:
    """Return the splits of a task's data set, or of another of its configurations.

    `data_dir` (or `BERTCOMPRESS_DATA_DIR`, or `BERTCOMPRESS_GLUE` for GLUE) stands in for a Hub id;
    `limit` bounds what is read of a stream. Raises DataError.
    """
    memory: Mapping[str, Any] | None = task.in_memory
    if memory is not None:
        return _tables(task, memory, limit)
    if task.dataset == "in-memory":
        raise DataError(
            f"{task.name}: its data set was in memory and is gone; make it by Task.from_dataset, "
            "or judge on a file (`test`, --test)"
        )
    if task.dataset.startswith(_EMBEDDED):
        return _tables(task, _embedded(task))
    if task.dataset in FORMATS:
        return {
            split: partial(_files, task, task.dataset, split, paths)
            for split, paths in task.files.items()
        }
    return _data_set(task, config, data_dir)


def _tables(task: Task, splits: Mapping[str, Any], limit: int | None = None) -> Splits:
    return {
        str(name): partial(table_of, part, task, f"{task.name}: {name}", limit)
        for name, part in splits.items()
    }


def _embedded(task: Task) -> Mapping[str, Dataset]:
    from bertcompress.data.demo.acceptability import acceptability

    made = {"acceptability": acceptability}
    name = task.dataset.removeprefix(_EMBEDDED)
    if name not in made:
        raise DataError(unknown(task.name, "embedded data set", name, made))
    splits: Mapping[str, Dataset] = made[name]()
    return splits


def _files(
    task: Task,
    form: str,
    split: str,
    paths: str | Sequence[str],
    declared: Sequence[str] | None = None,
) -> Table:
    """Return the rows of the files of one split; `declared`: what the folder says the classes are.

    Raises DataError naming the file.
    """
    parts = []
    for path in map(Path, (paths,) if isinstance(paths, str) else paths):
        if not path.is_file():
            raise DataError(
                f"{path}: {'is a folder, not a file' if path.is_dir() else 'no such file'}"
            )
        if path.stat().st_size == 0:
            raise DataError(f"{path}: the file is empty")
        if format_of(path) is None:
            _check_format(path)
        part = _READERS[form](path, task)
        if declared and not part.classes and task.label in part.columns:
            named = by_name(part.columns[task.label or ""], declared)
            part = part.with_column(task.label or "", named).declaring(declared)
        parts.append(part)
    if not parts:
        raise DataError(f"{task.name}: files: a split without a file")
    return joined(parts, f"{task.name}: {split}")


def _check_format(path: Path) -> None:
    # A table in a .txt is read where the task says `dataset: csv`.
    inner = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    if inner.suffix.lower() not in (".txt", ".text", "", ".dat"):
        try:
            check_format(path)
        except TaskError as error:
            raise DataError(str(error)) from None


def _data_set(task: Task, config: str | None, data_dir: str | Path | None) -> Splits:
    """Return the splits of a folder or of a data set on the Hub."""
    from datasets import Dataset, load_dataset, load_from_disk

    local = local_folder(task, data_dir)
    with explained(task, config, local):
        if local is None:
            splits = load_dataset(task.dataset, config, revision=task.revision)
            files = _downloaded(task, splits) if task.label else None
            if files is not None and _disagree(files, config, task.label or ""):
                return _folder(task, config, files)
        elif any((local / name).is_file() for name in ("dataset_dict.json", "state.json")):
            splits = load_from_disk(str(local))
        else:
            return _folder(task, config, local)
    return _tables(task, {task.train: splits} if isinstance(splits, Dataset) else splits)


def local_folder(task: Task, data_dir: str | Path | None) -> Path | None:
    """Return the folder that a task's data set is, or that stands in for it; None: on the Hub.

    Raises DataError for a file, and for a folder that is not there.
    """
    folder = Path(task.dataset).expanduser()
    _check_folder(folder)
    return folder if folder.is_dir() else _stand_in(task, data_dir)


def _check_folder(path: Path) -> None:
    """Raise DataError for a file where a folder or a Hub id belongs."""
    form = format_of(path) if path.is_file() else None
    if form is not None:
        raise DataError(
            f"{path}: a file; in a task file, say `dataset: {form}` and `files: {{train: "
            f"{path.name}}}`"
        )
    try:
        check_format(path)
    except TaskError as error:
        raise DataError(str(error)) from None


def _folder(task: Task, config: str | None, folder: Path) -> Splits:
    """Return the splits of a folder of files, each file read by what it says itself.

    `datasets` finds the files; read by it, all of them would get the class names of the first.
    """
    from datasets import load_dataset, load_dataset_builder

    builder = load_dataset_builder(str(folder), config)
    files: Any = builder.config.data_files or {}
    paths = [str(path) for each in files.values() for path in each]
    # A folder may say how its tables are to be read; then `datasets` reads them.
    plain = type(builder.config)(name=builder.config.name)
    told = any(
        getattr(builder.config, name, None) != getattr(plain, name, None)
        for name in ("sep", "delimiter", "names", "column_names", "skiprows", "field", "columns")
    )
    readable = all(Path(path).is_file() and _form(path, task) == builder.name for path in paths)
    if told or not paths or not readable or builder.name not in _READERS:
        return _tables(task, load_dataset(str(folder), config))
    features: Any = builder.info.features or {}
    declared = _declared(features.get(task.label)) if task.label else None
    return {
        str(split): partial(_files, task, builder.name, str(split), tuple(map(str, each)), declared)
        for split, each in files.items()
    }


def _form(path: str, task: Task) -> str | None:
    """Return the format of a file of a folder: lines of text only where texts are all it holds."""
    return "text" if is_text_alone(task) and are_lines(path) else format_of(path)


def _downloaded(task: Task, splits: Mapping[str, Dataset]) -> Path | None:
    """Return the folder of the files that a data set on the Hub was made of, if it is still there.

    What `datasets` makes of them has its commit in the name.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    made = [each["filename"] for split in splits.values() for each in split.cache_files]
    commit = re.search(r"[0-9a-f]{40}", made[0] if made else "")
    if commit is None:
        return None
    try:
        found = snapshot_download(
            task.dataset, repo_type="dataset", revision=commit.group(), local_files_only=True
        )
    except (LocalEntryNotFoundError, OSError):
        return None
    return Path(found)


def _disagree(folder: Path, config: str | None, label: str) -> bool:
    """Return whether parquet files of a folder name their classes in different orders."""
    import pyarrow.parquet as pq
    from datasets import Features, load_dataset_builder

    files: Any = load_dataset_builder(str(folder), config).config.data_files or {}
    paths = [path for each in files.values() for path in map(Path, each)]
    schemas = [pq.read_schema(path) for path in paths if path.suffix == ".parquet"]
    named = [_declared(Features.from_arrow_schema(schema).get(label)) for schema in schemas]
    return len({tuple(names) for names in named if names}) > 1


def _declared(feature: Any) -> list[str] | None:
    """Return the class names that a column declares, or the values of its lists; None: none."""
    return getattr(getattr(feature, "feature", feature), "names", None)


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
def explained(task: Task, config: str | None, local: Path | None) -> Iterator[None]:
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
