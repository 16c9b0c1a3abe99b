"""The table of methods: key -> (where the class is, one line). Adding a method adds a line here."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bertcompress.errors import RecipeError, unknown

if TYPE_CHECKING:
    from bertcompress.method import Method

__all__ = ["METHODS", "RESEARCH", "as_written_now", "method_class"]

METHODS: dict[str, tuple[str, str]] = {
    "finetune": (
        "bertcompress.methods.training.finetune:Finetune",
        "Train on the task's labels and keep the best evaluation",
    ),
    "prune_structured": (
        "bertcompress.methods.pruning.structured:PruneStructured",
        "Remove attention heads and feed-forward neurons, or whole layers",
    ),
    "kprune": (
        "bertcompress.methods.pruning.kprune:KPrune",
        "Cut heads and neurons and repair the rest, without training",
    ),
    "prune_hidden": (
        "bertcompress.methods.pruning.hidden:PruneHidden",
        "Remove features of the residual stream, the weakest by magnitude",
    ),
    "gradual_magnitude": (
        "bertcompress.methods.sparsity.sparse_training:GradualMagnitude",
        "Train on while the smallest weights of the layers become exactly zero",
    ),
    "trim_vocabulary": (
        "bertcompress.methods.factorization.trim_vocabulary:TrimVocabulary",
        "Drop the tokens that the training texts never use, tokenizer included",
    ),
    "share_layers": (
        "bertcompress.methods.sharing.share_layers:ShareLayers",
        "Let several layers use one set of weights, as ALBERT does",
    ),
    "factorize_embedding": (
        "bertcompress.methods.factorization.factorize_embedding:FactorizeEmbedding",
        "Make the embedding table thin: V x H becomes V x E and E x H",
    ),
    "factorize_linear": (
        "bertcompress.methods.factorization.factorize_linear:FactorizeLinear",
        "Replace the linears of the layers by products of two thin ones",
    ),
    "flop": (
        "bertcompress.methods.factorization.flop:Flop",
        "Learn which rank-1 components of the linears to keep, while training",
    ),
    "student": (
        "bertcompress.methods.distillation.student:Student",
        "Go on with another, smaller model: a shape of its own, or another checkpoint",
    ),
    "distill": (
        "bertcompress.methods.distillation.distill:Distill",
        "Train the smaller model on the answers and hidden states of the larger one",
    ),
    "pkd": (
        "bertcompress.methods.distillation.distill_inside:Pkd",
        "Train on the answers and on the first token's states in the layers between",
    ),
    "tinybert": (
        "bertcompress.methods.distillation.distill_inside:TinyBert",
        "Train on attention scores and hidden states, then on the teacher's answers",
    ),
    "minilm": (
        "bertcompress.methods.distillation.distill_inside:MiniLM",
        "Train on the relations among tokens in one layer of the teacher, then on the labels",
    ),
    "ted": (
        "bertcompress.methods.distillation.ted:Ted",
        "Train on what of a teacher's hidden states the task needs, by learned filters",
    ),
    "sequence_level": (
        "bertcompress.methods.distillation.sequence_level:SequenceLevel",
        "Train on what the larger model decides, as if that were the label",
    ),
    "theseus": (
        "bertcompress.methods.distillation.theseus:Theseus",
        "Replace layers by fewer ones, by chance and ever more often, on the labels alone",
    ),
    "born_again": (
        "bertcompress.methods.distillation.born_again:BornAgain",
        "Train the model anew on its own answers, generation after generation",
    ),
    "snapshot": (
        "bertcompress.methods.distillation.snapshot:Snapshot",
        "Train in cycles, each taught by the model that the one before ended with",
    ),
    "online_peers": (
        "bertcompress.methods.distillation.online_peers:OnlinePeers",
        "Train beside peers that teach, without any teacher before",
    ),
    "quantize_int8": (
        "bertcompress.methods.quantization.int8:QuantizeInt8",
        "Post-training int8 files for ONNX Runtime and OpenVINO",
    ),
    "q8bert": (
        "bertcompress.methods.quantization.q8bert:Q8bert",
        "Train on with weights and inputs rounded to 8 bits, and store them so",
    ),
    "q_bert": (
        "bertcompress.methods.quantization.q_bert:QBert",
        "Store weights in 4 bits, in groups, and more where the loss is sharp",
    ),
    "mode_connectivity": (
        "bertcompress.methods.probes.mode_connectivity:ModeConnectivity",
        "Measure the barrier between two trainings along the line between their weights",
    ),
}

RESEARCH: frozenset[str] = frozenset({"online_peers", "snapshot", "ted"})
"""Keys of the research tier, hidden from lists unless asked for."""


def as_written_now(key: str, settings: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Return a method's key and settings in the words of today, for recipes of older versions."""
    if key == "prune_structured" and settings.get("scores") == "kprune":
        gone = ("scores", "allocation")
        return "kprune", {"keep": 0.5} | {k: v for k, v in settings.items() if k not in gone}
    return key, settings


def method_class(key: str, where: str = "recipe") -> type[Method]:
    """Return the class of a method; raises RecipeError with the nearest key."""
    if key not in METHODS:
        raise RecipeError(unknown(where, "method", key, METHODS))
    module, _, name = METHODS[key][0].partition(":")
    found: Any = getattr(importlib.import_module(module), name)
    return found  # type: ignore[no-any-return]
