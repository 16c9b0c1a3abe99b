"""A family of sentence embedders in one model: its first layers alone give vectors too.

What the model answers after fewer layers learns from the teacher's vectors beside the answer of all
(Li et al. 2024, 2402.14776; there a layer is drawn in each step, here every depth that was asked
for is trained in each). `prune_structured: {keep_layers: 3, layer_order: bottom, keep: 1.0}` cuts
such a model afterwards, without training: its answers are those learned here, bit for bit.

Axes: B features, T tokens, H hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from bertcompress.data import TaskData
from bertcompress.errors import ModelError, RecipeError
from bertcompress.heads import Head
from bertcompress.heads.outputs import outputs_of
from bertcompress.heads.scoring import compute
from bertcompress.method import Teacher
from bertcompress.shapes import anatomy
from bertcompress.training import forward

__all__ = ["HOW_TO_CUT", "answers_after", "check_depths", "depth_scores"]

HOW_TO_CUT = "cut there by prune_structured: {keep_layers, layer_order: bottom, keep: 1.0}"
_ROWS = 32
"""Features of a batch: no gradients are kept."""


def check_depths(depths: Sequence[int], model: nn.Module, head: Head, where: str) -> None:
    """Raise RecipeError for depths that a model has not, or of a task whose answers need a head."""
    if not depths:
        return
    if head.auto_class is not None:
        raise RecipeError(
            f"{where}: depths: the states of a layer are the answers of a sentence embedder alone, "
            f"and a {head.key} task has a head behind the last one"
        )
    layers = anatomy(model).depth
    if wrong := [depth for depth in depths if depth >= layers]:
        raise RecipeError(
            f"{where}: depths: {wrong[0]}; the model has {layers} layers, so from 1 to {layers - 1}"
        )


def answers_after(outputs: Any, depths: Sequence[int]) -> list[Tensor]:
    """Return the answer of all layers, then that of the first so many. Shape: each (B, T, H)."""
    whole = outputs_of(outputs)
    if not depths:
        return [whole]
    states = outputs["hidden_states"]
    if max(depths) >= len(states) - 1:
        raise ModelError(f"depths: {max(depths)}; the model has {len(states) - 1} layers")
    return [whole, *(states[depth] for depth in depths)]


def depth_scores(
    model: nn.Module,
    depths: Sequence[int],
    data: TaskData,
    tokenizer: PreTrainedTokenizerBase,
    teacher: Teacher,
    device: torch.device | str = "cpu",
) -> tuple[str, Mapping[int, float]]:
    """Return the metric, and the score on the selection split after each depth and all layers.

    Without labels the teacher's vectors are what is right.
    """
    head, encoded = data.task.head, data.encoded(tokenizer, "selection")
    collate = data.collator(tokenizer)
    found: list[list[Any]] = [[] for _ in range(1 + len(depths))]
    theirs: list[Any] = []
    model.eval()
    for start in range(0, len(encoded.dataset), _ROWS):
        rows = range(start, min(start + _ROWS, len(encoded.dataset)))
        batch = {k: v.to(device) for k, v in collate([encoded.dataset[i] for i in rows]).items()}
        with torch.no_grad():
            answers = answers_after(forward(model, batch, frozenset({"hidden_states"})), depths)
        mask = batch["attention_mask"].cpu().numpy()
        for kept, answer in zip(found, answers, strict=True):
            kept += head.feature_outputs(answer.float().cpu().numpy(), mask)
        if not head.has_labels:
            told = teacher(batch["row_id"], frozenset(), batch.get("part"))
            theirs += list(head.taught(told.logits.float(), batch).cpu().numpy())
    right = data.references("selection") if head.has_labels else head.answers(theirs, encoded)
    metric = data.task.headline
    if not head.has_labels and len(theirs[0]) != len(found[0][0]):
        metric = head.across_spaces or metric
    scores = [compute(head, [metric], head.answers(each, encoded), right)[metric] for each in found]
    return metric, dict(zip((anatomy(model).depth, *depths), scores, strict=True))
