"""The first pass beside the steady one, and the serving mode that is best for each candidate."""

from __future__ import annotations

import importlib.util
from typing import ClassVar

import numpy as np
import pytest
from report_support import sample_report
from runtime_support import batches, wide_product
from tests_support import VOCABULARY

from bertcompress.errors import WorkerError
from bertcompress.measure.timing import interleaved as timing
from bertcompress.measure.timing.candidates import Candidate
from bertcompress.measure.timing.interleaved import time_candidates
from bertcompress.measure.timing.rounds import Times
from bertcompress.measure.timing.served import Served, timings_of
from bertcompress.runtimes import onnxruntime

MS = {
    "dynamic": {"first": 40.0, "steady": 8.0},
    "warmed": {"first": 9.0, "steady": 6.0},
    "buckets": {"first": 7.0, "steady": 4.0},
}
"""Milliseconds a text of what stands in for OpenVINO."""


class Fake:
    """Stands in for a worker process; keeps a log of what all of them were asked."""

    log: ClassVar[list[tuple[int, str, dict]]] = []
    cannot: ClassVar[tuple[str, ...]] = ()

    def __init__(self, name):
        self.name, self.pid = name, 1 + len({pid for pid, *_ in self.log})
        self.log.append((self.pid, "start", {}))

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.log.append((self.pid, "end", {}))

    def ask(self, do, **fields):
        self.log.append((self.pid, do, fields))
        if do == "memory":
            return {"peak_memory_mb": 100.0 * self.pid}
        if do == "open":
            self.mode = fields.get("serving", "dynamic")
            if self.mode in self.cannot:
                raise WorkerError("its texts cannot be padded")
            answer = {"runtime": fields["runtime"], "precision": "int8", "serving": self.mode}
            return answer | {"load_s": float(self.pid), "memory_mb": 1.0}
        kind = "first" if fields.get("warmup") == 0 else "steady"
        ms = MS[self.mode if fields.get("batches") else "dynamic"][kind]
        half = 0.5 if "dense" not in self.name else 1.0
        return {"ms": [ms * half * fields.get("batch", 1)] * 3 * fields["repeats"]}


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(Fake, "log", [])
    monkeypatch.setattr(timing, "WorkerProcess", Fake)
    return Fake


def text(tokens):
    ids = np.ones((1, tokens), np.int64)
    return {"input_ids": ids, "attention_mask": ids}


def take(*candidates, busy=(), **options):
    left = list(busy)
    return time_candidates(
        [Candidate(name, runtime, "int8", baseline) for name, runtime, baseline in candidates],
        **{
            "shapes": [(1, 8)],
            "task_batches": {1: [text(5), text(37), text(9)]},
            "threads": 1,
            "rounds": 3,
            "seconds": 0.0,
            "watch": lambda pids: lambda: left.pop(0) if left else 0.0,
        }
        | options,
    )


def test_the_first_pass_comes_before_anything_else_is_asked(fake):
    (found,) = take(("ours", "onnxruntime", None))
    asked = [(do, fields) for _, do, fields in fake.log]
    assert [do for do, _ in asked[:3]] == ["start", "open", "time"]
    wanted = {"repeats": 1, "warmup": 0, "seconds": timing.FIRST_PASS_S}
    assert {k: asked[2][1][k] for k in wanted} == wanted
    fixed, own = found.latency
    assert (fixed.first_pass_ms, own.first_pass_ms) == (None, 20.0)
    assert own.text_ms == 4.0
    assert [each for each in asked if each[1].get("warmup") == 0] == [asked[2]]


def test_a_disturbed_first_pass_is_taken_again_in_a_fresh_process(fake, monkeypatch):
    (found,) = take(("ours", "onnxruntime", None), busy=[0.9, 0.1])
    assert [pid for pid, do, _ in fake.log if do == "open"] == [1, 2]
    assert fake.log.index((1, "end", {})) < fake.log.index((2, "start", {}))
    assert found.load_s == 2.0


def test_a_machine_that_stays_busy_is_not_waited_for(fake):
    """Once, and not for every candidate: opening is what takes the time."""
    names = [(name, "onnxruntime", None) for name in ("a", "b", "c")]
    take(*names, busy=[0.9, 0.8, 0.7, 0.6, 0.5])
    assert sum(do == "open" for _, do, _ in fake.log) == 4


def test_every_mode_of_a_runtime_is_timed_on_single_texts_and_the_best_reported(fake):
    dense, ours, ort = take(
        ("dense", "openvino", "dense_int8"),
        ("ours", "openvino", None),
        ("other", "onnxruntime", None),
    )
    opened = [fields for _, do, fields in fake.log if do == "open"]
    modes = [None, None, None, "warmed", "buckets", "warmed", "buckets"]
    assert [fields.get("serving") for fields in opened] == modes
    # As long as the task's texts need, not as the model could.
    assert {fields["max_length"] for fields in opened if "serving" in fields} == {37}
    for row, mode, ms, first in (
        (dense.latency[1], "buckets", 4.0, 7.0),
        (ours.latency[1], "buckets", 2.0, 3.5),
        (ort.latency[1], "dynamic", 4.0, 20.0),
    ):
        assert (row.serving, row.batch_ms, row.first_pass_ms) == (mode, pytest.approx(ms), first)
    # The baseline has the same chance: the ratio is of both at their best.
    assert ours.latency[1].speedup_vs_dense_int8 == pytest.approx(2.0)
    # Fixed lengths need no mode; what serves both rows takes the larger of the two processes.
    assert ours.latency[0].serving == "dynamic"
    assert (ours.load_s, ours.peak_memory_mb) == (7.0, 700.0)
    assert (ort.load_s, ort.peak_memory_mb) == (3.0, 300.0)


def test_a_mode_that_a_model_cannot_be_served_in_is_left_out(fake, monkeypatch):
    monkeypatch.setattr(Fake, "cannot", ("buckets",))
    (found,) = take(("ours", "openvino", None))
    assert found.latency[1].serving == "warmed"


def test_without_single_texts_of_a_task_no_mode_is_tried(fake):
    take(("ours", "openvino", None), task_batches=None)
    assert sum(do == "open" for _, do, _ in fake.log) == 1


def mode(serving, rounds_ms, first):
    times = Times(np.reshape(rounds_ms, (-1, 1, 1)).astype(float))
    answer = {"runtime": "openvino", "precision": "int8", "load_s": 1.0, "memory_mb": 1.0}
    return Served(0, answer | {"serving": serving}, {(1, "task"): times}, {(1, "task"): first})


@pytest.mark.parametrize(
    ("dynamic", "buckets", "best"),
    [
        (([8, 8, 8], 40.0), ([6, 6, 6], 7.0), "buckets"),
        (([6, 6, 6], 40.0), ([8, 8, 8], 9.0), "dynamic"),
        # Not to be told apart once warm: then a fresh server decides.
        (([7, 8, 9], 40.0), ([7, 8.2, 9], 9.0), "buckets"),
        (([7, 8, 9], 8.0), ([7, 7.9, 9], 9.0), "dynamic"),
    ],
)
def test_the_fastest_mode_serves_best_and_then_the_faster_first_pass(dynamic, buckets, best):
    modes = [mode("dynamic", *dynamic), mode("buckets", *buckets)]
    (found,) = timings_of([Candidate("a")], modes, 1)
    assert found.latency[0].serving == best


def test_the_report_shows_both_passes_and_the_mode():
    report = sample_report()
    last = report.stages[-1]
    own = {"first_pass_ms": 17.25, "serving": "buckets"}
    shown = [
        row.model_copy(
            update={
                "latency": tuple(
                    t.model_copy(update=own) if t.length == "task" else t for t in row.latency
                )
            }
        )
        for row in last.deployments
    ]
    stages = (*report.stages[:-1], last.model_copy(update={"deployments": tuple(shown)}))
    made = sample_report(stages)
    text = made.to_markdown()
    lines = [line for line in text.splitlines() if "| buckets |" in line]
    assert len(lines) == 2 * len(shown)
    assert all("| 17.25 |" in line for line in lines)
    assert "first pass, batch 8" in text
    one, eight = (line for line in made.verdict.deploy if "opened as 'buckets'" in line)
    assert "17.2 in the first pass of a fresh server" in one
    assert "138.0 in the first pass of a fresh server" in eight


@pytest.mark.slow
@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnxruntime", "openvino", "nncf")),
    reason="needs the extra 'openvino'",
)
def test_openvino_itself_is_timed_in_all_its_modes(tmp_path):
    file = onnxruntime.export(wide_product(), tmp_path).path
    singles = [{k: v[:1] for k, v in b.items()} for b in batches(3)]
    turns = []
    (found,) = time_candidates(
        [Candidate(file, "openvino", vocab_size=len(VOCABULARY))],
        [],
        task_batches={1: singles},
        threads=1,
        rounds=1,
        seconds=0.1,
        progress=lambda *turn: turns.append(turn[0]),
        watch=lambda pids: lambda: 0.0,
    )
    assert turns == [0, 1, 2]
    (row,) = found.latency
    assert row.serving in ("dynamic", "warmed", "buckets")
    assert row.first_pass_ms > 0
