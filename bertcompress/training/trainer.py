"""The `transformers.Trainer` behind `fit`: our data order, optimizer, evaluation and checkpoints.

What is overridden has the same name and arguments in transformers 4.57 and 5.x; the test that kills
a training and resumes it holds this on both.
"""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import (
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from bertcompress.method import Objective
from bertcompress.support.display import shown
from bertcompress.training import checkpoints
from bertcompress.training.optimizers import make_optimizer
from bertcompress.training.progress import Plan, Progress
from bertcompress.training.schedule import Horizon, rate_factor, stalled
from bertcompress.training.selection import agreed
from bertcompress.training.settings import TrainSettings
from bertcompress.training.sharpness import MicroBatches, climbed
from bertcompress.training.showing import Bar, DisplayLine
from bertcompress.training.steps import LengthGrouped, autocast, forward, own_parameters

__all__ = ["FitTrainer"]


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
        progress: Progress,
        callbacks: list[TrainerCallback],
    ) -> None:
        self.net = model  # never wrapped
        self.objective = objective
        self.plan = plan
        self.settings = settings
        self.progress = progress
        self.sampler: Any = None
        self.steps_per_epoch = 1
        self.horizon: Horizon
        super().__init__(model=model, args=args, callbacks=callbacks)
        # The objective returns the mean of a batch: the Trainer has to divide by the accumulation.
        self.model_accepts_loss_kwargs = False
        for unwanted in (PrinterCallback, ProgressCallback):
            self.remove_callback(unwanted)
        self.add_callback(_Flow(self))
        display = shown.get()
        if display is not None:
            self.add_callback(DisplayLine(self, display))
        elif not args.disable_tqdm:
            self.add_callback(Bar(self))
        self._loss = torch.zeros((), dtype=torch.float64, device=args.device)
        self._batches = MicroBatches()
        self._repeats = False  # batches that were counted already
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
        if not self._repeats:
            self._loss += loss.detach()
            self.progress.loss_count += 1
            self.progress.rows += len(next(iter(inputs.values()))) * self.args.world_size
        return (loss, outputs) if return_outputs else loss

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        """Add the gradients of one batch; after the last one of a step, see to the whole step's."""
        if self.settings.optimizer == "sam":
            self._batches.add(inputs)
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self.accelerator.gradient_state.sync_gradients:
            self._end_backward()
            if self.settings.optimizer == "sam":
                self._climb(model, num_items_in_batch)
        return loss

    def _end_backward(self) -> None:
        """Average the gradients that DDP does not know, and let the objective change the model's.

        Before they are clipped: the norm is of the gradients that the step takes.
        """
        if self.args.world_size > 1:
            for parameter in own_parameters(self.objective):
                if parameter.grad is not None:
                    torch.distributed.all_reduce(parameter.grad)
                    parameter.grad /= self.args.world_size
        self.objective.on_backward(self.net, self.state.global_step)

    def _climb(self, model: nn.Module, num_items_in_batch: Any) -> None:
        """Replace the gradients of a step by those where the weights climbed to."""
        own = own_parameters(self.objective)
        with climbed(self.net, own, self.settings.sam_rho), self._batches.again() as batches:
            self._repeats = True
            for last, inputs in batches:
                # As in the first pass: only the last batch brings the processes together.
                with contextlib.nullcontext() if last else self.accelerator.no_sync(model):
                    super().training_step(model, inputs, num_items_in_batch)
            self._repeats = False
        self._end_backward()

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
        """Make the optimizer of the settings, over the model and the objective."""
        if self.optimizer is None:
            self.optimizer = make_optimizer(self.settings, self.net, self.objective)
        return self.optimizer  # type: ignore[no-any-return]

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> Any:
        """Make the schedule of `rate_factor`, which follows the progress of this training."""
        if self.lr_scheduler is None:
            self.horizon = Horizon.of(self.settings, self.steps_per_epoch, num_training_steps)
            self.progress.interval = self.horizon.interval

            def factor(step: int) -> float:
                progress = self.progress
                return rate_factor(self.horizon, step, progress.decay_from, progress.decay_steps)

            self.lr_scheduler = LambdaLR(optimizer or self.optimizer, factor)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    @property
    def last_step(self) -> int:
        """The step at which this training ends, as far as that is known."""
        progress = self.progress
        falling = progress.decay_from + progress.decay_steps
        return min(falling, self.state.max_steps) if progress.decay_from else self.state.max_steps

    def evaluates_at(self, step: int) -> bool:
        """Return whether an evaluation is due after this step."""
        return self.horizon.evaluates_at(step, self.last_step)

    def watch_caps(self, step: int) -> None:
        """Let the rate fall where it has to, so that it is zero when a cap is reached."""
        if self.progress.decay_from:
            return
        most, cooldown = self.settings.max_minutes, self.settings.cooldown
        if most is not None:
            spent = self.progress.collapsed_seconds / 60
            minutes = agreed(self._minutes()) - spent  # the clocks of several processes differ
            if minutes >= (most - spent) * (1 - cooldown):
                left = int(step / max(minutes, 1e-9) * max(most - spent - minutes, 0))
                if self.horizon.fixed and left >= self.horizon.most - step:
                    return  # it ends before, by its own schedule
                self._start_decay(step, "max_minutes", left)
                return
        if not self.horizon.fixed and step >= self.horizon.last_start(cooldown):
            self._start_decay(step, "max_epochs")

    def _minutes(self) -> float:
        return (self.progress.seconds + time.perf_counter() - self._clock) / 60

    def _start_decay(
        self, step: int, reason: str, left: int | None = None, trained: int | None = None
    ) -> None:
        """Let the rate fall from here, over at most so many steps as are left.

        `trained`: the steps behind the model as it is, where some were taken back.
        """
        steps = self.horizon.decay_steps(step, self.settings.cooldown, trained)
        self.progress.decay_from, self.progress.reason = step, reason
        self.progress.decay_steps = steps if left is None else max(1, min(steps, left))

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Score the selection split, remember the best, and end the training when it is time."""
        assert self.plan.judge is not None
        step = self.state.global_step
        judged = self.plan.judge(self.net)
        loss = self._mean_loss()
        self.tick()
        falls = self.progress.decay_from > 0 or self.horizon.falls_at(step)
        begins = self.horizon.begins_at(step)
        self.progress.judge(judged, step, falls=falls, begins=begins)
        self.progress.history.append(
            {
                "step": step,
                "loss": loss,
                "score": judged.score,
                "selection_loss": judged.loss,
                "seconds": self.progress.seconds,
            }
        )
        self.progress.finished = self._ends_at(step)
        self.log({"loss": loss, "eval_selection": judged.score})
        # Takes `should_evaluate` back; else the end of the epoch would evaluate a second time.
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, {})
        self.control.should_training_stop |= self.progress.finished
        return {"eval_selection": judged.score}

    def _ends_at(self, step: int) -> bool:
        """Return whether this evaluation is the last; let the rate fall where the score stalls."""
        settings, progress = self.settings, self.progress
        may_begin_again = len(progress.collapsed_at) < self.plan.restarts
        if may_begin_again and not progress.learned and progress.alike >= settings.stall_patience:
            progress.reason = "collapsed"
            return True
        if self.horizon.fixed:
            over = settings.patience is not None and progress.stale >= settings.patience
            progress.reason = "stalled" if over and step < self.last_step else progress.reason
            return over or step >= self.last_step
        # The best score so far, by however little: a slow rise is a rise.
        held = not progress.decay_from and progress.stale > 0
        if held and stalled(self.horizon, step, progress.gain_step, settings.stall_patience):
            goes_back = 0 < progress.return_step < step and not self.plan.keep_last
            trained = self._go_back() if goes_back else step
            self._start_decay(step, "stalled", trained=trained)
        return step >= self.last_step

    @property
    def loss_so_far(self) -> float | None:
        """The mean loss since the last evaluation; waits for the device."""
        count = self.progress.loss_count
        return (self.progress.loss_sum + float(self._loss)) / count if count else None

    @property
    def last_score(self) -> float | None:
        """The score of the last evaluation."""
        history = self.progress.history
        return float(history[-1]["score"]) if history else None

    def _go_back(self) -> int:
        """Take back the steps since the last gain or the beginning, and return the step of that.

        Holding the rate taught them nothing that the selection split knows, only the rows by heart.
        """
        kept = self.progress.return_step
        folder = checkpoints.folder_of(self.plan.workdir, kept)
        checkpoints.load_weights(self.net, folder)
        state = checkpoints.load_state(folder)
        self.optimizer.load_state_dict(state["optimizer"])
        self.objective.load_state_dict(state["objective"])
        return kept

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
            step, progress = self.state.global_step, self.progress
            keep = {progress.best_step}
            if not (progress.decay_from or self.horizon.fixed):
                keep.add(progress.return_step)  # where the fall may have to begin
            checkpoints.write(self.plan.workdir, step, self.net, state, self.state, keep=keep)
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

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Evaluate at the planned steps; save there and every `checkpoint_steps`."""
        objective = self.trainer.objective
        optimizer = self.trainer.optimizer
        optimizer = getattr(optimizer, "optimizer", optimizer)  # accelerate's wrapper
        objective.on_step_end(self.trainer.net, optimizer, state.global_step)
        for parameter in own_parameters(objective):
            parameter.grad = None  # the Trainer clears the model's gradients only
        self.trainer.watch_caps(state.global_step)
        if self.trainer.plan.judge is None:
            control.should_training_stop |= state.global_step >= self.trainer.last_step
        else:
            every = self.trainer.settings.checkpoint_steps
            due = every is not None and state.global_step % every == 0
            control.should_evaluate = self.trainer.evaluates_at(state.global_step)
            control.should_save = control.should_evaluate or due
