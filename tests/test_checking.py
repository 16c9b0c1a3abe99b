"""What would fail at the end of a run is refused at its start, before anything is computed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests_support import tiny_model, tiny_tokenizer, write_rows

import bertcompress as bc
from bertcompress.errors import MissingExtra, OutputError, RecipeError, TaskError
from bertcompress.method import Method
from bertcompress.methods.quantization import int8
from bertcompress.runs import checking

pytestmark = pytest.mark.usefixtures("without_figures")

CUT = {"prune_structured": {"keep": 0.5, "rows": 8}}
TRAIN = {"epochs": 1, "batch_size": 8, "precision": "fp32"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("checking")
    write_rows(place / "train.csv", 60, 0)
    write_rows(place / "validation.csv", 20, 1)
    names = {"id2label": {0: "0", 1: "1"}, "label2id": {"0": 0, "1": 1}}
    for outputs, fields in ((1, {}), (2, names)):
        model = tiny_model(num_labels=outputs, **fields)
        bc.save(model, place / str(outputs), tiny_tokenizer())
    return place


@pytest.fixture(autouse=True)
def _nothing_is_computed(monkeypatch):
    for method in ("PruneStructured", "Finetune", "TrimVocabulary", "QuantizeInt8", "Distill"):
        monkeypatch.setattr(getattr(bc, method), "apply", lambda *_: pytest.fail("computed"))


def stop(*_):
    raise KeyboardInterrupt


def start(place, out, model, methods, **fields):
    files = (place / "train.csv", place / "validation.csv")
    task = bc.Task.from_files(*files, **{"text": "text", "max_length": 24, **fields})
    content = {"model": str(place / model), "task": task, "methods": methods}
    try:
        return bc.run(bc.Recipe.parse({"measure": {"latency": False}, **content}), out)
    finally:
        assert not list(out.parent.glob(".*.partial"))


@pytest.mark.parametrize(
    ("model", "metrics", "says"),
    [
        ("1", ["agreement"], "compares classes, but the model has one output; .*spearman"),
        ("1", ["spearman", "kl"], "metric 'kl' compares classes"),
        ("2", ["spearman"], "compares one number, but the model has 2 outputs; .*agreement"),
    ],
)
def test_metric_and_head_that_do_not_go_together(place, tmp_path, model, metrics, says):
    with pytest.raises(TaskError, match=says):
        start(place, tmp_path / "out", model, [CUT], metrics=metrics)


def test_one_output_without_labels_is_judged_by_its_number(place, tmp_path, monkeypatch):
    monkeypatch.undo()
    run = start(place, tmp_path / "runs", "1", [CUT])
    assert run.report.task["headline"] == "spearman"
    assert [s.metric for s in run.report.last.deployments[0].scores] == ["spearman", "pearson"]


def test_a_stage_that_needs_labels_and_a_task_without(place, tmp_path):
    with pytest.raises(RecipeError, match=r"methods\[1\].finetune: needs labels, and task"):
        start(place, tmp_path / "out", "2", [CUT, {"finetune": TRAIN}])


def test_a_teacher_of_its_own_needs_labels_where_there_is_none_yet(place, tmp_path):
    """Its first generation is taught by the model at hand, trained on the labels."""
    with pytest.raises(RecipeError, match=r"methods\[1\].born_again: needs labels, and task"):
        start(place, tmp_path / "out", "2", [CUT, {"born_again": {**TRAIN, "begins": "here"}}])


def test_a_tokenizer_that_a_step_cannot_use(place, tmp_path):
    steps = [{"finetune": TRAIN}, {"trim_vocabulary": {"size": 2}}]
    with pytest.raises(RecipeError, match="size 2 is too small"):
        start(place, tmp_path / "out", "2", [CUT, *steps], label="label", labels=["0", "1"])


def test_a_format_whose_runtime_is_not_installed(place, tmp_path, monkeypatch):
    monkeypatch.setattr(int8, "available_runtimes", lambda: ["onnxruntime"])
    steps = [CUT, {"quantize_int8": {"runtimes": ["openvino"]}}]
    with pytest.raises(MissingExtra, match="openvino is not installed"):
        start(place, tmp_path / "out", "2", steps)


def test_what_is_left_out_for_want_of_a_package_is_said(place, tmp_path, monkeypatch, capsys):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "nncf" else found(name)
    )
    monkeypatch.setattr(bc.QuantizeInt8, "apply", stop)
    files = (place / "train.csv", place / "validation.csv")
    task = bc.Task.from_files(*files, text="text", label="label", labels=["0", "1"], max_length=24)
    fields = {"model": str(place / "2"), "task": task, "methods": ["quantize_int8"]}
    with pytest.raises(KeyboardInterrupt):
        bc.run(bc.Recipe.parse(fields), tmp_path / "out")
    words = "no file for openvino: nncf is not installed; it comes with: pip install "
    assert f"{words}'bertcompress[openvino]'" in capsys.readouterr().err
    assert bc.QuantizeInt8(runtimes=["onnxruntime"]).left_out() == ()
    assert bc.Q8bert().left_out()[0].startswith(words)


def test_a_disk_that_is_too_small_for_the_stages(place, tmp_path, monkeypatch):
    sizes = [p.stat().st_size for p in place.glob("2/model.safetensors")]
    usage = SimpleNamespace(total=10**9, used=0, free=sizes[0])
    monkeypatch.setattr(checking.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OutputError, match="MB are free there, and the models of the stages alone"):
        start(place, tmp_path / "out", "2", [CUT])


def test_a_place_that_nobody_may_write_to(place):
    with pytest.raises(OutputError, match="cannot be written"):
        start(place, Path("/proc/bertcompress/out"), "2", [CUT])


def test_the_least_room_is_never_more_than_what_a_run_takes(place, tmp_path, monkeypatch):
    monkeypatch.undo()
    methods = [CUT, "trim_vocabulary", {"factorize_embedding": {"size": 8}}]
    run = start(place, tmp_path / "runs", "2", methods)
    kept = sum(p.stat().st_size for p in run.folder.rglob("*.safetensors"))
    model = bc.load(place / "2").model
    least = checking.least_bytes(bc.Recipe.load(run.folder / "recipe.yaml"), model, True)
    assert 0 < least <= kept
    assert isinstance(run.recipe.methods[0], Method)


@pytest.mark.slow
def test_an_interrupted_run_needs_no_room_for_what_it_has(place, tmp_path, monkeypatch):
    monkeypatch.undo()
    steps = [CUT, {"factorize_embedding": {"size": 8}}]
    files = (place / "train.csv", place / "validation.csv")
    task = bc.Task.from_files(*files, text="text", label="label", labels=["0", "1"], max_length=24)
    fields = {"model": str(place / "2"), "task": task, "methods": steps}
    recipe = bc.Recipe.parse({"measure": {"latency": False}, **fields})

    def stopped(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(bc.FactorizeEmbedding, "apply", stopped)
        with pytest.raises(KeyboardInterrupt):
            bc.run(recipe, tmp_path / "out")
    least = (place / "2" / "model.safetensors").stat().st_size * 2  # what is left, and its copy
    usage = SimpleNamespace(total=10**9, used=0, free=least)
    monkeypatch.setattr(checking.shutil, "disk_usage", lambda _: usage)
    assert bc.run(recipe, tmp_path / "out", resume=True).report.stages
    with pytest.raises(OutputError, match="MB are free there"):
        bc.run(recipe, tmp_path / "other")
