"""What the weight files of a checkpoint hold, by the names of its tensors; of which class it is.

Only headers are read. Where `architectures` is missing or wrong, the tensors tell the class;
weights of few bits, relative positions and code of a model's own are refused by name.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError, safe_open

from bertcompress.errors import CheckpointError, ModelError, UnsupportedFamily
from bertcompress.models.config import OWN, few_bits, relative
from bertcompress.models.recognising import weights_obstacle
from bertcompress.shapes import Family, compressed_class, family_of
from bertcompress.shapes.modeling import AUTO_CLASSES

__all__ = ["LEFT_OVER", "Tensors", "holds_head", "model_class"]

LEFT_OVER = re.compile(
    r"(^|\.)(pooler|cls\.seq_relationship|cls\.predictions|lm_head|predictions|sop_classifier"
    r"|discriminator_predictions|generator_predictions|vocab_\w+)\."
    r"|(^|\.)embeddings\.(position_ids|token_type_ids)$"
)
"""Of pretraining, in checkpoints that declare the class that they are most used for; and buffers
that older transformers saved and every one ignores."""

_POOLER = re.compile(r"(^|\.)pooler\.")
_WRAPPERS = re.compile(r"^(?:module\.|_orig_mod\.)+")
_FEW_BITS = re.compile(r"\.(SCB|weight_format|absmax|quant_map|nested_\w+|quant_state\.\S+)$")
_RELATIVE = re.compile(r"\.distance_embedding\.")
_ID_BUFFERS = re.compile(r"(^|\.)(position_ids|token_type_ids)$")

HEADS = (
    "ForSequenceClassification",
    "ForMultipleChoice",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForMaskedLM",
    "ForPreTraining",
    "Model",
)
"""How the stock classes end among which tensors decide, the first that fits."""


@dataclass(frozen=True)
class Tensors:
    """What the *.safetensors files of a folder say that they hold."""

    shapes: Mapping[str, tuple[int, ...]]
    """By the name in the file."""
    kinds: Mapping[str, str]
    """By the name in the file: `F32`, `F16`, `I8` ..."""
    files: Sequence[Path]

    @classmethod
    def of(cls, folder: Path, name: str) -> Tensors:
        """Return the tensors of a folder; raises CheckpointError for none, and damaged files."""
        files = _weight_files(folder, name)
        shapes: dict[str, tuple[int, ...]] = {}
        kinds: dict[str, str] = {}
        for path in files:
            try:
                with safe_open(path, framework="pt") as tensors:
                    for key in tensors.keys():  # noqa: SIM118 - not a mapping
                        part = tensors.get_slice(key)
                        shapes[key], kinds[key] = tuple(part.get_shape()), str(part.get_dtype())
            except (SafetensorError, OSError) as error:
                raise CheckpointError(f"model '{name}': {path.name} is damaged ({error})") from None
        return cls(shapes, kinds, files)

    @property
    def wrapped(self) -> bool:
        """Whether the names have the prefix of DataParallel or of torch.compile."""
        return any(_WRAPPERS.match(key) for key in self.shapes)

    def lack_pooler(self, cls: type) -> bool:
        """Return whether a headless class would make a pooler that the files do not have."""
        if not cls.__name__.endswith("Model") or any(_POOLER.search(key) for key in self.shapes):
            return False
        makers = (vars(each).get("__init__") for each in cls.__mro__)
        return any("add_pooling_layer" in signature(make).parameters for make in makers if make)

    def check_plain(self, name: str) -> None:
        """Raise ModelError for tensors that a model of floating point numbers does not have."""
        for key, kind in self.kinds.items():
            if _RELATIVE.search(key):
                raise UnsupportedFamily(f"model '{name}': {relative(key)}")
            number = kind in ("F64", "F32", "F16", "BF16") or _ID_BUFFERS.search(key)
            if _FEW_BITS.search(key) or not number:
                four = any("quant_state" in each or "quant_map" in each for each in self.kinds)
                bits = "4 bits by bitsandbytes" if four else "8 bits"
                raise ModelError(f"model '{name}': {few_bits(bits)} (tensor '{key}' is {kind})")

    def state(self) -> dict[str, torch.Tensor]:
        """Return all tensors, under the names that they have without a wrapper."""
        found: dict[str, torch.Tensor] = {}
        for path in self.files:
            with safe_open(path, framework="pt") as tensors:
                for key in tensors.keys():  # noqa: SIM118 - not a mapping
                    found[without_wrapper(key)] = tensors.get_tensor(key)
        return found


def _weight_files(folder: Path, name: str) -> list[Path]:
    """Return the files that transformers reads: one, or the parts that an index names."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"model '{name}': {weights_obstacle(folder)}")
    whole, parts = folder / "model.safetensors", list(folder.glob("model-*-of-*.safetensors"))
    if not whole.is_file() and not parts:
        raise CheckpointError(
            f"model '{name}': the weights are called {files[0].name}; rename it to "
            "model.safetensors, which is what transformers reads"
        )
    return [whole] if whole.is_file() else sorted(parts)


def without_wrapper(key: str) -> str:
    """Return a tensor's name without what DataParallel and torch.compile put before it."""
    return _WRAPPERS.sub("", key)


def model_class(
    config: Any, fields: Mapping[str, Any], tensors: Tensors, head: str | None, name: str
) -> Any:
    """Return the class to be loaded: the head asked for, the one declared, or what tensors tell.

    Where the config names no classes, their number is set from the tensors, in place. Raises
    ModelError for a class that transformers does not have and no tensors tell of, and for a model
    that comes with code of its own.
    """
    kind = str(config.model_type)
    family = family_of(config)
    own = kind.startswith(OWN)
    written = str((getattr(config, "architectures", None) or [""])[0]).removeprefix("Compressed")
    stock_name = f"{family.stock_prefix}{head}" if head else written
    if (
        not head
        and not own
        and not _fits(_stock(family, stock_name), config, fields, tensors, pooler=True)
    ):
        told = (f"{family.stock_prefix}{ending}" for ending in HEADS)
        fitting = next(
            (each for each in told if _fits(_stock(family, each), config, fields, tensors)), None
        )
        stock_name = fitting or stock_name or f"{family.stock_prefix}Model"
    stock = _stock(family, stock_name)
    if stock is None or not stock_name.startswith(family.stock_prefix):
        raise ModelError(f"model '{name}': transformers has no class {stock_name}")
    if not own:
        _check_own_code(fields, stock_name.removeprefix(family.stock_prefix), name)
    return compressed_class(stock) if own else stock


def holds_head(config: Any, fields: Mapping[str, Any], tensors: Tensors, head: str) -> bool:
    """Return whether the tensors are those of a stock class, but for what is harmless.

    `head`: the end of its name. The config stays as it is.
    """
    family = family_of(config)
    stock = _stock(family, f"{family.stock_prefix}{head}")
    return _fits(stock, copy.deepcopy(config), fields, tensors, pooler=True)


def _stock(family: Family, name: str) -> Any:
    """Return the stock class of a name, which may be of another family, or None for no class."""
    if name.startswith(family.stock_prefix):
        return family.stock_class(name.removeprefix(family.stock_prefix))
    return getattr(transformers, name, None)


def _check_own_code(fields: Mapping[str, Any], ending: str, name: str) -> None:
    """Raise ModelError where the config names code of its own for what would be loaded."""
    mapped = fields.get("auto_map")
    if not isinstance(mapped, dict):
        return
    auto = next((auto for auto, end in AUTO_CLASSES.items() if end == ending), f"Auto{ending}")
    found = [key for key in (auto, "AutoModel", "AutoConfig") if key in mapped]
    if found:
        raise ModelError(
            f"model '{name}': its config names code of its own ({found[0]}: "
            f"{mapped[found[0]]}), so it is another model than the stock class of that name; no "
            "code that comes with a model is run here. If it is the stock model after all, remove "
            "auto_map from config.json"
        )


def _fits(
    stock: Any,
    config: Any,
    fields: Mapping[str, Any],
    tensors: Tensors,
    pooler: bool = False,
) -> bool:
    """Return whether a stock class has the names of the tensors, but for what is harmless.

    `pooler`: whether one may be left over; it tells the head of a text from that of its tokens.
    """
    if stock is None or not issubclass(stock, transformers.PreTrainedModel):
        return False
    try:
        with torch.device("meta"):
            model = stock(config)
    except Exception:  # an impossible config: loading says in which way
        return False
    prefix = f"{model.base_model_prefix}."
    wanted = {_plain(key, prefix): tuple(t.shape) for key, t in model.state_dict().items()}
    there = {_plain(key, prefix): shape for key, shape in tensors.shapes.items()}
    tied = list(getattr(model, "_tied_weights_keys", None) or ())
    missing = (key for key in wanted.keys() - there.keys() if not _ID_BUFFERS.search(key))
    # A headless model is whole without a pooler: it is then made without.
    spared = [*tied, r"^pooler\."] if tensors.lack_pooler(stock) else tied
    if not all(_any(spared, key) for key in missing):
        return False
    if not all(_harmless(key, pooler) for key in there.keys() - wanted.keys()):
        return False
    _learn_width(config, fields, wanted, there)
    return True


def _plain(key: str, prefix: str) -> str:
    """Return a tensor's name as newer transformers spell it, without the base model's prefix."""
    bare = without_wrapper(key).removeprefix(prefix)
    return re.sub(r"\.gamma$", ".weight", re.sub(r"\.beta$", ".bias", bare))


def _harmless(key: str, pooler: bool) -> bool:
    return bool(LEFT_OVER.search(key)) and (pooler or not key.startswith("pooler."))


def _any(patterns: Iterable[str], key: str) -> bool:
    return any(re.search(pattern, key) for pattern in patterns)


def _learn_width(
    config: Any,
    fields: Mapping[str, Any],
    wanted: Mapping[str, tuple[int, ...]],
    there: Mapping[str, tuple[int, ...]],
) -> None:
    """Take the number of classes from the head's tensors, where the config does not tell it."""
    if fields.get("id2label") or "num_labels" in fields:
        return
    widths = set(_different_rows(wanted, there, int(config.num_labels)))
    if len(widths) == 1:
        config.num_labels = widths.pop()


def _different_rows(
    wanted: Mapping[str, tuple[int, ...]], there: Mapping[str, tuple[int, ...]], rows: int
) -> Iterator[int]:
    for key, shape in wanted.items():
        given = there.get(key)
        if given and shape and given[0] != shape[0] == rows and given[1:] == shape[1:]:
            yield given[0]
