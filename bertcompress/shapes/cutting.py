"""Edits that cut: attention heads, feed-forward neurons, whole layers.

Each edit is plain data. Its indices count what the model has *now*; `merged` turns it into the
record that goes into the config, which counts what the model had *originally*, so that cutting
twice leaves one record and a reload replays it on the plain model.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar

from bertcompress.shapes.families.anatomy import Anatomy
from bertcompress.shapes.families.views import ShapeError

__all__ = ["Heads", "Layers", "Neurons"]


def _check_rows(what: str, kept: Sequence[Sequence[int]], present: Sequence[int]) -> None:
    if len(kept) != len(present):
        raise ShapeError(f"{what}: {len(kept)} lists given, the model has {len(present)} layers")
    for layer, (row, count) in enumerate(zip(kept, present, strict=True)):
        if sorted(set(row)) != list(row) or any(not 0 <= i < count for i in row):
            raise ShapeError(
                f"{what} of layer {layer}: {list(row)} must be rising numbers from 0 to {count - 1}"
            )


def _check_shared(what: str, kept: Sequence[Sequence[int]], owners: Sequence[int]) -> None:
    for layer, owner in enumerate(owners):
        if list(kept[layer]) != list(kept[owner]):
            raise ShapeError(
                f"{what}: layers {owner} and {layer} share them, so the same ones must stay in both"
            )


@dataclass
class Heads:
    """Keep these attention heads in each layer."""

    kept: list[list[int]]
    kind: ClassVar[str] = "heads"
    simulated: ClassVar[bool] = False

    @property
    def layers(self) -> int:
        """Layers that this counts."""
        return len(self.kept)

    def check(self, view: Anatomy) -> None:
        """Raise ShapeError unless each list names heads that the layer has."""
        _check_rows("heads", self.kept, [layer.heads for layer in view.layers])
        _check_shared("heads", self.kept, view.owners("attention"))

    def apply(self, view: Anatomy) -> None:
        """Cut the other heads, in place."""
        owners = view.owners("attention")
        for i, (layer, kept) in enumerate(zip(view.layers, self.kept, strict=True)):
            if owners[i] == i and len(kept) < layer.heads:
                layer.keep_heads(kept)

    def merged(self, earlier: Heads | None, at: Sequence[int], total: int) -> Heads:
        """Return the record in original numbering; `at` are the original numbers of the layers."""
        record = [list(row) for row in earlier.kept] if earlier else [[] for _ in range(total)]
        for original, kept in zip(at, self.kept, strict=True):
            before = earlier.kept[original] if earlier else None
            record[original] = [before[i] for i in kept] if before is not None else list(kept)
        return Heads(record)

    def leaving(self, gone: Collection[int], view: Anatomy) -> Heads:
        """Return the same without what it does to layers that go anyway."""
        whole = [list(range(layer.heads)) for layer in view.layers]
        return Heads([whole[i] if i in gone else row for i, row in enumerate(self.kept)])


@dataclass
class Neurons:
    """Keep these feed-forward neurons in each layer; the record holds only how many."""

    widths: list[int]
    kept: list[list[int]] | None = None
    kind: ClassVar[str] = "neurons"
    simulated: ClassVar[bool] = False

    @property
    def layers(self) -> int:
        """Layers that this counts."""
        return len(self.widths)

    def check(self, view: Anatomy) -> None:
        """Raise ShapeError unless each list names neurons that the layer has."""
        present = [layer.width for layer in view.layers]
        kept = self.kept if self.kept is not None else [list(range(w)) for w in self.widths]
        _check_rows("neurons", kept, present)
        _check_shared("neurons", kept, view.owners("ffn"))
        if [len(row) for row in kept] != list(self.widths):
            raise ShapeError(f"neurons: widths {self.widths} do not match the lists of neurons")

    def apply(self, view: Anatomy) -> None:
        """Cut the other neurons, in place."""
        owners = view.owners("ffn")
        for i, (layer, width) in enumerate(zip(view.layers, self.widths, strict=True)):
            if owners[i] == i and width < layer.width:
                layer.keep_neurons(self.kept[i] if self.kept is not None else range(width))

    def merged(self, earlier: Neurons | None, at: Sequence[int], total: int) -> Neurons:
        """Return the record: the width of each original layer (0 where the layer is gone)."""
        record = list(earlier.widths) if earlier else [0] * total
        for original, width in zip(at, self.widths, strict=True):
            record[original] = width
        return Neurons(record)

    def leaving(self, gone: Collection[int], view: Anatomy) -> Neurons:
        """Return the same without what it does to layers that go anyway."""
        whole = [layer.width for layer in view.layers]
        return Neurons([whole[i] if i in gone else width for i, width in enumerate(self.widths)])


@dataclass
class Layers:
    """Keep these layers. For ALBERT they are applications of its one layer."""

    kept: list[int]
    kind: ClassVar[str] = "layers"
    simulated: ClassVar[bool] = False

    def check(self, view: Anatomy) -> None:
        """Raise ShapeError unless the numbers rise and name layers of the model."""
        _check_rows("layers", [self.kept], [view.depth])
        if not self.kept:
            raise ShapeError("layers: at least one layer must stay")
        obstacle = view.family.layers_obstacle(view.model, self.kept)
        if obstacle is not None:
            raise ShapeError(f"layers: {obstacle}")

    def apply(self, view: Anatomy) -> None:
        """Drop the other layers in place."""
        view.family.keep_layers(view.model, self.kept)

    def merged(self, earlier: Layers | None, at: Sequence[int], total: int) -> Layers:
        """Return the record in original numbering."""
        return Layers([earlier.kept[i] for i in self.kept] if earlier else list(self.kept))
