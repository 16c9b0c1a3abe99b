"""`Head`: what a kind of problem is. Labels, losses, answers and scores of a task come from here.

A head needs no torch to be read, so that a task file is checked in a moment.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bertcompress.errors import ModelError, TaskError
from bertcompress.heads.features import Columns, Encoded, TaskFields, encode_texts, plain_texts
from bertcompress.heads.padding import collate_texts, outputs_of_features
from bertcompress.metrics import METRICS, Metric

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "Array",
    "Features",
    "Head",
    "Served",
    "classes_of",
    "finite",
    "metrics_named",
]

Array = NDArray[Any]
Served = Literal["softmax", "sigmoid", "number", "score", "tags", "span"]
Features: TypeAlias = "Mapping[str, Tensor]"
"""A batch: the token columns (B, T), and `labels` and other columns where there are any."""


class Head(Protocol):
    """A kind of problem. Axes: N rows, F features of them, B in a batch, K outputs of the model."""

    key: ClassVar[str]
    """Name in a task file (`problem`)."""
    auto_class: ClassVar[str | None] = "ForSequenceClassification"
    """End of the name of the stock class with this head; None: the bare encoder."""
    problem_type: ClassVar[str | None] = "single_label_classification"
    """As configs of transformers call it; None: they have no name for it."""
    metrics: ClassVar[Mapping[str, Metric]]
    """What an answer can be scored by."""
    usual: ClassVar[tuple[str, ...]]
    """The metrics where the task names none, the headline first."""
    has_labels: ClassVar[bool] = True
    """False where the original's answers stand for labels."""
    reads_unlabelled: ClassVar[bool] = True
    """Whether rows without labels can be encoded."""
    has_classes: ClassVar[bool] = True
    """Whether labels have names."""
    one_value: ClassVar[bool] = True
    """Whether the label of a row is one value."""
    has_units: ClassVar[bool] = False
    """Whether labels are quantities, which are trained in standard deviations."""
    has_order: ClassVar[bool] = False
    """Whether classes read in a wrong order can be told by the confusions."""
    by_name: ClassVar[bool] = False
    """Whether scores go by the names of classes, whatever their numbers are."""
    least_classes: ClassVar[int] = 2
    """So many have to be named, where any are."""
    output_axes: ClassVar[int] = 2
    """2 where a model puts out K numbers for each feature, (B, K); 3: for each token, (B, T, K)."""
    unsettled: ClassVar[str] = ""
    """What a config says where it lacks what `settings_of` chooses; empty: nothing is chosen."""
    judges_groups: ClassVar[bool] = False
    """Whether scores are of `groups` of rows, not of rows."""
    averages: ClassVar[bool] = True
    """Whether the mean of several models' answers is an answer."""
    features_a_row: ClassVar[int] = 1
    """Features of a row that the loss of its label needs in one batch, side by side."""
    texts_a_row: ClassVar[tuple[int, ...]] = (1, 2)
    """How many text columns a task may have."""
    searches: ClassVar[bool] = False
    """Whether rows are the queries and documents of a search, read from a corpus and judgements."""
    taught_by_token: ClassVar[bool] = False
    """Whether a teacher's answers are for each token, so that student and teacher need the same."""
    least_kept: ClassVar[Mapping[str, float]] = {}
    """Without labels: the least that a result keeps of each metric, of what exceeds
    `original_chance`, to stand for the original; empty where labels judge, or nobody knows."""
    across_spaces: ClassVar[str | None] = None
    """Without labels: the metric that also compares answers of another space than the original's;
    None: each."""
    parts_title: ClassVar[str] = ""
    """Title of the table of `parts`; empty where there are none."""
    parts_note: ClassVar[str] = ""
    """What counts as right there, in one sentence."""
    serves: ClassVar[Served | None] = "softmax"
    """What `serve.py` makes of outputs; None: the config tells. `score`: it tells, else sigmoid."""

    def named(self, labels: Sequence[str]) -> Head:
        """Return the head of classes of these names: itself, where names play no part."""
        return self

    def of_task(self, task: TaskFields) -> Head:
        """Return the head with what a task says beside its columns: here itself."""
        return self

    def texts_misfit(self, task: TaskFields) -> str:
        """Return what is wrong with the text columns of a task, or an empty string."""
        if len(task.text) not in self.texts_a_row:
            wanted = " or ".join(map(str, self.texts_a_row))
            return f"text: a {self.key} task has {wanted} text columns, {len(task.text)} given"
        if task.prompts and len(task.prompts) != len(task.text):
            return "prompts: name one for each text column"
        return ""

    def columns(self, task: TaskFields) -> Columns:
        """Return the columns that a data set must have: the task's texts, and its label if any."""
        label = task.label if self.has_labels else None
        return Columns(tuple(task.text), label)

    def encode(
        self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, task: TaskFields
    ) -> Encoded:
        """Return the rows as features, here one a row, cut at the task's `max_length`.

        `rows`: `row_id`, `text`, `text_pair` (pairs) and `label` (unless there are none). A head
        that makes several features of a row joins the outputs for them in `answers`.
        """
        return encode_texts(rows, tokenizer, task.max_length)

    def collate(
        self,
        features: Sequence[Mapping[str, Any]],
        tokenizer: PreTrainedTokenizerBase,
        pad_to_multiple_of: int | None = None,
    ) -> dict[str, Array]:
        """Return features as a padded batch. Shape: tokens (B, T); labels (B,) or (B, K).

        Raises ModelError for a tokenizer without a padding token.
        """
        return collate_texts(features, tokenizer, pad_to_multiple_of)

    def read(self, rows: Dataset) -> Iterator[Sequence[str]]:
        """Yield the texts of rows in chunks, as they are tokenized: with what is put before."""
        return plain_texts(rows)

    def feature_outputs(self, outputs: Array, attention_mask: Array) -> list[Array]:
        """Return what is kept of a model's outputs for each feature of a batch, without padding.

        Shape: (B, K), or (B, T, K); mask (B, T) -> B of (K,), or of (t, K).
        """
        return outputs_of_features(outputs, attention_mask)

    def answers(self, outputs: Sequence[Array], encoded: Encoded) -> Array:
        """Return one answer for each row, of the model's outputs for each feature.

        Shape: F outputs of (K,), or (T, K) for each token -> (N, K), or what `decided` reads.
        Raises TaskError where a row has several features and nothing says how to join them.
        """
        if len(encoded.row_of_feature) != encoded.rows:
            raise TaskError(
                f"head '{self.key}' makes several features of a row, and does not join their "
                "answers (Head.answers)"
            )
        return np.stack([*outputs])

    def settings_of(self, answers: Array, references: Array) -> dict[str, float]:
        """Return fields for a model's config by which answers like these are read, if any are.

        Shape: answers of the selection split (N, ...), references (N,).
        """
        return {}

    def settings_in(self, config: Any) -> dict[str, float]:
        """Return those fields of a model's config, of transformers; None: of none."""
        return {}

    def settled(self, answers: Array, settings: Mapping[str, Any]) -> Array:
        """Return answers as they are read by the fields of a model's config."""
        return answers

    def label_feature(self, task: TaskFields) -> Any:
        """Return the type of the `label` column, a feature of `datasets`."""
        from datasets import List, Value

        columns = self.columns(task)
        value = Value(columns.label_type)
        return value if columns.label_form == "value" else List(value)

    def read_labels(self, where: str, cells: Sequence[Any]) -> list[Any]:
        """Return the labels of a split as they are stored, where `columns` says `own`.

        `where`: for messages. Raises DataError naming the rows.
        """
        message = f"head '{self.key}' reads labels of its own: Head.read_labels"
        raise TaskError(f"{where}: {message}")

    def check_rows(
        self, where: str, texts: Sequence[Sequence[str]], labels: Sequence[Any] | None
    ) -> None:
        """Raise DataError for rows of a split whose texts and labels do not go together.

        `texts`: a list for each text column; `labels`: as `read_labels` gave them.
        """
        return

    def groups(self, texts: Sequence[Sequence[str]]) -> Sequence[str] | None:
        """Return what keeps rows together when some are split off to judge on; None: nothing does.

        `texts`: a list for each text column.
        """
        return None

    def taught(self, outputs: Tensor, batch: Features) -> Tensor:
        """Return what is kept of a teacher's outputs for `divergence`: here all of them.

        `batch`: as the teacher reads it. Shape: (B, ..., K).
        """
        return outputs

    def reference_feature(self) -> Any:
        """Return the type of a reference, a feature of `datasets`; None: a number, or a list."""
        return None

    def references(self, rows: Dataset) -> Array:
        """Return what the answers of some rows are judged against, one entry a row: their labels.

        Shape: (N,) or (N, K); of objects where an answer is judged by more than numbers.
        """
        return np.asarray(rows["label"][:])

    def examples(self, references: Array) -> int:
        """Return how many examples a score is the mean of: here the rows. Shape: (N, ...)."""
        return len(references)

    def spread(self, outputs: Sequence[Array]) -> float:
        """Return how unlike outputs are: here the mean of the standard deviations of each of them.

        Shape: F of (K,), or of (T, K).
        """
        return float(np.concatenate([np.atleast_2d(each) for each in outputs]).std(axis=0).mean())

    def served_texts(self, size: int) -> str:
        """Return what comes so many at a time where a model is served, in the plural."""
        return "texts"

    def served(self, features: Dataset, size: int) -> Array:
        """Return which features of a split come so many at a time there: here all. Shape: (n,)."""
        return np.arange(len(features))

    def labelled(self, features: Dataset) -> Dataset:
        """Return the features that labels alone train on: here all. DataError where none do."""
        return features

    def teaches(self, rows: Dataset) -> bool:
        """Return whether training rows have labels to learn from."""
        return self.has_labels

    def width(self, labels: Sequence[str]) -> int:
        """Return the number of outputs of the model for these classes; 0 where nothing tells."""
        return len(labels)

    def usual_for(self, classes: int) -> tuple[str, ...]:
        """Return the metrics for so many classes where the task names none."""
        return self.usual

    def chance(self, labels: Array, metric: Metric) -> float:
        """Return the score of the best constant answer. Shape: labels (N,) or (N, K)."""
        return 0.0

    def original_chance(self, metric: Metric, answers: Array, original: Array) -> float | None:
        """Return what answers that read no text score by the original's; None: nobody knows."""
        return None

    def of_width(self, outputs: int) -> Head:
        """Return the head of a model with so many outputs: itself, where labels say what it is."""
        return self

    def of_model(self, config: Any) -> Head:
        """Return the head that scores a model of this config: itself, where there are labels."""
        return self

    def all_finite(self, answers: Array) -> bool:
        """Return whether a model answered without NaN and infinity. Shape: as `answers` gives."""
        return bool(np.isfinite(answers).all())

    @abstractmethod
    def decided(self, metric: Metric, logits: Array) -> Array:
        """Return what a metric compares. Shape: (N, K) -> (N,) or (N, K).

        Raises ModelError on NaN, TaskError where the outputs have no such answer.
        """
        ...

    def right(self, metric: Metric, references: Array) -> Array:
        """Return what a metric compares it with: labels, or of the original's logits.

        Shape: (N,) or (N, K).
        """
        return references

    def statistics(self, metric: Metric, answers: Array, references: Array) -> Array:
        """Return what each row adds to a metric. Shape: (N, ...) twice -> (N, S).

        Rows whose `decided` and `right` are equal have equal statistics.
        """
        return metric.statistics(self.decided(metric, answers), self.right(metric, references))

    def parts(self, answers: Array, references: Array) -> dict[str, tuple[float, int]]:
        """Return the score of each part of the references, such as a type of entity, and its size.

        Shape: as `statistics`.
        """
        return {}

    @abstractmethod
    def changed(self, logits: Array, original: Array) -> Array | None:
        """Return which rows are answered otherwise, None for numbers. Shape: (N, K) -> (N,)."""
        ...

    @abstractmethod
    def movement(self, logits: Array, original: Array) -> float:
        """Return how far answers are from the original's: KL divergence in nats, mean over rows.

        Of numbers the squared difference over the variance of the original's. Shape: both (N, K).
        """
        ...

    def output_movement(self, outputs: Sequence[Array], original: Sequence[Array]) -> float:
        """Return the same of what a model puts out for each feature, before rows are answered.

        Shape: F of (K,), or of (T, K) without padding, twice.
        """
        return self.movement(np.stack([*outputs]), np.stack([*original]))

    def loss(self, outputs: Tensor, batch: Features) -> Tensor:
        """Return the mean loss that is trained on. Shape: (B, ..., K) -> ()."""
        return self.losses(outputs, batch).mean()

    @abstractmethod
    def losses(self, outputs: Tensor, batch: Features) -> Tensor:
        """Return the negative log-likelihood of the `labels` of each feature.

        `outputs`: as `outputs_of` gives them. Shape: (B, ..., K) -> (B,).
        """
        ...

    @abstractmethod
    def drawn_losses(
        self, outputs: Tensor, reference: Tensor, batch: Features, generator: torch.Generator
    ) -> Tensor:
        """Return `losses` against answers drawn from reference outputs, not from labels.

        Shape: (B, ..., K) twice -> (B,).
        """
        ...

    @abstractmethod
    def divergence(
        self, student: Tensor, teacher: Tensor, batch: Features, temperature: float
    ) -> Tensor:
        """Return the mean distance to a teacher's answers, 0 where they are equal.

        T^2 times KL(teacher || student) of the softened answers; T^2 keeps the gradient's size
        whatever T is (Hinton et al. 2015, 1503.02531, section 2). Shape: (B, ..., K) twice -> ().
        """
        ...

    @abstractmethod
    def labels_of(self, outputs: Tensor, batch: Features) -> Tensor:
        """Return a model's answers in the form of the batch's `labels`. Shape: (B, ..., K)."""
        ...


def metrics_named(*names: str) -> dict[str, Metric]:
    """Return some of the metrics by name, in the order of the table."""
    return {name: metric for name, metric in METRICS.items() if name in names}


def finite(logits: Array) -> Array:
    """Return logits as floats, (N, K). Raises ModelError on NaN and infinity."""
    logits = np.asarray(logits, dtype=float)
    logits = logits.reshape(len(logits), -1)
    if not np.isfinite(logits).all():
        bad = int((~np.isfinite(logits)).any(axis=1).sum())
        raise ModelError(f"the model answers NaN or infinity for {bad} of {len(logits)} rows")
    return logits


def classes_of(metric: Metric, logits: Array) -> Array:
    """Return the class of each row. Shape: (N, K) -> (N,). Raises TaskError for one output."""
    if logits.shape[1] == 1:
        raise TaskError(
            f"metric '{metric.name}' compares classes, but the model has one output; use spearman"
        )
    return np.asarray(logits.argmax(axis=1))
