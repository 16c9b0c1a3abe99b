"""An objective inside the user's own `transformers.Trainer`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from bertcompress.heads.outputs import outputs_of
from bertcompress.method import Objective
from bertcompress.training.steps import label_loss, own_parameters

__all__ = ["ObjectiveCallback"]


class ObjectiveCallback(TrainerCallback):
    """Lets a stock `Trainer` minimise an objective; two arguments of a script change.

        hook = ObjectiveCallback(objective)
        Trainer(..., callbacks=[hook], compute_loss_func=hook.compute_loss_func)

    The objective sees what the model is given. In evaluation the loss is the plain one of the
    labels. A cached teacher needs the `row_id` column: `remove_unused_columns=False`. A stock
    `Trainer` clips before `on_backward`: where that changes gradients, set `max_grad_norm=0`.
    """

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self._model: nn.Module | None = None
        self._batch: dict[str, Tensor] = {}
        self._step = 0
        self._accumulation = 1
        self._hook: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Watch the model's inputs, and train the objective's own parameters with the model's."""
        model: nn.Module = kwargs["model"]
        self._model = model
        self._step = state.global_step
        self._accumulation = args.gradient_accumulation_steps
        self._hook = model.register_forward_pre_hook(self._watch, with_kwargs=True)
        for group in self.objective.parameter_groups():
            _add_group(kwargs["optimizer"], kwargs["lr_scheduler"], group)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Let the objective change the gradients."""
        self.objective.on_backward(kwargs["model"], state.global_step)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Pass the step on to the objective."""
        self._step = state.global_step
        optimizer = _bare(kwargs["optimizer"])
        self.objective.on_step_end(kwargs["model"], optimizer, self._step)
        for parameter in own_parameters(self.objective):
            parameter.grad = None  # the Trainer clears the model's gradients only

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave the model as it was found."""
        self._hook.remove()

    def compute_loss_func(
        self, outputs: Any, labels: Tensor | None, num_items_in_batch: Any = None
    ) -> Tensor:
        """Return the loss of one batch, as `Trainer(compute_loss_func=...)` wants it."""
        if self._model is None or not self._model.training:
            answers = outputs_of(outputs)
            if labels is None:
                return answers.sum() * 0
            return label_loss(answers, {**self._batch, "labels": labels})
        batch = dict(self._batch)
        if labels is not None:
            batch["labels"] = labels
        loss = self.objective(self._model, batch, outputs, self._step)
        # The Trainer leaves the division by the accumulated batches to this function.
        if labels is not None and num_items_in_batch is not None:
            share: Tensor = labels.ne(-100).sum() / num_items_in_batch
            return loss * share
        return loss / self._accumulation

    def _watch(
        self, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        inputs = dict(kwargs)
        self._batch = {k: v for k, v in inputs.items() if isinstance(v, Tensor) and k != "labels"}
        inputs.pop("row_id", None)
        if model.training:  # an evaluation would gather them as predictions
            inputs.update({f"output_{name}": True for name in self.objective.needs})
        return args, inputs


def _bare(optimizer: Any) -> Any:
    return getattr(optimizer, "optimizer", optimizer)  # accelerate's wrapper


def _add_group(optimizer: Any, scheduler: Any, group: dict[str, Any]) -> None:
    optimizer = _bare(optimizer)
    optimizer.add_param_group(dict(group))
    added = optimizer.param_groups[-1]
    added.setdefault("initial_lr", added["lr"])
    scheduler.base_lrs.append(added["initial_lr"])
    scheduler.lr_lambdas.append(scheduler.lr_lambdas[0])
