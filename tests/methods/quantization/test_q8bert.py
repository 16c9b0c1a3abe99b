"""`q8bert`: trained through rounding, stored in int8, and the same in every file."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from tests_support import first_fast, tiny_inputs, tiny_model, tiny_tokenizer
from torch.utils.data import DataLoader
from training_support import toy_data

import bertcompress as bc
from bertcompress.data import collator
from bertcompress.deployment import Product
from bertcompress.engines.distillation.teachers import LiveTeacher
from bertcompress.method import Context, Models
from bertcompress.methods.quantization.q8bert import Q8bert, q8bert
from bertcompress.models.io import precision_of
from bertcompress.runtimes import open_predictor
from bertcompress.shapes import QuantizedLinear, ShapeError, read_record

QUICK = {"epochs": 4, "batch_size": 16, "learning_rate": 1e-3, "precision": "fp32"}


@pytest.fixture(scope="module")
def data():
    return toy_data()


def stage(data, workdir, **knobs):
    model = tiny_model(num_labels=2, hidden_size=32, intermediate_size=64)
    teacher = LiveTeacher(copy.deepcopy(model), tiny_tokenizer(), data)
    context = Context(data.task, data, Models(teacher), torch.device("cpu"), 0, workdir)
    return Q8bert(**QUICK | knobs).apply(Product(model, tiny_tokenizer()), context)


def scored(model, data):
    rows = data.encode(tiny_tokenizer(), "train")
    batch = collator(tiny_tokenizer())([rows[i] for i in range(len(rows))])
    with torch.no_grad():
        inputs = {k: batch[k] for k in ("input_ids", "attention_mask")}
        return float((model.eval()(**inputs).logits.argmax(1) == batch["labels"]).float().mean())


@pytest.mark.parametrize("per_channel", first_fast([True, False]))
def test_it_learns_and_every_file_answers_alike(data, tmp_path, per_channel):
    pytest.importorskip("onnxruntime")
    done = stage(data, tmp_path, epochs=12, learning_rate=5e-3, per_channel=per_channel)
    assert precision_of(done.model) == "int8"
    assert {each.group for each in read_record(done.model.config)["lowbit"].weights.values()} == {
        -1 if per_channel else 0
    }
    assert scored(done.model, data) > 0.8
    batch = {k: v.numpy() for k, v in tiny_inputs(rows=16).items()}
    with torch.no_grad():
        wanted = done.model(**tiny_inputs(rows=16)).logits.numpy()
    assert {d.runtime for d in done.deployments} >= {"onnxruntime"}
    for each in done.deployments:
        got = open_predictor(each.path, each.runtime)(batch)
        assert np.corrcoef(got.ravel(), wanted.ravel())[0, 1] > 0.99, each.runtime


def test_every_linear_learns_the_range_of_its_own_input(data, tmp_path):
    trained = stage(data, tmp_path / "a").model
    every = [m for m in trained.modules() if isinstance(m, QuantizedLinear)]
    assert len(every) == 20  # six in each of three layers, pooler and classifier
    scales = [float(m.input_scale) for m in every]
    assert len(set(scales)) > 6
    assert min(scales) > 0


def test_on_a_model_of_ones_own_with_and_without_a_teacher(data):
    rows = data.encode(tiny_tokenizer(), "train")
    loader = DataLoader(rows, batch_size=16, collate_fn=collator(tiny_tokenizer()))
    model = tiny_model(num_labels=2)
    teacher = tiny_model(num_labels=2)
    taught = q8bert(copy.deepcopy(model), loader, teacher=teacher, **QUICK)
    alone = q8bert(model, loader, **QUICK)
    assert alone is model
    with torch.no_grad():
        goal = teacher.eval()(**tiny_inputs()).logits
        gaps = [float((m(**tiny_inputs()).logits - goal).abs().mean()) for m in (taught, alone)]
    assert gaps[0] < gaps[1]


def test_the_control_is_without_the_teacher():
    assert Q8bert().controls() == {}
    (control,) = Q8bert(logit_weight=1.0).controls().values()
    assert (control.label_weight, control.logit_weight, control.hidden_weight) == (1, 0, 0)


def test_a_masked_lm_is_refused():
    with pytest.raises(ShapeError, match="tied to the word table"):
        bc.q8bert(tiny_model(head="ForMaskedLM"), [])
