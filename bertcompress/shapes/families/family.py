"""`Family`: the only place that knows an architecture. Verbs on a model, a layer and a config."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import transformers
from torch import nn

from bertcompress.shapes.families.views import Embeddings, LinearView, Stream

__all__ = ["PARTS", "Family", "Units"]

PARTS = ("attention", "ffn")
"""The two parts of a layer; each has its linears and its norm."""


@dataclass(frozen=True)
class Units:
    """Where the units of a part are: rows of the linears `into` them, columns of the one `out`."""

    kind: str
    """`heads` or `neurons`."""
    into: tuple[str, ...]
    out: str

    @property
    def linears(self) -> tuple[str, ...]:
        """All linears of the part, by name."""
        return (*self.into, self.out)


class Family(ABC):
    """An architecture: what its models, layers and configs hold, and how they are cut.

    Edits, methods and measurements ask these verbs and nothing else. "In place" verbs trust their
    arguments; an edit has checked them.
    """

    name: ClassVar[str]
    """`model_type` of a stock config."""
    stock_prefix: ClassVar[str]
    """Of the names of the stock classes: `Bert` for `BertModel`, `BertForMaskedLM` ..."""
    shared: ClassVar[bool] = False
    """Whether a physical layer is applied several times."""
    positions_after_padding: ClassVar[bool] = False
    """Whether the first position has the number of the padding token plus 1."""
    units: ClassVar[Mapping[str, Units]] = {
        "attention": Units("heads", ("query", "key", "value"), "attention_out"),
        "ffn": Units("neurons", ("ffn_in",), "ffn_out"),
    }
    """The units of each part of a layer."""
    albert_heads: ClassVar[Mapping[str, Mapping[str, str]]] = {}
    """The heads whose arithmetic ALBERT has too, by the ending of their class: ALBERT's name of
    each part, and the path of it here. A pooler is a dense layer with a tanh behind it."""

    # Classes and configs.

    def stock_class(self, ending: str) -> Any:
        """Return the stock class whose name ends so (`Config`, `Model` ...), or None for none."""
        return getattr(transformers, f"{self.stock_prefix}{ending}", None)

    def head_size(self, config: Any) -> int:
        """Return D, which no edit changes."""
        return int(config.hidden_size) // int(config.num_attention_heads)

    @abstractmethod
    def max_tokens(self, config: Any) -> int | None:
        """Return the longest input that a model can read, in tokens; None for no limit."""

    @abstractmethod
    def depth_of(self, config: Any) -> int:
        """Return the number of layers that a config asks for."""

    @abstractmethod
    def width_of(self, config: Any) -> int:
        """Return the number of feed-forward neurons of a layer that a config asks for."""

    @abstractmethod
    def resize(self, config: Any, *, depth: int, width: int | None = None) -> None:
        """Let a config ask for so many layers, and neurons of each, in place."""

    @abstractmethod
    def narrow(self, config: Any, *, hidden: int, heads: int) -> None:
        """Let a config ask for so many hidden features and attention heads, in place."""

    # Models.

    @abstractmethod
    def base(self, model: nn.Module) -> nn.Module:
        """Return the encoder with its embeddings, without a task head."""

    @abstractmethod
    def encoder(self, model: nn.Module) -> nn.Module:
        """Return the stack of layers."""

    @abstractmethod
    def is_table(self, tensor: str) -> bool:
        """Return whether a tensor of a checkpoint, by its name, belongs to an embedding table."""

    @abstractmethod
    def is_encoder(self, tensor: str) -> bool:
        """Return whether a tensor belongs to layers or embeddings; named as the base model does."""

    @abstractmethod
    def layers(self, model: nn.Module) -> list[nn.Module]:
        """Return the physical layers, bottom to top."""

    def depth(self, model: nn.Module) -> int:
        """Return how many layers an input passes: for ALBERT more than there are physical ones."""
        return len(self.layers(model))

    def applications(self, model: nn.Module) -> list[int]:
        """Return the physical layer behind each applied one, bottom to top."""
        return list(range(len(self.layers(model))))

    def layers_obstacle(self, model: nn.Module, kept: Sequence[int]) -> str | None:
        """Return why a model cannot be left with these applied layers alone, or None if it can."""
        return None

    @abstractmethod
    def keep_layers(self, model: nn.Module, kept: Sequence[int]) -> None:
        """Drop all other applied layers, in place."""

    @abstractmethod
    def embeddings(self, model: nn.Module) -> Embeddings:
        """Return the tables and what belongs to them."""

    @abstractmethod
    def decoder(self, model: nn.Module) -> nn.Module | None:
        """Return the last linear of a masked-LM head, one row per token; None where none is."""

    @abstractmethod
    def token_parameters(self, model: nn.Module) -> Iterator[tuple[nn.Module, str]]:
        """Yield each parameter with one row per token: the module that holds it, and its name.

        The word table comes first; decoder and biases of a masked-LM head follow.
        """

    # Layers.

    @abstractmethod
    def linears(self, layer: nn.Module) -> dict[str, LinearView]:
        """Return the linears of a layer by name, in the order of a forward pass."""

    @abstractmethod
    def norms(self, layer: nn.Module) -> dict[str, nn.Module]:
        """Return the norm of each part."""

    @abstractmethod
    def modules(self, layer: nn.Module, part: str) -> dict[str, nn.Module]:
        """Return the modules that make a part, by their path in the layer.

        All that has parameters is in one of them: linears and norm.
        """

    @abstractmethod
    def heads(self, layer: nn.Module) -> int:
        """Return the number of attention heads that a layer has now; 0 where all were cut away."""

    def width(self, layer: nn.Module) -> int:
        """Return the number of neurons that a layer has now; 0 where all were cut away."""
        return self.linears(layer)[self.units["ffn"].into[0]].out_features

    @abstractmethod
    def keep_heads(self, layer: nn.Module, kept: Sequence[int]) -> None:
        """Cut all other heads of a layer, in place."""

    @abstractmethod
    def keep_neurons(self, layer: nn.Module, kept: Sequence[int]) -> None:
        """Cut all other feed-forward neurons of a layer, in place."""

    @abstractmethod
    def residual(self, layer: nn.Module, part: str) -> Stream:
        """Return where the stream passes to which the output of a part was just added."""

    def extra_inputs(self, layer: nn.Module) -> frozenset[str]:
        """Return the linears that also take what is no state of a token, such as a table.

        Such an input has not the shape (B, T, in), and no mask of tokens applies to it.
        """
        return frozenset()

    def macs(self, layer: nn.Module, length: int) -> int:
        """Return the multiply-accumulates of a layer for one text of `length` tokens.

        A head: 4 T H D in Q, K, V and output, 2 T T D in scores and context; a neuron: 2 T H.
        """
        linears = self.linears(layer)
        context = linears[self.units["attention"].out].in_features
        weights = sum(view.macs for view in linears.values())
        return length * weights + 2 * length * length * context
