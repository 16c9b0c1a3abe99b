"""The one reader of `config.json`: bounded, and typed where something here counts on it.

Needs no torch, so that whoever only asks for a padding token reads it too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bertcompress.errors import InputError, ModelError
from bertcompress.shapes.record import written_bits
from bertcompress.support.reading import read_json

__all__ = ["lowbit_widths", "read_fields_of"]

BYTES = 16_000_000
"""Of config.json: one that names 100,000 classes has 5 MB."""

_Layers = Annotated[int, Field(ge=0, le=1_000)]
_Width = Annotated[int, Field(ge=1, le=1_000_000)]
_Rows = Annotated[int, Field(ge=1, le=100_000_000)]
_Token = Annotated[int, Field(ge=-1, le=100_000_000)]


class _Fields(BaseModel):
    """What the configs of encoders have in common. Each is missing, null, or of this type."""

    model_config = ConfigDict(extra="ignore", strict=True)

    model_type: Annotated[str, Field(max_length=100)] | None = None
    architectures: list[str] | None = None
    vocab_size: _Rows | None = None
    hidden_size: _Width | None = None
    dim: _Width | None = None
    hidden_dim: _Width | None = None
    embedding_size: _Width | None = None
    intermediate_size: _Width | None = None
    num_hidden_layers: _Layers | None = None
    n_layers: _Layers | None = None
    num_hidden_groups: _Layers | None = None
    inner_group_num: _Layers | None = None
    num_attention_heads: _Width | None = None
    n_heads: _Width | None = None
    max_position_embeddings: _Rows | None = None
    type_vocab_size: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    num_labels: _Width | None = None
    pad_token_id: _Token | list[_Token] | None = None
    layer_norm_eps: float | int | None = None
    initializer_range: float | int | None = None
    problem_type: str | None = None
    position_embedding_type: str | None = None
    is_decoder: bool | None = None
    is_encoder_decoder: bool | None = None
    auto_map: dict[str, Any] | None = None
    bertcompress: dict[str, Any] | None = None


def read_fields_of(path: Path, name: str) -> dict[str, Any]:
    """Return the plain content of a config.json as it is written.

    Raises ModelError where there is none, it is no JSON object, or a field that is counted on is of
    another type or size than any encoder has.
    """
    try:
        raw = read_json(path, BYTES)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise ModelError(f"model '{name}': no config.json in the folder") from None
    except OSError as error:
        raise ModelError(f"model '{name}': config.json: {error.strerror}") from None
    except InputError as error:
        words = str(error).removeprefix(f"{path}: ")
        raise ModelError(f"model '{name}': config.json is {words}") from None
    if not isinstance(raw, dict):
        raise ModelError(f"model '{name}': config.json is a {type(raw).__name__}, not an object")
    try:
        _Fields.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(each) for each in first["loc"] if isinstance(each, str | int))
        raise ModelError(
            f"model '{name}': config.json cannot be used ({place}: {first['msg']})"
        ) from None
    return raw


def lowbit_widths(raw: dict[str, Any], name: str) -> list[int]:
    """Return the bits that weights are stored in, by the record of edits; raises ModelError."""
    values = written_bits(raw)
    if not all(isinstance(each, int) and 1 <= each <= 32 for each in values):
        raise ModelError(f"model '{name}': config.json: bits of weights are numbers from 1 to 32")
    return values
