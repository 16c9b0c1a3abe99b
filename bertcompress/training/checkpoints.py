"""Whole-or-nothing checkpoints of a training, in `workdir/checkpoint-<step>`.

Weights as safetensors (shared tensors once); optimizer, schedule, random numbers and the objective
through `torch.save`, read back with `weights_only=True`. Each folder is written to a temporary
sibling and renamed, so a killed training leaves whole checkpoints only.
"""

from __future__ import annotations

import contextlib
import random
import re
import shutil
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from torch import nn
from transformers import TrainerState

from bertcompress.errors import OutputError
from bertcompress.support.machine import machine_words

__all__ = [
    "begin_again",
    "clear",
    "folder_of",
    "latest",
    "load_state",
    "load_weights",
    "random_state",
    "restore_random_state",
    "step_of",
    "write",
    "write_start",
]

_NAME = re.compile(r"checkpoint-(\d+)")
_START = "start"
_WEIGHTS = "model.safetensors"
_STATE = "state.pt"
_TRAINER_STATE = "trainer_state.json"  # the name under which the Trainer looks for it


def folder_of(workdir: Path, step: int) -> Path:
    """Return where the checkpoint of a step is."""
    return workdir / f"checkpoint-{step}"


def step_of(folder: Path) -> int:
    """Return the step of a checkpoint folder."""
    return int(folder.name.rpartition("-")[2])


def latest(workdir: Path) -> Path | None:
    """Return the checkpoint of the highest step, or None."""
    found = _all(workdir)
    return found[max(found)] if found else None


def write(
    workdir: Path,
    step: int,
    model: nn.Module,
    state: Mapping[str, Any],
    trainer_state: TrainerState,
    keep: Collection[int],
) -> Path:
    """Write the checkpoint of `step`, then delete all others but those of the steps in `keep`.

    Raises OutputError where the folder cannot be written.
    """
    target = folder_of(workdir, step)
    temporary = workdir / f".{target.name}.partial"
    with _told(target, temporary):
        _discard(temporary)
        temporary.mkdir(parents=True)
        save_model(model, str(temporary / _WEIGHTS))
        torch.save(dict(state), temporary / _STATE)
        trainer_state.save_to_json(str(temporary / _TRAINER_STATE))
        _discard(target)
        temporary.rename(target)
    for other, folder in _all(workdir).items():
        if other != step and other not in keep:
            _discard(folder)
    return target


def write_start(workdir: Path, model: nn.Module) -> None:
    """Write the weights that a training begins with, so that it can begin again.

    Raises OutputError where they cannot be written.
    """
    folder = workdir / _START
    with _told(folder, folder):
        folder.mkdir(parents=True, exist_ok=True)
        save_model(model, str(folder / _WEIGHTS))


def begin_again(workdir: Path, model: nn.Module) -> None:
    """Fill the model in place with what `write_start` wrote."""
    load_weights(model, workdir / _START)


def load_weights(model: nn.Module, folder: Path) -> None:
    """Fill the model in place; raises RuntimeError where names or shapes differ."""
    load_model(model, str(folder / _WEIGHTS), strict=True)


def load_state(folder: Path) -> dict[str, Any]:
    """Return what `write` was given as `state`, tensors on the CPU."""
    state: dict[str, Any] = torch.load(folder / _STATE, map_location="cpu", weights_only=True)
    return state


def clear(workdir: Path) -> None:
    """Delete every checkpoint, the start, and what a killed process left of one."""
    left = [*workdir.glob(".checkpoint-*.partial"), workdir / _START]
    for folder in [*_all(workdir).values(), *left]:
        _discard(folder)


def random_state() -> dict[str, Any]:
    """Return the state of every generator that training draws from, in plain types and tensors."""
    name, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002 - what others draw from
    return {
        "python": random.getstate(),
        "numpy": (str(name), torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Set the generators to what `random_state` returned."""
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


@contextlib.contextmanager
def _told(target: Path, temporary: Path) -> Iterator[None]:
    """Say what could not be written, and leave nothing half-written."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:  # each writer has its own words
        with contextlib.suppress(OSError):
            _discard(temporary)
        reason = machine_words(error)
        if reason is None and not isinstance(error, OSError):
            raise
        raise OutputError(f"{target}: cannot write the checkpoint: {reason or error}") from error


def _all(workdir: Path) -> dict[int, Path]:
    matches = ((_NAME.fullmatch(path.name), path) for path in workdir.glob("checkpoint-*"))
    return {int(match[1]): path for match, path in matches if match}


def _discard(folder: Path) -> None:
    # Renamed first: a kill while deleting must not leave a checkpoint with half its files.
    if folder.exists():
        doomed = folder.with_name(f".{folder.name.strip('.')}.partial")
        if doomed != folder:
            shutil.rmtree(doomed, ignore_errors=True)
            folder.rename(doomed)
        shutil.rmtree(doomed)
