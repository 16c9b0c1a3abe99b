"""`quantize_int8`: the guard finds a planted layer that int8 ruins, and says what it did."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from tests_support import first_fast, tiny_model, tiny_tokenizer
from training_support import SETTINGS, toy_data

from bertcompress.data import calibration_batches
from bertcompress.deployment import Product
from bertcompress.engines.quantization.accuracy_gate import Attempt
from bertcompress.engines.quantization.sensitivity import sensitivities
from bertcompress.errors import ModelError
from bertcompress.measure.scores import predict
from bertcompress.method import Context, Models
from bertcompress.methods.quantization import int8
from bertcompress.methods.quantization.int8 import QuantizeInt8
from bertcompress.runs.stage import known_answers
from bertcompress.runtimes import QUANTIZED_FILE, open_predictor
from bertcompress.runtimes import hardware as host
from bertcompress.runtimes.onnxruntime import OnnxRuntime
from bertcompress.runtimes.openvino import OpenVino
from bertcompress.runtimes.torch import bf16_gain
from bertcompress.shapes import anatomy
from bertcompress.training import LabelLoss, fit

pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def data():
    return toy_data(rows=400)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    model = tiny_model(num_labels=2, hidden_size=32, intermediate_size=64)
    settings = SETTINGS.model_copy(update={"epochs": 10, "learning_rate": 5e-3})
    work = tmp_path_factory.mktemp("fit")
    done = fit(
        model, LabelLoss(), data, tokenizer=tiny_tokenizer(), settings=settings, workdir=work
    )
    assert done.selection_score > 0.9
    return model.eval()


def planted(model, layer=1, factor=3_000.0):
    """The same function, with one channel into an attention output that is far too large."""
    ours = copy.deepcopy(model)
    part = anatomy(ours).layers[layer]
    with torch.no_grad():
        part.linears["value"].weight[3] *= factor
        part.linears["value"].bias[3] *= factor
        part.linears["attention_out"].weight[:, 3] /= factor
    return ours


def applied(model, data, folder, **knobs):
    context = Context(data.task, data, Models(None), torch.device("cpu"), 0, folder)
    return QuantizeInt8(**knobs).apply(Product(model, tiny_tokenizer()), context)


def answers(path, runtime, data):
    return predict(open_predictor(path, runtime), data, "selection", tiny_tokenizer())


@pytest.mark.slow
def test_what_the_gate_was_answered_is_kept_with_its_file(trained, data, tmp_path):
    for place, model in (("good", trained), ("bad", planted(trained))):
        done = applied(model, data, tmp_path / place, runtimes=("onnxruntime",))
        (each,) = done.answered
        assert each.deployment in done.deployments and each.split == "selection"
        (made,) = [d for d in done.deployments if d.precision == "int8"]
        assert np.array_equal(each.logits, answers(made.path, "onnxruntime", data))
        assert set(known_answers(done, made)) == {"selection"}
        assert known_answers(done, done.deployments[0]) == {}
        with made.path.open("ab") as file:
            file.write(b"changed")
        assert known_answers(done, made) == {}
    assert not applied(trained, data, tmp_path / "once", max_drop=None).answered


def test_a_good_model_passes_with_the_defaults(trained, data, tmp_path):
    done = applied(trained, data, tmp_path, runtimes=("onnxruntime",))
    (only,) = done.findings.facts["tried"]["onnxruntime"]
    assert only["passes"]
    assert only["kept"] == []
    assert done.findings.notes == ()


def test_sensitivity_names_the_planted_layer(trained, data):
    rows = calibration_batches(data, tiny_tokenizer(), 64)
    far = sensitivities(planted(trained), rows)
    assert next(iter(far)).endswith("layer.1.attention.output.dense")
    assert list(far.values()) == sorted(far.values(), reverse=True)
    plain = sensitivities(trained, rows)
    assert far[next(iter(far))] > 10 * plain[next(iter(far))]


def test_the_planted_layer_is_found_left_out_and_the_rest_passes(
    trained, data, tmp_path, monkeypatch
):
    monkeypatch.setattr(OnnxRuntime, "quantize_settings", lambda self: [{}])
    model = planted(trained)
    knobs = {"runtimes": ("onnxruntime",), "max_drop": 0.005}
    done = applied(model, data, tmp_path / "guarded", **knobs)
    tried = done.findings.facts["tried"]["onnxruntime"]
    assert not tried[0]["passes"]
    best = tried[-1]
    assert best["passes"]
    assert best["kept"][0].endswith("layer.1.attention.output.dense")
    assert any("in fp32 stay" in note for note in done.findings.notes)
    blind = applied(model, data, tmp_path / "blind", runtimes=("onnxruntime",), max_drop=None)
    fp32, good = (next(d for d in done.deployments if d.precision == p) for p in ("fp32", "int8"))
    bad = blind.deployments[-1]
    goal = answers(fp32.path, "onnxruntime", data)
    gaps = [np.abs(answers(d.path, "onnxruntime", data) - goal).mean() for d in (good, bad)]
    assert gaps[0] < 0.3 * gaps[1]


def test_smoothing_is_enough_for_one_channel_in_onnxruntime(trained, data, tmp_path):
    done = applied(planted(trained), data, tmp_path, runtimes=("onnxruntime",), max_drop=0.005)
    tried = done.findings.facts["tried"]["onnxruntime"]
    assert not tried[0]["passes"]
    assert tried[-1]["options"] == {"smoothing": 0.5}
    assert tried[-1]["passes"]
    assert done.findings.facts["samples"] == 0, "nothing was calibrated"


@pytest.mark.parametrize("gain", [0.4, 2.0])
def test_bf16_is_shipped_where_it_is_faster_and_refused_where_not(
    trained, data, tmp_path, monkeypatch, gain
):
    monkeypatch.setattr(int8, "bf16_gain", lambda model: gain)
    knobs = {"runtimes": ("onnxruntime",), "max_drop": None, "bf16": True}
    done = applied(trained, data, tmp_path, **knobs)
    halves = [d for d in done.deployments if d.precision == "bf16"]
    if gain < 1:
        assert not halves
        assert done.findings.notes == ("no bf16 model: measured 0.40x as fast as fp32 here",)
        return
    full = trained.num_parameters() * 4
    assert (halves[0].path / "model.safetensors").stat().st_size < 0.6 * full + 4_000
    goal = answers(done.deployments[0].path, "onnxruntime", data)
    predictor = open_predictor(halves[0].path, "torch", None, "bf16")
    same = predict(predictor, data, "selection", tiny_tokenizer()).argmax(1) == goal.argmax(1)
    assert same.mean() > 0.95


def test_the_gain_of_bf16_is_a_ratio_of_times(trained):
    assert 0.01 < bf16_gain(trained, rounds=2) < 100


def test_openvino_passes_too(trained, data, tmp_path):
    pytest.importorskip("nncf")
    done = applied(planted(trained), data, tmp_path, runtimes=("openvino",), rows=16)
    tried = done.findings.facts["tried"]["openvino"]
    assert any(each["passes"] for each in tried)
    int8 = next(d for d in done.deployments if d.precision == "int8")
    goal = answers(done.deployments[0].path, "onnxruntime", data)
    same = answers(int8.path, "openvino", data).argmax(1) == goal.argmax(1)
    assert same.mean() > 0.95


@pytest.mark.parametrize(
    ("kind", "most"),
    [("x86_64 avx2 fma", 64), ("x86_64 avx2 avx512_vnni", 127), ("aarch64 asimd", 127)],
)
@pytest.mark.parametrize("guarded", [True, False])
def test_seven_bits_are_the_default_where_products_may_overflow(
    guarded, kind, most, trained, data, tmp_path, monkeypatch
):
    """In every file that is written: with the guard, without it, by `export`."""
    onnx = pytest.importorskip("onnx")
    monkeypatch.setattr(host, "host_kind", lambda: kind)
    assert host.overflows_int8() == (most == 64)
    assert {"reduce_range": most == 127} in OnnxRuntime().quantize_settings()
    knobs = {} if guarded else {"max_drop": None}
    done = applied(trained, data, tmp_path, runtimes=("onnxruntime",), **knobs)
    graph = onnx.load(done.deployments[-1].path).graph
    weights = [onnx.numpy_helper.to_array(t) for t in graph.initializer]
    largest = max(
        int(np.abs(w.astype(int)).max()) for w in weights if w.dtype == np.int8 and w.ndim == 2
    )
    assert largest <= most
    assert largest > most // 2


@pytest.mark.parametrize("rows", first_fast([7, 320]))
def test_as_many_rows_are_calibrated_on_as_it_says(rows, trained, tmp_path, monkeypatch):
    nncf = pytest.importorskip("nncf")
    seen = []

    class Counting(nncf.Dataset):
        def __init__(self, rows, *args):
            seen.append([row["input_ids"].shape[1] for row in rows])
            super().__init__(rows, *args)

    monkeypatch.setattr(nncf, "Dataset", Counting)
    many = toy_data(rows=1_200)
    done = applied(trained, many, tmp_path, runtimes=("openvino",), rows=rows, max_drop=None)
    assert done.findings.facts["samples"] == rows == len(seen[0])
    assert seen[0] != sorted(seen[0], reverse=True)  # not the longest of them


def test_a_bf16_model_that_loses_too_much_is_not_shipped(trained, data, tmp_path, monkeypatch):
    monkeypatch.setattr(int8, "bf16_gain", lambda model: 2.0)
    real = int8.save

    def spoiled(model, folder, tokenizer):
        with torch.no_grad():
            model.classifier.weight.neg_()
            model.classifier.bias.neg_()
        return real(model, folder, tokenizer)

    monkeypatch.setattr(int8, "save", spoiled)
    done = applied(trained, data, tmp_path, runtimes=("onnxruntime",), bf16=True)
    assert not [d for d in done.deployments if d.precision == "bf16"]
    assert any(note.startswith("no bf16 model: defaults: loses") for note in done.findings.notes)


def test_a_loss_taken_for_noise_is_told():
    near = Attempt({}, (), 0.03, -0.001, 0.02, True, True)
    (note,) = int8._notes("openvino", near, near, 0.01, 249)
    assert "loses 3.00 points" in note
    assert "249 selection rows" in note
    assert not int8._notes("openvino", Attempt({}, (), 0.0, 0.0, 0.0, True), near, 0.01, 249)


def test_a_module_that_no_node_uses_is_an_error(trained, data, tmp_path):
    done = applied(trained, data, tmp_path, runtimes=("onnxruntime",), max_drop=None)
    other = tiny_model(num_labels=2, hidden_size=32, intermediate_size=64, seed=9)
    product = Product(other, tiny_tokenizer())
    with pytest.raises(ModelError, match="uses the weight of classifier"):
        int8._nodes(product, done.deployments[0].path, ["classifier"])


def test_a_setting_that_answers_nan_is_only_one_that_failed(trained, data, tmp_path, monkeypatch):
    real = OnnxRuntime.quantize

    def broken(runtime, folder, calibration, **options):
        if options == {"exclude": []}:
            raise ModelError("the quantised model answers with infinities or NaN")
        return real(runtime, folder, calibration, **options)

    monkeypatch.setattr(OnnxRuntime, "quantize", broken)
    done = applied(trained, data, tmp_path, runtimes=("onnxruntime",))
    tried = done.findings.facts["tried"]["onnxruntime"]
    assert not tried[0]["passes"]
    assert tried[0]["drop"] is None
    assert "infinities or NaN" in tried[0]["error"]
    assert any(each["passes"] for each in tried)
    assert not any("1000000" in note or "inf" in note.split() for note in done.findings.notes)


def test_a_significant_loss_that_nothing_removes_is_accepted_and_said():
    small = Attempt({}, (), 0.008, 0.002, 0.02, False, allowed=True, significant=True)
    words = int8._notes("onnxruntime", small, small, 0.01, 2_000)
    assert "loses 0.80 points (significant: 0.20 at least)" in words[0]
    assert words[-1] == "onnxruntime: nothing that was tried removes this loss; try q8bert"
    large = Attempt({}, (), 0.08, 0.02, 0.2, False, significant=True)
    assert (
        "nothing that was tried is within the limit" in int8._notes("x", large, large, 0.01, 9)[-1]
    )


@pytest.mark.parametrize("max_drop", [0.01, None])
@pytest.mark.parametrize("broken", [("openvino",), ("openvino", "onnxruntime")])
def test_a_runtime_without_a_file_does_not_take_the_others_along(
    trained, data, tmp_path, monkeypatch, broken, max_drop
):
    def refused(runtime, folder, calibration, **options):
        raise ModelError(f"{folder}: nothing quantised it")

    for runtime in (OnnxRuntime, OpenVino):
        monkeypatch.setattr(runtime, "quantize_settings", lambda self: [{}])
        if runtime.name in broken:
            monkeypatch.setattr(runtime, "quantize", refused)
    monkeypatch.setattr(int8, "available_runtimes", lambda: ["onnxruntime", "openvino"])
    knobs = {"rows": 8, "max_drop": max_drop}
    if len(broken) == 2:
        with pytest.raises(ModelError, match=r"onnxruntime: no int8 file.*openvino: no int8 file"):
            applied(trained, data, tmp_path, **knobs)
        return
    done = applied(trained, data, tmp_path, **knobs)
    made = [(d.runtime, d.precision) for d in done.deployments]
    assert made == [("onnxruntime", "fp32"), ("onnxruntime", "int8")]
    assert all(d.path.is_file() for d in done.deployments)
    (note,) = done.findings.notes
    assert note.startswith("openvino: no int8 file: ")
    assert "nothing quantised it" in note


def test_a_file_that_answers_in_no_numbers_is_not_left_behind(trained, data, tmp_path, monkeypatch):
    class Nothing:
        runtime, precision = "onnxruntime", "int8"

        def __call__(self, batch):
            return np.full((len(batch["input_ids"]), 2), np.nan, np.float32)

    monkeypatch.setattr(int8, "open_predictor", lambda *_, **__: Nothing())
    monkeypatch.setattr(OnnxRuntime, "quantize_settings", lambda self: [{}])
    with pytest.raises(ModelError, match=r"onnxruntime: no int8 file: .*infinities or NaN"):
        applied(trained, data, tmp_path, runtimes=("onnxruntime",))
    assert not list(tmp_path.rglob(QUANTIZED_FILE))


def test_a_bf16_model_that_cannot_be_opened_is_a_note(trained, data, tmp_path, monkeypatch):
    monkeypatch.setattr(int8, "bf16_gain", lambda model: 2.0)
    real = int8.open_predictor

    def opened(path, runtime, *rest, **where):
        if "bf16" in rest:
            raise ModelError(f"{path}: no kernel for it")
        return real(path, runtime, *rest, **where)

    monkeypatch.setattr(int8, "open_predictor", opened)
    done = applied(trained, data, tmp_path, runtimes=("onnxruntime",), bf16=True)
    assert [d.precision for d in done.deployments] == ["fp32", "int8"]
    assert done.findings.notes == ("no bf16 model: defaults: no kernel for it",)
