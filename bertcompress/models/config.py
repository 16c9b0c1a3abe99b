"""A checkpoint's config, read as people write it.

`id2label` may be a list, strings, or only `label2id`. What is another model (another family,
weights of few bits, relative positions) is refused by name, with what to do.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import transformers

from bertcompress.errors import CheckpointError, ModelError, UnsupportedFamily, few, unknown
from bertcompress.models.config_fields import read_fields_of
from bertcompress.shapes import FAMILIES, compressed_config, family_named

__all__ = [
    "OWN",
    "class_names",
    "config_beside",
    "few_bits",
    "read_config",
    "read_fields",
    "relative",
    "write_class_names",
]

OWN = "bertcompress-"
"""What the `model_type` of an edited model begins with."""

_NO_NAME = re.compile(r"LABEL_\d+")


def read_fields(folder: Path, name: str) -> dict[str, Any]:
    """Return the plain content of config.json, its class names as transformers reads them.

    Raises ModelError where there is none, or it is no JSON object.
    """
    raw = read_fields_of(folder / "config.json", name)
    names = class_names(raw, name)
    fields = {key: value for key, value in raw.items() if key not in ("id2label", "label2id")}
    if names:
        fields["id2label"] = names
        fields["label2id"] = {each: i for i, each in names.items()}
        fields.pop("num_labels", None)
    return fields


def class_names(raw: Mapping[str, Any], name: str) -> dict[int, str]:
    """Return the classes by their numbers, from `id2label` or `label2id` as people write them.

    Empty where neither is there. Raises ModelError where they number no classes.
    """
    numbered = _numbered(raw.get("id2label"))
    turned = _numbered(raw.get("label2id"), numbers_first=False)
    # Written by a program that knew no names; those beside it are the true ones.
    if turned and (not numbered or all(map(_NO_NAME.fullmatch, numbered.values()))):
        numbered = turned if not numbered or set(turned) == set(numbered) else numbered
    if not numbered:
        if raw.get("id2label") or raw.get("label2id"):
            field = "id2label" if raw.get("id2label") else "label2id"
            raise ModelError(
                f"model '{name}': {field} of config.json ({raw[field]!r}) numbers no classes; "
                'write {"0": "first class", "1": "second class"}'
            )
        return {}
    if sorted(numbered) != list(range(len(numbered))):
        raise ModelError(
            f"model '{name}': the classes of config.json have the numbers "
            f"{few(map(str, sorted(numbered)))}; they must be 0 to {len(numbered) - 1}"
        )
    return {i: numbered[i] for i in sorted(numbered)}


def write_class_names(folder: Path, config: Any) -> None:
    """Write `id2label` and `label2id` of a config into the folder's config.json, in place.

    transformers leaves out LABEL_0 and LABEL_1, its default, which others that read the file
    cannot know.
    """
    file = folder / "config.json"
    fields = json.loads(file.read_text(encoding="utf-8"))
    names = [str(config.id2label[i]) for i in range(int(config.num_labels))]
    fields.setdefault("id2label", {str(i): name for i, name in enumerate(names)})
    fields.setdefault("label2id", {name: i for i, name in enumerate(names)})
    file.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _numbered(value: Any, *, numbers_first: bool = True) -> dict[int, str]:
    """Return number to name of a list, of a mapping either way round, or of one in a string.

    Classes may be named 0, 1 and 2: `numbers_first` says on which side the field has its numbers.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return {}
    if isinstance(value, list):
        return {i: str(each) for i, each in enumerate(value)}
    if not isinstance(value, dict):
        return {}
    ways = [list(value.items()), [(number, key) for key, number in value.items()]]
    for pairs in ways if numbers_first else reversed(ways):
        found = [(_number(number), str(label)) for number, label in pairs]
        if all(number is not None for number, _ in found):
            return {number: label for number, label in found if number is not None}
    return {}


def _number(value: Any) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    text = str(value).strip()
    return int(text) if text.isdecimal() else None


def read_config(fields: dict[str, Any], folder: Path, name: str) -> Any:
    """Return the config object of a family known here; raises for what is another model."""
    kind = str(fields.get("model_type"))
    family = kind.removeprefix(OWN)
    if family not in FAMILIES:
        raise UnsupportedFamily(_unsupported(kind, name))
    if fields.get("is_decoder") or fields.get("is_encoder_decoder"):
        raise ModelError(f"model '{name}': a decoder; only encoders can be compressed here")
    positions = str(fields.get("position_embedding_type") or "absolute")
    if positions != "absolute":
        raise UnsupportedFamily(f"model '{name}': {relative(positions)}")
    if kind == family:
        _check_quantized(fields, name)
    own = kind != family
    cls = compressed_config(family) if own else family_named(family).stock_class("Config")
    try:
        config = cls.from_dict(fields)
    except Exception as error:  # newer transformers check every type, each in its own way
        reason = " ".join(str(error).split())
        raise ModelError(f"model '{name}': config.json cannot be used ({reason})") from None
    config.name_or_path = str(folder)
    if own and not getattr(config, "bertcompress", None):
        raise CheckpointError(f"model '{name}': config.json lacks the record of its edits")
    return config


def config_beside(folder: Path, name: str) -> Any:
    """Return the config object that lies with a file of any runtime, of whatever family it is."""
    fields = read_fields(folder, name)
    if str(fields.get("model_type")).removeprefix(OWN) in FAMILIES:
        return read_config(fields, folder, name)
    try:
        return transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # each config class has its own complaints
        reason = " ".join(str(error).split())
        raise ModelError(f"model '{name}': config.json cannot be used ({reason})") from None


def _unsupported(kind: str, name: str) -> str:
    """Return the sentence for another family: a hint is for what is misspelt, not for a model."""
    if kind not in transformers.CONFIG_MAPPING:
        return unknown(f"model '{name}'", "model family", kind, FAMILIES)
    return (
        f"model '{name}': the model family '{kind}' is not supported; supported: "
        f"{', '.join(FAMILIES)}. Nothing here can cut, train or score it; an .onnx file of it, "
        "made with `optimum-cli export onnx`, can be timed with bench"
    )


def relative(positions: str) -> str:
    """Return the words for a model with relative positions; `positions` is what tells them."""
    return (
        f"relative positions ({positions}), which newer transformers leave out without a word: "
        "such a BERT is not supported; start from one with absolute positions"
    )


def _check_quantized(fields: Mapping[str, Any], name: str) -> None:
    written = fields.get("quantization_config")
    if not written:
        return
    entry = written if isinstance(written, dict) else {}
    method = str(entry.get("quant_method") or "bitsandbytes")
    bits = 4 if entry.get("load_in_4bit") or entry.get("bits") == 4 else 8
    raise ModelError(f"model '{name}': {few_bits(f'{bits} bits by {method}')}")


def few_bits(words: str) -> str:
    """Return the words for a model whose weights are of `words`: `8 bits by bitsandbytes`."""
    return (
        f"weights of {words}, which nothing here can read; start from the model in 16 or 32 bits "
        "that it was made of, or load it with transformers, model.dequantize(), and "
        "model.save_pretrained(folder)"
    )
