"""Whether two tokenizers read texts alike: states of tokens are compared only then."""

from __future__ import annotations

from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from bertcompress.data import TaskData
from bertcompress.deployment import Product
from bertcompress.errors import ModelError
from bertcompress.heads.pooling import Pooling
from bertcompress.models.tokenizers import position_limit

__all__ = [
    "answers_not_aligned",
    "check_aligned",
    "not_aligned",
    "other_prompts",
    "reads_alike",
    "same_pieces",
    "same_tokens",
]

_PIECE = 1_000_000
_PROBE = "Don't ÜBERSEE the naïve 42-year-old's co-operation: 3.14 € [MASK] 東京!"


def same_tokens(first: PreTrainedTokenizerBase, second: PreTrainedTokenizerBase) -> bool:
    """Return whether two tokenizers make the same batch of a text and of a pair of texts.

    So that a model of the one reads a batch of the other as it would read its own: the same tokens
    with the same numbers, in the same columns. A tokenizer that tells no segments apart differs
    from one that does.
    """
    if first is second:
        return True
    if first.get_vocab() != second.get_vocab():
        return False
    # The same vocabulary may still be applied differently: lower case, accents, special tokens.
    return all(dict(first(*texts)) == dict(second(*texts)) for texts in ([_PROBE], [_PROBE] * 2))


def other_prompts(model: Any, data: TaskData) -> Pooling | None:
    """Return the pooling of an embedder that puts other prompts before texts than these rows have.

    None where it does not, and for every other model.
    """
    own, ours = Pooling.of(model.config), data.task.pooling
    return own if own is not None and ours is not None and not own.reads_like(ours) else None


def reads_alike(model: Any, theirs: TaskData | None, ours: TaskData) -> bool:
    """Return whether a teacher's rows are cut as these are, and have the same prompts.

    `theirs`: the rows as it reads them; None where it answers for batches of these.
    """
    if theirs is not None and theirs.task.max_length != ours.task.max_length:
        return False
    return model is None or other_prompts(model, ours) is None


def check_aligned(
    teacher: Product, tokenizer: PreTrainedTokenizerBase, data: TaskData, refused: ModelError
) -> None:
    """Raise ModelError where a teacher has not the tokens of a student.

    `tokenizer`: the student's, which reads `data`. `refused`: raised where the two cut these texts
    otherwise.
    """
    limit, longest = position_limit(teacher.model.config), data.task.max_length or 0
    if limit < longest:
        raise ModelError(
            f"teacher: reads at most {limit} tokens, and these texts have up to {longest}, so it "
            f"has no answer to the last ones; set max_length to at most {limit}, or learn what "
            "needs no alignment (logits of whole texts)"
        )
    prompted = other_prompts(teacher.model, data) is not None
    if not prompted and same_tokens(teacher.tokenizer, tokenizer):
        return
    if prompted or not same_pieces(teacher.tokenizer, tokenizer, data):
        raise refused


def same_pieces(
    first: PreTrainedTokenizerBase,
    second: PreTrainedTokenizerBase,
    data: TaskData,
    split: str = "train",
) -> bool:
    """Return whether two tokenizers cut these texts into the same tokens, whatever their numbers.

    So does one whose vocabulary was trimmed to the tokens of the texts.
    """
    one, two = data.encoded(first, split), data.encoded(second, split)
    if not np.array_equal(one.offsets, two.offsets):
        return False
    number, known = second.get_vocab(), first.get_vocab()
    renumbered = np.full(1 + max(known.values()), -1)
    for token, i in known.items():
        renumbered[i] = number.get(token, -1)
    mine, theirs = one.flat["input_ids"], two.flat["input_ids"]
    return all(
        np.array_equal(renumbered[mine[start : start + _PIECE]], theirs[start : start + _PIECE])
        for start in range(0, len(mine), _PIECE)
    )


def answers_not_aligned(head: str) -> ModelError:
    """Return the error of answers token by token that do not align; `head`: key of the task's."""
    return ModelError(
        f"distilling: a {head} task answers token by token, and student and teacher cut the texts "
        "differently; set logit_weight to 0, or take a teacher of the same tokenizer"
    )


def not_aligned(named: str) -> ModelError:
    """Return the error of a term that compares tokens which do not align; `named`: its weight."""
    return ModelError(
        "distilling hidden states: student and teacher have different vocabularies or prompts and "
        f"cut the texts differently, so their tokens do not align; set {named} to 0 (logits need "
        "no alignment)"
    )
