"""A folder that is no plain checkpoint is named for what it is, with what to do."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from models_support import change_json, command, saved
from tests_support import answer, tiny_inputs, tiny_model, write_rows

import bertcompress as bc
from bertcompress.errors import CheckpointError, ModelError, NotFound, Notice

MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
]
DENSE = {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"}


def sentence_model(folder, deeper, *more):
    """A sentence-transformers folder of the newer layout, or with its encoder a folder deeper."""
    inner = folder / "0_Transformer" if deeper else folder
    saved(inner, head="Model")
    modules = [{**MODULES[0], "path": "0_Transformer" if deeper else ""}, MODULES[1], *more]
    (folder / "modules.json").write_text(json.dumps(modules))
    return folder


def refused(folder, error, *says):
    for function in (bc.load, bc.inspect, lambda f: bc.export(f, f.parent / "out")):
        with pytest.raises(error) as caught:
            function(folder)
        assert all(each in str(caught.value) for each in says), caught.value
    assert not (folder.parent / "out").exists()


def test_an_adapter(tmp_path):
    folder = tmp_path / "m"
    folder.mkdir()
    written = {"peft_type": "LORA", "base_model_name_or_path": "google/bert"}
    (folder / "adapter_config.json").write_text(json.dumps(written))
    (folder / "adapter_model.safetensors").write_bytes(b"")
    refused(folder, ModelError, "a LoRA adapter of 'google/bert'", "merge_and_unload()")


def test_the_output_folder_of_a_trainer(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "m"
    for number in (9, 10, 200):
        saved(folder / f"checkpoint-{number}", num_labels=2)
    refused(folder, ModelError, "the output folder of a Trainer", "the last is checkpoint-200")
    state = folder / "checkpoint-200" / "trainer_state.json"
    state.write_text(json.dumps({"best_model_checkpoint": "/other/machine/checkpoint-10"}))
    refused(folder, ModelError, "(checkpoint-9, checkpoint-10, checkpoint-200; its best was")
    write_rows(tmp_path / "train.csv", 20, 0)
    write_rows(tmp_path / "validation.csv", 20, 1)
    files = ("--train", tmp_path / "train.csv", "--validation", tmp_path / "validation.csv")
    columns = ("--text", "text", "--label", "label")
    for verb in ("evaluate", "bench"):
        arguments = (*files, *columns) if verb == "evaluate" else ()
        doors = {"capsys": capsys, "monkeypatch": monkeypatch}
        status, said = command(verb, folder, *arguments, **doors)
        assert status == 2
        assert "its best was checkpoint-10" in said
    (folder / "checkpoint-200" / "training_args.bin").write_bytes(b"never opened")
    bc.load(folder / "checkpoint-200")


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("pytorch_model.bin", "pytorch_model.bin is a pickle, which can run any code"),
        ("tf_model.h5", "tf_model.h5 is weights of TensorFlow"),
        ("flax_model.msgpack", "weights of Flax"),
        ("bert_model.ckpt.index", "a checkpoint of TensorFlow 1"),
        ("model.onnx", "an ONNX file: evaluate and bench run it as it is"),
        ("training_args.bin", "weights of other formats (pytorch_model.bin, tf_model.h5)"),
    ],
)
def test_weights_of_other_formats(tmp_path, file, says):
    folder = saved(tmp_path / "m")
    (folder / "model.safetensors").unlink()
    (folder / file).write_bytes(b"never opened")
    refused(folder, CheckpointError, says)


def test_weights_under_another_name(tmp_path):
    folder = saved(tmp_path / "m")
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    refused(folder, CheckpointError, "called weights.safetensors; rename it to model.safetensors")


def test_a_setfit_model(tmp_path):
    folder = sentence_model(tmp_path / "m", deeper=False)
    (folder / "model_head.pkl").write_bytes(b"never opened")
    refused(folder, ModelError, "a SetFit model", "model_head.pkl", "never opened", "fine-tune")


@pytest.mark.parametrize("deeper", [False, True])
def test_a_sentence_model_of_either_layout(tmp_path, deeper):
    folder = sentence_model(tmp_path / "m", deeper)
    loaded = bc.load(folder).model
    model = tiny_model("bert", "Model")
    assert torch.equal(answer(loaded, tiny_inputs()), answer(model, tiny_inputs()))


@pytest.mark.parametrize("deeper", [False, True])
def test_trained_layers_behind_a_sentence_encoder(tmp_path, deeper):
    pytest.importorskip("onnxruntime")
    folder = sentence_model(tmp_path / "m", deeper, DENSE)
    with pytest.warns(Notice, match=r"not in the file: Dense \(2_Dense\)"):
        bc.export(folder, tmp_path / "out")


def test_a_sentence_model_without_an_encoder(tmp_path):
    folder = tmp_path / "m"
    folder.mkdir()
    static = {"idx": 0, "name": "0", "path": "", "type": "x.models.StaticEmbedding"}
    (folder / "modules.json").write_text(json.dumps([static]))
    refused(folder, ModelError, "without a transformer in it: StaticEmbedding")


def test_a_folder_above_the_model(tmp_path):
    saved(tmp_path / "m" / "final")
    refused(tmp_path / "m", ModelError, "there is one in 'final' below it: give that")
    (tmp_path / "empty").mkdir()
    with pytest.raises((ModelError, NotFound), match=r"no config\.json"):
        bc.load(tmp_path / "empty")


def test_a_sharded_checkpoint_is_read_whole(tmp_path):
    model = tiny_model()
    folder = saved(tmp_path / "m")
    shutil.copytree(folder, tmp_path / "parts")
    (tmp_path / "parts" / "model.safetensors").unlink()
    model.save_pretrained(tmp_path / "parts", max_shard_size="10KB")
    assert len(list((tmp_path / "parts").glob("model-*.safetensors"))) > 1
    change_json(tmp_path / "parts" / "config.json", "architectures")
    loaded = bc.load(tmp_path / "parts").model
    assert torch.equal(answer(loaded, tiny_inputs()), answer(model, tiny_inputs()))
