"""One answer from three runtimes, int8 close to it, and the right runtime for each path."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import onnx
import pytest
import torch
from runtime_support import batches, cut, pair_tokenizer, wide_product

from bertcompress import runtimes
from bertcompress.errors import CheckpointError, DataError, MissingExtra, ModelError, NotFound
from bertcompress.runtimes import Predictor, locate, onnxruntime, open_predictor, openvino
from bertcompress.runtimes import torch as torch_runtime

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnxruntime", "openvino", "nncf")),
    reason="needs the extra 'openvino'",
)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A folder laid out as a run leaves it."""
    place = tmp_path_factory.mktemp("run")
    product = wide_product()
    torch_runtime.export(product, place / "model")
    onnxruntime.export(product, place / "onnx")
    onnxruntime.quantize(place / "onnx")
    openvino.quantize(place / "onnx", batches())
    (place / "report.json").write_text("{}")
    (place / "figures").mkdir()
    return place


def answers(predictor):
    return np.concatenate([predictor(batch) for batch in batches()])


@pytest.mark.parametrize("runtime", runtimes.RUNTIMES)
def test_fp32_is_the_same_everywhere(run_folder, runtime):
    predictor = open_predictor(run_folder, runtime, threads=1, precision="fp32")
    assert isinstance(predictor, Predictor)
    assert (predictor.runtime, predictor.precision) == (runtime, "fp32")
    wanted = answers(torch_runtime.TorchPredictor(wide_product().model))
    np.testing.assert_allclose(answers(predictor), wanted, atol=1e-4)
    short = {key: value[:1, :1] for key, value in batches()[0].items()}
    assert predictor(short).shape == (1, 3)


@pytest.mark.parametrize(("runtime", "file"), [
    ("onnxruntime", "onnx/model_quantized.onnx"),
    ("openvino", "openvino/model_int8.onnx"),
])  # fmt: skip
def test_int8_is_smaller_and_agrees(run_folder, runtime, file):
    plain = run_folder / "onnx" / "model.onnx"
    assert (run_folder / file).stat().st_size < 0.6 * plain.stat().st_size
    predictor = open_predictor(run_folder / file, threads=1)
    assert (predictor.runtime, predictor.precision) == (runtime, "int8")
    ours, wanted = answers(predictor), answers(onnxruntime.predictor(plain))
    # One activation rounded the other way moves everything after it: only statistics can be asked.
    assert np.corrcoef(ours.ravel(), wanted.ravel())[0, 1] > 0.97
    assert (ours.argmax(1) == wanted.argmax(1)).mean() > 0.85


def weights(file):
    return {t.name: t for t in onnx.load(file).graph.initializer if len(t.dims) == 2}


def test_int8_covers_embeddings_and_is_per_channel(run_folder):
    for file in ("onnx/model_quantized.onnx", "openvino/model_int8.onnx"):
        kinds = {t.data_type for t in weights(run_folder / file).values() if min(t.dims) > 2}
        assert kinds <= {onnx.TensorProto.INT8, onnx.TensorProto.UINT8}, file
    graph = onnx.load(run_folder / "onnx/model_quantized.onnx").graph
    assert max(t.dims[0] for t in graph.initializer if t.name.endswith("_scale") and t.dims) == 128


def test_beside_each_file_lies_what_opens_it(run_folder):
    for folder in ("onnx", "openvino"):
        config = json.loads((run_folder / folder / "config.json").read_text())
        assert config["model_type"] == "bert"
        assert (run_folder / folder / "tokenizer.json").is_file()
    assert not (run_folder / "openvino" / "model.onnx").exists()


def test_cut_model_in_int8(tmp_path):
    product = wide_product()
    cut(product.model)
    plain = openvino.export(product, tmp_path / "onnx")
    wanted = answers(openvino.predictor(plain.path))
    for made in (
        onnxruntime.quantize(tmp_path / "onnx"),
        openvino.quantize(tmp_path / "onnx", batches(), out=tmp_path / "ov"),
    ):
        ours = answers(open_predictor(made.path, made.runtime))
        assert np.corrcoef(ours.ravel(), wanted.ravel())[0, 1] > 0.95


@pytest.mark.slow
def test_shared_layers_stay_shared_in_int8(tmp_path):
    from tests_support import tiny_model

    from bertcompress.deployment import Product

    sizes = []
    for depth in (1, 6):
        model = tiny_model("albert", hidden_size=64, intermediate_size=256, num_hidden_layers=depth)
        folder = tmp_path / str(depth) / "onnx"
        onnxruntime.export(Product(model, pair_tokenizer()), folder)
        made = [onnxruntime.quantize(folder), openvino.quantize(folder, batches(2))]
        every = [onnx.load(m.path).graph.initializer for m in made]
        sizes.append([sum(np.prod(t.dims) for t in i if len(t.dims) == 2) for i in every])
    assert sizes[0] == sizes[1]


def test_torch_in_other_precisions(run_folder):
    wanted = answers(open_predictor(run_folder))
    for precision, close in (("bf16", 0.999), ("int8", 0.98)):
        predictor = open_predictor(run_folder, precision=precision, runtime="torch")
        assert predictor.precision == precision
        assert np.corrcoef(answers(predictor).ravel(), wanted.ravel())[0, 1] > close
        assert not np.array_equal(answers(predictor), wanted)


def test_torch_predictor_calculates_without_gradients_and_dropout():
    model = wide_product().model.train()
    predictor = torch_runtime.TorchPredictor(model)
    batch = batches()[0]
    assert np.array_equal(predictor(batch), predictor(batch))
    assert not model.training
    assert model.dtype == torch.float32


def test_openvino_auto_states_what_it_picked(run_folder):
    predictor = openvino.predictor(run_folder / "onnx" / "model.onnx", precision="auto")
    assert predictor.precision in {"fp32", "bf16", "f16"}


@pytest.mark.parametrize(("path", "runtime", "precision", "found"), [
    ("", None, None, ("torch", "model")),
    ("model", None, None, ("torch", "model")),
    ("", "onnxruntime", None, ("onnxruntime", "onnx/model_quantized.onnx")),
    ("", "onnxruntime", "fp32", ("onnxruntime", "onnx/model.onnx")),
    ("", "openvino", None, ("openvino", "openvino/model_int8.onnx")),
    ("", "openvino", "fp32", ("openvino", "onnx/model.onnx")),
    ("", None, "int8", ("openvino", "openvino/model_int8.onnx")),
    ("", None, "fp32", ("torch", "model")),
    ("", None, "bf16", ("torch", "model")),
    ("", "torch", "int8", ("torch", "model")),
    ("onnx", None, None, ("onnxruntime", "onnx/model_quantized.onnx")),
    ("onnx", None, "int8", ("onnxruntime", "onnx/model_quantized.onnx")),
    ("onnx", None, "fp32", ("onnxruntime", "onnx/model.onnx")),
    ("onnx", "openvino", None, ("openvino", "onnx/model.onnx")),
    ("openvino", None, None, ("openvino", "openvino/model_int8.onnx")),
    ("onnx/model.onnx", None, None, ("onnxruntime", "onnx/model.onnx")),
    ("onnx/model.onnx", "openvino", None, ("openvino", "onnx/model.onnx")),
    ("openvino/model_int8.onnx", None, None, ("openvino", "openvino/model_int8.onnx")),
])  # fmt: skip
def test_each_path_finds_its_runtime(run_folder, path, runtime, precision, found):
    name, place = locate(run_folder / path, runtime, precision)
    assert (name, str(place)) == (found[0], str(run_folder / found[1]))


def test_names_that_are_no_paths_are_models_of_torch():
    assert locate("owner/name") == ("torch", "owner/name")
    assert locate("embedded:minilm-l6") == ("torch", "embedded:minilm-l6")


@pytest.mark.parametrize(("path", "runtime", "error", "message"), [
    ("model", "torchh", ModelError, "did you mean 'torch'"),
    ("onnx/model.onnx", "torch", ModelError, "torch does not run"),
    ("report.json", None, ModelError, "a folder or an .onnx file"),
    ("nowhere", None, NotFound, "no such file"),
    ("model", "openvino", NotFound, "no model for openvino"),
    ("figures", None, NotFound, "it holds neither config.json"),
])  # fmt: skip
def test_a_path_that_cannot_be_opened_says_why(run_folder, path, runtime, error, message):
    with pytest.raises(error, match=message):
        open_predictor(run_folder / path, runtime)


def test_a_precision_is_never_made_up(run_folder):
    with pytest.raises(NotFound, match="no int8 model in this folder; it holds torch fp32"):
        open_predictor(run_folder / "model", precision="int8")
    with pytest.raises(NotFound, match="no bf16 model for openvino"):
        open_predictor(run_folder, "openvino", precision="bf16")
    assert open_predictor(run_folder, precision="int8").runtime == "openvino"


def test_a_hub_id_runs_in_torch_only():
    for wish in (("openvino",), (None, "int8")):
        with pytest.raises(NotFound, match="local"):
            locate("owner/name", *wish)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_damaged_file_is_named(tmp_path, run_folder, runtime):
    file = tmp_path / "model.onnx"
    file.write_bytes((run_folder / "onnx" / "model.onnx").read_bytes()[:5000])
    with pytest.raises(CheckpointError, match=r"model\.onnx: not readable"):
        open_predictor(file, runtime)


def test_unusable_wishes(run_folder):
    with pytest.raises(ModelError, match="not offered for the torch runtime"):
        torch_runtime.quantize(run_folder / "model")
    with pytest.raises(ModelError, match="unknown precision 'int4'"):
        open_predictor(run_folder, "torch", precision="int4")
    with pytest.raises(DataError, match="calibration"):
        openvino.quantize(run_folder / "onnx", [])


def test_a_missing_package_names_its_extra(run_folder, monkeypatch):
    def absent(package):
        raise ModuleNotFoundError(package)

    monkeypatch.setattr("importlib.import_module", absent)
    with pytest.raises(MissingExtra, match=r"bertcompress\[onnx\]"):
        onnxruntime.predictor(run_folder / "onnx" / "model.onnx")
    with pytest.raises(MissingExtra, match=r"bertcompress\[openvino\]"):
        openvino.predictor(run_folder / "onnx" / "model.onnx")


@pytest.mark.slow
def test_int8_of_a_real_model_is_faithful(minilm, tmp_path):
    """The figures of the design's measurements: Pearson about 0.98 (dynamic) and 0.99 (static)."""
    from bertcompress.models.io import load

    product = load(minilm, head="ForSequenceClassification", fresh_head=True)
    subjects = ["the small dog", "an old teacher", "her new plan", "the red house", "a good meal"]
    verbs = ["surprised everybody", "was not seen again", "costs more than expected", "works"]
    ends = ["yesterday.", "in the city, although it rained for most of the week.", "?", "at last"]
    texts = [f"{s} {v} {e}" for s in subjects for v in verbs for e in ends]
    tokens = [dict(product.tokenizer(text, return_tensors="np")) for text in texts]
    plain = onnxruntime.export(product, tmp_path / "onnx")
    wanted = np.concatenate([onnxruntime.predictor(plain.path)(b) for b in tokens])
    floors = {"onnxruntime": 0.93, "openvino": 0.97}
    for made in (
        onnxruntime.quantize(tmp_path / "onnx", tokens),
        openvino.quantize(tmp_path / "onnx", tokens),
    ):
        predictor = open_predictor(made.path)
        ours = np.concatenate([predictor(b) for b in tokens])
        margins = [x[:, 0] - x[:, 1] for x in (ours, wanted)]
        assert np.corrcoef(*margins)[0, 1] > floors[made.runtime]
        assert made.path.stat().st_size < 0.27 * plain.path.stat().st_size
