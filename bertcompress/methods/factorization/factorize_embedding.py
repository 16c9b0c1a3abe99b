"""Make the embedding table thin: V x H becomes V x E and a projection E x H.

Lan et al. 2020, ALBERT (1909.11942), section 3.1, from a trained table, in one of two forms.
`tables: word` factorises the word table alone, by an SVD that weighs each row by how often its
token comes: the LayerNorm stays behind the projection, so at E = H nothing changes, and the model
keeps a class of ours. `tables: all` is ALBERT's form, which loads as a stock ALBERT: all tables and
the LayerNorm at size E, then the projection. There the norm sits before the projection, so no
choice of weights is the old model, and what comes out is a start for `distill`. It is a good start
where the thin features have the length of the old ones, which the norm divides by: they are the
principal directions of what the old norm gave on training rows, orthonormal, turned so that the
mean, which the norm takes away, is the least of them. The projection is fitted by least squares.

Costs seconds. Always follow it with `distill`. Makes files smaller where the table is much of the
model; no speed-up: a lookup is nothing beside the layers. Not for a masked-LM head, whose decoder
is the table. Try `trim_vocabulary` first: it loses nothing.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from bertcompress.data import calibration_batches
from bertcompress.data.batches import Batches, tensor_batches
from bertcompress.deployment import Findings, Product
from bertcompress.engines.lowrank.svd import factors
from bertcompress.engines.pruning.importance import text_inputs
from bertcompress.engines.pruning.least_squares import Moments, solve_projection
from bertcompress.errors import ModelError
from bertcompress.method import Context, Leaves, Method
from bertcompress.shapes import (
    Embedding,
    Embeddings,
    FactorizedEmbedding,
    ShapeError,
    anatomy,
    apply_edit,
)

__all__ = ["FactorizeEmbedding", "factorize_embedding", "token_counts"]

Tables = Literal["word", "all"]
Batch = Mapping[str, Tensor]
_ROWS, _LENGTH = 512, 64
_RIDGE = 1e-6
_PIECE = 1_000_000


def token_counts(vocabulary: int, batches: Iterable[Batch]) -> Tensor:
    """Return how often each token comes in the batches, padding left out. Shape: (V,)."""
    counts = torch.zeros(vocabulary, dtype=torch.int64)
    for batch in batches:
        ids = batch["input_ids"]
        if "attention_mask" in batch:
            ids = ids[batch["attention_mask"].bool()]
        counts += torch.bincount(ids.flatten().cpu(), minlength=vocabulary)
    return counts.float()


def factorize_embedding(
    model: nn.Module,
    size: int = 128,
    tables: Tables = "word",
    *,
    counts: Tensor | None = None,
    batches: Batches = (),
    seed: int = 0,
) -> nn.Module:
    """Factorise the tables of an encoder, in place, and return the model.

    Args:
        model: an encoder; for `all` one whose tables have the hidden size.
        size: E, features of the thin tables.
        tables: the `word` table alone, or `all` in ALBERT's form.
        counts: how often each token comes; rows of frequent ones are kept best. Shape: (V,).
        batches: texts on which the projection of `all` is fitted, as a data loader gives them;
            without any, sequences of tokens drawn as often as `counts` says.
        seed: of the sequences that are drawn.

    Raises:
        ShapeError for a size that saves nothing, and for models whose tables cannot be so;
        ValueError for batches of another tokenizer. The model is then as it was.
    """
    _check(model, size, tables)
    # In fp32: neither the factors nor the fit should suffer from a model in half precision.
    before = _fp32_copy(anatomy(model).embeddings)
    table = before.word.weight.detach()
    # One more for each: a token that was not met may still come.
    weight = torch.ones(len(table)) if counts is None else counts.float() + 1.0
    edit = Embedding(size, tables)
    with torch.no_grad():
        if tables == "word":
            left, right = factors(table, size, rows=weight.sqrt().to(table.device))
            new = anatomy(apply_edit(model, edit)).embeddings
            new.word.table.weight.copy_(left)
            new.word.projection.weight.copy_(right.T)
            return model
        texts = _read(model, tensor_batches(batches) or [_drawn(before, weight, seed)])
        directions = _directions(before, size, texts)
        new = anatomy(apply_edit(model, edit)).embeddings
        for role, old in before.tables.items():
            new.need(role).weight.copy_(old.weight.double() @ directions)
        _fit_projection(before, new, texts)
    return model


def _fp32_copy(embeddings: Embeddings) -> Embeddings:
    """Return a copy in fp32 and eval mode, a native projection left out."""
    return Embeddings(copy.deepcopy(embeddings.module).float().eval(), embeddings.names)


def _read(model: nn.Module, batches: Iterable[Batch]) -> list[dict[str, Tensor]]:
    """Return what the embeddings take of the batches, and the mask; ModelError for no such ids."""
    rows = int(anatomy(model).config.vocab_size)
    texts = [text_inputs(model, batch) for batch in batches]
    most = max(int(each["input_ids"].max()) for each in texts)
    if most >= rows:
        raise ModelError(
            f"factorize_embedding: the batches have token {most}, and the table {rows} rows; make "
            "them with the model's own tokenizer, the trimmed one where it was trimmed"
        )
    return texts


def _check(model: nn.Module, size: int, tables: Tables) -> None:
    view = anatomy(model)
    Embedding(size, tables).check(view)
    if tables == "all" and size == 1:
        raise ShapeError("factorize_embedding: size 1: a LayerNorm of one feature says nothing")
    word = view.embeddings.word
    table = word.table if isinstance(word, FactorizedEmbedding) else word
    tokens, width = table.weight.shape
    if size > tokens:
        raise ShapeError(f"factorize_embedding: size {size}; the table has {tokens} tokens only")
    if size * (tokens + width) >= tokens * width:
        most = -(-tokens * width // (tokens + width)) - 1
        raise ShapeError(
            f"factorize_embedding: at size {size} two thin tables are no smaller than the one of "
            f"{tokens} tokens x {width}; a size up to {most} saves"
        )


def _drawn(before: Embeddings, weight: Tensor, seed: int) -> Batch:
    """Return sequences of tokens drawn with these weights, the second half of the second type."""
    table, positions = before.word, before.tables.get("position")
    weight = weight.clone()
    if table.padding_idx is not None:  # RoBERTa gives padding no position
        weight[table.padding_idx] = 0.0
    length = _LENGTH if positions is None else min(_LENGTH, positions.num_embeddings - 2)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.multinomial(weight, _ROWS * length, replacement=True, generator=generator)
    types = torch.zeros(_ROWS, length, dtype=torch.long)
    if (kinds := before.tables.get("token_type")) is not None:
        types[:, length // 2 :] = min(1, kinds.num_embeddings - 1)
    ids = drawn.reshape(_ROWS, length)
    return {"input_ids": ids, "token_type_ids": types}


def _directions(before: Embeddings, size: int, texts: Sequence[Batch]) -> Tensor:
    """Return the map of ALBERT's tables to their thin features. Shape: (H, E), double precision.

    The principal directions of what LayerNorm gave for the tokens met. They are orthonormal, so
    that the length that the thin LayerNorm divides by is what the old one divided by, but for what
    E directions cannot hold; and they are reflected so that the mean, which it takes away, is the
    least of them.
    """
    norm = before.norm
    like = norm.weight
    moment = torch.zeros(len(like), len(like), dtype=torch.double, device=like.device)
    for summed, _ in _embedding_pairs(before.module, norm, before.module, texts):
        given = functional.layer_norm(summed, norm.normalized_shape, eps=norm.eps)
        moment += given.T @ given
    _, ascending = torch.linalg.eigh(moment)
    basis: Tensor = ascending[:, -size:].flip(1)
    mirror = basis.new_full((size,), -1 / math.sqrt(size))
    mirror[-1] += 1.0
    # Householder, between the last direction and the mean.
    basis = basis - 2.0 * torch.outer(basis @ mirror, mirror) / mirror.dot(mirror)
    return basis - basis.mean(0)


def _embedding_pairs(
    through: nn.Module, at: nn.Module, goal: nn.Module, texts: Sequence[Batch]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield what comes into `at` of `through`, and what `goal` gives, for the tokens of the texts.

    Padding is left out. Shape: (tokens, E or H), (tokens, H), double precision.
    """
    seen: list[Tensor] = []
    handle = at.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    try:
        for text in texts:
            inputs = {name: each for name, each in text.items() if name != "attention_mask"}
            wanted = goal(**inputs)
            if through is not goal:
                through(**inputs)
            mask = text["attention_mask"].bool()
            yield seen.pop()[mask].double(), wanted[mask].double()
    finally:
        handle.remove()


def _fit_projection(before: Embeddings, embeddings: Embeddings, texts: Sequence[Batch]) -> None:
    """Fit the projection behind the LayerNorm, in place, to what the old embeddings gave.

    Least squares over the tokens of the texts. What comes out of a LayerNorm sums to 0, so one
    direction has no variance, and without the small ridge its weights would be noise times a large
    number, which any step of training, half precision or int8 would let out.
    """
    fitted = _fp32_copy(embeddings)
    projection, target = fitted.projection, embeddings.projection
    assert projection is not None and target is not None  # the edit put them there
    moments = Moments.empty(
        projection.in_features, projection.out_features, projection.weight.device, torch.float64
    )
    for features, goal in _embedding_pairs(fitted.module, projection, before.module, texts):
        moments.add(features, goal)
    projection.weight.zero_()  # the ridge pulls towards what is there
    solve_projection(projection, moments, ridge=_RIDGE)
    target.load_state_dict(projection.state_dict())


class FactorizeEmbedding(Method):
    """Make the embedding table thin: V x H becomes V x E and a projection E x H."""

    key: ClassVar[str] = "factorize_embedding"
    paper: ClassVar[str] = "Lan et al. 2020, arXiv:1909.11942"
    leaves: ClassVar[Leaves] = "shape"

    size: int = Field(128, ge=1, description="E, features of the thin tables")
    tables: Tables = Field(
        "word", description="The word table alone, or all of them in ALBERT's form (stock class)"
    )
    weighted: bool = Field(True, description="Keep rows best whose tokens come often in training")
    rows: int = Field(
        512,
        ge=1,
        le=2_048,
        description="Calibration rows, of the training set, on which ALBERT's projection is fitted",
    )

    @property
    def rows_read(self) -> int:
        """`rows`."""
        return self.rows

    def check(self, model: nn.Module) -> None:
        """Raise ShapeError for a size that saves nothing, and for tables that cannot be so."""
        _check(model, self.size, self.tables)

    def plan_shape(self, model: nn.Module) -> None:
        """Make the tables thin."""
        apply_edit(model, Embedding(self.size, self.tables))

    def apply(self, product: Product, ctx: Context) -> Product:
        """Return the product with thin tables."""
        model: nn.Module = product.model
        model.to(ctx.device)
        counts = None
        if self.weighted:
            ids = ctx.data.encoded(product.tokenizer, "train").flat["input_ids"]
            pieces = (ids[start : start + _PIECE] for start in range(0, len(ids), _PIECE))
            texts = ({"input_ids": torch.from_numpy(p.astype(np.int64))} for p in pieces)
            counts = token_counts(int(product.model.config.vocab_size), texts)
        batches = (
            calibration_batches(ctx.data, product.tokenizer, self.rows)
            if self.tables == "all"
            else []
        )
        factorize_embedding(
            model, self.size, self.tables, counts=counts, batches=batches, seed=ctx.seed
        )
        read = sum(len(batch["input_ids"]) for batch in batches) or None
        findings = Findings(samples=read, free={"size": self.size, "tables": self.tables})
        return Product(product.model, product.tokenizer, (), findings)

    def controls(self) -> Mapping[str, Method]:
        """Return the same size, where a token's row counts as much however often it comes."""
        if not self.weighted:
            return {}
        return {"every token alike": self.model_copy(update={"weighted": False})}
