"""Trained tokenizers of three kinds, and texts of made-up words to train and cut with them."""

from __future__ import annotations

import json
import random
from typing import Any

import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

KINDS = ["wordpiece", "bpe", "unigram"]
KIND_OF = {
    "bert": "wordpiece",
    "distilbert": "wordpiece",
    "electra": "wordpiece",
    "roberta": "bpe",
    "albert": "unigram",
}
SPECIAL = {"pad": "<pad>", "unk": "<unk>", "cls": "<s>", "sep": "</s>", "mask": "<mask>"}
_SYLLABLES = [
    "ka",
    "lo",
    "mi",
    "tre",
    "sun",
    "ba",
    "ou",
    "né",
    "gri",
    "xo",
    "sha",
    "pel",
    "dun",
    "ri",
    "stor",
    "va",
]


def made_up_words(seed: int, count: int = 150) -> list[str]:
    draw = random.Random(seed)
    return ["".join(draw.choices(_SYLLABLES, k=draw.randint(1, 4))) for _ in range(count)]


def made_up_texts(seed: int, count: int = 60) -> list[str]:
    """Texts whose words, mostly, no other seed has."""
    words, draw = made_up_words(seed), random.Random(seed)
    return [" ".join(draw.choices(words, k=draw.randint(1, 9))) + ", 7!" for _ in range(count)]


CORPUS = made_up_texts(1)
UNSEEN = made_up_texts(2)


def _empty(kind: str) -> tuple[Tokenizer, Any]:
    special, size = list(SPECIAL.values()), 500
    common = {"special_tokens": special, "show_progress": False, "vocab_size": size}
    if kind == "wordpiece":
        inner = Tokenizer(models.WordPiece(unk_token=SPECIAL["unk"]))
        inner.normalizer = normalizers.BertNormalizer(lowercase=True)
        inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        return inner, trainers.WordPieceTrainer(**common)
    if kind == "bpe":
        inner = Tokenizer(models.BPE())
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        return inner, trainers.BpeTrainer(**common | {"vocab_size": 750}, initial_alphabet=alphabet)
    inner = Tokenizer(models.Unigram())
    inner.normalizer = normalizers.NFKC()
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    return inner, trainers.UnigramTrainer(**common, unk_token=SPECIAL["unk"])


def trained_tokenizer(kind: str, ahead: int = 40) -> PreTrainedTokenizerFast:
    """A tokenizer that knows the words of `CORPUS`, `UNSEEN` and more.

    `ahead` rare tokens come before the special ones, so that trimming renumbers these.
    """
    inner, trainer = _empty(kind)
    texts = [*CORPUS, *UNSEEN, *made_up_texts(3), "東京 ω"]
    inner.train_from_iterator(texts, trainer)
    inner = _reordered(inner, ahead)
    ends = [(SPECIAL[name], inner.token_to_id(SPECIAL[name])) for name in ("sep", "cls")]
    inner.post_processor = (
        processors.RobertaProcessing(*ends) if kind == "bpe" else processors.BertProcessing(*ends)
    )
    return wrapped(inner)


def _reordered(inner: Tokenizer, ahead: int) -> Tokenizer:
    state = json.loads(inner.to_str())
    model, special = state["model"], list(SPECIAL.values())
    unigram = isinstance(model["vocab"], list)
    scores = dict(model["vocab"])
    others = sorted((t for t in scores if t not in special), key=lambda t: (-len(t), t))
    names = [*others[:ahead], *special, *others[ahead:]]
    model["vocab"] = (
        [(t, scores[t]) for t in names] if unigram else dict(map(reversed, enumerate(names)))
    )
    if unigram:
        model["unk_id"] = names.index(SPECIAL["unk"])
    for token in state["added_tokens"]:
        token["id"] = names.index(token["content"])
    return Tokenizer.from_str(json.dumps(state))


def wrapped(inner: Tokenizer, **fields: Any) -> PreTrainedTokenizerFast:
    named = {f"{name}_token": token for name, token in SPECIAL.items()}
    given = {"model_max_length": 48, **named, **fields}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, **given)
