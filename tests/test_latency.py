"""Workers, rounds in turn, and what is calculated from their times. Never a time itself."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from forked_workers import REAL
from runtime_support import batches, wide_product
from tests_support import VOCABULARY

from bertcompress.errors import ModelError, WorkerError
from bertcompress.measure.timing import process, worker
from bertcompress.measure.timing.candidates import Candidate, cut_words, within
from bertcompress.measure.timing.interleaved import time_candidates
from bertcompress.measure.timing.process import WorkerProcess, clean_environment
from bertcompress.measure.timing.rounds import Times
from bertcompress.measure.timing.served import Served, timings_of
from bertcompress.measure.timing.worker import load_batches, random_batch, save_batches
from bertcompress.runtimes import hardware as host
from bertcompress.runtimes import onnxruntime
from bertcompress.runtimes import torch as torch_runtime

WORDS = len(VOCABULARY)


@pytest.fixture(autouse=True)
def _real_workers(monkeypatch):
    monkeypatch.setattr(process, "start_worker", REAL)


def undisturbed(pids):
    """Stands in for the watch: tests must not depend on what else the machine does."""
    return lambda: 0.0


def rows(candidates, runtimes, took, threads=1):
    """The rows of candidates that took so many milliseconds, by shape."""
    served = [
        Served(
            i,
            {"runtime": runtime, "precision": "fp32", "load_s": 1.0, "memory_mb": 1.0},
            {shape: Times(ms) for shape, ms in shapes.items()},
        )
        for i, (runtime, shapes) in enumerate(zip(runtimes, took, strict=True))
    ]
    return [timing.latency for timing in timings_of(candidates, served, threads)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("artefacts")
    product = wide_product()
    torch_runtime.export(product, place / "model")
    onnxruntime.export(product, place / "onnx")
    onnxruntime.quantize(place / "onnx")
    return place


@pytest.fixture(scope="module")
def timed(folder):
    turns = []
    candidates = [
        Candidate(folder / "model", baseline="torch", vocab_size=WORDS),
        Candidate(folder / "onnx" / "model.onnx", vocab_size=WORDS),
        Candidate(
            folder / "onnx" / "model_quantized.onnx", baseline="dense_int8", vocab_size=WORDS
        ),
    ]
    timings = time_candidates(
        candidates,
        [(1, 16), (2, 8)],
        task_batches={1: [{k: v[:1] for k, v in b.items()} for b in batches(3)]},
        threads=1,
        rounds=2,
        seconds=0.5,
        progress=lambda candidate, done, turns_in_all: turns.append(
            (candidate, done, turns_in_all)
        ),
        watch=undisturbed,
    )
    return timings, turns


def test_candidates_take_turns(timed):
    _, turns = timed
    shapes, rounds, candidates = 3, 2, 3
    assert [turn[0] for turn in turns] == [0, 1, 2] * (shapes * rounds)
    assert [turn[1] for turn in turns] == list(range(1, len(turns) + 1))
    assert {turn[2] for turn in turns} == {shapes * rounds * candidates}


def test_every_shape_has_a_row_for_every_candidate(timed):
    timings, _ = timed
    assert [(t.runtime, t.precision) for t in timings] == [
        ("torch", "fp32"),
        ("onnxruntime", "fp32"),
        ("onnxruntime", "int8"),
    ]
    for timing in timings:
        assert [(r.batch, r.length) for r in timing.latency] == [(1, 16), (2, 8), (1, "task")]
        assert {row.threads for row in timing.latency} == {1}
        assert timing.load_s > 0
        assert timing.peak_memory_mb > timing.memory_mb >= 0
        assert (timing.busy_cores, timing.disturbed) == (0, 0)
        for row in timing.latency:
            assert 0 < row.p50_ms <= row.p95_ms
            assert row.disturbed == 0
            assert row.serving == "dynamic"
            # Beside the steady time stands the first pass, of real texts alone.
            assert (row.first_pass_ms is not None) == (row.length == "task")


def test_ratios_are_of_the_same_run(timed):
    torch, plain, dense = (timing.latency for timing in timed[0])
    for i in range(3):
        assert torch[i].speedup_vs_torch == 1
        assert dense[i].speedup_vs_dense_int8 == 1
        # Dense int8 of the same runtime only: torch has none here.
        assert torch[i].speedup_vs_dense_int8 is None
        for one in (plain[i], dense[i]):
            ratio = one.throughput_per_s / torch[i].throughput_per_s
            assert one.speedup_vs_torch == pytest.approx(ratio)
        assert plain[i].speedup_vs_dense_int8 == pytest.approx(
            plain[i].throughput_per_s / dense[i].throughput_per_s
        )


def test_rows_from_known_times():
    """Two rounds of three repeats; one disturbed repeat moves no median."""
    slow = np.full((2, 3, 1), 10.0)
    fast = np.full((2, 3, 1), 4.0)
    fast[1, 2] = 400.0
    row = rows(
        [Candidate("a", baseline="torch"), Candidate("b")],
        ["torch", "openvino"],
        [{(8, 128): slow}, {(8, 128): fast}],
        threads=2,
    )[1][0]
    assert (row.p50_ms, row.speedup_vs_torch, row.spread) == (4.0, 2.5, 0.0)
    assert row.throughput_per_s == pytest.approx(2000)
    assert row.batch_ms == pytest.approx(row.p50_ms)
    assert row.p95_ms > 100
    assert row.speedup_vs_dense_int8 is None


def test_real_texts_count_by_their_whole_time():
    """A short and a long text: the median of all times alone would hide the long one's speed."""
    base = np.tile([10.0, 10.0, 40.0], (3, 2, 1))
    ours = np.tile([10.0, 10.0, 10.0], (3, 2, 1))
    (one,), (other,) = rows(
        [Candidate("a", baseline="torch"), Candidate("b")],
        ["torch", "torch"],
        [{(1, "task"): base}, {(1, "task"): ours}],
    )
    assert other.speedup_vs_torch == pytest.approx(2.0)
    assert one.p50_ms == 10.0
    # What is shown divides to the ratio that is shown beside it.
    assert (one.batch_ms, other.batch_ms) == pytest.approx((20.0, 10.0))


def test_spread_is_between_rounds():
    times = np.stack([np.full((4, 1), ms) for ms in (8.0, 9.0, 10.0, 11.0, 12.0)])
    row = rows([Candidate("a")], ["torch"], [{(1, 8): times}])[0][0]
    assert row.spread == pytest.approx(0.2)


def test_spread_is_of_what_the_ratio_is_of():
    """Short texts took the same in every round, the long one did not: its noise is in the ratio."""
    times = np.tile([10.0, 10.0, 40.0], (4, 2, 1))
    times[2:, :, 2] = 100.0
    row = rows([Candidate("a")], ["torch"], [{(1, "task"): times}])[0][0]
    assert row.spread == pytest.approx(20 / 30)


def test_a_ratio_knows_the_noise_of_both_sides():
    base = np.stack([np.full((4, 1), ms) for ms in (8.0, 9.0, 10.0, 11.0, 12.0)])
    ours = base / 2
    (first,), (second,) = rows(
        [Candidate("a", baseline="torch"), Candidate("b")],
        ["torch", "torch"],
        [{(1, 8): base}, {(1, 8): ours}],
    )
    assert second.spread_vs_torch == pytest.approx(np.hypot(0.2, 0.2))
    assert second.over_torch.words == "2.00x"
    assert (first.speedup_vs_torch, first.spread_vs_torch) == (1, 0)
    assert second.over_dense_int8 is None
    old = second.model_copy(update={"spread_vs_torch": None})  # as older reports have it
    assert old.over_torch.spread == second.spread


def test_a_broken_artefact_is_refused_in_one_line(tmp_path):
    file = tmp_path / "model.onnx"
    file.write_bytes(b"not a model")
    with pytest.raises(ModelError, match=r"model\.onnx: not readable by ONNX Runtime") as error:
        time_candidates([Candidate(file)], [(1, 8)])
    assert "\n" not in str(error.value)


@pytest.mark.skipif(os.name == "nt", reason="a shell script stands in for Python")
def test_a_worker_that_dies_leaves_its_last_words(tmp_path, monkeypatch):
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho 'out of patience' >&2\nexit 3\n")
    script.chmod(0o755)
    monkeypatch.setattr(process.sys, "executable", str(script))
    with (
        pytest.raises(WorkerError, match=r"(?s)timing x: the process ended.*out of patience"),
        WorkerProcess("x") as worker,
    ):
        worker.ask("memory")


def test_a_worker_that_hangs_is_ended(monkeypatch):
    monkeypatch.setattr(process, "PATIENCE_S", 0.01)
    with pytest.raises(WorkerError, match="the process ended"), WorkerProcess("x") as worker:
        worker.ask("memory")


def test_the_protocol_has_standard_output_to_itself():
    code = (
        "from bertcompress.measure.timing import worker; import os;"
        "channel = worker._claim_stdout(); print('noise'); os.write(1, b'more');"
        "channel.write('signal'); channel.flush()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=clean_environment()
    )
    assert done.stdout == "signal"
    assert "noise" in done.stderr
    assert "more" in done.stderr


CARRIED = """
import sys
from bertcompress.measure.timing.worker import Worker
from bertcompress.runtimes import all_runtimes
worker, path = Worker(), sys.argv[1]
for each in all_runtimes():  # facts need no torch either, those of torch included
    if not each.opens_folders:
        worker.open(path, each.name, precision="fp32", vocab_size=20)
sys.exit(", ".join({"torch", "transformers"} & set(sys.modules)) or 0)
"""


def test_workers_of_other_runtimes_carry_no_torch(folder):
    command = [sys.executable, "-c", CARRIED, str(folder / "onnx" / "model.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, env=clean_environment())
    assert done.returncode == 0, done.stderr


def test_workers_start_without_thread_settings(monkeypatch):
    for name in ("OMP_NUM_THREADS", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("HOME_GROWN", "kept")
    clean = clean_environment()
    assert not [name for name in clean if name.startswith(("OMP_", "GOMP_", "KMP_", "MKL_"))]
    assert clean["HOME_GROWN"] == "kept"


def test_a_first_pass_ends_with_its_seconds(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(worker.time, "perf_counter", lambda: float(next(clock)))
    # The clock moves a second each time it is read: when it begins, and twice a call.
    waits: list[int] = []
    taken = worker._timed(lambda batch: None, lambda: waits.append(1), batches(9), 1, 5.0)
    assert taken == [1e3, 1e3, 1e3]
    assert len(waits) == 3  # a device is waited for before the clock is read


def test_batches_travel_unchanged(tmp_path):
    wanted = batches(12)
    save_batches(wanted, tmp_path / "b.npz")
    got = load_batches(tmp_path / "b.npz")
    assert len(got) == 12
    for one, other in zip(got, wanted, strict=True):
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[name], other[name]) for name in one)


def test_lengths_are_cut_to_what_every_candidate_takes():
    candidates = [Candidate("a", longest=40), Candidate("b", longest=512), Candidate("c")]
    assert within([(1, 32), (1, 128), (1, 64), (8, 16)], candidates) == [(1, 32), (1, 40), (8, 16)]
    assert within([(1, 128)], candidates[2:]) == [(1, 128)]
    assert cut_words([(1, 32)], candidates) == []
    assert cut_words([(1, 128)], candidates) == [
        "a takes texts of at most 40 tokens: longer ones are timed at that length"
    ]


def test_random_tokens_stay_in_the_vocabulary():
    ids = random_batch(3, 50, 7)["input_ids"]
    assert ids.shape == (3, 50)
    assert 0 <= ids.min() <= ids.max() < 7


def test_environment_describes_the_machine():
    found = host.environment(threads=3)
    assert found["threads"] == 3
    assert found["cores"] == host.physical_cores() >= 1
    assert found["processor"]
    assert {"torch", "transformers", "numpy"} <= set(found["versions"])


def test_peak_memory_never_falls_and_counts_megabytes():
    before = host.peak_memory_mb()
    ballast = np.ones(int(40e6), np.uint8)
    assert host.peak_memory_mb() >= before
    assert before > 50
    del ballast
