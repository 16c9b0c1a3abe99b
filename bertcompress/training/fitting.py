"""`fit` on a task's data, `fit_batches` on a loader of one's own."""

from __future__ import annotations

import copy
import hashlib
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase, TrainingArguments

from bertcompress.data import TaskData
from bertcompress.data.batches import Batches, train_loader
from bertcompress.deployment import Findings, Product, Trained
from bertcompress.errors import InputError, ModelError, OutputError
from bertcompress.method import Context, Objective
from bertcompress.support.distributed import Ranks
from bertcompress.training import checkpoints
from bertcompress.training.loggers import logging_to
from bertcompress.training.progress import Plan, Progress
from bertcompress.training.rates import learning_rate
from bertcompress.training.schedule import Ended
from bertcompress.training.selection import Selection, agreed
from bertcompress.training.settings import TrainSettings
from bertcompress.training.steps import LengthGrouped, choose, time_precisions
from bertcompress.training.targets import TargetScale, standardised_head
from bertcompress.training.trainer import FitTrainer

__all__ = ["Fitted", "fit", "fit_batches", "fit_stage"]

_ABSENT = object()
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
    """As given, with `precision` and `learning_rate` resolved."""
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
        rate = self.settings.learning_rate
        return Trained(
            steps=self.steps,
            samples=self.samples,
            best_step=self.best_step,
            selection_score=self.selection_score,
            precision=self.settings.precision,
            learning_rate=None if rate == "auto" else rate,
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
    train = data.encode(tokenizer, "train")
    lengths = np.asarray(train["length"][:], dtype=np.int64)
    collate = data.collator(tokenizer)
    mark = _fingerprint(model, objective, data, settings, seed)

    def loader(args: TrainingArguments) -> DataLoader[Any]:
        return DataLoader(
            train,
            batch_size=args.per_device_train_batch_size,
            sampler=LengthGrouped(lengths, settings.batch_size, seed),
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
    findings = Findings(training=fitted.trained)
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
    args = _arguments(settings, plan.workdir, seed, device, progress)
    resume = _resumable(plan)
    timed: dict[str, float] = {}
    with _prepared(model, objective, settings):
        if resume is not None:
            precision, reached = resume.precision, resume.progress
        elif settings.precision == "auto":
            timed = time_precisions(model, objective, list(islice(plan.loader(args), 3)), device)
            precision, reached = agreed(choose(timed)), Progress()
        else:
            precision, reached = settings.precision, Progress()
        start = _Start(model, objective, plan)
        earlier = reached.seconds
        while True:
            rate = learning_rate(settings, model) / 2 ** len(reached.collapsed_at)
            resolved = settings.model_copy(update={"precision": precision, "learning_rate": rate})
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


def _to_the_end(trainer: FitTrainer, resume: _Resume | None) -> tuple[int, Progress]:
    """Return the steps in all and where the training stands after them."""
    trainer.train(resume_from_checkpoint=str(resume.folder) if resume else None)
    trainer.tick()
    return trainer.state.global_step, trainer.progress


class _Start:
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


def _arguments(
    settings: TrainSettings, workdir: Path, seed: int, device: torch.device, progress: bool | None
) -> TrainingArguments:
    show = sys.stderr.isatty() if progress is None else progress
    args = TrainingArguments(
        output_dir=str(workdir),
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation,
        num_train_epochs=settings.epochs or settings.max_epochs,
        max_steps=settings.max_steps or -1,
        max_grad_norm=settings.max_grad_norm,
        seed=seed,
        use_cpu=device.type == "cpu",
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        remove_unused_columns=False,
        label_names=["labels"],
        logging_nan_inf_filter=False,  # it would wait for the device at each step
        disable_tqdm=not show,
        dataloader_pin_memory=device.type == "cuda",
    )
    if settings.batch_size % args.world_size:
        raise InputError(
            f"batch_size: {settings.batch_size} rows cannot be split over {args.world_size} "
            f"processes; give a multiple of {args.world_size}"
        )
    args.per_device_train_batch_size = settings.batch_size // args.world_size
    args._n_gpu = min(args.n_gpu, 1)  # one process, one device: no DataParallel behind our back
    return args


@dataclass(frozen=True)
class _Resume:
    folder: Path
    step: int
    precision: str
    progress: Progress


def _resumable(plan: Plan) -> _Resume | None:
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
    return _Resume(folder, checkpoints.step_of(folder), state["precision"], progress)


def _fingerprint(
    model: nn.Module, objective: Objective, data: TaskData, settings: TrainSettings, seed: int
) -> str:
    weights = hashlib.sha256()
    for name, tensor in model.named_parameters():
        weights.update(f"{name} {list(tensor.shape)}".encode())
        plain = tensor.detach().cpu().contiguous().flatten()
        weights.update(plain.view(torch.uint8).numpy().data)
    facts = {
        "weights": weights.hexdigest(),
        "objective": type(objective).__name__,
        "data": data.fingerprint,
        "settings": settings.model_dump(mode="json"),
        "seed": seed,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@contextmanager
def _prepared(model: nn.Module, objective: Objective, settings: TrainSettings) -> Iterator[None]:
    """Switch on what this training needs of the model, and take it back at the end."""
    config = getattr(model, "config", None)
    cache = vars(config).get("use_cache", _ABSENT) if config is not None else _ABSENT
    implementation = getattr(config, "_attn_implementation", None)
    eager = "attentions" in objective.needs and hasattr(model, "set_attn_implementation")
    if eager:
        model.set_attn_implementation("eager")  # type: ignore[operator]
    if settings.gradient_checkpointing:
        _recompute(model, True)
    try:
        yield
    finally:
        if settings.gradient_checkpointing:
            _recompute(model, False)
        if eager:
            model.set_attn_implementation(implementation)  # type: ignore[operator]
        model.__dict__.pop("_is_accelerate_prepared", None)  # a mark of the Trainer's accelerator
        if config is not None:  # the Trainer of transformers 5 writes there
            config.__dict__.pop("use_cache", None)
            config.__dict__.update({} if cache is _ABSENT else {"use_cache": cache})


def _recompute(model: nn.Module, on: bool) -> None:
    verb = "enable" if on else "disable"
    for kind in ("activation", "gradient"):  # the name in transformers 5, and the one before
        switch = getattr(model, f"{kind}_checkpointing_{verb}", None)
        if switch is not None:
            switch(*([{"use_reentrant": False}] if on else []))
            return
    raise ModelError(
        f"gradient_checkpointing: {type(model).__name__} does not support it; set it to false"
    )
