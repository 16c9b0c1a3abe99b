"""Drop the tokens that the training texts never use, from the tokenizer and from the model.

The word table of a small or multilingual encoder is half of it or more, and a task uses a part of
its rows. The texts that are counted are cut as before and answered to the bit; other texts may meet
a token that is gone, which then comes as several shorter ones. Special tokens, single characters
and a `reserve` of the lowest ids stay. Abdaoui et al. 2020 (2010.05609) drop languages this way.

Costs one pass of the tokenizer over the texts and trains nothing. Not for a model that will read
other texts than those counted (another domain or language): give such texts as `corpus`, and they
count beside the training texts. The share of tokens that change is measured on the selection split;
where that repeats the training texts, as in SST-2 with its phrases, it says less than new text
would. Loads with plain transformers. No speed-up: a row that is never looked up costs no time, and
texts that change get longer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field
from torch import nn
from transformers import PreTrainedTokenizerBase

from bertcompress.deployment import Findings, Product
from bertcompress.engines.vocabulary import (
    Choice,
    changed_tokens,
    choose_tokens,
    trimmed_tokenizer,
    used_tokens,
)
from bertcompress.errors import DataError, NotFound
from bertcompress.heads.features import text_columns
from bertcompress.heads.pooling import Pooling
from bertcompress.method import Context, Leaves, Method
from bertcompress.shapes import Vocabulary, anatomy, apply_edit

if TYPE_CHECKING:
    from datasets import Dataset

    from bertcompress.data import TaskData
    from bertcompress.heads import Head

__all__ = ["TrimVocabulary", "trim_vocabulary"]

RESERVE = 1_000


def trim_vocabulary(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    size: int | None = None,
    reserve: int = RESERVE,
) -> PreTrainedTokenizerBase:
    """Drop unused tokens of the model, in place, and return the tokenizer that belongs to it now.

    Args:
        model: an encoder, with any head.
        tokenizer: its fast tokenizer, which is left as it is.
        texts: what the model will read, or texts like it.
        size: tokens kept at most, the most used first; left out, every token that the texts use
            stays, and they are answered as before, to the bit.
        reserve: tokens that stay besides, the lowest ids first.

    Raises:
        ModelError: The tokenizer is slow, or neither WordPiece, BPE nor Unigram.
        RecipeError: `size` is below the special tokens and single characters.
        ShapeError: Model and tokenizer do not belong together.
    """
    pooling: Pooling | None = Pooling.of(getattr(model, "config", None))
    counts = used_tokens(tokenizer, texts if pooling is None else _with_prompts(pooling, texts))
    return _trim(model, tokenizer, counts, size, reserve).tokenizer


@dataclass(frozen=True)
class _Trimmed:
    tokenizer: PreTrainedTokenizerBase
    choice: Choice


def _trim(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    counts: Mapping[int, int],
    size: int | None,
    reserve: int,
) -> _Trimmed:
    also = _bound_ids(model)
    choice = choose_tokens(tokenizer, counts, size=size, reserve=reserve, also=also)
    if choice.kept == list(range(len(tokenizer))):
        smaller = tokenizer
    else:
        smaller = trimmed_tokenizer(tokenizer, choice.kept)
    if len(choice.kept) != anatomy(model).config.vocab_size:
        apply_edit(model, Vocabulary(len(choice.kept), choice.kept))
    return _Trimmed(smaller, choice)


def _bound_ids(model: nn.Module) -> Sequence[int]:
    """Return the ids that a model's own code counts on."""
    view = anatomy(model)
    pad = view.config.pad_token_id
    if pad is None:
        return ()
    return range(pad + 1) if view.family.positions_after_padding else (pad,)


class TrimVocabulary(Method):
    """Drop the tokens that the training texts never use, tokenizer included.

    No control: nothing is ranked without a `size`, and the texts that were counted lose nothing.
    """

    key: ClassVar[str] = "trim_vocabulary"
    paper: ClassVar[str] = "Abdaoui et al. 2020, arXiv:2010.05609"
    leaves: ClassVar[Leaves] = "shape"

    size: int | None = Field(
        None,
        ge=1,
        description="Tokens kept at most, the most used first; null keeps every token in use",
    )
    reserve: int = Field(
        RESERVE,
        ge=0,
        description="Unused tokens that stay besides, the lowest ids first, within size",
    )
    corpus: str | None = Field(
        None,
        description="Text file, one text per line, whose tokens count beside the training texts'",
    )

    def check(self, model: nn.Module) -> None:
        """Raise NotFound for a corpus that is not there."""
        if self.corpus is not None and not Path(self.corpus).is_file():
            raise NotFound(f"trim_vocabulary: corpus '{self.corpus}': no such file")

    def check_tokenizer(self, model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raise ModelError for a tokenizer that cannot be trimmed, RecipeError for a small size."""
        choose_tokens(tokenizer, {}, size=self.size, reserve=self.reserve, also=_bound_ids(model))

    def files(self) -> tuple[Path, ...]:
        """Return the corpus."""
        return () if self.corpus is None else (Path(self.corpus),)

    def apply(self, product: Product, ctx: Context) -> Product:
        """Return the product with the smaller table and its tokenizer, and what changed."""
        head, pooling = ctx.data.task.head, ctx.data.task.pooling
        corpus = [] if self.corpus is None else _lines(Path(self.corpus))
        lines = corpus if pooling is None else _with_prompts(pooling, corpus)
        columns = text_columns(ctx.data.train)
        counts = used_tokens(product.tokenizer, chain(_read(head, ctx.data.train), lines))
        before = int(product.model.config.vocab_size)
        trimmed = _trim(product.model, product.tokenizer, counts, self.size, self.reserve)
        choice, tokenizer = trimmed.choice, trimmed.tokenizer
        texts = chain(_read(head, ctx.data.train), lines)
        seen = changed_tokens(product.tokenizer, tokenizer, texts)
        # Selection rows are trained on by nobody, and the validation rows belong to the report.
        held_out = _read(head, ctx.data.selection)
        unseen = changed_tokens(product.tokenizer, tokenizer, held_out)
        found: dict[str, Any] = {
            "tokens_before": before,
            "tokens_after": len(choice.kept),
            "special": choice.special,
            "characters": choice.characters,
            "used": choice.used,
            "reserve": choice.reserve,
            "changed_tokens_corpus": seen[0],
            "changed_tokens_unseen": unseen[0],
            "changed_texts_unseen": unseen[1],
        }
        notes = (
            f"{unseen[0]:.2%} of the tokens of the selection split's texts, which were not "
            "counted, come as several shorter ones now",
            *_cut_now(ctx.data, product.tokenizer, tokenizer),
        )
        count = len(columns) * len(ctx.data.train) + len(corpus)
        findings = Findings(samples=count, notes=notes, free=found)
        return Product(product.model, tokenizer, (), findings)


def _cut_now(
    data: TaskData, before: PreTrainedTokenizerBase, after: PreTrainedTokenizerBase
) -> list[str]:
    """Return a line where more texts of the selection split are cut than before: none was asked."""
    old, new = (data.lengths(each, "selection") for each in (before, after))
    if new.cut <= old.cut:
        return []
    return [
        f"texts get longer: {new.cut:,} of {new.rows:,} rows of the selection split are cut at "
        f"max_length {data.task.max_length}, {old.cut:,} before; the longest has {new.longest:,} "
        "tokens. A larger max_length of the task, up to the model's limit, keeps them whole"
    ]


def _read(head: Head, rows: Dataset) -> Iterator[str]:
    return chain.from_iterable(head.read(rows))


def _with_prompts(pooling: Pooling, texts: Sequence[str]) -> list[str]:
    """Return texts as an embedder tokenizes them, and each of its prompts alone."""
    prompts = [prompt for name in pooling.named_prompts for prompt in pooling.read([""], name)]
    return [*pooling.read(texts), *prompts]


def _lines(path: Path) -> list[str]:
    where = f"trim_vocabulary: corpus '{path}'"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8 text ({error})") from None
    except OSError as error:
        raise NotFound(f"{where}: cannot be read ({error.strerror})") from None
    texts = [line for line in lines if line.strip()]
    if not texts:
        raise DataError(f"{where}: no line with text")
    return texts
