"""`theseus`: chances, the frozen predecessor, the forward at rate 1, both phases, and a run."""

from __future__ import annotations

import copy
import hashlib
from itertools import pairwise

import pytest
import torch
from pydantic import ValidationError
from test_training import batches
from tests_support import answer, tiny_inputs, tiny_model, tiny_tokenizer, write_rows
from training_support import toy_data

import bertcompress as bc
from bertcompress.deployment import Product
from bertcompress.engines.distillation.replacing import (
    ReplacedLayer,
    ReplacingRate,
    WithReplacing,
    layer_groups,
    put_replaced,
)
from bertcompress.method import Context, Models
from bertcompress.methods.distillation.theseus import Theseus
from bertcompress.shapes import Layers, ShapeError, apply_edit, read_record
from bertcompress.training import LabelLoss

pytestmark = pytest.mark.usefixtures("without_figures")

QUICK = {"epochs": 1, "batch_size": 8, "learning_rate": 2e-3, "precision": "fp32"}
FAMILIES = ["bert", "roberta", "distilbert", "electra"]


def deep(family="bert", layers=4):
    """Return a model of some layers, in eval mode."""
    name = "n_layers" if family == "distilbert" else "num_hidden_layers"
    return tiny_model(family, num_labels=2, **{name: layers})


def digest(model):
    """Return a hash of all weights."""
    found = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        found.update(name.encode() + tensor.numpy().tobytes())
    return found.hexdigest()


def replaced(family="bert", depth=4, keep=2):
    """Return predecessor, successor and the layers that chance was put into."""
    predecessor = deep(family, depth)
    successor = copy.deepcopy(predecessor)
    apply_edit(successor, Layers(list(range(keep))))
    with torch.no_grad():  # grown otherwise since
        for parameter in successor.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return predecessor, successor, put_replaced(successor, predecessor, 0)


@pytest.mark.parametrize("steps", [1, 3, 7, 1000])
@pytest.mark.parametrize("start", [0.0, 0.3, 1.0])
def test_the_chance_rises_linearly_to_exactly_one(start, steps):
    rate = ReplacingRate(start, steps)
    chances = [rate.after(step) for step in range(steps + 3)]
    assert chances[0] == (start if steps else 1.0)
    assert chances[steps:] == [1.0] * 3
    apart = [b - a for a, b in pairwise(chances[: steps + 1])]
    assert apart == pytest.approx([(1 - start) / steps] * steps)


@pytest.mark.parametrize(("depth", "groups"), [(6, 3), (12, 6), (6, 4), (5, 5), (7, 2), (3, 1)])
def test_groups_are_contiguous_and_alike(depth, groups):
    found = layer_groups(depth, groups)
    assert [layer for group in found for layer in group] == list(range(depth))
    sizes = list(map(len, found))
    assert len(sizes) == groups and max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("training", [False, True])
def test_at_rate_one_the_forward_is_that_of_the_small_model(family, training):
    predecessor = deep(family)
    small = copy.deepcopy(predecessor)
    apply_edit(small, Layers([0, 1]))
    successor = copy.deepcopy(small)
    put_replaced(successor, predecessor, 0)
    small.train(training), successor.train(training)
    torch.manual_seed(1)
    wanted = small(**tiny_inputs()).logits
    torch.manual_seed(1)
    assert torch.equal(successor(**tiny_inputs()).logits, wanted)


@pytest.mark.parametrize("family", FAMILIES)
def test_at_rate_zero_the_forward_is_that_of_the_predecessor(family):
    predecessor, successor, layers = replaced(family)
    source = copy.deepcopy(predecessor)
    with torch.no_grad():  # what is around the layers is the successor's
        mine = dict(successor.named_parameters())
        for name, parameter in source.named_parameters():
            if name in mine and not any(f".{i}." in name for i in range(4)):
                parameter.copy_(mine[name])
    for layer in layers:
        layer.rate = 0.0
    source.train(), successor.train()
    torch.manual_seed(1)
    wanted = source(**tiny_inputs()).logits
    torch.manual_seed(1)
    assert torch.equal(successor(**tiny_inputs()).logits, wanted)


def test_each_group_is_drawn_on_its_own_and_as_often_as_the_rate_says():
    _, successor, layers = replaced()
    taken = [[] for _ in layers]
    for row, layer in zip(taken, layers, strict=True):
        layer.rate = 0.3
        layer.successor.register_forward_hook(lambda *_, row=row: row.append(True))
    successor.train()
    times = 400
    with torch.no_grad():
        for _ in range(times):
            successor(**tiny_inputs())
    for row in taken:
        assert abs(len(row) / times - 0.3) < 4 * (0.3 * 0.7 / times) ** 0.5
    assert taken[0] != taken[1]


def test_only_the_new_layers_learn_and_the_predecessor_stays():
    predecessor, successor, layers = replaced()
    before, held = digest(predecessor), [copy.deepcopy(each.predecessor) for each in layers]
    objective = WithReplacing(LabelLoss(), layers, ReplacingRate(0.5, 10))
    trained = [name for name, p in successor.named_parameters() if p.requires_grad]
    assert trained and all("successor" in name for name in trained)
    assert not any("predecessor" in name for name in successor.state_dict())
    optimizer = torch.optim.SGD([p for p in successor.parameters() if p.requires_grad], lr=0.5)
    successor.train()
    inputs, labels = tiny_inputs(), torch.tensor([0, 1, 0])
    for step in range(10):
        batch = {**inputs, "labels": labels[: len(inputs["input_ids"])]}
        objective(successor, batch, successor(**inputs), step).backward()
        optimizer.step()
        optimizer.zero_grad()
        objective.on_step_end(successor, optimizer, step + 1)
    assert digest(predecessor) == before
    for layer, was in zip(layers, held, strict=True):
        for mine, theirs in zip(layer.predecessor, was, strict=True):
            assert digest(mine) == digest(theirs)
            assert not any(p.requires_grad for p in mine.parameters())
    assert {layer.rate for layer in layers} == {1.0}


def test_what_is_drawn_goes_on_after_a_break():
    _, successor, layers = replaced()
    rate = ReplacingRate(0.2, 8)
    objective = WithReplacing(LabelLoss(), layers, rate)
    successor.train()
    with torch.no_grad():
        successor(**tiny_inputs())
    objective.on_step_end(successor, None, 3)
    kept = copy.deepcopy(objective.state_dict())
    _, other, again = replaced()
    resumed = WithReplacing(LabelLoss(), again, rate)
    resumed.load_state_dict(kept)
    assert [each.rate for each in again] == [each.rate for each in layers] == [rate.after(3)] * 2
    for mine, theirs in zip(layers, again, strict=True):
        assert torch.rand(5, generator=mine.generator).equal(
            torch.rand(5, generator=theirs.generator)
        )
    assert other is not successor


@pytest.fixture(scope="module")
def data():
    return toy_data()


def stage(data, workdir, **knobs):
    model = deep()
    ctx = Context(data.task, data, Models(), torch.device("cpu"), 0, workdir)
    return Theseus(**QUICK | {"layers": 2, "replacing_epochs": 1} | knobs).apply(
        Product(model, tiny_tokenizer()), ctx
    )


def test_a_stage_has_fewer_layers_and_tells_both_trainings(data, tmp_path):
    done = stage(data, tmp_path)
    assert read_record(done.model.config)["layers"].kept == [0, 1]
    assert not any(isinstance(module, ReplacedLayer) for module in done.model.modules())
    assert all(p.requires_grad for p in done.model.parameters())
    alone = stage(data, tmp_path / "b", replacing_epochs=0)
    assert done.findings.steps == 2 * alone.findings.steps
    assert done.findings.training.samples == 2 * alone.findings.training.samples
    assert not torch.equal(answer(done.model, tiny_inputs()), answer(alone.model, tiny_inputs()))


def test_without_replacing_it_is_a_cut_and_a_fine_tuning(data, tmp_path):
    alone = stage(data, tmp_path / "a", replacing_epochs=0)
    cut = deep()
    apply_edit(cut, Layers([0, 1]))
    ctx = Context(data.task, data, Models(), torch.device("cpu"), 0, tmp_path / "b")
    from bertcompress.methods.training.finetune import Finetune

    other = Finetune(**QUICK).apply(Product(cut, tiny_tokenizer()), ctx)
    assert torch.equal(answer(alone.model, tiny_inputs()), answer(other.model, tiny_inputs()))


@pytest.mark.parametrize("order", ["bottom", "spread"])
def test_the_control_is_the_same_layers_without_replacing(order):
    method = Theseus(layers=2, layer_order=order)
    (control,) = method.controls().values()
    assert control == method.model_copy(update={"replacing_epochs": 0.0})
    assert control.controls() == {}


def test_bad_shapes_and_settings_are_refused(data, tmp_path):
    with pytest.raises(ShapeError, match="theseus: layers 5 of 4"):
        stage(data, tmp_path, layers=5)
    with pytest.raises(ShapeError, match="one layer, applied many times"):
        Theseus(layers=1).check(tiny_model("albert", num_labels=2))
    with pytest.raises(ValidationError, match="replacing_start"):
        Theseus(replacing_start=1.5)


def test_the_function_does_the_same_in_place():
    model = deep()
    out = bc.theseus(model, batches(24), 2, replacing_epochs=1, **QUICK)
    assert out is model and not model.training
    assert read_record(model.config)["layers"].kept == [0, 1]


def test_a_run_ships_fewer_layers_beside_its_control(tmp_path):
    deep().base_model.save_pretrained(tmp_path / "bert")
    tiny_tokenizer().save_pretrained(tmp_path / "bert")
    for name, rows, seed in (("train", 160, 0), ("validation", 40, 1)):
        write_rows(tmp_path / f"{name}.csv", rows, seed, yes="yes", no="no")
    files = tmp_path / "train.csv", tmp_path / "validation.csv"
    recipe = bc.Recipe.parse(
        {
            "model": str(tmp_path / "bert"),
            "task": bc.Task.from_files(*files, text="text", label="label"),
            "methods": [
                {"finetune": QUICK | {"epochs": 2}},
                {"theseus": QUICK | {"layers": 2, "replacing_epochs": 1}},
            ],
            "measure": {"latency": False},
        }
    )
    run = bc.run(recipe, tmp_path / "run")
    assert len(run.report.last.controls) == 1
    assert "plainly fine-tuned" in run.report.last.controls[0].name
    model = bc.load(run.folder).model
    assert model.config.num_hidden_layers == 2
    assert type(model).__name__ == "BertForSequenceClassification"  # a stock class holds it
