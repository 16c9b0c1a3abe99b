"""Texts made of training rows by replacing words, which only a teacher answers.

TinyBERT's data augmentation (Jiao et al. 2020, 1909.10351, algorithm 1): in each of N_a copies of a
row each word is replaced, by a chance of p_t, with one of K candidates. A word of one token is
masked, and its candidates are the most likely words in its place by the masked-LM head of the
checkpoint that the recipe names; for words of several tokens, and for all where no such head was
trained, they are the nearest words in the teacher's embedding table (the paper: GloVe).

As in the authors' code the candidates of a word are looked up once, in the row as it is, and
numbers and punctuation stay. Other than there a word is none of its own candidates, words without
meaning are replaced as well, and white space and case around a replaced word stay as they are.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from bertcompress.data.task_data import TaskData, fingerprint_of
from bertcompress.data.transfer import (
    Augmentation,
    TransferRows,
    check_unlabelled,
    new_texts,
    unlabelled_rows,
    with_transfer,
)
from bertcompress.engines.distillation.candidates import MaskedWords, Neighbours
from bertcompress.engines.distillation.teachers import LiveTeacher
from bertcompress.engines.distillation.whole_words import CutText, Word, cut_texts
from bertcompress.errors import BertCompressError, DataError, ModelError, RecipeError
from bertcompress.method import Context, Teacher
from bertcompress.support.distributed import Ranks
from bertcompress.support.files import write_atomically
from bertcompress.support.progress import bar

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["Augmented", "MadeTexts", "WordReplacer", "made_texts", "with_augmented"]

_CHUNK = 512
"""Rows whose words are looked up together."""
_FILE = "augmented.json"
BY_HEAD, BY_TABLE = "by the masked-LM head", "by neighbours in the teacher's word table"

Edit = tuple[int, int, str]
"""First character of a word, the one behind it, and what stands in its place."""


@dataclass(frozen=True)
class WordReplacer:
    """Where the words of a text are, and what may stand in the place of each."""

    near: Neighbours
    masked: MaskedWords | None = None
    """None: every word has neighbours of the table as its candidates."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer by which a word has one token or several."""
        return self.masked.tokenizer if self.masked else self.near.tokenizer

    def by_head(self, word: Word) -> bool:
        """Return whether the masked-LM head has the candidates of a word."""
        return self.masked is not None and word.token is not None

    def candidates(self, texts: Sequence[CutText], words: Sequence[Word]) -> list[list[str]]:
        """Return what may stand in the place of each word of some texts; empty: nothing may."""
        found: list[list[str]] = [[] for _ in words]
        single = [i for i, word in enumerate(words) if self.by_head(word)]
        others = [i for i, word in enumerate(words) if not self.by_head(word)]
        if self.masked is not None:
            answers = self.masked(texts, [words[i] for i in single])
            for i, answer in zip(single, answers, strict=True):
                found[i] = answer
        for i, answer in zip(others, self.near([words[i].written for i in others]), strict=True):
            found[i] = answer
        return found


@dataclass
class MadeTexts:
    """Copies of rows with words replaced: all copies of a row follow each other."""

    texts: list[tuple[str, ...]] = field(default_factory=list)
    words: list[list[str]] = field(default_factory=list)
    """The lists of words, where rows are such lists."""
    seen: int = 0
    """Words of all copies."""
    replaced: Counter[str] = field(default_factory=Counter)
    """How many of them were replaced, by where their candidates come from."""


def made_texts(
    rows: Dataset, asked: Augmentation, replacer: WordReplacer, seed: int = 0
) -> MadeTexts:
    """Return copies of rows with words replaced, in the order of the rows.

    `rows`: `text`, `text_pair` (pairs) and `words` (lists of words), as the splits of a task have
    them. The same rows and seed give the same texts.
    """
    made, draw = MadeTexts(), np.random.default_rng([seed, 3])
    names = [name for name in ("text", "text_pair") if name in rows.column_names]
    starts = range(0, len(rows), _CHUNK)
    for start in bar(starts, "texts with words replaced", len(starts)):
        part = rows[start : start + _CHUNK]
        texts = [text for row in zip(*(part[name] for name in names), strict=True) for text in row]
        cut = cut_texts(texts, replacer.tokenizer)
        copies = _copies(cut, asked, replacer, draw, made)
        for row in range(len(part[names[0]])):
            places = range(row * len(names), (row + 1) * len(names))
            for edits in copies:
                made.texts.append(tuple(_spliced(texts[i], edits[i]) for i in places))
                if "words" in part:
                    made.words.append(_spliced_words(part["words"][row], edits[places[0]]))
    return made


def _copies(
    texts: Sequence[CutText],
    asked: Augmentation,
    replacer: WordReplacer,
    draw: np.random.Generator,
    made: MadeTexts,
) -> list[list[list[Edit]]]:
    """Return for each copy what is replaced in each text, and count it."""
    words = [word for text in texts for word in text.words]
    chosen = draw.random((asked.copies, len(words))) < asked.probability
    picks = draw.random(chosen.shape)
    needed: list[int] = np.flatnonzero(chosen.any(axis=0)).tolist()
    found = replacer.candidates(texts, [words[i] for i in needed])
    candidates = dict(zip(needed, found, strict=True))
    made.seen += chosen.size
    for i, count in zip(needed, chosen[:, needed].sum(axis=0).tolist(), strict=True):
        if candidates[i]:
            made.replaced[BY_HEAD if replacer.by_head(words[i]) else BY_TABLE] += count
    return [
        _edits(len(texts), words, np.flatnonzero(row), picked, candidates)
        for row, picked in zip(chosen, picks, strict=True)
    ]


def _edits(
    texts: int,
    words: Sequence[Word],
    chosen: NDArray[np.int64],
    picks: NDArray[np.float64],
    candidates: Mapping[int, Sequence[str]],
) -> list[list[Edit]]:
    """Return what is replaced in each text of one copy. Shape: picks (words,), 0 to 1."""
    edits: list[list[Edit]] = [[] for _ in range(texts)]
    for i in chosen.tolist():
        word, allowed = words[i], candidates[i]
        if allowed:
            picked = allowed[int(picks[i] * len(allowed))]
            edits[word.text].append((word.start, word.end, picked))
    return edits


def _spliced(text: str, edits: Sequence[Edit]) -> str:
    parts, at = [], 0
    for start, end, new in edits:
        parts += [text[at:start], new]
        at = end
    return "".join([*parts, text[at:]])


def _spliced_words(words: Sequence[str], edits: Sequence[Edit]) -> list[str]:
    """Return a list of words; edits are of their text, which has a blank between two of them."""
    made, start = [], 0
    for word in words:
        end = start + len(word)
        own = [(a - start, b - start, new) for a, b, new in edits if start <= a and b <= end]
        made.append(_spliced(word, own))
        start = end + 1
    return made


@dataclass(frozen=True)
class Augmented:
    """Texts made of training rows, none of which is reported, chosen by or trained on already."""

    rows: TransferRows
    seconds: float
    """That making them took."""


def with_augmented(
    asked: Augmentation | None,
    ctx: Context,
    teacher: Teacher | None,
    student: PreTrainedTokenizerBase | None = None,
) -> tuple[Context, Augmented | None]:
    """Return a context with the texts that a method makes of training rows; None: it makes none.

    They join its transfer text, which the context's teacher answers. They are made once for a
    stage, by one process, and kept in the context's `workdir`.

    Args:
        asked: How many, and of which words.
        ctx: Of the stage.
        teacher: The model whose word table has the neighbours.
        student: The tokenizer of what is trained. Where it has some of the teacher's tokens alone,
            as after trimming, words are replaced by these, and texts that it cuts otherwise are
            left out: states of tokens can be compared then.

    Raises:
        TaskError: Rows of this task cannot be read without labels.
        RecipeError: The teacher's model is not at hand.
        ModelError: A tokenizer is a slow one.
        DataError: No text is new.
    """
    if asked is None or teacher is None:
        return ctx, None
    check_unlabelled(ctx.task, "augment")
    if not isinstance(teacher, LiveTeacher) or teacher.tokenizer is None:
        raise RecipeError("augment: needs a teacher whose model is at hand, not its answers alone")
    made = _made_once(asked, ctx, teacher, student)
    models = ctx.models
    if isinstance(models.teacher, LiveTeacher) and models.teacher.data is not None:
        theirs = with_transfer(models.teacher.data, made.rows)
        models = replace(models, teacher=models.teacher.reading(theirs))
    return replace(ctx, data=with_transfer(ctx.data, made.rows), models=models), made


def _made_once(
    asked: Augmentation,
    ctx: Context,
    teacher: LiveTeacher,
    student: PreTrainedTokenizerBase | None,
) -> Augmented:
    """Return the texts of a stage: those that an interrupted run has made, or new ones."""
    ranks, path = Ranks(), ctx.workdir / _FILE
    told = f"{asked.model_dump_json()} {ctx.data.fingerprint} {ctx.seed}"
    mark = hashlib.sha256(told.encode()).hexdigest()
    refused: BertCompressError | None = None
    if ranks.main and _read(path, mark) is None:
        try:
            made = _make(asked, ctx, teacher, student)
            with write_atomically(path) as partial:
                partial.write_text(json.dumps({"mark": mark, **made}), encoding="utf-8")
        except BertCompressError as error:
            refused = error
    if words := ranks.agree(refused and str(refused)):
        raise refused or ModelError(words)
    stored = _read(path, mark)
    assert stored is not None, path
    rows = unlabelled_rows(ctx.data, stored["columns"])
    fingerprint = fingerprint_of(replace(ctx.data, transfer=rows))
    return Augmented(TransferRows(rows, stored["words"], fingerprint), stored["seconds"])


def _read(path: Path, mark: str) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return stored if stored["mark"] == mark else None


def _make(
    asked: Augmentation,
    ctx: Context,
    teacher: LiveTeacher,
    student: PreTrainedTokenizerBase | None,
) -> dict[str, Any]:
    """Return the columns of the new rows, what the report says of them, and the seconds."""
    start = time.perf_counter()
    assert teacher.tokenizer is not None
    trimmed = student if student and _is_trimmed(student, teacher.tokenizer) else None
    among = None if trimmed is None else frozenset(trimmed.get_vocab())
    near = Neighbours(teacher.model, teacher.tokenizer, asked.candidates, ctx.device, among)
    product = ctx.models.open_masked_lm()
    masked = MaskedWords(product, asked.candidates, ctx.device, among) if product else None
    made = made_texts(ctx.data.train, asked, WordReplacer(near, masked), ctx.seed)
    new, left = new_texts(made.texts, ctx.data)
    kept = new.tolist()
    if trimmed is not None:
        alike = _cut_alike(trimmed, teacher.tokenizer, [made.texts[i] for i in kept])
        lost = len(kept) - sum(alike)
        left += [f"{lost:,} that the trimmed vocabulary cuts otherwise"] if lost else []
        kept = [i for i, same in zip(kept, alike, strict=True) if same]
    if not kept:
        raise DataError(
            f"augment: none of {len(made.texts):,} texts made of the training rows of "
            f"'{ctx.task.name}' is new"
        )
    words = _words(asked, ctx.data, made, len(kept), left, masked is not None)
    return {
        "columns": _columns(made, kept),
        "words": words,
        "seconds": time.perf_counter() - start,
    }


def _columns(made: MadeTexts, kept: Sequence[int]) -> dict[str, list[Any]]:
    """Return the columns of some of the texts, by the names that they have in a task's splits."""
    names = ("text", "text_pair")[: len(made.texts[0])]
    columns: dict[str, list[Any]] = {
        name: [made.texts[i][place] for i in kept] for place, name in enumerate(names)
    }
    if made.words:
        columns["words"] = [made.words[i] for i in kept]
    return columns


def _is_trimmed(student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase) -> bool:
    """Return whether a tokenizer has some of the tokens of another one, and no others."""
    return student.get_vocab().keys() < teacher.get_vocab().keys()


def _cut_alike(
    student: PreTrainedTokenizerBase,
    teacher: PreTrainedTokenizerBase,
    texts: Sequence[tuple[str, ...]],
) -> list[bool]:
    """Return which rows both tokenizers cut into the same tokens, whatever their numbers."""
    flat = [text for row in texts for text in row]
    cut = []
    for tokenizer in (student, teacher):
        ids: Any = tokenizer(flat, truncation=False, padding=False, verbose=False)["input_ids"]
        cut.append([tokenizer.convert_ids_to_tokens(row) for row in ids])
    same = iter([ours == theirs for ours, theirs in zip(*cut, strict=True)])
    return [all([next(same) for _ in row]) for row in texts]


def _words(
    asked: Augmentation, data: TaskData, made: MadeTexts, kept: int, left: list[str], head: bool
) -> str:
    """Return what the report says of the texts, but for the seconds that they took."""
    share = sum(made.replaced.values()) / max(1, made.seen)
    by = [f"{made.replaced[how]:,} {how}" for how in (BY_HEAD, BY_TABLE) if made.replaced[how]]
    none = "" if head else "; the checkpoint has no trained masked-LM head"
    gone = f"; left out: {', '.join(left)}" if left else ""
    return (
        f"augmented text: {kept:,} rows made of {len(data.train):,} training rows, {asked.copies} "
        f"of each, that the teacher alone answers ({share:.1%} of their words replaced: "
        f"{' and '.join(by)}{none}{gone})"
    )
