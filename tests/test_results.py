"""What a run keeps in memory, lets methods reach, and computes on a GPU where there is one."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from tests_support import tiny_model, tiny_tokenizer, write_rows

import bertcompress as bc
import bertcompress.runs.results
import bertcompress.runs.stage
import bertcompress.runtimes
import bertcompress.runtimes.torch
from bertcompress.errors import DataError, ModelError
from bertcompress.shapes.edits import KINDS, Record

TRAIN = {"batch_size": 8, "learning_rate": 5e-3, "precision": "fp32", "epochs": 1}
METHODS = [
    {"finetune": TRAIN},
    {"prune_structured": {"keep": 0.75, "rows": 32}},
    {"distill": TRAIN},
    {"prune_structured": {"keep": 0.7, "rows": 32}},
    {"distill": TRAIN},
    {"quantize_int8": {"runtimes": ["onnxruntime"]}},
]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """Six stages on a model without head."""
    tmp_path = tmp_path_factory.mktemp("results")
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


class Spied:
    """A run, and what was seen while it went on."""

    def __init__(self, recipe, folder, patch):
        self.opened: list[weakref.ref] = []
        self.alive: list[int] = []
        self.reachable: list[set[int]] = []
        self.devices: list[str] = []
        for module in (bertcompress.runs.results, bertcompress.runs.stage):
            patch.setattr(module, "load", self.counted(module.load))
        patch.setattr(bc.Distill, "apply", self.prying(bc.Distill.apply))
        opening = self.on_device(bertcompress.runtimes.torch.predictor)
        patch.setattr(bertcompress.runtimes.torch, "predictor", opening)
        patch.setattr(bertcompress.runtimes, "compute_device", lambda: "cuda")
        self.run = bc.run(recipe, folder)

    def counted(self, load):
        def opening(*args, **named):
            product = load(*args, **named)
            self.opened.append(weakref.ref(product.model))
            gc.collect()
            self.alive.append(sum(model() is not None for model in self.opened))
            return product

        return opening

    def prying(self, apply):
        def prying_apply(method, product, ctx):
            for data in (ctx.data, ctx.models.teacher.data):
                assert len(data.validation) == 0
                for tokenizer in (product.tokenizer, ctx.models.teacher.tokenizer):
                    assert len(data.encode(tokenizer, "validation")) == 0
                known = {*data.train["row_id"], *data.selection["row_id"]}
                with pytest.raises(DataError, match="no row has the id"):
                    data.rows([max(known) + 1], product.tokenizer)
                with pytest.raises(DataError, match="no row has the id"):
                    ctx.models.teacher(torch.tensor([max(known) + 1]))
                self.reachable.append(known)
            return apply(method, product, ctx)

        return prying_apply

    def on_device(self, predictor):
        def recorded(path, threads=None, precision="fp32", device="cpu"):
            self.devices.append(device)
            return predictor(path, threads, precision)

        return recorded


@pytest.fixture(scope="module")
def spied(recipe, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bertcompress.report.plots.figure_names", lambda report: ())
        yield Spied(recipe, tmp_path_factory.mktemp("spied") / "run", patch)


@pytest.mark.slow
def test_a_run_holds_three_models_at_a_time_however_many_stages(spied):
    assert len(spied.opened) >= 6
    # The teacher, what the method changes, and what is compared with it.
    assert max(spied.alive) <= 3


@pytest.mark.slow
def test_no_method_reaches_a_reported_row(spied):
    assert [len(known) for known in spied.reachable] == [120] * 8  # two stages and their controls


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


@pytest.mark.slow
def test_stages_and_evaluate_are_scored_where_a_model_is_trained(spied):
    # Each stage with a model, controls too; what is recorded for `verify` is the processor's.
    assert spied.devices[:10] == ["cuda"] * 9 + ["cpu"]
    spied.devices.clear()
    bc.evaluate(spied.run.folder)
    assert spied.devices == ["cuda"]
    # One file of each of the others, on the processor as ever.
    onnx = spied.run.folder / "onnx" / "model.onnx"
    assert bertcompress.runtimes.open_predictor(onnx, device="auto").runtime == "onnxruntime"
    with pytest.raises(ModelError, match="unknown device 'cuda'"):
        bertcompress.runtimes.open_predictor(onnx, device="cuda")
    bertcompress.runtimes.open_predictor(spied.run.folder)
    assert spied.devices == ["cuda", "cpu"]


def test_every_kind_of_edit_has_its_place_in_the_record():
    assert set(Record.__annotations__) == set(KINDS)
