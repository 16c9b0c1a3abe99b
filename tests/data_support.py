"""Small files of rows for the tests of reading them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tests_support import tiny_tokenizer

from bertcompress.data import TaskData, load_data
from bertcompress.task import Task


def lines(labels: Iterable[object], start: int = 0, separator: str = ",") -> str:
    """A table with these labels as they stand here, its texts all different."""
    rows = [f"text number {start + i}{separator}{label}" for i, label in enumerate(labels)]
    return "\n".join([f"comment{separator}topic", *rows]) + "\n"


def written(folder: Path, files: Mapping[str, str | bytes]) -> list[Path]:
    """Write files and return their paths."""
    for name, content in files.items():
        raw = content if isinstance(content, bytes) else content.encode()
        (folder / name).write_bytes(raw)
    return [folder / name for name in files]


def own(folder: Path, train: str | bytes, validation: str | bytes | None, form="csv", **fields):
    """The task on these two files."""
    names = {f"train.{form}": train}
    if validation is not None:
        names[f"validation.{form}"] = validation
    given = {"text": "comment", "label": "topic", **fields}
    return Task.from_files(*written(folder, names), **given)


def read(task: Task, **options: object) -> tuple[TaskData, list[str]]:
    """Load the rows; return them and what was warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = load_data(task, **options)  # type: ignore[arg-type]
    return data, [str(each.message) for each in caught]


def named(data: TaskData, *splits: str) -> dict[str, str]:
    """The class of every text, by name."""
    rows = [row for split in splits for row in data.split(split)]
    return {row["text"]: data.labels[row["label"]] for row in rows}


ALL = ("train", "selection", "validation")


def known_words() -> Any:
    """A tokenizer that knows the texts of `lines`; of another one most tokens are unknown."""
    return tiny_tokenizer("text", "number", *map(str, range(10)), *(f"##{i}" for i in range(10)))
