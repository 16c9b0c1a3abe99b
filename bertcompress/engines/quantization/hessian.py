"""How curved the loss is in the weights of each layer: the top eigenvalue of its Hessian block.

Shen et al. 2019, Q-BERT (1909.05840), section 3.1, after Dong et al. 2019, HAWQ (1905.03696): where
the loss is sharp, weights need more bits. Products with the Hessian come from a second backward
pass, eigenvalues from power iteration; nothing of the Hessian is ever stored.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from bertcompress.engines.pruning.importance import head_of, head_outputs, model_inputs, task_loss
from bertcompress.errors import DataError
from bertcompress.heads import Head
from bertcompress.shapes import anatomy
from bertcompress.support.progress import bar

__all__ = ["hessian_product", "layer_sharpness", "top_eigenvalue"]

SHARDS, STEPS, CLOSE = 10, 10, 0.02
"""Parts of the rows that an eigenvalue is found on each; steps of the power iteration at most, and
the relative change at which it ends."""


def hessian_product(
    loss: Tensor, parameters: Sequence[Tensor], vectors: Sequence[Tensor]
) -> list[Tensor]:
    """Return the Hessian of a loss in some parameters times a vector of their shapes.

    `loss` must be differentiable twice: see `twice_differentiable`.
    """
    gradients = torch.autograd.grad(loss, parameters, create_graph=True)
    inner = torch.stack([(g * v).sum() for g, v in zip(gradients, vectors, strict=True)]).sum()
    return list(torch.autograd.grad(inner, parameters, retain_graph=True))


def top_eigenvalue(
    product: Callable[[Sequence[Tensor]], Sequence[Tensor]],
    like: Sequence[Tensor],
    seed: int = 0,
) -> float:
    """Return the eigenvalue of largest magnitude by power iteration; its sign is kept.

    `product` multiplies by the matrix; `like` gives the shapes of what it multiplies.
    """
    generator = torch.Generator().manual_seed(seed)
    vectors = [torch.randn(t.shape, generator=generator).to(t.device) for t in like]
    value = 0.0
    for _ in range(STEPS):
        norm = torch.stack([v.pow(2).sum() for v in vectors]).sum().sqrt().clamp_min(1e-30)
        vectors = [v / norm for v in vectors]
        moved = product(vectors)
        before = value
        pairs = zip(vectors, moved, strict=True)
        value = float(torch.stack([(v * m).sum() for v, m in pairs]).sum())
        if abs(value - before) <= CLOSE * abs(value):
            break
        vectors = [m.detach() for m in moved]
    return value


def layer_sharpness(
    model: nn.Module,
    batches: Sequence[Mapping[str, Tensor]],
    *,
    seed: int = 0,
    head: Head | None = None,
) -> list[float]:
    """Return |mean| + standard deviation of each layer's top eigenvalue over shards of the batches.

    Q-BERT, equation 5. Without `labels` in the batches the model's own answers stand for them. Only
    matrices count; layers that share their weights have one value. The model is left as it is.
    `head`: of the task, whose loss it is; None: as the model's config tells. Raises DataError
    without batches.
    """
    if not batches:
        raise DataError("the sharpness of layers needs rows to look at, and there are no batches")
    view = anatomy(model)
    was_training = model.training
    model.eval()
    head = head_of(model, head)
    parts = list(_shards([_answered(model, batch, head) for batch in batches]))
    loss = task_loss(head)
    found: list[float] = []
    with twice_differentiable():
        for layer in bar(view.layers, "curvature of each layer"):
            matrices = [p for p in layer.module.parameters() if p.ndim > 1 and p.requires_grad]
            values = []
            for part in parts:

                def product(
                    vectors: Sequence[Tensor],
                    part: Sequence[Mapping[str, Tensor]] = part,
                    matrices: Sequence[Tensor] = matrices,
                ) -> list[Tensor]:
                    total = [torch.zeros_like(v) for v in vectors]
                    for batch in part:
                        outputs = head_outputs(model, model_inputs(model, batch), head)
                        mean = loss(batch, outputs).mean() / len(part)
                        for sum_, each in zip(
                            total, hessian_product(mean, matrices, vectors), strict=True
                        ):
                            sum_ += each
                    return total

                values.append(top_eigenvalue(product, matrices, seed))
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            found.append(abs(statistics.mean(values)) + spread)
    model.train(was_training)
    return found


@torch.no_grad()
def _answered(model: nn.Module, batch: Mapping[str, Tensor], head: Head) -> Mapping[str, Tensor]:
    """Return a batch with labels: its own, or what the model answers."""
    if "labels" in batch and head.features_a_row == 1:
        return batch
    outputs = head_outputs(model.eval(), model_inputs(model, batch), head)
    return {**batch, "labels": head.labels_of(outputs, batch)}


def _shards(
    batches: Sequence[Mapping[str, Tensor]],
) -> Iterator[Sequence[Mapping[str, Tensor]]]:
    count = min(SHARDS, len(batches))
    ends = [len(batches) * i // count for i in range(count + 1)]
    for start, end in pairwise(ends):
        yield batches[start:end]


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Use attention that has a second derivative: the fused kernels have none."""
    with sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
        yield
