"""Odd words, and tokenizers of every kind that are made in a moment."""

from __future__ import annotations

from typing import Any, ClassVar

import transformers
from tests_support import VOCABULARY, WORDS

ODD = [
    *WORDS,
    "", " ", "\t", "\n", "\u200b", "\u200d", "\ufeff", "\u00ad", "\x07", "\u2028",
    "\u00a0", "\ufffd",
    "don't", "U.S.A.", "e-mail", "AT&T", "C++", "#hash", "@name", "50%", "3,14",
    "-", "--", "...", "?!",
    "(", ")", "``", "''", "$", "1234567890", "https://example.org/a?b=c", "a/b",
    "x_y", "[SEP]", "[CLS]",
    "</s>", "<s>", "<mask>", "##ing", "▁", "▁a", "Ġ", "New York", " leading",
    "trailing ", "two  blanks",
    "İstanbul", "Straße", "ΑΘΗΝΑ", "ﬁn", "é", "e\u0301", "ñandú", "Ǆ", "Ωmega",
    "北京", "東京タワー", "서울",
    "ไทย", "हिन्दी", "العربية", "עברית", "ქართული", "😀", "👩‍👩‍👧", "🇩🇪", "👍🏽", "☃",
    "𝔘𝔫𝔦", "𠮷野家",
    "\u202eright", "a\u200bb", "a\u00adb", "a\nb",
    "x" * 60, "supercalifragilistic",
    "Sleeps", "CAT", "catdog", "cat.", ".cat", "cat-dog", "cat's", "'cat'",
    "cat,dog", "one1", "1st", "ⅷ", "½",
]  # fmt: skip
"""Words as data sets of tags have them: empty, invisible, glued, foreign, like special tokens."""


def fast(inner: Any, **special: str) -> Any:
    names = special or {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]",
                        "sep_token": "[SEP]", "mask_token": "[MASK]"}  # fmt: skip
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, model_input_names=["input_ids", "attention_mask"], **names
    )


def wordpiece() -> Any:
    """As BERT's: control characters are dropped, letters stand alone where no word is known."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    words = [*VOCABULARY, *letters, *(f"##{c}" for c in letters), *"-'.,&@#%()/:?=_"]
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys(words))}
    inner = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer(lowercase=True)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return fast(inner)


def byte_bpe(prefix: bool = False) -> Any:
    """As RoBERTa's: a word is known by the blank before it."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator([" ".join(WORDS)] * 4, trainer)
    inner.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), add_prefix_space=prefix, trim_offsets=True
    )
    return fast(inner, unk_token="<unk>", pad_token="<pad>", cls_token="<s>", sep_token="</s>",
                mask_token="<mask>", bos_token="<s>", eos_token="</s>")  # fmt: skip


def unigram() -> Any:
    """As XLM-R's: a mark stands for the blank before a word."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    special = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    words = [(f"▁{word}", -2.0) for word in WORDS] + [("▁", -3.0)]
    letters = [(c, -8.0) for c in dict.fromkeys("abcdefghijklmnopqrstuvwxyz.,-'北京😀é")]
    inner = Tokenizer(models.Unigram([*special, *words, *letters], unk_id=3))
    inner.normalizer = normalizers.Sequence(
        [normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    inner.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )  # fmt: skip
    return fast(inner, unk_token="<unk>", pad_token="<pad>", cls_token="<s>", sep_token="</s>")


class Letters(transformers.PreTrainedTokenizer):
    """A tokenizer without Rust: letters, `e` at its end, and nothing of what cannot be printed."""

    model_input_names: ClassVar = ["input_ids", "token_type_ids", "attention_mask"]

    def __init__(self, **options: Any) -> None:
        options = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]",
                   "unk_token": "[UNK]", **options}  # fmt: skip
        self.known = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *map(chr, range(33, 127))]
        super().__init__(**options)

    @property
    def vocab_size(self) -> int:
        return len(self.known)

    def get_vocab(self) -> dict[str, int]:
        return {token: i for i, token in enumerate(self.known)}

    def _tokenize(self, text: str, **options: Any) -> list[str]:
        return [c for c in text if c.isprintable() and not c.isspace()]

    def _convert_token_to_id(self, token: str) -> int:
        return self.known.index(token) if token in self.known else 1

    def _convert_id_to_token(self, index: int) -> str:
        return self.known[index]

    def build_inputs_with_special_tokens(self, ids: Any, other: Any = None) -> Any:
        return [2, *ids, 3] if other is None else [2, *ids, 3, *other, 3]

    def create_token_type_ids_from_sequences(self, ids: Any, other: Any = None) -> Any:
        return [0] * (len(ids) + 2) + [1] * (0 if other is None else len(other) + 1)


TOKENIZERS = {
    "wordpiece": wordpiece,
    "byte_bpe": byte_bpe,
    "byte_bpe_prefixed": lambda: byte_bpe(prefix=True),
    "unigram": unigram,
    "slow": Letters,
}
