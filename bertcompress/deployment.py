"""What a stage hands on, and what of it runs somewhere: `Product` and `Deployment`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["Deployment", "Product", "precision_name"]


@dataclass(frozen=True)
class Deployment:
    """One file or folder that runs somewhere."""

    runtime: Literal["torch", "onnxruntime", "openvino"]
    precision: str
    """`fp32`, `bf16`, `int8`, or as `precision_of` says."""
    path: Path
    """A folder for torch, the `.onnx` file otherwise."""
    simulated: bool = False
    """True where the stated precision is only imitated in fp32 (fake quantisation, masks)."""


@dataclass(frozen=True)
class Product:
    """What a stage hands on."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    deployments: tuple[Deployment, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    """JSON-plain findings for the report: `steps`, `samples`, what was kept and why."""


def precision_name(bits: Iterable[int]) -> str:
    """Return `int8`, `int4-8` where weights differ, or `fp32` for a model that stores none so.

    >>> precision_name([8, 4, 8]), precision_name([8]), precision_name([])
    ('int4-8', 'int8', 'fp32')
    """
    found = sorted(set(bits))
    if not found:
        return "fp32"
    return f"int{found[0]}" if len(found) == 1 else f"int{found[0]}-{found[-1]}"
