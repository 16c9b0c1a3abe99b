"""Single texts padded to one of a few lengths, so that a runtime need not prepare for each new one.

A runtime that compiles or plans for the length of a text pays when it meets one first: a fresh
server answers several times slower than later. Where only a few lengths ever reach it, all of that
is over once the model is open. Which modes a runtime offers is in `Runtime.serving`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from bertcompress.models.config_fields import read_fields_of
from bertcompress.runtimes import Batch, Logits, Predictor

__all__ = ["BucketPredictor", "bucket_lengths", "example", "pad_to", "padding_id", "text_limit"]

SHORTEST = 16
"""Tokens of the first bucket."""
UNKNOWN = 512
"""Tokens of the longest text of a model whose config tells none."""


def bucket_lengths(longest: int, limit: int) -> tuple[int, ...]:
    """Return 16, 32, 64 ... up to the first that holds the longest text, or up to the limit."""
    lengths, length = [], SHORTEST
    while length < min(longest, limit):
        lengths.append(length)
        length *= 2
    return (*lengths, min(length, limit))


def text_limit(folder: Path) -> int:
    """Return the tokens of the longest text that the model in a folder takes, by its config.json.

    512 where there is none, or none that tells. Raises ModelError for one that cannot be read.
    """
    if not (folder / "config.json").is_file():
        return UNKNOWN
    # They need torch, which whoever knows the limit does without.
    from bertcompress.models.config import config_beside
    from bertcompress.models.tokenizers import position_limit

    config = config_beside(folder, str(folder))
    return position_limit(config) if getattr(config, "max_position_embeddings", None) else UNKNOWN


def padding_id(folder: Path) -> int:
    """Return the token that texts are padded with, by the folder's config.json; else 0."""
    file = folder / "config.json"
    fields = read_fields_of(file, str(folder)) if file.is_file() else {}
    written = fields.get("pad_token_id")
    return written if isinstance(written, int) else 0


def pad_to(batch: Batch, length: int, pad_id: int) -> dict[str, Any]:
    """Return a batch with its rows padded to a length. Shape: (B, T) -> (B, length)."""
    ids = batch["input_ids"]
    whole = {"attention_mask": np.ones_like(ids), **batch}
    short = ((0, 0), (0, length - ids.shape[1]))
    fill = {"input_ids": pad_id}
    return {n: np.pad(v, short, constant_values=fill.get(n, 0)) for n, v in whole.items()}


def example(length: int) -> dict[str, Any]:
    """Return a batch of one text that every model takes. Shape: (1, length)."""
    ids = np.ones((1, length), np.int64)
    return {"input_ids": ids, "attention_mask": ids.copy(), "token_type_ids": np.zeros_like(ids)}


class BucketPredictor:
    """Answers single texts by the predictor of the next length, all others by a plain one."""

    def __init__(
        self,
        by_length: Mapping[int, Predictor],
        plain: Callable[[], Predictor],
        *,
        serving: str,
        pad_id: int = 0,
        per_token: bool = False,
    ) -> None:
        """Let each length answer once: what compiles late does so now.

        Args:
            by_length: What answers texts of exactly so many tokens.
            plain: Opens what answers any batch; called when the first such batch comes.
            serving: Name of this mode.
            pad_id: Token that fills a text up; its attention mask is 0 there.
            per_token: Whether answers have the texts' length, and are cut to it again.
        """
        self._by_length = dict(sorted(by_length.items()))
        self._open_plain, self._pad_id, self._per_token = plain, pad_id, per_token
        self.serving = serving
        for length, predictor in self._by_length.items():
            predictor(example(length))
            self.runtime, self.precision = predictor.runtime, predictor.precision

    @property
    def lengths(self) -> tuple[int, ...]:
        """The lengths that single texts are padded to."""
        return tuple(self._by_length)

    @cached_property
    def _plain(self) -> Predictor:
        return self._open_plain()

    def __call__(self, batch: Batch) -> Logits:
        """Return the logits. Shape: (B, T) -> (B, K)."""
        shape = batch["input_ids"].shape
        alone = len(shape) == 2 and shape[0] == 1
        length = next((n for n in self._by_length if alone and n >= shape[1]), None)
        if length is None:
            return self._plain(batch)
        logits = self._by_length[length](pad_to(batch, length, self._pad_id))
        return logits[:, : shape[1]] if self._per_token else logits
