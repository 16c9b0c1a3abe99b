"""Make the embedding table thin: V x H becomes V x E and a projection E x H.

Lan et al. 2020, ALBERT (1909.11942), section 3.1, from a trained table, in one of two forms.
`tables: word` factorises the word table alone, by an SVD that weighs each row by how often its
token comes: the LayerNorm stays behind the projection, so at E = H nothing changes, and the model
keeps a class of ours. `tables: all` is ALBERT's form, which loads as a stock ALBERT: all tables and
the LayerNorm at size E, then the projection. There the norm sits before the projection, so no
choice of weights is the old model: the projection is fitted by least squares, and what comes out is
a start for `distill`.

Costs seconds. Always follow it with `distill`. Makes files smaller where the table is much of the
model; no speed-up: a lookup is nothing beside the layers. Not for a masked-LM head, whose decoder
is the table. Try `trim_vocabulary` first: it loses nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from bertcompress.artefact import Product
from bertcompress.engines.spectra import factors
from bertcompress.method import Context, Method
from bertcompress.shapes import Embedding, FactorizedEmbedding, anatomy, apply_edit

__all__ = ["FactorizeEmbedding", "factorize_embedding", "token_counts"]

Tables = Literal["word", "all"]
_ROWS, _LENGTH = 512, 64


def token_counts(vocabulary: int, batches: Sequence[Mapping[str, Tensor]]) -> Tensor:
    """Return how often each token comes in the batches, padding left out. Shape: (V,)."""
    counts = torch.zeros(vocabulary)
    for batch in batches:
        ids = batch["input_ids"][batch["attention_mask"].bool()]
        counts += torch.bincount(ids.flatten().cpu(), minlength=vocabulary)
    return counts


def factorize_embedding(
    model: nn.Module,
    size: int = 128,
    tables: Tables = "word",
    *,
    counts: Tensor | None = None,
    seed: int = 0,
) -> nn.Module:
    """Factorise the tables of an encoder, in place, and return the model.

    Args:
        model: an encoder; for `all` one whose tables have the hidden size.
        size: E, features of the thin tables.
        tables: the `word` table alone, or `all` in ALBERT's form.
        counts: how often each token comes; rows of frequent ones are kept best. Shape: (V,).
        seed: of the token sequences on which the projection of `all` is fitted.

    Raises:
        ShapeError for a size that saves nothing, and for models whose tables cannot be so.
    """
    view = anatomy(model)
    before = copy.deepcopy(view.base.get_submodule("embeddings")).eval()
    word: Any = before.get_submodule("word_embeddings")
    table = word.weight.detach()
    # One more for each: a token that was not met may still come.
    weight = torch.ones(len(table)) if counts is None else counts.float() + 1.0
    _check(model, size, tables)
    left, right = factors(table, size, rows=weight.sqrt().to(table.device))
    apply_edit(model, Embedding(size, tables))
    embeddings: Any = anatomy(model).base.get_submodule("embeddings")
    new = embeddings.word_embeddings
    with torch.no_grad():
        if isinstance(new, FactorizedEmbedding):
            new.table.weight.copy_(left)
            new.projection.weight.copy_(right.T)
        else:
            new.weight.copy_(left)
            for name in ("position_embeddings", "token_type_embeddings"):
                old = getattr(before, name, None)
                if old is not None:
                    solved = torch.linalg.lstsq(right.T, old.weight.detach().T).solution.T
                    getattr(embeddings, name).weight.copy_(solved)
            _fit_projection(before, embeddings, weight, seed)
    return model


def _check(model: nn.Module, size: int, tables: Tables) -> None:
    Embedding(size, tables, start="svd").check(anatomy(model))


def _fit_projection(before: nn.Module, embeddings: Any, weight: Tensor, seed: int) -> None:
    """Fit the projection behind the LayerNorm, in place, to what the old embeddings gave.

    Least squares over sequences of tokens drawn as often as they come.
    """
    generator = torch.Generator().manual_seed(seed)
    training = embeddings.training
    embeddings.eval()
    table: Tensor = embeddings.word_embeddings.weight
    length = min(_LENGTH, embeddings.position_embeddings.num_embeddings - 2)
    drawn = torch.multinomial(weight, _ROWS * length, replacement=True, generator=generator)
    ids = drawn.reshape(_ROWS, length).to(table.device)
    projection = embeddings.dropout.projection
    goal = before(input_ids=ids).flatten(0, 1).double()
    seen: list[Tensor] = []
    handle = projection.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    embeddings(input_ids=ids)
    handle.remove()
    features = seen[0].flatten(0, 1).double()
    wide = torch.cat([features, features.new_ones(len(features), 1)], dim=1)
    solved = torch.linalg.lstsq(wide, goal).solution
    projection.weight.copy_(solved[:-1].T)
    projection.bias.copy_(solved[-1])
    embeddings.train(training)


class FactorizeEmbedding(Method):
    """Make the embedding table thin: V x H becomes V x E and a projection E x H."""

    key: ClassVar[str] = "factorize_embedding"
    paper: ClassVar[str] = "Lan et al. 2020, arXiv:1909.11942"
    kind: ClassVar[Literal["train", "shape", "precision"]] = "shape"

    size: int = Field(128, ge=1, description="E, features of the thin tables")
    tables: Tables = Field(
        "word", description="The word table alone, or all of them in ALBERT's form (stock class)"
    )
    weighted: bool = Field(True, description="Keep rows best whose tokens come often in training")

    def check(self, model: nn.Module) -> None:
        """Raise ShapeError for tables that cannot be so."""
        _check(model, self.size, self.tables)

    def apply(self, product: Product, ctx: Context) -> Product:
        """Return the product with thin tables."""
        model: nn.Module = product.model
        model.to(ctx.device)
        counts = None
        if self.weighted:
            rows = ctx.data.encode(product.tokenizer, "train")["input_ids"]
            ids = np.concatenate([np.asarray(row) for row in rows])
            size = int(product.model.config.vocab_size)
            counts = torch.from_numpy(np.bincount(ids, minlength=size)).float()
        factorize_embedding(model, self.size, self.tables, counts=counts, seed=ctx.seed)
        facts = {"size": self.size, "tables": self.tables}
        return Product(product.model, product.tokenizer, (), facts)
