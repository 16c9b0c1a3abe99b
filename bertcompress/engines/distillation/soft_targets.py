"""What stands for a teacher's probabilities: its decisions, or a control that asks why they help.

Each control keeps some of what an answer tells and removes the rest. `smoothed` labels are as
unsure as the teacher on each row and know nothing else; `shuffled` answers are those of another row
of the same class; `permuted` ones name other classes as the near ones (Furlanello et al. 2018,
1805.04770, DKPP). Labels weighted by `confidence` (CWTM there) know only which rows the teacher is
sure of. Axes: B rows, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bertcompress.errors import DataError, RecipeError
from bertcompress.heads import Head
from bertcompress.method import Teacher, TeacherOutputs

__all__ = [
    "CONTROLS",
    "LabelWeighting",
    "Remembers",
    "ShuffledTeacher",
    "Targets",
    "check_targets",
    "confidence_weights",
    "permuted_logits",
    "row_seeds",
    "shuffled_rows",
    "smoothed_logits",
]

Targets = Literal["probabilities", "decisions", "smoothed", "shuffled", "permuted"]
"""What of a teacher's answer is learned: all, what it decides, or a control of its probabilities.
"""

LabelWeighting = Literal["equal", "confidence"]
"""What a row's loss of its label weighs: as much as any, or by the teacher's largest probability.
"""

CONTROLS: Mapping[str, str] = {
    "smoothed": "labels smoothed to the entropy of the teacher's answer to each row",
    "shuffled": "the teacher's answers to other rows of the same class",
    "permuted": "the teacher's answers, the less likely classes of each row permuted",
    "confidence": "labels weighted by how sure the teacher is of each row",
}
"""What each control learns from, in the words of a report."""

_NEEDS_LABELS = ("smoothed", "shuffled", "confidence")
_WIDEST = 256.0
"""A gap of logits that no entropy in double precision needs more than."""
_HALVINGS = 56


def check_targets(asked: str, head: Head, classes: int, labelled: bool, where: str) -> None:
    """Raise RecipeError where a control of the targets says nothing for a task.

    `asked`: a key of `CONTROLS`, other words pass. `classes`: outputs of the model; `labelled`:
    whether the training rows have labels.
    """
    if asked not in CONTROLS:
        return
    setting = "label_weighting" if asked == "confidence" else "targets"
    if not head.has_order:
        raise RecipeError(
            f"{where}: {setting}: {asked} is for one class a text, whose probabilities sum to 1; "
            f"a {head.key} task has none"
        )
    if asked in _NEEDS_LABELS and not labelled:
        raise RecipeError(
            f"{where}: {setting}: {asked} needs the label of each row, and these have none"
        )
    if asked == "permuted" and classes < 3:
        raise RecipeError(
            f"{where}: targets: permuted exchanges the classes that are not the most likely, and "
            f"of {classes} classes that is one: nothing would change; allowed: smoothed, shuffled"
        )


def smoothed_logits(teacher: Tensor, labels: Tensor, temperature: float = 1.0) -> Tensor:
    """Return logits of smoothed labels that are as unsure as the teacher on each row.

    The label is the most likely class, and the others are equally likely: with a gap g between
    their logits at the temperature, softmax has the entropy

        H(g) = log(1 + (K - 1) exp(-g)) + g (K - 1) / (exp(g) + K - 1),

    which falls from log K to 0; g is where it is that of softmax(teacher / temperature). Shape:
    teacher (B, K), labels (B,) -> (B, K), to be divided by the temperature as the teacher's.
    """
    log_p = (teacher.double() / temperature).log_softmax(-1)
    entropy = -(log_p.exp() * log_p).sum(-1)
    classes = teacher.shape[-1]
    low, high = torch.zeros_like(entropy), torch.full_like(entropy, _WIDEST)
    for _ in range(_HALVINGS):
        gap = (low + high) / 2
        unsure = _entropy_of_gap(gap, classes) > entropy
        low, high = torch.where(unsure, gap, low), torch.where(unsure, high, gap)
    gap = torch.where(entropy.isnan(), entropy, (low + high) / 2)
    wanted = torch.zeros_like(log_p)
    wanted.scatter_(-1, labels.to(teacher.device)[:, None], temperature * gap[:, None])
    return wanted.to(teacher.dtype)


def _entropy_of_gap(gap: Tensor, classes: int) -> Tensor:
    """Return the entropy of one logit above K - 1 equal ones, in nats. Shape: any -> the same."""
    others = (classes - 1) * (-gap).exp()
    return others.log1p() + gap * others / (1 + others)


def permuted_logits(teacher: Tensor, seeds: Sequence[Sequence[int]]) -> Tensor:
    """Return logits whose classes but the most likely are permuted on each row, by its seed.

    So are the probabilities, at any temperature. A permutation may leave all as they are: of three
    classes every second one does. Shape: (B, K), B seeds -> (B, K).
    """
    rows, classes = teacher.shape
    order = np.tile(np.arange(classes), (rows, 1))
    tops = teacher.argmax(-1).tolist()
    for line, top, seed in zip(order, tops, seeds, strict=True):
        others = np.delete(np.arange(classes), top)
        line[others] = np.random.default_rng(list(seed)).permutation(others)
    return teacher.gather(-1, torch.from_numpy(order).to(teacher.device))


def row_seeds(row_ids: Tensor, seed: int, step: int) -> list[tuple[int, ...]]:
    """Return a seed for each row: the same whenever it comes, where it has a number.

    Rows of a loader of one's own have none (-1): theirs are of the step and the place. Shape: (B,).
    """
    ids = row_ids.tolist()
    return [
        (seed, 0, number) if number >= 0 else (seed, 1, step, place)
        for place, number in enumerate(ids)
    ]


def confidence_weights(teacher: Tensor) -> Tensor:
    """Return a teacher's largest probability of each row over their sum. Shape: (B, K) -> (B,)."""
    largest = teacher.float().softmax(-1).amax(-1)
    return largest / largest.sum()


def shuffled_rows(labels: NDArray[Any], seed: int) -> NDArray[np.int64]:
    """Return for each row another one of its class: a random cycle through the rows of each.

    Only a row that is alone in its class keeps its own place. Shape: (N,) -> (N,).
    """
    rng = np.random.default_rng(seed)
    partner = np.arange(len(labels))
    for label in np.unique(labels):
        cycle = rng.permutation(np.flatnonzero(labels == label))
        partner[cycle] = np.roll(cycle, -1)
    return partner


@runtime_checkable
class Remembers(Protocol):
    """A teacher that may answer for the batch of its student."""

    def remember(self, batch: Mapping[str, Tensor]) -> None:
        """Use this batch for the next question if it is about its rows."""
        ...


class ShuffledTeacher:
    """Answers for a training row with the logits of another row of its class.

    What is inside, such as hidden states, is of the row itself. Other rows than those given are
    refused with DataError.
    """

    def __init__(
        self, inner: Teacher, row_ids: NDArray[np.int64], labels: NDArray[Any], seed: int
    ) -> None:
        self.inner = inner
        order = np.argsort(row_ids, kind="stable")
        self._ids = row_ids[order]
        self._partners = row_ids[shuffled_rows(labels, seed)][order]

    def remember(self, batch: Mapping[str, Tensor]) -> None:
        """Pass the batch on, for what is inside."""
        if isinstance(self.inner, Remembers):
            self.inner.remember(batch)

    def __call__(
        self,
        row_ids: Tensor,
        needs: frozenset[str] = frozenset(),
        parts: Tensor | None = None,
    ) -> TeacherOutputs:
        """Answer for the rows. Shape: row_ids (B,)."""
        inside = self.inner(row_ids, needs, parts) if needs else None
        logits = self.inner(self.partners(row_ids)).logits
        if inside is None:
            return TeacherOutputs(logits)
        return TeacherOutputs(logits, inside.hidden_states, inside.attentions, inside.projections)

    def partners(self, row_ids: Tensor) -> Tensor:
        """Return the rows whose answers are given for these. Shape: (B,), both."""
        asked = row_ids.cpu().numpy()
        places = np.minimum(np.searchsorted(self._ids, asked), len(self._ids) - 1)
        if len(missing := asked[self._ids[places] != asked]):
            raise DataError(f"targets: shuffled: row {missing[0]} is no training row with a label")
        return torch.as_tensor(self._partners[places], device=row_ids.device)
