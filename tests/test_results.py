"""What a run keeps in memory, lets methods reach, and computes on a GPU where there is one."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from tests_support import tiny_model, tiny_tokenizer, write_rows

import bertcompress as bc
import bertcompress.runs.results
import bertcompress.runs.stages
import bertcompress.runtimes
import bertcompress.runtimes.torch
from bertcompress.errors import DataError, ModelError
from bertcompress.shapes.edits import KINDS, Record

pytestmark = pytest.mark.usefixtures("without_figures")

TRAIN = {"batch_size": 8, "learning_rate": 5e-3, "precision": "fp32", "epochs": 1}
METHODS = [
    {"finetune": TRAIN},
    {"prune_structured": {"keep": 0.75, "rows": 32}},
    {"distill": TRAIN},
    {"prune_structured": {"keep": 0.7, "rows": 32}},
    {"distill": TRAIN},
    {"quantize_int8": {"runtimes": ["onnxruntime"]}},
]


@pytest.fixture
def recipe(tmp_path):
    """Six stages on a model without head."""
    tiny_model("bert", "Model").save_pretrained(tmp_path / "bert")
    tiny_tokenizer().save_pretrained(tmp_path / "bert")
    write_rows(tmp_path / "train.csv", 120, 0, yes="yes", no="no")
    write_rows(tmp_path / "validation.csv", 40, 1, yes="yes", no="no")
    task = bc.Task.from_files(
        tmp_path / "train.csv",
        tmp_path / "validation.csv",
        text="text",
        label="label",
        max_length=24,
    )
    return bc.Recipe.parse(
        {
            "model": str(tmp_path / "bert"),
            "task": task,
            "methods": METHODS,
            "measure": {"latency": False},
        }
    )


def test_a_run_holds_three_models_at_a_time_however_many_stages(recipe, tmp_path, monkeypatch):
    opened: list[weakref.ref] = []
    alive: list[int] = []

    def counted(load):
        def opening(*args, **named):
            product = load(*args, **named)
            opened.append(weakref.ref(product.model))
            gc.collect()
            alive.append(sum(model() is not None for model in opened))
            return product

        return opening

    for module in (bertcompress.runs.results, bertcompress.runs.stages):
        monkeypatch.setattr(module, "load", counted(module.load))
    bc.run(recipe, tmp_path / "run")
    assert len(opened) >= 6
    # The teacher, what the method changes, and what is compared with it.
    assert max(alive) <= 3


def test_no_method_reaches_a_reported_row(recipe, tmp_path, monkeypatch):
    seen = []
    apply = bc.Distill.apply

    def prying(self, product, ctx):
        for data in (ctx.data, ctx.teacher.data):
            assert len(data.validation) == 0
            for tokenizer in (product.tokenizer, ctx.teacher.tokenizer):
                assert len(data.encode(tokenizer, "validation")) == 0
            everything = {*data.train["row_id"], *data.selection["row_id"]}
            outside = max(everything) + 1
            with pytest.raises(DataError, match="no row has the id"):
                data.rows([outside], product.tokenizer)
            with pytest.raises(DataError, match="no row has the id"):
                ctx.teacher(torch.tensor([outside]))
            seen.append(len(everything))
        return apply(self, product, ctx)

    monkeypatch.setattr(bc.Distill, "apply", prying)
    bc.run(recipe, tmp_path / "run")
    assert set(seen) == {120}


def test_what_was_encoded_for_scoring_is_not_handed_to_methods(recipe):
    data = bc.load_data(recipe.resolved_task())
    tokenizer = tiny_tokenizer()
    assert len(data.encode(tokenizer, "validation")) == 40
    train = data.encode(tokenizer, "train")
    cut = data.without_validation()
    assert len(cut.encode(tokenizer, "validation")) == 0
    assert cut.encode(tokenizer, "train") is train
    assert len(data.encode(tokenizer, "validation")) == 40
    assert cut.validation.features == data.validation.features


def test_stages_and_evaluate_are_scored_where_a_model_is_trained(recipe, tmp_path, monkeypatch):
    asked = []
    predictor = bertcompress.runtimes.torch.predictor

    def recorded(path, threads=None, precision="fp32", device="cpu"):
        asked.append(device)
        return predictor(path, threads, precision)

    monkeypatch.setattr(bertcompress.runtimes, "compute_device", lambda: "cuda")
    monkeypatch.setattr(bertcompress.runtimes.torch, "predictor", recorded)
    run = bc.run(recipe, tmp_path / "run")
    # Each stage with a model, controls too; what is recorded for `verify` is the processor's.
    assert asked == ["cuda"] * 7 + ["cpu"]
    asked.clear()
    bc.evaluate(run.folder)
    assert asked == ["cuda"]
    # One file of each of the others, on the processor as ever.
    asked.clear()
    onnx = run.folder / "onnx" / "model.onnx"
    assert bertcompress.runtimes.open_predictor(onnx, device="auto").runtime == "onnxruntime"
    with pytest.raises(ModelError, match="unknown device 'cuda'"):
        bertcompress.runtimes.open_predictor(onnx, device="cuda")
    bertcompress.runtimes.open_predictor(run.folder)
    assert asked == ["cpu"]


def test_every_kind_of_edit_has_its_place_in_the_record():
    assert set(Record.__annotations__) == set(KINDS)
