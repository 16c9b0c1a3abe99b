"""What sentence-transformers' `backend="onnx"` and `"openvino"` open of a run: names, vectors.

Its own loaders need optimum-onnx and optimum-intel, which hold transformers back; where they are
not installed, its modules are put behind the files here.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from embedder_support import sentences, tiny_embedder, write_texts

import bertcompress as bc
from bertcompress.heads.pooling import cosines

sentence_transformers = pytest.importorskip("sentence_transformers")
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("without_figures")]
TEXTS = sentences(12, 3)
RUNTIMES = ["onnxruntime", "openvino"]


@pytest.fixture(scope="module", params=["mean", "cls"])
def done(request, tmp_path_factory):
    for name in RUNTIMES:
        pytest.importorskip(name)
    folder = tmp_path_factory.mktemp("run")
    task = bc.Task.from_texts(write_texts(folder / "train.jsonl", 60))
    recipe = {
        "model": str(tiny_embedder(folder / "m", mode=request.param)),
        "task": task,
        "methods": [{"prune_hidden": {"keep": 0.5}}, {"quantize_int8": {"runtimes": RUNTIMES}}],
        "measure": {"latency": False, "controls": False},
    }
    return bc.run(bc.Recipe.parse(recipe), folder / "run")


def in_torch(done):
    return sentence_transformers.SentenceTransformer(
        str(done.model), device="cpu", trust_remote_code=True
    )


def modules_of(folder, classes):
    """The modules behind the encoder, made by sentence-transformers from the files there."""
    named = json.loads((folder / "modules.json").read_text())
    assert named[0]["path"] == "" and named[0]["type"].endswith(".Transformer")
    kinds = [each["type"].rpartition(".")[2] for each in named[1:]]
    assert kinds == ["Pooling", "Normalize"]
    pooling, normalize = classes
    return pooling.load(str(folder / named[1]["path"])), normalize()


def vectors(folder, answer, classes):
    """What sentence-transformers makes of the hidden states that a file answers with."""
    from transformers import AutoConfig, AutoTokenizer

    config = AutoConfig.from_pretrained(folder)  # of a stock class: no code of ours
    assert type(config).__module__.startswith("transformers.")
    batch = AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="np")
    features = {
        "token_embeddings": torch.tensor(answer(batch)),
        "attention_mask": torch.tensor(batch["attention_mask"]),
    }
    for module in modules_of(folder, classes):
        features = module(features)
    pooled = json.loads((folder / "1_Pooling/config.json").read_text())
    assert pooled["word_embedding_dimension"] == features["sentence_embedding"].shape[1]
    return features["sentence_embedding"].numpy()


@pytest.mark.parametrize(("file", "least"), [("model", 1 - 1e-5), ("model_quantized", 0.98)])
def test_the_onnx_folder_is_one_of_sentence_transformers(done, file, least):
    import onnxruntime

    session = onnxruntime.InferenceSession(done.onnx / f"{file}.onnx")
    names = [port.name for port in session.get_inputs()]

    def answer(batch):
        (output,) = session.run(["last_hidden_state"], {n: batch[n] for n in names})
        return output

    whole = in_torch(done)
    found = vectors(done.onnx, answer, [*map(type, whole)][1:])
    assert cosines(found, whole.encode(TEXTS)).min() > least


def test_the_openvino_folder_holds_the_file_that_is_looked_for(done):
    import openvino

    file = done.openvino / "openvino_model.xml"
    assert file.is_file() and file.with_suffix(".bin").is_file()
    ours = bc.open_predictor(done.openvino / "model_int8.onnx", "openvino")
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(file, "CPU", exact)
    names = [port.any_name for port in compiled.inputs]

    def answer(batch):
        return compiled({name: batch[name] for name in names})["last_hidden_state"]

    def same(batch):
        return ours({name: batch[name] for name in names})

    whole = in_torch(done)
    classes = [*map(type, whole)][1:]
    found = vectors(done.openvino, answer, classes)
    np.testing.assert_allclose(found, vectors(done.openvino, same, classes), atol=1e-5)
    assert cosines(found, whole.encode(TEXTS)).min() > 0.97


PACKAGES = {"onnx": "optimum.onnxruntime", "openvino": "optimum.intel.openvino"}


@pytest.mark.parametrize(("backend", "package"), PACKAGES.items(), ids=[*PACKAGES])
def test_its_own_backends_open_them(done, backend, package):
    pytest.importorskip(package, exc_type=ImportError)
    opened = sentence_transformers.SentenceTransformer(
        str(done.folder / backend), device="cpu", backend=backend
    )
    least = 1 - 1e-5 if backend == "onnx" else 0.97
    assert cosines(opened.encode(TEXTS), in_torch(done).encode(TEXTS)).min() > least


def test_a_file_that_pools_by_itself_is_no_such_folder(tmp_path):
    bc.export(tiny_embedder(tmp_path / "m"), tmp_path / "out", pooled=True)
    there = {path.name for path in (tmp_path / "out/onnx").iterdir()}
    assert not there & {"modules.json", "1_Pooling", "config_sentence_transformers.json"}
