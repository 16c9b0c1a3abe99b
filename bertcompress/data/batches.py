"""Batches as people have them: any iterable of mappings, of tensors, arrays or lists."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

from bertcompress.errors import DataError

__all__ = ["Batches", "array_batches", "in_fp32", "tensor_batches", "train_loader"]

Batches = Iterable[Mapping[str, Any]]
"""A data loader, a list, a generator: names to tensors, arrays or lists of numbers.

Shape: `input_ids` (B, T) and whatever else the model takes; `labels` (B,) or (B, K)."""


def tensor_batches(batches: Batches) -> list[dict[str, Tensor]]:
    """Return the batches as tensors, in memory; what is no numbers (texts, names) is left out.

    Raises DataError for what is no iterable of mappings.
    """
    if isinstance(batches, Mapping):
        raise DataError("batches: one batch was given; give a list of them, or a data loader")
    return [_tensors(batch) for batch in batches]


def array_batches(batches: Batches) -> list[dict[str, NDArray[np.int64]]]:
    """Return the batches as arrays of whole numbers: what a `Predictor` takes, labels left out."""
    return [
        {name: np.asarray(t.cpu()).astype(np.int64) for name, t in batch.items() if name != _LABELS}
        for batch in tensor_batches(batches)
    ]


def train_loader(batches: Batches) -> DataLoader[Any]:
    """Return a loader that can be read again and again: a data loader as it is, else one of these.

    Raises DataError where there is no batch.
    """
    if isinstance(batches, DataLoader) and hasattr(batches.dataset, "__len__"):
        return batches
    made = tensor_batches(batches)
    if not made:
        raise DataError("batches: there are none; a generator can be read only once")
    return DataLoader(made, batch_size=1, collate_fn=_only)  # type: ignore[arg-type]


@contextlib.contextmanager
def in_fp32(model: nn.Module) -> Iterator[None]:
    """Hold a model in fp32 while its weights are judged and solved for; then as it was."""
    first = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    model.float()
    try:
        yield
    finally:
        if first != torch.float32:
            model.to(first)


_LABELS = "labels"


def _only(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return rows[0]


def _tensors(batch: Any) -> dict[str, Tensor]:
    if not isinstance(batch, Mapping):
        raise DataError(
            f"batches: a {type(batch).__name__}; each batch maps names (input_ids, attention_mask, "
            "labels) to tensors"
        )
    made = {name: _tensor(value) for name, value in batch.items()}
    return {name: value for name, value in made.items() if value is not None}


def _tensor(value: Any) -> Tensor | None:
    """Return numbers as torch computes with them; None for what is no numbers."""
    try:
        found: Tensor = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        return None
    if found.dtype == torch.float64:
        return found.float()
    small = (torch.int8, torch.uint8, torch.int16, torch.int32)
    return found.long() if found.dtype in small else found
