"""`Pooling`: how the hidden states of a text become its vector. It travels with the model's config.

The settings are those of a sentence-transformers folder, which `models/sentence.py` reads and
writes. Axes: B rows, T tokens, H hidden size, D dimensions of a vector.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bertcompress.errors import ModelError, unknown

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["FIELD", "MODES", "Pooling", "cosines", "normalised"]

Array = NDArray[Any]

FIELD = "sentence_embedding"
"""Field of a model's config that keeps its pooling."""
MODES = ("mean", "cls", "max")
_ALIASES = {"query": ("query",), "document": ("document", "passage", "corpus")}
"""Names of prompts that stand for what every embedder encodes, and what they are called."""
_TINY = 1e-12
"""Vectors are divided by at least this length, as `torch.nn.functional.normalize` does."""


class Pooling(BaseModel):
    """How a sentence embedder makes one vector of a text."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mode: Literal["mean", "cls", "max"] = Field(
        "mean", description="Mean of the tokens, the first token, or the largest of each dimension"
    )
    normalize: bool = Field(False, description="Whether vectors have length 1")
    dimensions: int | None = Field(
        None, ge=1, description="First dimensions of the vector that are kept; null: all"
    )
    prompts: dict[str, str] = Field(
        default_factory=dict, description="Name to the text that is put before a text"
    )
    default_prompt: str | None = Field(
        None, description="Name of the prompt of texts for which none is named"
    )
    similarity: Literal["cosine", "dot", "euclidean", "manhattan"] = Field(
        "cosine", description="What sentence-transformers compares the vectors by"
    )
    max_length: int | None = Field(
        None, ge=4, description="Most tokens of a text, as the folder states it; null: the model's"
    )
    lowercase: bool = Field(False, description="Whether texts are lowercased before all else")

    @classmethod
    def of(cls, config: Any) -> Pooling | None:
        """Return the pooling that a config of transformers keeps; None where it keeps none.

        Raises ModelError for one that is damaged.
        """
        kept = getattr(config, FIELD, None)
        if not kept:
            return None
        try:
            return cls.model_validate(kept)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, (FIELD, *first["loc"])))
            raise ModelError(f"config.json: {place}: {first['msg']}") from None

    def keep(self, config: Any) -> None:
        """Write the pooling into a config, in place."""
        setattr(config, FIELD, self.model_dump(mode="json"))

    @property
    def named_prompts(self) -> dict[str, str]:
        """The prompts, `query` and `document` among them where another name stands for them."""
        meant = {alias: self.prompts[name] for alias, name in self.aliases.items() if name}
        return {**meant, **self.prompts}

    def reads_like(self, other: Pooling) -> bool:
        """Return whether both encode the same of a text: the same prompts, the same case."""
        mine, theirs = (
            (
                {name: text for name, text in each.named_prompts.items() if text},
                each.prompts.get(str(each.default_prompt), ""),
                each.lowercase,
            )
            for each in (self, other)
        )
        return mine == theirs

    def prompt(self, name: str | None) -> str:
        """Return what is put before texts: the prompt of this name, '' where there is none.

        `None` takes the default one. `query` and `document` are names that every embedder has, as
        in `SentenceTransformer.encode_query` and `encode_document`. Raises ModelError for another
        name that is not there.
        """
        chosen = self.default_prompt if name is None else name
        kept = self.aliases.get(str(chosen), chosen)
        if kept is None:
            return ""
        if kept in self.prompts:
            return self.prompts[kept]
        raise ModelError(
            unknown("prompts", "prompt of the model", str(chosen), {*self.prompts, *_ALIASES})
        )

    @property
    def aliases(self) -> dict[str, str | None]:
        """`query` and `document`, and the prompt of the model that each stands for; None: none."""
        return {
            alias: next((name for name in names if name in self.prompts), None)
            for alias, names in _ALIASES.items()
        }

    def read(self, texts: Iterable[str], name: str | None = None) -> list[str]:
        """Return texts as they are tokenized: behind the prompt of this name, in lower case or not.

        Raises ModelError for a prompt that is not there.
        """
        prompt = self.prompt(name)
        whole = [prompt + text for text in texts]
        return [text.lower() for text in whole] if self.lowercase else whole

    def vector(self, states: Array) -> Array:
        """Return the vector of one text, of the states of its tokens. Shape: (T, H) -> (D,)."""
        states = np.asarray(states, np.float32)
        if self.mode == "cls":
            return self.finish(states[0])
        return self.finish(states.mean(axis=0) if self.mode == "mean" else states.max(axis=0))

    def finish(self, vectors: Array) -> Array:
        """Return pooled states as vectors: normalised, then cut. Shape: (..., H) -> (..., D)."""
        done = normalised(vectors) if self.normalize else vectors
        return np.asarray(done[..., : self.dimensions])

    def vectors(self, states: Tensor, mask: Tensor) -> Tensor:
        """Return the vector of each text, without its padding. Shape: (B, T, H), (B, T) -> (B, D).

        Sums are in fp32 whatever the states are in.
        """
        from torch.nn import functional

        real = mask.to(states.device).unsqueeze(-1)
        if self.mode == "cls":
            first = mask.to(states.device).int().argmax(dim=1)
            index = first.view(-1, 1, 1).expand(-1, 1, states.shape[-1])
            pooled = states.gather(1, index).squeeze(1).float()
        elif self.mode == "max":
            pooled = states.float().masked_fill(real == 0, float("-inf")).amax(dim=1)
        else:
            weights = real.float()
            pooled = (states.float() * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
        done = functional.normalize(pooled, dim=-1) if self.normalize else pooled
        return done[..., : self.dimensions]


def normalised(vectors: Array) -> Array:
    """Return vectors of length 1, zeros as they are. Shape: (..., D), both."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, _TINY))


def cosines(first: Array, second: Array) -> Array:
    """Return the cosine of each pair of vectors. Shape: (..., D) twice -> (...)."""
    ours, theirs = (normalised(np.asarray(each, np.float64)) for each in (first, second))
    return np.asarray((ours * theirs).sum(axis=-1))
