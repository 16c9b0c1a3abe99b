"""Every method on a tiny question answerer: it trains, cuts and rounds by the head's own losses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from spans_support import TRAIN, save_encoder, span_task, write_questions
from tests_support import first_fast, tiny_model, tiny_tokenizer

import bertcompress as bc
from bertcompress.data import calibration_batches, load_data
from bertcompress.deployment import Measurement, Product
from bertcompress.engines.distillation.teachers import CachedTeacher, LiveTeacher
from bertcompress.engines.pruning.importance import mask_fisher, sampled_loss, task_loss
from bertcompress.errors import ModelError
from bertcompress.heads import HEADS
from bertcompress.measure.scores import predict
from bertcompress.method import Context, Models
from bertcompress.methods import METHODS, method_class
from bertcompress.runtimes.torch import TorchPredictor

HEAD = HEADS["spans"]
SHORT = {**TRAIN, "epochs": 1}
SETTINGS = {
    "finetune": SHORT,
    "prune_structured": {"keep": 0.5, "rows": 16},
    "kprune": {"keep": 0.5, "rows": 16},
    "prune_hidden": {"keep": 0.5},
    "gradual_magnitude": {**SHORT, "sparsity": 0.5},
    "trim_vocabulary": {},
    "share_layers": {},
    "student": {"layers": 2},
    "factorize_embedding": {"size": 8},
    "factorize_linear": {"keep": 0.7, "rows": 16, "metric": "fisher"},
    "flop": {**SHORT, "keep": 0.7, "rows": 16},
    "distill": SHORT,
    "quantize_int8": {"runtimes": ["onnxruntime"]},
    "q8bert": SHORT,
    "q_bert": {"high_share": 0.4, "shards": 1, "group": 16, "epochs": 0},
    "mode_connectivity": {**SHORT, "points": 3, "rows": 16},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return load_data(span_task(write_questions(tmp_path_factory.mktemp("rows"), rows=120)))


@pytest.fixture(scope="module")
def fitted(data, tmp_path_factory):
    """A model that learnt the task, with the data as a run has them."""
    ctx = context(data, tmp_path_factory.mktemp("fit"))
    start = Product(tiny_model("bert", "ForQuestionAnswering"), tiny_tokenizer())
    return method_of("finetune", {**TRAIN, "epochs": 8}, data).apply(start, ctx)


def method_of(key, settings, data):
    return method_class(key)(**settings)


def context(data, folder, models=None):
    return Context(data.task, data, models or Models(), torch.device("cpu"), 0, folder)


def copy_of(product):
    model = tiny_model("bert", "ForQuestionAnswering")
    model.load_state_dict(product.model.state_dict())
    return Product(model, product.tokenizer)


@pytest.mark.parametrize("key", first_fast([key for key in METHODS if key != "online_peers"], 4))
def test_every_method_takes_it(key, data, fitted, tmp_path):
    teacher = LiveTeacher(copy_of(fitted).model, fitted.tokenizer, data)
    models = Models(teacher, lambda: copy_of(fitted), lambda: copy_of(fitted))
    done = method_of(key, SETTINGS.get(key, SHORT), data).apply(
        copy_of(fitted), context(data, tmp_path, models)
    )
    if isinstance(done, Measurement):
        return
    answers = predict(TorchPredictor(done.model), data, "selection", done.tokenizer)
    assert answers.shape == (len(data.selection), 5) and np.isfinite(answers).all()
    if key == "quantize_int8":
        assert {each.precision for each in done.deployments} == {"fp32", "int8"}


@pytest.mark.parametrize("loss", [task_loss, sampled_loss])
def test_what_matters_is_scored(data, fitted, loss):
    batches = calibration_batches(data, fitted.tokenizer, 16, 8)
    scores = mask_fisher(fitted.model, batches, loss(HEAD))
    assert all(torch.isfinite(each).all() and each.sum() > 0 for each in scores)


def test_a_cached_teacher_answers_as_the_live_one(data, fitted, tmp_path):
    tokenizer = tiny_tokenizer()
    live = LiveTeacher(fitted.model, tokenizer, data)
    cached = CachedTeacher(live, tmp_path)
    encoded = data.encode(tokenizer, "train")
    batch = data.collator(tokenizer)([encoded[i] for i in range(6)])
    shown = batch["attention_mask"].bool()
    one, other = (t(batch["row_id"], parts=batch.get("part")).logits for t in (live, cached))
    torch.testing.assert_close(one[shown], other[shown], atol=1e-5, rtol=0)
    outputs = torch.zeros_like(one)
    torch.testing.assert_close(
        HEAD.divergence(outputs, one, batch, 2.0), HEAD.divergence(outputs, other, batch, 2.0)
    )


@pytest.mark.slow
def test_a_trained_answerer_is_taken_as_it_is(tmp_path, fitted, data):
    fitted.model.save_pretrained(tmp_path / "m")
    fitted.tokenizer.save_pretrained(tmp_path / "m")
    task = span_task(write_questions(tmp_path / "rows", rows=60))
    scores = {score.metric: score.value for score in bc.evaluate(tmp_path / "m", task)}
    assert set(scores) == {"f1", "exact_match"} and scores["f1"] > 0.2
    recipe = {"model": str(tmp_path / "m"), "task": task, "measure": {"latency": False},
              "methods": [{"prune_structured": {"keep": 0.5, "rows": 16}}]}  # fmt: skip
    run = bc.run(bc.Recipe.parse(recipe), tmp_path / "run")
    assert run.report.stages[0].method == "original"
    assert run.report.stages[0].deployments[0].headline.value == pytest.approx(scores["f1"])
    assert all(each.passes for each in bc.verify(run.folder, seconds=0)[0])


def test_export_serves_it_without_a_run(tmp_path, fitted):
    fitted.model.save_pretrained(tmp_path / "m")
    fitted.tokenizer.save_pretrained(tmp_path / "m")
    bc.export(tmp_path / "m", tmp_path / "out")
    assert "only_second" in (tmp_path / "out" / "onnx" / "serve.py").read_text()


def test_a_classifier_is_no_answerer(tmp_path):
    task = span_task(write_questions(tmp_path / "rows", rows=20))
    save_encoder(tmp_path / "m", "ForSequenceClassification")
    recipe = {"model": str(tmp_path / "m"), "task": task, "methods": [{"finetune": SHORT}]}
    with pytest.raises(ModelError, match="spans task needs one that ends in ForQuestion"):
        bc.run(bc.Recipe.parse(recipe), tmp_path / "run")
