"""Vectors of texts: judged by how they stand to the original's, or by the scores of pairs.

Axes: N rows, F features of them, B in a batch, T tokens, H hidden size, D dimensions of a vector.
A text is a feature, so that a pair has two.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from bertcompress.errors import ModelError
from bertcompress.heads.features import (
    CHUNK,
    Columns,
    Encoded,
    TaskFields,
    text_columns,
    tokens_of,
)
from bertcompress.heads.head import Array, Features, Head, Served, metrics_named
from bertcompress.heads.padding import outputs_of_features
from bertcompress.heads.pooling import Pooling, cosines, normalised
from bertcompress.metrics import Metric
from bertcompress.metrics.ranking import NEIGHBOURS

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

__all__ = ["SCALE", "Similarity", "Vectors"]

SCALE = 20.0
"""Of cosines in the losses of pairs, as in the papers and in sentence-transformers."""


class Vectors(Head):
    """Vectors without labels: the original's are what is right."""

    key: ClassVar[str] = "vectors"
    auto_class: ClassVar[str | None] = None
    problem_type: ClassVar[str] = ""
    metrics = metrics_named("cosine", "neighbours")
    usual: ClassVar[tuple[str, ...]] = ("cosine", "neighbours")
    # all-MiniLM-L6-v2, pruned without training to a corrected cosine of 0.96, 0.90, 0.84 and 0.76,
    # keeps 0.98, 0.97, 0.93 and 0.91 of Spearman (SICK-R), 1.00, 0.98, 0.89 and 0.88 of nDCG@10
    # (SciFact), and 0.79, 0.65, 0.57 and 0.50 of the neighbours: here a tenth is lost.
    least_kept: ClassVar[Mapping[str, float]] = {"cosine": 0.8, "neighbours": 0.5}
    across_spaces: ClassVar[str | None] = "neighbours"
    has_labels: ClassVar[bool] = False
    has_classes: ClassVar[bool] = False
    one_value: ClassVar[bool] = False
    output_axes: ClassVar[int] = 3
    serves: ClassVar[Served | None] = None

    def __init__(
        self,
        pooling: Pooling | None = None,
        dimensions: Sequence[int] = (),
        prompts: Sequence[str] = (),
    ) -> None:
        self.pooling = pooling or Pooling()
        self.dimensions = tuple(dimensions)
        self.prompts = tuple(prompts)

    def of_task(self, task: TaskFields) -> Vectors:
        """Return the head with the task's pooling, prompts and dimensions."""
        return type(self)(task.pooling, task.dimensions, task.prompts)

    def of_model(self, config: Any) -> Head:
        """Return the head with the pooling that a model's config keeps, where it keeps one."""
        return type(self)(Pooling.of(config) or self.pooling, self.dimensions, self.prompts)

    def width(self, labels: Sequence[str]) -> int:
        """Return 0: the encoder tells the width."""
        return 0

    def encode(
        self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, task: TaskFields
    ) -> Encoded:
        """Return each text as a feature, with its prompt before it. Shape: F is N, or 2 N."""
        return self._encoded(self.read(rows), rows, tokenizer, task)

    def read(self, rows: Dataset) -> Iterator[Sequence[str]]:
        """Yield the texts of rows in chunks, those of a row behind each other, as tokenized."""
        columns = text_columns(rows)
        named = [*zip(columns, (*self.prompts, *[None] * len(columns)), strict=False)]
        for chunk in rows.select_columns(columns).iter(CHUNK):
            texts = (self.pooling.read(chunk[column], name) for column, name in named)
            yield [text for row in zip(*texts, strict=True) for text in row]

    def _encoded(
        self,
        texts: Iterable[Sequence[str]],
        rows: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        task: TaskFields,
        own: Mapping[str, Sequence[Any]] | None = None,
    ) -> Encoded:
        """Return the texts of rows, as many of each, as features. `own`: as in `Encoded.of`.

        `texts`: in chunks, those of a row behind each other.
        """
        found = tokens_of(({"text": chunk} for chunk in texts), tokenizer, task.max_length)
        owners = np.repeat(np.arange(len(rows)), len(found.lengths) // max(1, len(rows)))
        return Encoded.of(
            found.flat,
            found.lengths,
            rows,
            owners,
            cut=min(found.cut, len(rows)),
            longest=found.longest,
            own=own,
        )

    def feature_outputs(self, outputs: Array, attention_mask: Array) -> list[Array]:
        """Return the vector of each feature of a batch. Shape: (B, T, H), or (B, D) -> B of (D,).

        A graph with its pooling inside gives the vectors themselves.
        """
        if outputs.ndim == 2:
            return list(outputs)
        states = outputs_of_features(outputs, attention_mask)
        return [self.pooling.vector(each) for each in states]

    def answers(self, outputs: Sequence[Array], encoded: Encoded) -> Array:
        """Return the vectors of each row. Shape: F of (D,) -> (N, D), or (N, 2, D) of pairs."""
        vectors = np.stack([*outputs])
        each = len(vectors) // encoded.rows
        return vectors if each == 1 else vectors.reshape(encoded.rows, each, -1)

    def decided(self, metric: Metric, logits: Array) -> Array:
        """Return the vectors of each row, or the cosine of each pair. Shape: -> (N, D) or (N,)."""
        vectors = _finite(logits)
        if metric.reads == "numbers":
            return cosines(vectors[:, 0], vectors[:, 1])
        return normalised(vectors).reshape(len(vectors), -1)

    def right(self, metric: Metric, references: Array) -> Array:
        """Return the same of the original's vectors. Shape: (N, ...) -> (N, D)."""
        return self.decided(metric, references)

    def original_chance(self, metric: Metric, answers: Array, original: Array) -> float | None:
        """Return the mean cosine of the best single vector, or the share of neighbours by chance.

        The best single vector is the mean of the original's normalised ones, and its mean cosine
        with them is the length of that mean. Of vectors of other dimensions, 0: those of one text
        say nothing of another. Shape: (N, D) or (N, 2, D) twice, D may differ.
        """
        rows = len(original)
        if metric.name == "neighbours":
            return min(1.0, NEIGHBOURS / (rows - 1)) if rows > 1 else 1.0
        if np.shape(answers)[-1] != np.shape(original)[-1]:
            return 0.0
        mean = normalised(self.decided(metric, original)).mean(axis=0)
        return min(1.0, float(np.linalg.norm(mean)))

    def changed(self, logits: Array, original: Array) -> Array | None:
        """Return None: nothing is decided."""
        return None

    def movement(self, logits: Array, original: Array) -> float:
        """Return the squared distance of normalised vectors over the variance of the original's.

        Shape: both (N, D) or (N, 2, D). Of vectors of other dimensions: of their cosines.
        """
        ours, theirs = (normalised(each).reshape(-1, each.shape[-1]) for each in (logits, original))
        if ours.shape[-1] != theirs.shape[-1]:
            ours, theirs = (each @ each.T for each in (ours[:_PAIRED], theirs[:_PAIRED]))
        spread = np.square(theirs - theirs.mean(axis=0)).sum(axis=1).mean()
        return float(np.square(ours - theirs).sum(axis=1).mean() / max(float(spread), 1e-12))

    def spread(self, outputs: Sequence[Array]) -> float:
        """Return the root of the mean squared distance of unit vectors from their mean, 0 to 1.

        Not of each dimension: of many of them each has a small share. Shape: F of (D,).
        """
        units = normalised(np.stack([*outputs]).astype(np.float64))
        return float(np.sqrt(units.var(axis=0).sum()))

    def output_movement(self, outputs: Sequence[Array], original: Sequence[Array]) -> float:
        """Return the same of hidden states. Shape: F of (T, H) without padding, twice."""
        sides = ([self.pooling.vector(each) for each in side] for side in (outputs, original))
        return self.movement(*(np.stack(side) for side in sides))

    def losses(self, outputs: Tensor, batch: Features) -> Tensor:
        """Return half the squared distance to the vectors in `labels`. Shape: (B, D) -> (B,)."""
        ours = self._vectors(outputs, batch)
        return 0.5 * (ours - batch["labels"].to(ours)).pow(2).sum(-1)

    def drawn_losses(
        self, outputs: Tensor, reference: Tensor, batch: Features, generator: torch.Generator
    ) -> Tensor:
        """Return the same to vectors drawn around the reference's with variance 1.

        The squared gradients are those of a Gaussian around the vector, whose Fisher information
        is that of the squared distance. Shape: (B, T, H) twice -> (B,).
        """
        import torch

        centre = self._vectors(reference, batch).cpu()
        drawn = centre + torch.randn(centre.shape, generator=generator)
        return self.losses(outputs, {**batch, "labels": drawn})

    def taught(self, outputs: Tensor, batch: Features) -> Tensor:
        """Return a teacher's vectors. Shape: (B, T, H) -> (B, D)."""
        return self._pooled(outputs, batch)

    def divergence(
        self, student: Tensor, teacher: Tensor, batch: Features, temperature: float
    ) -> Tensor:
        """Return how far vectors are from the teacher's, 0 where they are equal; T plays no part.

        mean(1 - cos(s, t)), as EmbedDistill does (Kim et al. 2023, 2301.12005; half the squared
        distance of the normalised vectors), plus the mean square of what cosines between two texts
        of the batch are off (Tung & Mori 2019, 1907.09682). With `dimensions` the mean of that over
        vectors cut so (Kusupati et al. 2022, 2205.13147). Between other widths, the second term
        alone. Shape: (B, T, H); teacher (B, D) or (B, T, H) -> ().
        """
        ours, theirs = self._pooled(student, batch), self._pooled(teacher, batch).to(student.device)
        cut = ours.shape[-1] == theirs.shape[-1]
        sizes = self.dimensions or (None,)
        terms = [_distance(ours[:, :n], theirs[:, :n] if cut else theirs) for n in sizes]
        return sum(terms[1:], terms[0]) / len(terms)

    def labels_of(self, outputs: Tensor, batch: Features) -> Tensor:
        """Return the vectors of a model as targets. Shape: (B, T, H) -> (B, D)."""
        return self._vectors(outputs, batch).detach()

    def _pooled(self, outputs: Tensor, batch: Features) -> Tensor:
        """Return vectors as the model gives them; what is pooled stays. Shape: (B, D)."""
        if outputs.ndim == 2:
            return outputs.float()
        return self.pooling.vectors(outputs, batch["attention_mask"])

    def _vectors(self, outputs: Tensor, batch: Features) -> Tensor:
        """Return normalised vectors. Shape: (B, D)."""
        from torch.nn import functional

        return functional.normalize(self._pooled(outputs, batch), dim=-1)


class Similarity(Vectors):
    """Two texts and how alike they are: the cosine of their vectors, ranked as the labels are."""

    key: ClassVar[str] = "similarity"
    metrics = metrics_named("pearson", "spearman")
    usual: ClassVar[tuple[str, ...]] = ("spearman", "pearson")
    has_labels: ClassVar[bool] = True
    one_value: ClassVar[bool] = True
    features_a_row: ClassVar[int] = 2
    texts_a_row: ClassVar[tuple[int, ...]] = (2,)

    def columns(self, task: TaskFields) -> Columns:
        """Return the task's two texts and its column of numbers."""
        return replace(super().columns(task), label_type="float32")

    def right(self, metric: Metric, references: Array) -> Array:
        """Return the labels. Shape: (N,)."""
        return references

    def loss(self, outputs: Tensor, batch: Features) -> Tensor:
        """Return the CoSENT loss of the pairs that are whole in the batch.

        log(1 + sum of exp(20 (cos_j - cos_i))) over i, j where i is labelled above j: Huang et al.
        2024, "CoSENT", which sentence-transformers recommends over the error of cosines. With
        `dimensions` the mean over vectors cut so. Shape: (B, T, H), `labels` (B,) -> ().
        """
        first = _whole_pairs(batch)
        vectors = self._pooled(outputs, batch)
        labels = batch["labels"].to(vectors.device)[first]
        sizes = self.dimensions or (vectors.shape[-1],)
        terms = [_cosent(vectors[first, :n], vectors[first + 1, :n], labels) for n in sizes]
        return sum(terms[1:], terms[0]) / len(terms)

    def losses(self, outputs: Tensor, batch: Features) -> Tensor:
        """Return the distance to vectors; of scores, the squared error of each text's cosine.

        Scores are compared in standard deviations within the batch. A text whose pair is not whole
        there has none. Shape: (B, T, H), `labels` (B, D) or (B,) -> (B,).
        """
        labels = batch["labels"]
        if labels.ndim == 2:
            return super().losses(outputs, batch)
        first = _whole_pairs(batch)
        vectors = self._vectors(outputs, batch)
        scores = (vectors[first] * vectors[first + 1]).sum(-1)
        off = 0.5 * (_standardised(scores) - _standardised(labels.to(scores)[first])).pow(2)
        return vectors.new_zeros(len(vectors)).index_add(0, first, off)


_PAIRED = 2_000
"""Rows whose cosines among each other are compared where vectors are of other dimensions."""


def _finite(vectors: Array) -> Array:
    """Return vectors as floats. Raises ModelError on NaN and infinity."""
    vectors = np.asarray(vectors, dtype=float)
    bad = ~np.isfinite(vectors).reshape(len(vectors), -1).all(axis=1)
    if bad.any():
        count = int(bad.sum())
        raise ModelError(f"the model answers NaN or infinity for {count} of {len(vectors)} rows")
    return vectors


def _distance(ours: Tensor, theirs: Tensor) -> Tensor:
    """Return the distance of vectors of the same texts; see `Vectors.divergence`."""
    from torch.nn import functional

    mine, wanted = (functional.normalize(each.float(), dim=-1) for each in (ours, theirs))
    off = (mine @ mine.T - wanted @ wanted.T).pow(2).sum()
    among = off / max(1, len(mine) * (len(mine) - 1))
    if mine.shape[-1] != wanted.shape[-1]:
        return among
    return among + 0.5 * (mine - wanted).pow(2).sum(-1).mean()


def _whole_pairs(batch: Features) -> Tensor:
    """Return the place of the first text of each pair that is whole in a batch. Shape: (P,)."""
    import torch

    if "part" not in batch:
        raise ModelError("training on pairs: a batch lacks `part`, the place of a text in its row")
    part, row = batch["part"], batch["row_id"]
    whole = (part[:-1] == 0) & (part[1:] == 1) & (row[:-1] == row[1:])
    return torch.nonzero(whole).squeeze(-1)


def _cosent(first: Tensor, second: Tensor, labels: Tensor) -> Tensor:
    """Return the CoSENT loss of pairs. Shape: (P, D) twice, (P,) -> ()."""
    import torch
    from torch.nn import functional

    scores = SCALE * functional.cosine_similarity(first, second)
    apart = scores[None, :] - scores[:, None]  # of j minus of i
    ranked = labels[:, None] > labels[None, :]
    terms = torch.cat([apart.new_zeros(1), apart[ranked]])
    return torch.logsumexp(terms, dim=0)


def _standardised(values: Tensor) -> Tensor:
    if len(values) < 2:
        return values - values
    return (values - values.mean()) / values.std(correction=0).clamp(min=1e-6)
