"""The parts of a training step: order of rows, forward pass, loss of the labels, precision."""

from __future__ import annotations

import copy
import inspect
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Sampler

from bertcompress.heads import Head, head_of_labels
from bertcompress.method import Objective

__all__ = [
    "LengthGrouped",
    "WithTransfer",
    "autocast",
    "choose",
    "decay_groups",
    "forward",
    "label_loss",
    "own_parameters",
    "time_precisions",
]

_NOT_FOR_THE_MODEL = ("row_id", "part", "labels", "length", "target_scale")

_PIECE = 10_000

# bf16 must win by this much: fp32 is what is measured and shipped.
_WORTH_IT = 0.95


class LengthGrouped(Sampler[int]):
    """Order of rows: batches of similar length, in random order, the incomplete one last.

    A pure function of seed and epoch, so that a resumed training sees the rows that it would have.
    `together`: so many features that follow each other are one row, and stay side by side.
    """

    def __init__(
        self, lengths: NDArray[np.int64], batch_size: int, seed: int, together: int = 1
    ) -> None:
        self.together = together
        self.lengths = lengths.reshape(-1, together).max(axis=1)
        self.batch_size = max(1, batch_size // together)
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.lengths) * self.together

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng((self.seed, self.epoch))
        order = rng.permutation(len(self.lengths))
        # Sorted inside blocks only: a row must meet different neighbours in each epoch.
        block = 50 * self.batch_size
        for start in range(0, len(order), block):
            part = order[start : start + block]
            order[start : start + block] = part[np.argsort(self.lengths[part], kind="stable")]
        whole = len(order) // self.batch_size * self.batch_size
        rng.shuffle(order[:whole].reshape(-1, self.batch_size))  # a view: in place
        features = (order[:, None] * self.together + np.arange(self.together)).ravel()
        pieces = (features[start : start + _PIECE] for start in range(0, len(features), _PIECE))
        # Not one list: that has forty bytes for each text of a corpus.
        return (place for piece in pieces for place in piece.tolist())


class WithTransfer(LengthGrouped):
    """Order of labelled features, and of unlabelled ones after them, no batch of both.

    The last batch of unlabelled ones is filled up with others of them; they lie in the data from
    the number of labelled ones on. Else as `LengthGrouped`, whose order the labelled ones have.
    """

    def __init__(
        self,
        lengths: NDArray[np.int64],
        others: NDArray[np.int64],
        batch_size: int,
        seed: int,
        together: int = 1,
    ) -> None:
        super().__init__(lengths, batch_size, seed, together)
        self.others = LengthGrouped(others, batch_size, seed + 1, together)

    def __len__(self) -> int:
        size = self.batch_size * self.together
        return super().__len__() + -(-len(self.others) // size) * size

    def __iter__(self) -> Iterator[int]:
        size, first = self.batch_size * self.together, super().__len__()
        self.others.epoch = self.epoch
        labelled = np.fromiter(super().__iter__(), np.int64)
        others = first + np.fromiter(iter(self.others), np.int64)
        others = np.resize(others, -(-len(others) // size) * size)
        whole = len(labelled) // size * size
        batches = np.concatenate([labelled[:whole], others]).reshape(-1, size)
        np.random.default_rng((self.seed, self.epoch, 1)).shuffle(batches)
        # Several processes fill the last batch, a labelled one, up with rows of the first.
        begins = int(np.argmax(batches[:, 0] < first))
        batches[[0, begins]] = batches[[begins, 0]]
        return iter([*batches.ravel().tolist(), *labelled[whole:].tolist()])


def forward(
    model: nn.Module, batch: Mapping[str, Tensor], needs: frozenset[str] = frozenset()
) -> Any:
    """Return the model's outputs for a batch, with the `hidden_states` or `attentions` in `needs`.

    Labels stay out: the objective computes the loss; so does what the model has no name for.
    """
    inner = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
    parameters = inspect.signature(inner.forward).parameters
    inputs = {k: v for k, v in batch.items() if k not in _NOT_FOR_THE_MODEL}
    if "input_ids" in parameters or not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        inputs = {k: v for k, v in inputs.items() if k in parameters}
    return model(**inputs, **{f"output_{name}": True for name in needs})


def label_loss(outputs: Tensor, batch: Mapping[str, Tensor], head: Head | None = None) -> Tensor:
    """Return the mean loss of a batch's `labels` by a head; None: by what such labels are for.

    Shape: outputs (B, K); labels (B,) int64, (B, K) float32, or (B,) float32 with K = 1.
    """
    return (head or head_of_labels(batch["labels"])).loss(outputs, batch)


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return two optimizer groups: matrices decay; biases, LayerNorms and gates do not."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]


def own_parameters(objective: Objective) -> list[nn.Parameter]:
    """Return the parameters that an objective trains besides the model's."""
    return [p for group in objective.parameter_groups() for p in group["params"]]


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the context in which a step of that precision runs; for fp32 one that does nothing."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def candidates(device: torch.device) -> tuple[str, ...]:
    """Return the precisions that the processor can compute in."""
    if device.type == "cuda":
        able = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        able = torch.backends.mkldnn.is_available() and bool(  # type: ignore[no-untyped-call]
            torch.ops.mkldnn._is_mkldnn_bf16_supported()
        )
    return ("fp32", "bf16") if able else ("fp32",)


def time_precisions(
    model: nn.Module,
    objective: Objective,
    batches: Sequence[Mapping[str, Tensor]],
    device: torch.device,
) -> dict[str, float]:
    """Return the seconds of a step in each precision, median of the batches; empty for only one.

    Leaves weights, buffers, random numbers and the objective as they were.
    """
    tried = candidates(device)
    if len(tried) == 1:
        return {}
    state = copy.deepcopy(objective.state_dict())
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    seconds: dict[str, list[float]] = {precision: [] for precision in tried}
    model.train()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        for turn, batch in enumerate([batches[0], *batches]):
            for precision in tried:
                took = _step_seconds(model, objective, batch, device, precision)
                if turn > 0:  # the first one warms up
                    seconds[precision].append(took)
    objective.load_state_dict(state)
    for name, buffer in model.named_buffers():
        buffer.copy_(buffers[name])
    return {precision: statistics.median(times) for precision, times in seconds.items()}


def choose(seconds: Mapping[str, float]) -> str:
    """Return `bf16` where it is clearly the faster, else `fp32`."""
    faster = seconds.get("bf16", float("inf")) < _WORTH_IT * seconds.get("fp32", 0.0)
    return "bf16" if faster else "fp32"


def _step_seconds(
    model: nn.Module,
    objective: Objective,
    batch: Mapping[str, Tensor],
    device: torch.device,
    precision: str,
) -> float:
    batch = {name: tensor.to(device) for name, tensor in batch.items()}
    start = time.perf_counter()
    with autocast(device, precision):
        loss = objective(model, batch, forward(model, batch, objective.needs), 0)
    loss.backward()  # type: ignore[no-untyped-call]
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    took = time.perf_counter() - start
    for parameter in [*model.parameters(), *own_parameters(objective)]:
        parameter.grad = None
    return took
