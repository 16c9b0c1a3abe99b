"""What a run shows: its plan, where it is, and the time of the whole; silent where asked."""

from __future__ import annotations

import io
import logging
import sys

import pytest
from tests_support import tiny_model, tiny_tokenizer, write_rows

import bertcompress as bc
from bertcompress.runs.report_rows import _turns
from bertcompress.support import display as module
from bertcompress.support.display import Display, Work, duration, showing, span

pytestmark = pytest.mark.usefixtures("without_figures")

TRAIN = {"batch_size": 8, "learning_rate": 5e-3, "precision": "fp32"}


@pytest.fixture
def clock(monkeypatch):
    """A clock that is moved by hand."""
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def works():
    return [
        Work("01-finetune", "stage 1 of 2: finetune", 10, 100, steps=100, open_ended=True),
        Work("02-distill", "stage 2 of 2: distill", 50, 50, steps=50),
        Work("02-distill-control", "its control", 50, 50, steps=50, follows="02-distill"),
    ]


def test_into_a_log_a_training_is_at_most_one_line_a_minute(clock):
    said: list[str] = []
    display = Display(said.append)
    display.plan(works())
    with display.working("01-finetune"):
        for step in range(1, 51):
            clock[0] += 10
            display.step(step, 100, 0.25, 0.5)
    assert said[0] == "stage 1 of 2: finetune ..."
    assert len(said) == 2 + 500 // 60
    # 10 s a step, ten times what was expected: what is to come is counted so as well.
    assert said[-2] == (
        "stage 1 of 2: finetune: step 48 of 100, loss 0.250, score 0.500, "
        "at most 25 min left of the whole"
    )
    assert said[-1] == "stage 1 of 2: finetune: done in 8 min; about 17 min left of the whole"


def test_into_a_log_timing_too_says_how_far_it_is(clock):
    said: list[str] = []
    display = Display(said.append)
    display.plan([Work("timing", "timing and report", 60, 180)])
    with display.working("timing"), showing(display):
        for turn in range(1, 13):
            clock[0] += 10
            _turns(0, turn, 20)
    assert said[1] == "timing and report: 6 of 20 turns timed, about 2 min left of the whole"
    assert len(said) == 1 + 2 + 1


def test_a_control_is_expected_to_take_as_long_as_its_method(clock):
    said: list[str] = []
    display = Display(said.append)
    display.plan(works()[1:])
    with display.working("02-distill"):
        display.step(1, 50, None, None)
        clock[0] += 300
    assert said[-1] == "stage 2 of 2: distill: done in 5 min; about 5 min left of the whole"
    with display.working("02-distill-control"):
        clock[0] += 1
    assert said[-1] == "its control: done in 1 s"


def test_what_the_store_held_says_nothing_of_its_control(clock):
    said: list[str] = []
    display = Display(said.append)
    display.plan(works()[1:])
    with display.working("02-distill"):
        clock[0] += 1
    assert said[-1] == "stage 2 of 2: distill: done in 1 s; about 50 s left of the whole"


def test_what_was_not_planned_is_not_shown(clock):
    said: list[str] = []
    with Display(said.append).working("elsewhere"):
        pass
    assert said == []


def test_a_bar_has_loss_score_and_the_time_of_the_whole(clock, monkeypatch):
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stderr", terminal)
    display = Display()
    display.plan(works())
    with display.working("01-finetune"):
        display.step(1, 100, None, None)
        clock[0] += 10
        display.step(11, 100, 0.25, 0.5)
        display._bar.refresh()
    shown = terminal.getvalue()
    assert "stage 1 of 2: finetune" in shown
    assert "11/100 steps, at most 3 min left of the whole, loss 0.250, score 0.500" in shown


def test_durations_are_read_at_a_glance():
    times = {0.2: "1 s", 42: "42 s", 95: "2 min", 780: "13 min", 5000: "1 h 23 min"}
    assert {s: duration(s) for s in times} == times
    assert (duration(7200), duration(200_000)) == ("2 h", "2 d 8 h")
    assert span(30, 31, False) == "about 31 s"
    assert span(30, 300, True) == "30 s to at most 5 min"
    assert span(30, 300, False) == "30 s to 5 min"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """A model without head, an open-ended training, and a control."""
    place = tmp_path_factory.mktemp("shown")
    bc.save(tiny_model("bert", "Model"), place / "bert", tiny_tokenizer())
    write_rows(place / "train.csv", 80, 0, yes="yes", no="no")
    write_rows(place / "validation.csv", 24, 1, yes="yes", no="no")
    files = (place / "train.csv", place / "validation.csv")
    task = bc.Task.from_files(*files, text="text", label="label", max_length=24)
    methods = [
        {"finetune": {**TRAIN, "max_epochs": 12, "evaluations_per_epoch": 1}},
        {"prune_structured": {"keep": 0.5, "rows": 16}},
        {"distill": {**TRAIN, "epochs": 1}},
    ]
    fields = {"model": str(place / "bert"), "task": task, "methods": methods}
    return bc.Recipe.parse({**fields, "measure": {"latency": False}})


def test_a_run_shows_its_plan_and_each_stage_on_standard_error(recipe, tmp_path, capsys, caplog):
    bc.run(recipe, str(tmp_path / "run"))
    shown = capsys.readouterr()
    assert shown.out == ""
    lines = shown.err.splitlines()
    start = lines.index("3 stages:")
    assert lines[start + 1].startswith(
        "  stage 1 of 3: finetune: at most 108 steps, until the score on the selection split no "
        "longer rises; "
    )
    blind = "stage 2 of 3: prune_structured, its control (random heads and neurons)"
    assert lines[start + 3].startswith(f"  {blind}: ") and "steps" not in lines[start + 3]
    assert lines[start + 4].startswith("  stage 3 of 3: distill: 9 steps; ")
    control = "stage 3 of 3: distill, its control (labels alone, no teacher)"
    assert lines[start + 5] == f"  {control}: as many steps"
    whole = lines[start + 7]
    assert whole.startswith("the whole: ") and "for a training step of 8 rows, timed here" in whole
    begun = [line for line in lines if line.endswith(" ...")]
    ended = [line for line in lines if ": done in " in line]
    assert [line.removesuffix(" ...") for line in begun] == [
        "stage 1 of 3: finetune",
        "stage 2 of 3: prune_structured",
        blind,
        "stage 3 of 3: distill",
        control,
        "report",
    ]
    assert len(ended) == len(begun)
    assert all("left of the whole" in line for line in ended[:-1])


@pytest.mark.slow
def test_a_run_can_be_silent_or_go_to_a_function_or_to_logging(recipe, tmp_path, capsys, caplog):
    bc.run(recipe, tmp_path / "silent", progress=False)
    assert capsys.readouterr().err == ""
    said: list[str] = []
    bc.run(recipe, tmp_path / "said", say=said.append)
    assert capsys.readouterr().err == ""
    assert "3 stages:" in said
    with caplog.at_level(logging.INFO, logger="bertcompress"):
        bc.run(recipe, tmp_path / "logged")
    assert capsys.readouterr().err == ""  # who shows the records does not get the lines twice
    records = [record.getMessage() for record in caplog.records if record.name == "bertcompress"]
    assert "3 stages:" in records
    assert any(record.endswith("taken from the stage store") for record in records)


def test_what_is_open_ended_may_end_early():
    from bertcompress.training import TrainSettings
    from bertcompress.training.pacing import fewest_steps

    opened = TrainSettings()
    assert fewest_steps(opened, 100, 3000) < 3000
    assert fewest_steps(TrainSettings(epochs=3), 100, 300) == 300
    assert fewest_steps(TrainSettings(epochs=3, patience=1), 100, 300) == 100
    assert fewest_steps(opened, 1, 1) == 1
