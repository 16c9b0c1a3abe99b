"""How long a step of a training takes here, by a few that are made and thrown away."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from bertcompress.data import TaskData
from bertcompress.heads.outputs import outputs_of
from bertcompress.training.schedule import Horizon
from bertcompress.training.settings import TrainSettings
from bertcompress.training.steps import forward

__all__ = ["Pace", "fewest_steps", "time_steps"]

_STEPS = 3
_ENOUGH_S = 10.0
"""After so long no further step is timed."""


@dataclass(frozen=True)
class Pace:
    """Seconds for one row, mean over rows of all lengths."""

    step_s: float
    """Forward, backward and the optimizer, in a batch, in fp32."""
    forward_s: float
    """The answer alone, in a batch."""
    alone_s: float
    """The answer alone, one row at a time."""
    steps: int
    """How many steps were timed."""

    def times(self, work: float) -> Pace:
        """Return the pace of a model that computes so many times as much."""
        return Pace(work * self.step_s, work * self.forward_s, work * self.alone_s, self.steps)


def time_steps(
    model: nn.Module,
    data: TaskData,
    tokenizer: PreTrainedTokenizerBase,
    batch_size: int,
    device: torch.device,
) -> Pace:
    """Return the pace of a training of a model on a task's rows; model and randomness stay."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        trained = copy.deepcopy(model).float().to(device).train()
        optimizer = torch.optim.AdamW(trained.parameters(), lr=0.0, fused=True)
        steps: list[float] = []
        answers: list[float] = []
        batches = _batches(data, tokenizer, batch_size, device)
        _step(trained, optimizer, batches[0])  # the first one warms up
        start = time.perf_counter()
        for batch in batches:
            steps.append(_step(trained, optimizer, batch))
            answers.append(_answer(trained, batch))
            if time.perf_counter() - start > _ENOUGH_S:
                break
        one = {name: tensor[:1] for name, tensor in batches[0].items()}
        rows = len(batches[0]["input_ids"])
        return Pace(
            statistics.mean(steps) / rows,
            statistics.mean(answers) / rows,
            _answer(trained, one),
            len(steps),
        )


def _batches(
    data: TaskData, tokenizer: PreTrainedTokenizerBase, size: int, device: torch.device
) -> list[dict[str, Tensor]]:
    """Return batches of like lengths from a fair sample: a middle, a short and a long one."""
    rows = data.encode(tokenizer, "calibration")
    rows = rows.select(range(min(len(rows), 8 * size)))
    order = np.argsort(rows["length"][:], kind="stable")
    whole = [order[i : i + size] for i in range(0, max(1, len(order) - size + 1), size)]
    collate = data.collator(tokenizer)
    spread = [whole[int(len(whole) * share)] for share in (0.5, 0.2, 0.8)][:_STEPS]
    made = [collate([rows[int(i)] for i in positions]) for positions in spread]
    return [{n: t.to(device) for n, t in batch.items() if n != "labels"} for batch in made]


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Mapping[str, Tensor]) -> float:
    start = time.perf_counter()
    loss = outputs_of(forward(model, batch)).float().square().mean()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    optimizer.zero_grad()
    _wait(loss)
    return time.perf_counter() - start


def _answer(model: nn.Module, batch: Mapping[str, Tensor]) -> float:
    start = time.perf_counter()
    with torch.no_grad():
        _wait(outputs_of(forward(model, batch)))
    return time.perf_counter() - start


def _wait(tensor: Tensor) -> None:
    if tensor.device.type == "cuda":
        torch.cuda.synchronize(tensor.device)


def fewest_steps(settings: TrainSettings, epoch: int, most: int) -> int:
    """Return the steps after which a training can end at the earliest.

    `epoch`: steps of one pass; `most`: what it does not exceed.
    """
    horizon = Horizon.of(settings, epoch, most)
    if settings.is_fixed:
        if settings.patience is None:
            return most
        return min(most, (settings.patience + 1) * horizon.interval)
    held = max(horizon.warmup + 1, (settings.stall_patience + 2) * horizon.interval)
    return min(most, held + horizon.decay_steps(min(held, most - 1), settings.cooldown))
