"""`verify`: the same on this machine passes, a changed file does not, and what is said of hosts."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests_support import tiny_model, tiny_tokenizer
from training_support import toy_rows
from typer.testing import CliRunner

import bertcompress as bc
from bertcompress.cli.main import app
from bertcompress.engines.quantization.fake_quantize import quantizable, store, with_rounding
from bertcompress.errors import CheckpointError, InputError, MissingExtra, NotFound, WorkerError
from bertcompress.measure.known_answers import (
    KNOWN_ANSWERS_FILE,
    KnownAnswers,
    alike,
    answers,
    known_inputs,
    read_known_answers,
    write_known_answers,
)
from bertcompress.methods.quantization import int8, q8bert
from bertcompress.runtimes import open_predictor
from bertcompress.runtimes.torch import TorchPredictor
from bertcompress.verbs import verify as verification

pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """What `export` writes: fp32 and int8 files, with their known."""
    place = tmp_path_factory.mktemp("made")
    bc.save(tiny_model(), place / "model", tiny_tokenizer())
    bc.export(place / "model", place / "out")
    return place


@pytest.fixture
def copied(made, tmp_path):
    shutil.copytree(made / "out", tmp_path / "out")
    return tmp_path / "out"


def test_inputs_are_real_shapes_and_always_the_same():
    tokenizer = tiny_tokenizer()
    inputs = known_inputs(tokenizer, 40)
    again = known_inputs(tokenizer, 40)
    assert all(np.array_equal(inputs[name], again[name]) for name in inputs)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    assert ids.shape[0] == 64
    assert ids.shape[1] <= 40
    assert (ids[:, 0] == tokenizer.cls_token_id).all()
    assert (ids[mask == 0] == tokenizer.pad_token_id).all()
    assert len(set(mask.sum(1).tolist())) > 5


def test_what_was_made_here_computes_the_same_here(made, monkeypatch):
    load = {"busy_cores": 1.5, "disturbed_rounds": 1.0}
    monkeypatch.setattr(verification, "machine_load", lambda _: load)
    rows, warnings = bc.verify(made / "out", seconds=0)
    assert [(row.file, row.precision) for row in rows] == [
        ("onnx/model.onnx", "fp32"),
        ("onnx/model_quantized.onnx", "int8"),
    ]
    assert all(row.passes for row in rows)
    assert warnings == []
    (one, two), warnings = bc.verify(made / "out" / "onnx", seconds=0.2, threads=1)
    assert one.file == "model.onnx"
    assert one.tokens == two.tokens == 40  # a model of 40 positions
    assert one.latency_ms > 0
    assert two.latency_ms > 0
    assert any("1.5 cores busy" in words for words in warnings)


@pytest.mark.slow
def test_a_run_with_a_model_in_int8_is_verified_whole(tmp_path, monkeypatch):
    for module in (int8, q8bert):
        monkeypatch.setattr(module, "available_runtimes", lambda: ["onnxruntime"])
    for name, seed in (("train", 0), ("validation", 1)):
        rows = toy_rows(60, seed=seed)
        lines = [f"{text},{label}" for text, label in zip(rows["text"], rows["label"], strict=True)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["text,label", *lines]), "utf-8")
    tiny_model("bert", "Model").save_pretrained(tmp_path / "bert")
    tiny_tokenizer().save_pretrained(tmp_path / "bert")
    task = bc.Task.from_files(
        tmp_path / "train.csv", tmp_path / "validation.csv", text="text", label="label"
    ).model_copy(update={"max_length": 24})
    quick = {"epochs": 1, "precision": "fp32"}
    recipe = bc.Recipe.parse(
        {
            "model": str(tmp_path / "bert"),
            "task": task,
            "methods": [{"finetune": quick}, {"q8bert": quick}],
            "measure": {"latency": False},
        }
    )
    run = bc.run(recipe, tmp_path / "run")
    rows, _ = bc.verify(run.folder, seconds=0)
    assert all(row.passes for row in rows)
    files = {row.file: row.precision for row in rows}
    assert files["model/model.safetensors"] == "int8"
    assert files["onnx/model_quantized.onnx"] == "int8"
    # What speed would be compared with is post-training int8 of the uncompressed model.
    stages = run.report.stages
    assert [stage.name for stage in stages] == ["01-finetune", "02-q8bert"]
    assert "baseline/onnx/model_quantized.onnx" in [d.path for d in stages[0].deployments]
    torch = stages[1].main
    assert (torch.runtime, torch.precision, torch.path) == ("torch", "int8", "model")
    assert stages[0].main.size_mb > 1.5 * torch.size_mb  # names take a third of so small a file


def test_a_file_that_computes_something_else_fails(copied):
    bc.save(tiny_model(seed=9), copied / "other", tiny_tokenizer())
    bc.export(copied / "other", copied / "wrong")
    shutil.copy(copied / "wrong" / "onnx" / "model.onnx", copied / "onnx" / "model.onnx")
    shutil.rmtree(copied / "wrong")
    done = CliRunner().invoke(app, ["verify", str(copied), "--seconds", "0"])
    assert isinstance(done.exception, InputError) or done.exit_code != 0
    assert "NO: differs by" in done.output.replace("\n", " ")


def test_a_worker_that_dies_takes_no_check_with_it(copied, monkeypatch):
    def dies(*_, **__):
        raise WorkerError("worker of model.onnx: killed")

    monkeypatch.setattr(verification, "time_candidates", dies)
    rows, warnings = bc.verify(copied, seconds=1)
    assert all(row.passes and row.latency_ms is None for row in rows)
    assert warnings[-1] == "nothing was timed: worker of model.onnx: killed"


def test_other_threads_are_named(copied):
    _, warnings = bc.verify(copied, seconds=0, threads=7)
    assert any("threads there and 7 here" in words for words in warnings)


def test_missing_files_damaged_answers_and_none(copied, made):
    (copied / "onnx" / "model.onnx").unlink()
    rows, _ = bc.verify(copied, seconds=0)
    assert (rows[0].passes, rows[0].words) == (False, "the file is missing")
    (copied / "onnx" / KNOWN_ANSWERS_FILE).write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="damaged"):
        bc.verify(copied, seconds=0)
    with pytest.raises(NotFound, match=f"no {KNOWN_ANSWERS_FILE}"):
        bc.verify(made / "model", seconds=0)


def test_a_runtime_that_is_not_here_is_no_failure(copied, monkeypatch):
    def lacking(path, *args):
        if path.name == "model_quantized.onnx":
            raise MissingExtra("onnxruntime", "onnx")
        return open_predictor(path, *args)

    monkeypatch.setattr(verification, "open_predictor", lacking)
    rows, _ = bc.verify(copied, seconds=0)
    assert [row.passes for row in rows] == [True, None]
    verification.checked(rows)
    with pytest.raises(NotFound, match="none of the runtimes"):
        verification.checked(rows[1:])


def test_another_processor_is_named(copied):
    known = read_known_answers(copied / "onnx")
    sets = [*known.environment["instruction_sets"], "amx_int8_of_tomorrow"]
    other = {**known.environment, "processor": "Elsewhere 9000", "instruction_sets": sets}
    write_known_answers(
        copied / "onnx", replace(known, environment=other, latency_ms={"model.onnx": 7.0})
    )
    rows, warnings = bc.verify(copied, seconds=0)
    assert rows[0].latency_there_ms == 7.0
    assert "Elsewhere 9000" in warnings[0]
    assert "lacks amx_int8_of_tomorrow" in warnings[1]


@pytest.mark.parametrize(
    ("noise", "precision", "passes"),
    [
        (0, "int8", True),
        (1e-5, "fp32", True),
        (1e-2, "fp32", False),
        (1e-2, "int8", True),
        (1.0, "int8", False),
    ],
)
def test_how_near_is_near_enough(noise, precision, passes):
    rng = np.random.default_rng(0)
    wanted = rng.normal(size=(64, 3)).astype(np.float32)
    got = wanted + noise * rng.normal(size=wanted.shape).astype(np.float32)
    assert alike(got, wanted, precision)[0] is passes
    assert not alike(np.full_like(wanted, np.nan), wanted, precision)[0]
    assert not alike(wanted[:, :2], wanted, precision)[0]


def test_answers_per_token_are_padded(made):
    model = tiny_model(head="ForTokenClassification")
    inputs = known_inputs(tiny_tokenizer(), 30)
    found = answers(TorchPredictor(model), inputs)
    assert found.shape[:2] == inputs["input_ids"].shape


def test_a_file_that_ignores_its_input_fails():
    """All rows on one side of a binary task: what they have in common is no agreement."""
    rng = np.random.default_rng(0)
    base = np.array([[2.0, -2.0]], np.float32)
    wanted, got = (base + 0.1 * rng.normal(size=(64, 2)).astype(np.float32) for _ in range(2))
    assert not alike(got, wanted, "int8")[0]


def test_a_bf16_model_is_run_as_bf16(tmp_path):
    model = tiny_model().to(torch.bfloat16)
    bc.save(model, tmp_path / "bf16", tiny_tokenizer())
    inputs = known_inputs(tiny_tokenizer(), 30)
    found = answers(open_predictor(tmp_path / "bf16", "torch", None, "bf16"), inputs)
    name = "model.safetensors"
    host = {"processor": "?", "instruction_sets": [], "versions": {}}
    known = KnownAnswers(inputs, {name: found}, host, {}, {name: ("torch", "bf16")})
    write_known_answers(tmp_path / "bf16", known)
    ((row,), _) = bc.verify(tmp_path, seconds=0)
    assert (row.precision, row.passes, row.words) == ("bf16", True, "the same to the bit")


@pytest.mark.parametrize("head", ["ForMultipleChoice", "ForMaskedLM"])
def test_other_heads_are_exported_without_known_answers(head, tmp_path):
    bc.save(tiny_model(head=head), tmp_path / "model", tiny_tokenizer())
    bc.export(tmp_path / "model", tmp_path / "out")
    assert not list((tmp_path / "out").rglob(KNOWN_ANSWERS_FILE))


def test_a_stored_model_is_exported_with_its_own_integers(tmp_path):
    trained = with_rounding(tiny_model(), dict.fromkeys(quantizable(tiny_model()), 8))
    model = store(tiny_model(), trained)
    bc.save(model, tmp_path / "model", tiny_tokenizer())
    (made,) = bc.export(tmp_path / "model", tmp_path / "out")
    assert made.path.name == "model_quantized.onnx"
    assert "DynamicQuantizeLinear" not in {n.op_type for n in onnx.load(made.path).graph.node}
    assert open_predictor(tmp_path / "model", precision="int8").precision == "int8"


@pytest.mark.parametrize("precision", ["int8", "bf16"])
@pytest.mark.parametrize("width", [1, 3])
def test_answers_on_another_scale_are_not_the_same(precision, width):
    """They correlate, and decide the same class."""
    wanted = np.random.default_rng(0).normal(size=(64, width)).astype(np.float32)
    for got in (10 * wanted, 0.1 * wanted, wanted + 5, 10 * wanted + 5):
        passes, words = alike(got, wanted, precision)
        assert not passes
        assert "times as far apart and moved by" in words
    assert alike(1.1 * wanted + 0.1, wanted, precision)[0]
