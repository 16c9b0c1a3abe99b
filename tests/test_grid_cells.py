"""Cells of the desk grid: what is packed for git is what was computed, and says the same."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.append(str(BENCHMARKS))

import grid  # noqa: E402
import grid_cells  # noqa: E402
import grid_table  # noqa: E402

DESK = BENCHMARKS / "results" / "desk"
STAGE = "02-distill/torch-fp32-validation"


def write_cell(folder, task="sst2", seed=0, classes=3, **answers):
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 2, (200, classes)).astype(np.float16)
    answers = {"labels": generator.integers(0, classes, 200), STAGE: logits, **answers}
    path = folder / f"small--{task}--{seed}.json"
    path.write_text(json.dumps({"arm": "small", "task": task, "seed": seed, "report": {}}))
    np.savez_compressed(path.with_suffix(".npz"), **answers)
    return answers


def everything(cell):
    return set(cell.answers)


def test_packing_leaves_one_file_a_task_with_the_same_choices(tmp_path):
    written = {(task, seed): write_cell(tmp_path, task, seed)
               for task in ("sst2", "mnli") for seed in (0, 1)}  # fmt: skip
    packed = grid_cells.compact(tmp_path, everything)
    assert sorted(tmp_path.iterdir()) == sorted(packed)
    assert [path.name for path in packed] == ["mnli.npz", "sst2.npz"]
    for cell in grid_cells.read(tmp_path):
        before = written[cell.key[1:]]
        after = cell.answers[STAGE]
        assert np.array_equal(cell.answers["labels"], before["labels"])
        assert np.array_equal(after.argmax(1), before[STAGE].argmax(1))
        shifted = before[STAGE] - before[STAGE].max(1, keepdims=True)
        assert np.abs(after - shifted).max() <= 1 / grid_cells.STEP + 0.01
        assert (
            np.abs(
                softmax(after.astype(np.float32), 1) - softmax(before[STAGE].astype(np.float32), 1)
            ).max()
            < 0.017
        )
        assert (after.max(1) == 0).all() and ((after == 0).sum(1) == 1).all()


def test_close_classes_are_not_tied_by_packing(tmp_path):
    close = np.float16([[1.0, 1.001, -3.0], [2.0, 1.999, 2.0]])
    write_cell(tmp_path, **{STAGE: close, "labels": np.array([0, 1])})
    grid_cells.compact(tmp_path, everything)
    (cell,) = grid_cells.read(tmp_path)
    assert cell.answers[STAGE].argmax(1).tolist() == close.argmax(1).tolist() == [1, 0]


def test_answers_of_numbers_stay_to_the_bit(tmp_path):
    before = write_cell(tmp_path, classes=1)
    grid_cells.compact(tmp_path, everything)
    (cell,) = grid_cells.read(tmp_path)
    assert np.array_equal(cell.answers[STAGE], before[STAGE])


def test_packing_again_changes_no_byte_and_equal_answers_lie_there_once(tmp_path):
    logits = np.ones((5, 1), np.float16)
    write_cell(tmp_path, classes=1, **{f"{n}/torch": logits for n in range(4)})
    (path,) = grid_cells.compact(tmp_path, everything)
    content = path.read_bytes()
    assert len(np.load(path, allow_pickle=False).files) == 1 + 2 + 1  # cells, labels, stage, ones
    grid_cells.compact(tmp_path, everything)
    assert path.read_bytes() == content


def test_a_cell_of_a_running_grid_comes_before_the_packed_one(tmp_path):
    write_cell(tmp_path, seed=0)
    grid_cells.compact(tmp_path, everything)
    newer = write_cell(tmp_path, seed=0, **{STAGE: np.zeros((200, 3), np.float16)})
    (cell,) = grid_cells.read(tmp_path)
    assert np.array_equal(cell.answers[STAGE], newer[STAGE])
    assert grid_cells.find(tmp_path, "small", "sst2", 0)["seed"] == 0
    assert grid_cells.find(tmp_path, "small", "sst2", 1) is None
    assert grid_cells.find(tmp_path, "small", "mnli", 0) is None


def test_only_what_a_table_reads_is_kept(tmp_path):
    base, unread = "01-finetune/torch-fp32-validation", "02-distill/onnxruntime-fp32-validation"
    write_cell(tmp_path, **{base: np.zeros((200, 3), np.float16), unread: np.zeros((200, 3))})
    grid_cells.compact(tmp_path, grid_table.names_read)
    (cell,) = grid_cells.read(tmp_path)
    assert set(cell.answers) == {"labels", base, STAGE}


def test_the_grid_finds_its_packed_cells(monkeypatch):
    # The reports are of the recipes as the grid has them now: nothing is computed again.
    for arm in ("int8", "small", "no-training", "no-training-plain"):
        assert grid.computed(arm, "stsb", 0), arm
    assert not grid.computed("int8", "stsb", 99)
    changed = {**grid.MEASURED, "distill": {"epochs": 4, "learning_rate": 2e-4}}
    monkeypatch.setattr(grid, "MEASURED", changed)
    assert not grid.computed("small", "stsb", 0)


def test_what_git_keeps_is_small():
    files = [path for path in DESK.parent.rglob("*") if path.is_file() and "--" not in path.name]
    assert sum(path.stat().st_size for path in files) < 3_000_000


def test_lines_of_the_table_come_from_the_cells():
    cells = grid_table.collect(DESK)
    table = (DESK / "table.md").read_text(encoding="utf-8")
    lines = [line for line in grid_table.LINES if line.arm in ("flop-20", "lowrank-20")]
    assert len(lines) == 2
    for line in lines:
        assert f"| {' | '.join(grid_table.line(line, cells))} |" in table
    assert f"| {' | '.join(grid_table.base_line(cells))} |" in table
    first, second = lines[1], lines[0]
    assert f"| {' | '.join(grid_table.difference(first, second, cells))} |" in table


@pytest.mark.slow
def test_the_whole_table_comes_from_the_cells(tmp_path):
    for path in DESK.glob("*.npz"):
        shutil.copy(path, tmp_path)
    assert grid_table.write_table(tmp_path) == (DESK / "table.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", grid.WHY)
def test_controls_of_a_teacher_take_the_steps_of_plain_fine_tuning(name):
    plain = grid.recipe_of("student-finetune", "mnli", 0).methods
    control = grid.recipe_of(f"why-{name}", "mnli", 0).methods
    steps = ("epochs", "learning_rate", "batch_size", "evaluations_per_epoch", "max_steps")
    for setting in steps:
        assert getattr(control[-1], setting) == getattr(plain[-1], setting), setting
    assert control[:-1] == plain[:-1]
    assert (control[-1].hidden_weight, control[-1].patient_weight) == (0, 0)


def test_a_control_is_run_where_the_task_has_enough_classes():
    served = {arm: [t for t in grid.JUDGED if grid.serves(f"why-{arm}", t)] for arm in grid.WHY}
    assert served["permuted"] == ["mnli"]
    assert served["smoothed"] == served["confidence"] == served["shuffled"] == ["mnli", "sst2"]
    assert served["self"] == served["distill"] == list(grid.JUDGED)
    assert set(grid.TASK_CLASSES) == set(grid.TASKS)
