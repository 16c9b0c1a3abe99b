"""`gradual_magnitude`: the zeros that were asked for, its control, and what a run says of it."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from pydantic import ValidationError
from test_runs import TRAIN, recipe
from test_training import batches
from tests_support import answer, tiny_inputs, tiny_model, tiny_tokenizer, write_rows
from training_support import toy_data
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification

import bertcompress as bc
from bertcompress.deployment import Product
from bertcompress.engines.distillation.teachers import LiveTeacher
from bertcompress.engines.sparsity.gradual import maskable
from bertcompress.errors import Notice, RecipeError
from bertcompress.method import Context, Models
from bertcompress.methods.sparsity.sparse_training import GradualMagnitude
from bertcompress.models.io import rung
from bertcompress.shapes import (
    Layers,
    Masked,
    ShapeError,
    apply_edit,
    edited,
    imitates,
    read_record,
)

QUICK = {"epochs": 2, "batch_size": 8, "learning_rate": 2e-3, "precision": "fp32"}


pytestmark = pytest.mark.usefixtures("without_figures")


@pytest.fixture(scope="module")
def data():
    return toy_data()


@pytest.fixture
def place(tmp_path):
    """A folder with a model without head, and rows to train and to validate on."""
    tiny_model("bert", "Model").save_pretrained(tmp_path / "bert")
    tiny_tokenizer().save_pretrained(tmp_path / "bert")
    for name, rows, seed in (("train", 240, 0), ("validation", 60, 1)):
        write_rows(tmp_path / f"{name}.csv", rows, seed, yes="yes", no="no")
    return tmp_path


def stage(data, workdir, model=None, **knobs):
    model = model or tiny_model(num_labels=2)
    teacher = LiveTeacher(copy.deepcopy(model), tiny_tokenizer(), data)
    context = Context(data.task, data, Models(teacher), torch.device("cpu"), 0, workdir)
    return GradualMagnitude(**QUICK | knobs).apply(Product(model, tiny_tokenizer()), context)


def zeros(model):
    return {name: int((w == 0).sum()) for name, w in maskable(model).items()}


@pytest.mark.parametrize("scope", ["matrix", "model"])
@pytest.mark.parametrize("sparsity", [0.3, 0.9])
def test_exactly_so_many_weights_are_zero(data, tmp_path, scope, sparsity):
    done = stage(data, tmp_path, sparsity=sparsity, scope=scope)
    sizes = {name: w.numel() for name, w in maskable(done.model).items()}
    counted = zeros(done.model)
    if scope == "matrix":
        assert counted == {name: round(sparsity * size) for name, size in sizes.items()}
    else:
        assert len({counted[name] / size for name, size in sizes.items()}) > 1
    assert sum(counted.values()) == done.findings.free["zeros"]
    assert sum(counted.values()) == pytest.approx(sparsity * sum(sizes.values()), abs=len(sizes))
    record = read_record(done.model.config)["masked"].density
    assert record == {name: 1 - counted[name] / size for name, size in sizes.items()}
    assert imitates(done.model)
    assert done.findings.selection_score is None and "no faster" in done.findings.notes[0]


def test_the_dense_control_trains_the_same_steps_and_leaves_no_edit(data, tmp_path):
    method = GradualMagnitude(**QUICK, logit_weight=0.5)
    words, others = zip(*method.controls().items(), strict=True)
    assert words == ("the same steps, dense", "labels alone, no teacher")
    assert others[0] == method.model_copy(update={"sparsity": 0.0})
    sparse, dense = stage(data, tmp_path / "a"), stage(data, tmp_path / "b", sparsity=0.0)
    assert sparse.findings.steps == dense.findings.steps
    assert not edited(dense.model) and not any(zeros(dense.model).values())
    assert GradualMagnitude(sparsity=0).controls() == {}


def test_it_learns_at_half_the_weights(data, tmp_path):
    done = stage(data, tmp_path, epochs=12)
    assert done.findings.history[-1]["eval_selection"] > 0.8


def test_zeros_grow_from_zeros_and_nothing_less_is_taken(data, tmp_path):
    first = stage(data, tmp_path / "a", sparsity=0.5)
    held = {name: w == 0 for name, w in maskable(first.model).items()}
    with pytest.raises(ShapeError, match="more than 30% is zero already"):
        GradualMagnitude(sparsity=0.3).check(first.model)
    odd = tiny_model()  # 0.3 of 256 weights are 76.8, so that 77 are zero
    GradualMagnitude(sparsity=0.3).plan_shape(odd)
    shares = {name: 1 - round(0.3 * w.numel()) / w.numel() for name, w in maskable(odd).items()}
    assert min(shares.values()) < 0.7
    apply_edit(odd, Masked(shares))
    GradualMagnitude(sparsity=0.3).check(odd)
    second = stage(data, tmp_path / "b", first.model, sparsity=0.8)
    assert all((maskable(second.model)[name][z] == 0).all() for name, z in held.items())
    assert zeros(second.model) == {
        name: round(0.8 * w.numel()) for name, w in maskable(second.model).items()
    }


@pytest.mark.parametrize("taught", [False, True])
def test_the_function_does_the_same_without_a_recipe(taught, tmp_path):
    model = tiny_model(num_labels=2)
    teacher = tiny_model(num_labels=2, seed=3) if taught else None
    knobs = {"precision": "fp32", "epochs": 2, "teacher": teacher}
    made = bc.gradual_magnitude(model, batches(8), 0.75, **knobs)
    assert made is model and not model.training
    assert set(read_record(model.config)["masked"].density.values()) == {0.25}
    bc.save(model, tmp_path, tiny_tokenizer(), convert=False)
    back = bc.load(tmp_path).model
    assert torch.equal(answer(back, tiny_inputs()), answer(model, tiny_inputs()))


def test_the_ramp_fits_into_any_number_of_steps():
    method = GradualMagnitude()
    for steps in (1, 2, 3, 10, 99, 1_000, 100_000):
        ramp = method.ramp(steps)
        assert 0 <= ramp.begin < ramp.end <= steps
        assert ramp.sparsity_at(ramp.end) == 0.5 and ramp.changes_at(ramp.end)
    ramp = method.ramp(10_000)
    assert (ramp.begin, ramp.end, ramp.every) == (1_000, 7_000, 100)
    assert method.ramp(100).every == 6


REFUSED = [
    ({"patience": 2}, "nothing stops early while weights become zero"),
    ({"max_minutes": 2}, "nothing stops early while weights become zero"),
    ({"begin": 0.5, "end": 0.5}, "begin 0.5 is not before end 0.5"),
    ({"sparsity": 1.0}, "less than 1"),
]


@pytest.mark.parametrize(("knobs", "words"), REFUSED, ids=["stale", "late", "ramp", "all"])
def test_settings_that_would_miss_the_sparsity_are_refused(knobs, words):
    with pytest.raises(ValidationError, match=words):
        GradualMagnitude(**knobs)


def test_a_change_of_shape_comes_before_it():
    steps = ["finetune", {"gradual_magnitude": {}}, {"flop": {"keep": 0.5}}]
    words = r"methods\[2\].flop: gradual_magnitude before it leaves weights at zero.*put flop first"
    with pytest.raises(RecipeError, match=words):
        bc.Recipe.parse({"model": "a/b", "task": "embedded", "methods": steps})
    steps[1] = {"gradual_magnitude": {"sparsity": 0.0}}
    bc.Recipe.parse({"model": "a/b", "task": "embedded", "methods": steps})
    shape = tiny_model()
    GradualMagnitude().plan_shape(shape)
    with pytest.raises(ShapeError, match="layers: weights are zero already"):
        apply_edit(shape, Layers([0]))


def test_a_run_keeps_the_sparse_model_beside_its_dense_control(place, tmp_path):
    """However much better the control is: it has twice the weights."""
    steps = [{"finetune": {**TRAIN, "epochs": 3}}, {"gradual_magnitude": {**TRAIN, "epochs": 2}}]
    run = bc.run(recipe(place, steps), tmp_path / "run", say=lambda _: None)
    stages = run.folder / "stages"
    ours, theirs = (
        json.loads((stages / name / "stage.json").read_text())
        for name in ("02-gradual_magnitude", "02-gradual_magnitude-control")
    )
    last = run.report.last
    assert last.name == "02-gradual_magnitude"
    assert [row.simulated for row in last.deployments] == [True]
    page = (run.folder / "report.md").read_text()
    assert "torch fp32 (simulated)" in page and "the same steps, dense" in page
    assert "no smaller and no faster here" in page
    assert ours["findings"]["training"]["steps"] == theirs["findings"]["training"]["steps"]
    model = bc.load(stages / "02-gradual_magnitude" / "model").model
    assert set(read_record(model.config)["masked"].density.values()) == {0.5}
    shipped = bc.load(run.folder / "model").model
    assert zeros(shipped) == zeros(model) and rung(shipped)[0] == 1
    assert read_record(shipped.config) == read_record(model.config)
    plain = AutoModelForSequenceClassification.from_pretrained(run.folder / "model")
    assert type(plain) is BertForSequenceClassification
    assert torch.equal(answer(plain.eval(), tiny_inputs()), answer(shipped, tiny_inputs()))


def test_zeros_outlive_a_distillation_and_a_training_through_rounding(tmp_path):
    model = bc.gradual_magnitude(tiny_model(num_labels=2), batches(8), 0.5, precision="fp32")
    held = {name: w == 0 for name, w in maskable(model).items()}
    trained = {"epochs": 1, "precision": "fp32", "learning_rate": 1e-3}
    bc.distill(model, tiny_model(num_labels=2, seed=3), batches(8), **trained)
    assert all(torch.equal(w == 0, held[name]) for name, w in maskable(model).items())
    stored = bc.q8bert(model, batches(8), **trained)
    bc.save(stored, tmp_path, tiny_tokenizer())
    back = bc.load(tmp_path).model
    assert set(read_record(back.config)) == {"masked", "lowbit"}
    assert all((back.get_submodule(name).weight[zero] == 0).all() for name, zero in held.items())
    with pytest.raises(ShapeError, match="gradual_magnitude: the layers have no dense linear"):
        GradualMagnitude().check(stored)


@pytest.fixture
def sparse(place):
    """The folder of a shipped model, half of whose layers' weights are zero."""
    model = bc.gradual_magnitude(tiny_model(num_labels=2), batches(8), 0.5, precision="fp32")
    model.config.id2label = {0: "no", 1: "yes"}
    model.config.label2id = {"no": 0, "yes": 1}
    bc.save(model, place / "sparse", tiny_tokenizer())
    assert json.loads((place / "sparse" / "config.json").read_text())["model_type"] == "bert"
    return place


SECOND = [{"finetune": {**TRAIN, "epochs": 1}}, {"distill": {**TRAIN, "epochs": 1}}]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the model's classes")
@pytest.mark.parametrize("step", SECOND, ids=lambda step: next(iter(step)))
def test_a_second_recipe_keeps_the_zeros_of_a_shipped_model(step, sparse):
    tiny_model(num_labels=2, seed=3).save_pretrained(sparse / "teacher")
    tiny_tokenizer().save_pretrained(sparse / "teacher")
    config = json.loads((sparse / "teacher" / "config.json").read_text())
    config |= {"id2label": {"0": "no", "1": "yes"}, "label2id": {"no": 0, "yes": 1}}
    (sparse / "teacher" / "config.json").write_text(json.dumps(config))
    held = {name: w == 0 for name, w in maskable(bc.load(sparse / "sparse").model).items()}
    more = {"model": str(sparse / "sparse"), "teacher": str(sparse / "teacher")}
    if "finetune" in step:  # skipped where the names of the classes say that it is done
        file = sparse / "sparse" / "config.json"
        fields = json.loads(file.read_text())
        file.write_text(json.dumps({k: v for k, v in fields.items() if "label" not in k}))
    run = bc.run(recipe(sparse, [step], **more), sparse / "run", say=lambda _: None)
    assert run.report.last.method == next(iter(step))
    after = bc.load(run.folder / "model").model
    for name, weight in maskable(after).items():
        assert torch.equal(weight == 0, held[name]), name
    assert all(row.simulated for row in run.report.last.deployments)


def test_a_second_recipe_refuses_to_cut_a_shipped_sparse_model(sparse):
    plan = recipe(sparse, [{"flop": {**TRAIN, "keep": 0.5}}], model=str(sparse / "sparse"))
    words = r"methods\[0\].flop: the model '.*sparse' has weights at zero, which a change of shape"
    with pytest.raises(ShapeError, match=words):
        bc.run(plan, sparse / "run", say=lambda _: None)


@pytest.mark.slow
def test_zeros_that_plain_transformers_filled_are_said_and_reported(sparse):
    plain = BertForSequenceClassification.from_pretrained(sparse / "sparse")
    with torch.no_grad():
        for layer in plain.bert.encoder.layer:
            layer.output.dense.weight.add_(0.01)
    plain.save_pretrained(sparse / "filled")
    tiny_tokenizer().save_pretrained(sparse / "filled")
    words = "model '.*filled': [0-9,]+ of its weights were zero .*, and [0-9,]+ are now: .* dense"
    with pytest.warns(Notice, match=words):
        assert not edited(bc.load(sparse / "filled").model)
    said: list[str] = []
    more = {"model": str(sparse / "filled"), "teacher": str(sparse / "sparse")}
    plan = recipe(sparse, [{"distill": {**TRAIN, "epochs": 1}}], **more)
    with pytest.warns(Notice, match=words):
        run = bc.run(plan, sparse / "run", say=said.append)
    assert sum("trained without its mask" in line for line in said) == 1
    assert "trained without its mask" in (run.folder / "report.md").read_text()


@pytest.mark.parametrize("family", ["bert", "albert", "distilbert"])
def test_the_encoder_of_a_sparse_model_knows_its_zeros_too(family, tmp_path):
    model = bc.gradual_magnitude(
        tiny_model(family, num_labels=2), batches(8), 0.5, precision="fp32"
    )
    for convert in (True, False):
        bc.save(model, tmp_path / str(convert), tiny_tokenizer(), convert=convert)
        for head in ("Model", "ForTokenClassification"):
            back = bc.load(tmp_path / str(convert), head=head, fresh_head=True).model
            counted = {name.removeprefix(f"{family}."): n for name, n in zeros(model).items()}
            assert {n.removeprefix(f"{family}."): z for n, z in zeros(back).items()} == counted
            assert back.masked_weights()
