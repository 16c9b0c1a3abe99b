"""Words that may stand in the place of another: by a masked-LM head, or near it in a word table.

Axes: B words, T tokens, n whole words of the vocabulary, V its tokens, E width of the word table.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from bertcompress.deployment import Product
from bertcompress.engines.distillation.whole_words import CutText, WholeWords, Word
from bertcompress.models.io import max_tokens
from bertcompress.shapes import anatomy

__all__ = ["MaskedWords", "Neighbours"]

_BATCH = 64
"""Texts with a masked word that a model reads at once."""
_SCORES = 2**24
"""Numbers of a block of cosines at most: 64 MiB, whatever the vocabulary is."""


class MaskedWords:
    """The most likely words in a place, by a masked language model that does not see it.

    A word is none of its own candidates, nor is one that differs in case alone. Of a text that is
    too long the model reads the tokens around the place.
    """

    def __init__(
        self,
        product: Product,
        count: int,
        device: torch.device | str = "cpu",
        among: Collection[str] | None = None,
    ) -> None:
        """Take a model with its masked-LM head.

        `count`: candidates of each word (K); `among`: the tokens that may be one, None: all.
        """
        model: Any = product.model
        self.model = model.to(device).eval()
        self.tokenizer = product.tokenizer
        self.count, self.device = count, torch.device(device)
        self.known = WholeWords.of(product.tokenizer, among)
        self._blank = set(self.known.ids.tolist())
        self._limit = max_tokens(product.model, product.tokenizer)

    def __call__(self, texts: Sequence[CutText], words: Sequence[Word]) -> list[list[str]]:
        """Return the candidates of words of one token each, the most likely first.

        `texts`: those of the words, in tokens of this model.
        """
        found: list[list[str]] = [[] for _ in words]
        if not len(self.known.ids):
            return found
        order = np.argsort([len(texts[word.text].ids) for word in words], kind="stable")
        for start in range(0, len(order), _BATCH):
            chosen = order[start : start + _BATCH].tolist()
            for i, best in zip(chosen, self._best(texts, [words[i] for i in chosen]), strict=True):
                found[i] = best
        return found

    def _best(self, texts: Sequence[CutText], words: Sequence[Word]) -> list[list[str]]:
        hidden = [self._hidden(texts[word.text], _token_of(word)) for word in words]
        logits = self._logits([ids for ids, _ in hidden], [place for _, place in hidden])
        behind = [texts[word.text].ids[_token_of(word)] in self._blank for word in words]
        scores = self._of_words(logits, torch.tensor(behind))
        best = _highest(scores, [self.known.own(word.written) for word in words], self.count)
        return [
            [self.known.instead_of(word.written, place) for place in places]
            for word, places in zip(words, best, strict=True)
        ]

    def _hidden(self, text: CutText, place: int) -> tuple[list[int], int]:
        """Return the tokens of a text with one masked, as many as the model reads, and where."""
        ids = list(text.ids)
        ids[place] = int(self.tokenizer.mask_token_id)
        if len(ids) <= self._limit:
            return ids, place
        last = len(ids) - text.after
        room = self._limit - text.before - text.after
        first = min(max(text.before, place - room // 2), last - room)
        kept = [*ids[: text.before], *ids[first : first + room], *ids[last:]]
        return kept, text.before + place - first

    def _logits(self, rows: Sequence[Sequence[int]], places: Sequence[int]) -> Tensor:
        """Return what the model answers in one place of each text. Shape: (B, V)."""
        width = max(map(len, rows))
        ids = torch.full((len(rows), width), int(self.tokenizer.pad_token_id or 0))
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = 1
        with torch.no_grad(), _one_place(self.model, torch.tensor(places)):
            answer = self.model(input_ids=ids.to(self.device), attention_mask=mask.to(self.device))
        logits: Tensor = answer.logits[:, 0]
        return logits.float().cpu()

    def _of_words(self, logits: Tensor, behind_blank: Tensor) -> Tensor:
        """Return the logits of the whole words, in the form that fits. Shape: (B, V) -> (B, n)."""
        scores = logits[:, torch.from_numpy(self.known.ids)]
        glued = torch.from_numpy(self.known.glued)
        inside = logits[~behind_blank][:, glued.clamp(min=0)]
        scores[~behind_blank] = inside.masked_fill(glued < 0, -torch.inf)
        return scores


class Neighbours:
    """The words nearest to a word in an embedding table, by the cosine of their rows.

    A word of several tokens has the mean of their rows. It is none of its own candidates, nor is
    one that differs in case alone; a word that the vocabulary does not know has none.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        count: int,
        device: torch.device | str = "cpu",
        among: Collection[str] | None = None,
    ) -> None:
        """Take the word table of a model.

        `count`: candidates of each word (K); `among`: the tokens that may be one, None: all.
        """
        self.tokenizer, self.count, self.device = tokenizer, count, torch.device(device)
        self.known = WholeWords.of(tokenizer, among)
        self._embed: Any = model.get_input_embeddings()  # type: ignore[operator]
        self._table = functional.normalize(self._rows(self.known.ids.tolist()), dim=-1)
        self._found: dict[str, list[int]] = {}

    def __call__(self, words: Sequence[str]) -> list[list[str]]:
        """Return the candidates of words, the nearest first."""
        new = [word for word in dict.fromkeys(words) if word not in self._found]
        size = max(1, _SCORES // max(1, len(self._table)))
        for start in range(0, len(new), size):
            self._look_up(new[start : start + size])
        return [
            [self.known.instead_of(word, place) for place in self._found[word]] for word in words
        ]

    def _look_up(self, words: Sequence[str]) -> None:
        pieces = self.tokenizer(
            [f" {word}" for word in words],
            add_special_tokens=False,
            truncation=False,
            padding=False,
            verbose=False,
        )["input_ids"]
        unknown = self.tokenizer.unk_token_id
        cut = [[token for token in row if token != unknown] for row in pieces]
        read = [(word, row) for word, row in zip(words, cut, strict=True) if row]
        self._found |= {word: [] for word in words}
        if not read or not len(self._table):
            return
        vectors = torch.stack([self._rows(row).mean(dim=0) for _, row in read])
        cosines = functional.normalize(vectors, dim=-1) @ self._table.T
        own = [self.known.own(word) for word, _ in read]
        best = _highest(cosines, own, self.count)
        self._found |= {word: places for (word, _), places in zip(read, best, strict=True)}

    def _rows(self, ids: Sequence[int]) -> Tensor:
        """Return rows of the table, whatever form it is stored in. Shape: (ids,) -> (ids, E)."""
        place = next(chain(self._embed.parameters(), self._embed.buffers())).device
        with torch.no_grad():
            rows: Tensor = self._embed(torch.tensor(ids, dtype=torch.int64, device=place))
        return rows.float().to(self.device)


def _token_of(word: Word) -> int:
    assert word.token is not None, "a word of several tokens cannot be masked by one"
    return word.token


def _highest(scores: Tensor, own: Sequence[Sequence[int]], count: int) -> list[list[int]]:
    """Return the columns of the highest scores of each row, but for its own ones. Shape: (B, n)."""
    for row, places in enumerate(own):
        scores[row, list(places)] = -torch.inf
    values, columns = scores.topk(min(count, scores.shape[1]), dim=1)
    return [
        [int(column) for column, value in zip(*pair, strict=True) if value > -torch.inf]
        for pair in zip(columns.tolist(), values.tolist(), strict=True)
    ]


@contextmanager
def _one_place(model: nn.Module, places: Tensor) -> Iterator[None]:
    """Let a head behind the encoder see the state of one token of each text alone. Shape: (B,).

    So that no logits of V tokens are computed for each of T.
    """

    def keep(_: nn.Module, __: Any, output: Any) -> Any:
        states = output.last_hidden_state
        rows = torch.arange(len(places), device=states.device)
        output.last_hidden_state = states[rows, places.to(states.device)][:, None]
        return output

    handle = anatomy(model).base.register_forward_hook(keep)
    try:
        yield
    finally:
        handle.remove()
