"""`pkd`, `tinybert`, `minilm`: rows over `distill`, their parts, controls, and a run of each."""

from __future__ import annotations

import copy

import pytest
import torch
from pydantic import ValidationError
from test_training import batches
from tests_support import answer, first_fast, tiny_inputs, tiny_model, tiny_tokenizer, write_rows
from training_support import toy_data

import bertcompress as bc
from bertcompress.deployment import Product
from bertcompress.engines.distillation import teachers
from bertcompress.engines.distillation.settings import LABELS_ONLY, WITHOUT_TEACHER
from bertcompress.engines.distillation.teachers import LiveTeacher
from bertcompress.errors import ModelError, RecipeError
from bertcompress.method import Context, Models
from bertcompress.methods import method_class
from bertcompress.methods.distillation.distill_inside import MiniLM, TinyBert
from bertcompress.shapes import Layers, apply_edit

pytestmark = pytest.mark.usefixtures("without_figures")

QUICK = {"epochs": 1, "batch_size": 8, "learning_rate": 2e-3, "precision": "fp32"}
KEYS = ["pkd", "tinybert", "minilm"]
TWICE = ["tinybert", "minilm"]
CUT = {"prune_structured": {"keep": 0.5}}


@pytest.fixture(scope="module")
def data():
    return toy_data()


def cut(seed=8):
    """A teacher, and a student of its lowest layers."""
    teacher = tiny_model(seed=seed, num_labels=2)
    student = copy.deepcopy(teacher)
    apply_edit(student, Layers([0, 2]))
    return teacher, student


def stage(method, data, workdir, teacher, student):
    live = LiveTeacher(teacher, tiny_tokenizer(), data) if teacher is not None else None
    context = Context(data.task, data, Models(live), torch.device("cpu"), 3, workdir)
    return method.apply(Product(student, tiny_tokenizer()), context)


def method_of(key, **knobs):
    extra = {"inside_epochs": 1} if key in TWICE else {}
    return method_class(key)(**QUICK | extra | knobs)


@pytest.mark.parametrize("key", KEYS)
def test_a_stage_trains_and_leaves_the_teacher(data, tmp_path, key):
    teacher, student = cut()
    before, held = answer(student, tiny_inputs()), copy.deepcopy(teacher.state_dict())
    done = stage(method_of(key), data, tmp_path, teacher, student)
    assert not torch.equal(answer(done.model, tiny_inputs()), before)
    assert all(torch.equal(held[name], t) for name, t in teacher.state_dict().items())
    assert done.findings.selection_score is not None


@pytest.mark.slow
@pytest.mark.parametrize("key", TWICE)
def test_both_parts_are_paid_for(data, tmp_path, key):
    one = stage(method_of(key, inside_epochs=0), data, tmp_path / "a", *cut())
    two = stage(method_of(key), data, tmp_path / "b", *cut())
    assert two.findings.steps == 2 * one.findings.steps
    assert two.findings.training.samples == 2 * one.findings.training.samples


@pytest.mark.parametrize("key", KEYS)
def test_the_control_is_the_labels_alone_at_all_steps(data, tmp_path, key):
    method = method_of(key)
    control = method.controls()[WITHOUT_TEACHER]
    assert control.labels_only and control.label_weight == 1

    def never(*_):
        raise AssertionError("the control asked a teacher")

    _, student = cut()
    context = Context(data.task, data, Models(never), torch.device("cpu"), 3, tmp_path)
    done = control.apply(Product(student, tiny_tokenizer()), context)
    assert done.findings.steps


@pytest.mark.parametrize("method", [TinyBert, MiniLM])
def test_the_first_part_is_what_is_inside_and_the_last_answers(method):
    first, last = method(inside_epochs=2).parts()
    assert (first.label_weight, first.logit_weight, first.epochs) == (0, 0, 2)
    assert (first.relation_weight, first.attention_weight) != (0, 0)
    inside = [name for name in LABELS_ONLY if name not in ("label_weight", "logit_weight")]
    assert not any(getattr(last, name) for name in inside)
    assert (last.label_weight, last.logit_weight) == (
        method().label_weight,
        method().logit_weight,
    )


def test_relations_alone_serve_texts_without_labels(tmp_path):
    data = toy_data("unlabelled")
    teacher, student = cut()
    done = stage(method_of("minilm"), data, tmp_path, teacher, student)
    scores = [entry["score"] for entry in done.findings.history if "score" in entry]
    assert done.findings.steps and (not scores or scores[-1] >= scores[0])


def test_the_training_that_is_left_without_labels_is_as_long_as_was_asked_for(tmp_path):
    data = toy_data("unlabelled", rows=40)
    method = method_of("minilm", epochs=None, max_steps=3, inside_epochs=2, evaluation_steps=2)
    done = stage(method, data, tmp_path, *cut())
    assert done.findings.steps == 3
    assert [entry["step"] for entry in done.findings.history] == [2, 3]
    assert (done.findings.ended["setting"], done.findings.ended["value"]) == ("max_steps", 3)


def test_labels_and_logits_of_no_weight_leave_what_is_inside(data, tmp_path):
    knobs = {"epochs": None, "max_steps": 2, "label_weight": 0.0}
    assert stage(method_of("minilm", **knobs), data, tmp_path, *cut()).findings.steps == 2


@pytest.mark.parametrize(
    ("key", "weights"),
    [("minilm", ["relation_weight"]), ("tinybert", ["hidden_weight", "attention_weight"])],
)
def test_a_first_part_that_would_learn_nothing_is_refused(key, weights):
    nothing = dict.fromkeys(weights, 0)
    with pytest.raises(RecipeError, match=f"{key}: inside_epochs: nothing inside the teacher"):
        bc.Recipe.parse({"methods": ["finetune", CUT, {key: nothing}]})
    bc.Recipe.parse({"methods": ["finetune", CUT, {key: {**nothing, "inside_epochs": 0}}]})


@pytest.mark.parametrize("key", KEYS)
def test_the_function_does_the_same_in_place(key):
    teacher, student = cut()
    out = getattr(bc, key)(
        student, teacher, batches(16), **QUICK | ({"inside_epochs": 1} if key in TWICE else {})
    )
    assert out is student


def test_a_narrow_student_needs_no_projection_for_relations(data, tmp_path):
    teacher = tiny_model(seed=8, num_labels=2)
    student = tiny_model(num_labels=2, hidden_size=24, num_attention_heads=2)
    objective = method_of("minilm").parts()[0].stage_objective(
        Product(student, tiny_tokenizer()),
        Context(data.task, data, Models(LiveTeacher(teacher, tiny_tokenizer(), data)),
                torch.device("cpu"), 0, tmp_path),
    )  # fmt: skip
    assert objective.project is None and objective.parameter_groups() == []
    stage(method_of("minilm"), data, tmp_path / "a", teacher, student)


@pytest.mark.parametrize("key", TWICE)
def test_kept_relations_train_as_live_ones_and_ask_nobody(data, tmp_path, monkeypatch, key):
    """Of the first part, which compares what is inside; also after the training was begun again."""
    first = method_of(key).parts()[0].model_copy(update={"inside_epochs": 0.0})
    live = stage(first, data, tmp_path / "a", *cut())
    forwards = []
    forward = teachers.forward
    monkeypatch.setattr(teachers, "forward", lambda *a: forwards.append(1) or forward(*a))
    kept = first.model_copy(update={"cache_hidden_mb": 5.0})
    cached = stage(kept, data, tmp_path / "b", *cut())
    filled = -(-len(data.train) // 32) + -(-len(data.selection) // 32) + 1
    assert 0 < len(forwards) <= filled
    again = len(forwards)
    stage(kept, data, tmp_path / "b", *cut())
    # The projection of hidden states asks for a width; nothing else is computed anew.
    assert len(forwards) == again
    moved, other, start = (
        torch.cat([p.flatten() for p in each.parameters()])
        for each in (live.model, cached.model, cut()[1])
    )
    assert (moved - other).norm() < 0.1 * (moved - start).norm()  # half precision


def test_bad_settings_are_refused(data, tmp_path):
    with pytest.raises(ValidationError, match="relations"):
        MiniLM(relations=["queries"])
    with pytest.raises(RecipeError, match="relation_layer: 9; the teacher has 3 layers"):
        stage(method_of("minilm", relation_layer=9), data, tmp_path, *cut())
    other = tiny_tokenizer()
    other.add_tokens(["very old", "good the"])  # the texts are cut otherwise
    teacher = LiveTeacher(tiny_model(num_labels=2, vocab_size=len(other)), other, data)
    context = Context(data.task, data, Models(teacher), torch.device("cpu"), 0, tmp_path / "b")
    with pytest.raises(ModelError, match="do not align"):
        method_of("minilm").apply(Product(cut()[1], tiny_tokenizer()), context)


@pytest.mark.parametrize("key", first_fast(KEYS))
def test_a_run_has_the_row_beside_its_control(tmp_path, key):
    tiny_model("bert", "Model").save_pretrained(tmp_path / "bert")
    tiny_tokenizer().save_pretrained(tmp_path / "bert")
    for name, rows, seed in (("train", 120, 0), ("validation", 40, 1)):
        write_rows(tmp_path / f"{name}.csv", rows, seed, yes="yes", no="no")
    files = tmp_path / "train.csv", tmp_path / "validation.csv"
    recipe = bc.Recipe.parse(
        {
            "model": str(tmp_path / "bert"),
            "task": bc.Task.from_files(*files, text="text", label="label"),
            "methods": [
                {"finetune": QUICK},
                {"prune_structured": {"keep_layers": 2, "keep": 1.0}},
                {key: method_of(key).model_dump(exclude_defaults=True)},
            ],
            "measure": {"latency": False},
        }
    )
    run = bc.run(recipe, tmp_path / "run")
    assert [control.name for control in run.report.last.controls] == [WITHOUT_TEACHER]
    assert bc.load(run.folder).model.config.num_hidden_layers == 2
