"""Hidden states of a teacher on disk: which are kept, what they take, and batches made of them.

Relations and attention scores need no more: queries, keys and values of a layer are three linears
over its input, one state where they would be three. Axes: S states, B rows, T tokens, H width.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bertcompress.errors import ModelError
from bertcompress.shapes import ShapeError, anatomy, hidden_size

__all__ = [
    "StateCache",
    "hidden_cache_bytes",
    "padded",
    "partial_path",
    "projected_layers",
    "states_for",
]

_PROJECTIONS = "projections."


def projected_layers(needs: frozenset[str]) -> list[int]:
    """Return the layers whose queries, keys and values are asked for, in order, from 0."""
    return sorted(int(n.removeprefix(_PROJECTIONS)) for n in needs if n.startswith(_PROJECTIONS))


def states_for(needs: frozenset[str], model: nn.Module) -> tuple[int, ...] | None:
    """Return the hidden states that answer what a teacher is asked for, embeddings 0.

    None where states do not answer it. Raises ModelError for a model without a config.
    """
    if "attentions" in needs:
        return None
    if "hidden_states" in needs:
        return tuple(range(_count(model)))
    return tuple(projected_layers(needs))


def _count(model: nn.Module) -> int:
    """Return how many hidden states a model has, embeddings first, also of a cut one."""
    config = getattr(model, "config", None)
    if config is None:
        raise ModelError(f"{type(model).__name__} has no config: its hidden states are not known")
    try:
        return anatomy(model).depth + 1  # the config of a cut model names the layers it came with
    except ShapeError:
        return int(config.num_hidden_layers) + 1


def hidden_cache_bytes(
    model: nn.Module,
    lengths: Sequence[int] | NDArray[np.int64],
    states: Sequence[int] | None = None,
) -> int:
    """Return the bytes of hidden states of rows of these lengths (tokens), in half precision.

    `states`: which of them; None: all. Raises ModelError for a model without a transformers config.
    """
    count = _count(model)
    kept = count if states is None else len(states)
    return 2 * kept * hidden_size(model.config) * int(np.sum(lengths))


def padded(
    flat: NDArray[Any],
    lengths: NDArray[np.int64],
    places: NDArray[np.int64],
    left: bool = False,
) -> NDArray[Any]:
    """Return what is kept end to end as a batch, padded on the right or on the left.

    `lengths`: tokens of each feature that is kept; `places`: which features. Shape:
    (S, tokens, H) -> (S, B, T, H).
    """
    starts = np.concatenate([[0], np.cumsum(lengths)])
    longest, states, width = int(lengths[places].max()), len(flat), flat.shape[-1]
    out = np.zeros((states, len(places), longest, width), dtype=flat.dtype)
    for row, place in enumerate(places):
        start, end = starts[place], starts[place + 1]
        count = int(end - start)
        where = slice(longest - count, None) if left else slice(count)
        out[:, row, where] = flat[:, start:end]
    return out


def partial_path(path: Path) -> Path:
    """Return a sibling of this process: two launched side by side compute the same answers."""
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


class StateCache:
    """Some hidden states of all features of a teacher, in half precision, memory-mapped.

    They lie end to end in one file. `lengths`: tokens of each feature; `left`: where batches of
    the teacher's tokenizer are padded.
    """

    def __init__(
        self, path: Path, states: Sequence[int], lengths: NDArray[np.int64], left: bool
    ) -> None:
        self.path = path
        self.states = tuple(states)
        self.lengths = lengths
        self.left = left
        self._starts = np.concatenate([[0], np.cumsum(lengths)])
        self._flat: Any = None

    def keep(self, places: NDArray[np.int64], states: Sequence[Tensor], real: Tensor) -> None:
        """Write the states of some features, of all that a teacher answered with.

        Shape: states (B, T, H) each; real (B, T), False for padding.
        """
        if self._flat is None:
            shape = (len(self.states), int(self._starts[-1]), states[0].shape[-1])
            made = partial_path(self.path)
            self._flat = np.lib.format.open_memmap(made, "w+", np.float16, shape)
        stacked = torch.stack([states[number].half() for number in self.states]).cpu()
        for row, place in enumerate(places):
            start, end = self._starts[place], self._starts[place + 1]
            self._flat[:, start:end] = stacked[:, row, real[row]].numpy()

    def finish(self) -> None:
        """Give the file, which is whole now, its name."""
        self._flat.flush()
        partial_path(self.path).rename(self.path)

    def open(self) -> None:
        """Read from the file from now on."""
        self._flat = np.load(self.path, mmap_mode="r", allow_pickle=False)

    def read(self, places: NDArray[np.int64], device: torch.device) -> dict[int, Tensor]:
        """Return the states of some features, by their numbers. Shape: (B, T, H) each."""
        batch = padded(self._flat, self.lengths, places, self.left)
        tensors = torch.from_numpy(batch).to(device).float()
        return dict(zip(self.states, tensors, strict=True))
