"""Students: a shape of their own or another checkpoint, in place of the model that teaches them."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from test_starting import DISTILL, FINETUNE, TRAIN, letters, recipe, score, task, turned
from tests_support import (
    FAMILIES,
    answer,
    first_fast,
    tiny_inputs,
    tiny_model,
    tiny_tokenizer,
    write_rows,
)

import bertcompress as bc
from bertcompress.errors import ModelError, RecipeError
from bertcompress.methods.distillation.student import Student
from bertcompress.methods.pruning.structured import choose_layers
from bertcompress.runs.prepare import prepare
from bertcompress.shapes import ShapeError, anatomy, edited

pytestmark = pytest.mark.usefixtures("without_figures")

NAMES = {"num_labels": 2, "id2label": {0: "no", 1: "yes"}, "label2id": {"no": 0, "yes": 1}}
LEARNS = {"distill": {**TRAIN, "epochs": 4, "hidden_weight": 0.0}}
ALONE = {"measure": {"latency": False, "controls": False}}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Rows, and a model with a head for them, which nothing has trained."""
    place = tmp_path_factory.mktemp("students")
    write_rows(place / "train.csv", 240, 0, yes="yes", no="no")
    write_rows(place / "validation.csv", 60, 1, yes="yes", no="no")
    tiny_model("bert", "Model").save_pretrained(place / "bare")
    tiny_tokenizer().save_pretrained(place / "bare")
    bc.save(tiny_model(**NAMES), place / "tuned", tiny_tokenizer())
    return place


@pytest.fixture(scope="module")
def learned(place):
    """The same place, with a model that learned to read the rows."""
    run = bc.run(recipe(place, [FINETUNE], "bare"), place / "learned")
    assert score(run, 0) > 0.9
    return place


# Shapes. -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", first_fast(FAMILIES))
def test_layers_alone_are_evenly_spread_and_copied(family):
    model = tiny_model(family, num_labels=2)
    before = copy.deepcopy(model.state_dict())
    made = bc.student(model, 2)
    kept = bc.prune_layers(copy.deepcopy(model), [1])
    batch = tiny_inputs()
    assert choose_layers(3, 2) == [0, 2]
    assert torch.equal(answer(made, batch), answer(kept.eval(), batch))
    assert anatomy(made).depth == 2 and not edited(made)
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before), "the teacher stays"


@pytest.mark.parametrize("family", first_fast(FAMILIES))
def test_what_fits_is_copied_and_the_rest_is_drawn(family):
    model = tiny_model(family, num_labels=2)
    begun = Student(layers=2, intermediate_size=12).begin(model, 0)
    mine, theirs = anatomy(begun.model), anatomy(model)
    source = theirs.layers[0]
    for name in ("query", "attention_out"):  # layers 1 and 3 of three
        ours, other = (each.linears[name].module.weight for each in (mine.layers[0], source))
        assert torch.equal(ours, other)
    assert {layer.width for layer in mine.layers} == {12}
    heads = [dict(each.classifier.named_parameters()) for each in (begun.model, model)]
    assert all(torch.equal(tensor, heads[1][name]) for name, tensor in heads[0].items())
    table = mine.embeddings.word_table
    assert table is not None and torch.equal(table.weight, theirs.embeddings.word_table.weight)
    assert 0 < begun.copied < 1 and begun.has_head


def test_heads_of_another_size_are_not_copied():
    """The matrices have the same shape, and mean something else."""
    model = tiny_model(num_labels=2)
    begun = Student(layers=3, heads=2).begin(model, 1)
    ours, theirs = (anatomy(each).layers[0].linears for each in (begun.model, model))
    assert not torch.equal(ours["query"].module.weight, theirs["query"].module.weight)
    assert torch.equal(ours["ffn_in"].module.weight, theirs["ffn_in"].module.weight)


def test_a_narrow_student_keeps_the_size_of_its_heads_and_is_drawn_by_the_seed():
    model = tiny_model(num_labels=2)
    first, second, other = (Student(hidden_size=8).begin(model, seed) for seed in (0, 0, 1))
    view = anatomy(first.model)
    assert (view.hidden, view.layers[0].heads, view.head_size, view.layers[0].width) == (
        8,
        2,
        4,
        12,
    )
    assert first.copied == 0.0 and not first.has_head
    batch = tiny_inputs()
    assert torch.equal(answer(first.model, batch), answer(second.model, batch))
    assert not torch.equal(answer(first.model, batch), answer(other.model, batch))


def test_a_random_start_copies_no_layer_but_the_embeddings():
    model = tiny_model(num_labels=2)
    state = torch.random.get_rng_state()
    made = bc.student(model, 2, start="random")
    assert torch.equal(torch.random.get_rng_state(), state)
    ours, theirs = anatomy(made), anatomy(model)
    query = ours.layers[1].linears["query"].module.weight
    assert not any(
        torch.equal(query, each.linears["query"].module.weight) for each in theirs.layers
    )
    assert torch.equal(made.bert.embeddings.word_embeddings.weight,
                       model.bert.embeddings.word_embeddings.weight)  # fmt: skip
    assert bc.student(model, 5, start="random").config.num_hidden_layers == 5


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"layers": 4}, r"layers 4 of 3; with start: random"),
        ({"hidden_size": 6}, r"no multiple of the model's head size 4; give heads too"),
        ({"hidden_size": 8, "heads": 3}, r"8 cannot be divided over 3 heads"),
    ],
)
def test_a_shape_that_cannot_be_is_refused(knobs, words):
    with pytest.raises(ShapeError, match=words):
        Student(**knobs).check(tiny_model())


def test_a_cut_model_has_no_student_of_a_shape():
    model = bc.prune_heads(tiny_model(), [[0], [], []])
    with pytest.raises(ShapeError, match="was cut already"):
        bc.student(model, 2)


# Recipes. ----------------------------------------------------------------------------------------


def test_a_word_is_the_checkpoint_and_goes_with_no_shape():
    plain, spelt = (
        bc.Recipe.parse({"methods": [{"student": each}, "distill"]})
        for each in ("some/model", {"model": "some/model"})
    )
    assert plain == spelt and plain.methods[0].checkpoint == ("some/model", None)
    for knobs, words in (
        ({"model": "some/model", "layers": 3}, "layers: the checkpoint 'some/model' has its own"),
        ({"model": "some/model", "start": "random"}, "start: the checkpoint"),
        ({"revision": "main"}, "revision: of no model"),
    ):
        with pytest.raises(RecipeError, match=words):
            bc.Recipe.parse({"methods": [{"student": knobs}]})
    with pytest.raises(RecipeError, match="settings must be a mapping, got 'x'"):
        bc.Recipe.parse({"methods": [{"distill": "x"}]})


@pytest.mark.parametrize(
    ("methods", "words"),
    [
        (["share_layers", "student"], r"methods\[1\].student: .* what share_layers before it made"),
        (["student", "student"], r"methods\[1\].student: .* what student before it made"),
        (["student", "born_again"], r"methods\[1\].born_again: looks at the model as it came"),
        (["student", "mode_connectivity"], r"put mode_connectivity before student"),
    ],
)
def test_an_order_that_would_lose_something_is_refused(methods, words):
    with pytest.raises(RecipeError, match=words):
        bc.Recipe.parse({"methods": methods})


def test_a_student_of_a_shape_is_compared_with_its_teacher(place, tmp_path):
    """Report and card name both; sizes are against the teacher."""
    steps = [{"student": {"layers": 1}}, {"distill": {**LEARNS["distill"], "epochs": 1}}]
    run = bc.run(recipe(place, steps, "tuned"), tmp_path / "run")
    report = run.report
    assert [stage.method for stage in report.stages] == ["original", "student", "distill"]
    assert report.stages[0].baseline and report.stages[0].params > report.last.params
    assert report.last.controls[0].name == "labels alone, no teacher"
    notes = "\n".join(report.notes)
    assert "01-student: the student is 1 layer of 16 features, 4 heads and 24 neurons" in notes
    assert f"02-distill: taught by {place / 'tuned'}" in notes
    shape = "1 layer of 16 features, 4 heads and 24 neurons"
    assert report.title.startswith(f"{shape}, a student of {place / 'tuned'}, on ")
    card = (run.model / "README.md").read_text(encoding="utf-8")
    assert f"It is a student, {shape}, taught by tuned;" in card and str(place) not in card
    model = bc.load(run.model).model
    assert type(model).__name__ == "BertForSequenceClassification"
    assert model.config.num_hidden_layers == 1 and model.config.id2label == {0: "no", 1: "yes"}


@pytest.mark.slow
def test_a_student_that_nobody_taught_is_not_said_to_be_taught(place, tmp_path):
    sparse = {"gradual_magnitude": {**TRAIN, "epochs": 1}}  # on labels alone
    steps = [{"student": {"layers": 1}}, {"finetune": {**TRAIN, "epochs": 1}}, sparse]
    run = bc.run(recipe(place, steps, "tuned", **ALONE), tmp_path / "run")
    shape = "1 layer of 16 features, 4 heads and 24 neurons"
    assert run.report.title.startswith(f"{shape}, in place of {place / 'tuned'}, on ")
    card = (run.model / "README.md").read_text(encoding="utf-8")
    assert f"It is {shape}, trained without a teacher; the baseline" in card
    assert "taught by" not in card + "".join(run.report.notes)


@pytest.mark.slow
def test_a_student_of_a_shape_learns(learned, tmp_path):
    run = bc.run(recipe(learned, [{"student": {"layers": 1}}, LEARNS], "learned"), tmp_path / "run")
    assert score(run, 2) > 0.8


@pytest.fixture(scope="module")
def stranger(place):
    """A checkpoint of another family, with a tokenizer that makes a token of each letter."""
    tokenizer = letters()
    model = tiny_model(
        "distilbert", "ForMaskedLM", seed=3, vocab_size=len(tokenizer), max_position_embeddings=64
    )
    bc.save(model, place / "stranger", tokenizer)
    return place / "stranger"


@pytest.mark.slow
def test_a_student_of_another_family_and_tokenizer_learns_from_logits(learned, stranger, tmp_path):
    steps = [{"student": str(stranger)}, {"distill": {**LEARNS["distill"], "epochs": 8}}]
    files = (learned / "train.csv", learned / "validation.csv")
    free = bc.Task.from_files(*files, text="text", label="label")
    said: list[str] = []
    run = bc.run(
        recipe(learned, steps, "learned", task=free, **ALONE), tmp_path / "run", say=said.append
    )
    report = run.report
    assert [stage.method for stage in report.stages] == ["original", "student", "distill"]
    product = bc.load(run.model)
    assert product.model.config.model_type == "distilbert"
    assert product.tokenizer.get_vocab() == letters().get_vocab()
    notes = "\n".join(report.notes)
    assert f"the student is '{stranger}', a DistilBert of 3 layers, 16 features" in notes
    assert "its head is new" in notes
    assert any("the student's tokenizer differs: its max_length is" in line for line in said)
    assert report.task["max_length"] == max(_lengths(product.tokenizer, learned))
    assert score(run, 2) > score(run, 1) + 0.2, "it learned"
    card = (run.model / "README.md").read_text(encoding="utf-8")
    assert "It is a student, stranger, taught by learned;" in card and str(learned) not in card
    again = bc.run(recipe(learned, steps, "learned", task=free, **ALONE), tmp_path / "again")
    assert again.report.last.cost.reused, "a student's stage is found again"


def _lengths(tokenizer, place) -> list[int]:
    rows = [line.rsplit(",", 1)[0] for file in ("train.csv", "validation.csv")
            for line in (place / file).read_text().splitlines()[1:]]  # fmt: skip
    longest = max(len(ids) for ids in tokenizer(rows)["input_ids"])
    return [-(-longest // 8) * 8]


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ({"distill": {"epochs": 1, "hidden_weight": 1.0}}, "set hidden_weight to 0"),
        ({"minilm": {"epochs": 1}}, "set attention_weight and relation_weight to 0"),
    ],
)
def test_terms_that_need_the_same_tokens_refuse_another_tokenizer(method, words, place, stranger):
    steps = [FINETUNE, {"student": str(stranger)}, method]
    with pytest.raises(ModelError, match=rf"methods\[2\].*{words}"):
        prepare(recipe(place, steps, "bare"), None, lambda _: None)


def test_so_does_a_cut_model_with_a_named_teacher_of_another_tokenizer(place, stranger):
    """It failed once the fine-tuning and the cut were paid for."""
    teacher = place / "letters"
    product = bc.load(stranger)
    bc.save(tiny_model(**NAMES, vocab_size=len(product.tokenizer)), teacher, product.tokenizer)
    steps = [
        FINETUNE,
        {"prune_structured": {"keep": 0.5}},
        {"distill": {"epochs": 1, "hidden_weight": 1.0}},
    ]
    refused = recipe(place, steps, "bare", teacher=str(teacher))
    with pytest.raises(ModelError, match=r"methods\[2\].*set hidden_weight to 0"):
        prepare(refused, None, lambda _: None)


def test_a_layer_that_the_teacher_has_not_is_refused_first(place):
    steps = [
        FINETUNE,
        {"prune_structured": {"keep": 0.5}},
        {"minilm": {"epochs": 1, "relation_layer": 13}},
    ]
    with pytest.raises(RecipeError, match="minilm: relation_layer: 13; the teacher has 3 layers"):
        prepare(recipe(place, steps, "bare"), None, lambda _: None)


@pytest.mark.slow
def test_a_student_with_the_tokenizer_of_its_teacher_learns_hidden_states(place, tmp_path):
    wide = tiny_model("bert", "Model", seed=5, hidden_size=8, num_hidden_layers=2)
    bc.save(wide, tmp_path / "narrow", tiny_tokenizer())
    steps = [
        {"student": str(tmp_path / "narrow")},
        {"minilm": {**TRAIN, "inside_epochs": 1, "epochs": 1}},
    ]
    run = bc.run(recipe(place, steps, "tuned", **ALONE), tmp_path / "run")
    assert run.report.last.method == "minilm" and not edited(bc.load(run.model).model)


@pytest.mark.slow
def test_classes_of_a_trained_student_are_aligned_by_their_names(place, tmp_path):
    """Its outputs stand in another order than the model's."""
    turned(place, "other-order", {0: "yes", 1: "no"})
    steps = [{"student": str(place / "other-order")}, {**DISTILL}]
    run = bc.run(recipe(place, steps, "tuned", **ALONE), tmp_path / "run")
    assert "its head is for these classes" in "\n".join(run.report.notes)
    stages = run.folder / "stages"
    ours, theirs = (
        np.load(stages / name / "logits.npz")["torch-fp32-validation"]
        for name in ("01-student", "00-original")
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert bc.load(run.model).model.config.id2label == {0: "no", 1: "yes"}


def test_a_head_for_other_classes_is_new(place, tmp_path):
    other = tiny_model(num_labels=2, id2label={0: "up", 1: "down"}, label2id={"up": 0, "down": 1})
    with torch.no_grad():
        other.classifier.weight.fill_(7.0)
    bc.save(other, tmp_path / "other", tiny_tokenizer())
    start = recipe(place, [{"student": str(tmp_path / "other")}, DISTILL], "tuned")
    product = start.methods[0].other_model(
        bc.load(place / "tuned"), bc.load_data(task(place)), seed=0
    )
    assert product.model.config.id2label == {0: "no", 1: "yes"}
    assert product.model.classifier.weight.abs().max() < 5
    assert "its head is new" in product.findings.notes[0]


def test_a_student_that_cannot_read_the_texts_is_refused_at_the_start(place, tmp_path):
    short = tiny_model("bert", "Model", max_position_embeddings=12)
    bc.save(short, tmp_path / "short", tiny_tokenizer())
    steps = [{"student": str(tmp_path / "short")}, LEARNS]
    with pytest.raises(ModelError, match=r"max_length 24 is beyond the position table of student"):
        prepare(recipe(place, steps, "tuned"), None, lambda _: None)


@pytest.mark.slow
def test_a_named_teacher_teaches_a_named_student(place, stranger, tmp_path):
    """A plainly fine-tuned sibling is one of finetune after the student."""
    steps = [{"student": str(stranger)}, {"finetune": {**TRAIN, "epochs": 1}}, DISTILL]
    start = recipe(place, steps, "tuned", teacher=str(place / "tuned"), **ALONE)
    run = bc.run(start, tmp_path / "run")
    assert [s.method for s in run.report.stages] == ["original", "student", "finetune", "distill"]


@pytest.mark.slow
def test_the_int8_of_the_baseline_reads_as_the_baseline_does(learned, stranger, tmp_path):
    pytest.importorskip("onnxruntime")
    steps = [
        {"student": str(stranger)},
        {**DISTILL},
        {"quantize_int8": {"runtimes": ["onnxruntime"]}},
    ]
    files = (learned / "train.csv", learned / "validation.csv")
    free = bc.Task.from_files(*files, text="text", label="label")
    timed = {"latency": True, "controls": False, "seconds": 0.2, "shapes": [[1, 16]], "threads": 1}
    run = bc.run(recipe(learned, steps, "learned", task=free, measure=timed), tmp_path / "run")
    dense = [row for row in run.report.reference.deployments if row.precision == "int8"]
    assert dense and dense[0].headline.value > 0.85, "as the model reads it"
    assert {row.precision for row in run.report.last.deployments} >= {"fp32", "int8"}
    assert all(row.latency for row in run.report.last.deployments)


def test_a_regression_student_of_its_own_width_answers_in_the_targets_unit(place, tmp_path):
    for name, seed in (("train", 0), ("validation", 1)):
        write_rows(tmp_path / f"{name}.csv", 80, seed, yes="101", no="99")
    files = (tmp_path / "train.csv", tmp_path / "validation.csv")
    numbers = bc.Task.from_files(*files, text="text", label="label", problem="regression")
    data = bc.load_data(numbers)
    model = tiny_model(num_labels=1)
    made = Student(hidden_size=8).other_model(
        bc.load(bc.save(model, tmp_path / "model", tiny_tokenizer())), data, 0
    )
    assert answer(made.model, tiny_inputs()).mean() == pytest.approx(100, abs=5)
