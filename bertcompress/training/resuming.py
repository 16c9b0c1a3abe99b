"""What a training begins with: the checkpoint that it goes on from, or the weights it starts at."""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from bertcompress.data import TaskData
from bertcompress.errors import OutputError
from bertcompress.method import Objective
from bertcompress.support.distributed import Ranks
from bertcompress.training import checkpoints
from bertcompress.training.progress import Plan, Progress
from bertcompress.training.settings import TrainSettings

__all__ = ["Beginning", "Resume", "fingerprint", "resumable"]


@dataclass(frozen=True)
class Resume:
    """The checkpoint that a killed training left."""

    folder: Path
    step: int
    precision: str
    progress: Progress


def resumable(plan: Plan) -> Resume | None:
    """Return the last checkpoint; raises OutputError where it is of another training."""
    folder = checkpoints.latest(plan.workdir)
    if folder is None:
        return None
    state = checkpoints.load_state(folder)
    if state["fingerprint"] != plan.fingerprint:
        raise OutputError(
            f"{plan.workdir}: holds checkpoints of another training (other model, data, settings "
            "or seed); give another folder, or delete them"
        )
    progress = Progress(**state["progress"])
    return Resume(folder, checkpoints.step_of(folder), state["precision"], progress)


def fingerprint(
    model: nn.Module, objective: Objective, data: TaskData, settings: TrainSettings, seed: int
) -> str:
    """Return a hash of what a resumed training has to have in common with the killed one."""
    weights = hashlib.sha256()
    for name, tensor in model.named_parameters():
        weights.update(f"{name} {list(tensor.shape)}".encode())
        plain = tensor.detach().cpu().contiguous().flatten()
        weights.update(plain.view(torch.uint8).numpy().data)
    facts = {
        "weights": weights.hexdigest(),
        "objective": type(objective).__name__,
        "data": data.fingerprint,
        # A training after others of its stage has the minutes that they left, which nobody repeats.
        "settings": settings.model_dump(mode="json", exclude={"max_minutes"}),
        "seed": seed,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


class Beginning:
    """What a training begins with, so that it can begin again."""

    def __init__(self, model: nn.Module, objective: Objective, plan: Plan) -> None:
        self.model, self.objective, self.workdir = model, objective, plan.workdir
        self.ranks = Ranks()
        if plan.restarts:
            self._objective = copy.deepcopy(dict(objective.state_dict()))
            if self.ranks.main:
                checkpoints.write_start(self.workdir, model)

    def again(self) -> None:
        """Take back everything that was learned, and the checkpoints of it."""
        self.ranks.wait()
        checkpoints.begin_again(self.workdir, self.model)
        self.objective.load_state_dict(self._objective)
        self.ranks.wait()
        if self.ranks.main:
            checkpoints.clear(self.workdir)
            checkpoints.write_start(self.workdir, self.model)
