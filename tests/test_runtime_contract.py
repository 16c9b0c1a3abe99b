"""A runtime from outside the package: one class and one line, and the whole main job serves it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import ClassVar

import pytest
from tests_support import tiny_model, tiny_tokenizer, write_rows

import bertcompress as bc
from bertcompress.deployment import Deployment
from bertcompress.errors import ModelError, RecipeError
from bertcompress.measure.timing import interleaved
from bertcompress.measure.timing.candidates import Candidate
from bertcompress.measure.timing.worker import Worker
from bertcompress.publish.push import _gathered
from bertcompress.report.drawing import runtime_colour
from bertcompress.runtimes import RUNTIMES, Runtime, RuntimeFile, open_predictor
from bertcompress.runtimes.onnx.export import companions

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from bertcompress.runtimes.onnxruntime import OnnxRuntimePredictor


class Toy(Runtime):
    """An engine of its own format, which runs on the machine that it was built on alone."""

    name: ClassVar[str] = "toy"
    engine: ClassVar[str] = "numpy"
    devices: ClassVar = ("cpu", "abacus")
    files: ClassVar = {"int8": RuntimeFile(Path("toys/model.toy"), 9)}
    suffix: ClassVar = ".toy"
    portable: ClassVar[bool] = False
    loads_in: ClassVar = "the toy engine"
    tags: ClassVar = ("toy",)
    colour: ClassVar = ("#123456", "#fedcba")
    marker: ClassVar[str] = "v"
    here: ClassVar[str] = "toybox 1"

    def export(self, product, folder):
        """Refuse: it has no fp32."""
        raise ModelError(f"{folder}: the toy engine is int8 alone")

    def quantize(self, folder, calibration, *, exclude=(), **how):
        """Build the engine from the ONNX file."""
        file = folder / self.files["int8"].path
        companions(folder / "onnx", file.parent)
        shutil.copy(folder / "onnx" / "model.onnx", file)
        return Deployment(self.name, "int8", file, built_for=self.machine())

    def open(self, path, *, precision=None, device="cpu", threads=None, **serving):
        """Return the engine ready to run."""
        predictor = OnnxRuntimePredictor(Path(path), "int8", threads)
        predictor.runtime = self.name
        return predictor

    def machine(self):
        """Return the machine."""
        return self.here


class InProcess:
    """A worker that is no process of its own, so that it knows the runtime too."""

    pid = os.getpid()

    def __init__(self, name):
        self.worker = Worker()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        """Nothing to end."""

    def ask(self, do, **fields):
        return self.worker.answer({"do": do, **fields})


@pytest.fixture(scope="module")
def patch():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RUNTIMES, "toy", f"{__name__}:Toy")
        patch.setattr(interleaved, "WorkerProcess", InProcess)
        yield patch


@pytest.fixture(scope="module")
def run(tmp_path_factory, patch):
    place = tmp_path_factory.mktemp("toy")
    write_rows(place / "train.csv", 120, 0)
    write_rows(place / "validation.csv", 40, 1)
    tiny_model("bert", "Model").save_pretrained(place / "bert")
    tiny_tokenizer().save_pretrained(place / "bert")
    files = (place / "train.csv", place / "validation.csv")
    task = bc.Task.from_files(*files, text="text", label="label", max_length=24)
    train = {"epochs": 1, "batch_size": 8, "learning_rate": 5e-3, "precision": "fp32"}
    methods = [{"finetune": train}, {"quantize_int8": {"runtimes": ["toy"]}}]
    fields = {"model": str(place / "bert"), "task": task, "methods": methods}
    measure = {"shapes": [[1, 8]], "task_lengths": False, "seconds": 0.05}
    return bc.run(bc.Recipe.parse({**fields, "measure": measure}), place / "run")


def test_a_runtime_is_one_class_and_one_line(run):
    row = run.report.last.deployments[-1]
    assert (row.runtime, row.precision, row.path) == ("toy", "int8", "toys/model.toy")
    assert row.loads_in == "the toy engine; only on the machine that it was built for (toybox 1)"
    assert row.headline is not None
    assert [time.device for time in row.latency] == ["cpu"]
    assert row.loads_in in run.report.to_markdown()
    figure = (run.folder / "figures" / "score_vs_size.svg").read_text(encoding="utf-8")
    assert "#123456" in figure
    assert [runtime_colour("toy", theme) for theme in ("light", "dark")] == [*Toy.colour]
    card = (run.model / "README.md").read_text(encoding="utf-8")
    assert "\n- toy\n" in card.partition("\n# ")[0]
    assert not (run.folder / "toys" / "serve.py").exists()  # no template has its name


def test_it_opens_answers_and_is_found(run):
    assert open_predictor(run.folder, "toy").runtime == "toy"
    assert open_predictor(run.folder / "toys" / "model.toy").runtime == "toy"
    with pytest.raises(ModelError, match=r"onnxruntime does not run \.toy files; allowed: toy"):
        open_predictor(run.folder / "toys" / "model.toy", "onnxruntime")
    with pytest.raises(ModelError, match=r"unknown serving 'buckets'.*Allowed: dynamic"):
        open_predictor(run.folder, "toy", serving="buckets")
    scores = bc.evaluate(run.folder, runtime="toy")
    assert scores[0].value == run.report.last.deployments[-1].headline.value


@pytest.mark.slow
def test_it_is_timed_where_it_computes(run):
    (row,) = bc.bench([run.folder], runtime="toy", shapes=[(1, 8)], seconds=0.05)
    assert (row.runtime, row.label, row.time.device) == ("toy", "toy int8", "cpu")
    file = run.folder / "toys" / "model.toy"
    candidate = Candidate(file, "toy", vocab_size=29, device="abacus")
    (timing,) = interleaved.time_candidates([candidate], [(1, 8)], seconds=0.05)
    assert [time.device for time in timing.latency] == ["abacus"]


def test_what_does_not_travel_is_said(run, monkeypatch):
    verified = {row.file: row for row in bc.verify(run.folder, seconds=0)[0]}
    assert verified["toys/model.toy"].passes
    monkeypatch.setattr(Toy, "here", "toybox 2")
    verified = {row.file: row for row in bc.verify(run.folder, seconds=0)[0]}
    there = verified["toys/model.toy"]
    assert there.passes is None
    assert "built for toybox 1, and this is toybox 2" in there.words
    assert "does not travel" in there.words
    assert verified["model/model.safetensors"].passes
    said: list[str] = []
    files = _gathered(run.folder, "ann/model", said.append)
    assert "toys/model.toy" in files
    assert any("toys/model.toy: a file of toy does not travel" in line for line in said)


def test_an_unknown_runtime_is_told_the_known_ones(patch):
    with pytest.raises(RecipeError, match=r"unknown int8 runtime 'tay'.*'toy'.*onnxrun"):
        bc.Recipe.parse({"methods": ["finetune", {"quantize_int8": {"runtimes": ["tay"]}}]})


def test_a_runtime_that_lacks_a_part_is_none():
    with pytest.raises(TypeError, match="runtime Half lacks files, colour"):

        class Half(Runtime):
            name: ClassVar[str] = "half"
            engine: ClassVar[str] = "half"

    class Mute(Runtime):
        name: ClassVar[str] = "mute"
        engine: ClassVar[str] = "mute"
        files: ClassVar = {}
        colour: ClassVar = ("#000000", "#ffffff")

    with pytest.raises(TypeError, match="abstract"):
        Mute()
