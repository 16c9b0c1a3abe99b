"""What a model answers with decides what can be done with it; no trained head is thrown away."""

from __future__ import annotations

import pytest
import torch
from models_support import change_config, command, saved
from tests_support import WORDS, write_rows

import bertcompress as bc
from bertcompress.errors import ModelError, Notice, RecipeError

pytestmark = pytest.mark.usefixtures("without_figures")

CUT = {"prune_structured": {"keep": 0.5, "rows": 8}}
FINETUNE = {"finetune": {"epochs": 0.5, "batch_size": 8, "precision": "fp32"}}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    place = tmp_path_factory.mktemp("rows")
    for name, seed in (("train", 0), ("validation", 1)):
        write_rows(place / f"{name}.csv", 40, seed)
    return place


def task(rows, **fields):
    files = (rows / "train.csv", rows / "validation.csv")
    return bc.Task.from_files(*files, text="text", label="label", max_length=24, **fields)


def recipe(folder, rows, methods=(FINETUNE, CUT), **fields):
    content = {"model": str(folder), "task": task(rows, **fields), "methods": list(methods)}
    return bc.Recipe.parse({"measure": {"latency": False}, **content})


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    place = tmp_path_factory.mktemp("three")
    for name, end in (("train", "cat"), ("validation", "dog")):
        texts = [f"the {WORDS[i % 20]} {WORDS[i // 20]} {end}" for i in range(60)]
        table = [f"{text},{('down', 'level', 'up')[i % 3]}" for i, text in enumerate(texts)]
        (place / f"{name}.csv").write_text("\n".join(["text,label", *table]) + "\n")
    return task(place)


HEADS = {
    "ForTokenClassification": "answers for each token",
    "ForQuestionAnswering": "answers with a span of the text",
    "ForMultipleChoice": "chooses among several texts",
}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("declared", [True, False])
def test_a_head_for_something_else_is_named(tmp_path, rows, head, declared):
    folder = saved(tmp_path / "m", head=head)
    if not declared and head != "ForMultipleChoice":  # its tensors are those of one number
        change_config(folder, "architectures")
    says = f"a Bert{head}, which {HEADS[head]}"
    with pytest.raises(ModelError, match=f"{says}; .*export, bench and inspect"):
        bc.evaluate(folder, task(rows))
    with pytest.raises(ModelError, match=f"{says}; a single_label .* throws no trained head"):
        bc.run(recipe(folder, rows), tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    assert bc.inspect(folder).parameters.total


@pytest.mark.parametrize("head", ["Model", "ForMaskedLM", "ForTokenClassification"])
def test_what_evaluate_refuses_export_takes(tmp_path, rows, head, capsys, monkeypatch):
    pytest.importorskip("onnxruntime")
    folder = saved(tmp_path / "m", head=head)
    doors = {"capsys": capsys, "monkeypatch": monkeypatch}
    columns = ("--text", "text", "--label", "label")
    files = ("--train", rows / "train.csv", "--validation", rows / "validation.csv")
    status, said = command("evaluate", folder, *files, *columns, **doors)
    assert status == 2
    assert f"a Bert{head}, which" in said and "export, bench and inspect take it" in said
    assert command("export", folder, "--out", tmp_path / "out", **doors)[0] == 0


def test_a_headless_model_gets_a_new_head(tmp_path, rows):
    folder = saved(tmp_path / "m", head="Model")
    run = bc.run(recipe(folder, rows, [FINETUNE]), tmp_path / "run")
    assert run.report.stages[0].method == "finetune"
    with pytest.raises(RecipeError, match=r"has no head for task .*put finetune first"):
        bc.run(recipe(folder, rows, [CUT]), tmp_path / "other")


def test_one_output_on_two_classes_is_asked_about(tmp_path, rows):
    folder = saved(tmp_path / "m", num_labels=1)
    before = bc.load(folder).model.classifier.weight
    says = "one output, .* two classes 0 and 1: a cross-encoder.*`problem: regression`"
    with pytest.raises(ModelError, match=says):
        bc.evaluate(folder, task(rows))
    with pytest.raises(ModelError, match=says):
        bc.run(recipe(folder, rows), tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    assert torch.equal(bc.load(folder).model.classifier.weight, before)


def test_a_cross_encoder_is_judged_as_it_ranks_where_told_so(tmp_path, rows):
    folder = saved(tmp_path / "m", num_labels=1)
    scores = bc.evaluate(folder, task(rows, problem="regression"))
    assert scores[0].metric == "spearman"


def test_one_output_on_many_classes_is_another_task(tmp_path):
    for name, seed in (("train", 0), ("validation", 1)):
        lines = [f"the cat {'very ' * (i % 5)} {seed},{'abc'[i % 3]}" for i in range(30)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    folder = saved(tmp_path / "m", num_labels=1)
    with pytest.raises(ModelError, match=r"one output, and task .* has 3 classes"):
        bc.evaluate(folder, task(tmp_path))


def test_a_head_that_is_replaced_is_told(tmp_path, rows):
    names = {0: "red", 1: "blue", 2: "old"}
    fields = {"id2label": names, "label2id": {name: i for i, name in names.items()}}
    folder, said = saved(tmp_path / "m", num_labels=3, **fields), []
    with pytest.raises(RecipeError, match=r"head \(3 outputs: red, blue, old\) is not for this"):
        bc.run(recipe(folder, rows, [CUT]), tmp_path / "run", say=said.append)
    told = "the model's head (3 outputs: red, blue, old) is not for this task (0, 1): a new one"
    assert any(line.startswith(told) for line in said)


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime"])
def test_three_classes_that_no_config_names_are_taken_by_order_with_a_warning(
    runtime, tmp_path, three
):
    folder = saved(tmp_path / "m", num_labels=3)
    if runtime != "torch":
        pytest.importorskip("onnxruntime")
        bc.export(folder, tmp_path / "file")
        folder = tmp_path / "file" / "onnx"
    change_config(folder, "id2label", "label2id", "num_labels")
    with pytest.warns(Notice, match="taken to be, in this order, down, level, up"):
        bc.evaluate(folder, three, runtime=runtime, precision="fp32")


def test_one_output_that_only_the_tensors_tell(tmp_path, rows):
    folder = saved(tmp_path / "m", num_labels=1)
    change_config(folder, "id2label", "label2id", "num_labels")
    with pytest.raises(ModelError, match=r"one output, and task .* a cross-encoder"):
        bc.evaluate(folder, task(rows))
