"""Modules that stand in an edited model where the stock model has a plain linear or table."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional

__all__ = [
    "BiasOnly",
    "FactorizedEmbedding",
    "FirstFeatures",
    "LowRank",
    "ProjectedDropout",
    "keep_inputs",
    "keep_outputs",
    "put_module",
    "replace_modules",
]


class BiasOnly(nn.Module):
    """What is left of an output projection without inputs: its bias."""

    def __init__(self, bias: Tensor) -> None:
        super().__init__()
        self.bias = nn.Parameter(bias.detach().clone())

    def forward(self, features: Tensor) -> Tensor:
        """Return the bias for each token. Shape: (..., any) -> (..., H)."""
        return self.bias.expand(*features.shape[:-1], -1)


class FirstFeatures(nn.Module):
    """Stands in for a projection whose result is not used, so that the stock forward still runs."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the first features. Shape: (..., H) -> (..., size)."""
        return hidden[..., : self.size]


class LowRank(nn.Module):
    """A linear as the product of two thin ones: `second(first(x))`."""

    def __init__(self, first: nn.Linear, second: nn.Linear) -> None:
        super().__init__()
        self.first = first
        self.second = second

    @property
    def in_features(self) -> int:
        """Features that come in."""
        return self.first.in_features

    @property
    def out_features(self) -> int:
        """Features that go out."""
        return self.second.out_features

    @property
    def rank(self) -> int:
        """Features between the two."""
        return self.first.out_features

    @property
    def weight(self) -> Tensor:
        """The matrix that the two make together. Shape: (out, in)."""
        return self.second.weight @ self.first.weight

    @property
    def bias(self) -> Tensor | None:
        """The bias of the second linear. Shape: (out,)."""
        return self.second.bias

    def forward(self, features: Tensor) -> Tensor:
        """Apply both. Shape: (..., in) -> (..., out)."""
        return self.second(self.first(features))  # type: ignore[no-any-return]


class FactorizedEmbedding(nn.Module):
    """A word table V x H as a table V x E and a projection E x H without bias."""

    def __init__(self, table: nn.Embedding, projection: nn.Linear) -> None:
        super().__init__()
        self.table = table
        self.projection = projection

    @property
    def weight(self) -> Tensor:
        """The table that the two make together. Shape: (V, H)."""
        return functional.linear(self.table.weight, self.projection.weight)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Look up and project. Shape: (B, T) -> (B, T, H)."""
        return self.projection(self.table(input_ids))  # type: ignore[no-any-return]


class ProjectedDropout(nn.Module):
    """The last step of ALBERT's embeddings: dropout at size E, then the map to the hidden size.

    It takes the place of the stock embeddings' dropout, so that their forward runs unchanged.
    """

    def __init__(self, dropout: nn.Module, projection: nn.Linear) -> None:
        super().__init__()
        self.dropout = dropout
        self.projection = projection

    def forward(self, embedded: Tensor) -> Tensor:
        """Drop and project. Shape: (B, T, E) -> (B, T, H)."""
        return self.projection(self.dropout(embedded))  # type: ignore[no-any-return]


def keep_outputs(linear: nn.Module, index: Tensor) -> nn.Module:
    """Return a new linear with only these output features (rows of the weight)."""
    if isinstance(linear, LowRank):
        return LowRank(linear.first, _rows(linear.second, index))
    assert isinstance(linear, nn.Linear)
    return _rows(linear, index)


def keep_inputs(linear: nn.Module, index: Tensor) -> nn.Module:
    """Return a new linear with only these input features (columns of the weight)."""
    if isinstance(linear, LowRank):
        return LowRank(_columns(linear.first, index), linear.second)
    assert isinstance(linear, nn.Linear)
    return _columns(linear, index)


def bias_of(linear: nn.Module) -> Tensor:
    """Return the bias of a linear, of either kind. Shape: (out,)."""
    bias = linear.bias
    assert isinstance(bias, Tensor)
    return bias


def _rows(linear: nn.Linear, index: Tensor) -> nn.Linear:
    bias = None if linear.bias is None else linear.bias[index]
    return new_linear(linear, linear.weight[index], bias)


def _columns(linear: nn.Linear, index: Tensor) -> nn.Linear:
    return new_linear(linear, linear.weight[:, index], linear.bias)


def new_linear(like: nn.Module, weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """Return a linear of its own tensors, in the mode and with the gradients of another."""
    new = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    trained = all(p.requires_grad for p in like.parameters())
    new.weight = nn.Parameter(weight.detach().clone().contiguous(), requires_grad=trained)
    if bias is not None:
        new.bias = nn.Parameter(bias.detach().clone(), requires_grad=trained)
    new.train(like.training)
    return new


def put_module(parent: nn.Module, path: str, module: nn.Module) -> None:
    """Put a module at a path below another, in place of what is there."""
    above, _, name = path.rpartition(".")
    setattr(parent.get_submodule(above), name, module)


def replace_modules(model: nn.Module, new: Mapping[int, nn.Module]) -> None:
    """Put modules in the place of others, in place; `new` goes by the `id` of the old one.

    By what they are and not by name: a module that layers share has several names.
    """
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if id(child) in new:
                setattr(parent, name, new[id(child)])
