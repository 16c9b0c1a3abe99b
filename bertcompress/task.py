"""`Task`: what a model is judged on. Data set, columns, labels, metrics and splits.

A task file under `tasks/` holds the same fields. Reading one imports neither torch nor datasets.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from bertcompress.catalogue import read_yaml, resolve
from bertcompress.errors import TaskError, few, unknown
from bertcompress.formats import FORMATS, check_format, format_of, name_of
from bertcompress.kinds import Column
from bertcompress.metrics import DEFAULTS, METRICS, task_metric
from bertcompress.notebook import model_html, short

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict, IterableDataset

__all__ = ["FORMATS", "Problem", "Task", "task_schema"]

Problem = Literal["auto", "single_label", "multi_label", "regression", "unlabelled"]

Names = tuple[str, ...]


class Task(BaseModel):
    """What a model is judged on. What is left `auto`, empty or null is filled from the data."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="Short name, for example glue/mrpc.", min_length=1)
    summary: str = Field("", description="One sentence for the list and the model card.")
    dataset: str = Field(
        description="Hub id, folder, csv | json | parquet (`files`), or embedded:acceptability.",
        min_length=1,
    )
    config: str | None = Field(None, description="Configuration of the data set, for example mrpc.")
    train_config: str | None = Field(
        None,
        description="Configuration that the training split is taken from, where it is another one.",
    )
    revision: str | None = Field(None, description="Commit, branch or tag on the Hub.")
    files: dict[str, str | Names] = Field(
        default_factory=dict,
        description="Split name to path(s) for csv, json and parquet; relative to the task file.",
    )
    text: Annotated[Names, Field(min_length=1, max_length=2)] = Field(
        description="Column that holds the text, or two columns for a pair."
    )
    label: str | None = Field(None, description="Column that holds the label; null: unlabelled.")
    problem: Problem = Field(
        "auto",
        description="auto: fractions are regression, lists multi_label, the rest single_label.",
    )
    label_separator: str | None = Field(
        None,
        description="What parts several labels in one cell, such as '|'; null: one label each.",
        min_length=1,
        max_length=8,
    )
    labels: Names | None = Field(
        None, description="Names of the classes in the order of their numbers; null: from the data."
    )
    metrics: Names = Field(
        (), description=f"Scores to report, of {', '.join(METRICS)}; empty: usual ones."
    )
    headline: str = Field(
        "", description="The metric that verdicts go by; empty: the first of `metrics`."
    )
    chance: float | None = Field(
        None,
        description="Headline of the best constant answer, 0 to 1; null: from the validation set.",
        ge=-1,
        le=1,
    )
    train: str = Field("train", description="Name of the training split.")
    validation: str = Field(
        "validation",
        description="Name of the validation split; where there is none, dev, test or split off.",
    )
    also: dict[str, str] = Field(
        default_factory=dict,
        description="Name to split of further validation sets, reported beside the first.",
    )
    max_length: int | None = Field(
        None,
        description="Tokens kept of each text or pair; null: all, as many as the model takes.",
        ge=4,
        le=8192,
    )
    language: str = Field("en", description="Language of the texts, as a BCP 47 tag.")
    license: str = Field("", description="Licence of the data, for the card.")
    homepage: str = Field("", description="Where the data come from, for the card.")

    _memory: Mapping[str, Any] | None = PrivateAttr(default=None)

    @classmethod
    def load(cls, name_or_path: str | Path) -> Task:
        """Return the task of a name in the catalogue (`glue/mrpc`) or of a YAML file.

        Raises NotFound, InputError (YAML) or TaskError (fields).
        """
        path = resolve("tasks", name_or_path)
        fields = read_yaml(path)
        _anchor(fields, path.parent)
        return cls._checked(str(name_or_path), fields)

    @classmethod
    def from_dataset(
        cls,
        data: DatasetDict | Dataset | IterableDataset | Mapping[str, Any] | Any,
        *,
        text: str | Sequence[str],
        label: str | None = None,
        **fields: Any,
    ) -> Task:
        """Return a task on rows in memory; the kind of problem is told from all labels together.

        Args:
            data: A `DatasetDict` or another mapping from split names, of `Dataset` of any format,
                `IterableDataset` (read to its end, or to a run's `limit`) or pandas DataFrame; or
                one of them alone, of which rows to judge on are split off.
            text: One column, or two for a pair.
            label: Column of the label; None where there are no labels.
            fields: Further fields of a task.

        Raises TaskError.
        """
        given = {
            "name": "in-memory",
            "dataset": "in-memory",
            **fields,
            "text": text,
            "label": label,
        }
        splits = data if isinstance(data, Mapping) else {str(given.get("train", "train")): data}
        if label is not None and "problem" not in given and not given.get("label_separator"):
            given["problem"] = _posed_by(splits, label)
        task = cls._checked("Task.from_dataset", given)
        task._memory = splits
        return task

    @classmethod
    def from_files(
        cls,
        train: str | Path,
        validation: str | Path | None = None,
        *,
        text: str | Sequence[str],
        label: str | None = None,
        **fields: Any,
    ) -> Task:
        """Return a task on the user's own data; nothing is read yet.

        Args:
            train: A CSV, TSV, JSON, JSON lines or parquet file, a `save_to_disk` folder, a folder
                of data files, or a Hub id.
            validation: A file of the same format, or the name of a split where `train` is no file.
                None: the usual split, or rows split off the training rows.
            text: One column, or two for a pair.
            label: Column of the label; None where there are no labels.
            fields: Further fields of a task.

        Raises TaskError, also for a file of a format that is not read.
        """
        source = os.path.expanduser(os.fspath(train))
        where = "--train" if "name" not in fields else str(fields["name"])
        form = format_of(source)
        given: dict[str, Any] = {"name": name_of(source), "text": text, "label": label, **fields}
        if form is None:
            check_format(source)
            given["dataset"] = source
            if validation is not None:
                given["validation"] = os.fspath(validation)
            return cls._checked(where, given)
        files = {"train": os.path.abspath(source)}
        if validation is not None:
            other = os.path.expanduser(os.fspath(validation))
            check_format(other)
            if format_of(other) != form:
                raise TaskError(f"{other}: must be of the same format as {source} ({form})")
            files["validation"] = os.path.abspath(other)
        return cls._checked(where, {**given, "dataset": form, "files": files})

    def __repr__(self) -> str:
        return f"<Task {short(self.name)}: {self.problem}, text {few(self.text)}, {self.headline}>"

    def _repr_html_(self) -> str:
        return model_html(f"Task {self.name}", self, "name")

    __str__ = __repr__

    @property
    def in_memory(self) -> Mapping[str, Any] | None:
        """The splits given to `from_dataset`, otherwise None."""
        return self._memory

    @property
    def resolved_labels(self) -> Names:
        """The class names; empty for regression and where none are known."""
        return self.labels or ()

    def metric(self) -> Any:
        """Return the task's metrics as an `evaluate.Metric` that takes logits; needs no network.

        For a training script of the user's own. Raises TaskError for a task whose kind of problem
        is not known before its data are read: take `load_data(task).task` there.
        """
        if self.problem == "auto":
            raise TaskError(
                f"{self.name}: its metrics follow from its data; use load_data(task).task.metric()"
            )
        names = self.metrics or _usual(self.problem, len(self.labels or ()))
        return task_metric(names, self.problem)

    def resolved(self, problem: Problem, labels: Sequence[str] = ()) -> Task:
        """Return a copy with problem, labels, metrics and headline filled in. Raises TaskError."""
        names = None if problem == "regression" else (tuple(labels) or self.labels or None)
        metrics = self.metrics or _usual(problem, len(names or ()))
        if self.headline and self.headline not in metrics:
            metrics = (self.headline, *metrics)
        if wrong := _misfit(metrics, problem, len(names or ())):
            raise TaskError(f"{self.name}: {wrong}")
        changes = {
            "problem": problem,
            "labels": names,
            "metrics": metrics,
            "headline": self.headline or metrics[0],
        }
        return self.model_copy(update=changes)

    @classmethod
    def _checked(cls, where: str, fields: Mapping[str, Any]) -> Task:
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            raise TaskError(_explain(where, error)) from None

    @model_validator(mode="before")
    @classmethod
    def _one_is_a_list(cls, fields: Any) -> Any:
        if not isinstance(fields, Mapping):
            return fields
        fields = dict(fields)
        for key in ("text", "metrics", "labels"):
            if isinstance(fields.get(key), str):
                fields[key] = (fields[key],)
        if fields.get("label") is None and fields.get("problem", "auto") == "auto":
            fields["problem"] = "unlabelled"
        return fields

    @model_validator(mode="after")
    def _holds_together(self) -> Task:
        if self.problem == "unlabelled" and self.label is not None:
            raise ValueError(
                f"label: an unlabelled task has no label column, '{self.label}' was given"
            )
        if self.problem != "unlabelled" and self.label is None:
            raise ValueError(f"label: a {self.problem} task needs a label column")
        if len(set(self.text)) != len(self.text):
            raise ValueError(f"text: column '{self.text[0]}' is given twice")
        if self.label in self.text:
            raise ValueError(f"label: '{self.label}' is a text column too")
        self._check_labels()
        self._check_splits()
        for name in self.metrics:
            if name not in METRICS:
                raise ValueError(unknown("metrics", "metric", name, METRICS))
        if self.headline and self.headline not in (self.metrics or METRICS):
            raise ValueError(unknown("headline", "metric", self.headline, self.metrics or METRICS))
        decides = self.headline or next(iter(self.metrics), "")
        if decides and METRICS[decides].report_only:
            raise ValueError(
                f"headline: '{decides}' is an error in the units of the target, which nothing can "
                "be chosen by; put spearman or pearson first"
            )
        if self.problem != "auto" and (
            wrong := _misfit(self.metrics, self.problem, len(self.labels or ()))
        ):
            raise ValueError(wrong)
        return self

    def _check_labels(self) -> None:
        if self.labels is None:
            return
        twice = sorted({name for name in self.labels if self.labels.count(name) > 1})
        if twice:
            raise ValueError(f"labels: '{twice[0]}' is given twice")
        if self.problem == "regression":
            raise ValueError("labels: a regression task has no class names")
        if len(self.labels) < 2 and self.problem != "multi_label":
            raise ValueError("labels: one class alone leaves nothing to learn; name at least two")

    def _check_splits(self) -> None:
        if self.dataset in FORMATS:
            judged = () if self.validation == "validation" else (self.validation,)
            for split in dict.fromkeys((self.train, *judged, *self.also.values())):
                if split not in self.files:
                    raise ValueError(unknown("files", "split", split, self.files))
        elif self.files:
            raise ValueError(
                f"files: only for dataset {' | '.join(FORMATS)}, not for '{self.dataset}'"
            )
        reserved = sorted({"train", "selection", "validation", "calibration"} & set(self.also))
        if reserved:
            raise ValueError(f"also: the name '{reserved[0]}' is taken; choose another")
        if self.train == self.validation and self.train_config in (None, self.config):
            raise ValueError(f"validation: '{self.validation}' is the training split")


def _posed_by(splits: Mapping[str, Any], label: str) -> Problem:
    """Return the problem that the labels of splits in memory pose; `auto` where none can be read.

    Raises TaskError for labels of no known kind.
    """
    cells: list[Any] = []
    for part in splits.values():
        feature = (getattr(part, "features", None) or {}).get(label)
        if hasattr(feature, "names"):
            return "single_label"
        if hasattr(feature, "feature"):
            return "multi_label"
        if feature is None or not hasattr(part, "__len__"):
            return "auto"
        cells += part.with_format(None)[label][:]
    try:
        problem: Problem = Column.of(cells).problem  # type: ignore[assignment]
    except ValueError as error:
        raise TaskError(f"label: '{label}': {error}") from None
    return problem


def task_schema() -> dict[str, Any]:
    """Return the JSON schema of a task file, for editors."""
    schema = Task.model_json_schema()
    one_or_more = {"anyOf": [{"type": "string"}, schema["properties"]["text"]]}
    schema["properties"]["text"] = {
        **one_or_more,
        "description": schema["properties"]["text"].pop("description"),
        "title": schema["properties"]["text"].pop("title"),
    }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _usual(problem: str, classes: int) -> Names:
    usual = DEFAULTS[problem]
    return ("accuracy", "f1", "matthews") if problem == "single_label" and classes == 2 else usual


def _misfit(metrics: Sequence[str], problem: str, classes: int) -> str:
    """Return what is wrong with these metrics for this problem, or an empty string."""
    for name in metrics:
        if problem not in METRICS[name].problems:
            fitting = [key for key, entry in METRICS.items() if problem in entry.problems]
            return f"metric '{name}' does not fit a {problem} task; fitting: {few(fitting)}"
        if name == "f1" and classes > 2:
            return f"metric 'f1' is for two classes, here are {classes}; use f1_macro"
    return ""


def _anchor(fields: dict[str, Any], folder: Path) -> None:
    """Make the paths in a task file absolute; they are relative to that file."""
    files = fields.get("files")
    if isinstance(files, dict):
        for split, paths in files.items():
            if isinstance(paths, str):
                files[split] = _inside(folder, paths)
            elif isinstance(paths, list):
                files[split] = [_inside(folder, str(path)) for path in paths]
    dataset = fields.get("dataset")
    if isinstance(dataset, str) and dataset.startswith(("./", "../", "~")):
        fields["dataset"] = _inside(folder, dataset)


def _inside(folder: Path, path: str) -> str:
    return str(folder.absolute() / os.path.expanduser(path))


def _explain(where: str, error: ValidationError) -> str:
    """Return the first problem as one sentence: where, what, allowed, nearest."""
    first = error.errors()[0]
    at = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return unknown(where, "field", at, Task.model_fields)
    if first["type"] == "missing":
        return f"{where}: the field '{at}' is missing"
    message = first["msg"].removeprefix("Value error, ")
    given = "" if first["type"] == "value_error" else f" (given: {first['input']!r})"
    return f"{where}: {f'{at}: ' if at else ''}{message}{given}"
