"""Texts made by replacing words: where words are, what may stand in their place, how often."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import Dataset
from tests_support import FAMILIES, VOCABULARY, WORDS, tiny_model, tiny_tokenizer
from tokenizers import decoders
from words_support import ODD, Letters, byte_bpe, fast, unigram, wordpiece

import bertcompress as bc
from bertcompress.data.transfer import Augmentation
from bertcompress.deployment import Product
from bertcompress.engines.distillation import candidates
from bertcompress.engines.distillation.augmentation import WordReplacer, made_texts
from bertcompress.engines.distillation.candidates import MaskedWords, Neighbours
from bertcompress.engines.distillation.whole_words import WholeWords, cut_texts
from bertcompress.errors import ModelError
from bertcompress.models.masked_lm import has_masked_lm, load_masked_lm

PLAIN = [word for word in WORDS if word != "."]
TEXTS = [
    "The cat sleeps,  and the red dog\truns very fast (never a bird).",
    "  not 42 old houses: the BIRD likes\nthe tree!  ",
    "",
    "catdog sees a new-old cat",
]


def as_shipped(kind):
    """A tokenizer with its decoder, as the files of the Hub have one."""
    tokenizer = {"wordpiece": wordpiece, "byte_bpe": spaced_bpe, "unigram": unigram}[kind]()
    made = {"wordpiece": decoders.WordPiece, "byte_bpe": decoders.ByteLevel,
            "unigram": decoders.Metaspace}[kind]()  # fmt: skip
    tokenizer.backend_tokenizer.decoder = made
    return tokenizer


def spaced_bpe():
    """As RoBERTa's, and it has seen words behind no blank too."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [" ".join(["", *WORDS])] * 4 + ["cat", "(cat", "the", "bird"] * 4
    inner.train_from_iterator(texts, trainer)
    inner.post_processor = byte_bpe().backend_tokenizer.post_processor
    return fast(inner, unk_token="<unk>", pad_token="<pad>", cls_token="<s>", sep_token="</s>",
                mask_token="<mask>")  # fmt: skip


@pytest.fixture(scope="module", params=["wordpiece", "byte_bpe", "unigram"])
def tokenizer(request):
    return as_shipped(request.param)


def model_for(tokenizer, head="Model", family="bert", **fields):
    pad = tokenizer.pad_token_id
    return tiny_model(family, head, vocab_size=len(tokenizer), pad_token_id=pad, **fields)


# Words of texts. ---------------------------------------------------------------------------------


def test_words_are_letters_between_blanks_and_punctuation(tokenizer):
    cut = cut_texts(TEXTS, tokenizer)
    first = ["The", "cat", "sleeps", "and", "the", "red", "dog", "runs", "very", "fast", "never",
             "a", "bird"]  # fmt: skip
    assert [word.written for word in cut[0].words] == first
    second = ["not", "old", "houses", "the", "BIRD", "likes", "the", "tree"]
    assert [word.written for word in cut[1].words] == second
    assert cut[2].words == ()
    for number, text in enumerate(cut):
        for word in text.words:
            assert word.text == number
            assert TEXTS[number][word.start : word.end] == word.written


def test_words_of_odd_texts(tokenizer):
    """None holds a blank, a digit or a sign; they stand in order and in no other's place."""
    texts = [*ODD, " ".join(ODD)]
    found = 0
    for text, cut in zip(texts, cut_texts(texts, tokenizer), strict=True):
        at = 0
        for word in cut.words:
            assert at <= word.start < word.end and word.written == text[word.start : word.end]
            assert not re.search(r"[\s\d_@#&+/$%.,!?()]", word.written)
            at, found = word.end, found + 1
    assert found > 2 * len(PLAIN)


def test_special_tokens_in_a_text_are_no_words():
    (cut,) = cut_texts(["the [SEP] cat"], wordpiece())
    assert [word.written for word in cut.words] == ["the", "cat"]


@pytest.mark.parametrize(
    "text",
    ["I don't know", "the cat\u2019s house", "we'll see", "the U.S.A. know", "AT&T see",
     "see https://example.org/a", "I e.g. know: a@b.org"],
)  # fmt: skip
def test_a_part_of_something_longer_is_no_word(text):
    for word in cut_texts([text], wordpiece())[0].words:
        assert word.written in ("I", "know", "the", "house", "see")


def test_a_clause_in_a_script_without_blanks_is_no_word(tokenizer):
    cuts = cut_texts(["cat 東京タワー dog", "ภาษาไทย bird", "서울 cat"], tokenizer)
    for cut in cuts:
        assert all(word.token is not None for word in cut.words if not word.written.isascii()
                   and word.written != "서울")  # fmt: skip
    assert [w.written for w in cuts[0].words if w.written.isascii()] == ["cat", "dog"]
    assert cuts[2].words[0].written == "서울", "Korean has blanks"
    characters = cut_texts(["東京"], tiny_tokenizer("東", "京"))[0].words
    assert [(word.written, word.token) for word in characters] == [("東", 1), ("京", 2)]


def test_a_word_of_one_token_says_which(tokenizer):
    for text, cut in zip(TEXTS, cut_texts(TEXTS, tokenizer), strict=True):
        offsets = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
        assert len(offsets) == len(cut.ids)
        for word in cut.words:
            cover = [i for i, (a, b) in enumerate(offsets) if a < word.end and b > word.start]
            assert word.token == (cover[0] if len(cover) == 1 else None)
            assert cut.before <= cover[0] and cover[-1] < len(cut.ids) - cut.after
    (last,) = cut_texts(["catdog"], tokenizer)[0].words
    assert last.token is None


def test_a_slow_tokenizer_is_refused():
    with pytest.raises(ModelError, match="Letters is a slow tokenizer"):
        cut_texts(["the cat"], Letters())


# Whole words of vocabularies. --------------------------------------------------------------------


def test_whole_words_of_a_vocabulary(tokenizer):
    known = WholeWords.of(tokenizer)
    assert set(PLAIN) <= set(known.written)
    assert not any(re.search(r"[\W\d_]", word) for word in known.written)
    for word, i in zip(known.written, known.ids.tolist(), strict=True):
        assert tokenizer(f" {word}", add_special_tokens=False)["input_ids"] == [i]
    marks = {"##", "[", "<"}
    tokens = tokenizer.convert_ids_to_tokens(known.ids.tolist())
    assert not any(token.startswith(tuple(marks)) for token in tokens)


def test_what_follows_no_blank_has_a_token_of_its_own():
    tokenizer = as_shipped("byte_bpe")
    known = WholeWords.of(tokenizer)
    cat, red = known.written.index("cat"), known.written.index("red")
    assert tokenizer.convert_ids_to_tokens(int(known.ids[cat])) == "Ġcat"
    assert tokenizer.convert_ids_to_tokens(int(known.glued[cat])) == "cat"
    assert known.glued[red] == -1, "only ever seen behind a blank"
    plain = WholeWords.of(wordpiece())
    assert plain.glued.tolist() == plain.ids.tolist()


@pytest.mark.parametrize(
    ("word", "found"), [("cat", "dog"), ("Cat", "Dog"), ("CAT", "DOG"), ("A", "Dog")]
)
def test_without_cases_a_word_takes_that_of_the_one_it_replaces(word, found):
    known = WholeWords.of(tiny_tokenizer())
    assert not known.cased
    assert known.instead_of(word, known.written.index("dog")) == found


def test_a_vocabulary_with_cases_is_written_as_it_is():
    tokenizer = as_shipped("byte_bpe")
    known = WholeWords.of(tokenizer)
    assert known.cased and known.instead_of("Cat", known.written.index("dog")) == "dog"


# Neighbours in a word table. ---------------------------------------------------------------------


def brute_force(model, tokenizer, word, count):
    """The nearest whole words, by all cosines at once."""
    table = model.get_input_embeddings().weight.detach().double().numpy()
    known = WholeWords.of(tokenizer)
    pieces = tokenizer(f" {word}", add_special_tokens=False)["input_ids"]
    mean = table[pieces].mean(axis=0)
    rows = table[known.ids]
    cosines = rows @ mean / np.linalg.norm(rows, axis=1) / np.linalg.norm(mean)
    order = [i for i in np.argsort(-cosines) if known.written[i].lower() != word.lower()]
    return [known.written[i] for i in order[:count]]


@pytest.mark.parametrize("numbers", [2**24, 1], ids=["one-block", "a-block-a-word"])
def test_neighbours_are_those_of_brute_force(numbers, tokenizer, monkeypatch):
    monkeypatch.setattr(candidates, "_SCORES", numbers)
    model = model_for(tokenizer)
    words = [*PLAIN, "catdog", "housetree"]
    found = Neighbours(model, tokenizer, 5)(words)
    for word, near in zip(words, found, strict=True):
        assert near == brute_force(model, tokenizer, word, 5), word


def test_neighbours_in_a_table_that_was_factorised():
    tokenizer = tiny_tokenizer()
    model = bc.factorize_embedding(model_for(tokenizer), size=4)
    near = Neighbours(model, tokenizer, 3)(["cat"])[0]
    rows = model.get_input_embeddings()(torch.arange(len(tokenizer))).detach().numpy()
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = unit @ unit[VOCABULARY.index("cat")]
    order = [VOCABULARY[i] for i in np.argsort(-cosines) if VOCABULARY[i] in PLAIN]
    assert near == [word for word in order if word != "cat"][:3]


def test_a_word_that_nothing_is_known_of_stays():
    near = Neighbours(model_for(tiny_tokenizer()), tiny_tokenizer(), 5)
    assert near(["zzz", "cat", "zzz"])[0] == near(["zzz"])[0] == []
    assert len(near(["cat"])[0]) == 5
    assert len(Neighbours(model_for(tiny_tokenizer()), tiny_tokenizer(), 999)(["cat"])[0]) == 22


# A masked-LM head. -------------------------------------------------------------------------------


def filled(model, tokenizer, cut, word, count):
    """A plain loop: this word masked in its text, all logits of the place, whole words ranked."""
    ids = torch.tensor([cut.ids])
    original = int(ids[0, word.token])
    ids[0, word.token] = tokenizer.mask_token_id
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, word.token]
    known = WholeWords.of(tokenizer)
    column = known.ids if original in set(known.ids.tolist()) else known.glued
    allowed = [(float(logits[i]), w) for i, w in zip(column.tolist(), known.written, strict=True)
               if i >= 0 and w.lower() != word.written.lower()]  # fmt: skip
    return [w.lower() for _, w in sorted(allowed, reverse=True)[:count]]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_likeliest_words_are_those_of_a_plain_fill_mask(family, tmp_path):
    tokenizer = as_shipped("byte_bpe" if family == "roberta" else "wordpiece")
    model = model_for(tokenizer, "ForMaskedLM", family)
    bc.save(model, tmp_path / "m", tokenizer)
    product = load_masked_lm(str(tmp_path / "m"))
    texts = ["the cat sleeps, and a red dog runs", "cat sees (bird)", "very old house"]
    cut = cut_texts(texts, product.tokenizer)
    words = [word for text in cut for word in text.words if word.token is not None]
    assert len(words) > 8
    found = MaskedWords(product, 4)(cut, words)
    for word, likely in zip(words, found, strict=True):
        want = filled(product.model, product.tokenizer, cut[word.text], word, 4)
        assert [w.lower() for w in likely] == want, word


def test_of_a_long_text_the_model_reads_what_is_around_the_place():
    tokenizer = tiny_tokenizer()
    product = Product(model_for(tokenizer, "ForMaskedLM"), tokenizer)  # 40 tokens
    masked = MaskedWords(product, 3)
    text = cut_texts([" ".join(PLAIN * 4)], tokenizer)[0]
    assert len(text.ids) > 80
    for word in text.words:
        ids, place = masked._hidden(text, word.token)
        assert len(ids) == 40 and ids.count(tokenizer.mask_token_id) == 1
        assert ids[place] == tokenizer.mask_token_id
        assert (ids[0], ids[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
        inner = list(text.ids)
        inner[word.token] = tokenizer.mask_token_id
        joined = " ".join(map(str, inner[1:-1]))
        assert f" {' '.join(map(str, ids[1:-1]))} " in f" {joined} "
    answers = masked([text], text.words)
    assert all(len(each) == 3 for each in answers)


@pytest.mark.parametrize(
    ("family", "head", "there"),
    [
        ("bert", "ForMaskedLM", True),
        ("bert", "ForPreTraining", True),
        ("bert", "ForSequenceClassification", False),
        ("bert", "Model", False),
        ("roberta", "ForMaskedLM", True),
        ("distilbert", "ForMaskedLM", True),
        ("albert", "ForMaskedLM", True),
        ("electra", "ForMaskedLM", True),
        ("electra", "ForPreTraining", False),
    ],
)
def test_whether_a_checkpoint_has_a_trained_head(family, head, there, tmp_path):
    model = tiny_model(family, head)
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    assert has_masked_lm(str(tmp_path)) is there
    product = load_masked_lm(str(tmp_path))
    assert (product is not None) is there
    if product is not None:
        assert type(product.model).__name__.endswith("ForMaskedLM")
        batch = {"input_ids": torch.arange(5, 12)[None]}
        ours, theirs = (m(**batch)[0] for m in (product.model, model.eval()))
        if head == "ForMaskedLM":
            torch.testing.assert_close(ours, theirs)


def test_a_tokenizer_without_a_mask_leaves_it_to_the_table(tmp_path):
    tokenizer = tiny_tokenizer()
    tiny_model("bert", "ForMaskedLM").save_pretrained(tmp_path)
    tokenizer.mask_token = None
    tokenizer.save_pretrained(tmp_path)
    assert load_masked_lm(str(tmp_path)) is None


# Texts. ------------------------------------------------------------------------------------------


def replacer(tokenizer, head=False, count=5):
    model = model_for(tokenizer)
    masked = None
    if head:
        product = Product(model_for(tokenizer, "ForMaskedLM"), tokenizer)
        masked = MaskedWords(product, count)
    return WordReplacer(Neighbours(model, tokenizer, count), masked)


def rows_of(texts, **columns):
    return Dataset.from_dict({"row_id": list(range(len(texts))), "text": texts, **columns})


@pytest.mark.parametrize("head", [False, True], ids=["table", "head"])
@pytest.mark.parametrize("probability", [0.15, 0.4, 1.0])
def test_the_share_of_replaced_words(head, probability):
    """Within five standard deviations of a binomial; a replaced word is another one."""
    draw = np.random.default_rng(0)
    texts = [" ".join(draw.choice(PLAIN, 12)) for _ in range(60)]
    asked = Augmentation(copies=4, probability=probability, candidates=5)
    made = made_texts(rows_of(texts), asked, replacer(tiny_tokenizer(), head), seed=1)
    assert len(made.texts) == 240 and made.seen == 240 * 12
    changed = sum(
        old != new
        for row, (text,) in enumerate(made.texts)
        for old, new in zip(texts[row // 4].split(), text.split(), strict=True)
    )
    spread = (made.seen * probability * (1 - probability)) ** 0.5
    assert abs(changed - probability * made.seen) <= 5 * spread
    assert changed == sum(made.replaced.values())
    assert len(made.replaced) == 1 and ("head" in next(iter(made.replaced))) is head


def test_each_candidate_comes_as_often():
    """Uniformly, as algorithm 1 draws it: chi-squared of ten below its 0.999 quantile."""
    asked = Augmentation(copies=100, probability=1, candidates=10)
    made = made_texts(rows_of(["cat"] * 10), asked, replacer(tiny_tokenizer(), count=10))
    words, counts = np.unique([text for (text,) in made.texts], return_counts=True)
    assert len(words) == 10 and ((counts - 100) ** 2 / 100).sum() < 27.9


@pytest.mark.parametrize("head", [False, True], ids=["table", "head"])
def test_all_but_the_replaced_words_stays_as_it_was(head, tokenizer):
    if head and tokenizer.mask_token is None:
        tokenizer = as_shipped("byte_bpe")
    asked = Augmentation(copies=6, probability=0.5, candidates=4)
    by = replacer(tokenizer, head, 4)
    made = made_texts(rows_of(TEXTS), asked, by)
    known, changed = {word.lower() for word in by.near.known.written}, 0
    for number, (text,) in enumerate(made.texts):
        cut = cut_texts([TEXTS[number // 6]], by.tokenizer)[0]
        pattern, at = "", 0
        for word in cut.words:
            pattern += re.escape(TEXTS[number // 6][at : word.start]) + r"([^\W\d_]+(?:-\w+)?)"
            at = word.end
        matched = re.fullmatch(pattern + re.escape(TEXTS[number // 6][at:]), text)
        assert matched, (TEXTS[number // 6], text)
        for word, new in zip(cut.words, matched.groups(), strict=True):
            assert new == word.written or new.lower() in known
            changed += new != word.written
    assert changed == sum(made.replaced.values()) > 50
    unknown = tokenizer.unk_token_id
    before, after = (
        sum(row.count(unknown) for row in tokenizer(texts)["input_ids"])
        for texts in (TEXTS * 6, [text for (text,) in made.texts])
    )
    assert after <= before


def test_the_same_seed_makes_the_same_texts():
    asked = Augmentation(copies=3)
    rows = rows_of([" ".join(PLAIN[i:]) for i in range(8)])
    one, again, other = (made_texts(rows, asked, replacer(tiny_tokenizer()), seed=seed).texts
                         for seed in (5, 5, 6))  # fmt: skip
    assert one == again != other


def test_of_pairs_both_texts_are_replaced():
    rows = rows_of(["the cat sleeps"] * 9, text_pair=["a red dog runs", ""] * 4 + ["old tree"])
    made = made_texts(rows, Augmentation(copies=2, probability=1), replacer(tiny_tokenizer()))
    assert len(made.texts) == 18
    for number, (first, second) in enumerate(made.texts):
        old = rows[number // 2]
        for new, words in ((first, old["text"].split()), (second, old["text_pair"].split())):
            assert len(new.split()) == len(words)
            assert all(a != b for a, b in zip(new.split(), words, strict=True))


def test_lists_of_words_stay_lists_of_as_many():
    lists = [["The", "New York", "cat", "", "sleeps", "."], ["U.S.A.", "cat-dog", "42", "runs"]]
    rows = rows_of([" ".join(words) for words in lists], words=lists)
    made = made_texts(rows, Augmentation(copies=5, probability=1), replacer(wordpiece()))
    for number, (words, (text,)) in enumerate(zip(made.words, made.texts, strict=True)):
        old = lists[number // 5]
        assert len(words) == len(old) and " ".join(words) == text
        assert [a.count(" ") for a in words] == [a.count(" ") for a in old]
        kept = {"", ".", "U.S.A.", "42"}
        assert all((a == b) is (b in kept) for a, b in zip(words, old, strict=True))


def test_what_no_word_can_replace_stays_and_is_not_counted():
    near = Neighbours(model_for(tiny_tokenizer()), tiny_tokenizer(), 5)
    none = WordReplacer(near, None)
    made = made_texts(rows_of(["zzz 12 !"]), Augmentation(copies=3, probability=1), none)
    assert made.texts == [("zzz 12 !",)] * 3 and not made.replaced and made.seen == 3
    empty = replace(none, near=near)
    assert made_texts(rows_of([""]), Augmentation(copies=2), empty).texts == [("",)] * 2
