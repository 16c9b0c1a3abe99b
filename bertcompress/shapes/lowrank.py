"""Edits that factorise: linears of the layers, and the embedding tables, as thin products.

The record holds ranks and sizes only. The factors are empty: a method fills them from the weights
that were there, loading from the checkpoint.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from bertcompress.shapes.families.anatomy import Anatomy, Layer
from bertcompress.shapes.families.views import LinearView, ShapeError
from bertcompress.shapes.parts import (
    FactorizedEmbedding,
    LowRank,
    ProjectedDropout,
    new_linear,
)

__all__ = ["Embedding", "LowRanks"]


@dataclass
class LowRanks:
    """For each kind of linear its rank in each layer; 0 leaves it as it is."""

    ranks: dict[str, list[int]]
    kind: ClassVar[str] = "lowrank"
    simulated: ClassVar[bool] = False

    @property
    def layers(self) -> int:
        """Layers that this counts."""
        return max(map(len, self.ranks.values()), default=0)

    def check(self, view: Anatomy) -> None:
        """Raise ShapeError for ranks that are no ranks of these matrices."""
        names = view.linear_names
        unknown = sorted(set(self.ranks) - set(names))
        if unknown:
            raise ShapeError(f"lowrank: no linear '{unknown[0]}'; there are {', '.join(names)}")
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
                    _factorise(layer.linears[part], rank)

    def merged(self, earlier: LowRanks | None, at: Sequence[int], total: int) -> LowRanks:
        """Return the record in original numbering."""
        record = {p: list(row) for p, row in earlier.ranks.items()} if earlier else {}
        for part, row in self.ranks.items():
            whole = record.setdefault(part, [0] * total)
            for original, rank in zip(at, row, strict=True):
                whole[original] = rank or whole[original]
        return LowRanks(record)

    def leaving(self, gone: Collection[int], view: Anatomy) -> LowRanks:
        """Return the same without layers that go anyway, and without what was cut away since."""
        return LowRanks(
            {
                part: [
                    0 if i in gone or not layer.linears[part].in_features else rank
                    for i, (layer, rank) in enumerate(zip(view.layers, row, strict=True))
                ]
                for part, row in self.ranks.items()
            }
        )


def _check_rank(part: str, index: int, layer: Layer, rank: int) -> None:
    linear = layer.linears[part]
    if rank and not linear.replaceable:
        raise ShapeError(f"lowrank: {part} of layer {index} is a part of a fused weight")
    if rank and not linear.in_features:
        raise ShapeError(f"lowrank: {part} of layer {index} was cut away; give it rank 0")
    # No upper end: a matrix that was cut after it was factorised may have a rank beyond its size.
    if rank < 0:
        raise ShapeError(f"lowrank: rank {rank} of {part} in layer {index}; 1 is the least")


def _factorise(linear: LinearView, rank: int) -> None:
    old, like = linear.module, linear.weight
    first = new_linear(old, like.new_zeros(rank, linear.in_features), None)
    second = new_linear(old, like.new_zeros(linear.out_features, rank), linear.bias)
    linear.replace(LowRank(first, second).train(old.training))


@dataclass
class Embedding:
    """The tables at size E and a projection to the hidden size."""

    size: int
    tables: str = "word"
    """`word`: the word table alone, LayerNorm stays at the hidden size; `all`: ALBERT's form, all
    tables and the LayerNorm at size E, then a projection with bias."""
    kind: ClassVar[str] = "embedding"
    simulated: ClassVar[bool] = False

    def check(self, view: Anatomy) -> None:
        """Raise ShapeError for a size that saves nothing, and for models with other tables."""
        embeddings = view.embeddings
        word = embeddings.word
        width = word.table.embedding_dim if embeddings.factorized else word.embedding_dim
        if not 1 <= self.size <= width:
            raise ShapeError(f"embedding: size {self.size}; the table has {width} features")
        if self.tables not in ("word", "all"):
            raise ShapeError(f"embedding: tables '{self.tables}'; there are word and all")
        if view.decoder is not None:
            raise ShapeError("embedding: the masked-LM head is tied to the word table as it is")
        if self.tables == "all" and embeddings.native_projection is not None:
            raise ShapeError(
                "embedding: this model has a projection behind its tables already; use "
                "tables='word', which makes its word table smaller"
            )
        if (embeddings.factorized and self.tables == "all") or embeddings.projected:
            raise ShapeError("embedding: the tables of this model are factorised already")

    def apply(self, view: Anatomy) -> None:
        """Replace the tables, in place."""
        embeddings = view.embeddings
        word, norm = embeddings.word, embeddings.norm
        into = word.weight.new_zeros(word.weight.shape[1], self.size)
        if self.tables == "word":
            table = _table(word.table if embeddings.factorized else word, self.size)
            embeddings.put("word", FactorizedEmbedding(table, new_linear(word, into, None)))
            return
        for role, old in embeddings.tables.items():
            embeddings.put(role, _table(old, self.size))
        trained, weight = norm.weight.requires_grad, norm.weight
        small = nn.LayerNorm(self.size, eps=norm.eps, device=weight.device, dtype=weight.dtype)
        embeddings.put("norm", small.requires_grad_(trained))
        projection = new_linear(word, into, torch.zeros_like(norm.bias))
        embeddings.put("dropout", ProjectedDropout(embeddings.need("dropout"), projection))

    def merged(self, earlier: Embedding | None, at: Sequence[int], total: int) -> Embedding:
        """Return the record: the present size."""
        return Embedding(self.size, earlier.tables if earlier else self.tables)


def _table(like: nn.Embedding, size: int) -> nn.Embedding:
    """Return an empty table of the same rows. Shape: (N, size)."""
    rows = like.num_embeddings
    table = nn.Embedding(rows, size, padding_idx=like.padding_idx, device="meta")
    trained = like.weight.requires_grad if isinstance(like.weight, nn.Parameter) else True
    table.weight = nn.Parameter(like.weight.new_zeros(rows, size), requires_grad=trained)
    return table.train(like.training)
