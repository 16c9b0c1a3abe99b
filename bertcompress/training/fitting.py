"""`fit` on a task's data, `fit_batches` on a loader of one's own."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase, TrainingArguments

from bertcompress.data import TaskData
from bertcompress.data.batches import Batches, train_loader
from bertcompress.deployment import Findings, Product, Trained
from bertcompress.errors import InputError
from bertcompress.method import Context, Objective
from bertcompress.training import checkpoints
from bertcompress.training.loggers import logging_to
from bertcompress.training.preparing import prepared, trainer_arguments
from bertcompress.training.progress import Plan, Progress
from bertcompress.training.rates import head_rate, learning_rate
from bertcompress.training.resuming import Beginning, Resume, fingerprint, resumable
from bertcompress.training.rows import rows_to_train_on
from bertcompress.training.schedule import Ended
from bertcompress.training.selection import Selection, agreed
from bertcompress.training.settings import TrainSettings
from bertcompress.training.steps import choose, time_precisions
from bertcompress.training.targets import TargetScale, standardised_head
from bertcompress.training.trainer import FitTrainer
from bertcompress.training.zeros import keeping_zeros

__all__ = ["Fitted", "fit", "fit_batches", "fit_stage"]

_RESTARTS = 2
"""Of a training that learns nothing at the rate that `auto` stands for: each at half the rate."""


@dataclass(frozen=True)
class Fitted:
    """What came out of a training; `model` holds the weights of `best_step`.

    That is the last one where it was asked to keep that.
    """

    model: nn.Module
    steps: int
    samples: int
    """Rows trained on, repetitions counted, over all processes."""
    seconds: float
    """Training and evaluating, over all attempts."""
    earlier_seconds: float
    """Of these, in attempts that were interrupted."""
    best_step: int
    history: tuple[Mapping[str, Any], ...]
    """One entry per evaluation: `step`, `loss` (mean since the last one), `score`,
    `selection_loss`, `seconds`."""
    selection_score: float | None
    settings: TrainSettings
    """As given, with `precision`, `learning_rate` and `head_rate` resolved."""
    ended: Ended
    evaluation_steps: int
    """Steps from one evaluation to the next."""
    step_seconds: Mapping[str, float]
    """What `precision: auto` measured; empty where it was given or had one candidate."""
    collapsed_at: tuple[float, ...] = ()
    """Peak rates at which nothing was learned before the training began again at half of them; what
    was spent then is in `samples` and `seconds`, not in `steps`."""

    @property
    def trained(self) -> Trained:
        """How the training went, for the findings of a stage."""
        rate, above = self.settings.learning_rate, self.settings.head_rate
        return Trained(
            steps=self.steps,
            samples=self.samples,
            best_step=self.best_step,
            selection_score=self.selection_score,
            precision=self.settings.precision,
            learning_rate=None if rate == "auto" else rate,
            head_rate=None if above == "auto" else above,
            collapsed_at=self.collapsed_at,
            ended=dict(self.ended.facts),
            evaluation_steps=self.evaluation_steps,
            earlier_seconds=self.earlier_seconds,
            history=tuple(
                {
                    "step": row["step"],
                    "loss": row["loss"],
                    "eval_loss": row["selection_loss"],
                    "eval_selection": row["score"],
                }
                for row in self.history
            ),
        )


def fit(
    model: nn.Module,
    objective: Objective,
    data: TaskData,
    *,
    tokenizer: PreTrainedTokenizerBase,
    settings: TrainSettings,
    workdir: Path,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: bool | None = None,
    keep_last: bool = False,
) -> Fitted:
    """Train `model` in place and leave it at its best step by the selection split.

    Judged by the task's headline metric; without labels by the negative loss. Called again with the
    same `workdir` after a kill, it goes on from the last checkpoint and ends with the same weights;
    `clear(workdir)` removes the checkpoints once the result is safe. `progress` shows a bar; None:
    where standard error is a terminal. `keep_last` leaves it at the last step instead, where the
    steps are not of one kind: a size that falls makes the first the best. Raises OutputError for a
    folder that holds another training or cannot be written.
    """
    device = torch.device(device)
    unlabelled = getattr(objective, "learns_unlabelled", False)
    train, sampler = rows_to_train_on(data, tokenizer, settings, seed, unlabelled)
    collate = data.collator(tokenizer)
    mark = fingerprint(model, objective, data, settings, seed)

    def loader(args: TrainingArguments) -> DataLoader[Any]:
        _check_pairs(data, settings, args)
        return DataLoader(
            train,
            batch_size=args.per_device_train_batch_size,
            sampler=sampler(),
            collate_fn=standardised if scale is not None else collate,
            pin_memory=device.type == "cuda",
        )

    def standardised(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        assert scale is not None
        return scale.labels(collate(rows))

    with standardised_head(model, TargetScale.of(data)) as scale:
        judge = Selection(data, tokenizer, objective, device, scale).judge
        restarts = _RESTARTS if settings.learning_rate == "auto" and not keep_last else 0
        plan = Plan(loader, Path(workdir), judge, len(data.selection), mark, keep_last, restarts)
        return _train(model, objective, plan, settings, seed, device, progress)


def _check_pairs(data: TaskData, settings: TrainSettings, args: TrainingArguments) -> None:
    """Raise InputError where both texts of a pair would come to different processes."""
    each, together = args.per_device_train_batch_size, data.task.head.features_a_row
    if args.world_size > 1 and each % together:
        raise InputError(
            f"batch_size: {settings.batch_size} texts over {args.world_size} processes are {each} "
            f"each, which splits a pair; give a multiple of {together * args.world_size}"
        )


def fit_batches(
    model: nn.Module,
    objective: Objective,
    loader: Batches,
    *,
    settings: TrainSettings,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: bool | None = None,
) -> Fitted:
    """Train `model` in place on the user's own loader, to the last step; nothing is judged or kept.

    Batches map names to tensors as the model takes them, with `labels` where there are any. A
    model of half precision is trained, and comes back, in fp32.
    """
    batches = train_loader(loader)
    model.float()
    with tempfile.TemporaryDirectory() as scratch:
        plan = Plan(lambda args: batches, Path(scratch))
        settings = settings.unjudged()
        return _train(model, objective, plan, settings, seed, torch.device(device), progress)


def fit_stage(
    product: Product,
    ctx: Context,
    objective: Objective,
    settings: TrainSettings,
    keep_last: bool = False,
) -> Product:
    """Return the product trained as one stage of a run: what a training method's `apply` does.

    Checkpoints are in `ctx.workdir / "training"`, which a method may use for its caches too. They
    stay until the stage is written: what is made of the trained model may fail.
    """
    fitted = fit(
        product.model,
        objective,
        ctx.data,
        tokenizer=product.tokenizer,
        settings=settings,
        workdir=ctx.workdir / "training",
        seed=ctx.seed,
        device=ctx.device,
        keep_last=keep_last,
    )
    taught = {"taught": getattr(objective, "taught", False)}
    findings = Findings(training=fitted.trained.model_copy(update=taught))
    return Product(product.model, product.tokenizer, (), findings)


def _train(
    model: nn.Module,
    objective: Objective,
    plan: Plan,
    settings: TrainSettings,
    seed: int,
    device: torch.device,
    progress: bool | None,
) -> Fitted:
    model.to(device)
    objective = keeping_zeros(model, objective)
    args = trainer_arguments(settings, plan.workdir, seed, device, progress)
    resume = resumable(plan)
    timed: dict[str, float] = {}
    with prepared(model, objective, settings):
        if resume is not None:
            precision, reached = resume.precision, resume.progress
        elif settings.precision == "auto":
            timed = time_precisions(model, objective, list(islice(plan.loader(args), 3)), device)
            precision, reached = agreed(choose(timed)), Progress()
        else:
            precision, reached = settings.precision, Progress()
        start = Beginning(model, objective, plan)
        earlier = reached.seconds
        while True:
            rate = learning_rate(settings, model) / 2 ** len(reached.collapsed_at)
            resolved = _resolved(settings, model, precision, rate)
            if resume is not None and reached.finished:
                steps = resume.step
                objective.load_state_dict(checkpoints.load_state(resume.folder)["objective"])
            else:
                with logging_to(args, settings) as callbacks:
                    trainer = FitTrainer(model, args, objective, plan, resolved, reached, callbacks)
                    steps, reached = _to_the_end(trainer, resume)
            if reached.reason != "collapsed":
                break
            start.again()
            resume, reached = None, reached.again(rate)
    best = steps if plan.keep_last else reached.best_step or steps
    if plan.judge is not None:
        checkpoints.load_weights(model, checkpoints.folder_of(plan.workdir, best))
        agreed(best)  # all processes have read it before one of them may clear the folder
    model.eval()
    return Fitted(
        model=model,
        steps=steps,
        samples=reached.rows,
        seconds=reached.seconds,
        earlier_seconds=earlier,
        best_step=best,
        history=tuple(reached.history),
        selection_score=reached.history[-1]["score"] if plan.keep_last else reached.best_score,
        settings=resolved,
        ended=Ended.of(
            resolved, reached.reason, reached.history, plan.judged_rows, reached.learned
        ),
        evaluation_steps=reached.interval,
        step_seconds=timed,
        collapsed_at=tuple(reached.collapsed_at),
    )


def _resolved(
    settings: TrainSettings, model: nn.Module, precision: str, rate: float
) -> TrainSettings:
    """Return the settings with what `auto` came to, for a model as its training begins."""
    above = head_rate(settings, model)
    auto = {"precision": precision, "learning_rate": rate, "head_rate": above}
    return settings.model_copy(update=auto)


def _to_the_end(trainer: FitTrainer, resume: Resume | None) -> tuple[int, Progress]:
    """Return the steps in all and where the training stands after them."""
    trainer.train(resume_from_checkpoint=str(resume.folder) if resume else None)
    trainer.tick()
    return trainer.state.global_step, trainer.progress
