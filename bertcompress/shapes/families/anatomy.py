"""A model seen through its family: `anatomy(model)` asks the family's verbs of that very model."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from bertcompress.shapes.families import FAMILIES
from bertcompress.shapes.families.family import PARTS, Family
from bertcompress.shapes.families.views import Embeddings, LinearView, ShapeError, Stream

__all__ = ["Anatomy", "Layer", "anatomy", "family_named", "family_of"]


def family_named(name: str) -> Family:
    """Return the family of a `model_type`, ours or the stock one; ShapeError for an unknown one."""
    name = name.removeprefix("bertcompress-")
    if name not in FAMILIES:
        raise ShapeError(
            f"model family '{name}' is not supported; supported families: {', '.join(FAMILIES)}"
        )
    module, _, cls = FAMILIES[name][0].partition(":")
    family: Family = getattr(importlib.import_module(module), cls)()
    return family


def family_of(config: Any) -> Family:
    """Return the family of a config; raises ShapeError for a family not known here."""
    return family_named(str(config.model_type))


@dataclass(frozen=True)
class Layer:
    """One physical layer of a model."""

    module: nn.Module
    family: Family

    @property
    def linears(self) -> dict[str, LinearView]:
        """The linears by name: `query`, `ffn_out` ..."""
        return self.family.linears(self.module)

    @property
    def norms(self) -> dict[str, nn.Module]:
        """The norm of each part."""
        return self.family.norms(self.module)

    @property
    def heads(self) -> int:
        """Heads that this layer has now; 0 when its attention was cut away."""
        return self.family.heads(self.module)

    @property
    def width(self) -> int:
        """Feed-forward neurons that this layer has now; 0 when they were all cut away."""
        return self.family.width(self.module)

    @property
    def extra_inputs(self) -> frozenset[str]:
        """The linears that also take what is no state of a token, such as a table."""
        return self.family.extra_inputs(self.module)

    def out(self, part: str) -> LinearView:
        """Return the output projection of a part."""
        return self.linears[self.family.units[part].out]

    def modules(self, part: str) -> dict[str, nn.Module]:
        """Return the modules that make a part, by their path in the layer."""
        return self.family.modules(self.module, part)

    def residual(self, part: str) -> Stream:
        """Return where the stream passes to which the output of a part was just added."""
        return self.family.residual(self.module, part)

    def keep_heads(self, kept: Sequence[int]) -> None:
        """Cut all other heads, in place."""
        self.family.keep_heads(self.module, kept)

    def keep_neurons(self, kept: Sequence[int]) -> None:
        """Cut all other feed-forward neurons, in place."""
        self.family.keep_neurons(self.module, kept)

    def macs(self, length: int) -> int:
        """Return the multiply-accumulates of the layer for one text of `length` tokens."""
        return self.family.macs(self.module, length)


@dataclass(frozen=True)
class Anatomy:
    """A model with its family."""

    model: nn.Module
    family: Family

    @property
    def config(self) -> Any:
        """The model's config."""
        return self.model.config

    @property
    def base(self) -> nn.Module:
        """The encoder with its embeddings, without a task head."""
        return self.family.base(self.model)

    @property
    def encoder(self) -> nn.Module:
        """The stack of layers."""
        return self.family.encoder(self.model)

    @property
    def embeddings(self) -> Embeddings:
        """The tables and what belongs to them."""
        return self.family.embeddings(self.model)

    @property
    def decoder(self) -> nn.Module | None:
        """The last linear of a masked-LM head, one row per token; None where there is none."""
        return self.family.decoder(self.model)

    @property
    def token_parameters(self) -> Iterator[tuple[nn.Module, str]]:
        """Each parameter with one row per token: the module that holds it, and its name."""
        return self.family.token_parameters(self.model)

    @property
    def hidden(self) -> int:
        """H, the features of the residual stream as it is now."""
        return len(self.layers[0].norms["ffn"].weight)  # type: ignore[arg-type]

    @property
    def head_size(self) -> int:
        """D, which no edit changes."""
        return self.family.head_size(self.config)

    @property
    def layers(self) -> list[Layer]:
        """The physical layers, bottom to top."""
        return [Layer(layer, self.family) for layer in self.family.layers(self.model)]

    @property
    def linear_names(self) -> tuple[str, ...]:
        """Names of the linears that a layer of this family has."""
        return tuple(self.layers[0].linears)

    @property
    def depth(self) -> int:
        """How many layers an input passes (for ALBERT more than there are physical layers)."""
        return self.family.depth(self.model)

    @property
    def applications(self) -> list[int]:
        """The physical layer behind each applied one, bottom to top."""
        return self.family.applications(self.model)

    def owners(self, name: str) -> list[int]:
        """Return for each physical layer the first one that uses the very same weights.

        `name`: of a linear, or of a part, `attention` or `ffn`, whose output projection tells.
        """
        first: dict[Any, int] = {}
        views = [each.out(name) if name in PARTS else each.linears[name] for each in self.layers]
        return [first.setdefault(view.key, i) for i, view in enumerate(views)]


def anatomy(model: nn.Module) -> Anatomy:
    """Return the model seen through its family; raises ShapeError for an unknown family."""
    config = getattr(model, "config", None)
    if config is None or not hasattr(config, "model_type"):
        raise ShapeError(f"{type(model).__name__} is not a transformers model: it has no config")
    if getattr(config, "is_decoder", False):
        raise ShapeError(f"{type(model).__name__} is a decoder; only encoders are supported")
    return Anatomy(model, family_of(config))
