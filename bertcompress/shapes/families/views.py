"""What a family shows of a model: linears, the residual stream, the embeddings.

Axes used everywhere: B batch, T tokens, L layers, H hidden size, D head size, F feed-forward
width, V vocabulary. A layer is a *physical* one: ALBERT's shared layer counts once, however often
it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from bertcompress.shapes.parts import (
    FactorizedEmbedding,
    LowRank,
    ProjectedDropout,
    put_module,
)

__all__ = ["TABLES", "Embeddings", "LinearView", "ShapeError", "Stream"]

TABLES = ("word", "position", "token_type")
"""The tables of a model's embeddings; not every family has all of them."""


class ShapeError(ValueError):
    """A shape that this model cannot take."""


@dataclass(frozen=True)
class LinearView:
    """One linear of a layer: a module of its own, or some rows of a fused one."""

    layer: nn.Module
    path: str
    """Of the module, inside the layer."""
    rows: tuple[int, int] | None = None
    """First and last row (exclusive) of a fused weight; None: the module is this linear."""

    @property
    def module(self) -> nn.Module:
        """The module as it stands: dense, factorised, quantised or cut away; fused: all of it."""
        return self.layer.get_submodule(self.path)

    @property
    def weight(self) -> Tensor:
        """The matrix. Shape: (out, in)."""
        return self._rows_of(self._tensor("weight"))

    @property
    def bias(self) -> Tensor | None:
        """The bias. Shape: (out,)."""
        return None if self.module.bias is None else self._rows_of(self._tensor("bias"))

    @property
    def in_features(self) -> int:
        """Features that come in; 0 where the linear was cut away."""
        return int(getattr(self.module, "in_features", 0))

    @property
    def out_features(self) -> int:
        """Features that go out; 0 where the linear was cut away."""
        if self.rows is not None:
            return self.rows[1] - self.rows[0]
        return int(getattr(self.module, "out_features", 0))

    @property
    def rank(self) -> int | None:
        """Features between the two thin linears of a factorised one; None for any other."""
        module = self.module
        return module.rank if isinstance(module, LowRank) else None

    @property
    def replaceable(self) -> bool:
        """Whether another module can stand in its place: not for rows of a fused weight."""
        return self.rows is None

    @property
    def key(self) -> tuple[int, tuple[int, int] | None]:
        """Equal for two views exactly where they show one set of weights."""
        return id(self.module), self.rows

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one token; a factorised linear counts its two factors."""
        if self.rows is not None:
            return self.in_features * self.out_features
        leaves: list[Any] = [each for each in self.module.modules() if not [*each.children()]]
        linears = [each for each in leaves if hasattr(each, "in_features")]
        return sum(int(each.in_features) * int(each.out_features) for each in linears)

    def replace(self, module: nn.Module) -> None:
        """Put another module in the place of this linear, in place; ShapeError for fused rows."""
        if self.rows is not None:
            raise ShapeError(f"{self.path} is one fused weight; rows of it cannot be replaced")
        put_module(self.layer, self.path, module)

    def values(self) -> dict[str, Tensor]:
        """Return copies of the parameters, by name."""
        state = self.module.state_dict()
        return {name: self._rows_of(value).detach().clone() for name, value in state.items()}

    def load(self, values: Mapping[str, Tensor]) -> None:
        """Write such copies into the parameters, in place."""
        if self.rows is None:
            self.module.load_state_dict(dict(values))
            return
        for name, value in values.items():
            self._rows_of(self.module.get_parameter(name).data).copy_(value)

    def _tensor(self, name: str) -> Tensor:
        value = getattr(self.module, name)
        assert isinstance(value, Tensor)
        return value

    def _rows_of(self, tensor: Tensor) -> Tensor:
        return tensor if self.rows is None else tensor[self.rows[0] : self.rows[1]]


@dataclass(frozen=True)
class Stream:
    """A place where the residual stream passes: what comes into a module, or what it gives."""

    module: nn.Module
    side: Literal["input", "output"] = "input"

    def watch(self, callback: Callable[[Tensor], None]) -> RemovableHandle:
        """Call back with the stream at each application, until the handle is removed.

        Shape: (B, T, H).
        """
        if self.side == "input":
            return self.module.register_forward_pre_hook(lambda _, args: callback(args[0]))

        def hook(_: nn.Module, __: Any, output: Any) -> None:
            callback(output[0] if isinstance(output, tuple) else output)

        return self.module.register_forward_hook(hook)


@dataclass(frozen=True)
class Embeddings:
    """The embeddings of a model: tables, the norm behind them, and their last step."""

    module: nn.Module
    names: Mapping[str, str]
    """Attribute of each of `word`, `position`, `token_type`, `norm` and `dropout`."""
    native_projection: nn.Linear | None = None
    """The linear that the family itself has between thin tables and its layers."""

    def get(self, role: str) -> nn.Module | None:
        """Return the module of a role, or None where the model has none."""
        found = getattr(self.module, self.names.get(role, ""), None)
        return found if isinstance(found, nn.Module) else None

    def put(self, role: str, module: nn.Module) -> None:
        """Replace the module of a role, in place."""
        setattr(self.module, self.names[role], module)

    def need(self, role: str) -> Any:
        """Return the module of a role; raises ShapeError where the model has none."""
        found = self.get(role)
        if found is None:
            raise ShapeError(f"{type(self.module).__name__} has no {role} of its embeddings")
        return found

    @property
    def word(self) -> Any:
        """The word table as it stands: dense, factorised or quantised."""
        return self.need("word")

    @property
    def word_table(self) -> nn.Embedding | None:
        """The dense table with one row per token; a factorised one has it inside."""
        inside = self.word.modules()
        return next((each for each in inside if isinstance(each, nn.Embedding)), None)

    @property
    def norm(self) -> nn.LayerNorm:
        """The norm of the summed tables."""
        norm = self.need("norm")
        assert isinstance(norm, nn.LayerNorm)
        return norm

    @property
    def tables(self) -> dict[str, Any]:
        """The tables that the model has, by role."""
        found = {role: self.get(role) for role in TABLES}
        return {role: table for role, table in found.items() if table is not None}

    @property
    def factorized(self) -> bool:
        """Whether the word table alone was factorised."""
        return isinstance(self.get("word"), FactorizedEmbedding)

    @property
    def projected(self) -> bool:
        """Whether all tables were factorised, with a projection in the place of the dropout."""
        return isinstance(self.get("dropout"), ProjectedDropout)

    @property
    def projection(self) -> nn.Linear | None:
        """The linear between tables and layers, of an edit or of the family itself."""
        last = self.get("dropout")
        return last.projection if isinstance(last, ProjectedDropout) else self.native_projection
