"""A trimmed model answers the corpus as before, wherever it is loaded."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import subprocess
import sys

import pytest
import torch
from datasets import Dataset, DatasetDict
from tests_support import FAMILIES, HEADS, aligned, answer, tiny_inputs, tiny_model
from tokenizers import Tokenizer, models, pre_tokenizers
from vocabulary_support import (
    CORPUS,
    KIND_OF,
    KINDS,
    SPECIAL,
    UNSEEN,
    made_up_texts,
    trained_tokenizer,
    wrapped,
)

import bertcompress as bc
from bertcompress.data import load_data
from bertcompress.deployment import Product
from bertcompress.engines.distillation.alignment import same_pieces, same_tokens
from bertcompress.engines.distillation.objectives import Distillation
from bertcompress.engines.distillation.teachers import LiveTeacher
from bertcompress.errors import DataError, ModelError, NotFound, RecipeError
from bertcompress.method import Context, Models
from bertcompress.models.io import rung
from bertcompress.shapes import (
    Heads,
    Layers,
    Neurons,
    ShapeError,
    Vocabulary,
    anatomy,
    apply_edit,
    edited,
    read_record,
)
from bertcompress.task import Task


@pytest.fixture(scope="module")
def tokenizers():
    # RoBERTa counts positions from the padding token, which so has to be one of the first.
    return {kind: trained_tokenizer(kind, 0 if kind == "bpe" else 40) for kind in KINDS}


def model_for(tokenizer, family="bert", head="ForSequenceClassification", **fields):
    ids = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    return tiny_model(family, head, **{"max_position_embeddings": 64, **ids, **fields})


def batch_of(tokenizer, texts, head=""):
    options = {"padding": True, "truncation": True, "return_tensors": "pt"}
    batch = dict(tokenizer(texts, **options, return_token_type_ids=False))
    if head == "ForMultipleChoice":
        return {key: value[:, None].repeat(1, 2, 1) for key, value in batch.items()}
    return batch


def trim(model, tokenizer, texts, reserve=0):
    smaller = bc.trim_vocabulary(model, tokenizer, texts, reserve=reserve)
    assert len(smaller) < len(tokenizer), "nothing was dropped"
    return smaller


def logits(model, tokenizer, texts, head=""):
    return answer(model.eval(), batch_of(tokenizer, texts, head))


def spelled(*pieces, first=False):
    """A WordPiece tokenizer of these pieces, before or after its special tokens."""
    names = [*pieces, *SPECIAL.values()] if first else [*SPECIAL.values(), *pieces]
    inner = Tokenizer(models.WordPiece({n: i for i, n in enumerate(names)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return wrapped(inner)


@pytest.fixture(scope="module")
def data():
    """Sentences of made-up words; the validation set has words of its own."""
    train, validation = made_up_texts(1, 80), made_up_texts(2, 30)
    sets = {
        name: Dataset.from_dict({"text": texts, "label": [len(t) % 2 for t in texts]})
        for name, texts in (("train", train), ("validation", validation))
    }
    return load_data(Task.from_dataset(DatasetDict(sets), text="text", label="label"))


def context(data, workdir, teacher=None):
    return Context(data.task, data, Models(teacher), torch.device("cpu"), 0, workdir)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_corpus_is_answered_to_the_bit(family, head, tokenizers, tmp_path):
    whole = tokenizers[KIND_OF[family]]
    model = model_for(whole, family, head)
    before = copy.deepcopy(model)
    smaller = trim(model, whole, CORPUS, reserve=5)
    size = len(smaller)
    assert model.config.vocab_size == size < 0.9 * len(whole)
    assert rung(model) == (1, "loads with plain transformers")
    bc.save(model, tmp_path, smaller)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert (stored["model_type"], stored["vocab_size"]) == (family, size)
    assert "bertcompress" not in stored
    loaded = bc.load(tmp_path)
    rows = [whole.convert_tokens_to_ids(t) for t in smaller.convert_ids_to_tokens(range(size))]
    for start in range(0, len(CORPUS), 20):
        texts = CORPUS[start : start + 20]
        with torch.no_grad():
            old = before(**batch_of(whole, texts, head))
            new = model(**batch_of(smaller, texts, head))
        if head == "ForMaskedLM":
            assert new.logits.shape[-1] == size
            # Kernels sum in another order where a matrix has another width.
            torch.testing.assert_close(new.logits, old.logits[..., rows], rtol=0, atol=1e-5)
        else:
            assert torch.equal(answer(model, batch_of(smaller, texts, head)),
                               answer(before, batch_of(whole, texts, head)))  # fmt: skip
        expected = logits(model, smaller, texts, head)
        assert torch.equal(logits(loaded.model, loaded.tokenizer, texts, head), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_decoder_is_cut_with_its_bias_and_stays_tied(family, tokenizers, tmp_path):
    whole = tokenizers[KIND_OF[family]]
    model = model_for(whole, family, "ForMaskedLM")
    decoder = anatomy(model).decoder
    with torch.no_grad():
        decoder.bias.copy_(torch.randn(len(whole)))
    before = {"weight": decoder.weight.clone(), "bias": decoder.bias.clone()}
    smaller = trim(model, whole, CORPUS)
    rows = [whole.convert_tokens_to_ids(t) for t in
            smaller.convert_ids_to_tokens(range(len(smaller)))]  # fmt: skip
    # Saving may tie what was not tied, so the model is looked at before.
    assert decoder.weight is model.get_input_embeddings().weight
    assert decoder.out_features == len(smaller)
    bc.save(model, tmp_path / "stock", smaller)
    bc.save(model, tmp_path / "ours", smaller, convert=False)
    for each in (model, *(bc.load(tmp_path / name).model for name in ("stock", "ours"))):
        decoder = anatomy(each).decoder
        assert decoder.weight is each.get_input_embeddings().weight
        assert torch.equal(decoder.weight, before["weight"][rows])
        assert torch.equal(decoder.bias, before["bias"][rows])
        assert decoder.out_features == len(smaller)
        batch = batch_of(smaller, CORPUS[:4])
        labels = torch.where(batch["attention_mask"].bool(), batch["input_ids"], -100)
        loss = each(**batch, labels=labels).loss
        loss.backward()
        assert torch.isfinite(loss)
        assert decoder.weight.grad.abs().sum() > 0


def test_an_untied_decoder_keeps_its_own_rows(tokenizers, tmp_path):
    whole = tokenizers["wordpiece"]
    model = model_for(whole, head="ForMaskedLM", tie_word_embeddings=False)
    model.cls.predictions.decoder.weight = torch.nn.Parameter(torch.randn(len(whole), 16))
    before = model.cls.predictions.decoder.weight.clone()
    smaller = trim(model, whole, CORPUS)
    rows = [whole.convert_tokens_to_ids(t) for t in
            smaller.convert_ids_to_tokens(range(len(smaller)))]  # fmt: skip
    bc.save(model, tmp_path, smaller)
    for each in (model, bc.load(tmp_path).model):
        decoder = each.cls.predictions.decoder
        assert torch.equal(decoder.weight, before[rows])
        assert decoder.weight is not each.get_input_embeddings().weight


@pytest.mark.parametrize("family", ["bert", "distilbert", "electra", "albert"])
def test_the_padding_token_may_move(family, tmp_path):
    whole = spelled("red", "blue", "zz", first=True)
    model = model_for(whole, family, eos_token_id=6, bos_token_id=2)
    texts = ["red blue red", "blue"]
    expected = logits(model, whole, texts)
    smaller = trim(model, whole, texts)
    assert (smaller.pad_token_id, model.config.pad_token_id) == (2, 2)
    assert model.config.eos_token_id == 5
    assert model.config.bos_token_id is None, "that token is gone"
    bc.save(model, tmp_path, smaller)
    loaded = bc.load(tmp_path)
    for each in (model, loaded.model):
        assert torch.equal(logits(each, smaller, texts), expected)
        assert each.get_input_embeddings().padding_idx == 2
    assert loaded.model.config.bos_token_id is None
    assert loaded.tokenizer.pad_token_id == 2


def test_padding_stays_where_positions_count_from_it(tokenizers):
    whole = tokenizers["bpe"]
    pad = 300
    model = model_for(whole, "roberta", pad_token_id=pad, max_position_embeddings=400)
    with pytest.raises(ShapeError, match=r"tokens 0 to 300 must stay"):
        apply_edit(model, Vocabulary(100, list(range(250, 350))))
    assert not edited(model)
    inputs = {"input_ids": torch.tensor([whole(CORPUS[0])["input_ids"]])}
    expected = answer(model, inputs)
    smaller = trim(model, whole, CORPUS)
    assert model.config.pad_token_id == pad
    inputs = {"input_ids": torch.tensor([smaller(CORPUS[0])["input_ids"]])}
    assert torch.equal(answer(model, inputs), expected)


def test_trimming_twice_leaves_one_record(tokenizers, tmp_path):
    whole = tokenizers["wordpiece"]
    model = model_for(whole)
    expected = logits(model, whole, CORPUS[:10])
    once = trim(model, whole, CORPUS, reserve=30)
    twice = trim(model, once, CORPUS[:10])
    assert len(twice) < len(once) < len(whole)
    assert read_record(model.config) == {"vocabulary": Vocabulary(len(twice))}
    assert torch.equal(logits(model, twice, CORPUS[:10]), expected)
    bc.save(model, tmp_path, twice, convert=False)
    loaded = bc.load(tmp_path)
    assert read_record(loaded.model.config) == {"vocabulary": Vocabulary(len(twice))}
    assert torch.equal(logits(loaded.model, loaded.tokenizer, CORPUS[:10]), expected)


def test_nothing_to_drop_changes_nothing(tokenizers):
    whole = tokenizers["wordpiece"]
    model = model_for(whole)
    assert bc.trim_vocabulary(model, whole, CORPUS, reserve=10**6) is whole
    assert not edited(model)
    padded = model_for(whole, vocab_size=len(whole) + 7)
    expected = logits(padded, whole, CORPUS[:3])
    assert bc.trim_vocabulary(padded, whole, CORPUS, reserve=10**6) is whole
    assert padded.config.vocab_size == len(whole)
    assert torch.equal(logits(padded, whole, CORPUS[:3]), expected)


def cut(kind, model):
    """Apply one other edit."""
    layers = anatomy(model).layers
    if kind == "heads":
        return apply_edit(model, Heads([[0, 2]] * len(layers)))
    if kind == "neurons":
        return apply_edit(model, Neurons([5] * len(layers), [[1, 2, 3, 8, 9]] * len(layers)))
    return apply_edit(model, Layers(list(range(anatomy(model).depth - 1))))


@pytest.mark.parametrize("convert", [True, False])
@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("kind", ["heads", "neurons", "layers"])
@pytest.mark.parametrize("family", ["bert", "roberta", "albert"])
def test_with_other_edits_before_and_after(family, kind, first, convert, tokenizers, tmp_path):
    whole = tokenizers[KIND_OF[family]]
    model = model_for(whole, family)
    expected = logits(cut(kind, copy.deepcopy(model)), whole, CORPUS[:8])
    if first:
        smaller = trim(model, whole, CORPUS)
        cut(kind, model)
    else:
        cut(kind, model)
        smaller = trim(model, whole, CORPUS)
    assert torch.equal(logits(model, smaller, CORPUS[:8]), expected)
    bc.save(model, tmp_path, smaller, convert=convert)
    loaded = bc.load(tmp_path)
    assert torch.equal(logits(loaded.model, loaded.tokenizer, CORPUS[:8]), expected)
    assert loaded.model.config.vocab_size == len(smaller)
    assert edited(loaded.model) is (not convert or kind == "heads")


PLAIN = """
import json, sys
import torch, transformers
texts, trusted, said = json.loads(sys.argv[1]), json.loads(sys.argv[2]), []
for folder in sys.argv[3:]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=trusted)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder, trust_remote_code=trusted).eval()
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    with torch.no_grad():
        logits = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits
    pipeline = transformers.pipeline(
        "text-classification", model=folder, trust_remote_code=trusted)
    rows = pipeline(texts, top_k=None)
    answers = [{each["label"]: each["score"] for each in row} for row in rows]
    said.append({"logits": logits.flatten().tolist(), "answers": answers})
assert not any(name.split(".")[0] == "bertcompress" for name in sys.modules)
print(json.dumps(said))
"""


def loaded_without_us(texts, *folders, trusted=False):
    call = [sys.executable, "-c", PLAIN, json.dumps(texts), json.dumps(trusted), *map(str, folders)]
    done = subprocess.run(call, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_plain_transformers_loads_it_and_answers_raw_strings(tokenizers, tmp_path):
    families, texts, before, after = ("bert", "roberta", "albert"), [*CORPUS[:6], UNSEEN[0]], [], []
    for family in families:
        whole = tokenizers[KIND_OF[family]]
        model = model_for(whole, family)
        before.append(logits(model, whole, texts[:6]).view(6, -1).softmax(-1))
        smaller = trim(model, whole, CORPUS)
        after.append(logits(model, smaller, texts))
        bc.save(model, tmp_path / family, smaller)
    said = loaded_without_us(texts, *(tmp_path / family for family in families))
    for each, old, new in zip(said, before, after, strict=True):
        assert torch.equal(torch.tensor(each["logits"]), new)
        for answers, row in zip(each["answers"], old, strict=False):
            given = [answers[f"LABEL_{i}"] for i in range(3)]
            assert given == pytest.approx(row.tolist(), abs=1e-6)


def test_unknown_characters_still_go_to_unknown(tokenizers):
    whole = tokenizers["wordpiece"]
    model = model_for(whole)
    smaller = trim(model, whole, CORPUS)
    assert smaller.unk_token_id in smaller("☃")["input_ids"]
    texts = [f"☃ {CORPUS[0]} ☃☃"]
    expected = logits(model_for(whole), whole, texts)
    assert torch.equal(logits(model, smaller, texts), expected)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (Vocabulary(2, [0, 1, 2]), "3 ids given for a size of 2"),
        (Vocabulary(0, []), "0 ids given"),
        (Vocabulary(3, [0, 2, 1]), "must rise"),
        (Vocabulary(3, [0, 1, 1]), "must rise"),
        (Vocabulary(2, [0, 29]), r"no token 29; the table has 0 to 28"),
        (Vocabulary(2, [-1, 0]), r"no token -1"),
        (Vocabulary(2, [1, 2]), "padding token 0 must stay"),
        (Vocabulary(30), r"no token 29"),
    ],
)
def test_an_impossible_edit_changes_nothing(bert, edit, message):
    before = answer(bert, tiny_inputs())
    with pytest.raises(ShapeError, match=message):
        apply_edit(bert, edit)
    assert not edited(bert)
    assert torch.equal(before, answer(bert, tiny_inputs()))


def test_the_record_holds_the_size_alone(bert):
    apply_edit(bert, Vocabulary(3, [0, 4, 9]))
    assert bert.config.bertcompress == {"format": 1, "edits": {"vocabulary": {"size": 3}}}


def test_model_and_tokenizer_must_belong_together(tokenizers):
    whole = tokenizers["wordpiece"]
    model = model_for(whole, vocab_size=50)
    with pytest.raises(ShapeError, match="no token"):
        bc.trim_vocabulary(model, whole, CORPUS)
    assert not edited(model)


def test_the_step_counts_training_texts_and_measures_on_selection(data, tokenizers, tmp_path):
    whole = tokenizers["wordpiece"]
    model = model_for(whole, num_labels=2)
    texts = data.train["text"][:]
    expected = logits(model, whole, texts[:30])
    unread = dataclasses.replace(data, validation=None)
    done = bc.TrimVocabulary(reserve=3).apply(Product(model, whole), context(unread, tmp_path))
    facts = done.findings.facts
    assert facts["tokens_before"] == len(whole)
    assert facts["tokens_after"] == len(done.tokenizer) == done.model.config.vocab_size
    parts = [facts[name] for name in ("special", "characters", "used", "reserve")]
    assert sum(parts) == facts["tokens_after"]
    assert parts[-1] == 3
    assert facts["changed_tokens_corpus"] == 0
    assert 0 <= facts["changed_tokens_unseen"] <= facts["changed_texts_unseen"] < 1
    assert facts["samples"] == len(data.train)
    assert torch.equal(logits(done.model, done.tokenizer, texts[:30]), expected)


def test_a_size_below_use_says_what_it_changes(data, tokenizers, tmp_path):
    whole = tokenizers["wordpiece"]
    step = bc.TrimVocabulary(size=120)
    facts = step.apply(Product(model_for(whole), whole), context(data, tmp_path)).findings.facts
    assert facts["tokens_after"] == 120
    assert 0 < facts["changed_tokens_corpus"] < facts["changed_texts_unseen"] <= 1
    with pytest.raises(RecipeError, match=r"size 9 is too small.*alone are \d+ tokens"):
        bc.TrimVocabulary(size=9).apply(Product(model_for(whole), whole), context(data, tmp_path))


def test_texts_that_are_cut_now_are_told(data, tokenizers, tmp_path):
    whole = tokenizers["wordpiece"]
    fitted = data.fitted(whole, 64)
    step = bc.TrimVocabulary(size=120)
    notes = step.apply(Product(model_for(whole), whole), context(fitted, tmp_path)).findings.notes
    assert any("rows of the selection split are cut at max_length" in note for note in notes)
    roomy = data._cut_at(60)
    notes = step.apply(Product(model_for(whole), whole), context(roomy, tmp_path)).findings.notes
    assert len(notes) == 1


def test_pairs_count_both_texts(tokenizers, tmp_path):
    texts = made_up_texts(1, 40)
    rows = {"a": texts, "b": made_up_texts(2, 40), "label": [i % 2 for i in range(40)]}
    other = {"a": UNSEEN[:9], "b": CORPUS[:9], "label": [0, 1, 0] * 3}
    sets = DatasetDict(train=Dataset.from_dict(rows), validation=Dataset.from_dict(other))
    data = load_data(Task.from_dataset(sets, text=["a", "b"], label="label"))
    whole = tokenizers["bpe"]
    done = bc.TrimVocabulary(reserve=0).apply(
        Product(model_for(whole, "roberta"), whole), context(data, tmp_path)
    )
    assert done.findings.facts["samples"] == 2 * len(data.train)
    assert done.findings.facts["changed_tokens_corpus"] == 0
    assert same_pieces(whole, done.tokenizer, data)


def test_another_corpus(data, tokenizers, tmp_path):
    whole = tokenizers["wordpiece"]
    path = tmp_path / "corpus.txt"
    path.write_text("\n\n".join(UNSEEN) + "\n", encoding="utf-8")
    step = bc.TrimVocabulary(corpus=str(path), reserve=0)
    done = step.apply(Product(model_for(whole), whole), context(data, tmp_path))
    assert done.findings.facts["samples"] == len(UNSEEN) + len(data.train)
    assert done.findings.facts["changed_tokens_corpus"] == 0
    assert same_pieces(whole, done.tokenizer, data)  # the training texts count too
    alone = bc.TrimVocabulary(reserve=0).apply(
        Product(model_for(whole), whole), context(data, tmp_path)
    )
    longer = [len(t.tokenize(" ".join(UNSEEN))) for t in (whole, done.tokenizer, alone.tokenizer)]
    assert longer[0] == longer[1] < longer[2]
    for content, error, message in (
        (None, NotFound, "cannot be read"),
        (b"\xff\xfe\x00", DataError, "not UTF-8"),
        (b" \n\n", DataError, "no line with text"),
    ):
        wrong = tmp_path / "wrong.txt"
        if content is not None:
            wrong.write_bytes(content)
        step = bc.TrimVocabulary(corpus=str(wrong))
        with pytest.raises(error, match=message):
            step.apply(Product(model_for(whole), whole), context(data, tmp_path))


def trimmed_student(data, tokenizers, workdir, **knobs):
    """A teacher with its tokenizer, and a copy of it with a trimmed one."""
    whole = tokenizers["wordpiece"]
    teacher = model_for(whole, num_labels=2)
    step = bc.TrimVocabulary(**{"reserve": 0, **knobs})
    student = step.apply(Product(copy.deepcopy(teacher), whole), context(data, workdir))
    return LiveTeacher(teacher, whole, data), student


def test_distilling_after_trimming_compares_the_same_tokens(data, tokenizers, tmp_path):
    teacher, student = trimmed_student(data, tokenizers, tmp_path)
    assert not same_tokens(teacher.tokenizer, student.tokenizer)
    assert same_pieces(teacher.tokenizer, student.tokenizer, data)
    ids = data.train["row_id"][:16]
    batch = {k: torch.as_tensor(v) for k, v in batch_of(student.tokenizer,
             data.train["text"][:16]).items()} | {"row_id": torch.as_tensor(ids)}  # fmt: skip
    objective = Distillation(
        teacher, label_weight=0, logit_weight=1, hidden_weight=1, same_tokens=False, aligned=True
    )
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
    outputs = student.model(**inputs, output_hidden_states=True)
    # The student is the teacher: in every token and layer there is nothing to learn.
    student.model.train()  # in eval mode it is judged by the logits alone
    assert objective(student.model, batch, outputs, 0).item() == pytest.approx(0, abs=1e-6)
    moved = {**outputs, "hidden_states": tuple(h + 1.0 for h in outputs["hidden_states"])}
    assert objective(student.model, batch, moved, 0).item() == pytest.approx(1, abs=1e-5)
    student.model.eval()
    assert objective(student.model, batch, moved, 0).item() == pytest.approx(0, abs=1e-6)
    quick = {"epochs": 1, "batch_size": 16, "precision": "fp32"}
    for knobs in ({}, {"cache_hidden_mb": 5.0}):
        product = Product(copy.deepcopy(student.model), student.tokenizer)
        workdir = tmp_path / f"distil-{len(knobs)}"
        done = bc.Distill(**quick, **knobs).apply(product, context(data, workdir, teacher))
        assert done.findings.facts["steps"] > 0


def test_without_labels_other_texts_may_be_cut_otherwise(tokenizers, tmp_path):
    """The selection split is judged by the loss, and trimming never counted its texts."""
    texts = [
        *made_up_texts(1, 60),
        *(f"{a} {b}" for a, b in zip(UNSEEN * 9, CORPUS * 9, strict=False)),
    ]
    rows = Dataset.from_dict({"text": texts})
    other = Dataset.from_dict({"text": made_up_texts(2, 9)})
    task = Task.from_dataset(DatasetDict(train=rows, validation=other), text="text")
    data = load_data(task)
    # Counted on one text only, so that whatever is judged is cut otherwise.
    few = dataclasses.replace(data, train=data.train.select(range(8)))
    whole = tokenizers["wordpiece"]
    teacher = model_for(whole, num_labels=2)
    start = Product(copy.deepcopy(teacher), whole)
    student = bc.TrimVocabulary(reserve=0).apply(start, context(few, tmp_path))
    assert not same_pieces(whole, student.tokenizer, few, "selection")
    live = LiveTeacher(teacher, whole, few)
    quick = {"epochs": 2, "batch_size": 4, "precision": "fp32"}
    done = bc.Distill(**quick).apply(student, context(few, tmp_path / "both", live))
    assert done.findings.facts["steps"] > 0
    with pytest.raises(ModelError, match="cut the texts differently"):
        bc.Distill(**quick, logit_weight=0).apply(student, context(few, tmp_path / "one", live))


def test_distilling_hidden_states_of_other_tokens_is_refused(data, tokenizers, tmp_path):
    teacher, student = trimmed_student(data, tokenizers, tmp_path, size=120)
    assert not same_pieces(teacher.tokenizer, student.tokenizer, data)
    quick = {"epochs": 1, "batch_size": 16, "precision": "fp32"}
    with pytest.raises(ModelError, match="cut the texts differently"):
        bc.Distill(**quick).apply(student, context(data, tmp_path, teacher))
    done = bc.Distill(**quick, hidden_weight=0).apply(student, context(data, tmp_path, teacher))
    assert done.findings.facts["steps"] > 0


def test_as_many_tokens_are_not_the_same_tokens():
    rows = Dataset.from_dict({"text": ["abc", "abc abc"] * 10, "label": [0, 1] * 10})
    new = Dataset.from_dict({"text": ["ab", "c"], "label": [0, 1]})
    sets = DatasetDict(train=rows, validation=new)
    data = load_data(Task.from_dataset(sets, text="text", label="label"))
    one = spelled("ab", "##c")
    assert same_pieces(one, spelled("##c", "ab"), data)
    assert not same_pieces(one, spelled("a", "##bc"), data)
    assert not same_pieces(one, spelled("abc"), data)


def test_the_function_refuses_one_batch_for_two_vocabularies(data, tokenizers, tmp_path):
    teacher, student = trimmed_student(data, tokenizers, tmp_path)
    with pytest.raises(ModelError, match=r"knows \d+ tokens and the teacher \d+"):
        bc.distill(student.model, teacher.model, [])


@pytest.mark.slow
def test_it_travels_with_its_source(tokenizers, tmp_path):
    """The working form of another shape loads by the shipped file alone."""
    whole = tokenizers["wordpiece"]
    model = cut("heads", model_for(whole))
    smaller = trim(model, whole, CORPUS)
    expected = logits(model, smaller, CORPUS[:4])
    bc.save(model, tmp_path, smaller)
    (said,) = loaded_without_us(CORPUS[:4], tmp_path, trusted=True)
    assert torch.equal(torch.tensor(said["logits"]), expected)


@pytest.mark.slow
def test_half_of_minilm_is_its_table(minilm, glue, tmp_path):
    data = load_data(Task.load("glue/sst2"), data_dir=glue)
    product = bc.load(minilm)
    texts = list(itertools.chain(data.train["text"][:2_000], ["☃ [MASK] naïve 東京"]))
    before = [product.tokenizer.tokenize(text) for text in texts]
    with torch.no_grad():
        batch = batch_of(product.tokenizer, texts[:8])
        expected = product.model(**batch).last_hidden_state
    done = bc.TrimVocabulary(reserve=0).apply(product, context(data, tmp_path))
    assert done.findings.facts["tokens_after"] == 13_485
    assert done.findings.facts["changed_tokens_corpus"] == 0
    assert [done.tokenizer.tokenize(text) for text in texts[:-1]] == before[:-1]
    folder = bc.save(done.model, tmp_path / "model", done.tokenizer)
    assert (folder / "model.safetensors").stat().st_size == pytest.approx(64.7e6, rel=0.01)
    loaded = bc.load(folder)
    with torch.no_grad():
        again = aligned(loaded.model)(**batch_of(loaded.tokenizer, texts[:8]))
    assert torch.equal(again.last_hidden_state, expected)
