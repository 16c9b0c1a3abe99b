"""The `transformers.Trainer` behind `fit`: our data order, optimizer, evaluation and checkpoints.

What is overridden has the same name and arguments in transformers 4.57 and 5.x; the test that kills
a training and resumes it holds this on both.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import (
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    get_linear_schedule_with_warmup,
)

from bertcompress.method import Objective
from bertcompress.training import checkpoints
from bertcompress.training.settings import TrainSettings
from bertcompress.training.steps import (
    LengthGrouped,
    autocast,
    decay_groups,
    forward,
    own_parameters,
)

__all__ = ["FitTrainer", "Plan", "Progress"]


@dataclass(frozen=True)
class Plan:
    """What is trained on and judged by, and where checkpoints go."""

    loader: Callable[[TrainingArguments], DataLoader[Any]]
    workdir: Path
    score: Callable[[nn.Module], float] | None = None
    """Higher is better; None: nothing is judged, and no checkpoint written."""
    fingerprint: str = ""
    """Of everything that a resumed training must have in common with the killed one."""
    keep_last: bool = False
    """Whether the last step is what is wanted, whatever the scores."""


@dataclass
class Progress:
    """Where a training stands; JSON-plain, part of each checkpoint."""

    best_score: float | None = None
    best_step: int = 0
    stale: int = 0
    """Evaluations since the best one."""
    finished: bool = False
    rows: int = 0
    """Rows trained on, over all processes."""
    seconds: float = 0.0
    loss_sum: float = 0.0
    loss_count: int = 0
    """Batches in `loss_sum`: those since the last evaluation."""
    history: list[dict[str, Any]] = field(default_factory=list)

    def judge(self, score: float, step: int) -> None:
        """Take in a score of the selection split."""
        if not math.isnan(score) and (self.best_score is None or score > self.best_score):
            self.best_score, self.best_step, self.stale = score, step, 0
        else:
            self.stale += 1


class FitTrainer(Trainer):
    """Minimises an objective, keeps the best step by `plan.score`, and resumes bit by bit."""

    net: nn.Module
    objective: Objective
    plan: Plan
    settings: TrainSettings
    optimizer: Any
    lr_scheduler: Any

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        objective: Objective,
        plan: Plan,
        settings: TrainSettings,
        callbacks: list[TrainerCallback],
    ) -> None:
        self.net = model  # never wrapped
        self.objective = objective
        self.plan = plan
        self.settings = settings
        self.progress = Progress()
        self.sampler: Any = None
        self.steps_per_epoch = 1
        super().__init__(model=model, args=args, callbacks=callbacks)
        # The objective returns the mean of a batch: the Trainer has to divide by the accumulation.
        self.model_accepts_loss_kwargs = False
        for unwanted in (PrinterCallback, ProgressCallback):
            self.remove_callback(unwanted)
        self.add_callback(_Flow(self))
        if not args.disable_tqdm:
            self.add_callback(_Bar())
        self._loss = torch.zeros((), dtype=torch.float64, device=args.device)
        self._clock = time.perf_counter()

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Return the objective's loss of one batch."""
        # Not the Trainer's own bf16: it leaves its autocast wrapped around the user's model.
        with autocast(self.args.device, self.settings.precision):
            outputs = forward(model, inputs, self.objective.needs)
            loss = self.objective(self.net, inputs, outputs, self.state.global_step)
        self._loss += loss.detach()
        self.progress.loss_count += 1
        self.progress.rows += len(next(iter(inputs.values()))) * self.args.world_size
        return (loss, outputs) if return_outputs else loss

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Return 0: nobody reads it, and counting walks over all parameters at each step."""
        return 0

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return the plan's loader, sharded over the processes."""
        loader = self.plan.loader(self.args)
        self.sampler = loader.sampler
        prepared: DataLoader[Any] = self.accelerator.prepare(loader)
        self.steps_per_epoch = math.ceil(len(prepared) / self.args.gradient_accumulation_steps)
        return prepared

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Make the fused AdamW over the model and the objective."""
        if self.optimizer is None:
            groups = decay_groups(self.net, self.settings.weight_decay)
            groups += self.objective.parameter_groups()
            groups = [group for group in groups if group["params"]]
            self.optimizer = torch.optim.AdamW(groups, lr=self.settings.learning_rate, fused=True)
        return self.optimizer  # type: ignore[no-any-return]

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> Any:
        """Make the linear schedule; only here is `warmup` a fraction in both transformers lines."""
        if self.lr_scheduler is None:
            self.lr_scheduler = get_linear_schedule_with_warmup(  # type: ignore[no-untyped-call]
                optimizer or self.optimizer,
                math.ceil(self.settings.warmup * num_training_steps),
                num_training_steps,
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def evaluates_at(self, step: int) -> bool:
        """Return whether an evaluation is due after this step: evenly in each epoch, and last."""
        length = self.steps_per_epoch
        times = min(self.settings.evaluations_per_epoch, length)
        planned = {math.ceil(length * k / times) for k in range(1, times + 1)}
        return (step - 1) % length + 1 in planned or step >= self.state.max_steps

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Score the selection split, remember the best, and stop when it is time."""
        assert self.plan.score is not None
        step = self.state.global_step
        score = self.plan.score(self.net)
        loss = self._mean_loss()
        self.tick()
        self.progress.judge(score, step)
        self.progress.history.append(
            {"step": step, "loss": loss, "score": score, "seconds": self.progress.seconds}
        )
        patience = self.settings.patience
        stale = patience is not None and self.progress.stale >= patience
        self.progress.finished = stale or step >= self.state.max_steps
        self.log({"loss": loss, "eval_selection": score})
        # Takes `should_evaluate` back; else the end of the epoch would evaluate a second time.
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, {})
        self.control.should_training_stop |= self.progress.finished
        return {"eval_selection": score}

    def _mean_loss(self) -> float:
        self._take_loss()
        mean = self.progress.loss_sum / max(self.progress.loss_count, 1)
        self.progress.loss_sum, self.progress.loss_count = 0.0, 0
        means = self._gather(mean)
        return float(sum(means)) / len(means)

    def _take_loss(self) -> None:
        self.progress.loss_sum += float(self._loss)
        self._loss.zero_()

    def tick(self) -> None:
        """Add the time since the last call to `progress.seconds`."""
        now = time.perf_counter()
        self.progress.seconds += now - self._clock
        self._clock = now

    def _gather(self, value: Any) -> list[Any]:
        return list(gather_object([value])) if self.args.world_size > 1 else [value]

    # Checkpoints. The Trainer's own writer raises on shared tensors and pickles the rest. --------

    def _save_checkpoint(self, model: nn.Module, trial: Any = None) -> None:
        self.tick()
        self._take_loss()
        state = {
            "fingerprint": self.plan.fingerprint,
            "precision": self.settings.precision,
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.lr_scheduler.state_dict(),
            "random": self._gather(checkpoints.random_state()),
            "objective": dict(self.objective.state_dict()),
            "progress": asdict(self.progress),
        }
        if self.args.process_index == 0:
            step, best = self.state.global_step, self.progress.best_step
            checkpoints.write(self.plan.workdir, step, self.net, state, self.state, keep={best})
        self.accelerator.wait_for_everyone()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        folder = Path(resume_from_checkpoint)
        checkpoints.load_weights(self.net, folder)
        self._restored = checkpoints.load_state(folder)
        self.objective.load_state_dict(self._restored["objective"])
        self.progress = Progress(**self._restored["progress"])

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            self.optimizer.load_state_dict(self._restored.pop("optimizer"))
            self.lr_scheduler.load_state_dict(self._restored.pop("scheduler"))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            states = self._restored["random"]
            checkpoints.restore_random_state(states[self.args.process_index % len(states)])


class _Bar(ProgressCallback):
    """The progress bar with the time left, without a dictionary printed at each log."""

    def on_log(self, *args: Any, **kwargs: Any) -> None:
        """Print nothing."""


class _Flow(TrainerCallback):
    """Says when to evaluate and to save, and passes each step on to the objective."""

    def __init__(self, trainer: FitTrainer) -> None:
        self.trainer = trainer

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Tell the sampler its epoch; accelerate does not reach it in every wrapping."""
        if isinstance(self.trainer.sampler, LengthGrouped):
            self.trainer.sampler.epoch = state.global_step // self.trainer.steps_per_epoch

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Average the gradients of the objective's own parameters, which DDP does not know."""
        if args.world_size == 1:
            return
        for parameter in own_parameters(self.trainer.objective):
            if parameter.grad is not None:
                torch.distributed.all_reduce(parameter.grad)
                parameter.grad /= args.world_size

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Evaluate at the planned steps; save there and every `checkpoint_steps`."""
        objective = self.trainer.objective
        objective.on_step_end(state.global_step)
        for parameter in own_parameters(objective):
            parameter.grad = None  # the Trainer clears the model's gradients only
        if self.trainer.plan.score is not None:
            every = self.trainer.settings.checkpoint_steps
            due = every is not None and state.global_step % every == 0
            control.should_evaluate = self.trainer.evaluates_at(state.global_step)
            control.should_save = control.should_evaluate or due
