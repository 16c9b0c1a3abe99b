"""The edit that shares: attention or feed-forward parts of several layers become one.

Lan et al. 2020, ALBERT (1909.11942), section 3.1. Attention and feed-forward parts include their
LayerNorms, as in ALBERT, so that the counts of its table 4 come out.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from bertcompress.shapes.families.anatomy import Anatomy, Layer
from bertcompress.shapes.families.views import ShapeError
from bertcompress.shapes.parts import put_module

__all__ = ["Sharing", "shared_names"]


@dataclass
class Sharing:
    """For each layer, the layer whose attention and whose feed-forward part it uses."""

    attention: list[int]
    ffn: list[int]
    kind: ClassVar[str] = "sharing"
    simulated: ClassVar[bool] = False

    @property
    def layers(self) -> int:
        """Layers that this counts."""
        return len(self.attention)

    def check(self, view: Anatomy) -> None:
        """Raise ShapeError unless each owner uses its own part, and parts have equal shapes."""
        for part, owners in (("attention", self.attention), ("ffn", self.ffn)):
            if len(owners) != len(view.layers):
                raise ShapeError(
                    f"sharing: {len(owners)} owners of {part} given, the model has "
                    f"{len(view.layers)} layers"
                )
            for layer, owner in enumerate(owners):
                if not 0 <= owner < len(owners) or owners[owner] != owner:
                    raise ShapeError(
                        f"sharing: layer {layer} uses the {part} of layer {owner}, which has none "
                        "of its own"
                    )
                if _shapes(view.layers[layer], part) != _shapes(view.layers[owner], part):
                    raise ShapeError(
                        f"sharing: the {part} of layers {layer} and {owner} differ in shape; cut "
                        "evenly, or share first"
                    )

    def apply(self, view: Anatomy) -> None:
        """Put the owner's modules into the other layers, in place."""
        layers = view.layers
        for part, owners in (("attention", self.attention), ("ffn", self.ffn)):
            for layer, owner in zip(layers, owners, strict=True):
                for path, module in layers[owner].modules(part).items():
                    put_module(layer.module, path, module)

    def merged(self, earlier: Sharing | None, at: Sequence[int], total: int) -> Sharing:
        """Return the record in original numbering; the lowest layer of a group is its owner."""
        rows = []
        for part in ("attention", "ffn"):
            label = list(getattr(earlier, part)) if earlier else list(range(total))
            before = list(label)
            for original, owner in zip(at, getattr(self, part), strict=True):
                label[original] = before[at[owner]]
            rows.append([label.index(each) for each in label])
        return Sharing(*rows)

    def leaving(self, gone: Collection[int], view: Anatomy) -> Sharing:
        """Return the same among the layers that stay; those that go anyway use their own parts."""
        rows = []
        for owners in (self.attention, self.ffn):
            first: dict[int, int] = {}
            for layer, owner in enumerate(owners):
                if layer not in gone:
                    first.setdefault(owner, layer)
            rows.append([i if i in gone else first[owner] for i, owner in enumerate(owners)])
        return Sharing(*rows)


def _shapes(layer: Layer, part: str) -> list[tuple[str, tuple[int, ...]]]:
    return [
        (name, tuple(parameter.shape))
        for module in layer.modules(part).values()
        for name, parameter in module.named_parameters()
    ]


def shared_names(model: nn.Module) -> dict[str, str]:
    """Return the names under which a parameter appears again, each with its first name."""
    first: dict[int, str] = {}
    again: dict[str, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        source = first.setdefault(id(parameter), name)
        if source != name:
            again[name] = source
    return again
