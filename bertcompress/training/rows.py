"""The rows that a training goes over, in which order, and how many batches they are."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch.utils.data import ConcatDataset
from transformers import PreTrainedTokenizerBase

from bertcompress.data import TaskData
from bertcompress.errors import InputError
from bertcompress.heads.features import numbers_of
from bertcompress.training.settings import TrainSettings
from bertcompress.training.steps import LengthGrouped, WithTransfer

__all__ = ["epoch_batches", "rows_to_train_on"]


def rows_to_train_on(
    data: TaskData,
    tokenizer: PreTrainedTokenizerBase,
    settings: TrainSettings,
    seed: int = 0,
    learns_unlabelled: bool = False,
) -> tuple[Any, Callable[[], LengthGrouped]]:
    """Return the features, those of transfer text after the labelled ones, and what orders them.

    Rows without labels are left out where the objective learns nothing of them. Raises DataError
    where none is left, InputError for batches that split a pair beside transfer text.
    """
    train, together = data.encode(tokenizer, "train"), data.task.head.features_a_row
    if not learns_unlabelled:
        train = data.task.head.labelled(train)
    lengths = numbers_of(train, "length")
    size = settings.batch_size
    if data.transfer is None or not learns_unlabelled:
        return train, lambda: LengthGrouped(lengths, size, seed, together)
    if size % together:
        raise InputError(
            f"batch_size: {size} texts split a pair, and with transfer text no batch may hold "
            "parts of both; give an even number"
        )
    more = data.encode(tokenizer, "transfer")
    others = numbers_of(more, "length")
    return ConcatDataset([train, more]), lambda: WithTransfer(lengths, others, size, seed, together)


def epoch_batches(
    data: TaskData,
    tokenizer: PreTrainedTokenizerBase,
    settings: TrainSettings,
    learns_unlabelled: bool = False,
) -> int:
    """Return the batches of one pass of `fit` over its rows, over all processes together.

    `learns_unlabelled`: as the objective says. Raises as `rows_to_train_on`.
    """
    _, sampler = rows_to_train_on(data, tokenizer, settings, 0, learns_unlabelled)
    return math.ceil(len(sampler()) / settings.batch_size)
