"""`save` and `load`: the only code that writes or reads weights (safetensors, never pickle)."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bertcompress.deployment import Findings, Product, precision_name
from bertcompress.errors import (
    CheckpointError,
    ModelError,
    Notice,
    OutputError,
)
from bertcompress.heads import HEADS
from bertcompress.heads.pooling import FIELD, Pooling
from bertcompress.heads.stock import has_head
from bertcompress.models.config import OWN, read_config, read_fields, write_class_names
from bertcompress.models.locate import locate
from bertcompress.models.recognising import what_else
from bertcompress.models.sentence import stated_pooling, take_activation, write_sentence_files
from bertcompress.models.tensors import LEFT_OVER, Tensors, model_class
from bertcompress.models.tokenizers import load_tokenizer, position_limit, write_tokenizer
from bertcompress.shapes import (
    FAMILIES,
    ShapeError,
    anatomy,
    count_zeros,
    family_named,
    forget_zeros,
    hidden_size,
    lost_zeros,
    recorded_zeros,
    resume_record,
    stored_bits,
    working_form,
)
from bertcompress.shapes.stock import stock_obstacle, to_stock
from bertcompress.support.files import write_atomically

__all__ = [
    "class_of",
    "config_of",
    "is_bare",
    "load",
    "max_tokens",
    "precision_of",
    "rung",
    "save",
    "write_companions",
]

_NAMED = tuple({str(each.auto_class) for each in HEADS.values() if each.has_classes})
"""Ends of the names of stock classes whose outputs are classes."""


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
    return precision_name(stored_bits(model))


def save(
    model: PreTrainedModel,
    folder: str | Path,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    convert: bool = True,
) -> Path:
    """Write a model folder, whole or not at all, and return it.

    With `convert`, a shape that a stock class holds exactly is written as that class; without, an
    edited model keeps its working form. Raises OutputError where the folder cannot be written, and
    ModelError for a model that lost zeros that its record counts.
    """
    _check_zeros(model, "cannot be saved: it was trained without its mask", ModelError)
    final, target = to_stock(model) if convert else model, Path(folder).expanduser()
    with write_atomically(target) as partial:
        try:
            with working_form():  # decided above
                final.save_pretrained(partial)
        except SafetensorError as error:
            # The writer of safetensors reports a full disk in its own words.
            raise OutputError(f"{folder}: cannot be written ({error})") from None
        if tokenizer is not None:
            write_tokenizer(tokenizer, partial, _padding_side(final))
        write_companions(model, tokenizer, partial)
    return target


def write_companions(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, folder: Path
) -> None:
    """Write into a folder, in place, what a config that transformers wrote there leaves out.

    The names of classes, and how a sentence embedder pools, as sentence-transformers reads it.
    """
    if type(model).__name__.endswith(_NAMED):
        write_class_names(folder, model.config)
    pooling = Pooling.of(model.config)
    if pooling is not None and is_bare(type(model)):
        longest = None if tokenizer is None else max_tokens(model, tokenizer)
        write_sentence_files(folder, pooling, hidden_size(model.config), longest)


def _check_zeros(model: PreTrainedModel, what: str, error: type[ModelError]) -> None:
    if lost := lost_zeros(model):
        raise error(
            f"model {what}: '{lost[0]}' has fewer zeros than the {lost[1]:.1%} that were recorded"
        )


def _filled_zeros(model: PreTrainedModel, name: str) -> tuple[str, ...]:
    """Drop the record of a stock model that lost its zeros, and return the line on that.

    Plain transformers trains such a model without knowing of its record: it is a dense one then.
    """
    if str(model.config.model_type).startswith(OWN) or not lost_zeros(model):
        return ()
    words = (
        f"model '{name}': {recorded_zeros(model):,} of its weights were zero when it was written, "
        f"and {count_zeros(model):,} are now: it was trained without its mask, and counts as dense"
    )
    forget_zeros(model)
    warnings.warn(words, Notice, stacklevel=3)
    return (words,)


def _padding_side(model: PreTrainedModel) -> str | None:
    """Return the side that a model needs, whatever its tokenizer says: ALBERT counts from it."""
    return "right" if anatomy(model).family.shared else None


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
    and no code that came with a model is run. A stock class whose zeros are recorded keeps them in
    every training; where something else trained them away, that is said and it is a dense model.
    Raises UnsupportedFamily and ModelError for models that cannot be used.
    """
    folder = locate(str(name), revision=revision)
    cls, config, tensors = _planned(folder, str(name), head, config_fields or {})
    model = _strict(cls, folder, config, fresh_head, tensors)
    notes = _filled_zeros(model, str(name))
    resume_record(model)
    _check_zeros(model, f"'{name}' is not what its record says", CheckpointError)
    tokenizer = load_tokenizer(folder, str(name), config)
    if len(tokenizer) > config.vocab_size:
        raise ModelError(
            f"model '{name}': the tokenizer has {len(tokenizer)} tokens, the embedding table "
            f"{config.vocab_size}; they do not belong together"
        )
    model.train(False)
    _take_pooling(model, tokenizer, folder, str(name))
    if has_head(type(model), HEADS["single_label"]) and not fresh_head:
        take_activation(model.config, folder, str(name))
    return Product(model, tokenizer, findings=Findings(notes=notes))


def is_bare(cls: type) -> bool:
    """Return whether a model class is an encoder without a head."""
    return cls.__name__.endswith("Model")


def _take_pooling(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, name: str
) -> None:
    """Let an encoder, in place, carry how its folder pools; its texts are bounded as stated there.

    What a folder states goes before what a config kept. Where pooling cannot be carried over, none
    is kept: `pooling_of` says why.
    """
    kept = None
    if is_bare(type(model)):
        with contextlib.suppress(ModelError):
            kept = stated_pooling(model.config, folder, name)
    if hasattr(model.config, FIELD):
        delattr(model.config, FIELD)
    if kept is not None:
        kept.keep(model.config)
        if kept.max_length is not None:
            tokenizer.model_max_length = min(int(tokenizer.model_max_length), kept.max_length)


def class_of(name: str | Path, *, revision: str | None = None) -> type:
    """Return the class that `load` makes of a model, and read no weights; raises as `load` does."""
    folder = locate(str(name), revision=revision)
    return _planned(folder, str(name), None, {})[0]  # type: ignore[no-any-return]


def config_of(name: str | Path, *, revision: str | None = None) -> Any:
    """Return the config that `load` gives a model; where it is silent, its tensors tell the width.

    Reads no weights; raises as `load` does.
    """
    folder = locate(str(name), revision=revision)
    return _planned(folder, str(name), None, {})[1]


def _planned(
    folder: Path, name: str, head: str | None, config_fields: Mapping[str, Any]
) -> tuple[Any, Any, Tensors]:
    """Return class, config and tensors of a folder, from headers alone."""
    if words := what_else(folder):
        raise ModelError(f"model '{name}': {words}")
    fields = read_fields(folder, name)
    config = read_config(fields, folder, name)
    for key, value in config_fields.items():
        setattr(config, key, value)
    tensors = Tensors.of(folder, name)
    if not str(config.model_type).startswith(OWN):
        tensors.check_plain(name)
    return model_class(config, {**fields, **config_fields}, tensors, head, name), config, tensors


def max_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None = None) -> int:
    """Return the longest input in tokens: the smaller of the model's and the tokenizer's limits."""
    limit = position_limit(model.config)
    return limit if tokenizer is None else min(limit, int(tokenizer.model_max_length))


def _strict(
    cls: Any, folder: Path, config: Any, fresh_head: bool, tensors: Tensors
) -> PreTrainedModel:
    # Under other names only in memory: transformers takes either a folder or a state.
    given: dict[str, Any] = {"state_dict": tensors.state()} if tensors.wrapped else {}
    folder_or_none = None if given else folder
    if tensors.lack_pooler(cls):
        given["add_pooling_layer"] = False  # else it would be random
    try:
        model, info = cls.from_pretrained(
            folder_or_none,
            config=config,
            **given,
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
            and not (what == "unexpected_keys" and LEFT_OVER.search(key))
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


def _is_head(key: str, base: str, what: str) -> bool:
    """Return whether a tensor may be new: a head, or the pooler, which many checkpoints lack."""
    inside = key.removeprefix(base)
    if what == "unexpected_keys":
        return not any(family_named(name).is_encoder(inside) for name in FAMILIES)
    return not key.startswith(base) or inside.startswith("pooler")
