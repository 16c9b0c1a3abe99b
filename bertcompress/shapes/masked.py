"""The edit of zeros: of each of these linears a share of the weights is exactly zero.

Which weights that are is in the tensors; the record holds how many may be other than zero, so that
a model that lost its zeros, in a training that knew nothing of them, is noticed. Zeros are stored
and multiplied like any number: neither bytes nor time shrink.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from bertcompress.shapes.families.anatomy import Anatomy
from bertcompress.shapes.families.views import ShapeError

__all__ = ["Masked", "counted_zeros", "layer_linears", "weights_of", "zeros_of"]


@dataclass
class Masked:
    """Share of the weights that may be other than zero, of each linear by its module's name."""

    density: dict[str, float]
    kind: ClassVar[str] = "masked"

    @property
    def simulated(self) -> bool:
        """Whether there are zeros at all: bytes and time are those of a model without."""
        return any(share < 1 for share in self.density.values())

    def check(self, view: Anatomy) -> None:
        """Raise ShapeError for what is no dense linear of a layer, and for shares beyond 0 to 1."""
        linears = layer_linears(view)
        for name, share in self.density.items():
            if _name_here(view.model, name) not in linears:
                raise ShapeError(f"masked: '{name}' is no dense linear of this model's layers")
            if not isinstance(share, int | float) or not 0 <= share <= 1:
                raise ShapeError(f"masked: a density of {share!r} for '{name}'; allowed: 0 to 1")

    def apply(self, view: Anatomy) -> None:
        """Change nothing: the zeros are in the tensors."""

    def merged(self, earlier: Masked | None, at: Sequence[int], total: int) -> Masked:
        """Return the record with the linears that were masked before."""
        return Masked({**(earlier.density if earlier else {}), **self.density})


def layer_linears(view: Anatomy) -> dict[str, nn.Linear]:
    """Return the dense linears of the layers by their module's name, each once.

    Also the two factors of a thin one.
    """
    inside = {id(m) for layer in view.layers for m in layer.module.modules()}
    return {
        name: module
        for name, module in view.model.named_modules()
        if isinstance(module, nn.Linear) and id(module) in inside
    }


def counted_zeros(view: Anatomy) -> Masked:
    """Return the record of the zeros that the dense linears of the layers have now."""
    return Masked(
        {
            name: 1 - int((linear.weight == 0).sum()) / linear.weight.numel()
            for name, linear in layer_linears(view).items()
        }
    )


def weights_of(model: nn.Module, masked: Masked) -> dict[str, Tensor]:
    """Return the weights of the recorded linears by recorded name; of few bits as they compute."""
    modules: dict[str, Any] = {
        name: model.get_submodule(_name_here(model, name)) for name in masked.density
    }
    return {name: module.weight for name, module in modules.items()}


def _name_here(model: Any, name: str) -> str:
    """Return the name that a recorded linear has in this model, loaded with a head or without."""
    prefix = f"{model.base_model_prefix}."
    bare = name.removeprefix(prefix)
    return bare if model.base_model is model else f"{prefix}{bare}"


def zeros_of(model: nn.Module, masked: Masked) -> dict[str, int]:
    """Return how many weights of each recorded linear are zero now."""
    return {name: int((weight == 0).sum()) for name, weight in weights_of(model, masked).items()}
