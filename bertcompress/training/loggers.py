"""Where a training's figures go besides the report: the loggers of `transformers.Trainer`.

A run says once where to (`report_to` of its recipe); each training then has a run of its own there.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainingArguments

from bertcompress.errors import InputError, MissingExtra
from bertcompress.training.settings import TrainSettings

__all__ = ["Reporting", "check_loggers", "logging_to", "reporting"]


@dataclass(frozen=True)
class Reporting:
    """The loggers of a training, and what it is called there."""

    to: tuple[str, ...]
    """Names as `TrainingArguments.report_to` has them."""
    run: str
    """Name of the run: of the folder, and of the stage (number, method, control)."""
    folder: Path
    """Where those that write files do, a folder for each training in it."""

    @property
    def stage(self) -> str:
        """The last part of the name."""
        return self.run.rpartition("/")[2]


_CURRENT: ContextVar[Reporting | None] = ContextVar("reporting", default=None)


@contextmanager
def reporting(to: Reporting | None) -> Iterator[None]:
    """Let every training in this block report."""
    token = _CURRENT.set(to if to and to.to else None)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def check_loggers(names: Sequence[str]) -> None:
    """Raise InputError for a logger that is not installed: before any step is computed."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise InputError(f"report_to: '{name}' is not installed; pip install {name}")


@contextmanager
def logging_to(args: TrainingArguments, settings: TrainSettings) -> Iterator[list[TrainerCallback]]:
    """Yield the callbacks of the loggers, and close after the training what was opened for it."""
    current = _CURRENT.get()
    made = [_tensorboard(settings.tensorboard)] if settings.tensorboard is not None else []
    if current is None:
        yield made
        return
    args.run_name = current.run
    if "tensorboard" in current.to and args.process_index == 0:
        made.append(_tensorboard(str(current.folder / current.stage)))
    others = [name for name in current.to if name != "tensorboard"]
    open_already = {name for name in others if _active(name)}
    if others:
        from transformers.integrations.integration_utils import get_reporting_integration_callbacks

        every: Any = get_reporting_integration_callbacks
        made += [callback() for callback in every(others)]
    try:
        yield made
    finally:
        for name in set(others) - open_already:
            _close(name)


def _tensorboard(folder: str) -> TrainerCallback:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingExtra("tensorboard", "dev") from error
    from transformers.integrations.integration_utils import TensorBoardCallback

    return TensorBoardCallback(SummaryWriter(folder))  # type: ignore[no-untyped-call]


def _active(name: str) -> bool:
    """Return whether the user has a run open there: it stays so."""
    module: Any = importlib.import_module(name)
    run = module.run if name == "wandb" else module.active_run()
    return run is not None


def _close(name: str) -> None:
    """End the run of one training, so that the next has a run of its own."""
    module: Any = importlib.import_module(name)
    if _active(name):
        (module.finish if name == "wandb" else module.end_run)()
