"""A tag for each word: entities, parts of speech. Rows are lists of words; their answers are too.

What counts is the first piece of each word, in training, distilling and scoring: other pieces,
special tokens and padding enter no loss and no score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from bertcompress.errors import ModelError
from bertcompress.heads.features import Columns, Encoded, TaskFields, end_to_end
from bertcompress.heads.head import Array, Features, Head, Served
from bertcompress.heads.padding import collate_texts, padded_column
from bertcompress.heads.words import NO_WORD, aligned, piece_limit, windows
from bertcompress.metrics import Metric
from bertcompress.metrics.entities import (
    ABSENT,
    OUTSIDE,
    Tags,
    entity_counts,
    entity_f1,
    entity_f1_of_types,
    entity_precision,
    entity_recall,
    right_words,
)
from bertcompress.metrics.statistics import kl, mean

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

__all__ = ["IGNORED", "Tokens"]

IGNORED = -100
"""The label of what does not count, as transformers has it."""
_WORDS = "words"
_OF_ROW = "words_of_row"


def _entities(name: str, summary: str, value: Any) -> Metric:
    return Metric(name, summary, entity_counts, value, reads="entities")


class Tokens(Head):
    """One of K tags for each word: cross entropy at its first piece. Labels: (B, T) int64."""

    key: ClassVar[str] = "tokens"
    auto_class: ClassVar[str | None] = "ForTokenClassification"
    metrics: ClassVar[Mapping[str, Metric]] = {
        "f1": _entities("f1", "F1 of entities: type, first and last word right", entity_f1),
        "precision": _entities("precision", "share of answered entities right", entity_precision),
        "recall": _entities("recall", "share of given entities found", entity_recall),
        "f1_macro": _entities(
            "f1_macro", "mean over types of the F1 of entities", entity_f1_of_types
        ),
        "accuracy": Metric("accuracy", "share of words tagged right", right_words, mean),
    }
    usual: ClassVar[tuple[str, ...]] = ("f1", "precision", "recall", "accuracy")
    one_value: ClassVar[bool] = False
    by_name: ClassVar[bool] = True
    output_axes: ClassVar[int] = 3
    taught_by_token: ClassVar[bool] = True
    parts_title: ClassVar[str] = "F1 of each type of entity"
    parts_note: ClassVar[str] = (
        "Right where type, first and last word are; an I after O begins one, as seqeval has it by "
        "default."
    )
    serves: ClassVar[Served | None] = "tags"

    def __init__(self, names: Sequence[str] = ()) -> None:
        """Keep the names of the tags, in the order of the model's outputs; empty: not known yet."""
        self.tags = Tags.of(names or (OUTSIDE,))

    def named(self, labels: Sequence[str]) -> Head:
        """Return the head of these tags."""
        return _of_tags(tuple(labels))

    def usual_for(self, classes: int) -> tuple[str, ...]:
        """Return the metrics of entities, or of words where every word has a tag of its own."""
        return self.usual if self.tags.has_outside else ("accuracy", "f1_macro")

    def columns(self, task: TaskFields) -> Columns:
        """Return the columns of words and tags, both lists."""
        return replace(super().columns(task), text_form="words", label_form="sequence")

    def encode(
        self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, task: TaskFields
    ) -> Encoded:
        """Return the rows in windows of at most `max_length` tokens; each word answers in one.

        `rows`: `row_id`, `text`, `words` and `label`. Beside the token columns `words`, the
        position of the word that a piece answers for, or -1, and `labels`, -100 elsewhere.
        """
        limit = piece_limit(tokenizer, task.max_length)
        words = rows["words"][:]
        tags = rows["label"][:] if "label" in rows.column_names else None
        columns: dict[str, list[Array]] = {}
        owners: list[int] = []
        longest = 0
        for row, piece in enumerate(aligned(words, tokenizer)):
            longest = max(longest, len(piece))
            for window in windows(piece, limit):
                owners.append(row)
                made = {**window.tokens, _WORDS: window.words}
                if tags is not None:
                    given = np.asarray([*tags[row], IGNORED], np.int64)  # the last one for -1
                    made["labels"] = given[window.words]
                for name, values in made.items():
                    columns.setdefault(name, []).append(values)
        flat, lengths = end_to_end(columns) if columns else ({}, [])
        inner = rows.remove_columns("label") if tags is not None else rows
        encoded = Encoded.of(flat, lengths, inner, owners, longest=longest)
        counts = [len(words[row]) for row in owners]
        return replace(encoded, single={**encoded.single, _OF_ROW: counts})

    def collate(
        self,
        features: Sequence[Mapping[str, Any]],
        tokenizer: PreTrainedTokenizerBase,
        pad_to_multiple_of: int | None = None,
    ) -> dict[str, Array]:
        """Return features as a padded batch. Shape: tokens and labels (B, T).

        Without labels there is `words` (B, T), which tells the first pieces.
        """
        plain = [{k: v for k, v in feature.items() if k != "labels"} for feature in features]
        batch = collate_texts(plain, tokenizer, pad_to_multiple_of)
        width = batch["input_ids"].shape[1]
        for name, fill in (("labels", IGNORED), (_WORDS, NO_WORD)):
            if name in features[0]:
                batch[name] = padded_column([f[name] for f in features], width, fill, tokenizer)
                break
        return batch

    def answers(self, outputs: Sequence[Array], encoded: Encoded) -> Array:
        """Return the outputs for each word of each row, of the window that answers for it.

        A word without a piece is in no entity: 1 for `O`, 0 for the other tags. Behind the last
        word of a row all is NaN; a NaN of the model is infinity here. Shape: F of (T, K) ->
        (N, W, K), W words of the longest row.
        """
        flat = np.concatenate([*outputs]).astype(np.float32)
        flat = np.where(np.isnan(flat), np.inf, flat)
        owners = np.repeat(encoded.row_of_feature, np.diff(encoded.offsets))
        counts = np.zeros(encoded.rows, np.int64)
        counts[encoded.row_of_feature] = encoded.single[_OF_ROW]
        shape = (encoded.rows, int(counts.max(initial=0)), flat.shape[1])
        answers = np.full(shape, np.nan, np.float32)
        there = np.arange(shape[1]) < counts[:, None]
        answers[there] = np.arange(shape[2]) == self.tags.outside
        words = encoded.flat[_WORDS]
        first = words >= 0
        answers[owners[first], words[first]] = flat[first]
        return answers

    def references(self, rows: Dataset) -> Array:
        """Return the tags of the words, -100 behind the last one. Shape: (N, W) int64."""
        tags = rows["label"][:]
        width = max(map(len, tags), default=0)
        padded = np.full((len(tags), width), IGNORED, np.int64)
        for out, row in zip(padded, tags, strict=True):
            out[: len(row)] = row
        return padded

    def chance(self, labels: Array, metric: Metric) -> float:
        """Return the score of one tag for all words, the best one. Shape: labels (N, W)."""
        right = self.right(metric, labels)
        tags = np.unique(right[right != ABSENT])
        scores = [metric.score(metric.statistics(np.full_like(right, t), right)) for t in tags]
        return round(max(scores, default=0.0), 4)

    def all_finite(self, answers: Array) -> bool:
        """Return whether each word is answered without NaN and infinity. Shape: (N, W, K)."""
        return not bool(np.isinf(answers).any())

    def decided(self, metric: Metric, logits: Array) -> Array:
        """Return the tag of each word, as a code for entities; -1: no word. Shape: (N, W, K)."""
        there = _words_of(logits)
        tags = np.where(there, np.nan_to_num(logits).argmax(axis=-1), ABSENT)
        return self._read(metric, tags)

    def right(self, metric: Metric, references: Array) -> Array:
        """Return the given tags likewise. Shape: (N, W), both."""
        return self._read(metric, np.where(references < 0, ABSENT, references))

    def parts(self, answers: Array, references: Array) -> dict[str, tuple[float, int]]:
        """Return F1 and the number of given entities of each type that either side has."""
        metric = self.metrics["f1"]
        sides = self.decided(metric, answers), self.right(metric, references)
        sums = entity_counts(*sides, len(self.tags.types)).sum(axis=0).reshape(3, -1).T
        return {
            name: (float(entity_f1(each)), int(each[2]))
            for name, each in zip(self.tags.types, sums, strict=True)
            if each.any()
        }

    def _read(self, metric: Metric, tags: Array) -> Array:
        return self.tags.coded(tags) if metric.reads == "entities" else tags

    def changed(self, logits: Array, original: Array) -> Array | None:
        """Return which words have another tag, rows end to end. Shape: (N, W, K) -> (words,)."""
        there = _words_of(original)
        return np.asarray(logits[there].argmax(axis=-1) != original[there].argmax(axis=-1))

    def movement(self, logits: Array, original: Array) -> float:
        """Return the mean KL divergence over words, in nats. Shape: both (N, W, K)."""
        there = _words_of(original)
        return float(kl(logits[there], original[there]).mean())

    def output_movement(self, outputs: Sequence[Array], original: Sequence[Array]) -> float:
        """Return the mean KL divergence over tokens. Shape: F of (T, K), twice."""
        return float(kl(np.concatenate([*outputs]), np.concatenate([*original])).mean())

    def loss(self, outputs: Tensor, batch: Features) -> Tensor:
        """Return the mean cross entropy over words, as stock classes do. Shape: (B, T, K) -> ()."""
        losses, counts = self._cross_entropy(outputs, batch["labels"])
        return losses.sum() / counts.sum().clamp(min=1)

    def losses(self, outputs: Tensor, batch: Features) -> Tensor:
        """Return the cross entropy summed over the words of a feature. Shape: (B, T, K) -> (B,)."""
        return self._cross_entropy(outputs, batch["labels"])[0].sum(-1)

    def _cross_entropy(self, outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss at each token, 0 where none counts, and where it does. Shape: (B, T)."""
        from torch.nn import functional

        labels = labels.to(outputs.device)
        losses = functional.cross_entropy(
            outputs.transpose(1, 2), labels, reduction="none", ignore_index=IGNORED
        )
        return losses, labels != IGNORED

    def drawn_losses(
        self, outputs: Tensor, reference: Tensor, batch: Features, generator: torch.Generator
    ) -> Tensor:
        """Return the loss against drawn tags. Shape: (B, T, K) twice -> (B,)."""
        import torch

        scores = reference.float().cpu()
        drawn = scores.softmax(-1).flatten(0, 1).multinomial(1, generator=generator)
        drawn = drawn.view(scores.shape[:2])
        counts = _counting(batch, outputs).cpu()
        return self.losses(outputs, {"labels": torch.where(counts, drawn, IGNORED)})

    def divergence(
        self, student: Tensor, teacher: Tensor, batch: Features, temperature: float
    ) -> Tensor:
        """Return T^2 times the KL divergence, mean over words. Shape: (B, T, K) twice -> ()."""
        from torch.nn import functional

        counts = _counting(batch, student)
        student = functional.log_softmax(student.float() / temperature, -1)
        teacher = functional.log_softmax(teacher.to(student.device).float() / temperature, -1)
        far = (teacher.exp() * (teacher - student)).sum(-1)
        return (far * counts).sum() / counts.sum().clamp(min=1) * temperature**2

    def labels_of(self, outputs: Tensor, batch: Features) -> Tensor:
        """Return the tags that a model answers, -100 where none counts. Shape: (B, T, K)."""
        import torch

        return torch.where(_counting(batch, outputs), outputs.argmax(-1), IGNORED)


@lru_cache(maxsize=64)
def _of_tags(names: tuple[str, ...]) -> Tokens:
    return Tokens(names)


def _words_of(answers: Array) -> Array:
    """Return where there is a word. Shape: (N, W, K) -> (N, W). Raises ModelError on other NaN."""
    there = ~np.isnan(answers).all(axis=-1)
    bad = (~np.isfinite(answers).all(axis=-1) & there).any(axis=-1)
    if bad.any():
        raise ModelError(
            f"the model answers NaN or infinity for {int(bad.sum())} of {len(answers)} rows"
        )
    return np.asarray(there)


def _counting(batch: Features, outputs: Tensor) -> Tensor:
    """Return which tokens count: first pieces, or all but padding where nothing tells them.

    Shape: (B, T) bool.
    """
    if "labels" in batch:
        counts = batch["labels"] != IGNORED
    elif _WORDS in batch:
        counts = batch[_WORDS] != NO_WORD
    elif "attention_mask" in batch:
        counts = batch["attention_mask"].bool()
    else:
        counts = outputs.new_ones(outputs.shape[:2]).bool()
    return counts.to(outputs.device)
