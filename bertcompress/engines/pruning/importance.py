"""How much the model's answers depend on each head and neuron.

All scores come back as one tensor per sublayer, in the order of `masks.sites`. "First order" here
means gradients of unit masks: Michel et al. 2019 (1905.10650) sum their absolute values, Kwon et
al. 2022 (2204.09656) their squares, the diagonal Fisher information.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bertcompress.engines.pruning.masks import sites, unit_masks
from bertcompress.errors import ModelError
from bertcompress.heads import Head, head_of_model
from bertcompress.heads.outputs import outputs_of
from bertcompress.shapes import anatomy
from bertcompress.support.progress import bar

__all__ = [
    "HeadLoss",
    "frozen",
    "head_of",
    "head_outputs",
    "mask_fisher",
    "model_inputs",
    "random_scores",
    "sampled_loss",
    "task_loss",
    "text_inputs",
    "weight_magnitude",
]


@dataclass(frozen=True)
class HeadLoss:
    """One loss for each example of a batch, by a head."""

    head: Head
    losses: Callable[[Tensor, Mapping[str, Tensor]], Tensor]
    """Of outputs and batch. Shape: (B, ..., K) -> (B,)."""

    def __call__(self, batch: Mapping[str, Tensor], outputs: Tensor) -> Tensor:
        """Return the losses of a batch. Shape: outputs (B, ..., K) -> (B,)."""
        return self.losses(outputs, batch)


INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def model_inputs(model: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the part of a batch that a model takes, on its device, always with a mask."""
    device = next(model.parameters()).device
    # Not every family has token types, whatever its tokenizer makes.
    takes = inspect.signature(model.forward).parameters
    inputs = {key: batch[key].to(device) for key in INPUTS if key in batch and key in takes}
    inputs.setdefault("attention_mask", torch.ones_like(inputs["input_ids"]))
    return inputs


def text_inputs(model: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what the encoder of a model takes, one row per text. Shape: (B, T) or (B, C, T).

    The C choices of ...ForMultipleChoice are texts of their own: (B * C, T).
    """
    return {name: each.flatten(0, -2) for name, each in model_inputs(model, batch).items()}


def head_outputs(model: nn.Module, inputs: Mapping[str, Tensor], head: Head) -> Tensor:
    """Return what a model puts out for a head. Shape: (B, K), or (B, T, K) for each token.

    Raises ModelError for a model that does not answer as the head needs it.
    """
    # One text for each row, unlike ...ForMultipleChoice.
    outputs = outputs_of(model(**inputs)) if inputs["input_ids"].ndim == 2 else None
    if outputs is None or outputs.ndim != head.output_axes:
        raise ModelError(
            f"{type(model).__name__}: gradients of the loss are needed here, and a {head.key} task "
            f"takes them of models that end in ...{head.auto_class or 'Model'}"
        )
    return outputs


def mask_fisher(
    model: nn.Module, batches: Iterable[Mapping[str, Tensor]], loss: HeadLoss, *, power: int = 2
) -> list[Tensor]:
    """Return the sum over examples of |d loss / d mask| ** power, for each sublayer.

    `power` 2 is the diagonal (empirical) Fisher information of Kwon et al., equation 8; 1 is the
    importance of Michel et al., equation 2. Weights are left alone. Shape of each: (units,).
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    with unit_masks(model, per_example=True) as masks, frozen(model):
        totals = [torch.zeros(site.units, device=device) for site in masks.sites]
        for batch in bar(batches, "scoring heads and neurons"):
            masks.forget()
            outputs = head_outputs(model, model_inputs(model, batch), loss.head)
            with torch.enable_grad():
                torch.autograd.backward(loss(batch, outputs).sum())
            for i, total in enumerate(totals):
                total += masks.gradients(i).abs().pow(power).sum(0)
    model.train(was_training)
    return totals


@contextlib.contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Turn weight gradients off for a while: only the masks need them, and it is much faster."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def head_of(model: nn.Module, task_head: Head | None = None) -> Head:
    """Return the head by which a model is scored: the task's.

    Without a task, or where the task has no labels, the model tells what it answers.
    """
    return head_of_model(model) if task_head is None else task_head.of_model(anatomy(model).config)


def task_loss(head: Head) -> HeadLoss:
    """Return the loss against the labels of a head, per example."""
    return HeadLoss(head, head.losses)


def sampled_loss(head: Head, seed: int = 0) -> HeadLoss:
    """Return the loss against answers drawn from the model's own distribution.

    Its squared gradients are the true Fisher information, the curvature of the KL divergence to the
    present model: it needs no labels and does not vanish where the model is sure and right.
    """
    generator = torch.Generator().manual_seed(seed)

    def drawn(outputs: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        return head.drawn_losses(outputs, outputs.detach(), batch, generator)

    return HeadLoss(head, drawn)


def weight_magnitude(model: nn.Module) -> list[Tensor]:
    """Return the L2 norm of each unit's output weights, a data-free score. Shape: (units,)."""
    return [
        site.projection.weight.detach().reshape(-1, site.units, site.size).norm(dim=(0, 2))
        for site in sites(model)
    ]


def random_scores(model: nn.Module, seed: int) -> list[Tensor]:
    """Return uniform random scores: the control for every other score. Shape: (units,)."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(site.units, generator=generator) for site in sites(model)]
