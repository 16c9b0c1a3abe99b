"""Live and cached answers agree, by row and by batch; caches are reused only where they fit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests_support import VOCABULARY, tiny_model, tiny_tokenizer
from training_support import toy_data

from bertcompress.data import collator
from bertcompress.engines.distillation import alignment
from bertcompress.engines.distillation.alignment import same_tokens
from bertcompress.engines.distillation.caching import cached_where_it_fits
from bertcompress.engines.distillation.relations import relation_loss
from bertcompress.engines.distillation.state_cache import hidden_cache_bytes, states_for
from bertcompress.engines.distillation.teachers import CachedTeacher, LiveTeacher
from bertcompress.errors import DataError, ModelError
from bertcompress.method import Teacher
from bertcompress.shapes import Layers, apply_edit
from bertcompress.support.display import Display, showing

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


RELATIONS = frozenset({"projections.2"})


@pytest.mark.parametrize(
    ("needs", "states"),
    [
        (RELATIONS, (2,)),
        (frozenset({"projections.0", "projections.2"}), (0, 2)),
        (RELATIONS | HIDDEN, (0, 1, 2, 3)),
    ],
)
def test_cached_relations_are_those_of_the_live_teacher(data, live, tmp_path, needs, states):
    assert states_for(needs, live.model) == states
    cached = CachedTeacher(live, tmp_path, hidden_limit_mb=1.0, states=states)
    rows = torch.cat([some_rows(data, 3, 11, 4), some_rows(data, 1, split="selection")])
    mine, theirs = cached(rows, needs), live(rows, needs)
    mask = student_batch(data, rows)["attention_mask"]
    assert mine.projections.keys() == theirs.projections.keys()
    for layer, fresh in theirs.projections.items():
        for kept, each in zip(mine.projections[layer], fresh, strict=True):
            assert kept.shape == each.shape and kept.dtype == each.dtype
            shown = mask.bool()
            torch.testing.assert_close(kept[shown], each[shown], rtol=2e-3, atol=2e-3)
        apart = relation_loss(mine.projections[layer], fresh, mask)
        assert float(apart) < 1e-5  # half precision
    assert len(mine.hidden_states) == len(theirs.hidden_states)


def test_states_answer_for_their_layers_alone(data, live, tmp_path, monkeypatch):
    cached = CachedTeacher(live, tmp_path, hidden_limit_mb=1.0, states=(2,))
    asked = []
    answer = live.answer
    monkeypatch.setattr(live, "answer", lambda *a: asked.append(a[1]) or answer(*a))
    rows = some_rows(data, 1, 2)
    cached(rows, RELATIONS)
    assert asked == []
    for needs in (HIDDEN, frozenset({"projections.1"}), RELATIONS | HIDDEN):
        cached(rows, needs)
    assert asked == [HIDDEN, frozenset({"projections.1"}), RELATIONS | HIDDEN]


def test_states_that_are_kept_are_exact_where_half_precision_is(data, live, tmp_path, monkeypatch):
    """What is read is what was written: the linears over it are those of the live teacher."""
    halved = LiveTeacher.answer

    def rounded(self, batch, needs=frozenset()):
        out = halved(self, batch, needs)
        return replace(out, hidden_states=tuple(h.half().float() for h in out.hidden_states))

    monkeypatch.setattr(LiveTeacher, "answer", rounded)
    cached = CachedTeacher(live, tmp_path, hidden_limit_mb=1.0, states=(2,), batch_size=3)
    places = cached._order[np.searchsorted(cached._ids, some_rows(data, 3, 11, 4).numpy())]
    longest = int(cached._lengths[places].max())
    batch = student_batch(data, some_rows(data, 3, 11, 4))
    assert batch["input_ids"].shape[1] == longest
    state = rounded(live, batch, HIDDEN).hidden_states[2]
    found = cached._cache.read(places, torch.device("cpu"))[2]
    shown = batch["attention_mask"].bool()
    torch.testing.assert_close(found[shown], state[shown], rtol=1e-3, atol=1e-5)
    assert not found[~shown].any()


def test_states_of_another_teacher_are_not_read(data, live, tmp_path):
    CachedTeacher(live, tmp_path, hidden_limit_mb=1.0, states=(2,))
    assert [p.name for p in tmp_path.glob("*.npy")] == ["teacher-hidden-2.npy"]
    other = LiveTeacher(tiny_model(seed=6, num_labels=2), tiny_tokenizer(), data)
    CachedTeacher(other, tmp_path, hidden_limit_mb=1.0)
    assert [p.name for p in tmp_path.glob("*.npy")] == ["teacher-hidden.npy"]
    cached = CachedTeacher(other, tmp_path, hidden_limit_mb=1.0, states=(2,))
    rows, mask = some_rows(data, 3, 4), student_batch(data, some_rows(data, 3, 4))["attention_mask"]
    mine, theirs = (each(rows, RELATIONS).projections[2] for each in (cached, other))
    assert float(relation_loss(mine, theirs, mask)) < 1e-5


def test_what_would_be_kept_is_said_before_it_is_computed(data, live, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(live, "answer", lambda *_: pytest.fail("computed"))
    with showing(Display(said.append)):
        assert cached_where_it_fits(live, RELATIONS, tmp_path, 0.0) is live
    splits = [data.encode(live.tokenizer, name) for name in ("train", "selection")]
    size = hidden_cache_bytes(live.model, [n for s in splits for n in s["length"][:]], (2,)) / 1e6
    assert said == [
        f"the teacher's hidden states, 1 a token, take {size:,.1f} MB: computed in each step "
        "(cache_hidden_mb 0 is less)"
    ]
    monkeypatch.undo()
    kept = cached_where_it_fits(live, RELATIONS, tmp_path, 1.0)
    header = 128
    assert (tmp_path / "teacher-hidden-2.npy").stat().st_size == round(size * 1e6) + header
    assert isinstance(kept, CachedTeacher)
    assert cached_where_it_fits(live, frozenset({"attentions"}), tmp_path, 9.0) is live


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


def test_a_teacher_that_lost_layers_keeps_the_states_that_it_has(data, tmp_path):
    """Its config names the layers that it came with."""
    cut = tiny_model(seed=5, num_labels=2)
    apply_edit(cut, Layers([0, 2]))
    live = LiveTeacher(cut, tiny_tokenizer(), data)
    cached, rows = CachedTeacher(live, tmp_path, hidden_limit_mb=1.0), some_rows(data, 3, 4)
    mine, theirs = (each(rows, HIDDEN).hidden_states for each in (cached, live))
    assert len(mine) == len(theirs) == 3


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


def test_a_tokenizer_that_tells_segments_apart_reads_pairs_otherwise():
    """Of one vocabulary, as BERT's and DistilBERT's: the same numbers, but not the same columns."""
    plain, telling = tiny_tokenizer(), tiny_tokenizer()
    telling.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    assert telling("a cat", "the dog")["input_ids"] == plain("a cat", "the dog")["input_ids"]
    assert not same_tokens(telling, plain) and not same_tokens(plain, telling)
    other = tiny_tokenizer()
    other.model_input_names = telling.model_input_names
    assert same_tokens(telling, other)


def test_probe_meets_case_accents_and_pairs():
    assert any(c.isupper() for c in alignment._PROBE) and "ï" in alignment._PROBE
