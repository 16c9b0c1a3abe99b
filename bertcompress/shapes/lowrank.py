"""Edits that factorise: linears of the layers, and the embedding tables, as thin products.

The record holds ranks and sizes only. In the models that a method edits the factors start from a
truncated SVD; a model that is built to be filled from a checkpoint gets empty ones.
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
    Split,
    new_linear,
    truncated_svd,
    unfilled,
)

__all__ = ["LINEARS", "Embedding", "LowRanks"]

LINEARS = ("query", "key", "value", "attention_out", "ffn_in", "ffn_out")
"""The linears of a layer, by their name in the anatomy table."""


def _start_with(start: str | None) -> Split:
    return truncated_svd if start == "svd" else unfilled


@dataclass
class LowRanks:
    """For each kind of linear its rank in each layer; 0 leaves it as it is."""

    ranks: dict[str, list[int]]
    start: str | None = None
    """`svd` fills the factors from the present weights; the record has None."""
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
                _check_rank(part, i, layer, rank, self.start)
                if rank != row[owners[i]]:
                    raise ShapeError(
                        f"lowrank: layers {owners[i]} and {i} share {part}; give both one rank"
                    )

    def apply(self, view: Anatomy) -> None:
        """Replace linears by products of two, in place."""
        split = _start_with(self.start)
        for part, row in self.ranks.items():
            owners = view.owners(part)
            for i, (layer, rank) in enumerate(zip(view.layers, row, strict=True)):
                if rank and owners[i] == i:
                    _factorise(layer, part, rank, split)

    def merged(self, earlier: LowRanks | None, at: Sequence[int], total: int) -> LowRanks:
        """Return the record in original numbering."""
        record = {p: list(row) for p, row in earlier.ranks.items()} if earlier else {}
        for part, row in self.ranks.items():
            whole = record.setdefault(part, [0] * total)
            for original, rank in zip(at, row, strict=True):
                whole[original] = rank or whole[original]
        return LowRanks(record)


def _check_rank(part: str, index: int, layer: LayerParts, rank: int, start: str | None) -> None:
    if not rank:
        return
    linear: Any = layer.get(part)
    if not hasattr(linear, "in_features"):
        raise ShapeError(f"lowrank: {part} of layer {index} was cut away; give it rank 0")
    most = min(linear.in_features, linear.out_features)
    # A matrix that was cut after it was factorised may have a rank beyond its size.
    if rank < 1 or (start and rank > most):
        raise ShapeError(f"lowrank: rank {rank} of {part} in layer {index}; 1 to {most} are ranks")


def _factorise(layer: LayerParts, part: str, rank: int, split: Split) -> None:
    linear: Any = layer.get(part)
    left, right = split(linear.weight, rank)
    first = new_linear(linear, right, None)
    layer.put(part, LowRank(first, new_linear(linear, left, linear.bias)).train(linear.training))


@dataclass
class Embedding:
    """The tables at size E and a projection to the hidden size."""

    size: int
    tables: str = "word"
    """`word`: the word table alone, LayerNorm stays at the hidden size; `all`: ALBERT's form, all
    tables and the LayerNorm at size E, then a projection with bias."""
    start: str | None = None
    kind: ClassVar[str] = "embedding"

    def check(self, view: Anatomy) -> None:
        """Raise ShapeError for a size that saves nothing, and for models with other tables."""
        word: Any = view.base.get_submodule(view.family.word_embeddings)
        width = word.table.embedding_dim if _factorised(view) else word.embedding_dim
        if not 1 <= self.size <= width:
            raise ShapeError(f"embedding: size {self.size}; the table has {width} features")
        rows = int(word.weight.shape[0])
        # A table that was trimmed after it was factorised may have fewer rows than features.
        if self.start and self.size > rows:
            raise ShapeError(f"embedding: size {self.size}; the table has {rows} tokens only")
        if self.tables not in ("word", "all"):
            raise ShapeError(f"embedding: tables '{self.tables}'; there are word and all")
        if type(view.model).__name__.endswith("ForMaskedLM"):
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
        split = _start_with(self.start)
        embeddings: Any = view.base.get_submodule("embeddings")
        word = embeddings.word_embeddings
        left, right = split(word.weight, self.size)
        table = _table(word.table if _factorised(view) else word, left)
        projection = new_linear(word, right.T, None)
        if self.tables == "word":
            embeddings.word_embeddings = FactorizedEmbedding(table, projection)
            return
        embeddings.word_embeddings = table
        # Least squares: what of the other tables the directions of the word table can hold.
        for name in ("position_embeddings", "token_type_embeddings"):
            old = getattr(embeddings, name, None)
            if old is not None:
                setattr(embeddings, name, _table(old, _rows_through(old.weight, right)))
        norm = embeddings.LayerNorm
        like = {"device": norm.weight.device, "dtype": norm.weight.dtype}
        embeddings.LayerNorm = nn.LayerNorm(self.size, eps=norm.eps, **like)
        into = new_linear(word, right.T, norm.bias)
        embeddings.dropout = ProjectedDropout(embeddings.dropout, into)

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


def _rows_through(weight: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return thin rows that come nearest to a table's behind a projection, by least squares.

    Zeros where there is nothing to solve yet. Shape: (N, H), (E, H) -> (N, E).
    """
    if weight.is_meta or not right.any():
        return weight.new_zeros(weight.shape[0], right.shape[0])
    # Neither lstsq nor its drivers know half precision.
    goal = weight.detach().T.double()
    solved: torch.Tensor = torch.linalg.lstsq(right.T.double(), goal).solution
    return solved.T.to(weight.dtype)


def _table(like: nn.Embedding, weight: torch.Tensor) -> nn.Embedding:
    rows, width = weight.shape
    table = nn.Embedding(rows, width, padding_idx=like.padding_idx, device="meta")
    trained = like.weight.requires_grad if isinstance(like.weight, nn.Parameter) else True
    table.weight = nn.Parameter(weight.detach().clone().contiguous(), requires_grad=trained)
    return table.train(like.training)
