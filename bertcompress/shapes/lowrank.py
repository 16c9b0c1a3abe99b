"""Edits that factorise: linears of the layers, and the embedding tables, as thin products.

The record holds ranks and sizes only. The factors are empty: a method fills them from the weights
that were there, loading from the checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from bertcompress.shapes.anatomy import Anatomy, LayerParts, ShapeError
from bertcompress.shapes.parts import (
    FactorizedEmbedding,
    LowRank,
    ProjectedDropout,
    new_linear,
)

__all__ = ["LINEARS", "TABLES", "Embedding", "LowRanks"]

LINEARS = ("query", "key", "value", "attention_out", "ffn_in", "ffn_out")
"""The linears of a layer, by their name in the anatomy table."""
TABLES = ("word_embeddings", "position_embeddings", "token_type_embeddings")
"""The tables of a model's embeddings; not every family has the last."""


@dataclass
class LowRanks:
    """For each kind of linear its rank in each layer; 0 leaves it as it is."""

    ranks: dict[str, list[int]]
    kind: ClassVar[str] = "lowrank"

    @property
    def layers(self) -> int:
        """Layers that this counts."""
        return max(map(len, self.ranks.values()), default=0)

    def check(self, view: Anatomy) -> None:
        """Raise ShapeError for ranks that are no ranks of these matrices."""
        unknown = sorted(set(self.ranks) - set(LINEARS))
        if unknown:
            raise ShapeError(f"lowrank: no linear '{unknown[0]}'; there are {', '.join(LINEARS)}")
        for part, row in self.ranks.items():
            if len(row) != len(view.layers):
                raise ShapeError(
                    f"lowrank: {len(row)} ranks of {part}, the model has {len(view.layers)} layers"
                )
            owners = view.owners(part)
            for i, (layer, rank) in enumerate(zip(view.layers, row, strict=True)):
                _check_rank(part, i, layer, rank)
                if rank != row[owners[i]]:
                    raise ShapeError(
                        f"lowrank: layers {owners[i]} and {i} share {part}; give both one rank"
                    )

    def apply(self, view: Anatomy) -> None:
        """Replace linears by products of two, in place."""
        for part, row in self.ranks.items():
            owners = view.owners(part)
            for i, (layer, rank) in enumerate(zip(view.layers, row, strict=True)):
                if rank and owners[i] == i:
                    _factorise(layer, part, rank)

    def merged(self, earlier: LowRanks | None, at: Sequence[int], total: int) -> LowRanks:
        """Return the record in original numbering."""
        record = {p: list(row) for p, row in earlier.ranks.items()} if earlier else {}
        for part, row in self.ranks.items():
            whole = record.setdefault(part, [0] * total)
            for original, rank in zip(at, row, strict=True):
                whole[original] = rank or whole[original]
        return LowRanks(record)


def _check_rank(part: str, index: int, layer: LayerParts, rank: int) -> None:
    if rank and not hasattr(layer.get(part), "in_features"):
        raise ShapeError(f"lowrank: {part} of layer {index} was cut away; give it rank 0")
    # No upper end: a matrix that was cut after it was factorised may have a rank beyond its size.
    if rank < 0:
        raise ShapeError(f"lowrank: rank {rank} of {part} in layer {index}; 1 is the least")


def _factorise(layer: LayerParts, part: str, rank: int) -> None:
    linear: Any = layer.get(part)
    like = linear.weight
    first = new_linear(linear, like.new_zeros(rank, linear.in_features), None)
    second = new_linear(linear, like.new_zeros(linear.out_features, rank), linear.bias)
    layer.put(part, LowRank(first, second).train(linear.training))


@dataclass
class Embedding:
    """The tables at size E and a projection to the hidden size."""

    size: int
    tables: str = "word"
    """`word`: the word table alone, LayerNorm stays at the hidden size; `all`: ALBERT's form, all
    tables and the LayerNorm at size E, then a projection with bias."""
    kind: ClassVar[str] = "embedding"

    def check(self, view: Anatomy) -> None:
        """Raise ShapeError for a size that saves nothing, and for models with other tables."""
        word: Any = view.base.get_submodule(view.family.word_embeddings)
        width = word.table.embedding_dim if _factorised(view) else word.embedding_dim
        if not 1 <= self.size <= width:
            raise ShapeError(f"embedding: size {self.size}; the table has {width} features")
        if self.tables not in ("word", "all"):
            raise ShapeError(f"embedding: tables '{self.tables}'; there are word and all")
        if view.decoder is not None:
            raise ShapeError("embedding: the masked-LM head is tied to the word table as it is")
        if self.tables == "all" and _has_projection(view):
            raise ShapeError(
                "embedding: this model has a projection behind its tables already; use "
                "tables='word', which makes its word table smaller"
            )
        if (_factorised(view) and self.tables == "all") or _projected(view):
            raise ShapeError("embedding: the tables of this model are factorised already")

    def apply(self, view: Anatomy) -> None:
        """Replace the tables, in place."""
        embeddings: Any = view.base.get_submodule("embeddings")
        word, norm = embeddings.word_embeddings, embeddings.LayerNorm
        into = word.weight.new_zeros(word.weight.shape[1], self.size)
        if self.tables == "word":
            table = _table(word.table if _factorised(view) else word, self.size)
            embeddings.word_embeddings = FactorizedEmbedding(table, new_linear(word, into, None))
            return
        for name in TABLES:
            old = getattr(embeddings, name, None)
            if old is not None:
                setattr(embeddings, name, _table(old, self.size))
        like = {"device": norm.weight.device, "dtype": norm.weight.dtype}
        embeddings.LayerNorm = nn.LayerNorm(self.size, eps=norm.eps, **like).requires_grad_(
            norm.weight.requires_grad
        )
        projection = new_linear(word, into, torch.zeros_like(norm.bias))
        embeddings.dropout = ProjectedDropout(embeddings.dropout, projection)

    def merged(self, earlier: Embedding | None, at: Sequence[int], total: int) -> Embedding:
        """Return the record: the present size."""
        return Embedding(self.size, earlier.tables if earlier else self.tables)


def _factorised(view: Anatomy) -> bool:
    return isinstance(view.base.get_submodule(view.family.word_embeddings), FactorizedEmbedding)


def _projected(view: Anatomy) -> bool:
    return isinstance(view.base.get_submodule("embeddings.dropout"), ProjectedDropout)


def _has_projection(view: Anatomy) -> bool:
    config = view.config
    native = int(getattr(config, "embedding_size", config.hidden_size)) != int(config.hidden_size)
    return native or view.family.shared


def _table(like: nn.Embedding, size: int) -> nn.Embedding:
    """Return an empty table of the same rows. Shape: (N, size)."""
    rows = like.num_embeddings
    table = nn.Embedding(rows, size, padding_idx=like.padding_idx, device="meta")
    trained = like.weight.requires_grad if isinstance(like.weight, nn.Parameter) else True
    table.weight = nn.Parameter(like.weight.new_zeros(rows, size), requires_grad=trained)
    return table.train(like.training)
