"""What a training switches on in a model and in the `Trainer`, and takes back at its end."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn
from transformers import TrainingArguments

from bertcompress.errors import InputError, ModelError
from bertcompress.method import Objective
from bertcompress.training.settings import TrainSettings

__all__ = ["prepared", "recompute_activations", "trainer_arguments"]

_ABSENT = object()


def trainer_arguments(
    settings: TrainSettings, workdir: Path, seed: int, device: torch.device, progress: bool | None
) -> TrainingArguments:
    """Return the arguments of the `Trainer`.

    Raises InputError where a batch cannot be split over the processes. `progress` shows a bar;
    None: where standard error is a terminal.
    """
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


@contextmanager
def prepared(model: nn.Module, objective: Objective, settings: TrainSettings) -> Iterator[None]:
    """Switch on what this training needs of the model, and take it back at the end."""
    config = getattr(model, "config", None)
    cache = vars(config).get("use_cache", _ABSENT) if config is not None else _ABSENT
    implementation = getattr(config, "_attn_implementation", None)
    eager = "attentions" in objective.needs and hasattr(model, "set_attn_implementation")
    if eager:
        model.set_attn_implementation("eager")  # type: ignore[operator]
    if settings.gradient_checkpointing:
        recompute_activations(model, True)
    try:
        yield
    finally:
        if settings.gradient_checkpointing:
            recompute_activations(model, False)
        if eager:
            model.set_attn_implementation(implementation)  # type: ignore[operator]
        model.__dict__.pop("_is_accelerate_prepared", None)  # a mark of the Trainer's accelerator
        if config is not None:  # the Trainer of transformers 5 writes there
            config.__dict__.pop("use_cache", None)
            config.__dict__.update({} if cache is _ABSENT else {"use_cache": cache})


def recompute_activations(model: nn.Module, on: bool) -> None:
    """Switch recomputing of activations on or off, in place; raises ModelError where it cannot."""
    verb = "enable" if on else "disable"
    for kind in ("activation", "gradient"):  # the name in transformers 5, and the one before
        switch = getattr(model, f"{kind}_checkpointing_{verb}", None)
        if switch is not None:
            switch(*([{"use_reentrant": False}] if on else []))
            return
    raise ModelError(
        f"gradient_checkpointing: {type(model).__name__} does not support it; set it to false"
    )
