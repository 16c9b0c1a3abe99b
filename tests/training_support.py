"""A toy task for tests that train; a module of its own: killed processes import it too."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict
from tests_support import WORDS, tiny_model, tiny_tokenizer

from bertcompress.data import TaskData, load_data
from bertcompress.engines.distillation.objectives import Distillation, projection
from bertcompress.engines.distillation.teachers import LiveTeacher
from bertcompress.task import Task
from bertcompress.training import DelegatingObjective, Fitted, TrainSettings, fit

SETTINGS = TrainSettings(
    epochs=3, learning_rate=2e-3, precision="fp32", evaluations_per_epoch=2, batch_size=8
)


def toy_rows(rows: int, kind: str = "single_label", seed: int = 0) -> dict[str, list[Any]]:
    """Sentences of random words; the label says which of two words is in them."""
    rng = random.Random(seed)
    texts, labels = [], []
    for i in range(rows):
        words = rng.choices([w for w in WORDS if w not in ("good", "bad")], k=rng.randint(3, 14))
        yes = i % 2
        words.insert(rng.randrange(len(words)), "good" if yes else "bad")
        texts.append(" ".join(words))
        answers = {"regression": yes * 2.5 - 1.0, "multi_label": [1 - yes, yes]}
        labels.append(answers.get(kind, yes))
    return {"text": texts} | ({"label": labels} if kind != "unlabelled" else {})


def toy_data(kind: str = "single_label", rows: int = 120) -> TaskData:
    sets = {"train": toy_rows(rows, kind), "validation": toy_rows(40, kind, seed=1)}
    data = DatasetDict({name: Dataset.from_dict(columns) for name, columns in sets.items()})
    label = None if kind == "unlabelled" else "label"
    return load_data(Task.from_dataset(data, text="text", label=label, problem=kind))


def toy_objective(data: TaskData, teacher_width: int = 16) -> Distillation:
    """A distillation with a projection: state that a resumed training has to restore."""
    wide = {"hidden_size": teacher_width, "num_labels": 2}
    teacher = LiveTeacher(tiny_model(seed=5, **wide), tiny_tokenizer(), data)
    return Distillation(teacher, project=projection(16, teacher_width, seed=3))


class Killer(DelegatingObjective):
    """Ends the process with SIGKILL after a step; everything else is passed on."""

    def __init__(self, inner: Any, after: int) -> None:
        super().__init__(inner)
        self.after = after

    def on_step_end(self, model: Any, optimizer: Any, step: int) -> None:
        super().on_step_end(model, optimizer, step)
        if step == self.after:
            os.kill(os.getpid(), signal.SIGKILL)


def train(workdir: Path, kill_after: int = 0, **changes: Any) -> tuple[Fitted, Distillation]:
    """Distil a tiny model, with dropout, projection and accumulation; perhaps die on the way."""
    data = toy_data()
    objective = toy_objective(data, teacher_width=24)
    settings = SETTINGS.model_copy(
        update={"gradient_accumulation": 2, "checkpoint_steps": 5, **changes}
    )
    fitted = fit(
        tiny_model(num_labels=2),
        Killer(objective, kill_after),
        data,
        tokenizer=tiny_tokenizer(),
        settings=settings,
        workdir=workdir,
        seed=11,
        progress=False,
    )
    return fitted, objective
