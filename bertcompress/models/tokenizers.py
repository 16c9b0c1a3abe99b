"""Tokenizers of models on disk: read with the model's limit, written as they came.

What a tokenizer pads and truncates by itself is part of it, but encoding a batch overwrites that:
it is kept aside when one is read, and written back. Files are written so that transformers 4.57
opens them too.
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from bertcompress.errors import ModelError, Notice
from bertcompress.models.config import config_beside
from bertcompress.models.recognising import read_json
from bertcompress.shapes import ShapeError, family_of
from bertcompress.support.reading import read_text

__all__ = [
    "check_vocabulary",
    "hand_on_settings",
    "load_tokenizer",
    "longest_text",
    "position_limit",
    "unknown_share",
    "write_tokenizer",
]

_VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")
"""Files of which a tokenizer needs one; without any, newer transformers invents an empty one."""

_FEW_KNOWN = 0.5
"""Share of unknown tokens from which vocabulary and texts do not belong together."""

_SHOWN = 500
_NO_TABLE = 1_000_000


@dataclass(frozen=True)
class _Settings:
    """What a tokenizer does by itself, as it came."""

    truncation: Any
    padding: Any
    padding_side: str


def position_limit(config: Any) -> int:
    """Return the longest input, in tokens, that a model's position table allows.

    Of a family that is not known here, what is safe whether or not it counts from behind padding.
    """
    try:
        limit = family_of(config).max_tokens(config)
    except ShapeError:
        return int(getattr(config, "max_position_embeddings", None) or _NO_TABLE) - 2
    return _NO_TABLE if limit is None else limit


def longest_text(folder: Path, name: str) -> int:
    """Return the longest text, in tokens, of what lies in a folder.

    The smaller of the model's and the tokenizer's limits. Raises ModelError without a config.
    """
    limit = position_limit(config_beside(folder, name))
    written = read_json(folder / "tokenizer_config.json")
    stated = written.get("model_max_length") if isinstance(written, dict) else None
    number = isinstance(stated, int | float) and not isinstance(stated, bool) and stated >= 1
    return int(min(limit, stated)) if number and stated else limit


def load_tokenizer(folder: Path, name: str, config: Any) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a model folder, its longest text bounded by the model's config.

    Texts are padded on the right whatever it states: all families here expect the first token of a
    text in the first place. Raises ModelError where there is none, or one of code of its own.
    """
    _check_files(folder, name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, config=_stock(config), trust_remote_code=False, use_fast=True
        )
    except Exception as error:  # the tokenizers package raises bare ones
        reason = " ".join(str(error).split())
        raise ModelError(f"model '{name}': no tokenizer that can be loaded ({reason})") from None
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        raise ModelError(f"model '{name}': the tokenizer knows special tokens alone, and no words")
    backend = getattr(tokenizer, "backend_tokenizer", None)
    own = read_json(folder / "tokenizer.json") if backend is not None else None
    given = own if isinstance(own, dict) else {}
    side = str(tokenizer.padding_side)
    found = _Settings(given.get("truncation"), given.get("padding"), side)
    tokenizer.settings_as_they_came = found
    tokenizer.padding_side = "right"
    tokenizer.model_max_length = min(int(tokenizer.model_max_length), position_limit(config))
    if side != "right":
        warnings.warn(
            f"a tokenizer that pads on the {side}, where these models expect the "
            "first token of a text; here texts are padded on the right. What is written keeps the "
            "setting: give padding_side='right' where texts are served in batches",
            Notice,
            stacklevel=3,
        )
    return tokenizer


def _stock(config: Any) -> Any:
    """Return a plain config of the family, for the class of the tokenizer.

    transformers would read config.json itself, which may be written in a way that it does not know.
    """
    try:
        cls = family_of(config).stock_class("Config")
    except ShapeError:
        return config
    return cls(tokenizer_class=getattr(config, "tokenizer_class", None))


def _check_files(folder: Path, name: str) -> None:
    if not any(any(folder.glob(pattern)) for pattern in _VOCABULARIES):
        raise ModelError(
            f"model '{name}': no tokenizer in the folder ({', '.join(_VOCABULARIES)}); save the "
            "one that the model was trained with beside it: tokenizer.save_pretrained(folder)"
        )
    written = read_json(folder / "tokenizer_config.json")
    mapped = written.get("auto_map") if isinstance(written, dict) else None
    if isinstance(mapped, dict) and "AutoTokenizer" in mapped:
        raise ModelError(
            f"model '{name}': no tokenizer that can be loaded: its config names code of its own "
            f"({mapped['AutoTokenizer']}), and no code that comes with a model is run here"
        )


def hand_on_settings(old: PreTrainedTokenizerBase, new: PreTrainedTokenizerBase) -> None:
    """Give a tokenizer that was made of another, in place, what that one did by itself."""
    found = getattr(old, "settings_as_they_came", None)
    if found is not None:
        new.settings_as_they_came = found


def write_tokenizer(
    tokenizer: PreTrainedTokenizerBase, folder: Path, padding_side: str | None = None
) -> None:
    """Write a tokenizer into a folder: as it came, and so that transformers 4.57 opens it too.

    `padding_side`: instead of the side that it came with.
    """
    tokenizer.save_pretrained(folder)
    _write_config(tokenizer, folder / "tokenizer_config.json", padding_side)
    found = getattr(tokenizer, "settings_as_they_came", None)
    path = folder / "tokenizer.json"
    if (found is None and padding_side is None) or not path.is_file():
        return
    state = json.loads(read_text(path))
    truncation = found.truncation if found else state.get("truncation")
    padding = copy.deepcopy(found.padding if found else state.get("padding"))
    if padding:
        # A trimmed vocabulary has another number for it.
        padding["pad_id"] = tokenizer.convert_tokens_to_ids(padding["pad_token"])
        if padding_side is not None:  # the library keeps the side that was last used
            padding["direction"] = padding_side.capitalize()
    if (state.get("truncation"), state.get("padding")) != (truncation, padding):
        state |= {"truncation": truncation, "padding": padding}
        path.write_text(json.dumps(state, ensure_ascii=False, indent=2), encoding="utf-8")


def _write_config(tokenizer: Any, path: Path, padding_side: str | None) -> None:
    fields = read_json(path)
    if not isinstance(fields, dict):
        return
    found = getattr(tokenizer, "settings_as_they_came", None)
    # Of where it was read, which says nothing to others.
    for place in ("is_local", "local_files_only", "name_or_path"):
        fields.pop(place, None)
    if fields.get("tokenizer_class") == "TokenizersBackend":
        fields["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(fields.get("extra_special_tokens"), list):
        fields["additional_special_tokens"] = fields.pop("extra_special_tokens")
    side = padding_side or (found.padding_side if found else tokenizer.padding_side)
    if "padding_side" in fields or side != "right":
        fields["padding_side"] = side
    if "truncation_side" in fields or tokenizer.truncation_side != "right":
        fields["truncation_side"] = tokenizer.truncation_side
    text = json.dumps(fields, ensure_ascii=False, indent=2, sort_keys=True)
    path.write_text(text + "\n", encoding="utf-8")


def unknown_share(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> float:
    """Return which share of the tokens of some texts stands for what is not in the vocabulary."""
    unknown = tokenizer.unk_token_id
    shown = [text for text in texts[:_SHOWN] if text.strip()]
    if unknown is None or not shown:
        return 0.0
    found = tokenizer(
        shown, add_special_tokens=False, truncation=True, max_length=512, padding=False
    )["input_ids"]
    total = sum(map(len, found))
    return float(sum(row.count(unknown) for row in found) / max(total, 1))


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], name: str) -> None:
    """Raise ModelError where a tokenizer knows too little of the texts to read them."""
    share = unknown_share(tokenizer, texts)
    if share > _FEW_KNOWN:
        raise ModelError(
            f"model '{name}': its tokenizer answers {tokenizer.unk_token} to {100 * share:.0f} % "
            "of the tokens of these texts; vocabulary and texts do not belong together (another "
            "language, or files of another model)"
        )
