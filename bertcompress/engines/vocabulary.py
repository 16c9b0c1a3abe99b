"""Which tokens a corpus uses, which of them to keep, and the tokenizer without the others.

Nothing here changes the tokenizer that it is given. Why the corpus is cut as before, for what
`choose_tokens` keeps without a `size`:

- WordPiece takes the longest piece that is in the vocabulary, again and again. With fewer pieces,
  those that it took are still the longest. A word that ends as unknown took pieces before it
  failed; they count as used, so that it fails at the same place.
- BPE applies the earliest merge that is possible, again and again. Every merge that can build a
  kept token is kept, with the tokens on its way. At each step the merge that was applied is then
  among those that are possible, and these were all possible before: it is still the earliest.
- Unigram takes the path of the highest score. That path is still there, and no path is new: single
  characters stay, so nothing else becomes unknown, and the piece of the lowest score stays, which
  decides what an unknown character costs.

skeletoken 0.6 was tried for the renumbering of a tokenizer: of a Unigram model it loses the unknown
token, and the 30 lines that it would replace weigh less than a dependency.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from bertcompress.errors import ModelError, RecipeError
from bertcompress.models.tokenizers import hand_on_settings

__all__ = ["Choice", "changed_tokens", "choose_tokens", "trimmed_tokenizer", "used_tokens"]

_CHUNK = 2_000
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")


@dataclass(frozen=True)
class Choice:
    """The tokens that stay, and why."""

    kept: list[int]
    """Ids, rising: a token's new id is its place here."""
    special: int
    """Special and added tokens, and what the algorithm itself needs."""
    characters: int
    """Single characters and bytes, also as word pieces."""
    used: int
    """Tokens that the corpus uses, with those that they are merged from."""
    reserve: int
    """Others, the lowest ids first."""


def used_tokens(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> Counter[int]:
    """Return how often each token comes up in the texts, uncut and without special tokens.

    Raises ModelError for a tokenizer that cannot be trimmed.
    """
    model = _state(tokenizer)["model"]
    inner, unknown = _private(tokenizer), _unknown_id(model)
    counts: Counter[int] = Counter()
    for chunk in _chunks(texts):
        for text, ids in zip(chunk, _cut(inner, chunk), strict=True):
            counts.update(ids)
            if model["type"] == "WordPiece" and unknown in ids:
                counts.update(_before_failing(inner, model, text, unknown))
    return counts


def choose_tokens(
    tokenizer: PreTrainedTokenizerBase,
    counts: Mapping[int, int],
    *,
    size: int | None = None,
    reserve: int = 0,
    also: Iterable[int] = (),
) -> Choice:
    """Return which tokens to keep: those that must stay, those in use, and a reserve.

    Args:
        tokenizer: a fast one, with WordPiece, BPE or Unigram inside.
        counts: how often each token is used (`used_tokens`).
        size: tokens kept at most, the most used first; left out, all that are used.
        reserve: tokens kept besides, which the counts do not name: the lowest ids, which in most
            vocabularies are the most frequent ones. Pieces that no text can contain are passed by.
        also: further ids that must stay.

    Raises:
        ModelError: The tokenizer is not a fast one of these three kinds.
        RecipeError: `size` is below what must stay; the message says how many that is.
    """
    state = _state(tokenizer)
    model, ids = state["model"], _ids(state["model"])
    parts = _parts(model, ids)
    special = _closed(_special(tokenizer, state) | set(also), parts)
    kept = special | _closed({ids[token] for token in ids if _is_character(token, model)}, parts)
    least = len(kept)
    if size is not None and size < least:
        raise RecipeError(
            f"trim_vocabulary: size {size} is too small; special tokens and single characters "
            f"alone are {least} tokens"
        )
    limit = len(ids) + least if size is None else size
    ranked = sorted((i for i in counts if counts[i]), key=lambda i: (-counts[i], i))
    _fill(kept, ranked, parts, limit)
    used = len(kept) - least
    others = sorted(i for t, i in ids.items() if i not in kept and _can_occur(t, tokenizer, model))
    _fill(kept, others, parts, min(limit, len(kept) + reserve))
    return Choice(sorted(kept), len(special), least - len(special), used, len(kept) - least - used)


def trimmed_tokenizer(
    tokenizer: PreTrainedTokenizerBase, kept: Sequence[int]
) -> PreTrainedTokenizerBase:
    """Return a new tokenizer with these tokens alone, renumbered in their order.

    It is made as loading makes one, so that saving and loading change nothing more. Raises
    ModelError where an added token is not among them.
    """
    state = _state(tokenizer)
    new = {old: place for place, old in enumerate(sorted(kept))}
    missing = sorted(_special(tokenizer, state) - set(new))
    if missing:
        token = tokenizer.convert_ids_to_tokens(missing[0])
        raise ModelError(f"trimming a vocabulary: the token '{token}' ({missing[0]}) must stay")
    _renumber_model(state["model"], new)
    for token in state["added_tokens"]:
        token["id"] = new[token["id"]]
    _renumber_template(state.get("post_processor"), new)
    if state.get("padding"):
        state["padding"]["pad_id"] = new[state["padding"]["pad_id"]]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        # Without the files of slow tokenizers, which hold the whole vocabulary.
        tokenizer.save_pretrained(folder, legacy_format=False)
        # What 4.57 says of added tokens beside it is read by name: their numbers come from here.
        text = json.dumps(state, ensure_ascii=False)
        (folder / "tokenizer.json").write_text(text, encoding="utf-8")
        trimmed: PreTrainedTokenizerBase = type(tokenizer).from_pretrained(
            folder,
            model_max_length=tokenizer.model_max_length,
            # Saving forgets a side that was set later.
            padding_side=tokenizer.padding_side,
            truncation_side=tokenizer.truncation_side,
        )
    trimmed.name_or_path = tokenizer.name_or_path
    trimmed.init_kwargs["name_or_path"] = tokenizer.name_or_path
    hand_on_settings(tokenizer, trimmed)
    return trimmed


def changed_tokens(
    before: PreTrainedTokenizerBase, after: PreTrainedTokenizerBase, texts: Iterable[str]
) -> tuple[float, float]:
    """Return the share of tokens that `after` no longer makes, and of texts that have any (0-1)."""
    total = lost = changed = count = 0
    one, two = _private(before), _private(after)
    for chunk in _chunks(texts):
        count += len(chunk)
        for old, new in zip(_cut(one, chunk), _cut(two, chunk), strict=True):
            gone = Counter(map(one.id_to_token, old)) - Counter(map(two.id_to_token, new))
            total += len(old)
            lost += gone.total()
            changed += bool(gone)
    return lost / max(total, 1), changed / max(count, 1)


def _state(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Return what the `tokenizers` package would write, as plain data."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ModelError(
            f"trimming a vocabulary: {type(tokenizer).__name__} is a slow tokenizer; load the fast "
            "one (AutoTokenizer with use_fast=True)"
        )
    state: dict[str, Any] = json.loads(backend.to_str())
    kind = state["model"].get("type")
    if kind not in ("WordPiece", "BPE", "Unigram"):
        raise ModelError(
            f"trimming a vocabulary: the tokenizer is a {kind}; WordPiece, BPE and Unigram can be "
            "trimmed"
        )
    return state


def _private(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """Return a copy of what cuts the texts, which neither pads nor truncates."""
    given: Tokenizer = tokenizer.backend_tokenizer
    inner = Tokenizer.from_str(given.to_str())
    inner.encode_special_tokens = given.encode_special_tokens
    inner.no_padding()
    inner.no_truncation()
    return inner


def _chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    """Yield texts in lists of a bounded length: a corpus may be larger than memory."""
    rest = iter(texts)
    while chunk := list(islice(rest, _CHUNK)):
        yield chunk


def _cut(inner: Tokenizer, texts: list[str]) -> list[list[int]]:
    """Return the tokens of each text, special ones not added."""
    return [each.ids for each in inner.encode_batch_fast(texts, add_special_tokens=False)]


def _before_failing(
    inner: Tokenizer, model: Mapping[str, Any], text: str, unknown: int | None
) -> Iterator[int]:
    """Yield the pieces that unknown words of a text begin with, as WordPiece takes them."""
    found = inner.encode(text, add_special_tokens=False)
    for token, (first, last) in zip(found.ids, found.offsets, strict=True):
        if token == unknown:
            word = text[first:last]
            if inner.normalizer is not None:
                word = inner.normalizer.normalize_str(word)
            yield from _greedy(word, model)


def _greedy(word: str, model: Mapping[str, Any]) -> Iterator[int]:
    vocabulary, prefix = model["vocab"], model["continuing_subword_prefix"]
    start = 0
    while start < len(word):
        mark = prefix if start else ""
        ends = range(len(word), start, -1)
        end = next((e for e in ends if mark + word[start:e] in vocabulary), None)
        if end is None:
            return
        yield vocabulary[mark + word[start:end]]
        start = end


def _ids(model: Mapping[str, Any]) -> dict[str, int]:
    """Return the ids of the model's own tokens: without those that were only added."""
    if model["type"] == "Unigram":
        return {piece: i for i, (piece, _) in enumerate(model["vocab"])}
    return dict(model["vocab"])


def _unknown_id(model: Mapping[str, Any]) -> int | None:
    if model["type"] == "Unigram":
        return model["unk_id"]  # type: ignore[no-any-return]
    return model["vocab"].get(model["unk_token"])  # type: ignore[no-any-return]


def _special(tokenizer: PreTrainedTokenizerBase, state: Mapping[str, Any]) -> set[int]:
    model = state["model"]
    needed = {token["id"] for token in state["added_tokens"]} | set(tokenizer.all_special_ids)
    unknown = _unknown_id(model)
    if unknown is not None:
        needed.add(unknown)
    if model["type"] == "Unigram":
        needed.add(min(range(len(model["vocab"])), key=lambda i: model["vocab"][i][1]))
    return needed


def _is_character(token: str, model: Mapping[str, Any]) -> bool:
    """Return whether a token is one character (of the byte alphabet, where that is used)."""
    bare = token.removeprefix(model.get("continuing_subword_prefix") or "")
    bare = bare.removesuffix(model.get("end_of_word_suffix") or "")
    return len(bare) == 1 or bool(_BYTE.fullmatch(token))


def _can_occur(token: str, tokenizer: PreTrainedTokenizerBase, model: Mapping[str, Any]) -> bool:
    """Return False for a placeholder such as `[unused7]`, which is cut up before WordPiece."""
    before: Any = tokenizer.backend_tokenizer.pre_tokenizer
    if model["type"] != "WordPiece" or before is None:
        return True
    bare = token.removeprefix(model["continuing_subword_prefix"])
    return len(before.pre_tokenize_str(bare)) == 1


def _merges(model: Mapping[str, Any]) -> Iterator[tuple[Any, str, str, str]]:
    """Yield each merge as it is written, its two tokens, and the token that it builds."""
    prefix = model.get("continuing_subword_prefix") or ""
    for merge in model["merges"]:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        yield merge, left, right, left + right.removeprefix(prefix)


def _parts(model: Mapping[str, Any], ids: Mapping[str, int]) -> dict[int, set[int]]:
    """Return for each token the tokens that it can be merged from: none but for BPE."""
    parts: dict[int, set[int]] = {}
    if model["type"] == "BPE":
        for _, left, right, built in _merges(model):
            parts.setdefault(ids[built], set()).update((ids[left], ids[right]))
    return parts


def _closed(tokens: set[int], parts: Mapping[int, set[int]]) -> set[int]:
    """Return the tokens with all that they are merged from."""
    found, open_ = set(tokens), list(tokens)
    while open_:
        new = parts.get(open_.pop(), set()) - found
        found |= new
        open_ += new
    return found


def _fill(kept: set[int], ranked: Iterable[int], parts: Mapping[int, set[int]], limit: int) -> None:
    """Add tokens in this order, in place, each with its parts, while they fit."""
    for token in ranked:
        if len(kept) >= limit:
            return
        new = _closed({token}, parts) - kept
        if len(kept) + len(new) <= limit:
            kept |= new


def _renumber_model(model: dict[str, Any], new: Mapping[int, int]) -> None:
    if model["type"] == "Unigram":
        model["vocab"] = [entry for i, entry in enumerate(model["vocab"]) if i in new]
        model["unk_id"] = new.get(model["unk_id"])
        return
    model["vocab"] = {token: new[i] for token, i in model["vocab"].items() if i in new}
    if model["type"] == "BPE":
        model["merges"] = [
            merge
            for merge, *tokens in _merges(model)
            if all(token in model["vocab"] for token in tokens)
        ]


def _renumber_template(processor: dict[str, Any] | None, new: Mapping[int, int]) -> None:
    """Renumber what a post-processor puts around texts, in place."""
    if processor is None:
        return
    for inner in processor.get("processors", ()):
        _renumber_template(inner, new)
    for token in (processor.get("special_tokens") or {}).values():
        token["ids"] = [new[i] for i in token["ids"]]
    for name in ("sep", "cls"):
        if name in processor:
            processor[name][1] = new[processor[name][1]]
