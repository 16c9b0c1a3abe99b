"""The edit that drops tokens: rows of the word table and of the masked-LM decoder.

Kept token ids live in the tokenizer files; the record holds only how many there are. The config
follows at once (`vocab_size` and every `..._token_id`), since the stock losses read it there, and
so a trimmed vocabulary alone is still the family's own shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import nn

from bertcompress.shapes.families.anatomy import Anatomy
from bertcompress.shapes.families.views import ShapeError

__all__ = ["Vocabulary"]


@dataclass
class Vocabulary:
    """Keep these tokens, renumbered in their order; the record holds only how many."""

    size: int
    kept: list[int] | None = None
    kind: ClassVar[str] = "vocabulary"
    simulated: ClassVar[bool] = False

    def check(self, view: Anatomy) -> None:
        """Raise ShapeError unless the ids rise, are in the table and leave the padding in place."""
        rows = _word_table(view).num_embeddings
        kept = self.kept if self.kept is not None else range(self.size)
        if len(kept) != self.size or not self.size:
            raise ShapeError(f"vocabulary: {len(kept)} ids given for a size of {self.size}")
        if any(b <= a for a, b in pairwise(kept)):
            raise ShapeError("vocabulary: the ids must rise")
        if kept[0] < 0 or kept[-1] >= rows:
            wrong = kept[0] if kept[0] < 0 else kept[-1]
            raise ShapeError(f"vocabulary: no token {wrong}; the table has 0 to {rows - 1}")
        pad = view.config.pad_token_id
        if pad is None:
            return
        if pad not in kept:
            raise ShapeError(f"vocabulary: the padding token {pad} must stay")
        if view.family.positions_after_padding and kept.index(pad) != pad:
            raise ShapeError(
                f"vocabulary: tokens 0 to {pad} must stay; the first position has the number "
                f"{pad + 1}, one more than the padding token"
            )

    def apply(self, view: Anatomy) -> None:
        """Cut in place: rows of the table, of the decoder and its bias; ids in the config."""
        table = _word_table(view)
        kept = self.kept if self.kept is not None else list(range(self.size))
        if self.size == table.num_embeddings:
            return  # a reload: the plain model was built with this size
        index = torch.tensor(kept, dtype=torch.long, device=table.weight.device)
        cut: dict[int, nn.Parameter] = {}
        for module, name in list(view.token_parameters):
            old = getattr(module, name)
            if id(old) not in cut:  # what was tied stays tied
                rows = old.detach()[index].clone()
                cut[id(old)] = nn.Parameter(rows, requires_grad=old.requires_grad)
            setattr(module, name, cut[id(old)])
            if isinstance(module, nn.Linear):
                module.out_features = self.size
        table.num_embeddings = self.size
        _renumber(view.config, kept)
        if table.padding_idx is not None:
            table.padding_idx = view.config.pad_token_id

    def merged(self, earlier: Vocabulary | None, at: Sequence[int], total: int) -> Vocabulary:
        """Return the record: the size alone."""
        return Vocabulary(self.size)


def _word_table(view: Anatomy) -> nn.Embedding:
    """Return the table with one row per token; a factorised one has it inside."""
    table = view.embeddings.word_table
    if table is None:
        raise ShapeError("vocabulary: the word table is stored in few bits; trim before that")
    return table


def _renumber(config: Any, kept: Sequence[int]) -> None:
    config.vocab_size = len(kept)
    place = {old: new for new, old in enumerate(kept)}
    for name, old in list(vars(config).items()):
        if not name.endswith("_token_id"):
            continue
        if isinstance(old, int):
            setattr(config, name, place.get(old))
        elif isinstance(old, list):  # several tokens may end a text
            setattr(config, name, [place[i] for i in old if i in place])
