"""`q_bert`: who gets more bits, what is packed, and that nothing is claimed of what is not."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from tests_support import tiny_inputs, tiny_model, tiny_tokenizer
from torch.utils.data import DataLoader
from training_support import toy_data

from bertcompress.data import collator
from bertcompress.deployment import Product
from bertcompress.method import Context, Models
from bertcompress.methods.quantization.q_bert import QBert, choose_bits, q_bert, spread_evenly
from bertcompress.models.io import precision_of
from bertcompress.runtimes import open_predictor
from bertcompress.shapes import Sharing, anatomy, apply_edit, imitates, read_record
from bertcompress.training import fit_batches

QUICK = {"epochs": 1, "batch_size": 16, "precision": "fp32", "shards": 3}


@pytest.fixture(scope="module")
def data():
    return toy_data()


def stage(data, workdir, **knobs):
    model = tiny_model(num_labels=2, hidden_size=32, intermediate_size=64)
    context = Context(data.task, data, Models(None), torch.device("cpu"), 0, workdir)
    return QBert(**QUICK | knobs).apply(Product(model, tiny_tokenizer()), context)


def layer_bits(model):
    bits = read_record(model.config)["lowbit"].weights
    return [bits[f"bert.encoder.layer.{i}.output.dense"].bits for i in range(3)]


def test_the_sharpest_layers_get_more():
    assert choose_bits([0.3, 0.1, 0.2], 4, 8, 1 / 3) == [8, 4, 4]
    assert choose_bits([0.3, 0.1, 0.2], 4, 8, 2 / 3) == [8, 4, 8]
    assert choose_bits([0.3, 0.1, 0.2], 4, 8, 0) == [4, 4, 4]
    assert choose_bits([0.3, 0.1], 3, 8, 1) == [8, 8]


@pytest.mark.parametrize(
    ("layers", "share", "chosen"),
    [(6, 0.5, [1, 3, 5]), (6, 1 / 3, [1, 4]), (4, 0.25, [2]), (12, 0.25, [2, 6, 10])],
)
def test_an_even_choice_is_spread_over_the_layers(layers, share, chosen):
    """At half of six layers it was the upper three."""
    bits = choose_bits(spread_evenly(layers, share), 4, 8, share)
    assert [i for i, each in enumerate(bits) if each == 8] == chosen


@pytest.mark.slow
def test_the_orders_are_opposite_at_one_size(data, tmp_path):
    runs = {
        order: stage(data, tmp_path / order, high_share=1 / 3, order=order, epochs=0, group=16)
        for order in ("hessian", "reversed", "even")
    }
    sharp = runs["hessian"].findings.facts["sharpness"]
    assert layer_bits(runs["hessian"].model).index(8) == int(np.argmax(sharp))
    assert layer_bits(runs["reversed"].model).index(8) == int(np.argmin(sharp))
    sizes = {sum(p.numel() for p in run.model.parameters()) for run in runs.values()}
    assert len(sizes) == 1


def test_four_bits_are_packed_run_and_answer_alike(data, tmp_path):
    pytest.importorskip("onnxruntime")
    done = stage(data, tmp_path, group=16)
    assert precision_of(done.model) == "int4-8"  # tables, pooler and head keep 8
    (file,) = done.deployments
    assert (file.runtime, file.precision) == ("onnxruntime", "int4-8")
    assert file.path.name == "model_q4.onnx"
    with torch.no_grad():
        wanted = done.model(**tiny_inputs(rows=16)).logits.numpy()
    batch = {k: v.numpy() for k, v in tiny_inputs(rows=16).items()}
    got = open_predictor(file.path)(batch)
    assert np.corrcoef(got.ravel(), wanted.ravel())[0, 1] > 0.99


def test_groups_are_nearer_than_one_scale(data):
    model = tiny_model(num_labels=2, hidden_size=64, intermediate_size=128)
    with torch.no_grad():  # one weight of a matrix decides its only scale
        for layer in anatomy(model).layers:
            layer.linears["ffn_in"].weight[0, 0] = 9.0
    with torch.no_grad():
        goal = model.eval()(**tiny_inputs()).logits
    rows = data.encode(tiny_tokenizer(), "train")
    loader = DataLoader(rows, batch_size=16, collate_fn=collator(tiny_tokenizer()))
    gaps = []
    for group in (16, 0):
        stored = q_bert(copy.deepcopy(model), loader, group=group, epochs=0)
        with torch.no_grad():
            gaps.append(float((stored(**tiny_inputs()).logits - goal).abs().mean()))
    assert gaps[0] < 0.7 * gaps[1]


def test_rounding_is_trained_for(data):
    """In two bits, the same training without rounding ends where rounding ruins it."""
    bits = {"bits": 2, "high_bits": 2, "group": 0}
    knobs = {**QUICK, **bits, "epochs": 12, "learning_rate": 3e-3}
    rows = data.encode(tiny_tokenizer(), "train")
    loader = DataLoader(rows, batch_size=16, collate_fn=collator(tiny_tokenizer()))
    plain = tiny_model(num_labels=2, hidden_size=32, intermediate_size=64)
    through = q_bert(copy.deepcopy(plain), loader, **knobs)
    method = QBert(**knobs)
    objective = method.loader_objective(plain, None, seed=0, device="cpu")
    fit_batches(plain, objective, loader, settings=method, seed=0, device="cpu")
    unrounded = loss(plain, loader)
    rounded = loss(q_bert(plain, loader, **bits, epochs=0), loader)
    assert unrounded < loss(through, loader) < 0.7 * rounded


def loss(model, loader):
    names = ("input_ids", "attention_mask", "labels")
    rows = [{name: batch[name] for name in names} for batch in loader]
    with torch.no_grad():
        return float(np.mean([float(model.eval()(**row).loss) for row in rows]))


def test_bits_that_take_more_bytes_are_marked(data, tmp_path):
    assert not imitates(stage(data, tmp_path / "a", epochs=0).model)
    assert imitates(stage(data, tmp_path / "b", epochs=0, bits=3).model)


def test_without_a_packing_no_file_is_claimed(data, tmp_path):
    assert stage(data, tmp_path / "a", group=0, epochs=0).deployments == ()
    assert stage(data, tmp_path / "b", group=24, epochs=0).deployments == ()


def test_a_shared_layer_has_the_bits_of_its_sharpest_use():
    model = tiny_model(num_labels=2)
    apply_edit(model, Sharing([0, 0, 2], [0, 0, 2]))
    bits = QBert(bits=4, high_bits=8)._widths(model, [8, 4, 4])
    of = {n: b for n, b in bits.items() if n.endswith("output.dense") and "attention" not in n}
    assert of == {"bert.encoder.layer.0.output.dense": 8, "bert.encoder.layer.2.output.dense": 4}


def test_high_bits_are_not_fewer():
    with pytest.raises(ValueError, match="high_bits 2 are fewer than bits 4"):
        QBert(bits=4, high_bits=2, high_share=0.5)
