"""Which files of rows are read, and what a task is called that is made of them."""

from __future__ import annotations

import os
import re
from itertools import chain
from pathlib import Path

from bertcompress.errors import TaskError

__all__ = ["FORMATS", "READ", "VALIDATION_NAMES", "check_format", "format_of", "name_of"]

FORMATS = ("csv", "json", "parquet", "conll")
"""Data sets that are files; tab-separated files are `csv`, JSON lines are `json`, and files of one
word and its tag a line are `conll`."""

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
        (".txt", ".text", ".md"), "write a table with a header, a column of texts and one of labels"
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


def _ending(path: str | os.PathLike[str]) -> str:
    inner = Path(path)
    if inner.suffix.lower() == ".gz":
        inner = inner.with_suffix("")
    return inner.suffix.lower()
