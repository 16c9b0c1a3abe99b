"""Windows of a question and a context: where the context begins, what may answer, where gold is.

A context longer than a window is cut into windows that overlap; the question stands whole in each.
As the reference scripts of transformers do it (`run_qa.py`), with what they leave out: questions
that hardly leave room for a context.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bertcompress.errors import ModelError
from bertcompress.heads.features import TOKENS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["STRIDE", "Windows", "gold_tokens", "windows_of"]

STRIDE = 128
"""Tokens of a context that two windows share, or half a window's room for it if that is less."""
_LEAST = 4
"""A question leaves this part (1 / 4) of a window to the context, or it is cut."""

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Windows:
    """The windows of some rows, in the order of the rows. W windows, T tokens of one of them."""

    tokens: dict[str, list[Ints]]
    """The columns that a model reads. Shape: W of (T,)."""
    starts: list[Ints]
    """Where each token begins in the context, in characters; -1 outside of it. Shape: W of (T,)."""
    ends: list[Ints]
    """Where it ends, exclusive."""
    no_answer: list[int]
    """Position of the token that stands for "no answer" in each window: CLS."""
    row_of_window: list[int]
    uncut: list[int]
    """Tokens that each row would have in a single window. Shape: one for each row."""
    cut: int
    """How many rows have a question that was cut."""


def windows_of(
    questions: Sequence[str],
    contexts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    stride: int = STRIDE,
) -> Windows:
    """Return the windows of questions and their contexts, at most `length` tokens each.

    Only the context is cut, and every token of it is in a window. Where the tokenizer pads on the
    left, the context comes first, as in the reference scripts. A question that leaves less than a
    quarter of a window to the context loses its end.

    Raises ModelError for a tokenizer that does not say where its tokens stand in a text.
    """
    if not tokenizer.is_fast:
        raise ModelError(
            f"{type(tokenizer).__name__} is a slow tokenizer, which does not say where its tokens "
            "stand in a context; spans need a fast one (tokenizer.json)"
        )
    special = tokenizer.num_special_tokens_to_add(pair=True)
    asked, cut = _fitting(questions, tokenizer, length - special - max(1, length // _LEAST))
    rooms = [length - special - len(ids) for ids in _ids(asked, tokenizer)]
    made = Windows({}, [], [], [], [], [0] * len(asked), cut)
    # Rows that take the same stride are tokenized together, then put in order.
    strides = np.asarray([min(stride, room // 2) for room in rooms], int)
    encodings: list[list[Any]] = [[] for _ in asked]
    for step in np.unique(strides):
        rows = np.flatnonzero(strides == step).tolist()
        for row, found in zip(
            rows, _windows(asked, contexts, rows, tokenizer, length, int(step)), strict=True
        ):
            encodings[row] = found
    for row, each in enumerate(encodings):
        _add(made, row, each, tokenizer, int(strides[row]))
    return made


def _ids(texts: Sequence[str], tokenizer: Any) -> list[list[int]]:
    if not len(texts):
        return []
    found: list[list[int]] = tokenizer(list(texts), add_special_tokens=False, verbose=False)[
        "input_ids"
    ]
    return found


def _fitting(
    questions: Sequence[str], tokenizer: PreTrainedTokenizerBase, most: int
) -> tuple[list[str], int]:
    """Return the questions with at most so many tokens each, and how many were cut."""
    kept = list(questions)
    long = [i for i, ids in enumerate(_ids(kept, tokenizer)) if len(ids) > most]
    for i in long:
        offsets: Any = tokenizer(
            kept[i], add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )["offset_mapping"]
        kept[i] = kept[i][: offsets[max(0, most - 1)][1]]
    return kept, len(long)


def _windows(
    questions: Sequence[str],
    contexts: Sequence[str],
    rows: Sequence[int],
    tokenizer: Any,
    length: int,
    stride: int,
) -> list[list[Any]]:
    """Return the encodings of the windows of some rows, a list for each row."""
    first, second = [questions[i] for i in rows], [contexts[i] for i in rows]
    left = tokenizer.padding_side == "left"
    made = tokenizer(
        *((second, first) if left else (first, second)),
        truncation="only_first" if left else "only_second",
        max_length=length,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_attention_mask=True,
        verbose=False,
    )
    found: list[list[Any]] = [[] for _ in rows]
    names = [name for name in TOKENS if name in made]
    for window, row in enumerate(made["overflow_to_sample_mapping"]):
        tokens = {name: np.asarray(made[name][window], np.int64) for name in names}
        found[row].append((made.encodings[window], tokens))
    return found


def _add(made: Windows, row: int, windows: Sequence[Any], tokenizer: Any, stride: int) -> None:
    """Add the windows of a row to those of the rows before it, in place."""
    context = 0 if tokenizer.padding_side == "left" else 1
    for encoding, tokens in windows:
        inside = np.asarray([each == context for each in encoding.sequence_ids], bool)
        offsets = np.asarray(encoding.offsets, np.int64).reshape(-1, 2)
        starts, ends = (np.where(inside, column, -1) for column in offsets.T)
        for name, values in tokens.items():
            made.tokens.setdefault(name, []).append(values)
        made.starts.append(starts)
        made.ends.append(ends)
        made.no_answer.append(_no_answer(tokens["input_ids"], inside, tokenizer))
        made.row_of_window.append(row)
    repeated = (len(windows) - 1) * (stride + int((~inside).sum()))
    made.uncut[row] = sum(len(ids["input_ids"]) for _, ids in windows) - repeated


def _no_answer(ids: Ints, inside: NDArray[np.bool_], tokenizer: Any) -> int:
    """Return the place of CLS, or of the first token outside of the context where there is none."""
    cls = -1 if tokenizer.cls_token_id is None else tokenizer.cls_token_id
    found = np.flatnonzero((ids == cls) & ~inside)
    return int(found[0]) if len(found) else int(np.argmin(inside))


def gold_tokens(
    starts: Ints, ends: Ints, gold: tuple[int, int] | None, no_answer: int
) -> tuple[int, int]:
    """Return the first and last token of a correct answer in a window.

    It is the token that stands for "no answer" where there is none, or where the window does not
    hold all of it. `gold`: first character in the context, and the end, exclusive. Shape: (T,).
    """
    inside = np.flatnonzero((starts >= 0) & (ends > starts))
    if gold is None or not len(inside):
        return no_answer, no_answer
    begin, end = gold
    if starts[inside[0]] > begin or ends[inside[-1]] < end:
        return no_answer, no_answer
    # A character may be several tokens: of those the first begins the answer, the last ends it.
    begin = starts[inside][np.searchsorted(starts[inside], begin, side="right") - 1]
    end = ends[inside][np.searchsorted(ends[inside], end, side="left")]
    first = inside[np.searchsorted(starts[inside], begin, side="left")]
    last = inside[np.searchsorted(ends[inside], end, side="right") - 1]
    return int(first), int(max(first, last))
