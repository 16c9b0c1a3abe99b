"""Train the smaller model on what the larger one decides, as if that were the label.

Sequence-level distillation (Kim & Rush 2016, 1606.07947) takes the best answer of the teacher to a
whole row and not its probabilities: here the class, the tags of all words, or the best span. It
serves text that nobody has labelled, and says nothing of how sure the teacher was.

Costs a training step; the teacher's answers are computed once and kept. Not before anything was
cut: the student would be its own teacher. Changes no shape: no speed-up.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from bertcompress.data.batches import Batches
from bertcompress.engines.distillation.soft_targets import Targets
from bertcompress.methods.distillation.distill import Distill
from bertcompress.training import fit_batches

__all__ = ["SequenceLevel", "sequence_level"]

_SOFT = "the same, on the teacher's probabilities"


def sequence_level(
    model: nn.Module,
    teacher: nn.Module,
    loader: Batches,
    *,
    device: torch.device | str = "cpu",
    seed: int = 0,
    **knobs: Any,
) -> nn.Module:
    """Train `model` in place on the teacher's decisions for the loader's batches, and return it.

    Labels in the batches are not used unless `label_weight` says so. `knobs` are the fields of
    `SequenceLevel`.
    """
    method = SequenceLevel(**knobs)
    objective = method.loader_objective(model, teacher, seed=seed, device=device)
    fit_batches(model, objective, loader, settings=method, seed=seed, device=device)
    return model


class SequenceLevel(Distill):
    """Train on what the larger model decides, as if that were the label."""

    key: ClassVar[str] = "sequence_level"
    paper: ClassVar[str] = "Kim and Rush 2016, arXiv:1606.07947"
    tier: ClassVar[Literal["core", "useful", "research"]] = "useful"

    targets: Targets = Field("decisions", description="What of the teacher's answers is learned")
    label_weight: float = Field(0.0, ge=0, description="Weight of the labels' loss")
    logit_weight: float = Field(1.0, ge=0, description="Weight of the teacher's decisions")
    hidden_weight: float = Field(0.0, ge=0, description="Weight of the teacher's hidden states")

    def controls(self) -> Mapping[str, Distill]:
        """Return the same training on labels alone, and on the teacher's probabilities."""
        if self.labels_only or self.targets == "probabilities":
            return {}
        soft = {_SOFT: self.model_copy(update={"targets": "probabilities"})}
        return {**super().controls(), **soft}
