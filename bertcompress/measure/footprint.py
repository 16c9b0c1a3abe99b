"""How large a model is and how much it computes: parameters, bytes on disk, MACs."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from bertcompress.errors import CheckpointError
from bertcompress.measure.row import Row
from bertcompress.models.config_fields import read_fields_of
from bertcompress.runtimes import require
from bertcompress.runtimes.onnx.graph import initializer_bytes

if TYPE_CHECKING:  # a report is read without torch
    from torch import Tensor, nn

    from bertcompress.deployment import Deployment
    from bertcompress.shapes import Anatomy

__all__ = [
    "LayerRow",
    "Parameters",
    "Size",
    "count_parameters",
    "disk_bytes",
    "encoder_bytes",
    "half_size",
    "layer_table",
    "macs",
    "size_of",
]


class Parameters(Row):
    """Numbers of parameters; shared ones count once."""

    total: int = Field(ge=0, description="All of the model")
    encoder: int = Field(ge=0, description="The layers")
    embeddings: int = Field(ge=0, description="Tables, their norm and their projection")
    head: int = Field(ge=0, description="Pooler and task head")


class Size(Row):
    """Bytes on disk of what is shipped, in megabytes of 10^6 bytes."""

    size_mb: float = Field(ge=0, description="The file, or the weights of the folder")
    encoder_mb: float | None = Field(
        ge=0, description="All weights but the embedding tables; null: the file does not tell"
    )


class LayerRow(Row):
    """One part of a model, as `inspect` shows it."""

    name: str = Field(description="embeddings, layer 0 ..., head")
    heads: int | None = Field(None, description="Attention heads left")
    neurons: int | None = Field(None, description="Feed-forward neurons left")
    params: int = Field(ge=0, description="Parameters, shared ones where they come first")
    bytes: int = Field(ge=0, description="Bytes of these in memory")
    macs: int | None = Field(None, description="Multiply-accumulates for one text")


def count_parameters(model: nn.Module) -> Parameters:
    """Return how many parameters the model has, and where; a shared tensor counts once."""
    from bertcompress.shapes import anatomy

    view = anatomy(model)
    layers, embeddings, head = _parts(view)
    size = _sizes(view.model)
    counts = [sum(map(size, part)) for part in (layers, embeddings, head)]
    return Parameters(total=sum(counts), encoder=counts[0], embeddings=counts[1], head=counts[2])


def macs(model: nn.Module, length: int = 128) -> int:
    """Return the multiply-accumulates of the layers for one text.

    As Kwon et al. 2022, arXiv:2204.09656, count: the linear maps and both attention products, in
    each application of a shared layer.

    Args:
        model: Of a known family, edited or not.
        length: Tokens of the text.
    """
    from bertcompress.shapes import anatomy

    view = anatomy(model)
    each = [layer.macs(length) for layer in view.layers]
    return sum(each[i] for i in view.applications)


def layer_table(model: nn.Module, length: int = 128) -> list[LayerRow]:
    """Return where parameters, bytes and multiply-accumulates are: embeddings, each layer, head."""
    from bertcompress.shapes import anatomy

    view = anatomy(model)
    _, embeddings, head = _parts(view)
    seen: set[int] = set()
    size = _sizes(view.model)
    rows = [_plain_row("embeddings", embeddings, size)]
    for i, layer in enumerate(view.layers):
        new = [p for p in layer.module.parameters() if id(p) not in seen]
        seen |= {id(p) for p in new}
        one = layer.macs(length)
        rows.append(
            _plain_row(f"layer {i}", new, size).model_copy(
                update={
                    "heads": layer.heads,
                    "neurons": layer.width,
                    "macs": one * view.applications.count(i),
                }
            )
        )
    return [*rows, _plain_row("head", head, size)]


def _sizes(model: nn.Module) -> Callable[[Tensor], int]:
    """Return what counts the parameters in a tensor: of packed ones what they hold, no scale."""
    from bertcompress.shapes.lowbit import stored_modules

    held: dict[int, int] = {}
    for _, module in stored_modules(model):
        held[id(module.qweight)] = module.stored
        held[id(module.weight_scale)] = 0
        held[id(getattr(module, "input_scale", None))] = 0
    return lambda tensor: held.get(id(tensor), tensor.numel())


def _plain_row(name: str, tensors: Iterable[Tensor], size: Callable[[Tensor], int]) -> LayerRow:
    tensors = list(tensors)
    return LayerRow(
        name=name,
        params=sum(map(size, tensors)),
        bytes=sum(t.numel() * t.element_size() for t in tensors),
    )


def _parts(view: Anatomy) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Parameters of the layers, the embeddings and the head; a tied one belongs to the first."""
    layers: dict[int, Tensor] = {
        id(p): p for layer in view.layers for p in layer.module.parameters()
    }
    pooler = {id(p) for name, p in view.base.named_parameters() if name.startswith("pooler")}
    embeddings: dict[int, Tensor] = {
        id(p): p for p in view.base.parameters() if id(p) not in layers and id(p) not in pooler
    }
    rest: list[Tensor] = [
        p for p in view.model.parameters() if id(p) not in layers and id(p) not in embeddings
    ]
    return list(layers.values()), list(embeddings.values()), rest


def size_of(deployment: Deployment) -> Size:
    """Return the bytes that shipping this deployment takes."""
    layers = encoder_bytes(deployment)
    return Size(
        size_mb=disk_bytes(deployment.path) / 1e6,
        encoder_mb=None if layers is None else layers / 1e6,
    )


def disk_bytes(path: str | Path) -> int:
    """Return the bytes of a file, or of the weight files of a model folder."""
    return sum(file.stat().st_size for file in _weight_files(Path(path)))


def encoder_bytes(deployment: Deployment) -> int | None:
    """Return the bytes of all weights on disk but the embedding tables; None of an engine.

    Read from the file itself, so that fp32, bf16 and int8 count as what they are. Pooler and head
    are included in every format: an ONNX graph does not tell them from layers.
    """
    files = _weight_files(deployment.path)
    if deployment.path.suffix == ".onnx":
        every, tables = initializer_bytes(require("onnx", "onnx").load(deployment.path))
        return every - tables
    if deployment.path.is_file() and deployment.path.suffix != ".safetensors":
        return None  # a format of the runtime's own
    from bertcompress.shapes import family_named

    fields = read_fields_of(deployment.path / "config.json", str(deployment.path))
    family = family_named(str(fields.get("model_type")))
    sizes = {name: size for file in files for name, size in _tensor_bytes(file).items()}
    return sum(size for name, size in sizes.items() if not family.is_table(name))


def _weight_files(path: Path) -> list[Path]:
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"{path}: neither a file nor a folder with *.safetensors")
    return files


def half_size(folder: str | Path) -> float | None:
    """Return the megabytes of a checkpoint whose weights are 16-bit floats, else None."""
    entries = [e for f in _weight_files(Path(folder)) for e in _header(f).values()]
    half = [e for e in entries if e["dtype"] in ("F16", "BF16")]
    # Some tensors, such as norms, may have been kept wider.
    if sum(map(_length, half)) <= 0.5 * sum(map(_length, entries)):
        return None
    return sum(map(_length, entries)) / 1e6


def _tensor_bytes(file: Path) -> dict[str, int]:
    """Return bytes by tensor from the header of a safetensors file; no tensor is read."""
    return {name: _length(entry) for name, entry in _header(file).items()}


def _header(file: Path) -> dict[str, dict[str, Any]]:
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header: dict[str, dict[str, Any]] = json.loads(stream.read(length))
    header.pop("__metadata__", None)
    return header


def _length(entry: dict[str, Any]) -> int:
    start, end = entry["data_offsets"]
    return int(end - start)
