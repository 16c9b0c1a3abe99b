"""Whether two tokenizers read texts alike: states of tokens are compared only then."""

from __future__ import annotations

from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from bertcompress.data import TaskData
from bertcompress.errors import ModelError
from bertcompress.heads.pooling import Pooling

__all__ = ["not_aligned", "other_prompts", "same_pieces", "same_tokens"]

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


def not_aligned(named: str) -> ModelError:
    """Return the error of a term that compares tokens which do not align; `named`: its weight."""
    return ModelError(
        "distilling hidden states: student and teacher have different vocabularies or prompts and "
        f"cut the texts differently, so their tokens do not align; set {named} to 0 (logits need "
        "no alignment)"
    )
