"""Whether a cheaper version of a model answers as the model does, where there are no rows to ask.

Both answer to random tokens of natural lengths, the ones that `verify` replays, one text at a time.
Nobody knows the right answers, so that nothing is scored: it is how far the answers moved, and how
many decisions changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bertcompress.deployment import Product
from bertcompress.engines.pruning.importance import head_of
from bertcompress.engines.quantization.accuracy_gate import LARGE_DIVERGENCE, Attempt
from bertcompress.heads import HEADS, Head
from bertcompress.measure.known_answers import known_inputs
from bertcompress.measure.scores import flips
from bertcompress.models.io import max_tokens
from bertcompress.runtimes import Batch, Logits, Predictor
from bertcompress.runtimes.onnx.export import task_of
from bertcompress.runtimes.torch import TorchPredictor

__all__ = ["Likeness", "likeness"]

CHOICES = 4
"""Texts that make one row of a multiple choice."""
CHANGED, APART = 0.1, 0.25
"""A version is also too far where so many decisions change, and what tells the rows apart is off by
so much of its variance: answers near a tie, as of a head that was hardly trained, diverge little
whatever they are. Healthy int8 was off by 0.13 at most (MiniLM on MRPC, tiny models), spoiled by
one channel by 0.5 and more."""
LARGE_HIDDEN_DIVERGENCE = 0.1
"""The limit of `movement` for the hidden states of single tokens: healthy MiniLM is at 0.03."""
IMPOSSIBLE = -1e4
"""The logit of a place that a text does not have."""


@dataclass(frozen=True)
class Likeness:
    """Compares versions with the original by their answers to random tokens."""

    batches: tuple[Batch, ...]
    """One text each, without padding; choices have that of their longest."""
    stack: Callable[[Sequence[Logits]], Logits]
    """Makes rows of decisions from the answers. Shape: (1, ...) each -> (N, K)."""
    head: Head
    """What such a row answers."""
    original: Logits
    """Rows of the original. Shape: (N, K)."""
    limit: float = LARGE_DIVERGENCE
    """Beyond this, by `Head.movement`, answers have moved far."""

    def judge(
        self, predictor: Predictor, options: Mapping[str, Any], kept: Sequence[str] = ()
    ) -> Attempt:
        """Return how a version stands to the original; `drop` is the share of changed decisions.

        Of numbers nothing is decided: there it is how far they moved.
        """
        rows = self.stack([predictor(batch) for batch in self.batches])
        if not np.isfinite(rows).all():
            return Attempt.failed(options, kept, "it answers with infinities or NaN")
        far = self.head.movement(rows, self.original)
        changed = flips(rows, self.original, self.head)
        drop = far if changed is None else changed
        near = far <= self.limit and not (drop > CHANGED and _apart(rows, self.original) > APART)
        told = "compared by numbers" if changed is None else f"{changed:.1%} of decisions change"
        return Attempt(
            dict(options), tuple(kept), drop, 0.0, far, passes=near, allowed=near, told=told
        )

    def rows(self) -> list[dict[str, Tensor]]:
        """Return what modules can be rounded on one at a time; nothing for answers per token."""
        if self.stack is not _rows:
            return []
        return [{n: torch.from_numpy(v) for n, v in batch.items()} for batch in self.batches]


def likeness(product: Product) -> Likeness:
    """Return what compares versions with a product; ModelError for a head that is not exported."""
    head = task_of(product.model)
    batches, stack = _HEADS[head]
    texts = tuple(batches(known_inputs(product.tokenizer, max_tokens(product.model))))
    hidden = head == "feature-extraction"
    answered = HEADS["regression" if hidden else "single_label"]
    if head == "text-classification":
        answered = head_of(product.model)
    predictor = TorchPredictor(product.model)
    original = stack([predictor(text) for text in texts])
    return Likeness(
        texts, stack, answered, original, LARGE_HIDDEN_DIVERGENCE if hidden else LARGE_DIVERGENCE
    )


def _apart(rows: Logits, original: Logits) -> float:
    """Return the mean square of what is off over the variance between rows. Shape: both (N, K)."""
    ours, theirs = (each - each.mean(axis=1, keepdims=True) for each in (rows, original))
    spread = float(np.square(theirs - theirs.mean(axis=0)).mean())
    return float(np.square(ours - theirs).mean()) / max(spread, 1e-12)


def _texts(inputs: Batch) -> Iterator[Batch]:
    """Yield each text alone. Shape: (1, T) each."""
    for i, length in enumerate(inputs["attention_mask"].sum(axis=1)):
        yield {name: value[i : i + 1, :length] for name, value in inputs.items()}


def _few(inputs: Batch) -> Iterator[Batch]:
    """Yield some of the texts: a row of answers is as wide as the vocabulary."""
    return islice(_texts(inputs), 0, None, 8)


def _choices(inputs: Batch) -> Iterator[Batch]:
    """Yield texts of like length as the choices of one row. Shape: (1, CHOICES, T) each."""
    for i in range(0, len(inputs["input_ids"]), CHOICES):
        part = {name: value[None, i : i + CHOICES] for name, value in inputs.items()}
        longest = int(part["attention_mask"].sum(axis=-1).max())
        yield {name: value[..., :longest] for name, value in part.items()}


def _rows(answers: Sequence[Logits]) -> Logits:
    """Shape: (1, K) each -> (N, K)."""
    return np.concatenate(answers)


def _tokens(answers: Sequence[Logits]) -> Logits:
    """Shape: (1, T, K) each -> (all tokens, K)."""
    return np.concatenate([each[0] for each in answers])


def _ends(answers: Sequence[Logits]) -> Logits:
    """Return where answers start and where they end. Shape: (1, T, 2) each -> (2 N, longest T)."""
    longest = max(each.shape[1] for each in answers)
    rows = np.full((len(answers), 2, longest), IMPOSSIBLE, np.float32)
    for row, each in zip(rows, answers, strict=True):
        row[:, : each.shape[1]] = each[0].T
    return rows.reshape(-1, longest)


_HEADS: dict[str, tuple[Callable[[Batch], Iterator[Batch]], Callable[..., Logits]]] = {
    "text-classification": (_texts, _rows),
    "multiple-choice": (_choices, _rows),
    "token-classification": (_texts, _tokens),
    "question-answering": (_texts, _ends),
    "fill-mask": (_few, _tokens),
    "feature-extraction": (_texts, _tokens),
}
"""Of each head: what to ask it, and how to make rows of its answers."""
