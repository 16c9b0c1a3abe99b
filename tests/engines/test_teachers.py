"""Live and cached answers agree, by row and by batch; caches are reused only where they fit."""

from __future__ import annotations

import pytest
import torch
from tests_support import VOCABULARY, tiny_model, tiny_tokenizer
from training_support import toy_data

from bertcompress.data import collator
from bertcompress.engines.distillation import alignment
from bertcompress.engines.distillation.alignment import same_tokens
from bertcompress.engines.distillation.teachers import (
    CachedTeacher,
    LiveTeacher,
    hidden_cache_bytes,
)
from bertcompress.errors import DataError, ModelError
from bertcompress.method import Teacher

HIDDEN = frozenset({"hidden_states"})


@pytest.fixture(scope="module")
def data():
    return toy_data(rows=40)


@pytest.fixture
def live(data):
    return LiveTeacher(tiny_model(seed=4, num_labels=2), tiny_tokenizer(), data)


def some_rows(data, *positions, split="train"):
    return torch.tensor([data.split(split)["row_id"][p] for p in positions])


def student_batch(data, row_ids):
    tokenizer = tiny_tokenizer()
    return collator(tokenizer)(data.rows(row_ids.numpy(), tokenizer))


def test_answers_by_row_in_the_order_asked(data, live):
    rows = some_rows(data, 5, 2, 9)
    answer = live(rows, HIDDEN)
    for i, row in enumerate(rows):
        alone = live(row[None], HIDDEN)
        torch.testing.assert_close(answer.logits[i], alone.logits[0])
        length = alone.hidden_states[0].shape[1]
        torch.testing.assert_close(answer.hidden_states[2][i, :length], alone.hidden_states[2][0])
    assert len(answer.hidden_states) == 4 and answer.attentions == ()
    assert not answer.logits.requires_grad


def test_a_remembered_batch_is_used_once_and_only_for_its_rows(data, live, monkeypatch):
    batch = student_batch(data, some_rows(data, 1, 2))
    expected = live(batch["row_id"]).logits
    encoded = []
    encode = live._encode
    monkeypatch.setattr(live, "_encode", lambda *asked: encoded.append(asked[0]) or encode(*asked))
    live.remember(batch)
    assert torch.equal(live(batch["row_id"]).logits, expected)
    assert encoded == []
    live(batch["row_id"])
    live.remember(batch)
    live(some_rows(data, 7))
    assert len(encoded) == 2


def test_without_data_it_answers_remembered_batches_only(data):
    live = LiveTeacher(tiny_model(num_labels=2))
    batch = student_batch(data, some_rows(data, 1, 2))
    live.remember(batch)
    assert live(batch["row_id"]).logits.shape == (2, 2)
    with pytest.raises(DataError, match="asked by row without data"):
        live(batch["row_id"])


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_attentions_on_request(data, live):
    answer = live(some_rows(data, 1, 2), frozenset({"attentions"}))
    assert len(answer.attentions) == 3
    torch.testing.assert_close(
        answer.attentions[0].sum(-1), torch.ones_like(answer.attentions[0][..., 0])
    )


def test_model_answers_in_eval_mode_and_a_copy_can_still_be_trained(data):
    model = tiny_model(num_labels=2).train()
    live, rows = LiveTeacher(model, tiny_tokenizer(), data), some_rows(data, 1, 2)
    model.train()
    assert torch.equal(live(rows).logits, live(rows).logits) and not model.training
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("limit", [0.0, 1.0])
def test_cached_equals_live(data, live, tmp_path, limit):
    cached: Teacher = CachedTeacher(live, tmp_path, hidden_limit_mb=limit, batch_size=7)
    rows = torch.cat([some_rows(data, 3, 11, 4), some_rows(data, 1, split="selection")])
    mine, theirs = cached(rows, HIDDEN), live(rows, HIDDEN)
    torch.testing.assert_close(mine.logits, theirs.logits, rtol=0, atol=1e-6)
    torch.testing.assert_close(cached(rows).logits, theirs.logits, rtol=0, atol=1e-6)
    mask = student_batch(data, rows)["attention_mask"].bool()
    for kept, fresh in zip(mine.hidden_states, theirs.hidden_states, strict=True):
        assert kept.shape == fresh.shape and kept.dtype == torch.float32
        torch.testing.assert_close(kept[mask], fresh[mask], rtol=2e-3, atol=2e-3)
    assert (tmp_path / "teacher-hidden.npy").exists() == bool(limit)


def test_cached_logits_need_no_model(data, live, tmp_path, monkeypatch):
    cached = CachedTeacher(live, tmp_path, hidden_limit_mb=1.0)
    monkeypatch.setattr(live, "answer", None)
    assert cached(some_rows(data, 1)).logits.shape == (1, 2)
    assert len(cached(some_rows(data, 1), HIDDEN).hidden_states) == 4


def test_cache_is_read_again_for_the_same_teacher_only(data, live, tmp_path, monkeypatch):
    first = CachedTeacher(live, tmp_path)
    computed = []
    compute = CachedTeacher._compute
    monkeypatch.setattr(
        CachedTeacher, "_compute", lambda self, *a: computed.append(1) or compute(self, *a)
    )
    again = CachedTeacher(live, tmp_path)
    rows = some_rows(data, 0, 8)
    assert computed == [] and torch.equal(first(rows).logits, again(rows).logits)
    other = LiveTeacher(tiny_model(seed=6, num_labels=2), tiny_tokenizer(), data)
    changed = CachedTeacher(other, tmp_path)
    assert computed == [1]
    torch.testing.assert_close(changed(rows).logits, other(rows).logits, rtol=0, atol=1e-6)
    CachedTeacher(other, tmp_path, hidden_limit_mb=1.0)  # logits are there, hidden states not
    assert computed == [1, 1]
    assert not list(tmp_path.glob(".*"))


def test_rows_outside_of_the_cache_are_named(data, live, tmp_path):
    cached = CachedTeacher(live, tmp_path)
    row = some_rows(data, 0, split="validation")
    with pytest.raises(DataError, match=f"row {row[0]} is not cached"):
        cached(row)
    with pytest.raises(DataError, match="row_id"):
        cached(torch.tensor([-1]))
    with pytest.raises(DataError, match="needs `tokenizer` and `data`"):
        CachedTeacher(LiveTeacher(tiny_model()), tmp_path)


def test_texts_that_are_longer_than_the_teacher_reads(data):
    short = tiny_model(seed=4, num_labels=2, max_position_embeddings=8)
    teacher = LiveTeacher(short, tiny_tokenizer(), data)
    longest = max(range(20), key=lambda i: data.encode(tiny_tokenizer(), "train")["length"][i])
    with pytest.raises(ModelError, match="reads at most 8 tokens, and a text of the batch has"):
        teacher(some_rows(data, longest))


def test_bytes_of_hidden_states(data, live, tmp_path):
    lengths = [5, 7]
    assert hidden_cache_bytes(live.model, lengths) == 12 * 16 * (3 + 1) * 2
    CachedTeacher(live, tmp_path, hidden_limit_mb=1.0)
    splits = [data.encode(live.tokenizer, name) for name in ("train", "selection")]
    told = hidden_cache_bytes(live.model, [n for split in splits for n in split["length"][:]])
    header = 128
    assert (tmp_path / "teacher-hidden.npy").stat().st_size == told + header
    with pytest.raises(ModelError, match="no config"):
        hidden_cache_bytes(torch.nn.Linear(2, 2), lengths)


def test_same_tokens_looks_at_what_comes_out():
    tokenizer, other = tiny_tokenizer(), tiny_tokenizer()
    assert same_tokens(tokenizer, tokenizer) and same_tokens(tokenizer, other)
    other.add_tokens(["extra"])
    assert not same_tokens(tokenizer, other)
    from tokenizers import processors

    bare = tiny_tokenizer()
    bare.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A", pair="[CLS] $A $B", special_tokens=[("[CLS]", VOCABULARY.index("[CLS]"))]
    )
    assert bare.get_vocab() == tokenizer.get_vocab()
    assert not same_tokens(tokenizer, bare)


def test_probe_meets_case_accents_and_pairs():
    assert any(c.isupper() for c in alignment._PROBE) and "ï" in alignment._PROBE
