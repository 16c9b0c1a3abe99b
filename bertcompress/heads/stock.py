"""What a model answers with, in words, and which heads a task can be judged by."""

from __future__ import annotations

from typing import Any

from bertcompress.errors import ModelError

__all__ = ["check_one_output", "head_words", "is_classifier", "keeps_its_head"]

CLASSIFIER = "ForSequenceClassification"

_TRAINED = {
    "ForTokenClassification": "answers for each token",
    "ForQuestionAnswering": "answers with a span of the text",
    "ForMultipleChoice": "chooses among several texts",
}
"""Heads of other tasks, which somebody trained."""

_PRETRAINED = {
    "ForMaskedLM": "fills in masked words",
    "ForPreTraining": "is pretrained only",
    "ForNextSentencePrediction": "is pretrained only",
    "Model": "has no head",
}


def is_classifier(cls: type) -> bool:
    """Return whether a model class gives one row of numbers for each text."""
    return cls.__name__.endswith(CLASSIFIER)


def head_words(cls: type) -> str:
    """Return what a model of a class does instead of answering for whole texts, in words."""
    name = cls.__name__
    does = {**_TRAINED, **_PRETRAINED}
    words = next((words for end, words in does.items() if name.endswith(end)), "has another head")
    return f"a {name}, which {words}"


def keeps_its_head(cls: type) -> bool:
    """Return whether the head was trained for a task that is not one of texts: never replaced."""
    return cls.__name__.endswith(tuple(_TRAINED))


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
