"""Distilling as a stage and as a function; its control; teachers with another tokenizer."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from datasets import Dataset, DatasetDict
from tests_support import tiny_model, tiny_tokenizer
from torch.utils.data import DataLoader
from training_support import toy_data, toy_rows

from bertcompress.data import load_data
from bertcompress.deployment import Product
from bertcompress.engines.distillation import teachers
from bertcompress.engines.distillation.settings import WITHOUT_TEACHER
from bertcompress.engines.distillation.teachers import LiveTeacher
from bertcompress.errors import DataError, ModelError, RecipeError
from bertcompress.method import Context, Models
from bertcompress.methods.distillation.distill import Distill, distill
from bertcompress.task import Task

QUICK = {"epochs": 2, "batch_size": 8, "learning_rate": 2e-3, "precision": "fp32"}


@pytest.fixture(scope="module")
def data():
    return toy_data()


def stage(method, data, workdir, teacher=None, model=None, tokenizer=None):
    product = Product(model or tiny_model(num_labels=2), tokenizer or tiny_tokenizer())
    device = torch.device("cpu")
    return method.apply(product, Context(data.task, data, Models(teacher), device, 3, workdir))


def damaged(model, noise=0.1):
    """A copy with noise on its matrices: what a student after a cut is to its teacher."""
    student = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in student.parameters():
            p.add_(torch.randn(p.shape, generator=generator), alpha=noise if p.ndim > 1 else 0)
    return student


def teacher_of(data, tokenizer=None, **shape):
    model = tiny_model(seed=8, num_labels=2, **shape)
    return LiveTeacher(model, tokenizer or tiny_tokenizer(), data)


@torch.no_grad()
def gap(model, teacher, batch):
    return float((model.eval()(**batch).logits - teacher(**batch).logits).abs().mean())


def test_student_approaches_the_teacher(tmp_path):
    data = toy_data("unlabelled")  # so that the best step is the one nearest to the teacher
    teacher = teacher_of(data)
    student = damaged(teacher.model)
    rows = data.encode(tiny_tokenizer(), "train")[:64]
    batch = tiny_tokenizer().pad({"input_ids": rows["input_ids"]}, return_tensors="pt")
    before = gap(student, teacher.model, batch)
    method = Distill(**QUICK | {"epochs": 10})
    done = stage(method, data, tmp_path, teacher, student)
    assert gap(done.model, teacher.model, batch) < 0.7 * before
    assert {p.name for p in tmp_path.iterdir()} <= {"training"}  # until the stage is written
    json.dumps(done.findings.facts)


def test_control_is_the_same_training_without_a_teacher(data, tmp_path):
    method = Distill(**QUICK)
    control = method.controls()[WITHOUT_TEACHER]
    changed = {k for k, v in control if v != getattr(method, k)}
    assert changed == {"label_weight", "logit_weight", "hidden_weight"}
    assert (control.label_weight, control.logit_weight, control.hidden_weight) == (1, 0, 0)

    def never(*_):
        raise AssertionError("the control asked a teacher")

    alone = stage(control, data, tmp_path / "a", never)
    taught = stage(method, data, tmp_path / "b", teacher_of(data))
    assert alone.findings.facts["steps"] == taught.findings.facts["steps"]
    assert alone.findings.facts["samples"] == taught.findings.facts["samples"]


@pytest.mark.parametrize(
    ("knobs", "asked_live"),
    [({}, True), ({"hidden_weight": 0.0}, False), ({"cache_hidden_mb": 5.0}, False)],
)
def test_answers_are_kept_where_nothing_has_to_be_asked_live(
    data, tmp_path, monkeypatch, knobs, asked_live
):
    teacher = teacher_of(data)
    forwards = []
    monkeypatch.setattr(
        teachers, "forward", lambda *a, f=teachers.forward: forwards.append(1) or f(*a)
    )
    method = Distill(**QUICK | knobs)
    stage(method, data, tmp_path, teacher)
    batches = 2 * -(-len(data.train) // 8)
    assert (len(forwards) >= batches) is asked_live
    assert {p.name for p in tmp_path.iterdir()} <= {"training"}  # until the stage is written


def test_cached_and_live_hidden_states_train_alike(data, tmp_path):
    live = stage(Distill(**QUICK), data, tmp_path / "a", teacher_of(data))
    method = Distill(**QUICK, cache_hidden_mb=5.0)
    cached = stage(method, data, tmp_path / "b", teacher_of(data))
    moved = torch.cat([p.flatten() for p in live.model.parameters()])
    again = torch.cat([p.flatten() for p in cached.model.parameters()])
    start = torch.cat([p.flatten() for p in tiny_model(num_labels=2).parameters()])
    assert (moved - again).norm() < 0.1 * (moved - start).norm()  # half precision


def test_other_width_and_depth(data, tmp_path):
    teacher = teacher_of(data, hidden_size=24, num_hidden_layers=4)
    done = stage(
        Distill(**QUICK), data, tmp_path, teacher, tiny_model(num_labels=2, num_hidden_layers=2)
    )
    assert done.findings.facts["steps"] == 2 * -(-len(data.train) // 8)


def test_other_vocabulary_is_clear_about_hidden_states(data, tmp_path):
    other = tiny_tokenizer()
    other.add_tokens(["leeps"])
    teacher = teacher_of(data, tokenizer=other, vocab_size=len(other))
    with pytest.raises(ModelError, match="different vocabularies or prompts and cut the texts"):
        stage(Distill(**QUICK), data, tmp_path, teacher)
    done = stage(Distill(**QUICK, hidden_weight=0.0), data, tmp_path, teacher)
    assert done.findings.selection_score is not None


@pytest.mark.parametrize("cache_hidden_mb", [0.0, 5.0])
def test_a_teacher_of_pairs_is_given_the_segments_that_its_tokenizer_tells(
    tmp_path, monkeypatch, cache_hidden_mb
):
    """A BERT teaches a DistilBERT of the same vocabulary, whose tokenizer tells no segments."""
    sets = DatasetDict()
    for seed, name in enumerate(("train", "validation")):
        first, second = toy_rows(24, seed=seed), toy_rows(24, seed=seed + 2)
        pairs = {"a": first["text"], "b": second["text"], "label": first["label"]}
        sets[name] = Dataset.from_dict(pairs)
    data = load_data(Task.from_dataset(sets, text=["a", "b"], label="label"))
    telling = tiny_tokenizer()
    telling.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    teacher = teacher_of(data, telling)
    answer, segments = teacher.answer, []

    def asked(batch, needs=frozenset()):
        segments.append(int(batch["token_type_ids"].max()))
        return answer(batch, needs)

    monkeypatch.setattr(teacher, "answer", asked)
    method = Distill(**QUICK | {"epochs": 1, "cache_hidden_mb": cache_hidden_mb})
    stage(method, data, tmp_path, teacher, tiny_model("distilbert", num_labels=2))
    assert segments and set(segments) == {1}


def test_without_labels(tmp_path):
    data = toy_data("unlabelled")
    done = stage(Distill(**QUICK), data, tmp_path, teacher_of(data))
    assert done.findings.selection_score < 0  # the negative loss
    with pytest.raises(DataError, match="no labels"):
        stage(Distill(**QUICK).controls()[WITHOUT_TEACHER], data, tmp_path / "control")


def test_needs_a_teacher(data, tmp_path):
    with pytest.raises(RecipeError, match="no teacher"):
        stage(Distill(), data, tmp_path)


def test_function_on_the_users_own_models():
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 20, (64, 6), generator=generator)
    rows = [{"input_ids": i, "attention_mask": torch.ones_like(i)} for i in ids]
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    teacher = tiny_model(seed=8, num_labels=2, **still)
    student, batch = damaged(teacher, 0.05), {"input_ids": ids}
    before = gap(student, teacher, batch)
    knobs = {"epochs": 30, "learning_rate": 2e-3, "precision": "fp32"}
    made = distill(student, teacher, DataLoader(rows, 16), **knobs)
    assert made is student and gap(student, teacher, batch) < 0.6 * before
