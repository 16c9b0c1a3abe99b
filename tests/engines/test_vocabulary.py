"""Smaller tokenizers cut the texts that they were made for as before."""

from __future__ import annotations

import itertools
import json
import random

import pytest
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from vocabulary_support import CORPUS, KINDS, SPECIAL, UNSEEN, trained_tokenizer, wrapped

from bertcompress.engines.vocabulary import (
    changed_tokens,
    choose_tokens,
    trimmed_tokenizer,
    used_tokens,
)
from bertcompress.errors import ModelError, RecipeError


@pytest.fixture(scope="module", params=KINDS)
def whole(request):
    return trained_tokenizer(request.param)


def trimmed(tokenizer, texts, **knobs):
    choice = choose_tokens(tokenizer, used_tokens(tokenizer, texts), **knobs)
    return trimmed_tokenizer(tokenizer, choice.kept), choice


def tokens(tokenizer, *texts, **options):
    return tokenizer.convert_ids_to_tokens(tokenizer(*texts, **options)["input_ids"])


def test_the_corpus_is_cut_as_before(whole):
    smaller, choice = trimmed(whole, CORPUS)
    assert len(smaller) == len(choice.kept) < 0.8 * len(whole)
    for text in CORPUS:
        assert tokens(smaller, text) == tokens(whole, text)
        assert tokens(smaller, text, CORPUS[0]) == tokens(whole, text, CORPUS[0])
        old = whole(text, CORPUS[0], padding="max_length", truncation=True, max_length=30)
        new = smaller(text, CORPUS[0], padding="max_length", truncation=True, max_length=30)
        assert [choice.kept[i] for i in new["input_ids"]] == old["input_ids"]
        assert {**new, "input_ids": 0} == {**old, "input_ids": 0}
        assert smaller.decode(new["input_ids"]) == whole.decode(old["input_ids"])
    assert changed_tokens(whole, smaller, CORPUS) == (0.0, 0.0)


def test_words_of_the_corpus_are_cut_as_before_in_any_order(whole):
    smaller, _ = trimmed(whole, CORPUS)
    split = [text.split() for text in CORPUS]
    firsts, others = [w[0] for w in split if len(w) > 2], [x for w in split for x in w[1:-2]]
    draw = random.Random(5)
    for _ in range(200):
        text = " ".join([draw.choice(firsts), *draw.choices(others, k=10)])
        assert text not in CORPUS
        assert tokens(smaller, text) == tokens(whole, text)


def test_other_texts_get_more_tokens_and_no_unknown_ones(whole):
    smaller, _ = trimmed(whole, CORPUS)
    share, texts = changed_tokens(whole, smaller, UNSEEN)
    assert 0 < share < texts <= 1
    for text in UNSEEN:
        assert whole.unk_token not in tokens(smaller, text)
        assert len(tokens(smaller, text)) >= len(tokens(whole, text))
        if smaller.backend_tokenizer.decoder is not None:
            assert smaller.decode(smaller(text)["input_ids"]) == text


def test_the_tokenizer_that_was_given_is_left_alone(whole):
    inner = whole.backend_tokenizer
    inner.enable_padding(length=7)
    inner.enable_truncation(9)
    before = inner.to_str()
    try:
        smaller, _ = trimmed(whole, CORPUS, reserve=3)
        changed_tokens(whole, smaller, UNSEEN)
        assert inner.to_str() == before
    finally:
        inner.no_padding()
        inner.no_truncation()


def test_special_tokens_and_settings_are_right(whole):
    whole.padding_side = "left"
    try:
        smaller, choice = trimmed(whole, CORPUS)
    finally:
        whole.padding_side = "right"
    for name, token in SPECIAL.items():
        assert getattr(smaller, f"{name}_token") == token
        assert choice.kept[getattr(smaller, f"{name}_token_id")] == getattr(
            whole, f"{name}_token_id"
        )
    assert smaller.all_special_ids == smaller.convert_tokens_to_ids(whole.all_special_tokens)
    assert (smaller.model_max_length, smaller.padding_side) == (48, "left")
    assert type(smaller) is type(whole)
    assert smaller.name_or_path == whole.name_or_path
    assert smaller(["", CORPUS[0]], padding=True)["input_ids"][0][0] == smaller.pad_token_id


def test_padding_of_the_tokenizers_package_is_renumbered(whole):
    inner = whole.backend_tokenizer
    inner.enable_padding(pad_id=whole.pad_token_id, pad_token=whole.pad_token)
    smaller, _ = trimmed(whole, CORPUS)
    inner.no_padding()
    padded = smaller.backend_tokenizer.encode_batch([CORPUS[0], ""])[1]
    assert padded.ids[-1] == smaller.pad_token_id
    assert padded.tokens[-1] == smaller.pad_token


def test_saved_and_loaded_it_is_the_same(whole, tmp_path):
    smaller, _ = trimmed(whole, CORPUS)
    smaller.save_pretrained(tmp_path)
    again = transformers.AutoTokenizer.from_pretrained(tmp_path, trust_remote_code=False)
    assert again.get_vocab() == smaller.get_vocab()
    assert again.all_special_ids == smaller.all_special_ids
    assert again.model_max_length == 48
    texts = [*CORPUS, *UNSEEN, "☃ naïve <mask> x"]
    assert again(texts)["input_ids"] == smaller(texts)["input_ids"]
    assert again(texts, texts)["input_ids"] == smaller(texts, texts)["input_ids"]


def test_tokens_that_were_added_stay(tmp_path):
    for kind in KINDS:
        whole = trained_tokenizer(kind)
        whole.add_tokens(["<ctx>"])
        whole.add_special_tokens({"additional_special_tokens": ["<user>"]})
        smaller, choice = trimmed(whole, CORPUS)
        text = f"<user> {CORPUS[0]} <ctx>"
        assert tokens(smaller, text) == tokens(whole, text)
        assert choice.kept[-2:] == [len(whole) - 2, len(whole) - 1]
        smaller.save_pretrained(tmp_path / kind)
        again = transformers.AutoTokenizer.from_pretrained(tmp_path / kind)
        assert again(text)["input_ids"] == smaller(text)["input_ids"]
        assert again.decode(again(text)["input_ids"], skip_special_tokens=True).count("<") == 1


def test_trimming_again_goes_on_from_there(whole):
    once, _ = trimmed(whole, CORPUS, reserve=50)
    twice, _ = trimmed(once, CORPUS[:20])
    assert len(twice) < len(once)
    assert changed_tokens(whole, twice, CORPUS[:20]) == (0.0, 0.0)
    same, choice = trimmed(twice, CORPUS[:20])
    assert choice.kept == list(range(len(twice)))
    assert same.get_vocab() == twice.get_vocab()


def test_unknown_characters_stay_unknown(whole):
    smaller, _ = trimmed(whole, CORPUS)
    if whole.unk_token in tokens(whole, "☃"):
        assert smaller.unk_token_id in smaller("☃")["input_ids"]
    assert tokens(smaller, "☃") == tokens(whole, "☃")


def test_size_keeps_the_most_used(whole):
    counts = used_tokens(whole, CORPUS)
    least = len(choose_tokens(whole, {}).kept)
    with pytest.raises(RecipeError, match=rf"size {least - 1} is too small.*{least} tokens"):
        choose_tokens(whole, counts, size=least - 1)
    assert len(choose_tokens(whole, counts, size=least).kept) == least
    some = choose_tokens(whole, counts, size=least + 30, reserve=1_000)
    assert len(some.kept) == least + 30
    assert some.used == 30
    ranked = sorted(counts, key=lambda i: -counts[i])
    assert set(ranked[:10]) <= set(some.kept)
    smaller = trimmed_tokenizer(whole, some.kept)
    share, _ = changed_tokens(whole, smaller, CORPUS)
    assert 0 < share < 1


def test_the_parts_add_up(whole):
    counts = used_tokens(whole, CORPUS)
    bare = choose_tokens(whole, counts)
    choice = choose_tokens(whole, counts, reserve=20)
    assert choice.special + choice.characters + choice.used + choice.reserve == len(choice.kept)
    assert choice.reserve == 20
    assert (choice.special, choice.characters, choice.used) == (
        bare.special, bare.characters, bare.used
    )  # fmt: skip
    assert set(bare.kept) < set(choice.kept)
    assert choose_tokens(whole, counts, reserve=10**6).kept == list(range(len(whole)))
    assert choose_tokens(whole, {}, also=[len(whole) - 1]).kept[-1] == len(whole) - 1


def test_placeholders_are_no_reserve():
    names = [*SPECIAL.values(), "[unused0]", "...", "word", "##s", "क्ष"]
    inner = Tokenizer(models.WordPiece({n: i for i, n in enumerate(names)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    kept = choose_tokens(wrapped(inner), {}, reserve=2).kept
    assert [names[i] for i in kept[5:]] == ["word", "##s", "क्ष"]


def test_a_word_that_fails_still_fails():
    """`foo☃` takes `foo` and then finds nothing; without `foo`, `fo` and `##o☃` would do."""
    names = [*SPECIAL.values(), "f", "##o", "foo", "fo", "##o☃"]
    inner = Tokenizer(models.WordPiece({n: i for i, n in enumerate(names)}, unk_token="<unk>"))
    inner.normalizer = normalizers.BertNormalizer(lowercase=True)
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    whole, texts = wrapped(inner), ["fo fo☃ FOO☃ fo"]
    assert tokens(whole, *texts) == ["fo", "<unk>", "<unk>", "fo"]
    used = used_tokens(whole, [*texts, "foo☃ fo"])
    assert "foo" in whole.convert_ids_to_tokens(list(used))
    blind = [i for i in choose_tokens(whole, {}, also=[9]).kept]
    assert tokens(trimmed_tokenizer(whole, sorted({*blind, 8})), *texts) != tokens(whole, *texts)
    smaller, _ = trimmed(whole, texts, also=[9])
    assert tokens(smaller, *texts) == tokens(whole, *texts)


def test_what_an_unknown_character_costs_stays():
    """Without the lowest score, `cbd` would be an unknown `c` and `bd`."""
    pieces = [
        *((token, 0.0) for token in SPECIAL.values()),
        ("cb", -15.0), ("d", -15.0), ("bd", -1.0), ("b", -14.0), ("low", -20.0),
    ]  # fmt: skip
    whole = wrapped(Tokenizer(models.Unigram(pieces, unk_id=1)))
    assert tokens(whole, "cbd") == ["cb", "d"]
    without = wrapped(Tokenizer(models.Unigram(pieces[:-1], unk_id=1)))
    assert tokens(without, "cbd") == ["c", "bd"] or tokens(without, "cbd") == ["<unk>", "bd"]
    smaller, choice = trimmed(whole, ["cbd"], also=[7])
    assert tokens(smaller, "cbd") == ["cb", "d"]
    assert len(whole) - 1 in choice.kept


@pytest.mark.parametrize("seed", range(30))
def test_any_table_of_merges(seed):
    """Merges in no sensible order, several ways to one token, overlaps such as `aaa`."""
    draw = random.Random(seed)
    vocabulary = {t: i for i, t in enumerate([*SPECIAL.values(), *"abc"])}
    pieces, merges = list("abc"), []
    for _ in range(25):
        pair = (draw.choice(pieces), draw.choice(pieces))
        if pair in merges or len("".join(pair)) > 6:
            continue
        merges.append(pair)
        built = "".join(pair)
        if built not in vocabulary:
            vocabulary[built] = len(vocabulary)
            pieces.append(built)
    whole = wrapped(Tokenizer(models.BPE(vocabulary, merges)))
    words = ["".join(w) for n in range(1, 7) for w in itertools.product("abc", repeat=n)]
    texts = draw.sample(words, 12)
    smaller, _ = trimmed(whole, texts)
    for text in texts:
        assert tokens(smaller, text) == tokens(whole, text)
    kept = set(smaller.get_vocab())
    written = json.loads(smaller.backend_tokenizer.to_str())["model"]["merges"]
    assert [tuple(m) for m in written] == [m for m in merges if {*m, "".join(m)} <= kept]


def test_tokenizers_that_cannot_be_trimmed():
    with pytest.raises(ModelError, match=r"CanineTokenizer is a slow tokenizer"):
        used_tokens(transformers.CanineTokenizer(), ["a"])
    words = wrapped(Tokenizer(models.WordLevel({"<unk>": 0, "a": 1}, unk_token="<unk>")))
    with pytest.raises(ModelError, match=r"WordLevel; WordPiece, BPE and Unigram"):
        choose_tokens(words, {})


def test_an_added_token_cannot_go(whole):
    with pytest.raises(ModelError, match=r"'<pad>' \(40\) must stay"):
        trimmed_tokenizer(whole, range(41, len(whole)))


@pytest.mark.parametrize(
    "name", ["BertTokenizerFast", "RobertaTokenizerFast", "AlbertTokenizerFast"]
)
def test_the_classes_of_the_families(name, tmp_path):
    kind = dict(zip(("Bert", "Roberta", "Albert"), KINDS, strict=True))[name[:-13]]
    inner = trained_tokenizer(kind).backend_tokenizer
    (tmp_path / "given").mkdir()
    inner.save(str(tmp_path / "given" / "tokenizer.json"))
    named = {f"{what}_token": token for what, token in SPECIAL.items()}
    config = {"tokenizer_class": name, "model_max_length": 48, **named}
    (tmp_path / "given" / "tokenizer_config.json").write_text(json.dumps(config))
    whole = transformers.AutoTokenizer.from_pretrained(tmp_path / "given")
    smaller, choice = trimmed(whole, CORPUS)
    assert type(smaller) is type(whole)
    smaller.save_pretrained(tmp_path / "saved")
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    for text in CORPUS:
        old = whole(text, text)["input_ids"]
        assert [choice.kept[i] for i in smaller(text, text)["input_ids"]] == old
        assert again(text, text)["input_ids"] == smaller(text, text)["input_ids"]
    assert again.pad_token_id == smaller.pad_token_id == choice.kept.index(whole.pad_token_id)
