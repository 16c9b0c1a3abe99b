"""Which files of rows are read, and what a task is called that is made of them."""

from __future__ import annotations

import os
import re
from itertools import chain
from pathlib import Path
from typing import Any

from bertcompress.errors import TaskError, unknown

__all__ = [
    "FORMATS",
    "READ",
    "VALIDATION_NAMES",
    "anchor",
    "are_lines",
    "check_format",
    "check_splits",
    "format_of",
    "line_files",
    "name_of",
]

FORMATS = ("csv", "json", "parquet", "conll", "text")
"""Data sets that are files; tab-separated files are `csv`, JSON lines are `json`, files of one word
and its tag a line are `conll`, and `text` is one text a line."""

_SUFFIXES = {
    ".csv": "csv",
    ".tsv": "csv",
    ".tab": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".parquet": "parquet",
    ".conll": "conll",
    ".iob": "conll",
    ".iob2": "conll",
    ".bio": "conll",
}
READ = ".csv, .tsv, .json, .jsonl, .ndjson, .conll, .iob, .bio (each also as .gz) and .parquet"

VALIDATION_NAMES = ("validation", "valid", "val", "dev", "eval", "evaluation", "test")
"""What a split to judge on is called, the likeliest first."""

_OTHERS = {
    **dict.fromkeys((".xlsx", ".xls", ".ods"), "save the sheet as CSV (UTF-8)"),
    ".conllu": "write its words and one column of tags as .conll",
    **dict.fromkeys(
        (".txt", ".text", ".md"),
        "write a table with a header, a column of texts and one of labels; texts alone, one a "
        "line, are what --texts and Task.from_texts read",
    ),
    **dict.fromkeys((".zip", ".7z", ".tar", ".rar", ".bz2", ".xz", ".zst"), "unpack it"),
    **dict.fromkeys(
        (".feather", ".arrow", ".orc", ".pkl", ".pickle", ".npy", ".npz", ".h5", ".avro"),
        "open it in Python and give the rows to Task.from_dataset",
    ),
    **dict.fromkeys((".db", ".sqlite", ".sqlite3", ".sql"), "export the rows as CSV"),
    **dict.fromkeys((".xml", ".html", ".pdf", ".docx", ".yaml", ".yml"), "write a table of rows"),
}
_GENERIC = re.compile(
    r"(?:train(?:ing)?|data(?:set)?s?|rows|all|full|raw|files|input|tmp|temp|home|"
    + "|".join(VALIDATION_NAMES)
    + r")(?:[-_.]?(?:set|data|split|rows|\d+(?:-of-\d+)?))*",
    re.IGNORECASE,
)


def format_of(path: str | os.PathLike[str]) -> str | None:
    """Return the format of a file by its ending, packed by gzip or not; None for others."""
    return _SUFFIXES.get(_ending(path))


def check_format(path: str | os.PathLike[str]) -> None:
    """Raise TaskError for a file of a format that is not read, which says what to do instead."""
    ending = _ending(path)
    if ending in _SUFFIXES or (ending not in _OTHERS and not Path(path).is_file()):
        return
    hint = f"; {_OTHERS[ending]}" if ending in _OTHERS else ""
    kind = f"'{ending}' is" if ending else "a name without an ending tells"
    raise TaskError(f"{path}: {kind} not a format that is read; those are {READ}{hint}")


def name_of(source: str) -> str:
    """Return what a task made of a file or a folder is called: never by a split, as `train`."""
    path = Path(source)
    stem = path.name
    while Path(stem).suffix.lower() in (*_SUFFIXES, ".gz"):
        stem = Path(stem).stem
    for name in chain((stem,), (parent.name for parent in Path(os.path.abspath(path)).parents)):
        slug = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")
        if slug and not _GENERIC.fullmatch(slug):
            return slug
    return "own-rows"


def are_lines(path: str | os.PathLike[str]) -> bool:
    """Return whether a file holds one text a line, by its ending; packed by gzip or not."""
    return _ending(path) in (".txt", ".text")


def line_files(
    texts: str | os.PathLike[str], validation: str | os.PathLike[str] | None
) -> dict[str, Any] | None:
    """Return the fields of a task on files of one text a line; None for files of another kind."""
    given = [os.path.expanduser(os.fspath(p)) for p in (texts, validation) if p is not None]
    if not all(map(are_lines, given)):
        return None
    stem = Path(given[0].removesuffix(".gz")).with_suffix("")
    files = dict(zip(("train", "validation"), map(os.path.abspath, given), strict=False))
    return {"name": name_of(str(stem)), "dataset": "text", "files": files}


def anchor(fields: dict[str, Any], folder: Path) -> None:
    """Make the paths in a task file absolute; they are relative to that file."""
    files = fields.get("files")
    if isinstance(files, dict):
        for split, paths in files.items():
            if isinstance(paths, str):
                files[split] = _inside(folder, paths)
            elif isinstance(paths, list):
                files[split] = [_inside(folder, str(path)) for path in paths]
    for name in ("dataset", "qrels"):
        place = fields.get(name)
        if isinstance(place, str) and place.startswith(("./", "../", "~")):
            fields[name] = _inside(folder, place)


def _inside(folder: Path, path: str) -> str:
    return str(folder.absolute() / os.path.expanduser(path))


def check_splits(task: Any) -> None:
    """Raise ValueError for splits of a task that cannot be meant, or that no file is given for."""
    if task.dataset in FORMATS:
        judged = () if task.validation == "validation" else (task.validation,)
        for split in dict.fromkeys((task.train, *judged, *task.also.values())):
            if split not in task.files:
                raise ValueError(unknown("files", "split", split, task.files))
    elif task.files:
        raise ValueError(f"files: only for dataset {' | '.join(FORMATS)}, not for '{task.dataset}'")
    if task.qrels and (task.is_open or not task.head.searches):
        raise ValueError("qrels: only a search (problem: retrieval) has judgements")
    reserved = sorted({"train", "selection", "validation", "calibration"} & set(task.also))
    if reserved:
        raise ValueError(f"also: the name '{reserved[0]}' is taken; choose another")
    if task.train == task.validation and task.train_config in (None, task.config):
        raise ValueError(f"validation: '{task.validation}' is the training split")


def _ending(path: str | os.PathLike[str]) -> str:
    inner = Path(path)
    if inner.suffix.lower() == ".gz":
        inner = inner.with_suffix("")
    return inner.suffix.lower()
