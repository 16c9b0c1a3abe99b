"""Parameters, bytes, MACs, scores and comparisons, against figures from outside and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from runtime_support import cut, wide_product
from tests_support import FAMILIES, WORDS, tiny_model, tiny_tokenizer
from transformers import BertConfig, BertForMaskedLM, BertModel

from bertcompress.data import load_data
from bertcompress.deployment import Deployment, Product
from bertcompress.errors import CheckpointError, DataError, ModelError
from bertcompress.measure.footprint import (
    count_parameters,
    disk_bytes,
    encoder_bytes,
    layer_table,
    macs,
    size_of,
)
from bertcompress.measure.scores import compare, predict, score, task_batches
from bertcompress.runtimes import onnxruntime, openvino
from bertcompress.runtimes import torch as torch_runtime
from bertcompress.runtimes.torch import TorchPredictor
from bertcompress.shapes import Heads, Neurons, apply_edit
from bertcompress.task import Task


def base(cls=BertModel, **fields):
    with torch.device("meta"):
        return cls(BertConfig(**fields))


def test_macs_are_those_of_kwon_et_al():
    assert macs(base(), 128) == 11_173_625_856


def test_macs_of_one_head_and_one_neuron_are_those_of_kwon_et_al():
    model = BertModel(BertConfig(num_hidden_layers=1, vocab_size=10))
    whole = macs(model)
    apply_edit(model, Heads([list(range(11))]))
    assert whole - macs(model) == 27_262_976
    whole = macs(model)
    apply_edit(model, Neurons([3071], [list(range(3071))]))
    assert whole - macs(model) == 196_608


def test_nothing_left_computes_nothing():
    model = tiny_model("bert")
    apply_edit(model, Heads([[], [], []]))
    apply_edit(model, Neurons([0, 0, 0], [[], [], []]))
    assert macs(model) == 0


def test_a_shared_layer_computes_each_time_it_is_applied():
    one, four = (tiny_model("albert", num_hidden_layers=n) for n in (1, 4))
    assert macs(four) == 4 * macs(one)
    assert count_parameters(four) == count_parameters(one)


def test_parameters_are_those_of_textpruner():
    """Its README, less the 512 position ids that it counts; tied weights once."""
    counted = count_parameters(base(BertForMaskedLM))
    assert counted.total == 109_514_298
    assert counted.embeddings == 23_837_184
    assert counted.encoder == 85_054_464
    assert counted.head == counted.total - counted.embeddings - counted.encoder


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("edited", [False, True])
def test_layer_table_adds_up(family, edited):
    model = tiny_model(family)
    if edited:
        cut(model)
    rows, counted = layer_table(model, 50), count_parameters(model)
    assert rows[0].name == "embeddings"
    assert rows[0].params == counted.embeddings
    assert rows[-1].params == counted.head
    assert sum(row.params for row in rows) == counted.total
    assert counted.total == sum(p.numel() for p in model.parameters())
    assert sum(row.bytes for row in rows) == 4 * counted.total
    assert sum(row.macs or 0 for row in rows) == macs(model, 50)
    if edited:
        assert (rows[1].heads, rows[1].neurons) == (2, 3)


def test_bytes_are_those_on_disk(tmp_path):
    product = wide_product()
    for parameter in product.model.parameters():
        # Equal tensors (zero biases) are stored once in ONNX.
        torch.nn.init.uniform_(parameter, -0.2, 0.2)
    made = [
        torch_runtime.export(product, tmp_path / "model"),
        onnxruntime.export(product, tmp_path / "onnx"),
    ]
    embeddings = product.model.bert.embeddings
    tables = sum(
        getattr(embeddings, f"{name}_embeddings").weight.numel()
        for name in ("word", "position", "token_type")
    )
    wanted = 4 * (count_parameters(product.model).total - tables)
    assert [encoder_bytes(each) for each in made] == [wanted, wanted]
    assert disk_bytes(tmp_path / "model") == (tmp_path / "model/model.safetensors").stat().st_size
    assert size_of(made[1]).size_mb == (tmp_path / "onnx/model.onnx").stat().st_size / 1e6
    half = Product(product.model.to(torch.bfloat16), product.tokenizer)
    small = torch_runtime.export(half, tmp_path / "half")
    assert encoder_bytes(small) == wanted / 2


def test_int8_encoder_is_about_a_quarter(tmp_path):
    plain = onnxruntime.export(wide_product(), tmp_path / "onnx")
    rows = [{"input_ids": np.full((2, 6), 7), "attention_mask": np.ones((2, 6), np.int64),
             "token_type_ids": np.zeros((2, 6), np.int64)}]  # fmt: skip
    for small in (
        onnxruntime.quantize(tmp_path / "onnx"),
        openvino.quantize(tmp_path / "onnx", rows),
    ):
        assert 0.2 < encoder_bytes(small) / encoder_bytes(plain) < 0.35


def test_a_folder_without_weights_has_no_size(tmp_path):
    with pytest.raises(CheckpointError, match="safetensors"):
        disk_bytes(tmp_path)
    with pytest.raises(CheckpointError, match="safetensors"):
        encoder_bytes(Deployment("torch", "fp32", tmp_path))


def task_data(label="label", rows=48):
    random = np.random.default_rng(0)
    splits = {}
    for name, count in (("train", 60), ("validation", rows)):
        texts = [" ".join(random.choice(WORDS, random.integers(1, 15))) + f" {i} {name}"
                 for i in range(count)]  # fmt: skip
        columns = {"text": texts, "number": random.normal(size=count).tolist(),
                   "label": random.integers(0, 3, count).tolist()}  # fmt: skip
        splits[name] = Dataset.from_dict(columns)
    task = Task.from_dataset(DatasetDict(splits), text="text", label=label)
    return load_data(task)


@pytest.fixture(scope="module")
def data():
    return task_data()


def test_predictions_are_in_the_order_of_the_rows(data):
    model, tokenizer = tiny_model("bert"), tiny_tokenizer()
    predictor = TorchPredictor(model)
    logits = predict(predictor, data, "validation", tokenizer, batch_size=7)
    assert logits.shape == (48, 3)
    for i in (0, 17, 47):
        row = tokenizer(data.validation[i]["text"], return_tensors="np", truncation=True)
        np.testing.assert_allclose(predictor(dict(row))[0], logits[i], atol=1e-5)


@pytest.mark.parametrize(
    ("runtime", "precision", "together"),
    [
        ("onnxruntime", "int8", 1),
        ("openvino", "int8", 1),
        ("onnxruntime", "fp32", 32),
        ("onnxruntime", "int4-8", 32),
        ("torch", "int8", 32),
    ],
)
def test_int8_is_asked_one_text_at_a_time_as_it_is_served(data, runtime, precision, together):
    sizes = []

    class Counting:
        def __call__(self, batch):
            sizes.append(len(batch["input_ids"]))
            return np.zeros((sizes[-1], 3), np.float32)

    predictor = Counting()
    predictor.runtime, predictor.precision = runtime, precision
    predict(predictor, data, "validation", tiny_tokenizer())
    assert max(sizes) == together
    predict(predictor, data, "validation", tiny_tokenizer(), batch_size=8)
    assert sizes[-1] == 8


def test_a_model_that_answers_per_token_is_refused(data):
    predictor = TorchPredictor(tiny_model("bert", "ForTokenClassification"))
    with pytest.raises(ModelError, match="sequence classification head"):
        predict(predictor, data, "validation", tiny_tokenizer())


def test_scores_carry_their_interval(data):
    truth = data.references("validation")
    right = np.eye(3, dtype=np.float32)[truth]
    right[:12] = np.roll(right[:12], 1, axis=1)
    rows = {row.metric: row for row in score(data.task, data, "validation", right)}
    accuracy = rows["accuracy"]
    assert accuracy.value == pytest.approx(0.75)
    assert accuracy.ci_low < 0.75 < accuracy.ci_high
    assert (accuracy.n, accuracy.split) == (48, "validation")
    assert [row.metric for row in rows.values() if row.headline] == [data.task.headline]
    assert set(rows) == set(data.task.metrics)


def answers(truth, wrong):
    logits = np.eye(3, dtype=np.float32)[truth]
    logits[wrong] = np.roll(logits[wrong], 1, axis=1)
    return logits


def test_comparison_by_hand(data):
    truth = data.references("validation")
    task = data.task.model_copy(update={"chance": 0.25})
    against = compare(task, answers(truth, range(12)), answers(truth, range(6)), truth)
    assert against.difference == pytest.approx(-6 / 48)
    assert against.retention == pytest.approx(36 / 42)
    assert against.retention_chance_corrected == pytest.approx((0.75 - 0.25) / (0.875 - 0.25))
    assert against.flipped == pytest.approx(6 / 48)
    # McNemar, exact: six rows changed, all to the worse.
    assert against.p_value == pytest.approx(2 * 0.5**6)
    assert against.difference_low < against.difference < against.difference_high
    assert against.retention_low < against.retention < against.retention_high <= 1


def test_a_model_beside_itself_has_lost_nothing(data):
    truth = data.references("validation")
    logits = answers(truth, range(10))
    against = compare(data.task, logits, logits, truth)
    assert (against.retention, against.retention_low, against.retention_high) == (1, 1, 1)
    assert (against.flipped, against.difference, against.p_value) == (0, 0, 1)


def test_a_baseline_at_nothing_has_no_retention(data):
    truth = data.references("validation")
    against = compare(data.task, answers(truth, []), answers(truth, range(48)), truth)
    assert against.retention is None
    assert against.retention_low is None
    assert against.difference == 1


def test_numbers_do_not_flip():
    data = task_data(label="number")
    truth = data.references("validation").astype(np.float32)
    noise = np.random.default_rng(1).normal(size=(48, 1)).astype(np.float32)
    against = compare(data.task, truth[:, None] + noise, truth[:, None], truth)
    assert against.flipped is None
    assert 0 < against.retention < 1
    assert against.p_value < 0.05


def test_without_labels_the_original_is_the_measure():
    data = task_data(label=None)
    original = np.random.default_rng(1).normal(size=(48, 3)).astype(np.float32)
    changed = original.copy()
    changed[:6] = np.roll(changed[:6], 1, axis=1)
    with pytest.raises(DataError, match="no labels"):
        data.references("validation")
    rows = {r.metric: r.value for r in score(data.task, data, "validation", changed, original)}
    assert rows["agreement"] == pytest.approx(42 / 48)
    assert rows["kl"] > 0
    against = compare(data.task, changed, original, original)
    assert against.retention == pytest.approx(42 / 48)
    usual = np.bincount(original.argmax(axis=1)).max() / 48  # what one and the same class gets
    assert against.retention_chance_corrected == pytest.approx((42 / 48 - usual) / (1 - usual))
    assert against.flipped == pytest.approx(6 / 48)
    assert against.p_value is None


def test_task_batches_hold_the_same_rows_unsorted(data):
    made = task_batches(data, "validation", tiny_tokenizer(), sizes=(1, 8), rows=24)
    assert [len(made[1]), len(made[8])] == [24, 3]
    assert {len(batch["input_ids"]) for batch in made[8]} == {8}
    singles = np.concatenate([batch["input_ids"][0] for batch in made[1]])
    eights = np.concatenate([
        row[mask == 1]
        for batch in made[8]
        for row, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ])  # fmt: skip
    assert np.array_equal(singles, eights)
    lengths = [batch["input_ids"].shape[1] for batch in made[1]]
    assert lengths != sorted(lengths)
    assert lengths != sorted(lengths, reverse=True)


def test_a_batch_size_that_the_rows_cannot_fill_is_left_out(data):
    made = task_batches(data, "validation", tiny_tokenizer(), sizes=(1, 8, 1_000), rows=24)
    assert {size: len(batches) for size, batches in made.items()} == {1: 48, 8: 6}
