"""A span of a context that answers a question, or none: extractive question answering."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from bertcompress.errors import DataError, ModelError
from bertcompress.heads.contexts import STRIDE, Windows, gold_tokens, windows_of
from bertcompress.heads.features import (
    UNBOUNDED,
    USUAL,
    Columns,
    Encoded,
    TaskFields,
    end_to_end,
    limit_of,
)
from bertcompress.heads.gold_answers import check_answers, read_answers
from bertcompress.heads.head import Array, Features, Head, Served
from bertcompress.heads.joining import best_span, joined_windows
from bertcompress.heads.padding import collate_texts, padded_column
from bertcompress.heads.span_answers import (
    END,
    METRICS_OF_SPANS,
    NEVER,
    NOTHING,
    SCORE,
    START,
    THRESHOLD_COLUMN,
    best_blind,
    is_silent,
    probabilities,
    scored,
)
from bertcompress.metrics import Metric
from bertcompress.metrics.thresholds import best_threshold

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

__all__ = ["MOST_TOKENS", "THRESHOLD", "Spans"]

MOST_TOKENS = 30
"""Tokens of an answer at most, as in the reference scripts."""
THRESHOLD = "null_score_diff_threshold"
"""Field of a model's config: a question is left unanswered where the log probability of "no answer"
is larger than the answer's by more than this."""

_CHUNK = 1_000
_PLACES = ("start_positions", "end_positions")
"""The columns of the labels as models of transformers have them."""
_ANSWERABLE = "answerable"
"""Column of a feature: 1 for the tokens of the context and the one that stands for "no answer"."""


@dataclass(frozen=True)
class _Encoded(Encoded):
    """Features, and what turns their tokens into characters of the rows' contexts."""

    contexts: Sequence[str] = ()
    """Shape: (N,)."""
    threshold: float = NEVER
    """Where nothing else is chosen."""


class Spans(Head):
    """Start and end of the answer: cross entropy of both over a window's tokens.

    An answer is first character, end (exclusive), log probability of the span, log probability of
    no answer, and the threshold of their difference. Shape: (N, 5).
    """

    key: ClassVar[str] = "spans"
    reads_unlabelled: ClassVar[bool] = False
    auto_class: ClassVar[str | None] = "ForQuestionAnswering"
    problem_type: ClassVar[str | None] = None
    metrics: ClassVar[Mapping[str, Metric]] = METRICS_OF_SPANS
    usual: ClassVar[tuple[str, ...]] = tuple(metrics)
    has_classes: ClassVar[bool] = False
    one_value: ClassVar[bool] = False
    output_axes: ClassVar[int] = 3
    taught_by_token: ClassVar[bool] = True
    unsettled: ClassVar[str] = (
        "does not say when a question stays without an answer, so that serve.py always gives one; "
        "null_score_diff_threshold in config.json is that setting (`evaluate` takes 0), and a run "
        "on rows without answers chooses it"
    )
    averages: ClassVar[bool] = False  # places in a text
    serves: ClassVar[Served | None] = "span"

    def columns(self, task: TaskFields) -> Columns:
        """Return the columns of question and context, and that of the answers."""
        return Columns(tuple(task.text), task.label, label_form="own")

    def label_feature(self, task: TaskFields) -> Any:
        """Return the type of the answers: their texts, and where they begin in the context."""
        from datasets import List, Value

        return {"text": List(Value("string")), "answer_start": List(Value("int64"))}

    def read_labels(self, where: str, cells: Sequence[Any]) -> list[Any]:
        """Return the answers of a split as `text` and `answer_start`. Raises DataError."""
        read = [read_answers(f"{where}: row {row}", cell) for row, cell in enumerate(cells, 1)]
        if len(read) > 1 and not any(each["text"] for each in read):
            raise DataError(f"{where}: no row has an answer; hidden answers judge nothing")
        return read

    def check_rows(
        self, where: str, texts: Sequence[Sequence[str]], labels: Sequence[Any] | None
    ) -> None:
        """Raise DataError for a row without question or context, and for misplaced answers."""
        if len(texts) != 2:
            raise DataError(f"{where}: `text` names two columns, that of the question first")
        check_answers(where, texts[0], texts[1], labels or [])

    def groups(self, texts: Sequence[Sequence[str]]) -> Sequence[str]:
        """Return the contexts: questions on one context stay together."""
        return texts[1]

    def encode(
        self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, task: TaskFields
    ) -> Encoded:
        """Return the windows of each row; `labels` are the first and last token of the answer.

        Windows without the answer are labelled with the token that stands for "no answer".
        """
        limit = limit_of(tokenizer)
        limit = min(limit, task.max_length or (USUAL if limit == UNBOUNDED else limit))
        contexts, labels = rows["text_pair"][:], rows["label"][:]
        parts: list[tuple[int, Windows]] = []
        for start in range(0, len(rows), _CHUNK):
            some = slice(start, start + _CHUNK)
            made = windows_of(rows["text"][some], contexts[some], tokenizer, limit, STRIDE)
            parts.append((start, made))
        golds = [gold for start, made in parts for gold in _golds(made, labels, start)]
        flat, lengths = end_to_end(_columns([made for _, made in parts]))
        uncut = [length for _, made in parts for length in made.uncut]
        encoded = Encoded.of(
            flat,
            lengths,
            rows,
            [start + row for start, made in parts for row in made.row_of_window],
            cut=sum(made.cut for _, made in parts),
            longest=max(uncut, default=0),
            own={"labels": golds, **dict(zip(_PLACES, zip(*golds, strict=True), strict=False))},
        )
        unanswerable = any(not label["text"] for label in labels)
        threshold = 0.0 if unanswerable else NEVER
        known = {each.name: getattr(encoded, each.name) for each in fields(encoded)}
        return _Encoded(**known, contexts=contexts, threshold=threshold)

    def collate(
        self,
        features: Sequence[Mapping[str, Any]],
        tokenizer: PreTrainedTokenizerBase,
        pad_to_multiple_of: int | None = None,
    ) -> dict[str, Array]:
        """Return features as a padded batch. Shape: tokens (B, T); labels (B, 2).

        Features without `labels`, as a stock `Trainer` has them, keep `start_positions` and
        `end_positions`, (B,) each.
        """
        batch = collate_texts(features, tokenizer, pad_to_multiple_of)
        shape = batch["input_ids"].shape
        widths = np.asarray([len(each["input_ids"]) for each in features])
        ahead = (shape[1] - widths) * (tokenizer.padding_side == "left")
        if _ANSWERABLE in features[0]:
            column = [each[_ANSWERABLE] for each in features]
            batch[_ANSWERABLE] = padded_column(column, shape[1], 0, tokenizer)
        if "labels" in batch:
            batch["labels"] = batch["labels"] + ahead[:, None]
            return batch
        for name in _PLACES:
            if name in features[0]:
                batch[name] = np.asarray([each[name] for each in features], np.int64) + ahead
        return batch

    def width(self, labels: Sequence[str]) -> int:
        """Return 2: start and end."""
        return 2

    def answers(self, outputs: Sequence[Array], encoded: Encoded) -> Array:
        """Return the best span of each row over its windows. Shape: F of (T, 2) -> (N, 5).

        Raises ModelError on NaN and infinity.
        """
        assert isinstance(encoded, _Encoded)
        bad = {
            int(row)
            for row, each in zip(encoded.row_of_feature, outputs, strict=True)
            if not np.isfinite(each).all()
        }
        if bad:
            raise ModelError(
                f"the model answers NaN or infinity for {len(bad)} of {encoded.rows} rows"
            )
        spans: list[list[tuple[float, int, int, float]]] = [[] for _ in range(encoded.rows)]
        for feature, row in enumerate(encoded.row_of_feature.tolist()):
            place = slice(*encoded.offsets[feature : feature + 2].tolist())
            starts, ends = encoded.flat["starts"][place], encoded.flat["ends"][place]
            nothing = int(np.flatnonzero(encoded.flat[_ANSWERABLE][place] & (starts < 0))[0])
            score, first, last, none = best_span(outputs[feature], starts, nothing, MOST_TOKENS)
            spans[row].append((score, max(0, int(starts[first])), max(0, int(ends[last])), none))
        joined = [joined_windows(*each) for each in zip(spans, encoded.contexts, strict=True)]
        found = np.asarray(joined, float).reshape(-1, 4)
        return np.column_stack([found, np.full(len(found), encoded.threshold)])

    def references(self, rows: Dataset) -> Array:
        """Return context, correct texts and the version of the formulas of each row, as objects.

        By version 2.0 of SQuAD where one of these rows has no answer. Shape: (N,).
        """
        golds = [label["text"] for label in rows["label"][:]]
        version = 1 if all(golds) else 2
        found = np.empty(len(golds), object)
        for i, (context, texts) in enumerate(zip(rows["text_pair"][:], golds, strict=True)):
            found[i] = {"context": context, "answers": texts, "version": version}
        return found

    def reference_feature(self) -> Any:
        """Return the type of a reference: context, correct texts and version."""
        from datasets import List, Value

        texts = List(Value("string"))
        return {"context": Value("string"), "answers": texts, "version": Value("int64")}

    def chance(self, labels: Array, metric: Metric) -> float:
        """Return the score of the best answer that reads no question. Shape: references (N,).

        Tried are no answer, and a few words at the front, in the middle and at the end, or all.
        """
        return best_blind(labels, metric)

    def settings_of(self, answers: Array, references: Array) -> dict[str, float]:
        """Return the threshold with the largest F1 on some rows; nothing where all have answers.

        Shape: answers (N, 5), references (N,).
        """
        if all(each["answers"] for each in references):
            return {}
        answered, silent = answers.copy(), answers.copy()
        answered[:, THRESHOLD_COLUMN], silent[:, THRESHOLD_COLUMN] = np.inf, -np.inf
        differences = answers[:, NOTHING] - answers[:, SCORE]
        both = (scored(each, references)[:, 1] for each in (answered, silent))
        return {THRESHOLD: best_threshold(differences, *both)}

    def settings_in(self, config: Any) -> dict[str, float]:
        """Return the threshold of a model's config, if it has one that is a number."""
        chosen: Any = getattr(config, THRESHOLD, None)
        number = isinstance(chosen, (int, float)) and not isinstance(chosen, bool)
        return {THRESHOLD: float(chosen)} if number and np.isfinite(chosen) else {}

    def settled(self, answers: Array, settings: Mapping[str, Any]) -> Array:
        """Return the answers by a threshold that was chosen before. Shape: (N, 5), both."""
        answers = np.array(answers, float)
        if THRESHOLD in settings:  # where every question has an answer, none is left unanswered
            known = answers[:, THRESHOLD_COLUMN] == NEVER
            answers[:, THRESHOLD_COLUMN] = np.where(known, NEVER, settings[THRESHOLD])
        return answers

    def decided(self, metric: Metric, logits: Array) -> Array:
        """Return first character and end of each answer, -1 twice for none. Shape: (N, 5)."""
        answers = np.asarray(logits, float)
        places = answers[:, [START, END]]
        return np.where(is_silent(answers)[:, None], -1.0, places)

    def right(self, metric: Metric, references: Array) -> Array:
        """Return the number of each row: no two rows are judged by the same. Shape: (N,), both."""
        return np.arange(len(references))

    def statistics(self, metric: Metric, answers: Array, references: Array) -> Array:
        """Return what each row adds to a metric. Shape: (N, 5), (N,) -> (N, 2)."""
        found = scored(np.asarray(answers, float), references)
        return metric.statistics(found, found)

    def changed(self, logits: Array, original: Array) -> Array | None:
        """Return which rows are answered with another span. Shape: (N, 5) twice -> (N,)."""
        metric = self.metrics["f1"]
        ours, theirs = self.decided(metric, logits), self.decided(metric, original)
        return np.asarray((ours != theirs).any(axis=1))

    def movement(self, logits: Array, original: Array) -> float:
        """Return a lower bound of the mean KL divergence from the original, in nats.

        It is that of "the original's span, or another one": where another span is best, the
        original's has at most what that one leaves. Shape: (N, 5) twice.
        """
        ours, theirs = (probabilities(each) for each in (logits, original))
        moved = (logits[:, [START, END]] != original[:, [START, END]]).any(axis=1)
        left = np.where(moved, np.minimum(theirs, 1 - ours), ours)
        kept = theirs * np.log(theirs / left)
        return float((kept + (1 - theirs) * np.log((1 - theirs) / (1 - left))).mean())

    def output_movement(self, outputs: Sequence[Array], original: Sequence[Array]) -> float:
        """Return the mean KL divergence of starts and ends over a window's tokens.

        Shape: F of (T, 2), twice.
        """
        from scipy.special import log_softmax

        found = []
        for ours, theirs in zip(outputs, original, strict=True):
            left, right = (log_softmax(np.asarray(each, float), axis=0) for each in (ours, theirs))
            found.append(float((np.exp(right) * (right - left)).sum()) / 2)
        return float(np.mean(found))

    def losses(self, outputs: Tensor, batch: Features) -> Tensor:
        """Return the mean cross entropy of start and end. Shape: (B, T, 2) -> (B,)."""
        from torch.nn import functional

        logits = _masked(outputs, batch, "attention_mask")
        labels = batch["labels"].to(outputs.device)
        return functional.cross_entropy(logits, labels, reduction="none").mean(-1)

    def drawn_losses(
        self, outputs: Tensor, reference: Tensor, batch: Features, generator: torch.Generator
    ) -> Tensor:
        """Return the loss against drawn starts and ends. Shape: (B, T, 2) twice -> (B,)."""
        import torch

        chances = _masked(reference.float(), batch).softmax(1).cpu()
        columns = [column.multinomial(1, generator=generator) for column in chances.unbind(-1)]

        return self.losses(outputs, {**batch, "labels": torch.cat(columns, dim=1)})

    def divergence(
        self, student: Tensor, teacher: Tensor, batch: Features, temperature: float
    ) -> Tensor:
        """Return T^2 times the mean KL divergence of starts and ends, of what may answer.

        Shape: (B, T, 2) twice -> ().
        """
        from torch.nn import functional

        ours, theirs = (
            functional.log_softmax(_masked(each.float() / temperature, batch), 1)
            for each in (student, teacher)
        )
        divergence = functional.kl_div(ours, theirs, reduction="none", log_target=True)
        return divergence.sum(1).mean() * temperature**2

    def labels_of(self, outputs: Tensor, batch: Features) -> Tensor:
        """Return the likeliest start and end of each window. Shape: (B, T, 2) -> (B, 2)."""
        return _masked(outputs, batch).argmax(1)


def _masked(outputs: Tensor, batch: Features, column: str = _ANSWERABLE) -> Tensor:
    """Return outputs without those for tokens that take no part. Shape: (B, T, 2), both.

    In a batch without such a column those for padding are left out.
    """
    import torch

    mask = batch.get(column, batch.get("attention_mask"))
    if mask is None:
        return outputs
    hidden = ~mask.to(outputs.device).bool().unsqueeze(-1)
    return outputs.masked_fill(hidden, torch.finfo(outputs.dtype).min)


def _columns(parts: Sequence[Windows]) -> dict[str, list[Any]]:
    """Return the columns with a value for each token, window by window."""
    found: dict[str, list[Any]] = {}
    for made in parts:
        shown = [starts >= 0 for starts in made.starts]
        for mask, place in zip(shown, made.no_answer, strict=True):
            mask[place] = True
        columns: dict[str, list[Any]] = {
            **made.tokens,
            "starts": made.starts,
            "ends": made.ends,
            _ANSWERABLE: shown,
        }
        for name, values in columns.items():
            found.setdefault(name, []).extend(values)
    return found


def _golds(made: Windows, labels: Sequence[Any], first: int) -> list[list[int]]:
    """Return first and last token of the first correct answer in each window."""
    found = []
    for window, row in enumerate(made.row_of_window):
        label = labels[first + row]
        gold = None
        if label["text"]:
            start = label["answer_start"][0]
            gold = (start, start + len(label["text"][0]))
        place = made.no_answer[window]
        found.append([*gold_tokens(made.starts[window], made.ends[window], gold, place)])
    return found
