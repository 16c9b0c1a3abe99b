"""`export`: an int8 file that answers as fp32 does, or none; on models with one outlier channel."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from embedder_support import tiny_embedder
from tests_support import first_fast, tiny_model, tiny_tokenizer
from typer.testing import CliRunner

import bertcompress as bc
from bertcompress.cli.main import app
from bertcompress.engines.quantization.likeness import Likeness, likeness
from bertcompress.errors import ModelError, OutputError
from bertcompress.heads import HEADS
from bertcompress.methods.quantization import int8
from bertcompress.runtimes import onnxruntime, open_predictor
from bertcompress.shapes import anatomy

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def outlier(family="bert", head="ForSequenceClassification", factor=3_000.0):
    """The same function as a tiny model, with one channel into an attention output too large."""
    model = tiny_model(family, head)
    part = anatomy(model).layers[1]
    with torch.no_grad():
        part.linears["value"].weight[3] *= factor
        part.linears["value"].bias[3] *= factor
        part.linears["attention_out"].weight[:, 3] /= factor
    return model


@pytest.mark.parametrize(
    "head", first_fast(["ForSequenceClassification", "ForTokenClassification", "Model"])
)
def test_export_mends_int8_that_one_channel_spoils(head, tmp_path):
    bc.save(outlier(head=head), tmp_path / "model", tiny_tokenizer())
    done = CliRunner().invoke(app, ["export", str(tmp_path / "model"), "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    words = " ".join(done.output.split())
    assert "int8 by defaults: " in words
    assert "taken: smoothing 0.5" in words
    same = likeness(bc.load(tmp_path / "model"))
    assert same.judge(open_predictor(tmp_path / "onnx"), {}).passes
    plain = onnxruntime.quantize(tmp_path / "onnx", out=tmp_path / "plain").path
    assert not same.judge(open_predictor(plain), {}).passes


def test_export_says_that_no_question_stays_without_an_answer(tmp_path):
    """`evaluate` had judged the model with a threshold of 0, and what it shipped had none."""
    for name, fields in (("unknown", {}), ("known", {"null_score_diff_threshold": 0.0})):
        model = tiny_model("bert", "ForQuestionAnswering", **fields)
        bc.save(model, tmp_path / name, tiny_tokenizer())
        said: list[str] = []
        bc.export(tmp_path / name, tmp_path / f"{name}-out", say=said.append)
        told = any("serve.py always gives one" in line for line in said)
        assert told is (name == "unknown")


def test_export_of_a_good_model_tries_nothing_else(tmp_path):
    bc.save(tiny_model(), tmp_path / "model", tiny_tokenizer())
    said = []
    made = bc.export(tmp_path / "model", tmp_path, say=said.append)
    assert [each.precision for each in made] == ["fp32", "int8"]
    assert said == []


def test_export_writes_no_int8_file_that_answers_otherwise(tmp_path, monkeypatch):
    monkeypatch.setattr(
        onnxruntime.OnnxRuntime, "quantize_settings", lambda self: [{}, {"per_channel": False}]
    )
    monkeypatch.setattr(int8, "_suspects", lambda product, guard: [])
    bc.save(outlier(), tmp_path / "model", tiny_tokenizer())
    done = CliRunner().invoke(app, ["export", str(tmp_path / "model"), "--out", str(tmp_path)])
    assert done.exit_code != 0
    words = str(done.exception)
    assert "not written: int8 answers otherwise than fp32" in words
    assert "quantize_int8" in words
    assert (tmp_path / "onnx" / "model.onnx").is_file()
    assert not list(tmp_path.rglob("*quantized*"))


def test_near_ties_that_all_change_are_no_likeness():
    """They diverge little, whatever they are: the rows must still be told apart."""
    rows = np.random.default_rng(0).normal(0, 0.05, (64, 2)).astype(np.float32)
    same = Likeness((), lambda answers: answers[0], HEADS["single_label"], rows)

    def judged(answers):
        whole = dataclasses.replace(same, batches=({},))
        return whole.judge(lambda batch: answers, {})

    assert judged(rows).passes
    assert judged(rows * 0.9).passes
    other = judged(-rows)
    assert other.moved < 0.05
    assert not other.passes
    assert judged(rows + np.float32(np.nan)).error


def test_an_int8_file_that_answers_nan_does_not_stay(tmp_path, monkeypatch):
    real = onnxruntime.OnnxRuntimePredictor.__call__

    def broken(self, batch):
        answers = real(self, batch)
        return answers * np.float32(np.nan) if self.precision == "int8" else answers

    monkeypatch.setattr(onnxruntime.OnnxRuntimePredictor, "__call__", broken)
    monkeypatch.setattr(int8, "_suspects", lambda product, guard: [])
    bc.save(tiny_model(), tmp_path / "model", tiny_tokenizer())
    with pytest.raises(ModelError, match="infinities or NaN"):
        bc.export(tmp_path / "model", tmp_path)
    assert (tmp_path / "onnx" / "model.onnx").is_file()
    assert not list(tmp_path.rglob("*quantized*"))


def test_an_export_leaves_nothing_of_another_model_beside_its_own(tmp_path):
    tiny_embedder(tmp_path / "embedder")
    bc.save(tiny_model(head="ForMaskedLM"), tmp_path / "words", tiny_tokenizer())
    bc.export(tmp_path / "embedder", tmp_path / "out")
    (tmp_path / "out" / "onnx" / "notes.txt").write_text("mine")
    there = {each.name for each in (tmp_path / "out" / "onnx").iterdir()}
    assert {"modules.json", "serve.py", "probe.npz", "1_Pooling"} <= there
    bc.export(tmp_path / "words", tmp_path / "out")
    left = {each.name for each in (tmp_path / "out" / "onnx").iterdir()}
    assert not {"modules.json", "serve.py", "1_Pooling"} & left
    assert {"model.onnx", "model_quantized.onnx", "notes.txt"} <= left


def test_an_export_is_never_written_into_its_model(tmp_path):
    bc.save(tiny_model(), tmp_path / "onnx", tiny_tokenizer())
    with pytest.raises(OutputError, match="choose another --out"):
        bc.export(tmp_path / "onnx", tmp_path)
