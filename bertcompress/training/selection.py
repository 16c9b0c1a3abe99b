"""The score on the selection split, which early stopping and the best step go by."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast_object_list, gather_object
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from bertcompress.data import TaskData
from bertcompress.heads.outputs import outputs_of
from bertcompress.heads.scoring import compute
from bertcompress.method import Objective
from bertcompress.training.steps import forward, label_loss
from bertcompress.training.targets import TargetScale

__all__ = ["Judged", "Selection", "agreed"]

_ROWS = 32  # per batch: no gradients are kept


@dataclass(frozen=True)
class Judged:
    """How a model does on the selection split."""

    score: float
    """Headline metric, without labels the negative loss; higher is better."""
    loss: float
    """Mean loss of the labels, without labels of the objective."""
    error: float = 0.0
    """Standard error of the score, at most; 0 for a loss, which has no such scale."""
    spread: float = math.inf
    """How unlike the outputs for the features are (`Head.spread`); infinite without labels."""


class Selection:
    """The selection split, encoded, and the score of a model on it.

    `scale`: the model answers in standard deviations from the mean.
    """

    def __init__(
        self,
        data: TaskData,
        tokenizer: PreTrainedTokenizerBase,
        objective: Objective,
        device: torch.device,
        scale: TargetScale | None = None,
    ) -> None:
        self.scale = scale
        self.data = data
        self.task = data.task
        self.objective = objective
        self.device = device
        self.encoded = data.encoded(tokenizer, "selection")
        self.rows = self.encoded.dataset
        self.collate = data.collator(tokenizer)
        together = data.task.head.features_a_row > 1
        lengths = np.zeros(len(self.rows)) if together else self.rows["length"][:]
        self.order = np.argsort(lengths, kind="stable")

    def score(self, model: nn.Module) -> float:
        """Return the headline metric, without labels the negative loss; higher is better."""
        return self.judge(model).score

    def judge(self, model: nn.Module) -> Judged:
        """Return score and loss of the model, which keeps its mode."""
        training = model.training
        model.eval()
        with torch.no_grad():
            if not self.task.head.has_labels:
                loss = self._loss(model)
                judged = Judged(-loss, loss)
            else:
                judged = self._labelled(model)
        model.train(training)
        return judged

    def _labelled(self, model: nn.Module) -> Judged:
        mine = []
        for positions, batch in self._batches():
            logits = outputs_of(forward(model, batch)).float()
            loss = float(label_loss(logits, batch, self.task.head))
            answer = self.data.in_task_order(logits.cpu().numpy())
            mask = batch["attention_mask"].cpu().numpy()
            mine.append((positions, self.task.head.feature_outputs(answer, mask), loss))
        parts = _from_all(mine)
        counts = [len(part[0]) for part in parts]
        loss = float(np.average([part[2] for part in parts], weights=counts))
        order = np.argsort(np.concatenate([part[0] for part in parts]))
        unordered = [output for part in parts for output in part[1]]
        outputs = [unordered[i] for i in order]
        spread = self.task.head.spread(outputs)
        if self.scale is not None:
            outputs = [each * self.scale.std + self.scale.mean for each in outputs]
        answers = self.task.head.answers(outputs, self.encoded)
        references = self.data.references("selection")
        head = self.task.head
        answers = head.settled(answers, head.settings_of(answers, references))
        headline = self.task.headline
        value = compute(self.task.head, [headline], answers, references)[headline]
        return Judged(value, loss, 0.5 / math.sqrt(head.examples(references)), spread)

    def _loss(self, model: nn.Module) -> float:
        mine = []
        for positions, batch in self._batches():
            outputs = forward(model, batch, self.objective.needs)
            mine.append((len(positions), float(self.objective(model, batch, outputs, 0))))
        parts = _from_all(mine)
        rows = [rows for rows, _ in parts]
        return float(np.average([loss for _, loss in parts], weights=rows))

    def _batches(self) -> Iterator[tuple[NDArray[np.int64], dict[str, Tensor]]]:
        """Yield this process's share of the rows."""
        starts = range(0, len(self.order), _ROWS)
        for start in starts[_rank() :: _world()]:
            positions = self.order[start : start + _ROWS]
            batch = self.collate([self.rows[int(i)] for i in positions])
            batch = self.scale.labels(batch) if self.scale is not None else batch
            yield positions, {name: tensor.to(self.device) for name, tensor in batch.items()}


def agreed(value: Any) -> Any:
    """Return the first process's value, in every process."""
    values = [value]
    if _world() > 1:
        broadcast_object_list(values)
    return values[0]


def _from_all(mine: list[Any]) -> list[Any]:
    return list(gather_object(mine)) if _world() > 1 else mine


def _world() -> int:
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if distributed else 1


def _rank() -> int:
    return torch.distributed.get_rank() if _world() > 1 else 0
