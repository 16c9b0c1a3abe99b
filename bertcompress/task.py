"""`Task`: what a model is judged on. Data set, columns, labels, metrics and splits.

A task file under `tasks/` holds the same fields. Reading one imports neither torch nor datasets.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    model_validator,
)

from bertcompress.errors import TaskError, few, unknown
from bertcompress.heads import HEADS, Head, all_metrics, head_named
from bertcompress.heads.agreement import Agreement
from bertcompress.heads.features import Columns
from bertcompress.heads.kinds import posed_by
from bertcompress.heads.metric_fit import misfit
from bertcompress.heads.pooling import Pooling
from bertcompress.heads.problem import AUTO, Problem
from bertcompress.heads.scoring import task_metric
from bertcompress.heads.vectors import Similarity, Vectors
from bertcompress.support import formats
from bertcompress.support.catalogue import read_yaml, resolve
from bertcompress.support.formats import FORMATS, check_format, format_of, name_of
from bertcompress.support.notebook import model_html, short
from bertcompress.support.word_columns import columns_of, columns_of_rows, words_and_tags

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict, IterableDataset

__all__ = ["FORMATS", "Problem", "Task", "task_schema"]

Names = tuple[str, ...]


class Task(BaseModel):
    """What a model is judged on. What is left `auto`, empty or null is filled from the data."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="Short name, for example glue/mrpc.", min_length=1)
    summary: str = Field("", description="One sentence for the list and the model card.")
    dataset: str = Field(
        description="Hub id, folder, csv | json | parquet | conll | text (`files`), or "
        "embedded:acceptability.",
        min_length=1,
    )
    config: str | None = Field(None, description="Configuration of the data set, for example mrpc.")
    train_config: str | None = Field(
        None,
        description="Configuration that the training split is taken from, where it is another one.",
    )
    revision: str | None = Field(None, description="Commit, branch or tag on the Hub.")
    qrels: str | None = Field(
        None, description="A search: Hub id or folder of judgements that lie apart.", min_length=1
    )
    files: dict[str, str | Names] = Field(
        default_factory=dict,
        description="Split name to path(s) for csv, json, parquet, conll and text; relative to the "
        "task file.",
    )
    text: Annotated[Names, Field(min_length=1, max_length=2)] = Field(
        description="Column that holds the text, or two columns for a pair."
    )
    label: str | None = Field(None, description="Column that holds the label; null: unlabelled.")
    problem: Problem = Field(
        AUTO,
        description="auto: told by the labels of all rows (see docs/tasks.md).",
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
        (), description=f"Scores to report, of {', '.join(all_metrics())}; empty: usual ones."
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
    pooling: Pooling | None = Field(None, description="Vectors: how pooled; null: as saved.")
    prompts: Names = Field((), description="Vectors: a prompt for each text column; a search: two.")
    dimensions: tuple[int, ...] = Field((), description="Vectors: so many alone are trained too.")
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
        formats.anchor(fields, path.parent)
        return cls._checked(str(name_or_path), fields)

    @classmethod
    def from_dataset(
        cls,
        data: DatasetDict | Dataset | IterableDataset | Mapping[str, Any] | Any,
        *,
        text: str | Sequence[str] | None = None,
        label: str | None = None,
        **fields: Any,
    ) -> Task:
        """Return a task on rows in memory; the kind of problem is told from all labels together.

        Args:
            data: A `DatasetDict` or another mapping from split names, of `Dataset` of any format,
                `IterableDataset` (read to its end, or to a run's `limit`) or pandas DataFrame; or
                one of them alone, of which rows to judge on are split off.
            text: One column, or two for a pair; None: `tokens` and `ner_tags`, or what else data
                sets call words and their tags.
            label: Column of the label; None where there are no labels.
            fields: Further fields of a task.

        Raises TaskError.
        """
        splits = data if isinstance(data, Mapping) else {str(fields.get("train", "train")): data}
        if text is None:
            text, label = words_and_tags("Task.from_dataset", columns_of_rows(splits), label)
        named = {"name": "in-memory", "dataset": "in-memory"}
        given = {**named, **fields, "text": text, "label": label}
        if label is not None and "problem" not in given and not given.get("label_separator"):
            words = text if isinstance(text, str) else ""
            given["problem"] = posed_by(splits, label, words) or AUTO
        task = cls._checked("Task.from_dataset", given)
        task._memory = splits
        return task

    @classmethod
    def from_files(
        cls,
        train: str | Path,
        validation: str | Path | None = None,
        *,
        text: str | Sequence[str] | None = None,
        label: str | None = None,
        **fields: Any,
    ) -> Task:
        """Return a task on the user's own data; nothing is read yet.

        Args:
            train: A CSV, TSV, JSON, JSON lines, parquet or CoNLL file, a `save_to_disk` folder, a
                folder of data files, or a Hub id.
            validation: A file of the same format, or the name of a split where `train` is no file.
                None: the usual split, or rows split off the training rows.
            text: One column, or two for a pair; None: `tokens` and `ner_tags`, or what else data
                sets call words and their tags. A CoNLL file names no columns.
            label: Column of the label; None where there are no labels.
            fields: Further fields of a task.

        Raises TaskError, also for a file of a format that is not read.
        """
        source = os.path.expanduser(os.fspath(train))
        where = "--train" if "name" not in fields else str(fields["name"])
        form = format_of(source)
        if text is None or (form == "conll" and label is None):
            check_format(source)
            text, label = words_and_tags(where, columns_of(source), label, text)
        if form == "conll":
            fields = {"problem": "tokens", **fields}
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

    @classmethod
    def from_texts(
        cls,
        texts: str | Path | Sequence[str],
        validation: str | Path | None = None,
        *,
        text: str | Sequence[str] = "text",
        **fields: Any,
    ) -> Task:
        """Return a task on texts without labels, for a sentence embedder; nothing is read yet.

        `texts`: a file of one text a line, what `from_files` takes, or a list. `validation`: a file
        or split; None: some are split off. `text`: the column, if any. Raises TaskError.
        """
        fields = {"problem": Vectors.key, **fields}
        if not isinstance(texts, (str, Path)):
            from datasets import Dataset

            return cls.from_dataset(Dataset.from_dict({"text": [*texts]}), text="text", **fields)
        if found := formats.line_files(texts, validation):
            return cls._checked("--texts", {**found, "text": text, **fields})
        return cls.from_files(texts, validation, text=text, **fields)

    def __repr__(self) -> str:
        return f"<Task {short(self.name)}: {self.problem}, text {few(self.text)}, {self.headline}>"

    def _repr_html_(self) -> str:
        return model_html(f"Task {self.name}", self, "name")

    __str__ = __repr__

    @property
    def is_open(self) -> bool:
        """Whether only the data can tell what kind of problem it is."""
        return self.problem == AUTO

    @property
    def head(self) -> Head:
        """What knows the kind of problem. Raises TaskError where only the data can tell."""
        if self.is_open:
            raise TaskError(f"{self.name}: what its labels are is not known before they are read")
        return HEADS[self.problem].named(self.labels or ()).of_task(self)

    @property
    def columns(self) -> Columns:
        """What the data set must have: as the head says, or texts and label until one is known."""
        if self.is_open:
            return Columns(self.text, self.label)
        return self.head.columns(self)

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
        if self.is_open:
            raise TaskError(
                f"{self.name}: its metrics follow from its data; use load_data(task).task.metric()"
            )
        names = self.metrics or self.head.usual_for(len(self.labels or ()))
        return task_metric(names, self.head)

    def resolved(self, problem: Problem, labels: Sequence[str] = ()) -> Task:
        """Return a copy with problem, labels, metrics and headline filled in. Raises TaskError."""
        head = head_named(problem, self.name)
        names = (tuple(labels) or self.labels or None) if head.has_classes else None
        head = head.named(names or ())
        metrics = self.metrics or head.usual_for(len(names or ()))
        if self.headline and self.headline not in metrics:
            metrics = (self.headline, *metrics)
        if wrong := misfit(head, metrics, len(names or ())):
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
        for key in ("text", "metrics", "labels", "prompts"):
            if isinstance(fields.get(key), str):
                fields[key] = (fields[key],)
        if fields.get("label") is None and fields.get("problem", AUTO) == AUTO:
            fields["problem"] = Agreement.key
        if fields.get("label") and fields.get("problem") == Vectors.key:
            fields["problem"] = Similarity.key
        return fields

    @model_validator(mode="after")
    def _holds_together(self) -> Task:
        labelled = self.is_open or self.head.has_labels
        if not labelled and self.label is not None:
            raise ValueError(
                f"label: an {self.problem} task has no label column, '{self.label}' was given"
            )
        if labelled and self.label is None:
            raise ValueError(f"label: a {self.problem} task needs a label column")
        if not self.is_open and (wrong := self.head.texts_misfit(self)):
            raise ValueError(wrong)
        if len(set(self.text)) != len(self.text):
            raise ValueError(f"text: column '{self.text[0]}' is given twice")
        if self.label in self.text:
            raise ValueError(f"label: '{self.label}' is a text column too")
        self._check_labels()
        formats.check_splits(self)
        self._check_metrics()
        return self

    def _check_metrics(self) -> None:
        known = all_metrics()
        for name in self.metrics:
            if name not in known:
                raise ValueError(unknown("metrics", "metric", name, known))
        if self.headline and self.headline not in (self.metrics or known):
            raise ValueError(unknown("headline", "metric", self.headline, self.metrics or known))
        decides = self.headline or next(iter(self.metrics), "")
        if decides and known[decides].report_only:
            others = "spearman or pearson" if known[decides].reads == "numbers" else "agreement"
            raise ValueError(
                f"headline: '{decides}' is better where it is lower, and nothing is chosen by "
                f"that; put {others} first"
            )
        if not self.is_open and (wrong := misfit(self.head, self.metrics, len(self.labels or ()))):
            raise ValueError(wrong)

    def _check_labels(self) -> None:
        if self.labels is None:
            return
        twice = sorted({name for name in self.labels if self.labels.count(name) > 1})
        if twice:
            raise ValueError(f"labels: '{twice[0]}' is given twice")
        head = HEADS.get(self.problem)
        if head is not None and not head.has_classes:
            raise ValueError(f"labels: a {head.key} task has no class names")
        if len(self.labels) < (head.least_classes if head is not None else 2):
            raise ValueError("labels: one class alone leaves nothing to learn; name at least two")


def task_schema() -> dict[str, Any]:
    """Return the JSON schema of a task file, for editors."""
    schema = Task.model_json_schema()
    text = schema["properties"]["text"]
    kept = {name: text.pop(name) for name in ("description", "title")}
    schema["properties"]["text"] = {"anyOf": [{"type": "string"}, text], **kept}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


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
