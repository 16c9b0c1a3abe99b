"""Verbs on models that exist: what a run stands for, and what the ratios of `bench` are of."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import replace

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from report_support import deployment, quantized, sample_report
from rich.console import Console
from runtime_support import batches, wide_product
from tests_support import WORDS, tiny_model, tiny_tokenizer
from typer.testing import CliRunner

import bertcompress as bc
from bertcompress.errors import NotFound
from bertcompress.measure.timing.candidates import Latency, Timing
from bertcompress.runtimes import onnxruntime, openvino
from bertcompress.runtimes import torch as torch_runtime
from bertcompress.verbs import bench
from bertcompress.verbs import evaluate as evaluation

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnxruntime", "openvino", "nncf")),
    reason="needs the extra 'openvino'",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run, whose verdict is about the OpenVINO file."""
    place = tmp_path_factory.mktemp("run") / "x"
    product = replace(wide_product(max_position_embeddings=130), tokenizer=tiny_tokenizer())
    torch_runtime.export(product, place / "model")
    onnxruntime.export(product, place / "onnx")
    onnxruntime.quantize(place / "onnx")
    openvino.quantize(place / "onnx", batches())
    last = quantized()
    torch = deployment("torch", "fp32", size_mb=9.0)
    fake = deployment("torch", "int4", size_mb=1.0, simulated=True)
    rows = (torch, fake, *last.deployments)
    report = sample_report(
        (sample_report().stages[0], last.model_copy(update={"deployments": rows}))
    )
    report.save(place)
    return place


@pytest.fixture(scope="module")
def task():
    random = np.random.default_rng(0)
    splits = {
        name: Dataset.from_dict(
            {
                "text": [" ".join(random.choice(WORDS, 6)) + f" {name}" for _ in range(24)],
                "label": ["LABEL_0", "LABEL_1", "LABEL_2"] * 8,
            }
        )
        for name in ("train", "validation")
    }
    return bc.Task.from_dataset(DatasetDict(splits), text="text", label="label", max_length=16)


def opened(monkeypatch, *arguments, **options):
    """Evaluate, and return runtime, precision and what was said."""
    seen, said = [], []

    def spy(*given, **where):
        seen.append(bc.open_predictor(*given, **where))
        return seen[-1]

    monkeypatch.setattr(evaluation, "open_predictor", spy)
    scores = bc.evaluate(*arguments, **options, say=said.append)
    assert scores[0].n == 24
    return seen[0].runtime, seen[0].precision, said


def test_a_run_stands_for_what_its_verdict_is_about(run, task, monkeypatch):
    runtime, precision, said = opened(monkeypatch, run, task)
    assert (runtime, precision) == ("openvino", "int8")
    assert said == [
        f"{run}: openvino int8, which its verdict is about; "
        "--runtime and --precision choose another"
    ]


@pytest.mark.parametrize(
    ("wish", "found"),
    [
        ({"precision": "int8"}, ("openvino", "int8")),
        ({"precision": "fp32"}, ("torch", "fp32")),
        ({"precision": "bf16"}, ("torch", "bf16")),
        ({"runtime": "onnxruntime"}, ("onnxruntime", "int8")),
        ({"runtime": "onnxruntime", "precision": "fp32"}, ("onnxruntime", "fp32")),
    ],
)
def test_another_is_chosen_without_a_word(run, task, monkeypatch, wish, found):
    assert opened(monkeypatch, run, task, **wish) == (*found, [])


@pytest.fixture
def timed(monkeypatch):
    """Stands in for the clock: 8, 4, 2 ... texts per 100 ms, and what was to be timed."""
    asked = []

    def time(candidates, shapes, *, threads, seconds):
        asked.extend(candidates)
        return [
            Timing(
                c.runtime, c.precision or "fp32", 0.1, 1.0, 2.0, [latency(2.0**i)], *MADE_UP["load"]
            )
            for i, c in enumerate(candidates)
        ]

    monkeypatch.setattr(bench, "time_candidates", time)
    return asked


MADE_UP = {"load": (0.0, 0.0), "row": {}}
"""Cores that others use meanwhile and the share of the rounds that is disturbed; fields of rows."""


def latency(speed):
    row = Latency(
        batch=8,
        length=128,
        threads=1,
        p50_ms=100 / speed,
        p95_ms=120 / speed,
        throughput_per_s=80 * speed,
        spread=0.03 * speed,
    )
    return row.model_copy(update=MADE_UP["row"])


def test_a_run_alone_stands_for_all_that_it_ships(run, timed):
    said = []
    rows = bc.bench([run], say=said.append)
    places = [str(c.path.relative_to(run)) for c in timed]
    assert places == ["model", "onnx/model_quantized.onnx", "openvino/model_int8.onnx"]
    assert [(r.runtime, r.precision) for r in rows] == [
        ("torch", "fp32"),
        ("onnxruntime", "int8"),
        ("openvino", "int8"),
    ]
    assert {row.model for row in rows} == {str(run)}
    assert said == [f"{run}: all that it ships; --runtime and --precision choose one"]


@pytest.mark.parametrize("asked", [16, None])
def test_texts_that_are_cut_for_one_model_alone_are_told(asked, task, timed, tmp_path):
    task = task.model_copy(update={"max_length": asked})
    for name, room in (("short", 6), ("long", 40)):
        bc.save(tiny_model(max_position_embeddings=room), tmp_path / name, tiny_tokenizer())
    said = []
    bc.bench([tmp_path / "long", tmp_path / "short"], task=task, shapes=((1, 4),), say=said.append)
    assert [max(b["input_ids"].shape[1] for b in c.task_batches[1]) for c in timed] == [9, 6]
    cut, compared = said
    assert cut.startswith(f"{tmp_path / 'short'}: max_length 6, the most that the model takes, cut")
    assert compared.startswith("not all models are timed on the same part of these texts")
    said.clear()
    bc.bench([tmp_path / "long"] * 2, task=task, shapes=((1, 4),), say=said.append)
    assert said == []


def test_a_busy_machine_is_told(run, timed, monkeypatch):
    monkeypatch.setitem(MADE_UP, "load", (1.5, 0.4))
    said = []
    bc.bench([run / "model"], say=said.append)
    assert len(said) == 1
    assert "1.5 cores busy during the timing" in said[0]
    assert "40 % of the rounds stayed disturbed" in said[0]


def table(monkeypatch, *arguments):
    """The cells that the command prints, line by line."""
    from bertcompress.cli import main as cli
    from bertcompress.cli import models as cli_models

    monkeypatch.setattr(cli_models, "out", Console(width=200))
    done = CliRunner().invoke(cli.app, ["bench", *map(str, arguments)])
    assert done.exit_code == 0, done.output
    lines = [line.split("│")[1:-1] for line in done.stdout.splitlines() if line.count("│") > 5]
    return [[cell.strip() for cell in cells] for cells in lines]


def test_a_ratio_within_its_spread_is_no_speed_up(run, timed, monkeypatch):
    """The first model is by turns ten times slower than itself."""
    monkeypatch.setitem(MADE_UP, "row", {"spread": 1.7})
    rows = bc.bench([run])
    assert [row.claim.stands for row in rows] == [False] * 3
    shown = [cells[-1] for cells in table(monkeypatch, run)]
    assert shown == ["1.00x", *["not measurable here (spread 240 %)"] * 2]


def test_the_first_pass_and_the_serving_mode_stand_beside_the_steady_time(run, timed, monkeypatch):
    more = {"first_pass_ms": 2.25, "serving": "buckets", "length": "task"}
    monkeypatch.setitem(MADE_UP, "row", more)
    cells = table(monkeypatch, run)[1]
    assert cells[1] == "onnxruntime int8, buckets"
    assert cells[3:7] == ["task", "50.00", "60.00", "18.00"]  # of a batch of 8
    assert cells[-1] == "2.00x ± 7 %"


def test_beside_others_a_run_is_one(run, timed):
    said = []
    rows = bc.bench([run / "model", run], say=said.append)
    assert [row.runtime for row in rows] == ["torch", "openvino"]
    assert [row.model for row in rows] == [str(run / "model"), str(run)]
    assert len(said) == 1


def test_the_command_names_each_model_once_and_whole(run, timed):
    """A column of 80 is too narrow for paths: the table has their numbers."""
    from bertcompress.cli.main import app

    models = [str(run / "model"), str(run / "onnx" / "model_quantized.onnx")]
    done = CliRunner().invoke(app, ["bench", *models])
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[:2] == [f"1  {models[0]}", f"2  {models[1]}"]
    cells = [line.split("│")[1].strip() for line in lines if line.count("│") > 5]
    assert [cell for cell in cells if cell] == ["1", "2"]


def test_wishes_hold_for_every_model(run, timed):
    bc.bench([run, run / "onnx"], runtime="onnxruntime", precision="fp32")
    assert {str(c.path.relative_to(run)) for c in timed} == {"onnx/model.onnx"}
    assert {(c.runtime, c.precision) for c in timed} == {("onnxruntime", "fp32")}


def test_ratios_are_to_the_first_and_know_the_noise_of_both(run, timed):
    rows = bc.bench([run])
    assert [row.speedup_vs_first for row in rows] == [1, 2, 4]
    assert [row.spread for row in rows] == pytest.approx(
        [0, np.hypot(0.06, 0.03), np.hypot(0.12, 0.03)]
    )
    assert [row.time.batch_ms for row in rows] == pytest.approx([100, 50, 25])
    # The baseline of a report is another thing: nothing here claims to be compared with it.
    assert all(row.time.speedup_vs_torch is None for row in rows)


def test_a_run_that_ships_nothing_says_so(tmp_path):
    fake = deployment("torch", "int4", size_mb=1.0, simulated=True)
    last = quantized().model_copy(update={"deployments": (fake,)})
    sample_report((sample_report().stages[0], last)).save(tmp_path)
    with pytest.raises(NotFound, match="ships nothing that can be measured"):
        bc.bench([tmp_path])  # its scores are real, its size and speed are not


@pytest.mark.parametrize(
    ("verb", "module"),
    [
        *((verb, f"verbs.{verb}") for verb in ("evaluate", "bench", "export", "inspect")),
        ("push", "publish.push"),
        ("plot", "report"),
    ],
)
def test_a_verb_of_the_command_line_is_one_of_the_package(verb, module):
    assert getattr(bc, verb) is getattr(importlib.import_module(f"bertcompress.{module}"), verb)
    assert verb in bc.__all__
