"""The edit that narrows the residual stream: features of every table, linear and norm on it.

The same features go everywhere, so the stream stays one. A norm then sees fewer features: unlike
the other cuts this one changes what is left, and wants training afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bertcompress.shapes.families.anatomy import Anatomy
from bertcompress.shapes.families.views import ShapeError
from bertcompress.shapes.parts import BiasOnly, FactorizedEmbedding

__all__ = ["Hidden", "stream_tensors"]


@dataclass
class Hidden:
    """Keep these features of the residual stream; the record holds only how many."""

    size: int
    kept: list[int] | None = None
    kind: ClassVar[str] = "hidden"
    simulated: ClassVar[bool] = False

    def check(self, view: Anatomy) -> None:
        """Raise ShapeError unless the features rise and the stream has them."""
        width = view.hidden
        kept = self.kept if self.kept is not None else range(self.size)
        if len(kept) != self.size or not self.size:
            raise ShapeError(f"hidden: {len(kept)} features given for a size of {self.size}")
        if any(b <= a for a, b in pairwise(kept)) or kept[0] < 0 or kept[-1] >= width:
            raise ShapeError(
                f"hidden: {list(kept)[:8]} ... must be rising numbers from 0 to {width - 1}"
            )
        extra = sorted({name for layer in view.layers for name in layer.extra_inputs})
        if extra:
            raise ShapeError(
                f"hidden: {extra[0]} of these layers takes a table besides the stream, which this "
                "edit does not know"
            )
        # A layer without heads passes on the first D features.
        least = view.head_size if any(not layer.heads for layer in view.layers) else 1
        if self.size < least:
            raise ShapeError(f"hidden: {self.size} features; a layer here needs {least}")

    def apply(self, view: Anatomy) -> None:
        """Cut the other features, in place; what was tied or shared stays so."""
        if self.size == view.hidden:
            return
        kept = self.kept if self.kept is not None else list(range(self.size))
        cutter = _Cutter(kept)
        for module, axes in list(_places(view)):
            cutter.cut(module, axes)

    def merged(self, earlier: Hidden | None, at: Sequence[int], total: int) -> Hidden:
        """Return the record: the size alone."""
        return Hidden(self.size)


def stream_tensors(view: Anatomy) -> Iterator[tuple[Tensor, int]]:
    """Yield each parameter with an axis that is the stream's, once, and that axis."""
    seen: set[tuple[int, int]] = set()
    for module, axes in _places(view):
        for name, axis in axes:
            tensor = getattr(module, name)
            if (id(tensor), axis) not in seen:
                seen.add((id(tensor), axis))
                yield tensor, axis


_Axes = tuple[tuple[str, int], ...]
_OUT: _Axes = (("weight", 0), ("bias", 0))
_IN: _Axes = (("weight", 1),)
_NORM: _Axes = (("weight", 0), ("bias", 0))


def _places(view: Anatomy) -> Iterator[tuple[nn.Module, _Axes]]:
    """Yield every module on the stream with the axes of its parameters that are the stream's."""
    for module, axes in (*_embeddings(view), *_layers(view), *_head(view)):
        given = tuple(
            (name, axis) for name, axis in axes if getattr(module, name, None) is not None
        )
        if given:
            yield module, given


def _embeddings(view: Anatomy) -> Iterator[tuple[nn.Module, _Axes]]:
    embeddings = view.embeddings
    if embeddings.projection is not None:  # tables and norm are as thin as they were
        yield embeddings.projection, _OUT
        return
    for table in embeddings.tables.values():
        if isinstance(table, FactorizedEmbedding):
            yield table.projection, _OUT
        else:
            yield table, _IN
    yield embeddings.norm, _NORM


def _layers(view: Anatomy) -> Iterator[tuple[nn.Module, _Axes]]:
    for layer in view.layers:
        for part, units in view.family.units.items():
            for name in units.into:
                leaves = _linears(layer.linears[name].module)
                if leaves:
                    yield leaves[0], _IN
            out = layer.linears[units.out].module
            yield (out, (("bias", 0),)) if isinstance(out, BiasOnly) else (_linears(out)[-1], _OUT)
            yield layer.norms[part], _NORM


def _head(view: Anatomy) -> Iterator[tuple[nn.Module, _Axes]]:
    """Yield pooler and task head: all that reads the stream, but for the answers themselves."""
    inside = {id(m) for part in (view.encoder, view.embeddings.module) for m in part.modules()}
    inside.add(id(view.embeddings.projection))
    decoder, width = view.decoder, view.hidden
    thin = decoder is not None and view.embeddings.projection is not None
    outside = [m for m in view.model.modules() if id(m) not in inside]
    linears = [m for m in outside if isinstance(m, nn.Linear)]
    answers = linears[-1] if linears and view.base is not view.model else None
    for module in outside:
        if isinstance(module, nn.LayerNorm) and not thin:
            yield module, _NORM
        elif isinstance(module, nn.Linear):
            of_tables = module is decoder and thin  # as wide as the tables, whatever the stream is
            reads = module.in_features == width and not of_tables
            writes = module.out_features == width and module is not answers and not thin
            yield module, (*(_IN if reads else ()), *(_OUT if writes else ()))


def _linears(module: nn.Module) -> list[nn.Linear]:
    return [each for each in module.modules() if isinstance(each, nn.Linear)]


@dataclass
class _Cutter:
    """Cuts parameters in place; one that several modules hold is cut once, and stays one."""

    kept: list[int]
    done: dict[int, nn.Parameter] = field(default_factory=dict)

    def cut(self, module: nn.Module, axes: _Axes) -> None:
        """Cut the parameters of a module, and what it says of its size."""
        for name in dict.fromkeys(name for name, _ in axes):
            along = tuple(axis for each, axis in axes if each == name)
            setattr(module, name, self._cut(getattr(module, name), along))
        _tell(module)

    def _cut(self, old: nn.Parameter, axes: tuple[int, ...]) -> nn.Parameter:
        if id(old) in self.done:
            return self.done[id(old)]
        new = old.detach()
        index = torch.tensor(self.kept, dtype=torch.long, device=old.device)
        for axis in axes:
            new = new.index_select(axis, index)
        made = nn.Parameter(new.contiguous().clone(), requires_grad=old.requires_grad)
        self.done[id(old)] = self.done[id(made)] = made
        return made


def _tell(module: Any) -> None:
    """Let a module know the size of its parameters."""
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.Embedding):
        module.embedding_dim = module.weight.shape[1]
    elif isinstance(module, nn.LayerNorm):
        module.normalized_shape = (len(module.weight),)
