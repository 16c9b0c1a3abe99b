"""Windows of a question and a context: nothing of the context is lost, characters stay known."""

from __future__ import annotations

import numpy as np
import pytest
import transformers
from tests_support import tiny_tokenizer
from tokenizers import processors
from vocabulary_support import KINDS, made_up_texts, trained_tokenizer

from bertcompress.errors import ModelError
from bertcompress.heads.contexts import gold_tokens, windows_of
from bertcompress.heads.joining import best_span, joined_windows

CONTEXTS = [
    " ".join(made_up_texts(seed, 12)) + odd
    for seed, odd in enumerate(["", " naïve 😀😀 café", " 北京市 end", "\t\n  x", " e\u0301 y"])
] + ["ka", "lo mi"]  # fmt: skip
QUESTIONS = ["kalo mi?", "tre", "sun " * 9, "ba ou", "né gri " * 40, "xo sha?", "pel " * 200]


def tokenizer_of(kind):
    if kind == "double":  # as RoBERTa: <s> question </s></s> context </s>
        tokenizer = trained_tokenizer("bpe")
        ids = {each: tokenizer.convert_tokens_to_ids(each) for each in ("<s>", "</s>")}
        tokenizer.backend_tokenizer.post_processor = processors.RobertaProcessing(
            ("</s>", ids["</s>"]), ("<s>", ids["<s>"]), trim_offsets=False, add_prefix_space=False
        )
        return tokenizer
    if kind == "left":
        tokenizer = trained_tokenizer("wordpiece")
        tokenizer.padding_side = "left"
        return tokenizer
    return trained_tokenizer(kind)


@pytest.mark.parametrize("length", [24, 40, 512])
@pytest.mark.parametrize("kind", [*KINDS, "double", "left"])
def test_no_token_of_a_context_is_lost(kind, length):
    tokenizer = tokenizer_of(kind)
    made = windows_of(QUESTIONS, CONTEXTS, tokenizer, length, stride=8)
    assert sorted(set(made.row_of_window)) == list(range(len(CONTEXTS)))
    assert made.row_of_window == sorted(made.row_of_window)
    assert max(map(len, made.tokens["input_ids"])) <= length
    for row, context in enumerate(CONTEXTS):
        order = slice(None, None, -1 if kind == "left" else 1)
        pair = ("tre", context)[order]
        whole = tokenizer(*pair, return_offsets_mapping=True, verbose=False)
        place = pair.index(context)
        every = {
            (token, offsets[1])
            for token, offsets, of in zip(
                whole["input_ids"], whole["offset_mapping"], whole.sequence_ids(), strict=True
            )
            if of == place
        }
        seen = []
        for i, owner in enumerate(made.row_of_window):
            if owner == row:
                inside = made.starts[i] >= 0
                columns = (made.tokens["input_ids"][i], made.ends[i])
                seen += zip(*(column[inside].tolist() for column in columns), strict=True)
        assert every <= set(seen)  # a blank at the front of a window may count to another token
        assert {token for token, _ in every} == {token for token, _ in seen}


@pytest.mark.parametrize("kind", [*KINDS, "double", "left"])
def test_a_short_pair_is_encoded_as_ever(kind):
    tokenizer = tokenizer_of(kind)
    made = windows_of(["tre ba?"], ["kalo mi sun"], tokenizer, 64)
    pair = ("kalo mi sun", "tre ba?") if kind == "left" else ("tre ba?", "kalo mi sun")
    assert made.tokens["input_ids"][0].tolist() == tokenizer(*pair)["input_ids"]
    assert made.tokens["input_ids"][0][made.no_answer[0]] == tokenizer.cls_token_id
    assert made.uncut == [len(tokenizer(*pair)["input_ids"])] and not made.cut


@pytest.mark.parametrize("kind", [*KINDS, "double", "left"])
def test_the_uncut_length_of_a_row_is_known(kind):
    tokenizer = tokenizer_of(kind)
    some = [i for i, question in enumerate(QUESTIONS) if len(question) < 30]
    questions, contexts = [QUESTIONS[i] for i in some], [CONTEXTS[i] for i in some]
    made = windows_of(questions, contexts, tokenizer, 60, stride=8)
    expected = [
        len(tokenizer(*pair)["input_ids"]) for pair in zip(questions, contexts, strict=True)
    ]
    assert made.uncut == expected
    assert max(expected) > 60


def test_only_a_question_that_leaves_no_room_is_cut():
    tokenizer = trained_tokenizer("wordpiece")
    ids = {n: len(tokenizer("né " * n, add_special_tokens=False)["input_ids"]) for n in (20, 90)}
    made = windows_of(["né " * 20, "né " * 90], ["ka lo " * 50] * 2, tokenizer, 32, stride=8)
    assert ids[20] > 16 and made.cut == 1  # more than half of the window stays whole
    first, second = (made.row_of_window.index(row) for row in (0, 1))
    outside = [int((made.starts[i] < 0).sum()) for i in (first, second)]
    assert outside[0] == ids[20] + 3 and outside[1] == 32 - 8
    windows = [made.row_of_window.count(row) for row in (0, 1)]
    assert max(windows) < 100


def test_token_types_are_those_of_the_tokenizer():
    tokenizer = tiny_tokenizer()
    assert "token_type_ids" not in windows_of(["cat"], ["dog"], tokenizer, 16).tokens
    tokenizer.model_input_names = ["input_ids", "attention_mask", "token_type_ids"]
    made = windows_of(["cat"], ["dog runs"], tokenizer, 16)
    assert made.tokens["token_type_ids"][0].tolist() == [0, 0, 0, 1, 1, 1]


def test_a_slow_tokenizer_is_refused():
    class Slow(transformers.PreTrainedTokenizerFast):
        is_fast = False

    slow = Slow(tokenizer_object=tiny_tokenizer().backend_tokenizer)
    with pytest.raises(ModelError, match=r"slow tokenizer.*spans need a fast one"):
        windows_of(["cat"], ["dog"], slow, 16)


def reference_positions(starts, ends, gold, no_answer):
    """`prepare_train_features` of transformers' run_qa.py."""
    inside = np.flatnonzero(starts >= 0)
    first, last = inside[0], inside[-1]
    if gold is None or not (starts[first] <= gold[0] and ends[last] >= gold[1]):
        return no_answer, no_answer
    while first < len(starts) and 0 <= starts[first] <= gold[0]:
        first += 1
    while ends[last] >= gold[1]:
        last -= 1
    return first - 1, last + 1


@pytest.mark.parametrize("kind", [*KINDS, "double", "left"])
def test_gold_tokens_are_those_of_the_reference_script(kind):
    tokenizer, rng = tokenizer_of(kind), np.random.default_rng(0)
    context = CONTEXTS[0]
    made = windows_of(["tre?"], [context], tokenizer, 40, stride=8)
    words = [i for i, c in enumerate(context) if i == 0 or context[i - 1] == " "]
    found = set()
    for _ in range(60):
        start = int(rng.choice(words))
        end = context.find(" ", min(len(context) - 1, start + int(rng.integers(1, 30))))
        gold = (start, end if end > 0 else len(context))
        for i, starts in enumerate(made.starts):
            mine = gold_tokens(starts, made.ends[i], gold, made.no_answer[i])
            assert mine == reference_positions(starts, made.ends[i], gold, made.no_answer[i])
            found.add(mine == (made.no_answer[i],) * 2)
            if mine != (made.no_answer[i],) * 2:
                said = context[starts[mine[0]] : made.ends[i][mine[1]]]
                assert context[slice(*gold)] in said
    assert found == {True, False}
    assert gold_tokens(made.starts[0], made.ends[0], None, 0) == (0, 0)


def test_a_character_of_several_tokens_is_taken_whole():
    tokenizer = trained_tokenizer("bpe")
    made = windows_of(["tre?"], ["ka 😀 lo"], tokenizer, 64)
    first, last = gold_tokens(made.starts[0], made.ends[0], (3, 4), 0)
    assert last > first
    shown = made.tokens["input_ids"][0][first : last + 1].tolist()
    assert shown == tokenizer("😀", add_special_tokens=False)["input_ids"]


def softmax(logits, considered):
    found = np.full(len(logits), -np.inf)
    found[considered] = logits[considered]
    weights = np.exp(found - found.max())
    return weights / weights.sum()


@pytest.mark.parametrize("seed", range(10))
def test_the_best_of_all_valid_pairs(seed):
    rng = np.random.default_rng(seed)
    outputs = rng.normal(size=(30, 2)) * 3
    starts = np.where((np.arange(30) > 7) & (np.arange(30) < 29), np.arange(30), -1)
    considered = np.append(np.flatnonzero(starts >= 0), 0)
    begin, end = (softmax(column, considered) for column in outputs.T)
    pairs = {(i, j): begin[i] * end[j] for i in range(8, 29) for j in range(i, min(i + 5, 29))}
    best = max(pairs, key=pairs.get)
    score, first, last, nothing = best_span(outputs, starts, 0, 5)
    assert (first, last) == best
    assert np.exp(score) == pytest.approx(pairs[best])
    assert np.exp(nothing) == pytest.approx(begin[0] * end[0])


def test_the_same_text_in_two_windows_counts_twice():
    context = "the cat sees the dog"
    windows = [(np.log(0.3), 4, 7, -1.0), (np.log(0.4), 17, 20, -2.0), (np.log(0.3), 4, 7, -3.0)]
    start, end, score, nothing = joined_windows(windows, context)
    assert (context[start:end], nothing) == ("cat", -3.0)
    assert np.exp(score) == pytest.approx(0.6)


def test_a_window_without_context_answers_nothing():
    outputs = np.zeros((5, 2))
    score, first, last, _ = best_span(outputs, np.full(5, -1), 0, 30)
    assert np.isfinite(score) and first == last == 0
