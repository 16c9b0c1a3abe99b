"""The exporter: every family and head, cut or whole, answers as torch does and opens in optimum."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import onnx
import pytest
import torch
from runtime_support import batches, cut, pair_tokenizer
from tests_support import FAMILIES, HEADS, first_fast, tiny_model

from bertcompress.deployment import Product
from bertcompress.errors import ModelError
from bertcompress.runtimes import onnxruntime
from bertcompress.runtimes.onnx import export as exporter
from bertcompress.runtimes.onnx.export import OUTPUTS, export_onnx, task_of
from bertcompress.runtimes.onnx.graph import initializer_bytes, share, unshare_transposed
from bertcompress.runtimes.torch import TorchPredictor


def same(file, model, batch):
    ours = onnxruntime.predictor(file)(batch)
    theirs = TorchPredictor(model)(batch)
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("head", HEADS)
def test_cut_model_answers_as_torch_does(family, head, tmp_path):
    model = cut(tiny_model(family, head))
    file = export_onnx(Product(model, pair_tokenizer()), tmp_path)
    names = [output.name for output in onnx.load(file).graph.output]
    assert tuple(names) == OUTPUTS[task_of(model)]
    for batch in batches(2, rows=3):
        if head == "ForMultipleChoice":
            batch = {key: np.stack([value] * 4, axis=1) for key, value in batch.items()}
        same(file, model, batch)
    same(file, model, {k: (v[:1, None] if v.ndim == 2 and "Choice" in head else v[:1])[..., :1]
                       for k, v in batches(1)[0].items()})  # fmt: skip


@pytest.mark.slow
def test_whole_model_with_the_dynamo_exporter(tmp_path):
    model = tiny_model("bert")
    file = export_onnx(Product(model, pair_tokenizer()), tmp_path, exporter="dynamo")
    assert [path.suffix for path in tmp_path.glob("model*")] == [".onnx"]
    for batch in batches(3):
        same(file, model, batch)
    same(file, model, {key: value[:1, :1] for key, value in batches(1)[0].items()})


def test_export_leaves_the_model_as_it_was(tmp_path):
    model = tiny_model("bert").train()
    attention = model.config._attn_implementation
    export_onnx(Product(model, pair_tokenizer()), tmp_path)
    assert model.training
    assert model.config._attn_implementation == attention


def test_config_is_the_plain_family_s(tmp_path):
    model = cut(tiny_model("bert", id2label={0: "no", 1: "maybe", 2: "yes"}))
    export_onnx(Product(model, pair_tokenizer()), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_type"] == "bert"
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert config["id2label"] == {"0": "no", "1": "maybe", "2": "yes"}
    assert "auto_map" not in config
    assert "bertcompress" not in config
    assert not list(tmp_path.glob("*.py"))
    assert (tmp_path / "tokenizer.json").is_file()


def test_a_file_that_answers_otherwise_is_refused(tmp_path, monkeypatch):
    write = exporter._write

    def forgetful(graph, file, task, *rest):
        write(graph, file, task, *rest)
        proto = onnx.load(file)
        bias = next(t for t in proto.graph.initializer if t.name.endswith("classifier.bias"))
        changed = onnx.numpy_helper.to_array(bias) + 0.01
        bias.CopyFrom(onnx.numpy_helper.from_array(changed.astype(np.float32), bias.name))
        onnx.save(proto, file)

    monkeypatch.setattr(exporter, "_write", forgetful)
    with pytest.raises(ModelError, match=r"differs from torch by 1\.0e-02"):
        export_onnx(Product(tiny_model("bert"), pair_tokenizer()), tmp_path)


def test_unknown_head_is_named(tmp_path):
    model = tiny_model("bert", "ForNextSentencePrediction")
    with pytest.raises(ModelError, match="BertForNextSentencePrediction"):
        export_onnx(Product(model, pair_tokenizer()), tmp_path)


@pytest.mark.parametrize("kind", first_fast(["torchscript", "dynamo"]))
def test_shared_tensors_are_written_once(kind, tmp_path):
    model = tiny_model("albert", "ForMaskedLM", hidden_size=32, num_hidden_layers=4)
    file = export_onnx(Product(model, pair_tokenizer()), tmp_path, exporter=kind)
    floats = [t for t in onnx.load(file).graph.initializer if t.data_type == 1]
    numbers = sum(int(np.prod(t.dims)) for t in floats)
    # The pooler is no part of a language model; a few scalars come with the graph.
    assert numbers <= sum(p.numel() for p in model.parameters()) + 32


def test_tables_are_told_from_the_rest(tmp_path):
    model = tiny_model("bert")
    for parameter in model.parameters():
        # Freshly made biases are all zero: the same tensor, to a file that holds each once.
        torch.nn.init.uniform_(parameter)
    every, tables = initializer_bytes(
        onnx.load(export_onnx(Product(model, pair_tokenizer()), tmp_path))
    )
    embeddings = model.bert.embeddings
    wanted = sum(
        getattr(embeddings, f"{name}_embeddings").weight.numel() * 4
        for name in ("word", "position", "token_type")
    )
    assert tables == wanted
    assert every == sum(p.numel() * 4 for p in model.parameters())


def test_graph_edits_keep_the_answer(tmp_path):
    model = tiny_model("bert", "ForMaskedLM")
    file = export_onnx(Product(model, pair_tokenizer()), tmp_path)
    proto = onnx.load(file)
    assert share(proto) == 0
    before = len(proto.graph.initializer)
    assert unshare_transposed(proto) == 1
    assert len(proto.graph.initializer) == before + 1
    onnx.save(proto, file)
    same(file, model, batches(1)[0])


@pytest.mark.skipif(
    importlib.util.find_spec("optimum") is None
    or importlib.util.find_spec("optimum.onnxruntime") is None,
    reason="optimum-onnx is not installed (it needs transformers 4.57)",
)
@pytest.mark.parametrize(
    ("head", "opener"),
    [
        ("ForSequenceClassification", "ORTModelForSequenceClassification"),
        ("ForTokenClassification", "ORTModelForTokenClassification"),
        ("ForQuestionAnswering", "ORTModelForQuestionAnswering"),
        ("ForMultipleChoice", "ORTModelForMultipleChoice"),
        ("ForMaskedLM", "ORTModelForMaskedLM"),
        ("Model", "ORTModelForFeatureExtraction"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_optimum_opens_the_folder(head, opener, tmp_path):
    import optimum.onnxruntime

    model = cut(tiny_model("bert", head))
    export_onnx(Product(model, pair_tokenizer()), tmp_path)
    opened = getattr(optimum.onnxruntime, opener).from_pretrained(tmp_path)
    batch = {key: torch.from_numpy(value) for key, value in batches(1)[0].items()}
    if head == "ForMultipleChoice":
        batch = {key: value[:, None].repeat(1, 2, 1) for key, value in batch.items()}
    with torch.no_grad():
        wanted = model(**batch)
    answer = opened(**batch)
    for name in OUTPUTS[task_of(model)]:
        torch.testing.assert_close(answer[name], wanted[name], atol=1e-4, rtol=0)
