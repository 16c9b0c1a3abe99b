"""What a model answers with, in words, and which heads a task can be judged by."""

from __future__ import annotations

from typing import Any

from bertcompress.errors import ModelError
from bertcompress.heads.head import Head

__all__ = ["BARE", "check_head", "check_one_output", "has_head", "head_words", "read_as"]

BARE = "Model"
"""End of the name of a stock class without a head."""

_TRAINED = {
    "ForSequenceClassification": "answers for whole texts",
    "ForTokenClassification": "answers for each token",
    "ForQuestionAnswering": "answers with a span of the text",
    "ForMultipleChoice": "chooses among several texts",
}
"""Heads that somebody trained for a task."""

_PRETRAINED = {
    "ForMaskedLM": "fills in masked words",
    "ForPreTraining": "is pretrained only",
    "ForNextSentencePrediction": "is pretrained only",
    "Model": "has no head",
}


def has_head(cls: type, head: Head | None = None) -> bool:
    """Return whether a model class answers as a head needs it, any class for the bare encoder.

    `head`: None where it is not known yet; then whether it was trained for some task.
    """
    if head is None:
        return cls.__name__.endswith(tuple(_TRAINED))
    return head.auto_class is None or cls.__name__.endswith(head.auto_class)


def read_as(head: Head | None) -> str | None:
    """Return the class that a checkpoint is read as for a head; None: its own."""
    return BARE if head is not None and head.auto_class is None else None


def head_words(cls: type) -> str:
    """Return what a model of a class does instead of answering for whole texts, in words."""
    name = cls.__name__
    does = {**_TRAINED, **_PRETRAINED}
    words = next((words for end, words in does.items() if name.endswith(end)), "has another head")
    return f"a {name}, which {words}"


def check_head(cls: type, head: Head, name: str) -> None:
    """Raise ModelError for a model whose head was trained for another kind of task.

    A run would have to throw it away.
    """
    if has_head(cls, head) or not has_head(cls):
        return
    raise ModelError(
        f"model '{name}': {head_words(cls)}; a {head.key} task needs one that ends in "
        f"{head.auto_class}, and a run throws no trained head away. Name the task that it was "
        "trained for (`problem`); export, bench and inspect take it as it is, and prune_heads, "
        "prune_neurons and prune_layers do in Python; to start anew from its encoder: "
        "model.base_model.save_pretrained(folder)"
    )


def check_one_output(config: Any, task: Any, name: str) -> None:
    """Raise ModelError for a model with one output on a task of classes: what is meant is unknown.

    `task`: as resolved, with its problem and labels.
    """
    if not (task.head.has_order and int(config.num_labels) == 1):
        return
    classes = len(task.labels or ())
    if classes != 2:
        raise ModelError(
            f"model '{name}': one output, and task '{task.name}' has {classes} classes: its head "
            "is for another task"
        )
    raise ModelError(
        f"model '{name}': one output, and task '{task.name}' has the two classes "
        f"{' and '.join(task.labels)}: a cross-encoder, whose score nothing here replaces. Set "
        "`problem: regression` in the task to keep the score and judge how it ranks (labels 0 and "
        "1 are its targets); to train two classes instead, give the encoder without its head: "
        "model.base_model.save_pretrained(folder)"
    )
